/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The life of operations: joining, lines and locks, mounters, steps, deadlines, answers. Runs in berthd and
 * never blocks. What the types do between is in operation-mount.c, operation-unmount.c, operation-other.c; what
 * a step means for the volume in operation-steps.c.
 *
 * Invariant: an operation that is not finished waits for exactly one thing: its turn in one line (op->queue), its mounter's
 * answer (op->call), a retry (op->retry_timer) or the event loop's next turn (op->defer).
 */

#include "daemon/operation.h"

#include <assert.h>
#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/reconcile/watch.h"
#include "daemon/store.h"
#include "protocol/bus-util.h"
#include "protocol/names.h"

#define LOCKED_RETRY_MIN_USEC UINT64_C(20000)
#define LOCKED_RETRY_MAX_USEC UINT64_C(1000000)
#define TIMER_ACCURACY_USEC 1000
#define LOOK_TIMEOUT_USEC UINT64_C(10000000)

struct NameLock {
        char *name;
        Operation *holder;
        struct OperationList waiting;
        UT_hash_handle hh;
};

static const char *const type_names[_OPERATION_TYPE_MAX] = {
        [OPERATION_MOUNT] = "Mount",   [OPERATION_UNMOUNT] = "Unmount", [OPERATION_ATTACH] = "Attach",
        [OPERATION_DETACH] = "Detach", [OPERATION_EXPAND] = "Expand",   [OPERATION_STATS] = "Stats",
        [OPERATION_FORGET] = "Forget", [OPERATION_CLEANUP] = "Cleanup",
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
        free(op);
}

/* ---- waiters ---- */

static int operation_add_waiter(Operation *op, sd_bus_message *call)
{
        Waiter *grown = reallocarray(op->waiters, op->n_waiters + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;

        op->waiters = grown;
        op->waiters[op->n_waiters++] = (Waiter) {
                .call = sd_bus_message_ref(call),
                .deadline_usec = now_boottime_usec() + op->manager->settings.request_timeout_usec,
        };
        op->had_waiters = true;
        op->manager->n_waiters++;
        return 0;
}

bool operation_is_awaited(Operation *op)
{
        if (!op->had_waiters)
                return true; /* berthd's own wish never lapses */
        for (size_t i = 0; i < op->n_waiters; i++)
                if (sd_bus_is_open(sd_bus_message_get_bus(op->waiters[i].call)) > 0)
                        return true;
        return false;
}

static void reply_error(sd_bus_message *call, const Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

        error_to_bus(err, &e);
        (void) sd_bus_reply_method_error(call, &e);
}

static int append_stats(sd_bus_message *m, const StepResult *s)
{
        const struct {
                const char *key;
                uint64_t value;
        } numbers[] = {
                { "totalBytes", s->total_bytes },   { "availableBytes", s->available_bytes },
                { "usedBytes", s->used_bytes },     { "totalInodes", s->total_inodes },
                { "freeInodes", s->free_inodes },   { "usedInodes", s->used_inodes },
        };
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; i < ELEMENTSOF(numbers) && r >= 0; i++)
                r = bus_append_entry(m, numbers[i].key, "t", numbers[i].value);
        if (r >= 0)
                r = bus_append_entry(m, "healthy", "b", (int) s->healthy);
        if (r >= 0)
                r = bus_append_entry(m, "reason", "s", str_or(s->reason, ""));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_answer(const Operation *op, sd_bus_message *m)
{
        _cleanup_free_ char *path = NULL;

        switch (op->type) {
        case OPERATION_MOUNT:
                if (sd_bus_path_encode(VOLUME_PATH_PREFIX, op->volume->key, &path) < 0)
                        return -ENOMEM;
                return sd_bus_message_append(m, "o", path);
        case OPERATION_ATTACH:
                return sd_bus_message_append(m, "s", str_or(op->volume->device, ""));
        case OPERATION_EXPAND:
                return sd_bus_message_append(m, "t", op->result.size);
        case OPERATION_STATS:
                return append_stats(m, &op->result);
        case OPERATION_UNMOUNT:
        case OPERATION_DETACH:
        case OPERATION_FORGET:
        case OPERATION_CLEANUP:
        case OPERATION_CHECK:
        case OPERATION_SCAN:
        case _OPERATION_TYPE_MAX:
        case _OPERATION_TYPE_INVALID:
                return 0;
        }
        return 0;
}

static void reply_success(Operation *op, sd_bus_message *call)
{
        _cleanup_message_ sd_bus_message *reply = NULL;

        if (sd_bus_message_new_method_return(call, &reply) < 0 || append_answer(op, reply) < 0)
                return;
        (void) sd_bus_send(NULL, reply, NULL);
}

/* Answers the first n who wait: with err, or with success if it is NULL. */
static void operation_answer_first(Operation *op, size_t n, const Error *err)
{
        for (size_t i = 0; i < n; i++) {
                if (err)
                        reply_error(op->waiters[i].call, err);
                else
                        reply_success(op, op->waiters[i].call);
                sd_bus_message_unref(op->waiters[i].call);
        }
        op->n_waiters -= n;
        op->manager->n_waiters -= (unsigned) n;
        if (n > 0 && op->n_waiters > 0)
                memmove(op->waiters, op->waiters + n, op->n_waiters * sizeof(*op->waiters));
}

/* The same for everybody. */
static void operation_answer(Operation *op, const Error *err)
{
        operation_answer_first(op, op->n_waiters, err);
}

/* The one line a request: with the fields that journalctl filters by. */
static void operation_log(Operation *op, const Error *err)
{
        char request[24], duration[24];
        const LogField fields[] = {
                { "VOLUME", op->volume ? op->volume->key : op->key },
                { "TARGET", op->target },
                { "POD_UID", op->params.pod_uid },
                { "REQUEST", request },
                { "STEP", err ? str_or(err->step, step_to_string(op->step)) : NULL },
                { "DURATION_USEC", duration },
                { "ERROR", err ? error_code_name(err->code) : NULL },
                { NULL, NULL },
        };

        snprintf(request, sizeof(request), "%llu", (unsigned long long) op->request);
        snprintf(duration, sizeof(duration), "%llu", (unsigned long long) (now_boottime_usec() - op->started_usec));
        if (err)
                log_fields(LOG_WARNING, fields, "%s failed: %s", operation_type_to_string(op->type), str_or(err->text, ""));
        else
                log_fields(op->had_waiters && op->type != OPERATION_STATS ? LOG_INFO : LOG_DEBUG, fields, "%s done",
                           operation_type_to_string(op->type));
}

static const char *volume_key_of(const Operation *op)
{
        return op->volume ? op->volume->key : op->key;
}

/* ---- the event loop's next turn ---- */

static int on_defer(sd_event_source *s, void *userdata)
{
        Operation *op = userdata;

        op->defer = sd_event_source_disable_unref(op->defer);
        operation_advance(op);
        return 0;
}

/* Goes on with op from the event loop, so that one operation's end never nests in another's. */
static void operation_wake(Operation *op)
{
        if (op->defer)
                return;
        if (sd_event_add_defer(op->manager->event, &op->defer, on_defer, op) < 0)
                operation_advance(op);
}

/* ---- name locks ---- */

static NameLock *name_lock_find(Manager *m, const char *name)
{
        NameLock *l;

        HASH_FIND_STR(m->locks, name, l);
        return l;
}

static NameLock *name_lock_get(Manager *m, const char *name)
{
        NameLock *l = name_lock_find(m, name);
        if (l)
                return l;

        l = calloc(1, sizeof(*l));
        if (!l)
                return NULL;
        l->name = strdup(name);
        if (!l->name) {
                free(l);
                return NULL;
        }
        TAILQ_INIT(&l->waiting);
        HASH_ADD_KEYPTR(hh, m->locks, l->name, strlen(l->name), l);
        return l;
}

static void name_lock_gc(Manager *m, NameLock *l)
{
        if (l->holder || !TAILQ_EMPTY(&l->waiting))
                return;
        HASH_DELETE(hh, m->locks, l);
        free(l->name);
        free(l);
}

void name_locks_free(Manager *m)
{
        NameLock *l, *next;

        HASH_ITER (hh, m->locks, l, next) {
                HASH_DELETE(hh, m->locks, l);
                free(l->name);
                free(l);
        }
}

static void name_lock_release(Operation *op)
{
        NameLock *l = op->name_lock;

        if (!l)
                return;
        op->name_lock = NULL;
        if (l->holder == op) {
                l->holder = TAILQ_FIRST(&l->waiting);
                if (l->holder) {
                        TAILQ_REMOVE(&l->waiting, l->holder, queued);
                        l->holder->queue = QUEUE_NONE;
                        operation_wake(l->holder);
                }
        }
        name_lock_gc(op->manager, l);
}

/* ---- volume locks ---- */

void operation_lock_volume(Operation *op, Volume *v)
{
        assert(!op->volume && op->queue == QUEUE_NONE);

        if (!v->holder) {
                v->holder = op;
                op->volume = v;
                v->cleanup_timer = sd_event_source_disable_unref(v->cleanup_timer);
                operation_advance(op);
                return;
        }
        if (v->holder->mounter && v->holder->mounter->state == MOUNTER_QUARANTINED && op->had_waiters) {
                error_set(&op->error, ERROR_STUCK, EBUSY, "Process %d is blocked in the kernel at step '%s' of volume %s",
                          v->holder->mounter->pid, step_to_string(v->holder->step), v->key);
                operation_finish(op);
                return;
        }
        op->queue = QUEUE_VOLUME;
        op->queue_volume = v;
        TAILQ_INSERT_TAIL(&v->waiting, op, queued);
        /*
         * A mounter must not idle in our hands while somebody else is at work. Last, since it may be granted to the holder this
         * moment, whose end would free a volume that nobody stands in line for.
         */
        if (op->mounter) {
                MounterProcess *p = TAKE_PTR(op->mounter);
                mounter_release(p);
        }
}

static void volume_unlock(Operation *op)
{
        Volume *v = op->volume;

        if (!v)
                return;
        op->volume = NULL;
        assert(v->holder == op);
        v->holder = TAILQ_FIRST(&v->waiting);
        if (v->holder) {
                TAILQ_REMOVE(&v->waiting, v->holder, queued);
                v->holder->queue = QUEUE_NONE;
                v->holder->volume = v;
                operation_wake(v->holder);
                return;
        }
        if (volume_is_unused(v) && v->state != VOLUME_ABSENT && !v->cleanup_timer)
                volume_schedule_cleanup(v, op->postponed.code != ERROR_NONE || op->type == OPERATION_CLEANUP
                                                           ? 0
                                                           : v->manager->settings.linger_usec);
        volume_gc(v);
}

/* ---- joining ---- */

static bool params_equal(const MountParams *a, const MountParams *b)
{
        return str_equal(a->driver, b->driver) && strmap_equal(&a->source, &b->source) &&
               strmap_equal(&a->secrets, &b->secrets) && strcmp(str_or(a->fs_type, ""), str_or(b->fs_type, "")) == 0 &&
               a->read_only == b->read_only && strv_equal(a->mount_options, b->mount_options);
}

static bool operation_can_join(const Operation *running, const Operation *op)
{
        return running->type == op->type && !running->undoing && !error_is_set(&running->error) && !running->done &&
               running->size == op->size && str_equal(running->volume_name, op->volume_name) &&
               params_equal(&running->params, &op->params);
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
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s waited %llu s for an earlier operation on %s",
                          operation_type_to_string(op->type),
                          (unsigned long long) (op->manager->settings.request_timeout_usec / 1000000),
                          str_or(op->target, str_or(volume_key_of(op), "the volume")));
        else if (op->progress_total > 0)
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s is still at step '%s', %u %% done", operation_type_to_string(op->type),
                          step, (unsigned) ((double) op->progress_done * 100 / (double) op->progress_total));
        else
                error_set(ret, ERROR_IN_PROGRESS, EAGAIN, "%s is still at step '%s'", operation_type_to_string(op->type), step);
        if (begun && *step)
                ret->step = step;
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
        Operation *op = userdata;
        bool begun = !(op->queue == QUEUE_NAME || op->queue == QUEUE_VOLUME || (op->queue == QUEUE_POOL && !op->volume));
        uint64_t due = now_boottime_usec() + TIMER_ACCURACY_USEC;
        _cleanup_error_ Error err = ERROR_INIT;
        size_t n = 0;

        op->deadline = sd_event_source_disable_unref(op->deadline);
        while (n < op->n_waiters && op->waiters[n].deadline_usec <= due)
                n++;
        if (!begun && n == op->n_waiters) {
                /* it is as if it had never come */
                queue_leave(op);
                deadline_error(op, begun, &op->error);
                operation_finish(op);
                return 0;
        }
        if (n > 0) {
                deadline_error(op, begun, &err);
                operation_log(op, &err);
                manager_remember_error(op->manager, volume_key_of(op), op->target, &err);
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
                reply_error(call, err);
        operation_free(op);
}

static int operation_set_deadline(Operation *op)
{
        return sd_event_add_time(op->manager->event, &op->deadline, CLOCK_BOOTTIME, op->waiters[0].deadline_usec,
                                 TIMER_ACCURACY_USEC, on_deadline, op);
}

void operation_submit(Operation *op, sd_bus_message *call)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Manager *m = op->manager;
        Operation *before = operation_predecessor(op);

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
        if ((op->name && !l) || (call && (operation_add_waiter(op, call) < 0 || operation_set_deadline(op) < 0))) {
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
        case OPERATION_CLEANUP:
                operation_advance_cleanup(op);
                break;
        case OPERATION_EXPAND:
        case OPERATION_STATS:
        case OPERATION_FORGET:
        case OPERATION_CHECK:
        case OPERATION_SCAN:
                operation_advance_other(op);
                break;
        case _OPERATION_TYPE_MAX:
        case _OPERATION_TYPE_INVALID:
                assert(!"impossible type of operation");
        }
}

/* ---- steps ---- */

static void operation_fail(Operation *op, Error *err)
{
        Step step = op->step;

        if (!err->step && step != STEP_NONE)
                err->step = step_to_string(step);
        if (op->volume)
                operation_step_failed(op, step, err->code);

        /* Once the target is free, or something else has failed already, giving back storage can wait. */
        if (op->undoing || op->type == OPERATION_CLEANUP || (op->done && (step == STEP_UNSTAGE || step == STEP_DETACH))) {
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
        if (sd_event_add_time_relative(op->manager->event, &op->retry_timer, CLOCK_BOOTTIME, delay, TIMER_ACCURACY_USEC,
                                       on_retry, op) < 0) {
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
                error_set(&err, ERROR_TIMED_OUT, ETIMEDOUT, "Step '%s' of %s took longer than %llu s and was ended",
                          step_to_string(op->step), str_or(volume_key_of(op), str_or(op->target, "the volume")),
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
        error_set(&err, ERROR_MOUNTER_DIED, ECHILD, "The mounter ended during step '%s'", step_to_string(op->step));
        operation_fail(op, &err);
}

void operation_mounter_stuck(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;

        error_set(&err, ERROR_STUCK, EBUSY, "Process %d is blocked in the kernel at step '%s' of %s", op->mounter->pid,
                  step_to_string(op->step), str_or(volume_key_of(op), str_or(op->target, "the volume")));
        err.step = step_to_string(op->step);
        op->deadline = sd_event_source_disable_unref(op->deadline);
        manager_remember_error(op->manager, volume_key_of(op), op->target, &err);
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
                error_set(&err, ERROR_INTERNAL, r, "The mounter's answer to '%s' has an unknown form", step_to_string(op->step));
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
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "A value of the request is not valid UTF-8");
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
        const Publish *p = !op->volume && op->type == OPERATION_STATS ? publish_find(op->manager, op->target) : NULL;

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
                r = pool_acquire(op->manager, operation_kind(op), op, &err);
                if (r < 0)
                        operation_fail(op, &err);
                return;
        }
        if (op->volume)
                FAULT_POINT("agent.step-unrecorded");
        r = op->volume ? operation_record_step(op, op->step) : 0;
        if (r < 0)
                error_set(&err, ERROR_RECORD_FAILED, r, "Cannot write the record of volume %s: %s", op->volume->key,
                          strerror(-r));
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
        op->retry_delay_usec = 0;
        op->progress_total = 0;
        operation_try_step(op);
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
                manager_remember_error(m, volume_key_of(op), op->target, err);
        /* logged after the answer: the caller need not wait for the journal */
        bool to_log = op->n_waiters > 0 || !op->had_waiters;
        operation_answer(op, err);
        if (to_log)
                operation_log(op, err);
        if (op->volume)
                FAULT_POINT("agent.finish-answered");
        if (op->type == OPERATION_CHECK)
                operation_conclude_check(op);
        bool checked = op->type == OPERATION_CHECK;
        if (op->type == OPERATION_SCAN)
                reconcile_scanned(m, op->params.driver, op->done ? &op->result : NULL);

        volume_unlock(op);
        name_lock_release(op);
        TAILQ_REMOVE(&m->operations, op, entry);
        m->n_operations--;
        operation_free(op);
        if (checked)
                watch_check_done(m);
}
