/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The device itself: opened once, compared with the number that attaching gave, locked, measured, read.
 * Runs in mounters; every call here may block for as long as the storage does.
 *
 * Invariant: whatever is decided about a device is decided on one descriptor, and that descriptor carries the
 * BSD lock (LOCK_EX) for as long as anything may be written. The lock is the one that udev honours
 * (systemd's block device locking); O_EXCL cannot serve, since mkfs and fsck take it themselves.
 */

#include "mounters/block/internal.h"

#include <inttypes.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/fd.h"

#define LOCK_WAIT_SECONDS 10
#define LOCK_POLL_NSEC (20L * 1000 * 1000)

const char *device_name(int fd, char *buffer, size_t size)
{
        char link[32];

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, buffer, size - 1);
        if (n <= 0)
                return "the device";
        buffer[n] = 0;
        return buffer;
}

int device_open(const MounterVolume *v, int flags, int *ret_fd, Error *err)
{
        struct stat st;

        if (!v->device)
                return error_set(err, ERROR_INTERNAL, EINVAL, "The volume has no device");

        _cleanup_close_ int fd = open(v->device, flags | O_CLOEXEC | O_NOCTTY);
        if (fd < 0) {
                int e = errno;
                if (e == EBUSY)
                        return error_set(err, ERROR_BUSY, e, "%s is mounted or claimed elsewhere", v->device);
                if (e == ENXIO || e == ENODEV || e == ENOENT)
                        return error_set(err, ERROR_DEVICE_CHANGED, e, "%s is no longer there: %m", v->device);
                return error_set(err, ERROR_DEVICE_ERROR, e, "Cannot open %s: %m", v->device);
        }
        if (fstat(fd, &st) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot stat %s: %m", v->device);
        if (!S_ISBLK(st.st_mode) || st.st_rdev != v->device_number)
                return error_set(err, ERROR_DEVICE_CHANGED, ENODEV,
                                 "%s is not the block device %u:%u that was attached", v->device,
                                 major(v->device_number), minor(v->device_number));
        *ret_fd = TAKE_FD(fd);
        return 0;
}

int device_lock(int fd, Error *err)
{
        struct timespec start, now, pause = { .tv_nsec = LOCK_POLL_NSEC };
        char name[PATH_MAX];

        clock_gettime(CLOCK_BOOTTIME, &start);
        while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
                if (errno != EWOULDBLOCK && errno != EINTR)
                        return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot lock %s: %m",
                                         device_name(fd, name, sizeof(name)));
                clock_gettime(CLOCK_BOOTTIME, &now);
                if (now.tv_sec - start.tv_sec >= LOCK_WAIT_SECONDS)
                        return error_set(err, ERROR_BUSY, EBUSY,
                                         "Another process (udev, mkfs, fsck, …) has had %s locked for %d "
                                         "seconds",
                                         device_name(fd, name, sizeof(name)), LOCK_WAIT_SECONDS);
                (void) nanosleep(&pause, NULL);
        }
        return 0;
}

int device_size(int fd, uint64_t *ret, Error *err)
{
        char name[PATH_MAX];
        struct stat st;
        uint64_t size = 0;

        if (fstat(fd, &st) < 0 || (S_ISBLK(st.st_mode) && ioctl(fd, BLKGETSIZE64, &size) < 0))
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot read the size of %s: %m",
                                 device_name(fd, name, sizeof(name)));
        if (!S_ISBLK(st.st_mode))
                size = (uint64_t) st.st_size;
        /* A size of zero is what a device shows whose medium or image is gone, not that there is nothing to lose. */
        if (size == 0)
                return error_set(err, ERROR_DEVICE_ERROR, ENODATA, "The size of %s is 0 bytes",
                                 device_name(fd, name, sizeof(name)));
        *ret = size;
        return 0;
}

int device_drop_cache(int fd, Error *err)
{
        char name[PATH_MAX];

        /*
         * The device's page cache lives as long as anybody has the device open. It is not told when the storage
         * below changes: XFS and btrfs go past it, and so does whoever writes the backing file or another
         * node's map. What was cached as zeros before may be data now. Dirty pages must reach the storage
         * first, or an allocation map of the storage would not yet show them.
         */
        if (fsync(fd) < 0 && errno != EROFS && errno != EINVAL)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot write back %s: %m",
                                 device_name(fd, name, sizeof(name)));
        /* Regular files (images being made) have no such call and need none. */
        if (ioctl(fd, BLKFLSBUF, 0) < 0 && errno != ENOTTY && errno != EOPNOTSUPP)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot drop the page cache of %s: %m",
                                 device_name(fd, name, sizeof(name)));
        return 0;
}

int device_read(int fd, uint64_t offset, void *buffer, size_t size, Error *err)
{
        char name[PATH_MAX], *p = buffer;

        for (size_t done = 0; done < size;) {
                ssize_t n = pread(fd, p + done, size - done, (off_t) (offset + done));
                if (n < 0 && errno == EINTR)
                        continue;
                if (n <= 0)
                        return error_set(err, ERROR_DEVICE_ERROR, n < 0 ? errno : EIO,
                                         "Reading %s at offset %" PRIu64 " failed: %s",
                                         device_name(fd, name, sizeof(name)), offset + done,
                                         n < 0 ? strerror(errno) : "it ends there");
                done += (size_t) n;
        }
        return 0;
}
