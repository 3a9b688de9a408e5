/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A volume on a real loop device, for suites that call the bodies of the slots of mounters/block directly: no
 * berthd, no mounter process. Its storage is the image file, asked as the loop mounter asks it.
 */

#include "fixture/fixture.h"
#include "mounters/block/block.h"

typedef struct BlockVolume {
        Fixture *fixture;
        char *image;
        char *device;   /* "/dev/loop3" */
        char *lasting_id;
        Mounter mounter;
        MounterVolume volume;
        BlockStorage storage;
        unsigned verifies;                          /* calls of storage.verify so far */
        unsigned extents;                           /* calls of storage.extents so far */
        void (*on_verify)(struct BlockVolume *t);   /* called before the version is taken; may be NULL */
        void (*on_extents)(struct BlockVolume *t);  /* called before the extents are listed; may be NULL */
        bool hide_extents;                          /* tell of none */
        const char *version;                        /* a constant one instead of the image's change time */
        unsigned progress_proof, progress_mkfs;     /* calls of mounter_progress() by step */
} BlockVolume;

/* What a slot answered. Freed by block_answer_done(). */
typedef struct BlockAnswer {
        int r;
        MounterResult result;
        Error error;
} BlockAnswer;
void block_answer_done(BlockAnswer *a);
/* _unused_: an answer may be wanted for nothing but its being freed */
#define _cleanup_answer_ _unused_ _cleanup_(block_answer_done)

/* Attaches the image (taking ownership of the string) to a loop device, by losetup(8). */
void block_volume_init(BlockVolume *t, Fixture *f, char *image, const char *fs_type);
/* The parts of it: without, for images that come and go. */
void block_volume_attach(BlockVolume *t);
void block_volume_detach(BlockVolume *t);
/* Unmounts the stage, if it is mounted, detaches, frees. */
void block_volume_done(BlockVolume *t);

BlockAnswer block_volume_stage(BlockVolume *t);
BlockAnswer block_volume_format(BlockVolume *t);
/* Stage, with format and fsck in between where it asks for them, as berthd does; asserts that it succeeds. */
BlockAnswer block_volume_mount(BlockVolume *t);
void block_volume_unmount(BlockVolume *t);

/* Whether there is an intent or a memory of it; path of the file (freed by the caller). */
char *block_volume_state_file(BlockVolume *t, const char *directory);
bool block_volume_has_intent(BlockVolume *t);
bool block_volume_has_memory(BlockVolume *t);

/* Bytes at an offset of a file, without truncating it. */
void file_write_at(const char *path, uint64_t offset, const void *data, size_t size);
