/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The end of a mount point, shared by targets and staging directories. */

#include <stdint.h>

/*
 * Pops every mount at parent_fd/name with umount2(2) and UMOUNT_NOFOLLOW, never opening the name itself (an
 * open descriptor makes umount EBUSY, and the mount may be a dead server). EBUSY is retried for a quarter of a second.
 * *ret_layers is how many were popped, also on failure. 0 if nothing is mounted there now, or the name is
 * gone; negative errno: -EBUSY while something in this mount namespace uses the mount. The working directory is "/" afterwards.
 */
int fs_umount_all(int parent_fd, const char *name, unsigned *ret_layers);

/*
 * Unmounts the path by MNT_FORCE, or, if it is in use, by MNT_DETACH, in a process of its own: 0 when that has ended, successful or
 * not, -ETIMEDOUT when it is still at it after usec. Then it goes on alone for as long as the kernel takes, with no descriptor, no
 * lock and no parent here: process 1, or a subreaper, reaps it. Other negative errno: nothing was begun.
 */
int fs_umount_force(const char *path, uint64_t usec);
