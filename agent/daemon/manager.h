/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The Manager: all state of one berthd. One thread around sd-event; nothing reachable from here makes a call
 * that storage could block.
 *
 * Who owns what: the manager owns its tables; a Volume is owned by `volumes` as long as anything of it exists
 * on the node or an operation refers to it; a Publish by its volume (and is found through `publishes`); an
 * Operation by itself from operation_submit() until it has finished.
 */

#include <sys/queue.h>
#include <systemd/sd-event.h>
#include <uthash.h>

#include "protocol/error.h"
#include "protocol/settings.h"

typedef struct Connection Connection;
typedef struct Drain Drain;
typedef struct Manager Manager;
typedef struct MounterGroup MounterGroup;
typedef struct NameLock NameLock;
typedef struct Operation Operation;
typedef struct Pool Pool;
typedef struct Publish Publish;
typedef struct Reconcile Reconcile;
typedef struct SystemBus SystemBus;
typedef struct Volume Volume;
typedef struct Watch Watch;

/* For Explain: what went wrong lately, the newest last; a ring. */
typedef struct RecentError {
        uint64_t realtime_usec;
        char *volume_key, *target; /* either may be NULL */
        ErrorCode code;
        char *text;
} RecentError;

#define RECENT_ERRORS_MAX 128U

struct Manager {
        Settings settings;
        char **argv; /* of the process, to read the settings anew; not owned */
        int argc;
        uint64_t n_reloads;
        char *reload_error; /* why the last one changed nothing; NULL: it is in force */
        sd_event *event;
        int runtime_fd; /* the runtime directory */
        int records_fd; /* its volumes/ */
        uint64_t started_usec; /* CLOCK_BOOTTIME */

        Volume *volumes;     /* by key */
        Publish *publishes;  /* by target */
        NameLock *locks;     /* by name: a target, or "name:" and a volumeName */
        Pool *pools;         /* by kind */
        TAILQ_HEAD(OperationList, Operation) operations;
        unsigned n_operations;
        unsigned n_waiters; /* calls that are to be answered, over all operations */
        uint64_t next_request;

        TAILQ_HEAD(, Drain) drains; /* while there is one, nothing is mounted */
        Reconcile *reconcile; /* NULL until the first */
        Watch *watch;         /* NULL until the loop runs */

        int listen_fd;
        sd_event_source *listen_source, *listen_resume;
        TAILQ_HEAD(ConnectionList, Connection) connections; /* the longest idle first */
        unsigned n_connections;
        SystemBus *system_bus; /* NULL: it is not wanted */
        sd_event_source *memory_source;
        int memory_fd; /* /proc/self/statm */
        unsigned n_iterations;

        RecentError errors[RECENT_ERRORS_MAX];
        unsigned next_error;
};

/* Opens directories, loads the records, starts warm mounters. */
int manager_new(Settings *settings, Manager **ret, Error *err);
void manager_free(Manager *m);
/* Remembers an error for Explain; copies the strings. */
void manager_remember_error(Manager *m, const char *volume_key, const char *target, const Error *err);
/* Puts counts into systemd's status line. */
void manager_notify_status(Manager *m);

DEFINE_POINTER_CLEANUP(Manager *, manager_free);
