/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A server that is silent where a volume is mounted from, while its name leads somewhere else by now. */

#include "mounters/nfs-mount.h"

/*
 * Whether the name in found->source leads only to other addresses than found->address, and NFS answers at one of
 * them, which is then in ret. A name that is an address never moves. Takes usec at most for the name, and
 * as long for the addresses. Helper.
 */
bool nfs_server_moved(Mounter *m, const NfsMount *found, uint64_t usec, char ret[NFS_ADDRESS_MAX]);

/* Whether the superblock is mounted at this path only, as far as the node's mount table tells. Helper. */
bool nfs_mounted_only_at(const char *path, dev_t device);
