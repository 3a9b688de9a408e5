/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Client side of io.berth.Agent1, peer to peer on the agent's socket. Used by short-lived processes; may
 * block up to the deadline it is given, never longer.
 */

#include "protocol/client.h"

#include <string.h>
#include <time.h>

#include "protocol/names.h"

/* For a berthd that is started anew; where systemd keeps the socket its requests wait in there, and this is not needed. */
#define SUCCESSOR_USEC (30 * UINT64_C(1000000))
#define RECONNECT_MIN_NSEC (20 * 1000 * 1000)
#define RECONNECT_MAX_NSEC (320 * 1000 * 1000)
/* Between the answer that berthd is stopping and the end of the connection. */
#define STOPPING_USEC (2 * UINT64_C(1000000))

uint64_t now_boottime_usec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_BOOTTIME, &ts);
        return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

/* What is left until the deadline; at least 1, since sd-bus takes 0 for its default of 25 s. */
static uint64_t time_left(uint64_t deadline_usec)
{
        uint64_t now = now_boottime_usec();

        if (deadline_usec == UINT64_MAX)
                return UINT64_MAX;
        return deadline_usec > now ? deadline_usec - now : 1;
}

int client_connect(const char *socket, uint64_t deadline_usec, sd_bus **ret, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_free_ char *address = NULL;
        int r;

        if (!socket)
                socket = str_or(getenv(BERTH_SOCKET_ENV), BERTH_SOCKET_DEFAULT);
        if (strcspn(socket, ",;%=") != strlen(socket))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Socket path %s has a character that D-Bus addresses reserve", socket);
        if (asprintf(&address, "unix:path=%s", socket) < 0)
                return error_oom(err);

        r = sd_bus_new(&bus);
        if (r >= 0)
                r = sd_bus_set_address(bus, address);
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r < 0)
                return error_set(err, ERROR_AGENT_UNREACHABLE, r, "Cannot connect to berthd at %s: %s", socket,
                                 strerror(-r));

        while (sd_bus_is_ready(bus) == 0) {
                r = sd_bus_process(bus, NULL);
                if (r == 0) {
                        uint64_t left = time_left(deadline_usec);
                        if (left <= 1)
                                return error_set(err, ERROR_AGENT_UNREACHABLE, ETIMEDOUT,
                                                 "berthd at %s does not answer", socket);
                        r = sd_bus_wait(bus, left);
                }
                if (r < 0)
                        return error_set(err, ERROR_AGENT_UNREACHABLE, r,
                                         "berthd at %s closed the connection: %s", socket, strerror(-r));
        }
        if (sd_bus_is_open(bus) <= 0)
                return error_set(err, ERROR_AGENT_UNREACHABLE, ECONNRESET, "berthd at %s closed the connection",
                                 socket);
        *ret = TAKE_PTR(bus);
        return 0;
}

/* A berthd that drains its node says that it shuts down, too, but goes on: only the connection's end tells. */
static bool connection_ends(sd_bus *bus, uint64_t deadline_usec)
{
        uint64_t end = now_boottime_usec() + STOPPING_USEC;

        if (end > deadline_usec)
                end = deadline_usec;
        while (sd_bus_is_open(bus) > 0 && now_boottime_usec() < end) {
                int r = sd_bus_process(bus, NULL);

                if (r == 0)
                        r = sd_bus_wait(bus, time_left(end));
                if (r < 0)
                        return true;
        }
        return sd_bus_is_open(bus) <= 0;
}

/* Whether berthd took the connection, but is gone without the answer. bus: NULL if it was not even made. */
static bool was_cut_off(sd_bus *bus, uint64_t deadline_usec, const Error *err)
{
        if (!bus)
                return err->code == ERROR_AGENT_UNREACHABLE &&
                       (err->error == ECONNRESET || err->error == EPIPE || err->error == ENOTCONN);
        if (err->code == ERROR_SHUTTING_DOWN)
                return connection_ends(bus, deadline_usec);
        return err->code == ERROR_AGENT_UNREACHABLE && sd_bus_is_open(bus) <= 0;
}

/* Until there is a berthd that takes it. */
static int connect_to_successor(const char *socket, uint64_t deadline_usec, sd_bus **ret, Error *err)
{
        uint64_t give_up_usec = now_boottime_usec() + SUCCESSOR_USEC;
        struct timespec pause = { .tv_nsec = RECONNECT_MIN_NSEC };

        for (;;) {
                int r = client_connect(socket, deadline_usec, ret, err);
                uint64_t now = now_boottime_usec();

                if (r >= 0 || now >= give_up_usec || now >= deadline_usec)
                        return r;
                error_done(err);
                (void) nanosleep(&pause, NULL);
                if (pause.tv_nsec < RECONNECT_MAX_NSEC)
                        pause.tv_nsec *= 2;
        }
}

int client_ask(const char *socket, uint64_t deadline_usec, ClientAsk ask, void *userdata, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        int r = client_connect(socket, deadline_usec, &bus, err);

        if (r >= 0)
                r = ask(bus, userdata, err);
        if (r >= 0 || !was_cut_off(bus, deadline_usec, err))
                return r;
        error_done(err);
        bus = sd_bus_close_unref(bus);
        r = connect_to_successor(socket, deadline_usec, &bus, err);
        return r < 0 ? r : ask(bus, userdata, err);
}

int client_new_call(sd_bus *bus, const char *method, sd_bus_message **ret, Error *err)
{
        int r = sd_bus_message_new_method_call(bus, ret, NULL, AGENT_PATH, AGENT_INTERFACE, method);

        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "Cannot make a call message: %s", strerror(-r)) : 0;
}

int client_call(sd_bus *bus, sd_bus_message *call, uint64_t deadline_usec, sd_bus_message **ret_reply, Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        int r = sd_bus_call(bus, call, time_left(deadline_usec), &e, ret_reply);

        if (r >= 0)
                return 0;
        if (r == -ETIMEDOUT || sd_bus_error_has_name(&e, SD_BUS_ERROR_TIMEOUT))
                return error_set(err, ERROR_IN_PROGRESS, ETIMEDOUT, "%s is not finished yet",
                                 sd_bus_message_get_member(call));
        if (sd_bus_error_is_set(&e))
                return error_from_bus(err, &e, ERROR_AGENT_UNREACHABLE);
        return error_set(err, ERROR_AGENT_UNREACHABLE, r, "The connection to berthd was lost: %s", strerror(-r));
}

void mount_params_done(MountParams *p)
{
        free(p->target);
        free(p->driver);
        strmap_done(&p->source);
        strmap_erase(&p->secrets);
        free(p->fs_type);
        strv_free(p->mount_options);
        free(p->volume_name);
        free(p->pod_name);
        free(p->pod_namespace);
        free(p->pod_uid);
        *p = MOUNT_PARAMS_INIT;
}

static int append_options(sd_bus_message *m, const MountParams *p)
{
        const struct {
                const char *key, *value;
        } strings[] = {
                { "fsType", p->fs_type },           { "volumeName", p->volume_name }, { "podName", p->pod_name },
                { "podNamespace", p->pod_namespace }, { "podUid", p->pod_uid },
        };
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; i < ELEMENTSOF(strings) && r >= 0; i++)
                if (strings[i].value && *strings[i].value)
                        r = bus_append_entry(m, strings[i].key, "s", strings[i].value);
        if (r >= 0 && p->read_only)
                r = bus_append_entry(m, "readOnly", "b", 1);
        if (r >= 0 && p->mount_options)
                r = bus_append_entry_strv(m, "mountOptions", p->mount_options);
        if (r >= 0 && p->secrets.n_entries > 0) {
                r = sd_bus_message_sensitive(m);
                if (r >= 0)
                        r = bus_append_entry_strmap(m, "secrets", &p->secrets);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_source(sd_bus_message *m, const MountParams *p)
{
        int r = sd_bus_message_append(m, "s", str_or(p->driver, ""));

        if (r >= 0)
                r = bus_append_strmap(m, &p->source);
        return r < 0 ? r : append_options(m, p);
}

static int encoding_failed(int r, Error *err)
{
        if (r == -EINVAL)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "A value of the request is not valid UTF-8");
        return error_set(err, ERROR_INTERNAL, r, "Cannot encode the request: %s", strerror(-r));
}

/* Calls with what is in m and copies the one string of the answer. */
static int call_for_string(sd_bus *bus, sd_bus_message *m, uint64_t deadline_usec, const char *type, char **ret,
                           Error *err)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        const char *s;
        int r = client_call(bus, m, deadline_usec, &reply, err);

        if (r < 0)
                return r;
        if (sd_bus_message_read(reply, type, &s) < 0)
                return error_set(err, ERROR_INTERNAL, EBADMSG, "berthd answered in an unknown form");
        return ret && str_replace(ret, s) < 0 ? error_oom(err) : 0;
}

int client_mount(sd_bus *bus, const MountParams *p, uint64_t deadline_usec, char **ret_volume, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = client_new_call(bus, "Mount", &m, err);

        if (r < 0)
                return r;
        r = bus_append_bytes(m, str_or(p->target, ""));
        if (r >= 0)
                r = append_source(m, p);
        return r < 0 ? encoding_failed(r, err) : call_for_string(bus, m, deadline_usec, "o", ret_volume, err);
}

int client_attach(sd_bus *bus, const MountParams *p, uint64_t deadline_usec, char **ret_device, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = client_new_call(bus, "Attach", &m, err);

        if (r < 0)
                return r;
        r = append_source(m, p);
        return r < 0 ? encoding_failed(r, err) : call_for_string(bus, m, deadline_usec, "s", ret_device, err);
}

int client_unmount(sd_bus *bus, const char *target, uint64_t deadline_usec, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = client_new_call(bus, "Unmount", &m, err);

        if (r < 0)
                return r;
        r = bus_append_bytes(m, target);
        return r < 0 ? encoding_failed(r, err) : client_call(bus, m, deadline_usec, NULL, err);
}

int client_detach(sd_bus *bus, const char *volume_name, uint64_t deadline_usec, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = client_new_call(bus, "Detach", &m, err);

        if (r < 0)
                return r;
        r = sd_bus_message_append(m, "s", volume_name);
        return r < 0 ? encoding_failed(r, err) : client_call(bus, m, deadline_usec, NULL, err);
}

int client_expand(sd_bus *bus, const char *target, uint64_t size, uint64_t deadline_usec, uint64_t *ret_size,
                  Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;
        uint64_t new_size;
        int r = client_new_call(bus, "Expand", &m, err);

        if (r < 0)
                return r;
        r = bus_append_bytes(m, target);
        if (r >= 0)
                r = sd_bus_message_append(m, "t", size);
        if (r < 0)
                return encoding_failed(r, err);
        r = client_call(bus, m, deadline_usec, &reply, err);
        if (r < 0)
                return r;
        if (sd_bus_message_read(reply, "t", &new_size) < 0)
                return error_set(err, ERROR_INTERNAL, EBADMSG, "berthd answered in an unknown form");
        if (ret_size)
                *ret_size = new_size;
        return 0;
}
