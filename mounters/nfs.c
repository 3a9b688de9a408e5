/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * NFS: the slots of mounter-nfs. One mount a node for each server, export and superblock options, staged
 * read-write; every pod gets a bind mount of it, or of a directory of it, with its own read-only flag.
 *
 * Invariants: whatever waits for a server has a time limit here, below the agent's. Taking a pod's mount
 * away asks no server: umount2(2) does not look at what is mounted, and the stage keeps the superblock. A
 * stage is unmounted while its server answers, so that what was written still reaches it; by force only when
 * the agent says that it has waited long enough, or the server's name leads elsewhere by now.
 *
 * What stands for the device of the other kinds is the superblock: Detach is done when the kernel has none
 * any more.
 */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "mounters/bounded.h"
#include "mounters/fs/bind.h"
#include "mounters/fs/mount.h"
#include "mounters/fs/target.h"
#include "mounters/fs/umount.h"
#include "mounters/nfs-mount.h"
#include "mounters/nfs-moved.h"
#include "mounters/nfs-preflight.h"
#include "mounters/nfs-source.h"
#include "mounters/nfs-subdir.h"
#include "protocol/names.h"

#define PING_USEC (1000 * UINT64_C(1000))
#define LOOK_USEC (3000 * UINT64_C(1000))
#define FORCE_USEC (2000 * UINT64_C(1000))

static int server_silent(const char *server, Error *err)
{
        return error_set(err, ERROR_SERVER_UNREACHABLE, ETIMEDOUT, "The server of %s does not answer",
                         server);
}

/* How people and the mount table call it. */
static const char *volume_name(const MounterVolume *v)
{
        return str_or(v->device, str_or(v->identity, str_or(v->staging_path, "the volume")));
}

static int nfs_resolve(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;

        if (*v->fs_type && strcmp(v->fs_type, "nfs") != 0 && strcmp(v->fs_type, "nfs4") != 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "fsType '%.40s' is not possible with driver nfs: leave it out", v->fs_type);
        int k = nfs_source_parse(&v->source, v->mount_options, &m->settings, &s, err);
        if (k < 0)
                return k;
        r->identity = TAKE_PTR(s.identity);
        r->key = TAKE_PTR(s.key);
        r->group = TAKE_PTR(s.group);
        r->shared = true;
        return 0;
}

/* ---- stage ---- */

static bool locks_are_remote(const NfsSource *s)
{
        const char *local = nfs_source_option(s, "local_lock");

        return !nfs_source_option(s, "nolock") && !(local && strcmp(local, "all") == 0);
}

static int stage_directory(const char *path, bool *ret_mounted, Error *err)
{
        FAULT_POINT("nfs.before-stage-mkdir");
        int r = mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        if (r == -ENOENT)
                r = mkdir_parents(path, 0700);
        if (r >= 0)
                r = mount_id_at(AT_FDCWD, path, NULL, ret_mounted);
        return r < 0 ? error_set(err, ERROR_MOUNT_FAILED, r, "Cannot make the directory %s: %s", path,
                                 strerror(-r))
                     : 0;
}

static int stage_mount(Mounter *m, const MounterVolume *v, const NfsSource *s, MounterResult *r, Error *err)
{
        NfsPeer peer;
        int k = nfs_preflight(m, s, &peer, err);

        /* it is there: who stands in line for it need not fear that it is silent, however long the kernel takes */
        if (k >= 0)
                mounter_progress(m, "stage", 0, 0);
        if (k >= 0 && peer.version == NFS_VERSION_3 && locks_are_remote(s))
                k = nfs_locking_check(m, err);
        if (k >= 0)
                k = nfs_mount(m, s, &peer, v->staging_path, &r->device_number, &r->mount_id, err);
        return k;
}

/* The device is the superblock, by name and number; what is mounted there already was mounted by the same
 * request. */
static int nfs_stage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_nfs_mount_ NfsMount found = {};
        bool mounted = false;
        int k = nfs_source_parse(&v->source, v->mount_options, &m->settings, &s, err);

        if (k >= 0 && (!v->staging_path || !v->key || strcmp(v->key, s.key) != 0))
                k = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                              "Stage needs stagingPath, and the key that the source has");
        if (k >= 0)
                k = stage_directory(v->staging_path, &mounted, err);
        if (k < 0)
                return k;
        if (mounted) {
                k = nfs_mount_find(v->staging_path, &found);
                if (k < 0)
                        return error_set(err, ERROR_CONFLICT, k, "Something else is mounted on %s",
                                         v->staging_path);
                r->device_number = found.device;
                (void) mount_id_at(AT_FDCWD, v->staging_path, &r->mount_id, NULL);
        } else {
                k = stage_mount(m, v, &s, r, err);
                if (k < 0) {
                        (void) rmdir(v->staging_path);
                        return k;
                }
        }
        if (asprintf(&r->device, "%s:%s", s.server, s.export) < 0) {
                r->device = NULL;
                return error_oom(err);
        }
        return str_replace(&r->fs_type, "nfs") < 0 ? error_oom(err) : 0;
}

/* ---- publish ---- */

typedef struct PublishJob {
        const MounterVolume *volume;
        NfsSource source;
        Target target;
        bool target_stale;
        int tree_fd;
        Error error;
} PublishJob;

static void publish_job_free(PublishJob *j)
{
        nfs_source_done(&j->source);
        target_done(&j->target);
        error_done(&j->error);
        free(j);
}

/* Whether the server has forgotten the directory that is mounted there. Asks it. */
static bool target_is_stale(const Target *t)
{
        struct statx sx;
        _cleanup_close_ int fd = target_open(t, NULL);
        if (fd < 0)
                return fd == -ESTALE;

        return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &sx) < 0 &&
               errno == ESTALE;
}

/* What has to ask the server: that neither the stage nor what the target shows is stale, and where the directory is. */
static int publish_look(void *argument)
{
        PublishJob *j = argument;
        int r = nfs_subdir_clone(j->volume->staging_path, &j->source, &j->tree_fd, &j->error);

        j->target_stale = r >= 0 && target_is_stale(&j->target);
        return r;
}

/*
 * The pod's directory was removed on the server, and what bears its name now takes its place. Who stands in the old one keeps it.
 * If this does not help the publish finds the target occupied, and says so.
 */
static void target_clear(const PublishJob *j)
{
        _cleanup_nfs_mount_ NfsMount stage = {}, found = {};
        const char *name = NULL;

        if (nfs_mount_find(j->volume->staging_path, &stage) < 0 || nfs_mount_find(j->target.path, &found) < 0 ||
            found.device != stage.device)
                return;
        _cleanup_close_ int parent_fd = target_open_parent(&j->target, &name, NULL);
        if (parent_fd < 0 || fchdir(parent_fd) < 0)
                return;
        FAULT_POINT("nfs.before-clear");
        bool cleared = umount2(name, UMOUNT_NOFOLLOW | MNT_DETACH) >= 0;
        FAULT_POINT("nfs.after-clear");
        if (chdir("/") >= 0 && cleared)
                log_info("Target %s showed a directory that its server has forgotten; it is mounted anew", j->target.path);
}

/* Nobody uses the stage, and what it waits for is not where its server is now: there is nothing to wait for. */
static bool stage_is_lost(Mounter *m, const char *path)
{
        _cleanup_nfs_mount_ NfsMount found = {};
        char address[NFS_ADDRESS_MAX];

        return nfs_mount_find(path, &found) >= 0 && nfs_mounted_only_at(path, found.device) &&
               nfs_server_moved(m, &found, PING_USEC, address);
}

static int publish_silent(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_nfs_mount_ NfsMount found = {};
        char address[NFS_ADDRESS_MAX];

        if (nfs_mount_find(v->staging_path, &found) < 0 || !nfs_server_moved(m, &found, PING_USEC, address))
                return server_silent(volume_name(v), err);
        if (nfs_mounted_only_at(v->staging_path, found.device)) {
                r->next = "stage";
                return 0;
        }
        return error_set(err, ERROR_SERVER_UNREACHABLE, ETIMEDOUT,
                         "The server of %s does not answer at %s, where it is mounted from; its name leads to %s "
                         "now. It is mounted from there once no pod on this node uses it any more",
                         volume_name(v), found.address, address);
}

static int publish_judge(Mounter *m, const MounterVolume *v, PublishJob *j, int k, MounterResult *r, Error *err)
{
        if (k == -ESTALE) {
                r->next = "stage"; /* the server has forgotten it, or serves something else there by now */
                return 0;
        }
        if (k == -ETIMEDOUT || k == -EIO)
                return publish_silent(m, v, r, err);
        if (k < 0)
                error_move(err, &j->error);
        return k;
}

static int nfs_publish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        bool staged = false;
        int k, result = 0;

        if (!v->target || !v->staging_path)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Publish needs target and stagingPath");
        k = mount_id_at(AT_FDCWD, v->staging_path, NULL, &staged);
        if (k == -ENOENT || (k >= 0 && !staged)) {
                r->next = "stage"; /* somebody has unmounted it */
                return 0;
        }
        PublishJob *j = calloc(1, sizeof(*j));
        if (!j)
                return error_oom(err);
        *j = (PublishJob){.volume = v, .source = NFS_SOURCE_INIT, .target = TARGET_INIT, .tree_fd = -EBADF};
        k = nfs_source_parse(&v->source, v->mount_options, &m->settings, &j->source, err);
        if (k >= 0)
                k = target_parse(v->target, &m->settings, &j->target, err);
        if (k >= 0) {
                k = bounded_call(m, m->settings.nfs_preflight_timeout_usec, publish_look, j, &result);
                if (k == -ETIMEDOUT) /* the thread still has j */
                        return publish_silent(m, v, r, err);
                if (k < 0)
                        k = error_set(err, ERROR_INTERNAL, k, "Cannot start a thread: %s", strerror(-k));
                else
                        k = publish_judge(m, v, j, result, r, err);
        }
        _cleanup_close_ int tree_fd = j->tree_fd;
        if (j->target_stale)
                target_clear(j);
        publish_job_free(j);
        return k < 0 || r->next ? k : fs_publish_tree(m, v, tree_fd, FS_STORAGE_SERVER, r, err);
}

/* ---- unpublish ---- */

/* Whether the server of a mount answers where it is mounted from: looked up in the mount table, asked beside the mount. */
static bool server_answers(const char *path)
{
        _cleanup_nfs_mount_ NfsMount found = {};

        return nfs_mount_find(path, &found) < 0 || !*found.address ||
               nfs_null(found.address, found.port, found.version, PING_USEC) == 0;
}

static int detach_all(int parent_fd, const char *name, unsigned *layers)
{
        int r = 0;

        if (fchdir(parent_fd) < 0)
                return -errno;
        while (umount2(name, UMOUNT_NOFOLLOW | MNT_DETACH) >= 0)
                (*layers)++;
        if (errno != EINVAL && errno != ENOENT)
                r = -errno;
        return chdir("/") < 0 && r == 0 ? -errno : r;
}

/*
 * Processes of the node that wait for a dead server inside the volume hold it, and nothing ends them: then
 * the mount is taken out of their way. While the server answers they are asked to let go, as with every
 * kind.
 */
static int nfs_unpublish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        _cleanup_error_ Error busy = ERROR_INIT;
        const char *name = NULL;
        int k = fs_unpublish(m, v, r, &busy);

        if (k < 0 && busy.code == ERROR_BUSY && target_parse(v->target, &m->settings, &t, NULL) >= 0 &&
            !server_answers(t.path)) {
                _cleanup_close_ int parent_fd = target_open_parent(&t, &name, NULL);
                if (parent_fd >= 0 && detach_all(parent_fd, name, &r->layers) >= 0)
                        return 0;
        }
        if (k < 0)
                error_move(err, &busy);
        return k;
}

/* ---- unstage, detach ---- */

static int stage_leave(const MounterVolume *v, Error *err)
{
        return error_set(err, ERROR_SERVER_UNREACHABLE, ETIMEDOUT,
                         "The server of %s does not answer; its stage stays until it does, so that nothing "
                         "written is lost",
                         volume_name(v));
}

static int nfs_unstage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        bool mounted = false;

        if (!v->staging_path)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Unstage needs stagingPath");
        if (mount_id_at(AT_FDCWD, v->staging_path, NULL, &mounted) >= 0 && mounted &&
            !server_answers(v->staging_path)) {
                if (!v->force && !stage_is_lost(m, v->staging_path))
                        return stage_leave(v, err);
                log_warning("The server of %s does not answer: its mount is taken away by force, and what was not written yet is lost",
                            volume_name(v));
                (void) fs_umount_force(v->staging_path, FORCE_USEC); /* there may be something left to write */
        }
        return fs_unstage(m, v, r, err);
}

static int nfs_detach(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        if (!v->force && nfs_superblock_exists(v->device_number)) {
                _cleanup_free_ char *holders = fs_holders(v->device_number);
                return error_set(err, ERROR_BUSY, EBUSY, "The kernel still has the file system of %s: %s%s",
                                 volume_name(v),
                                 holders ? "in use by "
                                         : "it has something to write, or a process waits in it",
                                 holders ? holders : "");
        }
        r->gone = true;
        return 0;
}

/* ---- looking ---- */

typedef struct LookJob {
        char *path;
        Target *targets; /* what pods were given of it, to be looked at too */
        size_t n_targets;
        char **stale; /* those of them that are */
        struct statvfs usage;
} LookJob;

static void look_job_free(LookJob *j)
{
        for (size_t i = 0; i < j->n_targets; i++)
                target_done(&j->targets[i]);
        free(j->targets);
        strv_free(j->stale);
        free(j->path);
        free(j);
}

/* The root's attributes from the server, not from memory; then how full it is, and what was given to pods. */
static int look_run(void *argument)
{
        LookJob *j = argument;
        struct statx sx;
        int r = 0;

        if (statx(AT_FDCWD, j->path, AT_STATX_FORCE_SYNC | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT,
                  STATX_BASIC_STATS, &sx) < 0 ||
            statvfs(j->path, &j->usage) < 0)
                return -errno;
        for (size_t i = 0; i < j->n_targets && r >= 0 && strv_length(j->stale) < REQUEST_OPTIONS_MAX; i++)
                if (target_is_stale(&j->targets[i]))
                        r = strv_append(&j->stale, j->targets[i].path);
        return r < 0 ? r : 0;
}

/* What has no target's name is none of berth's. */
static LookJob *look_job_new(const Mounter *m, const char *path, char *const *targets)
{
        LookJob *j = calloc(1, sizeof(*j));
        size_t n = strv_length(targets);

        if (!j)
                return NULL;
        *j = (LookJob){.path = strdup(path), .targets = calloc(n + 1, sizeof(Target))};
        if (!j->path || !j->targets) {
                look_job_free(j);
                return NULL;
        }
        STRV_FOREACH (t, targets)
                j->n_targets += target_parse(*t, &m->settings, &j->targets[j->n_targets], NULL) >= 0;
        return j;
}

/* What a look at a stage and at targets found out. */
typedef struct Look {
        int ailment; /* 0, or what is wrong with the mount, negative errno */
        char **stale; /* if nothing is: the targets whose directory the server has forgotten */
        struct statvfs usage;
} Look;

static void look_done(Look *l)
{
        strv_free(l->stale);
}

/* Errors: SERVER_UNREACHABLE if the server does not answer. */
static int look(Mounter *m, const MounterVolume *v, char *const *targets, Look *ret, Error *err)
{
        LookJob *j = look_job_new(m, v->staging_path, targets);
        int result = 0;

        if (!j)
                return error_oom(err);
        int k = bounded_call(m, LOOK_USEC, look_run, j, &result);
        if (k == -ETIMEDOUT) /* the thread still has it */
                return server_silent(volume_name(v), err);
        *ret = (Look){.ailment = k < 0 ? k : result, .usage = j->usage};
        if (ret->ailment >= 0)
                ret->stale = TAKE_PTR(j->stale);
        look_job_free(j);
        /* so a mount with "soft" says that it has given up waiting; and so does a server that cannot read its disk */
        if (ret->ailment == -ETIMEDOUT || (ret->ailment == -EIO && !server_answers(v->staging_path)))
                return server_silent(volume_name(v), err);
        return 0;
}

/* No more than a stale handle is beyond cure: whatever else fails may succeed with the next call, on this mount as on a fresh one. */
static int look_tell(MounterResult *r, const Look *l, Error *err)
{
        r->healthy = l->ailment >= 0 && !l->stale;
        r->corrupted = l->ailment == -ESTALE;
        if (r->healthy)
                return 0;
        free(r->reason);
        int k = l->stale ? asprintf(&r->reason, "the server does not know the directory any more that is mounted at %s (stale "
                                                "file handle); mounting it again replaces it",
                                    l->stale[0])
                         : asprintf(&r->reason, "%s",
                                    l->ailment == -ESTALE ? "the server does not know the mounted directory any more "
                                                            "(stale file handle)"
                                                          : strerror(-l->ailment));
        if (k >= 0)
                return 0;
        r->reason = NULL;
        return error_oom(err);
}

static bool is_staged(const MounterVolume *v)
{
        bool mounted = false;

        return v->staging_path && mount_id_at(AT_FDCWD, v->staging_path, NULL, &mounted) >= 0 && mounted;
}

static int nfs_stats(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_(look_done) Look l = {};

        if (!is_staged(v))
                return error_set(err, ERROR_NOT_FOUND, ENOENT, "Nothing is staged on %s",
                                 str_or(v->staging_path, "(none)"));
        int k = look(m, v, (char *[]){v->target, NULL}, &l, err);
        if (k < 0)
                return k;
        r->total_bytes = l.usage.f_blocks * l.usage.f_frsize;
        r->available_bytes = l.usage.f_bavail * l.usage.f_frsize;
        r->used_bytes = (l.usage.f_blocks - l.usage.f_bfree) * l.usage.f_frsize;
        r->total_inodes = l.usage.f_files;
        r->free_inodes = l.usage.f_ffree;
        r->used_inodes = l.usage.f_files - l.usage.f_ffree;
        return look_tell(r, &l, err);
}

static int nfs_check(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        const MounterVolume target = {.target = v->target};
        _cleanup_(look_done) Look l = {};
        _cleanup_strv_ char **targets = NULL;
        int k = v->target ? fs_check(m, &target, r, err) : 0;

        if (k < 0)
                return k;
        r->healthy = true;
        r->attached = nfs_superblock_exists(v->device_number);
        r->staged = is_staged(v);
        if (!r->staged)
                return 0;
        /* the others show what the stage shows */
        k = nfs_mount_list_directories(v->staging_path, &targets);
        if (k < 0)
                return error_set(err, ERROR_INTERNAL, k, "Cannot read the mount table: %s", strerror(-k));
        k = look(m, v, targets, &l, err);
        if (k >= 0)
                k = look_tell(r, &l, err);
        r->stale_targets = TAKE_PTR(l.stale);
        return k;
}

/*
 * The stages themselves: what is mounted below the staging root was mounted by this driver, and the
 * directory is the key. The options that are in its identity are not to be read back, so the identity ends
 * in what stands for "not known".
 */
static int scan_add(const NfsMount *found, MounterDevice *d)
{
        const char *key = strrchr(found->target, '/') + 1, *path = strstr(found->source, ":/");
        int n = path ? (int) (path - found->source) : (int) strlen(found->source);

        *d = (MounterDevice){
                        .key = strdup(key), .device = strdup(found->source), .device_number = found->device};
        if (asprintf(&d->identity, "nfs:%.*s:%s:?", n, found->source, path ? path + 1 : "") < 0)
                d->identity = NULL;
        return d->key && d->device && d->identity ? 0 : -ENOMEM;
}

static int nfs_scan(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_free_ char *root = NULL;
        NfsMount *mounts = NULL;
        size_t n = 0;

        if (asprintf(&root, "%s/staging", m->settings.runtime_dir) < 0) {
                root = NULL;
                return error_oom(err);
        }
        int k = nfs_mount_list(root, &mounts, &n);
        if (k >= 0 && n > 0 && !(r->devices = calloc(n, sizeof(*r->devices))))
                k = -ENOMEM;
        for (size_t i = 0; i < n; i++) {
                if (k >= 0 && strncmp(strrchr(mounts[i].target, '/') + 1, "nfs-", 4) == 0)
                        k = scan_add(&mounts[i], &r->devices[r->n_devices++]);
                nfs_mount_done(&mounts[i]);
        }
        free(mounts);
        return k < 0 ? error_set(err, ERROR_INTERNAL, k, "Cannot read the mount table: %s", strerror(-k))
                     : 0;
}

static const MounterOps nfs_ops = {
                .kind = "nfs",
                .resolve = nfs_resolve,
                .stage = nfs_stage,
                .publish = nfs_publish,
                .unpublish = nfs_unpublish,
                .unstage = nfs_unstage,
                .detach = nfs_detach,
                .stats = nfs_stats,
                .check = nfs_check,
                .scan = nfs_scan,
};

int main(int argc, char **argv)
{
        return mounter_serve(&nfs_ops, argc, argv);
}
