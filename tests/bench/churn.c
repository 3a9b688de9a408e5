/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Another program that mounts and unmounts all the time, as a busy node's container runtime does: a process
 * that binds a directory and unmounts it again, at a steady rate. It ends with the benchmark. What it did is
 * counted in memory that both share, since a figure taken at a lower rate than the one wanted has to show
 * it.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "bench/bench.h"

typedef struct Shared {
        atomic_bool on, end;
        atomic_uint_fast64_t changes;
        atomic_int error;
} Shared;

struct Churn {
        pid_t pid;
        Shared *shared;
};

static void sleep_until(double usec)
{
        const struct timespec ts = {
                        .tv_sec = (time_t) (usec / 1e6),
                        .tv_nsec = (long) (usec - 1e6 * (double) (time_t) (usec / 1e6)) * 1000,
        };

        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* Mounts and unmounts in turn; between the two a pause may end the process, and the directory stays bound.
 */
static void churn(Shared *s, const char *source, const char *target, double interval_usec)
{
        double next = now_usec();
        bool mounted = false;

        while (!atomic_load(&s->end) || mounted) {
                double now = now_usec();

                if (!atomic_load(&s->on) && !mounted) {
                        sleep_until(now + 1000);
                        next = now;
                        continue;
                }
                /* what a loaded machine kept it from doing is made up for, but not in one go */
                next = next + 100e3 < now ? now : next + interval_usec;
                if (next > now)
                        sleep_until(next);
                if ((mounted ? umount2(target, 0) : mount(source, target, NULL, MS_BIND, NULL)) < 0) {
                        atomic_store(&s->error, errno);
                        return;
                }
                mounted = !mounted;
                atomic_fetch_add(&s->changes, 1);
        }
}

Churn *churn_start(const char *dir, unsigned changes_per_second)
{
        _cleanup_free_ char *source = format_string("%s/churn-source", dir);
        _cleanup_free_ char *target = format_string("%s/churn-target", dir);
        Churn *c = calloc(1, sizeof *c);
        pid_t parent = getpid();

        make_directory(source);
        make_directory(target);
        if (!c)
                die("out of memory");
        c->shared = mmap(NULL, sizeof *c->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        if (c->shared == MAP_FAILED)
                die("mmap: %m");
        c->pid = fork();
        if (c->pid < 0)
                die("fork: %m");
        if (c->pid == 0) {
                prctl(PR_SET_PDEATHSIG, SIGKILL);
                if (getppid() == parent)
                        churn(c->shared, source, target, 1e6 / changes_per_second);
                _exit(0);
        }
        return c;
}

void churn_set(Churn *c, bool on)
{
        atomic_store(&c->shared->on, on);
}

uint64_t churn_changes(const Churn *c)
{
        int error = atomic_load(&c->shared->error);

        if (error != 0)
                die("the process that mounts and unmounts: %s", strerror(error));
        return atomic_load(&c->shared->changes);
}

void churn_stop(Churn *c)
{
        atomic_store(&c->shared->end, true);
        if (waitpid(c->pid, NULL, 0) != c->pid)
                die("waitpid: %m");
        (void) churn_changes(c);
        munmap(c->shared, sizeof *c->shared);
        free(c);
}
