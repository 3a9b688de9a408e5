/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Carrying out a plan: records are mended here, everything that touches storage becomes an operation of its own, so one volume's
 * failure never stops another's. Runs in berthd.
 */

#include <string.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/store.h"
#include "protocol/bus-util.h"

int reconcile_apply(Manager *m, const PlanStep *step)
{
        Volume *v = step->volume ? volume_find(m, step->volume) : NULL;
        Publish *p;

        switch (step->type) {
        case PLAN_DROP_PUBLISH:
                p = publish_find(m, step->target);
                if (!v || v->holder || !p)
                        return 0;
                publish_free(p);
                return store_write(v);
        case PLAN_CORRECT_STATE:
                if (!v || v->holder)
                        return 0;
                volume_set_state(v, step->state);
                v->step = NULL;
                return store_write(v);
        case PLAN_CLEANUP:
                if (v && v->state == VOLUME_ABSENT && !v->holder) {
                        int r = store_remove(v);
                        volume_gc(v);
                        return r;
                }
                if (v)
                        volume_schedule_cleanup(v, m->settings.linger_usec);
                return 0;
        case PLAN_REPORT:
                return 0;
        case _PLAN_STEP_TYPE_MAX:
        case _PLAN_STEP_TYPE_INVALID:
                break;
        }
        return -EINVAL;
}

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

int reconcile_run(Manager *m, ReconcileMode mode, sd_bus_message *reply, Error *err)
{
        _cleanup_snapshot_ Snapshot snapshot = {};
        _cleanup_plan_ Plan plan = {};
        int r = reconcile_observe(m, &snapshot, err);

        if (r < 0)
                return r;
        r = reconcile_plan(&snapshot, &plan);
        if (r >= 0 && reply)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (size_t i = 0; i < plan.n_steps && r >= 0; i++) {
                const PlanStep *s = &plan.steps[i];
                const LogField fields[] = { { "VOLUME", s->volume }, { "TARGET", s->target }, { "STEP", plan_step_type_to_string(s->type) }, {} };
                const char *result = NULL;

                if (mode == RECONCILE_APPLY) {
                        int k = reconcile_apply(m, s);
                        result = k < 0 ? strerror(-k) : "ok";
                        log_fields(k < 0 ? LOG_WARNING : LOG_INFO, fields, "Reconcile: %s: %s", s->reason, result);
                }
                if (reply)
                        r = append_step(reply, s, result);
        }
        if (r >= 0 && reply)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "Cannot make a plan: %s", strerror(-r)) : 0;
}
