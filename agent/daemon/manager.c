/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Setting up and tearing down berthd's state. At start: directories, records, one look at the kernel, warm mounters, and only
 * then the socket is answered, so that the first request already meets what is known. Tearing down leaves everything in the
 * kernel, and the records, as they are: a restart of the agent touches no volume.
 */

#include "daemon/manager.h"

#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/drain.h"
#include "daemon/listener.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/reconcile/watch.h"
#include "daemon/store.h"
#include "daemon/system-bus.h"

/* How long a berthd is waited for that was killed while it started a mounter: until that child's exec has closed its copy of the lock. */
#define LOCK_TRIES 20U
#define LOCK_PAUSE_NSEC (50 * 1000 * 1000)

static int open_directory(int dir_fd, const char *path, int *ret, Error *err)
{
        if (mkdirat(dir_fd, path, 0700) < 0 && errno != EEXIST)
                return error_set(err, ERROR_RECORD_FAILED, errno, "Cannot make %s: %m", path);
        *ret = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (dir_fd >= 0 ? O_NOFOLLOW : 0));
        return *ret < 0 ? error_set(err, ERROR_RECORD_FAILED, errno, "Cannot open %s: %m", path) : 0;
}

/* Before anything is looked at or changed: a second berthd would put right what the first has under way. */
static int lock_directory(Manager *m, Error *err)
{
        static const struct timespec pause = { .tv_nsec = LOCK_PAUSE_NSEC };

        for (unsigned i = 0; flock(m->runtime_fd, LOCK_EX | LOCK_NB) < 0; i++) {
                if (errno != EWOULDBLOCK)
                        return error_set(err, ERROR_RECORD_FAILED, errno, "Cannot lock %s: %m", m->settings.runtime_dir);
                if (i >= LOCK_TRIES)
                        return error_set(err, ERROR_BUSY, EADDRINUSE, "Another berthd uses %s", m->settings.runtime_dir);
                (void) nanosleep(&pause, NULL);
        }
        return 0;
}

static int open_directories(Manager *m, Error *err)
{
        _cleanup_close_ int locks = -EBADF;
        _cleanup_close_ int staging = -EBADF;
        static const char *const in_state[] = { "volumes", "formats" };
        int r = mkdir_parents(m->settings.runtime_dir, 0755);

        if (r >= 0)
                r = mkdir_parents(m->settings.state_dir, 0700);
        if (r < 0)
                return error_set(err, ERROR_RECORD_FAILED, r, "Cannot make %s or %s: %s", m->settings.runtime_dir,
                                 m->settings.state_dir, strerror(-r));
        r = open_directory(AT_FDCWD, m->settings.runtime_dir, &m->runtime_fd, err);
        if (r >= 0)
                r = lock_directory(m, err);
        if (r >= 0)
                r = open_directory(m->runtime_fd, "volumes", &m->records_fd, err);
        if (r >= 0)
                r = open_directory(m->runtime_fd, "locks", &locks, err);
        if (r >= 0)
                r = open_directory(m->runtime_fd, "staging", &staging, err);
        for (size_t i = 0; i < ELEMENTSOF(in_state) && r >= 0; i++) {
                _cleanup_free_ char *path = NULL;
                if (asprintf(&path, "%s/%s", m->settings.state_dir, in_state[i]) < 0)
                        return error_oom(err);
                r = mkdir_parents(path, 0700);
                if (r < 0)
                        return error_set(err, ERROR_RECORD_FAILED, r, "Cannot make %s: %s", path, strerror(-r));
        }
        return r;
}

/* Only the default one, in berth's own state directory: an operator's may lie on storage that does not answer. */
static void make_image_directory(Manager *m)
{
        size_t n = strlen(m->settings.state_dir);

        STRV_FOREACH (dir, m->settings.loop_directories) {
                if (strncmp(*dir, m->settings.state_dir, n) != 0 || (*dir)[n] != '/')
                        continue;
                int r = mkdir_parents(*dir, 0700);
                if (r < 0)
                        log_warning("Cannot make %s: %s", *dir, strerror(-r));
        }
}

int manager_new(Settings *settings, Manager **ret, Error *err)
{
        Manager *m = calloc(1, sizeof(*m));
        if (!m)
                return error_oom(err);

        m->settings = *settings;
        *settings = SETTINGS_INIT;
        m->runtime_fd = m->records_fd = m->listen_fd = m->memory_fd = -EBADF;
        m->started_usec = now_boottime_usec();
        TAILQ_INIT(&m->operations);
        TAILQ_INIT(&m->connections);
        TAILQ_INIT(&m->drains);

        int r = sd_event_default(&m->event) < 0 ? error_oom(err) : 0;
        if (r >= 0)
                r = open_directories(m, err);
        if (r >= 0)
                r = store_load(m, err);
        if (r >= 0 && m->volumes)
                r = reconcile_at_start(m, err);
        if (r >= 0) {
                make_image_directory(m);
                r = pools_start(m);
        }
        if (r < 0) {
                manager_free(m);
                return r;
        }
        *ret = m;
        return 0;
}

static void end_operations(Manager *m)
{
        Operation *op;

        while ((op = TAILQ_FIRST(&m->operations))) {
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                _cleanup_error_ Error err = ERROR_INIT;

                error_set(&err, ERROR_SHUTTING_DOWN, ESHUTDOWN, "berthd is stopping while %s is at step '%s'",
                          operation_type_to_string(op->type), step_to_string(op->step));
                error_to_bus(&err, &e);
                for (size_t i = 0; i < op->n_waiters; i++)
                        (void) sd_bus_reply_method_error(op->waiters[i].call, &e);
                if (op->volume)
                        op->volume->holder = NULL;
                TAILQ_REMOVE(&m->operations, op, entry);
                operation_free(op);
        }
}

void manager_free(Manager *m)
{
        Volume *v, *next;

        drains_free(m);
        end_operations(m);
        system_bus_free(m);
        watch_free(m);
        reconcile_free(m);
        name_locks_free(m);
        if (m->listen_fd >= 0)
                listener_stop(m);
        pools_free(m);
        HASH_ITER (hh, m->volumes, v, next)
                volume_free(v);
        for (unsigned i = 0; i < RECENT_ERRORS_MAX; i++) {
                free(m->errors[i].volume_key);
                free(m->errors[i].target);
                free(m->errors[i].text);
        }
        close_fd(m->records_fd);
        close_fd(m->runtime_fd);
        sd_event_unref(m->event);
        settings_done(&m->settings);
        free(m->reload_error);
        free(m);
}

void manager_remember_error(Manager *m, const char *volume_key, const char *target, const Error *err)
{
        RecentError *e = &m->errors[m->next_error];
        struct timespec now;

        clock_gettime(CLOCK_REALTIME, &now);
        m->next_error = (m->next_error + 1) % RECENT_ERRORS_MAX;
        free(e->volume_key);
        free(e->target);
        free(e->text);
        *e = (RecentError) {
                .realtime_usec = (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000,
                .volume_key = volume_key ? strdup(volume_key) : NULL,
                .target = target ? strdup(target) : NULL,
                .code = err->code,
                .text = error_render(err),
        };
}

void manager_notify_status(Manager *m)
{
        (void) sd_notifyf(0, "STATUS=%u volumes, %u publishes, %u requests under way%s%s", HASH_COUNT(m->volumes),
                          HASH_COUNT(m->publishes), m->n_operations,
                          m->reload_error ? "; the new configuration is not in force: " : "", str_or(m->reload_error, ""));
}
