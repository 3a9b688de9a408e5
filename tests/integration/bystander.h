/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What tests of hostile behaviour have in common: a bystander, whose valid requests must go on being served
 * whatever somebody else does, and a snapshot of everything that a refused request must leave as it was.
 */

#include <pthread.h>

#include "fixture/fixture.h"

typedef struct Bystander {
        Fixture *f;
        char *target, *image, *key;
        pthread_t thread;
        pthread_mutex_t between; /* held while a mount and its unmount run */
        bool stop;
        unsigned n_cycles;
        double slowest; /* seconds, of a cycle */
        char *failure;  /* NULL while all went well */
} Bystander;

/* Starts a thread that mounts and unmounts a volume of its own, one connection a request; returns after its first cycle. */
void bystander_start(Bystander *b, Fixture *f);
/* Returns when n more cycles are done than now; fails the test when one fails or none ends for 30 s. */
void bystander_wait(Bystander *b, unsigned n);
/* Ends it; fails the test if any of its requests failed. */
void bystander_stop(Bystander *b);

/*
 * Mounts, loop devices, records, locks, stages and every file with its mode, size, times and checksum, as text, while
 * the bystander rests between two cycles. What is the bystander's own is left out. b may be NULL.
 */
char *snapshot_take(Fixture *f, Bystander *b);
/* Waits (what runs on in the background may end) until the snapshot equals `before`; fails the test, telling the difference. */
void snapshot_expect(Fixture *f, Bystander *b, const char *before);
