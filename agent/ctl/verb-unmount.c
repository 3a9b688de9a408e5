/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl unmount: frees a target; the last user's volume is detached. Blocks until the agent answers. */

#include "ctl.h"
#include "output.h"

typedef struct Unmount {
        const char *target;
        uint64_t deadline_usec;
} Unmount;

static int ask_unmount(sd_bus *bus, void *userdata, Error *err)
{
        const Unmount *u = userdata;

        return client_unmount(bus, u->target, u->deadline_usec, err);
}

static ExitStatus unmount_run(Ctl *c, int argc, char **argv)
{
        _cleanup_error_ Error err = ERROR_INIT;
        int r;

        if (!ctl_arguments(c, argc, argv, 1, 1))
                return c->status;
        r = ctl_ask(c, ask_unmount, &(Unmount) { argv[optind], c->deadline_usec }, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json) {
                _cleanup_json_ json_t *j = json_object();
                print_json(j);
        }
        return STATUS_OK;
}

const Verb verb_unmount = {
        .name = "unmount",
        .arguments = "TARGET",
        .summary = "Unmount a directory and, after its last user, detach the volume",
        .help = "Every mount on TARGET is taken away. A directory that is not mounted, or is gone, is fine. What still\n"
                "holds the volume afterwards is waited for in the background; berthctl list shows it.\n"
                "With --json: an empty object.\n",
        .run = unmount_run,
};
