/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The directory below an export that a pod gets: found and, if asked for, made. Runs in mounter-nfs, in a
 * thread with a time limit.
 *
 * Invariants: no symbolic link is followed and the export's mount is never left, whatever other clients
 * rename meanwhile (openat2(2)). A directory is complete, with mode and group, when it appears under its
 * name, and two nodes that make it at once get the same one.
 */

#include "mounters/nfs-subdir.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/digest.h"
#include "base/fault.h"
#include "base/fd.h"
#include "mounters/fs/mount-api.h"

#define RESOLVE_SUB_DIR (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV)
#define TEMPORARY_MAX 64

static int sub_dir_error(const NfsSource *s, int r, Error *err)
{
        switch (-r) {
        case ESTALE:
        case EIO:
        case ETIMEDOUT:
                return r;
        case ENOENT:
                return error_set(err, ERROR_SUB_DIRECTORY, r, "%s:%s has no directory %s", s->server,
                                 s->export, s->sub_dir);
        case ELOOP:
                return error_set(err, ERROR_SUB_DIRECTORY, r,
                                 "subDir %s of %s:%s is reached through a symbolic link", s->sub_dir,
                                 s->server, s->export);
        case EXDEV:
                return error_set(err, ERROR_SUB_DIRECTORY, r,
                                 "subDir %s of %s:%s lies on another export: name that one in option path",
                                 s->sub_dir, s->server, s->export);
        case ENOTDIR:
                return error_set(err, ERROR_SUB_DIRECTORY, r,
                                 "subDir %s of %s:%s, or something above it, is not a directory", s->sub_dir,
                                 s->server, s->export);
        case EACCES:
        case EPERM:
                return error_set(err, ERROR_EXPORT_DENIED, r,
                                 "Server %s does not let root of this node reach or make subDir %s of %s",
                                 s->server, s->sub_dir, s->export);
        default:
                return error_set(err, ERROR_SUB_DIRECTORY, r, "Cannot open subDir %s of %s:%s: %s",
                                 s->sub_dir, s->server, s->export, strerror(-r));
        }
}

/* The same for whoever makes the same directory: what a crash has left is taken up, and of two who make it
 * one renames. */
static void temporary_name(const char *name, char ret[static TEMPORARY_MAX])
{
        char digest[DIGEST_NAME_SIZE];

        digest_name(name, digest);
        snprintf(ret, TEMPORARY_MAX, ".berth-new-%s", digest);
}

static int directory_equip(int parent_fd, const char *name, const NfsSource *s)
{
        _cleanup_close_ int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
                return -errno;

        /* the group first: changing it clears the set-group-ID bit */
        if (s->gid != (gid_t) -1 && fchown(fd, (uid_t) -1, s->gid) < 0)
                return -errno;
        return fchmod(fd, s->mode != (mode_t) -1 ? s->mode : 0755) < 0 ? -errno : 0;
}

/* -EEXIST: somebody was quicker, and it is there. */
static int directory_make(int parent_fd, const char *name, const NfsSource *s)
{
        char temporary[TEMPORARY_MAX];

        temporary_name(name, temporary);
        FAULT_POINT("nfs.before-mkdir");
        if (mkdirat(parent_fd, temporary, 0700) < 0 && errno != EEXIST)
                return -errno;
        FAULT_POINT("nfs.after-mkdir");
        int r = directory_equip(parent_fd, temporary, s);
        FAULT_POINT("nfs.before-rename");
        if (r >= 0 && renameat2(parent_fd, temporary, parent_fd, name, RENAME_NOREPLACE) < 0)
                r = -errno;
        /* the client checks the flag itself where the server has no such rename */
        if (r == -EINVAL)
                r = renameat(parent_fd, temporary, parent_fd, name) < 0 ? -errno : 0;
        if (r < 0 && r != -ENOENT)
                (void) unlinkat(parent_fd, temporary, AT_REMOVEDIR);
        return r == -ENOENT ? -EEXIST : r;
}

/* One component after the other, so that each is found below the one before, or made there. */
static int sub_dir_make(int stage_fd, const NfsSource *s)
{
        static const NfsSource plain = {.mode = (mode_t) -1, .gid = (gid_t) -1};
        _cleanup_free_ char *path = strdup(s->sub_dir);
        _cleanup_close_ int fd = fcntl(stage_fd, F_DUPFD_CLOEXEC, 3);
        char *save = NULL;

        if (!path || fd < 0)
                return -ENOMEM;
        for (char *name = strtok_r(path, "/", &save), *next; name; name = next) {
                next = strtok_r(NULL, "/", &save);
                int found = open_beneath(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_SUB_DIR);
                if (found == -ENOENT) {
                        int r = directory_make(fd, name, next ? &plain : s);
                        if (r < 0 && r != -EEXIST)
                                return r;
                        found = open_beneath(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_SUB_DIR);
                }
                if (found < 0)
                        return found;
                close_fd(fd);
                fd = found;
        }
        return TAKE_FD(fd);
}

/* From the server, not from memory. */
static int directory_ask(int fd)
{
        struct statx sx;

        return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &sx) < 0 &&
                               (errno == ESTALE || errno == EIO || errno == ETIMEDOUT) ?
                       -errno :
                       0;
}

/*
 * One component after the other, each asked for before it is looked into: what the kernel remembers of a directory, names that it has
 * not included, may be a minute old.
 */
static int sub_dir_walk(int stage_fd, const NfsSource *s)
{
        _cleanup_free_ char *path = strdup(s->sub_dir);
        _cleanup_close_ int fd = fcntl(stage_fd, F_DUPFD_CLOEXEC, 3);
        char *save = NULL;
        int r = 0;

        if (!path || fd < 0)
                return -ENOMEM;
        for (char *name = strtok_r(path, "/", &save); name && r >= 0; name = strtok_r(NULL, "/", &save)) {
                int found = open_beneath(fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_SUB_DIR);
                if (found < 0)
                        return found;
                close_fd(fd);
                fd = found;
                r = directory_ask(fd);
        }
        return r < 0 ? r : TAKE_FD(fd);
}

static int sub_dir_open(int stage_fd, const NfsSource *s, Error *err)
{
        int fd = open_beneath(stage_fd, s->sub_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW, RESOLVE_SUB_DIR);
        int r = fd < 0 ? fd : directory_ask(fd);

        if (r < 0)
                close_fd(fd);
        if (r == -ENOENT || r == -ESTALE) {
                r = fd = sub_dir_walk(stage_fd, s);
                if (r == -ESTALE) /* it is taken away just now; the stage was well a moment ago */
                        r = -ENOENT;
        }
        if (r == -ENOENT && s->create_sub_dir)
                r = fd = sub_dir_make(stage_fd, s);
        return r < 0 ? sub_dir_error(s, r, err) : fd;
}

int nfs_subdir_clone(const char *staging_path, const NfsSource *s, int *ret_tree_fd, Error *err)
{
        _cleanup_close_ int sub_dir_fd = -EBADF;
        struct statx sx;
        _cleanup_close_ int stage_fd = open(staging_path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (stage_fd < 0)
                return errno == ESTALE ? -ESTALE
                                       : error_set(err, ERROR_MOUNT_FAILED, errno,
                                                   "Cannot open the stage %s: %m", staging_path);

        /* from the server, not from memory: does it still know the directory? */
        if (statx(stage_fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &sx) < 0) {
                int r = -errno;
                return r == -ESTALE || r == -EIO || r == -ETIMEDOUT
                                       ? r
                                       : error_set(err, ERROR_MOUNT_FAILED, r,
                                                   "Cannot look at the stage %s: %s", staging_path,
                                                   strerror(-r));
        }
        if (s->sub_dir) {
                sub_dir_fd = sub_dir_open(stage_fd, s, err);
                if (sub_dir_fd < 0)
                        return sub_dir_fd;
        }
        int fd = sys_open_tree(s->sub_dir ? sub_dir_fd : stage_fd, "",
                               OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_NO_AUTOMOUNT);
        if (fd < 0)
                return error_set(err, ERROR_MOUNT_FAILED, errno, "Cannot copy the mount of %s: %m",
                                 staging_path);
        *ret_tree_fd = fd;
        return 0;
}
