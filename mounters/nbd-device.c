/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Network block devices in sysfs. Reads sysfs and opens no device: that would wait for a server that is dead. Runs in the rbd mounter, and
 * in rbd-nbd-run. The requests are in nbd-netlink.c.
 */

#include "mounters/nbd-device.h"

#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"

#define ATTRIBUTE_MAX 4096U

static int attribute_read(int dir_fd, const char *name, char **ret)
{
        char *text = NULL;
        int r = read_file_at(dir_fd, name, ATTRIBUTE_MAX, &text, NULL);

        if (r < 0)
                return r;
        text[strcspn(text, "\n")] = 0;
        *ret = text;
        return 0;
}

/* -ENOENT unless it is connected: "pid" is there for as long as it is, "backend" only if a cookie was given. */
static int device_read(int sysfs_fd, const char *name, NbdDevice *ret)
{
        NbdDevice d = {};
        unsigned major_number, minor_number;
        int n = 0;
        _cleanup_close_ int fd = openat(sysfs_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_free_ char *pid = NULL, *dev = NULL, *cookie = NULL, *ro = NULL;

        if (fd < 0)
                return -errno;
        if (sscanf(name, "nbd%u%n", &d.number, &n) != 1 || name[n])
                return -ENOENT;
        int r = attribute_read(fd, "pid", &pid);
        if (r >= 0)
                r = attribute_read(fd, "dev", &dev);
        if (r < 0)
                return r;
        if (sscanf(dev, "%u:%u", &major_number, &minor_number) != 2)
                return -EBADMSG;
        d.device_number = makedev(major_number, minor_number);
        d.pid = (pid_t) strtol(pid, NULL, 10);
        d.read_only = attribute_read(fd, "ro", &ro) >= 0 && ro[0] == '1';
        /* one that is longer than ours can be is not ours */
        if (attribute_read(fd, "backend", &cookie) >= 0 && strlen(cookie) < sizeof(d.cookie))
                memcpy(d.cookie, cookie, strlen(cookie) + 1);
        *ret = d;
        return 0;
}

int nbd_device_each(const char *sysfs, int (*f)(const NbdDevice *d, void *userdata), void *userdata)
{
        _cleanup_closedir_ DIR *dir = opendir(sysfs);

        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        for (struct dirent *e; (e = readdir(dir));) {
                NbdDevice d;
                if (strncmp(e->d_name, "nbd", 3) != 0)
                        continue;
                int r = device_read(dirfd(dir), e->d_name, &d);
                if (r == -ENOENT || r == -ENODEV || r == -ENOTDIR)
                        continue;
                if (r >= 0)
                        r = f(&d, userdata);
                if (r != 0)
                        return r;
        }
        return 0;
}

typedef struct Search {
        const char *cookie;
        NbdDevice *ret;
} Search;

static int search_visit(const NbdDevice *d, void *userdata)
{
        Search *s = userdata;

        if (strcmp(d->cookie, s->cookie) != 0)
                return 0;
        *s->ret = *d;
        return 1;
}

int nbd_device_find(const char *sysfs, const char *cookie, NbdDevice *ret)
{
        return nbd_device_each(sysfs, search_visit, &(Search) { cookie, ret });
}
