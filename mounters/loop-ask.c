/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Asks loop devices what they show. Runs in the loop mounter; blocks for a bounded time.
 *
 * LOOP_GET_STATUS64 looks at the backing file, and so waits, uninterruptibly, for a dead server below it: one such device would
 * stall whoever goes through all of them, for every volume of the node. So a child process asks. When it is silent for too
 * long it is left behind, killed as soon as the kernel lets it go, and another one asks the remaining devices.
 *
 * Invariants: the child has none of our descriptors, since neither volume locks nor the connection to berthd may outlive us in it.
 * And however many ask, and however often, one child at most waits for a device: while it asks it holds a lock on
 * /dev/loop-control, on the byte of the device's number. Whoever finds that taken knows that the device is silent.
 */

#include "mounters/loop-ask.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"

#define FIRST_SILENCE_MSEC 500
#define NEXT_SILENCE_MSEC 200
#define TAKEN_WAIT_STEPS 50U /* another asks this moment, most likely: 50 ms */
#define TAKEN_WAIT_NSEC (1000 * 1000)

/* In the child: the device's turn to be asked, kept until the descriptor is closed or another device is asked. */
static int turn_take(int control_fd, unsigned number)
{
        struct flock all = { .l_type = F_UNLCK }, turn = { .l_type = F_WRLCK, .l_start = number, .l_len = 1 };

        if (fcntl(control_fd, F_OFD_SETLK, &all) < 0)
                return -errno;
        for (unsigned i = 0; fcntl(control_fd, F_OFD_SETLK, &turn) < 0; i++) {
                if (errno != EAGAIN && errno != EACCES)
                        return -errno;
                if (i >= TAKEN_WAIT_STEPS)
                        return -ETIMEDOUT;
                (void) nanosleep(&(struct timespec) { .tv_nsec = TAKEN_WAIT_NSEC }, NULL);
        }
        return 0;
}

_Noreturn static void child_main(int fd, const LoopQuestion *questions, size_t n,
                                 int (*look)(unsigned, struct loop_info64 *))
{
        /* the pipe becomes descriptor 3, all above it go */
        if ((fd != 3 && dup2(fd, 3) < 0) || close_range(4, ~0U, 0) < 0)
                _exit(EXIT_FAILURE);
        int control_fd = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        if (control_fd < 0)
                _exit(EXIT_FAILURE);
        for (size_t i = 0; i < n; i++) {
                LoopQuestion q = { .number = questions[i].number };

                q.result = turn_take(control_fd, q.number);
                if (q.result >= 0)
                        q.result = look(q.number, &q.info);
                if (write(3, &q, sizeof(q)) != sizeof(q)) /* atomic: less than PIPE_BUF */
                        _exit(EXIT_FAILURE);
        }
        _exit(EXIT_SUCCESS);
}

/* 1: the next answer was read; 0: the child ended or is silent. */
static int answer_read(int fd, int msec, LoopQuestion *ret)
{
        struct pollfd p = { .fd = fd, .events = POLLIN };
        int r;

        do
                r = poll(&p, 1, msec);
        while (r < 0 && errno == EINTR);
        return r > 0 && read(fd, ret, sizeof(*ret)) == sizeof(*ret);
}

/* One child for as many of the questions as get an answer; *ret_done counts them, the silent one not included. */
static int ask_some(LoopQuestion *questions, size_t n, int (*look)(unsigned, struct loop_info64 *), int msec,
                    size_t *ret_done)
{
        int ends[2];

        if (pipe2(ends, O_CLOEXEC) < 0)
                return -errno;
        pid_t child = fork();
        if (child == 0)
                child_main(ends[1], questions, n, look);
        int r = child < 0 ? -errno : 0;
        close_fd(ends[1]);
        size_t done = 0;
        for (LoopQuestion q; r >= 0 && done < n && answer_read(ends[0], msec, &q); done++)
                questions[done] = q;
        close_fd(ends[0]);
        if (r < 0)
                return r;
        if (done < n)
                (void) kill(child, SIGKILL);
        else
                (void) waitpid(child, NULL, 0);
        *ret_done = done;
        return 0;
}

int loop_ask(LoopQuestion *questions, size_t n, int (*look)(unsigned, struct loop_info64 *))
{
        int msec = FIRST_SILENCE_MSEC;

        /* those that were left behind by earlier calls; no other child is at work while we are */
        while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        for (size_t i = 0; i < n; i++) {
                size_t done = 0;
                int r = ask_some(questions + i, n - i, look, msec, &done);
                if (r < 0)
                        return r;
                i += done;
                if (i >= n)
                        break;
                questions[i] = (LoopQuestion) { .number = questions[i].number, .result = -ETIMEDOUT };
                msec = NEXT_SILENCE_MSEC;
        }
        return 0;
}
