/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * For each kind of storage a pool of warm mounter processes, a cap on those at work and a queue above it. A process is handed to one
 * operation at a time (mounter->operation) and comes back by mounter_release(). One in quarantine no longer counts against the cap,
 * and neither does one that waits apart: its operation's server (daemon/mounter-group.h) is silent, or has given no sign for a second. So
 * servers that do not answer, however many, take no places from those that do.
 *
 * In quarantine and apart are together at most QuarantineMax=, and all processes together at most Max= and QuarantineMax=. When nobody more can wait
 * apart, who asks for such a server is passed over in the queue: it would only take a place from somebody who can be served.
 */

#include "daemon/manager.h"
#include "daemon/mounter-process.h"

struct Pool {
        Manager *manager;
        char *kind;
        TAILQ_HEAD(, MounterProcess) mounters;
        struct OperationList waiting;
        MounterGroup *groups; /* by name; daemon/mounter-group.h */
        TAILQ_HEAD(, MounterGroup) groups_idle; /* the first was left first */
        unsigned n_groups_idle;
        sd_event_source *idle_timer, *start_pause; /* until the next start, after some that failed */
        sd_event_source *apart_timer; /* somebody is in the queue, and a place may be free by then */
        uint64_t n_looks; /* at the processes, by pool_serve() */
        bool serving; /* pool_serve() is at work */
        bool used; /* it has had a request, not just berthd's own looks */
        unsigned n_failed_starts; /* in a row */
        uint64_t start_failed_usec; /* CLOCK_BOOTTIME, the last that counted */
        UT_hash_handle hh;
};

/* Starts warm mounters for every kind that is installed (<mounter dir>/mounter-<kind>). */
int pools_start(Manager *m);
/*
 * The settings have changed: mounters started before are ended when they are idle, others are started with the new ones, of kinds
 * that have been installed since, too.
 */
void pools_reload(Manager *m);
/* Closes the connections: idle ones end at once, busy ones when their step is done. They are not waited for. */
void pools_free(Manager *m);

/*
 * Asks for a mounter of the kind on behalf of op: operation_granted() is called with it, now or later; or
 * operation_refused(). Errors: MOUNTER_UNAVAILABLE (no such kind), STUCK (too many in quarantine).
 */
int pool_acquire(Manager *m, const char *kind, Operation *op, Error *err);
/* The pool of a kind, made if it is not there. Errors: MOUNTER_UNAVAILABLE. */
int pool_get(Manager *m, const char *kind, Pool **ret, Error *err);
/* Whether op, if it asked now, would be passed over: it should not go on with the mounter that it has. */
bool pool_passes_over(Pool *pool, const Operation *op);
/* Takes op out of the queue, if it is in there. */
void pool_cancel(Operation *op);
/* The operation is done with it. */
void mounter_release(MounterProcess *p);

bool pool_kind_is_valid(const char *kind);
/* Those that are blocked inside the kernel, of all kinds. */
unsigned pools_count_quarantined(const Manager *m);

/* What its processes tell it (mounter-process.c). */
/* One is free, or there is room for another: whoever waits is served. */
void pool_serve(Pool *pool);
void pool_start_succeeded(Pool *pool);
/*
 * One that was started then is not to be had. Those who wait go on waiting for others, to their own deadlines; they are refused when
 * there are none, and starting one after the other has failed. Some that were started together and failed together count as one.
 */
void pool_start_failed(Pool *pool, uint64_t started_usec, const char *why);
void pool_refuse_all(Pool *pool, ErrorCode code, const char *why);
