/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A real Ceph of one node for tests (tests/lab/ceph): one monitor, one OSD in memory, pool kube, users client.admin and
 * client.kube. Everything here fails the test when it cannot do its work.
 */

#include "mounter-client.h"

typedef struct Ceph {
        char *dir; /* of its files */
        char *conf, *address, *monitor_v1, *monitor_v2, *fsid, *admin_key, *kube_key;
} Ceph;

/* Starts it on an address of its own that is only on this machine; skips the test (with the reason) where Ceph is not installed. */
void ceph_start(Ceph *c, const char *dir);
void ceph_stop(Ceph *c);
/* `rbd` and `ceph` as client.admin, each with a time limit; must succeed. */
#define CEPH_RBD(c, ...) ceph_run((c), (char *[]) { (char *) "rbd", __VA_ARGS__, NULL })
#define CEPH_CEPH(c, ...) ceph_run((c), (char *[]) { (char *) "ceph", __VA_ARGS__, NULL })
void ceph_run(const Ceph *c, char *const *argv);
/* Until when an address is on the cluster's blocklist; 0 if it is not. */
time_t ceph_blocklisted_until(const Ceph *c, const char *address);
/* The same, of any program that takes -c CONF first; what it printed, freed by the caller. */
char *ceph_output(const Ceph *c, char *const *argv);
/* The pid of "mon" or "osd", to stop and continue it. */
pid_t ceph_pid(const Ceph *c, const char *daemon);

/* A volume on kube/<image> as client.kube with the key as the Secret. */
void rbd_volume_init(MounterVolume *v, const Ceph *c, const char *image);
