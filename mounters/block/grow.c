/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Growing a mounted file system to the size of its device. Runs in mounters as a step that must finish; the
 * tool is a child with the device's lock.
 *
 * Invariant: nothing is ever shrunk. `btrfs filesystem resize max` and newer xfs_growfs would shrink to a device
 * that has become smaller, so the two sizes are compared before any tool runs.
 */

#include "mounters/block/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include "base/strmap.h"

/* struct xfs_fsop_geom_v1 and its ioctl: the kernel's stable interface, which no installed kernel header carries. */
typedef struct XfsGeometry {
        uint32_t blocksize, rtextsize, agblocks, agcount, logblocks, sectsize, inodesize, imaxpct;
        uint64_t datablocks, rtblocks, rtextents, logstart;
        uint8_t uuid[16];
        uint32_t sunit, swidth;
        int32_t version;
        uint32_t flags, logsectsize, rtsectsize, dirblocksize;
} XfsGeometry;
#define XFS_GEOMETRY _IOR('X', 100, XfsGeometry)

/* struct ext2_super_block, from offset 1024 */
#define S_BLOCKS_COUNT_LO 0x4
#define S_LOG_BLOCK_SIZE 0x18
#define S_FEATURE_INCOMPAT 0x60
#define S_BLOCKS_COUNT_HI 0x150
#define INCOMPAT_64BIT 0x80

typedef struct Growth {
        uint64_t size;  /* of the file system, bytes */
        uint64_t block; /* what it is made of, bytes */
        const char *argv[6];
} Growth;

static uint32_t get_le32(const uint8_t *p)
{
        return p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24;
}

/* The mounted ext keeps its superblock in the device's page cache, so reading it there gives the present one. */
static int growth_ext(const MounterVolume *v, int fd, Growth *g, Error *err)
{
        uint8_t sb[1024];

        int r = device_read(fd, 1024, sb, sizeof(sb), err);
        if (r < 0)
                return r;
        uint64_t blocks = get_le32(sb + S_BLOCKS_COUNT_LO);
        if (get_le32(sb + S_FEATURE_INCOMPAT) & INCOMPAT_64BIT)
                blocks |= (uint64_t) get_le32(sb + S_BLOCKS_COUNT_HI) << 32;
        g->block = 1024ULL << (get_le32(sb + S_LOG_BLOCK_SIZE) & 15);
        g->size = blocks * g->block;
        g->argv[0] = "resize2fs";
        g->argv[1] = v->device;
        return 0;
}

static int growth_xfs(const MounterVolume *v, int dir_fd, Growth *g, Error *err)
{
        XfsGeometry geometry = {};

        if (ioctl(dir_fd, XFS_GEOMETRY, &geometry) < 0)
                return error_set(err, ERROR_GROW_FAILED, errno, "Cannot read the geometry of %s: %m",
                                 v->staging_path);
        g->block = geometry.blocksize;
        g->size = geometry.datablocks * geometry.blocksize;
        g->argv[0] = "xfs_growfs";
        g->argv[1] = "-d";
        g->argv[2] = v->staging_path;
        return 0;
}

static int growth_btrfs(const MounterVolume *v, int dir_fd, Growth *g, Error *err)
{
        struct btrfs_ioctl_dev_info_args info = { .devid = 1 };

        if (ioctl(dir_fd, BTRFS_IOC_DEV_INFO, &info) < 0)
                return error_set(err, ERROR_GROW_FAILED, errno, "Cannot read the size of %s: %m",
                                 v->staging_path);
        g->block = 4096;
        g->size = info.total_bytes;
        g->argv[0] = "btrfs";
        g->argv[1] = "filesystem";
        g->argv[2] = "resize";
        g->argv[3] = "max";
        g->argv[4] = v->staging_path;
        return 0;
}

/* What is mounted at the staging path, by the kernel's word and not the request's. */
static int growth_inspect(const MounterVolume *v, int device_fd, Growth *g, Error *err)
{
        struct statfs fs;
        struct stat st;

        _cleanup_close_ int dir = open(v->staging_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (dir < 0 || fstatfs(dir, &fs) < 0 || fstat(dir, &st) < 0)
                return error_set(err, ERROR_GROW_FAILED, errno, "Cannot open %s: %m", v->staging_path);
        if (fs.f_type == BTRFS_SUPER_MAGIC) /* its st_dev is not the device's */
                return growth_btrfs(v, dir, g, err);
        if (st.st_dev != v->device_number)
                return error_set(err, ERROR_CONFLICT, ENODEV, "%s is not mounted at %s", v->device,
                                 v->staging_path);
        if (fs.f_type == EXT4_SUPER_MAGIC)
                return growth_ext(v, device_fd, g, err);
        if (fs.f_type == XFS_SUPER_MAGIC)
                return growth_xfs(v, dir, g, err);
        return error_set(err, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "The file system at %s cannot be grown",
                         v->staging_path);
}

int block_grow(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_close_ int fd = -EBADF;
        _cleanup_free_ char *output = NULL;
        Growth g = {};
        uint64_t size;

        int q = device_open(v, O_RDONLY, &fd, err);
        if (q >= 0)
                q = device_lock(fd, err);
        if (q >= 0)
                q = device_size(fd, &size, err);
        if (q >= 0)
                q = growth_inspect(v, fd, &g, err);
        if (q < 0)
                return q;

        if (size < g.size)
                return error_set(err, ERROR_SHRINK, EINVAL,
                                 "%s has %" PRIu64 " bytes and its file system %" PRIu64, v->device, size,
                                 g.size);
        if (size - g.size >= g.block) {
                mounter_progress(m, "grow", g.size, size);
                q = mounter_run(m, (char *const *) g.argv, fd, &output);
                if (q == -ENOENT)
                        return error_set(err, ERROR_TOOL_MISSING, ENOENT, "There is no program %s on this node",
                                         g.argv[0]);
                if (q < 0)
                        return error_set(err, ERROR_GROW_FAILED, q, "Cannot run %s: %s", g.argv[0], strerror(-q));
                if (q > 0)
                        return error_set(err, ERROR_GROW_FAILED, EIO, "%s on %s failed (exit status %d): %s",
                                         g.argv[0], v->device, q, str_or(output, "no output"));
        }
        r->size = size;
        return 0;
}
