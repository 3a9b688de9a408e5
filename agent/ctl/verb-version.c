/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl version: of this program and of the agent that runs. */

#include "build.h"
#include "ctl.h"
#include "output.h"

static const Column fields[] = { { .header = "berthctl", .key = "berthctl" }, { .header = "berthd", .key = "berthd" }, {} };

static ExitStatus version_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *status = NULL;
        const char *agent;
        int r;

        if (!ctl_arguments(c, argc, argv, 0, 0))
                return c->status;
        r = ctl_new_call(c, "GetStatus", &m, &err);
        if (r >= 0)
                r = ctl_call(c, m, &status, &err);

        agent = json_string_value(json_object_get(status, "version"));
        _cleanup_json_ json_t *j = json_pack("{s:s, s:s?}", "berthctl", BERTH_VERSION, "berthd", agent);
        if (c->json)
                print_json(j);
        else
                print_fields(c, j, fields);
        return r < 0 ? ctl_fail(&err) : STATUS_OK;
}

const Verb verb_version = {
        .name = "version",
        .arguments = "",
        .summary = "Show the versions of berthctl and of the agent that runs",
        .help = "The program's own version is printed even when the agent cannot be reached.\n",
        .run = version_run,
};
