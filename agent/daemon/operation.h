/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * An operation: one thing berthd was asked to do (or does of itself), from request to answer and beyond.
 *
 * Order of locks: first the name (target, or "name:" and a volumeName), then, after Resolve has told it, the
 * volume. A mounter process is held only between the two and while steps run, never while waiting for a lock: so no
 * number of requests for a stuck volume can use up the mounters.
 *
 * Waiters are the D-Bus calls to answer; an identical request joins as another waiter. At its own deadline each
 * is answered IN_PROGRESS and the operation goes on, in the end without any; then it may complete attach and stage, but never
 * leaves something published (the kubelet has given the target up). What it leaves staged is undone after LingerSec
 * unless a repeat comes.
 *
 * Each type of operation is a function `advance` that looks at where things are and starts the next step, or
 * finishes; it is called again after every step. So there is no second bookkeeping of progress to get wrong.
 */

#include <sys/queue.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "daemon/manager.h"
#include "daemon/mounter-pool.h"
#include "daemon/step.h"
#include "protocol/client.h"

typedef enum OperationType {
        OPERATION_MOUNT,
        OPERATION_UNMOUNT,
        OPERATION_ATTACH,
        OPERATION_DETACH,
        OPERATION_EXPAND,
        OPERATION_STATS,
        OPERATION_FORGET,
        OPERATION_FENCE,
        OPERATION_FORCE_DETACH,
        OPERATION_CHECK, /* berthd's own: is its stage healthy? */
        OPERATION_SCAN,  /* berthd's own: which devices are there of a kind? */
        OPERATION_REPUBLISH, /* berthd's own: mount at its target anew what is stale there */
        OPERATION_CLEANUP, /* berthd's own: unstage and detach what nobody uses */
        _OPERATION_TYPE_MAX,
        _OPERATION_TYPE_INVALID = -EINVAL,
} OperationType;

/* In which line it stands. */
typedef enum OperationQueue {
        QUEUE_NONE,
        QUEUE_NAME,
        QUEUE_VOLUME,
        QUEUE_POOL,
        QUEUE_GROUP,
} OperationQueue;

/* A call to answer, by then at the latest. */
typedef struct Waiter {
        sd_bus_message *call;
        uint64_t deadline_usec; /* CLOCK_BOOTTIME */
} Waiter;

struct Operation {
        Manager *manager;
        OperationType type;
        uint64_t request; /* number, for logs */
        uint64_t started_usec, step_started_usec;

        /* the request */
        MountParams params;
        char *target;      /* canonical, NULL if the type has none */
        char *name;        /* the name lock's, NULL if it takes none */
        char *volume_name; /* DETACH; a key for FORGET and FORCE_DETACH */
        uint64_t size;     /* EXPAND */
        bool formatted;    /* FORGET */

        Waiter *waiters; /* by deadline, as they came */
        size_t n_waiters;
        bool had_waiters; /* it is a request of somebody, now perhaps without */

        /* locks and helpers held */
        NameLock *name_lock;
        Volume *volume;
        MounterProcess *mounter;
        OperationQueue queue;
        Pool *queue_pool;
        Volume *queue_volume;
        MounterGroup *queue_group;
        uint64_t in_line_usec; /* CLOCK_BOOTTIME, since when it stands in line of queue_group */
        MounterGroup *group; /* of which it is a member; see mounter-group.h */
        uint64_t heard_usec; /* CLOCK_BOOTTIME, when the step began or the group last gave a sign */

        /* the step */
        Step step;
        StepResult result; /* of the last step */
        unsigned n_attempts;
        uint64_t retry_delay_usec;
        uint64_t in_use_since_usec; /* CLOCK_BOOTTIME; 0 unless another node has the volume and is waited for */
        uint64_t progress_done, progress_total; /* of a long step, bytes; total 0: not told */
        sd_event_source *deadline, *step_timer, *retry_timer, *defer;
        sd_bus_slot *call;

        /* progress that only this operation knows */
        bool resolved;      /* identity and key are known (op->key, op->identity) */
        bool created;       /* Create has run once */
        bool attach_begun;  /* attached by this operation, or perhaps so */
        bool stage_begun;   /* staged by it, or perhaps so */
        bool publish_begun; /* published by it, or perhaps so; false if it found the target published */
        bool prepared;      /* Format or Fsck has run once */
        bool done;          /* the step that the type is about has succeeded */
        bool undoing;
        bool releasing; /* giving the volume back: unstage and detach in one call */
        bool timed_out; /* its mounter was ended because of the step's time-out */
        bool given_up;  /* CHECK, SCAN: whoever wanted it does not wait for it any more */
        char *key, *identity, *group_name;
        bool shared, unproven; /* as Resolve said */
        Error error;    /* why it fails; set once */
        Error postponed; /* why the rest has to be done in the background; not a failure */

        TAILQ_ENTRY(Operation) entry; /* Manager.operations */
        TAILQ_ENTRY(Operation) queued; /* the line of `queue` */
};

int operation_new(Manager *m, OperationType type, Operation **ret);
/*
 * Takes over op and starts it, or joins it to an identical one. call (may be NULL) gets an answer in any case.
 */
void operation_submit(Operation *op, sd_bus_message *call);
/* As if the kubelet had asked for it; nobody waits for the answer. 0 or -ENOMEM. */
int operation_begin_unmount(Manager *m, const char *target);
int operation_begin_detach(Manager *m, const char *volume_name);
/* Mounts anew what is published there; nothing if it is asked for already. 0 or -ENOMEM. */
int operation_begin_republish(Manager *m, const char *target);
/* One of them is over: the next that is stale of its volume stands in line for it, behind whoever does so now. */
void operation_republish_next(const Operation *op);
/* Whether one holds the name (a target, or "name:" and a volumeName), or stands in line for it. */
bool operation_is_pending(Manager *m, const char *name);
/* Before operation_submit() only. */
void operation_free(Operation *op);

/* At the very end, after all operations are gone. */
void name_locks_free(Manager *m);

/* Called by the pool. */
void operation_granted(Operation *op, MounterProcess *p);
void operation_refused(Operation *op, Error *err);
void operation_mounter_died(Operation *op);
/* The mounter cannot be killed: whoever waits is told now. */
void operation_mounter_stuck(Operation *op);

/* Starts (or hastens) the background work on a volume that nobody uses; after delay_usec. */
void volume_schedule_cleanup(Volume *v, uint64_t delay_usec);

const char *operation_type_to_string(OperationType t);

/* For operation-*.c: what types are made of. */

/* Looks where things are and does the next thing: exactly one of run_step, lock_volume, finish. */
void operation_advance(Operation *op);
/* Runs the step; the result is in op->result when operation_advance() is called again with op->error unset. */
void operation_run_step(Operation *op, Step step);
/* Waits for the volume of this key (made if it does not exist); afterwards op->volume is held. */
void operation_lock_volume(Operation *op, Volume *v);
/* The volume that the operation is about: the one it holds, or, for those that hold none, the one at its target. */
Volume *operation_subject(const Operation *op);
/* Answers, frees locks, starts whoever waits, frees op. */
void operation_finish(Operation *op);
/* True while somebody waits for the answer; false when all have been answered or have gone. */
bool operation_is_awaited(Operation *op);

void operation_advance_mount(Operation *op);
void operation_advance_republish(Operation *op);
void operation_advance_unmount(Operation *op);
void operation_advance_cleanup(Operation *op);
void operation_advance_other(Operation *op);
/*
 * Before a step of an operation that may hold no lock is called, and each time that is repeated: whether its volume is still there, and as it has to be. 1:
 * so it is, and of whatever holds its lock; 0: it is gone, so nothing is left to do; a negative errno: ERR tells.
 */
int operation_still_meant(const Operation *op, Error *err);
/* A Check or Scan is over: what it found, if anything, goes where it belongs. Before its volume and name are freed. */
void operation_conclude_look(Operation *op);
/* Its time is up, and its mounter may never end: others need not wait for that. */
void operation_give_up_look(Operation *op);
/* Undoes what op began on its volume, then finishes with op->error. */
void operation_undo(Operation *op);
/* UNSTAGE and DETACH of a volume that nobody uses; finishes when there is nothing (more) to do. */
void operation_release_volume(Operation *op);

/* What a finished step means for the volume; called before advance. operation-steps.c */
void operation_apply_result(Operation *op, Step step);
/* The state and record before a step. Negative errno if the record cannot be written. */
int operation_record_step(Operation *op, Step step);
/* The same after it failed. */
void operation_step_failed(Operation *op, Step step, ErrorCode code);
