/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What a step means for its volume: the record before it, the state after it, the state after its failure. The only
 * place that moves a volume along its state machine. Runs in berthd; writes records, touches nothing else.
 */

#include <string.h>

#include "base/log.h"
#include "base/fault.h"
#include "daemon/mounter-group.h"
#include "daemon/operation.h"
#include "daemon/store.h"

int operation_record_step(Operation *op, Step step)
{
        Volume *v = op->volume;
        const VolumeState state = v->state;
        const char *before = v->step;
        Publish *p;

        switch (step) {
        case STEP_ATTACH:
                volume_set_state(v, VOLUME_ATTACHING);
                break;
        case STEP_STAGE:
        case STEP_FORMAT:
        case STEP_FSCK:
                volume_set_state(v, VOLUME_STAGING);
                break;
        case STEP_UNSTAGE:
        case STEP_FORCE_DETACH: /* if it fails, everything is still to be given back */
                volume_set_state(v, VOLUME_UNSTAGING);
                break;
        case STEP_DETACH:
                volume_set_state(v, VOLUME_DETACHING);
                break;
        case STEP_PUBLISH:
                p = publish_find(op->manager, op->target);
                if (p && p->stale)
                        p->replacing = true;
                break;
        case STEP_UNPUBLISH:
                p = publish_find(op->manager, op->target);
                if (p)
                        p->stale = p->replacing = false; /* its pod goes: whatever is cut short, it is not mounted anew */
                break;
        case STEP_EXPAND:
                break;
        case STEP_NONE:
        case STEP_RESOLVE:
        case STEP_CREATE:
        case STEP_STATS:
        case STEP_CHECK:
        case STEP_FORGET:
        case STEP_SCAN:
        case STEP_FENCE:
        case _STEP_MAX:
        case _STEP_INVALID:
                return 0; /* no effect on the node that a crash could leave behind */
        }
        v->step = step_to_string(step);
        int r = store_write(v);
        FAULT_POINT("agent.step-recorded");
        if (r < 0 && (step == STEP_UNPUBLISH || step == STEP_UNSTAGE || step == STEP_DETACH)) {
                /* what is taken away is found missing by reconcile, record or not: a full disk keeps no pod from ending */
                log_debug("Step %s of volume %s is not recorded: %s", v->step, v->key, strerror(-r));
                return 0;
        }
        if (r < 0) {
                volume_set_state(v, state);
                v->step = before;
        }
        return r;
}

static void take_device(Volume *v, StepResult *r)
{
        free(v->device);
        v->device = TAKE_PTR(r->device);
        v->device_number = (dev_t) r->device_number;
        v->foreign = r->foreign;
}

/* The stage was unmounted behind our back: nothing was published, and the volume is staged anew. */
static void apply_unpublished(Operation *op, Volume *v, Publish *p)
{
        if (p && op->publish_begun)
                publish_free(p);
        op->publish_begun = false;
        volume_set_state(v, VOLUME_UNSTAGING);
}

static void apply_staged(Operation *op, Volume *v, StepResult *r)
{
        if (r->device)
                take_device(v, r);
        if (r->next)
                return; /* format or fsck first: advance looks at it */
        if (r->fs_type) {
                free(v->fs_type);
                v->fs_type = TAKE_PTR(r->fs_type);
        }
        if (r->uuid) {
                free(v->uuid);
                v->uuid = TAKE_PTR(r->uuid);
        }
        v->stage_mount_id = r->mount_id;
        v->health = VOLUME_HEALTH_UNKNOWN; /* of this mount nothing is known yet */
        free(TAKE_PTR(v->health_reason));
        v->unstage_since_usec = 0;
        volume_set_state(v, VOLUME_STAGED);
}

/* What was stale there is not any more. */
static void apply_published(Volume *v, Publish *p, const StepResult *r)
{
        const Publish *other;

        p->mount_id = r->mount_id;
        v->unstage_since_usec = 0; /* it is in use again, and its storage answers */
        p->replacing = false;
        if (!p->stale)
                return;
        p->stale = false;
        TAILQ_FOREACH(other, &v->publishes, of_volume)
                if (other->stale)
                        return;
        v->health = VOLUME_HEALTH_UNKNOWN; /* that was what ailed it */
        free(TAKE_PTR(v->health_reason));
}

static void keep_usage(Operation *op)
{
        Volume *v = operation_subject(op);

        if (!v || !op->result.healthy)
                return;
        v->usage = op->result.usage;
        v->usage_usec = now_boottime_usec();
}

void operation_apply_result(Operation *op, Step step)
{
        StepResult *r = &op->result;
        Volume *v = op->volume;
        Publish *p;

        switch (step) {
        case STEP_RESOLVE:
                group_leave(op); /* now its own group is known */
                free(op->key);
                free(op->identity);
                op->key = TAKE_PTR(r->key);
                op->identity = TAKE_PTR(r->identity);
                free(op->group_name);
                op->group_name = TAKE_PTR(r->group);
                op->shared = r->shared;
                op->unproven = r->unproven && !v;
                op->resolved = true;
                break;
        case STEP_CREATE:
                op->created = true;
                op->resolved = false;
                break;
        case STEP_ATTACH:
                take_device(v, r);
                volume_set_state(v, VOLUME_ATTACHED);
                break;
        case STEP_STAGE:
                apply_staged(op, v, r);
                break;
        case STEP_FORMAT:
        case STEP_FSCK:
                op->prepared = true;
                break;
        case STEP_PUBLISH:
                p = publish_find(op->manager, op->target);
                if (r->next && op->type != OPERATION_REPUBLISH) {
                        apply_unpublished(op, v, p);
                        break;
                }
                if (p && !r->next) /* else it is not only the target: the next Check sees it */
                        apply_published(v, p, r);
                op->done = true;
                break;
        case STEP_UNPUBLISH:
                p = publish_find(op->manager, op->target);
                if (p)
                        publish_free(p);
                op->done = true;
                break;
        case STEP_UNSTAGE:
                v->stage_mount_id = 0;
                if (r->gone)
                        v->cleanup_delay_usec = 0;
                volume_set_state(v, r->gone ? VOLUME_ABSENT : op->releasing ? VOLUME_DETACHING : VOLUME_ATTACHED);
                break;
        case STEP_DETACH:
                volume_set_state(v, VOLUME_ABSENT);
                v->cleanup_delay_usec = 0;
                break;
        case STEP_STATS:
                keep_usage(op);
                op->done = true;
                break;
        case STEP_EXPAND:
        case STEP_CHECK:
        case STEP_FORGET:
        case STEP_SCAN:
        case STEP_FENCE:
                op->done = true;
                break;
        case STEP_FORCE_DETACH:
                op->done = true;
                if (!v)
                        break; /* whoever has the volume in hand goes on with it */
                v->stage_mount_id = 0;
                v->cleanup_delay_usec = 0;
                volume_set_state(v, VOLUME_ABSENT);
                break;
        case STEP_NONE:
        case _STEP_MAX:
        case _STEP_INVALID:
                break;
        }
}

void operation_step_failed(Operation *op, Step step, ErrorCode code)
{
        Publish *p;

        if (step == STEP_UNSTAGE && (op->volume->unstage_since_usec == 0 || code == ERROR_BUSY)) /* busy: its storage is not silent */
                op->volume->unstage_since_usec = now_boottime_usec();
        /* The recorded device is not the volume's (any more): the next attach looks for the right one. */
        if (code == ERROR_DEVICE_CHANGED && (step == STEP_STAGE || step == STEP_FORMAT))
                volume_set_state(op->volume, VOLUME_ATTACHING);

        /*
         * A failed attach, stage, unstage or detach leaves its state (attaching, …): what is really there is not
         * known, and the steps that undo it are idempotent. A failed publish has been undone by the mounter, unless
         * the mounter itself was lost; then operation_undo() unpublishes first.
         */
        p = step == STEP_PUBLISH ? publish_find(op->manager, op->target) : NULL;
        if (p && code != ERROR_MOUNTER_DIED && code != ERROR_TIMED_OUT)
                p->stale = false; /* not tried again before it is looked at again */
        if (p && code == ERROR_TARGET_MISSING)
                p->replacing = false; /* there is nothing left to mount it on */
        if (step != STEP_PUBLISH || !op->publish_begun || code == ERROR_MOUNTER_DIED || code == ERROR_TIMED_OUT)
                return;
        if (p)
                publish_free(p);
        op->publish_begun = false;
}
