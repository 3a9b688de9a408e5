/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Records: <runtime dir>/volumes/<key>.json, one a volume, on tmpfs: a reboot empties them together with the
 * kernel's mounts. They hold only what the kernel cannot tell, and never a secret.
 *
 *      version        1; a record of a newer version is set aside
 *      key, identity, driver, source{}, fsType, uuid, readOnly, stageReadOnly, stageMountId, mountOptions[], device,
 *      deviceNumber, foreign, rebuilt   as in struct Volume
 *      state, step    the state when it was written, and the step that was about to be made ("" if none)
 *      attachments[]  volumeNames
 *      unstageSince   microseconds of CLOCK_BOOTTIME, since when unstaging fails; missing if it does not
 *      publishes[]    target (bytes escaped as in base/escape.h), readOnly, podName, podNamespace, podUid, mountId, subDir; stale while
 *                     what is mounted there is to be replaced, and perhaps not mounted at all for a moment
 *
 * Keys that this version does not know are kept as they are, and a record of another version is left as it is.
 */

#include "daemon/volume.h"

/* Writes the volume's record: temporary file, rename. Helper: negative errno. */
int store_write(Volume *v);
/* Removes it, and a lock file of the volume that nobody holds; missing ones are fine. */
int store_remove(Volume *v);
/*
 * Loads all records into m->volumes. One that cannot be read, or is of a newer version, is renamed to
 * <name>.bad (<name>.bad1, …) and logged, never deleted; the volume then has to be rebuilt from the kernel.
 */
int store_load(Manager *m, Error *err);

/* Whether a string may be a volume's key (io.berth.Mounter1.xml): it names files. */
bool volume_key_is_valid(const char *key);

/* The two halves, for tests and fuzzing: a record as text (freed by the caller), and a volume from it. */
char *store_serialize(const Volume *v);
int store_parse(Manager *m, const char *text, size_t size, Volume **ret, Error *err);
