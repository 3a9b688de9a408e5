/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The mounter that berth-mounter(7) prints (packaging/examples/mounter-example.c), run by berthd as any other: so that the text of the
 * page, and what it says a mounter must do, stay true.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"

static char *mounter_path(Fixture *f)
{
        return format("%s/tests/integration/mounter-example", f->build_dir);
}

static void start(Fixture *f)
{
        fixture_init(f);
        _cleanup_free_ char *from = mounter_path(f), *to = format("%s/mounters/mounter-example", f->dir);
        cr_assert_eq(symlink(from, to), 0, "%s: %s", to, strerror(errno));
        fixture_start(f, NULL);
}

static char *target_of(Fixture *f, const char *pod, const char *name)
{
        char *path = format("%s/pods/%s/volumes/berth~example/%s", f->kubelet_root, pod, name);

        cr_assert_eq(mkdir_parents(path, 0750), 0, "%s", path);
        return path;
}

static ErrorCode mount_named(Fixture *f, const char *target, const char *option, const char *value, bool read_only, char **ret_text)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        p.target = strdup(target);
        p.driver = strdup("example");
        p.pod_uid = strdup("uid");
        p.read_only = read_only;
        cr_assert(p.target && p.driver && p.pod_uid && strmap_set(&p.source, option, value) >= 0);
        ErrorCode code = fixture_mount(f, &p, &err);
        if (ret_text)
                *ret_text = TAKE_PTR(err.text);
        return code;
}

static void mount_example(Fixture *f, const char *target, const char *name, bool read_only)
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = mount_named(f, target, "name", name, read_only, &text);

        cr_assert_eq(code, ERROR_NONE, "mount of %s on %s: %s: %s", name, target, error_code_name(code), str_or(text, ""));
}

/* The options of a mount point, as the kernel has them. */
static bool has_mount_option(const char *target, const char *option)
{
        _cleanup_free_ char *options = NULL;
        char *argv[] = { "findmnt", "-n", "-o", "OPTIONS", "--mountpoint", (char *) target, NULL };

        cr_assert_eq(run(argv, &options, NULL), 0, "findmnt %s", target);
        options[strcspn(options, "\n")] = 0;
        for (char *saved, *o = strtok_r(options, ",", &saved); o; o = strtok_r(NULL, ",", &saved))
                if (strcmp(o, option) == 0)
                        return true;
        return false;
}

Test(example, two_pods_share_a_volume_and_it_lasts)
{
        Fixture f;
        start(&f);
        _cleanup_free_ char *one = target_of(&f, "uid-1", "v"), *two = target_of(&f, "uid-2", "v");

        mount_example(&f, one, "a", false);
        mount_example(&f, one, "a", false); /* a repeat finds it done */
        cr_assert_eq(fixture_count_mounts(one), 1);
        mount_example(&f, two, "a", true);
        write_line(one, "file", "from the first pod");
        expect_line(two, "file", "from the first pod");
        cr_assert(is_read_only(two) && !is_read_only(one));
        cr_assert(has_mount_option(one, "nosuid") && has_mount_option(one, "nodev"));

        _cleanup_free_ char *identity = volume_property(&f, one, "Identity");
        cr_assert_str_eq(identity, "example:a");
        unmount_ok(&f, one);
        unmount_ok(&f, one);
        expect_line(two, "file", "from the first pod");
        unmount_ok(&f, two);
        fixture_expect_clean(&f);

        mount_example(&f, two, "a", false);
        expect_line(two, "file", "from the first pod");
        unmount_ok(&f, two);
        fixture_done(&f);
}

Test(example, what_differs_or_is_hostile_is_refused)
{
        Fixture f;
        start(&f);
        _cleanup_free_ char *one = target_of(&f, "uid-1", "v"), *link = format("%s/pods/uid-1/volumes/berth~example/l", f.kubelet_root),
                            *text = NULL;

        cr_assert_eq(symlink("v", link), 0);
        cr_assert_eq(mount_named(&f, one, "path", "/etc", false, NULL), ERROR_UNKNOWN_OPTION);
        cr_assert_eq(mount_named(&f, one, "name", "../../etc", false, NULL), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(mount_named(&f, one, "name", "", false, NULL), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(mount_named(&f, link, "name", "a", false, &text), ERROR_TARGET_INVALID, "%s", str_or(text, ""));
        cr_assert_eq(rmdir(one), 0);
        cr_assert_eq(mount_named(&f, one, "name", "a", false, NULL), ERROR_TARGET_MISSING);
        fixture_expect_clean(&f);

        cr_assert_eq(mkdir(one, 0750), 0);
        mount_example(&f, one, "a", false);
        cr_assert_eq(mount_named(&f, one, "name", "b", false, NULL), ERROR_CONFLICT);
        unmount_ok(&f, one);
        fixture_done(&f);
}

Test(example, agent_and_mounters_killed)
{
        Fixture f;
        start(&f);
        _cleanup_free_ char *one = target_of(&f, "uid-1", "v"), *two = target_of(&f, "uid-2", "v");

        mount_example(&f, one, "a", false);
        write_line(one, "file", "kept");
        uint64_t id = mount_id(one);
        fixture_stop(&f, SIGKILL);
        fixture_start(&f, NULL);
        cr_assert_eq(mount_id(one), id, "the mount was made anew");

        /* every mounter process there is; the requests that follow get new ones */
        _cleanup_json_ json_t *status = BERTHCTL(&f, "status");
        const json_t *mounters = json_object_get(status, "mounters");
        unsigned n = 0;
        for (size_t i = 0; i < json_array_size(mounters); i++) {
                const json_t *m = json_array_get(mounters, i);
                if (strcmp(json_string_value(json_object_get(m, "kind")), "example") == 0)
                        n += kill((pid_t) json_integer_value(json_object_get(m, "pid")), SIGKILL) == 0;
        }
        cr_assert_gt(n, 0, "berthd has no mounter of kind example");
        mount_example(&f, two, "a", false);
        expect_line(two, "file", "kept");
        unmount_ok(&f, two);
        unmount_ok(&f, one);
        fixture_done(&f);
}

/*
 * Killed before it can say a word, as by the kernel when memory is short: the request waits for the next one. That its connection is
 * gone is seen before its end, as it may be.
 */
Test(example, a_mounter_that_is_killed_at_its_start)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *real = mounter_path(&f), *to = format("%s/mounters/mounter-example", f.dir),
                            *script = format("#!/bin/sh\n[ -e %s/once ] || { : >%s/once; exec 3>&-; sleep 0.2; kill -KILL $$; }\nexec %s \"$@\"\n",
                                             f.dir, f.dir, real),
                            *one = target_of(&f, "uid-1", "v"), *marker = format("%s/once", f.dir);

        write_text(to, script);
        cr_assert_eq(chmod(to, 0755), 0);
        fixture_start(&f, "[Mounters]\nWarm=0\n");
        mount_example(&f, one, "a", false);
        cr_assert_eq(access(marker, F_OK), 0, "no mounter was killed");
        unmount_ok(&f, one);
        fixture_done(&f);
}

/* As a mounter that has outlived its berthd would hold it. */
Test(example, waits_for_the_lock_of_the_volume)
{
        Fixture f;
        start(&f);
        _cleanup_free_ char *one = target_of(&f, "uid-1", "v"), *lock = format("%s/locks/example-a", f.runtime_dir), *dir = NULL;
        static const struct timespec pause = { .tv_nsec = 300000000 };

        dir = format("%s/example/a", f.state_dir);
        cr_assert_eq(mkdir_parents(dir, 0755), 0);
        _cleanup_close_ int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0, "%s: %s", lock, strerror(errno));

        pid_t child = fork();
        if (child == 0) {
                close(fd); /* the lock goes with the last descriptor of it */
                _exit(mount_named(&f, one, "name", "a", false, NULL) == ERROR_NONE ? 0 : 1);
        }
        nanosleep(&pause, NULL); /* nothing may happen in it: the longer the sharper */
        cr_assert_eq(fixture_count_mounts(one), 0, "it was mounted under a lock that somebody else holds");
        fd = close_fd(fd);
        int status = -1;
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_assert_eq(status, 0, "wait status %#x", (unsigned) status);
        cr_assert_eq(fixture_count_mounts(one), 1);
        unmount_ok(&f, one);
        fixture_done(&f);
}

/* Unmounted behind everybody's back: the stage is made anew, the target published. */
Test(example, an_unmounted_stage_is_made_anew)
{
        Fixture f;
        start(&f);
        _cleanup_free_ char *one = target_of(&f, "uid-1", "v"), *two = target_of(&f, "uid-2", "v");

        mount_example(&f, one, "a", false);
        _cleanup_free_ char *stage = volume_property(&f, one, "StagingPath");
        RUN_OK("umount", "--lazy", stage);
        mount_example(&f, two, "a", false);
        write_line(one, "file", "same volume");
        expect_line(two, "file", "same volume");
        unmount_ok(&f, one);
        unmount_ok(&f, two);
        fixture_done(&f);
}
