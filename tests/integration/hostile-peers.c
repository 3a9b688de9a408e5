/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Hostile and broken peers on berthd's socket: what they cost is their own connection. A bystander is served all the
 * while, and berthd's memory and descriptors stay within bounds.
 */

#include <criterion/criterion.h>

#include <fcntl.h>
#include <poll.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "bystander.h"
#include "fixture/internal.h"
#include "protocol/names.h"

static Fixture f;
static Bystander bystander;

/* What is freed must be seen to be free: no large quarantine of ASan's. */
static void small_quarantine(void)
{
        const char *options = getenv("ASAN_OPTIONS");
        _cleanup_free_ char *more = text("%s:quarantine_size_mb=4:thread_local_quarantine_size_kb=64:allocator_release_to_os_interval_ms=0",
                                         str_or(options, ""));

        setenv("ASAN_OPTIONS", more, 1);
}

static void raise_limit(void)
{
        struct rlimit limit;

        cr_assert(getrlimit(RLIMIT_NOFILE, &limit) >= 0);
        limit.rlim_cur = limit.rlim_max;
        cr_assert(setrlimit(RLIMIT_NOFILE, &limit) >= 0 && limit.rlim_cur >= 4096);
}

static void setup(void)
{
        fixture_init(&f);
        small_quarantine();
        raise_limit();
        fixture_start(&f, NULL);
        bystander_start(&bystander, &f);
}

static void teardown(void)
{
        bystander_wait(&bystander, 2);
        bystander_stop(&bystander);
        fixture_done(&f);
}

TestSuite(hostile_peers, .init = setup, .fini = teardown, .timeout = 120);

static int connect_raw(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", f.socket);
        cr_assert(fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) >= 0, "connect: %s", strerror(errno));
        return fd;
}

static void send_raw(int fd, const void *data, size_t size)
{
        (void) !send(fd, data, size, MSG_NOSIGNAL); /* it may be closed already: that is its right */
}

#define AUTHENTICATION "\0AUTH EXTERNAL 30\r\nBEGIN\r\n"

/* Authenticated, and its answer read. */
static int connect_authenticated(void)
{
        char answer[64];
        int fd = connect_raw();

        send_raw(fd, AUTHENTICATION, sizeof(AUTHENTICATION) - 1);
        cr_assert_gt(recv(fd, answer, sizeof(answer), 0), 3, "not authenticated");
        cr_assert_eq(memcmp(answer, "OK ", 3), 0);
        return fd;
}

/* Waits until the peer has closed it. */
static void expect_closed(int fd, double seconds, const char *what)
{
        struct pollfd p = { .fd = fd, .events = POLLRDHUP };

        cr_assert(poll(&p, 1, (int) (seconds * 1000)) == 1 && (p.revents & (POLLRDHUP | POLLHUP)), "%s is still open after %.0f s", what,
                  seconds);
}

static size_t memory_of(pid_t pid)
{
        _cleanup_free_ char *path = text("/proc/%d/statm", pid), *content = read_text(path);
        size_t size, resident;

        cr_assert_eq(sscanf(content, "%zu %zu", &size, &resident), 2);
        return resident * (size_t) sysconf(_SC_PAGESIZE);
}

static unsigned descriptors_of(pid_t pid)
{
        _cleanup_free_ char *path = text("/proc/%d/fd", pid);
        _cleanup_closedir_ DIR *d = opendir(path);
        unsigned n = 0;

        cr_assert_not_null(d);
        while (readdir(d))
                n++;
        return n - 2;
}

static bool few_descriptors(void *arg)
{
        return descriptors_of(f.agent) <= *(unsigned *) arg;
}

/* ---- who ---- */

/* As nobody, in a process of its own: 0 when nothing was answered, 1 when something was, 2 when the connect failed. */
static int ask_as_nobody(void)
{
        pid_t pid = fork();
        int status;

        if (pid == 0) {
                struct sockaddr_un address = { .sun_family = AF_UNIX };
                char answer[64];
                int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

                snprintf(address.sun_path, sizeof(address.sun_path), "%s", f.socket);
                if (setresgid(65534, 65534, 65534) < 0 || setresuid(65534, 65534, 65534) < 0)
                        _exit(3);
                if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                        _exit(errno == EACCES ? 2 : 4);
                send_raw(fd, AUTHENTICATION, sizeof(AUTHENTICATION) - 1);
                _exit(recv(fd, answer, sizeof(answer), 0) > 0);
        }
        cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
        return WEXITSTATUS(status);
}

Test(hostile_peers, another_user)
{
        struct stat st;

        cr_assert(chmod(f.dir, 0755) >= 0 && stat(f.socket, &st) >= 0);
        cr_assert_eq(st.st_mode & 0777, 0600, "the socket has mode %o", st.st_mode & 0777);
        cr_assert_eq(ask_as_nobody(), 2, "the socket's mode does not keep others out");
        cr_assert(chmod(f.socket, 0666) >= 0);
        cr_assert_eq(ask_as_nobody(), 0, "another user was answered");
        cr_assert(chmod(f.socket, 0600) >= 0);
        _cleanup_free_ char *log = read_text(f.log);
        cr_assert(strstr(log, "only root may use this socket"), "the refusal is not logged");
}

/* ---- how many ---- */

Test(hostile_peers, a_thousand_idle_connections)
{
        static int fds[2000];
        unsigned few = descriptors_of(f.agent) + 16;

        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                fds[i] = i % 2 ? connect_authenticated() : connect_raw();
                if (i % 100 == 99)
                        bystander_wait(&bystander, 1);
        }
        cr_assert_lt(descriptors_of(f.agent), 1024U, "more connections than MaxConnections=512 are kept");
        bystander_wait(&bystander, 20);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                close(fds[i]);
        wait_until(few_descriptors, &few, 10, "the connections are closed");
}

Test(hostile_peers, half_said)
{
        static const char call[] = "l\1\0\1\20\0\0\0\1\0\0\0\200\0\0\0\1\1o\0\23\0\0\0/io/berth/Ag";
        int halves[200], messages[200];
        unsigned few = descriptors_of(f.agent) + 16;

        for (size_t i = 0; i < ELEMENTSOF(halves); i++) {
                halves[i] = connect_raw();
                send_raw(halves[i], AUTHENTICATION, i % (sizeof(AUTHENTICATION) - 10));
                messages[i] = connect_authenticated();
                send_raw(messages[i], call, 1 + i % (sizeof(call) - 1));
                if (i % 50 == 49)
                        bystander_wait(&bystander, 1);
        }
        bystander_wait(&bystander, 20);
        for (size_t i = 0; i < ELEMENTSOF(halves); i++)
                expect_closed(halves[i], 10, "a connection that has not authenticated");
        bystander_wait(&bystander, 5);
        for (size_t i = 0; i < ELEMENTSOF(halves); i++) {
                close(halves[i]);
                close(messages[i]);
        }
        wait_until(few_descriptors, &few, 10, "the connections are closed");
}

/* ---- what ---- */

Test(hostile_peers, garbage)
{
        unsigned char noise[4096];
        unsigned seed = 1;

        for (unsigned i = 0; i < 300; i++) {
                int fd = i % 3 ? connect_authenticated() : connect_raw();

                for (size_t k = 0; k < sizeof(noise); k++)
                        noise[k] = (unsigned char) rand_r(&seed);
                if (i % 3 == 2)
                        memcpy(noise, i % 2 ? "l\1\0\1" : "B\1\0\1", 4); /* the start of a call, then lengths as they come */
                send_raw(fd, noise, sizeof(noise));
                shutdown(fd, SHUT_WR);
                expect_closed(fd, 10, "a connection with garbage");
                close(fd);
        }
}

/* A body of 8 MiB is announced, 7 of them come, and then nothing more. */
static void send_huge(int fd)
{
        static const unsigned char header[] = { 'l', 1, 0, 1, 0, 0, 0x80, 0, 1, 0, 0, 0, 0x79, 0, 0, 0 };
        static char body[7 << 20];
        int size = 8 << 20;

        /* all of it into the kernel's buffer */
        cr_assert(setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) >= 0);
        send_raw(fd, header, sizeof(header));
        send_raw(fd, body, sizeof(body));
}

Test(hostile_peers, huge_messages)
{
        size_t before = memory_of(f.agent), most = 0;
        int fds[150];

        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                fds[i] = connect_authenticated();
        for (size_t i = 0; i < ELEMENTSOF(fds); i++) {
                /* stopped, so that it reads each in few pieces: ASan's realloc copies everything for each of them */
                if (i % 10 == 0)
                        kill(f.agent, SIGSTOP);
                send_huge(fds[i]);
                if (i % 10 < 9)
                        continue;
                kill(f.agent, SIGCONT);
                bystander_wait(&bystander, 1);
                size_t now = memory_of(f.agent);
                most = now > most ? now : most;
        }
        cr_assert_lt(most, before + ((size_t) 700 << 20), "berthd had %zu MiB", most >> 20);
        bystander_wait(&bystander, 5);
        for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                close(fds[i]);
}

static bool taken_or_closed(void *arg)
{
        int fd = *(int *) arg, unread = 0;
        struct pollfd p = { .fd = fd, .events = POLLRDHUP };

        return (poll(&p, 1, 0) == 1 && (p.revents & (POLLRDHUP | POLLHUP))) || (ioctl(fd, SIOCOUTQ, &unread) >= 0 && unread == 0);
}

/* Calls and calls, and never reads an answer: they are kept up to some number, and then the connection is closed. */
Test(hostile_peers, never_reads_its_answers)
{
        static const struct {
                const char *interface, *method;
        } calls[] = { { "org.freedesktop.DBus.Introspectable", "Introspect" },
                      { AGENT_INTERFACE, "GetStatus" },
                      { AGENT_INTERFACE, "ListVolumes" },
                      { AGENT_INTERFACE, "NoSuchMethod" } };
        size_t before = memory_of(f.agent);

        for (size_t k = 0; k < ELEMENTSOF(calls); k++) {
                _cleanup_bus_ sd_bus *bus = NULL;

                cr_assert(client_connect(f.socket, UINT64_MAX, &bus, NULL) >= 0);
                int fd = sd_bus_get_fd(bus);
                for (unsigned i = 0; i < 30000; i++) {
                        _cleanup_message_ sd_bus_message *m = NULL;
                        uint64_t cookie;

                        cr_assert(sd_bus_message_new_method_call(bus, &m, NULL, AGENT_PATH, calls[k].interface, calls[k].method) >= 0);
                        if (sd_bus_send(bus, m, &cookie) < 0 || sd_bus_flush(bus) < 0)
                                break; /* closed: well so */
                }
                wait_until(taken_or_closed, &fd, 60, "all calls are taken");
                bystander_wait(&bystander, 1);
                size_t now = memory_of(f.agent), grown = now > before ? now - before : 0;
                cr_assert_lt(grown, (size_t) 64 << 20, "%s: berthd grew by %zu MiB", calls[k].method, grown >> 20);
        }
}

/* Calls until the answers do not fit into the kernel's buffers any more, and some wait in berthd. */
static void leave_unread(sd_bus *bus)
{
        int fd = sd_bus_get_fd(bus), last = 0, now = 0;

        for (unsigned i = 0, same = 0; same < 2; i++) {
                _cleanup_message_ sd_bus_message *m = NULL;
                uint64_t cookie;

                cr_assert_lt(i, 100000U, "all answers fit into the kernel's buffers");
                cr_assert(sd_bus_message_new_method_call(bus, &m, NULL, AGENT_PATH, "org.freedesktop.DBus.Introspectable", "Introspect") >= 0);
                cr_assert(sd_bus_send(bus, m, &cookie) >= 0 && sd_bus_flush(bus) >= 0);
                if (i % 40 < 39)
                        continue;
                wait_until(taken_or_closed, &fd, 60, "the calls are taken");
                cr_assert(ioctl(fd, SIOCINQ, &now) >= 0);
                same = now == last ? same + 1 : 0;
                last = now;
        }
}

/* Answers that nobody reads must not keep berthd from stopping: an upgrade would wait for that peer. */
Test(hostile_peers, unread_answers_do_not_hold_up_the_end)
{
        _cleanup_bus_ sd_bus *bus = NULL;

        cr_assert(client_connect(f.socket, UINT64_MAX, &bus, NULL) >= 0);
        leave_unread(bus);
        pthread_mutex_lock(&bystander.between);
        double start = now_seconds();
        fixture_stop(&f, SIGTERM);
        cr_assert(now_seconds() - start < 10, "it took %.1f s to stop", now_seconds() - start);
        fixture_start(&f, NULL);
        pthread_mutex_unlock(&bystander.between);
}

/* ---- descriptors ---- */

/* The bystander rests here: a request may well be refused while there are no descriptors, if only it can be repeated. */
Test(hostile_peers, out_of_descriptors)
{
        struct rlimit limit, old;
        int fds[64];
        unsigned few = descriptors_of(f.agent) + 16;
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *image = fixture_image_formatted(&f, "image.img", 16 << 20, "ext4");
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);

        pthread_mutex_lock(&bystander.between);
        for (unsigned spare = 0; spare < 6; spare++) {
                unsigned n = descriptors_of(f.agent);
                bool mounted = false;

                cr_assert(prlimit(f.agent, RLIMIT_NOFILE, NULL, &old) >= 0);
                limit = (struct rlimit) { n + spare, old.rlim_max };
                cr_assert(prlimit(f.agent, RLIMIT_NOFILE, &limit, NULL) >= 0);
                for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                        fds[i] = connect_raw();
                if (spare > 0) {
                        _cleanup_error_ Error err = ERROR_INIT;
                        ErrorCode code = fixture_mount(&f, &p, &err);
                        mounted = code == ERROR_NONE;
                        cr_assert(mounted || error_code_is_retryable(code), "%u spare: %s: %s", spare, error_code_name(code),
                                  str_or(err.text, ""));
                }
                cr_assert(prlimit(f.agent, RLIMIT_NOFILE, &old, NULL) >= 0);
                for (size_t i = 0; i < ELEMENTSOF(fds); i++)
                        close(fds[i]);
                wait_until(few_descriptors, &few, 20, "the descriptors are free again");
                cr_assert_eq(fixture_mount(&f, &p, NULL), ERROR_NONE, "%u spare", spare);
                cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE, "%u spare", spare);
        }
        pthread_mutex_unlock(&bystander.between);
}
