/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Volumes on D-Bus. One table of properties serves both the objects and the dictionaries, so the two cannot
 * differ. Runs in berthd; reads its own objects only. No secret can appear: a Volume holds none.
 */

#include "daemon/volume-properties.h"

#include <string.h>

#include "protocol/bus-util.h"
#include "protocol/names.h"

typedef int (*PropertyWriter)(sd_bus_message *m, const Volume *v);

static int write_key(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", v->key);
}
static int write_identity(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", v->identity);
}
static int write_driver(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", v->driver);
}
static int write_state(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", volume_state_to_string(v->state));
}
static int write_step(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->step, ""));
}
static int write_source(sd_bus_message *m, const Volume *v)
{
        return bus_append_strmap(m, &v->source);
}
static int write_device(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->device, ""));
}
static int write_fs_type(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->fs_type, ""));
}
static int write_uuid(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->uuid, ""));
}
static int write_read_only(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "b",
                                     (int) (v->state == VOLUME_STAGED ? v->stage_read_only : v->read_only));
}
static int write_staging_path(sd_bus_message *m, const Volume *v)
{
        _cleanup_free_ char *path = volume_staging_path(v);

        return path ? sd_bus_message_append(m, "s", path) : -ENOMEM;
}
static int write_attachments(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append_strv(m, v->attachments);
}
static int write_last_error(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->last_error, ""));
}

static int write_health(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", volume_health_to_string(v->health));
}
static int write_health_reason(sd_bus_message *m, const Volume *v)
{
        return sd_bus_message_append(m, "s", str_or(v->health_reason, ""));
}

static int append_publish(sd_bus_message *m, const Publish *p)
{
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0)
                r = bus_append_entry_bytes(m, "target", p->target);
        if (r >= 0)
                r = bus_append_entry(m, "readOnly", "b", (int) p->read_only);
        if (r >= 0)
                r = bus_append_entry(m, "podName", "s", str_or(p->pod_name, ""));
        if (r >= 0)
                r = bus_append_entry(m, "podNamespace", "s", str_or(p->pod_namespace, ""));
        if (r >= 0)
                r = bus_append_entry(m, "podUid", "s", str_or(p->pod_uid, ""));
        if (r >= 0)
                r = bus_append_entry(m, "mountId", "t", p->mount_id);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int write_publishes(sd_bus_message *m, const Volume *v)
{
        const Publish *p;
        int r = sd_bus_message_open_container(m, 'a', "a{sv}");

        TAILQ_FOREACH(p, &v->publishes, of_volume)
                if (r >= 0)
                        r = append_publish(m, p);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static const struct Property {
        const char *name, *type;
        PropertyWriter write;
} properties[] = {
        { "Key", "s", write_key },
        { "Identity", "s", write_identity },
        { "Driver", "s", write_driver },
        { "State", "s", write_state },
        { "Step", "s", write_step },
        { "Source", "a{ss}", write_source },
        { "Device", "s", write_device },
        { "FsType", "s", write_fs_type },
        { "Uuid", "s", write_uuid },
        { "ReadOnly", "b", write_read_only },
        { "StagingPath", "s", write_staging_path },
        { "Attachments", "as", write_attachments },
        { "Publishes", "aa{sv}", write_publishes },
        { "LastError", "s", write_last_error },
        { "Health", "s", write_health },
        { "HealthReason", "s", write_health_reason },
};

int volume_append_properties(sd_bus_message *m, const Volume *v)
{
        for (size_t i = 0; i < ELEMENTSOF(properties); i++) {
                int r = sd_bus_message_open_container(m, 'e', "sv");

                if (r >= 0)
                        r = sd_bus_message_append(m, "s", properties[i].name);
                if (r >= 0)
                        r = sd_bus_message_open_container(m, 'v', properties[i].type);
                if (r >= 0)
                        r = properties[i].write(m, v);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
                if (r >= 0)
                        r = sd_bus_message_close_container(m);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int get_property(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        for (size_t i = 0; i < ELEMENTSOF(properties); i++)
                if (strcmp(properties[i].name, property) == 0)
                        return properties[i].write(reply, userdata);
        return -ENOENT;
}

static const sd_bus_vtable volume_vtable[] = {
        SD_BUS_VTABLE_START(0),
        SD_BUS_PROPERTY("Key", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Identity", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Driver", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("State", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("Step", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("Source", "a{ss}", get_property, 0, 0),
        SD_BUS_PROPERTY("Device", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("FsType", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("Uuid", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("ReadOnly", "b", get_property, 0, 0),
        SD_BUS_PROPERTY("StagingPath", "s", get_property, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Attachments", "as", get_property, 0, 0),
        SD_BUS_PROPERTY("Publishes", "aa{sv}", get_property, 0, 0),
        SD_BUS_PROPERTY("LastError", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("Health", "s", get_property, 0, 0),
        SD_BUS_PROPERTY("HealthReason", "s", get_property, 0, 0),
        SD_BUS_VTABLE_END,
};

static int find_volume(sd_bus *bus, const char *path, const char *interface, void *userdata, void **ret_found,
                       sd_bus_error *e)
{
        _cleanup_free_ char *key = NULL;
        int r = sd_bus_path_decode(path, VOLUME_PATH_PREFIX, &key);

        if (r <= 0)
                return r;
        *ret_found = volume_find(userdata, key);
        return *ret_found != NULL;
}

int volume_properties_add(Manager *m, sd_bus *bus)
{
        return sd_bus_add_fallback_vtable(bus, NULL, VOLUME_PATH_PREFIX, VOLUME_INTERFACE, volume_vtable,
                                          find_volume, m);
}
