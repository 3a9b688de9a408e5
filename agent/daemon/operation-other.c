/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Expand, Stats, Forget, and berthd's own looks at things (Check, Scan): operations that leave a volume where it is.
 * Runs in berthd.
 */

#include <string.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/reconcile/watch.h"
#include "daemon/store.h"
#include "protocol/messages.h"

#define FAIL(op, ...)                                                                                        \
        do {                                                                                                 \
                error_set(&(op)->error, __VA_ARGS__);                                                        \
                operation_finish(op);                                                                        \
        } while (0)

static void advance_expand(Operation *op)
{
        const Publish *p = publish_find(op->manager, op->target);

        if (!p) {
                FAIL(op, ERROR_NOT_FOUND, ENOENT, "No volume of berth is mounted at %s", op->target);
                return;
        }
        if (!op->volume)
                operation_lock_volume(op, p->volume);
        else if (op->volume->stage_read_only)
                FAIL(op, ERROR_READ_ONLY_STAGE, EROFS, "Volume %s is mounted read-only and cannot grow",
                     op->volume->key);
        else
                operation_run_step(op, STEP_EXPAND);
}

/*
 * Stats look, and hold no lock: a volume whose lock is held for long (mkfs, a dead server) can still be asked.
 */
static void advance_stats(Operation *op)
{
        const Publish *p = publish_find(op->manager, op->target);

        if (!p)
                FAIL(op, ERROR_NOT_FOUND, ENOENT, "No volume of berth is mounted at %s", op->target);
        else
                operation_run_step(op, STEP_STATS);
}

static void advance_forget(Operation *op)
{
        Volume *v = op->volume ? op->volume : volume_find(op->manager, op->volume_name);

        if (!v && op->formatted) {
                /* the lasting memory outlives what berthd knows of the volume */
                operation_run_step(op, STEP_FORGET);
                return;
        }
        if (!v) {
                FAIL(op, ERROR_NOT_FOUND, ENOENT, "No volume '%s' is known", op->volume_name);
                return;
        }
        if (!op->volume) {
                operation_lock_volume(op, v);
                return;
        }
        if (!volume_is_unused(v) || v->state != VOLUME_ABSENT) {
                FAIL(op, ERROR_BUSY, EBUSY, "Volume %s is %s", v->key,
                     volume_is_unused(v) ? volume_state_to_string(v->state) : "in use");
                return;
        }
        if (op->formatted)
                operation_run_step(op, STEP_FORGET);
        else
                operation_finish(op);
}

/* Whoever has it in hand is giving it back, or stuck: taking the device away is what helps them. */
static bool holder_gives_way(const Volume *v)
{
        const Operation *h = v->holder;

        return h->step == STEP_UNSTAGE || h->step == STEP_DETACH || (h->mounter && h->mounter->state == MOUNTER_QUARANTINED);
}

static void advance_force_detach(Operation *op)
{
        Volume *v = op->volume ? op->volume : volume_find(op->manager, op->key);

        if (!v)
                FAIL(op, ERROR_NOT_FOUND, ENOENT, "Volume %s is gone", op->key);
        else if (!TAILQ_EMPTY(&v->publishes))
                FAIL(op, ERROR_BUSY, EBUSY, "Volume %s is mounted at %s; unmount that first: berthctl unmount TARGET", v->key,
                     TAILQ_FIRST(&v->publishes)->target);
        else if (!volume_is_unused(v))
                FAIL(op, ERROR_BUSY, EBUSY, "Volume %s is attached by name: berthctl detach %s", v->key, v->attachments[0]);
        else if (!op->volume && !v->holder)
                operation_lock_volume(op, v);
        else if (op->volume || holder_gives_way(v))
                operation_run_step(op, STEP_FORCE_DETACH);
        else
                FAIL(op, ERROR_BUSY, EBUSY, "%s of volume %s is at work at step '%s'", operation_type_to_string(v->holder->type), v->key,
                     step_to_string(v->holder->step));
}

int operation_still_meant(const Operation *op, Error *err)
{
        const Volume *v = operation_subject(op);

        switch (op->type) {
        case OPERATION_STATS:
                return v ? 1
                         : error_set(err, ERROR_NOT_FOUND, ENOENT, "No volume of berth is mounted at %s any more",
                                     str_or(op->target, ""));
        case OPERATION_CHECK:
                return v != NULL;
        case OPERATION_FORCE_DETACH:
                if (!v || op->volume || (v->holder && holder_gives_way(v)))
                        return v != NULL;
                return error_set(err, ERROR_BUSY, EBUSY,
                                 "Volume %s was given back, and may be in use again; look at it before asking again", v->key);
        default:
                return 1;
        }
}

static void advance_check(Operation *op)
{
        const Volume *v = volume_find(op->manager, op->key);

        if (v && v->state == VOLUME_STAGED)
                operation_run_step(op, STEP_CHECK);
        else
                operation_finish(op);
}

static void conclude_check(Operation *op)
{
        Volume *v = volume_find(op->manager, op->key);
        Publish *p;

        if (!v || v->state != VOLUME_STAGED)
                return;
        /* of one that was taken away and is not replaced yet a Check sees nothing, or fails: that changes nothing about it */
        TAILQ_FOREACH(p, &v->publishes, of_volume) {
                p->stale = op->done && strv_contains(op->result.stale_targets, p->target);
                if (p->stale && !v->holder)
                        p->replacing = false; /* it is still there */
        }
        if (!op->done) {
                v->health = VOLUME_HEALTH_UNKNOWN;
                (void) str_replace(&v->health_reason, op->error.text);
                return;
        }
        VolumeHealth health = op->result.healthy     ? VOLUME_HEALTH_OK
                              : op->result.corrupted ? VOLUME_HEALTH_CORRUPTED
                                                     : VOLUME_HEALTH_DEGRADED;
        if (health != v->health && health != VOLUME_HEALTH_OK) {
                const LogField fields[] = {
                        { "MESSAGE_ID", event_message_id(EVENT_VOLUME_UNHEALTHY) },
                        { "VOLUME", v->key },
                        { NULL, NULL },
                };
                log_fields(LOG_WARNING, fields, "Volume is not healthy: %s",
                           str_or(op->result.reason, "no reason given"));
        }
        v->health = health;
        free(v->health_reason);
        v->health_reason = health == VOLUME_HEALTH_OK ? NULL : TAKE_PTR(op->result.reason);
}

void operation_conclude_look(Operation *op)
{
        Manager *m = op->manager;

        if (op->type == OPERATION_CHECK) {
                if (!op->given_up)
                        conclude_check(op);
                watch_check_done(m, op->key, op->given_up ? CHECK_GIVEN_UP_ENDED : CHECK_ENDED);
        }
        if (op->type == OPERATION_SCAN && op->given_up)
                reconcile_scan_ended(m, op->params.driver);
        else if (op->type == OPERATION_SCAN)
                reconcile_scanned(m, op->params.driver, op->done ? &op->result : NULL);
}

void operation_give_up_look(Operation *op)
{
        if (op->given_up || (op->type != OPERATION_CHECK && op->type != OPERATION_SCAN))
                return;
        op->given_up = true;
        if (op->type == OPERATION_SCAN) {
                reconcile_scan_given_up(op->manager, op->params.driver);
                return;
        }
        conclude_check(op);
        watch_check_done(op->manager, op->key, CHECK_GIVEN_UP);
}

void operation_advance_other(Operation *op)
{
        if (op->done) {
                operation_finish(op);
                return;
        }
        switch (op->type) {
        case OPERATION_EXPAND:
                advance_expand(op);
                return;
        case OPERATION_STATS:
                advance_stats(op);
                return;
        case OPERATION_FORGET:
                advance_forget(op);
                return;
        case OPERATION_FENCE:
                operation_run_step(op, STEP_FENCE);
                return;
        case OPERATION_FORCE_DETACH:
                advance_force_detach(op);
                return;
        case OPERATION_CHECK:
                advance_check(op);
                return;
        case OPERATION_SCAN:
                operation_run_step(op, STEP_SCAN);
                return;
        default:
                operation_finish(op);
        }
}
