/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Expand, Stats, Forget, and berthd's own looks at things (Check, Scan): operations that leave a volume where it is.
 * Runs in berthd.
 */

#include <string.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/store.h"

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

static void advance_check(Operation *op)
{
        const Volume *v = volume_find(op->manager, op->key);

        if (v && v->state == VOLUME_STAGED)
                operation_run_step(op, STEP_CHECK);
        else
                operation_finish(op);
}

void operation_conclude_check(Operation *op)
{
        Volume *v = volume_find(op->manager, op->key);

        if (!v || v->state != VOLUME_STAGED)
                return;
        if (!op->done) {
                v->health = VOLUME_HEALTH_UNKNOWN;
                return;
        }
        VolumeHealth health = op->result.healthy     ? VOLUME_HEALTH_OK
                              : op->result.corrupted ? VOLUME_HEALTH_CORRUPTED
                                                     : VOLUME_HEALTH_DEGRADED;
        if (health != v->health && health != VOLUME_HEALTH_OK) {
                const LogField fields[] = { { "VOLUME", v->key }, { NULL, NULL } };
                log_fields(LOG_WARNING, fields, "Volume is not healthy: %s",
                           str_or(op->result.reason, "no reason given"));
        }
        v->health = health;
        free(v->health_reason);
        v->health_reason = health == VOLUME_HEALTH_OK ? NULL : TAKE_PTR(op->result.reason);
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
