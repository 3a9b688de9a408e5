/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What every mounter must do, over its real interface: each method twice, in order; the lock of the key; what a
 * signal, a closed connection and a malformed request do. Here for the loop kind.
 */

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "mounter-client.h"
#include "protocol/names.h"

static Fixture f;
static MounterClient c;

static void setup(void)
{
        fixture_init(&f);
        mounter_client_start(&c, &f, "loop", NULL);
}

static void teardown(void)
{
        if (c.pid > 0)
                mounter_client_stop(&c);
        fixture_done(&f);
}

TestSuite(mounter, .init = setup, .fini = teardown);

Test(mounter, every_method_twice)
{
        _cleanup_free_ char *image = fixture_image(&f, "a.img", 64 << 20), *target = fixture_target(&f, "uid-1", "v");
        MounterVolume v;
        MounterResult r = {}, again = {};

        volume_init(&v, image, NULL, "ext4");
        MOUNTER_OK(&c, "Resolve", &v, &r);
        volume_resolve(&c, &v);
        cr_assert_str_eq(r.key, v.key);
        cr_assert_str_eq(r.identity, v.identity);

        volume_attach(&c, &v);
        MOUNTER_OK(&c, "Attach", &v, &again);
        cr_assert_str_eq(again.device, v.device);
        cr_assert_eq(fixture_count_loops(&f), 1);

        MOUNTER_OK(&c, "Stage", &v, &r);
        cr_assert(r.next && strcmp(r.next, "format") == 0);
        MOUNTER_OK(&c, "Format", &v, &r);
        _cleanup_free_ char *uuid = strdup(r.uuid);
        MOUNTER_OK(&c, "Format", &v, &r);
        cr_assert_str_eq(r.uuid, uuid, "a second Format finds what the first made");
        MOUNTER_OK(&c, "Fsck", &v, NULL);
        MOUNTER_OK(&c, "Fsck", &v, NULL);
        MOUNTER_OK(&c, "Stage", &v, &r);
        MOUNTER_OK(&c, "Stage", &v, &again);
        cr_assert_eq(r.mount_id, again.mount_id);
        cr_assert_eq(fixture_count_mounts(v.staging_path), 1);
        cr_assert_str_eq(r.fs_type, "ext4");
        cr_assert_str_eq(r.uuid, uuid);

        v.target = strdup(target);
        MOUNTER_OK(&c, "Publish", &v, &r);
        MOUNTER_OK(&c, "Publish", &v, &again);
        cr_assert_eq(r.mount_id, again.mount_id);
        cr_assert_eq(fixture_count_mounts(target), 1);

        MOUNTER_OK(&c, "Check", &v, &r);
        cr_assert(r.attached && r.staged && r.published && r.healthy && !r.corrupted);
        cr_assert_eq(r.mount_id, again.mount_id);
        MOUNTER_OK(&c, "Stats", &v, &r);
        cr_assert(r.healthy && r.total_bytes > (32 << 20) && r.total_inodes > 0);

        MOUNTER_OK(&c, "Unpublish", &v, &r);
        cr_assert_eq(r.layers, 1);
        MOUNTER_OK(&c, "Unpublish", &v, &r);
        cr_assert_eq(r.layers, 0);
        volume_down(&c, &v);
        volume_down(&c, &v);
        MOUNTER_OK(&c, "Check", &v, &r);
        cr_assert(!r.attached && !r.staged && !r.published && r.healthy);
        MOUNTER_OK(&c, "Forget", &v, NULL);
        MOUNTER_OK(&c, "Forget", &v, NULL);

        mounter_result_done(&r);
        mounter_result_done(&again);
        volume_free(&v);
        fixture_expect_clean(&f);
}

/* xfs, since growing a mounted ext4 needs CAP_SYS_RESOURCE, which containers often lack. */
Test(mounter, expands_and_never_shrinks)
{
        MounterResult r = {};
        MounterVolume v;

        volume_init(&v, "grow.img", "320M", "xfs");
        volume_up(&c, &v);
        v.size = UINT64_C(640) << 20;
        for (unsigned i = 0; i < 2; i++) {
                MOUNTER_OK(&c, "Expand", &v, &r);
                cr_assert_eq(r.size, v.size);
        }
        MOUNTER_OK(&c, "Stats", &v, &r);
        cr_assert_gt(r.total_bytes, UINT64_C(500) << 20);
        v.size = UINT64_C(320) << 20;
        MOUNTER_FAILS(&c, "Expand", &v, ERROR_SHRINK);
        v.size = 0;
        MOUNTER_OK(&c, "Expand", &v, &r);
        cr_assert_eq(r.size, UINT64_C(640) << 20);
        volume_down(&c, &v);
        mounter_result_done(&r);
        volume_free(&v);
}

Test(mounter, creates_once)
{
        static const char *const allocations[] = { "sparse", "reserved" };

        for (size_t i = 0; i < ELEMENTSOF(allocations); i++) {
                _cleanup_free_ char *path = NULL;
                struct stat st;
                MounterVolume v;

                cr_assert(asprintf(&path, "%s/%s.img", f.image_dir, allocations[i]) >= 0);
                volume_init(&v, path, "64M", "");
                cr_assert(strmap_set(&v.source, "allocation", allocations[i]) >= 0);
                v.read_only = true;
                MOUNTER_FAILS(&c, "Resolve", &v, ERROR_IMAGE_NOT_FOUND);
                v.read_only = false;
                volume_up(&c, &v);
                cr_assert(stat(path, &st) >= 0 && st.st_size == 64 << 20);
                if (i == 1)
                        cr_assert(st.st_blocks * 512 >= 64 << 20, "reserved, but has %jd blocks", (intmax_t) st.st_blocks);
                else
                        cr_assert(st.st_blocks * 512 < 32 << 20, "sparse, but has %jd blocks", (intmax_t) st.st_blocks);
                volume_down(&c, &v);

                /* the second Create finds the first one's file */
                ino_t inode = st.st_ino;
                MOUNTER_OK(&c, "Create", &v, NULL);
                cr_assert(stat(path, &st) >= 0 && st.st_ino == inode);
                volume_free(&v);
        }
        cr_assert_eq(RUN("sh", "-c", "test \"$(ls -A \"$0\" | wc -l)\" = 2", f.image_dir), 0, "something else was left in the directory");
}

Test(mounter, too_small_before_anything_is_made)
{
        static const char *const cases[][2] = { { "xfs", "64M" }, { "btrfs", "64M" }, { "ext4", "4K" } };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                MounterVolume v;

                volume_init(&v, "small.img", cases[i][1], cases[i][0]);
                v.key = strdup("loop-new-0");
                MOUNTER_FAILS(&c, "Create", &v, ERROR_TOO_SMALL);
                volume_free(&v);
        }
        cr_assert_eq(RUN("rmdir", f.image_dir), 0, "the directory is not empty");
        cr_assert_eq(mkdir(f.image_dir, 0700), 0);
}

Test(mounter, image_on_a_full_file_system)
{
        _cleanup_free_ char *small = NULL, *image = NULL, *text = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        MounterResult r = {};
        MounterVolume v;

        cr_assert(asprintf(&small, "%s/small", f.image_dir) >= 0 && asprintf(&image, "%s/a.img", small) >= 0);
        cr_assert(mkdir(small, 0700) >= 0);
        RUN_OK("mount", "-t", "tmpfs", "-o", "size=24M", "tmpfs", small);

        volume_init(&v, image, "64M", "ext4");
        cr_assert(strmap_set(&v.source, "allocation", "reserved") >= 0);
        v.key = strdup("loop-new-0");
        cr_assert_eq(mounter_call(&c, "Create", &v, NULL, &err), ERROR_NO_SPACE);
        cr_assert(strstr(err.text, image), "the error must name the image: %s", err.text);
        cr_assert(access(image, F_OK) < 0);

        cr_assert(strmap_set(&v.source, "allocation", "sparse") >= 0);
        volume_up(&c, &v);
        MOUNTER_OK(&c, "Stats", &v, &r);
        cr_assert(!r.healthy && r.reason && strstr(r.reason, "free"), "the shortage below is not reported");
        MOUNTER_OK(&c, "Check", &v, &r);
        cr_assert(r.healthy && r.reason, "the mount is well, the shortage a remark");
        volume_down(&c, &v);
        text = read_text(f.log);
        cr_assert(strstr(text, "bytes free"), "the shortage is not logged: %s", text);
        mounter_result_done(&r);
        volume_free(&v);
        RUN_OK("umount", small);
}

Test(mounter, the_lock_of_the_key)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *lock = NULL;
        static const char *const locking[] = { "Create", "Attach",  "Stage",   "Format", "Fsck",   "Publish",
                                               "Unpublish", "Unstage", "Detach", "Expand", "Forget" };
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        cr_assert(asprintf(&lock, "%s/locks/%s", f.runtime_dir, v.key) >= 0);
        _cleanup_close_ int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) >= 0);
        v.target = fixture_target(&f, "uid-1", "v");

        for (size_t i = 0; i < ELEMENTSOF(locking); i++)
                MOUNTER_FAILS(&c, locking[i], &v, ERROR_LOCKED);
        MOUNTER_OK(&c, "Resolve", &v, NULL);
        MOUNTER_OK(&c, "Check", &v, NULL);
        cr_assert(unlink(lock) >= 0);
        volume_attach(&c, &v);
        volume_down(&c, &v);
        cr_assert(access(lock, F_OK) < 0, "Detach leaves no lock file");
        volume_free(&v);
}

Test(mounter, keys_are_file_names_only)
{
        static const char *const bad[] = { "", ".", "..", "../x", "a/b", "A", ".hidden", "a b", "a\n",
                                           "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };
        MounterVolume v;

        volume_init(&v, "a.img", NULL, "ext4");
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                cr_assert(str_replace(&v.key, bad[i]) >= 0);
                MOUNTER_FAILS(&c, "Attach", &v, ERROR_INVALID_ARGUMENT);
        }
        cr_assert(str_replace(&v.key, NULL) >= 0);
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_INVALID_ARGUMENT);
        volume_free(&v);
}

/* One request with an entry of the given type; what comes back. */
static ErrorCode call_with_entry(const char *key, const char *type, uint64_t value)
{
        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert(sd_bus_message_new_method_call(c.bus, &m, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "Resolve") >= 0);
        cr_assert(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        if (*type == 's')
                cr_assert(bus_append_entry(m, key, "s", "x") >= 0);
        else
                cr_assert(bus_append_entry(m, key, type, value) >= 0);
        cr_assert(sd_bus_message_close_container(m) >= 0);
        if (sd_bus_call(c.bus, m, 0, &e, &reply) >= 0)
                return ERROR_NONE;
        (void) error_from_bus(&err, &e, ERROR_MOUNTER_DIED);
        cr_assert(err.text && (strcmp(key, "later") == 0 || strstr(err.text, key)), "the error must name %s: %s", key, err.text);
        return err.code;
}

Test(mounter, wrong_types_and_unknown_keys)
{
        cr_assert_eq(call_with_entry("key", "t", 1), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(call_with_entry("source", "s", 1), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(call_with_entry("size", "s", 1), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(call_with_entry("target", "s", 1), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(call_with_entry("readOnly", "t", 1), ERROR_INVALID_ARGUMENT);
        /* an unknown key is no error: the missing path is */
        cr_assert_eq(call_with_entry("later", "t", 1), ERROR_INVALID_ARGUMENT);
}

Test(mounter, unknown_options)
{
        MounterVolume v;

        volume_init(&v, "a.img", NULL, "ext4");
        cr_assert(strmap_set(&v.source, "colour", "red") >= 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_UNKNOWN_OPTION);
        strmap_remove(&v.source, "colour");
        cr_assert(strmap_set(&v.source, "allocation", "thin") >= 0);
        MOUNTER_FAILS(&c, "Resolve", &v, ERROR_INVALID_ARGUMENT);
        strmap_remove(&v.source, "allocation");
        static const char *const sizes[] = { "", "0", "-1", "64X", "1e9", "99999999999999999999", "8191P" };
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
                cr_assert(strmap_set(&v.source, "size", sizes[i]) >= 0);
                ErrorCode code = mounter_call(&c, "Resolve", &v, NULL, NULL);
                if (strcmp(sizes[i], "8191P") != 0)
                        cr_assert_eq(code, ERROR_INVALID_ARGUMENT, "size '%s' gave %s", sizes[i], error_code_name(code));
        }
        volume_free(&v);
}

Test(mounter, properties)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_free_ char *kind = NULL;
        unsigned version = 0;

        cr_assert(sd_bus_get_property_trivial(c.bus, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "ProtocolVersion", &e, 'u', &version) >= 0);
        cr_assert_eq(version, MOUNTER_PROTOCOL_VERSION);
        cr_assert(sd_bus_get_property_string(c.bus, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "Kind", &e, &kind) >= 0);
        cr_assert_str_eq(kind, "loop");
}

/* Whether the mounter has the image open that it makes, or has made it: its call has begun. */
static bool image_is_being_made(void *arg)
{
        _cleanup_free_ char *dir_path = NULL;

        if (access(arg, F_OK) >= 0)
                return true;
        cr_assert(asprintf(&dir_path, "/proc/%d/fd", c.pid) >= 0);
        _cleanup_closedir_ DIR *dir = opendir(dir_path);
        for (struct dirent *d; dir && (d = readdir(dir));) {
                char link[PATH_MAX];
                ssize_t n = readlinkat(dirfd(dir), d->d_name, link, sizeof(link) - 1);

                if (n > 0 && (size_t) n > strlen(f.image_dir) && strncmp(link, f.image_dir, strlen(f.image_dir)) == 0 &&
                    link[strlen(f.image_dir)] == '/')
                        return true;
        }
        return false;
}

/* berthd is killed while a Create runs: the work is finished, and the process ends by itself with status 0. */
Test(mounter, finishes_when_the_connection_closes)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_free_ char *path = NULL;
        int status = -1;
        MounterVolume v;

        cr_assert(asprintf(&path, "%s/a.img", f.image_dir) >= 0);
        volume_init(&v, path, "512M", "ext4");
        cr_assert(strmap_set(&v.source, "allocation", "reserved") >= 0);
        v.key = strdup("loop-new-0");
        m = mounter_request(&c, "Create", &v);
        cr_assert(sd_bus_send(c.bus, m, NULL) >= 0);
        cr_assert(sd_bus_flush(c.bus) >= 0);
        m = sd_bus_message_unref(m);
        /* a call that has not begun when its caller dies does not begin any more */
        wait_until(image_is_being_made, path, 20, "the image is being made");
        mounter_client_disconnect(&c);
        cr_assert(waitpid(c.pid, &status, 0) == c.pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", (unsigned) status);
        cr_assert(access(path, F_OK) >= 0, "the image was not finished");
        volume_free(&v);
        c.pid = 0;
}

/* A call that it finds when its berthd is dead does not begin, and leaves nothing that says so. */
Test(mounter, does_not_begin_for_a_dead_berthd)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *lock = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        int status = -1;
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        cr_assert(asprintf(&lock, "%s/locks/%s", f.runtime_dir, v.key) >= 0);
        cr_assert(kill(c.pid, SIGSTOP) >= 0 && waitpid(c.pid, &status, WUNTRACED) == c.pid && WIFSTOPPED(status));
        m = mounter_request(&c, "Attach", &v);
        cr_assert(sd_bus_send(c.bus, m, NULL) >= 0 && sd_bus_flush(c.bus) >= 0);
        m = sd_bus_message_unref(m);
        mounter_client_disconnect(&c);
        cr_assert(kill(c.pid, SIGCONT) >= 0 && waitpid(c.pid, &status, 0) == c.pid);
        c.pid = 0;
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", (unsigned) status);
        cr_assert_eq(fixture_count_loops(&f), 0, "it attached the image");
        cr_assert(access(lock, F_OK) < 0, "the lock file was left");
        volume_free(&v);
}

/* SIGTERM, which berthd sends to what is killable, does not end a Create: its answer comes first. */
Test(mounter, termination_waits_for_what_must_finish)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        int status = -1;
        MounterVolume v;

        cr_assert(asprintf(&path, "%s/a.img", f.image_dir) >= 0);
        volume_init(&v, path, "512M", "ext4");
        cr_assert(strmap_set(&v.source, "allocation", "reserved") >= 0);
        v.key = strdup("loop-new-0");
        MOUNTER_FAILS(&c, "Check", &v, ERROR_INVALID_ARGUMENT); /* it is up and answers */
        m = mounter_request(&c, "Create", &v);
        cr_assert(sd_bus_send(c.bus, m, NULL) >= 0);
        cr_assert(sd_bus_flush(c.bus) >= 0);
        m = sd_bus_message_unref(m);

        /* the lock file is there while Create works: from then on SIGTERM has to wait */
        _cleanup_free_ char *lock = NULL;
        cr_assert(asprintf(&lock, "%s/locks/loop-new-0", f.runtime_dir) >= 0);
        for (double end = now_seconds() + 20; access(lock, F_OK) < 0 && access(path, F_OK) < 0;)
                cr_assert(now_seconds() < end, "Create has not begun");
        cr_assert(kill(c.pid, SIGTERM) >= 0);
        cr_assert(waitpid(c.pid, &status, 0) == c.pid);
        cr_assert((WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM), "status 0x%x", (unsigned) status);
        cr_assert(access(path, F_OK) >= 0, "the image was not finished");
        cr_assert(access(lock, F_OK) < 0, "the lock file was left");
        mounter_client_disconnect(&c);
        volume_free(&v);
        c.pid = 0;
}
