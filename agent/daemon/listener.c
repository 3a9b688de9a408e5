/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Accepting and ending connections of io.berth.Agent1's socket. Runs in berthd, never blocks: each connection
 * is a non-blocking sd-bus server attached to the event loop.
 */

#include "daemon/listener.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include <time.h>

#include "base/log.h"
#include "daemon/agent-interface.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"

#define AUTHENTICATION_USEC (5 * UINT64_C(1000000))
#define PAUSE_USEC (100 * UINT64_C(1000))
#define PROBE_TRIES 20U
#define PROBE_PAUSE_NSEC (50 * 1000 * 1000)
#define UNREAD_ANSWERS_MAX 256U
#define SEND_BUFFER_SIZE (256 * 1024)
#define MEMORY_MAX (UINT64_C(512) << 20)
#define ITERATIONS_PER_LOOK 8U /* one reads some megabytes at most */

struct Connection {
        Manager *manager;
        sd_bus *bus;
        sd_event_source *authentication_timer;
        bool relayed; /* from the system bus */
        unsigned n_requests; /* since it was made: 0 tells a connection that never said anything */
        TAILQ_ENTRY(Connection) entry;
};

static void connection_free(Connection *c)
{
        Manager *m = c->manager;

        TAILQ_REMOVE(&m->connections, c, entry);
        m->n_connections--;
        sd_event_source_disable_unref(c->authentication_timer);
        sd_bus_close_unref(c->bus);
        free(c);
}

static int on_disconnected(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        connection_free(userdata);
        return 0;
}

static int on_authentication_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Connection *c = userdata;

        c->authentication_timer = sd_event_source_disable_unref(c->authentication_timer);
        if (sd_bus_is_ready(c->bus) <= 0)
                connection_free(c);
        return 0;
}

/* Whether an operation still has to answer on this connection. */
static bool connection_is_waiting(const Connection *c)
{
        return agent_interface_bus_is_awaited(c->manager, c->bus);
}

static bool close_longest_idle(Manager *m)
{
        Connection *c;

        TAILQ_FOREACH(c, &m->connections, entry) {
                if (connection_is_waiting(c))
                        continue;
                connection_free(c);
                return true;
        }
        return false;
}

void connection_touch(Manager *m, sd_bus *bus)
{
        Connection *c;

        TAILQ_FOREACH_REVERSE(c, &m->connections, ConnectionList, entry) {
                if (c->bus != bus)
                        continue;
                c->n_requests++;
                TAILQ_REMOVE(&m->connections, c, entry);
                TAILQ_INSERT_TAIL(&m->connections, c, entry);
                return;
        }
}

/* sd-bus would keep answers that nobody reads without end; the kernel's buffer holds some hundreds before. */
static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
        Connection *c = userdata;
        uint64_t n = 0;

        if (sd_bus_get_n_queued_write(c->bus, &n) < 0 || n <= UNREAD_ANSWERS_MAX)
                return 0;
        log_warning("Connection closed: its peer has left %llu answers unread", (unsigned long long) n);
        connection_free(c);
        return 1;
}

static uint64_t memory_resident(int fd)
{
        char buffer[128] = "";
        unsigned long long resident = 0;

        if (pread(fd, buffer, sizeof(buffer) - 1, 0) <= 0 || sscanf(buffer, "%*u %llu", &resident) != 1)
                return 0;
        return resident * (uint64_t) sysconf(_SC_PAGESIZE);
}

/*
 * sd-bus takes messages of up to 128 MiB and keeps one half come for as long as its connection lasts. No request
 * needs a thousandth of that, so memory in such amounts can only be such halves: those connections go, the longest idle first,
 * which spares whoever is just about to ask something.
 */
static int on_iteration(sd_event_source *s, void *userdata)
{
        Manager *m = userdata;
        unsigned n = 0;

        if (++m->n_iterations % ITERATIONS_PER_LOOK != 0 || memory_resident(m->memory_fd) <= MEMORY_MAX)
                return 0;
        while (memory_resident(m->memory_fd) > MEMORY_MAX && close_longest_idle(m)) {
                (void) malloc_trim(0);
                n++;
        }
        if (n > 0)
                log_warning("%u connections closed: unfinished messages took too much memory", n);
        return 0;
}

static int connection_start(Connection *c, int *fd)
{
        sd_id128_t id;
        int r = sd_id128_randomize(&id);

        if (r >= 0)
                r = sd_bus_new(&c->bus);
        if (r >= 0)
                r = sd_bus_set_fd(c->bus, *fd, *fd);
        if (r >= 0)
                TAKE_FD(*fd);
        if (r >= 0)
                r = sd_bus_set_server(c->bus, 1, id);
        if (r >= 0)
                r = sd_bus_set_trusted(c->bus, 1); /* its credentials have been checked */
        if (r >= 0)
                r = sd_bus_negotiate_fds(c->bus, 0); /* nothing here takes one: they would only use ours up */
        if (r >= 0)
                r = sd_bus_set_close_on_exit(c->bus, 0); /* it would wait for the peer to read */
        if (r >= 0)
                r = sd_bus_add_filter(c->bus, NULL, on_message, c);
        if (r >= 0)
                r = sd_bus_start(c->bus);
        if (r >= 0) {
                /* sd-bus asks for 8 MiB: so much a peer that does not read could keep of the kernel's memory. What does not fit waits here. */
                const int size = SEND_BUFFER_SIZE;
                (void) setsockopt(sd_bus_get_fd(c->bus), SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
                r = agent_interface_add(c->manager, c->bus);
        }
        if (r >= 0)
                r = sd_bus_match_signal_async(c->bus, NULL, "org.freedesktop.DBus.Local",
                                              "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                              "Disconnected", on_disconnected, NULL, c);
        if (r >= 0)
                r = sd_bus_attach_event(c->bus, c->manager->event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = sd_event_add_time_relative(c->manager->event, &c->authentication_timer, CLOCK_BOOTTIME,
                                               AUTHENTICATION_USEC, 100000, on_authentication_timer, c);
        return r;
}

static int connection_new(Manager *m, int *fd, bool relayed)
{
        Connection *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;

        c->manager = m;
        c->relayed = relayed;
        TAILQ_INSERT_TAIL(&m->connections, c, entry);
        m->n_connections++;
        int r = connection_start(c, fd);
        if (r < 0)
                connection_free(c);
        return r;
}

int listener_adopt(Manager *m, int *fd)
{
        return connection_new(m, fd, true);
}

bool connection_is_relayed(const Manager *m, const sd_bus *bus)
{
        const Connection *c;

        TAILQ_FOREACH(c, &m->connections, entry)
                if (c->bus == bus)
                        return c->relayed;
        return false;
}

static bool peer_is_root(int fd)
{
        struct ucred peer;
        socklen_t size = sizeof(peer);

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
                return false;
        if (peer.uid == 0 || peer.uid == geteuid())
                return true;
        log_event(LOG_WARNING, EVENT_PEER_REFUSED, "Connection of user %u (pid %d) refused: only root may use this socket",
                  peer.uid, peer.pid);
        return false;
}

static int on_resume(sd_event_source *s, uint64_t usec, void *userdata)
{
        Manager *m = userdata;

        m->listen_resume = sd_event_source_disable_unref(m->listen_resume);
        return sd_event_source_set_enabled(m->listen_source, SD_EVENT_ON);
}

/*
 * An idle connection makes room for the newcomer; without one accept() would fail again at once: the waiting peers are left in
 * the kernel's queue for a moment.
 */
static void listener_pause(Manager *m, int error)
{
        if (close_longest_idle(m)) {
                log_debug("Connection closed for another: %s", strerror(error));
                return;
        }
        log_warning("Cannot accept a connection: %s", strerror(error));
        if (m->listen_resume)
                return;
        if (sd_event_add_time_relative(m->event, &m->listen_resume, CLOCK_BOOTTIME, PAUSE_USEC, 10000,
                                       on_resume, m) >= 0)
                (void) sd_event_source_set_enabled(m->listen_source, SD_EVENT_OFF);
}

static int on_connection(sd_event_source *s, int listen_fd, uint32_t revents, void *userdata)
{
        Manager *m = userdata;
        _cleanup_close_ int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
                if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
                        listener_pause(m, errno);
                return 0;
        }
        if (!peer_is_root(fd))
                return 0;
        if (m->n_connections >= m->settings.max_connections && !close_longest_idle(m)) {
                log_warning("Connection refused: all %u are waiting for an answer", m->n_connections);
                return 0;
        }
        int r = connection_new(m, &fd, false);
        if (r < 0)
                log_warning("Cannot serve a connection: %s", strerror(-r));
        return 0;
}

static bool is_served(const struct sockaddr_un *address)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        return fd >= 0 &&
               (connect(fd, (const struct sockaddr *) address, sizeof(*address)) >= 0 || errno == EAGAIN);
}

/*
 * A socket that is answered belongs to a living berthd; one that is not is a dead one's. One that was killed while it started a
 * mounter seems alive until that child's exec has closed its copy of the descriptor: a moment, which is waited for.
 */
static bool is_served_for_long(const struct sockaddr_un *address)
{
        static const struct timespec pause = { .tv_nsec = PROBE_PAUSE_NSEC };

        for (unsigned i = 0; is_served(address); i++) {
                if (i >= PROBE_TRIES)
                        return true;
                (void) nanosleep(&pause, NULL);
        }
        return false;
}

static int make_socket(const char *path, Error *err)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (strlen(path) >= sizeof(address.sun_path))
                return error_set(err, ERROR_INVALID_ARGUMENT, ENAMETOOLONG,
                                 "Socket path %s is longer than %zu bytes", path, sizeof(address.sun_path) - 1);
        memcpy(address.sun_path, path, strlen(path) + 1);

        if (is_served_for_long(&address))
                return error_set(err, ERROR_BUSY, EADDRINUSE, "Another berthd serves %s", path);

        struct stat st;
        if (lstat(path, &st) >= 0 && S_ISSOCK(st.st_mode))
                (void) unlink(path);
        mode_t mask = umask(0177);
        int r = fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
                                                listen(fd, SOMAXCONN) < 0
                                ? -errno
                                : 0;
        umask(mask);
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot listen on %s: %s", path, strerror(-r));
        return TAKE_FD(fd);
}

int listener_start(Manager *m, Error *err)
{
        int n = sd_listen_fds(1), r;

        if (n > 1)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "systemd passed %d sockets, expected is 1", n);
        if (n == 1) {
                m->listen_fd = SD_LISTEN_FDS_START;
                if (sd_is_socket_unix(m->listen_fd, SOCK_STREAM, 1, NULL, 0) <= 0)
                        return error_set(
                                        err, ERROR_INVALID_ARGUMENT, EINVAL,
                                        "The socket that systemd passed is not a listening unix stream socket");
                (void) fcntl(m->listen_fd, F_SETFL, O_NONBLOCK);
        } else {
                m->listen_fd = make_socket(m->settings.socket, err);
                if (m->listen_fd < 0)
                        return m->listen_fd;
        }
        m->memory_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
        r = m->memory_fd < 0 ? -errno : sd_event_add_post(m->event, &m->memory_source, on_iteration, m);
        if (r >= 0)
                r = sd_event_add_io(m->event, &m->listen_source, m->listen_fd, EPOLLIN, on_connection, m);
        return r < 0 ? error_oom(err) : 0;
}

void listener_stop(Manager *m)
{
        Connection *c;

        while ((c = TAILQ_FIRST(&m->connections))) {
                connection_free(c);
        }
        m->listen_resume = sd_event_source_disable_unref(m->listen_resume);
        m->listen_source = sd_event_source_disable_unref(m->listen_source);
        m->memory_source = sd_event_source_disable_unref(m->memory_source);
        m->memory_fd = close_fd(m->memory_fd);
        m->listen_fd = close_fd(m->listen_fd);
}
