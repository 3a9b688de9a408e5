/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * daemon/operation-steps.c: what a step's end means for its volume, as far as the volume alone tells; and daemon/step.c: what of a
 * mounter's answer is believed.
 */

#include <criterion/criterion.h>

#include "daemon/operation-internal.h"
#include "daemon/reconcile/reconcile.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "protocol/bus-util.h"
#include "protocol/names.h"

#define NFS "nfs-0123456789abcdef0123456789abcdef"
#define T1 "/pods/1/v"
#define T2 "/pods/2/v"
#define T3 "/pods/3/v"
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

        *s = (Scene) { .manager.records_fd = -EBADF };
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

        TAILQ_FOREACH(p, &s->volume->publishes, of_volume) {
                p->stale = true;
                cr_assert(str_replace(&p->sub_dir, "x") >= 0);
        }
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

/* ---- targets that were taken away, and not replaced yet ---- */

static Publish *begin_to_replace(Scene *s, OperationType type)
{
        s->operation.type = type;
        (void) operation_record_step(&s->operation, STEP_PUBLISH); /* there is no directory of records here */
        return publish_find(&s->manager, T1);
}

static void check(Scene *s, bool done, const char *stale)
{
        char key[] = NFS;
        Operation op = { .manager = &s->manager, .type = OPERATION_CHECK, .key = key, .done = done, .result = { .healthy = !stale } };

        if (stale)
                cr_assert(strv_append(&op.result.stale_targets, stale) >= 0);
        operation_conclude_look(&op);
        step_result_done(&op.result);
}

/* Neither a failure nor a Check, which does not see it, may have the publish dropped that nobody would ask for again. */
Test(steps, target_taken_away_is_kept_in_mind)
{
        static const ErrorCode codes[] = { ERROR_MOUNTER_DIED, ERROR_TIMED_OUT, ERROR_SERVER_UNREACHABLE, ERROR_SUB_DIRECTORY,
                                           ERROR_EXPORT_DENIED, ERROR_MOUNT_FAILED };

        for (size_t i = 0; i < ELEMENTSOF(codes); i++) {
                Scene s;

                scene_init(&s);
                ail(&s);
                const Publish *p = begin_to_replace(&s, OPERATION_REPUBLISH);
                cr_assert(p->replacing && !publish_find(&s.manager, T2)->replacing);
                operation_step_failed(&s.operation, STEP_PUBLISH, codes[i]);
                check(&s, true, NULL);
                cr_assert(p->replacing && !p->stale, "forgotten after %d", codes[i]);
                check(&s, false, NULL);
                cr_assert(p->replacing);
                operation_apply_result(&s.operation, STEP_PUBLISH);
                cr_assert(!p->replacing && !p->stale);
                scene_done(&s);
        }
}

/* It is still mounted, or its directory is gone, or its pod is. */
Test(steps, target_not_taken_away)
{
        Scene s;

        scene_init(&s);
        ail(&s);
        const Publish *p = begin_to_replace(&s, OPERATION_REPUBLISH);
        operation_step_failed(&s.operation, STEP_PUBLISH, ERROR_SUB_DIRECTORY);
        s.volume->holder = &s.operation;
        check(&s, true, T1);
        cr_assert(p->stale && p->replacing, "what is at work may take it away by now");
        s.volume->holder = NULL;
        check(&s, true, T1);
        cr_assert(p->stale && !p->replacing);
        scene_done(&s);

        scene_init(&s);
        ail(&s);
        p = begin_to_replace(&s, OPERATION_REPUBLISH);
        operation_step_failed(&s.operation, STEP_PUBLISH, ERROR_TARGET_MISSING);
        cr_assert(!p->replacing);
        scene_done(&s);

        scene_init(&s);
        ail(&s);
        p = begin_to_replace(&s, OPERATION_REPUBLISH);
        s.operation.type = OPERATION_UNMOUNT;
        (void) operation_record_step(&s.operation, STEP_UNPUBLISH);
        cr_assert(!p->stale && !p->replacing);
        cr_assert(publish_find(&s.manager, T2)->stale);
        scene_done(&s);

        /* nothing was known to be stale: the mounter finds that out, and who asked for it asks again */
        scene_init(&s);
        cr_assert(!begin_to_replace(&s, OPERATION_MOUNT)->replacing);
        scene_done(&s);
}

/* ---- one after the other ---- */

/* The target that is next after T1, or NULL. */
static const char *next_after_first(Scene *s)
{
        static char target[sizeof(T1)];
        Operation *next;

        s->operation.type = OPERATION_REPUBLISH;
        s->volume->holder = &s->operation;
        TAILQ_INIT(&s->manager.operations);
        operation_republish_next(&s->operation);
        s->volume->holder = NULL;
        next = TAILQ_FIRST(&s->volume->waiting);
        if (!next)
                return NULL;
        cr_assert(next->type == OPERATION_REPUBLISH && operation_is_pending(&s->manager, next->target));
        cr_assert(!TAILQ_NEXT(next, queued), "more than one stand in line");
        snprintf(target, sizeof(target), "%s", next->target);
        TAILQ_REMOVE(&s->volume->waiting, next, queued);
        TAILQ_REMOVE(&s->manager.operations, next, entry);
        next->name_lock->holder = NULL;
        name_lock_gc(&s->manager, next->name_lock);
        operation_free(next);
        return target;
}

/* Else those that cannot be replaced would have all tries. */
Test(steps, stale_targets_each_in_turn)
{
        Publish *p;
        Scene s;

        scene_init(&s);
        cr_assert(publish_new(s.volume, T3, &p) >= 0);
        ail(&s);
        cr_assert_null(next_after_first(&s), "its stage may be stale, or its mounter has died");
        publish_find(&s.manager, T1)->stale = false;
        cr_assert_str_eq(next_after_first(&s), T2);
        publish_find(&s.manager, T2)->stale = false;
        cr_assert_str_eq(next_after_first(&s), T3);
        publish_find(&s.manager, T3)->stale = false;
        cr_assert_null(next_after_first(&s));
        scene_done(&s);
}

/* ---- what is beyond use is taken away ---- */

static size_t n_waiting(const struct OperationList *list)
{
        const Operation *op;
        size_t n = 0;

        TAILQ_FOREACH(op, list, queued)
                n++;
        return n;
}

/* What was planned for a target is not for what a request makes of it meanwhile. */
Test(steps, unpublish_not_behind_a_request)
{
        Scene s;

        scene_init(&s);
        TAILQ_INIT(&s.manager.operations);
        NameLock *l = name_lock_get(&s.manager, T1);
        cr_assert_not_null(l);
        l->holder = &s.operation; /* it asks the mounter which volume that is, and holds none yet */
        cr_assert_eq(reconcile_apply(&s.manager, &(const PlanStep) { .type = PLAN_UNPUBLISH, .volume = NFS, .target = T1 }), 0);
        cr_assert_eq(n_waiting(&l->waiting), 0, "it would take away what the request leaves there, unseen");
        l->holder = NULL;
        name_lock_gc(&s.manager, l);
        scene_done(&s);
}

/* Else the first one, which somebody stands in, would keep the others from it with each look. */
Test(steps, unpublish_of_all)
{
        Operation first = { .type = OPERATION_UNMOUNT }, *op;
        Scene s;

        scene_init(&s);
        TAILQ_INIT(&s.manager.operations);
        s.volume->holder = &first;
        cr_assert_eq(reconcile_apply(&s.manager, &(const PlanStep) { .type = PLAN_UNPUBLISH, .volume = NFS, .target = T2 }), 0);
        cr_assert_eq(n_waiting(&s.volume->waiting), 1);
        op = TAILQ_FIRST(&s.volume->waiting);
        cr_assert(op->type == OPERATION_UNMOUNT && strcmp(op->target, T2) == 0);
        TAILQ_REMOVE(&s.volume->waiting, op, queued);
        op->name_lock->holder = NULL;
        name_lock_gc(&s.manager, op->name_lock);
        operation_free(op);

        first.type = OPERATION_MOUNT;
        cr_assert_eq(reconcile_apply(&s.manager, &(const PlanStep) { .type = PLAN_UNPUBLISH, .volume = NFS, .target = T2 }), 0);
        cr_assert_eq(n_waiting(&s.volume->waiting), 0);
        s.volume->holder = NULL;
        scene_done(&s);
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

/* ---- what a Check answers ---- */

/* Reads an answer with these stale targets, or, if they are NULL, with strings in their place. */
static int read_stale(char *const *targets, StepResult *ret)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        int fds[2], r = 0;

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0 && sd_bus_new(&bus) >= 0 &&
                  sd_bus_set_fd(bus, fds[0], fds[0]) >= 0 && sd_bus_start(bus) >= 0);
        cr_assert(sd_bus_message_new(bus, &m, SD_BUS_MESSAGE_METHOD_CALL) >= 0 && sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
        r = targets ? bus_append_entry_bytes_list(m, "staleTargets", targets)
                    : bus_append_entry_strv(m, "staleTargets", (char *[]) { "/a", NULL });
        cr_assert(r >= 0 && bus_append_entry(m, "healthy", "b", 1) >= 0 && sd_bus_message_close_container(m) >= 0 &&
                  sd_bus_message_seal(m, 1, 0) >= 0 && sd_bus_message_rewind(m, 1) >= 0);
        r = step_read_result(m, ret);
        close(fds[1]);
        return r;
}

Test(steps, stale_targets_of_an_answer)
{
        _cleanup_step_result_ StepResult r = STEP_RESULT_INIT, none = STEP_RESULT_INIT, ignored = STEP_RESULT_INIT;
        char *targets[] = { "/pods/1/\xff", "/pods/2/v", NULL };

        cr_assert(read_stale(targets, &r) >= 0);
        cr_assert(strv_equal(r.stale_targets, targets) && r.healthy);
        cr_assert(read_stale((char *[]) { NULL }, &none) >= 0);
        cr_assert(none.stale_targets == NULL && none.healthy);
        cr_assert_eq(read_stale(NULL, &ignored), -EBADMSG);
}

Test(steps, stale_targets_without_number)
{
        _cleanup_step_result_ StepResult most = STEP_RESULT_INIT, ignored = STEP_RESULT_INIT;
        char *targets[REQUEST_OPTIONS_MAX + 2] = {};

        for (size_t i = 0; i < REQUEST_OPTIONS_MAX; i++)
                targets[i] = "/a";
        cr_assert(read_stale(targets, &most) >= 0);
        cr_assert_eq(strv_length(most.stale_targets), REQUEST_OPTIONS_MAX);
        targets[REQUEST_OPTIONS_MAX] = "/a";
        cr_assert_eq(read_stale(targets, &ignored), -E2BIG);
}
