/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The kernel's RBD client: map by one write to sysfs, as `rbd map` does, without it. Runs in the rbd mounter; the write blocks until
 * the kernel has the image or mount_timeout is over, and in unmapping for as long as the OSDs do.
 *
 * Invariants: the key is given to the kernel's keyring alone, under a name that says it is berth's, and taken out again; it is
 * never in the line, which sysfs shows. What is mapped bears that name, so a map left by a mounter that was killed is known
 * as berth's own.
 */

#include "mounters/rbd-map.h"

#include <fcntl.h>
#include <keyutils.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "mounters/fs/mount.h"
#include "mounters/rbd-monitors.h"

#define EBUSY_WAIT_MSEC 2000
#define EBUSY_PAUSE_MAX_MSEC 20
#define NODE_WAIT_MSEC 5000

/* --- the module --- */

static bool kernel_has_rbd(void)
{
        return access(RBD_SYSFS, F_OK) >= 0;
}

int rbd_kernel_load(Mounter *m, Error *err)
{
        _cleanup_free_ char *output = NULL;
        char *argv[] = { (char *) "modprobe", (char *) "rbd", NULL };

        if (kernel_has_rbd())
                return 0;
        int r = mounter_run(m, argv, -1, &output);
        if (kernel_has_rbd())
                return 0;
        return error_set(err, ERROR_KERNEL_UNSUPPORTED, ENODEV, "The kernel of this node has no RBD client: %s",
                         r < 0 ? strerror(-r) : str_or(output, "modprobe rbd had no effect"));
}

int rbd_kernel_missing_features(const RbdImage *i, bool read_only, uint64_t *ret)
{
        _cleanup_free_ char *text = NULL;
        int r = read_file_at(AT_FDCWD, RBD_SYSFS "/supported_features", 64, &text, NULL);

        if (r < 0)
                return r;
        uint64_t needed = i->features & (read_only ? RBD_FEATURES_INCOMPATIBLE : ~UINT64_C(0));
        *ret = needed & ~strtoull(text, NULL, 16);
        return 0;
}

int rbd_kernel_check_features(const RbdImage *i, bool read_only, Error *err)
{
        uint64_t missing = 0;
        int r = rbd_kernel_missing_features(i, read_only, &missing);

        if (r < 0 || missing == 0) /* a kernel that does not tell refuses by itself */
                return 0;
        _cleanup_free_ char *names = rbd_feature_names(missing);
        return error_set(err, ERROR_FEATURES_UNSUPPORTED, ENXIO, "The kernel of this node lacks features that image %s has: %s", i->spec,
                         str_or(names, "?"));
}

/* --- the key --- */

/* The process' own keyring: it is gone with the process, whatever happens. */
static int key_add(Mounter *m, const char *name, const char *secret, key_serial_t *ret, Error *err)
{
        char *const modules[][3] = { { (char *) "modprobe", (char *) "libceph", NULL },
                                     { (char *) "modprobe", (char *) "cbc", NULL },
                                     { (char *) "modprobe", (char *) "aes", NULL } };
        uint8_t payload[64];
        int n = rbd_key_decode(secret, payload);

        if (n < 0)
                return error_set(err, ERROR_KEY_INVALID, EINVAL, "The key is not a Ceph key");
        FAULT_POINT("rbd.before-key");
        key_serial_t k = add_key("ceph", name, payload, (size_t) n, KEY_SPEC_PROCESS_KEYRING);
        /* a missing cipher is ENOENT, a missing type ENODEV */
        for (size_t i = 0; k < 0 && (errno == ENOENT || errno == ENODEV) && i < ELEMENTSOF(modules); i++) {
                _cleanup_free_ char *output = NULL;
                (void) mounter_run(m, modules[i], -1, &output);
                k = add_key("ceph", name, payload, (size_t) n, KEY_SPEC_PROCESS_KEYRING);
        }
        int e = errno;
        explicit_bzero(payload, sizeof(payload));
        if (k < 0)
                return error_set(err, ERROR_ATTACH_FAILED, e, "The kernel's keyring does not take the key: %s", strerror(e));
        *ret = k;
        return 0;
}

/* --- map --- */

static int sysfs_write(const char *const *names, const char *text)
{
        for (size_t i = 0; names[i]; i++) {
                _cleanup_close_ int fd = open(names[i], O_WRONLY | O_CLOEXEC);
                if (fd < 0 && errno == ENOENT)
                        continue;
                if (fd < 0)
                        return -errno;
                /* one write: the kernel takes each as a whole command */
                return write(fd, text, strlen(text)) < 0 ? -errno : 0;
        }
        return -ENOENT;
}

static int map_failed(const RbdImage *i, const RbdAddresses *a, bool exclusive, int r, Error *err)
{
        const char *user = i->source->user;

        switch (-r) {
        case ENOENT:
                return error_set(err, ERROR_RBD_IMAGE_NOT_FOUND, r, "The kernel finds no image %s", i->spec);
        case EACCES:
                return error_set(err, ERROR_KEY_REFUSED, r, "The cluster refuses the kernel client.%s", user);
        case EPERM:
                return error_set(err, ERROR_CAPS_MISSING, r, "The kernel as client.%s may not open %s", user, i->spec);
        case ENXIO:
                return error_set(err, ERROR_FEATURES_UNSUPPORTED, r, "The kernel lacks a feature of image %s", i->spec);
        case EROFS:
        case EBUSY:
                return error_set(err, ERROR_IN_USE, r, "The exclusive lock of image %s is held and not given up", i->spec);
        case ETIMEDOUT:
                if (exclusive)
                        return error_set(err, ERROR_IN_USE, r,
                                         "The kernel did not get the exclusive lock of image %s in time, or monitors (%s) or OSDs did not answer it",
                                         i->spec, a->list);
                return error_set(err, ERROR_OSDS_UNREACHABLE, r, "The kernel got no answer for image %s from monitors (%s) or OSDs", i->spec,
                                 a->list);
        case ESHUTDOWN:
                return error_set(err, ERROR_ATTACH_FAILED, r, "The kernel client of this node has been fenced (blocklisted)");
        default:
                return error_set(err, ERROR_ATTACH_FAILED, r, "The kernel does not map %s: %s", i->spec, strerror(-r));
        }
}

static void pause_msec(long n)
{
        const struct timespec ts = { .tv_sec = n / 1000, .tv_nsec = n % 1000 * 1000000 };

        (void) nanosleep(&ts, NULL);
}

/* devtmpfs has it when the write returns; a /dev of udev alone is later. */
static int node_wait(const RbdDevice *d, Error *err)
{
        char path[32];
        struct stat st;

        snprintf(path, sizeof(path), "/dev/rbd%u", d->number);
        for (unsigned waited = 0; waited < NODE_WAIT_MSEC; waited += 5) {
                if (stat(path, &st) >= 0 && S_ISBLK(st.st_mode) && st.st_rdev == d->device_number)
                        return 0;
                pause_msec(5);
        }
        return error_set(err, ERROR_ATTACH_FAILED, ENODEV, "The image is mapped, but %s does not appear", path);
}

/*
 * The write may be ended by SIGKILL, and Attach is no step that must finish: either the kernel takes back all that it had begun, since each of its waits
 * for monitors and OSDs ends with the process; or there is a device already, whose partitions it reads, and then the write goes on until that is done. The map
 * bears berth's name, so a repeat uses it and a detach takes it away, and till then the dying process has the volume's lock. Of the image nothing is
 * written here, so nothing of it can be torn. To wait instead would let OSDs that do not answer have a mounter for as long as they like.
 */
static int map_write(Mounter *m, const RbdMapLine *line, const char *secret, Error *err, int *ret_write)
{
        static const char *const add[] = { RBD_SYSFS "/add_single_major", RBD_SYSFS "/add", NULL };
        _cleanup_free_ char *text = NULL, *name = NULL;
        key_serial_t key = -1;

        int r = rbd_map_line(line, &text, err);
        if (r < 0)
                return r;
        if (asprintf(&name, "berth-%s", line->key) < 0) {
                name = NULL;
                return error_oom(err);
        }
        r = key_add(m, name, secret, &key, err);
        if (r < 0)
                return r;
        *ret_write = FAULT_ERROR("rbd.before-map");
        if (*ret_write >= 0)
                *ret_write = sysfs_write(add, text);
        FAULT_POINT("rbd.after-map");
        (void) keyctl_revoke(key);
        (void) keyctl_unlink(key, KEY_SPEC_PROCESS_KEYRING);
        FAULT_POINT("rbd.after-key");
        return 0;
}

/* What map options ask for: 1, 2, or 0 for either. */
static uint8_t wanted_protocol(char *const *defaults, char *const *options)
{
        uint8_t wanted = 0;

        STRV_FOREACH (o, defaults)
                if (strncmp(*o, "ms_mode=", 8) == 0)
                        wanted = strcmp(*o + 8, "legacy") == 0 ? 1 : 2;
        STRV_FOREACH (o, options)
                if (strncmp(*o, "ms_mode=", 8) == 0)
                        wanted = strcmp(*o + 8, "legacy") == 0 ? 1 : 2;
        return wanted;
}

int rbd_map(Mounter *m, const RbdImage *i, const char *volume_key, const char *secret, bool read_only, RbdDevice *ret, Error *err)
{
        const RbdSource *s = i->source;
        const Settings *settings = &m->settings;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        _cleanup_rbd_addresses_ RbdAddresses a = RBD_ADDRESSES_INIT;
        int written = 0;

        int r = rbd_monitors_answering(s, wanted_protocol(settings->rbd_map_options, s->map_options),
                                       settings->rbd_connect_timeout_usec, &a, err);
        if (r < 0)
                return r;
        RbdMapLine line = {
                .addresses = a.list, .ms_mode = a.protocol == 2 ? "prefer-crc" : NULL,
                .fsid = i->cluster->fsid, .user = s->user, .key = volume_key,
                .pool = s->pool, .space = s->space, .image = s->image, .snapshot = s->snapshot,
                .timeout_sec = (unsigned) ((settings->rbd_map_timeout_usec + 999999) / 1000000),
                .read_only = read_only || s->snapshot,
                .locks = i->features & RBD_FEATURE_EXCLUSIVE_LOCK,
                /*
                 * Without a lock, who wrote last is known by berth's note alone, also when it went in peace long ago: who fences it must hit
                 * nothing else.
                 */
                .alone = !read_only && !(i->features & RBD_FEATURE_EXCLUSIVE_LOCK) && strcmp(settings->rbd_fence, "never") != 0,
                .defaults = settings->rbd_map_options, .options = s->map_options,
        };
        r = map_write(m, &line, secret, err, &written);
        if (r >= 0 && written == -ESHUTDOWN && !line.alone) {
                /* the client that the maps of this node share was fenced, for one of them: a new one is not */
                line.alone = true;
                r = map_write(m, &line, secret, err, &written);
        }
        if (r >= 0 && written < 0)
                r = map_failed(i, &a, line.locks && !line.read_only, written, err);
        if (r < 0)
                return r;
        r = rbd_device_find(RBD_SYSFS, volume_key, &d);
        if (r <= 0)
                return error_set(err, ERROR_ATTACH_FAILED, r < 0 ? r : ENODEV, "The kernel has mapped %s, but sysfs does not show it", i->spec);
        r = node_wait(&d, err);
        if (r < 0)
                return r;
        *ret = d;
        d = RBD_DEVICE_INIT;
        return 0;
}

/* --- unmap, refresh --- */

static bool device_is_there(const RbdDevice *d)
{
        char path[64];

        snprintf(path, sizeof(path), RBD_SYSFS "/devices/%u", d->number);
        return access(path, F_OK) >= 0;
}

int rbd_unmap(const RbdDevice *d, Error *err)
{
        static const char *const drop[] = { RBD_SYSFS "/remove_single_major", RBD_SYSFS "/remove", NULL };
        char text[16];
        int r = 0;

        snprintf(text, sizeof(text), "%u", d->number);
        FAULT_POINT("rbd.before-unmap");
        /* udev looks at a device that was just closed */
        for (long waited = 0, pause = 5; waited <= EBUSY_WAIT_MSEC; waited += pause, pause = pause < EBUSY_PAUSE_MAX_MSEC ? pause * 2 : pause) {
                r = sysfs_write(drop, text);
                if (r != -EBUSY)
                        break;
                pause_msec(pause);
        }
        FAULT_POINT("rbd.after-unmap");
        if (r == -EBUSY) {
                _cleanup_free_ char *holders = err ? fs_holders(d->device_number) : NULL;
                return error_set(err, ERROR_BUSY, r, "/dev/rbd%u is in use by %s", d->number, str_or(holders, "somebody who is not seen"));
        }
        if (r < 0 && r != -ENOENT)
                return error_set(err, ERROR_DETACH_FAILED, r, "The kernel does not unmap /dev/rbd%u: %s", d->number, strerror(-r));
        return device_is_there(d) ? error_set(err, ERROR_DETACH_FAILED, EBUSY, "/dev/rbd%u is unmapped, but sysfs still shows it", d->number)
                                  : 0;
}

/* --- by force --- */

#define FORCE_WAIT_MSEC 12000
#define FORCE_KILLED_MSEC 6000

/* Requests that the device has not answered: reads and writes. */
static unsigned device_inflight(const RbdDevice *d)
{
        _cleanup_free_ char *text = NULL;
        unsigned reads = 0, writes = 0;
        char path[64];

        snprintf(path, sizeof(path), "/sys/block/rbd%u/inflight", d->number);
        if (read_file_at(AT_FDCWD, path, 256, &text, NULL) < 0 || sscanf(text, "%u %u", &reads, &writes) != 2)
                return 0;
        return reads + writes;
}

/* A process of its own: it may have to be left behind in the kernel. */
static void force_child(const char *text)
{
        static const char *const drop[] = { RBD_SYSFS "/remove_single_major", RBD_SYSFS "/remove", NULL };

        (void) setsid();
        (void) close_range(0, ~0U, 0);
        _exit(sysfs_write(drop, text) < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static bool force_wait(pid_t child, const RbdDevice *d, long msec)
{
        for (long waited = 0; waited < msec; waited += 20) {
                if (waitpid(child, NULL, WNOHANG) != 0 || !device_is_there(d))
                        return true;
                pause_msec(20);
        }
        return false;
}

int rbd_unmap_force(const RbdDevice *d, Error *err)
{
        unsigned n = device_inflight(d);
        char text[32];

        if (n > 0 && !d->times_out)
                return error_set(err, ERROR_DETACH_FAILED, EBUSY,
                                 "The kernel cannot drop /dev/rbd%u before %u requests are answered by the OSDs: it was mapped without "
                                 "osd_request_timeout. Bring the OSDs back, or reset this node", d->number, n);
        snprintf(text, sizeof(text), "%u force", d->number);
        FAULT_POINT("rbd.before-force");
        pid_t child = fork();
        if (child == 0)
                force_child(text);
        if (child < 0)
                return error_set(err, ERROR_DETACH_FAILED, errno, "Cannot start a process: %m");
        /* the lock and the watch are given back to OSDs that may never answer: that wait ends with the process */
        if (!force_wait(child, d, FORCE_WAIT_MSEC)) {
                (void) kill(child, SIGKILL);
                (void) force_wait(child, d, FORCE_KILLED_MSEC);
        }
        FAULT_POINT("rbd.after-force");
        if (!device_is_there(d))
                return 0;
        return error_set(err, ERROR_BUSY, EBUSY, "The kernel still waits for %u requests of /dev/rbd%u; it drops the device when they have failed",
                         device_inflight(d), d->number);
}

int rbd_refresh(const RbdDevice *d, Error *err)
{
        char path[64];

        snprintf(path, sizeof(path), RBD_SYSFS "/devices/%u/refresh", d->number);
        const char *const names[] = { path, NULL };
        FAULT_POINT("rbd.before-refresh");
        int r = sysfs_write(names, "1");
        FAULT_POINT("rbd.after-refresh");
        return r < 0 ? error_set(err, ERROR_GROW_FAILED, r, "The kernel does not refresh /dev/rbd%u: %s", d->number, strerror(-r)) : 0;
}
