/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Descriptor helpers. berthd uses these only on its own small files on tmpfs (/run) and for its
 * configuration; everything that could touch a volume is called in mounters alone.
 */

#include "base/fd.h"

#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include "base/fault.h"

int open_beneath(int dir_fd, const char *path, uint64_t flags, uint64_t resolve)
{
        struct open_how how = { .flags = flags | O_CLOEXEC, .resolve = resolve };
        long fd;

        /* EAGAIN: the kernel could not prove that a concurrent rename did not escape; it asks for a retry. */
        for (unsigned i = 0; i < 64; i++) {
                fd = syscall(SYS_openat2, dir_fd, path, &how, sizeof(how));
                if (fd >= 0 || errno != EAGAIN)
                        break;
        }
        return fd < 0 ? -errno : (int) fd;
}

int read_file_at(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_size)
{
        _cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        if (fd < 0)
                return -errno;

        _cleanup_free_ char *buffer = NULL;
        size_t size = 0, allocated = 0;

        for (;;) {
                if (size == allocated) {
                        size_t want = allocated ? allocated * 2 : 4096;
                        char *grown = realloc(buffer, want + 1);
                        if (!grown)
                                return -ENOMEM;
                        buffer = grown;
                        allocated = want;
                }
                ssize_t n = read(fd, buffer + size, allocated - size);
                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                if (n == 0)
                        break;
                size += (size_t) n;
                if (size > max)
                        return -EFBIG;
        }
        buffer[size] = 0;
        *ret = TAKE_PTR(buffer);
        if (ret_size)
                *ret_size = size;
        return 0;
}

int write_full(int fd, const void *data, size_t size)
{
        const char *p = data;

        while (size > 0) {
                ssize_t n = write(fd, p, size);
                if (n < 0) {
                        if (errno == EINTR)
                                continue;
                        return -errno;
                }
                p += n;
                size -= (size_t) n;
        }
        return 0;
}

/*
 * A file without a name: whoever is killed meanwhile leaves nothing. Not where one is replaced, since a link is never made over a
 * name; nor on tmpfs, whose files end with it.
 */
static int open_unnamed(int dir_fd, const char *name, WriteFlags flags)
{
        if (!(flags & WRITE_SYNC) || faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) >= 0 || errno != ENOENT)
                return -EEXIST;
        int fd = openat(dir_fd, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
        return fd < 0 ? -errno : fd; /* not every file system can */
}

/* Gives the content its name. temporary: NULL if it has none yet. */
static int file_publish(int dir_fd, int fd, const char *temporary, const char *name)
{
        char self[40];

        if (temporary)
                return renameat(dir_fd, temporary, dir_fd, name) < 0 ? -errno : 0;
        snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, self, dir_fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

int write_file_atomic_at(int dir_fd, const char *name, const void *data, size_t size, WriteFlags flags)
{
        char temporary[NAME_MAX + 1];

        if ((size_t) snprintf(temporary, sizeof(temporary), ".%s.tmp", name) >= sizeof(temporary))
                return -ENAMETOOLONG;

        _cleanup_close_ int fd = open_unnamed(dir_fd, name, flags);
        const bool named = fd < 0;
        if (named)
                fd = openat(dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;

        int r = write_full(fd, data, size);
        if (r >= 0 && (flags & WRITE_SYNC) && fsync(fd) < 0)
                r = -errno;
        if (r >= 0)
                r = FAULT_ERROR("file.temporary");
        if (r >= 0)
                r = file_publish(dir_fd, fd, named ? temporary : NULL, name);
        if (r < 0) {
                if (named)
                        (void) unlinkat(dir_fd, temporary, 0);
                return r;
        }
        if ((flags & WRITE_SYNC) && fsync(dir_fd) < 0)
                return -errno;
        return 0;
}

int mkdir_parents(const char *path, mode_t mode)
{
        _cleanup_free_ char *copy = strdup(path);
        if (!copy)
                return -ENOMEM;

        for (char *p = copy + 1; *p; p++) {
                if (*p != '/')
                        continue;
                *p = 0;
                if (mkdir(copy, mode) < 0 && errno != EEXIST)
                        return -errno;
                *p = '/';
        }
        if (mkdir(copy, mode) < 0 && errno != EEXIST)
                return -errno;
        return 0;
}

int lock_file_take(int dir_fd, const char *name)
{
        for (;;) {
                struct stat held, named;
                _cleanup_close_ int fd =
                                openat(dir_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY, 0600);
                if (fd < 0)
                        return -errno;
                if (flock(fd, LOCK_EX | LOCK_NB) < 0)
                        return -errno;
                if (fstat(fd, &held) < 0)
                        return -errno;
                if (fstatat(dir_fd, name, &named, AT_SYMLINK_NOFOLLOW) >= 0 && named.st_ino == held.st_ino &&
                    named.st_dev == held.st_dev)
                        return TAKE_FD(fd);
                /* unlinked between our open and our lock: this lock guards nothing, take the new file's */
        }
}

int lock_file_remove(int dir_fd, const char *name)
{
        return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int mount_id_at(int dir_fd, const char *path, uint64_t *ret_mount_id, bool *ret_is_mount_root)
{
        struct statx sx;

        if (statx(dir_fd, path,
                  AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC | (*path ? 0 : AT_EMPTY_PATH),
                  STATX_MNT_ID | STATX_MNT_ID_UNIQUE, &sx) < 0)
                return -errno;
        if (!(sx.stx_mask & (STATX_MNT_ID | STATX_MNT_ID_UNIQUE)) ||
            !(sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
                return -EOPNOTSUPP; /* before Linux 5.8 */
        if (ret_mount_id)
                *ret_mount_id = sx.stx_mnt_id;
        if (ret_is_mount_root)
                *ret_is_mount_root = sx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
        return 0;
}
