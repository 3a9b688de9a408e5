/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The loop kind's Scan: every bound loop device of the node as the volume it would be, for reconcile to compare with its
 * records. Runs in the loop mounter; changes nothing.
 */

#include "mounters/loop-scan.h"

#include <string.h>
#include <sys/sysmacros.h>

#include "mounters/loop-image.h"

/*
 * Loop devices are the kernel's and not the mount namespace's: another berthd of the same machine, in a container, tags its own
 * just as we do. Ours are those whose image is reached in our directories under the name that sysfs tells.
 */
static bool image_is_ours(Mounter *m, const char *path, const Image *image)
{
        const ImageOptions o = { .path = path };
        _cleanup_image_ Image i = IMAGE_INIT;

        return path && *path == '/' && image_open(m, &o, &i, NULL) >= 0 && i.device == image->device &&
               i.inode == image->inode;
}

static int device_fill(Mounter *m, const LoopDevice *d, MounterDevice *ret)
{
        const Image image = { .fd = -EBADF, .device = (dev_t) d->info.lo_device, .inode = d->info.lo_inode };

        *ret = (MounterDevice) {
                .key = image_key(&image),
                .identity = image_identity(&image),
                .image = loop_backing_file(d->number),
                .device_number = d->device_number,
                .read_only = d->info.lo_flags & LO_FLAGS_READ_ONLY,
        };
        if (!ret->key || !ret->identity || asprintf(&ret->device, "/dev/loop%u", d->number) < 0) {
                ret->device = NULL;
                return -ENOMEM;
        }
        ret->foreign = !loop_device_is_own(d, ret->key) || !image_is_ours(m, ret->image, &image);
        return 0;
}

typedef struct Scan {
        Mounter *mounter;
        MounterResult *result;
} Scan;

static int device_add(const LoopDevice *d, void *userdata)
{
        const Scan *scan = userdata;
        MounterResult *r = scan->result;
        MounterDevice *grown = reallocarray(r->devices, r->n_devices + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        r->devices = grown;
        return device_fill(scan->mounter, d, &grown[r->n_devices++]);
}

int loop_scan_devices(Mounter *m, LoopTable *t, MounterResult *r, Error *err)
{
        Scan scan = { m, r };

        return loop_each(t, device_add, &scan, err);
}
