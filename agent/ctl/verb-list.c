/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl list: the volumes this node knows, a line each. */

#include <string.h>

#include "ctl.h"
#include "output.h"

static char *format_targets(const Ctl *c, const json_t *row)
{
        const json_t *publishes = json_object_get(row, "Publishes");
        char *s = NULL;

        if (json_array_size(publishes) == 1)
                return format_text(json_object_get(json_array_get(publishes, 0), "target"));
        return asprintf(&s, "%zu", json_array_size(publishes)) < 0 ? NULL : s;
}

static char *format_state(const Ctl *c, const json_t *row)
{
        const char *state = json_string_value(json_object_get(row, "State")), *step = json_string_value(json_object_get(row, "Step"));
        const char *health = json_string_value(json_object_get(row, "Health"));
        bool ails = health && (strcmp(health, "degraded") == 0 || strcmp(health, "corrupted") == 0);
        char *s = NULL;

        return asprintf(&s, step && *step ? "%s%s%s (%s)" : "%s%s%s", state ? state : "", ails ? ", " : "", ails ? health : "", step) < 0 ? NULL : s;
}

static const Column columns[] = {
        { .header = "VOLUME", .key = "Key" },
        { .header = "STATE", .format = format_state },
        { .header = "ACCESS", .format = format_access },
        { .header = "FSTYPE", .key = "FsType" },
        { .header = "DEVICE", .key = "Device" },
        { .header = "SOURCE", .key = "Source" },
        { .header = "TARGET", .format = format_targets },
        { .header = "ERROR", .key = "LastError", .alarming = true },
        {},
};

static ExitStatus list_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *volumes = NULL;
        int r;

        if (!ctl_arguments(c, argc, argv, 0, 0))
                return c->status;
        r = ctl_new_call(c, "ListVolumes", &m, &err);
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
        return STATUS_OK;
}

const Verb verb_list = {
        .name = "list",
        .arguments = "",
        .summary = "List the volumes of this node",
        .help = "TARGET is the directory where there is one, else how many there are. STATE is followed by its health if\n"
                "it is not well (explain says why), and by the step that runs, or waits for its repeat. With --json: an array of objects with the properties of io.berth.Volume1.\n",
        .run = list_run,
};
