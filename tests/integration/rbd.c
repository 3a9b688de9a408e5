/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The rbd mounter's process beside a real Ceph, as far as that goes without the kernel's RBD client: each way in which a volume can be
 * refused, connections kept, and what a dead cluster costs. Maps are shown in guests (tests/vm).
 */

#include <criterion/criterion.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ceph.h"

#define CONFIG "[RBD]\nConnectTimeoutSec=2\nOsdRequestTimeoutSec=2\nKeyringDirectories=%s/keyrings\n%s"

static Fixture f;
static Ceph ceph;
static MounterClient c;

static void client_start(const char *extra)
{
        _cleanup_free_ char *config = NULL;

        cr_assert(asprintf(&config, CONFIG, f.dir, extra) >= 0);
        mounter_client_start(&c, &f, "rbd", config);
}

static void setup(void)
{
        fixture_init(&f);
        ceph_start(&ceph, f.dir);
        client_start("");
}

static void teardown(void)
{
        if (c.pid > 0)
                mounter_client_stop(&c);
        ceph_stop(&ceph);
        fixture_done(&f);
}

TestSuite(rbd, .init = setup, .fini = teardown, .timeout = 180);

static ErrorCode resolve_error(const MounterVolume *v, char **ret_text)
{
        _cleanup_error_ Error err = ERROR_INIT;
        MounterResult r = {};
        ErrorCode code = mounter_call(&c, "Resolve", v, &r, &err);

        mounter_result_done(&r);
        if (ret_text)
                *ret_text = TAKE_PTR(err.text);
        cr_assert(!err.text || !strstr(err.text, ceph.kube_key), "%s", err.text);
        return code;
}

static void expect(const MounterVolume *v, ErrorCode wanted, const char *part)
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = resolve_error(v, &text);

        cr_assert_eq(code, wanted, "%s (%s) instead of %s", error_code_name(code), str_or(text, ""), error_code_name(wanted));
        cr_assert(!part || strstr(text, part), "'%s' does not say '%s'", text, part);
}

/* A volume on image foo that differs in one option. */
static void expect_with(const char *option, const char *value, ErrorCode wanted, const char *part)
{
        MounterVolume v;

        rbd_volume_init(&v, &ceph, "foo");
        strmap_set(&v.source, option, value);
        expect(&v, wanted, part);
        volume_free(&v);
}

static double resolve_seconds(const MounterVolume *v)
{
        MounterResult r = {};
        double start = now_seconds();

        MOUNTER_OK(&c, "Resolve", v, &r);
        double taken = now_seconds() - start;
        _cleanup_free_ char *identity = NULL;
        cr_assert(asprintf(&identity, "rbd:%s/kube/foo", ceph.fsid) >= 0);
        cr_assert_str_eq(r.identity, identity);
        cr_assert_eq(strlen(r.key), 36U);
        mounter_result_done(&r);
        return taken;
}

Test(rbd, resolves_and_keeps_its_connection)
{
        MounterVolume v;
        double first, best = 1e9;

        rbd_volume_init(&v, &ceph, "foo");
        first = resolve_seconds(&v);
        for (unsigned i = 0; i < 5; i++) {
                double next = resolve_seconds(&v);
                best = next < best ? next : best;
        }
        printf("# first Resolve %.1f ms, with the connection %.1f ms\n", first * 1e3, best * 1e3);
        cr_assert_lt(best, first, "the connection is used again");

        /* both messengers, by name and by list with dead ones */
        strmap_set(&v.source, "monitors", ceph.monitor_v2);
        (void) resolve_seconds(&v);
        _cleanup_free_ char *list = NULL;
        cr_assert(asprintf(&list, "127.0.0.1:1,%s,127.0.0.2:1", ceph.monitor_v1) >= 0);
        strmap_set(&v.source, "monitors", list);
        (void) resolve_seconds(&v);
        volume_free(&v);
}

Test(rbd, each_refusal_has_its_error)
{
        MounterVolume v;
        double start = now_seconds();

        expect_with("monitors", "127.0.0.1:1", ERROR_MONITORS_UNREACHABLE, "127.0.0.1:1");
        cr_assert_lt(now_seconds() - start, 10);
        expect_with("monitors", "no-such-host.invalid", ERROR_MONITORS_UNREACHABLE, NULL);
        expect_with("pool", "nowhere", ERROR_POOL_NOT_FOUND, "nowhere");
        expect_with("image", "nothing", ERROR_RBD_IMAGE_NOT_FOUND, "kube/nothing");
        expect_with("namespace", "nobody", ERROR_NAMESPACE_NOT_FOUND, "nobody");
        expect_with("user", "stranger", ERROR_KEY_REFUSED, "client.stranger");
        expect_with("snapshot", "never", ERROR_SNAPSHOT_NOT_FOUND, "never");
        expect_with("colour", "red", ERROR_UNKNOWN_OPTION, "colour");
        expect_with("image", "foo\nbar", ERROR_INVALID_ARGUMENT, "image");

        rbd_volume_init(&v, &ceph, "foo");
        strmap_set(&v.secrets, "key", ceph.admin_key);
        expect(&v, ERROR_KEY_REFUSED, "client.kube");
        strmap_set(&v.secrets, "key", "not a key");
        expect(&v, ERROR_KEY_INVALID, "client.kube");
        strmap_remove(&v.secrets, "key");
        expect(&v, ERROR_KEYRING_INVALID, "client.kube");
        strmap_set(&v.source, "keyring", "/etc/passwd");
        expect(&v, ERROR_KEYRING_INVALID, "KeyringDirectories");
        volume_free(&v);
}

Test(rbd, key_from_a_keyring)
{
        _cleanup_free_ char *dir = NULL, *path = NULL, *text = NULL;
        MounterVolume v;

        cr_assert(asprintf(&dir, "%s/keyrings", f.dir) >= 0 && asprintf(&path, "%s/ceph.client.kube.keyring", dir) >= 0);
        cr_assert(asprintf(&text, "[client.kube]\n\tkey = %s\n", ceph.kube_key) >= 0);
        cr_assert(mkdir(dir, 0700) >= 0);
        write_text(path, text);
        cr_assert(chmod(path, 0600) >= 0);
        rbd_volume_init(&v, &ceph, "foo");
        strmap_remove(&v.secrets, "key");
        (void) resolve_seconds(&v);
        strmap_set(&v.source, "keyring", path);
        (void) resolve_seconds(&v);
        volume_free(&v);
}

Test(rbd, capabilities)
{
        MounterVolume v;

        CEPH_CEPH(&ceph, (char *) "osd", (char *) "pool", (char *) "create", (char *) "other", (char *) "8");
        expect_with("pool", "other", ERROR_CAPS_MISSING, "client.kube");
        /* no capabilities at all beside the monitors' */
        CEPH_CEPH(&ceph, (char *) "auth", (char *) "caps", (char *) "client.kube", (char *) "mon", (char *) "allow r");
        rbd_volume_init(&v, &ceph, "foo");
        expect(&v, ERROR_CAPS_MISSING, "client.kube");
        volume_free(&v);
}

static char *user_new(const char *name, const char *osd)
{
        _cleanup_free_ char *client = NULL;

        cr_assert(asprintf(&client, "client.%s", name) >= 0);
        char *key = ceph_output(&ceph, (char *[]) { (char *) "ceph", (char *) "auth", (char *) "get-or-create-key", client, (char *) "mon",
                                                    (char *) "profile rbd", (char *) "osd", (char *) osd, NULL });
        key[strcspn(key, "\n")] = 0;
        return key;
}

/* What attaching finds out is left to it, and said to be. All of these may read an image's name. */
static void expect_early(MounterVolume *v)
{
        MounterResult r = {};

        v->early = true;
        MOUNTER_OK(&c, "Resolve", v, &r);
        cr_assert(r.unproven && r.key);
        v->early = false;
        mounter_result_done(&r);
}

/* What is mapped for somebody else is nobody's who may not read it, or write it: there is no map that would find out. */
static void expect_rights(const char *image, const char *user, const char *osd, const ErrorCode wanted[2])
{
        _cleanup_free_ char *key = user_new(user, osd);
        MounterVolume v;

        rbd_volume_init(&v, &ceph, image);
        strmap_set(&v.source, "user", user);
        strmap_set(&v.secrets, "key", key);
        for (unsigned k = 0; k < 2; k++) {
                _cleanup_free_ char *text = NULL;
                v.read_only = k == 0;
                ErrorCode code = resolve_error(&v, &text);
                cr_assert_eq(code, wanted[k], "client.%s, %s %s: %s (%s)", user, k == 0 ? "to read" : "to write", image, error_code_name(code),
                             str_or(text, ""));
                cr_assert(code == ERROR_NONE || strstr(text, user), "%s", text);
                expect_early(&v);
        }
        volume_free(&v);
}

Test(rbd, rights_are_those_of_who_asks)
{
        static const struct {
                const char *image, *user, *osd;
                ErrorCode wanted[2]; /* to read, to write */
        } cases[] = {
                { "foo", "writer", "profile rbd pool=kube", { ERROR_NONE, ERROR_NONE } },
                { "foo", "reader", "profile rbd-read-only pool=kube", { ERROR_NONE, ERROR_CAPS_MISSING } },
                { "foo", "namer", "allow r pool=kube object_prefix rbd_id.", { ERROR_CAPS_MISSING, ERROR_CAPS_MISSING } },
                /* whose data are in a pool of their own */
                { "apart", "owner", "profile rbd pool=kube, profile rbd pool=data", { ERROR_NONE, ERROR_NONE } },
                { "apart", "looker", "profile rbd pool=kube, profile rbd-read-only pool=data", { ERROR_NONE, ERROR_CAPS_MISSING } },
                { "apart", "writer", "profile rbd pool=kube", { ERROR_CAPS_MISSING, ERROR_CAPS_MISSING } },
        };
        char *const list[] = { (char *) "rados", (char *) "-p", (char *) "kube", (char *) "ls", NULL };
        char *const list_data[] = { (char *) "rados", (char *) "-p", (char *) "data", (char *) "ls", NULL };

        CEPH_CEPH(&ceph, (char *) "osd", (char *) "pool", (char *) "create", (char *) "data", (char *) "8");
        CEPH_RBD(&ceph, (char *) "create", (char *) "--size", (char *) "8M", (char *) "--data-pool", (char *) "data", (char *) "kube/apart");
        _cleanup_free_ char *before = ceph_output(&ceph, list), *before_data = ceph_output(&ceph, list_data), *after = NULL, *after_data = NULL;
        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                expect_rights(cases[i].image, cases[i].user, cases[i].osd, cases[i].wanted);
        after = ceph_output(&ceph, list);
        cr_assert_eq(strlen(before), strlen(after), "finding out has written something: %s instead of %s", after, before);
        after_data = ceph_output(&ceph, list_data);
        cr_assert_str_eq(before_data, after_data, "finding out has written something");
}

Test(rbd, snapshots_and_namespaces)
{
        MounterVolume v;
        MounterResult r = {};

        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "kube/foo@first");
        CEPH_RBD(&ceph, (char *) "namespace", (char *) "create", (char *) "kube/team-a");
        CEPH_RBD(&ceph, (char *) "create", (char *) "--size", (char *) "8M", (char *) "kube/team-a/foo");
        expect_with("snapshot", "first", ERROR_SNAPSHOT_READ_ONLY, "first");
        rbd_volume_init(&v, &ceph, "foo");
        strmap_set(&v.source, "snapshot", "first");
        v.read_only = true;
        MOUNTER_OK(&c, "Resolve", &v, &r);
        cr_assert(strstr(r.identity, "/kube/foo@first"), "%s", r.identity);
        strmap_remove(&v.source, "snapshot");
        strmap_set(&v.source, "namespace", "team-a");
        _cleanup_free_ char *other = strdup(r.key);
        MOUNTER_OK(&c, "Resolve", &v, &r);
        cr_assert(strstr(r.identity, "/kube/team-a/foo"), "%s", r.identity);
        cr_assert_str_neq(r.key, other);
        mounter_result_done(&r);
        volume_free(&v);
}

Test(rbd, allow_lists)
{
        mounter_client_stop(&c);
        client_start("AllowedMonitors=127.0.0.1\n");
        expect_with("user", "kube", ERROR_CLUSTER_FORBIDDEN, ceph.address);
        mounter_client_stop(&c);
        _cleanup_free_ char *config = NULL;
        cr_assert(asprintf(&config, "AllowedMonitors=%s\nAllowedPools=kube/team-a\n", ceph.address) >= 0);
        client_start(config);
        expect_with("user", "kube", ERROR_CLUSTER_FORBIDDEN, "kube");
}

/* Frozen and not dead: nothing refuses, nothing answers. All is well again afterwards. */
Test(rbd, frozen_daemons_cost_their_time_limit)
{
        static const struct {
                const char *daemon;
                ErrorCode code;
        } cases[] = { { "osd", ERROR_OSDS_UNREACHABLE }, { "mon", ERROR_MONITORS_UNREACHABLE } };
        MounterVolume v;

        rbd_volume_init(&v, &ceph, "foo");
        (void) resolve_seconds(&v);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                pid_t pid = ceph_pid(&ceph, cases[i].daemon);
                double start = now_seconds();

                kill(pid, SIGSTOP);
                ErrorCode code = resolve_error(&v, NULL);
                /* a connection that is there needs no monitor */
                if (code == ERROR_NONE) {
                        mounter_client_stop(&c);
                        client_start("");
                        code = resolve_error(&v, NULL);
                }
                double taken = now_seconds() - start;
                kill(pid, SIGCONT);
                cr_assert_eq(code, cases[i].code, "%s frozen: %s", cases[i].daemon, error_code_name(code));
                cr_assert_lt(taken, 25, "%s frozen: %.1f s", cases[i].daemon, taken);
                printf("# %s frozen: answered after %.1f s\n", cases[i].daemon, taken);
                start = now_seconds();
                while (resolve_error(&v, NULL) != ERROR_NONE)
                        cr_assert_lt(now_seconds() - start, 60, "after %s went on", cases[i].daemon);
        }
        volume_free(&v);
}

/* The kernel here has no RBD client, and says so before anything else is done about the image. */
Test(rbd, kernel_without_rbd)
{
        MounterVolume v;

        if (access("/sys/bus/rbd", F_OK) == 0)
                cr_skip_test("this kernel has an RBD client; guests show what it does");
        rbd_volume_init(&v, &ceph, "foo");
        volume_resolve(&c, &v);
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_KERNEL_UNSUPPORTED);
        MounterResult r = {};
        MOUNTER_OK(&c, "Detach", &v, &r);
        cr_assert(r.gone);
        MOUNTER_OK(&c, "Check", &v, &r);
        cr_assert(!r.attached);
        mounter_result_done(&r);
        volume_free(&v);
}

/* What is refused before a key is written to any file. */
Test(rbd, rbd_nbd_without_what_it_needs)
{
        _cleanup_free_ char *places = NULL;
        MounterVolume v;

        cr_assert(asprintf(&places, "%s/run/nbd", f.dir) >= 0);
        if (access("/sys/module/nbd", F_OK) == 0)
                cr_skip_test("this kernel has network block devices; guests show what they do");
        rbd_volume_init(&v, &ceph, "foo");
        strmap_set(&v.source, "mounter", "nbd");
        volume_resolve(&c, &v);
        MOUNTER_FAILS(&c, "Attach", &v, ERROR_KERNEL_UNSUPPORTED);
        /* this process is in a mount namespace of its own */
        cr_assert(mount("/dev/null", "/usr/bin/rbd-nbd", NULL, MS_BIND, NULL) >= 0, "%m");
        _cleanup_error_ Error err = ERROR_INIT;
        MounterResult r = {};
        for (unsigned i = 0; i < 2; i++) {
                ErrorCode code = mounter_call(&c, "Attach", &v, &r, &err);
                if (i == 1 && access("/sys/bus/rbd", F_OK) == 0)
                        break;
                cr_assert_eq(code, ERROR_RBD_NBD_MISSING, "%s", error_code_name(code));
                cr_assert(strstr(err.text, "rbd-nbd"), "%s", err.text);
                cr_assert_eq(strstr(err.text, "no RBD client") != NULL, i == 1, "both reasons, where there are two: %s", err.text);
                error_done(&err);
                strmap_set(&v.source, "mounter", "auto");
        }
        strmap_set(&v.source, "mounter", "krbd");
        if (access("/sys/bus/rbd", F_OK) < 0)
                MOUNTER_FAILS(&c, "Attach", &v, ERROR_KERNEL_UNSUPPORTED);
        cr_assert(umount("/usr/bin/rbd-nbd") >= 0, "%m");
        cr_assert_lt(access(places, F_OK), 0, "nothing was written for it");
        MOUNTER_OK(&c, "Detach", &v, &r);
        cr_assert(r.gone);
        mounter_result_done(&r);
        volume_free(&v);
}
