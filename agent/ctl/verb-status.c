/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl status: how the agent is doing, and what each of its mounter processes is at. */

#include "ctl.h"
#include "output.h"

static char *format_uptime(const Ctl *c, const json_t *row)
{
        return format_duration(c, json_object_get(row, "uptimeUsec"));
}

static char *format_since(const Ctl *c, const json_t *row)
{
        return format_duration(c, json_object_get(row, "sinceUsec"));
}

static const Column fields[] = {
        { .header = "Version", .key = "version" },
        { .header = "PID", .key = "pid" },
        { .header = "Up for", .format = format_uptime },
        { .header = "Volumes", .key = "volumes" },
        { .header = "Publishes", .key = "publishes" },
        { .header = "Requests at work", .key = "requests" },
        { .header = "Quarantined", .key = "quarantined" },
        { .header = "Connections", .key = "connections" },
        { .header = "Mount events", .key = "mountEvents" },
        { .header = "System bus", .key = "systemBus" },
        { .header = "Reconciles", .key = "reconciles" },
        { .header = "Dropped log lines", .key = "droppedLogLines" },
        { .header = "Configuration not in force", .key = "reloadError", .alarming = true },
        {},
};

static const Column mounters[] = {
        { .header = "MOUNTER", .key = "kind" },
        { .header = "PID", .key = "pid" },
        { .header = "VERSION", .key = "version" },
        { .header = "STATE", .key = "state" },
        { .header = "SINCE", .format = format_since },
        { .header = "OPERATIONS", .key = "operations" },
        { .header = "STEP", .key = "step" },
        { .header = "VOLUME", .key = "volume" },
        {},
};

static ExitStatus status_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *status = NULL;
        int r;

        if (!ctl_arguments(c, argc, argv, 0, 0))
                return c->status;
        r = ctl_new_call(c, "GetStatus", &m, &err);
        if (r >= 0)
                r = ctl_call(c, m, &status, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json) {
                print_json(status);
                return STATUS_OK;
        }
        print_fields(c, status, fields);
        if (json_array_size(json_object_get(status, "mounters")) > 0) {
                print_heading(c, "Mounter processes");
                print_table(c, json_object_get(status, "mounters"), mounters);
        }
        return STATUS_OK;
}

const Verb verb_status = {
        .name = "status",
        .arguments = "",
        .summary = "Show how the agent and its mounter processes are doing",
        .help = "A mounter in state quarantined is blocked inside the kernel on its volume; other volumes are served.\n",
        .run = status_run,
};
