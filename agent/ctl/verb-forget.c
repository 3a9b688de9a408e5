/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl forget: drops the agent's memory of a volume that is neither mounted nor attached. */

#include "ctl.h"
#include "output.h"

enum { OPTION_FORMATTED = OPTION_OWN };

static const struct option options[] = { CTL_OPTIONS, { "formatted", no_argument, NULL, OPTION_FORMATTED }, {} };

static ExitStatus forget_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *nothing = NULL;
        bool formatted = false;
        int option, r;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0) {
                if (option < 0)
                        return c->status;
                formatted = true;
        }
        if (argc - optind != 1)
                return ctl_usage(c, optind < argc ? "Too many arguments: berthctl %s %s" : "An argument is missing: berthctl %s %s",
                                 c->verb->name, c->verb->arguments);

        r = ctl_new_call(c, "Forget", &m, &err);
        if (r >= 0)
                r = ctl_encoded(sd_bus_message_append(m, "sb", argv[optind], (int) formatted), &err);
        if (r >= 0)
                r = ctl_call(c, m, &nothing, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json) {
                _cleanup_json_ json_t *j = json_object();
                print_json(j);
        }
        return STATUS_OK;
}

const Verb verb_forget = {
        .name = "forget",
        .arguments = "[--formatted] VOLUME",
        .summary = "Drop what is remembered of a volume that is not in use",
        .help = "  --formatted  also forget that it was once formatted: only then may a volume whose data was lost, and\n"
                "               that now reads as zeros, be formatted again\n\n"
                "VOLUME is a key as shown by list and in error texts. Nothing is unmounted or detached: a volume in use\n"
                "is refused. With --json: an empty object.\n",
        .run = forget_run,
};
