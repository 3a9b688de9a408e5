/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Running a step: get a mounter, write the record, call, wait for the answer or the time-out, repeat what was locked or lost its mounter.
 * Runs in berthd and never blocks.
 *
 * Invariant: while a call is under way (op->call) the operation has a mounter; a mounter whose answer is no longer waited for
 * is ended, never given to somebody else.
 */

#include "daemon/operation-internal.h"
#include "daemon/drain.h"
#include "daemon/mounter-group.h"

#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "protocol/bus-util.h"

#define LOCKED_RETRY_MIN_USEC UINT64_C(20000)
#define LOCKED_RETRY_MAX_USEC UINT64_C(1000000)
#define DRAIN_FORCE_USEC UINT64_C(8000000)

static bool error_is_silence(const Error *err)
{
        return err->code == ERROR_SERVER_UNREACHABLE || err->code == ERROR_MONITORS_UNREACHABLE ||
               err->code == ERROR_OSDS_UNREACHABLE || err->code == ERROR_TIMED_OUT || err->code == ERROR_STUCK;
}

/* Who asks for numbers while the storage is silent is told the last ones, and that they are. */
static void answer_last_usage(Operation *op, Error *err)
{
        const Volume *v = operation_subject(op);
        uint64_t age = v && v->usage_usec ? (now_boottime_usec() - v->usage_usec) / 1000000 : 0;
        char *reason = NULL;

        step_result_done(&op->result);
        if (v)
                op->result.usage = v->usage;
        if (v && v->usage_usec)
                (void) !asprintf(&reason, "%s; the numbers are %llu s old", err->text, (unsigned long long) age);
        op->result.reason = reason ? reason : strdup(err->text);
        error_done(err);
        op->done = true;
        operation_finish(op);
}

static void operation_fail(Operation *op, Error *err)
{
        Step step = op->step;

        if (error_is_silence(err))
                group_unanswered(op);
        if (op->type == OPERATION_STATS && error_is_silence(err) && operation_subject(op)) {
                answer_last_usage(op, err);
                return;
        }
        if (!err->step && step != STEP_NONE)
                err->step = step_to_string(step);
        if (op->volume)
                operation_step_failed(op, step, err->code);

        /* Once the target is free, or something else has failed already, giving back storage can wait. */
        if (op->undoing || op->type == OPERATION_CLEANUP || op->type == OPERATION_REPUBLISH ||
            (op->done && (step == STEP_UNSTAGE || step == STEP_DETACH))) {
                log_debug("%s: %s postponed: %s", operation_type_to_string(op->type), step_to_string(step),
                          str_or(err->text, ""));
                if (op->type == OPERATION_REPUBLISH && !error_is_silence(err))
                        operation_republish_next(op);
                error_move(&op->postponed, err);
                operation_finish(op);
                return;
        }
        error_move(&op->error, err);
        op->undoing = true;
        operation_undo(op);
}

/* What the step was about, for texts. */
static const char *operation_subject_name(const Operation *op)
{
        if (op->type == OPERATION_SCAN)
                return "all devices";
        return str_or(operation_volume_key(op), str_or(op->target, "the volume"));
}

static void operation_try_step(Operation *op);
static uint64_t step_timeout(const Operation *op);

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
        Operation *op = userdata;

        op->retry_timer = sd_event_source_disable_unref(op->retry_timer);
        operation_try_step(op);
        return 0;
}

/* The same step again after a while, without holding a mounter meanwhile. */
static void operation_retry_step(Operation *op)
{
        uint64_t delay = op->retry_delay_usec ? op->retry_delay_usec : LOCKED_RETRY_MIN_USEC;

        if (op->mounter) {
                MounterProcess *p = TAKE_PTR(op->mounter);
                mounter_release(p);
        }
        group_leave(op);
        op->retry_delay_usec = delay * 2 > LOCKED_RETRY_MAX_USEC ? LOCKED_RETRY_MAX_USEC : delay * 2;
        if (sd_event_add_time_relative(op->manager->event, &op->retry_timer, CLOCK_BOOTTIME, delay,
                                       TIMER_ACCURACY_USEC, on_retry, op) < 0) {
                _cleanup_error_ Error err = ERROR_INIT;
                error_oom(&err);
                operation_fail(op, &err);
        }
}

/* A volume that another node uses may be let go at any moment, or its holder is found to be dead. Without a mounter meanwhile. */
static bool operation_awaits_user(Operation *op)
{
        uint64_t now = 0;

        if (strcmp(str_or(op->params.driver, ""), "rbd") != 0 || !operation_is_awaited(op) ||
            sd_event_now(op->manager->event, CLOCK_BOOTTIME, &now) < 0)
                return false;
        if (op->in_use_since_usec == 0)
                op->in_use_since_usec = now;
        return now - op->in_use_since_usec < op->manager->settings.rbd_in_use_wait_usec;
}

void operation_mounter_died(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;

        op->call = sd_bus_slot_unref(op->call);
        op->step_timer = sd_event_source_disable_unref(op->step_timer);
        if (op->timed_out) {
                error_set(&err, ERROR_TIMED_OUT, ETIMEDOUT,
                          "Step '%s' of %s took longer than %llu s and was ended", step_to_string(op->step),
                          operation_subject_name(op),
                          (unsigned long long) (step_timeout(op) / 1000000));
                op->timed_out = false;
                operation_fail(op, &err);
                return;
        }
        /* Steps are idempotent, so a mounter that was killed from outside costs a repeat and no error. */
        if (op->n_attempts++ < 2) {
                operation_retry_step(op);
                return;
        }
        error_set(&err, ERROR_MOUNTER_DIED, ECHILD, "The mounter ended during step '%s'",
                  step_to_string(op->step));
        operation_fail(op, &err);
}

void operation_mounter_stuck(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;

        error_set(&err, ERROR_STUCK, EBUSY, "Process %d is blocked in the kernel at step '%s' of %s",
                  op->mounter->pid, step_to_string(op->step), operation_subject_name(op));
        err.step = step_to_string(op->step);
        op->deadline = sd_event_source_disable_unref(op->deadline);
        group_unanswered(op);
        if (operation_target_is_free(op)) {
                operation_answer(op, NULL);
                return;
        }
        manager_remember_error(op->manager, operation_volume_key(op), op->target, &err);
        operation_log(op, &err);
        operation_answer(op, &err);
}

/* Its connection is gone, so it is of no more use; its exit is not ours to wait for. */
static void operation_lose_mounter(Operation *op)
{
        MounterProcess *p = TAKE_PTR(op->mounter);

        p->operation = NULL;
        mounter_kill(p);
        operation_mounter_died(op);
}

static void step_answered(Operation *op, sd_bus_message *reply)
{
        _cleanup_error_ Error err = ERROR_INIT;
        const sd_bus_error *e = sd_bus_message_get_error(reply);

        if (e) {
                error_from_bus(&err, e, ERROR_MOUNTER_DIED);
                if (err.code == ERROR_LOCKED || (err.code == ERROR_IN_USE && operation_awaits_user(op))) {
                        operation_retry_step(op);
                        return;
                }
                if (err.code == ERROR_MOUNTER_DIED) {
                        operation_lose_mounter(op);
                        return;
                }
                operation_fail(op, &err);
                return;
        }
        step_result_done(&op->result);
        int r = step_read_result(reply, &op->result);
        if (r < 0) {
                error_set(&err, ERROR_INTERNAL, r, "The mounter's answer to '%s' has an unknown form",
                          step_to_string(op->step));
                operation_fail(op, &err);
                return;
        }
        if (op->step != STEP_UNSTAGE && !op->result.next)
                group_answered(op);
        operation_apply_result(op, op->step);
        operation_advance(op);
}

static int on_step_reply(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        Operation *op = userdata;

        op->call = sd_bus_slot_unref(op->call);
        op->step_timer = sd_event_source_disable_unref(op->step_timer);
        if (op->volume)
                FAULT_POINT("agent.step-answered");
        step_answered(op, reply);
        return 0;
}

static int on_step_timeout(sd_event_source *s, uint64_t usec, void *userdata)
{
        Operation *op = userdata;

        op->step_timer = sd_event_source_disable_unref(op->step_timer);
        if (op->mounter) {
                op->timed_out = true;
                mounter_kill(op->mounter);
                operation_give_up_look(op);
        }
        return 0;
}

/*
 * Its server has been silent for so long that what was written is given up; while the node shuts down that is not long. Then nobody
 * waits for the kernel to let go of it either.
 */
static bool force_is_due(const Operation *op, const Volume *v)
{
        bool draining = drain_is_running(op->manager);
        uint64_t after = op->manager->settings.nfs_force_after_usec;

        if (!v || v->unstage_since_usec == 0 || (op->step != STEP_UNSTAGE && !(op->step == STEP_DETACH && draining)))
                return false;
        if (draining && (after == 0 || after > DRAIN_FORCE_USEC))
                after = DRAIN_FORCE_USEC;
        return after > 0 && now_boottime_usec() - v->unstage_since_usec >= after;
}

static void params_fill(const Operation *op, StepParams *ret)
{
        const Volume *v = operation_subject(op);

        *ret = (StepParams) {
                .target = op->target,
                .source = !v || op->step == STEP_RESOLVE || (v->shared && op->step == STEP_PUBLISH) ? &op->params.source : NULL,
                .secrets = &op->params.secrets,
                .fs_type = op->params.fs_type,
                .key = op->step == STEP_CREATE || op->step == STEP_FORGET ? op->key : NULL,
                .read_only = op->params.read_only,
                .mount_options = op->params.mount_options,
                .size = op->size,
                .attach = op->step == STEP_STAGE,
                .early = op->step == STEP_RESOLVE && !v,
                .detach = op->step == STEP_UNSTAGE && op->releasing && strv_length(v->attachments) == 0,
                .force = force_is_due(op, v),
        };
        if (v && op->type != OPERATION_MOUNT && op->type != OPERATION_ATTACH && op->type != OPERATION_REPUBLISH) {
                ret->fs_type = v->fs_type;
                ret->read_only = v->stage_read_only;
        }
        if (op->step == STEP_ATTACH && v)
                ret->read_only = v->read_only;
        if (op->step == STEP_STAGE && v)
                ret->read_only = v->stage_read_only;
}

/* A look must not take as long as work may. */
static uint64_t step_timeout(const Operation *op)
{
        uint64_t limit = op->manager->settings.step_timeout_usec;
        bool look = op->step == STEP_STATS || op->step == STEP_CHECK || op->step == STEP_SCAN;

        return look && limit > LOOK_TIMEOUT_USEC ? LOOK_TIMEOUT_USEC : limit;
}

static int send_step(Operation *op, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        /* what Resolve is asked is of the request alone, and it takes no lock */
        const Volume *v = op->step == STEP_RESOLVE ? NULL : operation_subject(op);
        StepParams params;
        int r;

        params_fill(op, &params);
        if (params.secrets->n_entries > 0)
                op->mounter->secret_usec = now_boottime_usec();
        r = step_new_call(op->mounter->bus, op->step, v, &params, &m);
        if (r == -EINVAL)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "A value of the request is not valid UTF-8");
        if (r >= 0)
                r = sd_bus_call_async(op->mounter->bus, &op->call, m, on_step_reply, op, UINT64_MAX);
        if (r == -ECONNRESET || r == -ENOTCONN || r == -EPIPE)
                return error_set(err, ERROR_MOUNTER_DIED, r, "The mounter has ended"); /* while it was idle */
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot call the mounter: %s", strerror(-r));

        op->step_started_usec = op->heard_usec = now_boottime_usec();
        if (step_kind(op->step) == STEP_KILLABLE &&
            sd_event_add_time_relative(op->manager->event, &op->step_timer, CLOCK_BOOTTIME,
                                       step_timeout(op), TIMER_ACCURACY_USEC, on_step_timeout, op) < 0)
                return error_oom(err);
        return 0;
}

void operation_granted(Operation *op, MounterProcess *p)
{
        op->mounter = p;
        operation_try_step(op);
}

void operation_refused(Operation *op, Error *err)
{
        operation_fail(op, err);
}

Volume *operation_subject(const Operation *op)
{
        const Publish *p = !op->volume && op->type == OPERATION_STATS ? publish_find(op->manager, op->target)
                                                                      : NULL;

        if (op->type == OPERATION_CHECK || (op->type == OPERATION_FORCE_DETACH && !op->volume))
                return volume_find(op->manager, op->key);
        return p ? p->volume : op->volume;
}

static const char *operation_kind(const Operation *op)
{
        const Volume *v = operation_subject(op);

        return v ? v->driver : op->params.driver;
}

/* Before it is known which cluster that is, those belong together that name the same monitors. */
static const char *operation_group(const Operation *op)
{
        const Volume *v = operation_subject(op);

        if (!group_step_waits(operation_kind(op), op->step))
                return NULL;
        return v ? v->group : strmap_get(&op->params.source, "monitors");
}

/* 1: there is room for it, though perhaps not with the mounter that it had; 0: it stands in line, and is woken. */
static int enter_group(Operation *op, Error *err)
{
        const char *group = op->group ? NULL : operation_group(op);
        Pool *pool;

        if (!group)
                return 1;
        int r = pool_get(op->manager, operation_kind(op), &pool, err);
        if (r >= 0)
                r = group_join(op, pool, group, err);
        if (op->mounter && (r <= 0 || pool_passes_over(pool, op))) {
                MounterProcess *p = TAKE_PTR(op->mounter);
                mounter_release(p);
        }
        return r;
}

static void operation_try_step(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;
        int r = operation_still_meant(op, &err);

        if (r == 0) {
                op->done = true;
                operation_finish(op);
                return;
        }
        if (r > 0)
                r = enter_group(op, &err);
        if (r <= 0) {
                if (r < 0)
                        operation_fail(op, &err);
                return;
        }
        if (!op->mounter) {
                r = pool_acquire(op->manager, operation_kind(op), op, &err);
                if (r < 0)
                        operation_fail(op, &err);
                return;
        }
        if (op->volume)
                FAULT_POINT("agent.step-unrecorded");
        r = op->volume ? operation_record_step(op, op->step) : 0;
        if (r < 0)
                error_set(&err, ERROR_RECORD_FAILED, r, "Cannot write the record of volume %s: %s",
                          op->volume->key, strerror(-r));
        else
                r = send_step(op, &err);
        if (op->volume)
                FAULT_POINT("agent.step-called");
        if (r < 0 && err.code == ERROR_MOUNTER_DIED)
                operation_lose_mounter(op);
        else if (r < 0)
                operation_fail(op, &err);
}

void operation_run_step(Operation *op, Step step)
{
        op->step = step;
        op->n_attempts = 0;
        op->timed_out = false; /* an answer may have come just before the signal did */
        op->retry_delay_usec = 0;
        op->in_use_since_usec = 0;
        op->progress_total = 0;
        operation_try_step(op);
}
