/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What makes berthd look at the node: both sources of mount events, and the kernel's events of devices. The
 * timer is an hour away and the agent is quiet before anything is done, so what is noticed was told by the
 * source that is tested. And what others mount and unmount, however much, makes it look no more than about
 * once a second.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fixture/internal.h"

#define MIB (UINT64_C(1) << 20)
#define CONFIG "[Agent]\nReconcileIntervalSec=3600\nLingerSec=3600\n"
#define NOTICE_SECONDS 2.0
/* Two looks follow each other after less than two seconds: after this long without one none is due. */
#define QUIET_SECONDS 2.5
#define CHURN_SECONDS 4
#define CHANGES_PER_SECOND 1000

typedef enum Source { SOURCE_FANOTIFY, SOURCE_MOUNTINFO } Source;

/* ---- what berthd tells ---- */

static uint64_t status_number(Fixture *f, const char *key)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");
        const json_t *value = json_object_get(status, key);

        cr_assert(json_is_integer(value), "GetStatus tells no %s", key);
        return (uint64_t) json_integer_value(value);
}

typedef struct Quiet {
        Fixture *f;
        uint64_t looks;
        double since;
} Quiet;

static bool is_quiet(void *arg)
{
        Quiet *q = arg;
        uint64_t looks = status_number(q->f, "reconciles");

        if (looks != q->looks || looks == 0) {
                q->looks = looks;
                q->since = now_seconds();
        }
        return now_seconds() - q->since > QUIET_SECONDS;
}

static void wait_quiet(Fixture *f)
{
        wait_until(is_quiet, &(Quiet) { .f = f, .since = now_seconds() }, 60, "berthd no longer looks at the node");
}

typedef struct Count {
        Fixture *f;
        uint64_t n;
} Count;

static bool publishes_are(void *arg)
{
        const Count *c = arg;

        return status_number(c->f, "publishes") == c->n;
}

typedef struct State {
        Fixture *f;
        const char *name, *state;
} State;

static bool state_is(void *arg)
{
        const State *s = arg;
        _cleanup_free_ char *state = volume_property(s->f, s->name, "State");

        return strcmp(state, s->state) == 0;
}

/* ---- a berthd with that source ---- */

static void watch_init_with(Fixture *f, Source source, const char *config)
{
        const char *name = source == SOURCE_FANOTIFY ? "fanotify" : "mountinfo";

        fixture_init(f);
        setenv("BERTH_MOUNT_EVENTS", name, 1);
        fixture_start(f, config);
        unsetenv("BERTH_MOUNT_EVENTS");
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");
        const char *used = json_string_value(json_object_get(status, "mountEvents"));
        if (source == SOURCE_FANOTIFY && str_equal(used, "mountinfo")) {
                fixture_done(f);
                cr_skip("this kernel has no mount events in fanotify (Linux 6.15)");
        }
        cr_assert_str_eq(used, name);
}

static void watch_init(Fixture *f, Source source)
{
        watch_init_with(f, source, CONFIG);
}

static void unmount_by_hand(const char *path)
{
        cr_assert(umount2(path, UMOUNT_NOFOLLOW) >= 0, "%s: %s", path, strerror(errno));
}

/* Everything was found gone, and nothing else; what is left goes by a last mount and unmount. */
static void watch_done(Fixture *f, const char *target, const Volume *v)
{
        mount_ok(f, target, v);
        unmount_ok(f, target);
        wait_clean(f, 10);
        fixture_done(f);
}

/* ---- mounts ---- */

static void targets_unmounted(Source source)
{
        Fixture f;
        watch_init(&f, source);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB);
        const Volume v = { .image = image };
        char *targets[3];

        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                _cleanup_free_ char *uid = format("uid-%zu", i);
                targets[i] = fixture_target(&f, uid, "v");
                mount_ok(&f, targets[i], &v);
        }
        wait_quiet(&f);
        /* the first after a while, the others each as soon as the last was noticed */
        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                unmount_by_hand(targets[i]);
                wait_until(publishes_are, &(Count) { &f, ELEMENTSOF(targets) - 1 - i }, NOTICE_SECONDS,
                           "an unmounted target is noticed");
        }
        cr_assert_eq(count_volumes(&f), 1, "not kept for a repeat");
        watch_done(&f, targets[0], &v);
        for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                free(targets[i]);
}

Test(watch, targets_unmounted_fanotify)
{
        targets_unmounted(SOURCE_FANOTIFY);
}

Test(watch, targets_unmounted_mountinfo)
{
        targets_unmounted(SOURCE_MOUNTINFO);
}

static void stage_unmounted(Source source)
{
        Fixture f;
        watch_init(&f, source);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image };

        mount_ok(&f, target, &v);
        _cleanup_free_ char *stage = volume_property(&f, target, "StagingPath");
        wait_quiet(&f);
        unmount_by_hand(stage);
        wait_until(state_is, &(State) { &f, target, "unstaging" }, NOTICE_SECONDS, "an unmounted stage is noticed");
        cr_assert_eq(fixture_count_mounts(target), 1, "the pod's mount was taken away");
        cr_assert_eq(status_number(&f, "publishes"), 1);
        unmount_ok(&f, target);
        watch_done(&f, target, &v);
}

Test(watch, stage_unmounted_fanotify)
{
        stage_unmounted(SOURCE_FANOTIFY);
}

Test(watch, stage_unmounted_mountinfo)
{
        stage_unmounted(SOURCE_MOUNTINFO);
}

/* After a restart the agent knows its mounts from the records, their IDs among them. */
static void unmounted_after_restart(Source source)
{
        Fixture f;
        watch_init(&f, source);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image };

        mount_ok(&f, target, &v);
        fixture_stop(&f, SIGKILL);
        setenv("BERTH_MOUNT_EVENTS", source == SOURCE_FANOTIFY ? "fanotify" : "mountinfo", 1);
        fixture_start(&f, CONFIG);
        wait_quiet(&f);
        cr_assert_eq(status_number(&f, "publishes"), 1);
        unmount_by_hand(target);
        wait_until(publishes_are, &(Count) { &f, 0 }, NOTICE_SECONDS, "an unmounted target is noticed");
        watch_done(&f, target, &v);
}

Test(watch, unmounted_after_restart_fanotify)
{
        unmounted_after_restart(SOURCE_FANOTIFY);
}

Test(watch, unmounted_after_restart_mountinfo)
{
        unmounted_after_restart(SOURCE_MOUNTINFO);
}

/* ---- while a mounter does not answer ---- */

typedef struct Signal {
        const Fixture *f;
        int number;
} Signal;

static void signal_mounter(pid_t pid, void *arg)
{
        const Signal *s = arg;
        char name[64], state;
        pid_t parent, session;

        if (process_stat(pid, &parent, &session, &state, name) && parent == s->f->agent)
                (void) kill(pid, s->number);
}

static bool mounter_is_busy(void *arg)
{
        _cleanup_json_ json_t *status = BERTHCTL(arg, "status");
        json_t *mounter;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, mounter)
                if (str_equal(json_string_value(json_object_get(mounter, "state")), "busy"))
                        return true;
        return false;
}

/* A mounter is asked for its devices and does not tell. What mount table and records show is seen all the same, and in time. */
static void seen_while_asking(Source source)
{
        Fixture f;
        watch_init_with(&f, source, CONFIG "StepTimeoutSec=6\n[Mounters]\nWarm=1\n");
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *program = executable_path(&f, "berthctl");
        const Volume v = { .image = image };
        char *targets[3];
        int status;

        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                _cleanup_free_ char *uid = format("uid-%zu", i);
                targets[i] = fixture_target(&f, uid, "v");
                mount_ok(&f, targets[i], &v);
        }
        wait_quiet(&f);
        processes_foreach(signal_mounter, &(Signal) { &f, SIGSTOP });
        double start = now_seconds();
        fflush(NULL);
        pid_t pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                execl(program, program, "reconcile", NULL);
                _exit(127);
        }
        wait_until(mounter_is_busy, &f, 5, "the mounter is asked");
        for (size_t i = 0; i < 2; i++) {
                unmount_by_hand(targets[i]);
                wait_until(publishes_are, &(Count) { &f, ELEMENTSOF(targets) - 1 - i }, NOTICE_SECONDS,
                           "an unmounted target is noticed");
        }
        cr_assert_eq(waitpid(pid, NULL, WNOHANG), 0, "reconcile was answered before the mounter's time was up");
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        cr_assert(now_seconds() - start < 6 + NOTICE_SECONDS, "reconcile was answered after %.1f s", now_seconds() - start);
        processes_foreach(signal_mounter, &(Signal) { &f, SIGCONT }); /* those that were not asked */
        watch_done(&f, targets[2], &v);
        for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                free(targets[i]);
}

Test(watch, seen_while_asking_fanotify)
{
        seen_while_asking(SOURCE_FANOTIFY);
}

Test(watch, seen_while_asking_mountinfo)
{
        seen_while_asking(SOURCE_MOUNTINFO);
}

/* ---- devices ---- */

/* An attached device is mounted nowhere: that it is gone only the kernel's event tells. */
Test(watch, device_detached)
{
        Fixture f;
        watch_init(&f, SOURCE_MOUNTINFO);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"),
                            *device = NULL;
        const Volume v = { .image = image, .name = "pv-1" };

        cr_assert_eq(try_attach(&f, &v, &device, NULL), ERROR_NONE);
        wait_quiet(&f);
        _cleanup_free_ char *before = volume_property(&f, v.name, "State");
        cr_assert_str_eq(before, "attached");
        RUN_OK("losetup", "-d", device);
        wait_until(state_is, &(State) { &f, v.name, "detaching" }, NOTICE_SECONDS,
                   "a device that was taken away is noticed");
        cr_assert_eq(try_detach(&f, v.name), ERROR_NONE);
        watch_done(&f, target, &(Volume) { .image = image });
}

static bool has_looked(void *arg)
{
        const Count *c = arg;

        return status_number(c->f, "reconciles") > c->n;
}

/*
 * A device that is unplugged or unmapped is told by "remove". The kernel tells it of the volume's device when it is asked to; that the device
 * is still there is then seen, and nothing is done to it.
 */
Test(watch, device_removed)
{
        Fixture f;
        watch_init(&f, SOURCE_MOUNTINFO);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"),
                            *device = NULL;
        const Volume v = { .image = image, .name = "pv-1" };

        cr_assert_eq(try_attach(&f, &v, &device, NULL), ERROR_NONE);
        wait_quiet(&f);
        _cleanup_free_ char *uevent = format("/sys/block/%s/uevent", device + strlen("/dev/"));
        uint64_t looks = status_number(&f, "reconciles");
        write_text(uevent, "remove");
        wait_until(has_looked, &(Count) { &f, looks }, NOTICE_SECONDS, "the removal of a volume's device is noticed");
        _cleanup_free_ char *state = volume_property(&f, v.name, "State");
        cr_assert_str_eq(state, "attached");
        cr_assert_eq(try_detach(&f, v.name), ERROR_NONE);
        watch_done(&f, target, &(Volume) { .image = image });
}

/* ---- others ---- */

/* Binds a directory and unmounts it again for so many seconds; exit status 0 if it kept about that rate. */
static pid_t churn_start(Fixture *f, unsigned seconds)
{
        _cleanup_free_ char *source = format("%s/churn-source", f->runtime_dir),
                            *target = format("%s/churn-target", f->runtime_dir);
        double begin = now_seconds();
        unsigned n = 0;

        cr_assert(mkdir(source, 0700) >= 0 && mkdir(target, 0700) >= 0, "%s", strerror(errno));
        fflush(NULL);
        pid_t pid = fork();
        cr_assert(pid >= 0, "cannot fork: %s", strerror(errno));
        if (pid > 0)
                return pid;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (now_seconds() - begin < seconds) {
                if (n < (now_seconds() - begin) * CHANGES_PER_SECOND) {
                        if (mount(source, target, NULL, MS_BIND, NULL) < 0 || umount2(target, 0) < 0)
                                _exit(2);
                        n += 2;
                } else {
                        nanosleep(&(struct timespec) { .tv_nsec = 500000 }, NULL);
                }
        }
        _exit(n > CHANGES_PER_SECOND * seconds / 4 ? 0 : 1);
}

static void churn_end(Fixture *f, pid_t pid)
{
        _cleanup_free_ char *source = format("%s/churn-source", f->runtime_dir),
                            *target = format("%s/churn-target", f->runtime_dir);
        int status;

        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "too few mounts, or none: wait status %#x",
                  (unsigned) status);
        cr_assert(rmdir(source) >= 0 && rmdir(target) >= 0, "%s", strerror(errno));
}

static void others_mount(Source source)
{
        Fixture f;
        watch_init(&f, source);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image };

        mount_ok(&f, target, &v);
        wait_quiet(&f);
        uint64_t looks = status_number(&f, "reconciles");
        double begin = now_seconds();
        pid_t churn = churn_start(&f, CHURN_SECONDS);
        churn_end(&f, churn);
        looks = status_number(&f, "reconciles") - looks;
        double seconds = now_seconds() - begin;
        if (source == SOURCE_FANOTIFY)
                cr_assert_eq(looks, 0, "looked %ju times at what others mount", (uintmax_t) looks);
        else
                cr_assert(looks >= 1 && (double) looks <= seconds + 1, "looked %ju times in %.1f s", (uintmax_t) looks,
                          seconds);

        /* among so many events its own are not missed */
        churn = churn_start(&f, CHURN_SECONDS);
        unmount_by_hand(target);
        wait_until(publishes_are, &(Count) { &f, 0 }, NOTICE_SECONDS,
                   "an unmounted target is noticed among the mounts of others");
        churn_end(&f, churn);
        watch_done(&f, target, &v);
}

Test(watch, others_mount_fanotify)
{
        others_mount(SOURCE_FANOTIFY);
}

Test(watch, others_mount_mountinfo)
{
        others_mount(SOURCE_MOUNTINFO);
}
