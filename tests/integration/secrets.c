/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A secret that the kubelet passes is nowhere but in the memory of those who need it, while they need it. The driver loop needs
 * none and takes no notice of any; what is shown here are the roads that all drivers' secrets take.
 */

#include <criterion/criterion.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "fixture/fixture.h"
#include "fixture/internal.h"

/* "hunter2-correct-horse", put together here, so that the test's own memory and files do not count where they are looked at */
#define SECRET_TEXT "hunter2-correct-horse"
#define SECRET_BASE64 "aHVudGVyMi1jb3JyZWN0LWhvcnNl"
#define MOUNTERS_MAX 8U

/* Under ASan freed memory is filled: what the others leave there is seen in a build without it. */
static Fixture f;
static char *target, *image;

static void setup(void)
{
        static char verbose[] = "--verbose", *arguments[] = { verbose, NULL };

        fixture_init(&f);
        f.agent_arguments = arguments;
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

TestSuite(secrets, .init = setup, .fini = teardown, .timeout = 120);

static const char *found_in(const void *data, size_t size)
{
        if (memmem(data, size, SECRET_TEXT, strlen(SECRET_TEXT)))
                return SECRET_TEXT;
        return memmem(data, size, SECRET_BASE64, strlen(SECRET_BASE64)) ? SECRET_BASE64 : NULL;
}

static void expect_not_in_file(const char *path)
{
        _cleanup_free_ char *content = NULL;
        size_t size = 0;

        if (read_file_at(AT_FDCWD, path, 64 << 20, &content, &size) >= 0)
                cr_assert_null(found_in(content, size), "%s has the secret in it", path);
}

static void expect_not_in_text(const char *what, const char *s)
{
        cr_assert_null(found_in(s, strlen(s)), "%s: %s", what, s);
}

/* Everything that the process has mapped writable, as a core dump would have it. */
static bool is_in_memory(pid_t pid)
{
        _cleanup_free_ char *maps = text("/proc/%d/maps", pid), *mem = text("/proc/%d/mem", pid), *list = read_text(maps);
        _cleanup_close_ int fd = open(mem, O_RDONLY | O_CLOEXEC);
        char *save = NULL;

        cr_assert(fd >= 0, "cannot read the memory of %d: %s", pid, strerror(errno));
        for (char *line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
                unsigned long start, end;
                char mode[5] = "";
                static char buffer[1 << 20];

                if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) != 3 || mode[0] != 'r' || mode[1] != 'w' || end - start > 1UL << 36)
                        continue;
                /* pieces overlap, so that it is found across their borders too */
                for (unsigned long at = start; at < end; at += sizeof(buffer) - 64) {
                        ssize_t n = pread(fd, buffer, end - at < sizeof(buffer) ? end - at : sizeof(buffer), (off_t) at);
                        if (n <= 0)
                                break;
                        if (found_in(buffer, (size_t) n)) {
                                explicit_bzero(buffer, sizeof(buffer));
                                return true;
                        }
                }
        }
        return false;
}

static void check_process(pid_t pid, void *arg)
{
        char name[64], state;
        pid_t parent, session;

        if (!process_stat(pid, &parent, &session, &state, name) || (pid != f.agent && parent != f.agent) || state == 'Z')
                return;
        _cleanup_free_ char *cmdline = text("/proc/%d/cmdline", pid), *environment = text("/proc/%d/environ", pid);
        expect_not_in_file(cmdline);
        expect_not_in_file(environment);
        if (*(bool *) arg)
                cr_assert(!is_in_memory(pid), "%s still has the secret in its memory", name);
}

/* Files of berth, its processes, and what people are shown. */
static void expect_nowhere(bool memory)
{
        _cleanup_free_ char *out = NULL, *errors = NULL, *ctl = executable_path(&f, "berthctl");
        static const char *const verbs[] = { "list", "status", "reconcile" }; /* the last asks the mounters, which may be stopped */

        RUN_OK("sh", "-c", "! grep -r -a -e \"$1\" -e \"$2\" \"$0\"/run \"$0\"/state \"$0\"/berthd.log", f.dir, SECRET_TEXT, SECRET_BASE64);
        for (size_t i = 0; i < ELEMENTSOF(verbs) - !memory; i++) {
                _cleanup_free_ char *shown = NULL;
                cr_assert_eq(run((char *[]) { ctl, (char *) verbs[i], "--json", NULL }, &shown, NULL), 0);
                expect_not_in_text(verbs[i], shown);
        }
        if (run((char *[]) { ctl, "explain", target, NULL }, &out, &errors) == 0)
                expect_not_in_text("explain", out);
        processes_foreach(check_process, &memory);
}

static json_t *shim_mount(const char *rest)
{
        _cleanup_free_ char *json = text("{\"kubernetes.io/fsType\":\"ext4\",\"kubernetes.io/readwrite\":\"rw\",\"path\":\"%s\","
                                         "\"kubernetes.io/secret/key\":\"" SECRET_BASE64 "\"%s}",
                                         image, rest);
        return SHIM(&f, "mount", target, json);
}

static void expect_status(json_t *reply, const char *status)
{
        _cleanup_free_ char *whole = json_dumps(reply, 0);

        cr_assert_str_eq(json_string_value(json_object_get(reply, "status")), status, "%s", whole);
        expect_not_in_text("the shim's answer", whole);
        json_decref(reply);
}

Test(secrets, nowhere_after_a_mount)
{
        for (unsigned i = 0; i < 2; i++) {
                expect_status(shim_mount(""), "Success");
                expect_nowhere(true);
                expect_status(SHIM(&f, "unmount", target), "Success");
                expect_nowhere(true);
        }
}

Test(secrets, nowhere_after_errors)
{
        static const char *const wrong[] = { ",\"colour\":\"red\"", ",\"mountOptions\":\"suid\"", ",\"path\":\"twice\"", ",\"x\":1",
                                             ",\"kubernetes.io/secret/other\":\"%%%\"", ",\"size\":\"-1\"", ",", ",\"\\u0000\":\"\"" };

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
                expect_status(shim_mount(wrong[i]), "Failure");
        cr_assert(rmdir(target) >= 0);
        expect_status(shim_mount(""), "Failure");
        expect_nowhere(true);
}

static size_t mounter_pids(pid_t pids[static MOUNTERS_MAX])
{
        _cleanup_free_ char *ctl = executable_path(&f, "berthctl"), *status = NULL;
        json_t *entry;
        size_t n = 0, i;

        cr_assert_eq(run((char *[]) { ctl, "status", "--json", NULL }, &status, NULL), 0);
        json_t *j = json_loads(status, 0, NULL);
        json_array_foreach (json_object_get(j, "mounters"), i, entry)
                if (n < MOUNTERS_MAX)
                        pids[n++] = (pid_t) json_integer_value(json_object_get(entry, "pid"));
        json_decref(j);
        cr_assert(n > 0 && n < MOUNTERS_MAX);
        return n;
}

/* A single one, and not the given. */
static bool mounter_is_another(void *arg)
{
        pid_t pids[MOUNTERS_MAX], *not_this = arg;

        if (mounter_pids(pids) != 1 || pids[0] == *not_this)
                return false;
        *not_this = pids[0];
        return true;
}

/* A library may keep a secret for as long as it is connected: so the process ends when it was not needed for a while, though it is the warm one. */
Test(secrets, who_had_it_ends)
{
        _cleanup_free_ char *ctl = executable_path(&f, "berthctl");
        pid_t pid = 0;

        fixture_stop(&f, SIGTERM);
        fixture_start(&f, "[Mounters]\nWarm=1\nIdleSec=1\n");
        expect_status(shim_mount(""), "Success"); /* so that this kind is used, and one is kept warm */
        expect_status(SHIM(&f, "unmount", target), "Success");
        RUN_OK(ctl, "reconcile", "--dry-run"); /* after the one that berthd begins with, and that may need another mounter */
        wait_until(mounter_is_another, &pid, 30, "there is one warm mounter");
        expect_status(shim_mount(""), "Success");
        wait_until(mounter_is_another, &pid, 30, "it is exchanged for a fresh one");
        expect_status(SHIM(&f, "unmount", target), "Success");
}

/* A step that takes its time: the secret is in use, but in nothing that is written or shown. */
Test(secrets, nowhere_during_a_mount)
{
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_free_ char *ctl = executable_path(&f, "berthctl");
        uint64_t cookie;
        pid_t pids[MOUNTERS_MAX];
        size_t n = mounter_pids(pids), i;

        for (i = 0; i < n; i++)
                kill(pids[i], SIGSTOP);
        cr_assert(client_connect(f.socket, UINT64_MAX, &bus, NULL) >= 0 && client_new_call(bus, "Mount", &m, NULL) >= 0);
        cr_assert(bus_append_bytes(m, target) >= 0 && sd_bus_message_append(m, "s", "loop") >= 0 && bus_append_strmap(m, &p.source) >= 0);
        cr_assert(sd_bus_message_append(m, "a{sv}", 1, "secrets", "a{ss}", 1, "key", SECRET_TEXT) >= 0);
        cr_assert(sd_bus_send(bus, m, &cookie) >= 0 && sd_bus_flush(bus) >= 0);
        for (bool busy = false; !busy;) {
                _cleanup_free_ char *now = NULL;
                cr_assert_eq(run((char *[]) { ctl, "status", "--json", NULL }, &now, NULL), 0);
                busy = strstr(now, "resolve");
        }
        expect_nowhere(false);
        cr_assert(is_in_memory(f.agent), "while it is needed it is there; or it would not be seen at all");
        for (i = 0; i < n; i++)
                kill(pids[i], SIGCONT);
        for (int r = 1; r >= 0;) {
                _cleanup_message_ sd_bus_message *reply = NULL;
                r = sd_bus_process(bus, &reply);
                cr_assert(r >= 0);
                if (r == 0)
                        cr_assert(sd_bus_wait(bus, 60000000) > 0);
                if (reply) {
                        cr_assert(!sd_bus_message_is_method_error(reply, NULL));
                        break;
                }
        }
        expect_nowhere(true);
        expect_status(SHIM(&f, "unmount", target), "Success");
}
