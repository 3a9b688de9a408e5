/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Mapping by rbd-nbd, Ceph's own program that serves an image to the kernel's network block device: for images with features that the
 * kernel's RBD client lacks, and where a volume asks for it.
 *
 * A map is berth's own when its cookie, which sysfs shows, is "berth-" and the volume's key. A unit of systemd's of its own runs rbd-nbd
 * (rbd-unit.h), started by way of rbd-nbd-run with what lies in a directory of its own (rbd-nbd-place.h).
 */

#include "mounters/rbd-nbd-place.h"

/* rbd-nbd's path; the caller frees it. Errors: RBD_NBD_MISSING. */
int rbd_nbd_program(char **ret, Error *err);
/* Errors: KERNEL_UNSUPPORTED. */
int rbd_nbd_kernel_load(Mounter *m, Error *err);

/* Maps of rbd-nbd on this node, as rbd_device_each() does for the kernel's client. Foreign ones only if a process rbd-nbd serves them. Helper. */
int rbd_nbd_each(const char *sysfs, int runtime_fd, int (*f)(RbdDevice *d, void *userdata), void *userdata);
/* berth's own of that key: 1, 0 or negative errno. Helper. */
int rbd_nbd_find(const char *sysfs, int runtime_fd, const char *volume_key, RbdDevice *ret);

/*
 * Maps; the caller has looked for a map that is there already. Returns when rbd-nbd has said that it is complete. Whatever of it there is after an
 * error is taken away again, as far as that is possible. Errors: RBD_NBD_MISSING, RBD_NBD_FAILED, KERNEL_UNSUPPORTED, …
 */
int rbd_nbd_map(Mounter *m, const NbdPlacePlan *p, RbdDevice *ret, Error *err);
/* A map that was found is complete and served, or is about to be: starts what is not running, and waits. Errors: RBD_NBD_FAILED. */
int rbd_nbd_revive(Mounter *m, const char *volume_key, Error *err);
/* Whether it is served; if not, it is seen to that rbd-nbd is started again, and *ret_reason (which may stay NULL) says what is wrong. Helper. */
bool rbd_nbd_is_served(Mounter *m, const char *volume_key, char **ret_reason);

/*
 * Takes away map, unit and files of a volume; 0 also if there are none. Nobody may have the device in use: BUSY says who. Also: DETACH_FAILED,
 * OSDS_UNREACHABLE if what was written cannot be written back.
 */
typedef enum NbdEnd {
        NBD_END_UNUSED,
        NBD_END_FORCE, /* whoever has it in use sees errors from then on, and the device until he lets go */
        _NBD_END_MAX,
        _NBD_END_INVALID = -EINVAL,
} NbdEnd;
int rbd_nbd_unmap(Mounter *m, const char *volume_key, NbdEnd how, Error *err);
