/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthctl reconcile and what the agent puts right by itself, with real berthd, mounters and devices: lost records, mounts
 * taken away by hand, devices and mounts that are nobody's or an operator's. Each test names the steps it expects of a dry
 * run, which must change nothing, and then what must be true in the end.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
/* Nothing is done but what the test asks for, and what is left unused goes after a second. */
#define CONFIG "[Agent]\nLingerSec=1\n"
#define GONE_SECONDS 8.0

/* ---- plans as berthctl tells them ---- */

static bool is_step(const json_t *j, const char *step, const char *volume, const char *target)
{
        return str_equal(json_string_value(json_object_get(j, "step")), step) &&
               (!volume || str_equal(json_string_value(json_object_get(j, "volume")), volume)) &&
               (!target || str_equal(json_string_value(json_object_get(j, "target")), target));
}

static unsigned count_steps(const json_t *steps, const char *step, const char *volume, const char *target)
{
        unsigned n = 0;

        for (size_t i = 0; i < json_array_size(steps); i++)
                n += is_step(json_array_get(steps, i), step, volume, target);
        return n;
}

static void expect_steps(const json_t *steps, const char *step, const char *volume, const char *target)
{
        _cleanup_free_ char *all = json_dumps(steps, JSON_INDENT(1));

        cr_assert_eq(count_steps(steps, step, volume, target), 1, "no %s of %s at %s in %s", step, volume, target, all);
        for (size_t i = 0; i < json_array_size(steps); i++) {
                const char *reason = json_string_value(json_object_get(json_array_get(steps, i), "reason"));
                cr_assert(reason && *reason, "a step without a reason in %s", all);
        }
}

static void expect_no_steps(const json_t *steps)
{
        _cleanup_free_ char *all = json_dumps(steps, JSON_INDENT(1));

        cr_assert_eq(json_array_size(steps), 0, "%s", all);
}

/* Twice, since a dry run changes nothing; and as a table, which must tell the same. */
static json_t *dry_run(Fixture *f)
{
        _cleanup_free_ char *program = executable_path(f, "berthctl"), *table = NULL;
        char *argv[] = { program, "reconcile", "--dry-run", NULL };
        json_t *first = BERTHCTL(f, "reconcile", "--dry-run");
        _cleanup_json_ json_t *second = BERTHCTL(f, "reconcile", "--dry-run");

        cr_assert(json_equal(first, second), "the second dry run differs");
        cr_assert_eq(run(argv, &table, NULL), 0);
        cr_assert(strstr(table, "STEP") && strstr(table, "REASON") && !strstr(table, "RESULT"), "%s", table);
        for (size_t i = 0; i < json_array_size(first); i++) {
                const json_t *j = json_array_get(first, i);
                cr_assert(strstr(table, json_string_value(json_object_get(j, "step"))), "%s", table);
                cr_assert(strstr(table, json_string_value(json_object_get(j, "reason"))), "%s", table);
                cr_assert_null(json_object_get(j, "result"), "a dry run has a result");
        }
        return first;
}

static json_t *reconcile(Fixture *f)
{
        json_t *steps = BERTHCTL(f, "reconcile");

        for (size_t i = 0; i < json_array_size(steps); i++)
                cr_assert_str_eq(json_string_value(json_object_get(json_array_get(steps, i), "result")), "ok");
        return steps;
}

typedef struct Known {
        Fixture *f;
        unsigned n;
} Known;

static bool knows(void *arg)
{
        const Known *k = arg;

        return count_volumes(k->f) == k->n;
}

/* By `explain`, until the property has the value. */
typedef struct Wanted {
        Fixture *f;
        const char *target, *property, *part;
} Wanted;

static bool property_is(void *arg)
{
        const Wanted *w = arg;
        _cleanup_free_ char *value = volume_property(w->f, w->target, w->property);

        return strstr(value, w->part);
}

/* ---- a volume that is mounted ---- */

typedef struct Scene {
        Fixture f;
        char *image, *target, *key, *device, *stage, *record;
        Volume v;
} Scene;

static void scene_init(Scene *s, const char *config, const char *fs_type, const char *option)
{
        bool large = str_equal(fs_type, "btrfs");

        *s = (Scene) {};
        fixture_init(&s->f);
        fixture_start(&s->f, config);
        s->image = fixture_image(&s->f, "a", (large ? 160 : 64) * MIB);
        s->target = fixture_target(&s->f, "uid-1", "v");
        s->v = (Volume) { .image = s->image, .fs_type = fs_type, .option = option };
        mount_ok(&s->f, s->target, &s->v);
        write_line(s->target, "file", "kept");
        s->key = volume_property(&s->f, s->target, "Key");
        s->device = volume_property(&s->f, s->target, "Device");
        s->stage = volume_property(&s->f, s->target, "StagingPath");
        s->record = format("%s/volumes/%s.json", s->f.runtime_dir, s->key);
}

/* The volume works on, and everything goes with its pod. */
static void scene_done(Scene *s)
{
        mount_ok(&s->f, s->target, &s->v);
        expect_line(s->target, "file", "kept");
        unmount_ok(&s->f, s->target);
        wait_clean(&s->f, GONE_SECONDS);
        fixture_done(&s->f);
        free(s->image);
        free(s->target);
        free(s->key);
        free(s->device);
        free(s->stage);
        free(s->record);
}

Test(reconcile, nothing_to_do)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *program = executable_path(&s.f, "berthctl"), *out = NULL, *err = NULL;
        _cleanup_json_ json_t *dry = dry_run(&s.f), *steps = reconcile(&s.f);

        expect_no_steps(dry);
        expect_no_steps(steps);
        cr_assert_eq(run((char *[]) { program, "reconcile", "no-such-thing", NULL }, &out, &err), 2);
        scene_done(&s);
}

/* btrfs has device numbers of its own in the mount table. */
Test(reconcile, nothing_to_do_for_btrfs)
{
        Scene s;
        scene_init(&s, CONFIG, "btrfs", NULL);
        _cleanup_json_ json_t *dry = dry_run(&s.f), *steps = reconcile(&s.f);

        expect_no_steps(dry);
        expect_no_steps(steps);
        fixture_stop(&s.f, SIGKILL);
        fixture_start(&s.f, CONFIG);
        json_decref(steps);
        steps = reconcile(&s.f);
        expect_no_steps(steps);
        cr_assert_eq(fixture_count_mounts(s.target), 1);
        scene_done(&s);
}

/* ---- records ---- */

static void record_lost(const char *fs_type, const char *option)
{
        Scene s;
        scene_init(&s, CONFIG, fs_type, option);
        _cleanup_free_ char *two = fixture_target(&s.f, "uid-2", "tab\t new\nline back\\slash \\134 \xff"); /* escaped in the mount table */
        Volume read_only = s.v;
        read_only.read_only = true;
        mount_ok(&s.f, two, &read_only);
        uint64_t id = mount_id(s.target);

        fixture_stop(&s.f, SIGKILL);
        cr_assert(unlink(s.record) >= 0, "%s", strerror(errno));
        fixture_start(&s.f, CONFIG);
        wait_until(knows, &(Known) { &s.f, 1 }, 10, "the volume is known again");
        cr_assert_eq(access(s.record, F_OK), 0, "there is no record of it");
        _cleanup_json_ json_t *steps = dry_run(&s.f);
        expect_no_steps(steps);
        _cleanup_free_ char *key = volume_property(&s.f, two, "Key"), *device = volume_property(&s.f, two, "Device");
        cr_assert_str_eq(key, s.key);
        cr_assert_str_eq(device, s.device);

        /* what the kubelet repeats is what it was, and changes nothing */
        mount_ok(&s.f, s.target, &s.v);
        mount_ok(&s.f, two, &read_only);
        cr_assert_eq(mount_id(s.target), id);
        cr_assert_eq(fixture_count_mounts(s.target), 1);
        cr_assert(is_read_only(two) && !is_read_only(s.target));
        mount_refused(&s.f, two, &s.v, ERROR_CONFLICT, "read-only");
        /* and from then on known: what differs is refused */
        if (option)
                mount_refused(&s.f, s.target, &(Volume) { .image = s.image, .option = "nodiratime" }, ERROR_CONFLICT, "nodiratime");
        unmount_ok(&s.f, two);
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        scene_done(&s);
}

Test(reconcile, record_lost)
{
        record_lost(NULL, NULL);
}

Test(reconcile, record_lost_of_a_stage_with_options)
{
        record_lost(NULL, "noatime");
}

Test(reconcile, record_lost_of_btrfs)
{
        record_lost("btrfs", NULL);
}

/* Nobody repeats the mount: the unmount alone must take everything away. */
Test(reconcile, record_lost_and_only_unmounted)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        fixture_stop(&s.f, SIGKILL);
        cr_assert(unlink(s.record) >= 0);
        fixture_start(&s.f, CONFIG);
        unmount_ok(&s.f, s.target); /* perhaps before it was adopted */
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

Test(reconcile, record_lost_of_a_volume_that_only_lingers)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        fixture_stop(&s.f, SIGKILL);
        cr_assert(unlink(s.record) >= 0);
        cr_assert(umount2(s.target, 0) >= 0 && umount2(s.stage, 0) >= 0);
        fixture_start(&s.f, CONFIG);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

static void record_spoiled(Scene *s, const char *content)
{
        _cleanup_free_ char *aside = format("%s.bad", s->record), *kept = NULL;

        fixture_stop(&s->f, SIGKILL);
        write_text(s->record, content);
        fixture_start(&s->f, CONFIG);
        kept = read_text(aside);
        cr_assert_str_eq(kept, content, "what was set aside is not what it was");
        wait_until(knows, &(Known) { &s->f, 1 }, 10, "the volume is known again");
        mount_ok(&s->f, s->target, &s->v);
        cr_assert(unlink(aside) >= 0);
}

Test(reconcile, record_unreadable)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *good = read_text(s.record), *half = format("%.*s", (int) strlen(good) / 2, good),
                            *newer = format("{\"version\":99,\"key\":\"%s\",\"state\":{}}", s.key);
        uint64_t id = mount_id(s.target);

        record_spoiled(&s, half);
        record_spoiled(&s, "\x7f\x45\x4c\x46 garbage");
        record_spoiled(&s, "");
        record_spoiled(&s, newer);
        cr_assert_eq(mount_id(s.target), id);
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        scene_done(&s);
}

/* ---- mounts that are taken away by hand ---- */

Test(reconcile, target_unmounted)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *two = fixture_target(&s.f, "uid-2", "v");

        mount_ok(&s.f, two, &s.v);
        fixture_stop(&s.f, SIGKILL);
        cr_assert(umount2(two, 0) >= 0);
        fixture_start(&s.f, CONFIG);
        _cleanup_json_ json_t *steps = dry_run(&s.f), *v = BERTHCTL(&s.f, "explain", s.target);
        cr_assert_eq(count_steps(steps, "cleanup", NULL, NULL), 0, "a volume in use is given back");
        cr_assert_not_null(v);
        /* dropped at the start already: a repeat mounts it afresh */
        mount_ok(&s.f, two, &s.v);
        expect_line(two, "file", "kept");
        cr_assert_eq(fixture_count_mounts(two), 1);
        unmount_ok(&s.f, two);
        scene_done(&s);
}

/* The last one: given back after its linger time, without anybody's asking. */
Test(reconcile, last_target_unmounted)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        cr_assert(umount2(s.target, 0) >= 0);
        wait_clean(&s.f, GONE_SECONDS);
        cr_assert_eq(count_volumes(&s.f), 0);
        scene_done(&s);
}

Test(reconcile, last_target_unmounted_and_mounted_again)
{
        Scene s;
        scene_init(&s, "[Agent]\nLingerSec=600\n", NULL, NULL);

        cr_assert(umount2(s.target, 0) >= 0);
        json_decref(reconcile(&s.f));
        cr_assert_eq(count_volumes(&s.f), 1, "not left for a repeat");
        cr_assert_eq(fixture_count_mounts(s.stage), 1);
        _cleanup_json_ json_t *steps = dry_run(&s.f);
        expect_no_steps(steps);
        scene_done(&s);
}

Test(reconcile, stage_unmounted_while_published)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *two = fixture_target(&s.f, "uid-2", "v");

        cr_assert(umount2(s.stage, 0) >= 0);
        wait_until(property_is, &(Wanted) { &s.f, s.target, "State", "unstaging" }, 10, "the agent sees it");
        expect_line(s.target, "file", "kept");
        cr_assert_eq(fixture_count_mounts(s.target), 1, "the pod's mount was taken away");

        /* another pod of the same volume: staged again, from the same device */
        mount_ok(&s.f, two, &s.v);
        expect_line(two, "file", "kept");
        write_line(two, "other", "from the second");
        expect_line(s.target, "other", "from the second");
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        unmount_ok(&s.f, two);
        scene_done(&s);
}

Test(reconcile, stage_unmounted_and_pod_ends)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        cr_assert(umount2(s.stage, 0) >= 0);
        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

Test(reconcile, all_undone)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        cr_assert(umount2(s.target, 0) >= 0 && umount2(s.stage, 0) >= 0);
        RUN_OK("losetup", "-d", s.device);
        wait_clean(&s.f, GONE_SECONDS);
        cr_assert_eq(count_volumes(&s.f), 0);
        scene_done(&s);
}

static void in_own_namespace(void (*f)(const Scene *s), const Scene *s)
{
        int status;

        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                if (unshare(CLONE_NEWNS) >= 0)
                        f(s);
                _exit(1);
        }
        cr_assert(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void remove_pod_directory(const Scene *s)
{
        /* where it is no mount point it can be removed, and the mounts elsewhere go with it */
        _exit(umount2(s->target, MNT_DETACH) >= 0 && rmdir(s->target) >= 0 ? 0 : 1);
}

Test(reconcile, pod_directory_removed)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        in_own_namespace(remove_pod_directory, &s);
        cr_assert_eq(fixture_count_mounts(s.target), 0);
        wait_clean(&s.f, GONE_SECONDS);
        unmount_ok(&s.f, s.target); /* the kubelet's own repeat */
        cr_assert(mkdir(s.target, 0750) >= 0);
        scene_done(&s);
}

/* While no agent runs, the pod's directory is moved out of the root, and a link put there to what is mounted elsewhere. */
Test(reconcile, pod_directory_exchanged_for_a_link)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *pod = format("%s/pods/uid-1", s.f.kubelet_root), *away = format("%s/away", s.f.dir),
                            *moved = format("%s/volumes/berth~loop/v", away), *other = format("%s/other", s.f.dir),
                            *others = format("%s/volumes/berth~loop/v", other);

        fixture_stop(&s.f, SIGKILL);
        RUN_OK("mkdir", "-p", others);
        cr_assert(mount("tmpfs", others, "tmpfs", 0, "size=64k") >= 0, "%s", strerror(errno));
        cr_assert(rename(pod, away) >= 0 && symlink(other, pod) >= 0, "%s", strerror(errno));
        fixture_start(&s.f, CONFIG);
        json_decref(BERTHCTL(&s.f, "reconcile"));
        wait_until(property_is, &(Wanted) { &s.f, s.key, "State", "detaching" }, 10, "nothing of the root shows the volume any more");
        cr_assert_eq(fixture_count_mounts(others), 1, "what the link leads to was touched");
        cr_assert_eq(fixture_count_mounts(moved), 1, "what was moved away was touched");
        expect_line(moved, "file", "kept");
        cr_assert_eq(fixture_unmount(&s.f, s.target, NULL), ERROR_TARGET_INVALID);
        cr_assert_eq(fixture_count_mounts(others), 1, "what the link leads to was unmounted");

        cr_assert(umount2(others, 0) >= 0 && umount2(moved, 0) >= 0, "%s", strerror(errno));
        wait_clean(&s.f, GONE_SECONDS);
        cr_assert(unlink(pod) >= 0 && rename(away, pod) >= 0);
        scene_done(&s);
}

/* ---- devices ---- */

/* Attached and then never staged, as after a crash; and the record lost as well. */
Test(reconcile, own_device_without_record)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *device = NULL;

        unmount_ok(&s.f, s.target);
        wait_clean(&s.f, GONE_SECONDS);
        Volume named = s.v;
        named.name = "pv";
        cr_assert_eq(try_attach(&s.f, &named, &device, NULL), ERROR_NONE);
        fixture_stop(&s.f, SIGKILL);
        cr_assert(unlink(s.record) >= 0);
        fixture_start(&s.f, "[Agent]\nLingerSec=3\n");
        wait_until(knows, &(Known) { &s.f, 1 }, 2.5, "the device is adopted");
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        wait_clean(&s.f, GONE_SECONDS + 3);
        cr_assert_eq(try_detach(&s.f, "pv"), ERROR_NONE);
        scene_done(&s);
}

Test(reconcile, an_operators_device_and_mount)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *image = fixture_image_formatted(&s.f, "operator", 32 * MIB, "ext4"), *device = NULL,
                            *odd = format("%s/odd", s.f.dir), *target = fixture_target(&s.f, "uid-9", "operator");

        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", image, NULL }, &device, NULL), 0);
        device[strcspn(device, "\n")] = 0;
        cr_assert(mkdir(odd, 0700) >= 0);
        cr_assert(mount(device, odd, "ext4", 0, NULL) >= 0, "%s", strerror(errno));
        cr_assert(mount(odd, target, NULL, MS_BIND, NULL) >= 0);
        for (unsigned i = 0; i < 3; i++) {
                _cleanup_json_ json_t *dry = dry_run(&s.f), *steps = reconcile(&s.f);

                expect_no_steps(dry);
                expect_no_steps(steps);
                fixture_stop(&s.f, SIGKILL);
                fixture_start(&s.f, CONFIG);
        }
        cr_assert_eq(fixture_count_loops(&s.f), 2);
        cr_assert_eq(fixture_count_mounts(odd) + fixture_count_mounts(target), 2);
        cr_assert_eq(count_volumes(&s.f), 1);
        cr_assert(umount2(target, 0) >= 0 && umount2(odd, 0) >= 0);
        RUN_OK("losetup", "-d", device);
        cr_assert(rmdir(odd) >= 0);
        scene_done(&s);
}

/* ---- reports ---- */

static unsigned count_lines(const char *text, const char *part, const char *other)
{
        unsigned n = 0;

        for (const char *end; *text; text = *end ? end + 1 : end) {
                end = text + strcspn(text, "\n");
                _cleanup_free_ char *line = strndup(text, (size_t) (end - text));
                n += strstr(line, part) && strstr(line, other);
        }
        return n;
}

Test(reconcile, unknown_mount_below_the_staging_directory)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *path = format("%s-unknown", s.stage), *odd = format("%s.odd", s.stage);

        cr_assert(mkdir(path, 0700) >= 0 && mkdir(odd, 0700) >= 0);
        cr_assert(mount("tmpfs", path, "tmpfs", 0, "size=64k") >= 0);
        cr_assert(mount("tmpfs", odd, "tmpfs", 0, "size=64k") >= 0);
        for (unsigned i = 0; i < 2; i++) {
                _cleanup_json_ json_t *dry = dry_run(&s.f), *steps = reconcile(&s.f);

                expect_steps(dry, "report", NULL, path);
                expect_steps(steps, "report", NULL, odd);
                cr_assert_eq(json_array_size(steps), 2);
                cr_assert_eq(fixture_count_mounts(path), 1, "it was touched");
        }
        _cleanup_free_ char *log = read_text(s.f.log);
        cr_assert_eq(count_lines(log, "Reconcile: report", path), 1, "told at each look:\n%s", log);
        cr_assert(umount2(path, 0) >= 0 && umount2(odd, 0) >= 0 && rmdir(path) >= 0 && rmdir(odd) >= 0);
        scene_done(&s);
}

/* Somebody mounted something inside of a volume: told, and when it is gone the volume goes too. */
Test(reconcile, something_inside_of_the_stage)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        _cleanup_free_ char *inside = format("%s/lost+found", s.stage);

        cr_assert(mount("tmpfs", inside, "tmpfs", 0, "size=64k") >= 0, "%s", strerror(errno));
        _cleanup_json_ json_t *steps = dry_run(&s.f);
        expect_steps(steps, "report", s.key, inside);
        cr_assert_eq(json_array_size(steps), 1);
        unmount_ok(&s.f, s.target);
        cr_assert_eq(fixture_count_mounts(inside), 1, "it was touched");
        cr_assert_eq(fixture_count_mounts(s.stage), 1);
        cr_assert(umount2(inside, 0) >= 0);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* Somebody mounted something over a stage: told, and left, until it is gone. */
Test(reconcile, something_over_the_stage)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);

        cr_assert(mount("tmpfs", s.stage, "tmpfs", 0, "size=64k") >= 0);
        cr_assert(umount2(s.target, 0) >= 0);
        _cleanup_json_ json_t *steps = reconcile(&s.f);
        expect_steps(steps, "report", s.key, s.stage);
        cr_assert_eq(json_array_size(steps), 1);
        cr_assert_eq(fixture_count_mounts(s.stage), 2);
        cr_assert(umount2(s.stage, 0) >= 0);
        json_decref(reconcile(&s.f));
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}

/* ---- held elsewhere ---- */

Test(reconcile, detaching_while_another_namespace_holds)
{
        Scene s;
        scene_init(&s, CONFIG, NULL, NULL);
        pid_t holder = holder_start(NULL);
        _cleanup_free_ char *pid = format("pid %d", (int) holder);

        unmount_ok(&s.f, s.target);
        wait_until(property_is, &(Wanted) { &s.f, s.key, "State", "detaching" }, 10, "it waits for its holder");
        /* long, since who holds it is looked for no longer than is cheap, and a busy machine has many processes to look at */
        wait_until(property_is, &(Wanted) { &s.f, s.key, "LastError", pid }, 60, "it is said who holds it");
        _cleanup_free_ char *error = volume_property(&s.f, s.key, "LastError");
        cr_assert(strstr(error, s.device) && strstr(error, "mount namespace"), "%s", error);

        /* the same after the agent was killed */
        fixture_stop(&s.f, SIGKILL);
        fixture_start(&s.f, CONFIG);
        wait_until(property_is, &(Wanted) { &s.f, s.key, "LastError", pid }, 60, "it is said who holds it");
        cr_assert_eq(fixture_count_loops(&s.f), 1);
        holder_end(holder);
        wait_clean(&s.f, GONE_SECONDS);
        scene_done(&s);
}
