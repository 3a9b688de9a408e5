/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* writer FILE [MSEC]: appends a numbered line and fsyncs it, again and again, until SIGTERM. With MSEC it pauses so long between two,
 * and leaves the guest's processors to what is looked at.
 *
 * Runs in guests of tests/vm, on a volume. Any error of the storage ends it with status 1 and a message, so whoever started
 * it knows afterwards whether a write ever failed. "FILE.acknowledged" beside it would share the volume's fate, so
 * the number of the last line that is safe goes to standard output every time. */

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t ended;

static void on_term(int sig) {
        ended = sig;
}

int main(int argc, char **argv) {
        struct sigaction sa = { .sa_handler = on_term };
        unsigned long n = 0, pause_msec = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
        int fd;

        if (argc < 2 || argc > 3) {
                fprintf(stderr, "usage: writer FILE [MSEC]\n");
                return 2;
        }
        (void) sigaction(SIGTERM, &sa, NULL);
        fd = open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd < 0) {
                fprintf(stderr, "writer: %s: %s\n", argv[1], strerror(errno));
                return 1;
        }
        while (!ended) {
                char line[32];
                int length = snprintf(line, sizeof(line), "%lu\n", n);
                ssize_t k = write(fd, line, (size_t) length);
                if (k != length || (fsync(fd) < 0 && errno != EINTR)) {
                        fprintf(stderr, "writer: line %lu: %s\n", n, k >= 0 && k != length ? "short write" : strerror(errno));
                        return 1;
                }
                printf("%lu\n", n++);
                if (fflush(stdout) != 0)
                        return 1;
                if (pause_msec > 0)
                        (void) usleep((useconds_t) pause_msec * 1000);
        }
        close(fd);
        return 0;
}
