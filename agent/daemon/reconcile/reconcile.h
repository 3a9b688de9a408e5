/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Reconcile: observe → plan → apply (promises 3 and 4).
 *
 * First each mounter kind is asked which devices it finds on the node (Scan, bounded; a kind that does not answer is not
 * judged). Then observe takes a snapshot of the mount table, sysfs, the records and the locks, touching no storage; plan, a pure
 * function, makes typed steps with reasons of it; apply carries them out, each volume for itself.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/step.h"
#include "daemon/volume.h"

typedef enum ReconcileMode {
        RECONCILE_DRY_RUN,
        RECONCILE_APPLY,
        _RECONCILE_MODE_MAX,
        _RECONCILE_MODE_INVALID = -EINVAL,
} ReconcileMode;

/* A mount that may concern berth: below the staging root, or at a place that could be a target. */
typedef struct MountView {
        char *target;   /* as the kernel shows it, octal escapes undone */
        char *stage;    /* the key, if it is directly below the staging root; else NULL */
        char *within;   /* the key, if it is further below: somebody's, inside of the volume; else NULL */
        bool is_target; /* target_parse() accepts it */
        dev_t device;
        bool read_only;
        char *fs_type;
        char *root; /* of the mount within its file system: "/" for a stage or a publish */
} MountView;

typedef struct PublishView {
        char *target;
        bool stale; /* its mount shows what is gone; what it should show is known */
        bool replacing; /* so it did when it was about to be replaced, and was perhaps taken away for it */
} PublishView;

typedef struct VolumeView {
        char *key;
        VolumeState state;
        const char *step;     /* recorded as under way; static string or NULL */
        bool busy;            /* an operation of this berthd holds it: not to be judged now */
        bool at_work;         /* a mounter of a former berthd, or its mkfs, holds its lock */
        bool attached_by_name; /* attach:true mode holds it */
        bool cleanup_scheduled;
        bool foreign;
        dev_t device;         /* as recorded; 0: none */
        bool device_present;  /* sysfs shows it, bound */
        VolumeHealth health;
        PublishView *publishes;
        size_t n_publishes;
} VolumeView;

typedef struct Snapshot {
        VolumeView *volumes; /* by key */
        size_t n_volumes;
        MountView *mounts; /* by target */
        size_t n_mounts;
        StepDevice *devices; /* as the mounters found them, by key */
        size_t n_devices;
        char **kinds;  /* the kinds whose devices are known */
        char **silent; /* those that were asked and did not answer */
} Snapshot;

typedef enum PlanStepType {
        PLAN_ADOPT_VOLUME,  /* a device or stage of berth's own without a record */
        PLAN_ADOPT_PUBLISH, /* a volume's mount at a target without a record */
        PLAN_DROP_PUBLISH,  /* nothing is mounted at its target any more */
        PLAN_UNPUBLISH,     /* its mount is beyond use: the kubelet has to mount afresh */
        PLAN_REPUBLISH,     /* its mount is stale and the stage is not: it is mounted anew */
        PLAN_CORRECT_STATE, /* the kernel shows another state than the record */
        PLAN_CLEANUP,       /* nobody uses it: unstage, detach */
        PLAN_REPORT,        /* not berth's own, or not for berth to judge */
        _PLAN_STEP_TYPE_MAX,
        _PLAN_STEP_TYPE_INVALID = -EINVAL,
} PlanStepType;

/* Strings point into the snapshot; reasons are static. */
typedef struct PlanStep {
        PlanStepType type;
        const char *volume; /* key; NULL if there is none */
        const char *target; /* NULL if there is none */
        const StepDevice *device; /* PLAN_ADOPT_VOLUME; PLAN_CORRECT_STATE: the one it has, NULL if the record is right */
        const MountView *mount;   /* PLAN_ADOPT_*: the stage (NULL if there is none) or the target's mount */
        VolumeState state;        /* PLAN_CORRECT_STATE: the new one */
        bool at_once;             /* PLAN_CLEANUP: no repeat is to be waited for */
        const char *reason;
} PlanStep;

typedef struct Plan {
        PlanStep *steps;
        size_t n_steps;
        bool wait; /* something is still at work: look again soon */
} Plan;

/* Takes over devices and kinds. */
int reconcile_observe(Manager *m, Snapshot *ret, Error *err);
void snapshot_done(Snapshot *s);
/* Sorts what plan looks things up in. observe does it; so must whoever builds a snapshot by hand. */
void snapshot_sort(Snapshot *s);
/* Pure: no system calls beside memory. Helper. */
int reconcile_plan(const Snapshot *s, Plan *ret);
void plan_done(Plan *p);
/* Carries out one step, or starts the operation that does. Helper. */
int reconcile_apply(Manager *m, const PlanStep *step);
/* Removes lock files of volumes that are not known and that nobody holds: their mounter was killed before it could. */
void reconcile_sweep_locks(Manager *m);
const char *plan_step_type_to_string(PlanStepType t);

/*
 * Before READY: what must be known to answer rightly. Mount table and records only; no mounter is asked.
 */
int reconcile_at_start(Manager *m, Error *err);
/*
 * The whole of it, in the background. call (may be NULL) is answered with the steps (io.berth.Agent1.Reconcile) when they have been
 * planned or begun. While one runs, another waits for its end and then runs once for all who asked.
 */
void reconcile_request(Manager *m, ReconcileMode mode, sd_bus_message *call);
/* What mount table, sysfs and records tell by themselves: what changed behind our back. At once, beside any other. */
void reconcile_look(Manager *m);
void reconcile_free(Manager *m);
/* Whether the answer of a Reconcile is due on this connection. */
bool reconcile_is_awaited(const Manager *m, const sd_bus *bus);
/* How often it has looked at the kernel, quick or full, since the loop runs. */
uint64_t reconcile_count(const Manager *m);
/* From the operation that asked a kind: result is NULL if it failed. Takes result's devices. */
void reconcile_scanned(Manager *m, const char *kind, StepResult *result);
/* The same when it is no longer waited for, though it may not be over for long; and when it is. */
void reconcile_scan_given_up(Manager *m, const char *kind);
void reconcile_scan_ended(Manager *m, const char *kind);
/* An operation is done with the volume of this key. */
void reconcile_touched(Manager *m, const char *key);

#define _cleanup_snapshot_ _cleanup_(snapshot_done)
#define _cleanup_plan_ _cleanup_(plan_done)
