/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The kernel's NFS client: mounting, and what the kernel tells of its mounts without asking a server. */

#include "mounters/mounter.h"
#include "mounters/nfs-preflight.h"
#include "mounters/nfs-source.h"

/*
 * Mounts read-write on an existing directory; *ret_device is the number of the superblock, which is this
 * mount's own. Waits for the server, for NFS_MOUNT_USEC at most. Errors: as nfs_preflight(),
 * FORBIDDEN_OPTION, NOT_SUPPORTED, MOUNT_FAILED, with the kernel's own words.
 */
#define NFS_MOUNT_USEC (30 * UINT64_C(1000000))
int nfs_mount(Mounter *m, const NfsSource *s, const NfsPeer *peer, const char *path, dev_t *ret_device,
              uint64_t *ret_mount_id, Error *err);

/* A mount of NFS as the mount table shows it. */
typedef struct NfsMount {
        char *source; /* "server:/export" as it was mounted; of a bind with the directory below */
        char *target;
        char address[NFS_ADDRESS_MAX];
        unsigned port; /* 0: the kernel asks the server's rpcbind */
        int version;   /* 3 or 4 */
        dev_t device;
} NfsMount;
void nfs_mount_done(NfsMount *m);
#define _cleanup_nfs_mount_ _cleanup_(nfs_mount_done)

/* The topmost mount at the path; -ENOENT if it is none of NFS. Helper. */
int nfs_mount_find(const char *path, NfsMount *ret);
/* All below a directory, one level deep. *ret is freed by the caller, with nfs_mount_done() for each.
 * Helper. */
int nfs_mount_list(const char *directory, NfsMount **ret, size_t *ret_n);

/* Where directories below the export are mounted that is mounted at the path: the targets of its superblock with another source.
 * *ret is freed by the caller, with strv_free(). Helper. */
int nfs_mount_list_directories(const char *path, char ***ret);

/* Whether the kernel still has the superblock, mounted somewhere or not, by /proc/fs/nfsfs/volumes. */
bool nfs_superblock_exists(dev_t device);
