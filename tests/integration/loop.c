/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The loop kind's identity and ownership over the real mounter: an inode never gets two devices, a device of somebody
 * else is never let go, and a new image appears whole or not at all.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/loop.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "mounter-client.h"

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

TestSuite(loop, .init = setup, .fini = teardown);

static char *in_dir(const char *dir, const char *name)
{
        char *s = NULL;

        cr_assert(asprintf(&s, "%s/%s", dir, name) >= 0);
        return s;
}

static void status_of(const char *device, struct loop_info64 *ret)
{
        _cleanup_close_ int fd = open(device, O_RDONLY | O_CLOEXEC);

        cr_assert(fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, ret) >= 0, "%s is not bound", device);
}

/* An operator's losetup; the device's path. */
static char *losetup(const char *image, const char *option)
{
        char *device = NULL, *argv[] = { "losetup", "--find", "--show", (char *) image, (char *) option, NULL };

        cr_assert_eq(run(argv, &device, NULL), 0, "losetup failed");
        device[strcspn(device, "\n")] = 0;
        return device;
}

static bool no_loops(void *arg)
{
        return fixture_count_loops(&f) == 0;
}

/* losetup -d. A process that looks at every device of the node this moment puts the end off until it has looked. */
static void losetup_end(const char *device)
{
        RUN_OK("losetup", "-d", (char *) device);
}

static void expect_no_loops(void)
{
        wait_until(no_loops, NULL, 5, "a loop device is left");
}

Test(loop, every_path_of_an_image_is_the_same_volume)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *link = in_dir(f.image_dir, "link"),
                            *absolute = in_dir(f.image_dir, "absolute"), *dir = in_dir(f.image_dir, "dir"),
                            *roundabout = in_dir(f.image_dir, "dir/../a.img");
        const char *const paths[] = { image, link, absolute, "a.img", "./a.img", roundabout, "dir/up" };
        _cleanup_free_ char *up = in_dir(f.image_dir, "dir/up");
        MounterVolume first;

        cr_assert(mkdir(dir, 0700) >= 0 && symlink("a.img", link) >= 0 && symlink(image, absolute) >= 0 && symlink("../a.img", up) >= 0);
        volume_init(&first, image, NULL, "ext4");
        volume_up(&c, &first);
        for (size_t i = 0; i < ELEMENTSOF(paths); i++) {
                MounterVolume v;

                volume_init(&v, paths[i], NULL, "ext4");
                volume_resolve(&c, &v);
                cr_assert_str_eq(v.key, first.key, "%s", paths[i]);
                volume_attach(&c, &v);
                cr_assert_str_eq(v.device, first.device);
                cr_assert(!v.foreign);
                volume_free(&v);
        }
        cr_assert_eq(fixture_count_loops(&f), 1);
        volume_down(&c, &first);
        volume_free(&first);
}

Test(loop, images_that_are_refused)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *hard = in_dir(f.image_dir, "hard"),
                            *out = in_dir(f.image_dir, "out"), *far = in_dir(f.image_dir, "far"), *other = in_dir(f.dir, "b.img"),
                            *fifo = in_dir(f.image_dir, "fifo"), *node = in_dir(f.image_dir, "node"),
                            *dangling = in_dir(f.image_dir, "dangling"), *self = in_dir(f.image_dir, "self");
        const struct {
                const char *path, *size;
                ErrorCode code;
        } cases[] = {
                { image, NULL, ERROR_IMAGE_INVALID }, /* two hard links: by either name */
                { hard, NULL, ERROR_IMAGE_INVALID },
                { fifo, NULL, ERROR_IMAGE_INVALID },
                { node, NULL, ERROR_IMAGE_INVALID },
                { f.image_dir, NULL, ERROR_IMAGE_FORBIDDEN },
                { ".", NULL, ERROR_IMAGE_INVALID },
                { out, NULL, ERROR_IMAGE_FORBIDDEN },
                { far, NULL, ERROR_IMAGE_FORBIDDEN },
                { self, NULL, ERROR_IMAGE_FORBIDDEN },
                { other, NULL, ERROR_IMAGE_FORBIDDEN },
                { "../b.img", NULL, ERROR_IMAGE_FORBIDDEN },
                { "../b.img", "64M", ERROR_IMAGE_FORBIDDEN },
                { "../new.img", "64M", ERROR_IMAGE_FORBIDDEN },
                { "/etc/new.img", "64M", ERROR_IMAGE_FORBIDDEN },
                { dangling, "64M", ERROR_IMAGE_NOT_FOUND },
                { "missing.img", NULL, ERROR_IMAGE_NOT_FOUND },
                { "nodir/new.img", "64M", ERROR_IMAGE_NOT_FOUND },
                { "a.img/new.img", "64M", ERROR_IMAGE_NOT_FOUND },
        };

        write_text(other, "not an image of berth");
        cr_assert(link(image, hard) >= 0 && mkfifo(fifo, 0600) >= 0 && mknod(node, S_IFBLK | 0600, makedev(7, 0)) >= 0);
        cr_assert(symlink("../b.img", out) >= 0 && symlink(other, far) >= 0 && symlink("nowhere", dangling) >= 0 &&
                  symlink("self", self) >= 0);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_error_ Error err = ERROR_INIT;
                MounterVolume v;

                volume_init(&v, cases[i].path, cases[i].size, "ext4");
                ErrorCode code = mounter_call(&c, "Resolve", &v, NULL, &err);
                cr_assert_eq(code, cases[i].code, "%s: %s (%s)", cases[i].path, error_code_name(code), str_or(err.text, ""));
                volume_free(&v);
        }
        cr_assert_eq(fixture_count_loops(&f), 0);
}

/* An image that is exchanged between Resolve and Attach is not attached under the other's name. */
Test(loop, exchanged_image)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"),
                            *other = fixture_image_formatted(&f, "b.img", 16 << 20, "ext4");
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        cr_assert(renameat2(AT_FDCWD, image, AT_FDCWD, other, RENAME_EXCHANGE) >= 0);
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_DEVICE_CHANGED);
        cr_assert_eq(fixture_count_loops(&f), 0);
        volume_free(&v);
}

Test(loop, tag_of_an_own_device)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *tag = NULL;
        struct loop_info64 info;
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        v.read_only = true;
        volume_attach(&c, &v);
        status_of(v.device, &info);
        cr_assert(asprintf(&tag, "berth:%s", v.key) >= 0);
        cr_assert_str_eq((const char *) info.lo_file_name, tag);
        cr_assert(info.lo_flags & LO_FLAGS_READ_ONLY);

        /* read-write on what is attached read-only is refused */
        v.read_only = false;
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_READ_ONLY_STAGE);
        volume_down(&c, &v);
        volume_attach(&c, &v);
        status_of(v.device, &info);
        cr_assert(!(info.lo_flags & LO_FLAGS_READ_ONLY));
        volume_down(&c, &v);
        volume_free(&v);
}

Test(loop, an_operators_device_is_used_and_left)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *device = losetup(image, NULL);
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_up(&c, &v);
        cr_assert_str_eq(v.device, device);
        cr_assert(v.foreign);
        cr_assert_eq(fixture_count_loops(&f), 1);
        volume_down(&c, &v);
        cr_assert_eq(fixture_count_loops(&f), 1, "the operator's device was detached");
        /* even when berthd has forgotten whose it was */
        v.foreign = false;
        volume_down(&c, &v);
        cr_assert_eq(fixture_count_loops(&f), 1, "the operator's device was detached");
        losetup_end(device);
        expect_no_loops();
        volume_free(&v);
}

Test(loop, devices_that_cannot_be_used)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *first = NULL, *second = NULL;
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        first = losetup(image, "--offset=4096");
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_CONFLICT);
        losetup_end(first);
        expect_no_loops();
        free(first);
        first = losetup(image, "--read-only");
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_READ_ONLY_STAGE);
        second = losetup(image, "--read-only");
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_CONFLICT);
        losetup_end(first);
        losetup_end(second);
        expect_no_loops();
        volume_free(&v);
}

static void expect_format(MounterVolume *v, ErrorCode code, const char *image, const char *what)
{
        _cleanup_free_ char *before = file_checksum(image), *after = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        /* what a device has beyond its file cannot be read either, if it is looked at first */
        (void) mounter_call(&c, "Format", v, NULL, &err);
        cr_assert(err.code == code || (code == ERROR_DEVICE_CHANGED && err.code == ERROR_DEVICE_ERROR), "%s: %s: %s", what,
                  error_code_name(err.code), str_or(err.text, "formatted"));
        after = file_checksum(image);
        cr_assert_str_eq(before, after, "%s: the image was changed", what);
}

/* A loop device keeps its size until it is told: what an image has been given since, or lost, is not what is proved blank. */
Test(loop, an_image_whose_size_changed_is_not_formatted)
{
        _cleanup_free_ char *image = fixture_image(&f, "a.img", 16 << 20);
        MounterVolume v;
        MounterResult r = {};

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        volume_attach(&c, &v);
        MOUNTER_OK(&c, "Stage", &v, &r);
        cr_assert_str_eq(str_or(r.next, "mounted"), "format");
        mounter_result_done(&r);

        cr_assert_eq(truncate(image, 8 << 20), 0);
        expect_format(&v, ERROR_DEVICE_CHANGED, image, "shrunk");

        _cleanup_close_ int fd = open(image, O_WRONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && pwrite(fd, "data", 4, 24 << 20) == 4 && ftruncate(fd, 32 << 20) >= 0);
        expect_format(&v, ERROR_DEVICE_CHANGED, image, "grown");
        RUN_OK("losetup", "--set-capacity", v.device);
        expect_format(&v, ERROR_NOT_BLANK, image, "grown, and the device told");

        cr_assert(ftruncate(fd, 20 << 20) >= 0);
        expect_format(&v, ERROR_DEVICE_CHANGED, image, "shrunk again");
        volume_down(&c, &v);
        volume_up(&c, &v); /* a new device has the size that the image has now */
        volume_down(&c, &v);
        volume_free(&v);
}

/* The table of what is known about devices must not outlive a binding: the same number, another image. */
Test(loop, numbers_are_used_again)
{
        MounterVolume v[2];
        _cleanup_free_ char *a = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"),
                            *b = fixture_image_formatted(&f, "b.img", 16 << 20, "ext4");
        const char *const images[] = { a, b };

        for (unsigned i = 0; i < 2; i++) {
                volume_init(&v[i], images[i], NULL, "ext4");
                volume_resolve(&c, &v[i]);
        }
        for (unsigned n = 0; n < 10; n++) {
                volume_attach(&c, &v[n % 2]);
                volume_attach(&c, &v[1 - n % 2]);
                cr_assert_str_neq(v[0].device, v[1].device);
                volume_down(&c, &v[0]);
                _cleanup_free_ char *device = losetup(images[0], NULL);
                volume_attach(&c, &v[0]);
                cr_assert_str_eq(v[0].device, device, "the operator's device was not found");
                cr_assert_eq(fixture_count_loops(&f), 2);
                volume_down(&c, &v[0]); /* leaves it */
                losetup_end(device);
                volume_down(&c, &v[1]);
                expect_no_loops();
                cr_assert(str_replace(&v[0].device, NULL) >= 0 && str_replace(&v[1].device, NULL) >= 0);
        }
        volume_free(&v[0]);
        volume_free(&v[1]);
}

/*
 * A process that uses the stage in a mount namespace of its own. The copy of the mount alone would not hold anything:
 * removing the staging directory takes it away in every namespace.
 */
static pid_t namespace_holder(const char *stage, int *ret_release)
{
        int ready[2], release[2];
        char byte;

        cr_assert(pipe2(ready, O_CLOEXEC) >= 0 && pipe2(release, O_CLOEXEC) >= 0);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                close(release[1]);
                if (unshare(CLONE_NEWNS) < 0 || chdir(stage) < 0 || write(ready[1], "x", 1) != 1)
                        _exit(1);
                _exit(read(release[0], &byte, 1) < 0);
        }
        close(release[0]);
        close(ready[1]);
        cr_assert(pid > 0 && read(ready[0], &byte, 1) == 1);
        close(ready[0]);
        *ret_release = release[1];
        return pid;
}

Test(loop, held_by_another_mount_namespace)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"), *device = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        struct loop_info64 info;
        char pid_text[32];
        MounterVolume v;
        int release;

        volume_init(&v, image, NULL, "ext4");
        volume_up(&c, &v);
        device = strdup(v.device);
        pid_t pid = namespace_holder(v.staging_path, &release);

        MOUNTER_OK(&c, "Unstage", &v, NULL);
        ErrorCode code = mounter_call(&c, "Detach", &v, NULL, &err);
        cr_assert_eq(code, ERROR_BUSY, "%s: %s", error_code_name(code), str_or(err.text, ""));
        snprintf(pid_text, sizeof(pid_text), "pid %d (", pid);
        cr_assert(strstr(err.text, pid_text), "the holder is not named: %s", err.text);
        status_of(device, &info);
        cr_assert(info.lo_flags & LO_FLAGS_AUTOCLEAR);

        /* attached again meanwhile: the same device, which now stays when the other lets go */
        cr_assert(str_replace(&v.device, NULL) >= 0);
        volume_attach(&c, &v);
        cr_assert_str_eq(v.device, device);
        cr_assert_eq(fixture_count_loops(&f), 1);
        volume_stage(&c, &v);
        status_of(device, &info);
        cr_assert(!(info.lo_flags & LO_FLAGS_AUTOCLEAR));
        MOUNTER_FAILS(&c, "Detach", &v, ERROR_BUSY); /* it is mounted here as well */
        volume_attach(&c, &v);
        close(release);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        status_of(device, &info);
        volume_down(&c, &v);

        /* and once more, with nobody attaching: the kernel lets it go with its last user */
        volume_up(&c, &v);
        pid = namespace_holder(v.staging_path, &release);
        MOUNTER_OK(&c, "Unstage", &v, NULL);
        MOUNTER_FAILS(&c, "Detach", &v, ERROR_BUSY);
        close(release);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
        expect_no_loops();
        MOUNTER_OK(&c, "Detach", &v, NULL);
        volume_free(&v);
}

typedef struct Attempt {
        MounterClient client;
        ErrorCode code;
        bool answered;
} Attempt;

static int on_attached(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        Attempt *a = userdata;
        _cleanup_error_ Error err = ERROR_INIT;

        if (sd_bus_message_is_method_error(m, NULL))
                (void) error_from_bus(&err, sd_bus_message_get_error(m), ERROR_MOUNTER_DIED);
        a->code = err.code;
        a->answered = true;
        return 0;
}

static void attempt_send(Attempt *a, const MounterVolume *v)
{
        _cleanup_message_ sd_bus_message *m = mounter_request(&a->client, "Attach", v);

        a->answered = false;
        cr_assert(sd_bus_call_async(a->client.bus, NULL, m, on_attached, a, 0) >= 0 && sd_bus_flush(a->client.bus) >= 0);
}

/* Several mounters at one image: the lock lets one do it, the others find what it made. */
Test(loop, attached_by_many_at_once, .timeout = 120)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4");
        Attempt attempts[4];
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        for (unsigned i = 0; i < ELEMENTSOF(attempts); i++)
                mounter_client_start(&attempts[i].client, &f, "loop", NULL);
        for (unsigned round = 0; round < 50; round++) {
                unsigned n = 0;

                for (unsigned i = 0; i < ELEMENTSOF(attempts); i++)
                        attempt_send(&attempts[i], &v);
                for (unsigned i = 0; n < ELEMENTSOF(attempts); i = (i + 1) % ELEMENTSOF(attempts)) {
                        Attempt *a = &attempts[i];

                        if (a->answered && a->code != ERROR_LOCKED)
                                continue;
                        cr_assert(sd_bus_wait(a->client.bus, 1000) >= 0 && sd_bus_process(a->client.bus, NULL) >= 0);
                        if (!a->answered)
                                continue;
                        cr_assert(a->code == ERROR_NONE || a->code == ERROR_LOCKED, "%s", error_code_name(a->code));
                        n += a->code == ERROR_NONE;
                        if (a->code == ERROR_LOCKED)
                                attempt_send(a, &v);
                }
                cr_assert_eq(fixture_count_loops(&f), 1);
                volume_attach(&c, &v);
                volume_down(&c, &v);
                cr_assert(str_replace(&v.device, NULL) >= 0);
        }
        for (unsigned i = 0; i < ELEMENTSOF(attempts); i++)
                mounter_client_stop(&attempts[i].client);
        volume_free(&v);
}

/* losetup does not ask anybody: whoever comes second, mounter or operator, there is one device that the volume uses. */
Test(loop, beside_an_operators_losetup, .timeout = 120)
{
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4");
        unsigned n_ours = 0;
        MounterVolume v;

        volume_init(&v, image, NULL, "ext4");
        volume_resolve(&c, &v);
        for (unsigned round = 0; round < 50; round++) {
                pid_t pid = fork();
                if (pid == 0) {
                        execlp("losetup", "losetup", "--find", image, NULL);
                        _exit(127);
                }
                cr_assert_gt(pid, 0);
                ErrorCode code = mounter_call(&c, "Attach", &v, NULL, NULL);
                cr_assert_eq(waitpid(pid, NULL, 0), pid);
                cr_assert(code == ERROR_NONE || code == ERROR_IN_USE || code == ERROR_CONFLICT, "%s", error_code_name(code));
                n_ours += code == ERROR_NONE;

                /* two can be there only when losetup came after our second look; nothing is staged on either then */
                if (fixture_count_loops(&f) > 1)
                        MOUNTER_FAILS(&c, "Attach", &v, ERROR_CONFLICT);
                cr_assert(str_replace(&v.device, NULL) >= 0);
                RUN_OK("sh", "-c", "for d in $(losetup -j \"$0\" | cut -d: -f1); do losetup -d \"$d\"; done", image);
                expect_no_loops();
                volume_down(&c, &v);
        }
        cr_log_info("%u of 50 attaches won beside losetup", n_ours);
        volume_free(&v);
}

/* A mounter that is killed while it makes an image leaves nothing under any name. */
Test(loop, killed_while_creating)
{
        static const char *const sizes[] = { "64M", "256M", "1G", "300M", "128M" };

        for (unsigned i = 0; i < ELEMENTSOF(sizes); i++) {
                _cleanup_message_ sd_bus_message *m = NULL;
                _cleanup_free_ char *path = in_dir(f.image_dir, "new.img"), *lock = NULL;
                MounterVolume v;

                volume_init(&v, path, sizes[i], "ext4");
                v.key = strdup("loop-new-0");
                cr_assert(asprintf(&lock, "%s/locks/%s", f.runtime_dir, v.key) >= 0);
                m = mounter_request(&c, "Create", &v);
                cr_assert(sd_bus_send(c.bus, m, NULL) >= 0 && sd_bus_flush(c.bus) >= 0);
                m = sd_bus_message_unref(m);
                for (double end = now_seconds() + 20, begin = now_seconds(); access(lock, F_OK) < 0 || now_seconds() - begin < 0.004 * i;)
                        if (access(path, F_OK) >= 0 || now_seconds() > end)
                                break;
                cr_assert(kill(c.pid, SIGKILL) >= 0 && waitpid(c.pid, NULL, 0) == c.pid);
                mounter_client_disconnect(&c);
                mounter_client_start(&c, &f, "loop", NULL);

                /* its mkfs may go on; while it does, the lock is held */
                ErrorCode code;
                do
                        code = mounter_call(&c, "Create", &v, NULL, NULL);
                while (code == ERROR_LOCKED);
                cr_assert_eq(code, ERROR_NONE, "%s", error_code_name(code));
                cr_assert_eq(RUN("sh", "-c", "test \"$(ls -A \"$0\")\" = new.img", f.image_dir), 0, "something was left");
                RUN_OK("e2fsck", "-fn", path);
                volume_up(&c, &v);
                volume_down(&c, &v);
                cr_assert(unlink(path) >= 0);
                volume_free(&v);
        }
}

/* From now on this process and what it starts live on file systems without O_TMPFILE, as NFS and FAT are. */
static void without_tmpfile(void)
{
        struct sock_filter program[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 3),
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])), /* little-endian: the low half */
                BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_TMPFILE & ~O_DIRECTORY, 0, 1),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog filter = { .len = ELEMENTSOF(program), .filter = program };

        cr_assert(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) >= 0);
        cr_assert(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) >= 0);
        cr_assert(open(f.image_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) < 0 && errno == EOPNOTSUPP);
}

Test(loop, create_without_tmpfile)
{
        _cleanup_free_ char *path = in_dir(f.image_dir, "new.img"), *lock = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        MounterVolume v;
        ErrorCode code;

        mounter_client_stop(&c);
        without_tmpfile();
        mounter_client_start(&c, &f, "loop", NULL);
        volume_init(&v, path, "256M", "ext4");
        v.key = strdup("loop-new-0");
        cr_assert(asprintf(&lock, "%s/locks/%s", f.runtime_dir, v.key) >= 0);

        /* killed in the middle: what is left under the temporary name goes with the next try */
        m = mounter_request(&c, "Create", &v);
        cr_assert(sd_bus_send(c.bus, m, NULL) >= 0 && sd_bus_flush(c.bus) >= 0);
        m = sd_bus_message_unref(m);
        for (double end = now_seconds() + 20; access(lock, F_OK) < 0 && access(path, F_OK) < 0 && now_seconds() < end;)
                ;
        cr_assert(kill(c.pid, SIGKILL) >= 0 && waitpid(c.pid, NULL, 0) == c.pid);
        mounter_client_disconnect(&c);
        mounter_client_start(&c, &f, "loop", NULL);
        do
                code = mounter_call(&c, "Create", &v, NULL, NULL);
        while (code == ERROR_LOCKED);
        cr_assert_eq(code, ERROR_NONE, "%s", error_code_name(code));
        cr_assert_eq(RUN("sh", "-c", "test \"$(ls -A \"$0\")\" = new.img", f.image_dir), 0, "something was left");
        volume_up(&c, &v);
        volume_down(&c, &v);
        volume_free(&v);
}

static bool is_readable(void *arg)
{
        return access(arg, R_OK) == 0;
}

/* An operator's loop device whose file's server has died cannot be asked which file it shows. */
Test(loop, somebody_elses_dead_storage)
{
        _cleanup_free_ char *dir = in_dir(f.dir, "fuse"), *dead = in_dir(f.dir, "fuse/image"), *helper = NULL, *device = NULL,
                            *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"),
                            *lower = fixture_image(&f, "lower.img", 16 << 20);
        struct loop_info64 info;
        MounterVolume v;

        cr_assert(asprintf(&helper, "%s/tests/integration/fuse-image", f.build_dir) >= 0);
        cr_assert(mkdir(dir, 0700) >= 0);
        pid_t pid = fork();
        cr_assert(pid >= 0);
        if (pid == 0) {
                execl(helper, helper, lower, "0", "0", dir, "-f", "-s", "-o", "attr_timeout=0", NULL);
                _exit(127);
        }
        wait_until(is_readable, dead, 30, "the FUSE file system is mounted");
        device = losetup(dead, "--read-only");
        cr_assert(kill(pid, SIGKILL) >= 0 && waitpid(pid, NULL, 0) == pid);
        int fd = open(device, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        cr_assert(ioctl(fd, LOOP_GET_STATUS64, &info) < 0 && errno == ENOTCONN, "the storage is not dead");
        close(fd);

        /* somebody has the image open: no lease, so all devices are looked at */
        fd = open(image, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0);
        volume_init(&v, image, NULL, "ext4");
        volume_up(&c, &v);
        volume_down(&c, &v);
        volume_free(&v);
        close(fd);
        losetup_end(device);
        cr_assert_eq(umount2(dir, MNT_DETACH), 0, "%s", strerror(errno));
        cr_assert_eq(rmdir(dir), 0);
}
