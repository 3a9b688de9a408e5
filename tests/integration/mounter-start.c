/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mounters that do not become ready, end as soon as they are started, or do not end, as on a node that is short of everything or whose program
 * is damaged: who waits goes on waiting for others, and is told when there are none. The program in the mounter's place is a script that hangs
 * or ends, or is the real one.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fixture/internal.h"

#define MIB (UINT64_C(1) << 20)
#define N_CALLS 3

/* condition: lines of sh that end, hang or fall through; they find $dir. Each start adds its pid to the file "starts". */
static void mounter_becomes(Fixture *f, const char *condition)
{
        _cleanup_free_ char *path = format("%s/mounters/mounter-loop", f->dir), *real = executable_path(f, "mounter-loop"),
                            *starts = format("%s/starts", f->dir);
        _cleanup_free_ char *script = format("#!/bin/sh\ndir='%s'\necho $$ >>\"$dir/starts\"\n%s\nexec '%s' \"$@\"\n", f->dir, condition,
                                             real);

        write_text(starts, "");
        cr_assert(unlink(path) >= 0);
        write_text(path, script);
        cr_assert(chmod(path, 0755) >= 0);
}

/* How often it was started, and the pid of the last. */
static unsigned count_starts(const Fixture *f, pid_t *ret_last)
{
        _cleanup_free_ char *path = format("%s/starts", f->dir), *content = read_text(path);
        char *save = NULL;
        unsigned n = 0;

        for (char *pid = strtok_r(content, "\n", &save); pid; pid = strtok_r(NULL, "\n", &save), n++)
                if (ret_last)
                        *ret_last = atoi(pid);
        return n;
}

typedef struct Starts {
        const Fixture *f;
        unsigned n;
} Starts;

static bool were_tried(void *arg)
{
        const Starts *s = arg;

        return count_starts(s->f, NULL) >= s->n;
}

/* All that were started together hang, and the next is killed: nobody is refused for that. */
Test(mounter_start, hang_together, .timeout = 180)
{
        Call calls[N_CALLS];
        char *targets[N_CALLS];
        Fixture f;

        fixture_init(&f);
        mounter_becomes(&f, "[ ! -e \"$dir/hang\" ] || exec sleep 1000");
        _cleanup_free_ char *hang = format("%s/hang", f.dir);
        write_text(hang, "");
        fixture_start(&f, "[Mounters]\nWarm=0\n");
        for (unsigned i = 0; i < N_CALLS; i++) {
                _cleanup_free_ char *uid = format("uid-%u", i), *name = format("image-%u", i),
                                    *image = fixture_image_formatted(&f, name, 16 * MIB, "ext4");
                targets[i] = fixture_target(&f, uid, "v");
                calls[i] = call_start(&f, CALL_MOUNT, targets[i], &(Volume) { .image = image });
        }
        /* one for each and for berthd's own look, but no more at once than there are processors; and the one after these */
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        unsigned n_starts = (n < 2 ? 2 : n > N_CALLS + 1 ? N_CALLS + 1 : (unsigned) n) + 1;
        wait_until(were_tried, &(Starts) { &f, n_starts }, 30, "they are given up");
        cr_assert(unlink(hang) >= 0);
        pid_t last = 0;
        cr_assert_eq(count_starts(&f, &last), n_starts, "more than one was started instead");
        cr_assert(kill(last, SIGKILL) >= 0);
        for (unsigned i = 0; i < N_CALLS; i++) {
                ErrorCode code = call_wait(&calls[i]);
                cr_assert_eq(code, ERROR_NONE, "answered %s after %.1f s", error_code_name(code), calls[i].seconds);
                unmount_ok(&f, targets[i]);
                free(targets[i]);
        }
        wait_clean(&f, 10);
        fixture_done(&f);
}

/* None can be had: that is told, soon, each time; and is over when its reason is. */
Test(mounter_start, end_at_once, .timeout = 180)
{
        Fixture f;

        fixture_init(&f);
        mounter_becomes(&f, "[ ! -e \"$dir/broken\" ] || exit 1");
        _cleanup_free_ char *broken = format("%s/broken", f.dir), *image = fixture_image_formatted(&f, "a", 16 * MIB, "ext4"),
                            *target = fixture_target(&f, "uid-1", "v");
        write_text(broken, "");
        fixture_start(&f, NULL);
        for (unsigned i = 0; i < 3; i++) {
                double started = now_seconds();

                mount_refused(&f, target, &(Volume) { .image = image }, ERROR_MOUNTER_UNAVAILABLE, "ends as soon as it is started");
                cr_assert_lt(now_seconds() - started, 20, "it took %.1f s", now_seconds() - started);
        }
        cr_assert_lt(count_starts(&f, NULL), 30, "it was started %u times", count_starts(&f, NULL));
        cr_assert(unlink(broken) >= 0);
        mount_ok(&f, target, &(Volume) { .image = image });
        unmount_ok(&f, target);
        wait_clean(&f, 10);
        fixture_done(&f);
}

/* The one that looked at the node when berthd started ends when it has been idle for a while. */
static bool none_is_idle(void *arg)
{
        json_t *status = BERTHCTL(arg, "status"), *m;
        unsigned n = 0;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, m)
                n += !str_equal(json_string_value(json_object_get(m, "state")), "busy");
        json_decref(status);
        return n == 0;
}

/* No other can be had while one is at work: that one serves those who wait, too. */
Test(mounter_start, one_is_at_work, .timeout = 180)
{
        Fixture f;

        fixture_init(&f);
        _cleanup_free_ char *other = fixture_image_formatted(&f, "b", 16 * MIB, "ext4");
        gate_init(&f);
        mounter_becomes(&f, "[ ! -e \"$dir/broken\" ] || exit 1");
        _cleanup_free_ char *broken = format("%s/broken", f.dir), *blank = fixture_image(&f, "a", 64 * MIB), *one = fixture_target(&f, "uid-1", "v"),
                            *two = fixture_target(&f, "uid-2", "v");
        fixture_start(&f, "[Mounters]\nWarm=0\nIdleSec=1\n");
        Call first = call_start(&f, CALL_MOUNT, one, &(Volume) { .image = blank });
        gate_wait(&f, 1);
        wait_until(none_is_idle, &f, 20, "it is the only one");
        write_text(broken, "");
        unsigned n_before = count_starts(&f, NULL);
        Call second = call_start(&f, CALL_MOUNT, two, &(Volume) { .image = other });
        wait_until(were_tried, &(Starts) { &f, n_before + 4 }, 60, "others were tried");
        cr_assert(call_runs(&second), "it was refused");
        gate_open(&f);
        ErrorCode code = call_wait(&first);
        cr_assert_eq(code, ERROR_NONE, "answered %s", error_code_name(code));
        code = call_wait(&second);
        cr_assert_eq(code, ERROR_NONE, "answered %s", error_code_name(code));
        cr_assert(unlink(broken) >= 0);
        unmount_ok(&f, one);
        unmount_ok(&f, two);
        wait_clean(&f, 10);
        gate_done(&f);
        fixture_done(&f);
}

/* Each is asked to end after its first operation, hangs, and takes no notice of SIGTERM: its place is somebody's again, in time. */
Test(mounter_start, hang_at_the_end, .timeout = 180)
{
        Fixture f;

        fixture_init(&f);
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 16 * MIB, "ext4"), *target = fixture_target(&f, "uid-1", "v"),
                            *real = executable_path(&f, "mounter-loop"),
                            *hang = format("%s/hang", f.dir),
                            *condition = format("trap '' TERM\n'%s' \"$@\"\nwhile [ -e \"$dir/hang\" ]; do sleep 0.1; done; exit", real);
        mounter_becomes(&f, condition);
        write_text(hang, "");
        fixture_start(&f, "[Mounters]\nWarm=0\nMax=1\nOperationsMax=1\n");
        for (unsigned i = 0; i < 2; i++) {
                Call c = call_start(&f, CALL_MOUNT, target, &(Volume) { .image = image });
                ErrorCode code = call_wait(&c);
                cr_assert_eq(code, ERROR_NONE, "answered %s after %.1f s", error_code_name(code), c.seconds);
                cr_assert_lt(c.seconds, 40, "answered after %.1f s", c.seconds);
                unmount_ok(&f, target);
        }
        cr_assert_geq(count_starts(&f, NULL), 3, "%u were started", count_starts(&f, NULL));
        wait_clean(&f, 60);
        cr_assert(unlink(hang) >= 0);
        fixture_done(&f);
}

/* All that berthd has. */
static void signal_mounters(Fixture *f, int signal)
{
        json_t *status = BERTHCTL(f, "status"), *m;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, m)
                cr_assert(kill((pid_t) json_integer_value(json_object_get(m, "pid")), signal) >= 0, "%s", strerror(errno));
        json_decref(status);
}

typedef struct Worker {
        Fixture *f;
        pid_t pid;
} Worker;

static bool one_is_busy(void *arg)
{
        Worker *w = arg;
        json_t *status = BERTHCTL(w->f, "status"), *m;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, m)
                if (str_equal(json_string_value(json_object_get(m, "state")), "busy"))
                        w->pid = (pid_t) json_integer_value(json_object_get(m, "pid"));
        json_decref(status);
        return w->pid > 0;
}

/* It waits for the next call. One that has only just been let go on finds its call there, and does not sleep before it has answered. */
static bool has_answered(void *arg)
{
        const Worker *w = arg;
        _cleanup_free_ char *stat_path = format("/proc/%d/stat", w->pid), *stat = read_text(stat_path),
                            *call_path = format("/proc/%d/syscall", w->pid), *call = read_text(call_path);

        return strstr(stat, ") S ") && strtol(call, NULL, 10) == SYS_ppoll;
}

static bool has_ended(void *arg)
{
        const Worker *w = arg;
        _cleanup_free_ char *path = format("/proc/%d/stat", w->pid), *stat = read_text(path);

        return strstr(stat, ") Z ");
}

/*
 * All that a mounter has said last, and its end, are found together, as on a busy node when it ends itself right after its answer: it is not
 * asked again. A growing volume tells how far it is before it answers.
 */
Test(mounter_start, answers_and_ends, .timeout = 180)
{
        Fixture f;
        int status;

        fixture_init(&f);
        mounter_becomes(&f, "");
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 320 * MIB, "xfs"), *target = fixture_target(&f, "uid-1", "v"),
                            *program = executable_path(&f, "berthctl");
        fixture_start(&f, "[Agent]\nReconcileIntervalSec=3600\n[Mounters]\nWarm=0\n");
        mount_ok(&f, target, &(Volume) { .image = image, .fs_type = "xfs" });
        json_decref(BERTHCTL(&f, "reconcile")); /* the first one is over, and nothing is looked at by itself now */
        unsigned n_before = count_starts(&f, NULL);
        Worker w = { .f = &f };

        signal_mounters(&f, SIGSTOP);
        fflush(NULL);
        pid_t expand = fork();
        if (expand == 0)
                _exit(RUN(program, "--socket", f.socket, "expand", target, "384M")); /* xfs: growing ext4 takes CAP_SYS_RESOURCE */
        wait_until(one_is_busy, &w, 20, "a mounter has the call");
        cr_assert(kill(f.agent, SIGSTOP) >= 0 && kill(w.pid, SIGCONT) >= 0);
        wait_until(has_answered, &w, 20, "it has answered");
        cr_assert(kill(w.pid, SIGKILL) >= 0);
        wait_until(has_ended, &w, 20, "it has ended");
        cr_assert(kill(f.agent, SIGCONT) >= 0);
        cr_assert_eq(waitpid(expand, &status, 0), expand);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "berthctl expand ended with wait status %#x", (unsigned) status);
        cr_assert_eq(count_starts(&f, NULL), n_before, "it was asked again");
        signal_mounters(&f, SIGCONT);
        unmount_ok(&f, target);
        wait_clean(&f, 10);
        fixture_done(&f);
}
