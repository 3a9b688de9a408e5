/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Connections to Ceph clusters by librados: one for each cluster, user and key, kept for the next volume. No ceph.conf is read, no log
 * written, and every time limit is set and read back: librados' own are 5 minutes, and for OSDs none.
 */

#include <rados/librados.h>

#include "mounters/rbd-source.h"

#define RBD_CLUSTERS_MAX 4U

typedef struct RbdCluster {
        rados_t rados;
        char fsid[37];
        char *mon_host, *user;
        uint8_t key_digest[32];
        uint64_t used; /* order of use */
} RbdCluster;

/* Of one process. */
typedef struct RbdClusters {
        RbdCluster *items[RBD_CLUSTERS_MAX];
        uint64_t n_used;
} RbdClusters;

/*
 * The connection for the source, made or found; it stays the clusters' own. One that fails later is to be dropped by rbd_cluster_drop(), so that
 * the next request connects anew. Errors: MONITORS_UNREACHABLE, KEY_REFUSED, KEYRING_INVALID, KEY_INVALID, INVALID_ARGUMENT.
 */
int rbd_cluster_get(RbdClusters *c, const Settings *settings, const RbdSource *s, const char *key, RbdCluster **ret, Error *err);
void rbd_cluster_drop(RbdClusters *c, RbdCluster *cluster);
void rbd_clusters_done(RbdClusters *c);

/* This process' own address in the cluster ("10.0.0.1:0/123456"), as watchers and blocklists show it. The caller frees it; NULL: unknown. */
char *rbd_cluster_address(const RbdCluster *c);
