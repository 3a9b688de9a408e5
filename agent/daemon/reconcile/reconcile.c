/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The course of a reconcile: ask the mounters, observe, plan, apply, answer. Runs in berthd; never waits: the mounters are
 * asked by operations of their own, each with a time limit, and what comes back too late is not counted.
 *
 * One asks at a time. Requests that arrive meanwhile are served together by the next. A quick look (mount table, sysfs and
 * records alone) needs no answer of anybody: it is made at once, also while a mounter is asked that may never answer.
 */

#include "daemon/reconcile/reconcile.h"

#include <string.h>

#include "base/fault.h"
#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/reconcile/findings.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"

/* Something is still at work in a former berthd's mounter: how soon to look again. */
#define WAIT_USEC (500 * UINT64_C(1000))
/* Who waits for the same answer; more can only be one who asks without waiting. */
#define CALLS_MAX 256U

struct Reconcile {
        Manager *manager;
        Snapshot snapshot; /* devices and kinds are gathered in it before the rest is observed */
        unsigned n_scanning;
        bool running;
        sd_bus_message **calls, **next_calls;
        size_t n_calls, n_next_calls;
        bool apply, next_apply, next;
        sd_event_source *wait_timer;
        uint64_t n_looks;
        char **touched; /* keys of the volumes that were changed while the mounters were asked */
        char **stuck;   /* kinds whose Scan was given up and is still not over: not asked again before */
        Findings findings;
};

static void reconcile_begin(Reconcile *rc);

static int append_step(sd_bus_message *m, const PlanStep *s, const char *result)
{
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0)
                r = bus_append_entry(m, "step", "s", plan_step_type_to_string(s->type));
        if (r >= 0)
                r = bus_append_entry(m, "volume", "s", str_or(s->volume, ""));
        if (r >= 0)
                r = bus_append_entry_bytes(m, "target", str_or(s->target, ""));
        if (r >= 0)
                r = bus_append_entry(m, "reason", "s", s->reason);
        if (r >= 0 && result)
                r = bus_append_entry(m, "result", "s", result);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static void answer(sd_bus_message *call, const Plan *plan, char *const *results)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(call, &reply);

        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (size_t i = 0; i < plan->n_steps && r >= 0; i++)
                r = append_step(reply, &plan->steps[i], results ? results[i] : NULL);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        if (r >= 0)
                (void) sd_bus_send(NULL, reply, NULL);
}

static void answer_error(sd_bus_message *call, const Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

        error_to_bus(err, &e);
        (void) sd_bus_reply_method_error(call, &e);
}

static void log_step(Reconcile *rc, const PlanStep *s, int r, const char *result)
{
        const LogField fields[] = {
                        {"MESSAGE_ID",
                         event_message_id(s->type == PLAN_REPORT ? EVENT_FOREIGN_FOUND : EVENT_RECONCILED)},
                        {"VOLUME", s->volume},
                        {"TARGET", s->target},
                        {"STEP", plan_step_type_to_string(s->type)},
                        {NULL, NULL},
        };
        int level = r < 0 || s->type == PLAN_REPORT ? LOG_WARNING : LOG_INFO;

        if (!findings_note(&rc->findings, s, result, now_boottime_usec()))
                level = LOG_DEBUG;
        log_fields(level, fields, "Reconcile: %s: %s: %s", plan_step_type_to_string(s->type), s->reason, result);
}

/* Carries out the plan; results become texts, one a step, or NULL if out of memory. */
static char **apply_all(Reconcile *rc, const Plan *plan)
{
        _cleanup_strv_ char **results = NULL;

        for (size_t i = 0; i < plan->n_steps; i++) {
                const PlanStep *s = &plan->steps[i];

                FAULT_POINT("agent.reconcile-before-step");
                int r = reconcile_apply(rc->manager, s);
                FAULT_POINT("agent.reconcile-after-step");
                const char *result = r < 0 ? strerror(-r) : "ok";

                log_step(rc, s, r, result);
                /* it is gone: a mounter that is asked at this moment may still tell of it */
                if (s->volume && !volume_find(rc->manager, s->volume))
                        reconcile_touched(rc->manager, s->volume);
                if (strv_append(&results, result) < 0)
                        return NULL;
        }
        return TAKE_PTR(results);
}

static int on_wait_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Reconcile *rc = userdata;

        rc->wait_timer = sd_event_source_disable_unref(rc->wait_timer);
        reconcile_look(rc->manager);
        return 0;
}

/* What is still at work ends without telling us. */
static void wait_for_work(Reconcile *rc, const Plan *plan)
{
        if (plan->wait && !rc->wait_timer)
                (void) sd_event_add_time_relative(rc->manager->event, &rc->wait_timer, CLOCK_BOOTTIME, WAIT_USEC, 10000,
                                                  on_wait_timer, rc);
}

static void calls_done(Reconcile *rc)
{
        for (size_t i = 0; i < rc->n_calls; i++)
                sd_bus_message_unref(rc->calls[i]);
        free(rc->calls);
        rc->calls = NULL;
        rc->n_calls = 0;
}

/*
 * What the mounters saw of a volume that an operation has changed since is no longer true, and judging it would bring back what has
 * just been detached. The next look will see it.
 */
static void leave_out_touched(Reconcile *rc)
{
        Snapshot *s = &rc->snapshot;
        size_t n = 0;

        for (size_t i = 0; i < s->n_volumes; i++)
                s->volumes[i].busy = s->volumes[i].busy || strv_contains(rc->touched, s->volumes[i].key);
        for (size_t i = 0; i < s->n_devices; i++) {
                StepDevice d = s->devices[i];

                s->devices[i] = (StepDevice) {};
                if (strv_contains(rc->touched, d.key))
                        step_device_done(&d);
                else
                        s->devices[n++] = d;
        }
        s->n_devices = n;
}

void reconcile_touched(Manager *m, const char *key)
{
        Reconcile *rc = m->reconcile;

        if (rc && rc->running && rc->n_scanning > 0 && strv_append(&rc->touched, key) < 0)
                rc->apply = false; /* out of memory: a plan that nobody carries out does no harm */
}

static int conclude(Reconcile *rc, Error *err)
{
        _cleanup_plan_ Plan plan = {};
        _cleanup_strv_ char **results = NULL;
        Manager *m = rc->manager;

        rc->n_looks++;
        int r = reconcile_observe(m, &rc->snapshot, err);
        if (r < 0)
                return r;
        leave_out_touched(rc);
        r = reconcile_plan(&rc->snapshot, &plan);
        if (r < 0)
                return error_oom(err);
        if (rc->apply) {
                results = apply_all(rc, &plan);
                reconcile_sweep_locks(m);
                wait_for_work(rc, &plan);
        }
        for (size_t i = 0; i < rc->n_calls; i++)
                answer(rc->calls[i], &plan, results);
        return 0;
}

static void reconcile_end(Reconcile *rc)
{
        _cleanup_error_ Error err = ERROR_INIT;

        if (conclude(rc, &err) < 0) {
                log_error("Reconcile failed: %s", str_or(err.text, ""));
                for (size_t i = 0; i < rc->n_calls; i++)
                        answer_error(rc->calls[i], &err);
        }
        calls_done(rc);
        snapshot_done(&rc->snapshot);
        strv_free(TAKE_PTR(rc->touched));
        rc->running = false;

        if (rc->next) {
                rc->calls = TAKE_PTR(rc->next_calls);
                rc->n_calls = rc->n_next_calls;
                rc->apply = rc->next_apply;
                rc->n_next_calls = 0;
                rc->next = rc->next_apply = false;
                reconcile_begin(rc);
        }
}

void reconcile_scanned(Manager *m, const char *kind, StepResult *result)
{
        Reconcile *rc = m->reconcile;
        Snapshot *s = &rc->snapshot;

        if (kind && !result && strv_append(&s->silent, kind) < 0)
                strv_free(TAKE_PTR(s->kinds)); /* then nothing is known for sure */
        if (result) {
                StepDevice *grown =
                                reallocarray(s->devices, s->n_devices + result->n_devices + 1, sizeof(*grown));

                if (grown) {
                        s->devices = grown;
                        for (size_t i = 0; i < result->n_devices; i++)
                                grown[s->n_devices++] = result->devices[i];
                        result->n_devices = 0; /* their strings are the snapshot's now */
                        (void) strv_append(&s->kinds, kind);
                }
        }
        if (--rc->n_scanning == 0)
                reconcile_end(rc);
}

void reconcile_scan_given_up(Manager *m, const char *kind)
{
        (void) strv_append(&m->reconcile->stuck, kind);
        reconcile_scanned(m, kind, NULL);
}

void reconcile_scan_ended(Manager *m, const char *kind)
{
        strv_remove(m->reconcile->stuck, kind);
}

static int scan_begin(Manager *m, const Pool *pool)
{
        Reconcile *rc = m->reconcile;
        Operation *op;

        if (strv_contains(rc->stuck, pool->kind))
                return strv_append(&rc->snapshot.silent, pool->kind);
        if (operation_new(m, OPERATION_SCAN, &op) < 0)
                return -ENOMEM;
        if (str_replace(&op->params.driver, pool->kind) < 0) {
                operation_free(op);
                return -ENOMEM;
        }
        m->reconcile->n_scanning++;
        operation_submit(op, NULL);
        return 0;
}

static void reconcile_begin(Reconcile *rc)
{
        rc->running = true;
        rc->n_scanning = 1; /* ourselves, so that it cannot end while we still start */
        for (const Pool *pool = rc->manager->pools; pool; pool = pool->hh.next)
                (void) scan_begin(rc->manager, pool);
        reconcile_scanned(rc->manager, NULL, NULL);
}

static int calls_add(sd_bus_message ***calls, size_t *n, sd_bus_message *call)
{
        if (*n >= CALLS_MAX)
                return -E2BIG;
        sd_bus_message **grown = reallocarray(*calls, *n + 1, sizeof(*grown));

        if (!grown)
                return -ENOMEM;
        *calls = grown;
        grown[(*n)++] = sd_bus_message_ref(call);
        return 0;
}

static Reconcile *reconcile_get(Manager *m)
{
        if (!m->reconcile) {
                m->reconcile = calloc(1, sizeof(*m->reconcile));
                if (m->reconcile)
                        m->reconcile->manager = m;
        }
        return m->reconcile;
}

void reconcile_request(Manager *m, ReconcileMode mode, sd_bus_message *call)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Reconcile *rc = reconcile_get(m);
        int r = !rc ? -ENOMEM
                : !call ? 0
                : rc->running ? calls_add(&rc->next_calls, &rc->n_next_calls, call)
                              : calls_add(&rc->calls, &rc->n_calls, call);
        if (r < 0) {
                if (r == -E2BIG)
                        error_set(&err, ERROR_LIMIT_EXCEEDED, EAGAIN, "%u requests wait for the next reconcile",
                                  CALLS_MAX);
                else
                        error_oom(&err);
                if (call)
                        answer_error(call, &err);
                return;
        }
        if (rc->running) {
                rc->next = true;
                rc->next_apply = rc->next_apply || mode == RECONCILE_APPLY;
                return;
        }
        rc->apply = mode == RECONCILE_APPLY;
        reconcile_begin(rc);
}

static int look(Reconcile *rc, Error *err)
{
        _cleanup_snapshot_ Snapshot s = {};
        _cleanup_plan_ Plan plan = {};
        int r = reconcile_observe(rc->manager, &s, err);

        if (r < 0)
                return r;
        if (reconcile_plan(&s, &plan) < 0)
                return error_oom(err);
        strv_free(apply_all(rc, &plan));
        wait_for_work(rc, &plan);
        return 0;
}

void reconcile_look(Manager *m)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Reconcile *rc = reconcile_get(m);
        int r = rc ? look(rc, &err) : error_oom(&err);

        if (r < 0)
                log_error("Looking at the node failed: %s", str_or(err.text, ""));
        else
                rc->n_looks++;
}

int reconcile_at_start(Manager *m, Error *err)
{
        Reconcile *rc = reconcile_get(m);

        return rc ? look(rc, err) : error_oom(err);
}

bool reconcile_is_awaited(const Manager *m, const sd_bus *bus)
{
        const Reconcile *rc = m->reconcile;

        for (size_t i = 0; rc && i < rc->n_calls; i++)
                if (sd_bus_message_get_bus(rc->calls[i]) == bus)
                        return true;
        for (size_t i = 0; rc && i < rc->n_next_calls; i++)
                if (sd_bus_message_get_bus(rc->next_calls[i]) == bus)
                        return true;
        return false;
}

uint64_t reconcile_count(const Manager *m)
{
        return m->reconcile ? m->reconcile->n_looks : 0;
}

void reconcile_free(Manager *m)
{
        Reconcile *rc = TAKE_PTR(m->reconcile);

        if (!rc)
                return;
        calls_done(rc);
        for (size_t i = 0; i < rc->n_next_calls; i++)
                sd_bus_message_unref(rc->next_calls[i]);
        free(rc->next_calls);
        snapshot_done(&rc->snapshot);
        strv_free(rc->touched);
        strv_free(rc->stuck);
        findings_free(&rc->findings);
        sd_event_source_disable_unref(rc->wait_timer);
        free(rc);
}
