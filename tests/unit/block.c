/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The parts of mounters/block that need neither root nor a device: the proof of blankness and the probes on plain files,
 * the lasting memory, the names and sizes of file systems.
 */

#include <criterion/criterion.h>

#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/strmap.h"
#include "mounters/block/internal.h"

#define MIB (1024ULL * 1024)

static uint64_t progress_done, progress_total;

/* Stands where serve.c's sends a D-Bus signal. */
void mounter_progress(Mounter *m, const char *step, uint64_t done, uint64_t total)
{
        progress_done = done;
        progress_total = total;
}

static int file_make(uint64_t size)
{
        char path[] = "/var/tmp/berth-unit.XXXXXX";
        int fd = mkostemp(path, O_CLOEXEC);

        cr_assert(fd >= 0);
        cr_assert_eq(unlink(path), 0);
        cr_assert_eq(ftruncate(fd, (off_t) size), 0);
        return fd;
}

typedef struct Extents {
        const BlockExtent *items;
        size_t n;
        int error;
} Extents;

static int extents_report(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        const Extents *x = userdata;

        for (size_t i = 0; i < x->n; i++) {
                int r = found(&x->items[i], arg);
                if (r < 0)
                        return r;
        }
        return x->error;
}

static ErrorCode prove(int fd, uint64_t size, const Extents *x, uint64_t max, Error *err)
{
        Mounter m = { .settings.max_proof_bytes = max };
        BlockStorage s = { .extents = x ? extents_report : NULL, .userdata = (void *) x };

        error_done(err);
        progress_done = progress_total = 0;
        int r = block_prove_blank(&m, fd, size, &s, err);
        cr_assert_eq(r < 0, error_is_set(err));
        return err->code;
}

Test(block, proof_reads_everything_without_extents)
{
        _cleanup_error_ Error err = ERROR_INIT;
        uint64_t size = 9 * MIB + 512; /* no multiple of any chunk */
        _cleanup_close_ int fd = file_make(size);

        cr_assert_eq(prove(fd, size, NULL, UINT64_MAX, &err), ERROR_NONE, "%s", err.text);
        cr_assert_eq(progress_done, size);
        cr_assert_eq(progress_total, size);
        for (uint64_t at = 0; at < size; at += 700001) {
                cr_assert_eq(pwrite(fd, "\x80", 1, (off_t) at), 1);
                cr_assert_eq(prove(fd, size, NULL, UINT64_MAX, &err), ERROR_NOT_BLANK);
                _cleanup_free_ char *where = NULL;
                cr_assert(asprintf(&where, "offset %llu is 0x80", (unsigned long long) at) > 0);
                cr_assert(strstr(err.text, where), "no '%s' in: %s", where, err.text);
                cr_assert_eq(pwrite(fd, "", 1, (off_t) at), 1);
        }
        cr_assert_eq(pwrite(fd, "\1", 1, (off_t) size - 1), 1);
        cr_assert_eq(prove(fd, size, NULL, UINT64_MAX, &err), ERROR_NOT_BLANK);
}

Test(block, proof_counts_and_clips_extents)
{
        static const BlockExtent items[] = {
                { 0, 4096 }, { 4096, 4096 }, { 8000, 1000 }, { 1 * MIB, 1 }, { 2 * MIB, 0 },
                { 4 * MIB - 512, 8 * MIB }, { 9 * MIB, 4096 }, { UINT64_MAX - 100, 50 },
        };
        Extents x = { items, ELEMENTSOF(items), 0 };
        _cleanup_error_ Error err = ERROR_INIT;
        uint64_t size = 4 * MIB;
        _cleanup_close_ int fd = file_make(size);

        /* 12288 at the start, one page at 1 MiB, the last page */
        cr_assert_eq(prove(fd, size, &x, 12288 + 4096 + 4096, &err), ERROR_NONE, "%s", err.text);
        cr_assert_eq(progress_total, 12288 + 4096 + 4096);
        cr_assert_eq(progress_done, progress_total);
        cr_assert_eq(prove(fd, size, &x, 12288 + 4096 + 4095, &err), ERROR_PROOF_TOO_LARGE);
        cr_assert_eq(pwrite(fd, "x", 1, (off_t) size - 1), 1);
        cr_assert_eq(prove(fd, size, &x, UINT64_MAX, &err), ERROR_NOT_BLANK);
}

Test(block, proof_reads_everything_when_the_storage_cannot_tell)
{
        static const BlockExtent items[] = { { 0, 4096 } };
        Extents x = { items, 1, -EOPNOTSUPP }; /* after it had begun */
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_close_ int fd = file_make(MIB);

        cr_assert_eq(prove(fd, MIB, &x, UINT64_MAX, &err), ERROR_NONE, "%s", err.text);
        cr_assert_eq(progress_total, MIB);
        x.error = -EIO;
        cr_assert_eq(prove(fd, MIB, &x, UINT64_MAX, &err), ERROR_DEVICE_ERROR);
}

Test(block, proof_refuses_other_sizes)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_close_ int fd = file_make(MIB), empty = file_make(0);

        cr_assert_eq(prove(fd, 2 * MIB, NULL, UINT64_MAX, &err), ERROR_DEVICE_CHANGED);
        cr_assert_eq(prove(fd, MIB / 2, NULL, UINT64_MAX, &err), ERROR_DEVICE_CHANGED);
        cr_assert_eq(prove(empty, 0, NULL, UINT64_MAX, &err), ERROR_DEVICE_ERROR);
}

Test(block, probe_of_nothing)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_close_ int fd = file_make(MIB), empty = file_make(0);
        ProbeResult p = {};

        cr_assert_eq(block_probe_full(fd, "ext4", &p, &err), 0, "%s", err.text);
        cr_assert_eq(p.outcome, PROBE_NOTHING);
        cr_assert_eq(block_probe_expected(fd, "ext4", &p, &err), 0, "%s", err.text);
        cr_assert_eq(p.outcome, PROBE_NOTHING);
        cr_assert(block_probe_full(empty, "ext4", &p, &err) < 0);
        cr_assert_eq(err.code, ERROR_DEVICE_ERROR);
}

Test(block, file_system_types)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_str_eq(block_fs_type("", &err), "ext4");
        cr_assert_str_eq(block_fs_type("btrfs", &err), "btrfs");
        cr_assert_null(block_fs_type("vfat", &err));
        cr_assert_eq(err.code, ERROR_UNKNOWN_FILESYSTEM);
        cr_assert_eq(block_minimum_size("vfat"), 0);
        cr_assert_eq(block_minimum_size(NULL), 0);
        cr_assert_eq(block_minimum_size("xfs"), 300 * MIB);
}

Test(block, uuids)
{
        char a[37], b[37];

        block_new_uuid(a);
        block_new_uuid(b);
        cr_assert_str_neq(a, b);
        cr_assert_eq(strlen(a), 36);
        cr_assert_eq(a[14], '4');
        cr_assert_not_null(strchr("89ab", a[19]));
}

static Mounter mounter_make(void)
{
        char path[] = "/var/tmp/berth-unit.XXXXXX";
        Mounter m = { .runtime_fd = -EBADF, .lock_fd = -EBADF };

        cr_assert_not_null(mkdtemp(path));
        m.state_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(m.state_fd >= 0);
        return m;
}

static void mounter_remove(Mounter *m)
{
        char link[32], path[PATH_MAX];

        snprintf(link, sizeof(link), "/proc/self/fd/%d", m->state_fd);
        ssize_t n = readlink(link, path, sizeof(path) - 1);
        cr_assert(n > 0);
        path[n] = 0;
        unlinkat(m->state_fd, "volumes", AT_REMOVEDIR);
        unlinkat(m->state_fd, "formats", AT_REMOVEDIR);
        cr_assert_eq(rmdir(path), 0, "something was left in %s", path);
        close_fd(m->state_fd);
}

Test(block, memory)
{
        Mounter m = mounter_make();
        _cleanup_error_ Error err = ERROR_INIT;
        struct stat st;

        cr_assert_eq(block_was_formatted(&m, &(BlockStorage) { .lasting_id = "image-1" }, &err), 0);
        cr_assert_eq(block_remember(&m, &(BlockStorage) { .lasting_id = "image-1" }, NULL, "ext4", "uuid", 42, &err), 0, "%s", err.text);
        cr_assert_eq(block_was_formatted(&m, &(BlockStorage) { .lasting_id = "image-1" }, &err), 1);
        cr_assert_eq(block_was_formatted(&m, &(BlockStorage) { .lasting_id = "image-2" }, &err), 0);
        cr_assert_eq(fstatat(m.state_fd, "volumes", &st, 0), 0);
        cr_assert_eq(st.st_mode & 07777, 0700);
        cr_assert_eq(fstatat(m.state_fd, "volumes/image-1.json", &st, 0), 0);
        cr_assert_eq(st.st_mode & 07777, 0600);
        cr_assert_eq(block_forget(&m, &(BlockStorage) { .lasting_id = "image-1" }, &err), 0);
        cr_assert_eq(block_forget(&m, &(BlockStorage) { .lasting_id = "image-1" }, &err), 0, "a repeat failed");
        cr_assert_eq(block_was_formatted(&m, &(BlockStorage) { .lasting_id = "image-1" }, &err), 0);
        mounter_remove(&m);
}

/* A name that could lead elsewhere is never used; asked whether it was formatted, the answer is the safe one. */
Test(block, lasting_names)
{
        static const char *const names[] = { "", ".", "..", "../x", "a/b", ".hidden", "a b", "a\n" };
        Mounter m = mounter_make();
        _cleanup_error_ Error err = ERROR_INIT;

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                cr_assert_null(state_file_name(names[i]), "'%s'", names[i]);
                cr_assert(block_remember(&m, &(BlockStorage) { .lasting_id = names[i] }, NULL, "ext4", "uuid", 42, &err) < 0);
                cr_assert_eq(err.code, ERROR_RECORD_FAILED);
                cr_assert_eq(block_was_formatted(&m, &(BlockStorage) { .lasting_id = names[i] }, &err), 1);
                cr_assert_eq(intent_exists(&m, &(BlockStorage) { .lasting_id = names[i] }, &err), 1);
        }
        mounter_remove(&m);
}
