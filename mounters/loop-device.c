/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Loop devices. Runs in the loop mounter; ioctls on a loop may block on its backing file.
 *
 * Invariant: one inode never gets two devices, since two caches over the same blocks destroy the file system. So every
 * bound device of the node is asked for its inode before one is bound, and again afterwards.
 *
 * Asking costs an open and an ioctl a device, on a node with thousands of them, for every attach. The table remembers
 * the answers: /sys/…/loop<N>/loop is made when a device is bound and removed when it is let go, and
 * its kernfs inode number is never used twice, so the same number means the same binding. Only LOOP_CHANGE_FD could change the file
 * below a binding; it works on read-only devices alone, and these are always asked.
 */

#include "mounters/loop-device.h"

#include <dirent.h>
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

#define LOOP_MAJOR 7
#define SYSFS_DEVICES "/sys/devices/virtual/block"
#define BIND_TRIES 256U
#define PAUSE_FIRST_NSEC (50 * 1000)
#define PAUSE_LAST_NSEC (4 * 1000 * 1000)
#define NODE_WAIT_STEPS 250U  /* about 1 s */
#define UNBIND_WAIT_STEPS 80U /* about 0.3 s */
#define UNBIND_WAIT_NSEC (INT64_C(300) * 1000 * 1000)

typedef struct LoopBinding {
        ino_t sysfs_inode; /* 0: nothing is known */
        dev_t device;
        uint64_t inode;
} LoopBinding;

struct LoopTable {
        int sysfs_fd;
        LoopBinding *bindings; /* by the device's number */
        size_t n_bindings;
};

_Static_assert(sizeof(VOLUME_TAG_PREFIX) + VOLUME_KEY_MAX <= LO_NAME_SIZE, "a key fits into a loop's name");

/* Longer each time: most of what is waited for takes less than a tenth of a millisecond. */
static void pause_briefly(unsigned step)
{
        struct timespec ts = { .tv_nsec = step < 7 ? PAUSE_FIRST_NSEC << step : PAUSE_LAST_NSEC };

        (void) nanosleep(&ts, NULL);
}

LoopTable *loop_table_new(void)
{
        LoopTable *t = calloc(1, sizeof(LoopTable));

        if (t)
                t->sysfs_fd = -EBADF;
        return t;
}

void loop_table_free(LoopTable *t)
{
        close_fd(t->sysfs_fd);
        free(t->bindings);
        free(t);
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

/* Whether sysfs shows the device bound, and as which binding. */
static bool sysfs_is_bound(unsigned number, ino_t *ret_inode)
{
        char path[64];
        struct stat st;

        snprintf(path, sizeof(path), SYSFS_DEVICES "/loop%u/loop", number);
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
                if (!sysfs_is_bound(number, NULL))
                        return -ENXIO;
                pause_briefly(i);
        }
}

/* 1: bound, *ret filled; 0: not bound. */
static int device_look(unsigned number, LoopDevice *ret)
{
        _cleanup_loop_device_ LoopDevice d = { .fd = bound_node_open(number) };
        if (d.fd < 0)
                return (d.fd == -ENOENT || d.fd == -ENXIO) && !sysfs_is_bound(number, NULL) ? 0 : d.fd;
        if (ioctl(d.fd, LOOP_GET_STATUS64, &d.info) < 0)
                return errno == ENXIO ? 0 : -errno;
        d.number = number;
        d.device_number = makedev(LOOP_MAJOR, number);
        *ret = d;
        d = LOOP_DEVICE_INIT;
        return 1;
}

static LoopBinding *table_binding(LoopTable *t, unsigned number)
{
        if (number >= t->n_bindings) {
                size_t n = number + 64U;
                LoopBinding *grown = reallocarray(t->bindings, n, sizeof(LoopBinding));
                if (!grown)
                        return NULL;
                memset(grown + t->n_bindings, 0, (n - t->n_bindings) * sizeof(LoopBinding));
                t->bindings = grown;
                t->n_bindings = n;
        }
        return &t->bindings[number];
}

/* 1: this device shows the inode, 0: it does not. */
static int table_look(LoopTable *t, unsigned number, ino_t sysfs_inode, dev_t device, uint64_t inode,
                      LoopDevice *ret)
{
        LoopBinding *b = table_binding(t, number);
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;

        if (!b)
                return -ENOMEM;
        if (b->sysfs_inode == sysfs_inode && (b->inode != inode || b->device != device))
                return 0;

        b->sysfs_inode = 0;
        int r = device_look(number, &d);
        if (r <= 0)
                return r;
        /* what was asked belongs to the binding that was seen only if it is still the same one */
        ino_t now = 0;
        if (!(d.info.lo_flags & LO_FLAGS_READ_ONLY) && sysfs_is_bound(number, &now) && now == sysfs_inode)
                *b = (LoopBinding) { .sysfs_inode = sysfs_inode, .device = (dev_t) d.info.lo_device, .inode = d.info.lo_inode };
        if (!loop_device_shows(&d, device, inode))
                return 0;
        *ret = d;
        d = LOOP_DEVICE_INIT;
        return 1;
}

static bool loop_number(const char *name, unsigned *ret)
{
        return strncmp(name, "loop", 4) == 0 && parse_unsigned(name + 4, ret) >= 0 && *ret < 1U << 20;
}

static int table_open(LoopTable *t, DIR **ret)
{
        int fd;

        if (t->sysfs_fd < 0)
                t->sysfs_fd = open(SYSFS_DEVICES, O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = openat(t->sysfs_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        *ret = fdopendir(fd);
        if (!*ret) {
                close_fd(fd);
                return -errno;
        }
        return 0;
}

int loop_find(LoopTable *t, dev_t device, uint64_t inode, LoopDevice *ret, Error *err)
{
        _cleanup_loop_device_ LoopDevice found = LOOP_DEVICE_INIT;
        _cleanup_closedir_ DIR *d = NULL;
        int r = table_open(t, &d);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot read " SYSFS_DEVICES ": %s", strerror(-r));

        for (struct dirent *e; (e = readdir(d));) {
                _cleanup_loop_device_ LoopDevice one = LOOP_DEVICE_INIT;
                char path[32];
                unsigned number;
                struct stat st;

                if (!loop_number(e->d_name, &number))
                        continue;
                snprintf(path, sizeof(path), "loop%u/loop", number);
                if (fstatat(t->sysfs_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue; /* not bound */
                r = table_look(t, number, st.st_ino, device, inode, &one);
                if (r < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot look at /dev/loop%u: %s", number,
                                         strerror(-r));
                if (r == 0)
                        continue;
                if (found.fd >= 0)
                        return error_set(err, ERROR_CONFLICT, EBUSY,
                                         "The image is attached twice, as /dev/loop%u and /dev/loop%u: its "
                                         "data is at risk",
                                         found.number, number);
                found = one;
                one = LOOP_DEVICE_INIT;
        }
        if (found.fd < 0)
                return 0;
        *ret = found;
        found = LOOP_DEVICE_INIT;
        return 1;
}

int loop_each(LoopTable *t, int (*f)(const LoopDevice *d, void *userdata), void *userdata, Error *err)
{
        _cleanup_closedir_ DIR *d = NULL;
        int r = table_open(t, &d);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot read " SYSFS_DEVICES ": %s", strerror(-r));

        for (struct dirent *e; (e = readdir(d));) {
                _cleanup_loop_device_ LoopDevice one = LOOP_DEVICE_INIT;
                unsigned number;

                if (!loop_number(e->d_name, &number) || !sysfs_is_bound(number, NULL) ||
                    device_look(number, &one) <= 0)
                        continue;
                r = f(&one, userdata);
                if (r == -ENOMEM)
                        return error_oom(err);
                if (r < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot list /dev/loop%u: %s", number,
                                         strerror(-r));
        }
        return 0;
}

int loop_open(const char *path, dev_t device, uint64_t inode, LoopDevice *ret, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        unsigned number;

        if (strncmp(path, "/dev/", 5) != 0 || !loop_number(path + 5, &number))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%s' is not a loop device", path);
        int r = device_look(number, &d);
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

        if (!sysfs_is_bound(d->number, &before))
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
                if (!sysfs_is_bound(d->number, &now) || now != before)
                        return 0;
                pause_briefly(i);
        }
        _cleanup_free_ char *holders = fs_holders(d->device_number);
        return error_set(err, ERROR_BUSY, EBUSY, "/dev/loop%u is still in use%s%s", d->number,
                         holders ? " by " : "", holders ? holders : "");
}
