/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the changes that other programs make to the mount table cost berthd, and how soon it sees its own
 * mounts change, with each of the two sources of mount events: 10,000 other mounts and 1,000 changes a
 * second.
 *
 * CPU time is counted over a period in which nobody asks berthd anything, and an equally long one without
 * the changes is taken off. Requests are compared in turn, a few with the changes and a few without.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>

#include "bench/bench.h"

#define OTHER_MOUNTS 10000U
#define CHANGES_PER_SECOND 1000U
#define CYCLES_IN_TURN 10U
#define CONNECTIONS 32U

/* As GetStatus tells them and BERTH_MOUNT_EVENTS takes them. */
static const char *const sources[] = {"fanotify", "mountinfo"};

static void goal(Report *r, const char *source, const char *key, const char *label, double value, Unit unit,
                 Bound bound, double limit)
{
        _cleanup_free_ char *full_key = format_string("events_%s_%s", key, source);
        _cleanup_free_ char *full_label = format_string("%s: %s", source, label);

        report_goal(r, full_key, full_label, value, unit, bound, limit);
}

static void figure(Report *r, const char *source, const char *key, const char *label, double value,
                   Unit unit)
{
        _cleanup_free_ char *full_key = format_string("events_%s_%s", key, source);
        _cleanup_free_ char *full_label = format_string("%s: %s", source, label);

        report_figure(r, full_key, full_label, value, unit);
}

static void pause_msec(unsigned msec)
{
        nanosleep(&(struct timespec){.tv_sec = msec / 1000, .tv_nsec = (long) (msec % 1000) * 1000000},
                  NULL);
}

/* Fraction of a core that berthd uses in the seconds that follow. */
static double cores_used(const Node *n, unsigned seconds)
{
        uint64_t ticks = process_ticks(n->agent);
        double start = now_usec();

        pause_msec(seconds * 1000);
        return (double) (process_ticks(n->agent) - ticks) / (double) sysconf(_SC_CLK_TCK) /
               ((now_usec() - start) / 1e6);
}

static double cores_for_churn(const Node *n, Churn *c, unsigned seconds, double *ret_rate)
{
        double without, with, start;
        uint64_t changes;

        node_wait_idle(n);
        without = cores_used(n, seconds);
        churn_set(c, true);
        pause_msec(1000); /* the first look is sooner than those that follow */
        changes = churn_changes(c);
        start = now_usec();
        with = cores_used(n, seconds);
        *ret_rate = (double) (churn_changes(c) - changes) / ((now_usec() - start) / 1e6);
        churn_set(c, false);
        return with - without;
}

static void measure_cpu(const Plan *plan, Report *r, const char *source, Node *n, Churn *c, Volume *volumes)
{
        double rate, cores = cores_for_churn(n, c, plan->churn_seconds, &rate);

        goal(r, source, "rate", "mount changes a second", rate, UNIT_COUNT, BOUND_AT_LEAST,
             0.95 * CHANGES_PER_SECOND);
        goal(r, source, "cpu", "berthd's CPU time for them", cores, UNIT_CORES, BOUND_AT_MOST, 0.05);
        if (plan->churn_held_volumes == 0)
                return;
        parallel_api(HALF_MOUNT, n, volumes, plan->churn_held_volumes, CONNECTIONS);
        cores = cores_for_churn(n, c, plan->churn_seconds, &rate);
        parallel_api(HALF_UNMOUNT, n, volumes, plan->churn_held_volumes, CONNECTIONS);
        goal(r, source, "cpu_held", "the same with 1,000 volumes published", cores, UNIT_CORES,
             BOUND_AT_MOST, 0.05);
}

/* The time from an umount(2) by hand until berthd no longer counts the publish. */
static double age_of_view(Node *n, const Volume *v)
{
        double start = now_usec();

        if (umount2(v->target, UMOUNT_NOFOLLOW) < 0)
                die("%s: %m", v->target);
        WAIT_FOR(api_status(n->bus, "publishes") == 0, 60, "berthd to see that a target was unmounted");
        return now_usec() - start;
}

static void measure_age(const Plan *plan, Report *r, const char *source, Node *n, Churn *c, Volume *v)
{
        double slowest = 0;

        churn_set(c, true);
        for (unsigned i = 0; i < plan->churn_ages; i++) {
                double age;

                api_mount(n->bus, v);
                volume_expect_mounted(v);
                pause_msec(i % 7 * 150); /* at another moment between two looks each time */
                age = age_of_view(n, v);
                slowest = age > slowest ? age : slowest;
        }
        churn_set(c, false);
        api_mount(n->bus, v);
        api_unmount(n->bus, v);
        WAIT_FOR(!volume_is_attached(v), 30, "the device to be gone");
        goal(r, source, "view_age_ms", "age of the view, slowest", slowest / 1e3, UNIT_MSEC, BOUND_AT_MOST,
             2000);
}

static void measure_requests(const Plan *plan, Report *r, const char *source, Node *n, Churn *c, Volume *v)
{
        Samples api[2] = {}, bare[2] = {};

        node_wait_idle(n);
        for (unsigned i = 0; i < plan->churn_cycles; i++)
                for (unsigned on = 0; on < 2; on++) {
                        churn_set(c, on);
                        for (unsigned k = 0; k < CYCLES_IN_TURN && i % CYCLES_IN_TURN == 0; k++) {
                                samples_add(bare + on, cycle(WAY_BARE, n, v));
                                samples_add(api + on, cycle(WAY_API, n, v));
                        }
                }
        churn_set(c, false);
        figure(r, source, "bare_ratio", "bare cycle with the changes over without",
               samples_median(bare + 1) / samples_median(bare), UNIT_RATIO);
        figure(r, source, "requests_ratio", "API cycle with the changes over without",
               samples_median(api + 1) / samples_median(api), UNIT_RATIO);
        figure(r, source, "requests_p99_ratio", "the same of the 99th percentiles",
               samples_p99(api + 1) / samples_p99(api), UNIT_RATIO);
        for (unsigned i = 0; i < 2; i++) {
                samples_done(api + i);
                samples_done(bare + i);
        }
}

static void measure_source(const Plan *plan, Report *r, const Programs *programs, const char *dir,
                           Volume *volumes, const char *source)
{
        Node n;
        Churn *c;

        setenv("BERTH_MOUNT_EVENTS", source, 1);
        node_start(&n, programs, dir, OTHER_MOUNTS);
        unsetenv("BERTH_MOUNT_EVENTS");
        bool available = api_status_is(n.bus, "mountEvents", source);
        figure(r, source, "available", "this kernel has it", available, UNIT_COUNT);
        if (available) {
                c = churn_start(n.dir, CHANGES_PER_SECOND);
                measure_cpu(plan, r, source, &n, c, volumes);
                measure_age(plan, r, source, &n, c, volumes);
                measure_requests(plan, r, source, &n, c, volumes);
                churn_stop(c);
        }
        node_stop(&n);
}

void measure_events(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes)
{
        report_section(r,
                       "10,000 other mounts, and another program that makes 1,000 mount changes a second");
        for (unsigned i = 0; i < ELEMENTSOF(sources); i++)
                measure_source(plan, r, programs, dir, volumes, sources[i]);
}
