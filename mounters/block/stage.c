/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Staging a block volume: find out what is on the device, have it formatted or checked if need be, mount it.
 * Runs in mounters as a killable step; it writes nothing to the device: what must finish is handed back to berthd as
 * the next step ("format", "fsck").
 *
 * The path of every day (a formatted, clean device) is one open, one filtered probe, one look for an intent and for the memory, and
 * one mount. An unfinished formatting is never mounted, however complete it looks.
 */

#include "mounters/block/internal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/strmap.h"
#include "mounters/fs/mount.h"

/* Nothing libblkid knows is on it. */
static int stage_nothing(Mounter *m, const MounterVolume *v, const BlockStorage *s, int fd, MounterResult *r,
                         Error *err)
{
        if (!v->read_only) {
                r->next = "format";
                return 0;
        }
        int q = block_was_formatted(m, s, err);
        if (q != 0)
                return q < 0 ? q : memory_refuse(m, s, fd, err);
        return error_set(err, ERROR_NOT_FORMATTED, ENODATA, "No file system is found on %s", v->device);
}

/* An ext file system may have to be checked, or its journal replayed where that is impossible. */
static int stage_check_ext(const MounterVolume *v, int fd, MounterResult *r, Error *err)
{
        ExtCondition condition;
        int device_read_only = 0;

        int q = ext_condition(fd, &condition, err);
        if (q < 0)
                return q;
        switch (condition) {
        case EXT_CHECK:
                /* A read-only request changes nothing; the kernel mounts such a file system read-only with a warning. */
                if (!v->read_only)
                        r->next = "fsck";
                return 0;
        case EXT_REPLAY:
                if (ioctl(fd, BLKROGET, &device_read_only) >= 0 && device_read_only)
                        return error_set(err, ERROR_MOUNT_FAILED, EROFS,
                                         "The file system on %s was not unmounted, and its journal cannot be "
                                         "replayed "
                                         "because the device is read-only. Mount the volume read-write once",
                                         v->device);
                return 0;
        default:
                return 0;
        }
}

/*
 * What others have formatted is not formatted again either, should it read as zeros one day. A mount does not fail for it: nothing
 * is destroyed by not knowing. Where the storage keeps its memory itself, asking it at each mount would cost a round trip.
 */
static void stage_remember(Mounter *m, const MounterVolume *v, const BlockStorage *s, int fd, const char *fs_type,
                           const ProbeResult *p)
{
        _cleanup_error_ Error e = ERROR_INIT;
        uint64_t size;
        int r;

        if (s->keeper || !p->uuid)
                return;
        r = block_was_formatted(m, s, &e);
        if (r == 0)
                r = device_size(fd, &size, &e);
        if (r == 0)
                r = block_remember(m, s, v->identity, fs_type, p->uuid, size, &e);
        if (r < 0)
                log_warning("That volume %s holds a file system cannot be remembered: %s", v->key, str_or(e.text, ""));
}

/* Decides what is to be done; r->next stays NULL when it can be mounted. Fills *ret with the file system. */
static int stage_inspect(Mounter *m, const MounterVolume *v, const BlockStorage *s, const char *fs_type,
                         MounterResult *r, ProbeResult *ret, Error *err)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_probe_ ProbeResult p = {};

        int q = device_open(v, O_RDONLY, &fd, err);
        if (q >= 0)
                q = block_probe_expected(fd, fs_type, &p, err);
        if (q < 0)
                return q;
        if (p.outcome == PROBE_NOTHING) {
                q = block_probe_full(fd, fs_type, &p, err);
                if (q < 0)
                        return q;
        }
        if (p.outcome == PROBE_NOTHING)
                return stage_nothing(m, v, s, fd, r, err);
        if (p.outcome != PROBE_EXPECTED || p.bad_checksum)
                return probe_refuse(fd, fs_type, &p, err);

        /* mkfs.xfs shows its superblock before it is done, and after a power cut so may the others. */
        q = intent_exists(m, s, err);
        if (q < 0)
                return q;
        if (q > 0) {
                if (v->read_only)
                        return error_set(err, ERROR_NOT_FORMATTED, EAGAIN,
                                         "The formatting of %s was interrupted and is not finished", v->device);
                r->next = "format";
                return 0;
        }
        if (fs_type_is_ext(fs_type)) {
                q = stage_check_ext(v, fd, r, err);
                if (q < 0)
                        return q;
        }
        stage_remember(m, v, s, fd, fs_type, &p);
        *ret = p;
        p = (ProbeResult) {};
        return 0;
}

int block_stage(Mounter *m, const MounterVolume *v, const BlockStorage *s, MounterResult *r, Error *err)
{
        _cleanup_free_ char *options = NULL;
        _cleanup_probe_ ProbeResult p = {};
        bool staged = false;

        const char *fs_type = block_fs_type(v->fs_type, err);
        if (!fs_type)
                return -EINVAL;
        int q = fs_options_check(fs_type, v->mount_options, v->read_only, &options, err);
        if (q < 0)
                return q;

        /* What is mounted needs no probe, and its superblock is not for us to judge; fs_mount() compares the device. */
        (void) mount_id_at(AT_FDCWD, v->staging_path, NULL, &staged);
        if (!staged || !v->uuid) {
                if (staged) {
                        _cleanup_close_ int fd = -EBADF;
                        q = device_open(v, O_RDONLY, &fd, err);
                        if (q >= 0)
                                q = block_probe_expected(fd, fs_type, &p, err);
                } else
                        q = stage_inspect(m, v, s, fs_type, r, &p, err);
                if (q < 0 || r->next)
                        return q;
        }

        q = fs_mount(&(FsMountParams) { .source = v->device,
                                        .device_number = v->device_number,
                                        .staging_path = v->staging_path,
                                        .fs_type = fs_type,
                                        .options = options },
                     &r->mount_id, err);
        if (q < 0)
                return q;
        if (str_replace(&r->fs_type, fs_type) < 0 || str_replace(&r->uuid, p.uuid ? p.uuid : v->uuid) < 0)
                return error_oom(err);
        return 0;
}
