/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Who keeps a mount or a device busy, for the text of an error. Reads /proc and sysfs only, in mounters, on the way of a failure.
 *
 * Whatever a descriptor leads to is looked at without asking its storage (AT_STATX_DONT_SYNC), so that another
 * volume's dead server is not waited for. Each mount namespace's table is read once, however many processes share it.
 */

#include "mounters/fs/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/fd.h"

#define HOLDERS_MAX 4U
#define NAMESPACES_MAX 256U
#define MOUNTINFO_MAX (32U * 1024U * 1024U)
/* A caller waits for its Unmount meanwhile, and a node may have thousands of processes, each with its descriptors and mounts. */
#define SEARCH_NSEC (INT64_C(400) * 1000 * 1000)

typedef struct Search {
        dev_t device;
        char device_name[NAME_MAX + 1]; /* "loop3"; "" if it is no block device */
        ino_t namespaces[NAMESPACES_MAX];
        unsigned n_namespaces;
        unsigned n_found;
        char *text;
} Search;

static void holder_add(Search *s, const char *holder)
{
        char *text = NULL;

        s->n_found++;
        if (s->n_found > HOLDERS_MAX || asprintf(&text, "%s%s%s", s->text ? s->text : "", s->text ? ", " : "", holder) < 0)
                return;
        free(s->text);
        s->text = text;
}

/* A small file of one line; "?" if it cannot be read. */
static void line_read(int dir_fd, const char *path, char *ret, size_t size)
{
        _cleanup_free_ char *text = NULL;

        if (read_file_at(dir_fd, path, 4096, &text, NULL) < 0)
                snprintf(ret, size, "?");
        else
                snprintf(ret, size, "%.*s", (int) strcspn(text, "\n"), text);
}

static void process_add(Search *s, int pid_fd, const char *pid, const char *how)
{
        char name[64], text[160];

        line_read(pid_fd, "comm", name, sizeof(name));
        if (strcmp(name, "rbd-nbd") == 0) /* it serves the device, and is to live */
                return;
        snprintf(text, sizeof(text), "pid %.16s (%s)%.24s", pid, name, how);
        holder_add(s, text);
}

/* The kernel itself: device mapper, RAID, and loop devices with the device as their file. */
static void devices_search(Search *s)
{
        char path[sizeof("/sys/class/block//holders") + NAME_MAX], backing[PATH_MAX], text[NAME_MAX + 160];

        snprintf(path, sizeof(path), "/sys/class/block/%s/holders", s->device_name);
        _cleanup_closedir_ DIR *holders = opendir(path), *all = opendir("/sys/class/block");
        for (struct dirent *e; holders && (e = readdir(holders));) {
                char name[128];
                if (e->d_name[0] == '.')
                        continue;
                snprintf(path, sizeof(path), "%.240s/dm/name", e->d_name);
                line_read(dirfd(holders), path, name, sizeof(name));
                snprintf(text, sizeof(text), "%s%s%s%s", e->d_name, *name != '?' ? " (device mapper " : "", *name != '?' ? name : "",
                         *name != '?' ? ")" : "");
                holder_add(s, text);
        }
        for (struct dirent *e; all && (e = readdir(all));) {
                if (strncmp(e->d_name, "loop", 4) != 0)
                        continue;
                snprintf(path, sizeof(path), "%.240s/loop/backing_file", e->d_name);
                line_read(dirfd(all), path, backing, sizeof(backing));
                if (strncmp(backing, "/dev/", 5) != 0 || strcmp(backing + 5, s->device_name) != 0)
                        continue;
                snprintf(text, sizeof(text), "%s (a loop device on it)", e->d_name);
                holder_add(s, text);
        }
}

static bool link_matches(const Search *s, int dir_fd, const char *name)
{
        struct statx sx;

        if (statx(dir_fd, name, AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) < 0)
                return false;
        if (makedev(sx.stx_dev_major, sx.stx_dev_minor) == s->device)
                return true;
        return S_ISBLK(sx.stx_mode) && makedev(sx.stx_rdev_major, sx.stx_rdev_minor) == s->device;
}

static bool process_uses(const Search *s, int pid_fd)
{
        static const char *const links[] = { "cwd", "root", "exe" };

        for (size_t i = 0; i < ELEMENTSOF(links); i++)
                if (link_matches(s, pid_fd, links[i]))
                        return true;

        int fd = openat(pid_fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return false;
        _cleanup_closedir_ DIR *d = fdopendir(fd);
        if (!d) {
                close_fd(fd);
                return false;
        }
        for (struct dirent *e; (e = readdir(d));)
                if (e->d_name[0] != '.' && link_matches(s, dirfd(d), e->d_name))
                        return true;
        return false;
}

/* "36 35 98:0 / /mnt rw - ext4 /dev/loop3 rw": by number, or by name where the number is anonymous (btrfs). */
static bool line_matches(const Search *s, const char *line)
{
        unsigned maj, min;
        const char *rest = strstr(line, " - ");
        char source[PATH_MAX];

        if (sscanf(line, "%*u %*u %u:%u", &maj, &min) == 2 && makedev(maj, min) == s->device)
                return true;
        if (!*s->device_name || !rest || sscanf(rest, " - %*s %4095s", source) != 1)
                return false;
        return strncmp(source, "/dev/", 5) == 0 && strcmp(source + 5, s->device_name) == 0;
}

/* Whether the process is the first seen of a mount namespace in which the device is mounted. */
static bool namespace_has_mount(Search *s, int pid_fd)
{
        _cleanup_free_ char *table = NULL;
        struct stat st;

        if (fstatat(pid_fd, "ns/mnt", &st, 0) < 0)
                return false;
        for (unsigned i = 0; i < s->n_namespaces; i++)
                if (s->namespaces[i] == st.st_ino)
                        return false;
        if (s->n_namespaces == NAMESPACES_MAX)
                return false;
        s->namespaces[s->n_namespaces++] = st.st_ino;

        if (read_file_at(pid_fd, "mountinfo", MOUNTINFO_MAX, &table, NULL) < 0)
                return false;
        for (char *line = table, *next; line && *line; line = next) {
                next = strchr(line, '\n');
                if (next)
                        *next++ = 0;
                if (line_matches(s, line))
                        return true;
        }
        return false;
}

static void search_prepare(Search *s, dev_t device)
{
        char path[64], link[PATH_MAX];
        struct stat own;

        s->device = device;
        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(device), minor(device));
        ssize_t n = readlink(path, link, sizeof(link) - 1);
        if (n > 0) {
                link[n] = 0;
                const char *slash = strrchr(link, '/');
                snprintf(s->device_name, sizeof(s->device_name), "%.255s", slash ? slash + 1 : link);
        }
        /* what our own namespace shows is known to the caller */
        if (stat("/proc/self/ns/mnt", &own) >= 0)
                s->namespaces[s->n_namespaces++] = own.st_ino;
}

static int64_t now_monotonic_nsec(void)
{
        struct timespec ts = {};

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* As the kernel lists them, oldest first; the time may be over before all are looked at, and who holds a volume is seldom older than it. */
static size_t processes_list(DIR *proc, pid_t **ret)
{
        size_t n = 0, allocated = 0;

        for (struct dirent *e; (e = readdir(proc));) {
                if (e->d_name[strspn(e->d_name, "0123456789")] != 0)
                        continue;
                if (n == allocated) {
                        allocated = allocated ? allocated * 2 : 256;
                        pid_t *grown = reallocarray(*ret, allocated, sizeof(*grown));
                        if (!grown)
                                break;
                        *ret = grown;
                }
                (*ret)[n++] = atoi(e->d_name);
        }
        return n;
}

char *fs_holders(dev_t device_number)
{
        int64_t end = now_monotonic_nsec() + SEARCH_NSEC;
        _cleanup_free_ Search *s = calloc(1, sizeof(Search));
        _cleanup_closedir_ DIR *proc = opendir("/proc");

        if (!s || !proc || device_number == 0)
                return NULL;
        search_prepare(s, device_number);
        if (*s->device_name)
                devices_search(s);

        _cleanup_free_ pid_t *pids = NULL;
        for (size_t n = processes_list(proc, &pids); n > 0 && now_monotonic_nsec() <= end; n--) {
                char pid[16];

                snprintf(pid, sizeof(pid), "%d", pids[n - 1]);
                _cleanup_close_ int pid_fd = openat(dirfd(proc), pid, O_PATH | O_DIRECTORY | O_CLOEXEC);
                if (pid_fd < 0 || pids[n - 1] == getpid())
                        continue;
                if (process_uses(s, pid_fd))
                        process_add(s, pid_fd, pid, "");
                else if (namespace_has_mount(s, pid_fd))
                        process_add(s, pid_fd, pid, "'s mount namespace");
        }
        if (s->n_found > HOLDERS_MAX) {
                char *text = NULL;
                if (asprintf(&text, "%s and %u more", s->text ? s->text : "", s->n_found - HOLDERS_MAX) >= 0) {
                        free(s->text);
                        s->text = text;
                }
        }
        return s->text;
}
