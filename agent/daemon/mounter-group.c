/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * How many operations wait for one server at once, and which servers are silent. Runs in berthd.
 *
 * Invariants: n_members counts the operations with op->group set to the group; somebody stands in line only
 * while it is full. A group without either is freed, or, if it is silent, in pool->groups_idle in the order in which
 * they were left: so their number is bounded by that of operations, and IDLE_MAX.
 */

#include "daemon/mounter-group.h"

#include <string.h>

#include "daemon/operation-internal.h"

/* For so long nobody may ask before what was learned of a server counts for nothing: it may well be back. */
#define SILENT_USEC (30 * UINT64_C(1000000))
/* So long somebody stands in line at a silent server: who asks it then finds out within that whether it is back. */
#define PATIENCE_USEC (3 * UINT64_C(1000000))
/* More servers than any node has; a pod may name what it likes. */
#define IDLE_MAX 256U

bool group_step_waits(const char *kind, Step step)
{
        switch (step) {
        case STEP_RESOLVE:
        case STEP_ATTACH:
        case STEP_DETACH:
        case STEP_EXPAND:
        case STEP_FENCE:
                return str_equal(kind, "rbd"); /* of others these look at the node alone */
        case STEP_STAGE:
        case STEP_PUBLISH:
        case STEP_UNSTAGE:
        case STEP_STATS:
        case STEP_CHECK:
                return true;
        default:
                return false;
        }
}

uint64_t group_waits_since(const Operation *op, const char *kind)
{
        return op->group && op->call && group_step_waits(kind, op->step) ? op->heard_usec : 0;
}

static void group_free(MounterGroup *g)
{
        if (g->idle) {
                TAILQ_REMOVE(&g->pool->groups_idle, g, idle_entry);
                g->pool->n_groups_idle--;
        }
        HASH_DELETE(hh, g->pool->groups, g);
        sd_event_source_disable_unref(g->patience);
        free(g->name);
        free(g);
}

/* After an operation has left it. */
static void group_settle(MounterGroup *g)
{
        if (g->n_members > 0 || !TAILQ_EMPTY(&g->waiting))
                return;
        if (!g->silent) {
                group_free(g);
                return;
        }
        g->idle = true;
        g->idle_since_usec = now_boottime_usec();
        TAILQ_INSERT_TAIL(&g->pool->groups_idle, g, idle_entry);
        g->pool->n_groups_idle++;
}

/* Drops what is too old to be believed, and the oldest if there is too much; called for each that is asked for. */
static void groups_forget(Pool *pool)
{
        uint64_t now = now_boottime_usec();
        MounterGroup *g;

        while ((g = TAILQ_FIRST(&pool->groups_idle)) &&
               (pool->n_groups_idle > IDLE_MAX || now - g->idle_since_usec >= SILENT_USEC))
                group_free(g);
}

void groups_free(Pool *pool)
{
        MounterGroup *g, *next;

        HASH_ITER (hh, pool->groups, g, next)
                group_free(g);
}

static MounterGroup *group_get(Pool *pool, const char *name)
{
        MounterGroup *g;

        groups_forget(pool);
        HASH_FIND_STR(pool->groups, name, g);
        if (g && g->idle) {
                TAILQ_REMOVE(&pool->groups_idle, g, idle_entry);
                pool->n_groups_idle--;
                g->idle = false;
        }
        if (g)
                return g;
        g = calloc(1, sizeof(*g));
        if (!g)
                return NULL;
        g->pool = pool;
        g->name = strdup(name);
        if (!g->name) {
                free(g);
                return NULL;
        }
        TAILQ_INIT(&g->waiting);
        HASH_ADD_KEYPTR(hh, pool->groups, g->name, strlen(g->name), g);
        return g;
}

static void refuse(const MounterGroup *g, Error *err)
{
        error_set(err, str_equal(g->pool->kind, "nfs") ? ERROR_SERVER_UNREACHABLE : ERROR_TIMED_OUT, EAGAIN,
                  "%s does not answer, and %u requests wait for it already", g->name, g->n_members);
}

static void refuse_first(MounterGroup *g)
{
        Operation *op = TAILQ_FIRST(&g->waiting);
        _cleanup_error_ Error err = ERROR_INIT;

        TAILQ_REMOVE(&g->waiting, op, queued);
        op->queue = QUEUE_NONE;
        op->queue_group = NULL;
        refuse(g, &err);
        operation_refused(op, &err);
}

static int patience_arm(MounterGroup *g, uint64_t usec);

static int on_patience(sd_event_source *s, uint64_t usec, void *userdata)
{
        MounterGroup *g = userdata;
        uint64_t now = now_boottime_usec();
        const Operation *op;

        g->patience = sd_event_source_disable_unref(g->patience);
        while (g->silent && (op = TAILQ_FIRST(&g->waiting)) && now - op->in_line_usec >= PATIENCE_USEC)
                refuse_first(g);
        op = TAILQ_FIRST(&g->waiting);
        return g->silent && op ? patience_arm(g, op->in_line_usec + PATIENCE_USEC - now) : 0;
}

static int patience_arm(MounterGroup *g, uint64_t usec)
{
        return g->patience ? 0
                           : sd_event_add_time_relative(g->pool->manager->event, &g->patience, CLOCK_BOOTTIME, usec, 100000,
                                                        on_patience, g);
}

int group_join(Operation *op, Pool *pool, const char *name, Error *err)
{
        MounterGroup *g = group_get(pool, name);
        if (!g)
                return error_oom(err);

        if (g->n_members < pool->manager->settings.mounters_max_per_server) {
                op->group = g;
                g->n_members++;
                return 1;
        }
        if (g->silent && patience_arm(g, PATIENCE_USEC) < 0) {
                refuse(g, err);
                return error_errno(err);
        }
        op->queue = QUEUE_GROUP;
        op->queue_group = g;
        op->in_line_usec = now_boottime_usec();
        TAILQ_INSERT_TAIL(&g->waiting, op, queued);
        return 0;
}

void group_cancel(Operation *op)
{
        MounterGroup *g = op->queue_group;

        TAILQ_REMOVE(&g->waiting, op, queued);
        op->queue = QUEUE_NONE;
        op->queue_group = NULL;
        group_settle(g);
}

void group_leave(Operation *op)
{
        MounterGroup *g = op->group;
        Operation *next;

        if (!g)
                return;
        op->group = NULL;
        g->n_members--;
        next = TAILQ_FIRST(&g->waiting);
        if (next) {
                TAILQ_REMOVE(&g->waiting, next, queued);
                next->queue = QUEUE_NONE;
                next->queue_group = NULL;
                next->group = g;
                g->n_members++;
                operation_wake(next);
        }
        group_settle(g);
}

void group_answered(Operation *op)
{
        op->heard_usec = now_boottime_usec();
        if (op->group)
                op->group->silent = false;
}

void group_unanswered(Operation *op)
{
        MounterGroup *g = op->group;

        /* who stands in line at a silent one waits for those who have begun since */
        if (!g || g->silent)
                return;
        g->silent = true;
        while (!TAILQ_EMPTY(&g->waiting))
                refuse_first(g);
}
