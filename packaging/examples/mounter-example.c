/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * A complete mounter for berthd, to start one's own from; berth-mounter(7) explains it. Its storage is the simplest there is: a
 * volume is a directory below <state directory>/example, made when it is first asked for.
 *
 *      cc -D_GNU_SOURCE -o mounter-example mounter-example.c $(pkg-config --cflags --libs libsystemd)
 *      install mounter-example /usr/libexec/berth/
 *      berthctl mount --target DIR --driver example --option name=a
 *
 * One process serves one call at a time on descriptor 3 and may block in it. Every method is idempotent: it looks at what the kernel
 * shows, does what is missing, and leaves nothing half done that the same method, or the one that undoes it, would not clean up.
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include <linux/mount.h>

#define BERTHD_FD 3
#define PROTOCOL_VERSION 1U
#define PATH "/io/berth/Mounter1"
#define INTERFACE "io.berth.Mounter1"
#define ERROR_NAME "io.berth.Error."
#define BENEATH (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)

static char *kubelet_root; /* resolved: it is often a link */
static const char *runtime_dir = "/run/berth", *state_dir = "/var/lib/berth";

/* What berthd tells of a volume; the strings belong to the message. */
typedef struct Request {
        const char *key, *staging_path, *name;
        char *target; /* owned: on the wire it is an array of bytes */
        bool read_only;
} Request;

/* ---- reading the request: a{sv}; a key that is not known is ignored, an option that is not known is refused ---- */

static int read_source(sd_bus_message *m, Request *r, sd_bus_error *e)
{
        const char *key, *value;
        int k = sd_bus_message_enter_container(m, 'a', "{ss}");

        while (k >= 0 && (k = sd_bus_message_read(m, "{ss}", &key, &value)) > 0) {
                if (strcmp(key, "name") != 0)
                        return sd_bus_error_setf(e, ERROR_NAME "UnknownOption", "Driver example has no option '%.100s'", key);
                r->name = value;
        }
        return k < 0 ? k : sd_bus_message_exit_container(m);
}

static int read_target(sd_bus_message *m, Request *r)
{
        const void *bytes;
        size_t size;
        int k = sd_bus_message_read_array(m, 'y', &bytes, &size);

        if (k >= 0) {
                free(r->target);
                r->target = strndup(size > 0 ? bytes : "", size);
        }
        return k < 0 ? k : r->target ? 0 : -ENOMEM;
}

static int read_value(sd_bus_message *m, const char *key, const char *type, Request *r, sd_bus_error *e)
{
        int k, b = 0;

        if (strcmp(key, "key") == 0 && strcmp(type, "s") == 0)
                return sd_bus_message_read(m, "s", &r->key);
        if (strcmp(key, "stagingPath") == 0 && strcmp(type, "s") == 0)
                return sd_bus_message_read(m, "s", &r->staging_path);
        if (strcmp(key, "target") == 0 && strcmp(type, "ay") == 0)
                return read_target(m, r);
        if (strcmp(key, "source") == 0 && strcmp(type, "a{ss}") == 0)
                return read_source(m, r, e);
        if (strcmp(key, "readOnly") != 0 || strcmp(type, "b") != 0)
                return sd_bus_message_skip(m, type);
        k = sd_bus_message_read(m, "b", &b);
        r->read_only = b;
        return k;
}

static int read_request(sd_bus_message *m, Request *r, sd_bus_error *e)
{
        int k = sd_bus_message_enter_container(m, 'a', "{sv}");

        while (k >= 0 && (k = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                const char *key, *type;

                k = sd_bus_message_read(m, "s", &key);
                if (k >= 0)
                        k = sd_bus_message_peek_type(m, NULL, &type);
                if (k >= 0)
                        k = sd_bus_message_enter_container(m, 'v', type);
                if (k >= 0)
                        k = read_value(m, key, type, r, e);
                if (k >= 0)
                        k = sd_bus_message_exit_container(m);
                if (k >= 0)
                        k = sd_bus_message_exit_container(m);
        }
        return k < 0 ? k : sd_bus_message_exit_container(m);
}

/* ---- helpers ---- */

/* Whatever the kernel said goes to the operator; the name decides what is done: see berth-flexvolume(8). */
static int fail(sd_bus_error *e, const char *name, const char *what, const char *path)
{
        int error = errno;
        char full[64];

        snprintf(full, sizeof(full), ERROR_NAME "%s", name);
        return sd_bus_error_setf(e, full, "%s %s: %s", what, path, strerror(error));
}

/* The name becomes part of the key, [a-z0-9._-]{1,55}, and of a path: anything else in it is refused. */
static int check_name(const Request *r, sd_bus_error *e)
{
        size_t n = r->name ? strspn(r->name, "abcdefghijklmnopqrstuvwxyz0123456789-") : 0;

        if (n == 0 || n > 40 || r->name[n])
                return sd_bus_error_set(e, ERROR_NAME "InvalidArgument", "Option name takes 1 to 40 of a-z, 0-9 and -");
        return 0;
}

static void source_path(char *path, size_t size, const char *name)
{
        snprintf(path, size, "%s/example/%s", state_dir, name);
}

/*
 * <runtime directory>/locks/<key> is held while a method works on the volume, so that a mounter that outlived its berthd and one of the
 * next berthd never meet. It may have been unlinked between open and flock: then it guards nothing.
 */
static int lock_take(const char *key, sd_bus_error *e)
{
        char path[4096];
        struct stat held, named;
        struct pollfd peer = { .fd = BERTHD_FD, .events = POLLRDHUP };

        snprintf(path, sizeof(path), "%s/locks/%s", runtime_dir, key);
        for (;;) {
                int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

                if (fd < 0)
                        return fail(e, "RecordFailed", "Cannot open", path);
                if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &held) < 0) {
                        int r = fail(e, errno == EWOULDBLOCK ? "Locked" : "RecordFailed", "Cannot lock", path);
                        close(fd);
                        return r;
                }
                if (stat(path, &named) < 0 || named.st_ino != held.st_ino || named.st_dev != held.st_dev) {
                        close(fd);
                        continue;
                }
                /* a call that was sent just before berthd died must not begin: the next one may have looked already */
                if (poll(&peer, 1, 0) > 0 && peer.revents & (POLLRDHUP | POLLHUP | POLLERR)) {
                        close(fd);
                        return sd_bus_error_set(e, ERROR_NAME "ShuttingDown", "berthd has ended");
                }
                return fd;
        }
}

/* Nothing is left of the volume on this node: the lock file goes while it is held. */
static void lock_remove(const char *key)
{
        char path[4096];

        snprintf(path, sizeof(path), "%s/locks/%s", runtime_dir, key);
        (void) unlink(path);
}

/* What statx tells of a mount: whether one is there, and its ID. */
static int mount_look(int dir_fd, const char *path, bool *ret_mounted, uint64_t *ret_id)
{
        struct statx sx;

        if (statx(dir_fd, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*path ? 0 : AT_EMPTY_PATH), STATX_MNT_ID, &sx) < 0)
                return -1;
        *ret_mounted = sx.stx_attributes & STATX_ATTR_MOUNT_ROOT;
        *ret_id = sx.stx_mnt_id;
        return 0;
}

/* A mount that is made complete while nobody sees it yet. read_only is that of this mount alone. */
static int mount_clone(const char *from, bool read_only, sd_bus_error *e)
{
        struct mount_attr attr = { .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (read_only ? MOUNT_ATTR_RDONLY : 0),
                                   .propagation = MS_PRIVATE };
        int fd = (int) syscall(SYS_open_tree, AT_FDCWD, from, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);

        if (fd < 0)
                return fail(e, "MountFailed", "Cannot open", from);
        if (syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0) {
                int r = fail(e, "MountFailed", "Cannot restrict the mount of", from);
                close(fd);
                return r;
        }
        return fd;
}

/*
 * Unmounts every layer. The mount point itself is never opened: it may belong to a server that does not answer. name is below parent_fd,
 * or an absolute path that nobody else can lead astray.
 */
static int unmount_all(int parent_fd, const char *name, const char *path, unsigned *ret_layers, sd_bus_error *e)
{
        unsigned n = 0;
        int error;

        if (parent_fd >= 0 && fchdir(parent_fd) < 0)
                return fail(e, "UnmountFailed", "Cannot enter the directory of", path);
        while (umount2(name, UMOUNT_NOFOLLOW) >= 0)
                n++;
        error = errno;
        (void) !chdir("/");
        errno = error;
        *ret_layers = n;
        if (error == EBUSY)
                return fail(e, "Busy", "Cannot unmount", path);
        return error == EINVAL || error == ENOENT ? 0 : fail(e, "UnmountFailed", "Cannot unmount", path);
}

/*
 * The target's directory, or the one above it. The path was written by somebody who may put links into it: below the kubelet's root,
 * which is the administrator's, the kernel follows none and never leaves it.
 */
static int target_open(const char *target, bool parent, sd_bus_error *e)
{
        struct open_how how = { .flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = BENEATH };
        size_t n = strlen(kubelet_root);
        char *relative;
        int root_fd, fd;

        if (!target || strncmp(target, kubelet_root, n) != 0 || target[n] != '/')
                return sd_bus_error_setf(e, ERROR_NAME "TargetNotAllowed", "Target %s is not below %s", target ? target : "(none)",
                                         kubelet_root);
        relative = strdup(target + n + 1);
        if (!relative)
                return -ENOMEM;
        if (parent && strrchr(relative, '/'))
                *strrchr(relative, '/') = 0;
        root_fd = open(kubelet_root, O_PATH | O_DIRECTORY | O_CLOEXEC);
        fd = root_fd < 0 ? -1 : (int) syscall(SYS_openat2, root_fd, relative, &how, sizeof(how));
        if (fd < 0)
                fd = errno == ENOENT ? fail(e, "TargetMissing", "Cannot open", target) : fail(e, "TargetInvalid", "Cannot open", target);
        if (root_fd >= 0)
                close(root_fd);
        free(relative);
        return fd;
}

/* ---- the methods: each fills the answer's dictionary ---- */

static int put(sd_bus_message *m, const char *key, const char *type, ...)
{
        va_list ap;
        int k = sd_bus_message_open_container(m, 'e', "sv");

        va_start(ap, type);
        if (k >= 0)
                k = sd_bus_message_append_basic(m, 's', key);
        if (k >= 0)
                k = sd_bus_message_open_container(m, 'v', type);
        if (k >= 0)
                k = sd_bus_message_appendv(m, type, ap);
        va_end(ap);
        if (k >= 0)
                k = sd_bus_message_close_container(m);
        return k < 0 ? k : sd_bus_message_close_container(m);
}

/* Changes nothing. What is missing and can be made is answered with create, and the key that keeps two from making it at once. */
static int do_resolve(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        char key[64], identity[64], path[4096];
        struct stat st;
        int k = check_name(r, e);

        if (k < 0)
                return k;
        if (r->target) {
                /* nothing is begun for a target at which nothing could be published */
                k = target_open(r->target, false, e);
                if (k < 0)
                        return k;
                close(k);
        }
        snprintf(key, sizeof(key), "example-%s", r->name);
        snprintf(identity, sizeof(identity), "example:%s", r->name);
        source_path(path, sizeof(path), r->name);
        if (lstat(path, &st) >= 0 && !S_ISDIR(st.st_mode))
                return sd_bus_error_setf(e, ERROR_NAME "InvalidArgument", "%s is not a directory", path);
        if (lstat(path, &st) < 0)
                k = put(reply, "create", "b", 1);
        else
                k = put(reply, "identity", "s", identity);
        return k < 0 ? k : put(reply, "key", "s", key);
}

static int do_create(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        char path[4096];
        int k = check_name(r, e);

        if (k < 0)
                return k;
        snprintf(path, sizeof(path), "%s/example", state_dir);
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
                return fail(e, "NoSpace", "Cannot make", path);
        source_path(path, sizeof(path), r->name);
        if (mkdir(path, 0755) < 0 && errno != EEXIST)
                return fail(e, "NoSpace", "Cannot make", path);
        lock_remove(r->key); /* of the making; from now on the volume has a lock of its own, if of the same name */
        return 0;
}

/* The one mount on this node. A mount that is there already is the answer of an earlier call that was cut short. */
static int do_stage(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        char path[4096];
        bool mounted;
        uint64_t id;
        int k = check_name(r, e), fd;

        if (k < 0)
                return k;
        if (mkdir(r->staging_path, 0700) < 0 && errno != EEXIST)
                return fail(e, "MountFailed", "Cannot make", r->staging_path);
        if (mount_look(AT_FDCWD, r->staging_path, &mounted, &id) < 0)
                return fail(e, "MountFailed", "Cannot look at", r->staging_path);
        if (!mounted) {
                source_path(path, sizeof(path), r->name);
                fd = mount_clone(path, r->read_only, e);
                if (fd < 0)
                        return fd;
                if (syscall(SYS_move_mount, fd, "", AT_FDCWD, r->staging_path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                        k = fail(e, "MountFailed", "Cannot mount on", r->staging_path);
                else if (mount_look(fd, "", &mounted, &id) < 0)
                        k = fail(e, "MountFailed", "Cannot look at", r->staging_path);
                close(fd);
                if (k < 0)
                        return k;
        }
        k = put(reply, "mountId", "t", id);
        return k < 0 ? k : put(reply, "fsType", "s", "none");
}

static int do_unstage(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        unsigned layers;
        int k = unmount_all(-1, r->staging_path, r->staging_path, &layers, e);

        if (k < 0)
                return k;
        if (rmdir(r->staging_path) < 0 && errno != ENOENT)
                return fail(e, "UnmountFailed", "Cannot remove", r->staging_path);
        lock_remove(r->key); /* there is no device that Detach would have to let go */
        return put(reply, "gone", "b", 1);
}

/*
 * A bind of the stage, moved onto the very directory that was opened. That may have been renamed meanwhile, and the mount would have
 * gone with it: so the path is resolved again, and must lead to the mount that was made.
 */
static int publish_at(const Request *r, int stage_fd, int target_fd, uint64_t *ret_id, sd_bus_error *e)
{
        bool mounted = false;
        uint64_t id = 0, found = 0;
        int fd;

        if (syscall(SYS_move_mount, stage_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return fail(e, "MountFailed", "Cannot mount on", r->target);
        fd = target_open(r->target, false, e);
        if (mount_look(stage_fd, "", &mounted, &id) >= 0 && fd >= 0 && mount_look(fd, "", &mounted, &found) >= 0 && id == found) {
                close(fd);
                *ret_id = id;
                return 0;
        }
        if (fd >= 0)
                close(fd);
        if (fchdir(stage_fd) >= 0)
                (void) umount2(".", MNT_DETACH); /* wherever it is now */
        (void) !chdir("/");
        sd_bus_error_free(e);
        return sd_bus_error_setf(e, ERROR_NAME "TargetInvalid", "Target %s was moved during the mount", r->target);
}

static int do_publish(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        int target_fd, stage_fd, k = 0;
        bool staged = false, mounted = false;
        uint64_t id = 0;
        struct stat there, stage;

        if (mount_look(AT_FDCWD, r->staging_path, &staged, &id) < 0 || !staged)
                return put(reply, "next", "s", "stage"); /* somebody has unmounted it */
        target_fd = target_open(r->target, false, e);
        if (target_fd < 0)
                return target_fd;
        stage_fd = mount_clone(r->staging_path, r->read_only, e);
        if (stage_fd < 0) {
                close(target_fd);
                return stage_fd;
        }
        if (mount_look(target_fd, "", &mounted, &id) < 0 || fstat(target_fd, &there) < 0 || fstat(stage_fd, &stage) < 0)
                k = fail(e, "MountFailed", "Cannot look at", r->target);
        else if (mounted && (there.st_dev != stage.st_dev || there.st_ino != stage.st_ino))
                k = sd_bus_error_setf(e, ERROR_NAME "Conflict", "Something else is mounted on %s", r->target);
        else if (!mounted)
                k = publish_at(r, stage_fd, target_fd, &id, e);
        close(stage_fd);
        close(target_fd);
        return k < 0 ? k : put(reply, "mountId", "t", id);
}

static int do_unpublish(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        unsigned layers = 0;
        int parent_fd = target_open(r->target, true, e), k;

        if (parent_fd < 0 && sd_bus_error_has_name(e, ERROR_NAME "TargetMissing")) {
                sd_bus_error_free(e);
                return put(reply, "layers", "u", 0U);
        }
        if (parent_fd < 0)
                return parent_fd;
        k = unmount_all(parent_fd, strrchr(r->target, '/') + 1, r->target, &layers, e);
        close(parent_fd);
        return k < 0 ? k : put(reply, "layers", "u", layers);
}

/* What the kernel shows, without changing anything and without a lock. */
static int do_check(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        bool staged = false, published = false;
        uint64_t id = 0;
        int k = 0, fd;

        if (r->staging_path)
                (void) mount_look(AT_FDCWD, r->staging_path, &staged, &id);
        if (r->target && (fd = target_open(r->target, true, e)) >= 0) {
                (void) mount_look(fd, strrchr(r->target, '/') + 1, &published, &id);
                close(fd);
        }
        sd_bus_error_free(e); /* a target that is gone is an answer here */
        if ((k = put(reply, "attached", "b", 0)) < 0 || (k = put(reply, "staged", "b", (int) staged)) < 0 ||
            (k = put(reply, "published", "b", (int) published)) < 0 || (k = put(reply, "healthy", "b", 1)) < 0)
                return k;
        return published ? put(reply, "mountId", "t", id) : 0;
}

static int do_stats(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        struct statvfs st;
        int k;

        if (!r->staging_path || statvfs(r->staging_path, &st) < 0)
                return fail(e, "NotFound", "Cannot look at", r->staging_path ? r->staging_path : "(none)");
        if ((k = put(reply, "healthy", "b", 1)) < 0 ||
            (k = put(reply, "totalBytes", "t", (uint64_t) st.f_blocks * st.f_frsize)) < 0 ||
            (k = put(reply, "availableBytes", "t", (uint64_t) st.f_bavail * st.f_frsize)) < 0 ||
            (k = put(reply, "usedBytes", "t", (uint64_t) (st.f_blocks - st.f_bfree) * st.f_frsize)) < 0 ||
            (k = put(reply, "totalInodes", "t", (uint64_t) st.f_files)) < 0 ||
            (k = put(reply, "freeInodes", "t", (uint64_t) st.f_ffree)) < 0)
                return k;
        return put(reply, "usedInodes", "t", (uint64_t) (st.f_files - st.f_ffree));
}

/* Without devices there is nothing to attach, to detach or to be found by Scan. */
static int do_nothing(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        return 0;
}

static int do_detach(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        lock_remove(r->key);
        return put(reply, "gone", "b", 1);
}

static int do_refuse(const Request *r, sd_bus_message *reply, sd_bus_error *e)
{
        return sd_bus_error_set(e, ERROR_NAME "NotSupported", "Not possible with driver example");
}

typedef enum Lock { NO_LOCK, LOCK_IF_KEY, LOCK } Lock;

static const struct Method {
        const char *name;
        int (*run)(const Request *r, sd_bus_message *reply, sd_bus_error *e);
        Lock lock;
} methods[] = {
        { "Resolve", do_resolve, NO_LOCK },       { "Create", do_create, LOCK },   { "Attach", do_nothing, LOCK },
        { "Stage", do_stage, LOCK },              { "Format", do_refuse, LOCK },   { "Fsck", do_refuse, LOCK },
        { "Publish", do_publish, LOCK },          { "Unstage", do_unstage, LOCK }, { "Detach", do_detach, LOCK },
        { "Unpublish", do_unpublish, LOCK_IF_KEY }, { "Expand", do_refuse, LOCK }, { "Stats", do_stats, NO_LOCK },
        { "Check", do_check, NO_LOCK },           { "Forget", do_detach, LOCK },   { "Scan", do_nothing, NO_LOCK },
};

/* ---- D-Bus ---- */

static int run_method(const struct Method *method, sd_bus_message *call, sd_bus_message *reply, sd_bus_error *e)
{
        Request r = {};
        int k = read_request(call, &r, e), lock_fd = -1;

        if (k >= 0 && method->lock != NO_LOCK && (r.key || method->lock == LOCK)) {
                lock_fd = r.key ? lock_take(r.key, e)
                                : sd_bus_error_setf(e, ERROR_NAME "InvalidArgument", "%s needs a key", method->name);
                k = lock_fd;
        }
        if (k >= 0 && !r.staging_path && (method->run == do_stage || method->run == do_unstage || method->run == do_publish))
                k = sd_bus_error_setf(e, ERROR_NAME "InvalidArgument", "%s needs a stagingPath", method->name);
        if (k >= 0)
                k = method->run(&r, reply, e);
        if (lock_fd >= 0)
                close(lock_fd);
        free(r.target);
        return k;
}

static int on_call(sd_bus_message *call, void *userdata, sd_bus_error *e)
{
        const struct Method *method = methods;
        sd_bus_message *reply = NULL;
        int k;

        while (strcmp(method->name, sd_bus_message_get_member(call)) != 0)
                method++; /* the table below has no other names */
        k = sd_bus_message_new_method_return(call, &reply);
        if (k >= 0)
                k = sd_bus_message_open_container(reply, 'a', "{sv}");
        if (k >= 0)
                k = run_method(method, call, reply, e);
        if (k >= 0)
                k = sd_bus_message_close_container(reply);
        if (k >= 0)
                k = sd_bus_send(NULL, reply, NULL);
        sd_bus_message_unref(reply);
        return k; /* a negative one, or *e, becomes the answer */
}

static int get_version(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply,
                       void *userdata, sd_bus_error *e)
{
        return sd_bus_message_append(reply, "u", PROTOCOL_VERSION);
}

static int get_text(sd_bus *bus, const char *path, const char *interface, const char *property, sd_bus_message *reply, void *userdata,
                    sd_bus_error *e)
{
        return sd_bus_message_append(reply, "s", strcmp(property, "Kind") == 0 ? "example" : "1");
}

#define METHOD(name) SD_BUS_METHOD(name, "a{sv}", "a{sv}", on_call, SD_BUS_VTABLE_UNPRIVILEGED)
static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        METHOD("Resolve"),
        METHOD("Create"),
        METHOD("Attach"),
        METHOD("Stage"),
        METHOD("Format"),
        METHOD("Fsck"),
        METHOD("Publish"),
        METHOD("Unpublish"),
        METHOD("Unstage"),
        METHOD("Detach"),
        METHOD("Expand"),
        METHOD("Stats"),
        METHOD("Check"),
        METHOD("Forget"),
        METHOD("Scan"),
        SD_BUS_PROPERTY("ProtocolVersion", "u", get_version, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Kind", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_PROPERTY("Version", "s", get_text, 0, SD_BUS_VTABLE_PROPERTY_CONST),
        SD_BUS_VTABLE_END,
};

/* As berthd calls it: --runtime-dir=DIR and so on; what is not known here is not needed here. */
static int read_arguments(int argc, char **argv)
{
        const char *root = "/var/lib/kubelet";

        for (int i = 1; i < argc; i++) {
                if (strncmp(argv[i], "--runtime-dir=", 14) == 0)
                        runtime_dir = argv[i] + 14;
                else if (strncmp(argv[i], "--state-dir=", 12) == 0)
                        state_dir = argv[i] + 12;
                else if (strncmp(argv[i], "--kubelet-root=", 15) == 0)
                        root = argv[i] + 15;
        }
        kubelet_root = realpath(root, NULL);
        return kubelet_root ? 0 : -errno;
}

int main(int argc, char **argv)
{
        sd_bus *bus = NULL;
        sd_id128_t id;
        char locks[4096];
        int k = read_arguments(argc, argv);

        umask(0077);
        snprintf(locks, sizeof(locks), "%s/locks", runtime_dir);
        (void) mkdir(locks, 0700);
        if (k >= 0)
                k = sd_id128_randomize(&id);
        if (k >= 0)
                k = sd_bus_new(&bus);
        if (k >= 0)
                k = sd_bus_set_fd(bus, BERTHD_FD, BERTHD_FD);
        if (k >= 0)
                k = sd_bus_set_server(bus, 1, id);
        if (k >= 0)
                k = sd_bus_add_object_vtable(bus, NULL, PATH, INTERFACE, vtable, NULL);
        if (k >= 0)
                k = sd_bus_start(bus);
        while (k >= 0) {
                k = sd_bus_process(bus, NULL);
                if (k == 0)
                        k = sd_bus_wait(bus, UINT64_MAX);
                if (k == -EINTR)
                        k = 0;
        }
        sd_bus_unref(bus);
        free(kubelet_root);
        /* the normal end: berthd has closed the connection */
        return k == -ENOTCONN || k == -ECONNRESET || k == -EPIPE ? EXIT_SUCCESS : EXIT_FAILURE;
}
