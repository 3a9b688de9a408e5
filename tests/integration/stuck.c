/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mounters that the kernel does not let go: processes in D state below a frozen file system. They cost their own volume and nothing
 * else, every caller is answered in time, status tells, and after the thaw nothing is left and nothing was published late.
 *
 * A frozen file system must be thawed whatever happens, or its writers stay for ever. So a process of its own does that, which knows
 * nothing but the file system and a pipe to the test: it thaws when it is told to, when the test dies, and after a minute.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"

#define MIB (UINT64_C(1) << 20)
#define FROZEN_MAX_SECONDS 60
#define REQUEST_SECONDS 2.0
#define SLACK_SECONDS 0.8
/* StepTimeoutSec, then SIGTERM and SIGKILL with their pauses */
#define QUARANTINE_SECONDS (1 + 2 + 3 + 2.0)
#define SAMPLES 15

typedef struct Frozen {
        Fixture f;
        char *lower;  /* where the file system is mounted that will be frozen */
        char *device; /* its loop device */
        pid_t thawer;
        int pipe_fd;
} Frozen;

static _Noreturn void thawer_main(const char *path, int fd, int ready_fd)
{
        int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct pollfd p = { .fd = fd, .events = POLLIN };

        (void) setsid(); /* the janitor ends what is of the test's session; this must not be among it before it is done */
        signal(SIGINT, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        if (dir < 0 || ioctl(dir, FIFREEZE, 0) < 0 || write(ready_fd, "", 1) != 1)
                _exit(1);
        while (poll(&p, 1, FROZEN_MAX_SECONDS * 1000) < 0)
                ;
        _exit(ioctl(dir, FITHAW, 0) < 0 ? 1 : 0);
}

static void freeze(Frozen *z, const char *path)
{
        int to_thawer[2], ready[2];
        char byte;

        cr_assert(pipe2(to_thawer, O_CLOEXEC) >= 0 && pipe2(ready, O_CLOEXEC) >= 0);
        fflush(NULL);
        z->thawer = fork();
        cr_assert(z->thawer >= 0);
        if (z->thawer == 0) {
                close(to_thawer[1]); /* or it would never see the test's end */
                /* the runner takes the test as running while anybody has its descriptors */
                for (int fd = 3; fd < 1024; fd++)
                        if (fd != to_thawer[0] && fd != ready[1])
                                close(fd);
                thawer_main(path, to_thawer[0], ready[1]);
        }
        close(to_thawer[0]);
        close(ready[1]);
        z->pipe_fd = to_thawer[1];
        cr_assert_eq(read(ready[0], &byte, 1), 1, "%s cannot be frozen", path);
        close(ready[0]);
}

static void thaw(Frozen *z)
{
        int status;

        z->pipe_fd = close_fd(z->pipe_fd);
        cr_assert_eq(waitpid(z->thawer, &status, 0), z->thawer);
        cr_assert_eq(status, 0, "thawing ended with wait status %#x", (unsigned) status);
}

static void frozen_init(Frozen *z)
{
        fixture_init(&z->f);
        _cleanup_free_ char *image = format("%s/lower.img", z->f.dir), *out = NULL,
                            *config = format("[Agent]\nRequestTimeoutSec=2\nStepTimeoutSec=1\nLingerSec=1\n"
                                             "[Loop]\nDirectories=%s %s/lower\n",
                                             z->f.image_dir, z->f.dir);
        z->lower = format("%s/lower", z->f.dir);
        z->pipe_fd = -EBADF;

        cr_assert(mkdir(z->lower, 0700) >= 0);
        write_text(image, "");
        cr_assert(truncate(image, 256 * MIB) >= 0);
        RUN_OK("mkfs.ext4", "-q", "-F", image);
        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", image, NULL }, &out, NULL), 0);
        out[strcspn(out, "\n")] = 0;
        z->device = strdup(out);
        RUN_OK("mount", "-n", z->device, z->lower);
        fixture_start(&z->f, config);
}

static void lower_unmount(Frozen *z)
{
        cr_assert(umount2(z->lower, 0) >= 0, "%s: %s", z->lower, strerror(errno));
        RUN_OK("losetup", "-d", z->device);
        free(TAKE_PTR(z->lower));
        free(TAKE_PTR(z->device));
}

static bool is_empty(const char *dir, const char *below)
{
        _cleanup_free_ char *path = format("%s/%s", dir, below);
        _cleanup_closedir_ DIR *d = opendir(path);

        cr_assert(d, "cannot read %s", path);
        for (struct dirent *e = readdir(d); e; e = readdir(d))
                if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                        return false;
        return true;
}

/* fixture_is_clean() but for the test's own file system. */
static bool only_the_lower_is_left(void *arg)
{
        Frozen *z = arg;

        return fixture_count_loops(&z->f) == 1 && is_empty(z->f.runtime_dir, "volumes") && is_empty(z->f.runtime_dir, "locks") &&
               is_empty(z->f.runtime_dir, "staging");
}

static void frozen_done(Frozen *z)
{
        lower_unmount(z);
        wait_clean(&z->f, 10);
        fixture_done(&z->f);
}

/* The state of the one mounter that works for this volume, as status shows it; freed by the caller, NULL: none does. */
static char *mounter_state(Fixture *f, const char *key)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");
        json_t *mounter;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, mounter) {
                const char *volume = json_string_value(json_object_get(mounter, "volume"));

                if (volume && strcmp(volume, key) == 0)
                        return strdup(json_string_value(json_object_get(mounter, "state")));
        }
        return NULL;
}

typedef struct Quarantine {
        Fixture *f;
        const char *key;
} Quarantine;

static bool is_quarantined(void *arg)
{
        const Quarantine *q = arg;
        _cleanup_free_ char *state = mounter_state(q->f, q->key);

        return state && strcmp(state, "quarantined") == 0;
}

static int compare_doubles(const void *a, const void *b)
{
        double x = *(const double *) a, y = *(const double *) b;

        return (x > y) - (x < y);
}

/* The median of a mount and unmount of another volume, in milliseconds. Each must succeed. */
static double other_volume_median(Fixture *f, const char *target, const char *image)
{
        double samples[SAMPLES];

        mount_ok(f, target, &(Volume) { .image = image }); /* the first one pays for whatever was written before */
        unmount_ok(f, target);
        for (unsigned i = 0; i < SAMPLES; i++) {
                double start = now_seconds();

                mount_ok(f, target, &(Volume) { .image = image });
                unmount_ok(f, target);
                samples[i] = (now_seconds() - start) * 1000;
        }
        qsort(samples, SAMPLES, sizeof(double), compare_doubles);
        return samples[SAMPLES / 2];
}

static char *image_key(const char *image)
{
        struct stat st;

        cr_assert(stat(image, &st) >= 0);
        return format("loop-%u-%u-%llu", major(st.st_dev), minor(st.st_dev), (unsigned long long) st.st_ino);
}

static void expect_in_progress(Call *c)
{
        ErrorCode code = call_wait(c);

        cr_assert_eq(code, ERROR_IN_PROGRESS, "answered %s", error_code_name(code));
        cr_assert(c->seconds < REQUEST_SECONDS + SLACK_SECONDS, "answered after %.2f s", c->seconds);
}

static void expect_stuck_at_once(Fixture *f, CallKind kind, const char *target, const Volume *v)
{
        Call c = call_start(f, kind, target, v);
        ErrorCode code = call_wait(&c);

        cr_assert_eq(code, ERROR_STUCK, "answered %s", error_code_name(code));
        cr_assert(c.seconds < SLACK_SECONDS, "answered after %.2f s", c.seconds);
}

/* The image lies on what is frozen: the mount, which replays or marks its superblock, never comes back. */
Test(stuck, mounting)
{
        Frozen z;
        frozen_init(&z);
        Fixture *f = &z.f;
        _cleanup_free_ char *image = format("%s/image", z.lower), *target = fixture_target(f, "uid-1", "v"),
                            *second = fixture_target(f, "uid-2", "v"), *other = fixture_image_formatted(f, "other", 64 * MIB, "ext4"),
                            *elsewhere = fixture_target(f, "uid-3", "v");
        const Volume v = { .image = image };

        write_text(image, "");
        cr_assert(truncate(image, 64 * MIB) >= 0);
        RUN_OK("mkfs.ext4", "-q", "-F", image);
        sync();
        _cleanup_free_ char *key = image_key(image);
        sync();
        double before = other_volume_median(f, elsewhere, other);

        freeze(&z, z.lower);
        Call c = call_start(f, CALL_MOUNT, target, &v);
        expect_in_progress(&c);
        wait_until(is_quarantined, &(Quarantine) { f, key }, QUARANTINE_SECONDS, "status shows the mounter as quarantined");
        cr_assert_eq(fixture_count_mounts(target), 0);

        for (unsigned i = 0; i < 3; i++) {
                expect_stuck_at_once(f, CALL_MOUNT, target, &v);
                expect_stuck_at_once(f, CALL_MOUNT, second, &v);
                expect_stuck_at_once(f, CALL_UNMOUNT, target, NULL);
        }
        double during = other_volume_median(f, elsewhere, other);
        printf("other volumes: median %.2f ms before, %.2f ms beside a stuck mounter, ratio %.2f\n", before, during, during / before);

        thaw(&z);
        wait_until(only_the_lower_is_left, &z, 10, "everything of the volume is given back");
        cr_assert_eq(fixture_count_mounts(target), 0, "published after the answer");
        cr_assert_eq(fixture_count_mounts(second), 0);

        mount_ok(f, target, &v);
        write_line(target, "file", "after the thaw");
        unmount_ok(f, target);
        frozen_done(&z);
}

/* mkfs and the proof must finish, so they are never signalled: the volume is busy, its callers are told so in time. */
Test(stuck, formatting)
{
        Frozen z;
        frozen_init(&z);
        Fixture *f = &z.f;
        _cleanup_free_ char *image = format("%s/image", z.lower), *target = fixture_target(f, "uid-1", "v"),
                            *other = fixture_image_formatted(f, "other", 64 * MIB, "ext4"), *elsewhere = fixture_target(f, "uid-3", "v");
        const Volume v = { .image = image };

        write_text(image, "");
        cr_assert(truncate(image, 64 * MIB) >= 0);
        sync();
        freeze(&z, z.lower);
        for (unsigned i = 0; i < 3; i++) {
                Call c = call_start(f, CALL_MOUNT, target, &v);
                if (i == 0)
                        (void) other_volume_median(f, elsewhere, other);
                expect_in_progress(&c);
        }
        cr_assert_eq(fixture_count_mounts(target), 0);
        thaw(&z);
        wait_until(only_the_lower_is_left, &z, 10, "everything of the volume is given back");
        cr_assert_eq(fixture_count_mounts(target), 0, "published after the answer");
        mount_ok(f, target, &v);
        unmount_ok(f, target);
        frozen_done(&z);
}

/* The image that is to be made cannot be. */
Test(stuck, creating)
{
        Frozen z;
        frozen_init(&z);
        Fixture *f = &z.f;
        _cleanup_free_ char *image = format("%s/new", z.lower), *target = fixture_target(f, "uid-1", "v"),
                            *other = fixture_image_formatted(f, "other", 64 * MIB, "ext4"), *elsewhere = fixture_target(f, "uid-3", "v");
        const Volume v = { .image = image, .size = "64M" };

        freeze(&z, z.lower);
        Call c = call_start(f, CALL_MOUNT, target, &v);
        (void) other_volume_median(f, elsewhere, other);
        expect_in_progress(&c);
        thaw(&z);
        wait_until(only_the_lower_is_left, &z, 10, "everything of the volume is given back");
        cr_assert_eq(fixture_count_mounts(target), 0, "published after the answer");
        mount_ok(f, target, &v);
        unmount_ok(f, target);
        frozen_done(&z);
}

/* A mounted volume with unwritten data, whose image's file system is frozen: the umount of the stage waits for its last write. */
Test(stuck, unmounting)
{
        Frozen z;
        frozen_init(&z);
        Fixture *f = &z.f;
        _cleanup_free_ char *image = format("%s/image", z.lower), *target = fixture_target(f, "uid-1", "v"),
                            *second = fixture_target(f, "uid-2", "v"), *other = fixture_image_formatted(f, "other", 64 * MIB, "ext4"),
                            *elsewhere = fixture_target(f, "uid-3", "v");
        const Volume v = { .image = image };

        write_text(image, "");
        cr_assert(truncate(image, 64 * MIB) >= 0);
        RUN_OK("mkfs.ext4", "-q", "-F", image);
        mount_ok(f, target, &v);
        _cleanup_free_ char *key = volume_property(f, target, "Key");
        double before = other_volume_median(f, elsewhere, other);
        sync();
        write_line(target, "file", "not on the disk yet");
        freeze(&z, z.lower);

        Call c = call_start(f, CALL_UNMOUNT, target, NULL);
        ErrorCode code = call_wait(&c);
        cr_assert(code == ERROR_IN_PROGRESS || code == ERROR_NONE, "answered %s", error_code_name(code));
        cr_assert(c.seconds < REQUEST_SECONDS + SLACK_SECONDS, "answered after %.2f s", c.seconds);
        wait_until(is_quarantined, &(Quarantine) { f, key }, QUARANTINE_SECONDS, "status shows the mounter as quarantined");
        cr_assert_eq(fixture_count_mounts(target), 0);
        expect_stuck_at_once(f, CALL_MOUNT, second, &v);
        double during = other_volume_median(f, elsewhere, other);
        printf("other volumes: median %.2f ms before, %.2f ms beside a stuck umount, ratio %.2f\n", before, during, during / before);

        thaw(&z);
        wait_until(only_the_lower_is_left, &z, 10, "everything of the volume is given back");
        mount_ok(f, target, &v);
        expect_line(target, "file", "not on the disk yet");
        unmount_ok(f, target);
        frozen_done(&z);
}
