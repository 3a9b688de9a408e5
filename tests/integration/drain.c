/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Agent1.Drain and berthctl drain: every volume goes, whatever there is of it; what cannot go is told with who holds it, in time; and
 * nothing is mounted meanwhile.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#define MIB (UINT64_C(1) << 20)
#define DONE 0
#define LEFT 75

typedef struct DrainCall {
        Fixture *f;
        pid_t pid;
        char *out;
} DrainCall;

static int drain_status(const DrainCall *d)
{
        int status;

        cr_assert_eq(waitpid(d->pid, &status, 0), d->pid);
        cr_assert(WIFEXITED(status));
        return WEXITSTATUS(status);
}

/* Beside the test; what it prints goes into the file d->out. */
static DrainCall drain_start(Fixture *f, const char *timeout)
{
        _cleanup_free_ char *program = executable_path(f, "berthctl");
        DrainCall d = { .f = f, .out = format("%s/drain.out", f->dir) };

        d.pid = fork();
        cr_assert(d.pid >= 0);
        if (d.pid == 0) {
                int fd = open(d.out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
                dup2(fd, 1);
                execl(program, program, "drain", "--json", "--timeout", timeout, NULL);
                _exit(127);
        }
        return d;
}

/* The answer, after the end; takes d. */
static json_t *drain_answer(DrainCall *d, int expected)
{
        int status = drain_status(d);
        _cleanup_free_ char *text = read_text(d->out);
        json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

        cr_assert_eq(status, expected, "berthctl drain: status %d, not %d: %s", status, expected, text);
        cr_assert(json_is_array(j), "%s", text);
        cr_assert_eq(unlink(d->out), 0);
        free(d->out);
        return j;
}

static json_t *drain(Fixture *f, const char *timeout, int expected)
{
        DrainCall d = drain_start(f, timeout);

        return drain_answer(&d, expected);
}

static const char *string_at(const json_t *array, size_t i, const char *key)
{
        const char *s = json_string_value(json_object_get(json_array_get(array, i), key));

        cr_assert_not_null(s, "no %s in entry %zu of %zu", key, i, json_array_size(array));
        return s;
}

static bool log_has(void *arg)
{
        void **args = arg;
        const Fixture *f = args[0];
        _cleanup_free_ char *log = read_text(f->log);

        return strstr(log, args[1]) != NULL;
}

static void wait_for_drain(Fixture *f)
{
        void *args[] = { f, (void *) (uintptr_t) "Drain: " };

        wait_until(log_has, args, 10, "the drain has begun");
}

Test(drain, everything_goes)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *a = fixture_image(&f, "a", 64 * MIB), *b = fixture_image(&f, "b", 64 * MIB);
        char *targets[12];
        const Volume named = { .image = b, .name = "pv" };

        json_decref(drain(&f, "5", DONE));
        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                _cleanup_free_ char *uid = format("uid-%zu", i), *own = i < 4 ? strdup(a) : fixture_image(&f, uid, 64 * MIB);
                targets[i] = fixture_target(&f, uid, "v \xff");
                mount_ok(&f, targets[i], &(Volume) { .image = own, .read_only = i == 1 });
        }
        cr_assert_eq(try_attach(&f, &named, NULL, NULL), ERROR_NONE);

        json_t *volumes = drain(&f, "20", DONE);
        cr_assert_eq(json_array_size(volumes), 10);
        for (size_t i = 0; i < json_array_size(volumes); i++) {
                cr_assert(json_is_true(json_object_get(json_array_get(volumes, i), "gone")));
                cr_assert_str_eq(string_at(volumes, i, "state"), "absent");
                cr_assert_str_empty(string_at(volumes, i, "reason"));
        }
        json_decref(volumes);
        fixture_expect_clean(&f);

        /* the node is as good as before */
        mount_ok(&f, targets[0], &(Volume) { .image = a });
        unmount_ok(&f, targets[0]);
        for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                free(targets[i]);
        fixture_done(&f);
}

/* It sits in the volume until it is killed. */
static pid_t sitter_start(const char *target)
{
        int ready[2];
        char c;

        cr_assert_eq(pipe(ready), 0);
        pid_t pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                if (chdir(target) < 0)
                        _exit(1);
                close(ready[1]);
                for (;;)
                        pause();
        }
        close(ready[1]);
        cr_assert_eq(read(ready[0], &c, 1), 0);
        close(ready[0]);
        return pid;
}

Test(drain, names_who_holds)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *a = fixture_image(&f, "a", 64 * MIB), *b = fixture_image(&f, "b", 64 * MIB),
                            *held = fixture_target(&f, "uid-1", "held"), *idle = fixture_target(&f, "uid-2", "idle"), *holder = NULL;

        mount_ok(&f, held, &(Volume) { .image = a });
        mount_ok(&f, idle, &(Volume) { .image = b });
        pid_t sitter = sitter_start(held);
        holder = format("%d", sitter);

        json_t *volumes = drain(&f, "2", LEFT);
        cr_assert_eq(json_array_size(volumes), 2);
        size_t left = json_is_true(json_object_get(json_array_get(volumes, 0), "gone")) ? 1 : 0;
        cr_assert(json_is_false(json_object_get(json_array_get(volumes, left), "gone")));
        cr_assert(json_is_true(json_object_get(json_array_get(volumes, 1 - left), "gone")), "an idle volume is left");
        cr_assert_str_eq(string_at(volumes, left, "target"), held);
        cr_assert(strstr(string_at(volumes, left, "reason"), holder), "'%s' does not name process %s", string_at(volumes, left, "reason"),
                  holder);
        json_decref(volumes);
        cr_assert_eq(fixture_count_mounts(held), 1, "it was taken away from under its holder");

        /* who lets go meanwhile is waited for; and nothing is mounted now */
        DrainCall d = drain_start(&f, "30");
        void *args[] = { &f, (void *) (uintptr_t) "Drain: 1 volumes" };
        wait_until(log_has, args, 10, "the second drain has begun");
        mount_refused(&f, idle, &(Volume) { .image = b }, ERROR_SHUTTING_DOWN, "drained");
        cr_assert_eq(try_attach(&f, &(Volume) { .image = b, .name = "pv" }, NULL, NULL), ERROR_SHUTTING_DOWN);
        holder_end(sitter);
        json_decref(drain_answer(&d, DONE));
        fixture_expect_clean(&f);
        mount_ok(&f, idle, &(Volume) { .image = b });
        unmount_ok(&f, idle);
        fixture_done(&f);
}

/* An mkfs is neither ended nor waited for longer than was said; two drains at once are fine. */
Test(drain, leaves_an_mkfs_at_work)
{
        Fixture f;
        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, "[Agent]\nLingerSec=300\n");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB);
        const Volume v = { .image = image };

        Call call = call_start(&f, CALL_MOUNT, target, &v);
        gate_wait(&f, 1);
        double start = now_seconds();
        json_t *volumes = drain(&f, "1", LEFT);
        cr_assert_lt(now_seconds() - start, 10);
        cr_assert_eq(json_array_size(volumes), 1);
        cr_assert(strstr(string_at(volumes, 0, "reason"), "still at work at step 'format'"), "%s", string_at(volumes, 0, "reason"));
        json_decref(volumes);
        cr_assert(call_runs(&call));

        DrainCall d = drain_start(&f, "30");
        wait_for_drain(&f);
        gate_open(&f);
        cr_assert_eq(call_wait(&call), ERROR_NONE, "what was begun before may finish");
        json_decref(drain_answer(&d, DONE));
        gate_done(&f);
        fixture_expect_clean(&f);
        fixture_done(&f);
}

/* Killed in its middle, berthd goes on from what there is. */
Test(drain, killed)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        char *targets[16];
        Volume volumes[ELEMENTSOF(targets)];

        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                _cleanup_free_ char *uid = format("uid-%zu", i);
                targets[i] = fixture_target(&f, uid, "v");
                volumes[i] = (Volume) { .image = fixture_image_formatted(&f, uid, 16 * MIB, "ext4") };
        }
        for (unsigned round = 0; round < 8; round++) {
                for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                        mount_ok(&f, targets[i], &volumes[i]);
                DrainCall d = drain_start(&f, "30");
                usleep(round * 3000);
                fixture_stop(&f, round % 2 ? SIGTERM : SIGKILL);
                (void) drain_status(&d);
                (void) unlink(d.out);
                free(d.out);
                fixture_start(&f, NULL);
                json_decref(drain(&f, "30", DONE));
                fixture_expect_clean(&f);
        }
        for (size_t i = 0; i < ELEMENTSOF(targets); i++) {
                free(targets[i]);
                free((char *) (uintptr_t) volumes[i].image);
        }
        fixture_done(&f);
}

Test(drain, usage)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *program = executable_path(&f, "berthctl");
        char *const wrong[] = { (char *) "0", (char *) "-1", (char *) "3601", (char *) "soon" };

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
                cr_assert_eq(RUN(program, "drain", "--timeout", wrong[i]), 2, "%s", wrong[i]);
        cr_assert_eq(RUN(program, "drain", "x"), 2);
        cr_assert_eq(RUN(program, "drain"), 3, "there is no agent");
        fixture_done(&f);
}
