/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Running a step: get a mounter, write the record, call, wait for the answer or the time-out, repeat what was locked or lost its mounter.
 * Runs in berthd and never blocks.
 *
 * Invariant: while a call is under way (op->call) the operation has a mounter; a mounter whose answer is no longer waited for
 * is ended, never given to somebody else.
 */

#include "daemon/operation-internal.h"

#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "protocol/bus-util.h"

#define LOCKED_RETRY_MIN_USEC UINT64_C(20000)
#define LOCKED_RETRY_MAX_USEC UINT64_C(1000000)
#define LOOK_TIMEOUT_USEC UINT64_C(10000000)
static void operation_fail(Operation *op, Error *err)
{
        Step step = op->step;

        if (!err->step && step != STEP_NONE)
                err->step = step_to_string(step);
        if (op->volume)
                operation_step_failed(op, step, err->code);

        /* Once the target is free, or something else has failed already, giving back storage can wait. */
        if (op->undoing || op->type == OPERATION_CLEANUP ||
            (op->done && (step == STEP_UNSTAGE || step == STEP_DETACH))) {
                log_debug("%s: %s postponed: %s", operation_type_to_string(op->type), step_to_string(step),
                          str_or(err->text, ""));
                error_move(&op->postponed, err);
                operation_finish(op);
                return;
        }
        error_move(&op->error, err);
        op->undoing = true;
        operation_undo(op);
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
        op->retry_delay_usec = delay * 2 > LOCKED_RETRY_MAX_USEC ? LOCKED_RETRY_MAX_USEC : delay * 2;
        if (sd_event_add_time_relative(op->manager->event, &op->retry_timer, CLOCK_BOOTTIME, delay,
                                       TIMER_ACCURACY_USEC, on_retry, op) < 0) {
                _cleanup_error_ Error err = ERROR_INIT;
                error_oom(&err);
                operation_fail(op, &err);
        }
}

void operation_mounter_died(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;

        op->call = sd_bus_slot_unref(op->call);
        op->step_timer = sd_event_source_disable_unref(op->step_timer);
        if (op->timed_out) {
                error_set(&err, ERROR_TIMED_OUT, ETIMEDOUT,
                          "Step '%s' of %s took longer than %llu s and was ended", step_to_string(op->step),
                          str_or(operation_volume_key(op), str_or(op->target, "the volume")),
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
                  op->mounter->pid, step_to_string(op->step),
                  str_or(operation_volume_key(op), str_or(op->target, "the volume")));
        err.step = step_to_string(op->step);
        op->deadline = sd_event_source_disable_unref(op->deadline);
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
                if (err.code == ERROR_LOCKED) {
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
        }
        return 0;
}

static void params_fill(const Operation *op, StepParams *ret)
{
        const Volume *v = operation_subject(op);

        *ret = (StepParams) {
                .target = op->target,
                .source = v ? NULL : &op->params.source,
                .secrets = &op->params.secrets,
                .fs_type = op->params.fs_type,
                .key = op->step == STEP_CREATE || op->step == STEP_FORGET ? op->key : NULL,
                .read_only = op->params.read_only,
                .mount_options = op->params.mount_options,
                .size = op->size,
                .attach = op->step == STEP_STAGE,
                .detach = op->step == STEP_UNSTAGE && op->releasing && strv_length(v->attachments) == 0,
        };
        if (v && (op->type != OPERATION_MOUNT && op->type != OPERATION_ATTACH)) {
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
        StepParams params;
        int r;

        params_fill(op, &params);
        r = step_new_call(op->mounter->bus, op->step, operation_subject(op), &params, &m);
        if (r == -EINVAL)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "A value of the request is not valid UTF-8");
        if (r >= 0)
                r = sd_bus_call_async(op->mounter->bus, &op->call, m, on_step_reply, op, UINT64_MAX);
        if (r == -ECONNRESET || r == -ENOTCONN || r == -EPIPE)
                return error_set(err, ERROR_MOUNTER_DIED, r, "The mounter has ended"); /* while it was idle */
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot call the mounter: %s", strerror(-r));

        op->step_started_usec = now_boottime_usec();
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

        if (op->type == OPERATION_CHECK)
                return volume_find(op->manager, op->key);
        return p ? p->volume : op->volume;
}

static const char *operation_kind(const Operation *op)
{
        const Volume *v = operation_subject(op);

        return v ? v->driver : op->params.driver;
}

static void operation_try_step(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;
        int r;

        if (!op->mounter) {
                const char *kind = operation_kind(op);

                /* Stats holds no lock: on a repeat after its mounter's death the volume may have been unmounted */
                r = kind ? pool_acquire(op->manager, kind, op, &err)
                         : error_set(&err, ERROR_NOT_FOUND, ENOENT,
                                     "No volume of berth is mounted at %s any more", str_or(op->target, ""));
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
        op->progress_total = 0;
        operation_try_step(op);
}
