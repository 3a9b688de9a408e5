/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* on [-i] [-t SECONDS] DIRECTORY WORD...: runs a command in the guest whose ports are DIRECTORY/port.N.{in,out}.
 *
 * The host's end of frame.h: streams the command's output and error output, and returns its exit status (128 + signal
 * if one ended it); 124: it was ended for its time, 125: the guest is gone or did not answer. -i passes standard input on,
 * otherwise the command reads an end of file. Ended by SIGINT, SIGTERM or SIGHUP, it ends the command first.
 *
 * A port belongs to whoever holds the lock on DIRECTORY/port.N.lock. One whose last user went away in the middle of a
 * command (the file is not empty then) is not used again: nobody knows what the guest still thinks of it. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "frame.h"

#define KILL_GRACE_MSEC 5000

enum { EXIT_TIMED_OUT = 124, EXIT_NO_GUEST = 125 };

typedef struct Link {
        int lock, in, out;
        char *send; /* not yet written to the port */
        size_t n_send;
        bool killed;
        int status; /* what to return if the command had to be killed */
        int64_t deadline;
} Link;

static volatile sig_atomic_t signal_seen;

static void on_signal(int sig) {
        signal_seen = sig;
}

static int64_t now_msec(void) {
        struct timespec t;
        (void) clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int gone(const char *why) {
        fprintf(stderr, "on: %s\n", why);
        return EXIT_NO_GUEST;
}

/* Takes a free port. Negative: errno. */
static int link_open(Link *l, const char *directory) {
        for (int i = 0; i < PORT_MAX; i++) {
                char path[4096], c;
                (void) snprintf(path, sizeof(path), "%s/port.%d.lock", directory, i);
                l->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
                if (l->lock < 0)
                        return -errno;
                if (flock(l->lock, LOCK_EX | LOCK_NB) < 0 || read(l->lock, &c, 1) != 0) {
                        close(l->lock);
                        continue;
                }
                (void) snprintf(path, sizeof(path), "%s/port.%d.out", directory, i);
                l->out = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
                (void) snprintf(path, sizeof(path), "%s/port.%d.in", directory, i);
                l->in = l->out < 0 ? -1 : open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
                if (l->in < 0)
                        return -errno; /* ENXIO: no qemu holds the other end */
                return write(l->lock, "busy", 4) == 4 ? 0 : -EIO;
        }
        return -EBUSY;
}

static void queue(Link *l, FrameType type, const void *data, size_t n) {
        FrameHeader h = { .type = type, .length = (uint32_t) n };
        char *p = realloc(l->send, l->n_send + sizeof(h) + n);

        if (!p)
                abort();
        memcpy(p + l->n_send, &h, sizeof(h));
        if (n > 0)
                memcpy(p + l->n_send + sizeof(h), data, n);
        l->send = p;
        l->n_send += sizeof(h) + n;
}

/* False: the guest is gone. */
static bool flush(Link *l) {
        while (l->n_send > 0) {
                ssize_t n = write(l->in, l->send, l->n_send);
                if (n < 0)
                        return errno == EAGAIN || errno == EINTR;
                l->n_send -= (size_t) n;
                memmove(l->send, l->send + n, l->n_send);
        }
        return true;
}

static void kill_command(Link *l, int status) {
        if (l->killed)
                return;
        l->killed = true;
        l->status = status;
        l->deadline = now_msec() + KILL_GRACE_MSEC;
        queue(l, FRAME_KILL, NULL, 0);
}

static void pass_output(Link *l, int fd, const char *p, size_t n) {
        while (n > 0 && !l->killed) {
                ssize_t k = write(fd, p, n);
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0) { /* as SIGPIPE would */
                        kill_command(l, 128 + SIGPIPE);
                        return;
                }
                p += k;
                n -= (size_t) k;
        }
}

static void pass_input(Link *l, int *fd) {
        char chunk[FRAME_CHUNK];
        ssize_t n = read(*fd, chunk, sizeof(chunk));

        if (n < 0 && (errno == EINTR || errno == EAGAIN))
                return;
        if (n > 0)
                queue(l, FRAME_INPUT, chunk, (size_t) n);
        else {
                queue(l, FRAME_INPUT_END, NULL, 0);
                *fd = -1;
        }
}

/* Takes complete frames from the buffer. True: the command has ended, *ret_status is its wait status. */
static bool take_frames(Link *l, char *buffer, size_t *n, int *ret_status) {
        size_t at = 0;
        bool ended = false;

        while (!ended && *n - at >= sizeof(FrameHeader)) {
                FrameHeader h;
                const char *data = buffer + at + sizeof(h);
                memcpy(&h, buffer + at, sizeof(h));
                if (*n - at < sizeof(h) + h.length)
                        break;
                if (h.type == FRAME_OUTPUT || h.type == FRAME_ERROR_OUTPUT)
                        pass_output(l, h.type == FRAME_OUTPUT ? 1 : 2, data, h.length);
                else if (h.type == FRAME_EXITED) {
                        int32_t status = 0;
                        memcpy(&status, data, sizeof(status));
                        *ret_status = status;
                        ended = true;
                }
                at += sizeof(h) + h.length;
        }
        *n -= at;
        memmove(buffer, buffer + at, *n);
        return ended;
}

static int finish(Link *l, int status) {
        struct pollfd p = { .fd = l->in, .events = POLLOUT };

        queue(l, FRAME_GOODBYE, NULL, 0);
        while (flush(l) && l->n_send > 0)
                if (poll(&p, 1, KILL_GRACE_MSEC) <= 0)
                        return gone("the guest does not read");
        if (ftruncate(l->lock, 0) < 0)
                return gone("the port's lock cannot be written");
        if (l->killed)
                return l->status;
        return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static int converse(Link *l, int input, const sigset_t *open_mask) {
        static char buffer[2 * (FRAME_CHUNK + sizeof(FrameHeader))];
        size_t n = 0;
        int status = 0;

        for (;;) {
                struct pollfd p[] = {
                        { .fd = l->out, .events = POLLIN },
                        { .fd = l->n_send > 0 ? l->in : -1, .events = POLLOUT },
                        { .fd = l->n_send > FRAME_LENGTH_MAX ? -1 : input, .events = POLLIN },
                };
                int64_t left = l->deadline - now_msec();
                struct timespec wait = { left / 1000, left % 1000 * 1000000 };
                if (left <= 0 && l->killed) {
                        fprintf(stderr, "on: the guest does not answer\n");
                        return l->status;
                }
                if (left <= 0) {
                        fprintf(stderr, "on: ended for its time\n");
                        kill_command(l, EXIT_TIMED_OUT);
                        continue;
                }
                if (ppoll(p, 3, &wait, open_mask) < 0 && errno != EINTR)
                        return gone(strerror(errno));
                if (signal_seen)
                        kill_command(l, 128 + signal_seen);
                if (!flush(l))
                        return gone("the guest is gone");
                if (p[2].revents && input >= 0)
                        pass_input(l, &input);
                if (p[0].revents) {
                        ssize_t k = read(l->out, buffer + n, sizeof(buffer) - n);
                        if (k == 0)
                                return gone("the guest is gone");
                        if (k > 0) {
                                n += (size_t) k;
                                if (take_frames(l, buffer, &n, &status))
                                        return finish(l, status);
                        }
                }
        }
}

/* The words with their NULs, as one block. */
static char *join(char **words, int n, size_t *ret_length) {
        size_t length = 0, at = 0;
        char *p;

        for (int i = 0; i < n; i++)
                length += strlen(words[i]) + 1;
        p = malloc(length + 1);
        if (!p)
                abort();
        for (int i = 0; i < n; i++) {
                memcpy(p + at, words[i], strlen(words[i]) + 1);
                at += strlen(words[i]) + 1;
        }
        *ret_length = length;
        return p;
}

int main(int argc, char **argv) {
        Link l = { .lock = -1, .in = -1, .out = -1 };
        struct sigaction sa = { .sa_handler = on_signal };
        sigset_t block, open_mask;
        char *command;
        size_t length;
        long seconds = 60;
        bool with_input = false;
        int r;

        for (int c; (c = getopt(argc, argv, "+it:")) >= 0;)
                if (c == 'i')
                        with_input = true;
                else if (c == 't')
                        seconds = atol(optarg);
                else
                        return 2;
        if (argc - optind < 2 || seconds <= 0) {
                fprintf(stderr, "usage: on [-i] [-t SECONDS] DIRECTORY WORD...\n");
                return 2;
        }
        command = join(argv + optind + 1, argc - optind - 1, &length);
        if (length > FRAME_LENGTH_MAX) {
                fprintf(stderr, "on: the command is too long\n");
                return 2;
        }

        (void) signal(SIGPIPE, SIG_IGN);
        sigemptyset(&block);
        for (size_t i = 0; i < 3; i++) {
                static const int ends[] = { SIGINT, SIGTERM, SIGHUP };
                (void) sigaddset(&block, ends[i]);
                (void) sigaction(ends[i], &sa, NULL);
        }
        (void) sigprocmask(SIG_BLOCK, &block, &open_mask);

        l.deadline = now_msec() + seconds * 1000;
        r = link_open(&l, argv[optind]);
        if (r < 0)
                return gone(r == -ENXIO ? "the guest is gone" : strerror(-r));
        queue(&l, FRAME_COMMAND, command, length);
        free(command);
        if (!with_input)
                queue(&l, FRAME_INPUT_END, NULL, 0);
        return converse(&l, with_input ? 0 : -1, &open_mask);
}
