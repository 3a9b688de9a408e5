/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Reversible text form of byte strings. Pure; used by berthd for records and by berthctl for output. */

#include "base/escape.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* The length of the sequence at s that is valid UTF-8 and a character D-Bus takes, or 0; not at the string's end. */
static size_t sequence_length(const unsigned char *s, uint32_t *ret_character)
{
        static const struct {
                unsigned char mask, lead;
                size_t size;
                uint32_t min;
        } forms[] = { { 0xe0, 0xc0, 2, 0x80 }, { 0xf0, 0xe0, 3, 0x800 }, { 0xf8, 0xf0, 4, 0x10000 } };

        if (s[0] < 0x80) {
                *ret_character = s[0];
                return 1;
        }
        for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
                if ((s[0] & forms[i].mask) != forms[i].lead)
                        continue;
                uint32_t c = s[0] & (unsigned char) ~forms[i].mask;
                for (size_t k = 1; k < forms[i].size; k++) {
                        if ((s[k] & 0xc0) != 0x80)
                                return 0;
                        c = c << 6 | (s[k] & 0x3fU);
                }
                /* overlong forms, surrogates, beyond Unicode */
                if (c < forms[i].min || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
                        return 0;
                /* Unicode's noncharacters, which sd-bus refuses as well */
                if ((c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
                        return 0;
                *ret_character = c;
                return forms[i].size;
        }
        return 0;
}

/* The length of the valid, printable UTF-8 sequence at s, or 0. */
static size_t printable_length(const unsigned char *s)
{
        uint32_t c = 0;
        size_t n = sequence_length(s, &c);

        /* C0 and C1 controls, and what escapes begin with */
        return n > 0 && c >= 0x20 && !(c >= 0x7f && c < 0xa0) && c != '\\' ? n : 0;
}

bool bytes_are_text(const char *s)
{
        for (const unsigned char *p = (const unsigned char *) s; *p;) {
                uint32_t c = 0;
                size_t n = sequence_length(p, &c);

                if (n == 0)
                        return false;
                p += n;
        }
        return true;
}

char *bytes_escape(const char *s)
{
        static const char hex[] = "0123456789abcdef";
        char *out = malloc(strlen(s) * 4 + 1), *to = out;

        if (!out)
                return NULL;
        for (const unsigned char *from = (const unsigned char *) s; *from;) {
                size_t n = printable_length(from);
                if (n > 0) {
                        memcpy(to, from, n);
                        to += n;
                        from += n;
                        continue;
                }
                *to++ = '\\';
                *to++ = 'x';
                *to++ = hex[*from >> 4];
                *to++ = hex[*from & 15];
                from++;
        }
        *to = 0;
        return out;
}

static int hex_value(char c)
{
        if (c >= '0' && c <= '9')
                return c - '0';
        if (c >= 'a' && c <= 'f')
                return c - 'a' + 10;
        return -1;
}

char *bytes_unescape(const char *s)
{
        char *out = malloc(strlen(s) + 1), *to = out;

        if (!out)
                return NULL;
        while (*s) {
                if (s[0] == '\\' && s[1] == 'x' && hex_value(s[2]) >= 0 && hex_value(s[3]) >= 0) {
                        *to++ = (char) (hex_value(s[2]) << 4 | hex_value(s[3]));
                        s += 4;
                } else {
                        *to++ = *s++;
                }
        }
        *to = 0;
        return out;
}
