/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl drain: have every volume unmounted and detached, and say what is left and who holds it. */

#include <string.h>

#include "ctl.h"
#include "output.h"
#include "protocol/settings.h"

#define DEFAULT_USEC (60 * UINT64_C(1000000))
/* The agent's answer comes within the time, but for what its machine is busy with. */
#define MARGIN_USEC (20 * UINT64_C(1000000))

enum { OPTION_TIMEOUT = OPTION_OWN };

static const struct option options[] = { CTL_OPTIONS, { "timeout", required_argument, NULL, OPTION_TIMEOUT }, {} };

static char *format_result(const Ctl *c, const json_t *row)
{
        return strdup(json_is_true(json_object_get(row, "gone")) ? "gone" : "left");
}

static const Column columns[] = {
        { .header = "VOLUME", .key = "volume" }, { .header = "RESULT", .format = format_result },
        { .header = "STATE", .key = "state" },   { .header = "TARGET", .key = "target" },
        { .header = "REASON", .key = "reason", .alarming = true }, {},
};

static ExitStatus drain_status(const json_t *volumes)
{
        for (size_t i = 0; i < json_array_size(volumes); i++)
                if (!json_is_true(json_object_get(json_array_get(volumes, i), "gone")))
                        return STATUS_RETRY;
        return STATUS_OK;
}

static ExitStatus drain_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *volumes = NULL;
        uint64_t timeout_usec = DEFAULT_USEC;
        int option, r;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0) {
                if (option < 0)
                        return c->status;
                if (parse_usec(optarg, &timeout_usec) < 0 || timeout_usec == 0 || timeout_usec > 3600 * UINT64_C(1000000))
                        return ctl_usage(c, "--timeout takes a time from 1 to 3600 seconds, not %s", optarg);
        }
        if (optind < argc)
                return ctl_usage(c, "Too many arguments: %s", argv[optind]);

        c->deadline_usec = now_boottime_usec() + timeout_usec + MARGIN_USEC;
        r = ctl_new_call(c, "Drain", &m, &err);
        if (r >= 0)
                r = ctl_encoded(sd_bus_message_append(m, "t", timeout_usec), &err);
        if (r >= 0)
                r = ctl_call(c, m, &volumes, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json)
                print_json(volumes);
        else if (c->terminal && json_array_size(volumes) == 0)
                puts("No volumes.");
        else
                print_table(c, volumes, columns);
        return drain_status(volumes);
}

const Verb verb_drain = {
        .name = "drain",
        .arguments = "[--timeout SEC]",
        .summary = "Unmount and detach every volume of this node",
        .help = "  --timeout SEC  how long to go on where something holds a volume (default: 60)\n\n"
                "Meanwhile nothing is mounted. Volumes that are left are told with who holds them; berthd goes on trying to give them\n"
                "back. Exits with 75 when some are left. Pods that still run lose nothing they have open, but the node's mounts.\n"
                "At shutdown berth-drain.service does this.\n",
        .run = drain_run,
};
