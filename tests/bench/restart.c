/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd killed and started again on a node with many published volumes: how long until it is ready, until
 * it has answered a first request, and for how long it then keeps a request waiting while it compares the
 * node with its records. Beside it the plan alone.
 *
 * Devices that the kernel made for so many volumes would stay when the volumes are gone, and whoever looks
 * for an image's device would have to look past them: they are removed.
 */

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "bench/bench.h"
#include "bench/plan.h"

#define CONNECTIONS 32U
#define PLAN_VOLUMES 5000U
/* After the start: by then the mounters have been asked, and the node has been compared with the records. */
#define AFTER_USEC 1000e3

typedef struct Size {
        unsigned n;
        const char *text;
} Size;

static const Size sizes[] = {{10, "10"}, {1000, "1,000"}, {5000, "5,000"}};

typedef enum Request { REQUEST_MOUNT, REQUEST_STATUS, _REQUEST_MAX } Request;

static double slowest(const Samples *s)
{
        double most = 0;

        for (size_t i = 0; i < s->n; i++)
                most = s->values[i] > most ? s->values[i] : most;
        return most;
}

static void ask(Request request, Node *n, Volume *v)
{
        if (request == REQUEST_MOUNT)
                api_mount(n->bus, v); /* as the kubelet repeats it */
        else
                (void) api_status(n->bus, "volumes");
}

/* The slowest of many requests, one after the other. */
static double longest_wait(Node *n, Volume *v)
{
        double end = now_usec() + AFTER_USEC, longest = 0;

        while (now_usec() < end) {
                double start = now_usec();

                ask(REQUEST_STATUS, n, v);
                longest = now_usec() - start > longest ? now_usec() - start : longest;
                wait_step(end + 60e6, "berthd to answer");
        }
        return longest;
}

static void measure_size(const Plan *plan, Report *r, const Programs *programs, const char *dir, Node *n,
                         Volume *volumes, const Size *size)
{
        Samples ready = {}, first[_REQUEST_MAX] = {}, wait = {};

        for (unsigned i = 0; i < plan->restart_rounds; i++) {
                Request request = (Request) (i % _REQUEST_MAX);

                node_wait_idle(n);
                samples_add(&ready, node_restart(n, programs, dir));
                ask(request, n, volumes + i);
                samples_add(first + request, now_usec() - n->started_usec);
                samples_add(&wait, longest_wait(n, volumes + i));
                if (api_status(n->bus, "publishes") != size->n)
                        die("berthd does not know all publishes after its restart");
        }
        for (unsigned i = 0; i < 4; i++) {
                const struct {
                        const char *key, *label;
                        const Samples *samples;
                        double limit;
                } lines[] = {
                                {"ready_ms", "start to READY", &ready, 1000},
                                {"ms", "start to the first answer, a Mount repeated", first + REQUEST_MOUNT,
                                 1000},
                                {"status_ms", "start to the first answer, GetStatus", first + REQUEST_STATUS,
                                 1000},
                                {"wait_ms", "longest wait for GetStatus afterwards", &wait, 0},
                };
                _cleanup_free_ char *key = format_string("restart_%u_%s", size->n, lines[i].key);
                _cleanup_free_ char *label = format_string("%s volumes: %s", size->text, lines[i].label);

                if (lines[i].limit > 0)
                        report_goal(r, key, label, slowest(lines[i].samples) / 1e3, UNIT_MSEC, BOUND_AT_MOST,
                                    lines[i].limit);
                else
                        report_figure(r, key, label, slowest(lines[i].samples) / 1e3, UNIT_MSEC);
        }
        samples_done(&ready);
        samples_done(&wait);
        for (unsigned i = 0; i < _REQUEST_MAX; i++)
                samples_done(first + i);
}

static void measure_plan(const Plan *plan, Report *r)
{
        static const struct {
                const char *key, *label;
        } lines[_PLAN_CASE_MAX] = {
                        [PLAN_CASE_HEALTHY] = {"plan_5000_ms", "the plan for 5,000 volumes, nothing to do"},
                        [PLAN_CASE_UNMOUNTED] = {"plan_5000_unmounted_ms",
                                                 "the plan when all targets were unmounted by hand"},
                        [PLAN_CASE_FORGOTTEN] = {"plan_5000_forgotten_ms",
                                                 "the plan when all records were lost"},
        };

        for (unsigned c = 0; c < _PLAN_CASE_MAX; c++) {
                Samples s = {};

                for (unsigned i = 0; i < plan->plan_rounds; i++)
                        samples_add(&s, plan_once((PlanCase) c, PLAN_VOLUMES));
                report_goal(r, lines[c].key, lines[c].label, samples_median(&s) / 1e3, UNIT_MSEC,
                            BOUND_AT_MOST, 20);
                samples_done(&s);
        }
}

/* 1 + the highest number of a loop device that there is. */
static unsigned loops_end(void)
{
        _cleanup_closedir_ DIR *d = opendir("/sys/devices/virtual/block");
        unsigned end = 0, number;

        if (!d)
                die("/sys/devices/virtual/block: %m");
        for (const struct dirent *e = readdir(d); e; e = readdir(d))
                if (sscanf(e->d_name, "loop%u", &number) == 1 && number >= end)
                        end = number + 1;
        return end;
}

/* The kernel refuses to remove what is bound or open. */
static void remove_loops(unsigned from)
{
        _cleanup_close_ int fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        unsigned end = loops_end();

        if (fd < 0)
                die("/dev/loop-control: %m");
        for (unsigned i = from; i < end; i++)
                (void) ioctl(fd, LOOP_CTL_REMOVE, i);
}

void measure_restart(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes)
{
        unsigned mounted = 0, loops = loops_end();
        Node n;

        report_section(r, "berthd killed and started again");
        node_start(&n, programs, dir, 10);
        for (unsigned i = 0; i < ELEMENTSOF(sizes) && sizes[i].n <= plan->restart_volumes_max; i++) {
                parallel_api(HALF_MOUNT, &n, volumes + mounted, sizes[i].n - mounted, CONNECTIONS);
                mounted = sizes[i].n;
                measure_size(plan, r, programs, dir, &n, volumes, sizes + i);
        }
        parallel_api(HALF_UNMOUNT, &n, volumes, mounted, CONNECTIONS);
        node_stop(&n);
        remove_loops(loops);
        measure_plan(plan, r);
}
