/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Which monitors answer, and by which messenger. librados and the kernel client try a few at a time and wait for seconds on a dead one, and
 * the kernel takes numeric addresses only; so names are resolved here, all addresses are tried at once, and those are passed on
 * whose greeting comes ("ceph v2" or "ceph v027"): a frozen monitor's kernel still accepts connections. Runs in the rbd mounter; blocks for the time limit at most,
 * beside the resolver's own.
 */

#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "mounters/rbd-monitors.h"

#define CANDIDATES_MAX (RBD_MONITORS_MAX * 4)
#define PORT_V1 6789U
#define PORT_V2 3300U
/* How much longer than the first one the others are waited for. */
#define GRACE_MSEC 20

typedef struct Candidate {
        struct sockaddr_storage address;
        socklen_t size;
        int fd;
        bool connected;
        uint8_t protocol; /* that it greeted with; 0: not yet */
} Candidate;

typedef struct Probe {
        Candidate items[CANDIDATES_MAX];
        size_t n;
} Probe;

void rbd_addresses_done(RbdAddresses *a)
{
        free(a->list);
        free(a->mon_host);
        *a = RBD_ADDRESSES_INIT;
}

static void probe_done(Probe *p)
{
        for (size_t i = 0; i < p->n; i++)
                p->items[i].fd = close_fd(p->items[i].fd);
}

static void candidate_add(Probe *p, const struct addrinfo *a, uint16_t port)
{
        if (p->n == CANDIDATES_MAX || a->ai_addrlen > sizeof(struct sockaddr_storage))
                return;
        Candidate *c = &p->items[p->n];

        *c = (Candidate) { .size = a->ai_addrlen, .fd = -EBADF };
        memcpy(&c->address, a->ai_addr, a->ai_addrlen);
        if (a->ai_family == AF_INET)
                ((struct sockaddr_in *) &c->address)->sin_port = htons(port);
        else if (a->ai_family == AF_INET6)
                ((struct sockaddr_in6 *) &c->address)->sin6_port = htons(port);
        else
                return;
        c->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (c->fd < 0)
                return;
        if (connect(c->fd, (struct sockaddr *) &c->address, c->size) < 0 && errno != EINPROGRESS) {
                c->fd = close_fd(c->fd);
                return;
        }
        p->n++;
}

static void monitor_begin(Probe *p, const RbdMonitor *m)
{
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
        struct addrinfo *list = NULL;

        if (getaddrinfo(m->host, NULL, &hints, &list) != 0)
                return;
        for (const struct addrinfo *a = list; a; a = a->ai_next)
                if (m->port)
                        candidate_add(p, a, m->port);
                else {
                        if (m->protocol != 1)
                                candidate_add(p, a, PORT_V2);
                        if (m->protocol != 2)
                                candidate_add(p, a, PORT_V1);
                }
        freeaddrinfo(list);
}

static void candidate_read(Candidate *c)
{
        char greeting[8];
        ssize_t n = recv(c->fd, greeting, sizeof(greeting), MSG_PEEK);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
                return;
        if (n > 0 && n < (ssize_t) sizeof(greeting) && memcmp(greeting, "ceph v02", (size_t) n) == 0)
                return; /* the rest is on its way */
        if (n == sizeof(greeting))
                c->protocol = memcmp(greeting, "ceph v2\n", 8) == 0 ? 2 : memcmp(greeting, "ceph v02", 8) == 0 ? 1 : 0;
        c->fd = close_fd(c->fd);
}

static int64_t now_msec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_BOOTTIME, &ts);
        return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

static void probe_run(Probe *p, int64_t timeout_msec)
{
        int64_t end = now_msec() + timeout_msec;
        bool answered = false;

        for (;;) {
                struct pollfd fds[CANDIDATES_MAX];
                size_t index[CANDIDATES_MAX];
                nfds_t n = 0;
                int64_t left = end - now_msec();

                for (size_t i = 0; i < p->n; i++)
                        if (p->items[i].fd >= 0) {
                                index[n] = i;
                                fds[n++] = (struct pollfd) { .fd = p->items[i].fd, .events = POLLIN };
                        }
                if (n == 0 || left <= 0 || (poll(fds, n, (int) left) < 0 && errno != EINTR))
                        return;
                for (nfds_t k = 0; k < n; k++) {
                        Candidate *c = &p->items[index[k]];
                        if (fds[k].revents)
                                candidate_read(c);
                        if (c->protocol && !answered) {
                                answered = true;
                                left = now_msec() + GRACE_MSEC;
                                end = left < end ? left : end;
                        }
                }
        }
}

static int list_append(char **list, const char *prefix, const Candidate *c)
{
        char host[INET6_ADDRSTRLEN] = "", *longer = NULL;
        bool six = c->address.ss_family == AF_INET6;
        const struct sockaddr_in *in = (const struct sockaddr_in *) &c->address;
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) &c->address;

        inet_ntop(c->address.ss_family, six ? (const void *) &in6->sin6_addr : (const void *) &in->sin_addr, host, sizeof(host));
        if (asprintf(&longer, "%s%s%s%s%s%s:%u", *list ? *list : "", *list ? "," : "", prefix, six ? "[" : "", host, six ? "]" : "",
                     ntohs(six ? in6->sin6_port : in->sin_port)) < 0)
                return -ENOMEM;
        free(*list);
        *list = longer;
        return 0;
}

int rbd_monitors_answering(const RbdSource *s, uint8_t protocol, uint64_t timeout_usec, RbdAddresses *ret, Error *err)
{
        _cleanup_(probe_done) Probe p = {};
        _cleanup_rbd_addresses_ RbdAddresses a = RBD_ADDRESSES_INIT;
        _cleanup_free_ char *all = rbd_source_mon_host(s);

        for (size_t i = 0; i < s->n_monitors; i++)
                monitor_begin(&p, &s->monitors[i]);
        probe_run(&p, (int64_t) (timeout_usec / 1000));
        /* messenger 2 where there is a choice: 1 knows no encryption, and clusters are about to lose it */
        for (size_t i = 0; i < p.n; i++)
                if (p.items[i].protocol > a.protocol && (protocol == 0 || p.items[i].protocol == protocol))
                        a.protocol = p.items[i].protocol;
        if (a.protocol == 0)
                return error_set(err, ERROR_MONITORS_UNREACHABLE, ETIMEDOUT, "No monitor of %s answered%s", str_or(all, "the list"),
                                 protocol == 1   ? " by messenger 1, which ms_mode=legacy asks for"
                                 : protocol == 2 ? " by messenger 2, which ms_mode= asks for"
                                                 : "");
        for (size_t i = 0; i < p.n; i++)
                if (p.items[i].protocol == a.protocol &&
                    (list_append(&a.list, "", &p.items[i]) < 0 ||
                     list_append(&a.mon_host, a.protocol == 2 ? "v2:" : "v1:", &p.items[i]) < 0))
                        return error_oom(err);
        *ret = a;
        a = RBD_ADDRESSES_INIT;
        return 0;
}
