/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Which of the node's loop devices shows an image. Runs in the loop mounter; blocks for a bounded time.
 *
 * Invariant: one inode never gets two devices, since two caches over the same blocks destroy the file system. So every
 * bound device of the node is asked for its inode before one is bound, and again afterwards.
 *
 * Asking costs an open and an ioctl a device, on a node with thousands of them, and one whose file lies on a dead server
 * never answers (loop-ask.c). So the table remembers the answers: /sys/…/loop<N>/loop is made when a device is bound
 * and removed when it is let go, and its kernfs inode number is never used twice, so the same number means the same
 * binding. Only LOOP_CHANGE_FD could change the file below a binding; it works on read-only devices alone, and these
 * are always asked.
 */

#include "mounters/loop-find.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "mounters/loop-ask.h"

#define BACKING_FILE_MAX 4096U

typedef struct LoopBinding {
        ino_t sysfs_inode; /* 0: nothing is known */
        dev_t device;
        uint64_t inode;
} LoopBinding;

struct LoopTable {
        int sysfs_fd;
        LoopBinding *bindings; /* by the device's number */
        size_t n_bindings;
};

LoopTable *loop_table_new(void)
{
        LoopTable *t = calloc(1, sizeof(LoopTable));

        if (t)
                t->sysfs_fd = -EBADF;
        return t;
}

void loop_table_free(LoopTable *t)
{
        close_fd(t->sysfs_fd);
        free(t->bindings);
        free(t);
}

char *loop_backing_file(unsigned number)
{
        char path[64], *text = NULL;

        snprintf(path, sizeof(path), "/sys/block/loop%u/loop/backing_file", number);
        if (read_file_at(AT_FDCWD, path, BACKING_FILE_MAX, &text, NULL) < 0)
                return NULL;
        text[strcspn(text, "\n")] = 0;
        return text;
}

static LoopBinding *table_binding(LoopTable *t, unsigned number)
{
        if (number >= t->n_bindings) {
                size_t n = number + 64U;
                LoopBinding *grown = reallocarray(t->bindings, n, sizeof(LoopBinding));
                if (!grown)
                        return NULL;
                memset(grown + t->n_bindings, 0, (n - t->n_bindings) * sizeof(LoopBinding));
                t->bindings = grown;
                t->n_bindings = n;
        }
        return &t->bindings[number];
}

static int table_open(LoopTable *t, DIR **ret)
{
        int fd;

        if (t->sysfs_fd < 0)
                t->sysfs_fd = open(LOOP_SYSFS_DEVICES, O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = openat(t->sysfs_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return -errno;
        *ret = fdopendir(fd);
        if (!*ret) {
                close_fd(fd);
                return -errno;
        }
        return 0;
}

/* The devices to ask, each with the binding that sysfs showed when they were listed. */
typedef struct LoopInquiry {
        LoopQuestion *questions;
        ino_t *sysfs_inodes;
        size_t n;
} LoopInquiry;

static void inquiry_done(LoopInquiry *q)
{
        free(q->questions);
        free(q->sysfs_inodes);
}

static int inquiry_add(LoopInquiry *q, unsigned number, ino_t sysfs_inode)
{
        if (q->n % 64 == 0) {
                LoopQuestion *questions = reallocarray(q->questions, q->n + 64, sizeof(*questions));
                if (questions)
                        q->questions = questions;
                ino_t *inodes = reallocarray(q->sysfs_inodes, q->n + 64, sizeof(*inodes));
                if (inodes)
                        q->sysfs_inodes = inodes;
                if (!questions || !inodes)
                        return -ENOMEM;
        }
        q->questions[q->n] = (LoopQuestion) { .number = number };
        q->sysfs_inodes[q->n++] = sysfs_inode;
        return 0;
}

typedef enum InquiryScope {
        INQUIRE_ALL,
        INQUIRE_INODE, /* those that may show it, by what is known of them */
} InquiryScope;

static int inquiry_list(LoopTable *t, InquiryScope scope, dev_t device, uint64_t inode, LoopInquiry *q)
{
        _cleanup_closedir_ DIR *d = NULL;
        int r = table_open(t, &d);

        for (struct dirent *e; r >= 0 && (e = readdir(d));) {
                char path[32];
                unsigned number;
                struct stat st;

                if (!loop_number(e->d_name, &number))
                        continue;
                snprintf(path, sizeof(path), "loop%u/loop", number);
                if (fstatat(t->sysfs_fd, path, &st, AT_SYMLINK_NOFOLLOW) < 0)
                        continue; /* not bound */
                LoopBinding *b = table_binding(t, number);
                if (!b)
                        return -ENOMEM;
                if (scope == INQUIRE_INODE && b->sysfs_inode == st.st_ino &&
                    (b->inode != inode || b->device != device))
                        continue;
                r = inquiry_add(q, number, st.st_ino);
        }
        return r;
}

/* What was answered belongs to the binding that was seen only if it is still the same one. */
static void binding_remember(LoopTable *t, const LoopQuestion *q, ino_t sysfs_inode)
{
        LoopBinding *b = table_binding(t, q->number);
        ino_t now = 0;

        if (!b)
                return;
        b->sysfs_inode = 0;
        if (q->result > 0 && !(q->info.lo_flags & LO_FLAGS_READ_ONLY) && loop_is_bound(q->number, &now) &&
                   now == sysfs_inode) {
                *b = (LoopBinding) {
                        .sysfs_inode = sysfs_inode, .device = (dev_t) q->info.lo_device, .inode = q->info.lo_inode
                };
        }
}

static int inquiry_run(LoopTable *t, InquiryScope scope, dev_t device, uint64_t inode, LoopInquiry *q)
{
        int r = inquiry_list(t, scope, device, inode, q);

        if (r >= 0 && q->n > 0)
                r = loop_ask(q->questions, q->n, loop_look_at_other);
        for (size_t i = 0; r >= 0 && i < q->n; i++)
                binding_remember(t, &q->questions[i], q->sysfs_inodes[i]);
        return r;
}

static const char *last_name(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? slash + 1 : path;
}

/*
 * Whether a silent device could show the image: an image has one hard link, and so one name at the end of whatever path leads to
 * it. Its own file system answers, so another reason for the silence than a dead server would be needed besides.
 */
static bool could_show(unsigned number, const Image *image)
{
        _cleanup_free_ char *file = loop_backing_file(number);
        char self[40], name[PATH_MAX];

        snprintf(self, sizeof(self), "/proc/self/fd/%d", image->fd);
        ssize_t n = file ? readlink(self, name, sizeof(name) - 1) : -1;
        if (n < 0)
                return true;
        name[n] = 0;
        return strcmp(last_name(file), last_name(name)) == 0;
}

int loop_find(LoopTable *t, dev_t device, uint64_t inode, const Image *image, LoopDevice *ret, Error *err)
{
        _cleanup_loop_device_ LoopDevice found = LOOP_DEVICE_INIT;
        _cleanup_(inquiry_done) LoopInquiry q = {};
        const LoopQuestion *unclear = NULL;
        int r = inquiry_run(t, INQUIRE_INODE, device, inode, &q);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot look through the loop devices: %s",
                                 strerror(-r));

        for (size_t i = 0; i < q.n; i++) {
                const LoopQuestion *a = &q.questions[i];
                _cleanup_loop_device_ LoopDevice one = LOOP_DEVICE_INIT;

                if (a->result < 0 && image && could_show(a->number, image))
                        unclear = a;
                if (a->result <= 0 || a->info.lo_inode != inode || a->info.lo_device != device)
                        continue;
                r = loop_look(a->number, &one);
                if (r < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot look at /dev/loop%u: %s", a->number,
                                         strerror(-r));
                if (r == 0 || !loop_device_shows(&one, device, inode))
                        continue;
                if (found.fd >= 0)
                        return error_set(err, ERROR_CONFLICT, EBUSY,
                                         "The image is attached twice, as /dev/loop%u and /dev/loop%u: its "
                                         "data is at risk",
                                         found.number, a->number);
                found = one;
                one = LOOP_DEVICE_INIT;
        }
        /* the one that was found is the only one: else there would be two */
        if (found.fd < 0 && unclear)
                return error_set(err, unclear->result == -ETIMEDOUT ? ERROR_BUSY : ERROR_DEVICE_ERROR, unclear->result,
                                 "Cannot tell whether /dev/loop%u shows this image: %s", unclear->number,
                                 unclear->result == -ETIMEDOUT ? "it does not answer" : strerror(-unclear->result));
        if (found.fd < 0)
                return 0;
        *ret = found;
        found = LOOP_DEVICE_INIT;
        return 1;
}

int loop_each(LoopTable *t, int (*f)(const LoopDevice *d, void *userdata), void *userdata, Error *err)
{
        _cleanup_(inquiry_done) LoopInquiry q = {};
        int r = inquiry_run(t, INQUIRE_ALL, 0, 0, &q);
        if (r < 0)
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot look through the loop devices: %s",
                                 strerror(-r));

        for (size_t i = 0; i < q.n; i++) {
                const LoopQuestion *a = &q.questions[i];
                const LoopDevice d = {
                        .fd = -EBADF, .number = a->number, .device_number = makedev(LOOP_MAJOR, a->number), .info = a->info
                };
                if (a->result <= 0)
                        continue;
                r = f(&d, userdata);
                if (r == -ENOMEM)
                        return error_oom(err);
                if (r < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot list /dev/loop%u: %s", a->number,
                                         strerror(-r));
        }
        return 0;
}
