/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The plan: a pure function of the snapshot. No system calls, no clock, no state, so that every decision can be tested with a
 * snapshot written by hand.
 *
 * Rules, in order of weight: what is busy or still at work is left alone; what is not known plans nothing; what is
 * not berth's own is reported and never touched, and neither is what it stands in the way of; records follow the kernel, never
 * the other way round. That a scan does not tell of a device is no proof that it is gone: sysfs has to agree.
 *
 * Order of steps: volumes are adopted first; then, volume by volume: publishes, state, cleanup; then publishes are adopted (a
 * target may have been dropped from another volume just before); reports last.
 */

#include <string.h>

#include "daemon/reconcile/index.h"

static const char *const type_names[_PLAN_STEP_TYPE_MAX] = {
        [PLAN_ADOPT_VOLUME] = "adopt-volume",   [PLAN_ADOPT_PUBLISH] = "adopt-publish",
        [PLAN_DROP_PUBLISH] = "drop-publish",   [PLAN_UNPUBLISH] = "unpublish",
        [PLAN_REPUBLISH] = "republish",         [PLAN_CORRECT_STATE] = "correct-state",
        [PLAN_CLEANUP] = "cleanup",             [PLAN_REPORT] = "report",
};

const char *plan_step_type_to_string(PlanStepType t)
{
        return t >= 0 && t < _PLAN_STEP_TYPE_MAX ? type_names[t] : "invalid";
}

/* ---- making steps ---- */

static int plan_add(Plan *p, PlanStep step)
{
        if ((p->n_steps & (p->n_steps + 1)) == 0) { /* grow at 0, 1, 3, 7, … */
                PlanStep *grown = reallocarray(p->steps, p->n_steps * 2 + 2, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                p->steps = grown;
        }
        p->steps[p->n_steps++] = step;
        return 0;
}

/* Not to be judged now, or not for us to judge at all. */
static bool entry_is_left_alone(const Entry *e)
{
        return (e->volume && (e->volume->busy || e->volume->at_work)) || e->strange;
}

/*
 * What the volume is, by the kernel's word. A step that was cut short leaves the state in which it was recorded, since
 * the steps that undo it find out for themselves; only its having taken effect is believed. Nothing is ever simply attached
 * after it was staged, or absent: unstage and detach also take away the staging directory and the lock file.
 */
static VolumeState kernel_state(const Snapshot *s, const Entry *e, bool present)
{
        const VolumeView *v = e->volume;

        if (e->stage)
                return VOLUME_STAGED;
        if (v->step && v->state != VOLUME_STAGED)
                return v->state;
        if (v->state == VOLUME_STAGED || v->state == VOLUME_STAGING || v->state == VOLUME_UNSTAGING)
                return VOLUME_UNSTAGING;
        if (present)
                return v->state == VOLUME_DETACHING || v->state == VOLUME_ATTACHING ? v->state : VOLUME_ATTACHED;
        if (e->scanned && !e->scanned->foreign)
                return VOLUME_ATTACHING;
        if (v->state == VOLUME_ABSENT || (v->device == 0 && !snapshot_knows(s, v->key)))
                return v->state;
        return VOLUME_DETACHING;
}

static const char *state_reason(VolumeState state)
{
        switch (state) {
        case VOLUME_STAGED:
                return "its stage is mounted";
        case VOLUME_ATTACHED:
                return "its device is there";
        case VOLUME_UNSTAGING:
                return "its stage is not mounted";
        case VOLUME_ATTACHING:
                return "it has another device than the one recorded";
        default:
                return "its device is not there";
        }
}

/* A mount of a server's that is of no volume's superblock any more: the volume was staged anew after the server had forgotten it. */
static bool is_left_behind(const Snapshot *s, const Index *x, const Entry *e, const char *target)
{
        const MountView *m = snapshot_find_mount(s, target, 0);

        return m && e->stage && !snapshot_find_mount(s, target, e->device) && strncmp(m->fs_type, "nfs", 3) == 0 &&
               !index_find_published(x, m);
}

static int plan_publishes(const Snapshot *s, const Index *x, const Entry *e, bool beyond_use, Plan *p, size_t *ret_kept)
{
        const VolumeView *v = e->volume;
        int r = 0;

        for (size_t i = 0; i < v->n_publishes && r >= 0; i++) {
                const char *target = v->publishes[i].target;

                if (is_left_behind(s, x, e, target)) {
                        (*ret_kept)++;
                        r = plan_add(p, (PlanStep) { .type = PLAN_UNPUBLISH, .volume = v->key, .target = target,
                                                     .reason = "its mount is of an earlier stage, which a fresh one has replaced" });
                        continue;
                }
                if ((v->publishes[i].stale || v->publishes[i].replacing) && e->stage && !e->reused && !beyond_use &&
                    !snapshot_find_mount(s, target, 0)) {
                        (*ret_kept)++;
                        r = plan_add(p, (PlanStep) { .type = PLAN_REPUBLISH, .volume = v->key, .target = target,
                                                     .reason = "a stale mount was taken away and is not replaced yet" });
                        continue;
                }
                if (e->reused || !snapshot_find_mount(s, target, e->device)) {
                        PublishEntry *known = index_find_publish(x, target);
                        if (known)
                                known->dropped = true;
                        r = plan_add(p, (PlanStep) { .type = PLAN_DROP_PUBLISH, .volume = v->key, .target = target,
                                                     .reason = snapshot_find_mount(s, target, 0)
                                                                               ? "something else is mounted at the target"
                                                                               : "nothing is mounted at the target" });
                        continue;
                }
                (*ret_kept)++;
                if (beyond_use)
                        r = plan_add(p, (PlanStep) { .type = PLAN_UNPUBLISH, .volume = v->key, .target = target,
                                                     .reason = "its file system or device is beyond use, and the kubelet takes "
                                                               "a target that looks mounted as it is" });
                else if (v->publishes[i].stale && e->stage)
                        r = plan_add(p, (PlanStep) { .type = PLAN_REPUBLISH, .volume = v->key, .target = target,
                                                     .reason = "its server has forgotten the directory that is mounted there (stale "
                                                               "file handle), and the kubelet takes a target that looks mounted as it is" });
        }
        return r;
}

/* What was cut short was an unmount, of which there is no repeat that would need the stage. */
static bool is_being_given_back(const VolumeView *v)
{
        return v->state == VOLUME_UNSTAGING || v->state == VOLUME_DETACHING ||
               (v->step && strcmp(v->step, step_to_string(STEP_UNPUBLISH)) == 0);
}

static int plan_volume(const Snapshot *s, const Index *x, const Entry *e, Plan *p)
{
        const VolumeView *v = e->volume;
        bool present = e->moved || (v->device_present && !e->reused), gone = e->device != 0 && !present;
        bool beyond_use = gone || (e->stage && v->health == VOLUME_HEALTH_CORRUPTED);
        size_t n_kept = 0;
        int r;

        if (v->at_work && !v->busy)
                p->wait = true;
        if (entry_is_left_alone(e))
                return 0;
        r = plan_publishes(s, x, e, beyond_use, p, &n_kept);
        if (r < 0)
                return r;
        VolumeState state = kernel_state(s, e, present);
        if (state != v->state || (v->step && v->state == VOLUME_STAGED) || e->moved) {
                r = plan_add(p, (PlanStep) { .type = PLAN_CORRECT_STATE, .volume = v->key, .state = state,
                                             .device = e->moved ? e->scanned : NULL, .reason = state_reason(state) });
                if (r < 0)
                        return r;
        }
        if (n_kept > 0 || v->attached_by_name || v->cleanup_scheduled || e->published)
                return 0;
        return plan_add(p, (PlanStep) { .type = PLAN_CLEANUP, .volume = v->key,
                                        .at_once = beyond_use || is_being_given_back(v),
                                        .reason = v->step ? "a step was cut short and nobody uses it" : "nobody uses it" });
}

/* ---- adoption ---- */

static int plan_adopt_volume(const Entry *e, Plan *p)
{
        int r = plan_add(p, (PlanStep) { .type = PLAN_ADOPT_VOLUME, .volume = e->key, .device = e->scanned, .mount = e->stage,
                                         .reason = e->stage ? "its stage is mounted and there is no record of it"
                                                            : "a device of berth's own without a record" });

        if (r >= 0 && !e->published)
                r = plan_add(p, (PlanStep) { .type = PLAN_CLEANUP, .volume = e->key, .reason = "nobody uses it" });
        return r;
}

static int plan_devices(const Index *x, Plan *p)
{
        int r = 0;

        for (size_t i = x->n_volumes; i < x->n_entries && r >= 0; i++) {
                const Entry *e = &x->entries[i];

                if (!e->second && !e->strange && (e->stage || !e->foreign))
                        r = plan_adopt_volume(e, p);
        }
        return r;
}

/* Mounts at targets that show a volume's device: publishes whose record was lost. */
static int plan_targets(const Snapshot *s, const Index *x, Plan *p)
{
        const char *last = "";
        int r = 0;

        for (size_t i = 0; i < s->n_mounts && r >= 0; i++) {
                const MountView *m = &s->mounts[i];
                const Entry *e = index_find_published(x, m);
                const PublishEntry *known = e ? index_find_publish(x, m->target) : NULL;

                if (!e || entry_is_left_alone(e) || (known && !known->dropped) || strcmp(last, m->target) == 0)
                        continue;
                last = m->target; /* once, however many layers there are */
                r = plan_add(p, (PlanStep) { .type = PLAN_ADOPT_PUBLISH, .volume = e->key, .target = m->target, .mount = m,
                                             .reason = "the volume is mounted at the target and there is no record of it" });
        }
        return r;
}

/* ---- reports ---- */

/* What is at a staging path and belongs to nothing known: by whom it was mounted, nobody can tell. */
static int plan_reports(const Snapshot *s, const Index *x, Plan *p)
{
        const char *last = "";
        int r = 0;

        for (size_t i = 0; i < s->n_mounts && r >= 0; i++) {
                const MountView *m = &s->mounts[i];
                const Entry *e = m->stage ? index_find_key(s, x, m->stage) : NULL;

                if (m->within && strcmp(last, m->target) != 0) {
                        last = m->target;
                        r = plan_add(p, (PlanStep) { .type = PLAN_REPORT, .volume = m->within, .target = m->target,
                                                     .reason = "a mount inside of a stage: it keeps the volume from being unstaged" });
                        continue;
                }
                if (!m->stage || strcmp(last, m->target) == 0 || (e ? e->strange != m : !snapshot_judges(s, m->stage)))
                        continue;
                if (e && e->volume && (e->volume->busy || e->volume->at_work))
                        continue;
                last = m->target;
                r = plan_add(p, (PlanStep) { .type = PLAN_REPORT, .volume = m->stage, .target = m->target,
                                             .reason = e ? "its stage shows another device than its own"
                                                         : "a mount below the staging directory that no device of a volume explains" });
        }
        return r;
}

/* Loop devices of others are everyday; a map shows an image that pods may want, and keeps it from other nodes. */
static int plan_foreign_maps(const Snapshot *s, const Index *x, Plan *p)
{
        int r = 0;

        for (size_t i = 0; i < s->n_devices && r >= 0; i++) {
                const StepDevice *d = &s->devices[i];
                bool told = d->foreign && strncmp(d->key, "rbd-", 4) == 0 && snapshot_knows(s, d->key);
                const Entry *e = told ? index_find_key(s, x, d->key) : NULL;

                if (!e || (e->volume && (e->volume->busy || e->volume->at_work || e->volume->device == (dev_t) d->device_number)))
                        continue;
                r = plan_add(p, (PlanStep) { .type = PLAN_REPORT, .volume = d->key, .target = d->device,
                                             .reason = "a map of an image that somebody else has made" });
        }
        return r;
}

int reconcile_plan(const Snapshot *s, Plan *ret)
{
        _cleanup_plan_ Plan p = {};
        Index x = {};
        int r = index_build(s, &x);

        if (r >= 0)
                r = plan_devices(&x, &p);
        for (size_t i = 0; i < x.n_volumes && r >= 0; i++)
                r = plan_volume(s, &x, &x.entries[i], &p);
        if (r >= 0)
                r = plan_targets(s, &x, &p);
        if (r >= 0)
                r = plan_reports(s, &x, &p);
        if (r >= 0)
                r = plan_foreign_maps(s, &x, &p);
        index_done(&x);
        if (r < 0)
                return r;
        *ret = p;
        p = (Plan) {};
        return 0;
}

void plan_done(Plan *p)
{
        free(p->steps);
        *p = (Plan) {};
}
