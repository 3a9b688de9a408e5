/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Publish and unpublish: the stage bind-mounted onto a target, by the new mount API alone (open_tree(2),
 * mount_setattr(2), move_mount(2)), so that no path is ever resolved twice.
 */

#include "mounters/mounter.h"

/*
 * Slot: publishes v->staging_path at v->target, read-only if v->read_only, with nosuid and nodev always.
 * If the stage is already what is mounted there (same superblock, same root, the wanted flags), success with its mount ID.
 * Something else mounted there: ERROR_CONFLICT.
 */
int fs_publish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);

/* Whether a look at the file system may have to wait for a server. */
typedef enum FsStorage {
        FS_STORAGE_DEVICE,
        FS_STORAGE_SERVER,
} FsStorage;

/*
 * The second half of it, for kinds that bind something else than the root of the stage: tree_fd is of open_tree(2) with
 * OPEN_TREE_CLONE, and still the caller's. With FS_STORAGE_SERVER nothing here waits for one.
 */
int fs_publish_tree(Mounter *m, const MounterVolume *v, int tree_fd, FsStorage storage, MounterResult *r, Error *err);

/*
 * Slot: pops every mount at v->target, opening only its parent: umount2(name, UMOUNT_NOFOLLOW) until EINVAL.
 * A target that is gone, or is no mount point, is success with 0 layers. EBUSY is retried briefly, then ERROR_BUSY
 * names the processes that hold it as far as /proc tells.
 */
int fs_unpublish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);
