/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * rbd-nbd: map, unmap, and seeing to it that it lives. Runs in the rbd mounter with the volume's lock held (but for looking); waits for
 * rbd-nbd within [RBD] MapTimeoutSec=.
 *
 * Invariants: files before unit before device, so that whatever is killed when, the key leads to what there is; a device is disconnected only after
 * this process has held it exclusively, since the kernel itself would disconnect one that is mounted; an end is complete only when neither
 * device nor unit is left, because a unit that is starting makes a device.
 */

#include "mounters/rbd-nbd.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "build.h"
#include "mounters/bounded.h"
#include "mounters/fs/mount.h"
#include "mounters/nbd-device.h"
#include "mounters/rbd-unit.h"

#define LOOK_MSEC 10
#define END_MSEC 20000
#define PATIENCE_MSEC 8000
#define CLAIM_USEC (10 * UINT64_C(1000000))
/* How soon the kernel asks after a request that the former rbd-nbd took with it, and sends it anew. The default is 30 s. */
#define REQUEST_MSEC "10000"

int rbd_nbd_program(char **ret, Error *err)
{
        int r = mounter_program_find("rbd-nbd", ret);

        return r < 0 ? error_set(err, ERROR_RBD_NBD_MISSING, r, "There is no program rbd-nbd on this node") : 0;
}

int rbd_nbd_kernel_load(Mounter *m, Error *err)
{
        _cleanup_free_ char *output = NULL;
        char *argv[] = { (char *) "modprobe", (char *) "nbd", NULL };

        if (access("/sys/module/nbd", F_OK) >= 0)
                return 0;
        int r = mounter_run(m, argv, -1, &output);
        if (access("/sys/module/nbd", F_OK) >= 0)
                return 0;
        return error_set(err, ERROR_KERNEL_UNSUPPORTED, ENODEV, "The kernel of this node has no network block devices: %s",
                         r < 0 ? strerror(-r) : str_or(output, "modprobe nbd had no effect"));
}

/* --- devices --- */

typedef struct Walk {
        int runtime_fd;
        int (*f)(RbdDevice *d, void *userdata);
        void *userdata;
} Walk;

/* Of another's rbd-nbd the word that names an image: for people only. -ENOENT if it is no rbd-nbd. */
static int foreign_read(const NbdDevice *n, RbdDevice *d)
{
        _cleanup_free_ char *comm = NULL, *line = NULL;
        char path[64];
        size_t size = 0;

        snprintf(path, sizeof(path), "/proc/%d/comm", n->pid);
        if (read_file_at(AT_FDCWD, path, 64, &comm, NULL) < 0 || strcmp(comm, "rbd-nbd\n") != 0)
                return -ENOENT;
        snprintf(path, sizeof(path), "/proc/%d/cmdline", n->pid);
        if (read_file_at(AT_FDCWD, path, 65536, &line, &size) >= 0)
                for (const char *p = line + strlen(line) + 1; p < line + size; p += strlen(p) + 1) {
                        if (*p == '-' || *p == '/' || !strchr(p, '/'))
                                continue;
                        size_t n_pool = strcspn(p, "/");
                        d->pool = strndup(p, n_pool);
                        d->image = strdup(p + n_pool + 1);
                        break;
                }
        return (d->pool || (d->pool = strdup("?"))) && (d->image || (d->image = strdup("?"))) ? 0 : -ENOMEM;
}

/* Exactly what rbd_key() makes: it names files, and a cookie is anybody's text. */
static bool key_is_ours(const char *key)
{
        return strlen(key) == 36 && strncmp(key, "rbd-", 4) == 0 && strspn(key + 4, "0123456789abcdef") == 32;
}

/* The kernel tells number and cookie; the rest is in the files, and a map whose files are lost is still known by its key. */
static int device_fill(const NbdDevice *n, int runtime_fd, RbdDevice *d)
{
        size_t n_prefix = strlen(NBD_COOKIE_PREFIX);
        int r;

        *d = (RbdDevice) { .mapper = RBD_MAPPER_NBD, .alone = true, .number = n->number, .device_number = n->device_number, .read_only = n->read_only };
        d->own = strncmp(n->cookie, NBD_COOKIE_PREFIX, n_prefix) == 0 && key_is_ours(n->cookie + n_prefix);
        if (d->own) {
                d->key = strdup(n->cookie + n_prefix);
                r = d->key ? nbd_place_read(runtime_fd, d->key, d) : -ENOMEM;
                if (r == -ENOMEM)
                        return r;
        } else {
                r = foreign_read(n, d);
                if (r < 0)
                        return r;
        }
        if ((!d->fsid && str_replace(&d->fsid, "?") < 0) || (!d->pool && str_replace(&d->pool, "?") < 0) ||
            (!d->space && str_replace(&d->space, "") < 0) || (!d->image && str_replace(&d->image, "?") < 0) ||
            (!d->image_id && str_replace(&d->image_id, "") < 0))
                return -ENOMEM;
        d->identity = rbd_identity(d->fsid, d->pool, d->space, d->image, d->snapshot);
        if (!d->key && d->identity)
                d->key = rbd_key(d->identity);
        return d->identity && d->key ? 0 : -ENOMEM;
}

static int each_visit(const NbdDevice *n, void *userdata)
{
        const Walk *w = userdata;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int r = device_fill(n, w->runtime_fd, &d);

        if (r == -ENOENT)
                return 0;
        return r < 0 ? r : w->f(&d, w->userdata);
}

int rbd_nbd_each(const char *sysfs, int runtime_fd, int (*f)(RbdDevice *d, void *userdata), void *userdata)
{
        return nbd_device_each(sysfs, each_visit, &(Walk) { runtime_fd, f, userdata });
}

static void cookie_of(const char *volume_key, char *buffer, size_t size)
{
        snprintf(buffer, size, NBD_COOKIE_PREFIX "%s", volume_key);
}

int rbd_nbd_find(const char *sysfs, int runtime_fd, const char *volume_key, RbdDevice *ret)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        char cookie[128];
        NbdDevice n;

        cookie_of(volume_key, cookie, sizeof(cookie));
        int r = nbd_device_find(sysfs, cookie, &n);
        if (r > 0) {
                r = device_fill(&n, runtime_fd, &d);
                if (r >= 0) {
                        *ret = d;
                        d = RBD_DEVICE_INIT;
                        r = 1;
                }
        }
        return r;
}

/* --- map --- */

static void pause_msec(long n)
{
        const struct timespec ts = { .tv_sec = n / 1000, .tv_nsec = n % 1000 * 1000000 };

        (void) nanosleep(&ts, NULL);
}

static int64_t now_msec(void)
{
        struct timespec ts;

        clock_gettime(CLOCK_BOOTTIME, &ts);
        return ts.tv_sec * INT64_C(1000) + ts.tv_nsec / 1000000;
}

static int unit_begin(Mounter *m, const char *volume_key, Error *err)
{
        _cleanup_free_ char *program = NULL;

        if (asprintf(&program, "%s/rbd-nbd-run", m->settings.mounter_dir) < 0) {
                program = NULL;
                return error_oom(err);
        }
        const UnitPlan p = {
                .volume_key = volume_key,
                .program = program,
                .runtime_dir = m->settings.runtime_dir,
        };
        return rbd_unit_start(&p, err);
}

/* A device is there before rbd-nbd is complete, and the unit runs before that. */
static int unit_wait(Mounter *m, const char *volume_key, Error *err)
{
        int64_t end = now_msec() + (int64_t) (m->settings.rbd_map_timeout_usec / 1000) + 10000;
        char name[UNIT_NAME_MAX];
        UnitState state;

        rbd_unit_name(volume_key, name);
        for (;;) {
                int r = rbd_unit_state(volume_key, &state, err);
                if (r < 0 || (state == UNIT_RUNNING && nbd_place_is_complete(m, volume_key)))
                        return r;
                if (state == UNIT_GONE || state == UNIT_FAILED)
                        return error_set(err, ERROR_RBD_NBD_FAILED, EIO, "rbd-nbd has ended without mapping the image (journalctl -u %s)", name);
                if (now_msec() > end)
                        return error_set(err, ERROR_RBD_NBD_FAILED, ETIMEDOUT, "rbd-nbd has not mapped the image in time (journalctl -u %s)", name);
                pause_msec(LOOK_MSEC);
        }
}

static void request_timer_set(const RbdDevice *d)
{
        char path[64];

        snprintf(path, sizeof(path), NBD_SYSFS "/nbd%u/queue/io_timeout", d->number);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || write_full(fd, REQUEST_MSEC, strlen(REQUEST_MSEC)) < 0)
                log_warning("Cannot set %s: %m", path);
}

static int map_begin(Mounter *m, const NbdPlacePlan *p, RbdDevice *ret, Error *err)
{
        int r = nbd_place_make(m, p, err);

        if (r < 0)
                return r;
        FAULT_POINT("nbd.before-start");
        r = unit_begin(m, p->volume_key, err);
        FAULT_POINT("nbd.after-start");
        if (r >= 0)
                r = unit_wait(m, p->volume_key, err);
        FAULT_POINT("nbd.after-map");
        if (r < 0)
                return r;
        r = rbd_nbd_find(NBD_SYSFS, m->runtime_fd, p->volume_key, ret);
        if (r <= 0)
                return error_set(err, ERROR_RBD_NBD_FAILED, r < 0 ? r : ENODEV, "rbd-nbd has mapped %s, but no device has its cookie",
                                 p->image->spec);
        request_timer_set(ret);
        return 0;
}

int rbd_nbd_map(Mounter *m, const NbdPlacePlan *plan, RbdDevice *ret, Error *err)
{
        _cleanup_free_ char *program = NULL;
        NbdPlacePlan p = *plan;
        int r = rbd_nbd_program(&program, err);

        if (r >= 0)
                r = rbd_nbd_kernel_load(m, err);
        /* what a mounter that was killed has left, half made, is not gone on with */
        if (r >= 0)
                r = rbd_nbd_unmap(m, p.volume_key, NBD_END_UNUSED, err);
        if (r < 0)
                return r;
        p.program = program;
        r = map_begin(m, &p, ret, err);
        if (r < 0)
                (void) rbd_nbd_unmap(m, p.volume_key, NBD_END_UNUSED, NULL);
        return r;
}

/* --- its life --- */

int rbd_nbd_revive(Mounter *m, const char *volume_key, Error *err)
{
        UnitState state;
        int r = rbd_unit_state(volume_key, &state, err);

        if (r >= 0 && (state == UNIT_GONE || state == UNIT_FAILED))
                r = unit_begin(m, volume_key, err);
        return r < 0 ? r : unit_wait(m, volume_key, err);
}

bool rbd_nbd_is_served(Mounter *m, const char *volume_key, char **ret_reason)
{
        _cleanup_error_ Error err = ERROR_INIT;
        char name[UNIT_NAME_MAX];
        UnitState state;

        rbd_unit_name(volume_key, name);
        if (rbd_unit_state(volume_key, &state, &err) < 0) {
                *ret_reason = TAKE_PTR(err.text);
                return false;
        }
        if (state == UNIT_RUNNING && nbd_place_is_complete(m, volume_key))
                return true;
        /* systemd starts it again by itself, unless somebody has taken the unit away */
        if (state == UNIT_GONE || state == UNIT_FAILED)
                (void) unit_begin(m, volume_key, &err);
        if (asprintf(ret_reason, "rbd-nbd has died and is being started again; until then reads and writes wait (journalctl -u %s)%s%s", name,
                     err.text ? ": " : "", err.text ? err.text : "") < 0)
                *ret_reason = NULL;
        return false;
}

/* --- unmap --- */

typedef struct Claim {
        char path[32];
        bool sync;
} Claim;

/*
 * With O_EXCL it is EBUSY while the device is mounted in any mount namespace, or part of another device. Not for writing, after which
 * udev would look at it.
 */
static int claim_run(void *p)
{
        const Claim *c = p;
        int fd = open(c->path, O_RDONLY | O_EXCL | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        return c->sync && fsync(fd) < 0 && errno == EIO ? (close_fd(fd), -EIO) : fd;
}

/* The claim is made in a thread, since it may wait for rbd-nbd and its OSDs. */
static int device_claim(Mounter *m, const RbdDevice *d, bool served, Error *err)
{
        Claim *c = calloc(1, sizeof(*c));
        int fd = -EBADF;

        if (!c)
                return error_oom(err);
        snprintf(c->path, sizeof(c->path), "/dev/nbd%u", d->number);
        c->sync = served && !d->read_only; /* without a server it would wait for one */
        int r = bounded_call(m, CLAIM_USEC, claim_run, c, &fd);
        if (r == -ETIMEDOUT)
                return error_set(err, ERROR_OSDS_UNREACHABLE, r, "/dev/nbd%u does not answer, so what was written cannot be written back", d->number);
        free(c);
        if (r < 0)
                return error_set(err, ERROR_DETACH_FAILED, r, "Cannot look whether /dev/nbd%u is in use: %s", d->number, strerror(-r));
        if (fd == -EBUSY) {
                _cleanup_free_ char *holders = fs_holders(d->device_number);
                return error_set(err, ERROR_BUSY, fd, "/dev/nbd%u is in use by %s", d->number, str_or(holders, "somebody who is not seen"));
        }
        if (fd < 0)
                return error_set(err, ERROR_DETACH_FAILED, fd, "Cannot claim /dev/nbd%u: %s", d->number, strerror(-fd));
        return fd;
}

static int place_end(Mounter *m, const char *volume_key, Error *err)
{
        int r = nbd_place_erase(m, volume_key);

        FAULT_POINT("nbd.after-erase");
        return r < 0 ? error_set(err, ERROR_DETACH_FAILED, r, "Cannot remove %s/" NBD_PLACES "/%s: %s", m->settings.runtime_dir, volume_key,
                                 strerror(-r))
                     : 0;
}

/* What is at hand of an end: a device that was disconnected is seen for as long as rbd-nbd has it open. */
typedef struct End {
        NbdEnd how;
        bool disconnected;
} End;

/*
 * The files go first: else rbd-nbd, which ends by this and is started again, would attach to what it still finds. The claim is given up a moment before
 * the end: whoever closes the device last makes the kernel forget it, and if that is not rbd-nbd, udev finds it dead and the kernel tells of errors.
 */
static int device_end(Mounter *m, const char *volume_key, const RbdDevice *d, bool served, End *e, Error *err)
{
        char cookie[128];
        NbdDevice n;
        _cleanup_close_ int fd = e->how == NBD_END_FORCE ? -EBADF : device_claim(m, d, served, err);

        if (fd < 0 && e->how != NBD_END_FORCE)
                return fd;
        /* the number may be another's by now, but not while we hold it: so look again */
        cookie_of(volume_key, cookie, sizeof(cookie));
        int r = nbd_device_find(NBD_SYSFS, cookie, &n);
        if (r == 0 || (r > 0 && n.number != d->number))
                return 0;
        r = place_end(m, volume_key, err);
        if (r < 0)
                return r;
        FAULT_POINT("nbd.before-unmap");
        fd = close_fd(fd);
        r = nbd_disconnect(d->number);
        FAULT_POINT("nbd.after-unmap");
        if (r < 0 && r != -ENOENT && r != -EINVAL)
                return error_set(err, ERROR_DETACH_FAILED, r, "The kernel does not disconnect /dev/nbd%u: %s", d->number, strerror(-r));
        e->disconnected = true;
        return 0;
}

/* One look at device and unit; 1 when neither is left. */
static int end_step(Mounter *m, const char *volume_key, bool impatient, End *e, Error *err)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        UnitState state = UNIT_GONE;
        int r = rbd_unit_state(volume_key, &state, err);
        bool ended = state == UNIT_GONE || state == UNIT_FAILED;

        if (r < 0)
                return r;
        if (ended && e->disconnected && e->how == NBD_END_FORCE)
                return 1;
        if (ended)
                e->disconnected = false;
        r = e->disconnected ? 0 : rbd_nbd_find(NBD_SYSFS, m->runtime_fd, volume_key, &d);
        if (r < 0)
                return error_set(err, ERROR_DETACH_FAILED, r, "Cannot list the network block devices: %s", strerror(-r));
        if (r > 0)
                return device_end(m, volume_key, &d, state == UNIT_RUNNING && nbd_place_is_complete(m, volume_key), e, err);
        if (ended)
                return 1;
        return impatient ? rbd_unit_kill(volume_key, err) : 0;
}

int rbd_nbd_unmap(Mounter *m, const char *volume_key, NbdEnd how, Error *err)
{
        End e = { .how = how };
        int64_t start = now_msec();
        int r = 0;

        if (!nbd_place_exists(m, volume_key)) {
                _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
                r = rbd_nbd_find(NBD_SYSFS, m->runtime_fd, volume_key, &d);
                if (r <= 0)
                        return r < 0 ? error_set(err, ERROR_DETACH_FAILED, r, "Cannot list the network block devices: %s", strerror(-r)) : 0;
                r = 0;
        }
        /* what was told to map and has not begun finds nothing to do; what has begun is either complete soon or ended */
        bool never_begun = nbd_place_forbid(m, volume_key);
        while (r == 0) {
                int64_t waited = now_msec() - start;
                r = end_step(m, volume_key, never_begun || waited > PATIENCE_MSEC, &e, err);
                if (r == 0 && waited > END_MSEC)
                        r = error_set(err, ERROR_DETACH_FAILED, ETIMEDOUT, "rbd-nbd of volume %s does not end", volume_key);
                if (r == 0)
                        pause_msec(LOOK_MSEC);
        }
        return r < 0 ? r : place_end(m, volume_key, err);
}
