/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* berthctl stats: space, inodes and health of a mounted volume, as a bounded look by a mounter finds them. */

#include "ctl.h"
#include "output.h"

static char *format_total(const Ctl *c, const json_t *row)
{
        return format_bytes(c, json_object_get(row, "totalBytes"));
}

static char *format_used(const Ctl *c, const json_t *row)
{
        return format_bytes(c, json_object_get(row, "usedBytes"));
}

static char *format_available(const Ctl *c, const json_t *row)
{
        return format_bytes(c, json_object_get(row, "availableBytes"));
}

static const Column fields[] = {
        { .header = "Size", .format = format_total },
        { .header = "Used", .format = format_used },
        { .header = "Available", .format = format_available },
        { .header = "Inodes", .key = "totalInodes" },
        { .header = "Inodes used", .key = "usedInodes" },
        { .header = "Inodes free", .key = "freeInodes" },
        { .header = "Healthy", .key = "healthy" },
        { .header = "Reason", .key = "reason", .alarming = true },
        {},
};

static ExitStatus stats_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *stats = NULL;
        int r;

        if (!ctl_arguments(c, argc, argv, 1, 1))
                return c->status;
        r = ctl_new_call(c, "Stats", &m, &err);
        if (r >= 0)
                r = ctl_encoded(bus_append_bytes(m, argv[optind]), &err);
        if (r >= 0)
                r = ctl_call(c, m, &stats, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json)
                print_json(stats);
        else
                print_fields(c, stats, fields);
        return STATUS_OK;
}

const Verb verb_stats = {
        .name = "stats",
        .arguments = "TARGET",
        .summary = "Show space, inodes and health of a mounted volume",
        .help = "",
        .run = stats_run,
};
