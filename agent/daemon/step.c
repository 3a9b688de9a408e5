/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Steps as messages. Pure translation in berthd between its own objects and io.berth.Mounter1's dictionaries;
 * sends nothing and decides nothing.
 */

#include "daemon/step.h"

#include <stddef.h>
#include <string.h>

#include "protocol/bus-util.h"
#include "protocol/names.h"

static const struct {
        const char *name, *method;
        StepKind kind;
} step_table[_STEP_MAX] = {
        [STEP_NONE] = { "", NULL, STEP_KILLABLE },
        [STEP_RESOLVE] = { "resolve", "Resolve", STEP_KILLABLE },
        [STEP_CREATE] = { "create", "Create", STEP_MUST_FINISH },
        [STEP_ATTACH] = { "attach", "Attach", STEP_KILLABLE }, /* the kernel makes a device, or none: see mounters/rbd-map.c */
        [STEP_STAGE] = { "stage", "Stage", STEP_KILLABLE },
        [STEP_FORMAT] = { "format", "Format", STEP_MUST_FINISH },
        [STEP_FSCK] = { "fsck", "Fsck", STEP_MUST_FINISH },
        [STEP_PUBLISH] = { "publish", "Publish", STEP_KILLABLE },
        [STEP_UNPUBLISH] = { "unpublish", "Unpublish", STEP_KILLABLE },
        [STEP_UNSTAGE] = { "unstage", "Unstage", STEP_KILLABLE },
        [STEP_DETACH] = { "detach", "Detach", STEP_KILLABLE },
        [STEP_EXPAND] = { "expand", "Expand", STEP_MUST_FINISH },
        [STEP_STATS] = { "stats", "Stats", STEP_KILLABLE },
        [STEP_CHECK] = { "check", "Check", STEP_KILLABLE },
        [STEP_FORGET] = { "forget", "Forget", STEP_KILLABLE },
        [STEP_SCAN] = { "scan", "Scan", STEP_KILLABLE },
        [STEP_FENCE] = { "fence", "Fence", STEP_KILLABLE },
        [STEP_FORCE_DETACH] = { "force-detach", "ForceDetach", STEP_KILLABLE },
};

const char *step_to_string(Step step)
{
        return step >= 0 && step < _STEP_MAX ? step_table[step].name : "invalid";
}

const char *step_from_string(const char *s)
{
        for (Step i = STEP_NONE + 1; i < _STEP_MAX; i++)
                if (strcmp(step_table[i].name, s) == 0)
                        return step_table[i].name;
        return NULL;
}

const char *step_method(Step step)
{
        return step_table[step].method;
}

StepKind step_kind(Step step)
{
        return step_table[step].kind;
}

static int append_string(sd_bus_message *m, const char *key, const char *value)
{
        return value ? bus_append_entry(m, key, "s", value) : 0;
}

static int append_volume(sd_bus_message *m, const Volume *v)
{
        _cleanup_free_ char *staging = volume_staging_path(v);
        int r;

        if (!staging)
                return -ENOMEM;
        if ((r = append_string(m, "key", v->key)) < 0 || (r = append_string(m, "identity", v->identity)) < 0 ||
            (r = append_string(m, "stagingPath", staging)) < 0 || (r = append_string(m, "uuid", v->uuid)) < 0 ||
            (r = append_string(m, "device", v->device)) < 0)
                return r;
        if (v->device_number != 0 &&
            (r = bus_append_entry(m, "deviceNumber", "t", (uint64_t) v->device_number)) < 0)
                return r;
        return v->foreign ? bus_append_entry(m, "foreign", "b", 1) : 0;
}

static int append_params(sd_bus_message *m, Step step, const Volume *v, const StepParams *p)
{
        const StrMap *source = p->source ? p->source : v ? &v->source : NULL;
        bool mounts_only = step == STEP_PUBLISH || step == STEP_UNPUBLISH || step == STEP_UNSTAGE ||
                           step == STEP_DETACH || step == STEP_FORCE_DETACH;
        int r = 0;

        if (source && (!mounts_only || (p->source && source->n_entries > 0)))
                r = bus_append_entry_strmap(m, "source", source);
        if (r >= 0 && p->key && !v)
                r = append_string(m, "key", p->key);
        if (r >= 0 && !mounts_only)
                r = append_string(m, "fsType", p->fs_type);
        if (r >= 0 && p->read_only)
                r = bus_append_entry(m, "readOnly", "b", 1);
        if (r >= 0 && p->mount_options && !mounts_only)
                r = bus_append_entry_strv(m, "mountOptions", p->mount_options);
        if (r >= 0 && p->target)
                r = bus_append_entry_bytes(m, "target", p->target);
        if (r >= 0 && p->attach)
                r = bus_append_entry(m, "attach", "b", 1);
        if (r >= 0 && p->detach)
                r = bus_append_entry(m, "detach", "b", 1);
        if (r >= 0 && p->early)
                r = bus_append_entry(m, "early", "b", 1);
        if (r >= 0 && p->force)
                r = bus_append_entry(m, "force", "b", 1);
        if (r >= 0 && p->size > 0)
                r = bus_append_entry(m, "size", "t", p->size);
        if (r >= 0 && p->secrets && p->secrets->n_entries > 0) {
                r = sd_bus_message_sensitive(m);
                if (r >= 0)
                        r = bus_append_entry_strmap(m, "secrets", p->secrets);
        }
        return r;
}

int step_new_call(sd_bus *bus, Step step, const Volume *v, const StepParams *p, sd_bus_message **ret)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = sd_bus_message_new_method_call(bus, &m, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, step_method(step));

        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "{sv}");
        if (r >= 0 && v)
                r = append_volume(m, v);
        if (r >= 0)
                r = append_params(m, step, v, p);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(m);
        return 0;
}

typedef struct ResultField {
        const char *key, *type;
        size_t offset;
} ResultField;

static const ResultField result_fields[] = {
#define FIELD(key, type, field) { key, type, offsetof(StepResult, field) }
        FIELD("identity", "s", identity),
        FIELD("key", "s", key),
        FIELD("group", "s", group),
        FIELD("shared", "b", shared),
        FIELD("unproven", "b", unproven),
        FIELD("device", "s", device),
        FIELD("next", "s", next),
        FIELD("fsType", "s", fs_type),
        FIELD("uuid", "s", uuid),
        FIELD("reason", "s", reason),
        FIELD("create", "b", create),
        FIELD("foreign", "b", foreign),
        FIELD("gone", "b", gone),
        FIELD("attached", "b", attached),
        FIELD("staged", "b", staged),
        FIELD("published", "b", published),
        FIELD("healthy", "b", healthy),
        FIELD("corrupted", "b", corrupted),
        FIELD("deviceNumber", "t", device_number),
        FIELD("mountId", "t", mount_id),
        FIELD("size", "t", size),
        FIELD("layers", "u", layers),
        FIELD("totalBytes", "t", usage.total_bytes),
        FIELD("availableBytes", "t", usage.available_bytes),
        FIELD("usedBytes", "t", usage.used_bytes),
        FIELD("totalInodes", "t", usage.total_inodes),
        FIELD("freeInodes", "t", usage.free_inodes),
        FIELD("usedInodes", "t", usage.used_inodes),
#undef FIELD
};

static const ResultField device_fields[] = {
#define FIELD(key, type, field) { key, type, offsetof(StepDevice, field) }
        FIELD("key", "s", key),
        FIELD("identity", "s", identity),
        FIELD("device", "s", device),
        FIELD("image", "s", image),
        FIELD("deviceNumber", "t", device_number),
        FIELD("foreign", "b", foreign),
        FIELD("readOnly", "b", read_only),
#undef FIELD
};

static int field_set(const ResultField *fields, size_t n_fields, const char *key, const char *type,
                     sd_bus_message *m, void *object)
{
        for (size_t i = 0; i < n_fields; i++) {
                void *field = (char *) object + fields[i].offset;
                const char *s;
                int b, r;

                if (strcmp(fields[i].key, key) != 0)
                        continue;
                if (strcmp(fields[i].type, type) != 0)
                        return -EBADMSG;
                switch (type[0]) {
                case 's':
                        r = sd_bus_message_read_basic(m, 's', &s);
                        return r < 0 ? r : str_replace(field, s);
                case 'b':
                        r = sd_bus_message_read_basic(m, 'b', &b);
                        if (r >= 0)
                                *(bool *) field = b;
                        return r;
                default: /* t and u are read in place */
                        return sd_bus_message_read_basic(m, type[0], field);
                }
        }
        return 0;
}

static int device_set(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        return field_set(device_fields, ELEMENTSOF(device_fields), key, type, m, userdata);
}

static int read_devices(sd_bus_message *m, StepResult *result)
{
        int r = sd_bus_message_enter_container(m, 'a', "a{sv}");

        while (r >= 0 && sd_bus_message_at_end(m, 0) == 0) {
                StepDevice *grown = reallocarray(result->devices, result->n_devices + 1, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                result->devices = grown;
                grown[result->n_devices++] = (StepDevice) {};
                r = bus_read_dict(m, device_set, &grown[result->n_devices - 1]);
                if (r >= 0 && (!grown[result->n_devices - 1].key || !grown[result->n_devices - 1].identity))
                        return -EBADMSG;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int result_set(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        StepResult *result = userdata;

        if (strcmp(key, "devices") == 0 && !result->devices)
                return strcmp(type, "aa{sv}") == 0 ? read_devices(m, result) : -EBADMSG;
        if (strcmp(key, "holders") == 0 && !result->holders)
                return strcmp(type, "as") == 0 ? bus_read_strv(m, &result->holders) : -EBADMSG;
        if (strcmp(key, "staleTargets") == 0 && !result->stale_targets)
                return strcmp(type, "aay") == 0 ? bus_read_bytes_list(m, &result->stale_targets) : -EBADMSG;
        return field_set(result_fields, ELEMENTSOF(result_fields), key, type, m, result);
}

int step_read_result(sd_bus_message *reply, StepResult *ret)
{
        _cleanup_step_result_ StepResult result = STEP_RESULT_INIT;
        int r = bus_read_dict(reply, result_set, &result);

        if (r < 0)
                return r;
        *ret = result;
        result = STEP_RESULT_INIT;
        return 0;
}

void step_device_done(StepDevice *d)
{
        free(d->key);
        free(d->identity);
        free(d->device);
        free(d->image);
        *d = (StepDevice) {};
}

void step_devices_free(StepDevice *d, size_t n)
{
        for (size_t i = 0; i < n; i++)
                step_device_done(&d[i]);
        free(d);
}

void step_result_done(StepResult *r)
{
        step_devices_free(r->devices, r->n_devices);
        strv_free(r->holders);
        strv_free(r->stale_targets);
        free(r->identity);
        free(r->key);
        free(r->group);
        free(r->device);
        free(r->next);
        free(r->fs_type);
        free(r->uuid);
        free(r->reason);
        *r = STEP_RESULT_INIT;
}
