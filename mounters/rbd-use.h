/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * One writer: who else uses an image that is to be written here, and what may be done about a holder that is dead.
 *
 * A client that has an image open for writing watches its header; a dead one does for another 30 s (osd_client_watch_timeout).
 * An image with the feature exclusive-lock has an owner besides. The clients of this node are known by their addresses.
 */

#include "mounters/rbd-device.h"
#include "mounters/rbd-image.h"

typedef enum RbdFence {
        RBD_FENCE_NEVER,
        RBD_FENCE_EXPIRED, /* who wrote last and does not watch any more: it may be frozen and come back */
        RBD_FENCE_FORCE,   /* whoever else watches */
        _RBD_FENCE_MAX,
        _RBD_FENCE_INVALID = -EINVAL,
} RbdFence;
RbdFence rbd_fence_from_string(const char *s);

/*
 * Before a map for writing: IN_USE, naming the holders, unless nobody else has the image open; with Fence= they are fenced instead. own: addresses of
 * this node's clients (strv). A dead owner of the exclusive lock is fenced in any case, and the lock taken from it: nobody could have it otherwise.
 * A lock that one of own has left is taken without fencing it: call this only for an image that none of own has mapped.
 * *ret_noted: the note of who wrote last, as it was before (NULL: none).
 */
int rbd_use_claim(RbdImage *i, RbdFence fence, char *const *own, char **ret_noted, Error *err);
/* After it: whether somebody came at the same moment. IN_USE: undo the map. */
int rbd_use_confirm(RbdImage *i, char *const *own, Error *err);
/*
 * rbd-nbd does not tell its address, and has a new one each time it is started. It is this node's only client of the image beside those in own, so it
 * is the one watcher that has this node's address (self: that of any of its clients): added to own, and *ret is its address. None: DEVICE_CHANGED,
 * rbd-nbd does not have this image open. Several: IN_USE, as one that died is listed for another half minute beside its successor.
 */
int rbd_use_own_server(RbdImage *i, const char *self, char ***own, char **ret, Error *err);
/*
 * For a map that was there already: IN_USE if the note names another node, which therefore has had the image since, or before and the map was never
 * noted. *ret_noted (may be NULL) is the note in this case, too.
 */
int rbd_use_noted(RbdImage *i, char *const *own, char **ret_noted, Error *err);

typedef struct RbdNoting {
        const RbdDevice *device; /* whose client writes the image from now on */
        const char *node;
        char *const *own;
        const char *before; /* the note that it replaces, as it was read before anybody was looked for; NULL: none */
} RbdNoting;
/*
 * Notes with the image who writes it now: whom another node would have to fence. Between the map and the first write, for an image without exclusive-lock;
 * looks for others itself. IN_USE: undo the map, since another node has come.
 */
int rbd_use_note(RbdImage *i, const RbdNoting *n, Error *err);
/*
 * Deliberately, now: fences everybody of other nodes who has the image open, holds its lock, or wrote it last by a client that served it alone; breaks the lock.
 * *ret: whom (strv). NOTHING_TO_FENCE if that is nobody; CAPS_MISSING. A repeat after it was cut short finishes it.
 */
int rbd_use_fence(RbdImage *i, char *const *own, char ***ret, Error *err);

/* "10.0.0.7" of "10.0.0.7:0/4102" and "fd00::1" of "[fd00::1]:0/4102"; false if it is no such address. Pure. */
bool rbd_address_host(const char *address, char *buffer, size_t size);
/* Those of the watchers that are none of this node's. strv. Pure. Helper. */
int rbd_use_others(char *const *watchers, char *const *own, char ***ret);
