/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The process of every mounter: io.berth.Mounter1 on descriptor 3, one call at a time, blocking in it, single-threaded.
 *
 * Invariants: while a method works that names a volume's key, the lock file of that key is held, by this process or by
 * a child that it started; a method that must finish is not ended by SIGTERM; the process survives its caller
 * until the running method is through, and ends then. Secrets are erased when the call that brought them ends.
 *
 * The table `methods` is all that is known here of the interface; what calls bring and tell is in message.c.
 */

#include "mounters/mounter.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "build.h"
#include "mounters/fs/bind.h"
#include "mounters/fs/mount.h"
#include "mounters/fs/target.h"
#include "mounters/message.h"
#include "protocol/bus-util.h"
#include "protocol/names.h"

#define SERVER_FD 3
#define PROGRESS_INTERVAL_NSEC (250 * INT64_C(1000000))

/* What serve.c itself keeps: Mounter.connection. */
typedef struct Connection {
        sd_bus *bus;
        int locks_fd;
        int64_t progress_nsec; /* when Progress was sent last */
} Connection;

typedef enum MethodFlags {
        METHOD_LOCKS = 1 << 0,           /* takes the lock of the key, if one is named */
        METHOD_NEEDS_KEY = 1 << 1,
        METHOD_MUST_FINISH = 1 << 2,     /* SIGTERM waits */
        METHOD_ENDS_LOCK = 1 << 3,       /* nothing of the volume is left afterwards: the lock file goes */
        METHOD_ENDS_LOCK_FAILED = 1 << 4, /* likewise if it fails */
        METHOD_ATTACHES = 1 << 5,         /* attaches first, if asked */
        METHOD_DETACHES = 1 << 6,         /* detaches afterwards, if asked */
        METHOD_LOOKS_AT_TARGET = 1 << 7,  /* fails if nothing could be published at the target */
} MethodFlags;

static int no_device(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        r->gone = true;
        return 0;
}

static int not_supported(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        return error_set(err, ERROR_NOT_SUPPORTED, EOPNOTSUPP, "Not possible with driver %s", m->ops->kind);
}

#define SLOT(name) offsetof(MounterOps, name)
#define LOCKED (METHOD_LOCKS | METHOD_NEEDS_KEY)
static const struct Method {
        const char *name;
        size_t slot;
        MounterSlot fallback;
        unsigned flags;
        unsigned answer;
} methods[] = {
                {"Resolve", SLOT(resolve), not_supported, METHOD_LOOKS_AT_TARGET,
                 ANSWER_IDENTITY | ANSWER_CREATE},
                {"Create", SLOT(create), not_supported,
                 LOCKED | METHOD_MUST_FINISH | METHOD_ENDS_LOCK | METHOD_ENDS_LOCK_FAILED, 0},
                {"Attach", SLOT(attach), no_device, LOCKED | METHOD_ENDS_LOCK_FAILED, ANSWER_DEVICE},
                {"Stage", SLOT(stage), not_supported, LOCKED | METHOD_ATTACHES,
                 ANSWER_DEVICE | ANSWER_NEXT | ANSWER_FILE_SYSTEM | ANSWER_MOUNT_ID},
                {"Format", SLOT(format), not_supported, LOCKED | METHOD_MUST_FINISH, ANSWER_FILE_SYSTEM},
                {"Fsck", SLOT(fsck), not_supported, LOCKED | METHOD_MUST_FINISH, 0},
                {"Publish", SLOT(publish), fs_publish, LOCKED, ANSWER_NEXT | ANSWER_MOUNT_ID},
                {"Unpublish", SLOT(unpublish), fs_unpublish, METHOD_LOCKS, ANSWER_LAYERS},
                {"Unstage", SLOT(unstage), fs_unstage, LOCKED | METHOD_DETACHES | METHOD_ENDS_LOCK,
                 ANSWER_GONE},
                {"Detach", SLOT(detach), no_device, LOCKED | METHOD_ENDS_LOCK, ANSWER_GONE},
                {"ForceDetach", SLOT(force_detach), not_supported, METHOD_NEEDS_KEY, ANSWER_GONE | ANSWER_DEVICE},
                {"Fence", SLOT(fence), not_supported, 0, ANSWER_HOLDERS},
                {"Expand", SLOT(expand), not_supported, LOCKED | METHOD_MUST_FINISH, ANSWER_SIZE},
                {"Stats", SLOT(stats), fs_stats, 0, ANSWER_USAGE | ANSWER_HEALTH},
                {"Check", SLOT(check), fs_check, 0, ANSWER_PRESENCE | ANSWER_MOUNT_ID | ANSWER_HEALTH},
                {"Forget", SLOT(forget), no_device, LOCKED | METHOD_ENDS_LOCK | METHOD_ENDS_LOCK_FAILED, 0},
                {"Scan", SLOT(scan), no_device, 0, ANSWER_DEVICES},
};

static MounterSlot method_slot(const struct Method *method, const MounterOps *ops)
{
        MounterSlot slot;

        memcpy(&slot, (const char *) ops + method->slot, sizeof(slot));
        return slot ? slot : method->fallback;
}

/* --- a call --- */

/* The key becomes a file name: it is checked although berthd made it. */
static bool key_is_valid(const char *key)
{
        size_t n = strspn(key, "abcdefghijklmnopqrstuvwxyz0123456789._-");

        return n > 0 && n <= VOLUME_KEY_MAX && key[n] == 0 && key[0] != '.';
}

/*
 * A call that was sent just before berthd died must not begin: the next berthd may have looked at the volume already, and
 * take it as it saw it. Asked with the lock held: whoever starts after this look finds the lock taken.
 */
static bool peer_is_gone(void)
{
        struct pollfd p = { .fd = SERVER_FD, .events = POLLRDHUP };

        return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static int lock_take(Mounter *m, const struct Method *method, const MounterVolume *v, Error *err)
{
        const Connection *c = m->connection;

        if (!v->key)
                return method->flags & METHOD_NEEDS_KEY ?
                               error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "%s needs a key", method->name) :
                               0;
        if (!key_is_valid(v->key))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%s' is not a volume's key", v->key);
        if (!(method->flags & METHOD_LOCKS))
                return 0;

        int fd = lock_file_take(c->locks_fd, v->key);
        if (fd == -EWOULDBLOCK)
                return error_set(err, ERROR_LOCKED, EBUSY,
                                 "Volume %s is locked by an operation that still runs", v->key);
        if (fd < 0)
                return error_set(err, ERROR_RECORD_FAILED, fd, "Cannot take the lock file %s/locks/%s: %s",
                                 m->settings.runtime_dir, v->key, strerror(-fd));
        m->lock_fd = fd;
        FAULT_POINT("lock.taken");
        if (peer_is_gone()) {
                /* perhaps made just now, for a volume that is detached already: nobody would ever remove it. Who needs it makes it anew. */
                (void) lock_file_remove(c->locks_fd, v->key);
                m->lock_fd = close_fd(m->lock_fd);
                return error_set(err, ERROR_SHUTTING_DOWN, ECONNRESET, "berthd has ended");
        }
        return 0;
}

/* While we hold the lock nobody else can: unlinking is safe, a new holder makes a new file. */
static void lock_release(Mounter *m, const struct Method *method, const MounterVolume *v,
                         const MounterResult *result, int r)
{
        const Connection *c = m->connection;

        if (m->lock_fd < 0)
                return;
        FAULT_POINT("lock.before-release");
        if (r < 0 ? method->flags & METHOD_ENDS_LOCK_FAILED :
                    (method->flags & METHOD_ENDS_LOCK) && (result->gone || !(method->answer & ANSWER_GONE)))
                (void) lock_file_remove(c->locks_fd, v->key);
        FAULT_POINT("lock.after-release");
        m->lock_fd = close_fd(m->lock_fd);
}

/* The device of this very call is what is staged next. */
static int attach_first(Mounter *m, MounterVolume *v, MounterResult *result, Error *err)
{
        int r = m->ops->attach(m, v, result, err);
        if (r < 0)
                return r;
        v->device_number = result->device_number;
        v->foreign = result->foreign;
        return str_replace(&v->device, result->device) < 0 ? error_oom(err) : 0;
}

/* Before anything is made, and a blank volume formatted, for a target that cannot be. Publish looks again. */
static int look_at_target(Mounter *m, const MounterVolume *v, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        int r = target_parse(v->target, &m->settings, &t, err);
        if (r < 0)
                return r;

        _cleanup_close_ int fd = target_open(&t, err);
        return fd < 0 ? fd : 0;
}

static int run_slots(Mounter *m, const struct Method *method, MounterVolume *v, MounterResult *result, Error *err)
{
        int r = 0;

        if ((method->flags & METHOD_LOOKS_AT_TARGET) && v->target)
                r = look_at_target(m, v, err);
        if (r < 0)
                return r;
        if ((method->flags & METHOD_ATTACHES) && v->attach && m->ops->attach)
                r = attach_first(m, v, result, err);
        if (r >= 0)
                r = method_slot(method, m->ops)(m, v, result, err);
        if (r >= 0 && (method->flags & METHOD_DETACHES) && v->detach &&
            (m->ops->detach ? m->ops->detach : no_device)(m, v, result, NULL) < 0)
                result->gone = false; /* the caller asks for it by Detach, and learns there who holds it */
        return r;
}

static int method_run(Mounter *m, const struct Method *method, MounterVolume *v, MounterResult *result,
                      Error *err)
{
        int r = lock_take(m, method, v, err);

        if (r >= 0) {
                r = run_slots(m, method, v, result, err);
                lock_release(m, method, v, result, r);
        }
        if (r < 0 && !error_is_set(err))
                error_set(err, ERROR_INTERNAL, r, "%s failed: %s", method->name, strerror(-r));
        return r;
}

static void termination_block(int how)
{
        sigset_t set;

        sigemptyset(&set);
        sigaddset(&set, SIGTERM);
        sigaddset(&set, SIGINT);
        sigaddset(&set, SIGHUP);
        (void) sigprocmask(how, &set, NULL);
}

/* Told before the answer, or berthd would have given us the next call by the time we are gone. */
static void spent_tell(const Mounter *m)
{
        const Connection *c = m->connection;

        if (m->spent)
                (void) sd_bus_emit_signal(c->bus, MOUNTER_PATH, MOUNTER_INTERFACE, "Ending", "");
}

/* A thread that still waits uses what the call brought: nothing is freed, and the kernel takes everything at once. */
static void spent_end(const Mounter *m)
{
        const Connection *c = m->connection;

        if (!m->spent)
                return;
        (void) sd_bus_flush(c->bus);
        _exit(EXIT_SUCCESS);
}

static int method_answer(Mounter *m, const struct Method *method, sd_bus_message *msg)
{
        _cleanup_volume_ MounterVolume v = {};
        _cleanup_result_ MounterResult result = {};
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        Connection *c = m->connection;
        int r = request_read(msg, &v, &err);

        c->progress_nsec = 0; /* of each call the first is told at once */

        if (r >= 0)
                r = method_run(m, method, &v, &result, &err);
        spent_tell(m);
        if (r >= 0) {
                r = result_send(msg, method->answer, &result);
                if (method->flags & METHOD_LOCKS)
                        FAULT_POINT("answer.sent");
                spent_end(m);
                return r;
        }
        r = error_to_bus(&err, &e);
        r = r == -ENOMEM ? r : sd_bus_reply_method_error(msg, &e);
        spent_end(m);
        return r;
}

static int on_call(sd_bus_message *msg, void *userdata, sd_bus_error *ret_error)
{
        Mounter *m = userdata;
        const char *member = sd_bus_message_get_member(msg);

        for (size_t i = 0; i < ELEMENTSOF(methods); i++) {
                if (strcmp(methods[i].name, member) != 0)
                        continue;
                /* a signal that came meanwhile ends the process only after the answer was sent */
                if (methods[i].flags & METHOD_MUST_FINISH)
                        termination_block(SIG_BLOCK);
                int r = method_answer(m, &methods[i], msg);
                if (methods[i].flags & METHOD_MUST_FINISH)
                        termination_block(SIG_UNBLOCK);
                if (r < 0 && r != -ENOTCONN && r != -ECONNRESET && r != -EPIPE)
                        log_warning("Cannot answer %s: %s", member, strerror(-r));
                return 1;
        }
        return sd_bus_error_setf(ret_error, SD_BUS_ERROR_UNKNOWN_METHOD, "No method %s", member);
}

static int property_version_get(sd_bus *bus, const char *path, const char *interface, const char *property,
                                sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        return sd_bus_message_append(reply, "u", MOUNTER_PROTOCOL_VERSION);
}

static int property_kind_get(sd_bus *bus, const char *path, const char *interface, const char *property,
                             sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        const Mounter *m = userdata;

        return sd_bus_message_append(reply, "s", m->ops->kind);
}

static int property_build_get(sd_bus *bus, const char *path, const char *interface, const char *property,
                              sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
        return sd_bus_message_append(reply, "s", BERTH_VERSION);
}

/* Unprivileged: whoever holds the other end of the socketpair is berthd. */
#define MOUNTER_METHOD(name)                                                                                 \
        SD_BUS_METHOD_WITH_ARGS(name, SD_BUS_ARGS("a{sv}", volume), SD_BUS_RESULT("a{sv}", result), on_call, \
                                SD_BUS_VTABLE_UNPRIVILEGED)
static const sd_bus_vtable mounter_vtable[] = {
        SD_BUS_VTABLE_START(0),
        MOUNTER_METHOD("Resolve"),
        MOUNTER_METHOD("Create"),
        MOUNTER_METHOD("Attach"),
        MOUNTER_METHOD("Stage"),
        MOUNTER_METHOD("Format"),
        MOUNTER_METHOD("Fsck"),
        MOUNTER_METHOD("Publish"),
        MOUNTER_METHOD("Unpublish"),
        MOUNTER_METHOD("Unstage"),
        MOUNTER_METHOD("Detach"),
        MOUNTER_METHOD("ForceDetach"),
        MOUNTER_METHOD("Fence"),
        MOUNTER_METHOD("Expand"),
        MOUNTER_METHOD("Stats"),
        MOUNTER_METHOD("Check"),
        MOUNTER_METHOD("Forget"),
        MOUNTER_METHOD("Scan"),
        SD_BUS_SIGNAL_WITH_ARGS("Progress", SD_BUS_ARGS("s", step, "t", done, "t", total), 0),
        SD_BUS_SIGNAL("Ending", "", 0),
        SD_BUS_PROPERTY("ProtocolVersion", "u", property_version_get, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Kind", "s", property_kind_get, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Version", "s", property_build_get, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_VTABLE_END,
};

/* sd-bus writes at once what the socket takes and queues the rest, so that a stopped berthd holds nothing up. */
void mounter_progress(Mounter *m, const char *step, uint64_t done, uint64_t total)
{
        Connection *c = m->connection;
        struct timespec ts;

        if (!c || !c->bus)
                return;
        (void) clock_gettime(CLOCK_MONOTONIC, &ts);
        int64_t now = ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
        if (c->progress_nsec != 0 && now - c->progress_nsec < PROGRESS_INTERVAL_NSEC)
                return;
        c->progress_nsec = now;
        (void) sd_bus_emit_signal(c->bus, MOUNTER_PATH, MOUNTER_INTERFACE, "Progress", "stt", step, done, total);
}

/* --- the process --- */

static int usage(const char *kind)
{
        printf("mounter-%s [OPTION…]\n\n"
               "Started by berthd, which calls it over D-Bus on descriptor 3. Not to be run by hand.\n\n"
               "  --config=FILE --socket=PATH --runtime-dir=DIR --state-dir=DIR\n"
               "  --kubelet-root=DIR --mounter-dir=DIR    as berthd has them\n"
               "  --no-config                             read no file\n"
               "  --set=SECTION.KEY=VALUE                 as if a file said it\n"
               "  --help                                  print this text\n"
               "  --version                               print the version\n",
               kind);
        return EXIT_SUCCESS;
}

/* A directory below parent_fd (or an absolute path), made if it is missing. */
static int directory_open(int parent_fd, const char *path, Error *err)
{
        int r = parent_fd == AT_FDCWD                ? mkdir_parents(path, 0700)
                : mkdirat(parent_fd, path, 0700) < 0 ? -errno
                                                     : 0;
        if (r < 0 && r != -EEXIST)
                return error_set(err, ERROR_RECORD_FAILED, r, "Cannot make the directory %s: %s", path,
                                 strerror(-r));

        int fd = openat(parent_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? error_set(err, ERROR_RECORD_FAILED, errno, "Cannot open the directory %s: %m", path) : fd;
}

static int directories_open(Mounter *m, Connection *c, Error *err)
{
        m->runtime_fd = directory_open(AT_FDCWD, m->settings.runtime_dir, err);
        if (m->runtime_fd < 0)
                return m->runtime_fd;
        m->state_fd = directory_open(AT_FDCWD, m->settings.state_dir, err);
        if (m->state_fd < 0)
                return m->state_fd;
        c->locks_fd = directory_open(m->runtime_fd, "locks", err);
        return c->locks_fd;
}

static int connection_start(Mounter *m, Connection *c, Error *err)
{
        sd_id128_t id;
        int r = sd_id128_randomize(&id);

        if (r >= 0)
                r = sd_bus_new(&c->bus);
        if (r >= 0)
                r = sd_bus_set_description(c->bus, "mounter");
        if (r >= 0)
                r = sd_bus_set_fd(c->bus, SERVER_FD, SERVER_FD);
        if (r >= 0)
                r = sd_bus_set_server(c->bus, 1, id);
        if (r >= 0)
                r = sd_bus_add_object_vtable(c->bus, NULL, MOUNTER_PATH, MOUNTER_INTERFACE, mounter_vtable, m);
        if (r >= 0)
                r = sd_bus_start(c->bus);
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "Cannot serve descriptor %d: %s", SERVER_FD,
                                 strerror(-r))
                     : 0;
}

/* Until the peer is gone, which is the normal end. */
static int connection_serve(Connection *c)
{
        for (;;) {
                int r = sd_bus_process(c->bus, NULL);
                if (r == 0)
                        r = sd_bus_wait(c->bus, UINT64_MAX);
                if (r == -EINTR)
                        continue;
                if (r < 0)
                        return r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE ? 0 : r;
        }
}

static int mounter_start(Mounter *m, Connection *c, Error *err)
{
        struct stat st;

        if (fstat(SERVER_FD, &st) < 0 || !S_ISSOCK(st.st_mode))
                return error_set(err, ERROR_INVALID_ARGUMENT, ENOTSOCK,
                                 "Descriptor %d is not a socket: a mounter is started by berthd", SERVER_FD);
        int r = directories_open(m, c, err);
        return r < 0 ? r : connection_start(m, c, err);
}

static void mounter_done(Mounter *m, Connection *c)
{
        sd_bus_close_unref(c->bus);
        close_fd(c->locks_fd);
        close_fd(m->state_fd);
        close_fd(m->runtime_fd);
        settings_done(&m->settings);
}

int mounter_serve(const MounterOps *ops, int argc, char **argv)
{
        Connection c = { .locks_fd = -EBADF };
        Mounter m = { .ops = ops, .runtime_fd = -EBADF, .state_fd = -EBADF, .lock_fd = -EBADF, .connection = &c };
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL;
        char identifier[32];

        for (int i = 1; i < argc; i++) {
                if (strcmp(argv[i], "--help") == 0)
                        return usage(ops->kind);
                if (strcmp(argv[i], "--version") == 0)
                        return printf("mounter-%s %s\n", ops->kind, BERTH_VERSION) < 0;
        }
        snprintf(identifier, sizeof(identifier), "mounter-%s", ops->kind);
        log_open(identifier, LOG_INFO);
        (void) signal(SIGPIPE, SIG_IGN);
        umask(0077);

        int r = settings_from_arguments(&m.settings, argc, argv, &rest, &err);
        if (r >= 0 && rest)
                r = error_set(&err, ERROR_INVALID_ARGUMENT, EINVAL, "Unknown argument %s", rest[0]);
        if (r >= 0)
                r = mounter_start(&m, &c, &err);
        if (r < 0)
                log_error("%s", str_or(err.text, error_code_name(err.code)));
        else
                r = connection_serve(&c);
        mounter_done(&m, &c);
        return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
