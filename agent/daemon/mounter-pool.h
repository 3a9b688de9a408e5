/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Mounter processes: for each kind of storage a pool of warm ones, a cap on those at work, a queue above it, and
 * a quarantine for those that the kernel does not let die.
 *
 * A process is handed to one operation at a time (mounter->operation) and comes back by mounter_release(). One that has to
 * be ended gets SIGTERM, then SIGKILL; one that survives that is in quarantine: it no longer counts against the
 * cap, its operation goes on holding its volume, and everything else goes on.
 */

#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/manager.h"

typedef enum MounterState {
        MOUNTER_STARTING,    /* its version is being asked */
        MOUNTER_IDLE,
        MOUNTER_BUSY,
        MOUNTER_ENDING,      /* signalled */
        MOUNTER_QUARANTINED, /* survived SIGKILL: blocked inside the kernel */
        _MOUNTER_STATE_MAX,
        _MOUNTER_STATE_INVALID = -EINVAL,
} MounterState;

typedef struct MounterProcess {
        Pool *pool;
        pid_t pid;
        sd_bus *bus;
        sd_event_source *exit_source, *kill_timer; /* while starting: until it must be ready */
        sd_bus_slot *hello;
        MounterState state;
        bool sigkilled;
        Operation *operation;
        unsigned n_operations;
        uint64_t since_usec; /* CLOCK_BOOTTIME of the last change of state */
        TAILQ_ENTRY(MounterProcess) entry;
} MounterProcess;

struct Pool {
        Manager *manager;
        char *kind;
        TAILQ_HEAD(, MounterProcess) mounters;
        struct OperationList waiting;
        sd_event_source *idle_timer;
        bool serving; /* pool_serve() is at work */
        unsigned n_failed_starts; /* in a row */
        UT_hash_handle hh;
};

/* Starts warm mounters for every kind that is installed (<mounter dir>/mounter-<kind>). */
int pools_start(Manager *m);
/* Closes the connections: idle ones end at once, busy ones when their step is done. They are not waited for. */
void pools_free(Manager *m);

/*
 * Asks for a mounter of the kind on behalf of op: operation_granted() is called with it, now or later; or
 * operation_refused(). Errors: MOUNTER_UNAVAILABLE (no such kind), STUCK (too many in quarantine).
 */
int pool_acquire(Manager *m, const char *kind, Operation *op, Error *err);
/* Takes op out of the queue, if it is in there. */
void pool_cancel(Operation *op);
/* The operation is done with it. */
void mounter_release(MounterProcess *p);
/* Ends it: SIGTERM, SIGKILL after 2 s, quarantine after 3 s more. Its operation learns by operation_mounter_died(). */
void mounter_kill(MounterProcess *p);

bool pool_kind_is_valid(const char *kind);
const char *mounter_state_to_string(MounterState s);
