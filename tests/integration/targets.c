/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Promise 5 over the real mounter: whatever a target is, was or becomes during the call, a volume is mounted on the
 * directory that the path names or nowhere, and is unmounted from there again.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "mounter-client.h"

#define RACES 10000

static Fixture f;
static MounterClient c;
static MounterVolume v;

static void setup(void)
{
        fixture_init(&f);
        mounter_client_start(&c, &f, "loop", NULL);
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4");
        volume_init(&v, image, NULL, "ext4");
        volume_up(&c, &v);
}

static void teardown(void)
{
        volume_down(&c, &v);
        volume_free(&v);
        mounter_client_stop(&c);
        fixture_done(&f);
}

TestSuite(targets, .init = setup, .fini = teardown);

static void use_target(const char *path)
{
        cr_assert(str_replace(&v.target, path) >= 0);
}

static char *path_join(const char *a, const char *b)
{
        char *s = NULL;

        cr_assert(asprintf(&s, "%s/%s", a, b) >= 0);
        return s;
}

/* How many mounts below the fixture's directory show the volume, the stage not counted. */
static unsigned count_publishes(void)
{
        _cleanup_free_ char *table = read_text("/proc/self/mountinfo"), *device = NULL;
        unsigned n = 0;

        cr_assert(asprintf(&device, " %u:%u / ", (unsigned) (v.device_number >> 8), (unsigned) (v.device_number & 0xff)) >= 0);
        for (const char *p = table; (p = strstr(p, device)); p++)
                n++;
        cr_assert_gt(n, 0, "the stage itself is not to be seen");
        return n - 1;
}

Test(targets, flags_of_the_mount)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *ro = fixture_target(&f, "uid-2", "v"), *options = NULL,
                            *in_ro = path_join(ro, "file"), *in_rw = path_join(target, "file");

        use_target(target);
        MOUNTER_OK(&c, "Publish", &v, NULL);
        cr_assert_eq(run((char *[]){ "findmnt", "-no", "VFS-OPTIONS,PROPAGATION", target, NULL }, &options, NULL), 0);
        cr_assert(strstr(options, "nosuid") && strstr(options, "nodev") && strstr(options, "rw,") && strstr(options, "private"),
                  "%s", options);
        free(TAKE_PTR(options));

        use_target(ro);
        v.read_only = true;
        MOUNTER_OK(&c, "Publish", &v, NULL);
        cr_assert_eq(run((char *[]){ "findmnt", "-no", "VFS-OPTIONS", ro, NULL }, &options, NULL), 0);
        cr_assert(strstr(options, "ro,") && strstr(options, "nosuid"), "%s", options);
        cr_assert_neq(RUN("touch", in_ro), 0, "a read-only publish can be written");
        cr_assert_eq(RUN("touch", in_rw), 0);

        /* a repeat that differs */
        v.read_only = false;
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_CONFLICT);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        use_target(target);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        cr_assert_eq(count_publishes(), 0);
}

/* The kubelet's root is a shared mount on real nodes: containers' namespaces see the volume come and go. */
Test(targets, below_a_shared_root)
{
        RUN_OK("mount", "--bind", f.kubelet_root, f.kubelet_root);
        RUN_OK("mount", "--make-rshared", f.kubelet_root);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *peer = path_join(f.dir, "peer"), *seen = NULL, *sub = NULL;

        cr_assert(mkdir(peer, 0700) >= 0);
        RUN_OK("mount", "--bind", f.kubelet_root, peer);
        RUN_OK("mount", "--make-rslave", peer);
        use_target(target);
        MOUNTER_OK(&c, "Publish", &v, NULL);
        cr_assert_eq(fixture_count_mounts(target), 1);
        cr_assert(asprintf(&seen, "%s/pods/uid-1/volumes/berth~loop/v", peer) >= 0);
        cr_assert_eq(fixture_count_mounts(seen), 1, "the mount is not propagated");

        /* what is mounted inside one publish stays there */
        sub = path_join(target, "sub");
        cr_assert(mkdir(sub, 0700) >= 0);
        RUN_OK("mount", "-t", "tmpfs", "tmpfs", sub);
        _cleanup_free_ char *in_stage = path_join(v.staging_path, "sub");
        cr_assert_eq(fixture_count_mounts(in_stage), 0, "a mount in a pod's volume shows up in the stage");
        RUN_OK("umount", sub);

        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        cr_assert_eq(fixture_count_mounts(target), 0);
        cr_assert_eq(fixture_count_mounts(seen), 0);
        RUN_OK("umount", peer);
        RUN_OK("umount", f.kubelet_root);
}

Test(targets, strings_that_are_none)
{
        static const char *const relative[] = {
                "pods/u/volumes/berth~loop/../x", "pods/../pods/u/volumes/berth~loop/v", "pods/./u/volumes/berth~loop/v",
                "pods//u/volumes/berth~loop/v",   "pods/u/volumes/berth~loop",           "pods/u/volumes/berthloop/v",
                "pods/u/volumes/berth~loop/v/w",  "..",
        };

        for (size_t i = 0; i < ELEMENTSOF(relative); i++) {
                _cleanup_free_ char *path = path_join(f.kubelet_root, relative[i]);
                _cleanup_error_ Error err = ERROR_INIT;

                use_target(path);
                ErrorCode code = mounter_call(&c, "Publish", &v, NULL, &err);
                cr_assert(code == ERROR_TARGET_INVALID || code == ERROR_TARGET_NOT_ALLOWED, "%s: %s", path, error_code_name(code));
                code = mounter_call(&c, "Unpublish", &v, NULL, NULL);
                cr_assert(code == ERROR_TARGET_INVALID || code == ERROR_TARGET_NOT_ALLOWED, "%s: %s", path, error_code_name(code));
        }
        use_target("/etc");
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_TARGET_NOT_ALLOWED);
        cr_assert_eq(count_publishes(), 0);
}

/* Each component in turn is a link to where the real directory was moved. */
Test(targets, links_on_the_way)
{
        static const char *const components[] = { "pods", "pods/uid-1", "pods/uid-1/volumes", "pods/uid-1/volumes/berth~loop",
                                                  "pods/uid-1/volumes/berth~loop/v" };
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *aside = path_join(f.dir, "aside");

        use_target(target);
        for (size_t i = 0; i < ELEMENTSOF(components); i++) {
                _cleanup_free_ char *component = path_join(f.kubelet_root, components[i]);

                cr_assert(rename(component, aside) >= 0);
                cr_assert(symlink(aside, component) >= 0);
                MOUNTER_FAILS(&c, "Publish", &v, ERROR_TARGET_INVALID);
                cr_assert_eq(count_publishes(), 0, "mounted through a link at %s", components[i]);
                cr_assert(unlink(component) >= 0 && rename(aside, component) >= 0);
        }
        MOUNTER_OK(&c, "Publish", &v, NULL);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
}

Test(targets, neither_directory_nor_there)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *pod = path_join(f.kubelet_root, "pods/uid-1");
        MounterResult r = {};

        use_target(target);
        MOUNTER_OK(&c, "Unpublish", &v, &r);
        cr_assert_eq(r.layers, 0, "a plain directory");
        cr_assert(rmdir(target) >= 0);
        write_text(target, "a file");
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_TARGET_INVALID);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        cr_assert(unlink(target) >= 0);
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_TARGET_MISSING);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        RUN_OK("rm", "-r", pod);
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_TARGET_MISSING);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        mounter_result_done(&r);
}

Test(targets, something_else_is_mounted)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v");
        MounterResult r = {};

        RUN_OK("mount", "-t", "tmpfs", "tmpfs", target);
        use_target(target);
        MOUNTER_FAILS(&c, "Publish", &v, ERROR_CONFLICT);
        cr_assert_eq(fixture_count_mounts(target), 1);

        /* stacked mounts go all at once: the kubelet's rmdir fails until they have */
        RUN_OK("mount", "--bind", v.staging_path, target);
        RUN_OK("mount", "-t", "tmpfs", "tmpfs", target);
        RUN_OK("mount", "-t", "tmpfs", "tmpfs", target);
        MOUNTER_OK(&c, "Unpublish", &v, &r);
        cr_assert_eq(r.layers, 4);
        cr_assert(rmdir(target) >= 0);
        mounter_result_done(&r);
}

Test(targets, busy_names_the_holder)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v");
        _cleanup_error_ Error err = ERROR_INIT;
        char pid_text[32];
        int ready[2];

        use_target(target);
        MOUNTER_OK(&c, "Publish", &v, NULL);
        cr_assert(pipe2(ready, O_CLOEXEC) >= 0);
        pid_t pid = fork();
        if (pid == 0) {
                if (chdir(target) < 0 || write(ready[1], "x", 1) != 1)
                        _exit(1);
                pause();
                _exit(0);
        }
        cr_assert(pid > 0 && read(ready[0], pid_text, 1) == 1);
        cr_assert_eq(mounter_call(&c, "Unpublish", &v, NULL, &err), ERROR_BUSY);
        snprintf(pid_text, sizeof(pid_text), "pid %d (", pid);
        cr_assert(strstr(err.text, pid_text), "the holder is not named: %s", err.text);
        cr_assert_eq(fixture_count_mounts(target), 1);

        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        MOUNTER_OK(&c, "Unpublish", &v, NULL);
        cr_assert_eq(count_publishes(), 0);
}

Test(targets, any_name)
{
        char longest[256];
        memset(longest, 'n', 255);
        longest[255] = 0;
        const char *const names[] = { "a b", "a\tb", "a\nb", "a\"b", "a'b", "a\\b", "a\\040b", "\xff\xfe", "*", "-rf", "a,b", "$(x)", "é", longest };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *target = fixture_target(&f, "uid-1", names[i]);
                MounterResult r = {};

                use_target(target);
                MOUNTER_OK(&c, "Publish", &v, NULL);
                cr_assert_eq(count_publishes(), 1);
                MOUNTER_OK(&c, "Check", &v, &r);
                cr_assert(r.published, "not seen on name %zu", i);
                MOUNTER_OK(&c, "Unpublish", &v, &r);
                cr_assert_eq(r.layers, 1);
                cr_assert(rmdir(target) >= 0);
                mounter_result_done(&r);
        }
}

/* --- races --- */

typedef struct Racer {
        pid_t pid;
        volatile bool *stop;
} Racer;

/* Another process exchanges what is at path a and what is at path b until it is told to stop. */
static Racer racer_start(const char *a, const char *b)
{
        Racer r = { .stop = mmap(NULL, sizeof(bool), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) };

        cr_assert_neq((void *) r.stop, MAP_FAILED);
        r.pid = fork();
        cr_assert_geq(r.pid, 0);
        if (r.pid == 0) {
                while (!*r.stop)
                        (void) renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
                _exit(0);
        }
        return r;
}

static void racer_stop(Racer *r)
{
        *r->stop = true;
        cr_assert_eq(waitpid(r->pid, NULL, 0), r->pid);
        munmap((void *) r->stop, sizeof(bool));
}

/* Publishes and unpublishes while the racer runs; returns how often Publish succeeded. */
static unsigned race(unsigned times)
{
        unsigned n = 0;

        for (unsigned i = 0; i < times; i++) {
                _cleanup_error_ Error err = ERROR_INIT;
                ErrorCode code = mounter_call(&c, "Publish", &v, NULL, &err);

                cr_assert(code == ERROR_NONE || code == ERROR_TARGET_INVALID || code == ERROR_TARGET_MISSING ||
                                  code == ERROR_MOUNT_FAILED,
                          "race %u: %s: %s", i, error_code_name(code), str_or(err.text, ""));
                n += code == ERROR_NONE;
                /* while the link stands there the path is refused, so it is asked until the directory does */
                for (double end = now_seconds() + 10; mounter_call(&c, "Unpublish", &v, NULL, &err) != ERROR_NONE;)
                        cr_assert(now_seconds() < end, "race %u: Unpublish: %s", i, str_or(err.text, ""));
                if (code != ERROR_NONE)
                        cr_assert_eq(count_publishes(), 0, "race %u left a mount behind: %s", i, err.text);
        }
        return n;
}

/* The pod's directory is exchanged for a link that leads out of the root. */
Test(targets, directory_swapped_for_a_link, .timeout = 300)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *outside = path_join(f.dir, "outside"),
                            *pod = path_join(f.kubelet_root, "pods/uid-1"), *link = path_join(f.kubelet_root, "pods/link"),
                            *inside = path_join(outside, "volumes/berth~loop/v");

        RUN_OK("mkdir", "-p", inside);
        cr_assert(symlink(outside, link) >= 0);
        use_target(target);
        Racer r = racer_start(pod, link);
        unsigned n = race(RACES / 2);
        racer_stop(&r);
        cr_assert_eq(count_publishes(), 0, "a mount was left somewhere");
        cr_assert_gt(n, 0, "no publish ever won: nothing was raced");
        cr_log_info("%u of %u publishes succeeded beside a link", n, RACES / 2);
}

/* The pod's directory is exchanged for one outside of the root, with the same names in it. */
Test(targets, directory_moved_out_of_the_root, .timeout = 300)
{
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *outside = path_join(f.dir, "outside"),
                            *inside = path_join(outside, "v"), *drivers = path_join(f.kubelet_root, "pods/uid-1/volumes/berth~loop");
        unsigned n = 0;

        cr_assert(mkdir(outside, 0700) >= 0 && mkdir(inside, 0700) >= 0);
        use_target(target);
        Racer r = racer_start(drivers, outside);
        for (unsigned i = 0; i < RACES / 2; i++) {
                ErrorCode code = mounter_call(&c, "Publish", &v, NULL, NULL);

                cr_assert(code == ERROR_NONE || code == ERROR_TARGET_INVALID || code == ERROR_MOUNT_FAILED, "%s",
                          error_code_name(code));
                n += code == ERROR_NONE;
                if (code != ERROR_NONE) {
                        cr_assert_eq(count_publishes(), 0, "race %u left a mount behind", i);
                        continue;
                }
                /* it was at its path when that was looked at; now it moves along with the directory */
                for (double end = now_seconds() + 10; count_publishes() > 0;) {
                        code = mounter_call(&c, "Unpublish", &v, NULL, NULL);
                        cr_assert(code == ERROR_NONE || code == ERROR_TARGET_INVALID, "%s", error_code_name(code));
                        cr_assert(now_seconds() < end, "race %u: the mount is never found again", i);
                }
        }
        racer_stop(&r);
        cr_assert_eq(count_publishes(), 0, "a mount was left somewhere");
        cr_assert_gt(n, 0, "no publish ever won: nothing was raced");
        cr_log_info("%u of %u publishes succeeded beside a moving directory", n, RACES / 2);
}
