/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Mapping and unmapping by the kernel's RBD client: its module, the key in the kernel's keyring, monitors that answer, one write to sysfs.
 */

#include "mounters/rbd-device.h"
#include "mounters/rbd-image.h"

/* Loads the module if it is missing. Errors: KERNEL_UNSUPPORTED. */
int rbd_kernel_load(Mounter *m, Error *err);
/* FEATURES_UNSUPPORTED, naming those that the kernel lacks for this access. */
int rbd_kernel_check_features(const RbdImage *i, bool read_only, Error *err);
/* The same as a question: bits, 0 if there are none; negative errno. Helper. */
int rbd_kernel_missing_features(const RbdImage *i, bool read_only, uint64_t *ret);

/*
 * Maps; the caller has looked for a map that is there already. Fills *ret with the device, which is there in /dev. Errors: ATTACH_FAILED,
 * IN_USE (an exclusive lock that its owner does not give up), MONITORS_UNREACHABLE, KEY_REFUSED, CAPS_MISSING, FEATURES_UNSUPPORTED, …
 */
int rbd_map(Mounter *m, const RbdImage *i, const char *volume_key, const char *secret, bool read_only, RbdDevice *ret, Error *err);

/* Lets the map go and returns when sysfs does not show it any more. ERROR_BUSY with who holds it. */
int rbd_unmap(const RbdDevice *d, Error *err);
/*
 * By force, although something has it open: what it was to write fails. The kernel waits for requests that are under way, which fail only where the map
 * has an osd_request_timeout; without one they are waited for by nobody, and the call refuses with DETACH_FAILED before it has done anything.
 */
int rbd_unmap_force(const RbdDevice *d, Error *err);
/* Has a map take over the image's size; read-only ones do not by themselves. */
int rbd_refresh(const RbdDevice *d, Error *err);
