/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See message.h. The tables `request_fields` and `result_fields` are all that is known here of the interface. Pure, but for the
 * process's dumpable flag.
 */

#include "mounters/message.h"

#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>

#include "protocol/bus-util.h"

typedef enum FieldType {
        FIELD_STRING, /* s, char * */
        FIELD_TEXT,   /* s, const char *: not owned */
        FIELD_BYTES,  /* ay, char * */
        FIELD_STRMAP, /* a{ss} */
        FIELD_STRV,   /* as */
        FIELD_BYTES_LIST, /* aay, char **; nothing if it is NULL */
        FIELD_BOOL,   /* b */
        FIELD_NUMBER, /* t, uint64_t or dev_t */
        FIELD_SHORT,  /* u, unsigned */
        FIELD_DEVICES, /* aa{sv}, MounterDevice *, its number in the result */
} FieldType;

static const char *const field_signatures[] = {
        [FIELD_STRING] = "s", [FIELD_TEXT] = "s", [FIELD_BYTES] = "ay", [FIELD_STRMAP] = "a{ss}",
        [FIELD_STRV] = "as",  [FIELD_BOOL] = "b", [FIELD_NUMBER] = "t", [FIELD_SHORT] = "u",
        [FIELD_DEVICES] = "aa{sv}", [FIELD_BYTES_LIST] = "aay",
};

static const struct RequestField {
        const char *key;
        FieldType type;
        size_t offset;
} request_fields[] = {
        { "key", FIELD_STRING, offsetof(MounterVolume, key) },
        { "identity", FIELD_STRING, offsetof(MounterVolume, identity) },
        { "source", FIELD_STRMAP, offsetof(MounterVolume, source) },
        { "secrets", FIELD_STRMAP, offsetof(MounterVolume, secrets) },
        { "fsType", FIELD_STRING, offsetof(MounterVolume, fs_type) },
        { "readOnly", FIELD_BOOL, offsetof(MounterVolume, read_only) },
        { "mountOptions", FIELD_STRV, offsetof(MounterVolume, mount_options) },
        { "device", FIELD_STRING, offsetof(MounterVolume, device) },
        { "deviceNumber", FIELD_NUMBER, offsetof(MounterVolume, device_number) },
        { "foreign", FIELD_BOOL, offsetof(MounterVolume, foreign) },
        { "stagingPath", FIELD_STRING, offsetof(MounterVolume, staging_path) },
        { "target", FIELD_BYTES, offsetof(MounterVolume, target) },
        { "size", FIELD_NUMBER, offsetof(MounterVolume, size) },
        { "uuid", FIELD_STRING, offsetof(MounterVolume, uuid) },
        { "attach", FIELD_BOOL, offsetof(MounterVolume, attach) },
        { "detach", FIELD_BOOL, offsetof(MounterVolume, detach) },
        { "early", FIELD_BOOL, offsetof(MounterVolume, early) },
        { "force", FIELD_BOOL, offsetof(MounterVolume, force) },
};
_Static_assert(sizeof(dev_t) == sizeof(uint64_t), "deviceNumber is read as t");

static const struct {
        const char *key;
        FieldType type;
        size_t offset;
        unsigned answer;
} result_fields[] = {
        { "identity", FIELD_STRING, offsetof(MounterResult, identity), ANSWER_IDENTITY },
        { "key", FIELD_STRING, offsetof(MounterResult, key), ANSWER_IDENTITY },
        { "group", FIELD_STRING, offsetof(MounterResult, group), ANSWER_IDENTITY },
        { "shared", FIELD_BOOL, offsetof(MounterResult, shared), ANSWER_IDENTITY },
        { "unproven", FIELD_BOOL, offsetof(MounterResult, unproven), ANSWER_IDENTITY },
        { "create", FIELD_BOOL, offsetof(MounterResult, create), ANSWER_CREATE },
        { "device", FIELD_STRING, offsetof(MounterResult, device), ANSWER_DEVICE },
        { "deviceNumber", FIELD_NUMBER, offsetof(MounterResult, device_number), ANSWER_DEVICE },
        { "foreign", FIELD_BOOL, offsetof(MounterResult, foreign), ANSWER_DEVICE },
        { "next", FIELD_TEXT, offsetof(MounterResult, next), ANSWER_NEXT },
        { "fsType", FIELD_STRING, offsetof(MounterResult, fs_type), ANSWER_FILE_SYSTEM },
        { "uuid", FIELD_STRING, offsetof(MounterResult, uuid), ANSWER_FILE_SYSTEM },
        { "mountId", FIELD_NUMBER, offsetof(MounterResult, mount_id), ANSWER_MOUNT_ID },
        { "layers", FIELD_SHORT, offsetof(MounterResult, layers), ANSWER_LAYERS },
        { "size", FIELD_NUMBER, offsetof(MounterResult, size), ANSWER_SIZE },
        { "gone", FIELD_BOOL, offsetof(MounterResult, gone), ANSWER_GONE },
        { "attached", FIELD_BOOL, offsetof(MounterResult, attached), ANSWER_PRESENCE },
        { "staged", FIELD_BOOL, offsetof(MounterResult, staged), ANSWER_PRESENCE },
        { "published", FIELD_BOOL, offsetof(MounterResult, published), ANSWER_PRESENCE },
        { "healthy", FIELD_BOOL, offsetof(MounterResult, healthy), ANSWER_HEALTH },
        { "corrupted", FIELD_BOOL, offsetof(MounterResult, corrupted), ANSWER_PRESENCE },
        { "staleTargets", FIELD_BYTES_LIST, offsetof(MounterResult, stale_targets), ANSWER_PRESENCE },
        { "devices", FIELD_DEVICES, offsetof(MounterResult, devices), ANSWER_DEVICES },
        { "holders", FIELD_STRV, offsetof(MounterResult, holders), ANSWER_HOLDERS },
        { "reason", FIELD_STRING, offsetof(MounterResult, reason), ANSWER_HEALTH },
        { "totalBytes", FIELD_NUMBER, offsetof(MounterResult, total_bytes), ANSWER_USAGE },
        { "availableBytes", FIELD_NUMBER, offsetof(MounterResult, available_bytes), ANSWER_USAGE },
        { "usedBytes", FIELD_NUMBER, offsetof(MounterResult, used_bytes), ANSWER_USAGE },
        { "totalInodes", FIELD_NUMBER, offsetof(MounterResult, total_inodes), ANSWER_USAGE },
        { "freeInodes", FIELD_NUMBER, offsetof(MounterResult, free_inodes), ANSWER_USAGE },
        { "usedInodes", FIELD_NUMBER, offsetof(MounterResult, used_inodes), ANSWER_USAGE },
};

void mounter_volume_done(MounterVolume *v)
{
        for (size_t i = 0; i < ELEMENTSOF(request_fields); i++) {
                void *field = (char *) v + request_fields[i].offset;
                if (request_fields[i].type == FIELD_STRING || request_fields[i].type == FIELD_BYTES)
                        free(*(char **) field);
                else if (request_fields[i].type == FIELD_STRMAP)
                        strmap_erase(field);
                else if (request_fields[i].type == FIELD_STRV)
                        strv_free(*(char ***) field);
        }
        *v = (MounterVolume) {};
}
void mounter_result_done(MounterResult *r)
{
        free(r->identity);
        free(r->key);
        free(r->group);
        free(r->device);
        free(r->fs_type);
        free(r->uuid);
        free(r->reason);
        strv_free(r->holders);
        strv_free(r->stale_targets);
        for (size_t i = 0; i < r->n_devices; i++) {
                free(r->devices[i].key);
                free(r->devices[i].identity);
                free(r->devices[i].device);
                free(r->devices[i].image);
        }
        free(r->devices);
        *r = (MounterResult) {};
}
/* --- the request --- */

typedef struct Decoding {
        MounterVolume *volume;
        const char *key; /* the one that failed */
        unsigned seen;   /* bit i: request_fields[i] */
} Decoding;

static int field_read(const struct RequestField *f, sd_bus_message *msg, void *field)
{
        const char *s;
        int b, r;

        switch (f->type) {
        case FIELD_STRING:
                r = sd_bus_message_read_basic(msg, 's', &s);
                return r < 0 ? r : str_replace(field, s);
        case FIELD_BYTES:
                return bus_read_bytes(msg, field);
        case FIELD_STRMAP:
                return bus_read_strmap(msg, field);
        case FIELD_STRV:
                return bus_read_strv(msg, field);
        case FIELD_BOOL:
                r = sd_bus_message_read_basic(msg, 'b', &b);
                if (r >= 0)
                        *(bool *) field = b;
                return r;
        case FIELD_NUMBER:
                return sd_bus_message_read_basic(msg, 't', field);
        case FIELD_TEXT:
        case FIELD_SHORT:
        case FIELD_DEVICES:
        case FIELD_BYTES_LIST:
                break;
        }
        return -EINVAL;
}

static int request_set(const char *key, const char *type, sd_bus_message *msg, void *userdata)
{
        Decoding *d = userdata;

        for (unsigned i = 0; i < ELEMENTSOF(request_fields); i++) {
                const struct RequestField *f = &request_fields[i];
                if (strcmp(key, f->key) != 0)
                        continue;
                d->key = f->key;
                if (strcmp(type, field_signatures[f->type]) != 0)
                        return -EBADMSG;
                if (d->seen & 1U << i)
                        return -EEXIST;
                d->seen |= 1U << i;
                if (f->offset == offsetof(MounterVolume, secrets)) {
                        (void) sd_bus_message_sensitive(msg);
                        (void) prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L); /* no core with secrets in it */
                }
                int r = field_read(f, msg, (char *) d->volume + f->offset);
                if (r >= 0)
                        d->key = NULL;
                return r < 0 ? r : 0;
        }
        return 0;
}

int request_read(sd_bus_message *msg, MounterVolume *v, Error *err)
{
        Decoding d = { .volume = v };
        int r = bus_read_dict(msg, request_set, &d);

        if (r == -ENOMEM)
                return error_oom(err);
        if (r < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, r, "Cannot read %s%s of the request: %s",
                                 d.key ? "key " : "the keys", d.key ? d.key : "", strerror(-r));
        if (!v->fs_type && str_replace(&v->fs_type, "") < 0)
                return error_oom(err);
        return 0;
}

/* --- the answer --- */

static int device_write(sd_bus_message *msg, const MounterDevice *d)
{
        int r = sd_bus_message_open_container(msg, 'a', "{sv}");

        if (r >= 0)
                r = bus_append_entry(msg, "key", "s", d->key);
        if (r >= 0)
                r = bus_append_entry(msg, "identity", "s", d->identity);
        if (r >= 0)
                r = bus_append_entry(msg, "device", "s", d->device);
        if (r >= 0)
                r = bus_append_entry(msg, "deviceNumber", "t", (uint64_t) d->device_number);
        if (r >= 0)
                r = bus_append_entry(msg, "foreign", "b", (int) d->foreign);
        if (r >= 0)
                r = bus_append_entry(msg, "readOnly", "b", (int) d->read_only);
        if (r >= 0)
                r = bus_append_entry(msg, "image", "s", str_or(d->image, ""));
        return r < 0 ? r : sd_bus_message_close_container(msg);
}

static int devices_write(sd_bus_message *msg, const char *key, const MounterResult *result)
{
        int r = sd_bus_message_open_container(msg, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append_basic(msg, 's', key);
        if (r >= 0)
                r = sd_bus_message_open_container(msg, 'v', "aa{sv}");
        if (r >= 0)
                r = sd_bus_message_open_container(msg, 'a', "a{sv}");
        for (size_t i = 0; i < result->n_devices && r >= 0; i++)
                r = device_write(msg, &result->devices[i]);
        for (unsigned i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(msg);
        return r;
}

static int field_write(sd_bus_message *msg, const char *key, FieldType type, const void *field)
{
        char *const *list;
        const char *s;

        switch (type) {
        case FIELD_STRING:
        case FIELD_TEXT:
                s = *(const char *const *) field;
                return s ? bus_append_entry(msg, key, "s", s) : 0;
        case FIELD_BOOL:
                return bus_append_entry(msg, key, "b", (int) *(const bool *) field);
        case FIELD_NUMBER:
                return bus_append_entry(msg, key, "t", *(const uint64_t *) field);
        case FIELD_SHORT:
                return bus_append_entry(msg, key, "u", *(const unsigned *) field);
        case FIELD_STRV:
                return bus_append_entry_strv(msg, key, *(char *const *const *) field);
        case FIELD_BYTES_LIST:
                list = *(char *const *const *) field;
                return list ? bus_append_entry_bytes_list(msg, key, list) : 0;
        case FIELD_BYTES:
        case FIELD_STRMAP:
        case FIELD_DEVICES:
                break;
        }
        return -EINVAL;
}

int result_send(sd_bus_message *call, unsigned answer, const MounterResult *result)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(call, &reply);
        if (r < 0)
                return r;

        r = sd_bus_message_open_container(reply, 'a', "{sv}");
        for (size_t i = 0; r >= 0 && i < ELEMENTSOF(result_fields); i++)
                if (result_fields[i].answer & answer)
                        r = result_fields[i].type == FIELD_DEVICES
                                            ? devices_write(reply, result_fields[i].key, result)
                                            : field_write(reply, result_fields[i].key, result_fields[i].type,
                                                          (const char *) result + result_fields[i].offset);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}
