/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The life of operations, from submission (joining, deadlines) to the end. Runs in berthd and never blocks. The
 * lines they stand in: operation-lock.c; running a step: operation-run.c; who waits and is told: operation-answer.c; what a
 * step means for the volume: operation-steps.c; what each type does: operation-mount.c, -unmount.c, -other.c.
 *
 * Invariant: an operation that is not finished waits for exactly one thing: its turn in one line (op->queue), its mounter's
 * answer (op->call), a retry (op->retry_timer) or the event loop's next turn (op->defer).
 */

#include "daemon/operation-internal.h"

#include <assert.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "daemon/mounter-group.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/store.h"

static const char *const type_names[_OPERATION_TYPE_MAX] = {
        [OPERATION_MOUNT] = "Mount",   [OPERATION_UNMOUNT] = "Unmount", [OPERATION_ATTACH] = "Attach",
        [OPERATION_DETACH] = "Detach", [OPERATION_EXPAND] = "Expand",   [OPERATION_STATS] = "Stats",
        [OPERATION_FORGET] = "Forget", [OPERATION_CLEANUP] = "Cleanup", [OPERATION_REPUBLISH] = "Republish",
        [OPERATION_FENCE] = "Fence", [OPERATION_FORCE_DETACH] = "ForceDetach",
        [OPERATION_CHECK] = "Check",   [OPERATION_SCAN] = "Scan",
};

const char *operation_type_to_string(OperationType t)
{
        return t >= 0 && t < _OPERATION_TYPE_MAX ? type_names[t] : "invalid";
}

int operation_new(Manager *m, OperationType type, Operation **ret)
{
        Operation *op = calloc(1, sizeof(*op));
        if (!op)
                return -ENOMEM;

        op->manager = m;
        op->type = type;
        op->request = ++m->next_request;
        op->started_usec = now_boottime_usec();
        *ret = op;
        return 0;
}

void operation_free(Operation *op)
{
        for (size_t i = 0; i < op->n_waiters; i++)
                sd_bus_message_unref(op->waiters[i].call);
        op->manager->n_waiters -= (unsigned) op->n_waiters;
        free(op->waiters);
        sd_event_source_disable_unref(op->deadline);
        sd_event_source_disable_unref(op->step_timer);
        sd_event_source_disable_unref(op->retry_timer);
        sd_event_source_disable_unref(op->defer);
        sd_bus_slot_unref(op->call);
        mount_params_done(&op->params);
        step_result_done(&op->result);
        error_done(&op->error);
        error_done(&op->postponed);
        free(op->target);
        free(op->name);
        free(op->volume_name);
        free(op->key);
        free(op->identity);
        free(op->group_name);
        free(op);
}

/* ---- joining ---- */

static bool params_equal(const MountParams *a, const MountParams *b)
{
        return str_equal(a->driver, b->driver) && strmap_equal(&a->source, &b->source) &&
               strmap_equal(&a->secrets, &b->secrets) &&
               strcmp(str_or(a->fs_type, ""), str_or(b->fs_type, "")) == 0 && a->read_only == b->read_only &&
               strv_equal(a->mount_options, b->mount_options);
}

static bool operation_can_join(const Operation *running, const Operation *op)
{
        return running->type == op->type && !running->undoing && !error_is_set(&running->error) &&
               !running->done && running->size == op->size &&
               str_equal(running->volume_name, op->volume_name) && params_equal(&running->params, &op->params);
}

/* The one that op would come after. Only it can be joined: between it and op nothing else is to happen. */
static Operation *operation_predecessor(const Operation *op)
{
        NameLock *l = op->name ? name_lock_find(op->manager, op->name) : NULL;

        if (!l)
                return NULL;
        Operation *last = TAILQ_LAST(&l->waiting, OperationList);
        return last ? last : l->holder;
}

static bool operation_is_stuck(const Operation *op)
{
        return op->mounter && op->mounter->state == MOUNTER_QUARANTINED;
}

/* ---- deadlines ---- */

static void queue_leave(Operation *op)
{
        switch (op->queue) {
        case QUEUE_NAME:
                TAILQ_REMOVE(&op->name_lock->waiting, op, queued);
                break;
        case QUEUE_VOLUME:
                TAILQ_REMOVE(&op->queue_volume->waiting, op, queued);
                volume_gc(op->queue_volume);
                break;
        case QUEUE_POOL:
                pool_cancel(op);
                break;
        case QUEUE_GROUP:
                group_cancel(op);
                break;
        case QUEUE_NONE:
                break;
        }
        op->queue = QUEUE_NONE;
}

static int operation_set_deadline(Operation *op);

static void deadline_error(const Operation *op, bool begun, Error *ret)
{
        const char *step = step_to_string(op->step);

        if (!begun)
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s waited %llu s for %s%s",
                          operation_type_to_string(op->type),
                          (unsigned long long) ((now_boottime_usec() - op->started_usec + TIMER_ACCURACY_USEC) / 1000000),
                          op->type == OPERATION_SCAN ? "a mounter of driver " : "an earlier operation on ",
                          op->type == OPERATION_SCAN
                                          ? op->params.driver
                                          : str_or(op->target, str_or(operation_volume_key(op), "the volume")));
        else if (op->progress_total > 0)
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s is still at step '%s', %u %% done",
                          operation_type_to_string(op->type), step,
                          (unsigned) ((double) op->progress_done * 100 / (double) op->progress_total));
        else
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s is still at step '%s'",
                          operation_type_to_string(op->type), step);
        if (begun && *step)
                ret->step = step;
}

bool operation_target_is_free(const Operation *op)
{
        return op->type == OPERATION_UNMOUNT && op->done;
}

/* Somebody who waits for what is not theirs to wait for is answered by then. */
void operation_answer_by(Operation *op, uint64_t usec)
{
        uint64_t by = now_boottime_usec() + usec;

        for (size_t i = 0; i < op->n_waiters; i++)
                if (op->waiters[i].deadline_usec > by)
                        op->waiters[i].deadline_usec = by;
        op->deadline = sd_event_source_disable_unref(op->deadline);
        if (op->n_waiters > 0)
                (void) operation_set_deadline(op);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
        Operation *op = userdata;
        bool begun = !(op->queue == QUEUE_NAME || op->queue == QUEUE_VOLUME ||
                       (op->queue == QUEUE_POOL && !op->volume));
        uint64_t due = now_boottime_usec() + TIMER_ACCURACY_USEC;
        _cleanup_error_ Error err = ERROR_INIT;
        size_t n = 0;

        op->deadline = sd_event_source_disable_unref(op->deadline);
        operation_give_up_look(op);
        while (n < op->n_waiters && op->waiters[n].deadline_usec <= due)
                n++;
        if (!begun && n == op->n_waiters) {
                /* it is as if it had never come */
                queue_leave(op);
                deadline_error(op, begun, &op->error);
                operation_finish(op);
                return 0;
        }
        if (n > 0 && operation_target_is_free(op)) {
                operation_answer_first(op, n, NULL);
        } else if (n > 0) {
                deadline_error(op, begun, &err);
                operation_log(op, &err);
                manager_remember_error(op->manager, operation_volume_key(op), op->target, &err);
                operation_answer_first(op, n, &err);
        }
        /* those who joined later have their own full time */
        if (op->n_waiters > 0)
                (void) operation_set_deadline(op);
        return 0;
}

/* ---- submission ---- */

static void submit_failed(Operation *op, sd_bus_message *call, const Error *err)
{
        operation_log(op, err);
        if (call)
                operation_reply_error(call, err);
        operation_free(op);
}

static int operation_set_deadline(Operation *op)
{
        if (op->type == OPERATION_SCAN)
                return sd_event_add_time_relative(op->manager->event, &op->deadline, CLOCK_BOOTTIME, LOOK_TIMEOUT_USEC,
                                                  TIMER_ACCURACY_USEC, on_deadline, op);
        return sd_event_add_time(op->manager->event, &op->deadline, CLOCK_BOOTTIME, op->waiters[0].deadline_usec,
                                 TIMER_ACCURACY_USEC, on_deadline, op);
}

void operation_submit(Operation *op, sd_bus_message *call)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Manager *m = op->manager;
        Operation *before = operation_predecessor(op);

        if (before && call && op->type == OPERATION_UNMOUNT && operation_is_stuck(before) && operation_target_is_free(before) &&
            operation_add_waiter(before, call) >= 0) {
                operation_answer(before, NULL); /* what the caller wants has been so since then */
                operation_free(op);
                return;
        }
        if (before && operation_is_stuck(before)) {
                error_set(&err, ERROR_STUCK, EBUSY, "Process %d is blocked in the kernel at step '%s' of %s",
                          before->mounter->pid, step_to_string(before->step), op->name);
                submit_failed(op, call, &err);
                return;
        }
        /* those that join count too: each is a message that is kept */
        if (call && m->n_waiters >= m->settings.max_requests) {
                error_set(&err, ERROR_LIMIT_EXCEEDED, EAGAIN, "%u requests are waiting", m->n_waiters);
                submit_failed(op, call, &err);
                return;
        }
        if (before && call && operation_can_join(before, op) && operation_add_waiter(before, call) >= 0) {
                if (!before->deadline)
                        (void) operation_set_deadline(before);
                operation_free(op);
                return;
        }
        if (call && m->n_operations >= m->settings.max_requests) {
                error_set(&err, ERROR_LIMIT_EXCEEDED, EAGAIN, "%u requests are under way", m->n_operations);
                submit_failed(op, call, &err);
                return;
        }
        NameLock *l = op->name ? name_lock_get(m, op->name) : NULL;
        if ((op->name && !l) ||
            (call && (operation_add_waiter(op, call) < 0 || operation_set_deadline(op) < 0)) ||
            (op->type == OPERATION_SCAN && operation_set_deadline(op) < 0)) {
                error_oom(&err);
                if (l)
                        name_lock_gc(m, l);
                submit_failed(op, call, &err);
                return;
        }

        TAILQ_INSERT_TAIL(&m->operations, op, entry);
        m->n_operations++;
        op->name_lock = l;
        if (l && l->holder) {
                op->queue = QUEUE_NAME;
                TAILQ_INSERT_TAIL(&l->waiting, op, queued);
                return;
        }
        if (l)
                l->holder = op;
        operation_advance(op);
}

int operation_begin_at(Manager *m, OperationType type, const char *target)
{
        const Publish *p = publish_find(m, target);
        Operation *op;

        if (!p)
                return 0;
        if (operation_new(m, type, &op) < 0)
                return -ENOMEM;
        if (str_replace(&op->target, target) < 0 || str_replace(&op->name, target) < 0 ||
            str_replace(&op->params.driver, p->volume->driver) < 0) {
                operation_free(op);
                return -ENOMEM;
        }
        operation_submit(op, NULL);
        return 0;
}

void operation_advance(Operation *op)
{
        if (op->undoing) {
                operation_undo(op);
                return;
        }
        switch (op->type) {
        case OPERATION_MOUNT:
        case OPERATION_ATTACH:
                operation_advance_mount(op);
                break;
        case OPERATION_UNMOUNT:
        case OPERATION_DETACH:
                operation_advance_unmount(op);
                break;
        case OPERATION_REPUBLISH:
                operation_advance_republish(op);
                break;
        case OPERATION_CLEANUP:
                operation_advance_cleanup(op);
                break;
        case OPERATION_EXPAND:
        case OPERATION_STATS:
        case OPERATION_FORGET:
        case OPERATION_FENCE:
        case OPERATION_FORCE_DETACH:
        case OPERATION_CHECK:
        case OPERATION_SCAN:
                operation_advance_other(op);
                break;
        case _OPERATION_TYPE_MAX:
        case _OPERATION_TYPE_INVALID:
                assert(!"impossible type of operation");
        }
}

/* ---- the end ---- */

static void volume_settle(Operation *op, const Error *err)
{
        Volume *v = op->volume;
        _cleanup_free_ char *rendered = err ? error_render(err) : NULL;
        int r;

        v->step = NULL;
        if (error_is_set(&op->postponed) && !rendered)
                rendered = error_render(&op->postponed); /* says who holds it */
        free(v->last_error);
        v->last_error = TAKE_PTR(rendered);
        if (v->state == VOLUME_ABSENT && volume_is_unused(v))
                r = store_remove(v);
        else
                r = store_write(v);
        if (r < 0)
                log_error("Cannot write the record of volume %s: %s", v->key, strerror(-r));
}

void operation_finish(Operation *op)
{
        Manager *m = op->manager;
        const Error *err = error_is_set(&op->error) ? &op->error : NULL;

        if (op->mounter) {
                MounterProcess *p = TAKE_PTR(op->mounter);
                mounter_release(p);
        }
        if (op->volume) {
                FAULT_POINT("agent.finish-unrecorded");
                volume_settle(op, err);
                FAULT_POINT("agent.finish-recorded");
                reconcile_touched(m, op->volume->key);
        }
        if (err)
                manager_remember_error(m, operation_volume_key(op), op->target, err);
        /* logged after the answer: the caller need not wait for the journal */
        bool to_log = op->n_waiters > 0 || !op->had_waiters;
        operation_answer(op, err);
        if (to_log)
                operation_log(op, err);
        if (op->volume)
                FAULT_POINT("agent.finish-answered");
        operation_conclude_look(op);

        group_leave(op);
        operation_unlock_volume(op);
        name_lock_release(op);
        TAILQ_REMOVE(&m->operations, op, entry);
        m->n_operations--;
        operation_free(op);
}
