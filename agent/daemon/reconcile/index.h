/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What a snapshot shows of each volume: its device, its stage, its mounts at targets, brought together so that the plan's rules
 * need only look. Pure, as the plan is. Strings point into the snapshot.
 */

#include "daemon/reconcile/reconcile.h"

typedef struct Entry {
        const char *key;
        dev_t device;
        bool foreign;
        const VolumeView *volume;  /* NULL: a device without a record */
        const StepDevice *scanned; /* its device as found on the node; NULL: none, or not known */
        const MountView *stage;    /* a mount of its device at its staging path */
        const MountView *strange;  /* a mount of something else there */
        bool moved;                /* `scanned` is mounted at its staging path, and another device, or none, recorded */
        bool reused;               /* the recorded device shows another volume by now */
        bool second;               /* without a record, and another device of the key is the better one */
        bool published;            /* something of it is mounted at a target */
} Entry;

typedef struct PublishEntry {
        const char *target;
        bool dropped; /* by this plan */
} PublishEntry;

typedef struct Index {
        Entry *entries; /* one a volume, in the snapshot's order; then one a device without a record, by key */
        size_t n_entries, n_volumes;
        Entry **by_device;
        size_t n_by_device;
        const StepDevice **by_number;
        PublishEntry *publishes; /* by target */
        size_t n_publishes;
} Index;

/* Helper: -ENOMEM. */
int index_build(const Snapshot *s, Index *ret);
void index_done(Index *x);

/* Whether some mount at the target is of the device (or of any, if device is 0). */
const MountView *snapshot_find_mount(const Snapshot *s, const char *target, dev_t device);
/* Whether the devices of the key's kind are known. */
bool snapshot_knows(const Snapshot *s, const char *key);
/* Whether all mounters that could know the key have told what they know: a kind that is not installed knows nothing. */
bool snapshot_judges(const Snapshot *s, const char *key);

/* The first of the key; several devices may show one volume. */
Entry *index_find_key(const Snapshot *s, const Index *x, const char *key);
/* A volume's recorded publish. */
PublishEntry *index_find_publish(const Index *x, const char *target);
/* The volume whose device a mount at a target shows; NULL if it is none of berth's. */
Entry *index_find_published(const Index *x, const MountView *m);
