/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Whether a file system has to be checked before it is mounted, and the check. Runs in mounters; e2fsck is a
 * child of a step that must finish.
 *
 * Invariants: ext only (xfs and btrfs replay their own logs when mounted); never for mount counts or age; never
 * more than what `e2fsck -p` does without asking; never on a file system that is mounted somewhere.
 */

#include "mounters/block/internal.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "base/strmap.h"

/* struct ext2_super_block (kernel: Documentation/filesystems/ext4/super.rst), little endian */
#define SUPERBLOCK_OFFSET 1024
#define S_MAGIC 0x38
#define S_STATE 0x3a
#define S_FEATURE_INCOMPAT 0x60
#define STATE_CLEAN 0x1
#define STATE_ERRORS 0x2
#define INCOMPAT_RECOVER 0x4

#define E2FSCK_CORRECTED 1
#define E2FSCK_REBOOT 2

static unsigned get_le16(const uint8_t *p)
{
        return p[0] | (unsigned) p[1] << 8;
}

int ext_condition(int fd, ExtCondition *ret, Error *err)
{
        uint8_t sb[128];

        int r = device_read(fd, SUPERBLOCK_OFFSET, sb, sizeof(sb), err);
        if (r < 0)
                return r;
        if (get_le16(sb + S_MAGIC) != 0xef53)
                return error_set(err, ERROR_DEVICE_CHANGED, EUCLEAN, "The ext superblock is no longer there");

        unsigned state = get_le16(sb + S_STATE);
        bool replay = sb[S_FEATURE_INCOMPAT] & INCOMPAT_RECOVER;
        if (state & STATE_ERRORS)
                *ret = EXT_CHECK;
        else if (replay)
                *ret = EXT_REPLAY;
        else
                *ret = state & STATE_CLEAN ? EXT_CLEAN : EXT_CHECK;
        return 0;
}

/* 1: nobody has it mounted or claimed, 0: somebody has. In any mount namespace, which /proc/mounts would not tell. */
static int device_is_free(const MounterVolume *v, Error *err)
{
        _cleanup_close_ int fd = -EBADF;
        Error ignored = ERROR_INIT;

        int r = device_open(v, O_RDONLY | O_EXCL, &fd, &ignored);
        if (r >= 0 || ignored.code == ERROR_BUSY) {
                error_done(&ignored);
                return r >= 0;
        }
        error_move(err, &ignored);
        return r;
}

int block_fsck(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_probe_ ProbeResult p = {};
        _cleanup_free_ char *output = NULL;

        const char *fs_type = block_fs_type(v->fs_type, err);
        if (!fs_type)
                return -EINVAL;
        if (!fs_type_is_ext(fs_type))
                return 0;

        int q = device_open(v, O_RDWR, &fd, err);
        if (q >= 0)
                q = device_lock(fd, err);
        if (q >= 0)
                q = block_probe_expected(fd, fs_type, &p, err);
        if (q < 0)
                return q;
        if (p.outcome != PROBE_EXPECTED)
                return error_set(err, ERROR_DEVICE_CHANGED, EAGAIN, "%s no longer holds %s", v->device, fs_type);
        q = device_is_free(v, err);
        if (q < 0)
                return q;
        if (q == 0)
                return error_set(err, ERROR_BUSY, EBUSY,
                                 "%s is mounted or claimed elsewhere and cannot be checked", v->device);

        mounter_progress(m, "fsck", 0, 0);
        q = mounter_run(m, (char *[]) { (char *) "e2fsck", (char *) "-p", v->device, NULL }, fd, &output);
        if (q == -ENOENT)
                return error_set(err, ERROR_TOOL_MISSING, ENOENT, "There is no program e2fsck on this node");
        if (q < 0)
                return error_set(err, ERROR_FSCK_FAILED, q, "Cannot run e2fsck: %s", strerror(-q));
        /* "Reboot" is meant for a mounted root; without anybody having it mounted nothing holds old blocks. */
        if (q <= E2FSCK_CORRECTED || ((q & ~E2FSCK_CORRECTED) == E2FSCK_REBOOT && device_is_free(v, NULL) > 0))
                return 0;
        return error_set(err, ERROR_FSCK_FAILED, EUCLEAN, "e2fsck -p %s failed (exit status %d): %s", v->device,
                         q, str_or(output, "no output"));
}
