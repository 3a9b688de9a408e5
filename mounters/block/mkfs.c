/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The file systems that berth makes: their smallest sizes and how their mkfs is called. Runs in mounters; mkfs
 * is a child that outlives this process if need be, with the device's lock inherited.
 *
 * Nothing here decides whether formatting is allowed: format.c does, immediately before. The options keep what
 * guards mkfs itself has: no -f except over an unfinished XFS of our own, never mke2fs -F.
 */

#include "mounters/block/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/strmap.h"

#define KIB 1024ULL
#define MIB (1024ULL * KIB)

typedef enum FsTool {
        FS_TOOL_MKE2FS,
        FS_TOOL_XFS,
        FS_TOOL_BTRFS,
} FsTool;

typedef struct FsKind {
        const char *name;
        FsTool tool;
        uint64_t minimum; /* bytes; measured with e2fsprogs 1.47, xfsprogs 6.1, btrfs-progs 6.2 */
} FsKind;

static const FsKind fs_kinds[] = {
        { "ext4", FS_TOOL_MKE2FS, 2 * MIB }, /* below it mke2fs leaves the journal out */
        { "ext3", FS_TOOL_MKE2FS, 2 * MIB },
        { "ext2", FS_TOOL_MKE2FS, 256 * KIB },
        { "xfs", FS_TOOL_XFS, 300 * MIB },
        { "btrfs", FS_TOOL_BTRFS, 114294784 },
};

static const FsKind *fs_kind(const char *fs_type)
{
        for (size_t i = 0; i < ELEMENTSOF(fs_kinds); i++)
                if (str_equal(fs_kinds[i].name, fs_type))
                        return &fs_kinds[i];
        return NULL;
}

uint64_t block_minimum_size(const char *fs_type)
{
        const FsKind *k = fs_kind(fs_type);

        return k ? k->minimum : 0;
}

const char *block_fs_type(const char *fs_type, Error *err)
{
        const FsKind *k = fs_kind(str_or(fs_type, "ext4"));

        if (!k) {
                error_set(err, ERROR_UNKNOWN_FILESYSTEM, EINVAL, "The file system type \"%s\" is not known",
                          fs_type);
                return NULL;
        }
        return k->name;
}

bool fs_type_is_ext(const char *fs_type)
{
        const FsKind *k = fs_kind(fs_type);

        return k && k->tool == FS_TOOL_MKE2FS;
}

void block_new_uuid(char ret[static 37])
{
        uint8_t b[16];

        /* A full read of 16 bytes is never interrupted once the pool is initialised (getrandom(2)). */
        while (getrandom(b, sizeof(b), 0) != (ssize_t) sizeof(b))
                ;
        b[6] = (uint8_t) ((b[6] & 0x0f) | 0x40); /* RFC 9562: version 4 */
        b[8] = (uint8_t) ((b[8] & 0x3f) | 0x80);
        snprintf(ret, 37, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
                 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

/* The size behind a path, 0 if it cannot be told (mkfs will then say so itself). */
static uint64_t path_size(const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        uint64_t size = 0;

        return fd >= 0 && device_size(fd, &size, NULL) >= 0 ? size : 0;
}

int block_mkfs(Mounter *m, const char *path, int inherit_fd, const char *fs_type, const char *uuid, bool force,
               Error *err)
{
        const FsKind *k = fs_kind(fs_type);
        const char *argv[16];
        char uuid_option[64];
        size_t n = 0;

        if (!k)
                return error_set(err, ERROR_UNKNOWN_FILESYSTEM, EINVAL,
                                 "The file system type \"%s\" is not known", fs_type);
        switch (k->tool) {
        case FS_TOOL_MKE2FS:
                argv[n++] = "mke2fs";
                argv[n++] = "-q";
                argv[n++] = "-t";
                argv[n++] = k->name;
                argv[n++] = "-m0";
                /*
                 * The inode tables are left as they are: the device reads as zeros there. The journal is not: stale blocks
                 * in it could be replayed.
                 */
                argv[n++] = "-E";
                argv[n++] = "lazy_itable_init=1,lazy_journal_init=0,nodiscard";
                argv[n++] = "-U";
                argv[n++] = uuid;
                if (path_size(path) < 8 * MIB) {
                        /* A journal has at least 1024 blocks: with a node's own default of 4 KiB it would be left out. */
                        argv[n++] = "-b";
                        argv[n++] = "1024";
                }
                break;
        case FS_TOOL_XFS:
                argv[n++] = "mkfs.xfs";
                argv[n++] = "-q";
                argv[n++] = "-K";
                if (force)
                        argv[n++] = "-f";
                snprintf(uuid_option, sizeof(uuid_option), "uuid=%s", uuid);
                argv[n++] = "-m";
                argv[n++] = uuid_option;
                break;
        case FS_TOOL_BTRFS:
                argv[n++] = "mkfs.btrfs";
                argv[n++] = "-q";
                argv[n++] = "-K";
                argv[n++] = "-U";
                argv[n++] = uuid;
                break;
        }
        argv[n++] = path;
        argv[n] = NULL;

        _cleanup_free_ char *output = NULL;
        mounter_progress(m, "mkfs", 0, 0);
        int r = mounter_run(m, (char *const *) argv, inherit_fd, &output);
        if (r == -ENOENT)
                return error_set(err, ERROR_TOOL_MISSING, ENOENT, "There is no program %s on this node", argv[0]);
        if (r < 0)
                return error_set(err, ERROR_FORMAT_FAILED, r, "Cannot run %s: %s", argv[0], strerror(-r));
        if (r > 0)
                return error_set(err, ERROR_FORMAT_FAILED, EIO, "%s on %s failed (exit status %d): %s", argv[0],
                                 path, r, str_or(output, "no output"));
        return 0;
}
