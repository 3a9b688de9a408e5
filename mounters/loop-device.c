/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * One loop device: looking at it, binding it to an image, letting it go. Runs in the loop mounter; ioctls on a loop may block on
 * its backing file. Which device shows an image is found by loop-find.c.
 */

#include "mounters/loop-device.h"

#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <time.h>

#include <linux/fs.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "mounters/fs/mount.h"
#include "protocol/names.h"

#define BIND_TRIES 256U
#define PAUSE_FIRST_NSEC (50 * 1000)
#define PAUSE_LAST_NSEC (4 * 1000 * 1000)
#define NODE_WAIT_STEPS 250U  /* about 1 s */
#define UNBIND_WAIT_STEPS 80U /* about 0.3 s */
#define UNBIND_WAIT_NSEC (INT64_C(300) * 1000 * 1000)

_Static_assert(sizeof(VOLUME_TAG_PREFIX) + VOLUME_KEY_MAX <= LO_NAME_SIZE, "a key fits into a loop's name");

/* Longer each time: most of what is waited for takes less than a tenth of a millisecond. */
static void pause_briefly(unsigned step)
{
        struct timespec ts = { .tv_nsec = step < 7 ? PAUSE_FIRST_NSEC << step : PAUSE_LAST_NSEC };

        (void) nanosleep(&ts, NULL);
}

void loop_device_done(LoopDevice *d)
{
        close_fd(d->fd);
        *d = LOOP_DEVICE_INIT;
}

bool loop_device_is_own(const LoopDevice *d, const char *key)
{
        char tag[LO_NAME_SIZE];

        snprintf(tag, sizeof(tag), VOLUME_TAG_PREFIX "%s", key);
        return strncmp((const char *) d->info.lo_file_name, tag, LO_NAME_SIZE) == 0;
}

bool loop_device_shows(const LoopDevice *d, dev_t device, uint64_t inode)
{
        /* the kernel's encoding of a device number in 64 bits agrees with glibc's below 2^32 */
        return d->info.lo_inode == inode && d->info.lo_device == device;
}

bool loop_is_bound(unsigned number, ino_t *ret_inode)
{
        char path[64];
        struct stat st;

        snprintf(path, sizeof(path), LOOP_SYSFS_DEVICES "/loop%u/loop", number);
        if (lstat(path, &st) < 0)
                return false;
        if (ret_inode)
                *ret_inode = st.st_ino;
        return true;
}

/* devtmpfs makes the node a moment after LOOP_CTL_GET_FREE has made the device. */
static int node_open(unsigned number, int flags, unsigned wait_steps)
{
        char path[32];
        struct stat st;

        snprintf(path, sizeof(path), "/dev/loop%u", number);
        for (unsigned i = 0;; i++) {
                _cleanup_close_ int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
                if (fd >= 0) {
                        if (fstat(fd, &st) < 0)
                                return -errno;
                        if (!S_ISBLK(st.st_mode) || st.st_rdev != makedev(LOOP_MAJOR, number))
                                return -ENODEV;
                        return TAKE_FD(fd);
                }
                if (errno != ENOENT || i >= wait_steps)
                        return -errno;
                pause_briefly(i);
        }
}

/*
 * A device that is being let go this moment refuses to be opened while sysfs still shows it: waited for, since nobody
 * else's detaching may fail our attach.
 */
static int bound_node_open(unsigned number)
{
        for (unsigned i = 0;; i++) {
                int fd = node_open(number, O_RDONLY, 0);
                if (fd >= 0 || (fd != -ENOENT && fd != -ENXIO) || i >= UNBIND_WAIT_STEPS)
                        return fd;
                if (!loop_is_bound(number, NULL))
                        return -ENXIO;
                pause_briefly(i);
        }
}

/* 1: open, though perhaps not bound any more; 0: not bound. */
static int device_open(unsigned number, LoopDevice *ret)
{
        int fd = bound_node_open(number);

        if (fd < 0)
                return (fd == -ENOENT || fd == -ENXIO) && !loop_is_bound(number, NULL) ? 0 : fd;
        *ret = (LoopDevice) { .fd = fd, .number = number, .device_number = makedev(LOOP_MAJOR, number) };
        return 1;
}

int loop_look(unsigned number, LoopDevice *ret)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int r = device_open(number, &d);

        if (r <= 0)
                return r;
        if (ioctl(d.fd, LOOP_GET_STATUS64, &d.info) < 0)
                return errno == ENXIO ? 0 : -errno;
        *ret = d;
        d = LOOP_DEVICE_INIT;
        return 1;
}

int loop_look_at_other(unsigned number, struct loop_info64 *ret)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int r = device_open(number, &d);

        if (r <= 0)
                return r;
        if (ioctl(d.fd, LOOP_GET_STATUS64, ret) < 0)
                return errno == EINTR || errno == ENOMEM ? -errno : 0;
        return 1;
}

bool loop_number(const char *name, unsigned *ret)
{
        return strncmp(name, "loop", 4) == 0 && parse_unsigned(name + 4, ret) >= 0 && *ret < 1U << 20;
}

int loop_open(const char *path, dev_t device, uint64_t inode, LoopDevice *ret, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        unsigned number;

        if (strncmp(path, "/dev/", 5) != 0 || !loop_number(path + 5, &number))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%s' is not a loop device", path);
        int r = loop_look(number, &d);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot look at %s: %s", path, strerror(-r));
        if (r == 0 || !loop_device_shows(&d, device, inode))
                return 0;
        *ret = d;
        d = LOOP_DEVICE_INIT;
        return 1;
}

/* One try: the device that is free now may be taken (EBUSY) or removed (ENXIO, ENOENT, ENODEV) by another process. */
static int bind_once(int control_fd, const struct loop_config *config, LoopDevice *ret)
{
        int number = ioctl(control_fd, LOOP_CTL_GET_FREE);
        if (number < 0)
                return -errno;

        _cleanup_loop_device_ LoopDevice d = {
                .fd = node_open((unsigned) number, config->info.lo_flags & LO_FLAGS_READ_ONLY ? O_RDONLY : O_RDWR,
                                NODE_WAIT_STEPS),
                .number = (unsigned) number,
                .device_number = makedev(LOOP_MAJOR, (unsigned) number),
        };
        if (d.fd < 0)
                return d.fd;
        int r = FAULT_ERROR("loop.before-configure");
        if (r < 0)
                return r;
        if (ioctl(d.fd, LOOP_CONFIGURE, config) < 0)
                return -errno;
        FAULT_POINT("loop.after-configure");
        if (ioctl(d.fd, LOOP_GET_STATUS64, &d.info) < 0)
                return -errno;
        *ret = d;
        d = LOOP_DEVICE_INIT;
        return 0;
}

int loop_bind(const Image *i, const char *key, unsigned flags, LoopDevice *ret, Error *err)
{
        struct loop_config config = {
                .fd = (unsigned) i->fd,
                /* the same geometry on every node, whatever disk the image lies on */
                .block_size = 512,
                .info.lo_flags = (flags & LOOP_READ_ONLY ? LO_FLAGS_READ_ONLY : 0) |
                                 (flags & LOOP_DIRECT_IO ? LO_FLAGS_DIRECT_IO : 0),
        };
        _cleanup_close_ int control_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        if (control_fd < 0)
                return error_set(err, ERROR_ATTACH_FAILED, errno, "Cannot open /dev/loop-control: %m");

        snprintf((char *) config.info.lo_file_name, LO_NAME_SIZE, VOLUME_TAG_PREFIX "%s", key);
        for (unsigned n = 0;; n++) {
                int r = bind_once(control_fd, &config, ret);
                if (r >= 0)
                        return 0;
                if ((r == -EBUSY || r == -ENXIO || r == -ENOENT || r == -ENODEV) && n < BIND_TRIES) {
                        if (n > 16)
                                pause_briefly(n - 16);
                        continue;
                }
                return error_set(err, ERROR_ATTACH_FAILED, r, "Cannot set up a loop device: %s", strerror(-r));
        }
}

int loop_clear_autoclear(LoopDevice *d, Error *err)
{
        if (!(d->info.lo_flags & LO_FLAGS_AUTOCLEAR))
                return 0;
        d->info.lo_flags &= ~(uint32_t) LO_FLAGS_AUTOCLEAR;
        FAULT_POINT("loop.before-keep");
        if (ioctl(d->fd, LOOP_SET_STATUS64, &d->info) < 0)
                return error_set(err, errno == ENXIO ? ERROR_BUSY : ERROR_ATTACH_FAILED, errno,
                                 "Cannot take over /dev/loop%u, which is being let go: %m", d->number);
        FAULT_POINT("loop.after-keep");
        return 0;
}

int loop_refresh_size(const LoopDevice *d, uint64_t *ret_size, Error *err)
{
        FAULT_POINT("loop.before-capacity");
        if (ioctl(d->fd, LOOP_SET_CAPACITY, 0) < 0)
                return error_set(err, ERROR_GROW_FAILED, errno, "Cannot refresh the size of /dev/loop%u: %m",
                                 d->number);
        FAULT_POINT("loop.after-capacity");
        if (ioctl(d->fd, BLKGETSIZE64, ret_size) < 0)
                return error_set(err, ERROR_GROW_FAILED, errno, "Cannot read the size of /dev/loop%u: %m",
                                 d->number);
        return 0;
}

static int64_t now_monotonic_nsec(void)
{
        struct timespec ts = {};

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

int loop_unbind(LoopDevice *d, Error *err)
{
        ino_t before = 0, now = 0;

        if (!loop_is_bound(d->number, &before))
                return 0;
        FAULT_POINT("loop.before-clear");
        /* ENXIO: another got there first */
        if (ioctl(d->fd, LOOP_CLR_FD) < 0 && errno != ENXIO)
                return error_set(err, errno == EBUSY ? ERROR_BUSY : ERROR_DETACH_FAILED, errno,
                                 "Cannot let /dev/loop%u go: %m", d->number);
        FAULT_POINT("loop.after-clear");
        /* newer kernels let go with the last descriptor only, and ours is one */
        d->fd = close_fd(d->fd);
        FAULT_POINT("loop.after-close");

        /* By the clock: the caller's Unmount waits for this, and on a busy machine a pause is much longer than it asks for. */
        int64_t end = now_monotonic_nsec() + UNBIND_WAIT_NSEC;
        for (unsigned i = 0; i == 0 || now_monotonic_nsec() < end; i++) {
                if (!loop_is_bound(d->number, &now) || now != before)
                        return 0;
                pause_briefly(i);
        }
        _cleanup_free_ char *holders = fs_holders(d->device_number);
        return error_set(err, ERROR_BUSY, EBUSY, "/dev/loop%u is still in use%s%s", d->number,
                         holders ? " by " : "", holders ? holders : "");
}
