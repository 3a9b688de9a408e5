/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Files and descriptors: whole-file reads and atomic writes, lock files, kernel calls that glibc 2.34 (RHEL 9)
 * does not wrap. Helpers in the sense of HACKING.md: negative errno, no logging.
 */

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/cleanup.h"

/* openat2(2). O_CLOEXEC is added. Returns a descriptor or negative errno. */
int open_beneath(int dir_fd, const char *path, uint64_t flags, uint64_t resolve);

/*
 * Reads the whole of a file of at most max bytes into a NUL-terminated buffer (the caller frees it).
 * -EFBIG if it is larger. ret_size may be NULL.
 */
int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_size);

typedef enum WriteFlags {
        WRITE_SYNC = 1 << 0, /* fsync the file and then the directory: durable when it returns */
} WriteFlags;

/*
 * Replaces the file by way of a temporary name (".<name>.tmp") in the same directory and rename(2), so that
 * a reader sees the old or the new content, never a part. With WRITE_SYNC a new file has no name before it is complete, where the
 * file system can do that. Mode 0600. One writer per name at a time.
 */
int write_file_atomic_at(int dir_fd, const char *name, const void *data, size_t size, WriteFlags flags);

/* Writes everything, resuming after short writes and EINTR. */
int write_full(int fd, const void *data, size_t size);

/* mkdir -p with the given mode for what is missing; existing directories are left as they are. */
int mkdir_parents(const char *path, mode_t mode);

/*
 * Takes the lock file <dir>/<name> without waiting: LOCK_EX on a file that is made if missing. A lock file
 * may be unlinked only by lock_file_remove(), by its holder; an opener that then holds a lock on the
 * unlinked inode notices and starts over, so that there is never more than one holder of a name.
 * Returns the descriptor that carries the lock (children that inherit it keep it, flock(2)), or
 * -EWOULDBLOCK while somebody else holds it.
 */
int lock_file_take(int dir_fd, const char *name);
/* Unlinks a lock file that the caller holds. The lock itself goes with its last descriptor. */
int lock_file_remove(int dir_fd, const char *name);

#ifndef STATX_MNT_ID_UNIQUE
#define STATX_MNT_ID_UNIQUE 0x00004000U /* Linux 6.8 */
#endif

/*
 * The mount that dir_fd/path lies on (AT_EMPTY_PATH for ""); never follows a trailing link. The ID is the one that is never used
 * again (STATX_MNT_ID_UNIQUE, also that of fanotify's mount events) where the kernel has it, else STATX_MNT_ID.
 */
int mount_id_at(int dir_fd, const char *path, uint64_t *ret_mount_id, bool *ret_is_mount_root);
