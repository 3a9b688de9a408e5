/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mounters that the kernel does not let go: processes in D state below a frozen file system, or one that does not answer. They
 * cost their own volume and nothing else, every caller is answered in time, status tells, and after the thaw nothing is left and nothing was published late.
 *
 * A frozen file system must be thawed whatever happens, or its writers stay for ever. So a process of its own does that, which knows
 * nothing but the file system and a pipe to the test: it thaws when it is told to, when the test dies, and after a minute.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <glob.h>
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
#include "mounters/fs/umount.h"

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
        Fixture *f = arg;

        return fixture_count_loops(f) == 1 && is_empty(f->runtime_dir, "volumes") && is_empty(f->runtime_dir, "locks") &&
               is_empty(f->runtime_dir, "staging");
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
        wait_until(only_the_lower_is_left, &z.f, 10, "everything of the volume is given back");
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
        wait_until(only_the_lower_is_left, &z.f, 10, "everything of the volume is given back");
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
        wait_until(only_the_lower_is_left, &z.f, 10, "everything of the volume is given back");
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
        unmount_ok(f, target); /* a repeat: it is free */
        double during = other_volume_median(f, elsewhere, other);
        printf("other volumes: median %.2f ms before, %.2f ms beside a stuck umount, ratio %.2f\n", before, during, during / before);

        thaw(&z);
        wait_until(only_the_lower_is_left, &z.f, 10, "everything of the volume is given back");
        mount_ok(f, target, &v);
        expect_line(target, "file", "not on the disk yet");
        unmount_ok(f, target);
        frozen_done(&z);
}

/* By force, and the kernel takes longer than anybody waits: whoever asked for it is left without a child, at work or dead. */
Test(stuck, unmounting_by_force)
{
        Frozen z;
        frozen_init(&z);
        Fixture *f = &z.f;
        _cleanup_free_ char *image = format("%s/image", z.lower), *dir = format("%s/forced", f->dir);
        int status;

        write_text(image, "");
        cr_assert(truncate(image, 64 * MIB) >= 0 && mkdir(dir, 0700) >= 0);
        RUN_OK("mkfs.ext4", "-q", "-F", image);
        RUN_OK("mount", "-n", "-o", "loop", image, dir);
        sync();
        write_line(dir, "file", "not on the disk yet");
        freeze(&z, z.lower);
        double started = now_seconds();
        pid_t mounter = fork();
        if (mounter == 0) {
                int r = fs_umount_force(dir, 300000);
                _exit(r != -ETIMEDOUT ? 1 : waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD ? 2 : 0);
        }
        cr_assert_eq(waitpid(mounter, &status, 0), mounter);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", (unsigned) status);
        cr_assert_lt(now_seconds() - started, 10, "it took %.1f s", now_seconds() - started);
        thaw(&z);
        wait_until(only_the_lower_is_left, &z.f, 10, "it has gone on, and the device is free");
        RUN_OK("mount", "-n", "-o", "loop", image, dir);
        expect_line(dir, "file", "not on the disk yet");
        cr_assert_eq(fs_umount_force(dir, 10000000), 0);
        cr_assert_eq(fixture_count_mounts(dir), 0);
        cr_assert_eq(rmdir(dir), 0);
        frozen_done(&z);
}

/* ---- looks at storage that does not answer ---- */

typedef struct Silent {
        Fixture f;
        pid_t fuse;
        char *dir, *image, *key;
} Silent;

static bool can_be_read(void *arg)
{
        return access(arg, R_OK) == 0;
}

static bool cannot_be_read(void *arg)
{
        return !can_be_read(arg);
}

/* An image on a FUSE file system, which can be told to answer no more. */
static void silent_init(Silent *s, const char *config)
{
        fixture_init(&s->f);
        _cleanup_free_ char *lower = fixture_image(&s->f, "lower", 64 * MIB),
                            *helper = format("%s/tests/integration/fuse-image", s->f.build_dir),
                            *all = format("%s[Loop]\nDirectories=%s %s/fuse\n", config, s->f.image_dir, s->f.dir);
        s->dir = format("%s/fuse", s->f.dir);
        s->image = format("%s/image", s->dir);

        /* incomplete, as by default: the kernel's one thread that completes them must not be what waits for this one */
        RUN_OK("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", lower);
        cr_assert(mkdir(s->dir, 0755) >= 0);
        fflush(NULL);
        s->fuse = fork();
        cr_assert(s->fuse >= 0);
        if (s->fuse == 0) {
                execl(helper, helper, lower, "0", "0", s->dir, "-f", "-o", "attr_timeout=0,entry_timeout=0", NULL);
                _exit(127);
        }
        wait_until(can_be_read, s->image, 30, "the FUSE file system is mounted");
        fixture_start(&s->f, all);
        s->key = image_key(s->image);
}

static void silence(const Silent *s, bool silent)
{
        cr_assert(kill(s->fuse, silent ? SIGUSR1 : SIGUSR2) >= 0);
}

static bool no_loop_is_left(void *arg)
{
        return fixture_count_loops(arg) == 0;
}

static void silent_done(Silent *s)
{
        wait_until(no_loop_is_left, &s->f, 10, "the devices are given back");
        cr_assert(umount2(s->dir, MNT_DETACH) >= 0, "%s", strerror(errno));
        cr_assert_eq(waitpid(s->fuse, NULL, 0), s->fuse);
        wait_clean(&s->f, 10);
        fixture_done(&s->f);
        free(s->dir);
        free(s->image);
        free(s->key);
}

static unsigned count_quarantined(Fixture *f)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");
        json_t *mounter;
        unsigned n = 0;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, mounter)
                n += strcmp(json_string_value(json_object_get(mounter, "state")), "quarantined") == 0;
        return n;
}

/* Processes of this test's mounter that wait in the kernel and cannot be killed. */
static unsigned count_waiting(Fixture *f)
{
        _cleanup_free_ char *mounter = format("%s/mounters/mounter-loop", f->build_dir),
                            *named = format("%s/mounters/mounter-loop", f->dir);
        glob_t g = {};
        unsigned n = 0;

        cr_assert_eq(glob("/proc/[0-9]*", 0, NULL, &g), 0);
        for (size_t i = 0; i < g.gl_pathc; i++) {
                _cleanup_free_ char *status = format("%s/status", g.gl_pathv[i]), *line = format("%s/cmdline", g.gl_pathv[i]);
                _cleanup_free_ char *text = NULL, *command = NULL;

                if (read_file_at(AT_FDCWD, status, 65536, &text, NULL) < 0 || !strstr(text, "State:\tD") ||
                    read_file_at(AT_FDCWD, line, 65536, &command, NULL) < 0)
                        continue;
                n += strcmp(command, mounter) == 0 || strcmp(command, named) == 0;
        }
        globfree(&g);
        return n;
}

typedef struct Stuck {
        Silent *s;
        unsigned n;
} Stuck;

static bool are_quarantined(void *arg)
{
        const Stuck *stuck = arg;

        return count_quarantined(&stuck->s->f) == stuck->n;
}

static double reconcile_seconds(Fixture *f)
{
        double start = now_seconds();

        json_decref(BERTHCTL(f, "reconcile"));
        return now_seconds() - start;
}

typedef struct Health {
        Fixture *f;
        const char *target, *health;
} Health;

static bool health_is(void *arg)
{
        const Health *h = arg;
        _cleanup_free_ char *health = volume_property(h->f, h->target, "Health");

        return strcmp(health, h->health) == 0;
}

static bool publishes_are_two(void *arg)
{
        _cleanup_json_ json_t *status = BERTHCTL(arg, "status");

        return json_integer_value(json_object_get(status, "publishes")) == 2;
}

/*
 * Both looks of berthd's own, at the devices and at a volume's health, meet storage that does not answer. The latter costs one mounter
 * until it answers again, the former none, however often they are made: one process waits for each. The view of the node stays young,
 * and another volume's illness is still seen.
 */
Test(stuck, looking)
{
        Silent s;
        silent_init(&s, "[Agent]\nStepTimeoutSec=1\nLingerSec=1\nReconcileIntervalSec=1\n");
        Fixture *f = &s.f;
        _cleanup_free_ char *target = fixture_target(f, "uid-1", "v"), *elsewhere = fixture_target(f, "uid-2", "v"),
                            *third = fixture_target(f, "uid-3", "v"), *fourth = fixture_target(f, "uid-4", "v"),
                            *other = fixture_image_formatted(f, "other", 64 * MIB, "ext4"),
                            *blank = fixture_image(f, "blank", 64 * MIB);

        mount_ok(f, target, &(Volume) { .image = s.image });
        mount_ok(f, elsewhere, &(Volume) { .image = other });
        mount_ok(f, third, &(Volume) { .image = other });
        silence(&s, true);
        wait_until(are_quarantined, &(Stuck) { &s, 1 }, 20, "a Check is stuck");
        for (unsigned i = 0; i < 5; i++) {
                double seconds = reconcile_seconds(f);
                cr_assert(seconds < REQUEST_SECONDS, "answered after %.2f s", seconds);
        }
        cr_assert(umount2(third, 0) >= 0);
        wait_until(publishes_are_two, f, 2, "an unmounted target is noticed");

        /* other volumes are served, to their end, and their health is seen */
        mount_ok(f, third, &(Volume) { .image = other });
        double start = now_seconds();
        mount_ok(f, fourth, &(Volume) { .image = blank });
        unmount_ok(f, fourth);
        /* and one whose image is open elsewhere, so that all devices are asked */
        int fd = open(blank, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        mount_ok(f, fourth, &(Volume) { .image = blank });
        unmount_ok(f, fourth);
        close(fd);
        cr_assert(now_seconds() - start < REQUEST_SECONDS, "another volume took %.1f s", now_seconds() - start);
        cr_assert_eq(count_waiting(f), 2, "one waits for the device, one for the volume's health, not %u", count_waiting(f));
        write_line(elsewhere, "file", "kept");
        cr_assert(mount(NULL, elsewhere, NULL, MS_REMOUNT | MS_RDONLY, NULL) >= 0, "%s", strerror(errno));
        wait_until(health_is, &(Health) { f, elsewhere, "degraded" }, 20, "another volume's illness is seen");
        cr_assert_eq(count_quarantined(f), 1, "more mounters are stuck");

        silence(&s, false);
        wait_until(are_quarantined, &(Stuck) { &s, 0 }, 10, "the mounters have ended");
        wait_until(health_is, &(Health) { f, target, "ok" }, 10, "it is looked at again");
        cr_assert(mount(NULL, elsewhere, NULL, MS_REMOUNT, NULL) >= 0, "%s", strerror(errno));
        unmount_ok(f, target);
        unmount_ok(f, elsewhere);
        unmount_ok(f, third);
        silent_done(&s);
}

/*
 * An operator's device shows a file of a dead server. Whoever looks through the devices meets it: for an image that somebody else
 * has open, for a device that was given away. None of them is it, and other volumes are served from beginning to end.
 */
Test(stuck, a_dead_server_s_device)
{
        Silent s;
        silent_init(&s, "[Agent]\nLingerSec=1\nReconcileIntervalSec=1\n");
        Fixture *f = &s.f;
        _cleanup_free_ char *target = fixture_target(f, "uid-1", "v"), *dead = NULL, *device = NULL,
                            *image = fixture_image_formatted(f, "other", 64 * MIB, "ext4");
        const Volume v = { .image = image };

        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", s.image, NULL }, &dead, NULL), 0);
        dead[strcspn(dead, "\n")] = 0;
        cr_assert(kill(s.fuse, SIGKILL) >= 0);
        wait_until(cannot_be_read, s.image, 10, "the server is dead");

        int fd = open(image, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        for (unsigned i = 0; i < 3; i++) {
                mount_ok(f, target, &v);
                device = volume_property(f, target, "Device");
                RUN_OK("losetup", "-d", device); /* goes with its last user, and then is looked for everywhere */
                free(TAKE_PTR(device));
                unmount_ok(f, target);
                wait_until(only_the_lower_is_left, f, 10, "the volume is given back");
        }
        close(fd);
        mount_ok(f, target, &v);
        unmount_ok(f, target);
        json_decref(BERTHCTL(f, "reconcile"));
        RUN_OK("losetup", "-d", dead);
        silent_done(&s);
}
