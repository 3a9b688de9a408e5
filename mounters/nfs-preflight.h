/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Looking at a server before the kernel is set at it: with time limits, and an error of its own for each
 * thing that can be wrong. */

#include <netinet/in.h>

#include "mounters/mounter.h"
#include "mounters/nfs-source.h"

#define NFS_ADDRESS_MAX (INET6_ADDRSTRLEN + 17U) /* with a zone */

/* What was found. */
typedef struct NfsPeer {
        int family;
        char address[NFS_ADDRESS_MAX]; /* of the server, numeric, that answered */
        char client[NFS_ADDRESS_MAX];  /* ours on the way there */
        NfsVersion version; /* what to mount with: as asked, or the highest that is offered; never ANY */
} NfsPeer;

/*
 * Resolves the name, connects, asks for versions and export. An export that only the kernel can judge (a
 * server without NFSv4.0 and NFSv3) passes. Takes [NFS] PreflightTimeoutSec= at most. Errors:
 * SERVER_UNKNOWN, SERVER_NOT_ALLOWED, SERVER_UNREACHABLE, SERVER_REFUSED, VERSION_NOT_OFFERED,
 * EXPORT_NOT_FOUND, EXPORT_DENIED.
 */
int nfs_preflight(Mounter *m, const NfsSource *s, NfsPeer *ret, Error *err);

/* Whether anything accepts a connection at address and port: 0 or negative errno, -ETIMEDOUT after usec.
 * Helper. */
int nfs_ping(const char *address, unsigned port, uint64_t usec);

/*
 * Whether a server answers NFS's NULL call of this version (3 or 4): 0 or negative errno, -ETIMEDOUT after
 * usec. Port 0: where its rpcbind says that NFS is, which is how the kernel finds it; without an rpcbind
 * NFS_PORT. A connection alone says nothing, since the kernel of a server takes it for an nfsd that hangs.
 * Helper.
 */
int nfs_null(const char *address, unsigned port, int version, uint64_t usec);

/* Whether rpc.statd of this node answers; started by start-statd if it is not there. Error:
 * LOCKING_UNAVAILABLE. */
int nfs_locking_check(Mounter *m, Error *err);
