/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Series of measurements and what is told of them. Medians and the 99th percentile only: means would follow
 * the one sample in a thousand that another process on the machine spoilt.
 */

#include "bench/bench.h"

void samples_add(Samples *s, double usec)
{
        if (s->n == s->allocated) {
                s->allocated = s->allocated ? s->allocated * 2 : 256;
                s->values = realloc(s->values, s->allocated * sizeof *s->values);
                if (!s->values)
                        die("out of memory");
        }
        s->values[s->n++] = usec;
}

static int compare(const void *a, const void *b)
{
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

/* By nearest rank: a value that was measured, none in between. */
static double quantile(const Samples *s, double q)
{
        size_t rank = (size_t) (q * (double) s->n);

        if (s->n == 0)
                die("no samples");
        qsort(s->values, s->n, sizeof *s->values, compare);
        return s->values[rank < s->n ? rank : s->n - 1];
}

double samples_median(const Samples *s)
{
        return quantile(s, 0.5);
}

double samples_p99(const Samples *s)
{
        return quantile(s, 0.99);
}

void samples_done(Samples *s)
{
        free(s->values);
        *s = (Samples){};
}
