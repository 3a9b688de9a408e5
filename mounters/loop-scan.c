/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The loop kind's Scan: every bound loop device of the node as the volume it would be, for reconcile to compare with its
 * records. Runs in the loop mounter; changes nothing.
 */

#include "mounters/loop-scan.h"

#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"

#define BACKING_FILE_MAX 4096U

/* What sysfs calls the backing file: a label only, since names change and inodes do not. NULL if it does not tell. */
static char *backing_file(unsigned number)
{
        char path[64], *text = NULL;

        snprintf(path, sizeof(path), "/sys/block/loop%u/loop/backing_file", number);
        if (read_file_at(AT_FDCWD, path, BACKING_FILE_MAX, &text, NULL) < 0)
                return NULL;
        text[strcspn(text, "\n")] = 0;
        return text;
}

static int device_fill(const LoopDevice *d, MounterDevice *ret)
{
        const Image image = { .fd = -EBADF, .device = (dev_t) d->info.lo_device, .inode = d->info.lo_inode };

        *ret = (MounterDevice) {
                .key = image_key(&image),
                .identity = image_identity(&image),
                .image = backing_file(d->number),
                .device_number = d->device_number,
                .read_only = d->info.lo_flags & LO_FLAGS_READ_ONLY,
        };
        if (!ret->key || !ret->identity || asprintf(&ret->device, "/dev/loop%u", d->number) < 0) {
                ret->device = NULL;
                return -ENOMEM;
        }
        ret->foreign = !loop_device_is_own(d, ret->key);
        return 0;
}

static int device_add(const LoopDevice *d, void *userdata)
{
        MounterResult *r = userdata;
        MounterDevice *grown = reallocarray(r->devices, r->n_devices + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        r->devices = grown;
        return device_fill(d, &grown[r->n_devices++]);
}

int loop_scan_devices(LoopTable *t, MounterResult *r, Error *err)
{
        return loop_each(t, device_add, r, err);
}
