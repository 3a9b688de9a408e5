/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Maps of the kernel's RBD client as sysfs shows them: which image each device is, and whose it is. Reads sysfs only, so it never
 * waits for the cluster.
 *
 * A map is berth's own when the name of its key in the kernel's keyring, which sysfs repeats in config_info, is "berth-" and the
 * volume's key: berth gives it that name when it maps, and nobody else has a reason to.
 */

#include "mounters/rbd-source.h"

#define RBD_SYSFS "/sys/bus/rbd"

typedef struct RbdDevice {
        RbdMapper mapper; /* RBD_MAPPER_KRBD or RBD_MAPPER_NBD (rbd-nbd.h) */
        unsigned number;  /* of /dev/rbd<number> or /dev/nbd<number> */
        dev_t device_number;
        char *fsid, *pool, *space, *image, *snapshot /* NULL: none */, *image_id, *address /* of its client */;
        char *identity, *key;
        int64_t pool_id;
        bool own, read_only;
        bool times_out; /* its requests fail after a while: osd_request_timeout */
        bool alone; /* its client serves no other map: fencing it harms nothing else */
} RbdDevice;
#define RBD_DEVICE_INIT ((RbdDevice) { .mapper = RBD_MAPPER_KRBD })
void rbd_device_done(RbdDevice *d);
#define _cleanup_rbd_device_ _cleanup_(rbd_device_done)

/*
 * Calls f for every map of the node until it answers other than 0, which is then the result. One that goes away meanwhile is left out. No rbd in
 * the kernel: no maps. Helper.
 */
int rbd_device_each(const char *sysfs, int (*f)(RbdDevice *d, void *userdata), void *userdata);

/* The map of the volume's key: berth's own before others, writable before read-only. 1, 0 or negative errno. Helper. */
int rbd_device_find(const char *sysfs, const char *key, RbdDevice *ret);
/*
 * Another map than that one through which its image (fsid, pool_id, image_id) can be written on this node, under whatever name; d->device_number 0: any.
 * 1, 0 or negative errno. Helper.
 */
int rbd_device_find_other(const char *sysfs, const RbdDevice *d, RbdDevice *ret);
/* The addresses of all clients of this node, strv. Helper. */
int rbd_device_addresses(const char *sysfs, char ***ret);

/*
 * What sysfs' config_info ("<addresses> <options> <pool> <image> <snapshot>", as whoever mapped has written it) says. Of an option that is given several
 * times the kernel takes the last. Pure.
 */
/* Whether it has berth's tag for the key. */
bool rbd_config_is_own(const char *config_info, const char *key);
/* Whether the map has a client of its own ("noshare"). */
bool rbd_config_is_alone(const char *config_info);
/* Whether its requests fail after a while ("osd_request_timeout=", of which 0 is never). */
bool rbd_config_times_out(const char *config_info);

typedef struct RbdMapLine {
        const char *addresses; /* "10.0.0.1:3300,…": numeric */
        const char *fsid, *user, *key;
        const char *pool, *space, *image, *snapshot;
        const char *ms_mode;        /* NULL: messenger 1 */
        unsigned timeout_sec;       /* mount_timeout, and lock_timeout where locks */
        bool read_only;
        bool locks; /* it has the feature exclusive-lock, and is mapped for writing */
        bool alone; /* a client of its own, unless options say otherwise */
        char *const *defaults;      /* [RBD] MapOptions= */
        char *const *options;       /* the volume's own, which win */
} RbdMapLine;

/* What is written to /sys/bus/rbd/add…; the caller frees it. Errors: INVALID_ARGUMENT (it would not be one line of five words, or is too long). Pure. */
int rbd_map_line(const RbdMapLine *p, char **ret, Error *err);
