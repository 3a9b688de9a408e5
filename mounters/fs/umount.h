/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The end of a mount point, shared by targets and staging directories. */

/*
 * Pops every mount at parent_fd/name with umount2(2) and UMOUNT_NOFOLLOW, never opening the name itself (an
 * open descriptor makes umount EBUSY, and the mount may be a dead server). EBUSY is retried for a quarter of a second.
 * *ret_layers is how many were popped, also on failure. 0 if nothing is mounted there now, or the name is
 * gone; negative errno: -EBUSY while something in this mount namespace uses the mount. The working directory is "/" afterwards.
 */
int fs_umount_all(int parent_fd, const char *name, unsigned *ret_layers);
