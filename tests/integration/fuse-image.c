/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A file system with one file, "image", that shows a file elsewhere, of which one range cannot be read (EIO). A loop device on
 * it is a disk with bad sectors, or, from SIGUSR1 to SIGUSR2 (but no longer than a minute, since the kernel itself may come to wait
 * for it), one that does not answer: whoever has asked it something then is in D state, and not even SIGKILL ends it. A helper
 * process:
 *
 *      fuse-image FILE BAD_OFFSET BAD_SIZE MOUNT_POINT [FUSE options]
 *
 * Runs in the foreground with -f until it is unmounted.
 */

#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SILENT_MAX_SECONDS 60

static int lower_fd;
static uint64_t bad_offset, bad_size;
static volatile sig_atomic_t silent;

static void on_signal(int number)
{
        silent = number == SIGUSR1;
        (void) alarm(silent ? SILENT_MAX_SECONDS : 0);
}

static void wait_until_answering(void)
{
        static const struct timespec pause = { .tv_nsec = 5000000 };

        while (silent)
                nanosleep(&pause, NULL);
}

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
        wait_until_answering();
        struct stat lower;
        if (fstat(lower_fd, &lower) < 0)
                return -errno;
        st->st_mode = S_IFREG | 0644;
        st->st_nlink = 1;
        st->st_size = lower.st_size;
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

        wait_until_answering();
        if (start < bad_offset + bad_size && start + size > bad_offset)
                return -EIO;
        ssize_t n = pread(lower_fd, buffer, size, offset);
        return n < 0 ? -errno : (int) n;
}

static int image_write(const char *path, const char *buffer, size_t size, off_t offset, struct fuse_file_info *info)
{
        wait_until_answering();
        ssize_t n = pwrite(lower_fd, buffer, size, offset);
        return n < 0 ? -errno : (int) n;
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
        lower_fd = open(argv[1], O_RDWR | O_CLOEXEC);
        if (lower_fd < 0)
                return 2;
        bad_offset = strtoull(argv[2], NULL, 10);
        bad_size = strtoull(argv[3], NULL, 10);
        signal(SIGUSR1, on_signal);
        signal(SIGUSR2, on_signal);
        signal(SIGALRM, on_signal);
        argv[3] = argv[0];
        return fuse_main(argc - 3, argv + 3, &operations, NULL);
}
