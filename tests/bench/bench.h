/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the parts of the benchmark share. One process drives everything and, unlike berth itself, ends with a
 * message as soon as anything fails: a figure taken from a run in which a step failed would be worth
 * nothing. It cleans up nothing on that way; tests/bench/run does, by ending the name spaces that it runs
 * in.
 *
 * A *way* is one of the things compared: how a formatted image comes to a pod's directory and leaves it
 * again. A *node* is a mount namespace with a private berthd in it and a number of other mounts. Nodes that
 * are compared exist at the same time, so that samples of each can be taken in turn and a noisy moment hits
 * all of them alike.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "base/cleanup.h"

/* Prints "bench: " and the message and exits with 1. */
void die(const char *format, ...) _printf_(1, 2) __attribute__((noreturn));
/* asprintf() that returns the string, which the caller frees. */
char *format_string(const char *format, ...) _printf_(1, 2);
void write_text(const char *path, const char *text);
void make_directory(const char *path); /* mkdir -p */

/* CLOCK_MONOTONIC, microseconds. */
double now_usec(void);
/* Waits 1 ms between two looks at a condition and dies with what when `seconds` have passed. */
#define WAIT_FOR(condition, seconds, what)                                                                  \
        for (double _end = now_usec() + (seconds) *1e6; !(condition); wait_step(_end, what))
void wait_step(double end_usec, const char *what);

/* samples.c: a series of measurements, in microseconds. */
typedef struct Samples {
        double *values;
        size_t n, allocated;
} Samples;

void samples_add(Samples *s, double usec);
double samples_median(const Samples *s);
double samples_p99(const Samples *s);
void samples_done(Samples *s);

/* One image and where it is mounted. */
typedef struct Volume {
        char *image;
        char *target;  /* below the kubelet root */
        char *staging; /* bare system calls and commands only: berth has its own */
        unsigned loop; /* minor number while it is mounted */
} Volume;

/* images.c: n copies of one formatted sparse 64 MiB ext4 image, with their directories, below dir. */
Volume *volumes_make(const char *dir, unsigned n);
/* True while a loop device with that number is bound to the volume's image, by sysfs. */
bool volume_is_attached(const Volume *v);
/* Asserts that the volume's file system is what is mounted at its target, and fills v->loop. */
void volume_expect_mounted(Volume *v);

/* bare.c: nothing but the system calls that the work takes. */
void bare_mount(Volume *v);
void bare_unmount(Volume *v);

/* process.c */
/* Runs a program to its end as the kubelet does (output through a pipe, read to its end); exit status 0 or
 * death. */
void process_run(char *const *argv, char *output, size_t size);
typedef struct Memory {
        uint64_t pss, pss_anon, rss; /* KiB */
        unsigned processes;
} Memory;
Memory memory_of(pid_t pid);
/* Summed over the processes whose parent it is. */
Memory memory_of_children(pid_t pid);
/* CPU time that the process has used so far, in clock ticks. */
uint64_t process_ticks(pid_t pid);

/* node.c */
typedef struct Programs {
        char *berthd, *shim, *mounter_dir, *empty;
} Programs;

typedef struct Node {
        char *dir, *socket, *kubelet_root, *driver;
        int namespace_fd;
        pid_t agent;
        double started_usec; /* just before its process was made */
        sd_bus *bus;
} Node;

/* Makes the namespace with that many mounts more, starts berthd in it and enters it. */
void node_start(Node *n, const Programs *programs, const char *dir, unsigned other_mounts);
/* Kills berthd and starts it again; returns the time from its start to READY=1 and connects anew. */
double node_restart(Node *n, const Programs *programs, const char *dir);
/* Until the agent has used no CPU time for a while, so that what it does at its start counts in no figure. */
void node_wait_idle(const Node *n);
void node_enter(const Node *n);
void node_stop(Node *n);
sd_bus *node_connect(const Node *n);

typedef enum Way {
        WAY_BARE,
        WAY_API,
        WAY_SHIM,
        WAY_COMMANDS,
        _WAY_MAX,
} Way;

/* One full cycle in the node that was entered; returns what it took. The device is gone when it ends. */
double cycle(Way way, Node *n, Volume *v);

/* parallel.c: mounts all volumes, then unmounts all, from that many threads; returns what the two took. */
double parallel_cycle(Way way, Node *n, Volume *volumes, unsigned n_volumes, unsigned n_threads);
/* One of the two halves, through the API. */
typedef enum Half {
        HALF_MOUNT,
        HALF_UNMOUNT,
} Half;
void parallel_api(Half half, Node *n, Volume *volumes, unsigned n_volumes, unsigned n_threads);

/* api.c: one connection's Mount and Unmount. */
void api_mount(sd_bus *bus, Volume *v);
void api_unmount(sd_bus *bus, Volume *v);
/* GetStatus; returns a number of it. */
uint64_t api_status(sd_bus *bus, const char *key);
/* Whether a string of it is this. */
bool api_status_is(sd_bus *bus, const char *key, const char *value);

/* churn.c: a process that mounts and unmounts in the namespace that is entered, at a steady rate. */
typedef struct Churn Churn;
Churn *churn_start(const char *dir, unsigned changes_per_second);
void churn_set(Churn *c, bool on);
/* How many changes it has made so far. */
uint64_t churn_changes(const Churn *c);
void churn_stop(Churn *c);

/* report.c: every figure has a key for --json and a line in the table. */
typedef enum Unit {
        UNIT_USEC,
        UNIT_MSEC,
        UNIT_KIB,
        UNIT_RATIO,
        UNIT_COUNT,
        UNIT_CORES,
} Unit;

typedef struct Report Report;
Report *report_new(void);
void report_free(Report *r);
DEFINE_POINTER_CLEANUP(Report *, report_free);
/* Titles, keys and labels are copied. */
void report_section(Report *r, const char *title);
void report_figure(Report *r, const char *key, const char *label, double value, Unit unit);
/* Median and p99 as <key>_us and <key>_p99_us on one line. */
void report_samples(Report *r, const char *key, const char *label, const Samples *s);
/* A figure that has a goal: at most (or at least) the limit. */
typedef enum Bound {
        BOUND_AT_MOST,
        BOUND_AT_LEAST,
} Bound;
void report_goal(Report *r, const char *key, const char *label, double value, Unit unit, Bound bound,
                 double limit);
/* More than one source file measures: how much of everything, for --quick and in full. */
typedef struct Plan {
        unsigned cycles, processes, mounts, parallel_rounds, parallel_volumes, held_volumes;
        unsigned restart_volumes_max, restart_rounds, plan_rounds;
        unsigned churn_seconds, churn_ages, churn_cycles, churn_held_volumes, rbd_rounds;
} Plan;

/* restart.c, events.c and rbd.c (where there is librbd): sections of the report. volumes are not mounted, before and after. */
void measure_restart(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes);
void measure_events(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes);
void measure_rbd(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes);

void report_print_table(const Report *r);
void report_print_json(const Report *r);
