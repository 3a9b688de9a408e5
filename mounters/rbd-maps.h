/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Maps of RBD images on this node, whichever way they were made: by the kernel's RBD client (rbd-map.h) or by rbd-nbd (rbd-nbd.h). Which of both
 * a new one is made by is decided here; everything else about a volume is the same for both.
 */

#include "mounters/rbd-nbd.h"

/* As rbd_device_each() and rbd_device_find(), over both. Helpers. */
int rbd_maps_each(Mounter *m, int (*f)(RbdDevice *d, void *userdata), void *userdata);
int rbd_maps_find(Mounter *m, const char *volume_key, RbdDevice *ret);
/* "/dev/rbd0" or "/dev/nbd0". */
void rbd_maps_path(const RbdDevice *d, char *buffer, size_t size);

/*
 * By which client an image is to be mapped: as the volume says, else by the kernel's where it knows all of the image's features, else by rbd-nbd. Errors:
 * FEATURES_UNSUPPORTED, KERNEL_UNSUPPORTED, RBD_NBD_MISSING.
 */
int rbd_maps_choose(Mounter *m, const RbdImage *i, bool read_only, RbdMapper *ret, Error *err);
int rbd_maps_map(Mounter *m, RbdMapper mapper, const RbdImage *i, const char *volume_key, const char *secret, bool read_only, RbdDevice *ret,
                 Error *err);
/* Of berth's own. Returns when neither is left. */
int rbd_maps_unmap(Mounter *m, const RbdDevice *d, Error *err);
/* Whoever has it open, as rbd_unmap_force(). */
int rbd_maps_unmap_force(Mounter *m, const RbdDevice *d, Error *err);

/* Bytes, as the kernel has it. Helper. */
int rbd_maps_size(const RbdDevice *d, uint64_t *ret);
/* Waits until the kernel has the image's size, and tells it where it does not learn by itself. Errors: GROW_FAILED. */
int rbd_maps_wait_size(const RbdDevice *d, uint64_t size, Error *err);
/* Asks for the size to be taken over where that needs no access to the cluster. Helper. */
int rbd_maps_refresh(const RbdDevice *d);
