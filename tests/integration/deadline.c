/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Requests that take longer than their deadline, and callers that go away: everybody is answered in time, a repeat joins the work
 * that goes on, and once nobody waits nothing is published; what was staged for nobody is given back. The slow step is a real mke2fs
 * that is let go when the test wants.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <string.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)
#define SHORT "[Agent]\nRequestTimeoutSec=2\nLingerSec=1\n"
#define REQUEST_SECONDS 2.0
/* an ASan build on a busy machine may be late by so much */
#define SLACK_SECONDS 0.8

static void expect_in_progress(Call *c)
{
        ErrorCode code = call_wait(c);

        cr_assert_eq(code, ERROR_IN_PROGRESS, "answered %s", error_code_name(code));
        cr_assert(c->seconds > REQUEST_SECONDS - 0.1 && c->seconds < REQUEST_SECONDS + SLACK_SECONDS, "answered after %.2f s", c->seconds);
}

static void pause_seconds(double seconds)
{
        const struct timespec ts = { .tv_sec = (time_t) seconds, .tv_nsec = (long) ((seconds - (double) (time_t) seconds) * 1e9) };

        nanosleep(&ts, NULL);
}

typedef struct Slow {
        Fixture f;
        char *image, *target;
        Volume v;
} Slow;

static void slow_init(Slow *s)
{
        fixture_init(&s->f);
        gate_init(&s->f);
        fixture_start(&s->f, SHORT);
        s->image = fixture_image(&s->f, "a", 64 * MIB);
        s->target = fixture_target(&s->f, "uid-1", "v");
        s->v = (Volume) { .image = s->image };
}

static void slow_done(Slow *s)
{
        cr_assert_eq(gate_count(&s->f), 1, "mke2fs was begun %u times", gate_count(&s->f));
        gate_done(&s->f);
        fixture_done(&s->f);
        free(s->image);
        free(s->target);
}

Test(deadline, a_repeat_joins)
{
        Slow s;
        slow_init(&s);

        for (unsigned i = 0; i < 2; i++) {
                Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);
                expect_in_progress(&c);
                cr_assert_eq(fixture_count_mounts(s.target), 0);
        }
        Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);
        pause_seconds(0.3);
        cr_assert(call_runs(&c));
        gate_open(&s.f);
        cr_assert_eq(call_wait(&c), ERROR_NONE);
        write_line(s.target, "file", "x");
        pause_seconds(1.5); /* longer than LingerSec: it is used */
        expect_line(s.target, "file", "x");
        unmount_ok(&s.f, s.target);
        slow_done(&s);
}

/* Who came first is answered first, whoever joined since. */
Test(deadline, each_caller_has_its_own)
{
        Slow s;
        slow_init(&s);
        Call first = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        pause_seconds(1.2 - (now_seconds() - first.started));
        Call second = call_start(&s.f, CALL_MOUNT, s.target, &s.v);
        expect_in_progress(&first);
        cr_assert(call_runs(&second), "the second was answered with the first");
        expect_in_progress(&second);
        gate_open(&s.f);
        wait_clean(&s.f, 5);
        cr_assert_eq(fixture_count_mounts(s.target), 0);
        slow_done(&s);
}

static bool is_staged(void *arg)
{
        Slow *s = arg;
        _cleanup_json_ json_t *volumes = BERTHCTL(&s->f, "list");
        const char *state = json_string_value(json_object_get(json_array_get(volumes, 0), "State"));

        return state && strcmp(state, "staged") == 0;
}

Test(deadline, nobody_waits_any_more)
{
        Slow s;
        slow_init(&s);
        Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        expect_in_progress(&c);
        gate_open(&s.f);
        wait_until(is_staged, &s, 5, "the work goes on until it is staged");
        cr_assert_eq(fixture_count_mounts(s.target), 0, "published without anybody waiting");
        wait_clean(&s.f, 1 + 5);
        cr_assert_eq(fixture_count_mounts(s.target), 0);

        /* and the kubelet's next try, much later */
        mount_ok(&s.f, s.target, &s.v);
        unmount_ok(&s.f, s.target);
        slow_done(&s);
}

Test(deadline, the_caller_is_killed)
{
        Slow s;
        slow_init(&s);
        Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        call_abandon(&c);
        gate_open(&s.f);
        wait_clean(&s.f, 1 + 5);
        cr_assert_eq(fixture_count_mounts(s.target), 0, "published for a dead caller");
        slow_done(&s);
}

Test(deadline, the_caller_of_attach_is_killed)
{
        Slow s;
        slow_init(&s);
        _cleanup_free_ char *missing = format("%s/missing", s.f.image_dir);
        const Volume v = { .image = missing, .size = "64M", .name = "pv" };
        Call c = call_start(&s.f, CALL_ATTACH, "", &v);

        gate_wait(&s.f, 1);
        call_abandon(&c);
        gate_open(&s.f);
        wait_clean(&s.f, 1 + 5); /* nobody knows that it would have to be detached */

        cr_assert_eq(try_attach(&s.f, &v, NULL, NULL), ERROR_NONE);
        cr_assert_eq(try_detach(&s.f, "pv"), ERROR_NONE);
        slow_done(&s);
}

/* One caller dies, another still waits: it gets its mount. */
Test(deadline, one_of_two_callers_is_killed)
{
        Slow s;
        slow_init(&s);
        Call first = call_start(&s.f, CALL_MOUNT, s.target, &s.v), second = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        call_abandon(&first);
        gate_open(&s.f);
        cr_assert_eq(call_wait(&second), ERROR_NONE);
        cr_assert_eq(fixture_count_mounts(s.target), 1);
        unmount_ok(&s.f, s.target);
        slow_done(&s);
}

/* An Unmount that comes while the mount is at work waits for it, and is answered in time too. */
Test(deadline, unmount_behind_a_mount)
{
        Slow s;
        slow_init(&s);
        Call m = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        Call early = call_start(&s.f, CALL_UNMOUNT, s.target, NULL);
        expect_in_progress(&m);
        expect_in_progress(&early);
        Call late = call_start(&s.f, CALL_UNMOUNT, s.target, NULL);
        gate_open(&s.f);
        cr_assert_eq(call_wait(&late), ERROR_NONE);
        wait_clean(&s.f, 1 + 5);
        cr_assert_eq(fixture_count_mounts(s.target), 0);
        slow_done(&s);
}

/* While it lingers for nobody, the volume may be asked for in another way. */
Test(deadline, left_over_and_asked_for_otherwise)
{
        Slow s;
        fixture_init(&s.f);
        gate_init(&s.f);
        fixture_start(&s.f, "[Agent]\nRequestTimeoutSec=2\nLingerSec=100\n");
        s.image = fixture_image(&s.f, "a", 64 * MIB);
        s.target = fixture_target(&s.f, "uid-1", "v");
        s.v = (Volume) { .image = s.image, .option = "noatime" };
        Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        call_abandon(&c);
        gate_open(&s.f);
        wait_until(is_staged, &s, 5, "the work goes on until it is staged");
        mount_ok(&s.f, s.target, &(Volume) { .image = s.image, .option = "nodiratime" });
        _cleanup_free_ char *mounts = read_text("/proc/thread-self/mountinfo");
        char *line = strstr(mounts, s.target);
        cr_assert_not_null(line);
        line[strcspn(line, "\n")] = 0;
        cr_assert(strstr(line, "nodiratime") && !strstr(line, "noatime"), "%s", line);
        unmount_ok(&s.f, s.target);
        slow_done(&s);
}

typedef struct Refused {
        Slow *s;
        char *target; /* holds another volume */
} Refused;

static bool refused_and_gone(void *arg)
{
        Refused *r = arg;
        _cleanup_json_ json_t *volumes = BERTHCTL(&r->s->f, "list");

        if (json_array_size(volumes) == 1)
                return true;
        mount_refused(&r->s->f, r->target, &r->s->v, ERROR_CONFLICT, "holds another volume");
        return false;
}

/* Who has no part in it does not keep it here by asking again and again. */
Test(deadline, left_over_and_asked_for_by_who_is_refused)
{
        Slow s;
        fixture_init(&s.f);
        gate_init(&s.f);
        fixture_start(&s.f, "[Agent]\nRequestTimeoutSec=2\nLingerSec=2\n");
        s.image = fixture_image(&s.f, "a", 64 * MIB);
        s.target = fixture_target(&s.f, "uid-1", "v");
        s.v = (Volume) { .image = s.image };
        Refused r = { &s, fixture_target(&s.f, "uid-2", "v") };
        _cleanup_free_ char *other = fixture_image(&s.f, "b", 64 * MIB);
        Call c = call_start(&s.f, CALL_MOUNT, s.target, &s.v);

        gate_wait(&s.f, 1);
        call_abandon(&c);
        gate_open(&s.f);
        wait_until(is_staged, &s, 5, "the work goes on until it is staged");
        mount_ok(&s.f, r.target, &(Volume) { .image = other });
        wait_until(refused_and_gone, &r, 2 + 5, "it is given back, whoever asks");
        unmount_ok(&s.f, r.target);
        gate_done(&s.f);
        fixture_done(&s.f);
        free(s.image);
        free(s.target);
        free(r.target);
}
