/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The JSON that the kubelet passes on from pod authors: parsed or refused with a reason. */

#include "fuzz.h"

#include "options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *json = fuzz_string(data, size), *decoded = NULL;
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        if (options_parse(json, &p, &err) < 0) {
                FUZZ_ASSERT(err.code != ERROR_NONE && err.text && *err.text);
        } else {
                FUZZ_ASSERT(err.code == ERROR_NONE);
                STRMAP_FOREACH (e, &p.source)
                        FUZZ_ASSERT(strncmp(e->key, "kubernetes.io/", 14) != 0);
        }
        if (base64_decode(json, &decoded) >= 0)
                FUZZ_ASSERT(strlen(decoded) <= strlen(json));
        return 0;
}
