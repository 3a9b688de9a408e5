/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reading the configuration anew. Runs in berthd; reads files of the root file system, as at the start, and only when root asks for it.
 *
 * Invariant: all of m->settings is of one reading. Mounters get theirs from berthd when they are started, never from the file: so no mounter
 * is at work with settings that berthd has not accepted.
 */

#include "daemon/reload.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "base/log.h"
#include "daemon/mounter-pool.h"
#include "daemon/reconcile/watch.h"
#include "daemon/system-bus.h"
#include "protocol/messages.h"

/* For Type=notify-reload, which wants to know that what is told next was not sent before it asked. */
static void notify_reloading(void)
{
        struct timespec ts;

        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        (void) sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64 "\nSTATUS=Reading the configuration anew",
                          (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000);
}

static char *strv_to_text(char *const *v)
{
        char *text = strdup("");

        STRV_FOREACH (s, v) {
                char *longer = NULL;

                if (!text || asprintf(&longer, "%s%s%s=", text, *text ? " " : "", *s) < 0)
                        longer = NULL;
                free(text);
                text = longer;
        }
        return text;
}

static void reload(Manager *m)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **fixed = NULL;

        m->n_reloads++;
        free(TAKE_PTR(m->reload_error));
        if (settings_reload(&m->settings, m->argc, m->argv, &fixed, &err) < 0) {
                m->reload_error = error_render(&err);
                log_event(LOG_ERR, EVENT_RELOAD_REFUSED,
                          "The configuration is not read anew, the former one stays in force: %s", str_or(err.text, ""));
                return;
        }
        if (fixed) {
                _cleanup_free_ char *names = strv_to_text(fixed);
                log_warning("Of [Paths] nothing changes until berthd is restarted: %s", str_or(names, ""));
        }
        pools_reload(m);
        watch_reload(m);
        system_bus_reload(m);
        log_notice("The configuration has been read anew");
}

static int on_reload(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
        Manager *m = userdata;

        notify_reloading();
        reload(m);
        (void) sd_notify(0, "READY=1");
        manager_notify_status(m);
        return 0;
}

int reload_start(Manager *m)
{
        return sd_event_add_signal(m->event, NULL, SIGHUP, on_reload, m);
}
