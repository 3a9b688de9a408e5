/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * reconcile_plan() against snapshots written by hand: each rule, each case of a node after somebody's death or
 * somebody's hands, thousands of mounts, and random snapshots of which no plan may do what must never be done. No root and no
 * kernel state needed: the plan is a pure function.
 */

#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "daemon/reconcile/reconcile.h"

#define LOOP(n) makedev(7, n)
#define A "loop-1-2-10"
#define B "loop-1-2-11"
#define C "loop-1-2-12"
#define STAGE(key) "/state/staging/" key
#define T1 "/pods/1/v"
#define T2 "/pods/2/v"
#define T3 "/pods/3/v"

/* ---- snapshots ---- */

static void *grow(void *array, size_t n, size_t size)
{
        void *grown = reallocarray(array, n + 1, size);

        if (!grown)
                abort();
        return grown;
}

static void volume(Snapshot *s, VolumeView v, char *const *targets)
{
        s->volumes = grow(s->volumes, s->n_volumes, sizeof(v));
        v.key = strdup(v.key);
        v.n_publishes = strv_length(targets);
        v.publishes = calloc(v.n_publishes + 1, sizeof(PublishView));
        PublishView *p = v.publishes;
        STRV_FOREACH (target, targets)
                (p++)->target = strdup(*target);
        s->volumes[s->n_volumes++] = v;
}
#define VOLUME(s, targets, ...) volume(s, (VolumeView) { __VA_ARGS__ }, targets)
#define TARGETS(...) ((char *[]) { __VA_ARGS__, NULL })
#define UNPUBLISHED NULL

static void add_mount(Snapshot *s, const char *target, const char *stage, dev_t device, const char *root)
{
        s->mounts = grow(s->mounts, s->n_mounts, sizeof(MountView));
        s->mounts[s->n_mounts++] = (MountView) {
                .target = strdup(target),
                .stage = stage ? strdup(stage) : NULL,
                .is_target = !stage,
                .device = device,
                .fs_type = strdup("ext4"),
                .root = strdup(root),
        };
}

static void staged(Snapshot *s, const char *key, dev_t device)
{
        char target[128];

        snprintf(target, sizeof(target), "/state/staging/%s", key);
        add_mount(s, target, key, device, "/");
}

static void published(Snapshot *s, const char *target, dev_t device)
{
        add_mount(s, target, NULL, device, "/");
}

typedef enum Whose { OWN, FOREIGN } Whose;

static void device(Snapshot *s, const char *key, dev_t number, Whose whose)
{
        char identity[64];

        snprintf(identity, sizeof(identity), "identity of %s", key);
        s->devices = grow(s->devices, s->n_devices, sizeof(StepDevice));
        s->devices[s->n_devices++] = (StepDevice) {
                .key = strdup(key),
                .identity = strdup(identity),
                .device = strdup("/dev/loop"),
                .image = strdup("/images/a"),
                .device_number = number,
                .foreign = whose == FOREIGN,
        };
}

static void scanned(Snapshot *s, const char *kind)
{
        cr_assert(strv_append(&s->kinds, kind) >= 0);
}

/* A volume as it should be: record, device, stage. */
static void healthy(Snapshot *s, const char *key, dev_t number, char *const *targets)
{
        VOLUME(s, targets, .key = (char *) key, .state = VOLUME_STAGED, .device = number, .device_present = true,
               .health = VOLUME_HEALTH_OK);
        staged(s, key, number);
        for (size_t i = 0; targets && targets[i]; i++)
                published(s, targets[i], number);
}

/* ---- plans ---- */

typedef struct Expected {
        PlanStepType type;
        const char *volume, *target;
        const char *reason; /* a part of it; never NULL but at the end */
        VolumeState state;
        bool at_once;
        bool moved; /* PLAN_CORRECT_STATE: to another device */
} Expected;

static char *describe(const Plan *p)
{
        char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        for (size_t i = 0; i < p->n_steps; i++)
                fprintf(f, "\n  %s %s %s %s%s: %s", plan_step_type_to_string(p->steps[i].type), str_or(p->steps[i].volume, "-"),
                        str_or(p->steps[i].target, "-"),
                        p->steps[i].type == PLAN_CORRECT_STATE ? volume_state_to_string(p->steps[i].state) : "",
                        p->steps[i].at_once ? " at once" : "", p->steps[i].reason);
        fclose(f);
        return text;
}

static void expect_step(const PlanStep *s, const Expected *e, size_t i, const char *all)
{
        cr_assert_eq(s->type, e->type, "step %zu is no %s:%s", i, plan_step_type_to_string(e->type), all);
        cr_assert_str_eq(str_or(s->volume, ""), str_or(e->volume, ""), "step %zu is of another volume:%s", i, all);
        cr_assert_str_eq(str_or(s->target, ""), str_or(e->target, ""), "step %zu is of another target:%s", i, all);
        cr_assert(strstr(s->reason, e->reason), "step %zu has another reason than '%s':%s", i, e->reason, all);
        cr_assert(s->type != PLAN_CORRECT_STATE || s->state == e->state, "step %zu has another state than %s:%s", i,
                  volume_state_to_string(e->state), all);
        cr_assert_eq(s->at_once, e->at_once, "step %zu:%s", i, all);
        cr_assert((s->type == PLAN_ADOPT_VOLUME || e->moved) == (s->device != NULL), "step %zu %s a device:%s", i,
                  s->device ? "has" : "lacks", all);
        cr_assert(s->type != PLAN_ADOPT_PUBLISH || s->mount);
}

/* Plans, compares and frees. */
static bool expect_plan(Snapshot *s, const Expected *expected)
{
        _cleanup_plan_ Plan p = {};
        size_t n = 0;

        snapshot_sort(s);
        cr_assert(reconcile_plan(s, &p) >= 0);
        _cleanup_free_ char *all = describe(&p);
        for (; expected[n].reason; n++) {
                cr_assert_lt(n, p.n_steps, "%s %s is missing:%s", plan_step_type_to_string(expected[n].type), expected[n].volume, all);
                expect_step(&p.steps[n], &expected[n], n, all);
        }
        cr_assert_eq(p.n_steps, n, "%zu steps, not %zu:%s", p.n_steps, n, all);
        snapshot_done(s);
        return p.wait;
}
#define EXPECT(s, ...) cr_assert_not(expect_plan(s, (const Expected[]) { __VA_ARGS__, {} }), "nobody is at work")
#define EXPECT_NOTHING(s) cr_assert_not(expect_plan(s, (const Expected[]) { {} }), "nobody is at work")

#define ADOPT_VOLUME(key, why) { PLAN_ADOPT_VOLUME, key, NULL, why }
#define ADOPT_PUBLISH(key, target) { PLAN_ADOPT_PUBLISH, key, target, "no record" }
#define DROP(key, target, why) { PLAN_DROP_PUBLISH, key, target, why }
#define UNPUBLISH(key, target) { PLAN_UNPUBLISH, key, target, "beyond use" }
#define REPUBLISH(key, target) { PLAN_REPUBLISH, key, target, "stale file handle" }
#define CORRECT(key, to, why) { PLAN_CORRECT_STATE, key, NULL, why, .state = to }
#define MOVED(key, to, why) { PLAN_CORRECT_STATE, key, NULL, why, .state = to, .moved = true }
#define CLEANUP(key, why) { PLAN_CLEANUP, key, NULL, why }
#define CLEANUP_NOW(key, why) { PLAN_CLEANUP, key, NULL, why, .at_once = true }
#define REPORT(key, target, why) { PLAN_REPORT, key, target, why }

/* ---- nothing to do ---- */

Test(plan, empty_node)
{
        Snapshot s = {};

        EXPECT_NOTHING(&s);
}

Test(plan, healthy_busy_node)
{
        Snapshot s = {};

        scanned(&s, "loop");
        healthy(&s, A, LOOP(1), TARGETS(T1, T2));
        device(&s, A, LOOP(1), OWN);
        healthy(&s, B, LOOP(2), TARGETS(T3));
        device(&s, B, LOOP(2), FOREIGN); /* an operator's device, used */
        s.volumes[1].foreign = true;
        /* attached by name only; left for its linger time; being worked on */
        VOLUME(&s, UNPUBLISHED, .key = C, .state = VOLUME_ATTACHED, .device = LOOP(3), .device_present = true, .attached_by_name = true);
        device(&s, C, LOOP(3), OWN);
        VOLUME(&s, UNPUBLISHED, .key = "loop-1-2-13", .state = VOLUME_STAGED, .device = LOOP(4), .device_present = true,
               .cleanup_scheduled = true);
        staged(&s, "loop-1-2-13", LOOP(4));
        device(&s, "loop-1-2-13", LOOP(4), OWN);
        VOLUME(&s, UNPUBLISHED, .key = "loop-1-2-14", .state = VOLUME_ATTACHING, .step = "attach", .busy = true);
        device(&s, "loop-1-2-14", LOOP(5), OWN);
        /* an operator's */
        device(&s, "loop-1-2-15", LOOP(6), FOREIGN);
        published(&s, "/pods/9/v", LOOP(6));
        published(&s, "/pods/9/w", makedev(8, 1));
        EXPECT_NOTHING(&s);
}

Test(plan, busy_volume_is_left_alone)
{
        Snapshot s = {};

        scanned(&s, "loop");
        /* everything is wrong with it */
        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .step = "publish", .device = LOOP(1), .busy = true,
               .health = VOLUME_HEALTH_CORRUPTED);
        staged(&s, A, LOOP(2));
        published(&s, T2, LOOP(1));
        device(&s, A, LOOP(2), OWN);
        EXPECT_NOTHING(&s);
}

Test(plan, mounter_still_at_work)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_STAGING, .step = "format", .device = LOOP(1), .device_present = true,
               .at_work = true);
        device(&s, A, LOOP(1), OWN);
        healthy(&s, B, LOOP(2), UNPUBLISHED);
        cr_assert(expect_plan(&s, (const Expected[]) { CLEANUP(B, "nobody"), {} }), "to be looked at again soon");
}

/* ---- publishes ---- */

Test(plan, target_unmounted_by_hand)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        free(s.mounts[1].target);
        s.mounts[1].target = strdup("/elsewhere");
        s.mounts[1].device = makedev(8, 1);
        EXPECT(&s, DROP(A, T1, "nothing is mounted"), CLEANUP(A, "nobody"));
}

/* A directory that is removed from another mount namespace takes its mount along. */
Test(plan, pod_directory_gone_of_one_of_two_pods)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        s.volumes[0].publishes = grow(s.volumes[0].publishes, 1, sizeof(PublishView));
        s.volumes[0].publishes[s.volumes[0].n_publishes++].target = strdup(T2);
        EXPECT(&s, DROP(A, T2, "nothing is mounted"));
}

Test(plan, something_else_at_the_target)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), UNPUBLISHED);
        VOLUME(&s, TARGETS(T1), .key = B, .state = VOLUME_STAGED, .device = LOOP(2), .device_present = true);
        staged(&s, B, LOOP(2));
        published(&s, T1, makedev(8, 1));
        s.volumes[0].cleanup_scheduled = true;
        EXPECT(&s, DROP(B, T1, "something else"), CLEANUP(B, "nobody"));
}

Test(plan, something_on_top_of_the_target)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        published(&s, T1, makedev(8, 1));
        EXPECT_NOTHING(&s);
}

Test(plan, publish_without_record)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        published(&s, T2, LOOP(1));
        published(&s, T2, LOOP(1)); /* a second layer of the same */
        add_mount(&s, T3, NULL, LOOP(1), "/directory"); /* a part of it: not a publish */
        EXPECT(&s, ADOPT_PUBLISH(A, T2));
}

Test(plan, publish_without_record_of_an_unused_volume)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), UNPUBLISHED);
        published(&s, T1, LOOP(1));
        EXPECT(&s, ADOPT_PUBLISH(A, T1));
}

Test(plan, volume_at_a_place_that_is_no_target)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        published(&s, "/mnt", LOOP(1));
        s.mounts[2].is_target = false;
        EXPECT_NOTHING(&s);
}

Test(plan, target_that_changed_hands)
{
        Snapshot s = {};

        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        staged(&s, A, LOOP(1));
        healthy(&s, B, LOOP(2), UNPUBLISHED);
        published(&s, T1, LOOP(2));
        EXPECT(&s, DROP(A, T1, "something else"), CLEANUP(A, "nobody"), ADOPT_PUBLISH(B, T1));
}

Test(plan, target_that_changes_hands_just_now)
{
        Snapshot s = {};

        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .step = "unpublish", .device = LOOP(1), .device_present = true, .busy = true);
        staged(&s, A, LOOP(1));
        healthy(&s, B, LOOP(2), UNPUBLISHED);
        published(&s, T1, LOOP(2));
        EXPECT_NOTHING(&s);
}

/* ---- stages ---- */

Test(plan, unused_stage)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), UNPUBLISHED);
        EXPECT(&s, CLEANUP(A, "nobody uses it"));
}

Test(plan, stage_unmounted_by_hand_while_published)
{
        Snapshot s = {};

        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        published(&s, T1, LOOP(1));
        EXPECT(&s, CORRECT(A, VOLUME_UNSTAGING, "its stage is not mounted"));
}

Test(plan, stage_unmounted_by_hand_while_published_without_record)
{
        Snapshot s = {};

        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        published(&s, T1, LOOP(1));
        EXPECT(&s, CORRECT(A, VOLUME_UNSTAGING, "its stage is not mounted"), ADOPT_PUBLISH(A, T1));
}

Test(plan, stage_unmounted_by_hand)
{
        Snapshot s = {};

        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        EXPECT(&s, CORRECT(A, VOLUME_UNSTAGING, "its stage is not mounted"), CLEANUP(A, "nobody"));
}

Test(plan, all_undone_by_hand)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1));
        EXPECT(&s, DROP(A, T1, "nothing is mounted"), CORRECT(A, VOLUME_UNSTAGING, "not mounted"), CLEANUP_NOW(A, "nobody"));
}

Test(plan, something_strange_at_the_staging_path)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, makedev(8, 1));
        EXPECT(&s, REPORT(A, STAGE(A), "another device"));
}

Test(plan, something_strange_on_top_of_the_stage)
{
        Snapshot s = {};

        scanned(&s, "loop");
        healthy(&s, A, LOOP(1), UNPUBLISHED); /* would be cleaned up */
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, makedev(8, 1));
        EXPECT(&s, REPORT(A, STAGE(A), "another device"));
}

Test(plan, something_strange_where_a_volume_would_be_adopted)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, makedev(8, 1));
        published(&s, T1, LOOP(1));
        EXPECT(&s, REPORT(A, STAGE(A), "another device"));
}

Test(plan, unknown_mount_below_the_staging_directory)
{
        Snapshot s = {};

        scanned(&s, "loop");
        staged(&s, A, makedev(8, 1));
        staged(&s, "something", makedev(0, 40));
        staged(&s, "something", makedev(0, 41));
        EXPECT(&s, REPORT(A, STAGE(A), "no device of a volume explains"), REPORT("something", STAGE("something"), "no device of a volume explains"));
}

/* An operator has mounted something inside of a volume, by way of its stage: told once, however many layers there are. */
Test(plan, mount_inside_of_a_stage)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        for (unsigned i = 0; i < 2; i++) {
                add_mount(&s, STAGE(A) "/sub", NULL, LOOP(7), "/");
                s.mounts[s.n_mounts - 1].is_target = false;
                s.mounts[s.n_mounts - 1].within = strdup(A);
        }
        EXPECT(&s, { .type = PLAN_REPORT, .volume = A, .target = STAGE(A) "/sub", .reason = "inside of a stage" });
}

Test(plan, unknown_mount_that_a_silent_mounter_may_know)
{
        Snapshot s = {};

        scanned(&s, "loop");
        cr_assert(strv_append(&s.silent, "rbd") >= 0);
        staged(&s, "rbd-fsid-1", makedev(252, 0));
        EXPECT_NOTHING(&s);
}

Test(plan, unknown_mount_before_any_mounter_was_asked)
{
        Snapshot s = {};

        staged(&s, A, LOOP(1));
        published(&s, T1, LOOP(1));
        EXPECT_NOTHING(&s);
}

/* ---- beyond use ---- */

Test(plan, corrupted_stage)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1, T2));
        s.volumes[0].health = VOLUME_HEALTH_CORRUPTED;
        EXPECT(&s, UNPUBLISH(A, T1), UNPUBLISH(A, T2));
}

Test(plan, corrupted_stage_that_nobody_uses)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), UNPUBLISHED);
        s.volumes[0].health = VOLUME_HEALTH_CORRUPTED;
        EXPECT(&s, CLEANUP_NOW(A, "nobody"));
}

Test(plan, degraded_or_unknown_health)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1));
        healthy(&s, B, LOOP(2), TARGETS(T2));
        s.volumes[0].health = VOLUME_HEALTH_DEGRADED;
        s.volumes[1].health = VOLUME_HEALTH_UNKNOWN;
        EXPECT_NOTHING(&s);
}

Test(plan, health_of_what_is_no_longer_staged)
{
        Snapshot s = {};

        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true,
               .health = VOLUME_HEALTH_CORRUPTED);
        published(&s, T1, LOOP(1));
        EXPECT(&s, CORRECT(A, VOLUME_UNSTAGING, "not mounted"));
}

Test(plan, device_gone_below_its_mounts)
{
        Snapshot s = {};

        healthy(&s, A, LOOP(1), TARGETS(T1, T2));
        s.volumes[0].device_present = false;
        EXPECT(&s, UNPUBLISH(A, T1), UNPUBLISH(A, T2));
}

Test(plan, device_gone_below_a_mount_whose_stage_is_gone_too)
{
        Snapshot s = {};

        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1));
        published(&s, T1, LOOP(1));
        EXPECT(&s, UNPUBLISH(A, T1), CORRECT(A, VOLUME_UNSTAGING, "not mounted"));
}

/* ---- devices ---- */

Test(plan, device_removed_by_hand)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHED, .device = LOOP(1));
        EXPECT(&s, CORRECT(A, VOLUME_DETACHING, "its device is not there"), CLEANUP_NOW(A, "nobody"));
}

Test(plan, device_removed_by_hand_and_held_by_name)
{
        Snapshot s = {};

        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHED, .device = LOOP(1), .attached_by_name = true);
        EXPECT(&s, CORRECT(A, VOLUME_DETACHING, "its device is not there"));
}

Test(plan, device_number_is_another_volumes_by_now)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        healthy(&s, B, LOOP(1), TARGETS(T2));
        device(&s, B, LOOP(1), OWN);
        EXPECT(&s, DROP(A, T1, "nothing is mounted"), CORRECT(A, VOLUME_UNSTAGING, "not mounted"), CLEANUP_NOW(A, "nobody"));
}

Test(plan, device_number_is_an_operators_by_now)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, TARGETS(T1), .key = A, .state = VOLUME_STAGED, .device = LOOP(1), .device_present = true);
        device(&s, "loop-1-2-99", LOOP(1), FOREIGN);
        published(&s, T1, LOOP(1)); /* the operator's, even there */
        EXPECT(&s, DROP(A, T1, "something else"), CORRECT(A, VOLUME_UNSTAGING, "not mounted"), CLEANUP_NOW(A, "nobody"));
}

/* Two records claim one device, and no mounter has told whose it is: the one that is staged. */
Test(plan, device_number_claimed_twice)
{
        Snapshot s = {};

        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHED, .device = LOOP(1), .device_present = true, .cleanup_scheduled = true);
        healthy(&s, B, LOOP(1), TARGETS(T2));
        VOLUME(&s, UNPUBLISHED, .key = C, .state = VOLUME_ATTACHED, .device = LOOP(1), .device_present = true, .cleanup_scheduled = true);
        EXPECT_NOTHING(&s);
}

Test(plan, device_under_another_number)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHED, .device = LOOP(1), .attached_by_name = true);
        device(&s, A, LOOP(2), OWN);
        EXPECT(&s, CORRECT(A, VOLUME_ATTACHING, "another device"));
}

/* Attached and mounted by a step that was cut short before its answer: the record tells of no device, or of an earlier one. */
Test(plan, stage_of_a_device_that_was_not_recorded)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_STAGING, .step = step_to_string(STEP_STAGE));
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, LOOP(1));
        EXPECT(&s, MOVED(A, VOLUME_STAGED, "its stage is mounted"), CLEANUP(A, "cut short"));
}

Test(plan, stage_of_another_device_than_recorded)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_STAGING, .step = step_to_string(STEP_STAGE), .device = LOOP(2));
        device(&s, A, LOOP(1), OWN);
        device(&s, B, LOOP(2), FOREIGN);
        staged(&s, A, LOOP(1));
        EXPECT(&s, MOVED(A, VOLUME_STAGED, "its stage is mounted"), CLEANUP(A, "cut short"));
}

/* A device that its mounter could not look at is not in the scan. */
Test(plan, device_that_the_scan_left_out)
{
        Snapshot s = {};

        scanned(&s, "loop");
        healthy(&s, A, LOOP(1), TARGETS(T1));
        VOLUME(&s, UNPUBLISHED, .key = B, .state = VOLUME_ATTACHED, .device = LOOP(2), .device_present = true, .attached_by_name = true);
        EXPECT_NOTHING(&s);
}

/* Reported and left alone, beside a map of berth's own too; one that a volume uses is its own affair, and loop devices are everywhere. */
Test(plan, maps_of_others)
{
        Snapshot s = {};

        scanned(&s, "loop");
        scanned(&s, "rbd");
        device(&s, B, LOOP(3), FOREIGN);
        healthy(&s, "rbd-1", makedev(252, 0), TARGETS(T1));
        device(&s, "rbd-1", makedev(252, 0), OWN);
        device(&s, "rbd-1", makedev(252, 16), FOREIGN);
        healthy(&s, "rbd-2", makedev(252, 32), TARGETS(T2));
        device(&s, "rbd-2", makedev(252, 32), FOREIGN);
        device(&s, "rbd-3", makedev(252, 48), FOREIGN);
        EXPECT(&s, { PLAN_REPORT, "rbd-1", "/dev/loop", "somebody else has made", 0, false, false },
               { PLAN_REPORT, "rbd-3", "/dev/loop", "somebody else has made", 0, false, false });
}

Test(plan, kind_that_did_not_answer)
{
        Snapshot s = {};

        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHING, .attached_by_name = true);
        device(&s, "rbd-1", makedev(252, 0), FOREIGN);
        EXPECT_NOTHING(&s);
}

Test(plan, attach_that_had_no_effect)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_ATTACHING);
        EXPECT(&s, CORRECT(A, VOLUME_DETACHING, "its device is not there"), CLEANUP(A, "nobody"));
}

Test(plan, held_in_another_namespace)
{
        Snapshot s = {};

        scanned(&s, "loop");
        VOLUME(&s, UNPUBLISHED, .key = A, .state = VOLUME_DETACHING, .device = LOOP(1), .device_present = true);
        device(&s, A, LOOP(1), OWN);
        VOLUME(&s, UNPUBLISHED, .key = B, .state = VOLUME_DETACHING, .device = LOOP(2), .device_present = true, .cleanup_scheduled = true);
        device(&s, B, LOOP(2), OWN);
        EXPECT(&s, CLEANUP_NOW(A, "nobody"));
}

/* ---- steps cut short ---- */

typedef struct CutShort {
        const char *step;
        VolumeState state, corrected; /* corrected: as state if no step corrects it */
        bool has_device, has_stage, has_publish, is_published;
        bool at_once;
} CutShort;

static void cut_short(const CutShort *c)
{
        Snapshot s = {};
        Expected expected[4] = {};
        size_t n = 0;
        bool knows_device = c->state != VOLUME_ATTACHING;

        scanned(&s, "loop");
        VOLUME(&s, c->has_publish ? TARGETS(T1) : UNPUBLISHED, .key = A, .state = c->state, .step = c->step,
               .device = knows_device ? LOOP(1) : 0, .device_present = knows_device && c->has_device);
        if (c->has_device)
                device(&s, A, LOOP(1), OWN);
        if (c->has_stage)
                staged(&s, A, LOOP(1));
        if (c->is_published)
                published(&s, T1, LOOP(1));

        if (c->has_publish && !c->is_published)
                expected[n++] = (Expected) DROP(A, T1, "nothing is mounted");
        if (c->corrected != c->state || c->state == VOLUME_STAGED)
                expected[n++] = (Expected) CORRECT(A, c->corrected, "its");
        if (!c->is_published)
                expected[n++] = (Expected) { PLAN_CLEANUP, A, NULL, "cut short", .at_once = c->at_once };
        cr_assert_not(expect_plan(&s, expected), "nobody is at work");
}

#define CUT_SHORT(...) cut_short(&(CutShort) { __VA_ARGS__ })

Test(plan, attach_cut_short)
{
        CUT_SHORT("attach", VOLUME_ATTACHING, VOLUME_ATTACHING);
        CUT_SHORT("attach", VOLUME_ATTACHING, VOLUME_ATTACHING, .has_device = true);
}

Test(plan, stage_cut_short)
{
        CUT_SHORT("stage", VOLUME_STAGING, VOLUME_STAGING, .has_device = true);
        CUT_SHORT("stage", VOLUME_STAGING, VOLUME_STAGED, .has_device = true, .has_stage = true);
}

Test(plan, format_and_fsck_cut_short)
{
        CUT_SHORT("format", VOLUME_STAGING, VOLUME_STAGING, .has_device = true);
        CUT_SHORT("fsck", VOLUME_STAGING, VOLUME_STAGING, .has_device = true);
}

Test(plan, publish_cut_short)
{
        CUT_SHORT("publish", VOLUME_STAGED, VOLUME_STAGED, .has_device = true, .has_stage = true, .has_publish = true);
        CUT_SHORT("publish", VOLUME_STAGED, VOLUME_STAGED, .has_device = true, .has_stage = true, .has_publish = true, .is_published = true);
        /* and somebody unmounted the stage meanwhile */
        CUT_SHORT("publish", VOLUME_STAGED, VOLUME_UNSTAGING, .has_device = true, .has_publish = true, .is_published = true);
}

Test(plan, unpublish_cut_short)
{
        CUT_SHORT("unpublish", VOLUME_STAGED, VOLUME_STAGED, .has_device = true, .has_stage = true, .has_publish = true, .at_once = true);
        CUT_SHORT("unpublish", VOLUME_STAGED, VOLUME_STAGED, .has_device = true, .has_stage = true, .has_publish = true, .is_published = true);
}

Test(plan, unstage_cut_short)
{
        CUT_SHORT("unstage", VOLUME_UNSTAGING, VOLUME_STAGED, .has_device = true, .has_stage = true, .at_once = true);
        CUT_SHORT("unstage", VOLUME_UNSTAGING, VOLUME_UNSTAGING, .has_device = true, .at_once = true);
}

Test(plan, detach_cut_short)
{
        CUT_SHORT("detach", VOLUME_DETACHING, VOLUME_DETACHING, .has_device = true, .at_once = true);
        CUT_SHORT("detach", VOLUME_DETACHING, VOLUME_DETACHING, .at_once = true);
}

Test(plan, expand_cut_short)
{
        CUT_SHORT("expand", VOLUME_STAGED, VOLUME_STAGED, .has_device = true, .has_stage = true, .has_publish = true, .is_published = true);
}

/* ---- adoption ---- */

Test(plan, own_device_without_record)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), OWN);
        EXPECT(&s, ADOPT_VOLUME(A, "a device of berth's own"), CLEANUP(A, "nobody"));
}

Test(plan, stage_without_record)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, LOOP(1));
        EXPECT(&s, ADOPT_VOLUME(A, "its stage is mounted"), CLEANUP(A, "nobody"));
}

Test(plan, published_volume_without_record)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), OWN);
        staged(&s, A, LOOP(1));
        published(&s, T1, LOOP(1));
        published(&s, T2, LOOP(1));
        EXPECT(&s, ADOPT_VOLUME(A, "its stage is mounted"), ADOPT_PUBLISH(A, T1), ADOPT_PUBLISH(A, T2));
}

Test(plan, published_volume_without_record_and_stage)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), OWN);
        published(&s, T1, LOOP(1));
        EXPECT(&s, ADOPT_VOLUME(A, "a device of berth's own"), ADOPT_PUBLISH(A, T1));
}

Test(plan, operators_device_without_record)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), FOREIGN);
        published(&s, T1, LOOP(1));
        EXPECT_NOTHING(&s);
}

Test(plan, operators_device_that_berth_had_staged)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), FOREIGN);
        staged(&s, A, LOOP(1));
        EXPECT(&s, ADOPT_VOLUME(A, "its stage is mounted"), CLEANUP(A, "nobody"));
}

Test(plan, operators_second_device_of_an_image)
{
        Snapshot s = {};

        scanned(&s, "loop");
        device(&s, A, LOOP(1), FOREIGN);
        device(&s, A, LOOP(2), OWN);
        device(&s, B, LOOP(3), FOREIGN);
        device(&s, B, LOOP(4), OWN);
        healthy(&s, B, LOOP(4), TARGETS(T1));
        device(&s, C, LOOP(5), OWN);
        device(&s, C, LOOP(6), FOREIGN);
        staged(&s, C, LOOP(6));
        EXPECT(&s, ADOPT_VOLUME(A, "a device of berth's own"), CLEANUP(A, "nobody"), ADOPT_VOLUME(C, "its stage"), CLEANUP(C, "nobody"));
}

/* ---- many ---- */

#define N_VOLUMES 5000U
#define N_MOUNTS 10000U

/* 5,000 volumes, staged and published, in a table of 15,000 mounts, with six things wrong. */
static void build_large(Snapshot *s)
{
        scanned(s, "loop");
        for (unsigned i = 0; i < N_VOLUMES; i++) {
                char key[64], target[128];

                snprintf(key, sizeof(key), "loop-253-0-%u", 100000 + i * 7919 % 100003);
                snprintf(target, sizeof(target), "/var/lib/kubelet/pods/%08x-0000/volumes/berth~loop/v", i * 2654435761U);
                healthy(s, key, LOOP(i), TARGETS(target));
                device(s, key, LOOP(i), OWN);
        }
        for (unsigned i = s->n_mounts; i < N_MOUNTS + N_VOLUMES; i++) {
                char target[128];

                snprintf(target, sizeof(target), "/var/lib/kubelet/pods/%08x-1111/volumes/kubernetes.io~empty-dir/v", i * 2246822519U);
                published(s, target, makedev(0, i));
        }
}

static double milliseconds_since(const struct timespec *start)
{
        struct timespec now;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return (double) (now.tv_sec - start->tv_sec) * 1e3 + (double) (now.tv_nsec - start->tv_nsec) / 1e6;
}

Test(plan, thousands)
{
        Snapshot s = {};
        struct timespec start;

        build_large(&s);
        /* by what they were added as: two mounts a volume */
        s.volumes[100].health = VOLUME_HEALTH_CORRUPTED;
        s.volumes[200].device_present = false;
        s.mounts[2 * 300 + 1].device = makedev(0, 1); /* its target shows something else */
        s.mounts[2 * 400].device = makedev(0, 2);     /* its stage does */
        s.volumes[500].busy = true;
        s.mounts[2 * 500 + 1].device = makedev(0, 3);
        device(&s, "loop-253-0-1", LOOP(N_VOLUMES), OWN);
        const struct { PlanStepType type; unsigned volume; } expected[] = {
                { PLAN_UNPUBLISH, 100 }, { PLAN_UNPUBLISH, 200 }, { PLAN_DROP_PUBLISH, 300 }, { PLAN_CLEANUP, 300 }, { PLAN_REPORT, 400 },
        };
        _cleanup_strv_ char **keys = NULL;
        for (size_t i = 0; i < ELEMENTSOF(expected); i++)
                cr_assert(strv_append(&keys, s.volumes[expected[i].volume].key) >= 0);
        snapshot_sort(&s);

        _cleanup_plan_ Plan p = {};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
        cr_assert(reconcile_plan(&s, &p) >= 0);
        fprintf(stderr, "plan: %zu volumes, %zu mounts, %zu devices: %.1f ms of CPU time\n", s.n_volumes, s.n_mounts, s.n_devices, milliseconds_since(&start));

        _cleanup_free_ char *all = describe(&p);
        cr_assert_eq(p.n_steps, ELEMENTSOF(expected) + 2, "%s", all);
        for (size_t i = 0; i < ELEMENTSOF(expected); i++) {
                bool found = false;

                for (size_t k = 0; k < p.n_steps; k++)
                        found = found || (p.steps[k].type == expected[i].type && strcmp(p.steps[k].volume, keys[i]) == 0);
                cr_assert(found, "no %s of %s:%s", plan_step_type_to_string(expected[i].type), keys[i], all);
        }
        cr_assert(p.steps[0].type == PLAN_ADOPT_VOLUME && p.steps[1].type == PLAN_CLEANUP, "%s", all);
        snapshot_done(&s);
}

/* ---- at random ---- */

#define N_RANDOM 20000U
#define N_KEYS 4U
#define N_TARGETS 4U
#define N_NUMBERS 5U

static unsigned pick(unsigned *seed, unsigned n)
{
        *seed = *seed * 1664525U + 1013904223U;
        return (*seed >> 12) % n;
}

static void random_volume(Snapshot *s, unsigned *seed, const char *key, bool *taken)
{
        static const char *const steps[] = { "attach", "stage", "publish", "unpublish", "unstage", "detach" };
        _cleanup_strv_ char **targets = NULL;
        dev_t number = pick(seed, 4) ? LOOP(1 + pick(seed, N_NUMBERS)) : 0;

        for (unsigned t = 0; t < N_TARGETS; t++)
                if (!taken[t] && pick(seed, 3) == 0) {
                        char target[32];

                        taken[t] = true;
                        snprintf(target, sizeof(target), "/pods/%u/v", t);
                        cr_assert(strv_append(&targets, target) >= 0);
                }
        VOLUME(s, targets, .key = (char *) key, .state = (VolumeState) pick(seed, _VOLUME_STATE_MAX),
               .step = pick(seed, 3) ? NULL : steps[pick(seed, ELEMENTSOF(steps))], .busy = pick(seed, 6) == 0,
               .at_work = pick(seed, 8) == 0, .attached_by_name = pick(seed, 5) == 0, .cleanup_scheduled = pick(seed, 5) == 0,
               .foreign = pick(seed, 5) == 0, .device = number, .device_present = number != 0 && pick(seed, 4) != 0,
               .health = (VolumeHealth) pick(seed, _VOLUME_HEALTH_MAX));
        VolumeView *v = &s->volumes[s->n_volumes - 1];
        for (size_t i = 0; i < v->n_publishes; i++)
                v->publishes[i].stale = pick(seed, 4) == 0, v->publishes[i].replacing = pick(seed, 4) == 0;
}

static void random_snapshot(Snapshot *s, unsigned *seed)
{
        static const char *const keys[N_KEYS + 1] = { A, B, C, "loop-1-2-13", "something" };
        bool taken[N_TARGETS] = {};

        for (unsigned k = 0; k < N_KEYS; k++)
                if (pick(seed, 3))
                        random_volume(s, seed, keys[k], taken);
        for (unsigned n = 1; n <= N_NUMBERS; n++)
                if (pick(seed, 2))
                        device(s, keys[pick(seed, N_KEYS)], LOOP(n), pick(seed, 3) ? OWN : FOREIGN);
        for (unsigned i = pick(seed, 6); i > 0; i--)
                staged(s, keys[pick(seed, N_KEYS + 1)], LOOP(1 + pick(seed, N_NUMBERS + 1)));
        for (unsigned i = pick(seed, 6); i > 0; i--) {
                char target[32];

                snprintf(target, sizeof(target), "/pods/%u/v", pick(seed, N_TARGETS));
                add_mount(s, target, NULL, LOOP(1 + pick(seed, N_NUMBERS + 1)), pick(seed, 6) ? "/" : "/directory");
        }
        if (pick(seed, 3))
                scanned(s, "loop");
        snapshot_sort(s);
}

static VolumeView *view_of(const Snapshot *s, const char *key)
{
        for (size_t i = 0; i < s->n_volumes; i++)
                if (strcmp(s->volumes[i].key, key) == 0)
                        return &s->volumes[i];
        return NULL;
}

static bool mounted_at(const Snapshot *s, const char *target, dev_t number)
{
        for (size_t i = 0; i < s->n_mounts; i++)
                if (strcmp(s->mounts[i].target, target) == 0 && s->mounts[i].device == number)
                        return true;
        return false;
}

static bool mounted_there(const Snapshot *s, const char *target)
{
        for (size_t i = 0; i < s->n_mounts; i++)
                if (strcmp(s->mounts[i].target, target) == 0)
                        return true;
        return false;
}

static bool has_step(const Plan *p, PlanStepType type, const char *key, const char *target)
{
        for (size_t i = 0; i < p->n_steps; i++)
                if (p->steps[i].type == type && (!key || strcmp(p->steps[i].volume, key) == 0) &&
                    (!target || str_equal(p->steps[i].target, target)))
                        return true;
        return false;
}

/* By its mounter's word the number is another volume's. */
static bool number_is_anothers(const Snapshot *s, const VolumeView *v)
{
        for (size_t i = 0; i < s->n_devices; i++)
                if (s->devices[i].device_number == v->device && strcmp(s->devices[i].key, v->key) != 0)
                        return true;
        return false;
}

static const char *cleanup_is_wrong(const Snapshot *s, const VolumeView *v, const Plan *p, const char *key)
{
        if (!v)
                return has_step(p, PLAN_ADOPT_VOLUME, key, NULL) ? NULL : "cleanup of nothing";
        if (v->attached_by_name || v->cleanup_scheduled)
                return "cleanup of a volume that is attached or cleaned up already";
        for (size_t i = 0; i < v->n_publishes; i++)
                if (v->device != 0 && mounted_at(s, v->publishes[i].target, v->device) && !number_is_anothers(s, v))
                        return "cleanup of a volume with a live publish";
        return NULL;
}

static bool key_is_foreign(const Snapshot *s, const char *key)
{
        for (size_t i = 0; i < s->n_devices; i++)
                if (strcmp(s->devices[i].key, key) == 0 && !s->devices[i].foreign)
                        return false;
        for (size_t i = 0; i < s->n_mounts; i++)
                if (str_equal(s->mounts[i].stage, key))
                        return false;
        return true;
}

static const char *adoption_is_wrong(const Snapshot *s, const VolumeView *v, const Plan *p, const PlanStep *step)
{
        if (step->type == PLAN_ADOPT_VOLUME)
                return v ? "adoption of a recorded volume" : key_is_foreign(s, step->volume) ? "adoption of an operator's" : NULL;
        if (!v && !has_step(p, PLAN_ADOPT_VOLUME, step->volume, NULL))
                return "a publish of an unknown volume";
        for (size_t i = 0; i < s->n_volumes; i++)
                for (size_t k = 0; k < s->volumes[i].n_publishes; k++)
                        if (strcmp(s->volumes[i].publishes[k].target, step->target) == 0 &&
                            !has_step(p, PLAN_DROP_PUBLISH, s->volumes[i].key, step->target))
                                return "adoption of a recorded publish";
        return NULL;
}

/* Only what is stale, of a volume that is otherwise well: staged, and mounted there. */
static const char *republish_is_wrong(const Snapshot *s, const VolumeView *v, const Plan *p, const PlanStep *step)
{
        bool stale = false, staged_there = false;

        for (size_t i = 0; v && i < v->n_publishes; i++)
                stale = stale || ((v->publishes[i].stale || (v->publishes[i].replacing && !mounted_there(s, step->target))) &&
                                  strcmp(v->publishes[i].target, step->target) == 0);
        for (size_t i = 0; v && i < s->n_mounts; i++)
                staged_there = staged_there || str_equal(s->mounts[i].stage, v->key);
        if (!stale)
                return "publish of what is not stale";
        if (v->health == VOLUME_HEALTH_CORRUPTED)
                return "publish of what is beyond use";
        if (!staged_there || (!mounted_at(s, step->target, v->device) && mounted_there(s, step->target)))
                return "publish of what is not staged, or over something else";
        return has_step(p, PLAN_DROP_PUBLISH, v->key, step->target) || has_step(p, PLAN_CLEANUP, v->key, NULL) ?
                               "publish of what is given up" :
                               NULL;
}

/* What is wrong with the step; NULL if nothing is. */
static const char *step_is_wrong(const Snapshot *s, const Plan *p, const PlanStep *step)
{
        const VolumeView *v = view_of(s, step->volume);

        if (v && (v->busy || v->at_work))
                return "a step for a volume that is busy";
        if (step->type != PLAN_REPORT && has_step(p, PLAN_REPORT, step->volume, NULL))
                return "reported and acted upon";
        switch (step->type) {
        case PLAN_CLEANUP:
                return cleanup_is_wrong(s, v, p, step->volume);
        case PLAN_ADOPT_VOLUME:
        case PLAN_ADOPT_PUBLISH:
                return adoption_is_wrong(s, v, p, step);
        case PLAN_DROP_PUBLISH:
                return v && mounted_at(s, step->target, v->device) && !number_is_anothers(s, v) ? "drop of a live publish" : NULL;
        case PLAN_UNPUBLISH:
                return v && (v->health == VOLUME_HEALTH_CORRUPTED || !v->device_present) && !number_is_anothers(s, v) ?
                               NULL :
                               "unpublish of a sound volume";
        case PLAN_REPUBLISH:
                return republish_is_wrong(s, v, p, step);
        case PLAN_CORRECT_STATE:
                return v && (v->state != step->state || v->step || step->device) ? NULL : "no correction";
        default:
                return NULL;
        }
}

static void publish_add(VolumeView *v, const char *target)
{
        v->publishes = grow(v->publishes, v->n_publishes, sizeof(PublishView));
        v->publishes[v->n_publishes++] = (PublishView) { .target = strdup(target) };
}

static void publish_drop(VolumeView *v, const char *target)
{
        for (size_t i = 0; i < v->n_publishes; i++)
                if (strcmp(v->publishes[i].target, target) == 0) {
                        free(v->publishes[i].target);
                        v->publishes[i] = v->publishes[--v->n_publishes];
                        return;
                }
}

/* As apply does it, to a snapshot: what it leaves to operations has been started. */
static void carry_out(Snapshot *s, const PlanStep *step)
{
        VolumeView *v = view_of(s, step->volume);

        switch (step->type) {
        case PLAN_ADOPT_VOLUME:
                VOLUME(s, UNPUBLISHED, .key = (char *) step->volume, .state = step->mount ? VOLUME_STAGED : VOLUME_UNSTAGING,
                       .device = step->device->device_number, .device_present = true, .foreign = step->device->foreign);
                return;
        case PLAN_ADOPT_PUBLISH:
                publish_add(v, step->target);
                return;
        case PLAN_DROP_PUBLISH:
                publish_drop(v, step->target);
                return;
        case PLAN_CORRECT_STATE:
                if (step->device) {
                        v->device = (dev_t) step->device->device_number;
                        v->device_present = true;
                }
                v->state = step->state;
                v->step = NULL;
                return;
        case PLAN_CLEANUP:
                v->cleanup_scheduled = true;
                return;
        default:
                return;
        }
}

Test(plan, random_snapshots)
{
        const char *given = getenv("SEED");
        unsigned first = given ? (unsigned) strtoul(given, NULL, 0) : (unsigned) time(NULL);
        size_t n_steps = 0;

        fprintf(stderr, "plan: SEED=%u repeats this run\n", first);
        for (unsigned i = 0; i < N_RANDOM; i++) {
                unsigned seed = first + i;
                _cleanup_snapshot_ Snapshot s = {};
                _cleanup_plan_ Plan p = {}, again = {};

                random_snapshot(&s, &seed);
                cr_assert(reconcile_plan(&s, &p) >= 0);
                _cleanup_free_ char *all = describe(&p);
                for (size_t k = 0; k < p.n_steps; k++) {
                        const char *wrong = step_is_wrong(&s, &p, &p.steps[k]);
                        cr_assert_null(wrong, "SEED=%u: step %zu: %s:%s", first + i, k, wrong, all);
                }
                n_steps += p.n_steps;

                /* carried out, it leaves nothing to do but what only its operations, or people, can bring about */
                for (size_t k = 0; k < p.n_steps; k++)
                        carry_out(&s, &p.steps[k]);
                snapshot_sort(&s);
                cr_assert(reconcile_plan(&s, &again) >= 0);
                _cleanup_free_ char *rest = describe(&again);
                for (size_t k = 0; k < again.n_steps; k++)
                        cr_assert(again.steps[k].type == PLAN_REPORT || again.steps[k].type == PLAN_UNPUBLISH || again.steps[k].type == PLAN_REPUBLISH,
                                  "SEED=%u: it does not come to rest:%s\nand then%s", first + i, all, rest);
        }
        cr_assert_gt(n_steps, N_RANDOM, "the snapshots give too little to do");
}

/* ---- servers ---- */

#define SUPERBLOCK(n) makedev(0, n)
#define NFS "nfs-0123456789abcdef0123456789abcdef"

static void nfs_published(Snapshot *s, const char *target, dev_t device)
{
        published(s, target, device);
        free(s->mounts[s->n_mounts - 1].fs_type);
        s->mounts[s->n_mounts - 1].fs_type = strdup("nfs4");
}

/* A Mount found the stage stale and made it anew: what shows the old one is of no use, and the record of it alone would hide it. */
Test(plan, mounts_of_a_stage_that_was_replaced)
{
        Snapshot s = {};

        scanned(&s, "nfs");
        VOLUME(&s, TARGETS(T1, T2, T3), .key = NFS, .state = VOLUME_STAGED, .device = SUPERBLOCK(50), .device_present = true,
               .health = VOLUME_HEALTH_OK);
        staged(&s, NFS, SUPERBLOCK(50));
        device(&s, NFS, SUPERBLOCK(50), OWN);
        nfs_published(&s, T1, SUPERBLOCK(49)); /* left behind */
        nfs_published(&s, T2, SUPERBLOCK(50));
        published(&s, T3, makedev(8, 1)); /* somebody else's: reported by the record's end, never touched */
        EXPECT(&s, { PLAN_UNPUBLISH, NFS, T1, "earlier stage" }, DROP(NFS, T3, "something else"));
}

/* A stage whose server has forgotten it: away with it and with what shows it; one that does not answer is left as it is. */
Test(plan, servers_stale_and_silent)
{
        Snapshot s = {};

        scanned(&s, "nfs");
        healthy(&s, NFS, SUPERBLOCK(50), TARGETS(T1));
        s.volumes[0].health = VOLUME_HEALTH_CORRUPTED;
        device(&s, NFS, SUPERBLOCK(50), OWN);
        EXPECT(&s, UNPUBLISH(NFS, T1));

        scanned(&s, "nfs");
        healthy(&s, NFS, SUPERBLOCK(50), TARGETS(T1));
        s.volumes[0].health = VOLUME_HEALTH_UNKNOWN;
        device(&s, NFS, SUPERBLOCK(50), OWN);
        EXPECT_NOTHING(&s);

        /* a mounter did not answer, and neither stage nor record is judged by that */
        cr_assert(strv_append(&s.silent, "nfs") >= 0);
        healthy(&s, NFS, SUPERBLOCK(50), TARGETS(T1));
        EXPECT_NOTHING(&s);
}

/* A directory that a pod was given is gone on the server, and perhaps made anew, while its export is well. */
static void nfs_with_stale_target(Snapshot *s, VolumeHealth health)
{
        scanned(s, "nfs");
        VOLUME(s, TARGETS(T1, T2), .key = NFS, .state = VOLUME_STAGED, .device = SUPERBLOCK(50), .device_present = true, .health = health);
        s->volumes[0].publishes[1].stale = true;
        staged(s, NFS, SUPERBLOCK(50));
        device(s, NFS, SUPERBLOCK(50), OWN);
        nfs_published(s, T1, SUPERBLOCK(50));
        nfs_published(s, T2, SUPERBLOCK(50));
}

Test(plan, stale_target_of_a_sound_stage)
{
        Snapshot s = {};

        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        EXPECT(&s, REPUBLISH(NFS, T2));
}

/* Then the target alone is the least of it. */
Test(plan, stale_target_of_a_stale_stage)
{
        Snapshot s = {};

        nfs_with_stale_target(&s, VOLUME_HEALTH_CORRUPTED);
        EXPECT(&s, UNPUBLISH(NFS, T1), UNPUBLISH(NFS, T2));
}

Test(plan, stale_target_of_a_volume_at_work)
{
        Snapshot s = {};

        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        s.volumes[0].busy = true;
        EXPECT_NOTHING(&s);

        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        s.volumes[0].at_work = true;
        s.volumes[0].step = "publish";
        cr_assert(expect_plan(&s, (const Expected[]) { {} }), "it is looked at again soon");
}

/* berthd and the mounter were killed in between: nobody else would mount it again. */
Test(plan, stale_target_whose_replacement_was_cut_short)
{
        Snapshot s = {};

        nfs_with_stale_target(&s, VOLUME_HEALTH_UNKNOWN);
        s.volumes[0].step = "publish";
        s.mounts[2].is_target = false; /* by what they were added as: the stage, T1, T2 */
        free(s.mounts[2].target);
        s.mounts[2].target = strdup("/elsewhere");
        EXPECT(&s, { PLAN_REPUBLISH, NFS, T2, "not replaced yet" }, CORRECT(NFS, VOLUME_STAGED, "its stage is mounted"));

        /* tried since, in vain; a Check sees nothing there that could be stale */
        nfs_with_stale_target(&s, VOLUME_HEALTH_OK);
        s.volumes[0].publishes[1] = (PublishView) { .target = s.volumes[0].publishes[1].target, .replacing = true };
        free(s.mounts[2].target);
        s.mounts[2].target = strdup("/elsewhere");
        s.mounts[2].is_target = false;
        EXPECT(&s, { PLAN_REPUBLISH, NFS, T2, "not replaced yet" });

        /* that was begun, and did not get as far */
        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        s.volumes[0].publishes[1] = (PublishView) { .target = s.volumes[0].publishes[1].target, .replacing = true };
        EXPECT_NOTHING(&s);
}

/* What lost its stage, or shows something else by now, is judged by that. */
Test(plan, stale_target_that_is_none_any_more)
{
        Snapshot s = {};

        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        s.mounts[2].device = makedev(8, 1); /* by what they were added as: the stage, T1, T2 */
        free(s.mounts[2].fs_type);
        s.mounts[2].fs_type = strdup("ext4");
        EXPECT(&s, DROP(NFS, T2, "something else"));

        nfs_with_stale_target(&s, VOLUME_HEALTH_DEGRADED);
        s.mounts[0].device = makedev(8, 1);
        free(s.mounts[0].stage);
        s.mounts[0].stage = NULL;
        EXPECT(&s, CORRECT(NFS, VOLUME_UNSTAGING, "not mounted"));
}
