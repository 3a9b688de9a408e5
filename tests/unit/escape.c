/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* base/escape.h: byte strings as text and back. */

#include <criterion/criterion.h>

#include "base/escape.h"

#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

Test(escape, shows_what_is_not_printable)
{
        static const struct {
                const char *bytes, *shown;
        } cases[] = {
                { "", "" },
                { "/a b/c~d", "/a b/c~d" },
                { "\n\t\x01\x7f", "\\x0a\\x09\\x01\\x7f" },
                { "back\\slash", "back\\x5cslash" },
                { "\xc3\xa4\xe4\xb8\xad\xf0\x9f\x98\x80", "\xc3\xa4\xe4\xb8\xad\xf0\x9f\x98\x80" },
                { "\xff\xfe", "\\xff\\xfe" },
                { "\xc3", "\\xc3" },                             /* cut */
                { "\xc0\xaf", "\\xc0\\xaf" },                    /* overlong "/" */
                { "\xe0\x80\xaf", "\\xe0\\x80\\xaf" },           /* the same in three bytes */
                { "\xed\xa0\x80", "\\xed\\xa0\\x80" },           /* a surrogate */
                { "\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80" },  /* beyond U+10FFFF */
                { "\xc2\x85", "\\xc2\\x85" },                    /* a C1 control: next line */
                { "\xc2\xa0", "\xc2\xa0" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *shown = bytes_escape(cases[i].bytes), *back = bytes_unescape(shown);

                cr_assert_str_eq(shown, cases[i].shown, "case %zu: '%s'", i, shown);
                cr_assert_str_eq(back, cases[i].bytes, "case %zu does not come back", i);
        }
}

Test(escape, every_pair_of_bytes_comes_back)
{
        for (unsigned a = 1; a < 256; a++) {
                for (unsigned b = 1; b < 256; b++) {
                        char s[] = { (char) a, (char) b, 0 };
                        _cleanup_free_ char *shown = bytes_escape(s), *back = bytes_unescape(shown);

                        cr_assert_str_eq(back, s, "%02x %02x", a, b);
                        for (const unsigned char *p = (unsigned char *) shown; *p; p++)
                                cr_assert(*p >= 0x20 && *p != 0x7f, "%02x %02x leaves a control character", a, b);
                }
        }
}

Test(escape, malformed_escapes_stay_as_they_are)
{
        static const char *const cases[] = { "\\", "\\x", "\\x4", "\\xg0", "\\x4G", "\\n", "\\X41" };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *back = bytes_unescape(cases[i]);
                cr_assert_str_eq(back, cases[i], "'%s' became '%s'", cases[i], back);
        }
}

Test(escape, text_is_what_dbus_takes)
{
        static const char *const good[] = { "", "plain \\ \n\t\x7f", "\xc2\x80", "äöü 中文 😀", "\xef\xbf\xbd", "\xf4\x8f\xbf\xbd" };
        static const char *const bad[] = { "\xff",         "\x80",         "\xc3",             "x\xc3(",           "\xc0\x80",
                                           "\xed\xa0\x80", "\xef\xbf\xbe", "\xef\xbf\xbf",     "\xef\xb7\x90",     "\xf0\x82\x82\xac",
                                           "\xe2\x82",     "\xf0\x9f\x98", "\xf4\x90\x80\x80", "\xf8\x88\x80\x80" };

        for (size_t i = 0; i < ELEMENTSOF(good); i++)
                cr_assert(bytes_are_text(good[i]), "good %zu", i);
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_assert_not(bytes_are_text(bad[i]), "bad %zu", i);
}
