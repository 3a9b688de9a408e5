/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See mounter-client.h. Runs in the tests; blocks as long as the mounter works. */

#include "mounter-client.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "protocol/names.h"

#define CALL_TIMEOUT_USEC (120 * UINT64_C(1000000))

extern char **environ;

/* By rename: another mounter of the same test may be reading it. */
static void config_write(const Fixture *f, const char *extra)
{
        _cleanup_free_ char *text = NULL, *temporary = NULL;

        cr_assert(asprintf(&text, "[Loop]\nDirectories=%s\n[Targets]\nAllow=%s\n%s", f->image_dir, f->allow_dir, str_or(extra, "")) >=
                  0);
        cr_assert(asprintf(&temporary, "%s.new", f->config) >= 0);
        write_text(temporary, text);
        cr_assert(rename(temporary, f->config) >= 0);
}

static int on_progress(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
        MounterClient *c = userdata;

        c->n_progress++;
        return 0;
}

void mounter_client_start(MounterClient *c, Fixture *f, const char *kind, const char *extra_config)
{
        char name[32];
        int fds[2];

        config_write(f, extra_config);
        *c = (MounterClient) { .f = f };
        snprintf(name, sizeof(name), "mounter-%s", kind);
        _cleanup_free_ char *path = executable_path(f, name);
        char *argv[] = { path,           "--config",   f->config,      "--runtime-dir",   f->runtime_dir,
                         "--state-dir", f->state_dir, "--kubelet-root", f->kubelet_root, NULL };
        posix_spawn_file_actions_t actions;

        cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) >= 0);
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_addopen(&actions, 1, f->log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        posix_spawn_file_actions_adddup2(&actions, 1, 2);
        posix_spawn_file_actions_adddup2(&actions, fds[1], 3);
        int r = posix_spawn(&c->pid, path, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        close_fd(fds[1]);
        cr_assert(r == 0, "cannot start %s: %s", path, strerror(r));

        r = sd_bus_new(&c->bus);
        if (r >= 0)
                r = sd_bus_set_fd(c->bus, fds[0], fds[0]);
        if (r >= 0)
                r = sd_bus_add_match(c->bus, NULL, "type='signal',member='Progress'", on_progress, c);
        if (r >= 0)
                r = sd_bus_start(c->bus);
        cr_assert(r >= 0, "cannot connect to %s: %s", path, strerror(-r));
}

void mounter_client_disconnect(MounterClient *c)
{
        c->bus = sd_bus_close_unref(c->bus);
}

void mounter_client_stop(MounterClient *c)
{
        static const struct timespec pause = { .tv_nsec = 2000000 };
        double end = now_seconds() + 30;
        int status = -1;
        pid_t pid;

        mounter_client_disconnect(c);
        /* not for ever: a child that the test forked may have kept the connection */
        while ((pid = waitpid(c->pid, &status, WNOHANG)) == 0 && now_seconds() < end)
                nanosleep(&pause, NULL);
        cr_assert(pid == c->pid, "the mounter (pid %d) did not end within 30 s of its connection", c->pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the mounter ended with status 0x%x", (unsigned) status);
}

static void check(int r, const char *what)
{
        cr_assert(r >= 0, "%s: %s", what, strerror(-r));
}

static void put_string(sd_bus_message *m, const char *key, const char *value)
{
        if (value)
                check(bus_append_entry(m, key, "s", value), key);
}

sd_bus_message *mounter_request(MounterClient *c, const char *method, const MounterVolume *v)
{
        sd_bus_message *m = NULL;

        check(sd_bus_message_new_method_call(c->bus, &m, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, method), method);
        check(sd_bus_message_open_container(m, 'a', "{sv}"), method);
        put_string(m, "key", v->key);
        put_string(m, "identity", v->identity);
        put_string(m, "fsType", v->fs_type);
        put_string(m, "device", v->device);
        put_string(m, "stagingPath", v->staging_path);
        put_string(m, "uuid", v->uuid);
        if (v->source.n_entries > 0)
                check(bus_append_entry_strmap(m, "source", &v->source), "source");
        if (v->mount_options)
                check(bus_append_entry_strv(m, "mountOptions", v->mount_options), "mountOptions");
        if (v->target)
                check(bus_append_entry_bytes(m, "target", v->target), "target");
        if (v->device_number)
                check(bus_append_entry(m, "deviceNumber", "t", (uint64_t) v->device_number), "deviceNumber");
        if (v->size)
                check(bus_append_entry(m, "size", "t", v->size), "size");
        check(bus_append_entry(m, "readOnly", "b", (int) v->read_only), "readOnly");
        check(bus_append_entry(m, "foreign", "b", (int) v->foreign), "foreign");
        if (v->early)
                check(bus_append_entry(m, "early", "b", 1), "early");
        if (v->secrets.n_entries > 0) {
                check(sd_bus_message_sensitive(m), method);
                check(bus_append_entry_strmap(m, "secrets", &v->secrets), "secrets");
        }
        check(sd_bus_message_close_container(m), method);
        return m;
}

/* One entry of the answer; what a name means is its place here. */
static int result_set(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        MounterResult *r = userdata;
        const struct {
                const char *key;
                char type;
                void *field;
        } fields[] = {
                { "identity", 's', &r->identity },      { "key", 's', &r->key },
                { "device", 's', &r->device },          { "fsType", 's', &r->fs_type },
                { "uuid", 's', &r->uuid },              { "reason", 's', &r->reason },
                { "deviceNumber", 't', &r->device_number }, { "mountId", 't', &r->mount_id },
                { "size", 't', &r->size },              { "totalBytes", 't', &r->total_bytes },
                { "usedBytes", 't', &r->used_bytes },   { "availableBytes", 't', &r->available_bytes },
                { "totalInodes", 't', &r->total_inodes }, { "usedInodes", 't', &r->used_inodes },
                { "freeInodes", 't', &r->free_inodes }, { "create", 'b', &r->create },
                { "foreign", 'b', &r->foreign },        { "gone", 'b', &r->gone },
                { "attached", 'b', &r->attached },      { "staged", 'b', &r->staged },
                { "published", 'b', &r->published },    { "healthy", 'b', &r->healthy },
                { "corrupted", 'b', &r->corrupted },   { "shared", 'b', &r->shared },
                { "unproven", 'b', &r->unproven },
                { "group", 's', &r->group },
                { "layers", 'u', &r->layers },          { "next", 'n', &r->next },
        };
        const char *s;
        int b, k = -EBADMSG;

        for (size_t i = 0; i < ELEMENTSOF(fields); i++) {
                if (strcmp(fields[i].key, key) != 0)
                        continue;
                if (fields[i].type == 's' || fields[i].type == 'n') {
                        k = sd_bus_message_read_basic(m, 's', &s);
                        if (k >= 0 && fields[i].type == 's')
                                k = str_replace(fields[i].field, s);
                        else if (k >= 0)
                                r->next = strcmp(s, "format") == 0 ? "format" : strcmp(s, "fsck") == 0 ? "fsck" : "?";
                } else if (fields[i].type == 'b') {
                        k = sd_bus_message_read_basic(m, 'b', &b);
                        *(bool *) fields[i].field = b;
                } else {
                        k = sd_bus_message_read_basic(m, fields[i].type, fields[i].field);
                }
                return k < 0 ? k : 0;
        }
        cr_assert(false, "the answer has the unknown key %s (%s)", key, type);
        return k;
}

ErrorCode mounter_call(MounterClient *c, const char *method, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_message_ sd_bus_message *m = mounter_request(c, method, v), *reply = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_error_ Error own = ERROR_INIT;
        MounterResult ignored = {}, *result = r ? r : &ignored;

        if (!err)
                err = &own;
        if (sd_bus_call(c->bus, m, CALL_TIMEOUT_USEC, &e, &reply) < 0) {
                (void) error_from_bus(err, &e, ERROR_MOUNTER_DIED);
                return err->code;
        }
        mounter_result_done(result);
        check(bus_read_dict(reply, result_set, result), method);
        mounter_result_done(&ignored);
        return ERROR_NONE;
}

void volume_init(MounterVolume *v, const char *image, const char *size, const char *fs_type)
{
        *v = (MounterVolume) { .fs_type = strdup(fs_type) };
        check(strmap_set(&v->source, "path", image), "path");
        if (size)
                check(strmap_set(&v->source, "size", size), "size");
}

void volume_free(MounterVolume *v)
{
        char **strings[] = { &v->key, &v->identity, &v->fs_type, &v->device, &v->staging_path, &v->target, &v->uuid };

        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                free(*strings[i]);
        strv_free(v->mount_options);
        strmap_done(&v->source);
        strmap_done(&v->secrets);
        *v = (MounterVolume) {};
}

void volume_resolve(MounterClient *c, MounterVolume *v)
{
        MounterResult r = {};

        MOUNTER_OK(c, "Resolve", v, &r);
        if (r.create) {
                check(str_replace(&v->key, r.key), "key");
                MOUNTER_OK(c, "Create", v, NULL);
                MOUNTER_OK(c, "Resolve", v, &r);
                cr_assert(!r.create);
        }
        cr_assert(r.key && r.identity);
        check(str_replace(&v->key, r.key), "key");
        check(str_replace(&v->identity, r.identity), "identity");
        free(v->staging_path);
        cr_assert(asprintf(&v->staging_path, "%s/staging/%s", c->f->runtime_dir, v->key) >= 0);
        mounter_result_done(&r);
}

void volume_attach(MounterClient *c, MounterVolume *v)
{
        MounterResult r = {};

        MOUNTER_OK(c, "Attach", v, &r);
        check(str_replace(&v->device, r.device), "device");
        v->device_number = r.device_number;
        v->foreign = r.foreign;
        mounter_result_done(&r);
}

void volume_stage(MounterClient *c, MounterVolume *v)
{
        MounterResult r = {};

        for (unsigned i = 0; i < 3; i++) {
                MOUNTER_OK(c, "Stage", v, &r);
                if (!r.next)
                        break;
                MOUNTER_OK(c, strcmp(r.next, "format") == 0 ? "Format" : "Fsck", v, NULL);
                r.next = NULL;
        }
        cr_assert(!r.next && r.mount_id > 0);
        check(str_replace(&v->uuid, r.uuid), "uuid");
        mounter_result_done(&r);
}

void volume_up(MounterClient *c, MounterVolume *v)
{
        volume_resolve(c, v);
        volume_attach(c, v);
        volume_stage(c, v);
}

void volume_down(MounterClient *c, MounterVolume *v)
{
        MounterResult r = {};

        MOUNTER_OK(c, "Unstage", v, NULL);
        MOUNTER_OK(c, "Detach", v, &r);
        cr_assert(r.gone);
        mounter_result_done(&r);
}
