/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The two lines that operations stand in: one a name (a target, or a volumeName), one a volume. Runs in berthd.
 *
 * Invariants: a lock has a holder whenever somebody stands in line for it; the next in line is woken from the event loop, never from
 * within the end of the one before.
 */

#include "daemon/operation-internal.h"

#include <assert.h>
#include <string.h>


/* ---- the event loop's next turn ---- */

static int on_defer(sd_event_source *s, void *userdata)
{
        Operation *op = userdata;

        op->defer = sd_event_source_disable_unref(op->defer);
        operation_advance(op);
        return 0;
}

/* Goes on with op from the event loop, so that one operation's end never nests in another's. */
void operation_wake(Operation *op)
{
        if (op->defer)
                return;
        if (sd_event_add_defer(op->manager->event, &op->defer, on_defer, op) < 0)
                operation_advance(op);
}

/* ---- name locks ---- */

NameLock *name_lock_find(Manager *m, const char *name)
{
        NameLock *l;

        HASH_FIND_STR(m->locks, name, l);
        return l;
}

bool operation_is_pending(Manager *m, const char *name)
{
        return name_lock_find(m, name);
}

NameLock *name_lock_get(Manager *m, const char *name)
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

void name_lock_gc(Manager *m, NameLock *l)
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

void name_lock_release(Operation *op)
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
                error_set(&op->error, ERROR_STUCK, EBUSY,
                          "Process %d is blocked in the kernel at step '%s' of volume %s",
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

/* Who was refused has no part in the volume: else a pod that has no right to it would keep it here, by asking again and again. */
static bool was_refused(const Operation *op)
{
        return (op->type == OPERATION_MOUNT || op->type == OPERATION_ATTACH) && error_is_set(&op->error) && !op->attach_begun &&
               !op->stage_begun;
}

static uint64_t cleanup_delay(const Operation *op, Volume *v)
{
        uint64_t now = now_boottime_usec();

        if (error_is_set(&op->postponed) || op->type == OPERATION_CLEANUP || v->unstage_since_usec > 0)
                return 0;
        if (v->linger_until_usec == 0)
                v->linger_until_usec = now + v->manager->settings.linger_usec;
        return v->linger_until_usec > now ? v->linger_until_usec - now : 1;
}

void operation_unlock_volume(Operation *op)
{
        Volume *v = op->volume;

        if (!v)
                return;
        if (!was_refused(op))
                v->linger_until_usec = 0;
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
                volume_schedule_cleanup(v, cleanup_delay(op, v));
        volume_gc(v);
}
