/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The lower bound: the system calls that bring a formatted image to a target and take it away again, with
 * nothing around them. No record, no lock, no check of the target, no other process. The work that the
 * kernel does is the same as for berth: direct I/O where the image's file system allows it, a probe of the
 * one superblock, staging mount and bind, and the look into sysfs that shows the device gone.
 */

#include <blkid/blkid.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "bench/bench.h"

/* Another process may take the free device first: then the next one. */
static int loop_bind(const Volume *v, char *path, size_t size)
{
        _cleanup_close_ int image = open(v->image, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
        _cleanup_close_ int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        struct loop_config config = { .fd = (uint32_t) image };
        struct stat st;

        if (image < 0 || fstat(image, &st) < 0 || control < 0)
                die("%s or /dev/loop-control: %m", v->image);
        config.info.lo_flags = LO_FLAGS_DIRECT_IO;
        snprintf((char *) config.info.lo_file_name, sizeof config.info.lo_file_name, "bench:%lu",
                 (unsigned long) st.st_ino);

        for (unsigned tries = 0; tries < 10000; tries++) {
                _cleanup_close_ int device = -EBADF;
                int number = ioctl(control, LOOP_CTL_GET_FREE);

                if (number < 0)
                        continue;
                snprintf(path, size, "/dev/loop%d", number);
                device = open(path, O_RDWR | O_CLOEXEC);
                if (device < 0)
                        continue;
                if (ioctl(device, LOOP_CONFIGURE, &config) == 0)
                        return TAKE_FD(device);
                if (errno == EINVAL)
                        config.info.lo_flags = 0;
                else if (errno != EBUSY && errno != ENXIO)
                        die("LOOP_CONFIGURE %s: %m", path);
        }
        die("no free loop device");
}

static void probe_ext4(int device)
{
        char *types[] = { "ext4", NULL };
        blkid_probe probe = blkid_new_probe();
        const char *type, *uuid;

        if (!probe || blkid_probe_set_device(probe, device, 0, 0) < 0 ||
            blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID) < 0 ||
            blkid_probe_filter_superblocks_type(probe, BLKID_FLTR_ONLYIN, types) < 0 ||
            blkid_do_safeprobe(probe) != 0 || blkid_probe_lookup_value(probe, "TYPE", &type, NULL) < 0 ||
            blkid_probe_lookup_value(probe, "UUID", &uuid, NULL) < 0 || strcmp(type, "ext4") != 0)
                die("no ext4 found");
        blkid_free_probe(probe);
}

void bare_mount(Volume *v)
{
        char path[32];
        _cleanup_close_ int device = loop_bind(v, path, sizeof path);
        _cleanup_close_ int tree = -EBADF;
        struct stat st;

        probe_ext4(device);
        if (fstat(device, &st) < 0)
                die("%s: %m", path);
        v->loop = minor(st.st_rdev);
        if (mount(path, v->staging, "ext4", MS_NOSUID | MS_NODEV, NULL) < 0)
                die("mount %s: %m", path);
        tree = (int) syscall(SYS_open_tree, AT_FDCWD, v->staging, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (tree < 0 || syscall(SYS_move_mount, tree, "", AT_FDCWD, v->target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                die("bind %s: %m", v->target);
}

void bare_unmount(Volume *v)
{
        char path[32];
        int device;

        if (umount2(v->target, UMOUNT_NOFOLLOW) < 0)
                die("umount %s: %m", v->target);
        if (umount2(v->staging, UMOUNT_NOFOLLOW) < 0)
                die("umount %s: %m", v->staging);
        snprintf(path, sizeof path, "/dev/loop%u", v->loop);
        device = open(path, O_RDWR | O_CLOEXEC);
        if (device < 0 || ioctl(device, LOOP_CLR_FD) < 0)
                die("LOOP_CLR_FD %s: %m", path);
        close(device);
}
