/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What is on a device, by libblkid's low-level interface (libblkid(3), "Low-level probing"). Runs in
 * mounters; reads the device, so it may block.
 *
 * Invariants: a probe that failed is an error and never "nothing"; several signatures at once (ambivalent, or
 * a file system beside a partition table) count as found; "nothing" is libblkid's word only, and blank.c has to
 * prove it. The reads go through the caller's descriptor, so that a lock on it covers them.
 */

#include "mounters/block/internal.h"

#include <blkid/blkid.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#include "base/strmap.h"

DEFINE_POINTER_CLEANUP(blkid_probe, blkid_free_probe);

#define SUPERBLOCK_FLAGS                                                                                     \
        (BLKID_SUBLKS_TYPE | BLKID_SUBLKS_USAGE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_MAGIC)

void probe_result_done(ProbeResult *r)
{
        free(r->type);
        free(r->usage);
        free(r->uuid);
        *r = (ProbeResult) {};
}

static const char *probe_value(blkid_probe pr, const char *name)
{
        const char *data = NULL;

        return blkid_probe_lookup_value(pr, name, &data, NULL) == 0 ? data : NULL;
}

static uint64_t probe_offset(blkid_probe pr, const char *name)
{
        const char *value = probe_value(pr, name);

        return value ? strtoull(value, NULL, 10) : 0;
}

static int probe_failed(int fd, int error, Error *err)
{
        char name[PATH_MAX];

        return error_set(err, ERROR_DEVICE_ERROR, error ? error : EIO,
                         "Looking for what is on %s failed: %s. Nothing was assumed about its content",
                         device_name(fd, name, sizeof(name)), error ? strerror(error) : "read error");
}

static int probe_open(int fd, blkid_probe *ret, Error *err)
{
        _cleanup_(blkid_free_probep) blkid_probe pr = NULL;
        uint64_t size;

        int r = device_size(fd, &size, err);
        if (r < 0)
                return r;
        pr = blkid_new_probe();
        if (!pr)
                return error_oom(err);
        errno = 0;
        if (blkid_probe_set_device(pr, fd, 0, 0) < 0)
                return probe_failed(fd, errno, err);
        *ret = TAKE_PTR(pr);
        return 0;
}

/* The values of the superblocks chain into *ret. */
static int probe_take_superblock(blkid_probe pr, const char *fs_type, ProbeResult *ret, Error *err)
{
        _cleanup_probe_ ProbeResult p = {};
        const char *type = probe_value(pr, "TYPE");

        if (str_replace(&p.type, type) < 0 || str_replace(&p.usage, probe_value(pr, "USAGE")) < 0 ||
            str_replace(&p.uuid, probe_value(pr, "UUID")) < 0)
                return error_oom(err);
        p.outcome = str_equal(type, fs_type) ? PROBE_EXPECTED : PROBE_OTHER;
        p.offset = probe_offset(pr, "SBMAGIC_OFFSET");
        p.bad_checksum = probe_value(pr, "SBBADCSUM");
        *ret = p;
        p = (ProbeResult) {};
        return 0;
}

int block_probe_expected(int fd, const char *fs_type, ProbeResult *ret, Error *err)
{
        _cleanup_(blkid_free_probep) blkid_probe pr = NULL;
        char type[16];
        char *names[] = { type, NULL };

        int r = probe_open(fd, &pr, err);
        if (r < 0)
                return r;
        snprintf(type, sizeof(type), "%s", fs_type);
        blkid_probe_enable_superblocks(pr, 1);
        blkid_probe_set_superblocks_flags(pr, SUPERBLOCK_FLAGS);
        if (blkid_probe_filter_superblocks_type(pr, BLKID_FLTR_ONLYIN, names) < 0)
                return error_set(err, ERROR_INTERNAL, EINVAL, "libblkid does not take the filter %s", fs_type);

        errno = 0;
        r = blkid_do_safeprobe(pr);
        if (r == 1) {
                *ret = (ProbeResult) { .outcome = PROBE_NOTHING };
                return 0;
        }
        if (r != 0) /* a single type cannot be ambivalent */
                return probe_failed(fd, errno, err);
        return probe_take_superblock(pr, fs_type, ret, err);
}

static int full_probe_open(int fd, blkid_probe *ret, Error *err)
{
        int r = probe_open(fd, ret, err);
        if (r < 0)
                return r;
        blkid_probe_enable_superblocks(*ret, 1);
        /* A superblock with a wrong checksum is a damaged file system, and damaged data is still data. */
        blkid_probe_set_superblocks_flags(*ret, SUPERBLOCK_FLAGS | BLKID_SUBLKS_BADCSUM);
        blkid_probe_enable_partitions(*ret, 1);
        /* GPT without its protective MBR counts too. */
        blkid_probe_set_partitions_flags(*ret, BLKID_PARTS_MAGIC | BLKID_PARTS_FORCE_GPT);
        return 0;
}

/* Appends "<type> at offset <n>" for what the step just taken by blkid_do_probe() found. */
static int describe_step(blkid_probe pr, char **text, uint64_t *first, unsigned *n)
{
        const char *type = probe_value(pr, "TYPE"), *table = probe_value(pr, "PTTYPE");
        uint64_t offset = probe_offset(pr, type ? "SBMAGIC_OFFSET" : "PTMAGIC_OFFSET");
        char *longer = NULL;

        if (!type && !table)
                return 0;
        if (asprintf(&longer, "%s%s%s%s at offset %" PRIu64, str_or(*text, ""), *text ? ", " : "",
                     type ? type : table, type ? "" : " partition table", offset) < 0)
                return -ENOMEM;
        free(*text);
        *text = longer;
        if ((*n)++ == 0)
                *first = offset;
        return 0;
}

/* Several signatures: which ones, one step of the probe after another. */
static int probe_ambivalent(int fd, ProbeResult *ret, Error *err)
{
        _cleanup_(blkid_free_probep) blkid_probe pr = NULL;
        _cleanup_probe_ ProbeResult p = { .outcome = PROBE_AMBIVALENT };
        unsigned n = 0;

        int r = full_probe_open(fd, &pr, err);
        if (r < 0)
                return r;
        /* Bounded, though libblkid promises an end: its list of signatures is finite. */
        while (n < 16 && (r = blkid_do_probe(pr)) == 0)
                if (describe_step(pr, &p.type, &p.offset, &n) < 0)
                        return error_oom(err);
        if (str_replace(&p.usage, "several") < 0 || (!p.type && str_replace(&p.type, "several signatures") < 0))
                return error_oom(err);
        *ret = p;
        p = (ProbeResult) {};
        return 0;
}

int block_probe_full(int fd, const char *fs_type, ProbeResult *ret, Error *err)
{
        _cleanup_(blkid_free_probep) blkid_probe pr = NULL;

        int r = device_drop_cache(fd, err);
        if (r < 0)
                return r;
        r = full_probe_open(fd, &pr, err);
        if (r < 0)
                return r;

        errno = 0;
        r = blkid_do_safeprobe(pr);
        if (r == 1) {
                *ret = (ProbeResult) { .outcome = PROBE_NOTHING };
                return 0;
        }
        if (r == -2)
                return probe_ambivalent(fd, ret, err);
        if (r != 0)
                return probe_failed(fd, errno, err);

        /* The two chains do not know of each other: libblkid calls this found, not ambivalent. */
        const char *type = probe_value(pr, "TYPE"), *table = probe_value(pr, "PTTYPE");
        if (type && table)
                return probe_ambivalent(fd, ret, err);
        if (type)
                return probe_take_superblock(pr, fs_type, ret, err);

        _cleanup_probe_ ProbeResult p = { .outcome = PROBE_OTHER, .offset = probe_offset(pr, "PTMAGIC_OFFSET") };
        if (str_replace(&p.type, table ? table : "unknown") < 0 || str_replace(&p.usage, "partition table") < 0 ||
            str_replace(&p.uuid, probe_value(pr, "PTUUID")) < 0)
                return error_oom(err);
        *ret = p;
        p = (ProbeResult) {};
        return 0;
}

int probe_xfs_in_progress(int fd, Error *err)
{
        uint8_t sb[512];

        int r = device_read(fd, 0, sb, sizeof(sb), err);
        if (r < 0)
                return r;
        /* struct xfs_dsb: sb_magicnum at 0, sb_inprogress at 126 */
        return memcmp(sb, "XFSB", 4) == 0 && sb[126] != 0;
}

int probe_refuse(int fd, const char *fs_type, const ProbeResult *p, Error *err)
{
        char name[PATH_MAX];
        const char *device = device_name(fd, name, sizeof(name));

        if (p->outcome == PROBE_AMBIVALENT)
                return error_set(err, ERROR_NOT_BLANK, EEXIST,
                                 "%s holds several signatures: %s. Look at them with: wipefs %s", device, p->type,
                                 device);
        if (p->bad_checksum)
                return error_set(err, fs_type_is_ext(p->type) ? ERROR_FSCK_FAILED : ERROR_NOT_BLANK, EUCLEAN,
                                 "%s holds %s (%s) whose superblock has a wrong checksum, its magic at offset "
                                 "%" PRIu64 ". Look at it with: blkid -p %s",
                                 device, p->type, str_or(p->usage, "unknown"), p->offset, device);
        if (str_equal(p->usage, "filesystem") && block_minimum_size(p->type) > 0)
                return error_set(err, ERROR_FILESYSTEM_MISMATCH, EEXIST,
                                 "%s holds the file system %s (UUID %s, its magic at offset %" PRIu64
                                 "), and %s was asked for. Look at it with: blkid -p %s",
                                 device, p->type, str_or(p->uuid, "none"), p->offset, fs_type, device);
        return error_set(err, ERROR_NOT_BLANK, EEXIST,
                         "%s holds %s (%s, its magic at offset %" PRIu64
                         "), not %s. Look at it with: blkid -p %s",
                         device, p->type, str_or(p->usage, "unknown"), p->offset, fs_type, device);
}
