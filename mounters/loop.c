/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The loop mounter: volumes in image files on the node. Its process serves one call at a time and may block.
 *
 * Invariants: a volume is an inode, whatever path leads to it, and an inode has one device at most. A device that an
 * operator had set up is used and left as it is. What the methods mean is said in io.berth.Mounter1.xml;
 * images are in loop-image.c, devices in loop-device.c, file systems in block/.
 */

#include <fcntl.h>
#include <signal.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#include "base/fd.h"
#include "base/log.h"
#include "mounters/block/block.h"
#include "mounters/fs/mount.h"
#include "mounters/loop-device.h"
#include "mounters/loop-find.h"
#include "mounters/loop-scan.h"
#include "mounters/loop-image.h"

static LoopTable *table;

static int volume_inode(const MounterVolume *v, dev_t *ret_device, uint64_t *ret_inode, Error *err)
{
        if (!v->key || image_parse_key(v->key, ret_device, ret_inode) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%s' is not the key of a loop volume",
                                 str_or(v->key, ""));
        return 0;
}

/* The volume's device: the one that is named, if it still is the one; otherwise all are looked through. 1, 0 or error. */
static int volume_find_device(const MounterVolume *v, LoopDevice *ret, Error *err)
{
        dev_t device;
        uint64_t inode;
        int r = volume_inode(v, &device, &inode, err);

        if (r >= 0 && v->device && *v->device)
                r = loop_open(v->device, device, inode, ret, err);
        if (r != 0)
                return r;
        return loop_find(table, device, inode, NULL, ret, err);
}

/* --- resolve and create --- */

static int loop_resolve(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_error_ Error e = ERROR_INIT;
        ImageOptions o;
        int k = image_options_read(&v->source, &o, err);
        if (k < 0)
                return k;

        k = image_open(m, &o, &image, &e);
        if (k >= 0) {
                r->identity = image_identity(&image);
                r->key = image_key(&image);
                return r->identity && r->key ? 0 : error_oom(err);
        }
        if (e.code != ERROR_IMAGE_NOT_FOUND || o.size == 0 || v->read_only) {
                error_move(err, &e);
                return k;
        }
        r->create = true;
        return image_creation_key(m, &o, &r->key, err);
}

static int loop_create(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_error_ Error e = ERROR_INIT;
        ImageOptions o;
        int k = image_options_read(&v->source, &o, err);
        if (k < 0)
                return k;

        k = image_open(m, &o, &image, &e);
        if (k >= 0)
                return 0;
        if (e.code == ERROR_IMAGE_NOT_FOUND && o.size > 0 && !v->read_only)
                return image_create(m, &o, v->fs_type, err);
        error_move(err, &e);
        return k;
}

/* --- attach and detach --- */

static int device_answer(const LoopDevice *d, bool foreign, MounterResult *r, Error *err)
{
        if (asprintf(&r->device, "/dev/loop%u", d->number) < 0) {
                r->device = NULL;
                return error_oom(err);
        }
        r->device_number = d->device_number;
        r->foreign = foreign;
        return 0;
}

/* A device that is there already, ours from an earlier request or an operator's. */
static int device_adopt(LoopDevice *d, const MounterVolume *v, MounterResult *r, Error *err)
{
        bool own = loop_device_is_own(d, v->key);

        if (d->info.lo_offset != 0 || d->info.lo_sizelimit != 0)
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "The image is attached as /dev/loop%u, but only in part", d->number);
        if ((d->info.lo_flags & LO_FLAGS_READ_ONLY) && !v->read_only)
                return error_set(err, ERROR_READ_ONLY_STAGE, EROFS,
                                 "The image is attached read-only as /dev/loop%u", d->number);
        if (own) {
                int k = loop_clear_autoclear(d, err);
                if (k < 0)
                        return k;
        }
        return device_answer(d, !own, r, err);
}

static int device_bind(Mounter *m, const MounterVolume *v, const Image *image, LoopDevice *ret, Error *err)
{
        return loop_bind(image, v->key,
                         (v->read_only ? LOOP_READ_ONLY : 0) |
                                         (m->settings.loop_direct_io ? LOOP_DIRECT_IO : 0),
                         ret, err);
}

/*
 * Somebody has the image open, or its file system knows no leases. The kernel does not see to it that an inode has one device only,
 * and an operator does not know of our locks: so what was bound meanwhile is looked for afterwards, and then ours gives way.
 */
static int device_bind_contended(Mounter *m, const MounterVolume *v, const Image *image, LoopDevice *ret,
                                 Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT, seen = LOOP_DEVICE_INIT;
        _cleanup_error_ Error e = ERROR_INIT;
        int k = device_bind(m, v, image, &d, err);
        if (k < 0)
                return k;
        k = loop_find(table, image->device, image->inode, image, &seen, &e);
        if (k == 1 && seen.number == d.number) {
                *ret = d;
                d = LOOP_DEVICE_INIT;
                return 0;
        }
        if (k >= 0)
                error_set(&e, ERROR_IN_USE, EBUSY, "The image was attached by somebody else at the same time");
        loop_device_done(&seen);
        (void) loop_unbind(&d, NULL);
        k = error_errno(&e);
        error_move(err, &e);
        return k;
}

/*
 * Opens the image for binding. One that is claimed by nobody who lives was left by a mounter that was killed between binding and
 * giving up its claim: its device, which cannot have been used yet, is let go, and the claim with it.
 */
static int image_open_to_bind(Mounter *m, const MounterVolume *v, Image *ret, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        _cleanup_error_ Error e = ERROR_INIT;
        int flags = v->read_only ? O_RDONLY : O_RDWR, k = image_open_volume(m, v, flags, ret, &e);

        if (k >= 0)
                return k;
        if (e.code != ERROR_BUSY || volume_find_device(v, &d, NULL) <= 0 || !loop_device_is_own(&d, v->key) ||
            loop_unbind(&d, NULL) < 0) {
                error_move(err, &e);
                return k;
        }
        return image_open_volume(m, v, flags, ret, err);
}

static int loop_attach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int k = image_open_to_bind(m, v, &image, err);
        if (k < 0)
                return k;

        /* Ours of an earlier call, as when a Format stood between: nobody else's device has to be looked at, which may not answer. */
        if (v->device && *v->device && loop_open(v->device, image.device, image.inode, &d, NULL) > 0) {
                if (loop_device_is_own(&d, v->key))
                        return device_adopt(&d, v, r, err);
                loop_device_done(&d);
        }
        /* The road of every day: nobody has the image open, so it has no device, and none has to be looked for. */
        if (image_claim(&image) >= 0) {
                k = device_bind(m, v, &image, &d, err);
                image_unclaim(&image);
                return k < 0 ? k : device_answer(&d, false, r, err);
        }
        k = loop_find(table, image.device, image.inode, &image, &d, err);
        if (k < 0)
                return k;
        if (k > 0)
                return device_adopt(&d, v, r, err);
        k = device_bind_contended(m, v, &image, &d, err);
        return k < 0 ? k : device_answer(&d, false, r, err);
}

static int loop_detach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int k = volume_find_device(v, &d, err);
        if (k < 0)
                return k;

        if (k > 0 && loop_device_is_own(&d, v->key)) {
                k = loop_unbind(&d, err);
                if (k < 0)
                        return k;
        }
        r->gone = true;
        return 0;
}

/* --- the file system on it --- */

typedef struct LoopStorage {
        Image image;
        const MounterVolume *volume;
        char *lasting_id;
        BlockStorage block;
} LoopStorage;

static void loop_storage_done(LoopStorage *s)
{
        image_done(&s->image);
        free(s->lasting_id);
}
#define _cleanup_loop_storage_ _cleanup_(loop_storage_done)

/* Where SEEK_DATA is known to tell the truth; preallocated extents are holes to it, rightly: they read as zeros. */
static bool extents_are_reliable(int fd)
{
        struct statfs sf;

        if (fstatfs(fd, &sf) < 0)
                return false;
        switch ((unsigned long) sf.f_type) {
        case EXT4_SUPER_MAGIC:
        case XFS_SUPER_MAGIC:
        case BTRFS_SUPER_MAGIC:
        case TMPFS_MAGIC:
                return true;
        default:
                return false;
        }
}

/*
 * A loop device keeps the size that its file had: one that has grown since holds more than is examined, and will be grown into; of one that has
 * shrunk the rest is lost, and no proof.
 */
static int storage_check_size(const LoopStorage *s, uint64_t device_size, Error *err)
{
        struct stat st;

        if (fstat(s->image.fd, &st) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot look at the image: %m");
        return block_check_size("The image", (uint64_t) st.st_size, device_size, err);
}

/* What was written to the device or the file and is not on the disk yet has no extent: it is brought there first. */
static int storage_flush(const LoopStorage *s, Error *err)
{
        _cleanup_close_ int device_fd = open(s->volume->device, O_RDONLY | O_CLOEXEC);

        if (device_fd < 0 || fsync(device_fd) < 0 || fsync(s->image.fd) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot flush %s and its image: %m",
                                 s->volume->device);
        return 0;
}

static int storage_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        const LoopStorage *s = userdata;
        off_t at = 0;

        if (!extents_are_reliable(s->image.fd))
                return -EOPNOTSUPP;
        int r = storage_check_size(s, size, err);
        if (r >= 0)
                r = storage_flush(s, err);
        if (r < 0)
                return r;

        for (;;) {
                off_t data = lseek(s->image.fd, at, SEEK_DATA);
                if (data < 0 && errno == ENXIO)
                        return 0; /* no more data up to the end */
                off_t end = data < 0 ? -1 : lseek(s->image.fd, data, SEEK_HOLE);
                if (end < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, errno,
                                         "Cannot find the extents of the image: %m");
                BlockExtent e = { .offset = (uint64_t) data, .size = (uint64_t) (end - data) };
                r = found(&e, arg);
                if (r < 0)
                        return r;
                at = end;
        }
}

static int storage_verify(void *userdata, uint64_t size, char **ret_version, Error *err)
{
        const LoopStorage *s = userdata;
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        struct statx sx;
        int r = loop_open(s->volume->device, s->image.device, s->image.inode, &d, err);

        if (r == 0)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE,
                                 "%s does not show image inode %" PRIu64 " any more", s->volume->device,
                                 s->image.inode);
        if (r > 0)
                r = storage_flush(s, err);
        if (r >= 0)
                r = storage_check_size(s, size, err);
        if (r < 0)
                return r;
        if (statx(s->image.fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &sx) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot look at the image: %m");
        if (asprintf(ret_version, "c%lld.%09u m%lld.%09u b%lld.%09u s%llu", (long long) sx.stx_ctime.tv_sec,
                     sx.stx_ctime.tv_nsec, (long long) sx.stx_mtime.tv_sec, sx.stx_mtime.tv_nsec,
                     (long long) sx.stx_btime.tv_sec, sx.stx_btime.tv_nsec,
                     (unsigned long long) sx.stx_size) < 0)
                return error_oom(err);
        return 0;
}

static int loop_storage_init(LoopStorage *s, Mounter *m, const MounterVolume *v, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int r = image_open_volume(m, v, O_RDONLY, &s->image, err);
        if (r < 0)
                return r;
        if (!v->device || !*v->device)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The request names no device");

        /* Its number may have gone to another image since berthd recorded it: then that one's data would be mounted for ours. */
        r = loop_open(v->device, s->image.device, s->image.inode, &d, err);
        if (r <= 0)
                return r < 0 ? r
                             : error_set(err, ERROR_DEVICE_CHANGED, ESTALE,
                                         "%s does not show image inode %" PRIu64 " any more", v->device,
                                         s->image.inode);

        s->volume = v;
        s->lasting_id = image_lasting_id(&s->image);
        if (!s->lasting_id)
                return error_oom(err);
        s->block = (BlockStorage) {
                .extents = storage_extents,
                .verify = storage_verify,
                .userdata = s,
                .lasting_id = s->lasting_id,
        };
        return 0;
}

/* The remedy takes the volume's key, which nothing else may tell any more. */
static void refusal_explain(const MounterVolume *v, int r, Error *err)
{
        if (r < 0 && err && err->code == ERROR_WAS_FORMATTED)
                error_prefix(err, "Volume %s", v->key);
}

/* A sparse image on a full file system gives I/O errors to its pod: said before that happens, and as the reason afterwards. */
static int shortage_explain(const LoopStorage *s, int r, Error *err)
{
        _cleanup_free_ char *shortage = s->volume->read_only ? NULL : image_shortage(&s->image);

        if (!shortage)
                return r;
        if (r >= 0) {
                log_warning("Volume %s: %s", s->volume->key, shortage);
        } else if (err->code == ERROR_MOUNT_FAILED || err->code == ERROR_FORMAT_FAILED ||
                   err->code == ERROR_DEVICE_ERROR) {
                _cleanup_free_ char *text = TAKE_PTR(err->text);
                r = error_set(err, err->code, error_errno(err), "%s; %s", str_or(text, "It failed"), shortage);
        }
        return r;
}

static int loop_stage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_loop_storage_ LoopStorage s = { .image = IMAGE_INIT };
        int k = loop_storage_init(&s, m, v, err);
        if (k < 0)
                return k;

        k = block_stage(m, v, &s.block, r, err);
        refusal_explain(v, k, err);
        return r->next ? k : shortage_explain(&s, k, err);
}

static int loop_format(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_loop_storage_ LoopStorage s = { .image = IMAGE_INIT };
        int k = loop_storage_init(&s, m, v, err);
        if (k < 0)
                return k;

        k = block_format(m, v, &s.block, r, err);
        refusal_explain(v, k, err);
        return k < 0 ? shortage_explain(&s, k, err) : k;
}

/* The operator names a volume by its key alone: what berthd does not know any more comes without a source. */
static int loop_forget(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_free_ char *name = NULL;
        int k;

        if (v->source.n_entries == 0) {
                k = volume_inode(v, &image.device, &image.inode, err);
                if (k < 0)
                        return k;
                name = image_identity(&image);
                return name ? block_forget_identity(m, name, err) : error_oom(err);
        }
        k = image_open_volume(m, v, O_RDONLY, &image, err);
        if (k < 0)
                return k;
        name = image_lasting_id(&image);
        return name ? block_forget(m, &(BlockStorage) { .lasting_id = name }, err) : error_oom(err);
}

/* --- expand, stats, check --- */

static int loop_expand(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        ImageOptions o;
        uint64_t size = 0;
        int k = image_options_read(&v->source, &o, err);
        if (k >= 0)
                k = image_open_volume(m, v, v->size > 0 ? O_RDWR : O_RDONLY, &image, err);
        if (k < 0)
                return k;

        if (v->size > INT64_MAX - UINT64_C(4096))
                return error_set(err, ERROR_INVALID_ARGUMENT, EFBIG, "Size %" PRIu64 " is too large", v->size);
        if (v->size > 0 && v->size < image.size)
                return error_set(err, ERROR_SHRINK, EINVAL,
                                 "Image %s has %" PRIu64 " bytes, %" PRIu64 " would be smaller", o.path,
                                 image.size, v->size);
        if (v->size > image.size) {
                k = image_grow(&image, &o, v->size, err);
                if (k < 0)
                        return k;
        }
        k = volume_find_device(v, &d, err);
        if (k == 0)
                return error_set(err, ERROR_GROW_FAILED, ENODEV, "Image %s is not attached", o.path);
        if (k > 0)
                k = loop_refresh_size(&d, &size, err);
        if (k >= 0)
                k = block_grow(m, v, r, err);
        if (k >= 0)
                r->size = size;
        return k;
}

/* Without a path to the image nothing can be said: then nothing is. */
static char *volume_shortage(Mounter *m, const MounterVolume *v)
{
        _cleanup_image_ Image image = IMAGE_INIT;

        if (v->read_only || image_open_volume(m, v, O_RDONLY, &image, NULL) < 0)
                return NULL;
        return image_shortage(&image);
}

static int loop_stats(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        int k = fs_stats(m, v, r, err);

        if (k >= 0 && r->healthy) {
                r->reason = volume_shortage(m, v);
                r->healthy = !r->reason;
        }
        return k;
}

static int loop_check(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_loop_device_ LoopDevice d = LOOP_DEVICE_INIT;
        int k = v->key ? volume_find_device(v, &d, err) : 0;
        if (k < 0)
                return k;

        r->attached = k > 0;
        k = fs_check(m, v, r, err);
        /* a warning, not an illness: the mount works, and berthd must not take it away */
        if (k >= 0 && r->healthy && r->staged)
                r->reason = volume_shortage(m, v);
        return k;
}

static int loop_scan(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        return loop_scan_devices(m, table, r, err);
}

static const MounterOps loop_ops = {
        .kind = "loop",
        .resolve = loop_resolve,
        .create = loop_create,
        .attach = loop_attach,
        .stage = loop_stage,
        .format = loop_format,
        .fsck = block_fsck,
        .detach = loop_detach,
        .expand = loop_expand,
        .stats = loop_stats,
        .check = loop_check,
        .forget = loop_forget,
        .scan = loop_scan,
};

int main(int argc, char **argv)
{
        table = loop_table_new();
        if (!table)
                return EXIT_FAILURE;
        /* what the kernel sends the holder of a lease that somebody wants to break; by default it kills */
        (void) signal(SIGIO, SIG_IGN);

        int r = mounter_serve(&loop_ops, argc, argv);
        loop_table_free(table);
        return r;
}
