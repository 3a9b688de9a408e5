/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthctl explain: all that is known of one volume, in one view. The name may be a path that a dead server is mounted
 * on: it is sent as it stands and never looked at here.
 */

#include <string.h>

#include "ctl.h"
#include "output.h"

static char *format_source(const Ctl *c, const json_t *row)
{
        _cleanup_free_ char *source = format_text(json_object_get(row, "Source"));
        const char *driver = json_string_value(json_object_get(row, "Driver"));
        char *s = NULL;

        return asprintf(&s, "%s %s", driver ? driver : "", source ? source : "") < 0 ? NULL : s;
}

static char *format_file_system(const Ctl *c, const json_t *row)
{
        const char *type = json_string_value(json_object_get(row, "FsType")), *uuid = json_string_value(json_object_get(row, "Uuid"));
        char *s = NULL;

        return asprintf(&s, uuid && *uuid ? "%s (%s)" : "%s", type ? type : "", uuid) < 0 ? NULL : s;
}

static char *format_pod(const Ctl *c, const json_t *row)
{
        const char *space = json_string_value(json_object_get(row, "podNamespace")),
                   *name = json_string_value(json_object_get(row, "podName"));
        char *s = NULL;

        if (!name || !*name)
                return strdup("");
        return asprintf(&s, "%s/%s", space ? space : "", name) < 0 ? NULL : s;
}

static char *format_when(const Ctl *c, const json_t *row)
{
        return format_time(c, json_object_get(row, "time"));
}

static const Column volume_fields[] = {
        { .header = "Volume", .key = "Key" },
        { .header = "Identity", .key = "Identity" },
        { .header = "Source", .format = format_source },
        { .header = "State", .key = "State" },
        { .header = "Step", .key = "Step" },
        { .header = "Device", .key = "Device" },
        { .header = "File system", .format = format_file_system },
        { .header = "Access", .format = format_access },
        { .header = "Staging path", .key = "StagingPath" },
        { .header = "Held attached by", .key = "Attachments" },
        { .header = "Health", .key = "Health" },
        { .header = "Ails from", .key = "HealthReason", .alarming = true },
        { .header = "Last error", .key = "LastError", .alarming = true },
        {},
};

static const Column publish_columns[] = {
        { .header = "POD", .format = format_pod },
        { .header = "UID", .key = "podUid" },
        { .header = "ACCESS", .format = format_access },
        { .header = "MOUNT ID", .key = "mountId" },
        { .header = "TARGET", .key = "target" },
        {},
};

static const Column error_columns[] = {
        { .header = "TIME", .format = format_when },
        { .header = "ERROR", .key = "name", .alarming = true },
        { .header = "TEXT", .key = "text" },
        {},
};

static void print_section(const Ctl *c, const json_t *volume, const char *key, const char *heading, const Column *columns)
{
        const json_t *rows = json_object_get(volume, key);

        if (json_array_size(rows) == 0)
                return;
        print_heading(c, heading);
        print_table(c, rows, columns);
}

static ExitStatus explain_run(Ctl *c, int argc, char **argv)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *volume = NULL;
        int r;

        if (!ctl_arguments(c, argc, argv, 1, 1))
                return c->status;
        r = ctl_new_call(c, "Explain", &m, &err);
        if (r >= 0)
                r = ctl_encoded(bus_append_bytes(m, argv[optind]), &err);
        if (r >= 0)
                r = ctl_call(c, m, &volume, &err);
        if (r < 0)
                return ctl_fail(&err);
        if (c->json) {
                print_json(volume);
                return STATUS_OK;
        }
        print_fields(c, volume, volume_fields);
        print_section(c, volume, "Publishes", "Published for", publish_columns);
        print_section(c, volume, "errors", "Recent errors, the newest first", error_columns);
        return STATUS_OK;
}

const Verb verb_explain = {
        .name = "explain",
        .arguments = "TARGET|VOLUME|NAME",
        .summary = "Show all that is known of one volume, by directory, key or volume name",
        .help = "Pods, targets, staging path, device, image, file system, state and recent errors in one view.\n",
        .run = explain_run,
};
