/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Other people's hands: what an operator, a full disk or a bad one does to volumes while pods use them. Each test says in which
 * state it ends, and that each request meanwhile gets a clear error and later ones succeed. Real berthd, real mounters, real devices.
 *
 * Not here, since it would harm the machine: the clock set back and forward, no memory for a process, and the loop module gone
 * are cases of tests/vm. That timers go on while a machine is suspended is seen to by tests/check/clocks. A kernel without a free loop device cannot be made (it makes a new one whenever it is asked); a machine on which none can be asked
 * for stands in for it.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "fixture/internal.h"

#define MIB (UINT64_C(1) << 20)
#define CONFIG "[Agent]\nLingerSec=1\nReconcileIntervalSec=1\n"
#define GONE_SECONDS 8.0
#define EXT4_SHUTDOWN _IOR('X', 125, uint32_t) /* EXT4_IOC_SHUTDOWN, the same as xfs has */

typedef struct Scene {
        Fixture f;
        char *image, *target, *two, *key, *device, *stage;
        Volume v;
} Scene;

/* One volume of that file system, mounted for one pod; a directory for a second pod. */
static void scene_init(Scene *s, const char *config, const char *fs_type)
{
        *s = (Scene) {};
        fixture_init(&s->f);
        fixture_start(&s->f, config);
        s->image = fixture_image_formatted(&s->f, "a", (strcmp(fs_type, "xfs") == 0 ? 320 : 64) * MIB, fs_type);
        s->target = fixture_target(&s->f, "uid-1", "v");
        s->two = fixture_target(&s->f, "uid-2", "v");
        s->v = (Volume) { .image = s->image, .fs_type = fs_type };
}

static void scene_mount(Scene *s)
{
        mount_ok(&s->f, s->target, &s->v);
        write_line(s->target, "file", "kept");
        free(s->key);
        free(s->device);
        free(s->stage);
        s->key = volume_property(&s->f, s->target, "Key");
        s->device = volume_property(&s->f, s->target, "Device");
        s->stage = volume_property(&s->f, s->target, "StagingPath");
}

static void scene_end(Scene *s)
{
        wait_clean(&s->f, GONE_SECONDS);
        cr_assert_eq(count_volumes(&s->f), 0);
        fixture_done(&s->f);
        free(s->image);
        free(s->target);
        free(s->two);
        free(s->key);
        free(s->device);
        free(s->stage);
}

/* The volume is as it was, and everything goes with its pods. */
static void scene_done(Scene *s)
{
        mount_ok(&s->f, s->target, &s->v);
        expect_line(s->target, "file", "kept");
        write_line(s->target, "again", "written");
        unmount_ok(&s->f, s->target);
        scene_end(s);
}

typedef struct Attempt {
        Scene *s;
        const char *target;
        ErrorCode meanwhile; /* the one error that is allowed until it succeeds */
} Attempt;

static bool mounts(void *arg)
{
        const Attempt *a = arg;
        _cleanup_free_ char *text = NULL;
        ErrorCode code = try_mount(&a->s->f, a->target, &a->s->v, &text);

        cr_assert(code == ERROR_NONE || code == a->meanwhile, "meanwhile: %s: %s", error_code_name(code), text);
        cr_assert_eq(fixture_count_mounts(a->target), code == ERROR_NONE);
        return code == ERROR_NONE;
}

/* Nothing is left but what the test itself has mounted. */
static bool is_idle(void *arg)
{
        Fixture *f = arg;

        return count_volumes(f) == 0 && fixture_count_loops(f) == 0;
}

/* Unmounts it. A mounter ends a moment after its agent. */
static bool can_be_unmounted(void *arg)
{
        return umount2(arg, 0) >= 0;
}

typedef struct Wanted {
        Scene *s;
        const char *property, *part;
} Wanted;

static bool property_is(void *arg)
{
        const Wanted *w = arg;
        _cleanup_free_ char *value = volume_property(&w->s->f, w->s->key, w->property);

        return strstr(value, w->part);
}

static bool is_unmounted(void *arg)
{
        return fixture_count_mounts(arg) == 0;
}

/* ---- umount ---- */

Test(hands, umount_of_the_target)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        /* the repeat comes before the agent has seen it: it is not taken for a success */
        cr_assert(umount2(s.target, 0) >= 0);
        mount_ok(&s.f, s.target, &s.v);
        expect_line(s.target, "file", "kept");
        cr_assert_eq(fixture_count_mounts(s.target), 1);

        /* and so may the unmount */
        cr_assert(umount2(s.target, 0) >= 0);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

Test(hands, umount_of_the_staging_path)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        cr_assert(umount2(s.stage, 0) >= 0);
        mount_ok(&s.f, s.two, &s.v); /* at once: it is staged anew */
        expect_line(s.two, "file", "kept");
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        unmount_ok(&s.f, s.target);
        unmount_ok(&s.f, s.two);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

Test(hands, umount_of_everything_again_and_again)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        for (unsigned i = 0; i < 5; i++) {
                cr_assert(umount2(s.target, 0) >= 0 && umount2(s.stage, 0) >= 0);
                if (i % 2)
                        RUN_OK("losetup", "-d", s.device);
                mount_ok(&s.f, s.target, &s.v);
                expect_line(s.target, "file", "kept");
                free(s.device);
                s.device = volume_property(&s.f, s.target, "Device");
                cr_assert_eq(fixture_count_loops(&s.f), 1);
        }
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* ---- losetup -d ---- */

/* The kernel lets go with the last user only: the pod notices nothing. */
Test(hands, losetup_d_of_a_mounted_device)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        RUN_OK("losetup", "-d", s.device);
        expect_line(s.target, "file", "kept");
        mount_ok(&s.f, s.two, &s.v);
        expect_line(s.two, "file", "kept");
        cr_assert_eq(fixture_count_loops(&s.f), 1, "the image has two devices");
        unmount_ok(&s.f, s.two);
        write_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/*
 * Binds the very device to another image. A mounter that has it open for a look keeps it for a moment; another program of
 * this machine may get it first: then it is at least gone.
 */
static bool is_given_away(const char *device, const char *image)
{
        static const struct timespec pause = { .tv_nsec = 20000000 };

        for (unsigned i = 0; i < 50; i++) {
                if (RUN("losetup", (char *) device, (char *) image) == 0)
                        return true;
                nanosleep(&pause, NULL);
        }
        return false;
}

Test(hands, losetup_d_of_an_attached_device)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        _cleanup_free_ char *first = NULL, *second = NULL;
        Volume named = s.v;
        named.name = "pv";

        cr_assert_eq(try_attach(&s.f, &named, &first, NULL), ERROR_NONE);
        RUN_OK("losetup", "-d", first);
        wait_until(property_is, &(Wanted) { &s, "State", "detaching" }, GONE_SECONDS, "the agent sees it");
        cr_assert_eq(try_attach(&s.f, &named, &second, NULL), ERROR_NONE);
        cr_assert_eq(fixture_count_loops(&s.f), 1);

        /* given away, to another image, and only then asked for */
        RUN_OK("losetup", "-d", second);
        _cleanup_free_ char *other = fixture_image(&s.f, "other", 16 * MIB);
        bool given_away = is_given_away(second, other);
        ErrorCode code = try_mount(&s.f, s.target, &named, NULL);
        cr_assert(code == ERROR_NONE || code == ERROR_DEVICE_CHANGED, "%s", error_code_name(code));
        wait_until(mounts, &(Attempt) { &s, s.target, ERROR_DEVICE_CHANGED }, GONE_SECONDS, "the pod is served");
        expect_line(s.target, "file", "kept");
        cr_assert_eq(try_detach(&s.f, "pv"), ERROR_NONE);
        unmount_ok(&s.f, s.target);
        if (given_away) {
                cr_assert_eq(fixture_count_loops(&s.f), 1, "the other's device was detached");
                RUN_OK("losetup", "-d", second);
        }
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* ---- the image ---- */

Test(hands, image_removed)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        cr_assert(unlink(s.image) >= 0);
        expect_line(s.target, "file", "kept");
        mount_refused(&s.f, s.two, &s.v, ERROR_IMAGE_NOT_FOUND, s.image);
        expect_line(s.target, "file", "kept");
        json_decref(BERTHCTL(&s.f, "reconcile"));
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        scene_end(&s);
}

/* And then the agent's memory too. The device can only be known for berth's own by the stage that lies on it. */
Test(hands, image_removed_and_record_lost)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);
        _cleanup_free_ char *record = format("%s/volumes/%s.json", s.f.runtime_dir, s.key);

        fixture_stop(&s.f, SIGKILL);
        cr_assert(unlink(s.image) >= 0 && unlink(record) >= 0);
        fixture_start(&s.f, CONFIG);
        json_decref(BERTHCTL(&s.f, "reconcile"));
        cr_assert_eq(count_volumes(&s.f), 1, "it was not adopted");
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        scene_end(&s);
}

Test(hands, another_image_under_its_name)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);

        cr_assert(unlink(s.image) >= 0);
        free(s.image);
        s.image = fixture_image_formatted(&s.f, "a", 32 * MIB, "ext4");
        s.v.image = s.image;
        mount_refused(&s.f, s.target, &s.v, ERROR_CONFLICT, "another volume");
        expect_line(s.target, "file", "kept");
        mount_ok(&s.f, s.two, &s.v);
        cr_assert_eq(fixture_count_loops(&s.f), 2);
        write_line(s.two, "file", "of the other");
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        unmount_ok(&s.f, s.two);
        scene_end(&s);
}

/*
 * What was cut off is lost. Whatever is left of it, and however it looks, it is never formatted: the data may yet be
 * restored from elsewhere.
 */
static void image_truncated(off_t size)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        free(s.image);
        s.image = fixture_image(&s.f, "blank", 64 * MIB); /* formatted by berth, which so knows that it was */
        s.v.image = s.image;
        gate_init(&s.f);
        gate_open(&s.f);
        scene_mount(&s);
        cr_assert_eq(gate_count(&s.f), 1);

        cr_assert(truncate(s.image, size) >= 0);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        for (unsigned i = 0; i < 3; i++) {
                _cleanup_free_ char *text = NULL;
                ErrorCode code = try_mount(&s.f, s.target, &s.v, &text);

                cr_assert(code != ERROR_INTERNAL && text && *text, "%s: %s", error_code_name(code), text);
                if (code == ERROR_NONE) { /* what is left may be enough for the kernel */
                        unmount_ok(&s.f, s.target);
                        continue;
                }
                cr_assert_eq(fixture_count_mounts(s.target), 0);
        }
        cr_assert_eq(gate_count(&s.f), 1, "what is left was formatted");
        gate_done(&s.f);
        scene_end(&s);
}

Test(hands, image_truncated_to_nothing)
{
        image_truncated(0);
}

Test(hands, image_truncated_to_half)
{
        image_truncated(32 * MIB);
}

/* While nothing had it attached: nothing of it is left at all. */
Test(hands, image_emptied_between_two_pods)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        free(s.image);
        s.image = fixture_image(&s.f, "blank", 64 * MIB);
        s.v.image = s.image;
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);

        cr_assert(truncate(s.image, 0) >= 0 && truncate(s.image, 64 * MIB) >= 0);
        mount_refused(&s.f, s.target, &s.v, ERROR_WAS_FORMATTED, NULL);
        scene_end(&s);
}

/* What an operator has formatted counts as much: berth has seen it. */
Test(hands, an_operators_image_emptied_between_two_pods)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);

        cr_assert(truncate(s.image, 0) >= 0 && truncate(s.image, 64 * MIB) >= 0);
        mount_refused(&s.f, s.target, &s.v, ERROR_WAS_FORMATTED, NULL);
        scene_end(&s);
}

/* ---- errors of the file system ---- */

/* As the kernel does on a metadata error; `errors=remount-ro` is set in the superblock. */
Test(hands, read_only_after_an_error)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        RUN_OK("tune2fs", "-e", "remount-ro", s.image);
        scene_mount(&s);
        _cleanup_free_ char *trigger = format("/sys/fs/ext4/%s/trigger_fs_error", s.device + strlen("/dev/")),
                            *file = format("%s/new", s.target);

        if (access(trigger, W_OK) < 0)
                cr_skip("the kernel cannot be asked to see an error: %s", strerror(errno));
        cr_assert_eq(RUN("sync", "--file-system", s.target), 0); /* what the journal does not hold yet is lost by such an error */
        write_text(trigger, "1");
        int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd < 0 && errno == EROFS);

        /* told, and left: a pod can still read */
        wait_until(property_is, &(Wanted) { &s, "Health", "degraded" }, GONE_SECONDS, "the agent sees it");
        wait_until(property_is, &(Wanted) { &s, "HealthReason", "read-only" }, GONE_SECONDS, "it is said why");
        json_decref(BERTHCTL(&s.f, "reconcile"));
        cr_assert_eq(fixture_count_mounts(s.target), 1);
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);

        /* the superblock remembers the error: the next pod's mount checks it first */
        scene_done(&s);
}

/* Everything below is EIO: the kubelet would take the target for mounted, so it is unmounted, and the repeat mounts afresh. */
static void shut_down(const char *fs_type)
{
        Scene s;
        scene_init(&s, CONFIG, fs_type);
        scene_mount(&s);
        mount_ok(&s.f, s.two, &s.v);
        uint32_t flags = 1; /* the log is written first, so that nothing of the test's data is lost */
        _cleanup_close_ int fd = open(s.target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        cr_assert(fd >= 0 && syncfs(fd) >= 0 && ioctl(fd, EXT4_SHUTDOWN, &flags) >= 0, "%s", strerror(errno));
        fd = close_fd(fd);
        wait_until(is_unmounted, s.target, GONE_SECONDS, "the corrupted mount is taken away");
        wait_until(is_unmounted, s.two, GONE_SECONDS, "the other pod's too");
        wait_until(mounts, &(Attempt) { &s, s.target, ERROR_MOUNT_FAILED }, GONE_SECONDS, "the pod is served");
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        unmount_ok(&s.f, s.two);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* A name keeps the device attached, and with it the corrupted stage: the next pod gets a fresh one all the same, and keeps it. */
Test(hands, shut_down_while_a_name_holds_it)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        s.v.name = "pv";
        _cleanup_free_ char *device = NULL;
        uint32_t flags = 1;

        cr_assert_eq(try_attach(&s.f, &s.v, &device, NULL), ERROR_NONE);
        scene_mount(&s);
        _cleanup_close_ int fd = open(s.target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert(fd >= 0 && syncfs(fd) >= 0 && ioctl(fd, EXT4_SHUTDOWN, &flags) >= 0, "%s", strerror(errno));
        fd = close_fd(fd);
        wait_until(is_unmounted, s.target, GONE_SECONDS, "the corrupted mount is taken away");
        wait_until(mounts, &(Attempt) { &s, s.target, ERROR_MOUNT_FAILED }, GONE_SECONDS, "the pod is served");
        expect_line(s.target, "file", "kept");
        write_line(s.target, "more", "written");
        uint64_t id = mount_id(s.target);
        for (unsigned i = 0; i < 3; i++)
                json_decref(BERTHCTL(&s.f, "reconcile"));
        cr_assert_eq(mount_id(s.target), id, "the fresh mount was taken away");
        unmount_ok(&s.f, s.target);
        cr_assert_eq(try_detach(&s.f, "pv"), ERROR_NONE);
        wait_clean(&s.f, GONE_SECONDS);
        s.v.name = NULL;
        scene_done(&s);
}

Test(hands, ext4_shut_down)
{
        shut_down("ext4");
}

Test(hands, xfs_shut_down)
{
        shut_down("xfs");
}

/* ---- full disks ---- */

static void fill(const char *dir)
{
        _cleanup_free_ char *path = format("%s/filler", dir);
        static const char block[4096] = { 1 };
        int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

        cr_assert(fd >= 0);
        while (write(fd, block, sizeof(block)) > 0)
                ;
        cr_assert_eq(errno, ENOSPC, "%s", strerror(errno));
        close(fd);
}

static void drain(const char *dir)
{
        _cleanup_free_ char *path = format("%s/filler", dir);

        cr_assert(unlink(path) >= 0);
}

static void expect_full(Scene *s, const char *target)
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = try_mount(&s->f, target, &s->v, &text);

        cr_assert(code == ERROR_RECORD_FAILED || code == ERROR_NO_SPACE, "%s: %s", error_code_name(code), text);
        cr_assert(strstr(text, strerror(ENOSPC)), "'%s' does not tell why", text);
        cr_assert_eq(fixture_count_mounts(target), 0);
}

Test(hands, runtime_directory_full)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");
        _cleanup_free_ char *other = fixture_image_formatted(&s.f, "b", 32 * MIB, "ext4");
        Scene second = s;
        second.v.image = other;

        scene_mount(&s);
        cr_assert(mount(NULL, s.f.runtime_dir, NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, "size=256k") >= 0, "%s", strerror(errno));
        fill(s.f.runtime_dir);
        for (unsigned i = 0; i < 3; i++)
                expect_full(&second, s.two);
        cr_assert_eq(fixture_count_loops(&s.f), 1, "a device is left behind");
        expect_line(s.target, "file", "kept");

        /* a pod can end all the same */
        unmount_ok(&s.f, s.target);
        wait_until(is_unmounted, s.stage, GONE_SECONDS, "the stage is given back");
        drain(s.f.runtime_dir);
        wait_clean(&s.f, GONE_SECONDS);
        mount_ok(&s.f, s.two, &second.v);
        unmount_ok(&s.f, s.two);
        scene_done(&s);
}

/* No inode is left either, so that nothing can even be made. */
Test(hands, runtime_directory_without_inodes)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");

        cr_assert(mount(NULL, s.f.runtime_dir, NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, "nr_inodes=64") >= 0, "%s", strerror(errno));
        unsigned n = 0;
        for (;; n++) {
                _cleanup_free_ char *path = format("%s/filler-%u", s.f.runtime_dir, n);
                int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

                if (fd < 0)
                        break;
                close(fd);
        }
        cr_assert_eq(errno, ENOSPC);
        for (unsigned i = 0; i < 3; i++)
                expect_full(&s, s.target);
        cr_assert_eq(fixture_count_loops(&s.f), 0, "a device is left behind");
        while (n-- > 0) {
                _cleanup_free_ char *path = format("%s/filler-%u", s.f.runtime_dir, n);
                cr_assert(unlink(path) >= 0);
        }
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* The state directory holds what promise 1 rests on: without it nothing is formatted. What was formatted once is served. */
Test(hands, state_directory_full)
{
        Scene s = {};
        fixture_init(&s.f);
        cr_assert(mount("tmpfs", s.f.state_dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=256k") >= 0);
        fixture_start(&s.f, CONFIG);
        s.image = fixture_image(&s.f, "a", 64 * MIB);
        s.target = fixture_target(&s.f, "uid-1", "v");
        s.v = (Volume) { .image = s.image, .fs_type = "ext4" };
        _cleanup_free_ char *known = fixture_image_formatted(&s.f, "b", 32 * MIB, "ext4"), *sum = file_checksum(s.image);

        fill(s.f.state_dir);
        for (unsigned i = 0; i < 3; i++)
                expect_full(&s, s.target);
        wait_until(is_idle, &s.f, GONE_SECONDS, "nothing is left");
        _cleanup_free_ char *now = file_checksum(s.image);
        cr_assert_str_eq(now, sum, "it was formatted without an intent");
        mount_ok(&s.f, s.target, &(Volume) { .image = known });
        unmount_ok(&s.f, s.target);

        drain(s.f.state_dir);
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        wait_until(is_idle, &s.f, GONE_SECONDS, "nothing is left");
        mount_ok(&s.f, s.target, &s.v);
        expect_line(s.target, "file", "kept");
        unmount_ok(&s.f, s.target);
        wait_until(is_idle, &s.f, GONE_SECONDS, "nothing is left");
        fixture_stop(&s.f, SIGTERM);
        wait_until(can_be_unmounted, s.f.state_dir, 10, "the mounters have let go");
        free(s.image);
        free(s.target);
        free(s.key);
        free(s.device);
        free(s.stage);
        fixture_done(&s.f);
}

/* The file system of the images is full: a sparse image cannot grow, and its pod gets I/O errors. */
Test(hands, image_directory_full)
{
        Scene s = {};
        fixture_init(&s.f);
        cr_assert(mount("tmpfs", s.f.image_dir, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=16m") >= 0);
        fixture_start(&s.f, CONFIG);
        s.image = fixture_image(&s.f, "a", 64 * MIB);
        s.target = fixture_target(&s.f, "uid-1", "v");
        s.v = (Volume) { .image = s.image, .fs_type = "ext4" };

        fill(s.f.image_dir);
        for (unsigned i = 0; i < 2; i++) {
                _cleanup_free_ char *text = NULL;
                ErrorCode code = try_mount(&s.f, s.target, &s.v, &text);
                cr_assert_neq(code, ERROR_NONE);
                cr_assert(code != ERROR_INTERNAL && text && *text, "%s: %s", error_code_name(code), text);
                cr_assert_eq(fixture_count_mounts(s.target), 0);
        }
        wait_until(is_idle, &s.f, GONE_SECONDS, "nothing is left");
        fixture_stop(&s.f, SIGTERM);
        wait_until(can_be_unmounted, s.f.image_dir, 10, "the mounters have let go");
        free(s.image);
        free(s.target);
        fixture_done(&s.f);
}

/* ---- no more of what a mount takes ---- */

/* Something that is not the kernel's loop control answers for it. */
Test(hands, no_loop_device_to_be_had)
{
        Scene s;
        scene_init(&s, CONFIG, "ext4");

        cr_assert(mount("/dev/null", "/dev/loop-control", NULL, MS_BIND, NULL) >= 0, "%s", strerror(errno));
        for (unsigned i = 0; i < 3; i++) {
                mount_refused(&s.f, s.target, &s.v, ERROR_ATTACH_FAILED, "loop device");
                cr_assert_eq(fixture_count_loops(&s.f), 0);
        }
        cr_assert(umount2("/dev/loop-control", 0) >= 0);
        wait_clean(&s.f, GONE_SECONDS);
        scene_mount(&s);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* A cgroup in which no process can be made: root is bound by it, unlike by RLIMIT_NPROC. */
static char *pids_cgroup(void)
{
        static const char *const roots[] = { "/sys/fs/cgroup/pids", "/sys/fs/cgroup" };

        for (size_t i = 0; i < ELEMENTSOF(roots); i++) {
                char *dir = format("%s/berth-test-%d", roots[i], (int) getpid());
                _cleanup_free_ char *max = format("%s/pids.max", dir);

                if (mkdir(dir, 0755) >= 0) {
                        if (access(max, W_OK) >= 0)
                                return dir;
                        (void) rmdir(dir);
                }
                free(dir);
        }
        return NULL;
}

static void cgroup_take(const char *dir, pid_t pid)
{
        _cleanup_free_ char *path = format("%s/cgroup.procs", dir), *text = format("%d", (int) pid);

        write_text(path, text);
}

typedef struct Family {
        const char *cgroup;
        pid_t parent;
} Family;

static void child_joins(pid_t pid, void *arg)
{
        const Family *family = arg;
        char name[64], state;
        pid_t parent, session;

        if (process_stat(pid, &parent, &session, &state, name) && parent == family->parent && state != 'Z')
                cgroup_take(family->cgroup, pid);
}

typedef struct Children {
        pid_t parent;
        unsigned wanted, n;
} Children;

static void count_child(pid_t pid, void *arg)
{
        Children *c = arg;
        char name[64], state;
        pid_t parent, session;

        c->n += process_stat(pid, &parent, &session, &state, name) && parent == c->parent;
}

static bool has_children(void *arg)
{
        Children *c = arg;

        c->n = 0;
        processes_foreach(count_child, c);
        return c->n == c->wanted;
}

static void cgroup_limit(const char *dir, const char *limit)
{
        _cleanup_free_ char *path = format("%s/pids.max", dir);

        write_text(path, limit);
}

static bool cgroup_is_removed(void *arg)
{
        return rmdir(arg) >= 0 || errno == ENOENT;
}

/* warm: whether a mounter is there already, which then cannot start mke2fs; without one it is the mounter that cannot be started. */
static void no_process(bool warm)
{
        Scene s = {};
        fixture_init(&s.f);
        _cleanup_free_ char *cgroup = pids_cgroup();

        if (!cgroup)
                cr_skip("needs a cgroup with the pids controller");
        fixture_start(&s.f, warm ? "[Mounters]\nWarm=1\n" : "[Mounters]\nWarm=0\nOperationsMax=1\n");
        s.image = fixture_image(&s.f, "a", 64 * MIB);
        s.target = fixture_target(&s.f, "uid-1", "v");
        s.v = (Volume) { .image = s.image, .fs_type = "ext4" };

        json_decref(BERTHCTL(&s.f, "reconcile")); /* the first one is over, and nothing starts a mounter by itself now */
        wait_until(has_children, &(Children) { s.f.agent, warm ? 1 : 0 }, 10, "its mounters are those that are wanted");
        cgroup_take(cgroup, s.f.agent);
        processes_foreach(child_joins, &(Family) { cgroup, s.f.agent });
        cgroup_limit(cgroup, "0");
        for (unsigned i = 0; i < 3; i++) {
                _cleanup_free_ char *text = NULL;
                ErrorCode code = try_mount(&s.f, s.target, &s.v, &text);

                cr_assert_eq(code, warm ? ERROR_FORMAT_FAILED : ERROR_MOUNTER_UNAVAILABLE, "%s: %s", error_code_name(code), text);
                cr_assert(strstr(text, strerror(EAGAIN)), "'%s' does not tell why", text);
                cr_assert_eq(fixture_count_mounts(s.target), 0);
        }
        cgroup_limit(cgroup, "max");
        mount_ok(&s.f, s.target, &s.v);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        fixture_stop(&s.f, SIGTERM);
        wait_until(cgroup_is_removed, cgroup, 10, "the mounters have ended");
        free(s.image);
        free(s.target);
        fixture_done(&s.f);
}

Test(hands, no_process_for_a_mounter)
{
        no_process(false);
}

Test(hands, no_process_for_mkfs)
{
        no_process(true);
}
