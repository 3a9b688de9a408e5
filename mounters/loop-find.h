/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The node's loop devices as a whole: which of them shows an inode, and what all of them show. */

#include "mounters/loop-device.h"

/* What is known of the node's devices from one operation to the next; see loop-device.c. */
typedef struct LoopTable LoopTable;
LoopTable *loop_table_new(void);
void loop_table_free(LoopTable *t);
DEFINE_POINTER_CLEANUP(LoopTable *, loop_table_free);

/*
 * Looks at every bound loop device, for a bounded time. 1 and *ret, or 0 if none shows the inode. One that does not answer, or whose file
 * cannot be looked at, is taken for another's, unless `image` is given and its file has that image's name: then nobody
 * knows, and it is BUSY or DEVICE_ERROR. CONFLICT if several show the inode.
 */
int loop_find(LoopTable *t, dev_t device, uint64_t inode, const Image *image, LoopDevice *ret, Error *err);
/*
 * Calls f for every bound device until it answers negative, which is then the result. One that cannot be looked at or does not
 * answer is left out: another's stuck device must not hide the others. The device comes without a descriptor.
 */
int loop_each(LoopTable *t, int (*f)(const LoopDevice *d, void *userdata), void *userdata, Error *err);
/* What sysfs calls the backing file (the caller frees it): a label only, since names change and inodes do not. May be NULL. */
char *loop_backing_file(unsigned number);
