/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Whatever a volume's options look like, a source that is accepted has a server without a separator, paths
 * without "." and "..", and gets the same name when its canonical form is read again. Lines of the input are
 * options, "key=value"; those with '-' in front mount options.
 */

#include "fuzz.h"

#include "mounters/nfs-source.h"

static Settings settings;

static void check_path(const char *path)
{
        while (*path) {
                size_t n = strcspn(path, "/");

                FUZZ_ASSERT(n > 0 && n <= 255);
                FUZZ_ASSERT(!(n == 1 && path[0] == '.') && !(n == 2 && path[0] == '.' && path[1] == '.'));
                path += n + (path[n] == '/');
        }
}

static void check_again(const NfsSource *s)
{
        _cleanup_strmap_ StrMap options = STRMAP_INIT;
        _cleanup_nfs_source_ NfsSource again = NFS_SOURCE_INIT;
        _cleanup_strv_ char **mount_options = NULL;
        char port[16];

        if (strv_copy(s->options, &mount_options) < 0 || strmap_set(&options, "server", s->server) < 0 ||
            strmap_set(&options, "path", s->export) < 0 ||
            (s->version != NFS_VERSION_ANY &&
             strmap_set(&options, "vers", nfs_version_to_string(s->version)) < 0))
                abort();
        snprintf(port, sizeof(port), "port=%u", s->port);
        if (s->port != 0 && strv_append(&mount_options, port) < 0)
                abort();
        FUZZ_ASSERT(nfs_source_parse(&options, mount_options, &settings, &again, NULL) >= 0);
        FUZZ_ASSERT(strcmp(s->identity, again.identity) == 0 && strcmp(s->key, again.key) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = fuzz_string(data, size);
        _cleanup_strmap_ StrMap options = STRMAP_INIT;
        _cleanup_strv_ char **mount_options = NULL;
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        char *save = NULL;

        if (!settings.node_name && settings_defaults(&settings) < 0)
                abort();
        for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                char *equals = strchr(line, '=');

                if (*line == '-') {
                        if (strv_append(&mount_options, line + 1) < 0)
                                abort();
                } else if (equals) {
                        *equals = 0;
                        if (strmap_set(&options, line, equals + 1) < 0)
                                abort();
                }
        }
        if (nfs_source_parse(&options, mount_options, &settings, &s, &err) < 0) {
                FUZZ_ASSERT(error_is_set(&err) && !s.host && !s.identity);
                return 0;
        }
        FUZZ_ASSERT(strlen(s.key) == 36 && strspn(s.key, "nfs-0123456789abcdef") == 36);
        FUZZ_ASSERT(!strpbrk(s.host, "/, []") && s.export[0] == '/');
        check_path(s.export + 1);
        if (s.sub_dir)
                check_path(s.sub_dir);
        check_again(&s);
        return 0;
}
