/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The CPU time of reconcile_plan() for a node with thousands of volumes. The snapshot is made by hand, with
 * keys and paths as long as those of a node, and sorted as observe sorts it; sorting is no part of the plan.
 */

#include "bench/plan.h"

#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "daemon/reconcile/reconcile.h"

/* main.c; bench.h cannot be included here. */
void die(const char *format, ...) _printf_(1, 2) __attribute__((noreturn));
char *format_string(const char *format, ...) _printf_(1, 2);

/* It waits for nothing, and what other programs do meanwhile does not count. */
static double cpu_usec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        return (double) ts.tv_sec * 1e6 + (double) ts.tv_nsec / 1e3;
}

static void add_mount(Snapshot *s, char *target, const char *key, dev_t device)
{
        s->mounts[s->n_mounts++] = (MountView){
                        .target = target,
                        .stage = key ? format_string("%s", key) : NULL,
                        .is_target = !key,
                        .device = device,
                        .fs_type = format_string("ext4"),
                        .root = format_string("/"),
        };
}

static void add_record(Snapshot *s, const char *key, const char *target, dev_t device)
{
        VolumeView *v = &s->volumes[s->n_volumes++];

        *v = (VolumeView){
                        .key = format_string("%s", key),
                        .state = VOLUME_STAGED,
                        .device = device,
                        .device_present = true,
                        .health = VOLUME_HEALTH_OK,
                        .publishes = calloc(1, sizeof(PublishView)),
                        .n_publishes = 1,
        };
        if (!v->publishes)
                die("out of memory");
        v->publishes->target = format_string("%s", target);
}

static void add_volume(Snapshot *s, PlanCase c, unsigned i)
{
        _cleanup_free_ char *key = format_string("loop-8-1-%u", 1000000 + i);
        _cleanup_free_ char *target = format_string(
                        "/var/lib/kubelet/pods/00000000-0000-4000-8000-%012u/volumes/berth~loop/data", i);
        dev_t device = makedev(7, i);

        s->devices[s->n_devices++] = (StepDevice){
                        .key = format_string("%s", key),
                        .identity = format_string("loop:8:1:%u", 1000000 + i),
                        .device = format_string("/dev/loop%u", i),
                        .image = format_string("/var/lib/berth/loop/%u.img", i),
                        .device_number = device,
        };
        add_mount(s, format_string("/run/berth/staging/%s", key), key, device);
        if (c != PLAN_CASE_UNMOUNTED)
                add_mount(s, format_string("%s", target), NULL, device);
        if (c != PLAN_CASE_FORGOTTEN)
                add_record(s, key, target, device);
}

static size_t steps_wanted(PlanCase c, unsigned n_volumes)
{
        switch (c) {
        case PLAN_CASE_UNMOUNTED: /* drop the publish, give the volume back */
        case PLAN_CASE_FORGOTTEN: /* adopt the volume, adopt the publish */
                return (size_t) n_volumes * 2;
        default:
                return 0;
        }
}

double plan_once(PlanCase c, unsigned n_volumes)
{
        _cleanup_snapshot_ Snapshot s = {
                        .volumes = calloc(n_volumes, sizeof(VolumeView)),
                        .mounts = calloc(2 * (size_t) n_volumes, sizeof(MountView)),
                        .devices = calloc(n_volumes, sizeof(StepDevice)),
        };
        _cleanup_plan_ Plan p = {};
        double start, end;

        if (!s.volumes || !s.mounts || !s.devices || strv_append(&s.kinds, "loop") < 0)
                die("out of memory");
        for (unsigned i = 0; i < n_volumes; i++)
                add_volume(&s, c, i);
        snapshot_sort(&s);
        start = cpu_usec();
        if (reconcile_plan(&s, &p) < 0)
                die("out of memory");
        end = cpu_usec();
        if (p.n_steps != steps_wanted(c, n_volumes))
                die("the plan of case %d has %zu steps, not %zu", c, p.n_steps, steps_wanted(c, n_volumes));
        return end - start;
}
