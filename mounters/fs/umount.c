/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Unmounting a directory by its parent. Runs in mounters; umount2(2) may block on the storage, so berthd keeps
 * the deadline.
 */

#include "mounters/fs/umount.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/wait.h>
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

/* ---- by force ---- */

/* It keeps nothing open but the pipe that tells of its end. */
static _Noreturn void force_run(const char *path, int end_fd)
{
        (void) setsid();
        if (end_fd > 0)
                (void) close_range(0, (unsigned) end_fd - 1, 0);
        (void) close_range((unsigned) end_fd + 1, ~0U, 0);
        /* what waits for the server fails; then nothing is left to wait for, but for those who begin to wait anew */
        if (umount2(path, UMOUNT_NOFOLLOW | MNT_FORCE) < 0)
                (void) umount2(path, UMOUNT_NOFOLLOW | MNT_DETACH);
        _exit(EXIT_SUCCESS);
}

/* By a child that ends at once, so that whoever does the work is not ours to reap: the kernel may take longer than anybody looks. */
static int force_start(const char *path, int end_fd)
{
        int status;
        pid_t child = fork();

        if (child < 0)
                return -errno;
        if (child == 0) {
                pid_t worker = fork();

                if (worker == 0)
                        force_run(path, end_fd);
                _exit(worker < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
        }
        while (waitpid(child, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        return WIFEXITED(status) && WEXITSTATUS(status) == EXIT_SUCCESS ? 0 : -EAGAIN;
}

int fs_umount_force(const char *path, uint64_t usec)
{
        int fds[2];

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int seen_fd = fds[0], end_fd = fds[1];
        int r = force_start(path, end_fd);
        if (r < 0)
                return r;

        struct pollfd p = { .fd = seen_fd, .events = POLLIN };
        end_fd = close_fd(end_fd);
        r = poll(&p, 1, (int) (usec / 1000));
        return r < 0 ? -errno : r == 0 ? -ETIMEDOUT : 0;
}
