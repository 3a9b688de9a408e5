/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Whatever a path looks like, a target that is accepted lies below its root, by name. */

#include "fuzz.h"

#include <limits.h>

#include "protocol/target.h"

static Settings settings;

static void prepare(void)
{
        if (settings.kubelet_root)
                return;
        if (settings_defaults(&settings) < 0 || str_replace(&settings.kubelet_root, "/k") < 0 ||
            str_replace(&settings.kubelet_root_resolved, "/data/k") < 0 || strv_append(&settings.targets_allow, "/a") < 0)
                abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *path = fuzz_string(data, size);
        _cleanup_target_ Target t = TARGET_INIT, again = TARGET_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        prepare();
        if (target_parse(path, &settings, &t, &err) < 0) {
                FUZZ_ASSERT(err.code == ERROR_TARGET_INVALID || err.code == ERROR_TARGET_NOT_ALLOWED);
                FUZZ_ASSERT(!t.path && !t.root && !t.relative && !t.pod_uid);
                return 0;
        }
        size_t n = strlen(t.root);
        FUZZ_ASSERT(strcmp(t.root, t.kind == TARGET_ALLOWED ? "/a" : "/data/k") == 0);
        FUZZ_ASSERT(strncmp(t.path, t.root, n) == 0 && t.path[n] == '/' && strcmp(t.path + n + 1, t.relative) == 0);
        FUZZ_ASSERT((t.kind == TARGET_POD) == (t.pod_uid != NULL));
        for (const char *p = t.relative; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
                size_t length = strcspn(p, "/");
                FUZZ_ASSERT(length > 0 && length <= NAME_MAX);
                FUZZ_ASSERT(!(length == 1 && p[0] == '.') && !(length == 2 && p[0] == '.' && p[1] == '.'));
        }
        /* the canonical path names the same target */
        if (strlen(t.path) < PATH_MAX) {
                FUZZ_ASSERT(target_parse(t.path, &settings, &again, NULL) >= 0);
                FUZZ_ASSERT(strcmp(again.path, t.path) == 0 && again.kind == t.kind);
        }
        return 0;
}
