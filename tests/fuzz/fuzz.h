/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the fuzz targets share. A target ends the process with FUZZ_ASSERT() when an invariant does not hold. */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUZZ_ASSERT(condition)                                                                               \
        do {                                                                                                 \
                if (!(condition)) {                                                                          \
                        fprintf(stderr, "does not hold: %s\n", #condition);                                  \
                        abort();                                                                             \
                }                                                                                            \
        } while (0)

/* libFuzzer's entry point: always returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input as a C string of its own allocation, so that a read past its end is noticed; cut at the first NUL. */
static inline char *fuzz_string(const uint8_t *data, size_t size)
{
        char *s = malloc(size + 1);

        if (!s)
                abort();
        if (size > 0)
                memcpy(s, data, size);
        s[size] = 0;
        char *exact = strdup(s);
        free(s);
        return exact;
}
