/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A file system with one file, "image": zeros of a given size, of which one range cannot be read (EIO), and which
 * takes no writes. A loop device on it is a disk with bad sectors. A helper process of the suite format:
 *
 *      fuse-image SIZE BAD_OFFSET BAD_SIZE MOUNT_POINT [FUSE options]
 *
 * Runs in the foreground with -f until it is unmounted.
 */

#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fuse.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint64_t image_size, bad_offset, bad_size;

static int image_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
        memset(st, 0, sizeof(*st));
        if (strcmp(path, "/") == 0) {
                st->st_mode = S_IFDIR | 0755;
                st->st_nlink = 2;
                return 0;
        }
        if (strcmp(path, "/image") != 0)
                return -ENOENT;
        st->st_mode = S_IFREG | 0644;
        st->st_nlink = 1;
        st->st_size = (off_t) image_size;
        return 0;
}

static int image_open(const char *path, struct fuse_file_info *info)
{
        info->direct_io = 0;
        return strcmp(path, "/image") == 0 ? 0 : -ENOENT;
}

static int image_read(const char *path, char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
        uint64_t start = (uint64_t) offset;

        if (start >= image_size)
                return 0;
        if (size > image_size - start)
                size = image_size - start;
        if (start < bad_offset + bad_size && start + size > bad_offset)
                return -EIO;
        memset(buffer, 0, size);
        return (int) size;
}

static int image_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
        return -EIO;
}

static const struct fuse_operations operations = {
        .getattr = image_getattr,
        .open = image_open,
        .read = image_read,
        .write = image_write,
};

int main(int argc, char **argv)
{
        if (argc < 5)
                return 2;
        image_size = strtoull(argv[1], NULL, 10);
        bad_offset = strtoull(argv[2], NULL, 10);
        bad_size = strtoull(argv[3], NULL, 10);
        argv[3] = argv[0];
        return fuse_main(argc - 3, argv + 3, &operations, NULL);
}
