/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a pod's author writes into an rbd volume: lines of option=value. Read or refused with a reason; and what was read gives the kernel one line of
 * five words, with no key in it that was not put there.
 */

#include "fuzz.h"

#include "mounters/rbd-device.h"

static void source_fill(StrMap *map, char *text)
{
        char *save = NULL;

        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *value = strchr(line, '=');
                if (!value)
                        continue;
                *value++ = 0;
                /* a newline within a value, which JSON can carry */
                for (char *p = value; *p; p++)
                        if (*p == '\x1e')
                                *p = '\n';
                (void) strmap_set(map, line, value);
        }
}

static void check_line(const char *line)
{
        unsigned spaces = 0;

        for (const char *p = line; *p; p++) {
                FUZZ_ASSERT(*p != '\n' && *p != '\t' && *p != '\r');
                spaces += *p == ' ';
        }
        FUZZ_ASSERT(spaces == 4 && strlen(line) < 4096);
        FUZZ_ASSERT(rbd_config_is_own(line, "rbd-0"));
        /* the options, which are the second word */
        _cleanup_free_ char *options = strdup(strchr(line, ' ') + 1);
        options[strcspn(options, " ")] = 0;
        FUZZ_ASSERT(!strstr(options, "secret="));
        const char *key = strstr(options, ",key=");
        FUZZ_ASSERT(key && !strstr(key + 1, ",key="));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_string(data, size), *line = NULL, *hosts = NULL, *spec = NULL;
        _cleanup_rbd_source_ RbdSource s = RBD_SOURCE_INIT;
        _cleanup_settings_ Settings settings = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        StrMap map = STRMAP_INIT;
        char *key = NULL;
        uint8_t bytes[64];

        if (rbd_keyring_parse(text, "kube", &key) > 0)
                (void) rbd_key_decode(key, bytes);
        rbd_secret_free(key);
        (void) rbd_config_is_own(text, "rbd-0");
        (void) rbd_config_is_alone(text);
        (void) rbd_config_times_out(text);

        if (settings_defaults(&settings) < 0)
                abort();
        source_fill(&map, text);
        if (rbd_source_read(&settings, &map, &s, &err) < 0) {
                FUZZ_ASSERT(err.code != ERROR_NONE && err.text && *err.text);
        } else {
                hosts = rbd_source_mon_host(&s);
                spec = rbd_source_spec(&s);
                FUZZ_ASSERT(hosts && !strpbrk(hosts, " \n\t") && spec && !strpbrk(spec, " \n\t"));
                const RbdMapLine l = { .addresses = hosts, .fsid = "F", .user = s.user, .key = "rbd-0", .pool = s.pool, .space = s.space, .image = s.image,
                                       .snapshot = s.snapshot, .options = s.map_options, .read_only = s.snapshot };
                if (rbd_map_line(&l, &line, NULL) >= 0)
                        check_line(line);
        }
        strmap_done(&map);
        return 0;
}
