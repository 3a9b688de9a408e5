/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Unmounting a directory by its parent. Runs in mounters; umount2(2) may block on the storage, so berthd keeps
 * the deadline.
 */

#include "mounters/fs/umount.h"

#include <sys/mount.h>
#include <time.h>

#include "base/fault.h"
#include "base/fd.h"

#define BUSY_TRIES 25
#define BUSY_PAUSE_NSEC (10 * 1000 * 1000)

/* A process that was just killed, or udev's probing, lets go within milliseconds. */
static int umount_one(const char *name)
{
        static const struct timespec pause = { .tv_nsec = BUSY_PAUSE_NSEC };

        FAULT_POINT("umount.before");
        for (unsigned i = 0;; i++) {
                if (umount2(name, UMOUNT_NOFOLLOW) >= 0) {
                        FAULT_POINT("umount.after");
                        return 0;
                }
                if (errno != EBUSY || i >= BUSY_TRIES)
                        return -errno;
                (void) nanosleep(&pause, NULL);
        }
}

int fs_umount_all(int parent_fd, const char *name, unsigned *ret_layers)
{
        bool mounted = false;
        unsigned n = 0;
        int r = 0;

        *ret_layers = 0;
        if (fchdir(parent_fd) < 0)
                return -errno;
        while ((r = umount_one(name)) >= 0)
                n++;
        if (chdir("/") < 0)
                return -errno;

        *ret_layers = n;
        if (r == -ENOENT)
                return 0;
        if (r != -EINVAL)
                return r;

        /* EINVAL stands for more than "not mounted": a mount locked by a user namespace is one of them. */
        r = mount_id_at(parent_fd, name, NULL, &mounted);
        if (r < 0)
                return r == -ENOENT ? 0 : r;
        return mounted ? -EINVAL : 0;
}
