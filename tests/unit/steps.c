/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* daemon/operation-steps.c: what a step's end means for its volume, as far as the volume alone tells. */

#include <criterion/criterion.h>

#include "daemon/operation.h"

#include <string.h>

#define NFS "nfs-0123456789abcdef0123456789abcdef"
#define T1 "/pods/1/v"
#define T2 "/pods/2/v"
#define LONG_AGO UINT64_C(1)

typedef struct Scene {
        Manager manager;
        Volume *volume;
        Operation operation; /* a Mount on T1, unless a test says otherwise */
} Scene;

static void scene_init(Scene *s)
{
        static char t1[] = T1;
        Publish *p;

        *s = (Scene) {};
        cr_assert(volume_new(&s->manager, NFS, "nfs:server:/export:", "nfs", &s->volume) >= 0);
        s->volume->state = VOLUME_STAGED;
        cr_assert(publish_new(s->volume, T1, &p) >= 0 && publish_new(s->volume, T2, &p) >= 0);
        s->operation = (Operation) { .manager = &s->manager, .volume = s->volume, .type = OPERATION_MOUNT, .target = t1 };
}

static void scene_done(Scene *s)
{
        Publish *p;

        step_result_done(&s->operation.result);
        while ((p = TAILQ_FIRST(&s->volume->publishes)))
                publish_free(p);
        volume_free(s->volume);
}

/* ---- how long unstaging has failed: what was not written is given up after so long ---- */

Test(steps, silence_counts_from_the_first_failure)
{
        Scene s;

        scene_init(&s);
        operation_step_failed(&s.operation, STEP_UNSTAGE, ERROR_SERVER_UNREACHABLE);
        cr_assert_gt(s.volume->unstage_since_usec, 0);
        s.volume->unstage_since_usec = LONG_AGO;
        operation_step_failed(&s.operation, STEP_UNSTAGE, ERROR_SERVER_UNREACHABLE);
        operation_step_failed(&s.operation, STEP_UNSTAGE, ERROR_TIMED_OUT);
        operation_step_failed(&s.operation, STEP_UNSTAGE, ERROR_MOUNTER_DIED);
        operation_step_failed(&s.operation, STEP_STAGE, ERROR_SERVER_UNREACHABLE);
        operation_step_failed(&s.operation, STEP_PUBLISH, ERROR_SERVER_UNREACHABLE);
        cr_assert_eq(s.volume->unstage_since_usec, LONG_AGO, "it began anew");
        scene_done(&s);
}

Test(steps, what_is_in_use_is_not_silent)
{
        Scene s;

        scene_init(&s);
        s.volume->unstage_since_usec = LONG_AGO;
        operation_step_failed(&s.operation, STEP_UNSTAGE, ERROR_BUSY);
        cr_assert_gt(s.volume->unstage_since_usec, LONG_AGO, "a silence that is over counts");
        scene_done(&s);
}

/* Else what this pod writes would be given up with the first failure after it. */
Test(steps, use_ends_the_silence)
{
        Scene s;

        scene_init(&s);
        s.volume->unstage_since_usec = LONG_AGO;
        operation_apply_result(&s.operation, STEP_PUBLISH);
        cr_assert_eq(s.volume->unstage_since_usec, 0);
        scene_done(&s);

        scene_init(&s);
        s.volume->unstage_since_usec = LONG_AGO;
        operation_apply_result(&s.operation, STEP_STAGE);
        cr_assert_eq(s.volume->unstage_since_usec, 0);
        scene_done(&s);

        /* nothing was published: the stage is to be made anew first */
        scene_init(&s);
        s.volume->unstage_since_usec = LONG_AGO;
        s.operation.result.next = strdup("stage");
        operation_apply_result(&s.operation, STEP_PUBLISH);
        cr_assert_eq(s.volume->unstage_since_usec, LONG_AGO);
        scene_done(&s);
}

/* ---- targets that are stale ---- */

static void ail(Scene *s)
{
        Publish *p;

        TAILQ_FOREACH(p, &s->volume->publishes, of_volume)
                p->stale = true;
        s->volume->health = VOLUME_HEALTH_DEGRADED;
        cr_assert(str_replace(&s->volume->health_reason, "stale file handle") >= 0);
}

static void republish(Scene *s, const char *target)
{
        _cleanup_free_ char *copy = strdup(target);
        char *kept = s->operation.target;

        s->operation.target = copy;
        operation_apply_result(&s->operation, STEP_PUBLISH);
        s->operation.target = kept;
}

/* Of what was replaced nothing is known yet; what ails the volume is the last of them. */
Test(steps, stale_targets_replaced)
{
        Scene s;

        scene_init(&s);
        ail(&s);
        s.operation.type = OPERATION_REPUBLISH;
        republish(&s, T1);
        cr_assert(!publish_find(&s.manager, T1)->stale && publish_find(&s.manager, T2)->stale);
        cr_assert_eq(s.volume->health, VOLUME_HEALTH_DEGRADED);
        republish(&s, T2);
        cr_assert_eq(s.volume->health, VOLUME_HEALTH_UNKNOWN);
        cr_assert_null(s.volume->health_reason);
        cr_assert(s.operation.done);
        scene_done(&s);
}

/* It is neither taken from the pod nor tried again before it was looked at again, and it still ails. */
Test(steps, stale_target_not_replaced)
{
        Scene s;

        scene_init(&s);
        ail(&s);
        s.operation.type = OPERATION_REPUBLISH;
        operation_step_failed(&s.operation, STEP_PUBLISH, ERROR_SUB_DIRECTORY);
        cr_assert_not_null(publish_find(&s.manager, T1));
        cr_assert(!publish_find(&s.manager, T1)->stale);
        cr_assert_eq(s.volume->health, VOLUME_HEALTH_DEGRADED);
        scene_done(&s);
}

/* What was reached, nobody knows: the target may be empty, and a publish that is not stale is dropped then. */
Test(steps, stale_target_perhaps_taken_away)
{
        static const ErrorCode codes[] = { ERROR_MOUNTER_DIED, ERROR_TIMED_OUT };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++) {
                Scene s;

                scene_init(&s);
                ail(&s);
                s.operation.type = OPERATION_REPUBLISH;
                operation_step_failed(&s.operation, STEP_PUBLISH, codes[i]);
                cr_assert(publish_find(&s.manager, T1) && publish_find(&s.manager, T1)->stale);
                scene_done(&s);
        }
}

/* The stage turned out to be stale, too. Other pods have it: that is for the next Check. */
Test(steps, stale_target_of_a_stage_that_is_stale_by_now)
{
        Scene s;

        scene_init(&s);
        ail(&s);
        s.operation.type = OPERATION_REPUBLISH;
        s.operation.result.next = strdup("stage");
        operation_apply_result(&s.operation, STEP_PUBLISH);
        cr_assert_eq(s.volume->state, VOLUME_STAGED);
        cr_assert(publish_find(&s.manager, T1) && publish_find(&s.manager, T2) && s.operation.done);
        scene_done(&s);
}
