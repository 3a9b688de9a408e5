/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * SIGHUP: what the configuration says now counts from then on, for berthd and its mounters, without a volume noticing; one that is
 * wrong changes nothing, not even for mounters that are started later.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <signal.h>
#include <string.h>
#include <sys/stat.h>

#define MIB (UINT64_C(1) << 20)

static uint64_t status_number(Fixture *f, const char *key)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");

        return (uint64_t) json_integer_value(json_object_get(status, key));
}

static bool has_reloaded(void *arg)
{
        uint64_t *wanted = arg;

        return status_number((Fixture *) (uintptr_t) wanted[0], "reloads") >= wanted[1];
}

/* The drop-in that fixture_start() writes, anew; then SIGHUP, until berthd has been through it. */
static void reload(Fixture *f, const char *config)
{
        _cleanup_free_ char *dir = format("%s.d", f->config), *drop_in = format("%s/test.conf", dir);
        uint64_t wanted[2] = { (uint64_t) (uintptr_t) f, status_number(f, "reloads") + 1 };

        (void) mkdir(dir, 0755);
        write_text(drop_in, config);
        cr_assert_eq(kill(f->agent, SIGHUP), 0);
        wait_until(has_reloaded, wanted, 10, "berthd read its configuration anew");
}

static char *reload_error(Fixture *f)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");

        return strdup(json_string_value(json_object_get(status, "reloadError")));
}

Test(reload, new_settings_count_for_berthd_and_mounters)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, "[Agent]\nMaxConnections=100\n");
        _cleanup_free_ char *elsewhere = format("%s/elsewhere", f.dir), *path = format("%s/w", elsewhere), *allowed = format("%s/there", elsewhere),
                            *before = fixture_target(&f, "uid-1", "v"), *after = fixture_target(&f, "uid-2", "v"),
                            *image = fixture_image(&f, "v", 64 * MIB), *config = NULL, *error = NULL;

        cr_assert(mkdir(elsewhere, 0700) == 0 && mkdir(allowed, 0755) == 0);
        cr_assert_eq(RUN("truncate", "-s", "64M", path), 0);
        mount_ok(&f, before, &(Volume) { .image = image });
        uint64_t id = mount_id(before);
        mount_refused(&f, after, &(Volume) { .image = path }, ERROR_IMAGE_FORBIDDEN, NULL);
        mount_refused(&f, allowed, &(Volume) { .image = image }, ERROR_TARGET_NOT_ALLOWED, NULL);

        config = format("[Loop]\nDirectories=%s %s\n[Targets]\nAllow=%s\n[Mounters]\nWarm=1\n", f.image_dir, elsewhere, elsewhere);
        reload(&f, config);
        error = reload_error(&f);
        cr_assert_str_empty(error);
        mount_ok(&f, after, &(Volume) { .image = path });
        mount_ok(&f, allowed, &(Volume) { .image = image });
        cr_assert_eq(mount_id(before), id);

        char *const targets[] = { before, after, allowed };
        for (size_t i = 0; i < ELEMENTSOF(targets); i++)
                unmount_ok(&f, targets[i]);
        wait_clean(&f, 5);
        cr_assert(unlink(path) == 0 && rmdir(allowed) == 0 && rmdir(elsewhere) == 0);
        fixture_done(&f);
}

Test(reload, a_wrong_file_changes_nothing)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, "[Mounters]\nWarm=1\nOperationsMax=1\n");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB), *log = NULL;
        static const char *const wrong[] = { "[Mounters]\nWarm=lots\n", "[Agent]\nNoSuchKey=1\n", "[Loop]\nDirectories=/nowhere\n[NoSuch]\nA=b\n" };

        for (size_t i = 0; i < ELEMENTSOF(wrong); i++) {
                reload(&f, wrong[i]);
                _cleanup_free_ char *error = reload_error(&f);
                cr_assert(strstr(error, "test.conf"), "'%s' does not name the file", error);
                /* each needs mounters that are started only now, with the wrong file in place */
                mount_ok(&f, target, &(Volume) { .image = image });
                unmount_ok(&f, target);
        }
        log = read_text(f.log);
        cr_assert(strstr(log, "the former one stays in force"), "not said in the log");
        reload(&f, "");
        _cleanup_free_ char *error = reload_error(&f);
        cr_assert_str_empty(error);
        fixture_done(&f);
}

Test(reload, fixed_settings_are_named)
{
        Fixture f;
        fixture_init(&f);
        static char *const verbose[] = { (char *) "--verbose", NULL };
        f.agent_arguments = verbose;
        fixture_start(&f, "");
        _cleanup_free_ char *log = NULL;

        /* the fixture gives all paths on the command line, which wins: so nothing changes, and nothing is said */
        reload(&f, "[Paths]\nSocket=/elsewhere.sock\n");
        log = read_text(f.log);
        cr_assert_null(strstr(log, "until berthd is restarted"), "%s", log);
        cr_assert_eq(status_number(&f, "volumes"), 0);
        fixture_done(&f);
}

/* A mounter at work goes on with what it has, and is not used again. */
Test(reload, work_goes_on)
{
        Fixture f;
        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, "[Mounters]\nMax=2\nWarm=1\n");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB);
        const Volume v = { .image = image };

        Call call = call_start(&f, CALL_MOUNT, target, &v);
        gate_wait(&f, 1);
        pid_t busy = gate_caller(&f);
        for (unsigned i = 0; i < 5; i++)
                reload(&f, i % 2 ? "[Mounters]\nMax=2\nWarm=1\n" : "[Mounters]\nMax=3\nWarm=2\n");
        cr_assert(call_runs(&call));
        cr_assert_eq(kill(busy, 0), 0);
        gate_open(&f);
        cr_assert_eq(call_wait(&call), ERROR_NONE);

        _cleanup_json_ json_t *status = BERTHCTL(&f, "status");
        const json_t *mounters = json_object_get(status, "mounters");
        for (size_t i = 0; i < json_array_size(mounters); i++) {
                const json_t *m = json_array_get(mounters, i);
                if (json_integer_value(json_object_get(m, "pid")) == busy)
                        cr_assert_str_neq(json_string_value(json_object_get(m, "state")), "idle", "one with old settings is kept");
        }
        unmount_ok(&f, target);
        gate_done(&f);
        fixture_done(&f);
}

/* Many at once, with requests between them. */
Test(reload, storm)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, "");
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "v", 64 * MIB);
        const Volume v = { .image = image };

        for (unsigned i = 0; i < 20; i++) {
                for (unsigned k = 0; k < 10; k++)
                        kill(f.agent, SIGHUP);
                mount_ok(&f, target, &v);
                kill(f.agent, SIGHUP);
                unmount_ok(&f, target);
        }
        cr_assert_geq(status_number(&f, "reloads"), 20);
        wait_clean(&f, 5);
        fixture_done(&f);
}
