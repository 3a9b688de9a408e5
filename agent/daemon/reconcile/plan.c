/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The plan: a pure function of the snapshot. No system calls, no clock, no state, so that every decision can be tested with a
 * snapshot written by hand. Order of steps: by volume; within one, publishes, then state, then cleanup.
 */

#include "daemon/reconcile/reconcile.h"

static const char *const type_names[_PLAN_STEP_TYPE_MAX] = {
        [PLAN_DROP_PUBLISH] = "drop-publish",
        [PLAN_CORRECT_STATE] = "correct-state",
        [PLAN_CLEANUP] = "cleanup",
        [PLAN_REPORT] = "report",
};

const char *plan_step_type_to_string(PlanStepType t)
{
        return t >= 0 && t < _PLAN_STEP_TYPE_MAX ? type_names[t] : "invalid";
}

static int plan_add(Plan *p, PlanStep step)
{
        PlanStep *grown = p->steps;

        if ((p->n_steps & (p->n_steps + 1)) == 0) { /* grow at 0, 1, 3, 7, … */
                grown = reallocarray(p->steps, p->n_steps * 2 + 2, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                p->steps = grown;
        }
        grown[p->n_steps++] = step;
        return 0;
}

/*
 * What the volume is, by the kernel's word. A step that was under way leaves the state in which it was recorded: its mounter may
 * still be at work, and the steps that undo it find out.
 */
static VolumeState kernel_state(const VolumeView *v)
{
        if (v->staged)
                return VOLUME_STAGED;
        if (v->step)
                return v->state;
        if (v->device_present)
                return v->state == VOLUME_DETACHING || v->state == VOLUME_ATTACHING ? v->state : VOLUME_ATTACHED;
        /* nothing known of a device: what has none (nfs) is absent, what has one may be half attached */
        return v->device_expected || v->state == VOLUME_STAGED || v->state == VOLUME_ATTACHED ? VOLUME_ABSENT : v->state;
}

static int plan_volume(const VolumeView *v, Plan *p)
{
        size_t n_mounted = 0;
        int r;

        if (v->busy)
                return 0;
        for (size_t i = 0; i < v->n_publishes; i++) {
                if (v->publishes[i].mounted) {
                        n_mounted++;
                        continue;
                }
                r = plan_add(p, (PlanStep) { .type = PLAN_DROP_PUBLISH, .volume = v->key, .target = v->publishes[i].target,
                                             .reason = "nothing is mounted at the target" });
                if (r < 0)
                        return r;
        }
        VolumeState state = kernel_state(v);
        if (state != v->state) {
                r = plan_add(p, (PlanStep) { .type = PLAN_CORRECT_STATE, .volume = v->key, .state = state,
                                             .reason = state == VOLUME_STAGED     ? "its stage is mounted"
                                                       : state == VOLUME_ATTACHED ? "its stage is not mounted, its device is there"
                                                                                  : "neither stage nor device is there" });
                if (r < 0)
                        return r;
        }
        if (n_mounted == 0 && !v->attached_by_name && !v->cleanup_scheduled)
                return plan_add(p, (PlanStep) { .type = PLAN_CLEANUP, .volume = v->key,
                                                .reason = v->step ? "a step was cut short and nobody uses it" : "nobody uses it" });
        return 0;
}

int reconcile_plan(const Snapshot *s, Plan *ret)
{
        _cleanup_plan_ Plan p = {};
        int r;

        for (size_t i = 0; i < s->n_volumes; i++) {
                r = plan_volume(&s->volumes[i], &p);
                if (r < 0)
                        return r;
        }
        STRV_FOREACH (key, s->unknown_stages) {
                r = plan_add(&p, (PlanStep) { .type = PLAN_REPORT, .volume = *key, .reason = "a stage is mounted without a record" });
                if (r < 0)
                        return r;
        }
        *ret = p;
        p = (Plan) {};
        return 0;
}

void plan_done(Plan *p)
{
        free(p->steps);
        *p = (Plan) {};
}
