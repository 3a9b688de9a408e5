/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See mounter-pool.h. Runs in berthd and never waits.
 *
 * Invariants: an operation in pool->waiting has no process. Once a start has failed, starts are made one at a time until one
 * succeeds.
 */

#include "daemon/mounter-pool.h"

#include <assert.h>
#include <dirent.h>
#include <signal.h>
#include <string.h>

#include "base/log.h"
#include "daemon/mounter-group.h"
#include "daemon/operation.h"

#define START_USEC (10 * UINT64_C(1000000))
#define START_MORE_USEC (5 * UINT64_C(1000000)) /* after each failure: a busy node takes its time */
#define FAILED_STARTS_MAX 3U
#define STARTS_MIN 2U
#define FAILED_START_PAUSE_USEC UINT64_C(1000000)
#define UNUSED_SHARE 6 /* of the time that idle ones are kept otherwise */
#define APART_USEC UINT64_C(1000000) /* a server that answers does so sooner */

bool pool_kind_is_valid(const char *kind)
{
        size_t n = strlen(kind);

        return n > 0 && n <= 16 && strspn(kind, "abcdefghijklmnopqrstuvwxyz0123456789") == n;
}

static unsigned pool_count(const Pool *pool, MounterState state)
{
        const MounterProcess *p;
        unsigned n = 0;

        TAILQ_FOREACH(p, &pool->mounters, entry)
                n += p->state == state;
        return n;
}

unsigned pools_count_quarantined(const Manager *m)
{
        unsigned n = 0;

        for (const Pool *pool = m->pools; pool; pool = pool->hh.next)
                n += pool_count(pool, MOUNTER_QUARANTINED);
        return n;
}

void pool_refuse_all(Pool *pool, ErrorCode code, const char *why)
{
        Operation *op;

        while ((op = TAILQ_FIRST(&pool->waiting))) {
                _cleanup_error_ Error err = ERROR_INIT;

                TAILQ_REMOVE(&pool->waiting, op, queued);
                op->queue = QUEUE_NONE;
                error_set(&err, code, EAGAIN, "Mounter %s: %s", pool->kind, why);
                operation_refused(op, &err);
        }
}

/* Processes of all states: how much memory a kind may take is bounded, whatever they wait for. */
static bool pool_is_full(const Pool *pool)
{
        const Settings *settings = &pool->manager->settings;
        const MounterProcess *p;
        uint64_t n = 0;

        TAILQ_FOREACH (p, &pool->mounters, entry)
                n++;
        return n >= (uint64_t) settings->mounters_max + settings->mounters_quarantine_max;
}

/* Whether there is one that serves, or may yet. */
static bool pool_is_alive(const Pool *pool)
{
        return pool_count(pool, MOUNTER_IDLE) + pool_count(pool, MOUNTER_BUSY) + pool_count(pool, MOUNTER_STARTING) > 0;
}

static int on_start_pause(sd_event_source *s, uint64_t usec, void *userdata)
{
        Pool *pool = userdata;

        pool->start_pause = sd_event_source_disable_unref(pool->start_pause);
        pool_serve(pool);
        return 0;
}

void pool_start_succeeded(Pool *pool)
{
        pool->n_failed_starts = 0;
        pool->start_pause = sd_event_source_disable_unref(pool->start_pause);
}

static int start_one(Pool *pool)
{
        unsigned n = pool->n_failed_starts < FAILED_STARTS_MAX ? pool->n_failed_starts : FAILED_STARTS_MAX - 1;

        return mounter_start(pool, START_USEC + n * START_MORE_USEC);
}

void pool_start_failed(Pool *pool, uint64_t started_usec, const char *why)
{
        if (started_usec >= pool->start_failed_usec) {
                pool->n_failed_starts++;
                pool->start_failed_usec = now_boottime_usec();
        }
        if (pool->n_failed_starts >= FAILED_STARTS_MAX) {
                if (!pool_is_alive(pool) ||
                    (!pool->start_pause &&
                     sd_event_add_time_relative(pool->manager->event, &pool->start_pause, CLOCK_BOOTTIME,
                                                FAILED_START_PAUSE_USEC, 100000, on_start_pause, pool) < 0))
                        pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, why);
        }
        pool_serve(pool);
}

static void mounter_grant(MounterProcess *p, Operation *op)
{
        assert(p->state == MOUNTER_IDLE && !p->operation);

        mounter_set_state(p, MOUNTER_BUSY);
        p->n_operations++;
        p->operation = op;
        p->pool->used = p->pool->used || op->type != OPERATION_SCAN;
        operation_granted(op, p);
}

static bool pool_is_used(const Pool *pool)
{
        if (pool->used)
                return true;
        for (const Volume *v = pool->manager->volumes; v; v = v->hh.next)
                if (strcmp(v->driver, pool->kind) == 0)
                        return true;
        return false;
}

/* A connection to a storage keeps the secret that it was made with: nobody's for longer than it may be of use. */
static void pool_end_secrets(Pool *pool, uint64_t now)
{
        const Settings *settings = &pool->manager->settings;
        MounterProcess *p;
        unsigned n = 0;

        TAILQ_FOREACH (p, &pool->mounters, entry)
                if (p->state == MOUNTER_IDLE && p->secret_usec != 0 && now - p->secret_usec >= settings->mounters_idle_usec) {
                        mounter_retire(p);
                        n++;
                }
        for (unsigned left = pool_count(pool, MOUNTER_IDLE) + pool_count(pool, MOUNTER_STARTING); n > 0 && left < settings->mounters_warm;
             n--, left++)
                if (pool_is_full(pool) || start_one(pool) < 0)
                        break; /* one is started when it is needed */
}

/* Of a kind that this node does not use none is kept: one is started now and then, to look whether there is something. */
static int on_idle_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Pool *pool = userdata;
        uint64_t now = now_boottime_usec();

        pool_end_secrets(pool, now);
        unsigned n_idle = pool_count(pool, MOUNTER_IDLE);
        bool used = pool_is_used(pool);
        unsigned warm = used ? pool->manager->settings.mounters_warm : 0;
        uint64_t limit = pool->manager->settings.mounters_idle_usec / (used ? 1 : UNUSED_SHARE);

        for (MounterProcess *p = TAILQ_FIRST(&pool->mounters), *next; p; p = next) {
                next = TAILQ_NEXT(p, entry);
                if (n_idle <= warm)
                        break;
                if (p->state != MOUNTER_IDLE || now - p->since_usec < limit)
                        continue;
                mounter_retire(p);
                n_idle--;
        }
        (void) sd_event_source_set_time_relative(s, pool->manager->settings.mounters_idle_usec);
        return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static int pool_new(Manager *m, const char *kind, Pool **ret)
{
        Pool *pool = calloc(1, sizeof(*pool));
        if (!pool)
                return -ENOMEM;

        pool->manager = m;
        TAILQ_INIT(&pool->mounters);
        TAILQ_INIT(&pool->waiting);
        TAILQ_INIT(&pool->groups_idle);
        pool->kind = strdup(kind);
        int r = pool->kind ? sd_event_add_time_relative(m->event, &pool->idle_timer, CLOCK_BOOTTIME,
                                                        m->settings.mounters_idle_usec, 1000000, on_idle_timer,
                                                        pool)
                           : -ENOMEM;
        if (r < 0) {
                free(pool->kind);
                free(pool);
                return r;
        }
        HASH_ADD_KEYPTR(hh, m->pools, pool->kind, strlen(pool->kind), pool);
        *ret = pool;
        return 0;
}

/*
 * How many may be starting. Starting takes much more than most steps do: more at once than there are processors would only take
 * them from those who work, while the line is soon served by the few that there are.
 */
static unsigned starts_max(const Pool *pool)
{
        long n = sysconf(_SC_NPROCESSORS_ONLN);

        if (pool->n_failed_starts > 0)
                return 1;
        return n > STARTS_MIN ? (unsigned) n : STARTS_MIN;
}

/* What the processes of a pool are at. */
typedef struct Load {
        MounterProcess *idle; /* one of them */
        unsigned n_starting;
        unsigned n_taken; /* places of Max= */
        unsigned n_busy;  /* of these, by operations */
        bool apart_is_full;
        uint64_t next_usec; /* CLOCK_BOOTTIME, when the next may be found waiting apart; UINT64_MAX: none */
} Load;

/* Whether it waits apart. */
static bool load_look(Load *load, Pool *pool, const MounterProcess *p, uint64_t now)
{
        const Operation *op = p->operation;
        uint64_t since = op ? group_waits_since(op, pool->kind) : 0;

        if (since == 0)
                return false;
        if (!op->group->silent && now - since < APART_USEC) {
                load->next_usec = since + APART_USEC < load->next_usec ? since + APART_USEC : load->next_usec;
                return false;
        }
        op->group->waited_look = pool->n_looks;
        return true;
}

static Load pool_load(Pool *pool)
{
        unsigned room = pool->manager->settings.mounters_quarantine_max, n_all = 0, n_apart = 0, n_quarantined = 0;
        Load load = { .next_usec = UINT64_MAX };
        uint64_t now = now_boottime_usec();
        MounterProcess *p;

        pool->n_looks++;
        TAILQ_FOREACH (p, &pool->mounters, entry) {
                n_all++;
                if (p->state == MOUNTER_IDLE && !load.idle)
                        load.idle = p;
                load.n_starting += p->state == MOUNTER_STARTING;
                load.n_busy += p->state == MOUNTER_BUSY;
                n_quarantined += p->state == MOUNTER_QUARANTINED;
                n_apart += p->state == MOUNTER_BUSY && load_look(&load, pool, p, now);
        }
        room -= n_quarantined < room ? n_quarantined : room;
        load.apart_is_full = n_apart >= room;
        n_apart = n_apart < room ? n_apart : room;
        load.n_busy -= n_apart;
        load.n_taken = n_all - n_quarantined - n_apart;
        return load;
}

static bool load_passes_over(const Load *load, const Pool *pool, const Operation *op)
{
        return load->apart_is_full && op->group && group_step_waits(pool->kind, op->step) &&
               (op->group->silent || op->group->waited_look == pool->n_looks);
}

bool pool_passes_over(Pool *pool, const Operation *op)
{
        Load load = pool_load(pool);

        return load_passes_over(&load, pool, op);
}

/* The first in the queue that may be served, and how many there are. */
static Operation *queue_first(const Pool *pool, const Load *load, unsigned *ret_n)
{
        Operation *op, *first = NULL;

        *ret_n = 0;
        TAILQ_FOREACH (op, &pool->waiting, queued)
                if (!load_passes_over(load, pool, op)) {
                        first = first ? first : op;
                        (*ret_n)++;
                }
        return first;
}

static bool may_start(const Pool *pool, const Load *load, unsigned n_waiting)
{
        const Settings *settings = &pool->manager->settings;

        return !pool->start_pause && load->n_starting < n_waiting && load->n_starting < starts_max(pool) &&
               load->n_taken < settings->mounters_max && !pool_is_full(pool);
}

static int on_apart_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Pool *pool = userdata;

        pool->apart_timer = sd_event_source_disable_unref(pool->apart_timer);
        pool_serve(pool);
        return 0;
}

/* Somebody stays in the queue: nothing but time tells that one at work has waited for long. */
static void apart_arm(Pool *pool, const Load *load)
{
        if (!pool->apart_timer && load->next_usec != UINT64_MAX)
                (void) sd_event_add_time(pool->manager->event, &pool->apart_timer, CLOCK_BOOTTIME, load->next_usec, 10000,
                                         on_apart_timer, pool);
}

/* Hands idle mounters to those who wait, and starts more up to the cap. */
static void pool_serve_waiting(Pool *pool)
{
        while (!TAILQ_EMPTY(&pool->waiting)) {
                Load load = pool_load(pool);
                unsigned n_waiting;
                Operation *op = queue_first(pool, &load, &n_waiting);

                if (op && load.idle && load.n_busy < pool->manager->settings.mounters_max) {
                        TAILQ_REMOVE(&pool->waiting, op, queued);
                        op->queue = QUEUE_NONE;
                        mounter_grant(load.idle, op);
                        continue;
                }
                if (load.idle || !may_start(pool, &load, n_waiting)) {
                        apart_arm(pool, &load);
                        return;
                }

                int r = start_one(pool);
                if (r < 0) {
                        log_error("Cannot start mounter %s: %s", pool->kind, strerror(-r));
                        if (load.n_taken == 0)
                                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, strerror(-r));
                        return;
                }
        }
}

/*
 * Not from within itself: one who is granted a mounter and fails at once gives it back here. Thousands of them (a full runtime
 * directory) are so many turns of the loop above, not frames of the stack.
 */
void pool_serve(Pool *pool)
{
        if (pool->serving)
                return;
        pool->serving = true;
        pool_serve_waiting(pool);
        pool->serving = false;
}

static int pool_start_warm(Pool *pool)
{
        int r = 0;

        for (unsigned i = 0; r >= 0 && i < pool->manager->settings.mounters_warm && !pool_is_full(pool); i++)
                r = start_one(pool);
        return r;
}

/* Kinds that have no pool yet. */
static void pools_find(Manager *m)
{
        _cleanup_closedir_ DIR *dir = opendir(m->settings.mounter_dir);
        struct dirent *d;

        while (dir && (d = readdir(dir))) {
                static const char prefix[] = "mounter-";
                const char *kind = d->d_name + strlen(prefix);
                Pool *pool;

                if (strncmp(d->d_name, prefix, strlen(prefix)) != 0 || !pool_kind_is_valid(kind))
                        continue;
                HASH_FIND_STR(m->pools, kind, pool);
                if (pool)
                        continue;
                int r = pool_new(m, kind, &pool);
                if (r >= 0)
                        r = pool_start_warm(pool);
                if (r < 0)
                        log_warning("Cannot start mounter %s: %s", kind, strerror(-r));
        }
}

int pools_start(Manager *m)
{
        pools_find(m);
        return 0;
}

void pools_reload(Manager *m)
{
        Pool *pool, *next;

        HASH_ITER (hh, m->pools, pool, next) {
                MounterProcess *p;

                TAILQ_FOREACH (p, &pool->mounters, entry) {
                        p->outdated = true;
                        if (p->state == MOUNTER_IDLE)
                                mounter_retire(p);
                }
                pool_start_succeeded(pool); /* it may be another program now */
                int r = pool_start_warm(pool);
                if (r < 0)
                        log_warning("Cannot start mounter %s: %s", pool->kind, strerror(-r));
                if (sd_event_source_set_time_relative(pool->idle_timer, m->settings.mounters_idle_usec) >= 0)
                        (void) sd_event_source_set_enabled(pool->idle_timer, SD_EVENT_ONESHOT);
                pool_serve(pool); /* there may be room for more now */
        }
        pools_find(m);
}

void pools_free(Manager *m)
{
        Pool *pool, *next;

        HASH_ITER (hh, m->pools, pool, next) {
                MounterProcess *p;

                while ((p = TAILQ_FIRST(&pool->mounters))) {
                        /* one that hangs before it serves would not see the connection closed */
                        if (p->state == MOUNTER_STARTING)
                                (void) sd_event_source_send_child_signal(p->exit_source, SIGTERM, NULL, 0);
                        mounter_free(p);
                }
                groups_free(pool);
                HASH_DELETE(hh, m->pools, pool);
                sd_event_source_disable_unref(pool->idle_timer);
                sd_event_source_disable_unref(pool->start_pause);
                sd_event_source_disable_unref(pool->apart_timer);
                free(pool->kind);
                free(pool);
        }
}

int pool_get(Manager *m, const char *kind, Pool **ret, Error *err)
{
        _cleanup_free_ char *path = NULL;

        HASH_FIND_STR(m->pools, kind, *ret);
        if (*ret)
                return 0;
        if (asprintf(&path, "%s/mounter-%s", m->settings.mounter_dir, kind) < 0)
                return error_oom(err);
        if (!pool_kind_is_valid(kind) || access(path, X_OK) < 0)
                return error_set(err, ERROR_MOUNTER_UNAVAILABLE, ENOENT,
                                 "No mounter for driver '%s' is installed", kind);
        return pool_new(m, kind, ret) < 0 ? error_oom(err) : 0;
}

int pool_acquire(Manager *m, const char *kind, Operation *op, Error *err)
{
        Pool *pool;
        int r = pool_get(m, kind, &pool, err);
        if (r < 0)
                return r;

        if (pool_count(pool, MOUNTER_QUARANTINED) >= m->settings.mounters_quarantine_max)
                return error_set(err, ERROR_STUCK, EAGAIN,
                                 "%u processes of driver %s are blocked inside the kernel",
                                 m->settings.mounters_quarantine_max, kind);

        op->queue = QUEUE_POOL;
        op->queue_pool = pool;
        TAILQ_INSERT_TAIL(&pool->waiting, op, queued);
        pool_serve(pool);
        return 0;
}

void pool_cancel(Operation *op)
{
        if (op->queue != QUEUE_POOL)
                return;
        TAILQ_REMOVE(&op->queue_pool->waiting, op, queued);
        op->queue = QUEUE_NONE;
}

void mounter_release(MounterProcess *p)
{
        Pool *pool = p->pool;

        p->operation = NULL;
        if (p->state != MOUNTER_BUSY)
                return;
        if (p->outdated || p->n_operations >= pool->manager->settings.mounters_operations_max) {
                mounter_retire(p);
        } else {
                mounter_set_state(p, MOUNTER_IDLE);
                /* the most recently used first: the others can grow old and retire */
                TAILQ_REMOVE(&pool->mounters, p, entry);
                TAILQ_INSERT_HEAD(&pool->mounters, p, entry);
        }
        pool_serve(pool);
}
