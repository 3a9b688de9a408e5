/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <stdbool.h>

/*
 * Byte strings as text, for records (JSON is UTF-8) and terminals: bytes that are not printable UTF-8, and the
 * backslash, become \xNN. A string without any stays as it is.
 */

/* Both return a new string, or NULL if out of memory; unescape leaves malformed escapes as they stand. */
char *bytes_escape(const char *s);
char *bytes_unescape(const char *s);

/* Whether s is UTF-8 as D-Bus wants it of a string. */
bool bytes_are_text(const char *s);
