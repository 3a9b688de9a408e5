/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The way from the system bus to what the socket serves. Runs in berthd and never waits for the bus: connecting, authenticating, the name
 * and each caller's credentials are asked for and answered in the event loop, so a bus that is absent, stopped or restarted costs
 * nothing.
 *
 * A call is held until the bus has told who its sender is (sd-bus would wait for that). What is allowed then goes, as a call of its own, over a
 * private connection to the listener: there it is served by the same objects as any other, and only the answer comes back here.
 *
 * Invariants: nothing reaches an object without its sender's credentials from the bus itself; at most CALLS_MAX calls are held.
 */

#include "daemon/system-bus.h"

#include <grp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "daemon/listener.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"
#include "protocol/names.h"

#define ADDRESS_ENV "DBUS_SYSTEM_BUS_ADDRESS"
#define ADDRESS_DEFAULT "unix:path=/run/dbus/system_bus_socket"
#define RETRY_MIN_USEC (200 * UINT64_C(1000))
#define RETRY_MAX_USEC (30 * UINT64_C(1000000))
#define CALLS_MAX 64U
#define NO_GROUP ((gid_t) -1)

/* A call and who waits for its answer. */
typedef struct Call {
        SystemBus *system_bus;
        sd_bus_message *message;
        sd_bus_slot *slot; /* of the question that is under way: first to the bus, then to the objects */
        TAILQ_ENTRY(Call) entry;
} Call;

struct SystemBus {
        Manager *manager;
        sd_bus *bus;   /* NULL while there is none */
        sd_bus *relay; /* our end of the connection to the listener; NULL until it is needed */
        sd_event_source *retry;
        uint64_t delay_usec;
        bool exported; /* the name is ours */
        bool told;     /* that there is no bus */
        gid_t admin_group;
        TAILQ_HEAD(, Call) calls;
        unsigned n_calls;
};

static void call_free(Call *c)
{
        TAILQ_REMOVE(&c->system_bus->calls, c, entry);
        c->system_bus->n_calls--;
        sd_bus_slot_unref(c->slot);
        sd_bus_message_unref(c->message);
        free(c);
}

/* ---- who may do what ---- */

typedef struct Credentials {
        bool known;
        uid_t uid;
        bool admin;
        gid_t admin_group;
} Credentials;

static int credentials_set(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        Credentials *c = userdata;
        uint32_t id;
        int r;

        if (strcmp(key, "UnixUserID") == 0) {
                r = strcmp(type, "u") == 0 ? sd_bus_message_read_basic(m, 'u', &id) : -EBADMSG;
                c->known = r >= 0;
                c->uid = r >= 0 ? id : (uid_t) -1;
                return r;
        }
        if (strcmp(key, "UnixGroupIDs") != 0)
                return 0;
        r = strcmp(type, "au") == 0 ? sd_bus_message_enter_container(m, 'a', "u") : -EBADMSG;
        while (r >= 0 && (r = sd_bus_message_read_basic(m, 'u', &id)) > 0)
                c->admin = c->admin || (c->admin_group != NO_GROUP && id == c->admin_group);
        return r < 0 ? r : sd_bus_message_exit_container(m);
}

static bool is_dry_run(sd_bus_message *m)
{
        int dry_run = 0;

        return sd_bus_message_read_basic(m, 'b', &dry_run) >= 0 && dry_run;
}

/*
 * What only looks at berthd's own memory. Stats is not among it: each call has a process touch the storage, and of those there are not
 * many.
 */
static bool is_look(sd_bus_message *m)
{
        static const char *const looks[] = { "GetStatus", "ListVolumes", "Explain" };

        if (sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Introspectable", "Introspect") > 0 ||
            sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", "Get") > 0 ||
            sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Properties", "GetAll") > 0)
                return true;
        for (size_t i = 0; i < ELEMENTSOF(looks); i++)
                if (sd_bus_message_is_method_call(m, AGENT_INTERFACE, looks[i]) > 0)
                        return true;
        return sd_bus_message_is_method_call(m, AGENT_INTERFACE, "Reconcile") > 0 && is_dry_run(m);
}

static int call_check(const Call *c, const Credentials *caller, Error *err)
{
        const char *member = str_or(sd_bus_message_get_member(c->message), "");

        if (!caller->known)
                return error_set(err, ERROR_PERMISSION_DENIED, EACCES, "The system bus does not tell who calls %s", member);
        if (caller->uid == 0 || (caller->admin && is_look(c->message)))
                return 0;
        return error_set(err, ERROR_PERMISSION_DENIED, EACCES, "User %u may not call %s: %s", caller->uid, member,
                         caller->admin ? "that is for root" : "that is for root and the group of AdminGroup=");
}

static int call_refuse(Call *c, const Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

        error_to_bus(err, &e);
        (void) sd_bus_reply_method_error(c->message, &e);
        call_free(c);
        return 1;
}

/* ---- the way to the objects ---- */

static int on_relay_disconnected(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        SystemBus *s = userdata;

        s->relay = sd_bus_close_unref(s->relay);
        return 0;
}

static int relay_connect(SystemBus *s)
{
        int pair[2] = { -EBADF, -EBADF };

        if (s->relay)
                return 0;
        int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0 ? -errno : 0;
        if (r >= 0)
                r = listener_adopt(s->manager, &pair[0]);
        if (r >= 0)
                r = sd_bus_new(&s->relay);
        if (r >= 0)
                r = sd_bus_set_fd(s->relay, pair[1], pair[1]);
        if (r >= 0)
                TAKE_FD(pair[1]);
        if (r >= 0)
                r = sd_bus_set_close_on_exit(s->relay, 0);
        if (r >= 0)
                r = sd_bus_start(s->relay);
        if (r >= 0)
                r = sd_bus_match_signal_async(s->relay, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                              "org.freedesktop.DBus.Local", "Disconnected", on_relay_disconnected, NULL, s);
        if (r >= 0)
                r = sd_bus_attach_event(s->relay, s->manager->event, SD_EVENT_PRIORITY_NORMAL);
        close_fd(pair[0]);
        close_fd(pair[1]);
        if (r < 0)
                s->relay = sd_bus_close_unref(s->relay);
        return r;
}

static int on_answer(sd_bus_message *answer, void *userdata, sd_bus_error *ret_error)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        Call *c = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(answer);
        int r;

        if (e) {
                (void) sd_bus_reply_method_error(c->message, e);
        } else {
                r = sd_bus_message_new_method_return(c->message, &reply);
                if (r >= 0)
                        r = sd_bus_message_copy(reply, answer, true);
                r = r >= 0 ? sd_bus_send(NULL, reply, NULL) : sd_bus_reply_method_errno(c->message, r, NULL);
                if (r < 0)
                        log_debug("System bus: an answer is lost: %s", strerror(-r));
        }
        call_free(c);
        return 1;
}

static int call_relay(Call *c)
{
        _cleanup_message_ sd_bus_message *copy = NULL;
        SystemBus *s = c->system_bus;
        sd_bus_message *m = c->message;
        bool sensitive = sd_bus_message_is_method_call(m, AGENT_INTERFACE, "Mount") > 0 ||
                         sd_bus_message_is_method_call(m, AGENT_INTERFACE, "Attach") > 0 ||
                         sd_bus_message_is_method_call(m, AGENT_INTERFACE, "Fence") > 0;
        int r = relay_connect(s);

        if (r >= 0)
                r = sd_bus_message_new_method_call(s->relay, &copy, NULL, sd_bus_message_get_path(m),
                                                   sd_bus_message_get_interface(m), sd_bus_message_get_member(m));
        /* if somebody passes secrets, which is refused in the end, they are at least overwritten */
        if (r >= 0 && sensitive)
                r = sd_bus_message_sensitive(m);
        if (r >= 0 && sensitive)
                r = sd_bus_message_sensitive(copy);
        if (r >= 0)
                r = sd_bus_message_rewind(m, true);
        if (r >= 0)
                r = sd_bus_message_copy(copy, m, true);
        return r < 0 ? r : sd_bus_call_async(s->relay, &c->slot, copy, on_answer, c, UINT64_MAX);
}

static int on_credentials(sd_bus_message *answer, void *userdata, sd_bus_error *ret_error)
{
        Call *c = userdata;
        Credentials caller = { .admin_group = c->system_bus->admin_group };
        _cleanup_error_ Error err = ERROR_INIT;

        c->slot = sd_bus_slot_unref(c->slot);
        if (sd_bus_message_is_method_error(answer, NULL) || bus_read_dict(answer, credentials_set, &caller) < 0)
                caller.known = false; /* it has gone meanwhile, most likely */
        if (call_check(c, &caller, &err) < 0) {
                log_event(LOG_WARNING, EVENT_PEER_REFUSED, "System bus: %s", str_or(err.text, ""));
                return call_refuse(c, &err);
        }
        int r = call_relay(c);
        if (r < 0) {
                error_set(&err, ERROR_INTERNAL, r, "The call cannot be passed on: %s", strerror(-r));
                return call_refuse(c, &err);
        }
        return 1;
}

static int call_hold(SystemBus *s, sd_bus_message *m)
{
        Call *c = calloc(1, sizeof(*c));
        if (!c)
                return -ENOMEM;

        c->system_bus = s;
        c->message = sd_bus_message_ref(m);
        TAILQ_INSERT_TAIL(&s->calls, c, entry);
        s->n_calls++;
        int r = sd_bus_call_method_async(s->bus, &c->slot, "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus",
                                         "GetConnectionCredentials", on_credentials, c, "s", sd_bus_message_get_sender(m));
        if (r < 0)
                call_free(c);
        return r;
}

/* Before sd-bus looks for an object, of which there is none on this connection. */
static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
        SystemBus *s = userdata;
        int r;

        if (sd_bus_message_is_method_call(m, NULL, NULL) <= 0 ||
            sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Peer", NULL) > 0)
                return 0;
        if (!sd_bus_message_get_sender(m) || !sd_bus_message_get_interface(m))
                r = -EBADMSG;
        else if (s->n_calls >= CALLS_MAX)
                r = -EBUSY;
        else
                r = call_hold(s, m);
        return r < 0 ? sd_bus_reply_method_errno(m, r, NULL) : 1;
}

/* ---- the connection ---- */

static void connection_lose(SystemBus *s)
{
        Call *c;

        while ((c = TAILQ_FIRST(&s->calls)))
                call_free(c);
        s->bus = sd_bus_close_unref(s->bus);
        s->exported = false;
}

static int connection_make(SystemBus *s);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
        SystemBus *s = userdata;

        s->retry = sd_event_source_disable_unref(s->retry);
        return connection_make(s);
}

static int retry_later(SystemBus *s, const char *why)
{
        if (!s->told)
                log_info("Not on the system bus, for now: %s", why);
        s->told = true;
        connection_lose(s);
        s->delay_usec = s->delay_usec == 0                   ? RETRY_MIN_USEC
                        : s->delay_usec * 2 > RETRY_MAX_USEC ? RETRY_MAX_USEC
                                                             : s->delay_usec * 2;
        if (s->retry)
                return 0;
        return sd_event_add_time_relative(s->manager->event, &s->retry, CLOCK_BOOTTIME, s->delay_usec, 100000, on_retry, s);
}

static int on_disconnected(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error)
{
        SystemBus *s = userdata;

        if (s->exported)
                s->told = false;
        (void) retry_later(s, "the connection is lost");
        return 0;
}

static int on_name(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        SystemBus *s = userdata;
        const sd_bus_error *e = sd_bus_message_get_error(reply);
        uint32_t result = 0;

        if (e || sd_bus_message_read_basic(reply, 'u', &result) < 0 || result != 1) {
                (void) retry_later(s, e ? str_or(e->message, e->name) : "somebody else has the name " AGENT_INTERFACE);
                return 1;
        }
        log_info("On the system bus as " AGENT_INTERFACE);
        s->exported = true;
        s->told = false;
        s->delay_usec = 0;
        return 1;
}

static int connection_start(SystemBus *s)
{
        const char *address = secure_getenv(ADDRESS_ENV);
        int r = sd_bus_new(&s->bus);

        if (r >= 0)
                r = sd_bus_set_address(s->bus, str_or(address, ADDRESS_DEFAULT));
        if (r >= 0)
                r = sd_bus_set_bus_client(s->bus, 1);
        if (r >= 0)
                r = sd_bus_negotiate_fds(s->bus, 0);
        if (r >= 0)
                r = sd_bus_set_close_on_exit(s->bus, 0); /* it would wait for the bus to read */
        if (r >= 0)
                r = sd_bus_add_filter(s->bus, NULL, on_message, s);
        if (r >= 0)
                r = sd_bus_start(s->bus);
        if (r >= 0)
                r = sd_bus_match_signal_async(s->bus, NULL, "org.freedesktop.DBus.Local", "/org/freedesktop/DBus/Local",
                                              "org.freedesktop.DBus.Local", "Disconnected", on_disconnected, NULL, s);
        if (r >= 0)
                r = sd_bus_attach_event(s->bus, s->manager->event, SD_EVENT_PRIORITY_NORMAL);
        if (r >= 0)
                r = sd_bus_request_name_async(s->bus, NULL, AGENT_INTERFACE, 0, on_name, s);
        return r;
}

static int connection_make(SystemBus *s)
{
        int r = connection_start(s);

        return r < 0 ? retry_later(s, strerror(-r)) : 0;
}

/* ---- the group ---- */

/* In /etc/group alone: a name service could keep us waiting. */
static gid_t group_find(const char *name)
{
        unsigned number;
        const struct group *g;
        gid_t gid = NO_GROUP;

        if (!*name)
                return NO_GROUP;
        if (parse_unsigned(name, &number) >= 0)
                return number;
        FILE *file = fopen("/etc/group", "re");
        while (file && gid == NO_GROUP && (g = fgetgrent(file)))
                if (strcmp(g->gr_name, name) == 0)
                        gid = g->gr_gid;
        if (file)
                fclose(file);
        if (gid == NO_GROUP)
                log_info("There is no group %s: only root may look over the system bus", name);
        return gid;
}

int system_bus_start(Manager *m)
{
        SystemBus *s = calloc(1, sizeof(*s));
        if (!s)
                return -ENOMEM;

        s->manager = m;
        s->admin_group = group_find(m->settings.admin_group);
        TAILQ_INIT(&s->calls);
        m->system_bus = s;
        return connection_make(s);
}

void system_bus_reload(Manager *m)
{
        if (m->system_bus)
                m->system_bus->admin_group = group_find(m->settings.admin_group);
}

const char *system_bus_state(const Manager *m)
{
        return !m->system_bus ? "off" : m->system_bus->exported ? "exported" : "waiting";
}

void system_bus_free(Manager *m)
{
        SystemBus *s = TAKE_PTR(m->system_bus);

        if (!s)
                return;
        connection_lose(s);
        s->relay = sd_bus_close_unref(s->relay);
        sd_event_source_disable_unref(s->retry);
        free(s);
}
