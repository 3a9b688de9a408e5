/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the files of block/ share among themselves. Operations fill *err exactly when they fail. */

#include <jansson.h>

#include "base/cleanup.h"
#include "mounters/block/block.h"

#define _cleanup_json_ _cleanup_(json_decrefp) /* jansson's own json_decrefp() */
#define _cleanup_probe_ _cleanup_(probe_result_done)

/* device.c */

/*
 * Opens v->device (flags: O_RDONLY or O_RDWR, perhaps O_EXCL) and checks that it is the block device v->device_number.
 * Errors: DEVICE_CHANGED, DEVICE_ERROR, BUSY (O_EXCL: it is mounted or claimed somewhere).
 */
int device_open(const MounterVolume *v, int flags, int *ret_fd, Error *err);
/* LOCK_EX on the device, waited for at most 10 s; it goes with the last descriptor. Errors: BUSY. */
int device_lock(int fd, Error *err);
/* Size in bytes of a block device or regular file; 0 is an error. */
int device_size(int fd, uint64_t *ret, Error *err);
/* Writes dirty pages back and drops the clean ones, so that what is read next is read from the device. */
int device_drop_cache(int fd, Error *err);
/* Reads exactly size bytes. Errors: DEVICE_ERROR (a short read too). */
int device_read(int fd, uint64_t offset, void *buffer, size_t size, Error *err);
/* "/dev/loop3", for texts; never fails. */
const char *device_name(int fd, char *buffer, size_t size);

/* probe.c */

/* 1: an XFS whose superblock says that mkfs.xfs has not finished (sb_inprogress), 0: not so. */
int probe_xfs_in_progress(int fd, Error *err);
/* Fills *err with what a probe found, where, and how to look at it: FILESYSTEM_MISMATCH, NOT_BLANK or FSCK_FAILED. */
int probe_refuse(int fd, const char *fs_type, const ProbeResult *p, Error *err);

/* check.c */

typedef enum ExtCondition {
        EXT_CLEAN,
        EXT_REPLAY, /* the kernel replays its journal when it mounts it */
        EXT_CHECK,  /* errors were recorded, or it was not unmounted and has no journal */
        _EXT_CONDITION_MAX,
        _EXT_CONDITION_INVALID = -EINVAL,
} ExtCondition;
int ext_condition(int fd, ExtCondition *ret, Error *err);
bool fs_type_is_ext(const char *fs_type);

/* memory.c */

#define STATE_PLACE_MAX 320U

/* Opens <state dir>/<name>, made (0700, durable) if missing. A descriptor or negative errno. */
int state_directory_open(Mounter *m, const char *name);
/* "<lasting id>.json" (the caller frees it); NULL if the ID is not a plain name or memory ran out. */
char *state_file_name(const char *lasting_id);
/*
 * The object of the storage that is kept under `what` ("formats", "volumes"), with its keeper or as <state dir>/<what>/<lasting id>.json.
 * Durable on return. Errors: RECORD_FAILED, or the keeper's.
 */
int state_write(Mounter *m, const BlockStorage *s, const char *what, json_t *object, Error *err);
/* A missing one is fine. */
int state_remove(Mounter *m, const BlockStorage *s, const char *what, Error *err);
/* 1 and the object; 0: there is none; negative: there is one that cannot be read, or nobody knows. */
int state_read(Mounter *m, const BlockStorage *s, const char *what, json_t **ret, Error *err);
/* "formats/x.json in the state directory", for texts; never fails. */
const char *state_place(const BlockStorage *s, const char *what, char *buffer, size_t size);
/* WAS_FORMATTED, with what the memory tells. */
int memory_refuse(Mounter *m, const BlockStorage *s, int fd, Error *err);

/* intent.c */

/* An mkfs that was begun, and whose file system has never been mounted. */
typedef struct FormatIntent {
        char *fs_type;
        char *uuid;
        uint64_t size; /* of the device, bytes */
} FormatIntent;
void format_intent_done(FormatIntent *i);
#define _cleanup_intent_ _cleanup_(format_intent_done)

/* 1 and the intent, 0: none. One that is there and cannot be read is RECORD_FAILED. */
int intent_read(Mounter *m, const BlockStorage *s, FormatIntent *ret, Error *err);
int intent_write(Mounter *m, const BlockStorage *s, const char *identity, const FormatIntent *i, Error *err);
int intent_remove(Mounter *m, const BlockStorage *s, Error *err);
/* 1 or 0; a file that is not certainly absent counts as there. Negative: the storage's keeper did not answer. */
int intent_exists(Mounter *m, const BlockStorage *s, Error *err);
