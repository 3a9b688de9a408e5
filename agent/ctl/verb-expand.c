/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl expand: grows image, device and file system of a mounted volume. Blocks until the agent answers. */

#include <inttypes.h>

#include "ctl.h"
#include "output.h"
#include "protocol/settings.h"

static char *format_size(const Ctl *c, const json_t *row)
{
        return format_bytes(c, json_object_get(row, "size"));
}

static const Column fields[] = { { .header = "Size", .format = format_size }, {} };

typedef struct Expand {
        const char *target;
        uint64_t size, deadline_usec; /* the size asked for, then the one reached */
} Expand;

static int ask_expand(sd_bus *bus, void *userdata, Error *err)
{
        Expand *e = userdata;

        return client_expand(bus, e->target, e->size, e->deadline_usec, &e->size, err);
}

static ExitStatus expand_run(Ctl *c, int argc, char **argv)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Expand e = { .deadline_usec = c->deadline_usec };
        int r;

        if (!ctl_arguments(c, argc, argv, 2, 2))
                return c->status;
        if (parse_size(argv[optind + 1], &e.size) < 0)
                return ctl_usage(c, "%s is not a size, such as 64M or 1G", argv[optind + 1]);

        e.target = argv[optind];
        r = ctl_ask(c, ask_expand, &e, &err);
        if (r < 0)
                return ctl_fail(&err);

        _cleanup_json_ json_t *j = json_pack("{s:I}", "size", (json_int_t) e.size);
        if (c->json)
                print_json(j);
        else
                print_fields(c, j, fields);
        return STATUS_OK;
}

const Verb verb_expand = {
        .name = "expand",
        .arguments = "TARGET SIZE",
        .summary = "Grow a mounted volume to at least SIZE, file system included",
        .help = "SIZE is in bytes, or with K, M, G, T or P (powers of 1024). 0 leaves the image or file as it is and makes\n"
                "device and file system follow it. A volume is never made smaller. Prints the size reached.\n",
        .run = expand_run,
};
