/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The interface between the mounter process (serve.c: D-Bus, locks, arguments) and one kind of storage
 * (loop.c, nfs.c, rbd.c). io.berth.Mounter1.xml describes each method's meaning as seen from berthd; here
 * is what a kind must provide.
 *
 * A slot is called with one volume at a time, in a process of its own, and may block. Slots are operations:
 * negative errno and *err. They are idempotent, trust nothing but the kernel, and leave nothing half done
 * that a repeat of the same slot, or the slot that undoes it, would not clean up.
 *
 * Vocabulary: see ARCHITECTURE.md (volume, source, attach, stage, publish, target).
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/strmap.h"
#include "protocol/error.h"
#include "protocol/settings.h"
#include "protocol/target.h"

/* The request: what berthd knows of the volume. Owned by serve.c for the time of the call. */
typedef struct MounterVolume {
        char *key;      /* NULL where not yet known (Resolve, Unpublish) */
        char *identity; /* likewise */
        StrMap source;
        StrMap secrets;
        char *fs_type; /* never NULL; "" for the default */
        bool read_only;
        char **mount_options;
        char *device;        /* NULL if not attached */
        dev_t device_number; /* 0 if not attached */
        bool foreign;
        char *staging_path;
        char *target;   /* as it came; NULL if the method has none */
        uint64_t size;  /* bytes; 0 if not given */
        char *uuid;     /* of the file system as recorded, or NULL */
        bool attach;    /* Stage: serve.c calls attach first */
        bool detach;    /* Unstage: serve.c calls detach afterwards */
        bool early;     /* Resolve: what attaching finds out may be left to it, with unproven for an answer */
        bool force;     /* Unstage: it has been tried for long; unwritten data may be lost with it. Detach: the node goes down */
} MounterVolume;

/* A device of the kind on this node, as Scan reports it; owned by the result. */
typedef struct MounterDevice {
        char *key, *identity, *device;
        char *image; /* what it shows, for people and for the record of an adopted volume; may be NULL */
        dev_t device_number;
        bool foreign; /* it was not a mounter that set it up */
        bool read_only;
} MounterDevice;

/* The answer. A slot fills what its method promises; serve.c sends what is set and frees it. */
typedef struct MounterResult {
        char *identity;
        char *key;
        char *group; /* Resolve: what is behind it and may be dead as a whole, such as a server; may be NULL */
        bool shared; /* Resolve: one stage for many; readOnly, subDir and what makes that are of each publish */
        bool create; /* Resolve: missing, can be made */
        bool unproven; /* Resolve: not found out yet whether the caller may have it; of what is there already berthd asks again */
        char *device;
        dev_t device_number;
        bool foreign;
        const char *next; /* Stage: NULL, "format" or "fsck"; Publish: NULL or "stage" */
        char *fs_type;
        char *uuid;
        uint64_t mount_id;
        unsigned layers;
        uint64_t size;
        bool gone;
        bool attached, staged, published; /* Check */
        bool healthy;                     /* Check, Stats */
        bool corrupted;                   /* Check: beyond use, only a fresh mount helps */
        char **stale_targets;             /* Check: what they show is gone; the stage is sound. At most REQUEST_OPTIONS_MAX */
        char *reason;                     /* why not healthy */
        MounterDevice *devices;           /* Scan; free(3)able array with its strings */
        size_t n_devices;
        char **holders; /* Fence: who was fenced */
        uint64_t total_bytes, available_bytes, used_bytes, total_inodes, free_inodes, used_inodes;
} MounterResult;

typedef struct Mounter Mounter;

typedef int (*MounterSlot)(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);

typedef struct MounterOps {
        const char *kind; /* "loop" */
        /* Identity and key of the source, changing nothing. Required. */
        MounterSlot resolve;
        /* Make a missing source. NULL: never missing-but-creatable. */
        MounterSlot create;
        /* Make the device appear; find it first. NULL: no device (nfs). */
        MounterSlot attach;
        /* Mount on v->staging_path. Required. Block kinds call block_stage() (block/stage.h). */
        MounterSlot stage;
        /* Make the file system on a blank device. NULL: nothing to format. */
        MounterSlot format;
        MounterSlot fsck;
        /* The three that are alike for every kind: NULL takes fs_publish() and so on (fs/). */
        MounterSlot publish;
        MounterSlot unpublish;
        MounterSlot unstage;
        /* Make the device go away; gone only when sysfs says so. NULL: gone at once. */
        MounterSlot detach;
        MounterSlot expand;
        /* NULL: statvfs() of the staging path. */
        MounterSlot stats;
        /* NULL: mount state of staging path and target only. */
        MounterSlot check;
        /* By a person's word: the device goes, whoever holds it. NULL: not possible. */
        MounterSlot force_detach;
        /* By a person's word: who holds it on other nodes is shut out. NULL: nobody can be. */
        MounterSlot fence;
        /* Erase the memory that it was formatted. NULL: there is none. */
        MounterSlot forget;
        /* All devices of the kind on this node, own and foreign; names no volume. NULL: there are none. */
        MounterSlot scan;
} MounterOps;

struct Mounter {
        const MounterOps *ops;
        Settings settings;
        int runtime_fd; /* the runtime directory */
        int state_fd;   /* the state directory: intents and what was formatted, below it */
        int lock_fd;    /* the volume's lock while a slot runs, -EBADF otherwise; children inherit it */
        bool spent;     /* a thread of it still waits for storage: it ends when the answer is sent */
        void *connection; /* serve.c's own */
        void *userdata; /* the kind's own */
};

/* Tells berthd how far a long step is (total 0: not known), and so that its storage answers; at most a few times a second reach it, however often it is called. */
void mounter_progress(Mounter *m, const char *step, uint64_t done, uint64_t total);

/*
 * Runs a program to its end with standard input from /dev/null, its output collected (the last 4 KiB, for
 * error texts), the volume's lock and extra_fd (-1: none) inherited, C locale, a minimal environment, in
 * the directory /. argv[0] is searched in the fixed path /usr/sbin:/usr/bin:/sbin:/bin. Not killed when this process is: mkfs must finish.
 * Returns the exit status (0 to 255; 128 + n for signal n), or negative errno; -ENOENT: no such program.
 * *ret_output is set whenever a status is returned; the caller frees it.
 */
int mounter_run(Mounter *m, char *const *argv, int extra_fd, char **ret_output);
/* Where it would be found; -ENOENT. The caller frees it. Helper. */
int mounter_program_find(const char *name, char **ret);

/* The process: parses arguments, serves io.berth.Mounter1 on descriptor 3 until it closes. For main(). */
int mounter_serve(const MounterOps *ops, int argc, char **argv);

void mounter_result_done(MounterResult *r);
