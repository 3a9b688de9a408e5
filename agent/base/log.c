/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The log sink of every process of berth. One datagram a line to the journal's native socket
 * (https://systemd.io/JOURNAL_NATIVE_PROTOCOL), sent with MSG_DONTWAIT; or one write to standard error.
 * Process-wide state: the socket and the counter of dropped lines. Single-threaded.
 */

#include "base/log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/fd.h"

static int journal_fd = -EBADF;
static const char *log_identifier = "berth";
static int log_max_level = LOG_INFO;
static uint64_t dropped;

/* A line longer than this is cut: a request's strings are bounded far below it. */
#define LINE_SIZE_MAX 16384U

typedef struct Line {
        char data[LINE_SIZE_MAX];
        size_t size;
} Line;

static void line_put(Line *l, const void *data, size_t size)
{
        size_t room = sizeof(l->data) - l->size;

        if (size > room)
                size = room;
        memcpy(l->data + l->size, data, size);
        l->size += size;
}

/* The native protocol's binary form: any byte may stand in a value, a newline included. */
static void line_put_field(Line *l, const char *name, const char *value)
{
        size_t size = strlen(value), need = strlen(name) + 1 + 8 + size + 1;
        uint64_t le = htole64(size);

        if (need > sizeof(l->data) - l->size)
                return;
        line_put(l, name, strlen(name));
        line_put(l, "\n", 1);
        line_put(l, &le, sizeof(le));
        line_put(l, value, size);
        line_put(l, "\n", 1);
}

void log_open(const char *identifier, int max_level)
{
        log_identifier = identifier;
        log_max_level = max_level;
        journal_fd = close_fd(journal_fd);

        if (getenv("JOURNAL_STREAM"))
                journal_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

uint64_t log_dropped(void)
{
        return dropped;
}

static bool journal_send(int level, const LogField *fields, const char *message)
{
        static const struct sockaddr_un address = { .sun_family = AF_UNIX,
                                                    .sun_path = "/run/systemd/journal/socket" };
        Line line = { .size = 0 };
        char priority[2] = { (char) ('0' + level), 0 };

        line_put_field(&line, "MESSAGE", message);
        line_put_field(&line, "PRIORITY", priority);
        line_put_field(&line, "SYSLOG_IDENTIFIER", log_identifier);
        for (const LogField *f = fields; f && f->name; f++)
                if (f->value && *f->value)
                        line_put_field(&line, f->name, f->value);

        return sendto(journal_fd, line.data, line.size, MSG_DONTWAIT | MSG_NOSIGNAL,
                      (const struct sockaddr *) &address, sizeof(address)) >= 0;
}

/* Control characters from a request must not forge a second line or drive the terminal. */
static void line_put_printable(Line *l, const char *s)
{
        for (; *s; s++) {
                unsigned char c = (unsigned char) *s;
                char escaped[5];

                if (c >= 0x20 && c != 0x7f) {
                        line_put(l, s, 1);
                } else {
                        snprintf(escaped, sizeof(escaped), "\\x%02x", c);
                        line_put(l, escaped, 4);
                }
        }
}

static bool stderr_send(const LogField *fields, const char *message)
{
        struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };
        Line line = { .size = 0 };

        line_put(&line, log_identifier, strlen(log_identifier));
        line_put(&line, ": ", 2);
        line_put_printable(&line, message);
        for (const LogField *f = fields; f && f->name; f++) {
                if (!f->value || !*f->value)
                        continue;
                line_put(&line, " ", 1);
                line_put(&line, f->name, strlen(f->name));
                line_put(&line, "=", 1);
                line_put_printable(&line, f->value);
        }
        if (line.size == sizeof(line.data))
                line.size--;
        line_put(&line, "\n", 1);

        /* A pipe that polls as writable takes PIPE_BUF bytes without blocking; a longer line is cut. */
        if (line.size > 4096) {
                line.size = 4096;
                line.data[4095] = '\n';
        }
        if (poll(&p, 1, 0) <= 0 || !(p.revents & POLLOUT))
                return false;
        return write_full(STDERR_FILENO, line.data, line.size) >= 0;
}

static _printf_(3, 0) void log_internal(int level, const LogField *fields, const char *format, va_list ap)
{
        int saved = errno;
        char message[8192];

        if (level > log_max_level)
                return;
        errno = saved; /* for %m */
        vsnprintf(message, sizeof(message), format, ap);
        if (!(journal_fd >= 0 ? journal_send(level, fields, message) : stderr_send(fields, message)))
                dropped++;
        errno = saved;
}

void log_line(int level, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        log_internal(level, NULL, format, ap);
        va_end(ap);
}

void log_fields(int level, const LogField *fields, const char *format, ...)
{
        va_list ap;

        va_start(ap, format);
        log_internal(level, fields, format, ap);
        va_end(ap);
}
