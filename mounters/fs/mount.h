/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Staging mounts: libmount on berth's own directory (<runtime dir>/staging/<key>, 0700), mount options by
 * allow-list, and their end.
 */

#include "mounters/mounter.h"

/*
 * Checks mount options against the allow-list of fs_type ("" is ext4) and joins them into one string for
 * libmount (the caller frees it), with nosuid and nodev added, "ro" where read_only. An option may not
 * contain a comma (each stands alone), NUL, quote or control character. "ro" and "rw" are refused: the volume's
 * readOnly decides. "context=" and its kin are quoted. Errors: FORBIDDEN_OPTION, naming the option; UNKNOWN_FILESYSTEM.
 */
int fs_options_check(const char *fs_type, char *const *options, bool read_only, char **ret, Error *err);

/* One option of an NFS mount, by the same list; vers and nfsvers are not in it, the driver's option vers says more. */
int fs_option_check_nfs(const char *option, Error *err);

typedef struct FsMountParams {
        const char *source;       /* device */
        dev_t device_number;      /* what must be mounted in the end; 0: not compared */
        const char *staging_path; /* made if missing, 0700 */
        const char *fs_type;
        const char *options; /* from fs_options_check() */
} FsMountParams;

/*
 * Mounts unless it is mounted already: then its device is compared, and a different one is ERROR_CONFLICT. Fills *ret_mount_id.
 * A failed mount leaves no directory. Errors: MOUNT_FAILED with libmount's own explanation.
 */
int fs_mount(const FsMountParams *p, uint64_t *ret_mount_id, Error *err);

/*
 * Slot: umount2(2) of v->staging_path from its open parent, UMOUNT_NOFOLLOW, then rmdir of the empty directory.
 * Not mounted or gone is success. EBUSY: ERROR_BUSY.
 */
int fs_unstage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);

/* Slots: bounded only by the kernel; berthd sets the deadline. */
int fs_stats(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);
int fs_check(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err);

/* Who keeps a mount or device busy, as text for an error ("pid 1234 (fio)", …); never fails; NULL if nobody is seen. */
char *fs_holders(dev_t device_number);
