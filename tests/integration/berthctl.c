/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl as a process: every verb against a real agent, what it prints where, and its exit statuses. */

#include <criterion/criterion.h>

#include <fcntl.h>
#include <jansson.h>
#include <pty.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "fixture/fixture.h"
#include "protocol/names.h"

enum { DONE = 0, FAILED = 1, USAGE = 2, UNREACHABLE = 3, RETRY = 75 };

/* Runs berthctl; its output must be free of control sequences, and its errors be lines of its own. */
static int ctl_run(Fixture *f, char *const *args, char **ret_out, char **ret_err)
{
        _cleanup_free_ char *program = executable_path(f, "berthctl"), *out = NULL, *err = NULL;
        char *argv[32] = { program };

        for (size_t i = 0; args[i]; i++)
                argv[i + 1] = args[i];
        int status = run(argv, &out, &err);
        cr_assert_null(strchr(out, '\x1b'), "colour in a pipe: %s", out);
        cr_assert_null(strchr(err, '\x1b'), "colour in a pipe: %s", err);
        if (*err)
                cr_assert_eq(strncmp(err, "berthctl: ", 10), 0, "%s", err);
        if (ret_out)
                *ret_out = TAKE_PTR(out);
        if (ret_err)
                *ret_err = TAKE_PTR(err);
        return status;
}

static void expect(Fixture *f, int status, const char *text, char *const *args)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        int r = ctl_run(f, args, &out, &err);

        cr_assert_eq(r, status, "%s: status %d, not %d: %s%s", args[0], r, status, out, err);
        cr_assert(!text || strstr(r == DONE ? out : err, text), "%s: '%s%s' does not tell '%s'", args[0], out, err, text);
        cr_assert(r != DONE || !*err, "%s: %s", args[0], err);
}
#define EXPECT(f, status, text, ...) expect(f, status, text, (char *[]) { __VA_ARGS__, NULL })

/* The same with --json: one value on standard output. */
static json_t *ctl_json(Fixture *f, char *const *args)
{
        _cleanup_free_ char *out = NULL, *err = NULL;
        int status = ctl_run(f, args, &out, &err);
        json_error_t e;

        cr_assert_eq(status, DONE, "%s: status %d: %s", args[0], status, err);
        json_t *j = json_loads(out, JSON_REJECT_DUPLICATES, &e);
        cr_assert_not_null(j, "%s: %s: %s", args[0], e.text, out);
        return j;
}
#define JSON(f, ...) ctl_json(f, (char *[]) { __VA_ARGS__, "--json", NULL })

static char *format(const char *text, ...) _printf_(1, 2);
static char *format(const char *text, ...)
{
        va_list ap;
        char *s = NULL;

        va_start(ap, text);
        cr_assert(vasprintf(&s, text, ap) > 0);
        va_end(ap);
        return s;
}

static const char *string_at(const json_t *object, const char *key)
{
        const char *s = json_string_value(json_object_get(object, key));

        cr_assert_not_null(s, "no string %s", key);
        return s;
}

Test(berthctl, usage)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *secret = format("%s/secret", f.dir);

        write_text(secret, "x");
        EXPECT(&f, DONE, "Exit status", "--help");
        EXPECT(&f, DONE, "75", "help");
        EXPECT(&f, DONE, "berthctl ", "--version");
        EXPECT(&f, USAGE, "no verb", "frobnicate");
        EXPECT(&f, USAGE, "--frobnicate", "--frobnicate");
        EXPECT(&f, USAGE, "--socket", "--socket");
        EXPECT(&f, USAGE, "no verb", "help", "frobnicate");
        EXPECT(&f, USAGE, "--target is missing", "mount");
        EXPECT(&f, USAGE, "--driver is missing", "mount", "--target", "/x");
        EXPECT(&f, USAGE, "KEY=VALUE", "mount", "--target", "/x", "--driver", "loop", "--option", "path");
        EXPECT(&f, USAGE, "KEY=VALUE", "mount", "--target", "/x", "--driver", "loop", "--option", "=x");
        EXPECT(&f, USAGE, "twice", "mount", "--target", "/x", "--driver", "loop", "--option", "a=1", "--option", "a=2");
        EXPECT(&f, USAGE, "/nonexistent", "mount", "--target", "/x", "--driver", "loop", "--secret-file", "k=/nonexistent");
        EXPECT(&f, USAGE, "Too many", "mount", "--target", "/x", "--driver", "loop", "extra");
        EXPECT(&f, USAGE, "missing", "unmount");
        EXPECT(&f, USAGE, "Too many", "unmount", "a", "b");
        EXPECT(&f, USAGE, "Too many", "list", "a");
        EXPECT(&f, USAGE, "Too many", "status", "a");
        EXPECT(&f, USAGE, "missing", "explain");
        EXPECT(&f, USAGE, "Too many", "reconcile", "a");
        EXPECT(&f, USAGE, "missing", "stats");
        EXPECT(&f, USAGE, "missing", "expand", "a");
        EXPECT(&f, USAGE, "not a size", "expand", "a", "big");
        EXPECT(&f, USAGE, "missing", "forget", "--formatted");
        EXPECT(&f, USAGE, "Too many", "version", "a");
        static const char *const verbs[] = { "mount",     "unmount", "list",   "status", "explain",
                                             "reconcile", "stats",   "expand", "drain",  "forget", "version" };
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++) {
                _cleanup_free_ char *synopsis = format("berthctl %s", verbs[i]);
                EXPECT(&f, DONE, synopsis, (char *) verbs[i], "--help");
                EXPECT(&f, DONE, synopsis, "help", (char *) verbs[i]);
        }
        fixture_done(&f);
}

Test(berthctl, agent_down)
{
        Fixture f;
        fixture_init(&f);
        static char *const calls[][6] = {
                { "mount", "--target=/x", "--driver=loop", NULL },
                { "unmount", "/x", NULL },
                { "list", NULL },
                { "status", NULL },
                { "explain", "/x", NULL },
                { "reconcile", "--dry-run", NULL },
                { "stats", "/x", NULL },
                { "expand", "/x", "1G", NULL },
                { "forget", "--formatted", "x", NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(calls); i++)
                expect(&f, UNREACHABLE, "io.berth.Error.AgentUnreachable", calls[i]);

        /* its own version is known nevertheless */
        _cleanup_free_ char *out = NULL;
        cr_assert_eq(ctl_run(&f, (char *[]) { "version", NULL }, &out, NULL), UNREACHABLE);
        cr_assert(strstr(out, "berthctl:\t"), "%s", out);
        fixture_done(&f);
}

Test(berthctl, a_volumes_life)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "web \xff\t"), *shown = NULL,
                            *path = format("path=%s/web.img", f.image_dir);

        cr_assert(asprintf(&shown, "%s/pods/uid-1/volumes/berth~loop/web \\xff\\x09", f.kubelet_root) > 0);
        json_t *j = JSON(&f, "mount", "--target", target, "--driver", "loop", "--option", path, "--option", "size=320M",
                         "--fs-type", "xfs", "--mount-option", "noatime", "--pod-name", "web-0", "--pod-namespace", "shop",
                         "--pod-uid", "uid-1", "--volume-name", "pv-1");
        cr_assert_eq(strncmp(string_at(j, "volume"), VOLUME_PATH_PREFIX, strlen(VOLUME_PATH_PREFIX)), 0);
        json_decref(j);
        cr_assert_eq(fixture_count_mounts(target), 1);

        json_t *list = JSON(&f, "list");
        cr_assert_eq(json_array_size(list), 1);
        const json_t *volume = json_array_get(list, 0);
        _cleanup_free_ char *key = strdup(string_at(volume, "Key"));
        cr_assert_str_eq(string_at(volume, "State"), "staged");
        cr_assert_str_eq(string_at(volume, "FsType"), "xfs");
        cr_assert_str_eq(string_at(json_array_get(json_object_get(volume, "Publishes"), 0), "target"), shown);
        EXPECT(&f, DONE, key, "list");
        EXPECT(&f, DONE, shown, "list");

        /* by target, by key */
        char *const names[] = { target, key };
        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                static const char *const parts[] = { "shop/web-0", "uid-1", "web.img", "xfs", "staged", "/dev/loop" };
                for (size_t k = 0; k < ELEMENTSOF(parts); k++)
                        EXPECT(&f, DONE, parts[k], "explain", names[i]);
                EXPECT(&f, DONE, shown, "explain", names[i]);
                EXPECT(&f, DONE, string_at(volume, "StagingPath"), "explain", names[i]);
                json_t *explained = JSON(&f, "explain", names[i]);
                cr_assert_str_eq(string_at(explained, "Key"), key);
                cr_assert(json_is_array(json_object_get(explained, "errors")));
                json_decref(explained);
        }
        json_decref(list);

        json_t *stats = JSON(&f, "stats", target);
        cr_assert_gt(json_integer_value(json_object_get(stats, "totalBytes")), 32 << 20);
        cr_assert(json_is_true(json_object_get(stats, "healthy")));
        json_decref(stats);
        EXPECT(&f, DONE, "Healthy:\tyes", "stats", target);

        /* xfs: growing a mounted ext4 needs CAP_SYS_RESOURCE, which a container's root may lack */
        json_t *size = JSON(&f, "expand", target, "384M");
        cr_assert_eq(json_integer_value(json_object_get(size, "size")), 384 << 20);
        json_decref(size);
        EXPECT(&f, DONE, "402653184", "expand", target, "0");
        EXPECT(&f, FAILED, "io.berth.Error.Shrink", "expand", target, "64M");

        json_t *status = JSON(&f, "status");
        cr_assert_eq(json_integer_value(json_object_get(status, "volumes")), 1);
        cr_assert_eq(json_integer_value(json_object_get(status, "pid")), f.agent);
        json_decref(status);
        EXPECT(&f, DONE, "Publishes:\t1", "status");

        json_t *steps = JSON(&f, "reconcile", "--dry-run");
        cr_assert_eq(json_array_size(steps), 0);
        json_decref(steps);
        EXPECT(&f, RETRY, "io.berth.Error.Busy", "forget", key);

        EXPECT(&f, DONE, NULL, "unmount", target);
        cr_assert_eq(fixture_count_mounts(target), 0);
        json_decref(JSON(&f, "unmount", target));
        list = JSON(&f, "list");
        cr_assert_eq(json_array_size(list), 0);
        json_decref(list);
        fixture_done(&f);
}

Test(berthctl, exit_statuses)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *path = format("--option=path=%s/v.img", f.image_dir),
                            *missing = format("--target=%s/pods/u/volumes/berth~loop/missing", f.kubelet_root),
                            *at = format("--target=%s", target);

        EXPECT(&f, FAILED, "io.berth.Error.ImageNotFound", "mount", at, "--driver=loop", path);
        EXPECT(&f, FAILED, "io.berth.Error.UnknownOption", "mount", at, "--driver=loop", path, "--option=size=64M", "--option=x=y");
        EXPECT(&f, FAILED, "io.berth.Error.ForbiddenOption", "mount", at, "--driver=loop", path, "--option=size=64M",
               "--mount-option=suid");
        EXPECT(&f, FAILED, "io.berth.Error.TargetNotAllowed", "mount", "--target=/etc", "--driver=loop", path, "--option=size=64M");
        EXPECT(&f, FAILED, "io.berth.Error.NotFound", "explain", "/nothing\xff\n");
        EXPECT(&f, FAILED, "\\xff", "unmount", "/not-allowed/\xff\n");
        EXPECT(&f, FAILED, "io.berth.Error.NotFound", "stats", target);
        EXPECT(&f, FAILED, "io.berth.Error.NotFound", "expand", target, "1G");
        EXPECT(&f, FAILED, "io.berth.Error.NotFound", "forget", "no-such-volume");
        EXPECT(&f, RETRY, "io.berth.Error.TargetMissing", "mount", missing, "--driver=loop", path, "--option=size=64M");
        EXPECT(&f, DONE, NULL, "unmount", target);
        fixture_done(&f);
}

Test(berthctl, reconcile_and_versions)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, "[Agent]\nLingerSec=100ms\n");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *path = format("--option=path=%s/v.img", f.image_dir),
                            *at = format("--target=%s", target);

        /* unmounted by hand, which berthd sees by itself: on a busy machine it may have put things right before it is asked */
        json_t *steps = NULL;
        for (unsigned i = 0; i < 20 && json_array_size(steps) == 0; i++) {
                json_decref(steps);
                EXPECT(&f, DONE, NULL, "mount", at, "--driver=loop", path, "--option=size=64M");
                cr_assert(umount2(target, MNT_DETACH) >= 0);
                steps = JSON(&f, "reconcile", "--dry-run");
        }
        cr_assert_geq(json_array_size(steps), 1);
        cr_assert(*string_at(json_array_get(steps, 0), "reason"));
        cr_assert_null(json_object_get(json_array_get(steps, 0), "result"));
        json_decref(steps);
        EXPECT(&f, DONE, "STEP\tVOLUME\tTARGET\tREASON\tRESULT", "reconcile");

        json_t *versions = JSON(&f, "version");
        cr_assert_str_eq(string_at(versions, "berthctl"), string_at(versions, "berthd"));
        json_decref(versions);
        EXPECT(&f, DONE, "berthd:\t", "version");
        fixture_done(&f);
}

/* The secret's way: a file, never an argument; without its newline. */
Test(berthctl, secret_files)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = format("path=%s/v.img", f.image_dir),
                            *file = format("%s/secret", f.dir), *option = format("key=%s", file), *zero = NULL, *log = NULL;

        write_text(file, "hunter2-hunter2\n");
        EXPECT(&f, DONE, NULL, "mount", "--target", target, "--driver", "loop", "--option", image, "--option", "size=64M",
               "--secret-file", option);
        EXPECT(&f, DONE, NULL, "unmount", target);
        log = read_text(f.log);
        cr_assert_null(strstr(log, "hunter2"), "a secret in the log");

        zero = format("key=/dev/zero");
        EXPECT(&f, USAGE, "/dev/zero", "mount", "--target", target, "--driver", "loop", "--secret-file", zero);
        fixture_done(&f);
}

/* What it prints on a terminal. */
static char *on_terminal(Fixture *f, char *const *args, const char *no_color)
{
        _cleanup_free_ char *program = executable_path(f, "berthctl");
        char *argv[8] = { program }, *out = calloc(1, 65536);
        size_t size = 0;
        int terminal, status;

        for (size_t i = 0; args[i]; i++)
                argv[i + 1] = args[i];
        pid_t pid = forkpty(&terminal, NULL, NULL, NULL);
        if (pid == 0) {
                setenv("TERM", "xterm", 1);
                if (no_color)
                        setenv("NO_COLOR", no_color, 1);
                else
                        unsetenv("NO_COLOR");
                execv(program, argv);
                _exit(127);
        }
        for (ssize_t n; size < 65535 && (n = read(terminal, out + size, 65535 - size)) > 0;)
                size += (size_t) n;
        close(terminal);
        cr_assert(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        return out;
}

Test(berthctl, terminal)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v\x1b[31m"), *path = format("--option=path=%s/v.img", f.image_dir),
                            *at = format("--target=%s", target);
        char *list[] = { "list", NULL }, *explain[] = { "explain", target, NULL };

        EXPECT(&f, DONE, NULL, "mount", at, "--driver=loop", path, "--option=size=64M");
        _cleanup_free_ char *coloured = on_terminal(&f, list, NULL), *plain = on_terminal(&f, list, "1"),
                            *explained = on_terminal(&f, explain, "1");
        cr_assert(strstr(coloured, "\x1b[1mVOLUME"), "%s", coloured);
        cr_assert_null(strstr(coloured, "\x1b[31m"), "a name drives the terminal");
        cr_assert(strstr(coloured, "v\\x1b[31m"), "%s", coloured);
        cr_assert_null(strchr(plain, '\x1b'), "colour in spite of NO_COLOR");
        cr_assert_null(strchr(plain, '\t'), "tabs on a terminal: %s", plain);
        cr_assert_null(strchr(explained, '\x1b'));

        EXPECT(&f, DONE, NULL, "unmount", target);
        _cleanup_free_ char *none = on_terminal(&f, list, NULL);
        cr_assert_str_eq(none, "No volumes.\r\n");
        fixture_done(&f);
}

Test(berthctl, full_output)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *program = executable_path(&f, "berthctl"), *err = NULL;

        int status = run((char *[]) { "sh", "-c", "\"$0\" help >/dev/full", program, NULL }, NULL, &err);
        cr_assert_eq(status, FAILED);
        cr_assert(strstr(err, "cannot write"), "%s", err);
        fixture_done(&f);
}
