/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A volume on a real loop device (see block-volume.h). The two callbacks of its storage do what the loop mounter's
 * do, so that what is shown holds for it: extents by SEEK_DATA after an fsync, the version from the change time.
 */

#include "block-volume.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mount.h>

#include "base/fd.h"

static BlockVolume *current; /* one a process: Criterion runs each test in its own */

/* Stands where serve.c's sends a D-Bus signal: there is no connection here. */
void mounter_progress(Mounter *m, const char *step, uint64_t done, uint64_t total)
{
        if (!current)
                return;
        if (strcmp(step, "proof") == 0)
                current->progress_proof++;
        if (strcmp(step, "mkfs") == 0)
                current->progress_mkfs++;
        cr_assert(done <= total, "step %s: %" PRIu64 " of %" PRIu64, step, done, total);
}

static int image_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        BlockVolume *t = userdata;

        t->extents++;
        if (t->on_extents)
                t->on_extents(t);
        if (t->hide_extents)
                return 0;
        _cleanup_close_ int fd = open(t->image, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot open %s", t->image);
        int q = block_check_size(t->image, (uint64_t) lseek(fd, 0, SEEK_END), size, err);
        if (q < 0)
                return q;
        for (off_t end = 0;;) {
                off_t start = lseek(fd, end, SEEK_DATA);
                if (start < 0)
                        return errno == ENXIO ? 0 : error_set(err, ERROR_DEVICE_ERROR, errno, "SEEK_DATA");
                end = lseek(fd, start, SEEK_HOLE);
                int r = found(&(BlockExtent) { (uint64_t) start, (uint64_t) (end - start) }, arg);
                if (r < 0)
                        return r;
        }
}

static int image_verify(void *userdata, uint64_t size, char **ret_version, Error *err)
{
        BlockVolume *t = userdata;
        struct stat st;

        t->verifies++;
        if (t->on_verify)
                t->on_verify(t);
        if (t->version) {
                *ret_version = strdup(t->version);
                return *ret_version ? 0 : error_oom(err);
        }
        if (stat(t->image, &st) < 0)
                return error_set(err, ERROR_DEVICE_CHANGED, errno, "Cannot stat %s", t->image);
        int r = block_check_size(t->image, (uint64_t) st.st_size, size, err);
        if (r < 0)
                return r;
        if (asprintf(ret_version, "%lld.%09ld %lld", (long long) st.st_ctim.tv_sec, st.st_ctim.tv_nsec,
                     (long long) st.st_size) < 0)
                return error_oom(err);
        return 0;
}

void block_volume_attach(BlockVolume *t)
{
        struct stat st;

        free(t->device);
        t->device = NULL;
        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", t->image, NULL }, &t->device, NULL), 0,
                     "losetup of %s", t->image);
        t->device[strcspn(t->device, "\n")] = 0;
        cr_assert_eq(stat(t->device, &st), 0, "stat of %s", t->device);
        t->volume.device = t->device;
        t->volume.device_number = st.st_rdev;
}

void block_volume_detach(BlockVolume *t)
{
        if (t->volume.device)
                RUN_OK("losetup", "--detach", t->device);
        t->volume.device = NULL;
}

void block_volume_init(BlockVolume *t, Fixture *f, char *image, const char *fs_type)
{
        static unsigned n;
        struct stat st;

        *t = (BlockVolume) { .fixture = f, .image = image };
        current = t;
        cr_assert_eq(stat(image, &st), 0);
        /* An inode number alone names nothing for ever: the next file may get it. */
        cr_assert(asprintf(&t->lasting_id, "test-%ju-%u", (uintmax_t) st.st_ino, ++n) > 0);
        t->storage = (BlockStorage) { .extents = image_extents,
                                      .verify = image_verify,
                                      .userdata = t,
                                      .lasting_id = t->lasting_id };
        cr_assert_eq(settings_defaults(&t->mounter.settings), 0);
        cr_assert(mkdir_parents(f->state_dir, 0700) >= 0);
        t->mounter.runtime_fd = t->mounter.lock_fd = -EBADF;
        t->mounter.state_fd = open(f->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(t->mounter.state_fd >= 0);
        t->volume.key = strdup("test-key");
        cr_assert(asprintf(&t->volume.identity, "test:%s", t->lasting_id) > 0);
        t->volume.fs_type = strdup(fs_type);
        cr_assert(asprintf(&t->volume.staging_path, "%s/staging-%s", f->dir, t->lasting_id) > 0);
        block_volume_attach(t);
}

void block_volume_unmount(BlockVolume *t)
{
        cr_assert_eq(umount2(t->volume.staging_path, UMOUNT_NOFOLLOW), 0, "umount of %s: %s",
                     t->volume.staging_path, strerror(errno));
        cr_assert_eq(rmdir(t->volume.staging_path), 0);
}

void block_volume_done(BlockVolume *t)
{
        if (fixture_count_mounts(t->volume.staging_path) > 0)
                block_volume_unmount(t);
        block_volume_detach(t);
        close_fd(t->mounter.state_fd);
        settings_done(&t->mounter.settings);
        free(t->volume.key);
        free(t->volume.identity);
        free(t->volume.fs_type);
        free(t->volume.staging_path);
        free(t->lasting_id);
        free(t->device);
        free(t->image);
        *t = (BlockVolume) {};
        current = NULL;
}

void block_answer_done(BlockAnswer *a)
{
        free(a->result.fs_type);
        free(a->result.uuid);
        error_done(&a->error);
}

BlockAnswer block_volume_stage(BlockVolume *t)
{
        BlockAnswer a = {};

        a.r = block_stage(&t->mounter, &t->volume, &t->storage, &a.result, &a.error);
        cr_assert_eq(a.r < 0, error_is_set(&a.error), "stage answered %d with the error %s", a.r,
                     error_code_name(a.error.code));
        return a;
}

BlockAnswer block_volume_format(BlockVolume *t)
{
        BlockAnswer a = {};

        a.r = block_format(&t->mounter, &t->volume, &t->storage, &a.result, &a.error);
        cr_assert_eq(a.r < 0, error_is_set(&a.error), "format answered %d with the error %s", a.r,
                     error_code_name(a.error.code));
        return a;
}

BlockAnswer block_volume_mount(BlockVolume *t)
{
        for (unsigned i = 0; i < 3; i++) {
                BlockAnswer a = block_volume_stage(t);
                cr_assert_eq(a.r, 0, "stage: %s: %s", error_code_name(a.error.code), a.error.text);
                if (!a.result.next)
                        return a;
                if (strcmp(a.result.next, "format") == 0) {
                        _cleanup_answer_ BlockAnswer made = block_volume_format(t);
                        cr_assert_eq(made.r, 0, "format: %s: %s", error_code_name(made.error.code), made.error.text);
                } else {
                        MounterResult r = {};
                        Error err = ERROR_INIT;
                        cr_assert_eq(block_fsck(&t->mounter, &t->volume, &r, &err), 0, "fsck: %s", err.text);
                }
                block_answer_done(&a);
        }
        cr_assert_fail("stage asks for ever more steps");
        return (BlockAnswer) {};
}

char *block_volume_state_file(BlockVolume *t, const char *directory)
{
        char *path = NULL;

        cr_assert(asprintf(&path, "%s/%s/%s.json", t->fixture->state_dir, directory, t->lasting_id) > 0);
        return path;
}

bool block_volume_has_intent(BlockVolume *t)
{
        _cleanup_free_ char *path = block_volume_state_file(t, "formats");

        return access(path, F_OK) == 0;
}

bool block_volume_has_memory(BlockVolume *t)
{
        _cleanup_free_ char *path = block_volume_state_file(t, "volumes");

        return access(path, F_OK) == 0;
}

void file_write_at(const char *path, uint64_t offset, const void *data, size_t size)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        cr_assert(fd >= 0, "open %s: %s", path, strerror(errno));
        cr_assert_eq(pwrite(fd, data, size, (off_t) offset), (ssize_t) size, "write to %s: %s", path, strerror(errno));
}
