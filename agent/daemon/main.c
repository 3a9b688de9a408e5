/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd: command line, signals, watchdog, the event loop. See ARCHITECTURE.md for what the process does.
 */

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "base/log.h"
#include "build.h"
#include "daemon/listener.h"
#include "daemon/manager.h"
#include "daemon/reconcile/watch.h"
#include "daemon/reload.h"
#include "daemon/system-bus.h"
#include "protocol/messages.h"

#define STATUS_USEC (10 * UINT64_C(1000000))

static void help(void)
{
        printf("berthd [OPTIONS…]\n\n"
               "Node-level mount agent for Kubernetes.\n\n"
               "  -h --help               Show this help\n"
               "     --version            Show the version\n"
               "     --dump-config        Show the configuration in force, check it, and exit\n"
               "     --system-bus         Serve io.berth.Agent1 on the system bus too\n"
               "     --verbose            Log debugging messages too\n"
               "     --config=FILE        Configuration file (default %s)\n"
               "     --socket=PATH        Socket to serve (default /run/berth/berthd.sock)\n"
               "     --runtime-dir=DIR    Records, locks, staging mounts (default /run/berth)\n"
               "     --state-dir=DIR      Lasting state (default /var/lib/berth)\n"
               "     --kubelet-root=DIR   The kubelet's root directory (default /var/lib/kubelet)\n"
               "     --mounter-dir=DIR    Where the mounters are (default %s)\n\n"
               "See berthd(8).\n",
               BERTH_CONFIG_FILE, BERTH_MOUNTER_DIR);
}

static int on_status_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        manager_notify_status(userdata);
        (void) sd_event_source_set_time_relative(s, STATUS_USEC);
        return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

/* As many descriptors as we may have: one a connection, two a mounter. select() is not used anywhere. */
static void raise_descriptor_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) >= 0 && limit.rlim_cur < limit.rlim_max) {
                limit.rlim_cur = limit.rlim_max;
                (void) setrlimit(RLIMIT_NOFILE, &limit);
        }
}

/* Descriptors 0 to 2 must be taken, or a socket would become somebody's standard output. */
static void occupy_standard_descriptors(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        while (fd >= 0 && fd < 3);
        close_fd(fd);
}

static int block_signals(void)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGCHLD); /* sd_event_add_child(3) */
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP); /* before anything else: one that comes early must not end us */
        return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

static int run(Manager *m, bool system_bus, Error *err)
{
        sd_event_source *status = NULL;
        int r = listener_start(m, err);

        if (r >= 0)
                r = watch_start(m, err);
        if (r < 0)
                return r;
        r = sd_event_add_signal(m->event, NULL, SIGTERM, NULL, NULL);
        if (r >= 0)
                r = sd_event_add_signal(m->event, NULL, SIGINT, NULL, NULL);
        if (r >= 0)
                r = reload_start(m);
        if (r >= 0 && system_bus)
                r = system_bus_start(m);
        if (r >= 0)
                r = sd_event_set_watchdog(m->event, true);
        if (r >= 0)
                r = sd_event_add_time_relative(m->event, &status, CLOCK_BOOTTIME, STATUS_USEC, 1000000,
                                               on_status_timer, m);
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot set up the event loop: %s", strerror(-r));

        (void) sd_notify(0, "READY=1");
        manager_notify_status(m);
        log_event(LOG_NOTICE, EVENT_STARTED, "berthd %s serves %s", BERTH_VERSION, m->settings.socket);
        r = sd_event_loop(m->event);
        (void) sd_notify(0, "STOPPING=1");
        sd_event_source_disable_unref(status);
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "The event loop failed: %s", strerror(-r)) : 0;
}

typedef struct Options {
        int log_level;
        bool dump, system_bus;
} Options;

static int parse_rest(char **rest, Options *ret, Error *err)
{
        STRV_FOREACH (a, rest) {
                if (strcmp(*a, "--verbose") == 0)
                        ret->log_level = LOG_DEBUG;
                else if (strcmp(*a, "--dump-config") == 0)
                        ret->dump = true;
                else if (strcmp(*a, "--system-bus") == 0)
                        ret->system_bus = true;
                else
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Unknown argument '%s'; see --help", *a);
        }
        return 0;
}

int main(int argc, char **argv)
{
        _cleanup_settings_ Settings settings = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL;
        Options options = { .log_level = LOG_INFO };
        int r;

        if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
                help();
                return EXIT_SUCCESS;
        }
        if (argc == 2 && strcmp(argv[1], "--version") == 0) {
                puts("berthd " BERTH_VERSION);
                return EXIT_SUCCESS;
        }
        occupy_standard_descriptors();
        umask(022);
        log_open("berthd", options.log_level);
        raise_descriptor_limit();

        r = block_signals() < 0 ? error_oom(&err) : settings_from_arguments(&settings, argc, argv, &rest, &err);
        if (r >= 0)
                r = parse_rest(rest, &options, &err);
        if (r >= 0 && options.dump) {
                settings_print(&settings, stdout);
                return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
        }
        if (r >= 0) {
                _cleanup_(manager_freep) Manager *m = NULL;

                log_open("berthd", options.log_level);
                r = manager_new(&settings, &m, &err);
                if (r >= 0) {
                        m->argc = argc;
                        m->argv = argv;
                        r = run(m, options.system_bus, &err);
                }
        }
        if (r < 0) {
                _cleanup_free_ char *text = error_render(&err);
                log_error("%s", str_or(text, "Out of memory"));
                return EXIT_FAILURE;
        }
        return EXIT_SUCCESS;
}
