/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A volume on this node and what is published of it.
 *
 *      absent → attaching → attached → staging → staged (publishes: 0..n) → unstaging → attached → detaching → absent
 *
 * One operation at a time holds a volume (volume->holder); others wait in line. volume_set_state() is the only
 * writer of the state. The record on disk (store.h) follows the object: it is written before each step.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/strmap.h"
#include "daemon/manager.h"

typedef enum VolumeState {
        VOLUME_ABSENT,
        VOLUME_ATTACHING,
        VOLUME_ATTACHED,
        VOLUME_STAGING,
        VOLUME_STAGED,
        VOLUME_UNSTAGING,
        VOLUME_DETACHING,
        _VOLUME_STATE_MAX,
        _VOLUME_STATE_INVALID = -EINVAL,
} VolumeState;

/* As a mounter's Check last found it. */
typedef enum VolumeHealth {
        VOLUME_HEALTH_UNKNOWN, /* not checked, or no answer in time: nothing is concluded */
        VOLUME_HEALTH_OK,
        VOLUME_HEALTH_DEGRADED,  /* read-only by an I/O error, lower file system full: told, not touched */
        VOLUME_HEALTH_CORRUPTED, /* EIO, ESTALE, ENOTCONN, ENODEV, ESHUTDOWN: beyond use */
        _VOLUME_HEALTH_MAX,
        _VOLUME_HEALTH_INVALID = -EINVAL,
} VolumeHealth;

typedef struct VolumeUsage {
        uint64_t total_bytes, available_bytes, used_bytes, total_inodes, free_inodes, used_inodes;
} VolumeUsage;

struct Publish {
        Volume *volume;
        char *target; /* canonical */
        bool read_only;
        char *pod_name, *pod_namespace, *pod_uid; /* NULL where unknown */
        uint64_t mount_id;                        /* 0 until the kernel gave one */
        char *sub_dir; /* of a shared volume: what the pod sees of it, "" for all; NULL where unknown */
        bool stale;    /* by the last Check its mount shows what is gone, while the stage is sound: to be mounted anew */
        bool replacing; /* that was begun: if nothing is mounted there it was taken away for it, and is still to be mounted anew */
        TAILQ_ENTRY(Publish) of_volume;
        UT_hash_handle hh; /* in Manager.publishes */
};

struct Volume {
        Manager *manager;
        char *key, *identity, *driver;
        StrMap source;
        char *fs_type; /* NULL until staged or asked for */
        char *uuid;    /* of the file system; NULL until known */
        char **mount_options;
        bool read_only;       /* how the device is attached */
        bool stage_read_only; /* how the stage is mounted */
        uint64_t stage_mount_id; /* 0 while not staged, or not known */
        bool rebuilt;   /* from the kernel: its source and mount options are not known until a Mount tells them */
        bool foreign;   /* the device is an operator's: never detached */
        bool shared;    /* its stage is read-write for all; readOnly and subDir are each publish's own */
        char *group;    /* what may be dead as a whole, such as its server; NULL: nothing, or not known */
        char *device;   /* NULL while not attached, or without a device */
        dev_t device_number;

        VolumeState state;
        const char *step; /* name of the recorded step, NULL if none is under way */
        char **attachments; /* volumeNames that hold it attached */
        TAILQ_HEAD(, Publish) publishes;
        char *last_error; /* rendered; NULL if the last operation succeeded */
        VolumeHealth health;
        char *health_reason; /* NULL while healthy or unknown */
        bool checking;       /* a Check of it is under way, perhaps without end */
        uint64_t usage_usec; /* CLOCK_BOOTTIME of `usage`; 0: never known */
        VolumeUsage usage;   /* as last told */
        uint64_t unstage_since_usec; /* CLOCK_BOOTTIME, since when unstaging fails and nobody has used it; 0: it does not fail */

        Operation *holder;
        struct OperationList waiting;
        sd_event_source *cleanup_timer;
        uint64_t cleanup_delay_usec;
        uint64_t linger_until_usec; /* CLOCK_BOOTTIME, when it is given back unless somebody uses it; 0: not known yet */
        bool recorded; /* a record file exists */
        char *unknown; /* what the record holds beside what this version knows, as JSON; NULL: nothing */

        UT_hash_handle hh; /* in Manager.volumes */
};

Volume *volume_find(Manager *m, const char *key);
int volume_new(Manager *m, const char *key, const char *identity, const char *driver, Volume **ret);
/* Frees it if nothing of it exists and nobody refers to it. */
void volume_gc(Volume *v);
void volume_free(Volume *v);

void volume_set_state(Volume *v, VolumeState state);
const char *volume_state_to_string(VolumeState state);
VolumeState volume_state_from_string(const char *s);
const char *volume_health_to_string(VolumeHealth health);

/* Nobody uses it: no publish and no attachment. */
bool volume_is_unused(const Volume *v);
/* <runtime dir>/staging/<key>; freed by the caller, NULL if out of memory. */
char *volume_staging_path(const Volume *v);
Volume *volume_find_by_attachment(Manager *m, const char *volume_name);

Publish *publish_find(Manager *m, const char *target);
int publish_new(Volume *v, const char *target, Publish **ret);
void publish_free(Publish *p);
