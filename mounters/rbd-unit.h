/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A transient unit of systemd's in which rbd-nbd serves one volume: outside of berthd.service, so that neither a restart nor an upgrade
 * of berth touches running I/O, and started again by systemd itself when it dies.
 */

#include "mounters/mounter.h"

/* What rbd-nbd-run reads below the runtime directory; the whole of it is explained in rbd-nbd-place.h. */
#define NBD_PLACES "nbd"
#define NBD_PLACE_ARGUMENTS "arguments"
#define NBD_PLACE_FIRST "first"
#define NBD_PLACE_TRY "try"
#define NBD_PLACE_OUTPUT "output"

typedef enum UnitState {
        UNIT_GONE,     /* or it never was */
        UNIT_CHANGING, /* starting, about to be started again, or stopping */
        UNIT_RUNNING,
        UNIT_FAILED,
        _UNIT_STATE_MAX,
        _UNIT_STATE_INVALID = -EINVAL,
} UnitState;

typedef struct UnitPlan {
        const char *volume_key;
        const char *program;     /* rbd-nbd-run's path; its arguments are the runtime directory and the key */
        const char *runtime_dir;
} UnitPlan;

#define UNIT_NAME_MAX 128U
/* Of rbd-nbd-run: there is nothing to serve (any more), and it is not to be started again. */
#define UNIT_STATUS_NOTHING 100

/* "berth-nbd-<key>.service". */
void rbd_unit_name(const char *volume_key, char ret[static UNIT_NAME_MAX]);
/* "run-berth-staging-<key>.mount", escaped as systemd does; NULL if out of memory. Pure. */
char *rbd_unit_of_mount(const char *path);

/* Starts it; one that is there already is left as it is. Returns before it runs. Errors: RBD_NBD_FAILED. */
int rbd_unit_start(const UnitPlan *p, Error *err);
/* Errors: RBD_NBD_FAILED if the service manager does not answer. */
int rbd_unit_state(const char *volume_key, UnitState *ret, Error *err);
/* SIGKILL to what runs in it. It is started again if its device is still there. */
int rbd_unit_kill(const char *volume_key, Error *err);
