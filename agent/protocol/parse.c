/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Numbers, sizes, durations and booleans as people write them, in berthd.conf, in options and on command lines. Pure. */

#include <limits.h>
#include <string.h>

#include "protocol/settings.h"

int parse_unsigned(const char *s, unsigned *ret)
{
        char *end;

        if (*s < '0' || *s > '9')
                return -EINVAL;
        errno = 0;
        unsigned long n = strtoul(s, &end, 10);
        if (*end)
                return -EINVAL;
        if (errno || n > UINT_MAX)
                return -ERANGE;
        *ret = (unsigned) n;
        return 0;
}

/* A decimal number without sign, and where it ends. */
static int parse_number(const char *s, uint64_t *ret, const char **ret_end)
{
        char *end;

        if (*s < '0' || *s > '9')
                return -EINVAL;
        errno = 0;
        unsigned long long n = strtoull(s, &end, 10);
        if (errno)
                return -ERANGE;
        *ret = n;
        *ret_end = end;
        return 0;
}

int parse_size(const char *s, uint64_t *ret)
{
        static const char suffixes[] = "KMGTP";
        const char *end;
        uint64_t n;
        int r = parse_number(s, &n, &end);
        if (r < 0)
                return r;

        if (*end) {
                const char *suffix = strchr(suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
                if (!suffix)
                        return -EINVAL;
                unsigned shift = 10 * (unsigned) (suffix - suffixes + 1);
                if (n > UINT64_MAX >> shift)
                        return -ERANGE;
                n <<= shift;
                end++;
                if (end[0] == 'i' && end[1] == 'B')
                        end += 2;
                if (*end)
                        return -EINVAL;
        }
        *ret = n;
        return 0;
}

int parse_usec(const char *s, uint64_t *ret)
{
        static const struct {
                const char *suffix;
                uint64_t usec;
        } units[] = {
                { "", 1000000 },      { "s", 1000000 },    { "sec", 1000000 }, { "ms", 1000 }, { "us", 1 },
                { "min", 60000000 },  { "m", 60000000 },   { "h", 3600000000 },
        };
        const char *end;
        uint64_t n;
        int r = parse_number(s, &n, &end);
        if (r < 0)
                return r;

        end += strspn(end, " ");
        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                if (strcmp(end, units[i].suffix) != 0)
                        continue;
                if (n > UINT64_MAX / units[i].usec)
                        return -ERANGE;
                *ret = n * units[i].usec;
                return 0;
        }
        return -EINVAL;
}

int parse_boolean(const char *s, bool *ret)
{
        static const char *const yes[] = {"yes", "true", "1", "on"}, *const no[] = {"no", "false", "0", "off"};

        for (size_t i = 0; i < ELEMENTSOF(yes); i++) {
                if (strcmp(s, yes[i]) == 0) {
                        *ret = true;
                        return 0;
                }
                if (strcmp(s, no[i]) == 0) {
                        *ret = false;
                        return 0;
                }
        }
        return -EINVAL;
}
