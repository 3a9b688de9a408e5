/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The format rule on real loop devices: what is formatted, and what never is. Each refusal is shown with the
 * checksum of the whole image before and after. The slots' bodies are called directly; as root.
 */

#include <criterion/criterion.h>

#include <inttypes.h>
#include <string.h>
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"
#include "base/strmap.h"
#include "block-volume.h"
#include "mounters/block/internal.h"

#define MIB (1024ULL * 1024)
#define SIZE (64 * MIB)

static Fixture fixture;

static void suite_init(void)
{
        fixture_init(&fixture);
}

static void suite_done(void)
{
        fixture_done(&fixture);
}

TestSuite(format, .init = suite_init, .fini = suite_done, .timeout = 300);

static char *text_of(const char *format, ...) _printf_(1, 2);
static char *text_of(const char *format, ...)
{
        char *s = NULL;
        va_list ap;

        va_start(ap, format);
        cr_assert(vasprintf(&s, format, ap) >= 0);
        va_end(ap);
        return s;
}

/* --- what is formatted --- */

/* Formats, mounts, writes, mounts again: the file is there and nothing was formatted a second time. */
static void expect_formatted(char *image, const char *fs_type)
{
        BlockVolume t;
        _cleanup_free_ char *file = NULL, *uuid = NULL;

        block_volume_init(&t, &fixture, image, fs_type);
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_eq(a.r, 0, "%s: %s", fs_type, a.error.text);
                cr_assert_str_eq(str_or(a.result.next, ""), "format");
        }
        {
                _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
                cr_assert_str_eq(a.result.fs_type, *fs_type ? fs_type : "ext4");
                cr_assert_eq(strlen(a.result.uuid), 36);
                cr_assert_neq(a.result.mount_id, 0);
                uuid = strdup(a.result.uuid);
        }
        cr_assert(!block_volume_has_intent(&t), "the intent outlived the formatting");
        cr_assert(block_volume_has_memory(&t), "the formatting is not remembered");
        cr_assert_eq(t.progress_mkfs, 1);
        file = text_of("%s/file", t.volume.staging_path);
        write_text(file, "kept");

        for (unsigned i = 0; i < 3; i++) { /* a repeat while it is mounted changes nothing */
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_eq(a.r, 0, "repeat: %s", a.error.text);
                cr_assert_null(a.result.next);
                cr_assert_str_eq(a.result.uuid, uuid);
                cr_assert_eq(fixture_count_mounts(t.volume.staging_path), 1);
        }
        block_volume_unmount(&t);
        block_volume_detach(&t);
        block_volume_attach(&t);
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
        cr_assert_eq(a.r, 0, "second stage: %s", a.error.text);
        cr_assert_null(a.result.next, "a formatted %s is to be %s", fs_type, a.result.next);
        cr_assert_str_eq(a.result.uuid, uuid);
        _cleanup_free_ char *content = read_text(file);
        cr_assert_str_eq(content, "kept");
        block_volume_done(&t);
}

Test(format, blank_sparse)
{
        expect_formatted(fixture_image(&fixture, "default", SIZE), "");
        expect_formatted(fixture_image(&fixture, "ext4", SIZE), "ext4");
        expect_formatted(fixture_image(&fixture, "ext3", SIZE), "ext3");
        expect_formatted(fixture_image(&fixture, "ext2", SIZE), "ext2");
        expect_formatted(fixture_image(&fixture, "xfs", 320 * MIB), "xfs");
        expect_formatted(fixture_image(&fixture, "btrfs", 128 * MIB), "btrfs");
}

Test(format, blank_smallest)
{
        static const char *const types[] = { "ext4", "ext3", "ext2", "xfs", "btrfs" };

        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                expect_formatted(fixture_image(&fixture, types[i], block_minimum_size(types[i])), types[i]);
}

Test(format, blank_fully_written)
{
        _cleanup_free_ char *of = NULL;
        char *image = fixture_image(&fixture, "written", SIZE);
        struct stat st;

        of = text_of("of=%s", image);
        RUN_OK("dd", "if=/dev/zero", of, "bs=1M", "count=64", "conv=notrunc,fsync", "status=none");
        cr_assert_eq(stat(image, &st), 0);
        cr_assert(st.st_blocks * 512ULL >= SIZE, "the image is sparse");
        expect_formatted(image, "ext4");
}

Test(format, blank_preallocated)
{
        char *image = fixture_image(&fixture, "preallocated", SIZE);

        RUN_OK("fallocate", "--length", "64MiB", image);
        expect_formatted(image, "ext4");
}

Test(format, blank_is_read_to_the_last_byte)
{
        BlockVolume t;
        char *image = fixture_image(&fixture, "whole", SIZE);

        block_volume_init(&t, &fixture, image, "ext4");
        t.storage.extents = NULL; /* a storage that cannot tell: everything is read */
        _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
        cr_assert_eq(a.r, 0, "%s", a.error.text);
        cr_assert_eq(t.progress_proof, SIZE / (4 * MIB), "%u reports of the proof", t.progress_proof);
        block_volume_done(&t);
}

/* --- what never is --- */

/* Both slots refuse with the code, every part of the text is there, and not a byte of the image differs. */
static void expect_refused_with(char *image, const char *fs_type, ErrorCode code, const char *const *parts)
{
        BlockVolume t;
        _cleanup_free_ char *before = file_checksum(image), *after = NULL, *path = strdup(image);

        block_volume_init(&t, &fixture, image, fs_type);
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                if (a.r >= 0)
                        cr_assert_str_eq(str_or(a.result.next, "mounted"), "format");
                else
                        cr_assert_eq(a.error.code, code, "%s: stage: %s: %s", path, error_code_name(a.error.code),
                                     a.error.text);
                _cleanup_answer_ BlockAnswer b = block_volume_format(&t);
                cr_assert(b.r < 0, "%s was formatted", path);
                cr_assert_eq(b.error.code, code, "%s: %s: %s", path, error_code_name(b.error.code), b.error.text);
                for (const char *const *p = parts; *p; p++)
                        cr_assert(strstr(b.error.text, *p), "%s: no '%s' in: %s", path, *p, b.error.text);
        }
        cr_assert(!block_volume_has_intent(&t) && !block_volume_has_memory(&t), "%s: a refusal left a record", path);
        cr_assert_eq(t.progress_mkfs, 0);
        block_volume_done(&t);
        after = file_checksum(path);
        cr_assert_str_eq(before, after, "%s was changed", path);
        cr_assert_eq(unlink(path), 0);
}

#define EXPECT_REFUSED(image, fs_type, code, ...)                                                            \
        expect_refused_with(image, fs_type, code, (const char *const[]) { __VA_ARGS__, NULL })

Test(format, other_file_systems)
{
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", SIZE, "ext2"), "ext4", ERROR_FILESYSTEM_MISMATCH, "ext2",
                       "ext4", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", SIZE, "ext3"), "ext4", ERROR_FILESYSTEM_MISMATCH, "ext3",
                       "ext4", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", SIZE, "ext3"), "ext2", ERROR_FILESYSTEM_MISMATCH, "ext3",
                       "ext2", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", SIZE, "ext4"), "ext3", ERROR_FILESYSTEM_MISMATCH, "ext4",
                       "ext3", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", 128 * MIB, "ext4"), "btrfs", ERROR_FILESYSTEM_MISMATCH,
                       "ext4", "btrfs", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", 320 * MIB, "ext4"), "xfs", ERROR_FILESYSTEM_MISMATCH,
                       "ext4", "xfs", "1080");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", 320 * MIB, "xfs"), "ext4", ERROR_FILESYSTEM_MISMATCH,
                       "xfs", "ext4", "offset 0");
        EXPECT_REFUSED(fixture_image_formatted(&fixture, "a", 128 * MIB, "btrfs"), "ext4", ERROR_FILESYSTEM_MISMATCH,
                       "btrfs", "ext4", "65600");
}

static void expect_tool_refused(char *const *argv, char *image, const char *what, const char *offset)
{
        cr_assert_eq(run(argv, NULL, NULL), 0, "%s failed", argv[0]);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, what, offset);
}

Test(format, luks)
{
        _cleanup_free_ char *key = text_of("%s/key", fixture.dir);
        static const char *const types[] = { "luks1", "luks2" };

        write_text(key, "a key of the test's own");
        for (size_t i = 0; i < 2; i++) {
                char *image = fixture_image(&fixture, "luks", SIZE);
                expect_tool_refused((char *[]) { "cryptsetup", "luksFormat", "--batch-mode", "--type", (char *) types[i],
                                                 "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
                                                 "--key-file", key, image, NULL },
                                    image, "crypto_LUKS", "offset 0");
        }
}

Test(format, swap)
{
        char *image = fixture_image(&fixture, "swap", SIZE);

        expect_tool_refused((char *[]) { "mkswap", image, NULL }, image, "swap", "4086");
}

Test(format, vfat)
{
        char *image = fixture_image(&fixture, "vfat", SIZE);

        expect_tool_refused((char *[]) { "mkfs.vfat", image, NULL }, image, "vfat", "offset");
}

Test(format, partition_tables)
{
        static const char *const labels[] = { "dos", "gpt" };
        static const char *const offsets[] = { "offset 510", "offset 512" };

        for (size_t i = 0; i < 2; i++) {
                char *image = fixture_image(&fixture, "table", SIZE);
                _cleanup_free_ char *script = text_of("printf 'label: %s\\n,32M\\n,\\n' | sfdisk --quiet %s", labels[i],
                                                      image);
                expect_tool_refused((char *[]) { "sh", "-c", script, NULL }, image, labels[i], offsets[i]);
        }
}

Test(format, squashfs)
{
        _cleanup_free_ char *tree = text_of("%s/tree", fixture.dir), *file = text_of("%s/tree/file", fixture.dir);
        char *image = text_of("%s/squashfs", fixture.image_dir);

        cr_assert_eq(mkdir(tree, 0755), 0);
        write_text(file, "x");
        RUN_OK("mksquashfs", tree, image, "-quiet", "-no-progress");
        cr_assert_eq(truncate(image, (off_t) SIZE), 0);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "squashfs", "offset 0");
}

/* ECMA-119: a primary volume descriptor and a set terminator are all that makes an (empty) ISO image. */
Test(format, iso9660)
{
        char *image = fixture_image(&fixture, "iso", SIZE);
        uint8_t sector[2048] = { 1, 'C', 'D', '0', '0', '1', 1 };

        memcpy(sector + 40, "BERTH_TEST                      ", 32);
        sector[128] = 0;
        sector[129] = 8; /* logical block size 2048, little endian; then big endian */
        sector[130] = 8;
        file_write_at(image, 32768, sector, sizeof(sector));
        sector[0] = 255;
        file_write_at(image, 34816, sector, 7);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "iso9660", "32769");
}

Test(format, lvm_physical_volume)
{
        char *image = fixture_image(&fixture, "lvm", SIZE);
        _cleanup_free_ char *device = NULL;

        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", image, NULL }, &device, NULL), 0);
        device[strcspn(device, "\n")] = 0;
        RUN_OK("pvcreate", "--yes", "--quiet", "--config", "devices { use_devicesfile=0 }", device);
        RUN_OK("losetup", "--detach", device);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "LVM2_member", "536");
}

static void put_le(uint8_t *p, uint64_t value, size_t n)
{
        for (size_t i = 0; i < n; i++)
                p[i] = (uint8_t) (value >> (8 * i));
}

static uint32_t md_checksum(const uint8_t *sb, size_t n)
{
        uint64_t sum = 0;

        for (size_t i = 0; i < n; i += 4)
                sum += sb[i] | sb[i + 1] << 8 | sb[i + 2] << 16 | (uint64_t) sb[i + 3] << 24;
        return (uint32_t) ((sum & 0xffffffff) + (sum >> 32));
}

/* Layouts of include/uapi/linux/raid/md_p.h: mdadm(8) itself makes arrays only where the kernel has md. */
Test(format, mdraid_0_90)
{
        char *image = fixture_image(&fixture, "md", SIZE);
        uint8_t sb[4096] = {};

        put_le(sb, 0xa92b4efc, 4);
        put_le(sb + 8, 90, 4);          /* minor_version; major_version is 0 */
        put_le(sb + 20, 0x12345678, 4); /* set_uuid0 */
        put_le(sb + 28, 1, 4);          /* level */
        put_le(sb + 32, SIZE / 1024 - 64, 4);
        put_le(sb + 36, 2, 4); /* nr_disks */
        put_le(sb + 40, 2, 4); /* raid_disks */
        put_le(sb + 152, md_checksum(sb, sizeof(sb)), 4);
        file_write_at(image, SIZE - 65536, sb, sizeof(sb));
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "linux_raid_member", "67043328");
}

static void expect_mdraid_1_refused(uint64_t offset, const char *text)
{
        char *image = fixture_image(&fixture, "md", SIZE);
        uint8_t sb[512] = {};

        put_le(sb, 0xa92b4efc, 4);
        put_le(sb + 4, 1, 4);      /* major_version */
        memset(sb + 16, 0x5a, 16); /* set_uuid */
        memcpy(sb + 32, "node:0", 6);
        put_le(sb + 72, 1, 4); /* level */
        put_le(sb + 80, SIZE / 512 - 4096, 8);
        put_le(sb + 92, 2, 4);     /* raid_disks */
        put_le(sb + 128, 2048, 8); /* data_offset */
        put_le(sb + 136, SIZE / 512 - 4096, 8);
        put_le(sb + 144, offset / 512, 8); /* super_offset */
        put_le(sb + 220, 2, 4);            /* max_dev */
        put_le(sb + 216, md_checksum(sb, 256 + 2 * 2), 4);
        file_write_at(image, offset, sb, sizeof(sb));
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "linux_raid_member", text);
}

Test(format, mdraid_1_x)
{
        expect_mdraid_1_refused((SIZE / 512 - 16) / 8 * 8 * 512, "67100672"); /* 1.0: near the end */
        expect_mdraid_1_refused(0, "offset 0");                              /* 1.1: at the start */
        expect_mdraid_1_refused(4096, "4096");                               /* 1.2: at 4 KiB */
}

/* The two chains of libblkid do not know of each other: a swap area with a partition table is both. */
Test(format, several_signatures)
{
        char *image = fixture_image(&fixture, "both", SIZE);

        RUN_OK("mkswap", image);
        _cleanup_free_ char *script = text_of("printf 'label: dos\\n2048,\\n' | sfdisk --quiet --wipe never %s", image);
        RUN_OK("sh", "-c", script);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "several signatures", "swap", "dos");
}

Test(format, one_byte_anywhere)
{
        const uint64_t size = 16 * MIB; /* four reads of the proof */
        uint64_t offsets[32] = { 0, 1, 511, 512, 1023, 4095, 4096, size / 2, size - 4097, size - 512, size - 1 };
        unsigned seed = (unsigned) time(NULL);

        cr_log_info("seed %u", seed);
        srandom(seed);
        for (size_t i = 11; i < ELEMENTSOF(offsets); i++)
                offsets[i] = (uint64_t) random() % size;
        for (size_t i = 0; i < ELEMENTSOF(offsets); i++) {
                uint8_t byte = (uint8_t) (1 + random() % 255);
                char *image = fixture_image(&fixture, "byte", size);
                _cleanup_free_ char *where = text_of("offset %" PRIu64 " is 0x%02x", offsets[i], byte);

                file_write_at(image, offsets[i], &byte, 1);
                EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, where, "hexdump");
        }
}

Test(format, ext4_without_its_superblock)
{
        static const uint8_t zeros[1024];
        char *image = fixture_image_formatted(&fixture, "ext4", SIZE, "ext4");

        file_write_at(image, 1024, zeros, sizeof(zeros));
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "offset");
}

/* libblkid sees the wrong checksum from 2.39 on, the kernel always: either way it is never taken for blank. */
Test(format, ext4_with_a_damaged_superblock)
{
        BlockVolume t;
        char *image = fixture_image_formatted(&fixture, "ext4", SIZE, "ext4");
        _cleanup_free_ char *path = strdup(image), *before = NULL, *after = NULL;

        file_write_at(image, 1024 + 0x78, "damaged", 7); /* s_volume_name: covered by the checksum */
        before = file_checksum(path);
        block_volume_init(&t, &fixture, image, "ext4");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert(a.error.code == ERROR_FSCK_FAILED || a.error.code == ERROR_MOUNT_FAILED, "%s: %s",
                          error_code_name(a.error.code), str_or(a.error.text, "mounted"));
                _cleanup_answer_ BlockAnswer b = block_volume_format(&t);
                cr_assert_eq(t.progress_mkfs, 0);
        }
        block_volume_done(&t);
        after = file_checksum(path);
        cr_assert_str_eq(before, after);
}

Test(format, unknown_magic)
{
        char *image = fixture_image(&fixture, "magic", SIZE);

        file_write_at(image, 0, "SOMEBODYS-OWN-FORMAT", 20);
        EXPECT_REFUSED(image, "ext4", ERROR_NOT_BLANK, "offset 0 is 0x53");
}

Test(format, too_small)
{
        static const char *const types[] = { "ext4", "ext3", "ext2", "xfs", "btrfs" };

        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                EXPECT_REFUSED(fixture_image(&fixture, "small", block_minimum_size(types[i]) - 4096), types[i],
                               ERROR_TOO_SMALL, types[i]);
}

Test(format, proof_too_large)
{
        BlockVolume t;
        char *image = fixture_image(&fixture, "large", SIZE);

        file_write_at(image, 0, "", 1); /* a zero that is allocated */
        block_volume_init(&t, &fixture, image, "ext4");
        t.mounter.settings.max_proof_bytes = 4095;
        {
                _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
                cr_assert_eq(a.error.code, ERROR_PROOF_TOO_LARGE, "%s", a.error.text);
                cr_assert(strstr(a.error.text, "4096"), "%s", a.error.text);
        }
        t.mounter.settings.max_proof_bytes = 4096;
        _cleanup_answer_ BlockAnswer b = block_volume_format(&t);
        cr_assert_eq(b.r, 0, "%s", b.error.text);
        block_volume_done(&t);
}

Test(format, size_zero)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "empty", 0), "ext4");
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t), b = block_volume_format(&t);
        cr_assert_eq(a.error.code, ERROR_DEVICE_ERROR, "%s", a.error.text);
        cr_assert_eq(b.error.code, ERROR_DEVICE_ERROR, "%s", b.error.text);
        block_volume_done(&t);
}

/* --- a device with a read error: a FUSE file system that answers EIO --- */

static bool image_is_there(void *arg)
{
        return access(arg, R_OK) == 0;
}

static void expect_unreadable(uint64_t bad_offset, const char *what)
{
        BlockVolume t;
        _cleanup_free_ char *helper = text_of("%s/tests/integration/fuse-image", fixture.build_dir);
        _cleanup_free_ char *dir = text_of("%s/fuse", fixture.dir), *bad = text_of("%" PRIu64, bad_offset);
        _cleanup_free_ char *name = text_of("lower-%" PRIu64, bad_offset), *lower = fixture_image(&fixture, name, SIZE);
        char *image = text_of("%s/image", dir);
        int status;

        cr_assert(mkdir(dir, 0755) == 0);
        pid_t pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                execl(helper, helper, lower, bad, "4096", dir, "-f", "-s", NULL);
                _exit(127);
        }
        wait_until(image_is_there, image, 30, "the FUSE file system is mounted");
        block_volume_init(&t, &fixture, image, "ext4");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t), b = block_volume_format(&t);
                cr_assert(a.error.code == ERROR_DEVICE_ERROR || str_equal(a.result.next, "format"), "%s: %s", what,
                          str_or(a.error.text, "mounted"));
                cr_assert_eq(b.error.code, ERROR_DEVICE_ERROR, "%s: %s: %s", what, error_code_name(b.error.code),
                             str_or(b.error.text, "formatted"));
                cr_assert(strstr(b.error.text, what), "no '%s' in: %s", what, b.error.text);
        }
        cr_assert(!block_volume_has_intent(&t));
        cr_assert_eq(t.progress_mkfs, 0);
        block_volume_done(&t);
        cr_assert_eq(umount2(dir, 0), 0, "%s", strerror(errno));
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        cr_assert_eq(rmdir(dir), 0);
}

Test(format, read_error)
{
        expect_unreadable(0, "on /dev/loop");                    /* where libblkid looks */
        expect_unreadable(65536, "on /dev/loop");                /* btrfs' place */
        expect_unreadable(33 * MIB, "cannot be proved blank");   /* where it does not look */
        expect_unreadable(SIZE - 4096, "/dev/loop");
}

Test(format, read_only_request)
{
        BlockVolume t;
        char *image = fixture_image(&fixture, "read-only", SIZE);
        _cleanup_free_ char *before = file_checksum(image), *after = NULL;

        block_volume_init(&t, &fixture, image, "ext4");
        t.volume.read_only = true;
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t), b = block_volume_format(&t);
        cr_assert_eq(a.error.code, ERROR_NOT_FORMATTED, "%s", a.error.text);
        cr_assert_eq(b.error.code, ERROR_NOT_FORMATTED, "%s", b.error.text);
        after = file_checksum(t.image);
        cr_assert_str_eq(before, after);
        block_volume_done(&t);
}

Test(format, another_device)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "other", SIZE), "ext4");
        t.volume.device_number++;
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t), b = block_volume_format(&t);
        cr_assert_eq(a.error.code, ERROR_DEVICE_CHANGED, "%s", a.error.text);
        cr_assert_eq(b.error.code, ERROR_DEVICE_CHANGED, "%s", b.error.text);
        block_volume_done(&t);
}

/* The image was lost below and came back as zeros. */
Test(format, formatted_once)
{
        BlockVolume t;
        Error err = ERROR_INIT;
        _cleanup_free_ char *memory = NULL;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "once", SIZE), "ext4");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
                block_volume_unmount(&t);
                block_volume_detach(&t);
                cr_assert_eq(truncate(t.image, 0), 0);
                cr_assert_eq(truncate(t.image, (off_t) SIZE), 0);
                block_volume_attach(&t);
                _cleanup_answer_ BlockAnswer b = block_volume_format(&t);
                cr_assert_eq(b.error.code, ERROR_WAS_FORMATTED, "%s", b.error.text);
                cr_assert(strstr(b.error.text, a.result.uuid) && strstr(b.error.text, "ext4"), "%s", b.error.text);
        }
        t.volume.read_only = true;
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_eq(a.error.code, ERROR_WAS_FORMATTED, "%s", a.error.text);
        }
        t.volume.read_only = false;
        memory = block_volume_state_file(&t, "volumes");
        write_text(memory, "{ not JSON"); /* one that cannot be read is as good */
        {
                _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
                cr_assert_eq(a.error.code, ERROR_WAS_FORMATTED, "%s", a.error.text);
        }
        _cleanup_free_ char *left = file_checksum(t.image), *zeros = NULL;
        _cleanup_free_ char *blank = fixture_image(&fixture, "zeros", SIZE);
        zeros = file_checksum(blank);
        cr_assert_str_eq(left, zeros, "the refused image was written to");
        cr_assert_eq(block_forget(&t.mounter, &t.storage, &err), 0, "%s", err.text);
        _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
        cr_assert_eq(a.r, 0, "after it was forgotten: %s", a.error.text);
        block_volume_done(&t);
}

/* --- content that changes between proof and mkfs --- */

static void write_text_late(BlockVolume *t)
{
        if (t->verifies == 2) /* the one right before mkfs */
                file_write_at(t->image, 12 * MIB, "late", 4);
}

static const char luks_magic[] = "LUKS\xba\xbe\0\1"; /* version 1: all that libblkid asks for */

static void write_luks_late(BlockVolume *t)
{
        if (t->verifies == 2)
                file_write_at(t->device, 0, luks_magic, sizeof(luks_magic));
}

static void write_after_extents(BlockVolume *t)
{
        /* within the clock tick of the first verify, if it had not been waited for */
        file_write_at(t->image, 12 * MIB, "late", 4);
}

static void expect_change_noticed(BlockVolume *t, uint64_t offset, const char *data, const char *what)
{
        char found[16] = "";

        _cleanup_answer_ BlockAnswer a = block_volume_format(t);
        cr_assert_eq(a.error.code, ERROR_DEVICE_CHANGED, "%s: %s: %s", what, error_code_name(a.error.code),
                     str_or(a.error.text, "formatted"));
        cr_assert_eq(t->progress_mkfs, 0, "%s: mkfs ran", what);
        cr_assert(!block_volume_has_intent(t), "%s: an intent was left, and the next try would need no proof", what);

        _cleanup_close_ int fd = open(t->image, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && fsync(fd) >= 0);
        cr_assert(pread(fd, found, strlen(data), (off_t) offset) > 0);
        cr_assert_str_eq(found, data, "%s: the late data was lost", what);

        _cleanup_answer_ BlockAnswer b = block_volume_format(t);
        cr_assert_eq(b.error.code, ERROR_NOT_BLANK, "%s: the next try: %s", what, str_or(b.error.text, "formatted"));
}

Test(format, change_without_signature)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "late", SIZE), "ext4");
        t.on_verify = write_text_late;
        expect_change_noticed(&t, 12 * MIB, "late", "text");
        block_volume_done(&t);
}

/* The storage's version tells nothing here: the last look alone has to see it. */
Test(format, change_with_signature)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "late", SIZE), "ext4");
        t.on_verify = write_luks_late;
        t.version = "constant";
        expect_change_noticed(&t, 0, "LUKS", "LUKS");
        block_volume_done(&t);
}

/* A write right after the version was read: in the same tick of a coarse clock it would get the same time stamp. */
Test(format, change_within_a_clock_tick)
{
        for (unsigned i = 0; i < 20; i++) {
                BlockVolume t;
                char name[16];

                snprintf(name, sizeof(name), "tick%u", i);
                block_volume_init(&t, &fixture, fixture_image(&fixture, name, SIZE), "ext4");
                t.on_extents = write_after_extents;
                t.hide_extents = true; /* so that the proof passes it by */
                _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
                cr_assert_eq(a.error.code, ERROR_DEVICE_CHANGED, "try %u: %s", i, str_or(a.error.text, "formatted"));
                block_volume_done(&t);
        }
}

static void grow_late(BlockVolume *t)
{
        if (t->verifies != 2)
                return;
        file_write_at(t->image, SIZE + 12 * MIB, "late", 4);
        cr_assert_eq(truncate(t->image, (off_t) (2 * SIZE)), 0);
        RUN_OK("losetup", "--set-capacity", t->device);
}

/* mkfs takes all that the device has, and what it had grown by when the storage had been asked last nobody has read. */
Test(format, growth_between_proof_and_mkfs)
{
        static const char *const versions[] = { NULL, "constant" };

        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                BlockVolume t;
                char name[16];

                snprintf(name, sizeof(name), "grown%zu", i);
                block_volume_init(&t, &fixture, fixture_image(&fixture, name, SIZE), "ext4");
                t.on_verify = grow_late;
                t.version = versions[i];
                expect_change_noticed(&t, SIZE + 12 * MIB, "late", "growth");
                block_volume_done(&t);
        }
}

static void write_through_device(BlockVolume *t)
{
        if (t->extents == 1)
                file_write_at(t->device, 20 * MIB, "dirty", 5); /* stays in the device's page cache */
}

/* What is dirty in the device's page cache is not in the image yet, and counts all the same. */
Test(format, change_in_the_page_cache)
{
        BlockVolume t;

        block_volume_init(&t, &fixture, fixture_image(&fixture, "cache", SIZE), "ext4");
        t.on_extents = write_through_device;
        t.hide_extents = true;
        {
                _cleanup_answer_ BlockAnswer a = block_volume_format(&t);
                cr_assert_eq(a.error.code, ERROR_DEVICE_CHANGED, "%s", str_or(a.error.text, "formatted"));
        }
        t.hide_extents = false;
        _cleanup_answer_ BlockAnswer b = block_volume_format(&t);
        cr_assert_eq(b.error.code, ERROR_NOT_BLANK, "%s", str_or(b.error.text, "formatted"));
        cr_assert(strstr(b.error.text, "20971520"), "%s", b.error.text);
        block_volume_done(&t);
}

/* The opposite: zeros in the page cache, data below. The device is held open so that its cache stays. */
Test(format, stale_page_cache)
{
        BlockVolume t;
        char buffer[65536];

        block_volume_init(&t, &fixture, fixture_image(&fixture, "stale", SIZE), "ext4");
        _cleanup_close_ int fd = open(t.device, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        for (unsigned i = 0; i < 64; i++)
                cr_assert_eq(pread(fd, buffer, sizeof(buffer), (off_t) (i * sizeof(buffer))), (ssize_t) sizeof(buffer));
        file_write_at(t.image, 0, luks_magic, sizeof(luks_magic));
        cr_assert_eq(pread(fd, buffer, 10, 0), 10);
        cr_assert_eq(buffer[0], 0, "the page cache is not stale, so this shows nothing");
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
        cr_assert_eq(a.error.code, ERROR_NOT_BLANK, "%s", str_or(a.error.text, "to be formatted"));
        cr_assert(strstr(a.error.text, "crypto_LUKS"), "%s", a.error.text);
        fd = close_fd(fd);
        block_volume_done(&t);
}

/* --- checks --- */

static void put_le16_at(const char *image, uint64_t offset, unsigned value)
{
        uint8_t b[2];

        put_le(b, value, 2);
        file_write_at(image, offset, b, 2);
}

/* An ext2 that was not unmounted and an ext file system with recorded errors are checked first, others are not. */
Test(format, fsck_when_the_superblock_asks)
{
        static const struct {
                const char *fs_type;
                unsigned state;
                const char *next;
        } cases[] = {
                { "ext2", 1, "" }, { "ext2", 0, "fsck" }, { "ext2", 3, "fsck" }, { "ext3", 1, "" }, { "ext3", 3, "fsck" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                BlockVolume t;
                char *image = fixture_image_formatted(&fixture, "fsck", SIZE, cases[i].fs_type);

                put_le16_at(image, 1024 + 0x3a, cases[i].state);
                put_le16_at(image, 1024 + 0x34, 50); /* s_mnt_count above s_max_mnt_count: no reason */
                put_le16_at(image, 1024 + 0x36, 20);
                block_volume_init(&t, &fixture, image, cases[i].fs_type);
                {
                        _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                        cr_assert_eq(a.r, 0, "%s", a.error.text);
                        cr_assert_str_eq(str_or(a.result.next, ""), cases[i].next, "%s with state %u", cases[i].fs_type,
                                         cases[i].state);
                }
                _cleanup_answer_ BlockAnswer b = block_volume_mount(&t);
                block_volume_done(&t);
                _cleanup_free_ char *path = text_of("%s/fsck", fixture.image_dir);
                cr_assert_eq(unlink(path), 0);
        }
}

/* Damage that e2fsck -p must not decide about: exit status 4 or more, and nothing is mounted. */
Test(format, fsck_that_fails)
{
        BlockVolume t;
        MounterResult r = {};
        _cleanup_error_ Error err = ERROR_INIT;
        char *image = fixture_image_formatted(&fixture, "broken", SIZE, "ext2");

        RUN_OK("debugfs", "-w", "-R", "clri <2>", image);
        RUN_OK("debugfs", "-w", "-R", "ssv state 2", image);
        block_volume_init(&t, &fixture, image, "ext2");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&t);
                cr_assert_str_eq(str_or(a.result.next, ""), "fsck", "%s", str_or(a.error.text, ""));
        }
        cr_assert(block_fsck(&t.mounter, &t.volume, &r, &err) < 0);
        cr_assert_eq(err.code, ERROR_FSCK_FAILED, "%s", err.text);
        cr_assert(strstr(err.text, "exit status 4"), "%s", err.text);
        cr_assert_eq(fixture_count_mounts(t.volume.staging_path), 0);
        block_volume_done(&t);
}

Test(format, fsck_of_a_mounted_file_system)
{
        BlockVolume t;
        MounterResult r = {};
        _cleanup_error_ Error err = ERROR_INIT;

        block_volume_init(&t, &fixture, fixture_image_formatted(&fixture, "mounted", SIZE, "ext4"), "ext4");
        _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
        cr_assert(block_fsck(&t.mounter, &t.volume, &r, &err) < 0);
        cr_assert_eq(err.code, ERROR_BUSY, "%s", err.text);
        block_volume_done(&t);
}

/* An image as it is when its node crashed: copied while mounted, its journal not replayed. */
Test(format, journal_on_a_read_only_device)
{
        BlockVolume t, copy;
        _cleanup_free_ char *file = NULL;
        char *image = text_of("%s/copy", fixture.image_dir);

        block_volume_init(&t, &fixture, fixture_image_formatted(&fixture, "crashed", SIZE, "ext4"), "ext4");
        {
                _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
        }
        file = text_of("%s/file", t.volume.staging_path);
        write_text(file, "x");
        RUN_OK("sync", "--file-system", file);
        RUN_OK("cp", "--sparse=always", t.image, image);
        block_volume_done(&t);

        block_volume_init(&copy, &fixture, image, "ext4");
        RUN_OK("blockdev", "--setro", copy.device);
        copy.volume.read_only = true;
        {
                _cleanup_answer_ BlockAnswer a = block_volume_stage(&copy);
                cr_assert_eq(a.error.code, ERROR_MOUNT_FAILED, "%s", str_or(a.error.text, "mounted"));
                cr_assert(strstr(a.error.text, "journal"), "%s", a.error.text);
        }
        RUN_OK("blockdev", "--setrw", copy.device);
        copy.volume.read_only = false;
        _cleanup_answer_ BlockAnswer a = block_volume_stage(&copy);
        cr_assert_eq(a.r, 0, "%s", a.error.text);
        cr_assert_null(a.result.next, "a journal to replay is no reason for %s", a.result.next);
        block_volume_done(&copy);
}

/* --- growing --- */

/* Whether this process may do what CAP_SYS_RESOURCE allows: the kernel asks for it when an ext is grown while mounted. */
static bool has_cap_sys_resource(void)
{
        _cleanup_free_ char *status = read_text("/proc/self/status");
        const char *line = strstr(status, "CapEff:");

        cr_assert_not_null(line);
        return strtoull(line + strlen("CapEff:"), NULL, 16) & (1ULL << 24);
}

static void image_resize(BlockVolume *t, uint64_t size)
{
        cr_assert_eq(truncate(t->image, (off_t) size), 0);
        RUN_OK("losetup", "--set-capacity", t->device);
}

static void expect_grow_steps(BlockVolume *t, const char *fs_type, uint64_t from, uint64_t to)
{
        _cleanup_error_ Error err = ERROR_INIT;
        struct statvfs before, after;

        cr_assert_eq(statvfs(t->volume.staging_path, &before), 0);
        for (unsigned i = 0; i < 3; i++) { /* the first time nothing is to be done, the third nothing more */
                MounterResult r = {};
                if (i == 1)
                        image_resize(t, to);
                int q = block_grow(&t->mounter, &t->volume, &r, &err);
                if (i > 0 && fs_type_is_ext(fs_type) && !has_cap_sys_resource()) {
                        cr_assert_eq(err.code, ERROR_GROW_FAILED);
                        cr_assert(strstr(err.text, "Permission denied to resize"), "%s", err.text);
                        return;
                }
                cr_assert_eq(q, 0, "%s: %s", fs_type, err.text);
                cr_assert_eq(r.size, i == 0 ? from : to);
        }
        cr_assert_eq(statvfs(t->volume.staging_path, &after), 0);
        cr_assert(after.f_blocks * after.f_frsize > before.f_blocks * before.f_frsize + (to - from) * 9 / 10,
                  "%s did not grow", fs_type);
}

static void expect_grown(const char *fs_type, uint64_t from, uint64_t to)
{
        BlockVolume t;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *file = NULL, *content = NULL;

        block_volume_init(&t, &fixture, fixture_image(&fixture, fs_type, from), fs_type);
        _cleanup_answer_ BlockAnswer a = block_volume_mount(&t);
        file = text_of("%s/file", t.volume.staging_path);
        write_text(file, "kept");
        expect_grow_steps(&t, fs_type, from, to);

        /* A device that has become smaller: refused, and not handed to a tool that would shrink to it. */
        image_resize(&t, from - 8 * MIB);
        MounterResult r = {};
        cr_assert(block_grow(&t.mounter, &t.volume, &r, &err) < 0);
        cr_assert_eq(err.code, ERROR_SHRINK, "%s: %s", fs_type, err.text);
        image_resize(&t, to);
        content = read_text(file);
        cr_assert_str_eq(content, "kept");
        block_volume_done(&t);
}

Test(format, grow)
{
        expect_grown("ext4", 64 * MIB, 192 * MIB);
        expect_grown("ext2", 64 * MIB, 192 * MIB);
        expect_grown("xfs", 320 * MIB, 640 * MIB);
        expect_grown("btrfs", 256 * MIB, 512 * MIB);
}
