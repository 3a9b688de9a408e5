/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * io.berth.Agent1 on a system bus of the test's own: who may do what there (the bus itself lets everybody through, so that it is
 * berthd that refuses), and that a bus which is absent, stopped or restarted holds nothing up.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <grp.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "protocol/names.h"

#define MIB (UINT64_C(1) << 20)
#define NOBODY 65534
#define ADMINS 54321
#define ADMINS_TEXT "54321" /* no group of the machine needs to have this number */
#define ANSWER_USEC (20 * UINT64_C(1000000))

static char *bus_address, *bus_config;
static pid_t bus_pid;

/* With the address in the environment, which berthd inherits. */
static void bus_prepare(Fixture *f)
{
        _cleanup_free_ char *text = NULL;

        bus_address = format("unix:path=%s/bus", f->dir);
        bus_config = format("%s/bus.conf", f->dir);
        text = format("<busconfig><type>system</type><listen>%s</listen><auth>EXTERNAL</auth><policy context=\"default\"><allow user=\"*\"/>"
                      "<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>"
                      "</policy></busconfig>", bus_address);
        write_text(bus_config, text);
        setenv("DBUS_SYSTEM_BUS_ADDRESS", bus_address, 1);
        cr_assert_eq(chmod(f->dir, 0755), 0); /* other users come here */
}

static bool bus_answers(void *arg)
{
        _cleanup_bus_ sd_bus *bus = NULL;

        return sd_bus_open_system(&bus) >= 0 && sd_bus_get_unique_name(bus, &(const char *) { NULL }) >= 0;
}

static void bus_start(Fixture *f)
{
        _cleanup_free_ char *argument = format("--config-file=%s", bus_config);

        bus_pid = fork();
        cr_assert(bus_pid >= 0);
        if (bus_pid == 0) {
                execlp("dbus-daemon", "dbus-daemon", argument, "--nofork", "--nopidfile", NULL);
                _exit(127);
        }
        wait_until(bus_answers, NULL, 20, "dbus-daemon answers");
}

static void bus_stop(Fixture *f, int signal)
{
        _cleanup_free_ char *socket = format("%s/bus", f->dir);

        cr_assert_eq(kill(bus_pid, signal), 0);
        cr_assert_eq(waitpid(bus_pid, NULL, 0), bus_pid);
        (void) unlink(socket);
}

static void bus_done(Fixture *f)
{
        cr_assert_eq(unlink(bus_config), 0);
        free(bus_address);
        free(bus_config);
        fixture_done(f);
}

static char *bus_state(Fixture *f)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");

        return strdup(json_string_value(json_object_get(status, "systemBus")));
}

static bool is_exported(void *arg)
{
        _cleanup_free_ char *state = bus_state(arg);

        return strcmp(state, "exported") == 0;
}

static bool is_waiting(void *arg)
{
        return !is_exported(arg);
}

static void start(Fixture *f, const char *group)
{
        static char *const arguments[] = { (char *) "--system-bus", NULL };
        _cleanup_free_ char *config = format("[Agent]\nAdminGroup=%s\n", group);

        f->agent_arguments = arguments;
        fixture_start(f, config);
}

/* ---- calls of other users, each from a process of its own ---- */

typedef enum BusCall { GET_STATUS, LIST_VOLUMES, EXPLAIN, DRY_RUN, INTROSPECT, GET_ALL, APPLY, STATS, UNMOUNT, DRAIN, FORGET, FENCE, FORCE_DETACH,
                     MOUNT, SET,
                     NO_INTERFACE, _CALLS } BusCall;

/* The calls of an admin, by number; all that follow are root's. */
#define LAST_LOOK GET_ALL

static int call_send(sd_bus *bus, BusCall call, const char *target, sd_bus_error *e)
{
        const char *agent = AGENT_INTERFACE, *properties = "org.freedesktop.DBus.Properties";
        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;
        static const char *const members[] = { "GetStatus", "ListVolumes", "Explain", "Reconcile", "Introspect", "GetAll", "Reconcile",
                                               "Stats", "Unmount", "Drain", "Forget", "Fence", "ForceDetach", "Mount", "Set", "GetStatus" };
        const char *interface = call == INTROSPECT ? "org.freedesktop.DBus.Introspectable" : call == GET_ALL || call == SET ? properties : agent;
        int r = sd_bus_message_new_method_call(bus, &m, AGENT_INTERFACE, AGENT_PATH, call == NO_INTERFACE ? NULL : interface, members[call]);

        if (call == EXPLAIN || call == STATS || call == UNMOUNT || call == FORCE_DETACH || call == MOUNT)
                r = r < 0 ? r : bus_append_bytes(m, target);
        if (call == DRY_RUN || call == APPLY)
                r = r < 0 ? r : sd_bus_message_append(m, "b", (int) (call == DRY_RUN));
        if (call == GET_ALL)
                r = r < 0 ? r : sd_bus_message_append(m, "s", agent);
        if (call == DRAIN)
                r = r < 0 ? r : sd_bus_message_append(m, "t", UINT64_C(5000000));
        if (call == FORGET)
                r = r < 0 ? r : sd_bus_message_append(m, "sb", "loop-1-2-3", 0);
        if (call == FENCE)
                r = r < 0 ? r : sd_bus_message_append(m, "sa{ss}a{sv}", "loop", 0, 0);
        if (call == SET)
                r = r < 0 ? r : sd_bus_message_append(m, "ssv", agent, "Version", "s", "9");
        if (call == MOUNT)
                r = r < 0 ? r : sd_bus_message_append(m, "sa{ss}a{sv}", "loop", 1, "path", "nothing", 0);
        return r < 0 ? r : sd_bus_call(bus, m, ANSWER_USEC, e, &reply);
}

typedef enum Outcome { OUTCOME_REFUSED, OUTCOME_ALLOWED, OUTCOME_FAILED } Outcome;

/* As a user with one group beside its own. Refused and allowed are told apart by the error's name alone. */
static Outcome call_as(uid_t uid, gid_t group, BusCall call, const char *target)
{
        int status;
        pid_t pid = fork();

        cr_assert(pid >= 0);
        if (pid == 0) {
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                sd_bus *bus = NULL;

                if (setgroups(1, &group) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 || setresuid(uid, uid, uid) < 0 ||
                    sd_bus_open_system(&bus) < 0)
                        _exit(OUTCOME_FAILED);
                if (call_send(bus, call, target, &e) >= 0)
                        _exit(OUTCOME_ALLOWED);
                _exit(strcmp(e.name, "io.berth.Error.PermissionDenied") == 0 || call == NO_INTERFACE ? OUTCOME_REFUSED
                      : sd_bus_error_has_names(&e, SD_BUS_ERROR_NO_REPLY, SD_BUS_ERROR_SERVICE_UNKNOWN)
                                      ? OUTCOME_FAILED
                                      : OUTCOME_ALLOWED);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status));
        return (Outcome) WEXITSTATUS(status);
}

Test(system_bus, who_may_do_what)
{
        Fixture f;
        fixture_init(&f);
        bus_prepare(&f);
        bus_start(&f);
        start(&f, ADMINS_TEXT);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB), *log = NULL;

        mount_ok(&f, target, &(Volume) { .image = image });
        wait_until(is_exported, &f, 20, "the name is there");
        for (BusCall c = 0; c < _CALLS; c++) {
                cr_assert_eq(call_as(NOBODY, NOBODY, c, target), OUTCOME_REFUSED, "call %d of a user", c);
                cr_assert_eq(call_as(NOBODY, ADMINS, c, target), c <= LAST_LOOK ? OUTCOME_ALLOWED : OUTCOME_REFUSED, "call %d of an admin", c);
        }
        cr_assert_eq(fixture_count_mounts(target), 1, "a refused call did something");
        for (BusCall c = 0; c < UNMOUNT; c++)
                cr_assert_eq(call_as(0, NOBODY, c, target), OUTCOME_ALLOWED, "call %d of root", c);
        cr_assert_eq(call_as(0, NOBODY, UNMOUNT, target), OUTCOME_ALLOWED);
        cr_assert_eq(fixture_count_mounts(target), 0, "root's Unmount did nothing");
        log = read_text(f.log);
        cr_assert(strstr(log, "User 65534 may not call Drain"), "%s", log);

        /* no group: nobody but root */
        fixture_stop(&f, SIGTERM);
        start(&f, "");
        wait_until(is_exported, &f, 20, "the name is there");
        cr_assert_eq(call_as(NOBODY, ADMINS, GET_STATUS, target), OUTCOME_REFUSED);
        cr_assert_eq(call_as(0, NOBODY, GET_STATUS, target), OUTCOME_ALLOWED);
        wait_clean(&f, 5);
        bus_stop(&f, SIGTERM);
        bus_done(&f);
}

Test(system_bus, no_secrets)
{
        Fixture f;
        fixture_init(&f);
        bus_prepare(&f);
        bus_start(&f);
        start(&f, ADMINS_TEXT);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB), *log = NULL;

        wait_until(is_exported, &f, 20, "the name is there");
        {
                _cleanup_bus_ sd_bus *bus = NULL;
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

                cr_assert_geq(sd_bus_open_system(&bus), 0);
                for (unsigned secret = 0; secret < 2; secret++) {
                        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;

                        cr_assert_geq(sd_bus_message_new_method_call(bus, &m, AGENT_INTERFACE, AGENT_PATH, AGENT_INTERFACE, "Mount"), 0);
                        cr_assert_geq(bus_append_bytes(m, target), 0);
                        cr_assert_geq(sd_bus_message_append(m, "sa{ss}", "loop", 1, "path", image), 0);
                        cr_assert_geq(secret ? sd_bus_message_append(m, "a{sv}", 1, "secrets", "a{ss}", 1, "key", "hunter2-hunter2")
                                             : sd_bus_message_append(m, "a{sv}", 0), 0);
                        int r = sd_bus_call(bus, m, ANSWER_USEC, &e, &reply);
                        cr_assert_eq(r < 0, secret, "%s", str_or(e.message, ""));
                        cr_assert(!secret || strcmp(e.name, "io.berth.Error.PermissionDenied") == 0, "%s", e.name);
                }
        }
        unmount_ok(&f, target);
        log = read_text(f.log);
        cr_assert_null(strstr(log, "hunter2"));
        bus_stop(&f, SIGTERM);
        bus_done(&f);
}

static void expect_quick(Fixture *f, const char *target, const Volume *v, const char *when)
{
        double begin = now_seconds();

        mount_ok(f, target, v);
        unmount_ok(f, target);
        cr_assert_lt(now_seconds() - begin, 5, "%s: a mount and an unmount took %.1f s", when, now_seconds() - begin);
}

Test(system_bus, absent_stopped_restarted)
{
        Fixture f;
        fixture_init(&f);
        bus_prepare(&f);
        start(&f, ADMINS_TEXT);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image_formatted(&f, "v", 16 * MIB, "ext4"), *before = NULL;
        const Volume v = { .image = image };

        before = bus_state(&f);
        cr_assert_str_eq(before, "waiting");
        expect_quick(&f, target, &v, "absent");
        bus_start(&f);
        wait_until(is_exported, &f, 60, "the name comes when the bus does");
        for (unsigned i = 0; i < 3; i++) {
                bus_stop(&f, i == 1 ? SIGTERM : SIGKILL);
                wait_until(is_waiting, &f, 20, "the loss is seen");
                expect_quick(&f, target, &v, "lost");
                bus_start(&f);
                wait_until(is_exported, &f, 60, "the name comes again");
        }

        /* stopped: with a call from it under way, and for one that starts */
        cr_assert_eq(kill(bus_pid, SIGSTOP), 0);
        expect_quick(&f, target, &v, "stopped");
        fixture_stop(&f, SIGTERM);
        start(&f, ADMINS_TEXT);
        expect_quick(&f, target, &v, "stopped, and berthd started");
        cr_assert_eq(kill(bus_pid, SIGCONT), 0);
        wait_until(is_exported, &f, 60, "the name comes when the bus goes on");
        cr_assert_eq(call_as(0, NOBODY, GET_STATUS, target), OUTCOME_ALLOWED);
        bus_stop(&f, SIGTERM);
        bus_done(&f);
}

/* Somebody else has the name: it is sought again. */
Test(system_bus, name_taken)
{
        Fixture f;
        fixture_init(&f);
        bus_prepare(&f);
        bus_start(&f);
        sd_bus *bus = NULL;

        cr_assert_geq(sd_bus_open_system(&bus), 0);
        cr_assert_geq(sd_bus_request_name(bus, AGENT_INTERFACE, 0), 0);
        start(&f, ADMINS_TEXT);
        _cleanup_free_ char *state = bus_state(&f);
        cr_assert_str_eq(state, "waiting");
        sd_bus_flush_close_unref(bus);
        wait_until(is_exported, &f, 40, "the name comes when it is free");
        bus_stop(&f, SIGTERM);
        bus_done(&f);
}

static int on_flood_reply(sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        unsigned *n = userdata;

        n[0]++;
        n[1] += sd_bus_message_is_method_error(reply, NULL) <= 0;
        return 1;
}

/* Far more calls at once than are held: each is answered, if only with an error; and the socket is served meanwhile. */
Test(system_bus, flood)
{
        Fixture f;
        fixture_init(&f);
        bus_prepare(&f);
        bus_start(&f);
        start(&f, ADMINS_TEXT);
        wait_until(is_exported, &f, 20, "the name is there");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image_formatted(&f, "v", 16 * MIB, "ext4");
        unsigned n[2] = {};
        {
                _cleanup_bus_ sd_bus *bus = NULL;

                cr_assert_geq(sd_bus_open_system(&bus), 0);
                for (unsigned i = 0; i < 10000; i++) {
                        cr_assert_geq(sd_bus_call_method_async(bus, NULL, AGENT_INTERFACE, AGENT_PATH, AGENT_INTERFACE, "GetStatus",
                                                               on_flood_reply, n, NULL), 0);
                        while (i - n[0] > 300 && sd_bus_process(bus, NULL) >= 0)
                                ;
                }
                expect_quick(&f, target, &(Volume) { .image = image }, "flooded");
                while (n[0] < 10000) {
                        int r = sd_bus_process(bus, NULL);
                        cr_assert_geq(r, 0);
                        if (r == 0)
                                cr_assert_geq(sd_bus_wait(bus, ANSWER_USEC), 1, "%u of 10000 answers came", n[0]);
                }
        }
        cr_assert_gt(n[1], 0, "none was served");
        cr_assert_eq(call_as(0, NOBODY, GET_STATUS, target), OUTCOME_ALLOWED);
        bus_stop(&f, SIGTERM);
        bus_done(&f);
}
