/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Reconcile: observe → plan → apply.
 *
 * observe() takes a snapshot of what the kernel shows (mount table, sysfs) and what the records say, touching no storage.
 * plan() is a pure function from snapshot to typed steps with reasons. apply() carries them out, each volume for itself.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/volume.h"

typedef enum ReconcileMode { RECONCILE_DRY_RUN, RECONCILE_APPLY } ReconcileMode;

/* A publish as recorded, and whether the kernel shows a mount at its target. */
typedef struct PublishView {
        char *target;
        bool mounted;
} PublishView;

typedef struct VolumeView {
        char *key;
        VolumeState state;
        const char *step; /* recorded as under way; static string or NULL */
        bool busy;        /* an operation of this berthd holds it: not to be judged now */
        bool device_expected; /* a device is recorded */
        bool device_present;  /* sysfs shows it, bound */
        bool staged;          /* the mount table shows its staging path */
        bool attached_by_name; /* attach:true mode holds it */
        bool cleanup_scheduled;
        PublishView *publishes;
        size_t n_publishes;
} VolumeView;

typedef struct Snapshot {
        VolumeView *volumes;
        size_t n_volumes;
        char **unknown_stages; /* mounted below the staging root, without a record */
} Snapshot;

typedef enum PlanStepType {
        PLAN_DROP_PUBLISH,  /* its mount is gone */
        PLAN_CORRECT_STATE, /* the kernel shows another state than the record */
        PLAN_CLEANUP,       /* nobody uses it: unstage, detach */
        PLAN_REPORT,        /* not berth's to touch, or not yet understood */
        _PLAN_STEP_TYPE_MAX,
        _PLAN_STEP_TYPE_INVALID = -EINVAL,
} PlanStepType;

typedef struct PlanStep {
        PlanStepType type;
        const char *volume; /* key; points into the snapshot; NULL if there is none */
        const char *target; /* likewise */
        VolumeState state;  /* PLAN_CORRECT_STATE: the new one */
        const char *reason; /* static string */
} PlanStep;

typedef struct Plan {
        PlanStep *steps;
        size_t n_steps;
} Plan;

int reconcile_observe(Manager *m, Snapshot *ret, Error *err);
void snapshot_done(Snapshot *s);
/* Pure: no system calls beside memory. */
int reconcile_plan(const Snapshot *s, Plan *ret);
void plan_done(Plan *p);
int reconcile_apply(Manager *m, const PlanStep *step);
const char *plan_step_type_to_string(PlanStepType t);

/* All three. With reply the steps are appended to it as aa{sv} (io.berth.Agent1.Reconcile). */
int reconcile_run(Manager *m, ReconcileMode mode, sd_bus_message *reply, Error *err);

#define _cleanup_snapshot_ _cleanup_(snapshot_done)
#define _cleanup_plan_ _cleanup_(plan_done)
