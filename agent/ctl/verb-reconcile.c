/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl reconcile: compare the kernel with the records now, and put right what differs. */

#include "ctl.h"
#include "output.h"

enum { OPTION_DRY_RUN = OPTION_OWN };

static const struct option options[] = { CTL_OPTIONS, { "dry-run", no_argument, NULL, OPTION_DRY_RUN }, {} };

/* The last column of a dry run would be empty. */
static const Column columns[] = {
        { .header = "STEP", .key = "step" },     { .header = "VOLUME", .key = "volume" }, { .header = "TARGET", .key = "target" },
        { .header = "REASON", .key = "reason" }, { .header = "RESULT", .key = "result" }, {},
};
static const Column dry_columns[] = {
        { .header = "STEP", .key = "step" },     { .header = "VOLUME", .key = "volume" }, { .header = "TARGET", .key = "target" },
        { .header = "REASON", .key = "reason" }, {},
};

static ExitStatus steps_status(const json_t *steps)
{
        for (size_t i = 0; i < json_array_size(steps); i++) {
                const char *result = json_string_value(json_object_get(json_array_get(steps, i), "result"));
                if (result && !str_equal(result, "ok"))
                        return STATUS_RETRY;
        }
        return STATUS_OK;
}

static ExitStatus reconcile_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *steps = NULL;
        bool dry_run = false;
        int option, r;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0) {
                if (option < 0)
                        return c->status;
                dry_run = true;
        }
        if (optind < argc)
                return ctl_usage(c, "Too many arguments: %s", argv[optind]);

        r = ctl_new_call(c, "Reconcile", &m, &err);
        if (r >= 0)
                r = ctl_encoded(sd_bus_message_append(m, "b", (int) dry_run), &err);
        if (r >= 0)
                r = ctl_call(c, m, &steps, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json)
                print_json(steps);
        else if (c->terminal && json_array_size(steps) == 0)
                puts("Nothing to do.");
        else
                print_table(c, steps, dry_run ? dry_columns : columns);
        return steps_status(steps);
}

const Verb verb_reconcile = {
        .name = "reconcile",
        .arguments = "[--dry-run]",
        .summary = "Put right what differs between the kernel and the records",
        .help = "  --dry-run  print what would be done, and why, and do nothing\n\n"
                "Exits with 75 when a step did not succeed; it is tried again by itself.\n",
        .run = reconcile_run,
};
