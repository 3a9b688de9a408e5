/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The timer of reconcile: nodes that start together do not go on together. */

#include <criterion/criterion.h>

#include <inttypes.h>

#include "daemon/reconcile/watch.h"

#define DRAWS 2000U

Test(jitter, of_an_interval)
{
        static const uint64_t intervals[] = { UINT64_C(1000000), UINT64_C(60000000), UINT64_C(86400000000) };

        for (size_t i = 0; i < ELEMENTSOF(intervals); i++) {
                uint64_t interval = intervals[i], least = UINT64_MAX, most = 0, sum = 0;

                for (unsigned k = 0; k < DRAWS; k++) {
                        uint64_t usec = watch_jitter(interval);

                        cr_assert(usec >= interval / 4 * 3 && usec <= interval / 4 * 5, "%" PRIu64 " of %" PRIu64, usec, interval);
                        least = usec < least ? usec : least;
                        most = usec > most ? usec : most;
                        sum += usec / DRAWS;
                }
                /* the whole range is used, evenly */
                cr_assert(least < interval / 100 * 80 && most > interval / 100 * 120, "from %" PRIu64 " to %" PRIu64 " of %" PRIu64, least, most, interval);
                cr_assert(sum > interval / 100 * 95 && sum < interval / 100 * 105, "%" PRIu64 " on average of %" PRIu64, sum, interval);
        }
}
