/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What rbd-nbd is started with, and started again when it dies: a directory of root's for each volume that is mapped through it, on tmpfs
 * below the runtime directory.
 *
 *      nbd/<key>/conf        a ceph.conf with the key of the Ceph user in it, mode 0600
 *      nbd/<key>/arguments   of rbd-nbd, behind the verb, each ended by NUL; the first is the program
 *      nbd/<key>/image       JSON: what it shows, which the kernel cannot tell of an nbd device
 *      nbd/<key>/first       the leave to map it, which is taken with the first start: all later ones attach again, or end
 *      nbd/<key>/output      what it prints: "/dev/nbd0" when it has the image and the device, and is complete; nothing before
 *      nbd/<key>/try         when it was last attached again: no content
 *
 * It lasts as long as the map: rbd-nbd cannot be started again without the key, and the kubelet brings none then.
 */

#include "mounters/rbd-device.h"
#include "mounters/rbd-image.h"

/* What of map options and settings means something to rbd-nbd, and what is told to librbd. */
typedef struct NbdConfig {
        const char *mon_host, *secret;
        const char *ms_mode;          /* NULL: librados' own choice */
        const char *read_policy;      /* "default", "balance", "localize"; NULL: not given */
        const char *compression_hint; /* NULL: not given */
        unsigned connect_sec, request_sec /* 0: waits for the OSDs for ever, as the kernel's client does */, n_monitors;
} NbdConfig;

/* As much of a ceph.conf as rbd-nbd needs; -EMSGSIZE. The caller erases it. Pure. */
int nbd_config_format(const NbdConfig *c, char *buffer, size_t size);

typedef struct NbdPlacePlan {
        const RbdImage *image;
        const char *volume_key, *program, *secret;
        bool read_only, exclusive;
} NbdPlacePlan;

/* Writes all of it. Errors: RECORD_FAILED, INVALID_ARGUMENT, FORBIDDEN_OPTION. */
int nbd_place_make(Mounter *m, const NbdPlacePlan *p, Error *err);
/* Withdraws the leave to map; whether there was one. */
bool nbd_place_forbid(Mounter *m, const char *volume_key);
bool nbd_place_exists(Mounter *m, const char *volume_key);
/* Whether rbd-nbd has said that it is complete, since it was last started. */
bool nbd_place_is_complete(Mounter *m, const char *volume_key);
/* Overwrites the key and removes everything. Helper. */
int nbd_place_erase(Mounter *m, const char *volume_key);
/* Adds to a device what `image` says of it. Helper; -ENOENT: there is none. */
int nbd_place_read(int runtime_fd, const char *volume_key, RbdDevice *d);
/* The key, if the volume is mapped through rbd-nbd; rbd_secret_free(). 1, 0 or negative errno. Helper. */
int nbd_place_secret(Mounter *m, const char *volume_key, char **ret);
