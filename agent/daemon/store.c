/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Records as JSON (jansson). Runs in berthd on its own files on tmpfs; a write costs some 15 µs. A record is
 * data that a former berthd wrote, yet it is checked like a request: whatever is odd sets it aside.
 */

#include "daemon/store.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/escape.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "daemon/mounter-pool.h"
#include "daemon/step.h"
#include "protocol/client.h"
#include "protocol/messages.h"
#include "protocol/names.h"

#define RECORD_VERSION 1
#define RECORD_SIZE_MAX (4U * 1024U * 1024U)
#define SET_ASIDE_MAX 1000U

static void json_unref(json_t *o)
{
        json_decref(o);
}
DEFINE_POINTER_CLEANUP(json_t *, json_unref);
#define _cleanup_json_ _cleanup_(json_unrefp)

static int set_string(json_t *o, const char *key, const char *value)
{
        return value ? json_object_set_new_nocheck(o, key, json_string(value)) : 0;
}

static json_t *strv_to_json(char *const *v)
{
        json_t *a = json_array();

        STRV_FOREACH (s, v)
                json_array_append_new(a, json_string(*s));
        return a;
}

static json_t *publish_to_json(const Publish *p)
{
        _cleanup_free_ char *target = bytes_escape(p->target);
        json_t *o = json_object();

        if (!target || !o || set_string(o, "target", target) < 0 ||
            json_object_set_new(o, "readOnly", json_boolean(p->read_only)) < 0 ||
            (p->replacing && json_object_set_new(o, "stale", json_true()) < 0) ||
            set_string(o, "podName", p->pod_name) < 0 || set_string(o, "podNamespace", p->pod_namespace) < 0 ||
            set_string(o, "podUid", p->pod_uid) < 0 || set_string(o, "subDir", p->sub_dir) < 0 ||
            json_object_set_new(o, "mountId", json_integer((json_int_t) p->mount_id)) < 0) {
                json_decref(o);
                return NULL;
        }
        return o;
}

static int add_lists(json_t *o, const Volume *v)
{
        json_t *source = json_object(), *publishes = json_array();
        Publish *p;
        int r = 0;

        STRMAP_FOREACH (e, &v->source)
                r |= set_string(source, e->key, e->value);
        TAILQ_FOREACH (p, &v->publishes, of_volume)
                r |= json_array_append_new(publishes, publish_to_json(p));

        r |= json_object_set_new(o, "source", source);
        r |= json_object_set_new(o, "publishes", publishes);
        r |= json_object_set_new(o, "mountOptions", strv_to_json(v->mount_options));
        r |= json_object_set_new(o, "attachments", strv_to_json(v->attachments));
        return r;
}

/* What a later minor version wrote, and this one would lose in rewriting. */
static int add_unknown(json_t *o, const Volume *v)
{
        if (!v->unknown)
                return 0;
        _cleanup_json_ json_t *unknown = json_loads(v->unknown, 0, NULL);
        return unknown ? json_object_update_missing(o, unknown) : -1;
}

char *store_serialize(const Volume *v)
{
        _cleanup_json_ json_t *o = json_object();
        int r = 0;

        if (!o)
                return NULL;
        r |= json_object_set_new(o, "version", json_integer(RECORD_VERSION));
        r |= set_string(o, "key", v->key);
        r |= set_string(o, "identity", v->identity);
        r |= set_string(o, "driver", v->driver);
        r |= set_string(o, "fsType", v->fs_type);
        r |= set_string(o, "uuid", v->uuid);
        r |= json_object_set_new(o, "readOnly", json_boolean(v->read_only));
        r |= json_object_set_new(o, "stageReadOnly", json_boolean(v->stage_read_only));
        r |= json_object_set_new(o, "stageMountId", json_integer((json_int_t) v->stage_mount_id));
        r |= json_object_set_new(o, "foreign", json_boolean(v->foreign));
        if (v->rebuilt)
                r |= json_object_set_new(o, "rebuilt", json_true());
        if (v->shared)
                r |= json_object_set_new(o, "shared", json_true());
        r |= set_string(o, "group", v->group);
        r |= set_string(o, "device", v->device);
        r |= json_object_set_new(o, "deviceNumber", json_integer((json_int_t) v->device_number));
        if (v->unstage_since_usec > 0)
                r |= json_object_set_new(o, "unstageSince", json_integer((json_int_t) v->unstage_since_usec));
        r |= set_string(o, "state", volume_state_to_string(v->state));
        r |= set_string(o, "step", str_or(v->step, ""));
        r |= add_lists(o, v);
        r |= add_unknown(o, v);
        return r == 0 ? json_dumps(o, JSON_COMPACT) : NULL;
}

static int record_name(const Volume *v, char ret[static NAME_MAX + 1])
{
        return snprintf(ret, NAME_MAX + 1, "%s.json", v->key) > NAME_MAX ? -ENAMETOOLONG : 0;
}

int store_write(Volume *v)
{
        _cleanup_free_ char *text = store_serialize(v);
        char name[NAME_MAX + 1];
        int r = record_name(v, name);

        if (!text)
                return -ENOMEM;
        if (r >= 0)
                r = write_file_atomic_at(v->manager->records_fd, name, text, strlen(text), 0);
        if (r >= 0)
                v->recorded = true;
        return r;
}

/*
 * A detach takes the lock file with it, but a device may also vanish by itself. Before the record, so that no crash leaves
 * it behind; one that somebody holds is theirs.
 */
static void remove_lock_file(const Volume *v)
{
        _cleanup_close_ int locks_fd = openat(v->manager->runtime_fd, "locks", O_PATH | O_DIRECTORY | O_CLOEXEC);

        if (locks_fd < 0 || faccessat(locks_fd, v->key, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return;
        _cleanup_close_ int lock_fd = lock_file_take(locks_fd, v->key);
        if (lock_fd >= 0)
                (void) lock_file_remove(locks_fd, v->key);
}

int store_remove(Volume *v)
{
        char name[NAME_MAX + 1];
        int r = record_name(v, name);

        if (r < 0 || !v->recorded)
                return r;
        remove_lock_file(v);
        if (unlinkat(v->manager->records_fd, name, 0) < 0 && errno != ENOENT)
                return -errno;
        v->recorded = false;
        FAULT_POINT("agent.record-removed");
        return 0;
}

/* A record as it is read: what nobody has asked for is left in the rest. */
typedef struct Record {
        json_t *object;
        json_t *rest; /* NULL: not of interest */
} Record;

static json_t *field(const Record *r, const char *key)
{
        (void) json_object_del(r->rest, key);
        return json_object_get(r->object, key);
}

static int copy_string(const Record *o, const char *key, char **ret)
{
        const json_t *value = field(o, key);

        if (!value)
                return 0;
        return json_is_string(value) ? str_replace(ret, json_string_value(value)) : -EBADMSG;
}

static int copy_strv(const Record *o, const char *key, char ***ret)
{
        json_t *array = field(o, key), *value;
        size_t i;

        if (array && !json_is_array(array))
                return -EBADMSG;
        json_array_foreach (array, i, value) {
                int r = json_is_string(value) ? strv_append(ret, json_string_value(value)) : -EBADMSG;
                if (r < 0)
                        return r;
        }
        return 0;
}

static int parse_publish(Volume *v, json_t *object)
{
        const Record publish = { .object = object }, *o = &publish;
        const char *escaped = json_string_value(field(o, "target"));
        const json_t *mount_id = field(o, "mountId");
        Publish *p;

        if (!escaped || (mount_id && !json_is_integer(mount_id)))
                return -EBADMSG;
        _cleanup_free_ char *target = bytes_unescape(escaped);
        if (!target)
                return -ENOMEM;
        if (target[0] != '/' || publish_find(v->manager, target))
                return -EBADMSG;

        int r = publish_new(v, target, &p);
        if (r < 0)
                return r;
        p->read_only = json_is_true(field(o, "readOnly"));
        p->stale = p->replacing = json_is_true(field(o, "stale"));
        p->mount_id = (uint64_t) json_integer_value(mount_id);
        r = copy_string(o, "podName", &p->pod_name);
        if (r >= 0)
                r = copy_string(o, "podNamespace", &p->pod_namespace);
        if (r >= 0)
                r = copy_string(o, "subDir", &p->sub_dir);
        return r < 0 ? r : copy_string(o, "podUid", &p->pod_uid);
}

static int parse_volume(Volume *v, const Record *o)
{
        json_t *source = field(o, "source"), *publishes = field(o, "publishes"), *value;
        const char *step = json_string_value(field(o, "step")), *name;
        VolumeState state = volume_state_from_string(json_string_value(field(o, "state")));
        size_t i;
        int r;

        if (state < 0 || !json_is_object(source) || (publishes && !json_is_array(publishes)))
                return -EBADMSG;
        json_object_foreach (source, name, value) {
                r = json_is_string(value) ? strmap_set(&v->source, name, json_string_value(value)) : -EBADMSG;
                if (r < 0)
                        return r;
        }
        if ((r = copy_string(o, "fsType", &v->fs_type)) < 0 || (r = copy_string(o, "uuid", &v->uuid)) < 0 ||
            (r = copy_string(o, "device", &v->device)) < 0 || (r = copy_string(o, "group", &v->group)) < 0 ||
            (r = copy_strv(o, "mountOptions", &v->mount_options)) < 0 ||
            (r = copy_strv(o, "attachments", &v->attachments)) < 0)
                return r;
        v->read_only = json_is_true(field(o, "readOnly"));
        v->stage_read_only = json_is_true(field(o, "stageReadOnly"));
        v->stage_mount_id = (uint64_t) json_integer_value(field(o, "stageMountId"));
        v->foreign = json_is_true(field(o, "foreign"));
        v->rebuilt = json_is_true(field(o, "rebuilt"));
        v->shared = json_is_true(field(o, "shared"));
        v->device_number = (dev_t) json_integer_value(field(o, "deviceNumber"));
        v->unstage_since_usec = (uint64_t) json_integer_value(field(o, "unstageSince"));
        if (v->unstage_since_usec > now_boottime_usec())
                v->unstage_since_usec = 0; /* of no time that has been: it counts anew */
        v->step = step && *step ? step_from_string(step) : NULL;
        v->recorded = true;
        v->state = state; /* not volume_set_state(): nothing changes, this is where it was */

        json_array_foreach (publishes, i, value) {
                r = parse_publish(v, value);
                if (r < 0)
                        return r;
        }
        if (!TAILQ_EMPTY(&v->publishes))
                v->unstage_since_usec = 0; /* used again since; whoever wrote that may not have known the key, or was killed */
        return 0;
}

static int take_unknown(Volume *v, json_t *rest)
{
        if (json_object_size(rest) == 0)
                return 0;
        v->unknown = json_dumps(rest, JSON_COMPACT);
        return v->unknown ? 0 : -ENOMEM;
}

/* The key names files and directories, so it must be one that a mounter could have given. */
bool volume_key_is_valid(const char *key)
{
        size_t n = strlen(key);

        return n > 0 && n <= VOLUME_KEY_MAX && key[0] != '.' &&
               strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

int store_parse(Manager *m, const char *text, size_t size, Volume **ret, Error *err)
{
        json_error_t e;
        _cleanup_json_ json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, &e), *rest = json_copy(object);
        const Record record = { object, rest }, *o = &record;
        if (!object)
                return error_set(err, ERROR_INTERNAL, EBADMSG, "not JSON: %s", e.text);
        if (!rest)
                return error_oom(err);

        const json_t *version = field(o, "version");
        if (!json_is_integer(version))
                return error_set(err, ERROR_INTERNAL, EBADMSG, "no version");
        if (json_integer_value(version) != RECORD_VERSION)
                return error_set(err, ERROR_INTERNAL, EBADMSG, "version %" JSON_INTEGER_FORMAT " is not known",
                                 json_integer_value(version));

        const char *key = json_string_value(field(o, "key"));
        const char *identity = json_string_value(field(o, "identity"));
        const char *driver = json_string_value(field(o, "driver"));
        if (!key || !identity || !driver || !volume_key_is_valid(key))
                return error_set(err, ERROR_INTERNAL, EBADMSG, "key, identity or driver is missing or malformed");
        if (!pool_kind_is_valid(driver))
                return error_set(err, ERROR_INTERNAL, EBADMSG, "'%.64s' is not a name of a driver", driver);
        if (volume_find(m, key))
                return error_set(err, ERROR_INTERNAL, EEXIST, "key %s stands in another record too", key);

        Volume *v;
        int r = volume_new(m, key, identity, driver, &v);
        if (r < 0)
                return error_oom(err);
        r = parse_volume(v, o);
        if (r >= 0)
                r = take_unknown(v, rest);
        if (r < 0) {
                volume_free(v);
                return r == -ENOMEM ? error_oom(err)
                                    : error_set(err, ERROR_INTERNAL, r, "a value has the wrong type");
        }
        *ret = v;
        return 0;
}

static int load_one(Manager *m, const char *name, Error *err)
{
        _cleanup_free_ char *text = NULL;
        struct stat st;
        size_t size;
        Volume *v;

        /* opening a pipe would wait for its other end, and what a link leads to may lie on storage */
        if (fstatat(m->records_fd, name, &st, AT_SYMLINK_NOFOLLOW) >= 0 && !S_ISREG(st.st_mode))
                return error_set(err, ERROR_INTERNAL, EBADMSG, "no regular file");
        int r = read_file_at(m->records_fd, name, RECORD_SIZE_MAX, &text, &size);
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "cannot be read: %s", strerror(-r));

        r = store_parse(m, text, size, &v, err);
        if (r < 0)
                return r;
        if (strncmp(name, v->key, strlen(v->key)) != 0 || strcmp(name + strlen(v->key), ".json") != 0) {
                r = error_set(err, ERROR_INTERNAL, EBADMSG, "its key %s does not fit its name", v->key);
                volume_free(v);
                return r;
        }
        return 0;
}

/* Under a name of its own: an earlier one that was set aside is evidence too. */
static void set_aside(Manager *m, const char *name, const char *why)
{
        char aside[NAME_MAX + 16];

        for (unsigned i = 0; i < SET_ASIDE_MAX; i++) {
                if (i == 0)
                        snprintf(aside, sizeof(aside), "%s.bad", name);
                else
                        snprintf(aside, sizeof(aside), "%s.bad%u", name, i);
                if (renameat2(m->records_fd, name, m->records_fd, aside, RENAME_NOREPLACE) >= 0) {
                        log_event(LOG_WARNING, EVENT_RECORD_SET_ASIDE, "Record %s set aside as %s: %s", name, aside, why);
                        return;
                }
                if (errno != EEXIST)
                        break;
        }
        log_error("Record %s is spoiled (%s) and cannot be set aside: %m", name, why);
}

int store_load(Manager *m, Error *err)
{
        int fd = openat(m->records_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_closedir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        struct dirent *d;

        if (!dir) {
                close_fd(fd);
                return error_set(err, ERROR_RECORD_FAILED, errno, "Cannot list the records: %m");
        }
        while ((d = readdir(dir))) {
                _cleanup_error_ Error e = ERROR_INIT;
                size_t n = strlen(d->d_name);

                /* nobody else writes here: what has a temporary name was not finished when berthd was killed */
                if (d->d_name[0] == '.' && n > 4 && strcmp(d->d_name + n - 4, ".tmp") == 0)
                        (void) unlinkat(m->records_fd, d->d_name, 0);
                if (d->d_name[0] == '.' || n < 6 || strcmp(d->d_name + n - 5, ".json") != 0)
                        continue;
                if (load_one(m, d->d_name, &e) < 0)
                        set_aside(m, d->d_name, str_or(e.text, ""));
        }
        return 0;
}
