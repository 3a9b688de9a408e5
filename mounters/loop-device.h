/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The loop kind's devices: which of the node's loop devices show an inode, binding one and letting it go.
 *
 * Own: its file name field carries "berth:<key>". Everything else is foreign: used, never undone.
 */

#include <linux/loop.h>
#include <sys/types.h>

#include "mounters/loop-image.h"

typedef struct LoopDevice {
        int fd;
        unsigned number; /* of /dev/loop<number> */
        dev_t device_number;
        struct loop_info64 info;
} LoopDevice;
#define LOOP_DEVICE_INIT ((LoopDevice) { .fd = -EBADF })
void loop_device_done(LoopDevice *d);
#define _cleanup_loop_device_ _cleanup_(loop_device_done)

/* What is known of the node's devices from one operation to the next; see loop-device.c. */
typedef struct LoopTable LoopTable;
LoopTable *loop_table_new(void);
void loop_table_free(LoopTable *t);
DEFINE_POINTER_CLEANUP(LoopTable *, loop_table_free);

bool loop_device_is_own(const LoopDevice *d, const char *key);
bool loop_device_shows(const LoopDevice *d, dev_t device, uint64_t inode);

/*
 * Looks at every bound loop device. 1 and *ret, or 0 if none shows the inode. Errors: CONFLICT if several do, DEVICE_ERROR if
 * one cannot be looked at: then nobody knows.
 */
int loop_find(LoopTable *t, dev_t device, uint64_t inode, LoopDevice *ret, Error *err);
/*
 * Calls f for every bound device until it answers negative, which is then the result. One that cannot be looked at is
 * left out: another's stuck device must not hide the others.
 */
int loop_each(LoopTable *t, int (*f)(const LoopDevice *d, void *userdata), void *userdata, Error *err);
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
