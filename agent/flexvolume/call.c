/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The twelve calls of the kubelet. Each asks the agent at most once, or once more if the agent ends meanwhile, and waits until the
 * deadline, never longer.
 *
 * attach:true mode. attach and detach may be called by a controller on another node than the one that is to
 * have the volume; there is nothing to do there then, and the device is "". waitforattach hands on what attach
 * answered: after a real attach it makes sure of the device (again: the call is idempotent), after an empty one it
 * leaves the work to mountdevice. It must not take a hold of its own then, for the detach that would have to drop
 * it is called on the controller's node, so that nobody would.
 */

#include "call.h"

#include <string.h>
#include <strings.h>

#include "build.h"
#include "options.h"
#include "protocol/client.h"
#include "protocol/names.h"
#include "protocol/settings.h"
#include "reply.h"

typedef struct Call {
        const char *driver;
        char *const *args; /* after the call's name */
        uint64_t deadline_usec;
        Settings settings;
        MountParams params;
        /* answers */
        char *device;
        uint64_t size;
        bool attached;
} Call;

/* Fills *reply (with a new reference, NULL if out of memory) on success. */
typedef int (*CallFunction)(Call *c, json_t **reply, Error *err);

static void call_done(Call *c)
{
        settings_done(&c->settings);
        mount_params_done(&c->params);
        free(c->device);
}

static const char *config_file(void)
{
        return getenv(BERTH_CONFIG_ENV);
}

static int call_ask(Call *c, ClientAsk ask, Error *err)
{
        _cleanup_error_ Error ignored = ERROR_INIT;
        const char *socket = getenv(BERTH_SOCKET_ENV);

        /* A broken configuration has kept the agent from starting: connecting then fails with the better words. */
        if (!socket && settings_load(&c->settings, config_file(), &ignored) >= 0)
                socket = c->settings.socket;
        return client_ask(socket, c->deadline_usec, ask, c, err);
}

static int call_parse(Call *c, const char *json, Error *err)
{
        if (str_replace(&c->params.driver, c->driver) < 0)
                return error_oom(err);
        return options_parse(json, &c->params, err);
}

static int read_size(const char *s, const char *what, uint64_t *ret, Error *err)
{
        if (parse_size(s, ret) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The %s size '%.40s' is not a number of bytes", what, s);
        return 0;
}

/* Whether node is this one; names of nodes are DNS names, so case means nothing. */
static int is_this_node(Call *c, const char *node, bool *ret, Error *err)
{
        int r = settings_load(&c->settings, config_file(), err);
        if (r < 0)
                return r;
        *ret = strcasecmp(node, c->settings.node_name) == 0;
        return 0;
}

/* Answers with the agent down and with a broken configuration: the kubelet would drop the driver otherwise. */
static int call_init(Call *c, json_t **reply, Error *err)
{
        _cleanup_error_ Error ignored = ERROR_INIT;
        bool attach = false, device = !str_equal(c->driver, "nfs");

        if (settings_load(&c->settings, config_file(), &ignored) >= 0)
                attach = c->settings.flexvolume_attach;

        /* fsGroup and selinuxRelabel make the kubelet walk the whole tree, which an NFS server would not let it change */
        *reply = json_pack("{s:s, s:{s:b, s:b, s:b, s:b, s:b}}", "status", "Success", "capabilities",
                           "attach", attach && device, "selinuxRelabel", device, "supportsMetrics", 1,
                           "fsGroup", device, "requiresFSResize", device);
        return 0;
}

static int call_not_supported(Call *c, json_t **reply, Error *err)
{
        *reply = reply_not_supported();
        return 0;
}

static int ask_mount(sd_bus *bus, void *userdata, Error *err)
{
        Call *c = userdata;

        return client_mount(bus, &c->params, c->deadline_usec, NULL, err);
}

static int mount_at(Call *c, const char *target, const char *json, json_t **reply, Error *err)
{
        int r = call_parse(c, json, err);

        if (r >= 0 && str_replace(&c->params.target, target) < 0)
                r = error_oom(err);
        if (r >= 0)
                r = call_ask(c, ask_mount, err);
        if (r >= 0)
                *reply = reply_success();
        return r;
}

/* mount DIRECTORY JSON */
static int call_mount(Call *c, json_t **reply, Error *err)
{
        return mount_at(c, c->args[0], c->args[1], reply, err);
}

/* mountdevice DIRECTORY DEVICE JSON: the options say which volume it is, a device's name may have changed hands */
static int call_mount_device(Call *c, json_t **reply, Error *err)
{
        return mount_at(c, c->args[0], c->args[2], reply, err);
}

static int ask_unmount(sd_bus *bus, void *userdata, Error *err)
{
        Call *c = userdata;

        return client_unmount(bus, c->args[0], c->deadline_usec, err);
}

/* unmount DIRECTORY, unmountdevice DIRECTORY */
static int call_unmount(Call *c, json_t **reply, Error *err)
{
        int r = call_ask(c, ask_unmount, err);

        if (r >= 0)
                *reply = reply_success();
        return r;
}

static int reply_device(const char *device, json_t **reply)
{
        *reply = reply_success();
        if (*reply && json_object_set_new(*reply, "device", json_string(device)) < 0) {
                json_decref(*reply);
                *reply = NULL;
        }
        return 0;
}

static int ask_attach(sd_bus *bus, void *userdata, Error *err)
{
        Call *c = userdata;

        return client_attach(bus, &c->params, c->deadline_usec, &c->device, err);
}

static int attach_here(Call *c, json_t **reply, Error *err)
{
        int r = call_ask(c, ask_attach, err);

        return r < 0 ? r : reply_device(c->device, reply);
}

/* attach JSON NODE */
static int call_attach(Call *c, json_t **reply, Error *err)
{
        bool here;
        int r = call_parse(c, c->args[0], err);

        if (r >= 0)
                r = is_this_node(c, c->args[1], &here, err);
        if (r < 0)
                return r;
        return here ? attach_here(c, reply, err) : reply_device("", reply);
}

/* waitforattach DEVICE JSON */
static int call_wait_for_attach(Call *c, json_t **reply, Error *err)
{
        int r = call_parse(c, c->args[1], err);

        if (r < 0)
                return r;
        return *c->args[0] ? attach_here(c, reply, err) : reply_device("", reply);
}

static int ask_detach(sd_bus *bus, void *userdata, Error *err)
{
        Call *c = userdata;

        return client_detach(bus, c->args[0], c->deadline_usec, err);
}

/* detach NAME NODE */
static int call_detach(Call *c, json_t **reply, Error *err)
{
        bool here;
        int r = is_this_node(c, c->args[1], &here, err);

        if (r >= 0 && here)
                r = call_ask(c, ask_detach, err);
        if (r >= 0)
                *reply = reply_success();
        return r;
}

static int find_attachment(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        Call *c = userdata;
        _cleanup_strv_ char **names = NULL;

        if (!str_equal(key, "Attachments") || !str_equal(type, "as"))
                return 0;
        int r = bus_read_strv(m, &names);
        if (r < 0)
                return r;
        c->attached = strv_contains(names, c->params.volume_name);
        return 0;
}

/* Whether the agent holds the volume attached in the name that params has. */
static int ask_attached(sd_bus *bus, void *userdata, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL, *answer = NULL;
        Call *c = userdata;
        int r = client_new_call(bus, "Explain", &m, err);

        if (r >= 0 && bus_append_bytes(m, c->params.volume_name) < 0)
                r = error_oom(err);
        if (r < 0)
                return r;
        c->attached = true; /* unless the answer says otherwise */
        r = client_call(bus, m, c->deadline_usec, &answer, err);
        if (r < 0 && err->code == ERROR_NOT_FOUND) {
                error_done(err);
                c->attached = false;
                return 0;
        }
        if (r >= 0 && bus_read_dict(answer, find_attachment, c) < 0)
                r = error_set(err, ERROR_INTERNAL, EBADMSG, "berthd answered in an unknown form");
        return r;
}

/* isattached JSON NODE */
static int call_is_attached(Call *c, json_t **reply, Error *err)
{
        bool here;
        int r = call_parse(c, c->args[0], err);

        if (r >= 0)
                r = is_this_node(c, c->args[1], &here, err);
        if (r >= 0 && here && !(c->params.volume_name && *c->params.volume_name))
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'kubernetes.io/pvOrVolumeName' is missing");
        if (r >= 0 && here)
                r = call_ask(c, ask_attached, err);
        if (r >= 0) /* of another node: what attach told about it */
                *reply = json_pack("{s:s, s:b}", "status", "Success", "attached", !here || c->attached);
        return r;
}

static json_t *reply_size(uint64_t size)
{
        return json_pack("{s:s, s:I}", "status", "Success", "volumeNewSize", (json_int_t) size);
}

/* expandvolume JSON DIRECTORY NEW OLD: on the controller, where there is nothing to grow yet; expandfs does it on the node */
static int call_expand_volume(Call *c, json_t **reply, Error *err)
{
        uint64_t size;
        int r = call_parse(c, c->args[0], err);

        if (r >= 0)
                r = read_size(c->args[2], "new", &size, err);
        if (r >= 0)
                *reply = reply_size(size);
        return r;
}

static int ask_expand(sd_bus *bus, void *userdata, Error *err)
{
        Call *c = userdata;

        return client_expand(bus, c->args[2], c->size, c->deadline_usec, &c->size, err);
}

/* expandfs JSON DEVICE DIRECTORY NEW OLD */
static int call_expand_fs(Call *c, json_t **reply, Error *err)
{
        int r = call_parse(c, c->args[0], err);

        if (r >= 0)
                r = read_size(c->args[3], "new", &c->size, err);
        if (r >= 0)
                r = call_ask(c, ask_expand, err);
        if (r >= 0)
                *reply = reply_size(c->size);
        return r;
}

static const struct {
        const char *name;
        int n_args;
        CallFunction run;
} calls[] = {
        { "init", 0, call_init },
        { "getvolumename", 1, call_not_supported }, /* the kubelet ignores the name it is given here */
        { "attach", 2, call_attach },
        { "waitforattach", 2, call_wait_for_attach },
        { "isattached", 2, call_is_attached },
        { "detach", 2, call_detach },
        { "mountdevice", 3, call_mount_device },
        { "unmountdevice", 1, call_unmount },
        { "mount", 2, call_mount },
        { "unmount", 1, call_unmount },
        { "expandvolume", 4, call_expand_volume },
        { "expandfs", 5, call_expand_fs },
};

static int call_run(Call *c, const char *name, int n_args, json_t **reply, Error *err)
{
        for (size_t i = 0; i < ELEMENTSOF(calls); i++) {
                if (!str_equal(name, calls[i].name))
                        continue;
                if (n_args < calls[i].n_args)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Call %s takes %d arguments, %d were given", name,
                                         calls[i].n_args, n_args);
                return calls[i].run(c, reply, err);
        }
        return call_not_supported(c, reply, err);
}

json_t *call_serve(const char *program, char *const *args, int n_args, uint64_t deadline_usec)
{
        _cleanup_(call_done) Call c = { .args = args + 1, .deadline_usec = deadline_usec };
        _cleanup_error_ Error err = ERROR_INIT;
        const char *slash = strrchr(program, '/'), *tilde;
        json_t *reply = NULL;
        int r;

        c.driver = slash ? slash + 1 : program;
        tilde = strrchr(c.driver, '~');
        if (tilde)
                c.driver = tilde + 1;

        if (n_args < 1)
                r = error_set(&err, ERROR_INVALID_ARGUMENT, EINVAL,
                              "This is the FlexVolume driver of berth " BERTH_VERSION ", which the kubelet calls; berthctl is for people");
        else
                r = call_run(&c, args[0], n_args - 1, &reply, &err);
        return r < 0 ? reply_failure(&err) : reply;
}
