/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The look at a server, by libnfs: its RPC layer alone, since the answers' codes are wanted, not texts. Runs
 * in mounter-nfs.
 *
 * Invariants: every wait ends at one deadline; nothing is left on the server (a MNT is followed by its UMNT,
 * and NFSv4 is asked without a client ID). The address that is looked at is the one that is mounted: a name
 * that resolves to something else a moment later reaches nothing that was not allowed.
 *
 * NFSv4 minor versions are asked for by a COMPOUND without operations, which needs no session: NFS4_OK or
 * MINOR_VERS_MISMATCH.
 */

#include "mounters/nfs-preflight.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>
#include <nfsc/libnfs-raw-nfs4.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "mounters/bounded.h"
#include "protocol/client.h"

#define LOOKUPS_MAX 6U /* a server may take as few as 8 operations at once */
#define SERVICE_INTERVAL_MSEC 100
#define STATUS_PROGRAM 100024
#define RPCBIND_PORT 111
#define ADDRESSES_MAX 8U

DEFINE_POINTER_CLEANUP(struct rpc_context *, rpc_destroy_context);
#define _cleanup_rpc_ _cleanup_(rpc_destroy_contextp)

static uint64_t time_left(uint64_t deadline_usec)
{
        uint64_t now = now_boottime_usec();

        return now < deadline_usec ? deadline_usec - now : 0;
}

/* ---- TCP ---- */

static int address_parse(const char *address, unsigned port, struct addrinfo **ret)
{
        const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                       .ai_socktype = SOCK_STREAM};
        char service[8];

        snprintf(service, sizeof(service), "%u", port);
        return getaddrinfo(address, service, &hints, ret) == 0 ? 0 : -EINVAL;
}

int nfs_ping(const char *address, unsigned port, uint64_t usec)
{
        struct addrinfo *a = NULL;
        int e = 0;
        socklen_t size = sizeof(e);
        int r = address_parse(address, port, &a);
        if (r < 0)
                return r;

        _cleanup_close_ int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        r = fd < 0 ? -errno : connect(fd, a->ai_addr, a->ai_addrlen) < 0 ? -errno : 0;
        freeaddrinfo(a);
        if (r != -EINPROGRESS)
                return r;
        r = poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, (int) (usec / 1000));
        if (r == 0)
                return -ETIMEDOUT;
        if (r < 0 || getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &size) < 0)
                return -errno;
        return -e;
}

/* ---- RPC ---- */

/* An answer that is waited for. */
typedef struct Reply {
        bool done;
        int status;    /* RPC_STATUS_… */
        unsigned code; /* of the protocol: nfsstat4, mountstat3 */
} Reply;

static void on_connected(struct rpc_context *rpc, int status, void *data, void *private_data)
{
        *(Reply *) private_data = (Reply){.done = true, .status = status};
}

static void on_compound(struct rpc_context *rpc, int status, void *data, void *private_data)
{
        const COMPOUND4res *res = data;

        *(Reply *) private_data = (Reply){.done = true,
                                          .status = status,
                                          .code = status == RPC_STATUS_SUCCESS ? (unsigned) res->status : 0};
}

static void on_mnt(struct rpc_context *rpc, int status, void *data, void *private_data)
{
        const mountres3 *res = data;

        *(Reply *) private_data =
                        (Reply){.done = true,
                                .status = status,
                                .code = status == RPC_STATUS_SUCCESS ? (unsigned) res->fhs_status : 0};
}

/* Of the list of exports: whether the path, or something above it, is in it. */
typedef struct ExportSearch {
        Reply reply;
        const char *path;
        bool is_listed, any;
} ExportSearch;

static void on_exports(struct rpc_context *rpc, int status, void *data, void *private_data)
{
        ExportSearch *search = private_data;

        search->reply = (Reply){.done = true, .status = status};
        for (const struct exportnode *e = status == RPC_STATUS_SUCCESS ? *(exports *) data : NULL; e;
             e = e->ex_next) {
                size_t n = strlen(e->ex_dir);

                search->any = true;
                search->is_listed = search->is_listed || strcmp(e->ex_dir, "/") == 0 ||
                                    (strncmp(search->path, e->ex_dir, n) == 0 &&
                                     (search->path[n] == '/' || search->path[n] == 0));
        }
}

/* Until the reply is there: 0; -ECOMM if the call failed as such, -ETIMEDOUT. */
static int reply_wait(struct rpc_context *rpc, const Reply *reply, uint64_t deadline_usec)
{
        while (!reply->done) {
                uint64_t left = time_left(deadline_usec) / 1000;
                struct pollfd p = {.fd = rpc_get_fd(rpc), .events = (short) rpc_which_events(rpc)};

                if (left == 0)
                        return -ETIMEDOUT;
                if (p.fd < 0)
                        return -ECOMM;
                int r = poll(&p, 1, left < SERVICE_INTERVAL_MSEC ? (int) left : SERVICE_INTERVAL_MSEC);
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r >= 0 && rpc_service(rpc, r > 0 ? p.revents : 0) < 0 && !reply->done)
                        return -ECOMM;
        }
        return reply->status == RPC_STATUS_SUCCESS ? 0 : -ECOMM;
}

/* A connection at the port, or, for port 0, where rpcbind says the program is; tried by a NULL call where
 * there is a version. */
static int connect_to(const char *address, unsigned port, int program, int version, uint64_t deadline_usec,
                      struct rpc_context **ret)
{
        _cleanup_rpc_ struct rpc_context *rpc = rpc_init_context();
        Reply reply = {};
        int r;

        if (!rpc)
                return -ENOMEM;
        if (port == 0)
                r = rpc_connect_program_async(rpc, address, program, version, on_connected, &reply);
        else if (version == 0)
                r = rpc_connect_async(rpc, address, (int) port, on_connected, &reply);
        else
                r = rpc_connect_port_async(rpc, address, (int) port, program, version, on_connected, &reply);
        r = r < 0 ? -ECOMM : reply_wait(rpc, &reply, deadline_usec);
        if (r >= 0)
                *ret = TAKE_PTR(rpc);
        return r;
}

int nfs_null(const char *address, unsigned port, int version, uint64_t usec)
{
        _cleanup_rpc_ struct rpc_context *rpc = NULL;
        uint64_t deadline_usec = now_boottime_usec() + usec;

        if (port == 0 && nfs_ping(address, RPCBIND_PORT, usec / 2) < 0)
                port = NFS_PORT;
        return connect_to(address, port, NFS_PROGRAM, version, deadline_usec, &rpc);
}

/* ---- what is being looked at ---- */

typedef struct Look {
        const NfsSource *source;
        uint64_t deadline_usec;
        NfsPeer *peer;
} Look;

static int unreachable(const Look *l, int r, Error *err)
{
        const NfsSource *s = l->source;
        unsigned port = s->port ? s->port : NFS_PORT;
        uint64_t left = time_left(l->deadline_usec);

        /* libnfs tells that it failed; the socket tells why */
        if (r != -ETIMEDOUT && r != -ENOMEM) {
                r = nfs_ping(l->peer->address, port, left);
                if (r == 0)
                        r = -EPROTO;
        }
        if (r == -ENOMEM)
                return error_oom(err);
        if (r == -ECONNREFUSED)
                return error_set(err, ERROR_SERVER_REFUSED, r,
                                 "Server %s (%s) refuses connections to port %u", s->server,
                                 l->peer->address, port);
        if (r == -EPROTO)
                return error_set(err, ERROR_SERVER_UNREACHABLE, r,
                                 "Server %s (%s) closes connections to port %u: it speaks no NFS there",
                                 s->server, l->peer->address, port);
        return error_set(err, ERROR_SERVER_UNREACHABLE, r, "Server %s (%s) does not answer at port %u: %s",
                         s->server, l->peer->address, port, strerror(-r));
}

static int no_such_export(const Look *l, const char *version, Error *err)
{
        return error_set(err, ERROR_EXPORT_NOT_FOUND, ENOENT, "Server %s has no %s to mount with NFSv%s",
                         l->source->server, l->source->export, version);
}

static int export_denied(const Look *l, const char *version, Error *err)
{
        return error_set(err, ERROR_EXPORT_DENIED, EACCES,
                         "Server %s does not let this node (%s) mount %s with NFSv%s", l->source->server,
                         *l->peer->client ? l->peer->client : "address unknown", l->source->export, version);
}

static int not_offered(const Look *l, Error *err)
{
        return error_set(err, ERROR_VERSION_NOT_OFFERED, EPROTONOSUPPORT, "Server %s does not offer NFSv%s",
                         l->source->server,
                         l->source->version == NFS_VERSION_ANY ? "4 or 3"
                                                               : nfs_version_to_string(l->source->version));
}

static void note_client(const Look *l, struct rpc_context *rpc)
{
        struct sockaddr_storage own;
        socklen_t size = sizeof(own);

        if (getsockname(rpc_get_fd(rpc), (struct sockaddr *) &own, &size) < 0 ||
            getnameinfo((struct sockaddr *) &own, size, l->peer->client, sizeof(l->peer->client), NULL, 0,
                        NI_NUMERICHOST) != 0)
                l->peer->client[0] = 0;
}

/* ---- NFSv4 ---- */

/* The path of the export as LOOKUPs below the root; 0 if there are too many of them. */
static unsigned lookups_make(char *path, nfs_argop4 ops[static LOOKUPS_MAX + 1])
{
        unsigned n = 0;
        char *save = NULL;

        ops[n++].argop = OP_PUTROOTFH;
        for (char *c = strtok_r(path, "/", &save); c; c = strtok_r(NULL, "/", &save)) {
                if (n > LOOKUPS_MAX)
                        return 0;
                ops[n].argop = OP_LOOKUP;
                ops[n].nfs_argop4_u.oplookup.objname.utf8string_len = (unsigned) strlen(c);
                ops[n++].nfs_argop4_u.oplookup.objname.utf8string_val = c;
        }
        return n;
}

static int judge_v4_export(const Look *l, const Reply *reply, Error *err)
{
        switch (reply->code) {
        case NFS4ERR_NOENT:
        case NFS4ERR_NOTDIR:
        case NFS4ERR_STALE:
                return no_such_export(l, "4", err);
        case NFS4ERR_ACCESS:
        case NFS4ERR_PERM:
        case NFS4ERR_WRONGSEC:
                /* with Kerberos only the kernel has what it takes to be let in */
                if (nfs_source_option(l->source, "sec") &&
                    strcmp(nfs_source_option(l->source, "sec"), "sys") != 0)
                        return 0;
                return export_denied(l, "4", err);
        default:
                return 0;
        }
}

/* 1: the version is chosen; 0: the server has no such NFSv4. */
static int look_at_v4(const Look *l, Error *err)
{
        const NfsSource *s = l->source;
        _cleanup_rpc_ struct rpc_context *rpc = NULL;
        _cleanup_free_ char *path = strdup(s->export);
        nfs_argop4 ops[LOOKUPS_MAX + 1] = {};
        Reply replies[3] = {};
        int found = -1;

        if (!path)
                return error_oom(err);
        int r = connect_to(l->peer->address, s->port ? s->port : NFS_PORT, NFS4_PROGRAM, 0, l->deadline_usec,
                           &rpc);
        if (r < 0)
                return unreachable(l, r, err);
        note_client(l, rpc);

        unsigned n_ops = lookups_make(path, ops);
        for (int minor = 2; minor >= 0; minor--) {
                COMPOUND4args args = {.minorversion = (uint32_t) minor};

                if (minor == 0) {
                        args.argarray.argarray_len = n_ops;
                        args.argarray.argarray_val = ops;
                }
                if (rpc_nfs4_compound_async(rpc, on_compound, &args, &replies[minor]) != 0)
                        return error_oom(err);
        }
        for (int minor = 2; minor >= 0; minor--) {
                r = reply_wait(rpc, &replies[minor], l->deadline_usec);
                if (r == -ETIMEDOUT)
                        return unreachable(l, r, err);
                bool wanted = s->version == NFS_VERSION_ANY || (int) s->version == NFS_VERSION_4_0 + minor;
                if (r >= 0 && replies[minor].code != NFS4ERR_MINOR_VERS_MISMATCH && wanted && found < 0)
                        found = minor;
        }
        if (found < 0)
                return 0;
        if (n_ops > 0 && replies[0].status == RPC_STATUS_SUCCESS) {
                r = judge_v4_export(l, &replies[0], err);
                if (r < 0)
                        return r;
        }
        l->peer->version = (NfsVersion) (NFS_VERSION_4_0 + found);
        return 1;
}

/* ---- NFSv3 ---- */

static unsigned option_port(const NfsSource *s, const char *name)
{
        const char *value = nfs_source_option(s, name);
        unsigned port = 0;

        return value && parse_unsigned(value, &port) >= 0 && port <= 65535 ? port : 0;
}

/* Linux refuses what it does not export in the same words as what it exports to others; the list, where it
 * is shown, tells. */
static bool export_is_missing(const Look *l, struct rpc_context *mount)
{
        ExportSearch search = {.path = l->source->export};

        return rpc_mount3_export_async(mount, on_exports, &search) == 0 &&
               reply_wait(mount, &search.reply, l->deadline_usec) >= 0 && search.any && !search.is_listed;
}

static int judge_v3_export(const Look *l, struct rpc_context *mount, const Reply *reply, Error *err)
{
        switch (reply->code) {
        case MNT3_OK:
                return 1;
        case MNT3ERR_ACCES:
        case MNT3ERR_PERM:
                return export_is_missing(l, mount) ? no_such_export(l, "3", err)
                                                   : export_denied(l, "3", err);
        case MNT3ERR_NOENT:
        case MNT3ERR_NOTDIR:
        case MNT3ERR_NAMETOOLONG:
        case MNT3ERR_INVAL:
                return no_such_export(l, "3", err);
        default:
                return error_set(err, ERROR_MOUNT_FAILED, EIO,
                                 "Server %s answers error %u when asked for %s", l->source->server,
                                 reply->code, l->source->export);
        }
}

/* 1: the version is chosen; 0: there is no NFSv3. */
static int look_at_v3(const Look *l, Error *err)
{
        const NfsSource *s = l->source;
        _cleanup_rpc_ struct rpc_context *nfs = NULL, *mount = NULL;
        Reply reply = {}, undone = {};
        int r = connect_to(l->peer->address, s->port ? s->port : NFS_PORT, NFS_PROGRAM, NFS_V3,
                           l->deadline_usec, &nfs);

        if (r == -ECOMM && s->port == 0)
                r = connect_to(l->peer->address, 0, NFS_PROGRAM, NFS_V3, l->deadline_usec, &nfs);
        if (r == -ETIMEDOUT || r == -ENOMEM)
                return unreachable(l, r, err);
        if (r < 0)
                return nfs_ping(l->peer->address, s->port ? s->port : NFS_PORT,
                                time_left(l->deadline_usec)) < 0
                                       ? unreachable(l, r, err)
                                       : 0;
        note_client(l, nfs);

        r = connect_to(l->peer->address, option_port(s, "mountport"), MOUNT_PROGRAM, MOUNT_V3,
                       l->deadline_usec, &mount);
        if (r < 0)
                return error_set(err, ERROR_SERVER_REFUSED, ECONNREFUSED,
                                 "Server %s offers NFSv3, and its mount service (rpc.mountd) cannot be "
                                 "reached",
                                 s->server);
        if (rpc_mount3_mnt_async(mount, on_mnt, s->export, &reply) != 0)
                return error_oom(err);
        r = reply_wait(mount, &reply, l->deadline_usec);
        if (r == -ETIMEDOUT)
                return unreachable(l, r, err);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, EPROTO,
                                 "The mount service of server %s ends the conversation", s->server);
        if (reply.code == MNT3_OK && rpc_mount3_umnt_async(mount, on_connected, s->export, &undone) == 0)
                (void) reply_wait(mount, &undone, l->deadline_usec);
        l->peer->version = NFS_VERSION_3;
        return judge_v3_export(l, mount, &reply, err);
}

/* ---- all of it ---- */

static int look(const Look *l, Error *err)
{
        _cleanup_error_ Error v4 = ERROR_INIT;
        NfsVersion asked = l->source->version;
        int r = 0;

        if (asked != NFS_VERSION_3) {
                r = look_at_v4(l, &v4);
                /* an NFSv4 server that shows another tree than NFSv3 does; a machine with NFSv3 at another
                 * port */
                bool other_way = asked == NFS_VERSION_ANY &&
                                 (v4.code == ERROR_EXPORT_NOT_FOUND || v4.code == ERROR_SERVER_REFUSED);
                if (r > 0)
                        return 0;
                if (r < 0 && !other_way) {
                        error_move(err, &v4);
                        return r;
                }
        }
        if (asked == NFS_VERSION_ANY || asked == NFS_VERSION_3) {
                int k = look_at_v3(l, err);
                if (k > 0) {
                        error_done(err);
                        return 0;
                }
                if (r < 0 && k <= 0) {
                        error_move(err, &v4); /* the first thing that was wrong says more */
                        return r;
                }
                if (k < 0)
                        return k;
        }
        return not_offered(l, err);
}

typedef struct Resolution {
        char host[256];
        struct addrinfo *found;
} Resolution;

static int resolve(void *argument)
{
        Resolution *r = argument;
        const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

        return getaddrinfo(r->host, NULL, &hints, &r->found);
}

static const void *address_bytes(const struct addrinfo *a)
{
        return a->ai_family == AF_INET6
                               ? (const void *) &((const struct sockaddr_in6 *) a->ai_addr)->sin6_addr
                               : (const void *) &((const struct sockaddr_in *) a->ai_addr)->sin_addr;
}

/* Every address with a share of the time that is left, so that one that is dead does not hide another. */
static int look_at_addresses(Mounter *m, const NfsSource *s, const struct addrinfo *found,
                             uint64_t deadline_usec, NfsPeer *ret, Error *err)
{
        unsigned n = 0, i = 0;
        int r = error_set(err, ERROR_SERVER_NOT_ALLOWED, EPERM,
                          "No address of server %s is one that pods may use", s->server);

        for (const struct addrinfo *a = found; a && n < ADDRESSES_MAX; a = a->ai_next)
                n++;
        for (const struct addrinfo *a = found; i < n; a = a->ai_next, i++) {
                NfsPeer peer = {.family = a->ai_family};
                const Look l = {.source = s,
                                .peer = &peer,
                                .deadline_usec = now_boottime_usec() + time_left(deadline_usec) / (n - i)};

                if ((a->ai_family != AF_INET && a->ai_family != AF_INET6) ||
                    (s->check_address && !nfs_address_is_allowed(a->ai_family, address_bytes(a),
                                                                 m->settings.nfs_allowed_servers)) ||
                    getnameinfo(a->ai_addr, a->ai_addrlen, peer.address, sizeof(peer.address), NULL, 0,
                                NI_NUMERICHOST) != 0)
                        continue;
                error_done(err);
                r = look(&l, err);
                if (r >= 0) {
                        *ret = peer;
                        return 0;
                }
                if (err->code != ERROR_SERVER_UNREACHABLE && err->code != ERROR_SERVER_REFUSED)
                        return r;
        }
        return r;
}

int nfs_preflight(Mounter *m, const NfsSource *s, NfsPeer *ret, Error *err)
{
        uint64_t deadline_usec = now_boottime_usec() + m->settings.nfs_preflight_timeout_usec;
        Resolution *resolution = calloc(1, sizeof(*resolution));
        int e = 0;

        if (!resolution)
                return error_oom(err);
        snprintf(resolution->host, sizeof(resolution->host), "%s", s->host);
        int r = s->is_numeric ? (e = resolve(resolution), 0)
                              : bounded_call(m, m->settings.nfs_preflight_timeout_usec, resolve, resolution,
                                             &e);
        if (r == -ETIMEDOUT) /* the thread still has it */
                return error_set(err, ERROR_SERVER_UNKNOWN, r,
                                 "The name of server %s is not resolved within %llu s", s->server,
                                 (unsigned long long) (m->settings.nfs_preflight_timeout_usec / 1000000));
        if (r < 0)
                r = error_set(err, ERROR_INTERNAL, r, "Cannot start a thread: %s", strerror(-r));
        else if (e != 0)
                r = error_set(err, ERROR_SERVER_UNKNOWN, ENOENT,
                              "The name of server %s cannot be resolved: %s", s->server, gai_strerror(e));
        else
                r = look_at_addresses(m, s, resolution->found, deadline_usec, ret, err);
        if (resolution->found)
                freeaddrinfo(resolution->found);
        free(resolution);
        return r;
}

/* ---- locks of NFSv3 ---- */

static bool statd_answers(uint64_t usec)
{
        struct rpc_context *rpc = NULL;
        int r = connect_to("127.0.0.1", 0, STATUS_PROGRAM, 1, now_boottime_usec() + usec, &rpc);

        if (rpc)
                rpc_destroy_context(rpc);
        return r >= 0;
}

int nfs_locking_check(Mounter *m, Error *err)
{
        static char start[] = "start-statd";
        char *argv[] = {start, NULL};
        _cleanup_free_ char *output = NULL;
        uint64_t usec = m->settings.nfs_preflight_timeout_usec;

        if (statd_answers(usec))
                return 0;
        int r = mounter_run(m, argv, -1, &output);
        if (r == -ENOENT)
                return error_set(err, ERROR_LOCKING_UNAVAILABLE, r,
                                 "rpc.statd, which NFSv3 locks need, is not installed on this node");
        if (r >= 0 && statd_answers(usec))
                return 0;
        return error_set(err, ERROR_LOCKING_UNAVAILABLE, ECONNREFUSED,
                         "rpc.statd, which NFSv3 locks need, does not run on this node%s%s",
                         output && *output ? ": " : "", output ? output : "");
}
