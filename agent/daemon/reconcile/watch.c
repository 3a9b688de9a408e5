/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The triggers of reconcile. Runs in berthd; reads descriptors of the kernel's event queues, which never wait for storage.
 *
 * Invariant: whatever happens on the node, at most one reconcile a second begins here, and not before the last one's cost times
 * twenty-five has passed (4 % of a core), but for very many mounts; and an event that was seen is followed by a look within two seconds.
 */

#include "daemon/reconcile/watch.h"

#include <fcntl.h>
#include <linux/fanotify.h>
#include <linux/netlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"

/* <linux/fanotify.h> of Linux 6.15; older headers lack them. */
#ifndef FAN_REPORT_MNT
#define FAN_REPORT_MNT 0x00004000
#endif
#ifndef FAN_MARK_MNTNS
#define FAN_MARK_MNTNS 0x00000110
#endif
#ifndef FAN_MNT_ATTACH
#define FAN_MNT_ATTACH 0x01000000
#define FAN_MNT_DETACH 0x02000000
#endif
#ifndef FAN_EVENT_INFO_TYPE_MNT
#define FAN_EVENT_INFO_TYPE_MNT 7
#endif

struct mount_event_info {
        struct fanotify_event_info_header header;
        uint64_t mount_id; /* unique, as by STATX_MNT_ID_UNIQUE */
};

#define LOOK_INTERVAL_MIN_USEC (1000 * UINT64_C(1000))
#define LOOK_INTERVAL_MAX_USEC (1700 * UINT64_C(1000))
#define LOOK_COST_FACTOR 25U
#define EVENTS_PAUSE_USEC (100 * UINT64_C(1000))
#define EVENTS_SIZE 16384U /* of one read */
/* Each may cost a mounter that is never seen again: a dead server must not use up what requests have. */
#define CHECKS_STUCK_MAX 4U

/* For tests of the way that older kernels go. */
#define MOUNT_EVENTS_ENV "BERTH_MOUNT_EVENTS"

struct Watch {
        Manager *manager;
        int mount_fd; /* fanotify, or /proc/self/mountinfo */
        bool has_fanotify;
        sd_event_source *mount_source, *uevent_source;
        sd_event_source *mount_resume; /* the source is off until then, so that events gather */
        sd_event_source *look_timer;   /* a quick reconcile is due */
        sd_event_source *full_timer;
        uint64_t looked_usec, cost_usec; /* when it was, on CLOCK_BOOTTIME; how much CPU time it took */
        char *checked; /* key of the volume whose health is being checked; NULL between rounds */
        sd_event_source *check_defer; /* the next check begins when the loop comes to it */
        unsigned n_checks_stuck; /* given up, and their mounters still blocked */
};

/* ---- looking ---- */

/* Not the time that passes: on a machine that is busy with other things berthd need not look more seldom. */
static uint64_t cpu_usec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
        return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}

static int on_look_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Watch *w = userdata;
        uint64_t begin = cpu_usec();

        w->look_timer = sd_event_source_disable_unref(w->look_timer);
        reconcile_look(w->manager);
        w->looked_usec = now_boottime_usec();
        w->cost_usec = cpu_usec() - begin;
        if (!w->has_fanotify && w->mount_source)
                (void) sd_event_source_set_enabled(w->mount_source, SD_EVENT_ON);
        return 0;
}

/* Something of ours may have changed: look soon, but not too often. */
static void watch_look_soon(Watch *w)
{
        uint64_t now = now_boottime_usec(), interval = w->cost_usec * LOOK_COST_FACTOR, due;

        if (w->look_timer)
                return;
        if (interval < LOOK_INTERVAL_MIN_USEC)
                interval = LOOK_INTERVAL_MIN_USEC;
        if (interval > LOOK_INTERVAL_MAX_USEC)
                interval = LOOK_INTERVAL_MAX_USEC;
        due = w->looked_usec + interval;
        if (sd_event_add_time_relative(w->manager->event, &w->look_timer, CLOCK_BOOTTIME,
                                       due > now ? due - now : 0, 10000, on_look_timer, w) < 0)
                log_warning("Out of memory: a change of the mount table is looked at by the timer only");
}

/* ---- mount events ---- */

/* The unmounted mounts of one read, at most as many as it has room for. */
typedef struct Detached {
        uint64_t ids[EVENTS_SIZE / sizeof(struct fanotify_event_metadata)];
        size_t n;
} Detached;

static int compare_ids(const void *a, const void *b)
{
        const uint64_t *x = a, *y = b;

        return *x < *y ? -1 : *x > *y;
}

/* Mount IDs rise: ours are mostly outside the range of what others have made and undone just now. 0: one that is not known. */
static bool detached_has(const Detached *d, uint64_t id)
{
        return id == 0 || (id >= d->ids[0] && id <= d->ids[d->n - 1] &&
                           bsearch(&id, d->ids, d->n, sizeof(id), compare_ids));
}

/*
 * Kernels with mount events have unique mount IDs, and then mount_id_at() gives those. All of a read are looked up in one go:
 * there may be thousands of volumes and hundreds of events a second. An adopted mount's ID is not known: it might be any.
 */
static bool detached_are_ours(Detached *d, const Manager *m)
{
        if (d->n == 0)
                return false;
        qsort(d->ids, d->n, sizeof(d->ids[0]), compare_ids);
        for (const Publish *p = m->publishes; p; p = p->hh.next)
                if (detached_has(d, p->mount_id))
                        return true;
        for (const Volume *v = m->volumes; v; v = v->hh.next)
                if ((v->state == VOLUME_STAGED || v->stage_mount_id != 0) && detached_has(d, v->stage_mount_id))
                        return true;
        return false;
}

static int on_mount_resume(sd_event_source *s, uint64_t usec, void *userdata)
{
        Watch *w = userdata;

        w->mount_resume = sd_event_source_disable_unref(w->mount_resume);
        return sd_event_source_set_enabled(w->mount_source, SD_EVENT_ON);
}

/* False if the event alone is reason enough to look. What others attach is no change of ours. */
static bool detached_add(Detached *d, const struct fanotify_event_metadata *e)
{
        const struct mount_event_info *info = (const void *) ((const char *) e + e->metadata_len);

        if (e->mask & FAN_Q_OVERFLOW)
                return false;
        if (!(e->mask & FAN_MNT_DETACH))
                return true;
        if (e->event_len < e->metadata_len + sizeof(*info) || info->header.info_type != FAN_EVENT_INFO_TYPE_MNT)
                return false;
        d->ids[d->n++] = info->mount_id;
        return true;
}

static bool events_concern_us(const Manager *m, const char *buffer, size_t size)
{
        const struct fanotify_event_metadata *e = (const void *) buffer;
        Detached d;

        d.n = 0;
        for (; FAN_EVENT_OK(e, size); e = FAN_EVENT_NEXT(e, size))
                if (!detached_add(&d, e))
                        return true;
        return detached_are_ours(&d, m);
}

static int on_mount_event(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
        _Alignas(struct fanotify_event_metadata) char buffer[EVENTS_SIZE];
        Watch *w = userdata;
        ssize_t n;

        while ((n = read(fd, buffer, sizeof(buffer))) > 0)
                if (!w->look_timer && events_concern_us(w->manager, buffer, (size_t) n))
                        watch_look_soon(w);
        /* let events gather: on a node with many changes, one wake-up for all of a tenth of a second */
        (void) sd_event_source_set_enabled(s, SD_EVENT_OFF);
        if (sd_event_add_time_relative(w->manager->event, &w->mount_resume, CLOCK_BOOTTIME, EVENTS_PAUSE_USEC,
                                       10000, on_mount_resume, w) < 0)
                return sd_event_source_set_enabled(s, SD_EVENT_ON);
        return 0;
}

static int on_mountinfo(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
        /* off until the table has been read: meanwhile there is nothing more to learn */
        (void) sd_event_source_set_enabled(s, SD_EVENT_OFF);
        watch_look_soon(userdata);
        return 0;
}

static int open_fanotify(void)
{
        const char *choice = getenv(MOUNT_EVENTS_ENV);

        if (choice && strcmp(choice, "mountinfo") == 0)
                return -EOPNOTSUPP;
        _cleanup_close_ int ns = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (ns < 0)
                return -errno;
        _cleanup_close_ int fd = (int) syscall(
                        SYS_fanotify_init,
                        FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE | FAN_REPORT_MNT, 0);
        if (fd < 0)
                return -errno;
        if (syscall(SYS_fanotify_mark, fd, FAN_MARK_ADD | FAN_MARK_MNTNS,
                    (uint64_t) (FAN_MNT_ATTACH | FAN_MNT_DETACH), ns, NULL) < 0)
                return -errno;
        return TAKE_FD(fd);
}

static int watch_mounts(Watch *w)
{
        w->mount_fd = open_fanotify();
        w->has_fanotify = w->mount_fd >= 0;
        if (!w->has_fanotify)
                w->mount_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
        if (w->mount_fd < 0)
                return -errno;
        /* mountinfo is always readable; a change is EPOLLPRI (proc(5)) */
        return sd_event_add_io(w->manager->event, &w->mount_source, w->mount_fd,
                               w->has_fanotify ? EPOLLIN : EPOLLPRI,
                               w->has_fanotify ? on_mount_event : on_mountinfo, w);
}

/* ---- devices ---- */

static const char *uevent_value(const char *text, size_t size, const char *name)
{
        size_t n = strlen(name);

        for (const char *p = text; p < text + size; p += strlen(p) + 1)
                if (strncmp(p, name, n) == 0 && p[n] == '=')
                        return p + n + 1;
        return NULL;
}

static bool device_is_ours(const Manager *m, const char *major_text, const char *minor_text)
{
        unsigned major_number, minor_number;

        if (!major_text || !minor_text || parse_unsigned(major_text, &major_number) < 0 ||
            parse_unsigned(minor_text, &minor_number) < 0)
                return false;
        for (const Volume *v = m->volumes; v; v = v->hh.next)
                if (v->device_number == makedev(major_number, minor_number) && !v->holder)
                        return true;
        return false;
}

/*
 * The kernel's own events (not udev's, which come later and need udevd): "remove" of a device, or "change", which is what a loop
 * device tells when it is let go.
 */
static int on_uevent(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
        Watch *w = userdata;
        char buffer[8192];

        for (;;) {
                struct sockaddr_nl sender = {};
                socklen_t size = sizeof(sender);
                ssize_t n = recvfrom(fd, buffer, sizeof(buffer) - 1, MSG_DONTWAIT, (struct sockaddr *) &sender,
                                     &size);

                if (n < 0) {
                        if (errno == ENOBUFS) /* some were lost: ours may be among them */
                                watch_look_soon(w);
                        return 0;
                }
                if (sender.nl_pid != 0) /* not from the kernel */
                        continue;
                buffer[n] = 0;
                const char *action = uevent_value(buffer, (size_t) n, "ACTION");
                if (!action || (strcmp(action, "remove") != 0 && strcmp(action, "change") != 0))
                        continue;
                if (str_equal(uevent_value(buffer, (size_t) n, "SUBSYSTEM"), "block") &&
                    device_is_ours(w->manager, uevent_value(buffer, (size_t) n, "MAJOR"),
                                   uevent_value(buffer, (size_t) n, "MINOR")))
                        watch_look_soon(w);
        }
}

static int watch_devices(Watch *w)
{
        struct sockaddr_nl address = { .nl_family = AF_NETLINK, .nl_groups = 1 };
        _cleanup_close_ int fd =
                        socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

        if (fd < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
                return -errno;
        int r = sd_event_add_io(w->manager->event, &w->uevent_source, fd, EPOLLIN, on_uevent, w);
        if (r < 0)
                return r;
        TAKE_FD(fd);
        return sd_event_source_set_io_fd_own(w->uevent_source, true);
}

/* ---- health ---- */

/* Begins the check of the first of these volumes that can be checked; false if there is none. */
static bool check_first(Watch *w, Volume *v)
{
        for (; v && w->n_checks_stuck < CHECKS_STUCK_MAX; v = v->hh.next) {
                Operation *op;

                if (v->state != VOLUME_STAGED || v->holder || v->checking)
                        continue;
                if (str_replace(&w->checked, v->key) < 0 || operation_new(w->manager, OPERATION_CHECK, &op) < 0)
                        return false;
                if (str_replace(&op->key, v->key) < 0 || str_replace(&op->params.driver, v->driver) < 0) {
                        operation_free(op);
                        return false;
                }
                v->checking = true;
                operation_submit(op, NULL);
                return true;
        }
        return false;
}

static int on_check_defer(sd_event_source *s, void *userdata)
{
        Watch *w = userdata;
        const Volume *v = w->checked ? volume_find(w->manager, w->checked) : NULL;

        w->check_defer = sd_event_source_disable_unref(w->check_defer);
        /* one that went away meanwhile: the rest is looked at in the next round */
        if (!v || !check_first(w, v->hh.next))
                free(TAKE_PTR(w->checked));
        return 0;
}

static bool has_stale_publish(const Volume *v)
{
        const Publish *p;

        TAILQ_FOREACH(p, &v->publishes, of_volume)
                if (p->stale)
                        return true;
        return false;
}

/* From the event loop, so that checks that cannot even begin are so many turns of it, not frames of the stack. */
void watch_check_done(Manager *m, const char *key, CheckEnd end)
{
        Volume *v = volume_find(m, key);
        Watch *w = m->watch;

        if (v)
                v->checking = end == CHECK_GIVEN_UP;
        if (!w)
                return;
        if (end == CHECK_GIVEN_UP)
                w->n_checks_stuck++;
        if (end == CHECK_GIVEN_UP_ENDED) {
                w->n_checks_stuck--;
                return;
        }
        if (v && (v->health == VOLUME_HEALTH_CORRUPTED || has_stale_publish(v)))
                watch_look_soon(w);
        if (sd_event_add_defer(m->event, &w->check_defer, on_check_defer, w) < 0)
                free(TAKE_PTR(w->checked));
}

/* ---- the timer ---- */

uint64_t watch_jitter(uint64_t interval)
{
        uint32_t random = 0;

        (void) getrandom(&random, sizeof(random), GRND_NONBLOCK);
        return interval / 4 * 3 + interval / 2 * (random % 1024) / 1024;
}

static int on_full_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
        Watch *w = userdata;

        reconcile_request(w->manager, RECONCILE_APPLY, NULL);
        if (!w->checked && !check_first(w, w->manager->volumes))
                free(TAKE_PTR(w->checked));
        (void) sd_event_source_set_time_relative(s, watch_jitter(w->manager->settings.reconcile_interval_usec));
        return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

int watch_start(Manager *m, Error *err)
{
        Watch *w = calloc(1, sizeof(*w));
        int r;

        if (!w)
                return error_oom(err);
        w->manager = m;
        w->mount_fd = -EBADF;
        m->watch = w;
        /* the first one at once, as soon as the loop runs */
        r = sd_event_add_time_relative(m->event, &w->full_timer, CLOCK_BOOTTIME, 0, 1000, on_full_timer, w);
        if (r < 0)
                return error_oom(err);
        r = watch_mounts(w);
        if (r < 0)
                log_warning("Changes of the mount table are seen by the timer only: %s", strerror(-r));
        r = watch_devices(w);
        if (r < 0)
                log_warning("Removal of devices is seen by the timer only: %s", strerror(-r));
        return 0;
}

void watch_reload(Manager *m)
{
        /* at once, and from then on with the new interval */
        if (m->watch && sd_event_source_set_time_relative(m->watch->full_timer, 0) >= 0)
                (void) sd_event_source_set_enabled(m->watch->full_timer, SD_EVENT_ONESHOT);
}

const char *watch_mount_source(const Manager *m)
{
        return m->watch && m->watch->has_fanotify ? "fanotify" : "mountinfo";
}

void watch_free(Manager *m)
{
        Watch *w = TAKE_PTR(m->watch);

        if (!w)
                return;
        sd_event_source_disable_unref(w->mount_source);
        sd_event_source_disable_unref(w->uevent_source);
        sd_event_source_disable_unref(w->mount_resume);
        sd_event_source_disable_unref(w->look_timer);
        sd_event_source_disable_unref(w->full_timer);
        sd_event_source_disable_unref(w->check_defer);
        close_fd(w->mount_fd);
        free(w->checked);
        free(w);
}
