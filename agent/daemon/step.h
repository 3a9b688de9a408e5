/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A step: one call of a mounter's method (io.berth.Mounter1) for one volume, as a D-Bus message to send and an
 * answer to read. What steps there are, their names in records and logs, and whether they may be killed.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <systemd/sd-bus.h>

#include "daemon/volume.h"

typedef enum Step {
        STEP_NONE,
        STEP_RESOLVE,
        STEP_CREATE,
        STEP_ATTACH,
        STEP_STAGE,
        STEP_FORMAT,
        STEP_FSCK,
        STEP_PUBLISH,
        STEP_UNPUBLISH,
        STEP_UNSTAGE,
        STEP_DETACH,
        STEP_EXPAND,
        STEP_STATS,
        STEP_CHECK,
        STEP_FORGET,
        STEP_SCAN,
        STEP_FENCE,
        STEP_FORCE_DETACH,
        _STEP_MAX,
        _STEP_INVALID = -EINVAL,
} Step;

/* How a step may end before it answers. */
typedef enum StepKind {
        STEP_KILLABLE,    /* SIGTERM, then SIGKILL after its time-out */
        STEP_MUST_FINISH, /* never signalled: it writes what must not be torn */
} StepKind;

const char *step_to_string(Step step); /* "attach"; "" for STEP_NONE; a static string */
const char *step_from_string(const char *s); /* the static string, or NULL */
const char *step_method(Step step);
StepKind step_kind(Step step);

/* What a step is told beside its volume. */
typedef struct StepParams {
        const char *target; /* NULL if the step has none */
        const StrMap *source; /* of the request (Resolve, Create, Publish of a shared volume); NULL: the Volume's */
        const StrMap *secrets; /* may be NULL */
        const char *fs_type;
        const char *key; /* Create: the one that serialises */
        bool read_only;
        char *const *mount_options;
        uint64_t size;
        bool attach, detach; /* Stage, Unstage: the neighbouring step in the same call */
        bool early;          /* Resolve: the volume is not locked */
        bool force;          /* Unstage, Detach */
} StepParams;

/* A device as Scan found it on the node. */
typedef struct StepDevice {
        char *key, *identity, *device, *image; /* image: its backing file, "" if there is none */
        uint64_t device_number;
        bool foreign, read_only;
} StepDevice;
void step_device_done(StepDevice *d);
void step_devices_free(StepDevice *d, size_t n);

typedef struct StepResult {
        char *identity, *key, *group, *device, *next, *fs_type, *uuid, *reason;
        bool create, shared, unproven, foreign, gone, attached, staged, published, healthy;
        uint64_t device_number, mount_id, size;
        uint32_t layers;
        char **holders; /* Fence */
        bool corrupted; /* Check: not healthy, and beyond use */
        char **stale_targets; /* Check: what they show is gone */
        StepDevice *devices; /* Scan */
        size_t n_devices;
        VolumeUsage usage; /* Stats */
} StepResult;

#define STEP_RESULT_INIT ((StepResult) {})
void step_result_done(StepResult *r);
#define _cleanup_step_result_ _cleanup_(step_result_done)

/* The call; v may be NULL before a volume is known. Helper. */
int step_new_call(sd_bus *bus, Step step, const Volume *v, const StepParams *p, sd_bus_message **ret);
/* Reads the answer. Unknown keys are ignored, wrong types are -EBADMSG. Helper. */
int step_read_result(sd_bus_message *reply, StepResult *ret);
