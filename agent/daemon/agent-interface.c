/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Requests from D-Bus to operations and back. Every string that comes in is checked here or in target_parse() before anything
 * else sees it (promise 5). Runs in berthd; answers at once or leaves the answer to the operation.
 */

#include "daemon/agent-interface.h"

#include <string.h>
#include <sys/prctl.h>

#include "base/escape.h"
#include "base/log.h"
#include "build.h"
#include "daemon/drain.h"
#include "daemon/listener.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/reconcile/watch.h"
#include "daemon/store.h"
#include "daemon/system-bus.h"
#include "daemon/volume-properties.h"
#include "protocol/bus-util.h"
#include "protocol/names.h"
#include "protocol/target.h"

/* Answers with err and clears it; what a method handler returns. */
static int reply_with(sd_bus_message *call, Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

        log_debug("%s refused: %s", sd_bus_message_get_member(call), str_or(err->text, ""));
        error_to_bus(err, &e);
        return sd_bus_reply_method_error(call, &e);
}

static int request_malformed(int r, const char *what, Error *err)
{
        switch (r) {
        case -E2BIG:
                return error_set(err, ERROR_INVALID_ARGUMENT, E2BIG,
                                 "%s is too large: at most %u entries of %u bytes are possible", what,
                                 REQUEST_OPTIONS_MAX, REQUEST_STRING_MAX);
        case -EEXIST:
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "%s names a key twice", what);
        case -ENOMEM:
                return error_oom(err);
        default:
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "%s has the wrong type", what);
        }
}

/* ---- reading requests ---- */

typedef struct OptionReader {
        const Manager *manager;
        MountParams *params;
        unsigned seen; /* bit i: option_names[i] */
        Error *err;
} OptionReader;

static const char *const option_names[] = { "fsType",       "volumeName", "podName",      "podNamespace",
                                            "podUid",       "readOnly",   "mountOptions", "secrets" };

static int option_once(OptionReader *reader, const char *key)
{
        for (unsigned i = 0; i < ELEMENTSOF(option_names); i++) {
                if (strcmp(option_names[i], key) != 0)
                        continue;
                if (reader->seen & 1U << i)
                        return error_set(reader->err, ERROR_INVALID_ARGUMENT, EINVAL, "Option %s stands twice",
                                         key);
                reader->seen |= 1U << i;
        }
        return 0;
}

static int read_string_option(sd_bus_message *m, const char *key, const char *type, char **field, Error *err)
{
        const char *s;

        if (strcmp(type, "s") != 0 || sd_bus_message_read_basic(m, 's', &s) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option %s must be a string", key);
        if (strlen(s) > REQUEST_STRING_MAX)
                return error_set(err, ERROR_INVALID_ARGUMENT, E2BIG, "Option %s is longer than %u bytes", key,
                                 REQUEST_STRING_MAX);
        return str_replace(field, s) < 0 ? error_oom(err) : 0;
}

static int set_option(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        OptionReader *reader = userdata;
        MountParams *p = reader->params;
        const struct {
                const char *key;
                char **field;
        } strings[] = {
                        {"fsType", &p->fs_type},   {"volumeName", &p->volume_name},
                        {"podName", &p->pod_name}, {"podNamespace", &p->pod_namespace},
                        {"podUid", &p->pod_uid},
        };
        int r = option_once(reader, key);

        if (r < 0)
                return r;
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                if (strcmp(strings[i].key, key) == 0)
                        return read_string_option(m, key, type, strings[i].field, reader->err);

        if (strcmp(key, "readOnly") == 0) {
                int b;
                if (strcmp(type, "b") != 0 || sd_bus_message_read_basic(m, 'b', &b) < 0)
                        return error_set(reader->err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Option readOnly must be a boolean");
                p->read_only = b;
                return 0;
        }
        if (strcmp(key, "mountOptions") == 0) {
                r = strcmp(type, "as") == 0 ? bus_read_strv(m, &p->mount_options) : -EBADMSG;
                return r < 0 ? request_malformed(r, "Option mountOptions", reader->err) : 0;
        }
        if (strcmp(key, "secrets") == 0 && connection_is_relayed(reader->manager, sd_bus_message_get_bus(m)))
                return error_set(reader->err, ERROR_PERMISSION_DENIED, EACCES,
                                 "Secrets are not taken from the system bus, where others may see them");
        if (strcmp(key, "secrets") == 0) {
                /* whatever LimitCORE= says, and a core_pattern with a pipe does not ask it */
                (void) prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
                r = strcmp(type, "a{ss}") == 0 ? bus_read_strmap(m, &p->secrets) : -EBADMSG;
                return r < 0 ? request_malformed(r, "Option secrets", reader->err) : 0;
        }
        return error_set(reader->err, ERROR_UNKNOWN_OPTION, EINVAL, "Option '%s' is not known", key);
}

static int read_target(sd_bus_message *m, Operation *op, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        _cleanup_free_ char *path = NULL;
        int r = bus_read_bytes(m, &path);

        if (r < 0)
                return request_malformed(r, "The target", err);
        r = target_parse(path, &op->manager->settings, &t, err);
        if (r < 0)
                return r;
        op->target = TAKE_PTR(t.path);
        /* one that is not text cannot stand in records and answers; a pod's UID always is */
        if (t.pod_uid && bytes_are_text(t.pod_uid))
                op->params.pod_uid = TAKE_PTR(t.pod_uid);
        return str_replace(&op->name, op->target) < 0 ? error_oom(err) : 0;
}

static int read_source(sd_bus_message *m, Operation *op, Error *err)
{
        OptionReader reader = { .manager = op->manager, .params = &op->params, .err = err };
        const char *driver;
        int r = sd_bus_message_read_basic(m, 's', &driver);

        if (r < 0)
                return request_malformed(r, "The driver", err);
        if (!pool_kind_is_valid(driver))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%.64s' is not a name of a driver",
                                 driver);
        if (str_replace(&op->params.driver, driver) < 0)
                return error_oom(err);
        r = bus_read_strmap(m, &op->params.source);
        if (r < 0)
                return request_malformed(r, "The source", err);
        r = bus_read_dict(m, set_option, &reader);
        if (r < 0)
                return err && error_is_set(err) ? r : request_malformed(r, "The dictionary of options", err);
        return 0;
}

/* The driver in whose directory a target lies, for a target without a record. */
static int guess_driver(Operation *op)
{
        const char *volumes = op->target ? strstr(op->target, "/volumes/") : NULL;
        const char *tilde = volumes ? strchr(volumes + strlen("/volumes/"), '~') : NULL;
        size_t n = tilde ? strcspn(tilde + 1, "/") : 0;
        char kind[17];
        Pool *pool = NULL;

        if (n > 0 && n < sizeof(kind)) {
                memcpy(kind, tilde + 1, n);
                kind[n] = 0;
                HASH_FIND_STR(op->manager->pools, kind, pool);
        }
        if (!pool)
                pool = op->manager->pools;
        return str_replace(&op->params.driver, pool ? pool->kind : "loop");
}

/* ---- methods ---- */

DEFINE_POINTER_CLEANUP(Operation *, operation_free);
#define _cleanup_operation_ _cleanup_(operation_freep)

static int method_begin(sd_bus_message *call, Manager *m, OperationType type, Operation **ret, Error *err)
{
        connection_touch(m, sd_bus_message_get_bus(call));
        return operation_new(m, type, ret) < 0 ? error_oom(err) : 0;
}

static int refuse_while_draining(const Manager *m, Error *err)
{
        return drain_is_running(m) ? error_set(err, ERROR_SHUTTING_DOWN, ESHUTDOWN, "The node is being drained") : 0;
}

static int method_mount(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_MOUNT, &op, &err) < 0 || read_target(call, op, &err) < 0 ||
            refuse_while_draining(userdata, &err) < 0 || read_source(call, op, &err) < 0)
                return reply_with(call, &err);
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_unmount(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_UNMOUNT, &op, &err) < 0 || read_target(call, op, &err) < 0)
                return reply_with(call, &err);
        if (guess_driver(op) < 0) {
                error_oom(&err);
                return reply_with(call, &err);
        }
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int read_volume_name(Operation *op, const char *name, Error *err)
{
        if (!name || !*name)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "A volumeName is required");
        return asprintf(&op->name, "name:%s", name) < 0 || str_replace(&op->volume_name, name) < 0
                               ? error_oom(err)
                               : 0;
}

static int method_attach(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_ATTACH, &op, &err) < 0 ||
            refuse_while_draining(userdata, &err) < 0 || read_source(call, op, &err) < 0 ||
            read_volume_name(op, op->params.volume_name, &err) < 0)
                return reply_with(call, &err);
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_detach(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        const char *name = NULL;

        if (method_begin(call, userdata, OPERATION_DETACH, &op, &err) < 0)
                return reply_with(call, &err);
        (void) sd_bus_message_read_basic(call, 's', &name);
        if (read_volume_name(op, name, &err) < 0)
                return reply_with(call, &err);
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_expand(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_EXPAND, &op, &err) < 0 || read_target(call, op, &err) < 0)
                return reply_with(call, &err);
        if (sd_bus_message_read_basic(call, 't', &op->size) < 0) {
                request_malformed(-EBADMSG, "The size", &err);
                return reply_with(call, &err);
        }
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_stats(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_STATS, &op, &err) < 0 || read_target(call, op, &err) < 0)
                return reply_with(call, &err);
        free(TAKE_PTR(op->name)); /* looking takes no lock */
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_fence(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;

        if (method_begin(call, userdata, OPERATION_FENCE, &op, &err) < 0 || read_source(call, op, &err) < 0)
                return reply_with(call, &err);
        operation_submit(TAKE_PTR(op), call); /* without a lock: a Mount may hold all of them, and wait for just this */
        return 1;
}

static int method_forget(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        const char *key;
        int formatted;

        if (method_begin(call, userdata, OPERATION_FORGET, &op, &err) < 0)
                return reply_with(call, &err);
        if (sd_bus_message_read(call, "sb", &key, &formatted) < 0 || !volume_key_is_valid(key)) {
                error_set(&err, ERROR_INVALID_ARGUMENT, EINVAL, "This is not the key of a volume");
                return reply_with(call, &err);
        }
        op->formatted = formatted;
        op->params.driver = strndup(key, strcspn(key, "-"));
        if (!op->params.driver || str_replace(&op->volume_name, key) < 0 || str_replace(&op->key, key) < 0) {
                error_oom(&err);
                return reply_with(call, &err);
        }
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int method_list_volumes(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        Manager *m = userdata;
        int r;

        connection_touch(m, sd_bus_message_get_bus(call));
        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (const Volume *v = m->volumes; v && r >= 0; v = v->hh.next) {
                r = sd_bus_message_open_container(reply, 'a', "{sv}");
                if (r >= 0)
                        r = volume_append_properties(reply, v);
                if (r >= 0)
                        r = sd_bus_message_close_container(reply);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static Volume *find_by_any_name(Manager *m, const char *name)
{
        _cleanup_target_ Target t = TARGET_INIT;
        const Publish *p = NULL;

        if (name[0] == '/') {
                if (target_parse(name, &m->settings, &t, NULL) >= 0)
                        p = publish_find(m, t.path);
                return p ? p->volume : NULL;
        }
        Volume *v = volume_find(m, name);
        return v ? v : volume_find_by_attachment(m, name);
}

static int method_force_detach(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_operation_ Operation *op = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *name = NULL;
        const Volume *v = NULL;

        if (method_begin(call, userdata, OPERATION_FORCE_DETACH, &op, &err) < 0)
                return reply_with(call, &err);
        int r = bus_read_bytes(call, &name);
        if (r < 0)
                request_malformed(r, "The name", &err);
        else if (!(v = find_by_any_name(userdata, name)))
                error_set(&err, ERROR_NOT_FOUND, ENOENT, "No volume '%s' is known", name);
        else if (str_replace(&op->params.driver, v->driver) < 0 || str_replace(&op->key, v->key) < 0 ||
                 asprintf(&op->name, "force:%s", v->key) < 0)
                error_oom(&err);
        if (error_is_set(&err))
                return reply_with(call, &err);
        operation_submit(TAKE_PTR(op), call);
        return 1;
}

static int append_errors(sd_bus_message *reply, const Manager *m, const Volume *v, const char *name)
{
        int r = sd_bus_message_open_container(reply, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append(reply, "s", "errors");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', "a(tss)");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "(tss)");
        for (unsigned i = 1; i <= RECENT_ERRORS_MAX && r >= 0; i++) {
                const RecentError *e = &m->errors[(m->next_error - i) % RECENT_ERRORS_MAX];

                if (!e->text || !((v && str_equal(e->volume_key, v->key)) || str_equal(e->target, name)))
                        continue;
                r = sd_bus_message_append(reply, "(tss)", e->realtime_usec, error_code_name(e->code), e->text);
        }
        for (unsigned i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(reply);
        return r;
}

static bool has_errors(const Manager *m, const char *target)
{
        for (unsigned i = 0; i < RECENT_ERRORS_MAX; i++)
                if (m->errors[i].text && str_equal(m->errors[i].target, target))
                        return true;
        return false;
}

static int method_explain(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *name = NULL;
        Manager *m = userdata;

        connection_touch(m, sd_bus_message_get_bus(call));
        int r = bus_read_bytes(call, &name);
        if (r < 0) {
                request_malformed(r, "The name", &err);
                return reply_with(call, &err);
        }
        const Volume *v = find_by_any_name(m, name);
        if (!v && !has_errors(m, name)) {
                error_set(&err, ERROR_NOT_FOUND, ENOENT, "No volume is known by this name or target: %s", name);
                return reply_with(call, &err);
        }
        r = sd_bus_message_new_method_return(call, &reply);
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "{sv}");
        if (r >= 0 && v)
                r = volume_append_properties(reply, v);
        if (r >= 0)
                r = append_errors(reply, m, v, name);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int append_mounter(sd_bus_message *m, const MounterProcess *p)
{
        const Operation *op = p->operation;
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        if (r >= 0)
                r = bus_append_entry(m, "kind", "s", p->pool->kind);
        if (r >= 0)
                r = bus_append_entry(m, "pid", "u", (uint32_t) p->pid);
        if (r >= 0)
                r = bus_append_entry(m, "version", "s", str_or(p->version, ""));
        if (r >= 0)
                r = bus_append_entry(m, "state", "s", mounter_state_to_string(p->state));
        if (r >= 0)
                r = bus_append_entry(m, "operations", "u", (uint32_t) p->n_operations);
        if (r >= 0)
                r = bus_append_entry(m, "sinceUsec", "t", now_boottime_usec() - p->since_usec);
        if (r >= 0 && op)
                r = bus_append_entry(m, "volume", "s", op->volume ? op->volume->key : str_or(op->key, ""));
        if (r >= 0 && op)
                r = bus_append_entry(m, "step", "s", step_to_string(op->step));
        if (r >= 0 && op && op->progress_total > 0)
                r = bus_append_entry(m, "done", "t", op->progress_done);
        if (r >= 0 && op && op->progress_total > 0)
                r = bus_append_entry(m, "total", "t", op->progress_total);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_mounters(sd_bus_message *reply, const Manager *m)
{
        int r = sd_bus_message_open_container(reply, 'e', "sv");

        if (r >= 0)
                r = sd_bus_message_append(reply, "s", "mounters");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'v', "aa{sv}");
        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (const Pool *pool = m->pools; pool; pool = pool->hh.next) {
                const MounterProcess *p;
                TAILQ_FOREACH(p, &pool->mounters, entry)
                        if (r >= 0)
                                r = append_mounter(reply, p);
        }
        for (unsigned i = 0; i < 3 && r >= 0; i++)
                r = sd_bus_message_close_container(reply);
        return r;
}

static int method_get_status(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        Manager *m = userdata;

        connection_touch(m, sd_bus_message_get_bus(call));
        const struct {
                const char *key;
                uint64_t value;
        } numbers[] = {
                { "uptimeUsec", now_boottime_usec() - m->started_usec },
                { "volumes", HASH_COUNT(m->volumes) },
                { "publishes", HASH_COUNT(m->publishes) },
                { "requests", m->n_operations },
                { "connections", m->n_connections },
                { "droppedLogLines", log_dropped() },
                { "reconciles", reconcile_count(m) },
                { "reloads", m->n_reloads },
                { "quarantined", pools_count_quarantined(m) },
        };
        int r = sd_bus_message_new_method_return(call, &reply);

        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "{sv}");
        if (r >= 0)
                r = bus_append_entry(reply, "version", "s", BERTH_VERSION);
        if (r >= 0)
                r = bus_append_entry(reply, "pid", "u", (uint32_t) getpid());
        for (size_t i = 0; i < ELEMENTSOF(numbers) && r >= 0; i++)
                r = bus_append_entry(reply, numbers[i].key, "t", numbers[i].value);
        if (r >= 0)
                r = bus_append_entry(reply, "mountEvents", "s", watch_mount_source(m));
        if (r >= 0)
                r = bus_append_entry(reply, "systemBus", "s", system_bus_state(m));
        if (r >= 0)
                r = bus_append_entry(reply, "reloadError", "s", str_or(m->reload_error, ""));
        if (r >= 0)
                r = append_mounters(reply, m);
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_reconcile(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Manager *m = userdata;
        int dry_run;

        connection_touch(m, sd_bus_message_get_bus(call));
        if (sd_bus_message_read_basic(call, 'b', &dry_run) < 0) {
                request_malformed(-EBADMSG, "dryRun", &err);
                return reply_with(call, &err);
        }
        reconcile_request(m, dry_run ? RECONCILE_DRY_RUN : RECONCILE_APPLY, call);
        return 1;
}

static int method_drain(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Manager *m = userdata;
        uint64_t timeout_usec;

        connection_touch(m, sd_bus_message_get_bus(call));
        if (sd_bus_message_read_basic(call, 't', &timeout_usec) < 0)
                request_malformed(-EBADMSG, "timeoutUsec", &err);
        else if (drain_begin(m, timeout_usec, call) < 0)
                error_oom(&err);
        return error_is_set(&err) ? reply_with(call, &err) : 1;
}

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", BERTH_VERSION);
}

static const sd_bus_vtable agent_vtable[] = {
                SD_BUS_VTABLE_START(0),
                SD_BUS_METHOD_WITH_NAMES("Mount", "aysa{ss}a{sv}",
                                         SD_BUS_PARAM(target) SD_BUS_PARAM(driver) SD_BUS_PARAM(source)
                                                         SD_BUS_PARAM(options),
                                         "o", SD_BUS_PARAM(volume), method_mount, SD_BUS_VTABLE_SENSITIVE),
                SD_BUS_METHOD_WITH_NAMES("Unmount", "ay", SD_BUS_PARAM(target), NULL, , method_unmount, 0),
                SD_BUS_METHOD_WITH_NAMES("Attach", "sa{ss}a{sv}",
                                         SD_BUS_PARAM(driver) SD_BUS_PARAM(source) SD_BUS_PARAM(options), "s",
                                         SD_BUS_PARAM(device), method_attach, SD_BUS_VTABLE_SENSITIVE),
                SD_BUS_METHOD_WITH_NAMES("Detach", "s", SD_BUS_PARAM(volumeName), NULL, , method_detach, 0),
                SD_BUS_METHOD_WITH_NAMES("Expand", "ayt", SD_BUS_PARAM(target) SD_BUS_PARAM(size), "t",
                                         SD_BUS_PARAM(newSize), method_expand, 0),
                SD_BUS_METHOD_WITH_NAMES("Stats", "ay", SD_BUS_PARAM(target), "a{sv}", SD_BUS_PARAM(stats),
                                         method_stats, 0),
                SD_BUS_METHOD_WITH_NAMES("ListVolumes", NULL, , "aa{sv}", SD_BUS_PARAM(volumes),
                                         method_list_volumes, 0),
                SD_BUS_METHOD_WITH_NAMES("Explain", "ay", SD_BUS_PARAM(name), "a{sv}", SD_BUS_PARAM(volume),
                                         method_explain, 0),
                SD_BUS_METHOD_WITH_NAMES("GetStatus", NULL, , "a{sv}", SD_BUS_PARAM(status), method_get_status,
                                         0),
                SD_BUS_METHOD_WITH_NAMES("Reconcile", "b", SD_BUS_PARAM(dryRun), "aa{sv}", SD_BUS_PARAM(steps),
                                         method_reconcile, 0),
                SD_BUS_METHOD_WITH_NAMES("Drain", "t", SD_BUS_PARAM(timeoutUsec), "aa{sv}", SD_BUS_PARAM(volumes),
                                         method_drain, 0),
                SD_BUS_METHOD_WITH_NAMES("Fence", "sa{ss}a{sv}",
                                         SD_BUS_PARAM(driver) SD_BUS_PARAM(source) SD_BUS_PARAM(options), "as",
                                         SD_BUS_PARAM(holders), method_fence, SD_BUS_VTABLE_SENSITIVE),
                SD_BUS_METHOD_WITH_NAMES("ForceDetach", "ay", SD_BUS_PARAM(name), "s", SD_BUS_PARAM(device),
                                         method_force_detach, 0),
                SD_BUS_METHOD_WITH_NAMES("Forget", "sb", SD_BUS_PARAM(volume) SD_BUS_PARAM(formatted), NULL, ,
                                         method_forget, 0),
                SD_BUS_PROPERTY("Version", "s", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
                SD_BUS_VTABLE_END,
};

int agent_interface_add(Manager *m, sd_bus *bus)
{
        int r = sd_bus_add_object_vtable(bus, NULL, AGENT_PATH, AGENT_INTERFACE, agent_vtable, m);

        return r < 0 ? r : volume_properties_add(m, bus);
}

bool agent_interface_bus_is_awaited(Manager *m, sd_bus *bus)
{
        const Operation *op;

        TAILQ_FOREACH(op, &m->operations, entry)
                for (size_t i = 0; i < op->n_waiters; i++)
                        if (sd_bus_message_get_bus(op->waiters[i].call) == bus)
                                return true;
        return reconcile_is_awaited(m, bus) || drain_is_awaited(m, bus);
}
