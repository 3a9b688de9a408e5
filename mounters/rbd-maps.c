/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Both ways of mapping, as one. Runs in the rbd mounter. */

#include "mounters/rbd-maps.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "mounters/nbd-device.h"
#include "mounters/rbd-map.h"

#define SIZE_WAIT_MSEC 10000

int rbd_maps_each(Mounter *m, int (*f)(RbdDevice *d, void *userdata), void *userdata)
{
        int r = rbd_device_each(RBD_SYSFS, f, userdata);

        return r != 0 ? r : rbd_nbd_each(NBD_SYSFS, m->runtime_fd, f, userdata);
}

int rbd_maps_find(Mounter *m, const char *volume_key, RbdDevice *ret)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int r = rbd_device_find(RBD_SYSFS, volume_key, &d);

        /* berth's own before one that an operator has made: that is the one whose end is berth's to see to */
        if (r < 0)
                return r;
        if (r == 0 || !d.own) {
                RbdDevice n = RBD_DEVICE_INIT;
                int k = rbd_nbd_find(NBD_SYSFS, m->runtime_fd, volume_key, &n);
                if (k < 0)
                        return k;
                if (k > 0) {
                        *ret = n;
                        return 1;
                }
        }
        if (r > 0) {
                *ret = d;
                d = RBD_DEVICE_INIT;
        }
        return r;
}

void rbd_maps_path(const RbdDevice *d, char *buffer, size_t size)
{
        snprintf(buffer, size, "/dev/%s%u", d->mapper == RBD_MAPPER_NBD ? "nbd" : "rbd", d->number);
}

/* --- map, unmap --- */

int rbd_maps_choose(Mounter *m, const RbdImage *i, bool read_only, RbdMapper *ret, Error *err)
{
        _cleanup_error_ Error e = ERROR_INIT;
        _cleanup_free_ char *program = NULL;
        RbdMapper asked = i->source->mapper;

        if (asked == RBD_MAPPER_NBD) {
                int r = rbd_nbd_program(&program, err);
                if (r >= 0)
                        *ret = RBD_MAPPER_NBD;
                return r;
        }
        int r = rbd_kernel_load(m, &e);
        if (r >= 0)
                r = rbd_kernel_check_features(i, read_only, &e);
        if (r >= 0) {
                *ret = RBD_MAPPER_KRBD;
                return 0;
        }
        if (asked == RBD_MAPPER_KRBD || (e.code != ERROR_FEATURES_UNSUPPORTED && e.code != ERROR_KERNEL_UNSUPPORTED)) {
                error_move(err, &e);
                return r;
        }
        if (rbd_nbd_program(&program, NULL) < 0)
                return error_set(err, ERROR_RBD_NBD_MISSING, ENOENT, "%s, and rbd-nbd, which could map it, is not installed", e.text);
        log_info("Image %s is mapped by rbd-nbd: %s", i->spec, e.text);
        *ret = RBD_MAPPER_NBD;
        return 0;
}

/* Options of the kernel's client that rbd-nbd knows in no form: told, since the volume works without. */
static void warn_options(const RbdImage *i)
{
        static const char *const ignored[] = { "alloc_size", "queue_depth", "lock_on_read", "notrim", "abort_on_full", "noshare" };

        STRV_FOREACH (o, i->source->map_options)
                for (size_t k = 0; k < ELEMENTSOF(ignored); k++)
                        if (strncmp(*o, ignored[k], strlen(ignored[k])) == 0)
                                log_warning("Image %s is mapped by rbd-nbd, which does not know the map option %s", i->spec, ignored[k]);
}

int rbd_maps_map(Mounter *m, RbdMapper mapper, const RbdImage *i, const char *volume_key, const char *secret, bool read_only, RbdDevice *ret,
                 Error *err)
{
        if (mapper != RBD_MAPPER_NBD)
                return rbd_map(m, i, volume_key, secret, read_only, ret, err);

        const NbdPlacePlan p = {
                .image = i,
                .volume_key = volume_key,
                .secret = secret,
                .read_only = read_only || i->source->snapshot,
                .exclusive = !read_only && (i->features & RBD_FEATURE_EXCLUSIVE_LOCK) &&
                             (strv_contains(m->settings.rbd_map_options, "exclusive")),
        };
        warn_options(i);
        return rbd_nbd_map(m, &p, ret, err);
}

int rbd_maps_unmap(Mounter *m, const RbdDevice *d, Error *err)
{
        return d->mapper == RBD_MAPPER_NBD ? rbd_nbd_unmap(m, d->key, NBD_END_UNUSED, err) : rbd_unmap(d, err);
}

int rbd_maps_unmap_force(Mounter *m, const RbdDevice *d, Error *err)
{
        return d->mapper == RBD_MAPPER_NBD ? rbd_nbd_unmap(m, d->key, NBD_END_FORCE, err) : rbd_unmap_force(d, err);
}

/* --- size --- */

int rbd_maps_size(const RbdDevice *d, uint64_t *ret)
{
        _cleanup_free_ char *text = NULL;
        char path[64];

        snprintf(path, sizeof(path), "/sys/block/%s%u/size", d->mapper == RBD_MAPPER_NBD ? "nbd" : "rbd", d->number);
        int r = read_file_at(AT_FDCWD, path, 64, &text, NULL);
        if (r >= 0)
                *ret = strtoull(text, NULL, 10) * 512;
        return r;
}

int rbd_maps_refresh(const RbdDevice *d)
{
        return d->mapper == RBD_MAPPER_NBD ? -EOPNOTSUPP : rbd_refresh(d, NULL);
}

/* rbd-nbd before Ceph 17 wants to tell the kernel and leaves the cookie out, which the kernel refuses: so it is told here. */
static int size_tell(const RbdDevice *d, uint64_t size, Error *err)
{
        char cookie[128];

        if (d->mapper != RBD_MAPPER_NBD)
                return rbd_refresh(d, err);
        if (!d->own)
                return 0;
        snprintf(cookie, sizeof(cookie), NBD_COOKIE_PREFIX "%s", d->key);
        int r = nbd_resize(d->number, cookie, size);
        return r < 0 ? error_set(err, ERROR_GROW_FAILED, r, "The kernel does not resize /dev/nbd%u: %s", d->number, strerror(-r)) : 0;
}

int rbd_maps_wait_size(const RbdDevice *d, uint64_t size, Error *err)
{
        const struct timespec pause = { .tv_nsec = 10 * 1000000 };
        char path[32];
        uint64_t now = 0;
        /* it hears of it by its watch, some time, and of one for reading only never */
        int k = d->mapper == RBD_MAPPER_KRBD ? rbd_refresh(d, err) : 0;

        if (k < 0)
                return k;
        for (unsigned waited = 0; waited < SIZE_WAIT_MSEC; waited += 10) {
                if (rbd_maps_size(d, &now) >= 0 && now >= size)
                        return 0;
                if (waited % 500 == 0) {
                        int r = size_tell(d, size, err);
                        if (r < 0)
                                return r;
                }
                (void) nanosleep(&pause, NULL);
        }
        rbd_maps_path(d, path, sizeof(path));
        return error_set(err, ERROR_GROW_FAILED, ETIMEDOUT, "%s has %" PRIu64 " bytes although its image has %" PRIu64, path, now, size);
}
