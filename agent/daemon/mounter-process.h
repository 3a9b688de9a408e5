/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One mounter process: its start, its first words, its end. One that has to be ended gets SIGTERM, then SIGKILL; one that
 * survives that is in quarantine: its operation goes on holding its volume, and everything else goes on.
 */

#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/manager.h"

typedef enum MounterState {
        MOUNTER_STARTING,    /* its version is being asked */
        MOUNTER_IDLE,
        MOUNTER_BUSY,
        MOUNTER_ENDING,      /* signalled, or told by its connection's end */
        MOUNTER_QUARANTINED, /* survived SIGKILL: blocked inside the kernel */
        _MOUNTER_STATE_MAX,
        _MOUNTER_STATE_INVALID = -EINVAL,
} MounterState;

typedef struct MounterProcess {
        Pool *pool;
        pid_t pid;
        sd_bus *bus;
        sd_event_source *exit_source, *kill_timer; /* while starting: until it must be ready; retired: until it must have ended */
        sd_bus_slot *hello;
        MounterState state;
        char *version; /* NULL until it has told it */
        bool sigkilled;
        bool outdated; /* started with other settings, or about to end: not to be used again */
        Operation *operation;
        unsigned n_operations;
        uint64_t since_usec; /* CLOCK_BOOTTIME of the last change of state */
        uint64_t secret_usec; /* when a secret was sent to it last; 0: never */
        TAILQ_ENTRY(MounterProcess) entry;
} MounterProcess;

/* Starts one of the pool's kind, which has start_usec to become ready. Negative errno. Helper. */
int mounter_start(Pool *pool, uint64_t start_usec);
/* Ends it: SIGTERM, SIGKILL after 2 s, quarantine after 3 s more. Its operation learns by operation_mounter_died(). */
void mounter_kill(MounterProcess *p);
/* An idle one: it ends when it sees the connection closed. One that has not after 10 s is ended as by mounter_kill(). */
void mounter_retire(MounterProcess *p);
/* Forgets it; whether it ends is no longer looked at. */
void mounter_free(MounterProcess *p);

void mounter_set_state(MounterProcess *p, MounterState state);
const char *mounter_state_to_string(MounterState s);
