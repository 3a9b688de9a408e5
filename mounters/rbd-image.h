/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One image (or snapshot), looked at through librbd: what it is, who uses it, which of its bytes are allocated, what berth keeps with it.
 * It is opened read-only, which makes no watcher and takes no lock; what has to be written is written through an opening of its own.
 */

#include <rbd/librbd.h>

#include "mounters/block/block.h"
#include "mounters/rbd-cluster.h"

typedef struct RbdImage {
        RbdCluster *cluster;
        rados_ioctx_t io;
        rbd_image_t image;
        const RbdSource *source;
        char *spec;        /* "kube/web-0", for texts */
        int64_t pool_id;
        char id[80];       /* "10e5b3…": unlike a name never used again in its pool */
        uint64_t size, features;
        char *lasting_id;
} RbdImage;

#define RBD_IMAGE_INIT ((RbdImage) {})
void rbd_image_done(RbdImage *i);
#define _cleanup_rbd_image_ _cleanup_(rbd_image_done)

/*
 * Errors: POOL_NOT_FOUND, NAMESPACE_NOT_FOUND, RBD_IMAGE_NOT_FOUND, SNAPSHOT_NOT_FOUND, CAPS_MISSING, OSDS_UNREACHABLE, FEATURES_UNSUPPORTED (by librbd),
 * DEVICE_ERROR. source must outlive it.
 */
int rbd_image_open(RbdCluster *c, const RbdSource *source, RbdImage *ret, Error *err);

/* What of an image is looked at without opening it, which takes several round trips. */
typedef enum RbdLook {
        RBD_LOOK_NAME, /* it is there; of a snapshot: its image. One round trip */
        RBD_LOOK_READ, /* and the user may read it. Two, and one more if its data are in a pool of their own */
        RBD_LOOK_WRITE, /* or write it. One more */
        _RBD_LOOK_MAX,
        _RBD_LOOK_INVALID = -EINVAL,
} RbdLook;
/* Errors as of rbd_image_open(). Nothing is written. That librbd can open it is not said. */
int rbd_image_look(RbdCluster *c, const RbdSource *source, RbdLook look, Error *err);
/* The same RBD_LOOK_READ or RBD_LOOK_WRITE of one that is open, a snapshot too: CAPS_MISSING. */
int rbd_image_check_rights(RbdImage *i, bool writes, Error *err);

/* IMAGE_NOT_PRIMARY if it is the copy of a mirrored image, which only the mirror daemon may write. */
int rbd_image_check_primary(RbdImage *i, Error *err);

/*
 * Who has it open for writing: the addresses of its watchers ("10.0.0.7:0/4102"), strv. A client that died without goodbye is one for
 * another osd_client_watch_timeout (30 s). */
int rbd_image_watchers(RbdImage *i, char ***ret, Error *err);

/*
 * Of the exclusive-lock feature (whose cookie begins with "auto ") or of `rbd lock add`. All NULL if nobody holds it. The address is in the form in which
 * watchers have theirs. Asked of the cluster each time.
 */
typedef struct RbdLocker {
        char *client, *cookie, *address;
} RbdLocker;
void rbd_locker_done(RbdLocker *l);
#define _cleanup_rbd_locker_ _cleanup_(rbd_locker_done)
int rbd_image_locker(RbdImage *i, RbdLocker *ret, Error *err);
/* Takes exactly this lock away from its holder, who must have been fenced before. It is no error if it is gone. */
int rbd_image_break_lock(RbdImage *i, const RbdLocker *l, Error *err);

/* Makes it larger; a smaller size than it has is ERROR_SHRINK, an equal one nothing. i->size follows. */
int rbd_image_grow(RbdImage *i, uint64_t size, Error *err);

/*
 * Opened anew, since nobody tells an image that is open for reading only of what others do to it: DEVICE_CHANGED unless a device of that size
 * shows all of it, RBD_IMAGE_NOT_FOUND if it has been removed. i->size follows.
 */
int rbd_image_check_size(RbdImage *i, uint64_t device_size, Error *err);

/* Its part of BlockStorage (userdata: the RbdImage): allocated extents, and intents and memories as image metadata "berth.<what>". To write
 * or remove one of an image that is gone is RBD_IMAGE_NOT_FOUND. */
int rbd_image_extents(RbdImage *i, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err);
/* Past the object map, unlike a device. */
int rbd_image_read(RbdImage *i, uint64_t offset, void *buffer, size_t size, Error *err);
int rbd_image_keep_read(RbdImage *i, const char *what, char **ret, Error *err);
int rbd_image_keep_write(RbdImage *i, const char *what, const char *text, Error *err);
int rbd_image_keep_remove(RbdImage *i, const char *what, Error *err);
/* The same in one step with a look: 1 if it was exactly before (NULL: not there) and is now text (NULL: not there), 0 if it was something else. */
int rbd_image_keep_swap(RbdImage *i, const char *what, const char *before, const char *text, Error *err);

/* Any request to the cluster that failed, as what it means: CAPS_MISSING, OSDS_UNREACHABLE, or other. */
int rbd_request_failed(const RbdSource *s, int r, ErrorCode other, const char *what, Error *err);
