/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthd.conf: read or refused with a reason, whatever stands in it. By way of a file in memory. */

#include "fuzz.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "protocol/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_close_ int fd = memfd_create("berthd.conf", MFD_CLOEXEC);
        char path[64];

        if (fd < 0 || write_full(fd, data, size) < 0 || fchmod(fd, 0600) < 0)
                abort();
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (settings_load(&s, path, &err) < 0) {
                FUZZ_ASSERT(err.code == ERROR_INVALID_ARGUMENT && err.text && *err.text);
                return 0;
        }
        FUZZ_ASSERT(s.socket && s.runtime_dir && s.state_dir && s.kubelet_root && s.mounter_dir && s.node_name);
        FUZZ_ASSERT(s.loop_directories && s.loop_directories[0]);
        return 0;
}
