/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Many volumes at once. Threads take volumes off one counter: first all are mounted, then all are unmounted,
 * so that at the turn every volume is mounted. Through the API each thread has a connection of its own, made
 * before the clock starts; the time ends when the last device is gone.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "bench/bench.h"

typedef struct Work {
        Way way;
        Node *node;
        Volume *volumes;
        unsigned n_volumes;
        bool mount, unmount;
        atomic_uint next_mount, next_unmount;
        pthread_barrier_t barrier;
} Work;

static void mount_one(Work *w, sd_bus *bus, Volume *v)
{
        if (bus)
                api_mount(bus, v);
        else
                bare_mount(v);
        volume_expect_mounted(v);
}

static void unmount_one(Work *w, sd_bus *bus, Volume *v)
{
        if (bus)
                api_unmount(bus, v);
        else
                bare_unmount(v);
        WAIT_FOR(!volume_is_attached(v), 60, "the device to be gone");
}

static void *work(void *arg)
{
        Work *w = arg;
        sd_bus *bus = w->way == WAY_API ? node_connect(w->node) : NULL;
        unsigned i;

        pthread_barrier_wait(&w->barrier);
        if (w->mount)
                while ((i = atomic_fetch_add(&w->next_mount, 1)) < w->n_volumes)
                        mount_one(w, bus, w->volumes + i);
        pthread_barrier_wait(&w->barrier);
        if (w->unmount)
                while ((i = atomic_fetch_add(&w->next_unmount, 1)) < w->n_volumes)
                        unmount_one(w, bus, w->volumes + i);
        pthread_barrier_wait(&w->barrier);
        sd_bus_flush_close_unref(bus);
        return NULL;
}

static double run_threads(Work *w, unsigned n_threads)
{
        _cleanup_free_ pthread_t *threads = calloc(n_threads, sizeof *threads);
        double start, end;

        if (!threads || pthread_barrier_init(&w->barrier, NULL, n_threads + 1) != 0)
                die("out of memory");
        for (unsigned i = 0; i < n_threads; i++)
                if (pthread_create(threads + i, NULL, work, w) != 0)
                        die("cannot start a thread");
        pthread_barrier_wait(&w->barrier);
        start = now_usec();
        pthread_barrier_wait(&w->barrier);
        pthread_barrier_wait(&w->barrier);
        end = now_usec();
        for (unsigned i = 0; i < n_threads; i++)
                pthread_join(threads[i], NULL);
        pthread_barrier_destroy(&w->barrier);
        return end - start;
}

double parallel_cycle(Way way, Node *n, Volume *volumes, unsigned n_volumes, unsigned n_threads)
{
        Work w = {.way = way,
                  .node = n,
                  .volumes = volumes,
                  .n_volumes = n_volumes,
                  .mount = true,
                  .unmount = true};

        return run_threads(&w, n_threads);
}

void parallel_api(Half half, Node *n, Volume *volumes, unsigned n_volumes, unsigned n_threads)
{
        Work w = {
                        .way = WAY_API,
                        .node = n,
                        .volumes = volumes,
                        .n_volumes = n_volumes,
                        .mount = half == HALF_MOUNT,
                        .unmount = half == HALF_UNMOUNT,
        };

        run_threads(&w, n_threads);
}
