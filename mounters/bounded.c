/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Calls with a time limit: the one place with threads. Runs in mounters whose storage is a server that may
 * be gone. A thread that waits inside the kernel cannot be ended for itself, but with its process: the
 * kernel's waits for a server are killable.
 */

#include "mounters/bounded.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

typedef struct Job {
        int (*function)(void *);
        void *argument;
        int result;
} Job;

static void *job_run(void *p)
{
        Job *job = p;

        job->result = job->function(job->argument);
        return NULL;
}

int bounded_call(Mounter *m, uint64_t usec, int (*function)(void *), void *argument, int *ret_result)
{
        sigset_t all, before;
        struct timespec until;
        pthread_t thread;
        Job *job = calloc(1, sizeof(*job));
        if (!job)
                return -ENOMEM;

        *job = (Job){.function = function, .argument = argument};
        sigfillset(&all);
        (void) pthread_sigmask(SIG_BLOCK, &all, &before); /* signals are for the main thread */
        int r = -pthread_create(&thread, NULL, job_run, job);
        (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
        if (r < 0) {
                free(job);
                return r;
        }

        (void) clock_gettime(CLOCK_MONOTONIC, &until);
        uint64_t nsec = (uint64_t) until.tv_nsec + usec % 1000000 * 1000;
        until.tv_sec += (time_t) (usec / 1000000 + nsec / 1000000000);
        until.tv_nsec = (long) (nsec % 1000000000);
        if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) != 0) {
                (void) pthread_detach(thread);
                m->spent = true;
                return -ETIMEDOUT;
        }
        *ret_result = job->result;
        free(job);
        return 0;
}
