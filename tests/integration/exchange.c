/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd exchanged for another while requests are under way, as when its package is upgraded or it crashes: the FlexVolume driver and
 * berthctl ask the next one by themselves, once, and their callers see nothing of it.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "fixture/internal.h"
#include "protocol/names.h"

#define MIB (UINT64_C(1) << 20)
#define N_MOUNTS 3

/* ---- callers beside the test ---- */

/* Ends with status 0 if the answer is Success. */
static pid_t driver_start(Fixture *f, const char *call, const char *target, const char *image)
{
        _cleanup_free_ char *json = image ? format("{\"path\":\"%s\"}", image) : NULL;
        pid_t pid = fork();

        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                json_t *reply = SHIM(f, (char *) call, (char *) target, json);
                const char *status = json_string_value(json_object_get(reply, "status"));

                if (strcmp(status, "Success") != 0)
                        fprintf(stderr, "%s: %s\n", call, json_string_value(json_object_get(reply, "message")));
                _exit(strcmp(status, "Success") == 0 ? 0 : 1);
        }
        return pid;
}

static pid_t berthctl_start(Fixture *f, const char *verb, const char *target)
{
        _cleanup_free_ char *path = executable_path(f, "berthctl");
        pid_t pid = fork();

        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                _exit(RUN(path, "--socket", f->socket, (char *) verb, (char *) target));
        }
        return pid;
}

static bool runs(pid_t pid)
{
        siginfo_t info = {};

        return waitid(P_PID, (id_t) pid, &info, WEXITED | WNOHANG | WNOWAIT) >= 0 && info.si_pid == 0;
}

static void expect_end(pid_t pid, int expected, const char *what)
{
        int status;

        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == expected, "%s ended with wait status %#x", what, (unsigned) status);
}

/* ---- what waits at the socket ---- */

typedef struct Peers {
        Fixture *f;
        unsigned n;
} Peers;

/* The listening socket and each connection's end of berthd have a line with its path. */
static unsigned count_peers(const Fixture *f)
{
        _cleanup_free_ char *table = read_text("/proc/net/unix"), *end = format(" %s\n", f->socket);
        unsigned n = 0;

        for (const char *p = table; (p = strstr(p, end)); p++)
                n++;
        return n > 0 ? n - 1 : 0;
}

static bool peers_are_there(void *arg)
{
        const Peers *p = arg;

        return count_peers(p->f) >= p->n;
}

/* It waits for the lock of the one that berthd's predecessor left at work, without a mounter; what else berthd does has one. */
static bool request_waits(void *arg)
{
        json_t *status = BERTHCTL(arg, "status"), *m;
        bool waits = json_integer_value(json_object_get(status, "requests")) > 0;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, m)
                waits = waits && str_equal(json_string_value(json_object_get(m, "state")), "idle");
        json_decref(status);
        return waits;
}

/* ---- tests ---- */

static void exchanged(int signal)
{
        pid_t mounts[N_MOUNTS], unmounts[2];
        char *targets[N_MOUNTS];
        Fixture f;

        fixture_init(&f);
        _cleanup_free_ char *old = fixture_image_formatted(&f, "old", 16 * MIB, "ext4"), *one = fixture_target(&f, "uid-10", "v"),
                            *two = fixture_target(&f, "uid-11", "v");
        gate_init(&f);
        fixture_start(&f, NULL);
        mount_ok(&f, one, &(Volume) { .image = old });
        mount_ok(&f, two, &(Volume) { .image = old });

        /* some are at work in berthd, some have only just connected */
        for (unsigned i = 0; i < N_MOUNTS; i++) {
                _cleanup_free_ char *uid = format("uid-%u", i), *name = format("new-%u", i),
                                    *image = fixture_image(&f, name, 64 * MIB);
                targets[i] = fixture_target(&f, uid, "v");
                mounts[i] = driver_start(&f, "mount", targets[i], image);
        }
        gate_wait(&f, N_MOUNTS);
        cr_assert(kill(f.agent, SIGSTOP) >= 0);
        unmounts[0] = driver_start(&f, "unmount", one, NULL);
        unmounts[1] = berthctl_start(&f, "unmount", two);
        wait_until(peers_are_there, &(Peers) { &f, N_MOUNTS + 2 }, 20, "all have connected");
        cr_assert(kill(f.agent, signal) >= 0 && kill(f.agent, SIGCONT) >= 0);
        fixture_stop(&f, signal);
        for (unsigned i = 0; i < N_MOUNTS; i++)
                cr_assert(runs(mounts[i]), "mount %u did not wait", i);

        fixture_start(&f, NULL);
        expect_end(unmounts[0], 0, "the driver's unmount");
        expect_end(unmounts[1], 0, "berthctl unmount");
        gate_open(&f);
        for (unsigned i = 0; i < N_MOUNTS; i++) {
                expect_end(mounts[i], 0, "a mount");
                cr_assert_eq(fixture_count_mounts(targets[i]), 1);
        }
        cr_assert_eq(gate_count(&f), N_MOUNTS, "mke2fs was begun %u times", gate_count(&f));
        cr_assert(fixture_count_mounts(one) == 0 && fixture_count_mounts(two) == 0);
        for (unsigned i = 0; i < N_MOUNTS; i++) {
                unmount_ok(&f, targets[i]);
                free(targets[i]);
        }
        wait_clean(&f, 10);
        gate_done(&f);
        fixture_done(&f);
}

Test(exchange, stopped)
{
        exchanged(SIGTERM);
}

Test(exchange, killed)
{
        exchanged(SIGKILL);
}

/* What may be the request's own doing is not done to one berthd after the other. */
Test(exchange, killed_again)
{
        Fixture f;

        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");
        pid_t mount = driver_start(&f, "mount", target, image);

        gate_wait(&f, 1);
        fixture_stop(&f, SIGKILL);
        fixture_start(&f, NULL);
        wait_until(request_waits, &f, 20, "it asked again");
        fixture_stop(&f, SIGKILL);
        expect_end(mount, 1, "the mount");
        fixture_start(&f, NULL);
        gate_open(&f);
        mount_ok(&f, target, &(Volume) { .image = image });
        unmount_ok(&f, target);
        wait_clean(&f, 10);
        gate_done(&f);
        fixture_done(&f);
}

/* None comes: the caller is told so by its deadline. */
Test(exchange, stopped_for_good)
{
        Fixture f;

        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");

        setenv(BERTH_TIMEOUT_ENV, "4", 1);
        double started = now_seconds();
        pid_t mount = driver_start(&f, "mount", target, image);
        unsetenv(BERTH_TIMEOUT_ENV);
        gate_wait(&f, 1);
        fixture_stop(&f, SIGTERM);
        expect_end(mount, 1, "the mount");
        cr_assert_geq(now_seconds() - started, 4, "it did not wait for another berthd");
        cr_assert_lt(now_seconds() - started, 10, "it took %.1f s", now_seconds() - started);
        gate_open(&f);
        fixture_start(&f, NULL);
        mount_ok(&f, target, &(Volume) { .image = image });
        unmount_ok(&f, target);
        wait_clean(&f, 10);
        gate_done(&f);
        fixture_done(&f);
}

/* A node that is being drained says that it shuts down, too, and goes on: that is no reason to wait. */
static bool target_is_free(void *target)
{
        return fixture_count_mounts(target) == 0;
}

Test(exchange, draining)
{
        Fixture f;

        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 16 * MIB, "ext4"), *target = fixture_target(&f, "uid-1", "v"),
                            *berthctl = executable_path(&f, "berthctl");

        mount_ok(&f, target, &(Volume) { .image = image });
        pid_t holder = holder_start(NULL), drain = fork();
        if (drain == 0)
                _exit(RUN(berthctl, "--socket", f.socket, "drain", "--timeout", "20"));
        wait_until(target_is_free, target, 15, "the drain is at work");
        _cleanup_free_ char *json = format("{\"path\":\"%s\"}", image);
        double started = now_seconds();
        json_t *reply = SHIM(&f, "mount", target, json);
        const char *message = json_string_value(json_object_get(reply, "message"));
        cr_assert(strstr(message, "io.berth.Error.ShuttingDown"), "%s", message);
        cr_assert_lt(now_seconds() - started, 10, "it took %.1f s", now_seconds() - started);
        json_decref(reply);
        holder_end(holder);
        expect_end(drain, 0, "berthctl drain");
        wait_clean(&f, 10);
        fixture_done(&f);
}
