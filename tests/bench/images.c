/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The volumes that are mounted: copies of one image made by mkfs.ext4, of which only what holds data is
 * written, since a thousand images are wanted. They share one file-system UUID, which ext4 does not mind.
 * They lie in a tmpfs: what is compared is the way to the mount, not a disk's latency, which would be the
 * same for every way and so flatter the slower one.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "bench/bench.h"

#define IMAGE_SIZE (64U * 1024U * 1024U)

static void copy_sparse(int from, const char *path, char *buffer)
{
        _cleanup_close_ int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        off_t end = 0;

        if (to < 0 || ftruncate(to, IMAGE_SIZE) < 0)
                die("%s: %m", path);
        for (;;) {
                off_t start = lseek(from, end, SEEK_DATA);

                if (start < 0 && errno == ENXIO)
                        return;
                end = start < 0 ? -1 : lseek(from, start, SEEK_HOLE);
                if (end < 0)
                        die("SEEK_DATA: %m");
                if (pread(from, buffer, (size_t) (end - start), start) != end - start ||
                    pwrite(to, buffer, (size_t) (end - start), start) != end - start)
                        die("Cannot copy to %s: %m", path);
        }
}

Volume *volumes_make(const char *dir, unsigned n)
{
        _cleanup_free_ char *template = format_string("%s/template", dir);
        _cleanup_free_ char *images = format_string("%s/images", dir);
        _cleanup_free_ char *buffer = malloc(IMAGE_SIZE);
        _cleanup_close_ int fd = open(template, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        Volume *volumes = calloc(n, sizeof *volumes);
        char *mkfs[] = { "mkfs.ext4", "-q", "-m0", "-E", "lazy_itable_init=1", template, NULL };

        if (fd < 0 || ftruncate(fd, IMAGE_SIZE) < 0 || !volumes || !buffer)
                die("%s: %m", template);
        process_run(mkfs, NULL, 0);
        make_directory(images);
        if (mount("tmpfs", images, "tmpfs", 0, "mode=0700") < 0)
                die("%s: %m", images);
        for (unsigned i = 0; i < n; i++) {
                Volume *v = volumes + i;

                v->image = format_string("%s/%u.img", images, i);
                v->staging = format_string("%s/staging/%u", dir, i);
                v->target = format_string(
                                "%s/kubelet/pods/00000000-0000-4000-8000-%012u/volumes/berth~loop/data", dir,
                                i);
                copy_sparse(fd, v->image, buffer);
                make_directory(v->staging);
                make_directory(v->target);
        }
        return volumes;
}

bool volume_is_attached(const Volume *v)
{
        char path[64], file[4096];
        _cleanup_close_ int fd = -EBADF;
        ssize_t size;

        snprintf(path, sizeof path, "/sys/dev/block/7:%u/loop/backing_file", v->loop);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
                return false;
        size = read(fd, file, sizeof file - 1);
        if (size <= 0)
                return false;
        file[size - 1] = '\0'; /* the newline */
        return strcmp(file, v->image) == 0;
}

void volume_expect_mounted(Volume *v)
{
        struct statx sx;

        if (statx(AT_FDCWD, v->target, AT_SYMLINK_NOFOLLOW, STATX_INO, &sx) < 0)
                die("statx %s: %m", v->target);
        if (!(sx.stx_attributes & STATX_ATTR_MOUNT_ROOT) || sx.stx_dev_major != 7 || sx.stx_ino != 2)
                die("%s was to be mounted and is not", v->target);
        v->loop = sx.stx_dev_minor;
}
