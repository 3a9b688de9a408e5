/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mounter processes: started with posix_spawn(3), spoken to over a socketpair, watched by pidfd. Runs in berthd
 * and never waits: a process that does not answer only keeps its own operation.
 *
 * Invariants: a process in MOUNTER_BUSY, ENDING or QUARANTINED may have an operation, no other has; an operation
 * in pool->waiting has none. Processes outlive berthd (KillMode=process): they finish the step they are at and end
 * when they see the connection closed.
 */

#include "daemon/mounter-pool.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "protocol/bus-util.h"
#include "protocol/names.h"

#define TERM_TO_KILL_USEC (2 * UINT64_C(1000000))
#define KILL_TO_QUARANTINE_USEC (3 * UINT64_C(1000000))
#define START_USEC (10 * UINT64_C(1000000))
#define FAILED_STARTS_MAX 3U
#define MOUNTER_FD 3

static const char *const state_names[_MOUNTER_STATE_MAX] = {
        [MOUNTER_STARTING] = "starting", [MOUNTER_IDLE] = "idle",
        [MOUNTER_BUSY] = "busy",         [MOUNTER_ENDING] = "ending",
        [MOUNTER_QUARANTINED] = "quarantined",
};

const char *mounter_state_to_string(MounterState s)
{
        return s >= 0 && s < _MOUNTER_STATE_MAX ? state_names[s] : "invalid";
}

bool pool_kind_is_valid(const char *kind)
{
        size_t n = strlen(kind);

        return n > 0 && n <= 16 && strspn(kind, "abcdefghijklmnopqrstuvwxyz0123456789") == n;
}

static void mounter_set_state(MounterProcess *p, MounterState state)
{
        p->state = state;
        p->since_usec = now_boottime_usec();
}

static unsigned pool_count(const Pool *pool, MounterState state)
{
        const MounterProcess *p;
        unsigned n = 0;

        TAILQ_FOREACH(p, &pool->mounters, entry)
                n += p->state == state;
        return n;
}

static void mounter_free(MounterProcess *p)
{
        TAILQ_REMOVE(&p->pool->mounters, p, entry);
        sd_event_source_disable_unref(p->exit_source);
        sd_event_source_disable_unref(p->kill_timer);
        sd_bus_slot_unref(p->hello);
        sd_bus_close_unref(p->bus);
        free(p);
}

static void pool_serve(Pool *pool);

static void pool_refuse_all(Pool *pool, ErrorCode code, const char *why)
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

static int on_mounter_exit(sd_event_source *s, const siginfo_t *si, void *userdata)
{
        MounterProcess *p = userdata;
        Pool *pool = p->pool;
        Operation *op = p->operation;
        bool starting = p->state == MOUNTER_STARTING;

        if (si->si_code != CLD_EXITED || si->si_status != 0)
                log_warning("Mounter %s (pid %d) ended by %s %d", pool->kind, p->pid,
                            si->si_code == CLD_EXITED ? "exit status" : "signal", si->si_status);
        mounter_free(p);
        if (op) {
                op->mounter = NULL;
                operation_mounter_died(op);
        }
        if (starting && ++pool->n_failed_starts >= FAILED_STARTS_MAX) {
                pool->n_failed_starts = 0;
                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE,
                                "it ends as soon as it is started; see the journal");
                return 0;
        }
        pool_serve(pool);
        return 0;
}

static int on_kill_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        MounterProcess *p = userdata;

        if (!p->sigkilled) {
                p->sigkilled = true;
                (void) sd_event_source_send_child_signal(p->exit_source, SIGKILL, NULL, 0);
                (void) sd_event_source_set_time_relative(s, KILL_TO_QUARANTINE_USEC);
                return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
        }
        mounter_set_state(p, MOUNTER_QUARANTINED);
        log_warning("Mounter %s (pid %d) cannot be killed: quarantined", p->pool->kind, p->pid);
        if (p->operation)
                operation_mounter_stuck(p->operation);
        pool_serve(p->pool);
        return 0;
}

void mounter_kill(MounterProcess *p)
{
        if (p->state == MOUNTER_ENDING || p->state == MOUNTER_QUARANTINED)
                return;
        mounter_set_state(p, MOUNTER_ENDING);
        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        (void) sd_event_source_send_child_signal(p->exit_source, SIGTERM, NULL, 0);
        if (sd_event_add_time_relative(p->pool->manager->event, &p->kill_timer, CLOCK_BOOTTIME,
                                       TERM_TO_KILL_USEC, 1000, on_kill_timer, p) < 0)
                (void) sd_event_source_send_child_signal(p->exit_source, SIGKILL, NULL, 0);
}

/* The pool has to go on without one that never becomes ready, or such would take up all its places. */
static int on_start_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        MounterProcess *p = userdata;
        Pool *pool = p->pool;

        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        log_warning("Mounter %s (pid %d) does not become ready", pool->kind, p->pid);
        mounter_kill(p);
        if (++pool->n_failed_starts >= FAILED_STARTS_MAX) {
                pool->n_failed_starts = 0;
                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, "it does not become ready; see the journal");
                return 0;
        }
        pool_serve(pool);
        return 0;
}

static int on_hello(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        MounterProcess *p = userdata;
        Pool *pool = p->pool;
        uint32_t version = 0;

        p->hello = sd_bus_slot_unref(p->hello);
        if (p->state != MOUNTER_STARTING)
                return 0; /* it was given up meanwhile */
        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        if (sd_bus_message_is_method_error(reply, NULL) || sd_bus_message_read(reply, "v", "u", &version) < 0 ||
            version != MOUNTER_PROTOCOL_VERSION) {
                log_error("Mounter %s speaks protocol version %u, this berthd %u", pool->kind, version,
                          MOUNTER_PROTOCOL_VERSION);
                mounter_kill(p);
                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, "it is of another version than berthd");
                return 0;
        }
        pool->n_failed_starts = 0;
        mounter_set_state(p, MOUNTER_IDLE);
        pool_serve(pool);
        return 0;
}

/* A long step tells how far it is: for status, and for those who are told that it goes on. */
static int on_progress(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        const MounterProcess *p = userdata;
        uint64_t done, total;

        if (p->operation && sd_bus_message_read(signal, "stt", NULL, &done, &total) >= 0) {
                p->operation->progress_done = done;
                p->operation->progress_total = total;
        }
        return 0;
}

static int spawn_process(Pool *pool, int fd, pid_t *ret_pid)
{
        _cleanup_free_ char *path = NULL;
        _cleanup_strv_ char **argv = NULL, **arguments = NULL;
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        sigset_t none;
        int r;

        if (asprintf(&path, "%s/mounter-%s", pool->manager->settings.mounter_dir, pool->kind) < 0 ||
            strv_append(&argv, path) < 0 || settings_to_arguments(&pool->manager->settings, &arguments) < 0)
                return -ENOMEM;
        STRV_FOREACH (a, arguments)
                if (strv_append(&argv, *a) < 0)
                        return -ENOMEM;

        sigemptyset(&none);
        posix_spawn_file_actions_init(&actions);
        posix_spawnattr_init(&attributes);
        /* a session of its own: a terminal's ^C, or a signal to our group, is not for it */
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
        posix_spawnattr_setsigmask(&attributes, &none);
        /* dup2 onto itself would keep FD_CLOEXEC in old glibc; fd is never 3 here, since 3 is taken before */
        posix_spawn_file_actions_adddup2(&actions, fd, MOUNTER_FD);
        r = -posix_spawn(ret_pid, path, &actions, &attributes, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        posix_spawnattr_destroy(&attributes);
        return r;
}

static int connect_bus(MounterProcess *p, int *fd)
{
        int r = sd_bus_new(&p->bus);

        if (r >= 0)
                r = sd_bus_set_fd(p->bus, *fd, *fd);
        if (r >= 0)
                TAKE_FD(*fd);
        if (r >= 0)
                r = sd_bus_set_trusted(p->bus, true);
        if (r >= 0)
                r = sd_bus_set_close_on_exit(p->bus, 0); /* it would wait for a process that may be stopped */
        if (r >= 0)
                r = sd_bus_start(p->bus);
        if (r >= 0)
                r = sd_bus_attach_event(p->bus, p->pool->manager->event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = sd_bus_match_signal_async(p->bus, NULL, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "Progress",
                                              on_progress, NULL, p);
        if (r >= 0)
                r = sd_bus_call_method_async(p->bus, &p->hello, NULL, MOUNTER_PATH,
                                             "org.freedesktop.DBus.Properties", "Get", on_hello, p, "ss",
                                             MOUNTER_INTERFACE, "ProtocolVersion");
        if (r >= 0)
                r = sd_event_add_time_relative(p->pool->manager->event, &p->kill_timer, CLOCK_BOOTTIME,
                                               START_USEC, 100000, on_start_timer, p);
        return r;
}

static int mounter_start(Pool *pool)
{
        int pair[2] = { -EBADF, -EBADF };
        MounterProcess *p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;

        p->pool = pool;
        mounter_set_state(p, MOUNTER_STARTING);
        TAILQ_INSERT_TAIL(&pool->mounters, p, entry);

        int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ? -errno : 0;
        if (r >= 0)
                r = spawn_process(pool, pair[1], &p->pid);
        pair[1] = close_fd(pair[1]);
        if (r >= 0) {
                r = sd_event_add_child(pool->manager->event, &p->exit_source, p->pid, WEXITED, on_mounter_exit,
                                       p);
                if (r >= 0)
                        r = connect_bus(p, &pair[0]);
                if (r < 0 && p->exit_source) {
                        /* its end will free it; until then it must not be taken for a usable one */
                        close_fd(pair[0]);
                        mounter_kill(p);
                        return r;
                }
        }
        close_fd(pair[0]);
        if (r < 0)
                mounter_free(p);
        return r;
}

static void mounter_grant(MounterProcess *p, Operation *op)
{
        assert(p->state == MOUNTER_IDLE && !p->operation);

        mounter_set_state(p, MOUNTER_BUSY);
        p->n_operations++;
        p->operation = op;
        operation_granted(op, p);
}

static int on_idle_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Pool *pool = userdata;
        uint64_t now = now_boottime_usec();
        unsigned n_idle = pool_count(pool, MOUNTER_IDLE);

        for (MounterProcess *p = TAILQ_FIRST(&pool->mounters), *next; p; p = next) {
                next = TAILQ_NEXT(p, entry);
                if (n_idle <= pool->manager->settings.mounters_warm)
                        break;
                if (p->state != MOUNTER_IDLE || now - p->since_usec < pool->manager->settings.mounters_idle_usec)
                        continue;
                /* it ends when it sees the connection closed */
                p->bus = sd_bus_close_unref(p->bus);
                mounter_set_state(p, MOUNTER_ENDING);
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

/* Hands idle mounters to those who wait, and starts more up to the cap. */
static void pool_serve_waiting(Pool *pool)
{
        Operation *op;

        while ((op = TAILQ_FIRST(&pool->waiting))) {
                MounterProcess *p, *idle = NULL;
                unsigned n_starting = 0, n_active = 0, n_waiting = 0;

                TAILQ_FOREACH(p, &pool->mounters, entry) {
                        if (p->state == MOUNTER_IDLE && !idle)
                                idle = p;
                        n_starting += p->state == MOUNTER_STARTING;
                        n_active += p->state != MOUNTER_QUARANTINED;
                }
                if (idle) {
                        TAILQ_REMOVE(&pool->waiting, op, queued);
                        op->queue = QUEUE_NONE;
                        mounter_grant(idle, op);
                        continue;
                }
                Operation *w;
                TAILQ_FOREACH(w, &pool->waiting, queued)
                        n_waiting++;
                if (n_starting >= n_waiting || n_active >= pool->manager->settings.mounters_max)
                        return;

                int r = mounter_start(pool);
                if (r < 0) {
                        log_error("Cannot start mounter %s: %s", pool->kind, strerror(-r));
                        if (n_active == 0)
                                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, strerror(-r));
                        return;
                }
        }
}

/*
 * Not from within itself: one who is granted a mounter and fails at once gives it back here. Thousands of them (a full runtime
 * directory) are so many turns of the loop above, not frames of the stack.
 */
static void pool_serve(Pool *pool)
{
        if (pool->serving)
                return;
        pool->serving = true;
        pool_serve_waiting(pool);
        pool->serving = false;
}

int pools_start(Manager *m)
{
        _cleanup_closedir_ DIR *dir = opendir(m->settings.mounter_dir);
        struct dirent *d;

        while (dir && (d = readdir(dir))) {
                static const char prefix[] = "mounter-";
                const char *kind = d->d_name + strlen(prefix);
                Pool *pool;

                if (strncmp(d->d_name, prefix, strlen(prefix)) != 0 || !pool_kind_is_valid(kind))
                        continue;
                int r = pool_new(m, kind, &pool);
                for (unsigned i = 0; r >= 0 && i < m->settings.mounters_warm; i++)
                        r = mounter_start(pool);
                if (r < 0)
                        log_warning("Cannot start mounter %s: %s", kind, strerror(-r));
        }
        return 0;
}

void pools_free(Manager *m)
{
        Pool *pool, *next;

        HASH_ITER (hh, m->pools, pool, next) {
                MounterProcess *p;

                while ((p = TAILQ_FIRST(&pool->mounters)))
                        mounter_free(p);
                HASH_DELETE(hh, m->pools, pool);
                sd_event_source_disable_unref(pool->idle_timer);
                free(pool->kind);
                free(pool);
        }
}

int pool_acquire(Manager *m, const char *kind, Operation *op, Error *err)
{
        Pool *pool;
        int r;

        HASH_FIND_STR(m->pools, kind, pool);
        if (!pool) {
                _cleanup_free_ char *path = NULL;

                if (asprintf(&path, "%s/mounter-%s", m->settings.mounter_dir, kind) < 0)
                        return error_oom(err);
                if (!pool_kind_is_valid(kind) || access(path, X_OK) < 0)
                        return error_set(err, ERROR_MOUNTER_UNAVAILABLE, ENOENT,
                                         "No mounter for driver '%s' is installed", kind);
                r = pool_new(m, kind, &pool);
                if (r < 0)
                        return error_oom(err);
        }
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
        if (p->n_operations >= pool->manager->settings.mounters_operations_max) {
                p->bus = sd_bus_close_unref(p->bus);
                mounter_set_state(p, MOUNTER_ENDING);
        } else {
                mounter_set_state(p, MOUNTER_IDLE);
                /* the most recently used first: the others can grow old and retire */
                TAILQ_REMOVE(&pool->mounters, p, entry);
                TAILQ_INSERT_HEAD(&pool->mounters, p, entry);
        }
        pool_serve(pool);
}
