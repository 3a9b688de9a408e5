/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Nodes beside a real Ceph (ceph.h) as mounter-rbd has them, for suites that call the bodies of its work directly (mounters/rbd-image.h, rbd-use.h): no mounter
 * process, no map. Everything here fails the test when it cannot do its work.
 */

#include "ceph.h"
#include "mounters/rbd-image.h"

#define MIB UINT64_C(1048576)

extern Fixture f;
extern Ceph ceph;
extern Mounter m;

/* For TestSuite(). */
void ceph_setup(void);
void ceph_teardown(void);

/* A node: a connection of its own, as client.kube. */
typedef struct Node {
        RbdClusters clusters;
        RbdCluster *cluster;
        StrMap options;
        RbdSource source;
} Node;

/* For volumes on kube/<image>. */
void node_start(Node *n, const char *image);
void node_stop(Node *n);

/* The node's own image; by the caller's rbd_image_done(). */
void image_open(Node *n, RbdImage *i);
/* By `rbd create`. */
void image_create(const char *name, const char *size, const char *features);
