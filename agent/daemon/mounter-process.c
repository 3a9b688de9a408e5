/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See mounter-process.h. Processes are started with posix_spawn(3), spoken to over a socketpair, watched by pidfd. Runs in berthd
 * and never waits: a process that does not answer only keeps its own operation.
 *
 * Invariants: a process in MOUNTER_BUSY, ENDING or QUARANTINED may have an operation, no other has. Processes outlive berthd
 * (KillMode=process): they finish the step they are at and end when they see the connection closed.
 */

#include "daemon/mounter-process.h"

#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/mounter-group.h"
#include "daemon/mounter-pool.h"
#include "daemon/operation.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"
#include "protocol/names.h"

#define RETIRE_TO_TERM_USEC (10 * UINT64_C(1000000)) /* to let go of what it has, on a busy node */
#define TERM_TO_KILL_USEC (2 * UINT64_C(1000000))
#define KILL_TO_QUARANTINE_USEC (3 * UINT64_C(1000000))
#define MOUNTER_FD 3
/* Before its exit: what it said last counts, or a step would be repeated though it is done, or has waited for a server in vain. */
#define BUS_PRIORITY (SD_EVENT_PRIORITY_NORMAL - 1)

static const char *const state_names[_MOUNTER_STATE_MAX] = {
        [MOUNTER_STARTING] = "starting", [MOUNTER_IDLE] = "idle",
        [MOUNTER_BUSY] = "busy",         [MOUNTER_ENDING] = "ending",
        [MOUNTER_QUARANTINED] = "quarantined",
};

const char *mounter_state_to_string(MounterState s)
{
        return s >= 0 && s < _MOUNTER_STATE_MAX ? state_names[s] : "invalid";
}

void mounter_set_state(MounterProcess *p, MounterState state)
{
        p->state = state;
        p->since_usec = now_boottime_usec();
}

void mounter_free(MounterProcess *p)
{
        TAILQ_REMOVE(&p->pool->mounters, p, entry);
        sd_event_source_disable_unref(p->exit_source);
        sd_event_source_disable_unref(p->kill_timer);
        sd_bus_slot_unref(p->hello);
        sd_bus_close_unref(p->bus);
        free(p->version);
        free(p);
}

static int on_mounter_exit(sd_event_source *s, const siginfo_t *si, void *userdata)
{
        MounterProcess *p = userdata;
        Pool *pool = p->pool;
        Operation *op = p->operation;
        bool starting = p->state == MOUNTER_STARTING;
        uint64_t since_usec = p->since_usec;

        if (si->si_code != CLD_EXITED || si->si_status != 0)
                log_event(LOG_WARNING, EVENT_MOUNTER_DIED, "Mounter %s (pid %d) ended by %s %d", pool->kind, p->pid,
                          si->si_code == CLD_EXITED ? "exit status" : "signal", si->si_status);
        mounter_free(p);
        if (op) {
                op->mounter = NULL;
                operation_mounter_died(op);
        }
        if (starting)
                pool_start_failed(pool, since_usec, "it ends as soon as it is started; see the journal");
        else
                pool_serve(pool);
        return 0;
}

static void log_quarantine(const MounterProcess *p)
{
        const Operation *op = p->operation;
        const LogField fields[] = {
                { "MESSAGE_ID", event_message_id(EVENT_MOUNTER_QUARANTINED) },
                { "VOLUME", op ? op->volume ? op->volume->key : op->key : NULL },
                { "TARGET", op ? op->target : NULL },
                { "STEP", op ? step_to_string(op->step) : NULL },
                { NULL, NULL },
        };

        log_fields(LOG_WARNING, fields, "Mounter %s (pid %d) cannot be killed: quarantined", p->pool->kind, p->pid);
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
        log_quarantine(p);
        if (p->operation)
                operation_mounter_stuck(p->operation);
        pool_serve(p->pool);
        return 0;
}

static void signal_end(MounterProcess *p)
{
        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        (void) sd_event_source_send_child_signal(p->exit_source, SIGTERM, NULL, 0);
        if (sd_event_add_time_relative(p->pool->manager->event, &p->kill_timer, CLOCK_BOOTTIME,
                                       TERM_TO_KILL_USEC, 1000, on_kill_timer, p) < 0)
                (void) sd_event_source_send_child_signal(p->exit_source, SIGKILL, NULL, 0);
}

void mounter_kill(MounterProcess *p)
{
        if (p->state == MOUNTER_ENDING || p->state == MOUNTER_QUARANTINED)
                return;
        mounter_set_state(p, MOUNTER_ENDING);
        signal_end(p);
}

/* The pool has to go on without one that never becomes ready, or such would take up all its places. */
static int on_start_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        MounterProcess *p = userdata;
        uint64_t since_usec = p->since_usec;

        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        log_warning("Mounter %s (pid %d) does not become ready", p->pool->kind, p->pid);
        mounter_kill(p);
        pool_start_failed(p->pool, since_usec, "it does not become ready; see the journal");
        return 0;
}

static int on_retire_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        MounterProcess *p = userdata;

        log_warning("Mounter %s (pid %d) does not end, though it has nothing to do", p->pool->kind, p->pid);
        signal_end(p);
        return 0;
}

/* It keeps its place in the pool until it has ended. */
void mounter_retire(MounterProcess *p)
{
        p->bus = sd_bus_close_unref(p->bus);
        mounter_set_state(p, MOUNTER_ENDING);
        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        if (sd_event_add_time_relative(p->pool->manager->event, &p->kill_timer, CLOCK_BOOTTIME, RETIRE_TO_TERM_USEC, 1000000,
                                       on_retire_timer, p) < 0)
                signal_end(p);
}

typedef struct Hello {
        uint32_t protocol;
        char *version;
} Hello;

static int hello_set(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        Hello *h = userdata;
        const char *s;

        if (strcmp(key, "ProtocolVersion") == 0)
                return strcmp(type, "u") == 0 ? sd_bus_message_read_basic(m, 'u', &h->protocol) : -EBADMSG;
        if (strcmp(key, "Version") != 0)
                return 0;
        int r = strcmp(type, "s") == 0 ? sd_bus_message_read_basic(m, 's', &s) : -EBADMSG;
        return r < 0 ? r : str_replace(&h->version, s);
}

static int on_hello(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        MounterProcess *p = userdata;
        Pool *pool = p->pool;
        Hello hello = {};

        p->hello = sd_bus_slot_unref(p->hello);
        if (p->state != MOUNTER_STARTING)
                return 0; /* it was given up meanwhile */
        /* killed before it could tell: its end, or the timer, sees to it; its version is not known to be another */
        if (sd_bus_error_has_names(sd_bus_message_get_error(reply), SD_BUS_ERROR_NO_REPLY, SD_BUS_ERROR_DISCONNECTED))
                return 0;
        p->kill_timer = sd_event_source_disable_unref(p->kill_timer);
        bool understood = !sd_bus_message_is_method_error(reply, NULL) && bus_read_dict(reply, hello_set, &hello) >= 0;
        free(p->version);
        p->version = hello.version;
        if (!understood || hello.protocol != MOUNTER_PROTOCOL_VERSION) {
                log_event(LOG_ERR, EVENT_MOUNTER_VERSION, "Mounter %s speaks protocol version %u, this berthd %u",
                          pool->kind, hello.protocol, MOUNTER_PROTOCOL_VERSION);
                mounter_kill(p);
                pool_refuse_all(pool, ERROR_MOUNTER_UNAVAILABLE, "it is of another version than berthd");
                return 0;
        }
        pool_start_succeeded(pool);
        if (p->outdated)
                mounter_retire(p);
        else
                mounter_set_state(p, MOUNTER_IDLE);
        pool_serve(pool);
        return 0;
}

/* A long step tells how far it is: for status, for those who are told that it goes on, and for those who wait for the same server. */
static int on_progress(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        const MounterProcess *p = userdata;
        uint64_t done, total;

        if (p->operation && sd_bus_message_read(signal, "stt", NULL, &done, &total) >= 0) {
                p->operation->progress_done = done;
                p->operation->progress_total = total;
                group_answered(p->operation);
        }
        return 0;
}

/* A thread of it waits for storage: it ends when it has answered, and is not to be given more. */
static int on_ending(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        MounterProcess *p = userdata;

        p->outdated = true;
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
                r = sd_bus_attach_event(p->bus, p->pool->manager->event, BUS_PRIORITY);
        if (r >= 0)
                r = sd_bus_match_signal_async(p->bus, NULL, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "Progress",
                                              on_progress, NULL, p);
        if (r >= 0)
                r = sd_bus_match_signal_async(p->bus, NULL, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, "Ending", on_ending,
                                              NULL, p);
        if (r >= 0)
                r = sd_bus_call_method_async(p->bus, &p->hello, NULL, MOUNTER_PATH,
                                             "org.freedesktop.DBus.Properties", "GetAll", on_hello, p, "s",
                                             MOUNTER_INTERFACE);
        return r;
}

int mounter_start(Pool *pool, uint64_t start_usec)
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
                        r = sd_event_add_time_relative(pool->manager->event, &p->kill_timer, CLOCK_BOOTTIME, start_usec, 100000,
                                                       on_start_timer, p);
                if (r >= 0)
                        r = connect_bus(p, &pair[0]);
                if (r == -EPIPE || r == -ECONNRESET)
                        r = 0; /* it has ended already, of which its exit will tell */
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
