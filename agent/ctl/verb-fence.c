/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthctl fence: shuts a dead node's client out of an image. The image is named as the rbd program names it, together with the
 * monitors, or as a volume of this node. Blocks until the agent answers.
 */

#include <string.h>

#include "ctl.h"
#include "output.h"

enum { OPTION_OPTION = OPTION_OWN, OPTION_SECRET_FILE };

static const struct option options[] = {
        CTL_OPTIONS,
        { "option", required_argument, NULL, OPTION_OPTION },
        { "secret-file", required_argument, NULL, OPTION_SECRET_FILE },
        {},
};

static const Column columns[] = { { .header = "FENCED", .key = "holder" }, {} };

/* [POOL/[NAMESPACE/]]IMAGE */
static int add_image(Ctl *c, StrMap *source, const char *spec)
{
        const char *first = strchr(spec, '/'), *last = strrchr(spec, '/');
        _cleanup_free_ char *pool = first ? strndup(spec, (size_t) (first - spec)) : NULL;
        _cleanup_free_ char *space = first && last != first ? strndup(first + 1, (size_t) (last - first - 1)) : NULL;
        int r = strmap_add(source, "image", last ? last + 1 : spec);

        if (r >= 0 && pool)
                r = strmap_add(source, "pool", pool);
        if (r >= 0 && space)
                r = strmap_add(source, "namespace", space);
        if (r < 0)
                ctl_usage(c, r == -EEXIST ? "The image is named twice: by %s and by --option" : "Cannot use %s", spec);
        return r;
}

static int add_known(StrMap *source, const json_t *volume, Error *err)
{
        const char *key;
        const json_t *value;

        json_object_foreach (json_object_get(volume, "Source"), key, value)
                if (!strmap_get(source, key) && json_is_string(value) && strmap_add(source, key, json_string_value(value)) < 0)
                        return error_oom(err);
        return 0;
}

/* What the agent knows of a volume that waits here for its holder: monitors, pool, image, user. */
static int look_up(Ctl *c, const char *name, MountParams *p, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_json_ json_t *volume = NULL;
        int r = ctl_new_call(c, "Explain", &m, err);

        if (r >= 0)
                r = ctl_encoded(bus_append_bytes(m, name), err);
        if (r >= 0)
                r = ctl_call(c, m, &volume, err);
        if (r >= 0)
                r = add_known(&p->source, volume, err);
        if (r >= 0 && str_replace(&p->driver, json_string_value(json_object_get(volume, "Driver"))) < 0)
                r = error_oom(err);
        return r;
}

static int fence(Ctl *c, const MountParams *p, json_t **ret, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = ctl_new_call(c, "Fence", &m, err);

        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "s", p->driver);
        if (r >= 0)
                r = bus_append_strmap(m, &p->source);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0 && p->secrets.n_entries > 0)
                r = sd_bus_message_sensitive(m);
        if (r >= 0 && p->secrets.n_entries > 0)
                r = bus_append_entry_strmap(m, "secrets", &p->secrets);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        r = ctl_encoded(r, err);
        return r < 0 ? r : ctl_call(c, m, ret, err);
}

static void print_holders(const Ctl *c, json_t *holders)
{
        _cleanup_json_ json_t *rows = json_array();
        const json_t *holder;
        size_t i;

        if (c->json) {
                _cleanup_json_ json_t *j = json_pack("{s:O}", "holders", holders);
                print_json(j);
                return;
        }
        json_array_foreach (holders, i, holder)
                (void) json_array_append_new(rows, json_pack("{s:s}", "holder", json_string_value(holder)));
        print_table(c, rows, columns);
}

static ExitStatus fence_run(Ctl *c, int argc, char **argv)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_json_ json_t *holders = NULL;
        int option, r;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0)
                if (option < 0 || (option == OPTION_OPTION ? ctl_add_pair(c, &p.source, optarg) : ctl_add_secret(c, &p.secrets, optarg)) < 0)
                        return c->status;
        if (argc - optind != 1)
                return ctl_usage(c, optind < argc ? "Too many arguments: berthctl %s %s" : "An argument is missing: berthctl %s %s",
                                 c->verb->name, c->verb->arguments);
        if (strmap_get(&p.source, "monitors")) {
                r = str_replace(&p.driver, "rbd") < 0 ? error_oom(&err) : 0;
                if (r >= 0 && add_image(c, &p.source, argv[optind]) < 0)
                        return c->status;
        } else
                r = look_up(c, argv[optind], &p, &err);
        if (r >= 0)
                r = fence(c, &p, &holders, &err);
        if (r < 0)
                return ctl_fail(&err);
        print_holders(c, holders);
        return STATUS_OK;
}

const Verb verb_fence = {
        .name = "fence",
        .arguments = "[--option KEY=VALUE…] IMAGE",
        .summary = "Shut a dead node's client out of an RBD image",
        .help = "  --option KEY=VALUE    monitors=LIST, and user=NAME unless it is admin; repeat it\n"
                "  --secret-file KEY=F   the key of the user, as key=F; otherwise a keyring of this node has it\n\n"
                "Whoever of other nodes has the image open, or holds its lock, is put on the cluster's blocklist, and the lock is\n"
                "broken. What such a client has not written is LOST, also of its other images, unless they were mapped with\n"
                "noshare. Be sure that the node is dead. A client of this node is never fenced.\n\n"
                "IMAGE is [POOL/[NAMESPACE/]]NAME where monitors are given, and else a volume of this node, by key, target or\n"
                "name, such as one that waits for its holder (berthctl list). Prints whom it fenced.\n",
        .run = fence_run,
};
