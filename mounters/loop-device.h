/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * A loop device: looking at it, binding it to an image and letting it go.
 *
 * Own: its file name field carries "berth:<key>". Everything else is foreign: used, never undone.
 */

#include <linux/loop.h>
#include <sys/types.h>

#include "mounters/loop-image.h"

#define LOOP_MAJOR 7
#define LOOP_SYSFS_DEVICES "/sys/devices/virtual/block"

typedef struct LoopDevice {
        int fd;
        unsigned number; /* of /dev/loop<number> */
        dev_t device_number;
        struct loop_info64 info;
} LoopDevice;
#define LOOP_DEVICE_INIT ((LoopDevice) { .fd = -EBADF })
void loop_device_done(LoopDevice *d);
#define _cleanup_loop_device_ _cleanup_(loop_device_done)

bool loop_device_is_own(const LoopDevice *d, const char *key);
bool loop_device_shows(const LoopDevice *d, dev_t device, uint64_t inode);

/* "loop7" is 7. */
bool loop_number(const char *name, unsigned *ret);
/* Whether sysfs shows the device bound, and as which binding (may be NULL): the number is never used twice. */
bool loop_is_bound(unsigned number, ino_t *ret_inode);
/* 1: bound, *ret filled; 0: not bound. Waits for what is below the device: strangers' are asked by loop_find(). */
int loop_look(unsigned number, LoopDevice *ret);
/*
 * The same of a device that is nobody's yet, in loop_ask()'s child. 0 also if the kernel cannot look at the file behind it (ENOTCONN of
 * a FUSE server that died, ESTALE): an image that is looked for is not that file, since it can be looked at.
 */
int loop_look_at_other(unsigned number, struct loop_info64 *ret);

/* Opens the device that is named, if it still shows the inode: 1; 0 if it does not. */
int loop_open(const char *path, dev_t device, uint64_t inode, LoopDevice *ret, Error *err);

typedef enum LoopFlags {
        LOOP_READ_ONLY = 1 << 0,
        LOOP_DIRECT_IO = 1 << 1, /* where it works */
} LoopFlags;

/* Binds a free device to the image (open for reading or for both) under the volume's tag. */
int loop_bind(const Image *i, const char *key, unsigned flags, LoopDevice *ret, Error *err);
/* Keeps a device that was to go with its last user. */
int loop_clear_autoclear(LoopDevice *d, Error *err);
/* Has the device take over its image's size. */
int loop_refresh_size(const LoopDevice *d, uint64_t *ret_size, Error *err);
/*
 * Lets the device go and waits (briefly: udev may be looking at it) until sysfs shows it gone. ERROR_BUSY with who
 * holds it otherwise: the kernel then lets it go with its last user.
 */
int loop_unbind(LoopDevice *d, Error *err);
