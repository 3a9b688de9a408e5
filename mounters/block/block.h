/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * File systems on block devices: the format rule. The one promise kept here: no data is ever destroyed.
 *
 *      filtered probe for the expected file system → found → fsck if its superblock asks → mount
 *      otherwise full probe → something found → FILESYSTEM_MISMATCH or NOT_BLANK
 *      nothing found → proof that every allocated byte is zero → intent → probe again → mkfs → intent removed
 *
 * A kind of storage provides BlockStorage: how to find allocated extents and how its volumes are told apart
 * for ever (so that a volume that was formatted once never is again).
 */

#include "mounters/mounter.h"

typedef struct BlockExtent {
        uint64_t offset, size; /* bytes */
} BlockExtent;

/*
 * Where the intents and memories of a storage are kept. By default that is the state directory of this node; a storage that other
 * nodes reach as well has to keep them with itself, so that another node finishes, and refuses, what this one would.
 *
 * what is "formats" or "volumes"; the text is one JSON object. What was written or removed is durable on return.
 * read answers 1 and the text (the caller frees it), or 0 if there is none; a missing one is removed with success.
 */
typedef struct BlockKeeper {
        int (*read)(void *userdata, const char *what, char **ret, Error *err);
        int (*write)(void *userdata, const char *what, const char *text, Error *err);
        int (*remove)(void *userdata, const char *what, Error *err);
} BlockKeeper;

typedef struct BlockStorage {
        /*
         * Calls found() for each extent that may hold anything but zeros, in ascending order; everything below size that is not
         * reported must read as zeros by the storage's own word, of this moment: size is the device's, and a storage that has another
         * by now is DEVICE_CHANGED (block_check_size()). -EOPNOTSUPP: cannot tell, read the whole device.
         */
        int (*extents)(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err);
        /*
         * Reads size bytes past the device, where that may show less than there is because it believes an index of the storage that can be wrong;
         * NULL: it shows all. Called after extents(), for what it reported.
         */
        int (*read)(void *userdata, uint64_t offset, void *buffer, size_t size, Error *err);
        /*
         * Checks that the device still is the volume's (sysfs, inode), with the size that the storage has now, and fills a string that
         * changes whenever the content may have changed (such as the backing file's change time), or leaves it NULL where nothing
         * tells; NULL slot: not known. Called before the proof and a few seconds before mkfs at most.
         */
        int (*verify)(void *userdata, uint64_t size, char **ret_version, Error *err);
        const BlockKeeper *keeper; /* NULL: the state directory */
        void *userdata;            /* of the callbacks, the keeper's too */
        /* Names the storage for ever, over renames, reboots and reuse of inode numbers; [a-zA-Z0-9._-]. File name of intent and memory. */
        const char *lasting_id;
} BlockStorage;

/* What a probe saw. */
typedef enum ProbeOutcome {
        PROBE_NOTHING,    /* libblkid knows nothing on it: not yet proof of blankness */
        PROBE_EXPECTED,   /* the file system that was asked for */
        PROBE_OTHER,      /* something else */
        PROBE_AMBIVALENT, /* several things at once: counts as found */
        _PROBE_MAX,
        _PROBE_INVALID = -EINVAL,
} ProbeOutcome;

typedef struct ProbeResult {
        ProbeOutcome outcome;
        char *type;      /* libblkid's name: "ext4", "crypto_LUKS", "dos" (a partition table), … */
        char *usage;     /* "filesystem", "raid", "crypto", "partition table", "other" */
        char *uuid;
        uint64_t offset; /* of the magic, bytes */
        bool bad_checksum;
} ProbeResult;
void probe_result_done(ProbeResult *r);

/* Only fs_type's superblock (60 µs). PROBE_NOTHING says nothing about the rest of the device. */
int block_probe_expected(int fd, const char *fs_type, ProbeResult *ret, Error *err);
/* Everything libblkid knows, bad checksums and partition tables included (1.5 ms), from the device and not from stale cache. */
int block_probe_full(int fd, const char *fs_type, ProbeResult *ret, Error *err);

/*
 * Proves that every byte is zero: reads all extents of the storage (or everything). No sampling. Errors: NOT_BLANK (offset of
 * the first byte that is not zero), DEVICE_ERROR, PROOF_TOO_LARGE.
 */
int block_prove_blank(Mounter *m, int fd, uint64_t size, const BlockStorage *s, Error *err);

/* DEVICE_CHANGED unless a device of that size shows all of a storage (for texts: what) of that size, and nothing else; bytes. */
int block_check_size(const char *what, uint64_t storage_size, uint64_t device_size, Error *err);

/* Below this a file system cannot be made; bytes. 0 for an unknown one. */
uint64_t block_minimum_size(const char *fs_type);
/* "" → "ext4"; ERROR_UNKNOWN_FILESYSTEM. Static string. */
const char *block_fs_type(const char *fs_type, Error *err);

/* mkfs on a path that is proved blank or of our own making (create). -U uuid; force only for an interrupted xfs of our own. */
int block_mkfs(Mounter *m, const char *path, int inherit_fd, const char *fs_type, const char *uuid, bool force,
               Error *err);
void block_new_uuid(char ret[static 37]);

/* Slots' bodies for block kinds: each takes v->device, checks it against v->device_number, and serves the slot of that name. */
int block_stage(Mounter *m, const MounterVolume *v, const BlockStorage *s, MounterResult *r, Error *err);
int block_format(Mounter *m, const MounterVolume *v, const BlockStorage *s, MounterResult *r, Error *err);
int block_fsck(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);
/* Grows the mounted file system to fill its device, which already has its new size; never shrinks. */
int block_grow(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);

/*
 * The lasting memory, <state dir>/volumes/<lasting_id>.json or with the storage's keeper: { version, identity, fsType, uuid, size, formatted (time) }.
 * Durable when it returns. remember is called with the file system's data before it is first mounted or its image is linked in.
 */
int block_remember(Mounter *m, const BlockStorage *s, const char *identity, const char *fs_type,
                   const char *uuid, uint64_t size, Error *err);
/* 1: was formatted, 0: no memory; unreadable memory counts as formatted. */
int block_was_formatted(Mounter *m, const BlockStorage *s, Error *err);
int block_forget(Mounter *m, const BlockStorage *s, Error *err);
/* The same for every memory that was written under this identity, where no lasting_id is known. Errors: NOT_FOUND, RECORD_FAILED. */
int block_forget_identity(Mounter *m, const char *identity, Error *err);
