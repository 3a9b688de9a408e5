/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The rbd mounter: volumes that are images of a Ceph cluster, mapped by the kernel's client or by rbd-nbd. Its process serves one call at a time and
 * may block; it keeps its connections to clusters for the next call.
 *
 * Invariants: an image is mapped once on a node, and for writing on one node; a map that an operator had made is used and left as it
 * is; what was begun or remembered about the content of an image is kept with the image, where the next node sees it. Detaching asks
 * the cluster nothing: the kubelet brings no key then.
 *
 * Options and keys are in rbd-source.c and rbd-keyring.c, the cluster in rbd-cluster.c and rbd-image.c, who else uses an image in rbd-use.c, maps
 * in rbd-maps.c: the kernel's in rbd-device.c, rbd-monitors.c and rbd-map.c, those of rbd-nbd in rbd-nbd*.c; file systems in block/.
 */

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "mounters/fs/mount.h"
#include "mounters/rbd-maps.h"
#include "mounters/rbd-use.h"
#include "protocol/messages.h"

static RbdClusters clusters;

/* --- a volume's image --- */

typedef struct Access {
        RbdSource source;
        char *key; /* a secret */
        RbdCluster *cluster;
        RbdImage image;
        RbdDevice device; /* that shows it, where it is handed on */
        char *noted; /* who wrote it last, as it was noted before it was mapped */
} Access;
#define ACCESS_INIT ((Access) {})

static void access_done(Access *a)
{
        rbd_image_done(&a->image);
        rbd_device_done(&a->device);
        free(a->noted);
        rbd_secret_free(a->key);
        rbd_source_done(&a->source);
        *a = ACCESS_INIT;
}
#define _cleanup_access_ _cleanup_(access_done)

/*
 * What Attach has opened, for the Stage of the same call (MounterVolume.attach): opening once more would be five round trips. Of an earlier call it
 * is never used, since an image that is not watched tells nothing of what happened to it since.
 */
static Access handed_on;

static void access_hand_on(Access *a, RbdDevice *d)
{
        access_done(&handed_on);
        handed_on = *a;
        *a = ACCESS_INIT;
        handed_on.device = *d;
        *d = RBD_DEVICE_INIT;
}

static bool access_take(Access *ret)
{
        if (!handed_on.image.image)
                return false;
        *ret = handed_on;
        ret->image.source = &ret->source;
        handed_on = ACCESS_INIT;
        return true;
}

/* The kubelet brings a key when it mounts, and not later: of a volume that is mapped through rbd-nbd the node has it still. */
static int access_key(Mounter *m, const MounterVolume *v, Access *a, Error *err)
{
        _cleanup_error_ Error e = ERROR_INIT;
        int r = rbd_source_key(&m->settings, &a->source, &v->secrets, &a->key, &e);

        if (r < 0 && e.code == ERROR_KEYRING_INVALID && v->key && nbd_place_secret(m, v->key, &a->key) > 0)
                return 0;
        if (r < 0)
                error_move(err, &e);
        return r;
}

/* Up to the connection. */
static int access_connect(Mounter *m, const MounterVolume *v, Access *a, Error *err)
{
        int r = rbd_source_read(&m->settings, &v->source, &a->source, err);

        if (r >= 0)
                r = access_key(m, v, a, err);
        return r < 0 ? r : rbd_cluster_get(&clusters, &m->settings, &a->source, a->key, &a->cluster, err);
}

/* A connection that was good may be dead, of a cluster that has been made anew: the next request makes a new one. */
static void access_judge(Access *a, const Error *err)
{
        if (a->cluster && (err->code == ERROR_MONITORS_UNREACHABLE || err->code == ERROR_OSDS_UNREACHABLE ||
                           err->code == ERROR_KEY_REFUSED || err->code == ERROR_CAPS_MISSING || err->error == ESHUTDOWN)) {
                rbd_image_done(&a->image);
                rbd_cluster_drop(&clusters, a->cluster);
                a->cluster = NULL;
        }
}

static char *access_identity(const Access *a)
{
        const RbdSource *s = &a->source;

        return rbd_identity(a->cluster->fsid, s->pool, s->space, s->image, s->snapshot);
}

typedef enum AccessHow {
        ACCESS_SEE,  /* the image is there */
        ACCESS_LOOK, /* and the user may read it, and write it if the volume is not read-only */
        ACCESS_OPEN, /* it is there, the user may read it, and a->image is it */
} AccessHow;

/* And to the image, which must be the volume's. */
static int access_reach(Mounter *m, const MounterVolume *v, AccessHow how, Access *a, Error *err)
{
        _cleanup_error_ Error e = ERROR_INIT;
        int r = access_connect(m, v, a, &e);

        if (r >= 0) {
                _cleanup_free_ char *identity = access_identity(a), *key = identity ? rbd_key(identity) : NULL;
                if (!key)
                        r = error_oom(&e);
                else if (v->key && strcmp(key, v->key) != 0)
                        r = error_set(&e, ERROR_DEVICE_CHANGED, ESTALE, "The monitors of volume %s lead to another cluster now, %s", v->key,
                                      a->cluster->fsid);
        }
        if (r >= 0 && how == ACCESS_OPEN)
                r = rbd_image_open(a->cluster, &a->source, &a->image, &e);
        else if (r >= 0)
                r = rbd_image_look(a->cluster, &a->source,
                                   how == ACCESS_SEE ? RBD_LOOK_NAME : v->read_only ? RBD_LOOK_READ : RBD_LOOK_WRITE, &e);
        if (r < 0) {
                access_judge(a, &e);
                error_move(err, &e);
        }
        return r;
}

static int access_open(Mounter *m, const MounterVolume *v, Access *a, Error *err)
{
        return access_reach(m, v, ACCESS_OPEN, a, err);
}

/* Before anything is asked of the cluster: librbd's own answer to a write would be a strange one. */
static int check_access_mode(const MounterVolume *v, const RbdSource *s, Error *err)
{
        if (s->snapshot && !v->read_only)
                return error_set(err, ERROR_SNAPSHOT_READ_ONLY, EROFS, "Snapshot %s of image %s/%s was asked for read-write", s->snapshot,
                                 s->pool, s->image);
        return 0;
}

static void warn_differences(const MounterVolume *v, const Access *a)
{
        const RbdSource *s = &a->source;

        if (s->image_format != 0 && s->image_format != 2)
                log_warning("Volume %s: image %s has format 2, option 'imageformat' says %u", v->key, a->image.spec, s->image_format);
        if (s->has_features && s->features != (a->image.features & ~(RBD_FEATURE_OPERATIONS | RBD_FEATURE_DATA_POOL))) {
                _cleanup_free_ char *has = rbd_feature_names(a->image.features), *wanted = rbd_feature_names(s->features);
                log_warning("Volume %s: image %s has the features %s, option 'imagefeatures' says %s", v->key, a->image.spec,
                            str_or(has, "?"), str_or(wanted, "?"));
        }
}

/* --- resolve --- */

/*
 * What is to be mapped is opened then, and the map finds out what the user may do. Of what is mapped already, who asks for it must have the rights too: nobody
 * gains another's by naming the same image. berthd, which has the volume's lock, knows which it is, and asks again in the second case.
 */
static int rbd_resolve(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_access_ Access a = ACCESS_INIT;
        int k = access_reach(m, v, v->early ? ACCESS_SEE : ACCESS_LOOK, &a, err);

        if (k >= 0)
                k = check_access_mode(v, &a.source, err);
        if (k < 0)
                return k;
        r->unproven = v->early;
        r->identity = access_identity(&a);
        r->key = r->identity ? rbd_key(r->identity) : NULL;
        if (asprintf(&r->group, "The Ceph cluster %s", a.cluster->fsid) < 0)
                r->group = NULL;
        return r->key && r->group ? 0 : error_oom(err);
}

/* --- attach and detach --- */

static int device_answer(const RbdDevice *d, MounterResult *r, Error *err)
{
        char path[32];

        rbd_maps_path(d, path, sizeof(path));
        if (str_replace(&r->device, path) < 0)
                return error_oom(err);
        r->device_number = d->device_number;
        r->foreign = !d->own;
        return 0;
}

/* All clients of this node, this process included; d: the map of the image, if there is one: of rbd-nbd's it learns the address here. */
static int own_addresses(Access *a, RbdDevice *d, char ***ret, Error *err)
{
        _cleanup_strv_ char **own = NULL;
        _cleanup_free_ char *self = rbd_cluster_address(a->cluster);
        int r = rbd_device_addresses(RBD_SYSFS, &own);

        if (r >= 0 && self)
                r = strv_append(&own, self);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot list the maps of this node: %s", strerror(-r));
        if (d && d->mapper == RBD_MAPPER_NBD) {
                r = rbd_use_own_server(&a->image, str_or(self, ""), &own, &d->address, err);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(own);
        return 0;
}

/* The same, for those who may be fenced: also whatever has died on this node came from one of its addresses. */
static int own_hosts(Access *a, char ***ret, Error *err)
{
        _cleanup_strv_ char **own = NULL;
        struct ifaddrs *list = NULL;
        int r = own_addresses(a, NULL, &own, err);

        if (r < 0)
                return r;
        r = getifaddrs(&list) < 0 ? -errno : 0;
        for (const struct ifaddrs *i = list; i && r >= 0; i = i->ifa_next) {
                char host[INET6_ADDRSTRLEN], address[INET6_ADDRSTRLEN + 8];
                int family = i->ifa_addr ? i->ifa_addr->sa_family : AF_UNSPEC;
                const void *bytes = family == AF_INET    ? (const void *) &((const struct sockaddr_in *) (const void *) i->ifa_addr)->sin_addr
                                    : family == AF_INET6 ? &((const struct sockaddr_in6 *) (const void *) i->ifa_addr)->sin6_addr
                                                         : NULL;
                if (!bytes || !inet_ntop(family, bytes, host, sizeof(host)))
                        continue;
                snprintf(address, sizeof(address), family == AF_INET6 ? "[%s]:0/0" : "%s:0/0", host);
                r = strv_append(&own, address);
        }
        freeifaddrs(list);
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot list the addresses of this node: %s", strerror(-r));
        *ret = TAKE_PTR(own);
        return 0;
}

/* Who writes it is noted with the image; of one with the exclusive lock client and cluster know by themselves. */
static bool has_note(const Access *a)
{
        return !(a->image.features & RBD_FEATURE_EXCLUSIVE_LOCK);
}

/* Another node may have looked at the same moment, and seen nobody either: then both give way. */
static int map_confirm(Mounter *m, Access *a, RbdDevice *d, Error *err)
{
        _cleanup_strv_ char **own = NULL;
        int r = own_addresses(a, d, &own, err);

        if (r >= 0)
                r = rbd_use_confirm(&a->image, own, err);
        if (r < 0 || !d->address || !has_note(a))
                return r;
        const RbdNoting n = { .device = d, .node = m->settings.node_name, .own = own, .before = a->noted };
        return rbd_use_note(&a->image, &n, err);
}

/*
 * The clients of this node's kernel count as its own, and each map has a page cache of its own, in which nobody sees what another writes. An image that was
 * renamed while it is mapped is another volume under its new name. device_number: of our map; 0: none yet.
 */
static int check_mapped_once(const RbdImage *i, dev_t device_number, Error *err)
{
        const RbdDevice d = { .fsid = i->cluster->fsid, .pool_id = i->pool_id, .image_id = (char *) i->id, .device_number = device_number };
        _cleanup_rbd_device_ RbdDevice other = RBD_DEVICE_INIT;
        int r = rbd_device_find_other(RBD_SYSFS, &d, &other);

        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot list the maps of this node: %s", strerror(-r));
        return r == 0 ? 0
                      : error_set(err, ERROR_IN_USE, EBUSY,
                                  "Image %s is mapped %s on this node and can be written there, as /dev/rbd%u (image %s/%s)", i->spec,
                                  device_number ? "a second time" : "already", other.number, other.pool, other.image);
}

/* Nobody else may have it open, and whoever had the lock cannot write any more. */
static int map_claim(Mounter *m, Access *a, Error *err)
{
        RbdFence fence = rbd_fence_from_string(m->settings.rbd_fence);
        _cleanup_strv_ char **own = NULL;

        if (fence < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "[RBD] Fence= of berthd.conf must be never, expired or force");
        int r = fence == RBD_FENCE_NEVER ? own_addresses(a, NULL, &own, err) : own_hosts(a, &own, err);
        return r < 0 ? r : rbd_use_claim(&a->image, fence, own, &a->noted, err);
}

static int map_image(Mounter *m, const MounterVolume *v, Access *a, RbdDevice *ret, Error *err)
{
        bool writes = !v->read_only && !a->source.snapshot;
        RbdMapper mapper;
        /* before its features, of which "non-primary" is one that no kernel has */
        int r = writes ? rbd_image_check_primary(&a->image, err) : 0;

        if (r >= 0)
                r = rbd_maps_choose(m, &a->image, !writes, &mapper, err);
        if (r >= 0 && writes)
                r = check_mapped_once(&a->image, 0, err);
        if (r >= 0 && writes)
                r = map_claim(m, a, err);
        if (r >= 0)
                r = rbd_maps_map(m, mapper, &a->image, v->key, a->key, !writes, ret, err);
        return r;
}

/*
 * A map of a mounter that died before it had noted it tells nothing about who has written since: what the kernel has read by it may be old, and nobody was
 * told of it. So it is made anew where another node is noted. An operator's stays.
 */
static int map_renew(Mounter *m, Access *a, RbdDevice *d, bool *found, Error *err)
{
        _cleanup_error_ Error e = ERROR_INIT;
        _cleanup_strv_ char **own = NULL;
        int r = own_hosts(a, &own, &e);

        if (r >= 0)
                r = rbd_use_noted(&a->image, own, &a->noted, &e);
        if (r < 0 && e.code == ERROR_IN_USE && !d->own)
                return 0;
        if (r < 0 && e.code == ERROR_IN_USE && rbd_maps_unmap(m, d, NULL) >= 0) {
                rbd_device_done(d);
                free(a->noted);
                a->noted = NULL;
                *found = false;
                return 0;
        }
        if (r < 0)
                error_move(err, &e);
        return r;
}

/* What is mapped already tells nothing about who asks for it now. */
static int found_check(Access *a, bool writes, Error *err)
{
        _cleanup_error_ Error e = ERROR_INIT;
        int r = rbd_image_check_rights(&a->image, writes, &e);

        if (r < 0) {
                access_judge(a, &e);
                error_move(err, &e);
        }
        return r;
}

/* A map that is there already may be of a mounter that died before it had looked again, or an operator's. */
static int rbd_attach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_access_ Access a = ACCESS_INIT;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int k = rbd_maps_find(m, v->key, &d);

        if (k < 0)
                return error_set(err, ERROR_ATTACH_FAILED, k, "Cannot list the maps of this node: %s", strerror(-k));
        if (k > 0 && d.read_only && !v->read_only)
                return error_set(err, ERROR_READ_ONLY_STAGE, EROFS, "The image is mapped read-only as /dev/%s%u",
                                 d.mapper == RBD_MAPPER_NBD ? "nbd" : "rbd", d.number);
        bool found = k > 0;
        access_done(&handed_on);
        if (found && d.mapper == RBD_MAPPER_NBD)
                k = rbd_nbd_revive(m, v->key, err);
        if (k >= 0)
                k = access_open(m, v, &a, err);
        if (k >= 0)
                k = check_access_mode(v, &a.source, err);
        if (k >= 0 && found)
                k = found_check(&a, !v->read_only, err);
        if (k >= 0 && found && !v->read_only && has_note(&a))
                k = map_renew(m, &a, &d, &found, err);
        if (k < 0)
                return k;
        if (!found) {
                warn_differences(v, &a);
                k = map_image(m, v, &a, &d, err);
                FAULT_POINT("rbd.mapped");
        }
        if (k >= 0 && !v->read_only) {
                /* two volumes, for an image that was renamed, may have looked at the same moment: then both give way */
                k = found ? 0 : check_mapped_once(&a.image, d.device_number, err);
                if (k >= 0)
                        k = map_confirm(m, &a, &d, err);
                FAULT_POINT("rbd.confirmed");
                if (k < 0 && d.own)
                        (void) rbd_maps_unmap(m, &d, NULL);
        }
        if (k >= 0)
                k = device_answer(&d, r, err);
        if (k >= 0 && v->attach)
                access_hand_on(&a, &d);
        return k;
}

/* --- by hand --- */

static int rbd_fence(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_access_ Access a = ACCESS_INIT;
        _cleanup_strv_ char **own = NULL;
        int k = strmap_get(&v->source, "snapshot") ? error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                                                "A snapshot has no holder; fence that of the image, without option 'snapshot'")
                                                    : access_open(m, v, &a, err);

        if (k >= 0)
                k = own_hosts(&a, &own, err);
        return k < 0 ? k : rbd_use_fence(&a.image, own, &r->holders, err);
}

/* First the device: afterwards nothing that is unmounted has anything to wait for. */
static int rbd_force_detach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        for (;;) {
                _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
                char path[32];
                int k = rbd_maps_find(m, v->key, &d);
                if (k < 0)
                        return error_set(err, ERROR_DETACH_FAILED, k, "Cannot list the maps of this node: %s", strerror(-k));
                /* an nbd device is seen until the last who has it open lets go, and is dead long before */
                if (k == 0 || !d.own || (r->device && d.mapper == RBD_MAPPER_NBD))
                        break;
                k = rbd_maps_unmap_force(m, &d, err);
                if (k < 0)
                        return k;
                rbd_maps_path(&d, path, sizeof(path));
                if (str_replace(&r->device, path) < 0)
                        return error_oom(err);
                log_event(LOG_WARNING, EVENT_FORCE_DETACHED, "Volume %s: %s (image %s/%s) was taken away by force; what was not written to "
                          "it is lost", v->key, path, d.pool, d.image);
        }
        if (v->staging_path && fs_unstage(m, v, r, NULL) < 0) {
                /* a process is in there, and sees errors only */
                if (umount2(v->staging_path, UMOUNT_NOFOLLOW | MNT_DETACH) < 0 && errno != EINVAL && errno != ENOENT)
                        return error_set(err, ERROR_UNMOUNT_FAILED, errno, "Cannot unmount %s: %m", v->staging_path);
                (void) rmdir(v->staging_path);
        }
        r->gone = true;
        return 0;
}

/* By key and not by number alone: the number may be another image's by now. */
static int rbd_detach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        for (;;) {
                _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
                int k = rbd_maps_find(m, v->key, &d);
                if (k < 0)
                        return error_set(err, ERROR_DETACH_FAILED, k, "Cannot list the maps of this node: %s", strerror(-k));
                if (k == 0 || !d.own)
                        break;
                k = rbd_maps_unmap(m, &d, err);
                if (k < 0)
                        return k;
        }
        /* without a device there may still be files and a unit of rbd-nbd, which has not begun or has failed */
        int k = rbd_nbd_unmap(m, v->key, NBD_END_UNUSED, err);
        if (k < 0)
                return k;
        r->gone = true;
        return 0;
}

/* --- the file system on it --- */

typedef struct RbdStorage {
        Mounter *mounter;
        Access access;
        const MounterVolume *volume;
        BlockStorage block;
} RbdStorage;

static void storage_done(RbdStorage *s)
{
        access_done(&s->access);
}

static int storage_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        RbdStorage *s = userdata;

        return rbd_image_extents(&s->access.image, size, found, arg, err);
}

static int storage_read(void *userdata, uint64_t offset, void *buffer, size_t size, Error *err)
{
        RbdStorage *s = userdata;

        return rbd_image_read(&s->access.image, offset, buffer, size, err);
}

/* The device is the image's and as large, and nobody else may write it. Nothing tells whether somebody did: hence no version. */
static int storage_verify(void *userdata, uint64_t size, char **ret_version, Error *err)
{
        RbdStorage *s = userdata;
        RbdImage *i = &s->access.image;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        _cleanup_strv_ char **own = NULL;
        int r = rbd_maps_find(s->mounter, s->volume->key, &d);

        if (r < 0 || (r > 0 && d.device_number != s->volume->device_number))
                r = 0;
        if (r == 0 || strcmp(d.image_id, i->id) != 0 || d.pool_id != i->pool_id)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE, "%s does not show image %s (%s) any more", s->volume->device, i->spec,
                                 i->id);
        r = check_mapped_once(i, d.device_number, err);
        if (r >= 0)
                r = rbd_image_check_size(i, size, err);
        if (r >= 0)
                r = own_addresses(&s->access, &d, &own, err);
        if (r >= 0)
                r = rbd_use_confirm(i, own, err);
        return r >= 0 && has_note(&s->access) ? rbd_use_noted(i, own, NULL, err) : r;
}

static int storage_keep_read(void *userdata, const char *what, char **ret, Error *err)
{
        RbdStorage *s = userdata;

        return rbd_image_keep_read(&s->access.image, what, ret, err);
}

static int storage_keep_write(void *userdata, const char *what, const char *text, Error *err)
{
        RbdStorage *s = userdata;

        return rbd_image_keep_write(&s->access.image, what, text, err);
}

static int storage_keep_remove(void *userdata, const char *what, Error *err)
{
        RbdStorage *s = userdata;

        return rbd_image_keep_remove(&s->access.image, what, err);
}

static const BlockKeeper keeper = {
        .read = storage_keep_read,
        .write = storage_keep_write,
        .remove = storage_keep_remove,
};

static int storage_open(Mounter *m, const MounterVolume *v, RbdStorage *s, Error *err)
{
        int r = s->access.image.image ? 0 : access_open(m, v, &s->access, err);

        if (r < 0)
                return r;
        s->mounter = m;
        s->volume = v;
        s->block = (BlockStorage) {
                .extents = storage_extents,
                /* who has the exclusive lock asks for no object that the object map does not know, and shows zeros for it */
                .read = s->access.image.features & RBD_FEATURE_OBJECT_MAP ? storage_read : NULL,
                .verify = storage_verify,
                .keeper = &keeper,
                .userdata = s,
                .lasting_id = s->access.image.lasting_id,
        };
        return 0;
}

/* A map for reading only has no watch, so it does not hear that its image has grown, and the file system in it would end behind its device. */
static void map_follow_size(const RbdDevice *d, const RbdImage *i)
{
        uint64_t size = 0;

        if (d->read_only && !d->snapshot && rbd_maps_size(d, &size) >= 0 && size < i->size)
                (void) rbd_maps_refresh(d); /* if it fails, mounting tells */
}

/* The image and the device that is to show it; an image may have been removed and another made under its name. */
static int storage_prepare(Mounter *m, const MounterVolume *v, RbdStorage *s, Error *err)
{
        RbdDevice *d = &s->access.device;

        if (!v->device || !*v->device)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The request names no device");
        bool handed = v->attach && access_take(&s->access);
        if ((!handed && rbd_maps_find(m, v->key, d) <= 0) || d->device_number != v->device_number)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE, "%s does not show volume %s any more", v->device, v->key);
        int r = storage_open(m, v, s, err);
        if (r >= 0 && strcmp(d->image_id, s->access.image.id) != 0)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE, "%s shows an image %s that is not the present one (%s is %s)", v->device,
                                 d->image_id, s->access.image.spec, s->access.image.id);
        if (r >= 0)
                map_follow_size(d, &s->access.image);
        return r;
}

static void refusal_explain(const MounterVolume *v, const RbdStorage *s, int r, Error *err)
{
        if (r >= 0 || !err)
                return;
        if (err->code == ERROR_WAS_FORMATTED)
                error_prefix(err, "Volume %s", v->key);
        else if (err->code == ERROR_NOT_BLANK)
                error_prefix(err, "Image %s", str_or(s->access.image.spec, "?"));
}

static int rbd_stage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_(storage_done) RbdStorage s = {};
        int k = storage_prepare(m, v, &s, err);

        if (k >= 0)
                k = block_stage(m, v, &s.block, r, err);
        refusal_explain(v, &s, k, err);
        access_done(&handed_on);
        return k;
}

static int rbd_format(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_(storage_done) RbdStorage s = {};
        int k = storage_prepare(m, v, &s, err);

        if (k >= 0)
                k = block_format(m, v, &s.block, r, err);
        refusal_explain(v, &s, k, err);
        return k;
}

/* --- expand, check, forget, scan --- */

/* The kubelet brings no key here: without one in a keyring of the node an image is not grown, but what has grown is taken over. */
static int expand_image(Mounter *m, const MounterVolume *v, const RbdDevice *d, Error *err)
{
        _cleanup_access_ Access a = ACCESS_INIT;
        _cleanup_error_ Error e = ERROR_INIT;
        uint64_t now = 0;
        int r = access_open(m, v, &a, &e);

        if (r < 0) {
                if ((e.code == ERROR_KEYRING_INVALID && rbd_maps_refresh(d) >= 0 && rbd_maps_size(d, &now) >= 0 && now >= v->size))
                        return 0;
                error_move(err, &e);
                return r;
        }
        if (v->size > 0)
                r = rbd_image_grow(&a.image, v->size, err);
        return r < 0 ? r : rbd_maps_wait_size(d, a.image.size, err);
}

static int rbd_expand(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int k = rbd_maps_find(m, v->key, &d);

        if (k <= 0)
                return error_set(err, ERROR_GROW_FAILED, ENODEV, "Volume %s is not attached", v->key);
        if (v->size > INT64_MAX - UINT64_C(4096))
                return error_set(err, ERROR_INVALID_ARGUMENT, EFBIG, "Size %" PRIu64 " is too large", v->size);
        k = expand_image(m, v, &d, err);
        return k < 0 ? k : block_grow(m, v, r, err);
}

static int rbd_check(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int k = v->key ? rbd_maps_find(m, v->key, &d) : 0;

        if (k < 0)
                return error_set(err, ERROR_DEVICE_ERROR, k, "Cannot list the maps of this node: %s", strerror(-k));
        r->attached = k > 0;
        /* before its file system is asked, which would wait for it */
        if (k > 0 && d.mapper == RBD_MAPPER_NBD && d.own && !rbd_nbd_is_served(m, v->key, &r->reason)) {
                r->staged = true;
                r->healthy = false;
                return 0;
        }
        return fs_check(m, v, r, err);
}

static int rbd_forget(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_(storage_done) RbdStorage s = {};

        if (v->source.n_entries == 0)
                return error_set(err, ERROR_NOT_FOUND, ENOENT,
                                 "What is remembered of an image is kept with it, and this node does not know volume %s (any more); on any "
                                 "node: rbd image-meta rm POOL/IMAGE berth.volumes",
                                 str_or(v->key, "?"));
        int k = storage_open(m, v, &s, err);
        return k < 0 ? k : block_forget(m, &s.block, err);
}

typedef struct Scan {
        MounterResult *result;
} Scan;

static int scan_visit(RbdDevice *d, void *userdata)
{
        MounterResult *r = ((Scan *) userdata)->result;
        MounterDevice *grown = reallocarray(r->devices, r->n_devices + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        r->devices = grown;
        grown[r->n_devices] = (MounterDevice) { .device_number = d->device_number, .foreign = !d->own, .read_only = d->read_only };
        MounterDevice *md = &grown[r->n_devices++];
        md->key = TAKE_PTR(d->key);
        md->identity = TAKE_PTR(d->identity);
        char path[32];
        rbd_maps_path(d, path, sizeof(path));
        md->device = strdup(path);
        if (!md->device)
                return -ENOMEM;
        if (asprintf(&md->image, "%s%s%s/%s%s%s", d->pool, *d->space ? "/" : "", d->space, d->image, d->snapshot ? "@" : "",
                     d->snapshot ? d->snapshot : "") < 0)
                md->image = NULL;
        return 0;
}

static int rbd_scan(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        Scan scan = { r };
        int k = rbd_maps_each(m, scan_visit, &scan);

        return k < 0 ? error_set(err, ERROR_DEVICE_ERROR, k, "Cannot list the maps of this node: %s", strerror(-k)) : 0;
}

static const MounterOps rbd_ops = {
        .kind = "rbd",
        .resolve = rbd_resolve,
        .attach = rbd_attach,
        .stage = rbd_stage,
        .format = rbd_format,
        .fsck = block_fsck,
        .detach = rbd_detach,
        .force_detach = rbd_force_detach,
        .fence = rbd_fence,
        .expand = rbd_expand,
        .check = rbd_check,
        .forget = rbd_forget,
        .scan = rbd_scan,
};

int main(int argc, char **argv)
{
        /* a connection holds a key for as long as it lasts: no core of this process is ever written */
        (void) prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
        int r = mounter_serve(&rbd_ops, argc, argv);
        rbd_clusters_done(&clusters);
        return r;
}
