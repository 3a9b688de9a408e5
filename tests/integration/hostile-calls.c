/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Calls as no well-behaved client makes them, D-Bus messages put together by hand; and mounters that stop or die at the worst
 * moment. berthd answers each call by an error of its own and goes on.
 */

#include <criterion/criterion.h>

#include <jansson.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#include "bystander.h"
#include "fixture/internal.h"
#include "protocol/names.h"

static Fixture f;
static char *target, *image;

static void setup(void)
{
        fixture_init(&f);
        fixture_start(&f, NULL);
        target = fixture_target(&f, "u", "v");
        image = fixture_image_formatted(&f, "image.img", 16 << 20, "ext4");
}

static void teardown(void)
{
        free(target);
        free(image);
        fixture_done(&f);
}

TestSuite(hostile_calls, .init = setup, .fini = teardown, .timeout = 120);

static sd_bus *connect_bus(void)
{
        sd_bus *bus = NULL;

        cr_assert(client_connect(f.socket, UINT64_MAX, &bus, NULL) >= 0);
        return bus;
}

/* A Mount of target up to its options, which are open to be written. */
static sd_bus_message *mount_begin(sd_bus *bus, const char *driver, const StrMap *source)
{
        _cleanup_strmap_ StrMap usual = STRMAP_INIT;
        sd_bus_message *m = NULL;

        cr_assert(strmap_set(&usual, "path", image) >= 0);
        cr_assert(client_new_call(bus, "Mount", &m, NULL) >= 0 && bus_append_bytes(m, target) >= 0);
        cr_assert(sd_bus_message_append(m, "s", driver) >= 0 && bus_append_strmap(m, source ? source : &usual) >= 0);
        cr_assert(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        return m;
}

static ErrorCode mount_end(sd_bus *bus, sd_bus_message *m, const char *expect_text)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert(sd_bus_message_close_container(m) >= 0);
        int r = client_call(bus, m, now_boottime_usec() + 60000000, NULL, &err);
        sd_bus_message_unref(m);
        cr_assert(!expect_text || (err.text && strstr(err.text, expect_text)), "'%s' does not tell '%s'", str_or(err.text, ""), expect_text);
        return r < 0 ? err.code : ERROR_NONE;
}

#define EXPECT_CODE(code, expected)                                                                          \
        do {                                                                                                 \
                ErrorCode _code = (code);                                                                    \
                cr_assert_eq(_code, (expected), "answered by %s", error_code_name(_code));                   \
        } while (0)

/* ---- dictionaries ---- */

static void append_typed(sd_bus_message *m, const char *key, const char *type)
{
        cr_assert(sd_bus_message_open_container(m, 'e', "sv") >= 0 && sd_bus_message_append(m, "s", key) >= 0);
        cr_assert(sd_bus_message_open_container(m, 'v', type) >= 0);
        if (strcmp(type, "s") == 0)
                cr_assert(sd_bus_message_append(m, "s", "x") >= 0);
        else if (strcmp(type, "as") == 0 || strcmp(type, "ay") == 0 || strcmp(type, "ai") == 0)
                cr_assert(sd_bus_message_append(m, type, 1, strcmp(type, "as") == 0 ? (void *) "x" : (void *) 1) >= 0);
        else if (strcmp(type, "a{ss}") == 0)
                cr_assert(sd_bus_message_append(m, type, 1, "k", "v") >= 0);
        else if (strcmp(type, "v") == 0)
                cr_assert(sd_bus_message_append(m, "v", "s", "x") >= 0);
        else if (strcmp(type, "t") == 0)
                cr_assert(sd_bus_message_append(m, "t", UINT64_MAX) >= 0);
        else
                cr_assert(sd_bus_message_append(m, type, 1) >= 0);
        cr_assert(sd_bus_message_close_container(m) >= 0 && sd_bus_message_close_container(m) >= 0);
}

Test(hostile_calls, options_of_wrong_types)
{
        static const char *const types[] = { "s", "b", "i", "t", "as", "ay", "a{ss}", "v", "ai" };
        static const struct {
                const char *key, *type;
        } options[] = { { "fsType", "s" },  { "readOnly", "b" },     { "mountOptions", "as" }, { "secrets", "a{ss}" },
                        { "podUid", "s" },  { "volumeName", "s" },   { "podName", "s" },       { "podNamespace", "s" } };
        _cleanup_bus_ sd_bus *bus = connect_bus();

        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                for (size_t k = 0; k < ELEMENTSOF(types); k++) {
                        if (strcmp(options[i].type, types[k]) == 0)
                                continue;
                        sd_bus_message *m = mount_begin(bus, "loop", NULL);
                        append_typed(m, options[i].key, types[k]);
                        EXPECT_CODE(mount_end(bus, m, options[i].key), ERROR_INVALID_ARGUMENT);
                }
        static const char *const unknown[] = { "", "fstype", "FsType", "target", "readonly", "secret", "x\ny" };
        for (size_t i = 0; i < ELEMENTSOF(unknown); i++) {
                sd_bus_message *m = mount_begin(bus, "loop", NULL);
                append_typed(m, unknown[i], "s");
                EXPECT_CODE(mount_end(bus, m, NULL), ERROR_UNKNOWN_OPTION);
        }
        cr_assert_eq(fixture_count_loops(&f), 0);
}

Test(hostile_calls, options_given_twice)
{
        static const struct {
                const char *key, *type;
        } options[] = { { "fsType", "s" }, { "readOnly", "b" }, { "mountOptions", "as" }, { "secrets", "a{ss}" }, { "podUid", "s" }, { "podName", "s" } };
        _cleanup_bus_ sd_bus *bus = connect_bus();

        for (size_t i = 0; i < ELEMENTSOF(options); i++) {
                sd_bus_message *m = mount_begin(bus, "loop", NULL);
                append_typed(m, options[i].key, options[i].type);
                append_typed(m, options[i].key, options[i].type);
                EXPECT_CODE(mount_end(bus, m, "twice"), ERROR_INVALID_ARGUMENT);
        }
        cr_assert_eq(fixture_count_loops(&f), 0);
}

Test(hostile_calls, bounds)
{
        _cleanup_bus_ sd_bus *bus = connect_bus();
        _cleanup_strv_ char **options = NULL;
        _cleanup_free_ char *long_text = text("%05000d", 0);
        _cleanup_strmap_ StrMap many = STRMAP_INIT, long_value = STRMAP_INIT, long_key = STRMAP_INIT;

        for (unsigned i = 0; i < REQUEST_OPTIONS_MAX + 1; i++) {
                _cleanup_free_ char *key = text("key%u", i);
                cr_assert(strmap_set(&many, key, "x") >= 0 && strv_append(&options, "noatime") >= 0);
        }
        cr_assert(strmap_set(&long_value, "path", long_text) >= 0 && strmap_set(&long_key, long_text, "x") >= 0);
        const StrMap *const sources[] = { &many, &long_value, &long_key };
        for (size_t i = 0; i < ELEMENTSOF(sources); i++)
                EXPECT_CODE(mount_end(bus, mount_begin(bus, "loop", sources[i]), "too large"), ERROR_INVALID_ARGUMENT);

        sd_bus_message *m = mount_begin(bus, "loop", NULL);
        cr_assert(bus_append_entry_strv(m, "mountOptions", options) >= 0);
        EXPECT_CODE(mount_end(bus, m, "too large"), ERROR_INVALID_ARGUMENT);
        m = mount_begin(bus, "loop", NULL);
        cr_assert(bus_append_entry_strmap(m, "secrets", &many) >= 0);
        EXPECT_CODE(mount_end(bus, m, "too large"), ERROR_INVALID_ARGUMENT);
        m = mount_begin(bus, "loop", NULL);
        cr_assert(bus_append_entry(m, "podName", "s", long_text) >= 0);
        EXPECT_CODE(mount_end(bus, m, "longer than"), ERROR_INVALID_ARGUMENT);

        static const char *const drivers[] = { "", "../loop", "loop/../loop", "Loop", "loop ", "loop\n", "-", "mounter-loop", "a234567890123456x" };
        for (size_t i = 0; i < ELEMENTSOF(drivers); i++)
                EXPECT_CODE(mount_end(bus, mount_begin(bus, drivers[i], NULL), NULL), ERROR_INVALID_ARGUMENT);
        EXPECT_CODE(mount_end(bus, mount_begin(bus, long_text, NULL), NULL), ERROR_INVALID_ARGUMENT);
        EXPECT_CODE(mount_end(bus, mount_begin(bus, "sh", NULL), NULL), ERROR_MOUNTER_UNAVAILABLE);
        cr_assert_eq(fixture_count_loops(&f), 0);
}

/* Every method with no arguments, with too many, and with nonsense: an answer each, and none is a success. */
Test(hostile_calls, methods_with_other_signatures)
{
        static const char *const methods[] = { "Mount", "Unmount", "Attach", "Detach", "Expand", "Stats", "Explain", "Reconcile", "Forget", "Fence", "ForceDetach", "Nonsense" };
        _cleanup_bus_ sd_bus *bus = connect_bus();

        for (size_t i = 0; i < ELEMENTSOF(methods); i++)
                for (unsigned k = 0; k < 4; k++) {
                        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                        int r = k == 0   ? sd_bus_call_method(bus, NULL, AGENT_PATH, AGENT_INTERFACE, methods[i], &e, NULL, NULL)
                                : k == 1 ? sd_bus_call_method(bus, NULL, AGENT_PATH, AGENT_INTERFACE, methods[i], &e, NULL, "t", UINT64_MAX)
                                : k == 2 ? sd_bus_call_method(bus, NULL, AGENT_PATH, AGENT_INTERFACE, methods[i], &e, NULL, "a(sv)", 1, "x", "s", "y")
                                         : sd_bus_call_method(bus, NULL, "/io/berth/Volume1/x", AGENT_INTERFACE, methods[i], &e, NULL, "sss", "", "", "");
                        cr_assert(r < 0 && sd_bus_error_is_set(&e), "%s was accepted", methods[i]);
                }
        static const char *const keys[] = { "", "/", "..", "loop-", "loop-1-2", "-", "\xc3\xa9", "LOOP-1-2-3", ".x", "loop-1-2-3/../x" };
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                cr_assert(sd_bus_call_method(bus, NULL, AGENT_PATH, AGENT_INTERFACE, "Forget", &e, NULL, "sb", keys[i], i % 2) < 0,
                          "Forget of '%s' succeeded", keys[i]);
        }
}

/* ---- mounters that stop or die ---- */

typedef struct Mounters {
        pid_t pids[64], busy;
        size_t n;
} Mounters;

/* As GetStatus tells: all processes, and the one that is at `step` (NULL: whichever). */
static Mounters mounters_list(const char *step)
{
        _cleanup_free_ char *ctl = executable_path(&f, "berthctl");
        char *out = NULL;
        Mounters found = {};
        json_t *m;
        size_t i;

        cr_assert_eq(run((char *[]) { ctl, "status", "--json", NULL }, &out, NULL), 0);
        json_t *status = json_loads(out, JSON_REJECT_DUPLICATES, NULL), *mounters = json_object_get(status, "mounters");
        json_array_foreach (mounters, i, m) {
                pid_t pid = (pid_t) json_integer_value(json_object_get(m, "pid"));
                const char *at = json_string_value(json_object_get(m, "step"));

                found.pids[found.n++] = pid;
                if (at && (!step || strcmp(at, step) == 0))
                        found.busy = pid;
        }
        json_decref(status);
        free(out);
        return found;
}

static void signal_all(const Mounters *m, int signal)
{
        for (size_t i = 0; i < m->n; i++)
                cr_assert(kill(m->pids[i], signal) >= 0);
}

static bool someone_is_at(void *arg)
{
        return mounters_list(arg).busy > 0;
}

/* The mounter that was asked for Stats dies when the volume is gone: there is nobody left to ask about it. */
Test(hostile_calls, stats_of_a_volume_that_goes_away)
{
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
        _cleanup_bus_ sd_bus *bus = connect_bus();
        _cleanup_message_ sd_bus_message *call = NULL;
        char step[] = "stats";
        uint64_t cookie;

        cr_assert_eq(fixture_mount(&f, &p, NULL), ERROR_NONE);
        Mounters m = mounters_list(NULL);
        signal_all(&m, SIGSTOP);
        cr_assert(client_new_call(bus, "Stats", &call, NULL) >= 0 && bus_append_bytes(call, target) >= 0);
        cr_assert(sd_bus_send(bus, call, &cookie) >= 0 && sd_bus_flush(bus) >= 0);
        wait_until(someone_is_at, step, 20, "Stats has reached a mounter");
        pid_t stopped = mounters_list(step).busy;
        for (size_t i = 0; i < m.n; i++)
                if (m.pids[i] != stopped)
                        kill(m.pids[i], SIGCONT);
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
        kill(stopped, SIGKILL);
        _cleanup_message_ sd_bus_message *reply = NULL;
        while (!reply) {
                int r = sd_bus_process(bus, &reply);
                cr_assert(r >= 0 && (r > 0 || sd_bus_wait(bus, 30000000) > 0), "Stats was not answered");
        }
        cr_assert(sd_bus_message_is_method_error(reply, "io.berth.Error.NotFound"), "Stats was answered otherwise");
        cr_assert_eq(fixture_mount(&f, &p, NULL), ERROR_NONE, "berthd goes on");
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
}

/* Idle mounters that are killed just before a request comes, too late for berthd to know, cost no request. */
Test(hostile_calls, idle_mounters_killed)
{
        for (unsigned i = 0; i < 10; i++) {
                _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
                _cleanup_bus_ sd_bus *bus = connect_bus();
                _cleanup_message_ sd_bus_message *call = NULL;
                _cleanup_error_ Error err = ERROR_INIT;
                uint64_t cookie;
                Mounters m = mounters_list(NULL);

                kill(f.agent, SIGSTOP);
                cr_assert(client_new_call(bus, "Unmount", &call, NULL) >= 0 && bus_append_bytes(call, target) >= 0);
                cr_assert(sd_bus_send(bus, call, &cookie) >= 0 && sd_bus_flush(bus) >= 0);
                signal_all(&m, SIGKILL);
                kill(f.agent, SIGCONT);
                ErrorCode code = fixture_mount(&f, &p, &err);
                cr_assert_eq(code, ERROR_NONE, "Mount %u: %s: %s", i, error_code_name(code), str_or(err.text, ""));
                code = fixture_unmount(&f, target, &err);
                cr_assert_eq(code, ERROR_NONE, "Unmount %u: %s: %s", i, error_code_name(code), str_or(err.text, ""));
                _cleanup_free_ char *log = read_text(f.log);
                cr_assert_null(strstr(log, "Cannot call the mounter"), "the request in between was lost");
        }
}

/* One call, sent again and again on one connection while its mounter is stopped: what is kept of them is bounded. */
Test(hostile_calls, joined_without_end)
{
        enum { SENT = 500 };
        unsigned n_limited = 0, n_done = 0;

        fixture_stop(&f, SIGTERM);
        fixture_start(&f, "[Agent]\nMaxRequests=64\n");
        sd_bus *bus = connect_bus();
        Mounters m = mounters_list(NULL);
        signal_all(&m, SIGSTOP);
        for (unsigned i = 0; i < SENT; i++) {
                sd_bus_message *call = mount_begin(bus, "loop", NULL);
                uint64_t cookie;
                cr_assert(sd_bus_message_close_container(call) >= 0 && sd_bus_send(bus, call, &cookie) >= 0);
                sd_bus_message_unref(call);
        }
        cr_assert(sd_bus_flush(bus) >= 0);
        for (bool resumed = false; n_limited + n_done < SENT;) {
                _cleanup_message_ sd_bus_message *reply = NULL;
                int r = sd_bus_process(bus, &reply);

                cr_assert(r >= 0, "the connection ended: %s", strerror(-r));
                if (r == 0)
                        cr_assert(sd_bus_wait(bus, 60000000) > 0, "%u answers are missing", SENT - n_limited - n_done);
                if (reply && sd_bus_message_is_method_error(reply, "io.berth.Error.LimitExceeded"))
                        n_limited++;
                else if (reply && sd_bus_message_is_method_error(reply, NULL))
                        cr_assert(false, "%s", sd_bus_message_get_error(reply)->message);
                else if (reply)
                        n_done++;
                if (n_limited == SENT - 64 && !resumed) {
                        signal_all(&m, SIGCONT);
                        resumed = true;
                }
        }
        cr_assert_eq(n_done, 64U);
        sd_bus_flush_close_unref(bus);
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
}


/* Reconcile waits for the mounters, and so do those who ask for it. */
Test(hostile_calls, reconciles_without_end)
{
        enum { SENT = 2000 };
        _cleanup_bus_ sd_bus *bus = connect_bus();
        Mounters m = mounters_list(NULL);
        unsigned n_limited = 0, n_done = 0;

        signal_all(&m, SIGSTOP);
        for (unsigned i = 0; i < SENT; i++) {
                _cleanup_message_ sd_bus_message *call = NULL;
                uint64_t cookie;
                cr_assert(client_new_call(bus, "Reconcile", &call, NULL) >= 0 && sd_bus_message_append(call, "b", 1) >= 0);
                cr_assert(sd_bus_send(bus, call, &cookie) >= 0);
        }
        cr_assert(sd_bus_flush(bus) >= 0);
        for (bool resumed = false; n_limited + n_done < SENT;) {
                _cleanup_message_ sd_bus_message *reply = NULL;
                int r = sd_bus_process(bus, &reply);

                cr_assert(r >= 0, "the connection ended: %s", strerror(-r));
                if (r == 0)
                        cr_assert(sd_bus_wait(bus, 60000000) > 0, "%u answers are missing", SENT - n_limited - n_done);
                if (reply && sd_bus_message_is_method_error(reply, "io.berth.Error.LimitExceeded"))
                        n_limited++;
                else if (reply && sd_bus_message_is_method_error(reply, NULL))
                        cr_assert(false, "%s", sd_bus_message_get_error(reply)->message);
                else if (reply)
                        n_done++;
                if (n_limited > 0 && !resumed) {
                        signal_all(&m, SIGCONT);
                        resumed = true;
                }
        }
        cr_assert(n_limited > 0 && n_done > 0, "%u done, %u refused", n_done, n_limited);
}

/* A mounter that hangs before it is even ready does not hold its requests for ever, nor take the places of all others. */
Test(hostile_calls, mounter_that_hangs_at_its_start, .timeout = 120)
{
        _cleanup_free_ char *path = text("%s/mounters/mounter-hang", f.dir);
        _cleanup_bus_ sd_bus *bus = connect_bus();

        write_text(path, "#!/bin/sh\nexec sleep 3600\n");
        cr_assert(chmod(path, 0755) >= 0);
        double start = now_seconds();
        EXPECT_CODE(mount_end(bus, mount_begin(bus, "hang", NULL), NULL), ERROR_MOUNTER_UNAVAILABLE);
        cr_assert_lt(now_seconds() - start, 70, "answered after %.1f s", now_seconds() - start);
}
