/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* protocol/target.h: which strings may name a target at all. */

#include <criterion/criterion.h>

#include "protocol/target.h"

#include <limits.h>
#include <string.h>

#include "base/strmap.h"

#define ROOT "/data/kubelet"          /* where the link /var/lib/kubelet leads */
#define VOLUME "/volumes/berth~loop/"

static Settings settings;

static void init(void)
{
        cr_assert_eq(settings_defaults(&settings), 0);
        cr_assert_eq(str_replace(&settings.kubelet_root, "/var/lib/kubelet"), 0);
        cr_assert_eq(str_replace(&settings.kubelet_root_resolved, ROOT), 0);
        cr_assert_eq(strv_append(&settings.targets_allow, "/srv/allowed"), 0);
        cr_assert_eq(strv_append(&settings.targets_allow, "/srv/slash/"), 0);
}

static void fini(void)
{
        settings_done(&settings);
}

TestSuite(target, .init = init, .fini = fini);

static void expect(const char *path, TargetKind kind, const char *canonical, const char *root)
{
        _cleanup_target_ Target t = TARGET_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(target_parse(path, &settings, &t, &err), 0, "%s: %s", path, str_or(err.text, ""));
        cr_assert_eq(t.kind, kind, "%s is of kind %d", path, (int) t.kind);
        cr_assert_str_eq(t.path, canonical);
        cr_assert_str_eq(t.root, root);
        size_t n = strlen(root);
        cr_assert(strncmp(t.path, root, n) == 0 && strcmp(t.path + n + 1, t.relative) == 0, "%s is not %s below %s", t.path,
                  t.relative, t.root);
}

static void expect_refused(const char *path, ErrorCode code)
{
        Target t = TARGET_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_lt(target_parse(path, &settings, &t, &err), 0, "accepted: %s", path);
        cr_assert_eq(err.code, code, "%s: %s", path, error_code_name(err.code));
        cr_assert_null(t.path, "an output of a failure");
}

Test(target, pod_volumes)
{
        _cleanup_target_ Target t = TARGET_INIT;

        expect("/var/lib/kubelet/pods/u-1" VOLUME "v", TARGET_POD, ROOT "/pods/u-1" VOLUME "v", ROOT);
        expect(ROOT "/pods/u-1" VOLUME "v", TARGET_POD, ROOT "/pods/u-1" VOLUME "v", ROOT);
        expect(ROOT "/pods/u-1" VOLUME "v/", TARGET_POD, ROOT "/pods/u-1" VOLUME "v", ROOT);
        cr_assert_eq(target_parse(ROOT "/pods/u-1" VOLUME "v", &settings, &t, NULL), 0);
        cr_assert_str_eq(t.pod_uid, "u-1");
}

Test(target, global_mounts)
{
        const char *path = ROOT "/plugins/kubernetes.io/flexvolume/berth/loop/mounts/pv";
        expect(path, TARGET_GLOBAL, path, ROOT);
}

Test(target, allowed_directories)
{
        expect("/srv/allowed/a", TARGET_ALLOWED, "/srv/allowed/a", "/srv/allowed");
        expect("/srv/allowed/a/b/c", TARGET_ALLOWED, "/srv/allowed/a/b/c", "/srv/allowed");
        expect("/srv/slash/a", TARGET_ALLOWED, "/srv/slash/a", "/srv/slash");
}

Test(target, unusual_names_are_names)
{
        static const char *const names[] = {
                "a b", "a\tb", "a\nb", "a'b\"c", "\xff\xfe", "a\\040b", "...", "..a", "a..", ".a", "-o", "a,b=c", "*", "$(x)", "%s%n",
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *path = NULL;

                cr_assert(asprintf(&path, "%s/pods/u%s%s", ROOT, VOLUME, names[i]) > 0);
                expect(path, TARGET_POD, path, ROOT);
        }
}

Test(target, longest_name_and_one_more)
{
        char name[NAME_MAX + 2];
        _cleanup_free_ char *longest = NULL, *longer = NULL;

        memset(name, 'x', sizeof(name));
        name[NAME_MAX] = 0;
        cr_assert(asprintf(&longest, "%s/pods/u%s%s", ROOT, VOLUME, name) > 0);
        expect(longest, TARGET_POD, longest, ROOT);
        name[NAME_MAX] = 'x';
        name[NAME_MAX + 1] = 0;
        cr_assert(asprintf(&longer, "%s/pods/u%s%s", ROOT, VOLUME, name) > 0);
        expect_refused(longer, ERROR_TARGET_INVALID);
}

Test(target, malformed_paths)
{
        static const char *const paths[] = {
                "", "pods/u" VOLUME "v", "./x", "/", "//",
                ROOT "/pods/u" VOLUME "..", ROOT "/pods/../pods/u" VOLUME "v", ROOT "/pods/u" VOLUME "v/../../../../../../etc",
                ROOT "/pods/u" VOLUME ".", ROOT "/pods/./u" VOLUME "v", ROOT "//pods/u" VOLUME "v", ROOT "/pods//u" VOLUME "v",
                ROOT "/pods/u" VOLUME "v//", "/srv/allowed/..", "/srv/allowed/../../etc", "/srv/allowed//a", ("/../" ROOT),
        };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                expect_refused(paths[i], ERROR_TARGET_INVALID);
}

Test(target, paths_of_others)
{
        static const char *const paths[] = {
                "/etc", "/etc/passwd", "/srv", "/srv/allowed", "/srv/allowed/", "/srv/allowedx/a", "/srv/allow",
                ROOT, ROOT "/pods", ROOT "/pods/u", ROOT "/pods/u/volumes", ROOT "/pods/u" VOLUME, ROOT "/pods/u/volumes/berth~loop",
                ROOT "/pods/u/volumes/noTilde/v", ROOT "/pods/u" VOLUME "v/deeper", ROOT "/pods/u/etc/berth~loop/v",
                ROOT "x/pods/u" VOLUME "v", "/data/pods/u" VOLUME "v", ROOT "/pods/u/volume-subpaths/berth~loop/v",
                ROOT "/plugins/kubernetes.io/flexvolume/berth/loop/mounts", ROOT "/plugins/kubernetes.io/flexvolume/berth/loop/mounts/a/b",
                ROOT "/plugins/other/flexvolume/berth/loop/mounts/pv", "/var/lib/kubeletpods/u" VOLUME "v",
        };

        for (size_t i = 0; i < ELEMENTSOF(paths); i++)
                expect_refused(paths[i], ERROR_TARGET_NOT_ALLOWED);
}

Test(target, too_long_a_path)
{
        char path[PATH_MAX + 2];

        memset(path, 'a', sizeof(path));
        for (size_t i = 0; i < sizeof(path); i += 100)
                path[i] = '/';
        memcpy(path, "/srv/allowed/", 13);
        path[PATH_MAX] = 0;
        expect_refused(path, ERROR_TARGET_INVALID);
        path[PATH_MAX - 1] = 0;
        expect(path, TARGET_ALLOWED, path, "/srv/allowed");
}

Test(target, root_directory_as_allowed)
{
        cr_assert_eq(strv_append(&settings.targets_allow, "/"), 0);
        _cleanup_target_ Target t = TARGET_INIT;

        cr_assert_eq(target_parse("/mnt/x", &settings, &t, NULL), 0);
        cr_assert_str_eq(t.path, "/mnt/x");
        cr_assert_str_eq(t.root, "/");
        cr_assert_str_eq(t.relative, "mnt/x");
        expect_refused("/", ERROR_TARGET_INVALID);
}
