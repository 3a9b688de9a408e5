/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd ended with fifty requests in flight: each client gets an answer or a closed connection, and soon; after a new start every
 * request, repeated, comes to the right state. An mkfs that is at work meanwhile is neither cut short nor begun twice.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <signal.h>
#include <string.h>

#include "base/cleanup.h"

#define REQUESTS 50U
#define IMAGE_SIZE (4U << 20)
#define ANSWER_SECONDS 20.0
#define CLEAN_SECONDS 30.0

typedef struct Load {
        Fixture f;
        char *images[REQUESTS], *targets[REQUESTS];
        Call calls[REQUESTS];
} Load;

static Volume load_volume(const Load *l, unsigned i)
{
        return (Volume) { .image = l->images[i], .fs_type = "ext4" };
}

static void load_init(Load *l)
{
        *l = (Load) {};
        fixture_init(&l->f);
        for (unsigned i = 0; i < REQUESTS; i++) {
                _cleanup_free_ char *image = format("image-%u", i), *pod = format("5e4b6f2e-0000-4000-8000-%012u", i);

                /* half of them blank: these are formatted by the first mount */
                l->images[i] = i % 2 ? fixture_image(&l->f, image, IMAGE_SIZE) : fixture_image_formatted(&l->f, image, IMAGE_SIZE, "ext4");
                l->targets[i] = fixture_target(&l->f, pod, "vol");
        }
}

static void load_done(Load *l)
{
        fixture_done(&l->f);
        for (unsigned i = 0; i < REQUESTS; i++) {
                free(l->images[i]);
                free(l->targets[i]);
        }
}

static void start_all(Load *l, CallKind kind)
{
        for (unsigned i = 0; i < REQUESTS; i++) {
                Volume v = load_volume(l, i);
                l->calls[i] = call_start(&l->f, kind, l->targets[i], &v);
        }
}

static unsigned count_running(const Load *l)
{
        unsigned n = 0;

        for (unsigned i = 0; i < REQUESTS; i++)
                n += call_runs(&l->calls[i]);
        return n;
}

static bool is_under_way(void *arg)
{
        return count_running(arg) <= REQUESTS - 5;
}

static bool is_over(void *arg)
{
        return count_running(arg) == 0;
}

/* How many of them were told nothing but the end of the connection, or of berthd. */
static unsigned collect_all(Load *l, bool must_succeed)
{
        unsigned n = 0;

        wait_until(is_over, l, ANSWER_SECONDS, "every client has its answer or a closed connection");
        for (unsigned i = 0; i < REQUESTS; i++) {
                ErrorCode code = call_wait(&l->calls[i]);

                if (code == ERROR_NONE)
                        continue;
                cr_assert(!must_succeed, "request %u: %s", i, error_code_name(code));
                cr_assert(code == ERROR_AGENT_UNREACHABLE || code == ERROR_SHUTTING_DOWN, "request %u: %s", i, error_code_name(code));
                n++;
        }
        return n;
}

/* Ends berthd when the first few have been served; the others are under way. */
static void end_under_load(Load *l, CallKind kind, int signal)
{
        start_all(l, kind);
        wait_until(is_under_way, l, ANSWER_SECONDS, "the first requests are served");
        fixture_stop(&l->f, signal);
        unsigned n = collect_all(l, false);
        cr_assert_gt(n, 0, "no request was in flight any more");
        fixture_start(&l->f, NULL);
        start_all(l, kind);
        (void) collect_all(l, true);
}

static void restart_under_load(int signal)
{
        Load l;

        load_init(&l);
        fixture_start(&l.f, NULL);
        end_under_load(&l, CALL_MOUNT, signal);
        for (unsigned i = 0; i < REQUESTS; i++) {
                cr_assert_eq(fixture_count_mounts(l.targets[i]), 1, "%s has %u mounts", l.targets[i], fixture_count_mounts(l.targets[i]));
                write_line(l.targets[i], "line", l.targets[i]);
                expect_line(l.targets[i], "line", l.targets[i]);
        }
        cr_assert_eq(fixture_count_loops(&l.f), REQUESTS);
        cr_assert_eq(count_volumes(&l.f), REQUESTS);

        end_under_load(&l, CALL_UNMOUNT, signal);
        wait_clean(&l.f, CLEAN_SECONDS);

        start_all(&l, CALL_MOUNT);
        (void) collect_all(&l, true);
        for (unsigned i = 0; i < REQUESTS; i++)
                expect_line(l.targets[i], "line", l.targets[i]);
        start_all(&l, CALL_UNMOUNT);
        (void) collect_all(&l, true);
        wait_clean(&l.f, CLEAN_SECONDS);
        load_done(&l);
}

TestSuite(underload, .timeout = 180);

Test(underload, stopped)
{
        restart_under_load(SIGTERM);
}

Test(underload, killed)
{
        restart_under_load(SIGKILL);
}

/* The mkfs goes on while berthd is away, and is the only one. */
static void mkfs_survives(int signal)
{
        Load l;

        load_init(&l);
        gate_init(&l.f);
        fixture_start(&l.f, NULL);
        Volume v = load_volume(&l, 1);
        Call first = call_start(&l.f, CALL_MOUNT, l.targets[1], &v);
        gate_wait(&l.f, 1);
        for (unsigned i = 0; i < REQUESTS; i += 2) {
                Volume other = load_volume(&l, i);
                l.calls[i] = call_start(&l.f, CALL_MOUNT, l.targets[i], &other);
        }
        fixture_stop(&l.f, signal);
        cr_assert_neq(call_wait(&first), ERROR_NONE);
        for (unsigned i = 0; i < REQUESTS; i += 2)
                (void) call_wait(&l.calls[i]);
        fixture_start(&l.f, NULL);

        /* the volume that is being formatted waits; the others do not */
        Call second = call_start(&l.f, CALL_MOUNT, l.targets[1], &v);
        for (unsigned i = 0; i < REQUESTS; i += 2) {
                Volume other = load_volume(&l, i);
                mount_ok(&l.f, l.targets[i], &other);
        }
        cr_assert(call_runs(&second), "the mount of a volume that is being formatted has been answered");
        cr_assert_eq(gate_count(&l.f), 1, "mkfs was begun %u times", gate_count(&l.f));
        gate_open(&l.f);
        cr_assert_eq(call_wait(&second), ERROR_NONE);
        cr_assert_eq(gate_count(&l.f), 1, "mkfs was begun %u times", gate_count(&l.f));
        write_line(l.targets[1], "line", "x");
        for (unsigned i = 0; i < REQUESTS; i += 2)
                unmount_ok(&l.f, l.targets[i]);
        unmount_ok(&l.f, l.targets[1]);
        wait_clean(&l.f, CLEAN_SECONDS);
        gate_done(&l.f);
        load_done(&l);
}

Test(underload, stopped_during_mkfs)
{
        mkfs_survives(SIGTERM);
}

Test(underload, killed_during_mkfs)
{
        mkfs_survives(SIGKILL);
}
