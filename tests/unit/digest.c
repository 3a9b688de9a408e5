/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* SHA-256 against the sha256sum of coreutils, at every length around its block borders, and against known values. */

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/digest.h"

static void hex(const uint8_t *d, char ret[static 65])
{
        for (unsigned i = 0; i < 32; i++)
                snprintf(ret + 2 * i, 3, "%02x", d[i]);
}

Test(digest, known_values)
{
        static const struct {
                const char *text, *digest;
        } cases[] = {
                { "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" },
                { "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" },
                { "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1" },
        };
        char text[65], name[DIGEST_NAME_SIZE];
        uint8_t d[32];

        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
                digest_sha256(cases[i].text, strlen(cases[i].text), d);
                hex(d, text);
                cr_assert_str_eq(text, cases[i].digest);
                digest_name(cases[i].text, name);
                cr_assert_eq(strncmp(name, cases[i].digest, 32), 0);
                cr_assert_eq(strlen(name), 32U);
        }
}

Test(digest, every_length)
{
        char data[200], text[65], path[] = "/tmp/berth-digest-XXXXXX", command[128], line[128] = "";
        uint8_t d[32];
        int fd = mkstemp(path);

        cr_assert(fd >= 0);
        close(fd);
        for (unsigned n = 50; n < 135; n += n == 70 ? 40 : 1) {
                FILE *f = fopen(path, "w");
                memset(data, (int) n, sizeof(data));
                cr_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
                snprintf(command, sizeof(command), "sha256sum %s", path);
                f = popen(command, "r");
                cr_assert(f && fgets(line, sizeof(line), f) && pclose(f) == 0);
                digest_sha256(data, n, d);
                hex(d, text);
                cr_assert_eq(strncmp(line, text, 64), 0, "%u bytes: %s instead of %.64s", n, text, line);
        }
        remove(path);
}
