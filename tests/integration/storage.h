/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What differs between the drivers for a suite that runs over any of them: how an image is made, written and looked at beside berth, what a
 * request for it says, and what must be gone afterwards. BERTH_TEST_DRIVER in the environment names the driver; "loop" without it.
 *
 * For rbd a cluster and a kernel with its client are needed: BERTH_TEST_RBD_MONITOR, BERTH_TEST_RBD_USER and BERTH_TEST_RBD_KEY name
 * them, the pool is kube. Images of others there are left alone: those of a test begin with its own name. With BERTH_TEST_RBD_MOUNTER=nbd rbd-nbd maps
 * them, for which systemd is needed, too.
 *
 * For nfs a server on this machine and a kernel with the client are needed: BERTH_TEST_NFS_SERVER names its address, BERTH_TEST_NFS_EXPORT what it
 * exports, a directory that is here under the same path. An "image" is a directory of it, a pod's subDir: there is nothing to format, to check or
 * to grow, and what is said of devices is so of the kernel's superblocks.
 *
 * As in the fixture, everything here asserts by itself unless it says otherwise. An image goes by what requests call it: a path, or an image's
 * name.
 */

#include <sys/types.h>

#include "agent-client.h"

typedef struct Storage {
        const char *driver;
        const char *points; /* whose fault points are its own: the driver's, or "nbd" */
        const char *grown; /* the file system type for growing: ext4 needs a capability that not every test machine gives */
        bool makes_images; /* a first mount makes the image, if the request names a size */
        bool is_share;     /* no images: no file system types, and neither size, write, read nor binding */
        bool own_points;   /* only those: the others are gone through over another storage of the driver's */
        bool drops_used;   /* an image can be removed while somebody still has it open, such as a detach that goes on in the background */

        /* Sections of berthd.conf; freed by the caller. */
        char *(*config)(Fixture *f);
        /* Once a test, after fixture_init(). May skip the test. */
        void (*begin)(Fixture *f);
        /* A blank image; or only its name, for one that is not to exist yet. Freed by the caller. */
        char *(*make)(Fixture *f, const char *name, uint64_t size);
        char *(*name)(Fixture *f, const char *name);
        void (*remove)(const char *image);
        uint64_t (*size)(const char *image);
        /* While it is not attached. Durable. */
        void (*write)(const char *image, uint64_t offset, const void *data, size_t size);
        /* While it is attached or, of rbd, only then; false if it is not there. */
        bool (*read)(const char *image, uint64_t offset, void *data, size_t size);
        MountParams (*params)(const char *target, const char *image, const char *fs_type, bool read_only);
        /* The key of a record's source that names the image. */
        const char *source_key;
        /* Calls found() for each device that shows an image of the test's. */
        void (*devices)(Fixture *f, void (*found)(const char *device, const char *image, void *arg), void *arg);
        /* A number that is new with each time that an image is attached; 0 if the device does not show it. */
        ino_t (*binding)(const char *device, const char *image);
        /* What the images that are attached now do not explain, or NULL; freed by the caller. Nobody may be at work. */
        char *(*stray)(Fixture *f);
        /* Of a share: another directory with the same content takes the image's place, and that one is gone. NULL: no share. */
        void (*renew)(const char *image);
} Storage;

extern const Storage storage_loop, storage_nfs, storage_rbd, storage_nbd;

/* The one that the environment names, begun. */
const Storage *storage_begin(Fixture *f);

/* An image with a file system of mkfs, with further arguments (NULL-terminated) or NULL. Not of a share. */
char *storage_make_formatted(const Storage *s, Fixture *f, const char *name, uint64_t size, const char *fs_type, char *const *options);

/* fixture_is_clean(), no device of the storage and no stray. Fills *ret_what (freed by the caller, may be NULL). */
bool storage_all_clean(const Storage *s, Fixture *f, char **ret_what);

/* fixture_start() with the storage's sections added. */
void storage_start(const Storage *s, Fixture *f, const char *config);
