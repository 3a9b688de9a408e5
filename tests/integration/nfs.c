/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * NFS without a kernel that has it: what mounter-nfs and berthd make of servers that are not there, say
 * nothing, or say nonsense. Real sockets on the loopback interface; mounting itself is for tests/vm.
 */

#include <criterion/criterion.h>

#include "agent-client.h"
#include "mounter-client.h"
#include "mounters/nfs-preflight.h"

#include <arpa/inet.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define CONFIG "[NFS]\nPreflightTimeoutSec=1\n"
/* an ASan build on a busy machine may be late by so much */
#define SLACK_SECONDS 8

typedef enum Manner {
        SILENT,  /* takes connections and says nothing */
        GARBAGE, /* answers whatever comes with bytes that are no RPC */
        CLOSES,
        ANSWERS, /* whatever is called, as a NULL call is answered */
} Manner;

typedef struct Server {
        pid_t pid;
        unsigned port;
} Server;

static bool read_all(int fd, void *buffer, size_t size)
{
        return recv(fd, buffer, size, MSG_WAITALL) == (ssize_t) size;
}

/* A record of one fragment each way: accepted, and no result. */
static void answer_calls(int fd)
{
        uint32_t mark, call[256], reply[7] = {htonl(0x80000018), 0, htonl(1)};

        while (read_all(fd, &mark, sizeof(mark)) && (ntohl(mark) & 0x7fffffff) <= sizeof(call) &&
               read_all(fd, call, ntohl(mark) & 0x7fffffff)) {
                reply[1] = call[0];
                (void) !write(fd, reply, sizeof(reply));
        }
}

static void serve(int listen_fd, Manner manner)
{
        static const char garbage[] = "HTTP/1.1 400 Bad Request\r\nContent-Length: 1000000\r\n\r\n";

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void) signal(SIGPIPE, SIG_IGN);
        for (;;) {
                int fd = accept(listen_fd, NULL, NULL);

                if (fd >= 0 && manner == GARBAGE) {
                        char buffer[256];
                        (void) !read(fd, buffer, sizeof(buffer));
                        (void) !write(fd, garbage, sizeof(garbage));
                }
                if (fd >= 0 && manner == ANSWERS)
                        answer_calls(fd);
                if (manner != SILENT)
                        close(fd);
        }
}

static Server server_start_at(Manner manner, const char *address)
{
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = inet_addr(address)};
        socklen_t size = sizeof(a);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &a, size) == 0 && listen(fd, 64) == 0 &&
                                  getsockname(fd, (struct sockaddr *) &a, &size) == 0,
                  "%s", strerror(errno));
        Server s = {.pid = fork(), .port = ntohs(a.sin_port)};
        if (s.pid == 0) {
                serve(fd, manner);
                _exit(0);
        }
        close(fd);
        return s;
}

static Server server_start(Manner manner)
{
        return server_start_at(manner, "127.0.0.1");
}

static void server_stop(const Server *s)
{
        cr_assert_eq(kill(s->pid, SIGKILL), 0);
        cr_assert_eq(waitpid(s->pid, NULL, 0), s->pid);
}

static unsigned unused_port(void)
{
        Server s = server_start(CLOSES);

        server_stop(&s);
        return s.port;
}

/* A volume of 127.0.0.1 at the port; vers as text, or NULL. */
static void nfs_volume(MounterClient *c, MounterVolume *v, unsigned port, const char *version)
{
        char option[32];
        MounterResult r = {};

        *v = (MounterVolume){};
        snprintf(option, sizeof(option), "port=%u", port);
        cr_assert_eq(str_replace(&v->fs_type, ""), 0);
        cr_assert_eq(strmap_set(&v->source, "server", "127.0.0.1"), 0);
        cr_assert_eq(strmap_set(&v->source, "path", "/export"), 0);
        if (version)
                cr_assert_eq(strmap_set(&v->source, "vers", version), 0);
        cr_assert_eq(strv_append(&v->mount_options, option), 0);
        MOUNTER_OK(c, "Resolve", v, &r);
        cr_assert(r.shared, "an NFS volume is shared");
        cr_assert_str_eq(r.group, "nfs:127.0.0.1");
        v->key = TAKE_PTR(r.key);
        v->identity = TAKE_PTR(r.identity);
        mounter_result_done(&r);
        cr_assert_gt(asprintf(&v->staging_path, "%s/staging/%s", c->f->runtime_dir, v->key), 0);
}

static void expect_stage(MounterClient *c, unsigned port, const char *version, ErrorCode code)
{
        MounterVolume v;
        double started = now_seconds();

        nfs_volume(c, &v, port, version);
        MOUNTER_FAILS(c, "Stage", &v, code);
        cr_assert_lt(now_seconds() - started, 3 + SLACK_SECONDS, "it took %.1f s", now_seconds() - started);
        cr_assert_eq(access(v.staging_path, F_OK), -1, "the directory of the stage was left");
        MOUNTER_OK(c, "Detach", &v, NULL); /* its lock file goes too */
        volume_free(&v);
}

Test(nfs, servers_that_are_none)
{
        static const char *const versions[] = {NULL, "4.2", "4.0", "3"};
        Server silent = server_start(SILENT), garbage = server_start(GARBAGE), closes = server_start(CLOSES);
        unsigned nobody = unused_port();
        MounterClient c;
        Fixture f;

        fixture_init(&f);
        mounter_client_start(&c, &f, "nfs", CONFIG);
        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                expect_stage(&c, nobody, versions[i], ERROR_SERVER_REFUSED);
                expect_stage(&c, silent.port, versions[i], ERROR_SERVER_UNREACHABLE);
        }
        /* whatever it is called, it is an error, in time, and not the mounter's end */
        for (size_t i = 0; i < ELEMENTSOF(versions); i++) {
                MounterVolume v;
                const unsigned ports[] = {garbage.port, closes.port};

                for (size_t k = 0; k < ELEMENTSOF(ports); k++) {
                        _cleanup_error_ Error err = ERROR_INIT;
                        nfs_volume(&c, &v, ports[k], versions[i]);
                        ErrorCode code = mounter_call(&c, "Stage", &v, NULL, &err);
                        cr_assert(code == ERROR_SERVER_UNREACHABLE || code == ERROR_VERSION_NOT_OFFERED ||
                                                  code == ERROR_SERVER_REFUSED,
                                  "%s: %s", error_code_name(code), str_or(err.text, ""));
                        MOUNTER_OK(&c, "Detach", &v, NULL);
                        volume_free(&v);
                }
        }
        mounter_client_stop(&c);
        server_stop(&silent);
        server_stop(&garbage);
        server_stop(&closes);
        fixture_done(&f);
}

/* A connection is no answer: the kernel of a server takes it while its nfsd hangs. */
Test(nfs, who_answers)
{
        Server silent = server_start(SILENT), garbage = server_start(GARBAGE), closes = server_start(CLOSES), answers = server_start(ANSWERS);
        unsigned nobody = unused_port();

        for (int version = 3; version <= 4; version++) {
                const unsigned ports[] = {garbage.port, closes.port, nobody};

                cr_assert_eq(nfs_ping("127.0.0.1", silent.port, 1000000), 0);
                double started = now_seconds();
                int r = nfs_null("127.0.0.1", silent.port, version, 500000);
                cr_assert_eq(r, -ETIMEDOUT, "%s", strerror(-r));
                cr_assert_lt(now_seconds() - started, 0.5 + SLACK_SECONDS, "it took %.1f s", now_seconds() - started);
                for (size_t i = 0; i < ELEMENTSOF(ports); i++)
                        cr_assert_lt(nfs_null("127.0.0.1", ports[i], version, 1000000), 0, "port %u of %zu", ports[i], i);
                r = nfs_null("127.0.0.1", answers.port, version, SLACK_SECONDS * 1000000);
                cr_assert_eq(r, 0, "%s", strerror(-r));
        }
        server_stop(&silent);
        server_stop(&garbage);
        server_stop(&closes);
        server_stop(&answers);
}

Test(nfs, names)
{
        MounterVolume v = {};
        MounterClient c;
        Fixture f;

        fixture_init(&f);
        mounter_client_start(&c, &f, "nfs", CONFIG "AllowedServers=10.0.0.0/8 *.invalid\n");
        cr_assert_eq(str_replace(&v.fs_type, ""), 0);
        cr_assert_eq(strmap_set(&v.source, "path", "/export"), 0);
        cr_assert_eq(strmap_set(&v.source, "server", "127.0.0.1"), 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_SERVER_NOT_ALLOWED);
        cr_assert_eq(strmap_set(&v.source, "server", "[::1]"), 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_SERVER_NOT_ALLOWED);
        cr_assert_eq(strmap_set(&v.source, "server", "::1"), 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_INVALID_ARGUMENT);
        /* a name whose address is not allowed, found out before anything is connected to */
        cr_assert_eq(strmap_set(&v.source, "server", "localhost"), 0);
        MOUNTER_OK(&c, "Resolve", &v, NULL);
        cr_assert_eq(str_replace(&v.fs_type, "xfs"), 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_INVALID_ARGUMENT);
        volume_free(&v);
        mounter_client_stop(&c);
        fixture_done(&f);
}

/* ---- many requests for a server that says nothing ---- */

#define CALLERS 16U
#define PER_SERVER 3U
#define TRY_SECONDS 10

#define REFUSED_IN_LINE 250

/* Its end status is the error, or that it was refused without a try. */
static void call_mount_at(Fixture *f, const char *target, const char *server, unsigned port, unsigned i)
{
        _cleanup_error_ Error err = ERROR_INIT;
        MountParams p = {};
        char path[32], option[32];

        snprintf(path, sizeof(path), "/export/%u", i);
        snprintf(option, sizeof(option), "port=%u", port);
        if (str_replace(&p.target, target) < 0 || str_replace(&p.driver, "nfs") < 0 ||
            strmap_set(&p.source, "server", server) < 0 || strmap_set(&p.source, "path", path) < 0 ||
            strv_append(&p.mount_options, option) < 0)
                _exit(100);
        ErrorCode code = fixture_mount(f, &p, &err);
        _exit(code == ERROR_SERVER_UNREACHABLE && strstr(err.text, "wait for it already") ? REFUSED_IN_LINE
                                                                                          : (int) code);
}

static void call_mount(Fixture *f, const char *target, unsigned port, unsigned i)
{
        call_mount_at(f, target, "127.0.0.1", port, i);
}

static unsigned count_busy(Fixture *f)
{
        json_t *status = BERTHCTL(f, "status"), *m;
        unsigned n = 0;
        size_t i;

        json_array_foreach(json_object_get(status, "mounters"), i, m) n +=
                        str_equal(json_string_value(json_object_get(m, "kind")), "nfs") &&
                        str_equal(json_string_value(json_object_get(m, "state")), "busy");
        json_decref(status);
        return n;
}

static bool nobody_waits(void *arg)
{
        return count_busy(arg) == 0;
}

typedef struct Wave {
        pid_t callers[CALLERS];
        double started[CALLERS];
        unsigned n_refused, n_quick, n_tried, most_busy;
} Wave;

/* All at once. */
static void wave_start(Wave *w, Fixture *f, unsigned port)
{
        *w = (Wave){};
        for (unsigned i = 0; i < CALLERS; i++) {
                char uid[16];

                snprintf(uid, sizeof(uid), "uid-%u", i);
                _cleanup_free_ char *target = fixture_target(f, uid, "v");
                w->started[i] = now_seconds();
                w->callers[i] = fork();
                if (w->callers[i] == 0)
                        call_mount(f, target, port, i);
        }
}

/* Counts how they end; quick are those refused in less than half of what a try takes. */
static void wave_finish(Wave *w, Fixture *f)
{
        unsigned n_running = CALLERS;
        int status;

        while (n_running > 0) {
                unsigned n = count_busy(f);

                w->most_busy = n > w->most_busy ? n : w->most_busy;
                for (unsigned i = 0; i < CALLERS; i++) {
                        if (w->callers[i] == 0 || waitpid(w->callers[i], &status, WNOHANG) == 0)
                                continue;
                        w->callers[i] = 0;
                        n_running--;
                        cr_assert(WIFEXITED(status), "a caller ended by a signal");
                        w->n_refused += WEXITSTATUS(status) == REFUSED_IN_LINE;
                        w->n_quick += WEXITSTATUS(status) == REFUSED_IN_LINE && now_seconds() - w->started[i] < TRY_SECONDS / 2.0;
                        w->n_tried += WEXITSTATUS(status) == (int) ERROR_SERVER_UNREACHABLE;
                        cr_assert(WEXITSTATUS(status) == REFUSED_IN_LINE ||
                                                  WEXITSTATUS(status) == (int) ERROR_SERVER_UNREACHABLE,
                                  "answered %s", error_code_name((ErrorCode) WEXITSTATUS(status)));
                }
        }
        cr_assert(w->n_refused > 0 && w->n_tried >= PER_SERVER, "%u were refused, %u tried", w->n_refused, w->n_tried);
}

static unsigned count_kind(Fixture *f, const char *kind)
{
        json_t *status = BERTHCTL(f, "status"), *m;
        unsigned n = 0;
        size_t i;

        json_array_foreach(json_object_get(status, "mounters"), i, m) n +=
                        str_equal(json_string_value(json_object_get(m, "kind")), kind);
        json_decref(status);
        return n;
}

static bool nfs_is_not_there(void *arg)
{
        return count_kind(arg, "nfs") == 0;
}

static void install_mounter(Fixture *f)
{
        _cleanup_free_ char *mounter = executable_path(f, "mounter-nfs"), *link = format("%s/mounters/mounter-nfs", f->dir);

        cr_assert_eq(symlink(mounter, link), 0, "%s", strerror(errno));
}

/* A node that has no NFS volumes keeps no process for them; one that has had some does. */
Test(nfs, mounters_of_a_kind_that_is_not_used)
{
        unsigned nobody = unused_port();
        Fixture f;

        fixture_init(&f);
        install_mounter(&f);
        fixture_start(&f, CONFIG "[Mounters]\nIdleSec=1\nWarm=2\n");
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 16 << 20, "ext4"),
                            *target = fixture_target(&f, "uid-loop", "v"), *other = fixture_target(&f, "uid-nfs", "v");
        mount_ok(&f, target, &(Volume){.image = image});
        unmount_ok(&f, target);
        wait_until(nfs_is_not_there, &f, 20, "mounters of NFS have ended");
        cr_assert_geq(count_kind(&f, "loop"), 1, "those that are used have ended, too");
        pid_t caller = fork();
        int status;
        if (caller == 0)
                call_mount(&f, other, nobody, 0);
        cr_assert(waitpid(caller, &status, 0) == caller && WIFEXITED(status));
        cr_assert_eq((ErrorCode) WEXITSTATUS(status), ERROR_SERVER_REFUSED, "answered %s",
                     error_code_name((ErrorCode) WEXITSTATUS(status)));
        cr_assert_geq(count_kind(&f, "nfs"), 1);
        wait_clean(&f, 20);
        fixture_done(&f);
}

/*
 * Few wait, the others are told as soon as one of them knows, and those that come again are told soon, though nobody waited
 * meanwhile: in the time in which one that is back would have answered the few. What has nothing to do with that server is served all the time.
 */
Test(nfs, many_for_one_silent_server)
{
        Server silent = server_start(SILENT);
        Fixture f;
        Wave w;

        fixture_init(&f);
        install_mounter(&f);
        fixture_start(&f, "[NFS]\nPreflightTimeoutSec=10\n[Mounters]\nMaxPerServer=3\n");
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 16 << 20, "ext4"),
                            *target = fixture_target(&f, "uid-loop", "v");
        wave_start(&w, &f, silent.port);
        mount_ok(&f, target, &(Volume){.image = image});
        unmount_ok(&f, target);
        wave_finish(&w, &f);
        cr_assert(w.most_busy > 0 && w.most_busy <= PER_SERVER, "%u mounters were busy at once", w.most_busy);
        wait_until(nobody_waits, &f, 10, "nobody waits for the server");
        wave_start(&w, &f, silent.port);
        wave_finish(&w, &f);
        cr_assert_gt(w.n_quick, CALLERS / 2, "only %u of %u were refused soon", w.n_quick, w.n_refused);
        wait_clean(&f, 20);
        server_stop(&silent);
        fixture_done(&f);
}

/* ---- many requests for many servers that say nothing ---- */

#define DEAD_MAX 4U
#define DEAD_CALLERS 8U
#define SERVED_SECONDS 20

typedef struct Busy {
        Fixture *f;
        unsigned n;
} Busy;

static bool so_many_are_busy(void *arg)
{
        const Busy *b = arg;

        return count_busy(b->f) >= b->n;
}

/*
 * Requests for servers of which nothing is known yet, more than there are places; then one for a server that answers, though only that nobody
 * serves NFS there. n_waiting of the former are at work by then, and there are never more than n_max processes.
 */
static void many_dead_servers(unsigned n_dead, const char *config, unsigned n_waiting, unsigned n_max)
{
        pid_t callers[DEAD_CALLERS], caller;
        Server dead[DEAD_MAX];
        unsigned nobody = unused_port(), most = 0;
        Fixture f;
        int status;

        fixture_init(&f);
        install_mounter(&f);
        fixture_start(&f, config);
        for (unsigned i = 0; i < n_dead; i++) {
                _cleanup_free_ char *address = format("127.0.0.%u", 2 + i);
                dead[i] = server_start_at(SILENT, address);
        }
        for (unsigned i = 0, k = 0; i < DEAD_CALLERS; i++, k = k + 1 < n_dead ? k + 1 : 0) {
                _cleanup_free_ char *uid = format("uid-%u", i), *target = fixture_target(&f, uid, "v"),
                                    *address = format("127.0.0.%u", 2 + k);
                callers[i] = fork();
                if (callers[i] == 0)
                        call_mount_at(&f, target, address, dead[k].port, i);
        }
        wait_until(so_many_are_busy, &(Busy){&f, n_waiting}, SERVED_SECONDS, "requests wait for the dead servers");

        _cleanup_free_ char *target = fixture_target(&f, "uid-live", "v");
        double started = now_seconds(), seconds = 0;
        caller = fork();
        if (caller == 0)
                call_mount(&f, target, nobody, DEAD_CALLERS);
        for (bool ended = false; !ended;) {
                unsigned n = count_kind(&f, "nfs");

                most = n > most ? n : most;
                ended = waitpid(caller, &status, WNOHANG) == caller;
                seconds = now_seconds() - started;
        }
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == (int) ERROR_SERVER_REFUSED, "wait status %#x", (unsigned) status);
        cr_assert_lt(seconds, SERVED_SECONDS, "a server that answers was asked after %.1f s", seconds);
        cr_assert_leq(most, n_max, "%u processes", most);
        printf("# asked after %.2f s, beside %u of %u processes\n", seconds, most, n_max);

        for (unsigned i = 0; i < n_dead; i++)
                server_stop(&dead[i]);
        for (unsigned i = 0; i < DEAD_CALLERS; i++) {
                cr_assert(waitpid(callers[i], &status, 0) == callers[i] && WIFEXITED(status));
                cr_assert(WEXITSTATUS(status) == (int) ERROR_SERVER_UNREACHABLE || WEXITSTATUS(status) == (int) ERROR_SERVER_REFUSED ||
                                          WEXITSTATUS(status) == REFUSED_IN_LINE,
                          "answered %s", error_code_name((ErrorCode) WEXITSTATUS(status)));
        }
        wait_clean(&f, 20);
        fixture_done(&f);
}

/* Each of the servers has its few requests, and together they are more than Max=: those that wait for long take no place. */
Test(nfs, many_for_many_silent_servers, .timeout = 240)
{
        many_dead_servers(4, "[NFS]\nPreflightTimeoutSec=60\n[Mounters]\nMax=4\nMaxPerServer=2\n", 4, 4 + 64);
}

/* More than may wait beside the others: a request for a server that answers passes those that would only wait, too. */
Test(nfs, more_silent_servers_than_may_wait, .timeout = 240)
{
        many_dead_servers(2, "[NFS]\nPreflightTimeoutSec=60\n[Mounters]\nMax=2\nMaxPerServer=4\nQuarantineMax=3\n", 4, 2 + 3);
}
