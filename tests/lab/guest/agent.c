/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The guest's end of "on": runs the host's commands.
 *
 * Runs in guests of tests/vm as lab-agent.service, never on a node. One process a port, each of which serves one command
 * after the other and may block; a command is a session of its own, so that KILL reaches what it started. What a command
 * leaves running in the background lives on. The agent is statically linked and part of the guest's saved state, so
 * a command costs its own fork and exec and nothing else. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frame.h"

typedef struct Command {
        pid_t pid;
        int pidfd;
        int input, output, error; /* our ends of its pipes; -1: closed */
        char *pending;            /* input that it has not taken yet */
        size_t n_pending;
        bool input_ended;
        bool goodbye;
} Command;

static void die(const char *what) {
        fprintf(stderr, "lab-agent: %s: %s\n", what, strerror(errno));
        _exit(1);
}

/* While the host's end is not open, for the first, second, ... time in a row: rarer and rarer, as all guests of all cases do it at once. */
static void pause_for_host(unsigned tries) {
        (void) poll(NULL, 0, tries < 6 ? 20 << tries : 1000);
}

static void read_exactly(int fd, void *p, size_t n) {
        unsigned tries = 0;

        while (n > 0) {
                ssize_t k = read(fd, p, n);
                if (k == 0) { /* the port is there before the kernel hears that the host has its end open */
                        pause_for_host(tries++);
                        continue;
                }
                if (k < 0 && errno == EINTR)
                        continue;
                if (k < 0)
                        die("reading the port");
                p = (char *) p + k;
                n -= (size_t) k;
        }
}

static void write_exactly(int fd, const void *p, size_t n) {
        while (n > 0) {
                ssize_t k = write(fd, p, n);
                if (k < 0 && (errno == EINTR || errno == EAGAIN))
                        continue;
                if (k <= 0)
                        die("writing to the port");
                p = (const char *) p + k;
                n -= (size_t) k;
        }
}

static void send_frame(int port, FrameType type, const void *data, size_t n) {
        FrameHeader h = { .type = type, .length = (uint32_t) n };
        write_exactly(port, &h, sizeof(h));
        write_exactly(port, data, n);
}

/* The caller frees *ret_data, which ends with a NUL that is not counted. */
static FrameHeader receive_frame(int port, char **ret_data) {
        FrameHeader h;
        char *data;

        read_exactly(port, &h, sizeof(h));
        if (h.length > FRAME_LENGTH_MAX) {
                errno = EMSGSIZE;
                die("frame");
        }
        data = calloc(1, h.length + 1U);
        if (!data)
                die("memory");
        read_exactly(port, data, h.length);
        *ret_data = data;
        return h;
}

static void run_child(char *data, size_t length, int in, int out, int err) {
        char *words[4096];
        size_t n = 0;
        sigset_t none;

        for (size_t at = 0; at < length && n < 4095; at += strlen(data + at) + 1)
                words[n++] = data + at;
        words[n] = NULL;
        setsid();
        sigemptyset(&none);
        (void) sigprocmask(SIG_SETMASK, &none, NULL);
        (void) signal(SIGPIPE, SIG_DFL);
        if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || chdir("/root") < 0 || n == 0)
                _exit(126);
        execvp(words[0], words);
        fprintf(stderr, "%s: %s\n", words[0], strerror(errno));
        _exit(errno == ENOENT ? 127 : 126);
}

static void command_start(Command *c, char *data, size_t length) {
        int in[2], out[2], err[2];

        if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
                die("pipe");
        *c = (Command) { .input = in[1], .output = out[0], .error = err[0] };
        c->pid = fork();
        if (c->pid < 0)
                die("fork");
        if (c->pid == 0)
                run_child(data, length, in[0], out[1], err[1]);
        close(in[0]);
        close(out[1]);
        close(err[1]);
        c->pidfd = (int) syscall(SYS_pidfd_open, c->pid, 0);
        if (c->pidfd < 0)
                die("pidfd_open");
        (void) fcntl(c->input, F_SETFL, O_NONBLOCK);
        (void) fcntl(c->output, F_SETFL, O_NONBLOCK);
        (void) fcntl(c->error, F_SETFL, O_NONBLOCK);
}

static void close_pipe(int *fd) {
        if (*fd >= 0)
                close(*fd);
        *fd = -1;
}

/* Passes on what the command wrote; closes the pipe at its end. False when there was nothing. */
static bool forward(int port, int *fd, FrameType type) {
        char chunk[FRAME_CHUNK];
        ssize_t n = read(*fd, chunk, sizeof(chunk));

        if (n < 0)
                return errno == EINTR;
        if (n == 0) {
                close_pipe(fd);
                return false;
        }
        send_frame(port, type, chunk, (size_t) n);
        return true;
}

static void feed(Command *c) {
        if (c->n_pending > 0) {
                ssize_t n = write(c->input, c->pending, c->n_pending);
                if (n < 0 && (errno == EAGAIN || errno == EINTR))
                        return;
                if (n < 0) { /* it does not read any more */
                        c->n_pending = 0;
                        close_pipe(&c->input);
                        return;
                }
                c->n_pending -= (size_t) n;
                memmove(c->pending, c->pending + n, c->n_pending);
        }
        if (c->n_pending == 0 && c->input_ended)
                close_pipe(&c->input);
}

static void hear(Command *c, int port) {
        char *data = NULL;
        FrameHeader h = receive_frame(port, &data);

        switch (h.type) {
        case FRAME_INPUT:
                if (c->input >= 0) {
                        c->pending = realloc(c->pending, c->n_pending + h.length);
                        if (!c->pending)
                                die("memory");
                        memcpy(c->pending + c->n_pending, data, h.length);
                        c->n_pending += h.length;
                }
                break;
        case FRAME_INPUT_END:
                c->input_ended = true;
                break;
        case FRAME_KILL:
                (void) kill(-c->pid, SIGKILL);
                (void) kill(c->pid, SIGKILL); /* before its setsid() */
                break;
        case FRAME_GOODBYE:
                c->goodbye = true;
                break;
        default:
                errno = EPROTO;
                die("frame");
        }
        free(data);
        if (c->input >= 0)
                feed(c);
}

static void command_run(Command *c, int port) {
        int status;
        int32_t answer;

        for (bool over = false; !over;) {
                struct pollfd p[] = {
                        { .fd = port, .events = POLLIN },
                        { .fd = c->output, .events = POLLIN },
                        { .fd = c->error, .events = POLLIN },
                        { .fd = c->input, .events = c->n_pending > 0 ? POLLOUT : 0 },
                        { .fd = c->pidfd, .events = POLLIN },
                };
                if (poll(p, 5, -1) < 0) {
                        if (errno == EINTR)
                                continue;
                        die("poll");
                }
                if (p[0].revents & POLLIN)
                        hear(c, port);
                else if (p[0].revents)
                        (void) poll(NULL, 0, 20); /* the host's end is closed for the moment, as above */
                if (p[1].revents)
                        (void) forward(port, &c->output, FRAME_OUTPUT);
                if (p[2].revents)
                        (void) forward(port, &c->error, FRAME_ERROR_OUTPUT);
                if (p[3].revents && c->input >= 0)
                        feed(c);
                over = p[4].revents & POLLIN;
        }
        while (c->output >= 0 && forward(port, &c->output, FRAME_OUTPUT))
                ;
        while (c->error >= 0 && forward(port, &c->error, FRAME_ERROR_OUTPUT))
                ;
        while (waitpid(c->pid, &status, 0) < 0)
                if (errno != EINTR)
                        die("waitpid");
        answer = status;
        send_frame(port, FRAME_EXITED, &answer, sizeof(answer));
        close_pipe(&c->input);
        close_pipe(&c->output);
        close_pipe(&c->error);
        close_pipe(&c->pidfd);
        while (!c->goodbye)
                hear(c, port);
        free(c->pending);
}

static void serve(const char *device) {
        int port = open(device, O_RDWR | O_CLOEXEC);

        if (port < 0)
                die(device);
        for (;;) {
                Command c;
                char *data = NULL;
                FrameHeader h = receive_frame(port, &data);
                if (h.type == FRAME_COMMAND) {
                        command_start(&c, data, h.length);
                        free(data);
                        command_run(&c, port);
                } else
                        free(data); /* of a host that was ended after EXITED */
        }
}

/* The device of the port with this name, as sysfs knows it: udev need not have run. */
static bool find_port(const char *name, char *ret, size_t size) {
        DIR *d = opendir("/sys/class/virtio-ports");
        bool found = false;

        for (struct dirent *e; d && !found && (e = readdir(d));) {
                char path[512], seen[64] = "";
                FILE *f;
                (void) snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", e->d_name);
                f = fopen(path, "re");
                if (!f)
                        continue;
                if (fgets(seen, sizeof(seen), f)) {
                        seen[strcspn(seen, "\n")] = '\0';
                        found = strcmp(seen, name) == 0;
                }
                fclose(f);
                if (found)
                        (void) snprintf(ret, size, "/dev/%s", e->d_name);
        }
        if (d)
                closedir(d);
        return found;
}

static void start_worker(const char *device) {
        pid_t pid = fork();

        if (pid < 0)
                die("fork");
        if (pid == 0)
                serve(device);
}

int main(void) {
        (void) signal(SIGPIPE, SIG_IGN);
        setenv("HOME", "/root", 1);
        setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
        /* The ports appear one after the other, as the kernel hears of them from the device. */
        for (int i = 0; i < PORT_MAX; i++) {
                char name[32], device[300];
                (void) snprintf(name, sizeof(name), PORT_NAME "%d", i);
                while (!find_port(name, device, sizeof(device)))
                        (void) poll(NULL, 0, 20);
                start_worker(device);
        }
        /* A worker ends when its port's host did not keep to the protocol; the others go on. */
        for (;;)
                if (wait(NULL) < 0 && errno == ECHILD)
                        return 1;
}
