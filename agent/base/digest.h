/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * SHA-256 (FIPS 180-4), where a name has to be made of strings that are too long or too strange for one, and that an attacker
 * chooses: a volume's key from its identity. Helpers; nothing can fail.
 */

#include <stddef.h>
#include <stdint.h>

void digest_sha256(const void *data, size_t size, uint8_t ret[static 32]);

/* The first 128 bits as 32 hexadecimal digits: nobody finds two strings with the same. */
#define DIGEST_NAME_SIZE 33U
void digest_name(const char *s, char ret[static DIGEST_NAME_SIZE]);
