/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Bytes come back from their text form, which has nothing in it that drives a terminal. */

#include "fuzz.h"

#include "base/cleanup.h"
#include "base/escape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *s = fuzz_string(data, size), *shown = bytes_escape(s), *back = bytes_unescape(shown);
        _cleanup_free_ char *unescaped = bytes_unescape(s);

        FUZZ_ASSERT(strcmp(back, s) == 0);
        FUZZ_ASSERT(strlen(unescaped) <= strlen(s));
        for (const unsigned char *p = (const unsigned char *) shown; *p; p++)
                FUZZ_ASSERT(*p >= 0x20 && *p != 0x7f && *p != 0xff);
        return 0;
}
