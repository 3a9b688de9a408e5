/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The course of a drain. Runs in berthd and never waits: everything it does to a volume is an operation as the kubelet would ask for
 * it, with the bounds that those have, so a dead server costs its own volume and the drain's own time at most.
 *
 * Invariant: what a drain begins is known to nobody but the volumes' records. One that is cut off at any moment leaves volumes that are
 * still there, each in a state that a repeat, a restart or reconcile goes on from.
 */

#include "daemon/drain.h"

#include <string.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"

#define DEFAULT_USEC (60 * UINT64_C(1000000))
#define MAX_USEC (3600 * UINT64_C(1000000))
/* how often is looked whether all are gone; and how soon after one try what was held is tried again */
#define LOOK_USEC (20 * UINT64_C(1000))
#define AGAIN_MIN_USEC (200 * UINT64_C(1000))
#define AGAIN_MAX_USEC (5 * UINT64_C(1000000))

/* A volume as it was at the start, for the answer. */
typedef struct Item {
        char *key, *driver;
        char **targets;
        UT_hash_handle hh;
} Item;

struct Drain {
        Manager *manager;
        sd_bus_message *call;
        uint64_t started_usec, deadline_usec, again_usec, delay_usec; /* CLOCK_BOOTTIME, but for the last */
        sd_event_source *timer;
        Item *items; /* by key */
        TAILQ_ENTRY(Drain) entry;
};

static void item_free(Item *i)
{
        free(i->key);
        free(i->driver);
        strv_free(i->targets);
        free(i);
}

static void drain_free(Drain *d)
{
        Item *i, *next;

        HASH_ITER (hh, d->items, i, next) {
                HASH_DELETE(hh, d->items, i);
                item_free(i);
        }
        sd_event_source_disable_unref(d->timer);
        sd_bus_message_unref(d->call);
        free(d);
}

bool drain_is_running(const Manager *m)
{
        return !TAILQ_EMPTY(&m->drains);
}

bool drain_is_awaited(const Manager *m, const sd_bus *bus)
{
        const Drain *d;

        TAILQ_FOREACH (d, &m->drains, entry)
                if (sd_bus_message_get_bus(d->call) == bus)
                        return true;
        return false;
}

/* ---- the answer ---- */

/* Why it is still there: what is at work on it, or what was in the way. */
static char *volume_reason(const Volume *v)
{
        const Operation *op = v->holder;
        char *text = NULL;

        if (op && op->mounter) {
                bool stuck = op->mounter->state == MOUNTER_QUARANTINED;

                return asprintf(&text, "Process %d is %s at step '%s'", op->mounter->pid, stuck ? "blocked in the kernel" : "still at work",
                                step_to_string(op->step)) < 0
                                       ? NULL
                                       : text;
        }
        return strdup(str_or(v->last_error, "It waits for its turn"));
}

static int append_item(sd_bus_message *m, const Item *i, const Volume *v)
{
        _cleanup_free_ char *reason = v ? volume_reason(v) : strdup("");
        int r = reason ? sd_bus_message_open_container(m, 'a', "{sv}") : -ENOMEM;

        if (r >= 0)
                r = bus_append_entry(m, "volume", "s", i->key);
        if (r >= 0)
                r = bus_append_entry(m, "driver", "s", i->driver);
        if (r >= 0)
                r = bus_append_entry_bytes(m, "target", i->targets ? i->targets[0] : "");
        if (r >= 0)
                r = bus_append_entry(m, "targets", "u", (uint32_t) strv_length(i->targets));
        if (r >= 0)
                r = bus_append_entry(m, "state", "s", volume_state_to_string(v ? v->state : VOLUME_ABSENT));
        if (r >= 0)
                r = bus_append_entry(m, "gone", "b", (int) !v);
        if (r >= 0)
                r = bus_append_entry(m, "reason", "s", reason);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int answer(const Drain *d)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = sd_bus_message_new_method_return(d->call, &reply);

        if (r >= 0)
                r = sd_bus_message_open_container(reply, 'a', "a{sv}");
        for (const Item *i = d->items; i && r >= 0; i = i->hh.next)
                r = append_item(reply, i, volume_find(d->manager, i->key));
        if (r >= 0)
                r = sd_bus_message_close_container(reply);
        return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static void drain_end(Drain *d)
{
        Manager *m = d->manager;
        unsigned n_left = HASH_COUNT(m->volumes);

        TAILQ_REMOVE(&m->drains, d, entry);
        if (n_left > 0)
                log_event(LOG_WARNING, EVENT_DRAIN_INCOMPLETE, "Drain: %u of %u volumes are left after %llu s", n_left,
                          HASH_COUNT(d->items), (unsigned long long) ((now_boottime_usec() - d->started_usec) / 1000000));
        else
                log_notice("Drain: all %u volumes are unmounted and detached", HASH_COUNT(d->items));
        int r = answer(d);
        if (r < 0)
                log_debug("Drain: cannot answer: %s", strerror(-r));
        drain_free(d);
}

/* ---- the course ---- */

static int item_new(Drain *d, const Volume *v)
{
        const Publish *p;
        Item *i = calloc(1, sizeof(*i));
        if (!i)
                return -ENOMEM;

        i->key = strdup(v->key);
        i->driver = strdup(v->driver);
        int r = i->key && i->driver ? 0 : -ENOMEM;
        TAILQ_FOREACH (p, &v->publishes, of_volume)
                if (r >= 0)
                        r = strv_append(&i->targets, p->target);
        if (r < 0)
                item_free(i);
        else
                HASH_ADD_KEYPTR(hh, d->items, i->key, strlen(i->key), i);
        return r;
}

/* Also one that came up since: from a mount that was under way, or that reconcile found. */
static int drain_take_items(Drain *d)
{
        int r = 0;

        for (const Volume *v = d->manager->volumes; v && r >= 0; v = v->hh.next) {
                const Item *known;

                HASH_FIND_STR(d->items, v->key, known);
                if (!known)
                        r = item_new(d, v);
        }
        return r;
}

/* Operations may end at once and take their volume with them: so first look, then begin. */
static int gather(Manager *m, char ***ret_targets, char ***ret_names, char ***ret_unused)
{
        for (const Volume *v = m->volumes; v; v = v->hh.next) {
                const Publish *p;

                TAILQ_FOREACH (p, &v->publishes, of_volume)
                        if (!operation_is_pending(m, p->target) && strv_append(ret_targets, p->target) < 0)
                                return -ENOMEM;
                STRV_FOREACH (a, v->attachments)
                        if (strv_append(ret_names, *a) < 0)
                                return -ENOMEM;
                if (!v->holder && volume_is_unused(v) && strv_append(ret_unused, v->key) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static void begin_all(Manager *m)
{
        _cleanup_strv_ char **targets = NULL, **names = NULL, **unused = NULL;
        int r = gather(m, &targets, &names, &unused);

        STRV_FOREACH (t, targets)
                if (r >= 0)
                        r = operation_begin_unmount(m, *t);
        STRV_FOREACH (n, names)
                if (r >= 0)
                        r = operation_begin_detach(m, *n);
        STRV_FOREACH (key, unused) {
                Volume *v = volume_find(m, *key);
                /* instead of after LingerSec */
                if (v && !v->holder && volume_is_unused(v))
                        volume_schedule_cleanup(v, 1);
        }
        if (r < 0)
                log_error("Drain: %s", strerror(-r));
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Drain *d = userdata;
        Manager *m = d->manager;
        uint64_t now = now_boottime_usec();

        /* out of memory: the answer lacks some, the work does not */
        (void) drain_take_items(d);
        if (!m->volumes || now >= d->deadline_usec) {
                drain_end(d);
                return 0;
        }
        if (now >= d->again_usec) {
                begin_all(m);
                d->again_usec = now + d->delay_usec;
                d->delay_usec = d->delay_usec * 2 > AGAIN_MAX_USEC ? AGAIN_MAX_USEC : d->delay_usec * 2;
        }
        (void) sd_event_source_set_time_relative(s, LOOK_USEC);
        return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

int drain_begin(Manager *m, uint64_t timeout_usec, sd_bus_message *call)
{
        Drain *d = calloc(1, sizeof(*d));
        if (!d)
                return -ENOMEM;

        if (timeout_usec == 0)
                timeout_usec = DEFAULT_USEC;
        *d = (Drain) {
                .manager = m,
                .call = sd_bus_message_ref(call),
                .started_usec = now_boottime_usec(),
                .deadline_usec = now_boottime_usec() + (timeout_usec > MAX_USEC ? MAX_USEC : timeout_usec),
                .delay_usec = AGAIN_MIN_USEC,
        };
        int r = sd_event_add_time_relative(m->event, &d->timer, CLOCK_BOOTTIME, 0, 1000, on_timer, d);
        if (r < 0) {
                drain_free(d);
                return r;
        }
        TAILQ_INSERT_TAIL(&m->drains, d, entry);
        log_notice("Drain: %u volumes are to be unmounted and detached", HASH_COUNT(m->volumes));
        return 0;
}

void drains_free(Manager *m)
{
        Drain *d;

        while ((d = TAILQ_FIRST(&m->drains))) {
                _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
                _cleanup_error_ Error err = ERROR_INIT;

                error_set(&err, ERROR_SHUTTING_DOWN, ESHUTDOWN, "berthd is stopping while it drains the node");
                error_to_bus(&err, &e);
                (void) sd_bus_reply_method_error(d->call, &e);
                TAILQ_REMOVE(&m->drains, d, entry);
                drain_free(d);
        }
}
