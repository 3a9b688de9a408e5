/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The benchmark's course: which measurements are taken, in which order, and what is told of them. Run by
 * tests/bench/run as root in name spaces of its own (mount, pid) with an empty directory; see bench.h.
 *
 * Ways that are compared are measured in turn within each round, and each round starts with another one, so
 * that neither a noisy moment nor what one way leaves to its successor favours any of them.
 */

#include <getopt.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "bench/bench.h"
#include "protocol/settings.h"

/* Commands take twenty times as long as the rest: every so many rounds are enough. */
#define COMMANDS_EVERY 5U
#define CONNECTIONS 32U
/* Mounted and unmounted once before a volume's memory is measured: as many as mounters may work at once. */
#define WARM_VOLUMES 16U

static const Plan PLAN_FULL = {
        .cycles = 1000,
        .processes = 500,
        .mounts = 500,
        .parallel_rounds = 10,
        .parallel_volumes = 200,
        .held_volumes = 1000,
        .restart_volumes_max = 5000,
        .restart_rounds = 8,
        .plan_rounds = 50,
        .churn_seconds = 10,
        .churn_ages = 10,
        .churn_cycles = 400,
        .churn_held_volumes = 1000,
        .rbd_rounds = 100,
};
static const Plan PLAN_QUICK = {
        .cycles = 150,
        .processes = 100,
        .mounts = 80,
        .parallel_rounds = 3,
        .parallel_volumes = 200,
        .held_volumes = 200,
        .restart_volumes_max = 1000,
        .restart_rounds = 2,
        .plan_rounds = 10,
        .churn_seconds = 2,
        .churn_ages = 2,
        .churn_cycles = 40,
        .churn_held_volumes = 0,
        .rbd_rounds = 15,
};

void die(const char *format, ...)
{
        va_list ap;

        fputs("bench: ", stderr);
        va_start(ap, format);
        vfprintf(stderr, format, ap);
        va_end(ap);
        fputc('\n', stderr);
        exit(EXIT_FAILURE);
}

char *format_string(const char *format, ...)
{
        char *s;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&s, format, ap) < 0)
                die("out of memory");
        va_end(ap);
        return s;
}

void write_text(const char *path, const char *text)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        int r = fd < 0 ? -errno : write_full(fd, text, strlen(text));

        if (r < 0)
                die("%s: %s", path, strerror(-r));
}

void make_directory(const char *path)
{
        int r = mkdir_parents(path, 0750);

        if (r < 0)
                die("%s: %s", path, strerror(-r));
}

double now_usec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_MONOTONIC, &ts);
        return (double) ts.tv_sec * 1e6 + (double) ts.tv_nsec / 1e3;
}

void wait_step(double end_usec, const char *what)
{
        if (now_usec() > end_usec)
                die("waited in vain for %s", what);
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
}

static double ratio(const Samples *a, const Samples *b)
{
        return samples_median(a) / samples_median(b);
}

/* They stay when they are let go, and whoever looks for an image's device has to look past them. */
static unsigned loop_nodes(void)
{
        _cleanup_closedir_ DIR *dir = opendir("/sys/devices/virtual/block");
        const struct dirent *e;
        unsigned n = 0;

        while (dir && (e = readdir(dir)))
                n += strncmp(e->d_name, "loop", 4) == 0;
        return n;
}

static void measure_cycles(const Plan *plan, Report *r, Node *n, Volume *v)
{
        Samples s[_WAY_MAX] = {};

        for (unsigned i = 0; i < plan->cycles; i++)
                for (unsigned k = 0; k < _WAY_MAX; k++) {
                        Way way = (Way) ((i + k) % _WAY_MAX);

                        if (way != WAY_COMMANDS || i % COMMANDS_EVERY == 0)
                                samples_add(s + way, cycle(way, n, v));
                }
        report_section(r, "Full cycle of a formatted 64 MiB ext4 image, 10 other mounts");
        report_figure(r, "loop_nodes", "loop devices on this machine, bound or not", loop_nodes(),
                      UNIT_COUNT);
        report_samples(r, "bare_cycle", "bare system calls", s + WAY_BARE);
        report_samples(r, "api_cycle", "API, one kept connection", s + WAY_API);
        report_samples(r, "shim_cycle", "FlexVolume shim, two processes", s + WAY_SHIM);
        report_samples(r, "commands_cycle", "util-linux commands in a shell", s + WAY_COMMANDS);
        report_goal(r, "api_over_bare", "API over bare", ratio(s + WAY_API, s + WAY_BARE), UNIT_RATIO,
                    BOUND_AT_MOST, 2.0);
        report_figure(r, "shim_over_bare", "shim over bare", ratio(s + WAY_SHIM, s + WAY_BARE), UNIT_RATIO);
        report_goal(r, "commands_over_api", "commands over API", ratio(s + WAY_COMMANDS, s + WAY_API),
                    UNIT_RATIO, BOUND_AT_LEAST, 10.0);
        for (unsigned i = 0; i < _WAY_MAX; i++)
                samples_done(s + i);
}

static void measure_processes(const Plan *plan, Report *r, const Programs *programs, const Node *n)
{
        char *init[] = { n->driver, "init", NULL }, *empty[] = {programs->empty, NULL};
        Samples s_init = {}, s_empty = {};

        for (unsigned i = 0; i < plan->processes; i++) {
                double a = now_usec(), b, c;

                process_run(init, NULL, 0);
                b = now_usec();
                process_run(empty, NULL, 0);
                c = now_usec();
                samples_add(&s_init, b - a);
                samples_add(&s_empty, c - b);
        }
        report_section(r, "Processes");
        report_samples(r, "empty_process", "a process that does nothing", &s_empty);
        report_samples(r, "init", "the shim's init", &s_init);
        report_goal(r, "init_ms", "the shim's init", samples_median(&s_init) / 1e3, UNIT_MSEC, BOUND_AT_MOST,
                    3.0);
        samples_done(&s_init);
        samples_done(&s_empty);
}

static void measure_parallel(const Plan *plan, Report *r, Node *n, Volume *volumes)
{
        _cleanup_settings_ Settings settings = SETTINGS_INIT;
        Samples s_bare = {}, s_api = {};

        if (settings_defaults(&settings) < 0)
                die("out of memory");
        for (unsigned i = 0; i < plan->parallel_rounds; i++) {
                samples_add(&s_bare, parallel_cycle(WAY_BARE, n, volumes, plan->parallel_volumes,
                                                    settings.mounters_max));
                samples_add(&s_api,
                            parallel_cycle(WAY_API, n, volumes, plan->parallel_volumes, CONNECTIONS));
        }
        report_section(r, "200 volumes mounted, then unmounted, in parallel");
        report_figure(r, "parallel_volumes", "volumes", plan->parallel_volumes, UNIT_COUNT);
        report_figure(r, "parallel_bare_threads",
                      "threads of bare system calls (as many as mounters may work)", settings.mounters_max,
                      UNIT_COUNT);
        report_figure(r, "parallel_api_connections", "connections of the API", CONNECTIONS, UNIT_COUNT);
        report_samples(r, "parallel_bare", "bare system calls", &s_bare);
        report_samples(r, "parallel_api", "API", &s_api);
        report_figure(r, "parallel_over_bare", "API over bare", ratio(&s_api, &s_bare), UNIT_RATIO);
        samples_done(&s_bare);
        samples_done(&s_api);
}

/*
 * A volume's cost is taken from anonymous memory alone: the share of the libraries in PSS falls with every
 * mounter that is started meanwhile, which would hide it. What connections and mounters cost is there
 * before, by a first few volumes; these come off the divisor, since the memory they gave back is used again.
 */
static void measure_held(const Plan *plan, Report *r, Node *n, Volume *volumes, Memory idle,
                         Memory idle_mounters)
{
        Memory warm, held, mounters, after;
        unsigned count = plan->held_volumes;

        parallel_api(HALF_MOUNT, n, volumes, WARM_VOLUMES, CONNECTIONS);
        parallel_api(HALF_UNMOUNT, n, volumes, WARM_VOLUMES, CONNECTIONS);
        node_wait_idle(n);
        warm = memory_of(n->agent);
        parallel_api(HALF_MOUNT, n, volumes, count, CONNECTIONS);
        node_wait_idle(n);
        held = memory_of(n->agent);
        mounters = memory_of_children(n->agent);
        parallel_api(HALF_UNMOUNT, n, volumes, count, CONNECTIONS);
        node_wait_idle(n);
        after = memory_of(n->agent);

        report_section(r, "Memory");
        report_goal(r, "pss_idle_kib", "berthd, idle: PSS", (double) idle.pss, UNIT_KIB, BOUND_AT_MOST,
                    5.0 * 1024);
        report_figure(r, "rss_idle_kib", "berthd, idle: RSS", (double) idle.rss, UNIT_KIB);
        report_figure(r, "pss_warm_kib", "berthd, after 32 connections and 16 volumes: PSS",
                      (double) warm.pss, UNIT_KIB);
        report_figure(r, "held_volumes", "volumes mounted", count, UNIT_COUNT);
        report_figure(r, "pss_held_kib", "berthd, with these mounted: PSS", (double) held.pss, UNIT_KIB);
        report_goal(r, "pss_per_volume_kib", "berthd, for each volume (anonymous memory)",
                    ((double) held.pss_anon - (double) warm.pss_anon) / (count - WARM_VOLUMES), UNIT_KIB,
                    BOUND_AT_MOST, 2.0);
        report_figure(r, "pss_after_kib", "berthd, when they are unmounted again: PSS", (double) after.pss,
                      UNIT_KIB);
        report_figure(r, "mounters_idle", "mounter processes, idle", idle_mounters.processes, UNIT_COUNT);
        report_figure(r, "pss_mounters_idle_kib", "their PSS together", (double) idle_mounters.pss,
                      UNIT_KIB);
        report_figure(r, "mounters_held", "mounter processes, with these volumes mounted",
                      mounters.processes, UNIT_COUNT);
        report_figure(r, "pss_mounters_held_kib", "their PSS together", (double) mounters.pss, UNIT_KIB);
}

static void measure_other_mounts(const Plan *plan, Report *r, Node *few, const Programs *programs,
                                 const char *dir, Volume *volumes)
{
        Node some, many, *nodes[] = { few, &some, &many };
        Samples api[3] = {}, bare[3] = {};

        node_start(&some, programs, dir, 1000);
        node_start(&many, programs, dir, 10000);
        for (unsigned i = 0; i < 3; i++)
                node_wait_idle(nodes[i]);
        for (unsigned i = 0; i < plan->mounts; i++)
                for (unsigned k = 0; k < 3; k++) {
                        unsigned j = (i + k) % 3;

                        node_enter(nodes[j]);
                        samples_add(bare + j, cycle(WAY_BARE, nodes[j], volumes + j));
                        samples_add(api + j, cycle(WAY_API, nodes[j], volumes + j));
                }
        node_enter(few);
        node_stop(&many);
        node_stop(&some);

        report_section(r, "Full cycle among other mounts");
        report_samples(r, "bare_mounts_10", "bare system calls, 10 other mounts", bare);
        report_samples(r, "bare_mounts_1000", "bare system calls, 1,000 other mounts", bare + 1);
        report_samples(r, "bare_mounts_10000", "bare system calls, 10,000 other mounts", bare + 2);
        report_samples(r, "api_mounts_10", "API, 10 other mounts", api);
        report_samples(r, "api_mounts_1000", "API, 1,000 other mounts", api + 1);
        report_samples(r, "api_mounts_10000", "API, 10,000 other mounts", api + 2);
        report_figure(r, "bare_mounts_10000_over_10", "bare system calls, 10,000 over 10",
                      ratio(bare + 2, bare), UNIT_RATIO);
        report_figure(r, "mounts_1000_over_10", "API, 1,000 over 10", ratio(api + 1, api), UNIT_RATIO);
        report_goal(r, "mounts_10000_over_10", "API, 10,000 over 10", ratio(api + 2, api), UNIT_RATIO,
                    BOUND_AT_MOST, 1.1);
        for (unsigned i = 0; i < 3; i++) {
                samples_done(api + i);
                samples_done(bare + i);
        }
}

static unsigned larger(unsigned a, unsigned b)
{
        return a > b ? a : b;
}

/* What is measured on one node with few other mounts. */
static void measure_node(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes)
{
        Memory idle, idle_mounters;
        Node node;

        node_start(&node, programs, dir, 10);
        node_wait_idle(&node);
        idle = memory_of(node.agent);
        idle_mounters = memory_of_children(node.agent);

        measure_cycles(plan, r, &node, volumes);
        measure_processes(plan, r, programs, &node);
        measure_other_mounts(plan, r, &node, programs, dir, volumes);
        measure_held(plan, r, &node, volumes, idle, idle_mounters);
        measure_parallel(plan, r, &node, volumes);
        node_stop(&node);
}

static const struct {
        const char *name;
        void (*measure)(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes);
} parts[] = {
        { "node", measure_node },
        { "events", measure_events },
        { "restart", measure_restart },
#ifdef BENCH_CEPH_LAB
        { "rbd", measure_rbd },
#endif
};

/* only: the part that is wanted; NULL: all. */
static void benchmark(const Plan *plan, Report *r, const Programs *programs, const char *dir, const char *only)
{
        unsigned n_volumes = larger(plan->restart_volumes_max, larger(plan->held_volumes, plan->parallel_volumes));
        Volume *volumes = volumes_make(dir, n_volumes);

        for (unsigned i = 0; i < ELEMENTSOF(parts); i++)
                if (!only || strcmp(parts[i].name, only) == 0)
                        parts[i].measure(plan, r, programs, dir, volumes);
        for (unsigned i = 0; i < n_volumes; i++) {
                free(volumes[i].image);
                free(volumes[i].staging);
                free(volumes[i].target);
        }
        free(volumes);
}

static bool part_is_known(const char *name)
{
        for (unsigned i = 0; i < ELEMENTSOF(parts); i++)
                if (strcmp(parts[i].name, name) == 0)
                        return true;
        return false;
}

static int usage(const char *name)
{
        fprintf(stderr,
                "Usage: %s [--quick] [--json] [--only node|events|restart|rbd] --build-dir DIR --dir DIR\n", name);
        return EXIT_FAILURE;
}

int main(int argc, char **argv)
{
        static const struct option options[] = {
                        { "quick", no_argument, NULL, 'q' },
                        { "json", no_argument, NULL, 'j' },
                        { "only", required_argument, NULL, 'o' },
                        { "build-dir", required_argument, NULL, 'b' },
                        { "dir", required_argument, NULL, 'd' },
                        {},
        };
        _cleanup_(report_freep) Report *report = report_new();
        const char *build_dir = NULL, *dir = NULL, *only = NULL;
        const Plan *plan = &PLAN_FULL;
        bool json = false;
        int c;

        while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0)
                switch (c) {
                case 'q':
                        plan = &PLAN_QUICK;
                        break;
                case 'j':
                        json = true;
                        break;
                case 'o':
                        only = optarg;
                        break;
                case 'b':
                        build_dir = optarg;
                        break;
                case 'd':
                        dir = optarg;
                        break;
                default:
                        return usage(argv[0]);
                }
        if (!build_dir || !dir || optind != argc || (only && !part_is_known(only)))
                return usage(argv[0]);

        Programs programs = {
                        .berthd = format_string("%s/agent/daemon/berthd", build_dir),
                        .shim = format_string("%s/agent/flexvolume/flexvolume", build_dir),
                        .mounter_dir = format_string("%s/mounters", build_dir),
                        .empty = format_string("%s/tests/bench/bench-empty", build_dir),
        };
        umask(022);
        benchmark(plan, report, &programs, dir, only);
        if (json)
                report_print_json(report);
        else
                report_print_table(report);
        free(programs.berthd);
        free(programs.shim);
        free(programs.mounter_dir);
        free(programs.empty);
        return EXIT_SUCCESS;
}
