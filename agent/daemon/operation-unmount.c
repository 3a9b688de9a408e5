/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Unmount, Detach, and giving back what nobody uses. Unmount is answered when the target is free; unstage and detach are tried
 * at once, and where something still holds them the cleanup goes on in the background until they are done. Runs in berthd.
 */

#include <string.h>

#include "base/log.h"
#include "daemon/operation-internal.h"
#include "daemon/store.h"

/* A container is killed up to some seconds after its volumes are unmounted: begin eagerly, then slow down. */
#define CLEANUP_DELAY_MIN_USEC UINT64_C(50000)
#define CLEANUP_DELAY_MAX_USEC UINT64_C(2000000)
/* How long an unmount waits for the end of a stage whose server may be dead. */
#define TARGET_FREE_USEC UINT64_C(2000000)

void operation_release_volume(Operation *op)
{
        Volume *v = op->volume;

        if (!TAILQ_EMPTY(&v->publishes)) {
                operation_finish(op);
                return;
        }
        switch (v->state) {
        case VOLUME_STAGING:
        case VOLUME_STAGED:
        case VOLUME_UNSTAGING:
                op->releasing = volume_is_unused(v); /* what a name holds attached stays so */
                operation_run_step(op, STEP_UNSTAGE);
                return;
        case VOLUME_ATTACHING:
        case VOLUME_ATTACHED:
        case VOLUME_DETACHING:
                if (volume_is_unused(v))
                        operation_run_step(op, STEP_DETACH);
                else
                        operation_finish(op);
                return;
        case VOLUME_ABSENT:
        case _VOLUME_STATE_MAX:
        case _VOLUME_STATE_INVALID:
                break;
        }
        operation_finish(op);
}

void operation_advance_unmount(Operation *op)
{
        if (op->type == OPERATION_DETACH && !op->done) {
                Volume *v = volume_find_by_attachment(op->manager, op->volume_name);

                if (!op->volume && v) {
                        operation_lock_volume(op, v);
                        return;
                }
                if (op->volume)
                        strv_remove(op->volume->attachments, op->volume_name);
                op->done = true;
        }
        if (!op->done) {
                const Publish *p = publish_find(op->manager, op->target);

                if (p && !op->volume) {
                        operation_lock_volume(op, p->volume);
                        return;
                }
                /* without a record too: whatever is mounted there has to go before the kubelet can go on */
                operation_run_step(op, STEP_UNPUBLISH);
                return;
        }
        /* what is left of a share waits for a server, which nobody has to wait for who wanted the target free; an image is written when it is answered */
        if (op->volume && op->volume->group && op->volume->shared && op->step == STEP_UNPUBLISH && TAILQ_EMPTY(&op->volume->publishes))
                operation_answer_by(op, TARGET_FREE_USEC);
        if (op->volume)
                operation_release_volume(op);
        else
                operation_finish(op);
}

void operation_advance_cleanup(Operation *op)
{
        Volume *v = op->volume;

        if (!v) {
                v = volume_find(op->manager, op->key);
                if (v)
                        operation_lock_volume(op, v);
                else
                        operation_finish(op);
                return;
        }
        operation_release_volume(op);
}

int operation_begin_unmount(Manager *m, const char *target)
{
        return operation_begin_at(m, OPERATION_UNMOUNT, target);
}

int operation_begin_detach(Manager *m, const char *volume_name)
{
        _cleanup_free_ char *name = NULL;
        Operation *op;

        if (asprintf(&name, "name:%s", volume_name) < 0)
                return -ENOMEM;
        if (operation_is_pending(m, name))
                return 0;
        if (operation_new(m, OPERATION_DETACH, &op) < 0)
                return -ENOMEM;
        op->name = TAKE_PTR(name);
        if (str_replace(&op->volume_name, volume_name) < 0) {
                operation_free(op);
                return -ENOMEM;
        }
        operation_submit(op, NULL);
        return 0;
}

static int on_cleanup_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Volume *v = userdata;
        Operation *op;

        v->cleanup_timer = sd_event_source_disable_unref(v->cleanup_timer);
        if (!volume_is_unused(v) || v->holder)
                return 0; /* whoever holds it schedules again when it is left unused */
        if (operation_new(v->manager, OPERATION_CLEANUP, &op) < 0 || !(op->key = strdup(v->key))) {
                log_error("Out of memory: cleaning up volume %s is put off", v->key);
                volume_schedule_cleanup(v, CLEANUP_DELAY_MAX_USEC);
                return 0;
        }
        operation_submit(op, NULL);
        return 0;
}

void volume_schedule_cleanup(Volume *v, uint64_t delay_usec)
{
        if (delay_usec == 0) {
                /* tried already, and something held it */
                delay_usec = v->cleanup_delay_usec ? v->cleanup_delay_usec : CLEANUP_DELAY_MIN_USEC;
                v->cleanup_delay_usec = delay_usec * 2 > CLEANUP_DELAY_MAX_USEC ? CLEANUP_DELAY_MAX_USEC
                                                                                : delay_usec * 2;
        }
        v->cleanup_timer = sd_event_source_disable_unref(v->cleanup_timer);
        if (sd_event_add_time_relative(v->manager->event, &v->cleanup_timer, CLOCK_BOOTTIME, delay_usec, 1000,
                                       on_cleanup_timer, v) < 0)
                log_error("Out of memory: volume %s is not cleaned up until it is next used", v->key);
}
