/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The loop kind's images: regular files below the directories of [Loop] Directories=. What a volume's options say,
 * how its file is reached, what it is, and how it is made.
 *
 * An image is its inode; a path is a label. Names of the same volume:
 *      identity   loop:<major>:<minor>:<inode>
 *      key        loop-<major>-<minor>-<inode>
 *      lasting id loop-<inode>-<birth time>, where a reboot or a reused inode number must not confuse two images
 */

#include <sys/stat.h>

#include "mounters/mounter.h"

typedef enum ImageAllocation { ALLOCATION_SPARSE, ALLOCATION_RESERVED } ImageAllocation;

typedef struct ImageOptions {
        const char *path; /* owned by the volume */
        uint64_t size;    /* bytes, a multiple of 4096; 0: not given */
        ImageAllocation allocation;
} ImageOptions;

/* Reads the options path, size and allocation. Errors: UNKNOWN_OPTION, INVALID_ARGUMENT. */
int image_options_read(const StrMap *source, ImageOptions *ret, Error *err);

typedef struct Image {
        int fd; /* O_PATH until image_reopen() */
        dev_t device;
        uint64_t inode;
        uint64_t size;
} Image;
#define IMAGE_INIT ((Image) { .fd = -EBADF })
void image_done(Image *i);
#define _cleanup_image_ _cleanup_(image_done)

/*
 * Finds the image, O_PATH: nothing is read and nothing can block but the directories on the way. Errors:
 * IMAGE_NOT_FOUND, IMAGE_FORBIDDEN (outside the directories, or a link that leaves them), IMAGE_INVALID (not a regular
 * file, or with other hard links).
 */
int image_open(Mounter *m, const ImageOptions *o, Image *ret, Error *err);
/* Exchanges the descriptor for one to work with: O_RDONLY or O_RDWR. */
int image_reopen(Image *i, int flags, Error *err);
/* Both, of the volume's image, whose inode must be that of the volume's key: DEVICE_CHANGED if it is not. */
int image_open_volume(Mounter *m, const MounterVolume *v, int flags, Image *ret, Error *err);

/* NULL if out of memory. */
/*
 * Claims the open image for this process alone, by a write lease (fcntl(2), F_SETLEASE): the kernel grants it only while nobody else
 * has the file open, which every loop device does. So a claimed image has no device, and nobody gives it one until it is unclaimed:
 * openers wait, for as long as it takes to bind one. The claim is the open file's, which the device shares: it must be given up before
 * this process ends, or it lasts as long as the device. 0; -EAGAIN: somebody has it open; else the file system knows no leases.
 */
int image_claim(const Image *i);
void image_unclaim(const Image *i);

char *image_identity(const Image *i);
char *image_key(const Image *i);
char *image_lasting_id(const Image *i);
/* The inode that a key stands for; -EINVAL if it is none of ours. */
int image_parse_key(const char *key, dev_t *ret_device, uint64_t *ret_inode);

/* The key under which a missing image is made: the same for each spelling of its path. Error: IMAGE_NOT_FOUND if it cannot be. */
int image_creation_key(Mounter *m, const ImageOptions *o, char **ret, Error *err);
/*
 * Makes and formats the image. It appears under its name only when it is complete and durable; a crash leaves nothing
 * under any name. An image that exists meanwhile is success. Errors: TOO_SMALL before anything is made, NO_SPACE naming the file system.
 */
int image_create(Mounter *m, const ImageOptions *o, const char *fs_type, Error *err);
/* Makes it larger, to size rounded up; the caller has compared the sizes. Errors: NO_SPACE, GROW_FAILED. */
int image_grow(Image *i, const ImageOptions *o, uint64_t size, Error *err);

/*
 * The bytes that writing the image may still take from its file system beyond what is free there, as text for the
 * operator; NULL while everything fits.
 */
char *image_shortage(const Image *i);
