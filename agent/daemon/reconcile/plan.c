/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The plan: a pure function of the snapshot. No system calls, no clock, no state, so that every decision can be tested with a
 * snapshot written by hand.
 *
 * Rules, in order of weight: what is busy or still at work is left alone; what is not known plans nothing; what is
 * not berth's own is reported and never touched; records follow the kernel, never the other way round.
 *
 * Order of steps: adoptions first, then by volume: publishes, state, cleanup; reports last.
 */

#include <string.h>

#include "daemon/reconcile/reconcile.h"

static const char *const type_names[_PLAN_STEP_TYPE_MAX] = {
        [PLAN_ADOPT_VOLUME] = "adopt-volume",   [PLAN_ADOPT_PUBLISH] = "adopt-publish",
        [PLAN_DROP_PUBLISH] = "drop-publish",   [PLAN_UNPUBLISH] = "unpublish",
        [PLAN_CORRECT_STATE] = "correct-state", [PLAN_CLEANUP] = "cleanup",
        [PLAN_REPORT] = "report",
};

const char *plan_step_type_to_string(PlanStepType t)
{
        return t >= 0 && t < _PLAN_STEP_TYPE_MAX ? type_names[t] : "invalid";
}

/* ---- looking things up ---- */

static int compare_mounts(const void *a, const void *b)
{
        return strcmp(((const MountView *) a)->target, ((const MountView *) b)->target);
}

static int compare_volumes(const void *a, const void *b)
{
        return strcmp(((const VolumeView *) a)->key, ((const VolumeView *) b)->key);
}

static int compare_devices(const void *a, const void *b)
{
        return strcmp(((const StepDevice *) a)->key, ((const StepDevice *) b)->key);
}

void snapshot_sort(Snapshot *s)
{
        if (s->n_mounts > 1)
                qsort(s->mounts, s->n_mounts, sizeof(MountView), compare_mounts);
        if (s->n_volumes > 1)
                qsort(s->volumes, s->n_volumes, sizeof(VolumeView), compare_volumes);
        if (s->n_devices > 1)
                qsort(s->devices, s->n_devices, sizeof(StepDevice), compare_devices);
}

/* Whether some mount at the target is of the device (or of any, if device is 0). */
static const MountView *find_mount(const Snapshot *s, const char *target, dev_t device)
{
        const MountView wanted = { .target = (char *) target };
        const MountView *found = s->n_mounts ? bsearch(&wanted, s->mounts, s->n_mounts, sizeof(MountView), compare_mounts) : NULL;
        const MountView *end = s->mounts + s->n_mounts;

        if (!found)
                return NULL;
        while (found > s->mounts && strcmp(found[-1].target, target) == 0)
                found--;
        for (; found < end && strcmp(found->target, target) == 0; found++)
                if (device == 0 || found->device == device)
                        return found;
        return NULL;
}

static const VolumeView *find_volume(const Snapshot *s, const char *key)
{
        const VolumeView wanted = { .key = (char *) key };

        return s->n_volumes ? bsearch(&wanted, s->volumes, s->n_volumes, sizeof(VolumeView), compare_volumes) : NULL;
}

static const StepDevice *find_device(const Snapshot *s, const char *key)
{
        const StepDevice wanted = { .key = (char *) key };

        return s->n_devices ? bsearch(&wanted, s->devices, s->n_devices, sizeof(StepDevice), compare_devices) : NULL;
}

/* ---- an index of volumes by what is mounted as their stage, and by device ---- */

typedef struct IndexEntry {
        const char *key;
        dev_t device;
        const MountView *stage;   /* NULL: not staged */
        const VolumeView *volume; /* NULL: to be adopted */
        bool published;           /* something of it is mounted at a target */
} IndexEntry;

typedef struct Index {
        IndexEntry *entries; /* by device */
        size_t n;
} Index;

static int compare_entries(const void *a, const void *b)
{
        dev_t x = ((const IndexEntry *) a)->device, y = ((const IndexEntry *) b)->device;

        return x < y ? -1 : x > y;
}

static IndexEntry *index_find_device(const Index *x, dev_t device)
{
        const IndexEntry wanted = { .device = device };

        return device != 0 && x->n ? bsearch(&wanted, x->entries, x->n, sizeof(IndexEntry), compare_entries) : NULL;
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

static bool kind_is_known(const Snapshot *s, const char *key)
{
        size_t n = strcspn(key, "-");

        STRV_FOREACH (kind, s->kinds)
                if (strlen(*kind) == n && memcmp(*kind, key, n) == 0)
                        return true;
        return false;
}

/*
 * What the volume is, by the kernel's word. A step that was cut short leaves the state in which it was recorded, since
 * the steps that undo it find out for themselves; only its having taken effect is believed.
 */
static VolumeState kernel_state(const Snapshot *s, const VolumeView *v, bool staged)
{
        const StepDevice *d = find_device(s, v->key);

        if (staged)
                return VOLUME_STAGED;
        if (v->step)
                return v->state;
        if (v->device_present || (d && !d->foreign))
                return v->state == VOLUME_DETACHING || v->state == VOLUME_ATTACHING ? v->state : VOLUME_ATTACHED;
        if (v->device != 0 || v->state == VOLUME_STAGED || v->state == VOLUME_ATTACHED)
                return VOLUME_ABSENT;
        return kind_is_known(s, v->key) ? VOLUME_ABSENT : v->state;
}

static const char *state_reason(VolumeState state)
{
        switch (state) {
        case VOLUME_STAGED:
                return "its stage is mounted";
        case VOLUME_ATTACHED:
                return "its device is there, its stage is not mounted";
        default:
                return "neither its stage nor its device is there";
        }
}

static int plan_publishes(const Snapshot *s, const VolumeView *v, bool beyond_use, Plan *p, size_t *ret_kept)
{
        int r = 0;

        for (size_t i = 0; i < v->n_publishes && r >= 0; i++) {
                const char *target = v->publishes[i].target;

                if (!find_mount(s, target, v->device)) {
                        r = plan_add(p, (PlanStep) { .type = PLAN_DROP_PUBLISH, .volume = v->key, .target = target,
                                                     .reason = find_mount(s, target, 0)
                                                                               ? "something else is mounted at the target"
                                                                               : "nothing is mounted at the target" });
                        continue;
                }
                (*ret_kept)++;
                if (beyond_use)
                        r = plan_add(p, (PlanStep) { .type = PLAN_UNPUBLISH, .volume = v->key, .target = target,
                                                     .reason = "its file system or device is beyond use, and the kubelet takes "
                                                               "a target that looks mounted as it is" });
        }
        return r;
}

static int plan_volume(const Snapshot *s, const Index *x, const VolumeView *v, Plan *p)
{
        IndexEntry *e = index_find_device(x, v->device);
        bool staged = e && e->volume == v && e->stage;
        bool beyond_use = staged && (v->health == VOLUME_HEALTH_CORRUPTED || !v->device_present);
        size_t n_kept = 0;
        int r;

        if (v->busy)
                return 0;
        if (v->at_work) {
                p->wait = true;
                return 0;
        }
        r = plan_publishes(s, v, beyond_use, p, &n_kept);
        if (r < 0)
                return r;
        VolumeState state = kernel_state(s, v, staged);
        if (state != v->state || (v->step && staged)) {
                r = plan_add(p, (PlanStep) { .type = PLAN_CORRECT_STATE, .volume = v->key, .state = state,
                                             .reason = state_reason(state) });
                if (r < 0)
                        return r;
        }
        if (n_kept > 0 || v->attached_by_name || v->cleanup_scheduled || (e && e->published))
                return 0;
        return plan_add(p, (PlanStep) { .type = PLAN_CLEANUP, .volume = v->key,
                                        .at_once = beyond_use || v->state == VOLUME_UNSTAGING || v->state == VOLUME_DETACHING,
                                        .reason = v->step ? "a step was cut short and nobody uses it" : "nobody uses it" });
}

/* ---- adoption ---- */

static int plan_adopt_volume(const StepDevice *d, const IndexEntry *e, Plan *p)
{
        int r = plan_add(p, (PlanStep) { .type = PLAN_ADOPT_VOLUME, .volume = d->key, .device = d, .mount = e ? e->stage : NULL,
                                         .reason = e && e->stage ? "its stage is mounted and there is no record of it"
                                                                 : "a device of berth's own without a record" });

        if (r >= 0 && !(e && e->published))
                r = plan_add(p, (PlanStep) { .type = PLAN_CLEANUP, .volume = d->key, .reason = "nobody uses it" });
        return r;
}

static int plan_devices(const Snapshot *s, const Index *x, Plan *p)
{
        int r = 0;

        for (size_t i = 0; i < s->n_devices && r >= 0; i++) {
                const StepDevice *d = &s->devices[i];
                const IndexEntry *e = index_find_device(x, (dev_t) d->device_number);

                if (find_volume(s, d->key))
                        continue;
                if (!d->foreign || (e && e->stage))
                        r = plan_adopt_volume(d, e, p);
        }
        return r;
}

/* The volume whose device a mount at a target shows; NULL if it is none of berth's. */
static IndexEntry *published_entry(const Index *x, const MountView *m)
{
        IndexEntry *e = m->is_target && strcmp(m->root, "/") == 0 ? index_find_device(x, m->device) : NULL;

        return e && e->stage ? e : NULL;
}

/* Mounts at targets that show a volume's device: publishes whose record was lost. */
static int plan_targets(const Snapshot *s, const Index *x, Plan *p)
{
        int r = 0;

        for (size_t i = 0; i < s->n_mounts && r >= 0; i++) {
                const MountView *m = &s->mounts[i];
                const IndexEntry *e = published_entry(x, m);
                bool known = false;

                if (!e || (e->volume && (e->volume->busy || e->volume->at_work)))
                        continue;
                for (size_t k = 0; e->volume && k < e->volume->n_publishes && !known; k++)
                        known = strcmp(e->volume->publishes[k].target, m->target) == 0;
                if (!known)
                        r = plan_add(p, (PlanStep) { .type = PLAN_ADOPT_PUBLISH, .volume = e->key, .target = m->target, .mount = m,
                                                     .reason = "the volume is mounted at the target and there is no record of it" });
        }
        return r;
}

static void index_add(Index *x, const char *key, dev_t device, const VolumeView *v)
{
        if (device != 0)
                x->entries[x->n++] = (IndexEntry) { .key = key, .device = device, .volume = v };
}

static int index_build(const Snapshot *s, Index *ret)
{
        Index x = { .entries = calloc(s->n_volumes + s->n_devices + 1, sizeof(IndexEntry)) };

        if (!x.entries)
                return -ENOMEM;
        for (size_t i = 0; i < s->n_volumes; i++)
                index_add(&x, s->volumes[i].key, s->volumes[i].device, &s->volumes[i]);
        for (size_t i = 0; i < s->n_devices; i++)
                if (!find_volume(s, s->devices[i].key))
                        index_add(&x, s->devices[i].key, (dev_t) s->devices[i].device_number, NULL);
        qsort(x.entries, x.n, sizeof(IndexEntry), compare_entries);

        for (size_t i = 0; i < s->n_mounts; i++) {
                IndexEntry *e = s->mounts[i].stage ? index_find_device(&x, s->mounts[i].device) : NULL;
                if (e && strcmp(e->key, s->mounts[i].stage) == 0)
                        e->stage = &s->mounts[i];
        }
        for (size_t i = 0; i < s->n_mounts; i++) {
                IndexEntry *e = published_entry(&x, &s->mounts[i]);
                if (e)
                        e->published = true;
        }
        *ret = x;
        return 0;
}

/* A stage that belongs to nothing known is reported: by whom and on what it was mounted, nobody can tell. */
static int plan_reports(const Snapshot *s, const Index *x, Plan *p)
{
        int r = 0;

        for (size_t i = 0; i < s->n_mounts && r >= 0; i++) {
                const MountView *m = &s->mounts[i];
                const VolumeView *v = m->stage ? find_volume(s, m->stage) : NULL;

                if (!m->stage || (v && (v->busy || v->at_work || v->step)))
                        continue;
                const IndexEntry *e = index_find_device(x, m->device);
                if (e && e->stage && strcmp(e->key, m->stage) == 0)
                        continue;
                if (!v && !kind_is_known(s, m->stage))
                        continue; /* its mounter may yet know it */
                r = plan_add(p, (PlanStep) { .type = PLAN_REPORT, .volume = m->stage, .target = m->target,
                                             .reason = v ? "its stage shows another device than the one recorded"
                                                         : "a mount below the staging directory that no device of a volume explains" });
        }
        return r;
}

int reconcile_plan(const Snapshot *s, Plan *ret)
{
        _cleanup_plan_ Plan p = {};
        Index x = {};
        int r = index_build(s, &x);

        if (r >= 0)
                r = plan_devices(s, &x, &p);
        if (r >= 0)
                r = plan_targets(s, &x, &p); /* a publish is adopted after its volume */
        for (size_t i = 0; i < s->n_volumes && r >= 0; i++)
                r = plan_volume(s, &x, &s->volumes[i], &p);
        if (r >= 0)
                r = plan_reports(s, &x, &p);
        free(x.entries);
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
