/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Promise 5 end to end: requests as a hostile author of pods would have them made, through the API and through the
 * shim, while a bystander's valid requests go on being served. Each is refused by its own error and changes nothing.
 */

#include <criterion/criterion.h>

#include <fcntl.h>
#include <jansson.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "bystander.h"
#include "fixture/internal.h"
#include "protocol/names.h"

static Fixture f;
static Bystander bystander;
static char *image, *before;

static void setup(void)
{
        fixture_init(&f);
        fixture_start(&f, NULL);
        bystander_start(&bystander, &f);
        image = fixture_image_formatted(&f, "image.img", 16 << 20, "ext4");
}

static void teardown(void)
{
        bystander_wait(&bystander, 2);
        bystander_stop(&bystander);
        free(image);
        free(before);
        fixture_done(&f);
}

TestSuite(hostile, .init = setup, .fini = teardown, .timeout = 300);

/* From here on nothing may change. */
static void freeze(void)
{
        free(before);
        before = snapshot_take(&f, &bystander);
}

static void expect_unchanged(void)
{
        snapshot_expect(&f, &bystander, before);
}

static bool is_one_of(ErrorCode code, const ErrorCode *codes)
{
        for (; *codes != ERROR_NONE; codes++)
                if (*codes == code)
                        return true;
        return false;
}

/* The answer of the shim: the error's code, ERROR_NONE for success. */
static ErrorCode shim_code(char *const *args)
{
        json_t *reply = shim(&f, args);
        const char *status = json_string_value(json_object_get(reply, "status"));
        const char *message = json_string_value(json_object_get(reply, "message"));
        ErrorCode code = ERROR_NONE;
        char name[64] = "";

        if (strcmp(status, "Success") != 0) {
                const char *at = message ? strstr(message, "(io.berth.Error.") : NULL;
                cr_assert(at && sscanf(at, "(%63[^)])", name) == 1, "%s: no error is named: %s", args[0], str_or(message, ""));
                code = error_code_from_name(name);
        }
        json_decref(reply);
        return code;
}

/* The JSON of a mount with more options; `rest` is JSON text such as ",\"size\":\"1\"". */
static char *mount_json(const char *path, const char *access, const char *rest)
{
        json_t *s = json_string(path);
        char *quoted = json_dumps(s, JSON_ENCODE_ANY);
        char *json = text("{\"kubernetes.io/fsType\":\"ext4\",\"kubernetes.io/readwrite\":\"%s\",\"path\":%s%s}", access, quoted,
                          rest);

        json_decref(s);
        free(quoted);
        return json;
}

static void refused(const char *what, ErrorCode code, const ErrorCode *expected)
{
        cr_assert(is_one_of(code, expected), "%s: answered by %s, not by %s", what, code == ERROR_NONE ? "success" : error_code_name(code),
                  error_code_name(expected[0]));
}
#define CODES(...) ((const ErrorCode[]) { __VA_ARGS__, ERROR_NONE })

/* Mount on target is refused, by both roads. Read-only: staging it read-write would leave the date in its superblock. */
static void target_refused(const char *target, const ErrorCode *expected)
{
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", true);
        _cleanup_free_ char *json = mount_json(image, "ro", "");
        _cleanup_error_ Error err = ERROR_INIT;

        refused(target, fixture_mount(&f, &p, &err), expected);
        cr_assert(err.text && *err.text);
        refused(target, shim_code((char *[]) { "mount", (char *) target, json, NULL }), expected);
}

static void unmount_refused(const char *target, const ErrorCode *expected)
{
        refused(target, fixture_unmount(&f, target, NULL), expected);
        refused(target, shim_code((char *[]) { "unmount", (char *) target, NULL }), expected);
}

/* ---- targets ---- */

Test(hostile, strings_that_are_no_targets)
{
        static const char *const bad[] = {
                "/pods/../pods/u/volumes/berth~loop/v", "/pods/u/../u/volumes/berth~loop/v", "/pods/u/volumes/berth~loop/..",
                "/pods/u/volumes/berth~loop/v/..", "/pods/u/volumes/berth~loop/./v", "/./pods/u/volumes/berth~loop/v",
                "//pods/u/volumes/berth~loop/v", "/pods/u/volumes/berth~loop//v", "/pods//volumes/berth~loop/v",
                "/pods/u/volumes/berth~loop/v//", "/pods/u/volumes/berth~loop/\xff/../v", "/../kubelet/pods/u/volumes/berth~loop/v",
        };
        static const char *const elsewhere[] = {
                "", "/", "/pods", "/pods/u", "/pods/u/volumes", "/pods/u/volumes/berth~loop", "/pods/u/volumes/berth~loop/",
                "/pods/u/volumes/loop/v", "/pods/u/volumes/berth~loop/v/deeper", "/pods/u/etc-hosts", "/pods/u/plugins/berth~loop/v",
                "x/pods/u/volumes/berth~loop/v", "/plugins/kubernetes.io/flexvolume/berth/loop/mounts",
                "/plugins/kubernetes.io/csi/berth/loop/mounts/v", "/Pods/u/volumes/berth~loop/v",
        };
        _cleanup_free_ char *good = fixture_target(&f, "u", "v"), *relative = text("%s", good + 1),
                            *long_name = text("%s/pods/u/volumes/berth~loop/%0256d", f.kubelet_root, 0),
                            *long_path = text("%s/%04090d", f.kubelet_root, 0), *huge = text("%s/%0100000d", f.kubelet_root, 0);
        freeze();

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_free_ char *target = text("%s%s", f.kubelet_root, bad[i]);
                target_refused(target, CODES(ERROR_TARGET_INVALID));
                unmount_refused(target, CODES(ERROR_TARGET_INVALID));
        }
        for (size_t i = 0; i < ELEMENTSOF(elsewhere); i++) {
                _cleanup_free_ char *target = text("%s%s", f.kubelet_root, elsewhere[i]);
                target_refused(target, CODES(ERROR_TARGET_NOT_ALLOWED, ERROR_TARGET_INVALID));
                unmount_refused(target, CODES(ERROR_TARGET_NOT_ALLOWED, ERROR_TARGET_INVALID));
        }
        const char *const others[] = { "/", "/etc", "/proc/self/fd/3", "/proc/1/root", f.image_dir, f.state_dir, f.runtime_dir,
                                       f.allow_dir, "", ".", "..", relative, "pods/u/volumes/berth~loop/v", long_name, long_path, huge };
        for (size_t i = 0; i < ELEMENTSOF(others); i++) {
                target_refused(others[i], CODES(ERROR_TARGET_NOT_ALLOWED, ERROR_TARGET_INVALID, ERROR_INVALID_ARGUMENT));
                unmount_refused(others[i], CODES(ERROR_TARGET_NOT_ALLOWED, ERROR_TARGET_INVALID, ERROR_INVALID_ARGUMENT));
        }
        expect_unchanged();
}

/* Each component in turn is a link to where the real one has been moved: inside the root, and outside. */
Test(hostile, links_at_each_component)
{
        static const char *const components[] = { "pods", "pods/u", "pods/u/volumes", "pods/u/volumes/berth~loop",
                                                  "pods/u/volumes/berth~loop/v" };
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *outside = text("%s/outside", f.dir),
                            *moved = text("%s/moved", f.kubelet_root);

        /* the bystander's own directory is below pods: it rests meanwhile */
        for (size_t i = 0; i < ELEMENTSOF(components) * 2; i++) {
                const char *to = i % 2 ? outside : moved;
                _cleanup_free_ char *component = text("%s/%s", f.kubelet_root, components[i / 2]);

                pthread_mutex_lock(&bystander.between);
                cr_assert(rename(component, to) >= 0 && symlink(to, component) >= 0);
                _cleanup_free_ char *now = snapshot_take(&f, NULL);
                target_refused(target, CODES(ERROR_TARGET_INVALID));
                if (i / 2 < 4)
                        unmount_refused(target, CODES(ERROR_TARGET_INVALID));
                else
                        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE); /* nothing is mounted on a link */
                snapshot_expect(&f, NULL, now);
                cr_assert(unlink(component) >= 0 && rename(to, component) >= 0);
                pthread_mutex_unlock(&bystander.between);
        }
}

/* The root itself may be a link when berthd starts; exchanged for one later, it leads nowhere. */
Test(hostile, root_exchanged_for_a_link)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *away = text("%s/away", f.dir);

        pthread_mutex_lock(&bystander.between);
        cr_assert(rename(f.kubelet_root, away) >= 0 && symlink(away, f.kubelet_root) >= 0);
        _cleanup_free_ char *now = snapshot_take(&f, NULL);
        target_refused(target, CODES(ERROR_TARGET_INVALID));
        unmount_refused(target, CODES(ERROR_TARGET_INVALID));
        snapshot_expect(&f, NULL, now);
        cr_assert(unlink(f.kubelet_root) >= 0 && rename(away, f.kubelet_root) >= 0);
        pthread_mutex_unlock(&bystander.between);
}

Test(hostile, targets_that_are_no_directories)
{
        static const struct {
                const char *name;
                mode_t type;
        } nodes[] = { { "file", S_IFREG }, { "fifo", S_IFIFO }, { "socket", S_IFSOCK }, { "device", S_IFCHR }, { "block", S_IFBLK } };
        _cleanup_free_ char *parent = fixture_target(&f, "u", ""), *missing = text("%s/missing", parent),
                            *dangling = text("%s/dangling", parent), *orphan = text("%s/pods/none/volumes/berth~loop/v", f.kubelet_root);

        for (size_t i = 0; i < ELEMENTSOF(nodes); i++) {
                _cleanup_free_ char *path = text("%s/%s", parent, nodes[i].name);
                cr_assert(mknod(path, nodes[i].type | 0600, makedev(7, 0)) >= 0);
        }
        cr_assert(symlink("nowhere", dangling) >= 0);
        freeze();
        for (size_t i = 0; i < ELEMENTSOF(nodes); i++) {
                _cleanup_free_ char *path = text("%s/pods/u/volumes/berth~loop/%s", f.kubelet_root, nodes[i].name);
                double start = now_seconds();
                target_refused(path, CODES(ERROR_TARGET_INVALID));
                cr_assert_eq(fixture_unmount(&f, path, NULL), ERROR_NONE, "%s is free of mounts", path);
                cr_assert_lt(now_seconds() - start, 20, "%s kept the mounter waiting", path);
        }
        _cleanup_free_ char *link = text("%s/pods/u/volumes/berth~loop/dangling", f.kubelet_root);
        target_refused(link, CODES(ERROR_TARGET_INVALID));
        _cleanup_free_ char *gone = text("%s/pods/u/volumes/berth~loop/missing", f.kubelet_root);
        target_refused(gone, CODES(ERROR_TARGET_MISSING));
        target_refused(orphan, CODES(ERROR_TARGET_MISSING));
        cr_assert_eq(fixture_unmount(&f, orphan, NULL), ERROR_NONE);
        cr_assert(access(missing, F_OK) < 0);
        expect_unchanged();
}

/* A target that cannot be is found before anything is begun for it: no image is made, no blank one formatted. */
Test(hostile, nothing_is_made_for_a_target_that_cannot_be)
{
        _cleanup_free_ char *blank = fixture_image(&f, "blank.img", 16 << 20), *unmade = text("%s/unmade.img", f.image_dir), *file = text("%s/pods/u/volumes/berth~loop/file", f.kubelet_root);
        _cleanup_mount_params_ MountParams format = loop_params(file, blank, "ext4", false), make = loop_params(file, unmade, "ext4", false);

        free(fixture_target(&f, "u", ""));
        write_text(file, "no directory");
        cr_assert_eq(strmap_set(&make.source, "size", "16M"), 0);
        freeze();
        cr_assert_eq(fixture_mount(&f, &format, NULL), ERROR_TARGET_INVALID);
        cr_assert_eq(fixture_mount(&f, &make, NULL), ERROR_TARGET_INVALID);
        cr_assert(access(unmade, F_OK) < 0, "an image was made");
        expect_unchanged();
}

/* ---- names ---- */

static void expect_listed(void)
{
        _cleanup_free_ char *ctl = executable_path(&f, "berthctl");
        char *out, *err;

        int status = run((char *[]) { ctl, "list", "--json", NULL }, &out, &err);
        cr_assert_eq(status, 0, "list: %s", err);
        json_t *list = json_loads(out, JSON_REJECT_DUPLICATES, NULL);
        cr_assert_gt(json_array_size(list), 0, "list: %s", out);
        json_decref(list);
        free(out);
        free(err);
}

static void name_works(const char *uid, const char *name)
{
        _cleanup_free_ char *target = fixture_target(&f, uid, name), *json = mount_json(image, "rw", "");
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
        _cleanup_error_ Error err = ERROR_INIT;

        for (unsigned i = 0; i < 2; i++) {
                ErrorCode code = i ? shim_code((char *[]) { "mount", target, json, NULL }) : fixture_mount(&f, &p, &err);
                cr_assert_eq(code, ERROR_NONE, "mount on '%s': %s %s", name, error_code_name(code), str_or(err.text, ""));
                cr_assert_eq(fixture_count_mounts(target), 1, "'%s' is mounted %u times", name, fixture_count_mounts(target));
                expect_listed();
                code = i ? shim_code((char *[]) { "unmount", target, NULL }) : fixture_unmount(&f, target, &err);
                cr_assert_eq(code, ERROR_NONE, "unmount of '%s': %s %s", name, error_code_name(code), str_or(err.text, ""));
                cr_assert_eq(fixture_count_mounts(target), 0, "'%s' is still mounted", name);
                cr_assert(rmdir(target) >= 0, "the kubelet could not remove '%s': %s", name, strerror(errno));
                free(fixture_target(&f, uid, name));
        }
}

Test(hostile, any_name_works)
{
        static const char *const names[] = {
                "new\nline", "tab\there", "a b", " ", "\"quoted\"", "it's", "back\\slash", "\\040", "\\", "\xff\xfe", "caf\xc3\xa9",
                "\xe2\x80\xae", "%s%n", "$(reboot)", ";", "-o", "--help", "...", "..x", "a,b=c", "#", "*", "\x01\x1b[31m", "deleted (deleted)",
                "{}", "~",
        };
        _cleanup_free_ char *longest = text("%0255d", 0);

        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                name_works("uid", names[i]);
        name_works("uid", longest);
        name_works("u\xff\n", "\xff");
}

/* What berthd remembers of requests about such names must not make its lists unreadable for everybody. */
Test(hostile, errors_about_any_name_can_be_told)
{
        _cleanup_free_ char *odd = fixture_target(&f, "uid", "\xff\n"), *other = fixture_target(&f, "uid", "v"),
                            *second = fixture_image_formatted(&f, "second.img", 16 << 20, "ext4"), *ctl = executable_path(&f, "berthctl");
        _cleanup_mount_params_ MountParams p = loop_params(odd, image, "ext4", false), q = loop_params(other, second, "ext4", false),
                                           conflict = loop_params(odd, second, "ext4", false);

        cr_assert_eq(fixture_mount(&f, &p, NULL), ERROR_NONE);
        cr_assert_eq(fixture_mount(&f, &q, NULL), ERROR_NONE);
        cr_assert_eq(fixture_mount(&f, &conflict, NULL), ERROR_CONFLICT);
        expect_listed();
        RUN_OK(ctl, "explain", other);
        RUN_OK(ctl, "explain", odd);
        RUN_OK(ctl, "status");
        cr_assert_eq(fixture_unmount(&f, odd, NULL), ERROR_NONE);
        cr_assert_eq(fixture_unmount(&f, other, NULL), ERROR_NONE);
}

/* ---- options ---- */

static ErrorCode mount_with(const char *fs_type, const char *option, const char *key, const char *value)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v");
        _cleanup_mount_params_ MountParams p = loop_params(target, image, fs_type, false);

        if (option)
                cr_assert(strv_append(&p.mount_options, option) >= 0);
        if (key)
                cr_assert(strmap_set(&p.source, key, value) >= 0);
        return fixture_mount(&f, &p, NULL);
}

Test(hostile, mount_options)
{
        static const char *const bad[] = {
                "dev", "suid", "exec,suid", "noatime,dev", "noatime,", ",", "", " ", "noatime ", "ro", "rw", "bind", "remount", "loop",
                "user", "nosuch", "context=\"a\",dev", "context=a\",suid=\"b", "data=journal\ndev", "errors=panic",
                "X-mount.mkdir", "x-systemd.automount", "uhelper=x", "helper=x", "_netdev", "journal_dev=1", "journal_path=/dev/sda",
                "sb=1", "noload", "init_itable=1\\", "subvol=../..", "device=/dev/sda", "logdev=/dev/sda", "usrjquota=/etc/passwd",
                "X-mount.subdir=../..", "idmap=/proc/1/ns/user", "rbind", "shared", "offset=4096", "sizelimit=1", "noatime\t", "-o dev",
        };
        free(fixture_target(&f, "u", "v"));
        freeze();
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                refused(bad[i], mount_with("ext4", bad[i], NULL, NULL), CODES(ERROR_FORBIDDEN_OPTION));
        expect_unchanged();
}

Test(hostile, file_system_types)
{
        static const char *const bad[] = { "ext4,dev", "ext4 -o suid", "../ext4", "auto", "none", "nfs", "tmpfs", "overlay", "proc",
                                           "fuse", "ext4\n", "EXT4", "ext4.", "vfat", "swap", "\x01", "%s", "ext4/../sh" };
        free(fixture_target(&f, "u", "v"));
        freeze();
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                refused(bad[i], mount_with(bad[i], NULL, NULL, NULL), CODES(ERROR_UNKNOWN_FILESYSTEM));
        refused("xfs on ext4", mount_with("xfs", NULL, NULL, NULL), CODES(ERROR_FILESYSTEM_MISMATCH));
        expect_unchanged();
}

Test(hostile, sources)
{
        static const char *const keys[] = { "", " ", "Path", "path ", "path\n", "colour", "offset", "sizelimit", "\x01", "kubernetes.io/x" };
        static const char *const sizes[] = { "", "0", "-1", "-64M", "+64M", " 64M", "64M ", "64X", "1e9", "0x1000", "99999999999P",
                                             "18446744073709551615", "18446744073709551616", "64M\n", "64Mi", "6\xd9\xa4M" };
        free(fixture_target(&f, "u", "v"));
        freeze();
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                refused(keys[i], mount_with("ext4", NULL, keys[i], "x"), CODES(ERROR_UNKNOWN_OPTION));
        for (size_t i = 0; i < ELEMENTSOF(sizes); i++)
                refused(sizes[i], mount_with("ext4", NULL, "size", sizes[i]), CODES(ERROR_INVALID_ARGUMENT));
        refused("allocation", mount_with("ext4", NULL, "allocation", "sparse,x"), CODES(ERROR_INVALID_ARGUMENT));

        /* sizes of images that do not exist yet */
        static const char *const impossible[] = { "1", "4096", "8191P", "7P" };
        for (size_t i = 0; i < ELEMENTSOF(impossible); i++) {
                _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *fresh = text("%s/fresh.img", f.image_dir);
                _cleanup_mount_params_ MountParams p = loop_params(target, fresh, "ext4", false);
                cr_assert(strmap_set(&p.source, "size", impossible[i]) >= 0 && strmap_set(&p.source, "allocation", "reserved") >= 0);
                refused(impossible[i], fixture_mount(&f, &p, NULL),
                        CODES(ERROR_TOO_SMALL, ERROR_INVALID_ARGUMENT, ERROR_NO_SPACE));
        }
        expect_unchanged();
}

/* ---- images ---- */

static void image_refused(const char *path, const ErrorCode *expected)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *json = mount_json(path, "rw", ",\"size\":\"16M\"");
        _cleanup_mount_params_ MountParams p = loop_params(target, path, "ext4", false);
        double start = now_seconds();

        refused(path, fixture_mount(&f, &p, NULL), expected);
        refused(path, shim_code((char *[]) { "mount", target, json, NULL }), expected);
        cr_assert_lt(now_seconds() - start, 20, "%s kept the mounter waiting", path);
}

Test(hostile, images)
{
        _cleanup_free_ char *outside = text("%s/outside.img", f.dir), *dir = text("%s/directory", f.image_dir),
                            *fifo = text("%s/fifo", f.image_dir), *device = text("%s/device", f.image_dir),
                            *leaving = text("%s/link", f.image_dir), *way = text("%s/way", f.image_dir), *proc = text("%s/proc", f.image_dir),
                            *twin = text("%s/twin", f.image_dir), *first = text("%s/first", f.image_dir), *through = text("%s/way/outside.img", f.image_dir),
                            *self = text("%s/proc/3", f.image_dir), *up = text("%s/../outside.img", f.image_dir),
                            *inside_up = text("%s/directory/../../outside.img", f.image_dir), *down = text("%s/image.img/x", f.image_dir),
                            *slash = text("%s/", f.image_dir), *dot = text("%s/.", f.image_dir), *file_slash = text("%s/fresh/", f.image_dir),
                            *long_name = text("%s/%0256d", f.image_dir, 0), *loop = text("%s/loop", f.image_dir);
        const ErrorCode *forbidden = CODES(ERROR_IMAGE_FORBIDDEN);

        write_text(outside, "not yours");
        cr_assert(mkdir(dir, 0700) >= 0 && mkfifo(fifo, 0600) >= 0 && mknod(device, S_IFBLK | 0600, makedev(7, 0)) >= 0);
        cr_assert(symlink(outside, leaving) >= 0 && symlink("..", way) >= 0 && symlink("/proc/self/fd", proc) >= 0);
        cr_assert(symlink("loop", loop) >= 0);
        write_text(first, "x");
        cr_assert(link(first, twin) >= 0);
        free(fixture_target(&f, "u", "v"));
        freeze();

        const char *const elsewhere[] = { outside, leaving, through, self, up, inside_up, "/etc/passwd", "/dev/loop0", "/proc/self/exe",
                                          "/proc/self/fd/3", "/", "../outside.img", "directory/../../outside.img", loop };
        for (size_t i = 0; i < ELEMENTSOF(elsewhere); i++)
                image_refused(elsewhere[i], forbidden);
        const char *const wrong[] = { dir, fifo, device, twin, dot, "directory", "fifo", ".", "image.img/.." };
        for (size_t i = 0; i < ELEMENTSOF(wrong); i++)
                image_refused(wrong[i], CODES(ERROR_IMAGE_INVALID, ERROR_INVALID_ARGUMENT, ERROR_IMAGE_NOT_FOUND, ERROR_IMAGE_FORBIDDEN));
        const char *const odd[] = { down, slash, file_slash, long_name, "", "none/x" };
        for (size_t i = 0; i < ELEMENTSOF(odd); i++)
                image_refused(odd[i], CODES(ERROR_IMAGE_INVALID, ERROR_INVALID_ARGUMENT, ERROR_IMAGE_NOT_FOUND, ERROR_IMAGE_FORBIDDEN));
        expect_unchanged();
}

static bool no_own_loop(void *arg)
{
        pthread_mutex_lock(&bystander.between);
        unsigned n = fixture_count_loops(&f);
        pthread_mutex_unlock(&bystander.between);
        return n == 0;
}

/* Whatever the name leads to at each step, it is one of the two images, and that one is the one that is served. */
static void *exchange_images(void *arg)
{
        char **paths = arg;

        while (!__atomic_load_n(&paths[2], __ATOMIC_SEQ_CST))
                (void) renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE);
        return NULL;
}

Test(hostile, image_exchanged_during_the_call)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *other = fixture_image_formatted(&f, "other.img", 16 << 20, "ext4");
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
        char *paths[] = { image, other, NULL };
        unsigned n_mounted = 0;
        pthread_t thread;

        freeze();
        cr_assert_eq(pthread_create(&thread, NULL, exchange_images, paths), 0);
        for (unsigned i = 0; i < 100; i++) {
                _cleanup_error_ Error err = ERROR_INIT;
                ErrorCode code = fixture_mount(&f, &p, &err);

                cr_assert(code == ERROR_NONE || code == ERROR_DEVICE_CHANGED, "%s: %s", error_code_name(code), str_or(err.text, ""));
                n_mounted += code == ERROR_NONE;
                cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
        }
        __atomic_store_n(&paths[2], image, __ATOMIC_SEQ_CST);
        pthread_join(thread, NULL);
        cr_assert_gt(n_mounted, 0, "not once was it fast enough");
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
        wait_until(no_own_loop, NULL, 10, "both images are free");
        RUN_OK("e2fsck", "-fn", image);
        RUN_OK("e2fsck", "-fn", other);
}

/* ---- races for the target ---- */

typedef struct Swap {
        char *a, *b;
        bool stop;
} Swap;

static void *swap_target(void *arg)
{
        Swap *s = arg;

        while (!__atomic_load_n(&s->stop, __ATOMIC_SEQ_CST))
                (void) renameat2(AT_FDCWD, s->a, AT_FDCWD, s->b, RENAME_EXCHANGE);
        return NULL;
}

static void find_outside(const char *mount_point, void *arg)
{
        char **found = arg;

        if (path_is_below(mount_point, f.dir) && !path_is_below(mount_point, f.kubelet_root) && !path_is_below(mount_point, f.state_dir) &&
            !path_is_below(mount_point, f.runtime_dir) && strcmp(mount_point, f.runtime_dir) != 0 && !*found)
                *found = strdup(mount_point);
}

/* a and b change places while 200 mounts of target run: never does one end up outside of the root. */
static void race(const char *target, char *a, char *b)
{
        _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", true);
        Swap swap = { .a = a, .b = b };
        unsigned n[2] = { 0, 0 };
        pthread_t thread;

        cr_assert_eq(pthread_create(&thread, NULL, swap_target, &swap), 0);
        for (unsigned i = 0; i < 200; i++) {
                _cleanup_free_ char *outside = NULL;
                ErrorCode code = fixture_mount(&f, &p, NULL);

                refused(target, code == ERROR_NONE ? ERROR_TARGET_INVALID : code, CODES(ERROR_TARGET_INVALID, ERROR_TARGET_MISSING));
                n[code == ERROR_NONE]++;
                mounts_foreach(find_outside, &outside);
                cr_assert_null(outside, "after %u mounts one is at %s", i, outside);
                code = fixture_unmount(&f, target, NULL);
                refused(target, code == ERROR_NONE ? ERROR_TARGET_INVALID : code, CODES(ERROR_TARGET_INVALID));
        }
        __atomic_store_n(&swap.stop, true, __ATOMIC_SEQ_CST);
        pthread_join(thread, NULL);
        cr_assert(n[0] > 0 && n[1] > 0, "%u refused and %u mounted: that was no race", n[0], n[1]);
        struct stat st;
        if (lstat(a, &st) >= 0 && S_ISLNK(st.st_mode))
                cr_assert(renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) >= 0);
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
        cr_assert_eq(fixture_count_mounts(target), 0);
}

Test(hostile, target_swapped_for_a_link_during_the_call)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *evil = text("%s/evil", f.kubelet_root), *outside = text("%s/outside", f.dir);

        cr_assert(mkdir(outside, 0755) >= 0 && symlink(outside, evil) >= 0);
        race(target, target, evil);
}

Test(hostile, parent_swapped_for_a_link_during_the_call)
{
        _cleanup_free_ char *target = fixture_target(&f, "u", "v"), *parent = strndup(target, strlen(target) - strlen("/v")),
                            *evil = text("%s/evil", f.kubelet_root), *outside = text("%s/outside", f.dir), *decoy = text("%s/v", outside);

        cr_assert(mkdir(outside, 0755) >= 0 && mkdir(decoy, 0755) >= 0 && symlink(outside, evil) >= 0);
        race(target, parent, evil);
}
