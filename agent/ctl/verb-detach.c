/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl detach: drops a name's hold on a volume; by force, takes a device away. Blocks until the agent answers. */

#include "ctl.h"
#include "output.h"

enum { OPTION_FORCE = OPTION_OWN };

static const struct option options[] = { CTL_OPTIONS, { "force", no_argument, NULL, OPTION_FORCE }, {} };

typedef struct Detach {
        const char *name;
        uint64_t deadline_usec;
} Detach;

static int ask_detach(sd_bus *bus, void *userdata, Error *err)
{
        const Detach *d = userdata;

        return client_detach(bus, d->name, d->deadline_usec, err);
}

/* ret: the device that was taken away, a JSON string; NULL without force. */
static int detach(Ctl *c, const char *name, bool force, json_t **ret, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r;

        if (!force)
                return ctl_ask(c, ask_detach, &(Detach) { name, c->deadline_usec }, err);
        r = ctl_new_call(c, "ForceDetach", &m, err);
        if (r >= 0)
                r = ctl_encoded(bus_append_bytes(m, name), err);
        return r < 0 ? r : ctl_call(c, m, ret, err);
}

static ExitStatus detach_run(Ctl *c, int argc, char **argv)
{
        _cleanup_json_ json_t *device = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        bool force = false;
        int option;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0) {
                if (option < 0)
                        return c->status;
                force = true;
        }
        if (argc - optind != 1)
                return ctl_usage(c, optind < argc ? "Too many arguments: berthctl %s %s" : "An argument is missing: berthctl %s %s",
                                 c->verb->name, c->verb->arguments);
        if (detach(c, argv[optind], force, &device, &err) < 0)
                return ctl_fail(&err);

        const char *taken = json_string_value(device);
        if (c->json) {
                _cleanup_json_ json_t *j = force ? json_pack("{s:s}", "device", taken ? taken : "") : json_object();
                print_json(j);
        } else if (force && taken && *taken)
                printf("%s was taken away. What had not been written to it is lost.\n", taken);
        else if (force)
                printf("There was no device (any more).\n");
        return STATUS_OK;
}

const Verb verb_detach = {
        .name = "detach",
        .arguments = "[--force] VOLUME",
        .summary = "Detach a volume that is attached by name, or take its device away by force",
        .help = "  --force  take the device away although something holds it (another mount namespace, a process), or its\n"
                "           storage does not answer. What was not written is LOST, and programs that still use it see\n"
                "           errors. Refused while the volume is mounted at a target, and where the kernel would wait for\n"
                "           ever: for requests under way of a map without osd_request_timeout\n\n"
                "Without --force, VOLUME is a PersistentVolume's name for which the kubelet had attached one (attach: true),\n"
                "and its hold is dropped. With --force, VOLUME is a key as shown by list, or such a name; kinds of storage that\n"
                "can do it: rbd. With --json: an object, with --force with the device.\n",
        .run = detach_run,
};
