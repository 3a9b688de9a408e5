/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reaching a target's directory (promise 5). Runs in mounters, may block on the file systems on the way.
 *
 * Invariant: below the root no symbolic link is followed and nothing outside is reached, whatever is renamed
 * meanwhile; the kernel guarantees it (openat2(2)). The root itself is the administrator's: the resolved
 * kubelet root or a directory of the configuration.
 */

#include "mounters/fs/target.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>

#include "base/fd.h"

#define RESOLVE_TARGET (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)

static int target_error(const Target *t, int r, Error *err)
{
        switch (-r) {
        case ENOENT:
                return error_set(err, ERROR_TARGET_MISSING, r, "Target %s does not exist", t->path);
        case EXDEV:
                return error_set(err, ERROR_TARGET_INVALID, r,
                                 "Target %s was moved out of %s while it was looked up", t->path, t->root);
        case ELOOP:
                return error_set(err, ERROR_TARGET_INVALID, r, "Target %s is reached through a symbolic link",
                                 t->path);
        case ENOTDIR:
                return error_set(err, ERROR_TARGET_INVALID, r,
                                 "Target %s, or something above it, is not a directory", t->path);
        case ENAMETOOLONG:
                return error_set(err, ERROR_TARGET_INVALID, r, "Target %s is too long", t->path);
        default:
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot open target %s: %s", t->path, strerror(-r));
        }
}

static int root_open(const Target *t, Error *err)
{
        /* the kubelet root was resolved at start: a link that stands there now was put there since */
        int fd = open(t->root, O_PATH | O_DIRECTORY | O_CLOEXEC | (t->kind == TARGET_ALLOWED ? 0 : O_NOFOLLOW));

        return fd < 0 ? target_error(t, -errno, err) : fd;
}

int target_open(const Target *t, Error *err)
{
        _cleanup_close_ int root_fd = root_open(t, err);
        if (root_fd < 0)
                return root_fd;

        int fd = open_beneath(root_fd, t->relative, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_TARGET);
        return fd < 0 ? target_error(t, fd, err) : fd;
}

int target_open_parent(const Target *t, const char **ret_name, Error *err)
{
        const char *slash = strrchr(t->relative, '/');
        _cleanup_close_ int root_fd = root_open(t, err);
        if (root_fd < 0)
                return root_fd;

        if (!slash) {
                *ret_name = t->relative;
                return TAKE_FD(root_fd);
        }

        _cleanup_free_ char *parent = strndup(t->relative, (size_t) (slash - t->relative));
        if (!parent)
                return error_oom(err);
        int fd = open_beneath(root_fd, parent, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_TARGET);
        if (fd < 0)
                return target_error(t, fd, err);
        *ret_name = slash + 1;
        return fd;
}
