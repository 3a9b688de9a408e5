/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Publishing: the bind mount of a stage onto a pod's directory. Runs in mounters; may block on the storage.
 *
 * Invariants: the mount is made complete (flags, propagation) while it is detached and invisible, then attached in
 * one step onto a descriptor. No path is resolved between check and use; what was opened may however have been
 * renamed since, so the path is resolved once more afterwards and must lead to the very mount that was made,
 * or it is taken away again, wherever it then is.
 */

#include "mounters/fs/bind.h"

#include <fcntl.h>
#include <string.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "mounters/fs/mount-api.h"
#include "mounters/fs/mount.h"
#include "mounters/fs/target.h"
#include "mounters/fs/umount.h"

#define STATX_FLAGS (AT_NO_AUTOMOUNT | AT_SYMLINK_NOFOLLOW | AT_STATX_DONT_SYNC)

typedef struct MountState {
        bool mounted;
        uint64_t mount_id;
        dev_t device;
        uint64_t inode;
} MountState;

/* What is to be seen at an open O_PATH descriptor, without asking the storage. */
static int mount_state(int fd, MountState *ret)
{
        struct statx sx;

        if (statx(fd, "", STATX_FLAGS | AT_EMPTY_PATH, STATX_MNT_ID | STATX_MNT_ID_UNIQUE | STATX_INO, &sx) < 0)
                return -errno;
        if (!(sx.stx_mask & (STATX_MNT_ID | STATX_MNT_ID_UNIQUE)) ||
            !(sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT))
                return -EOPNOTSUPP; /* before Linux 5.8 */
        *ret = (MountState) {
                .mounted = sx.stx_attributes & STATX_ATTR_MOUNT_ROOT,
                .mount_id = sx.stx_mnt_id,
                .device = makedev(sx.stx_dev_major, sx.stx_dev_minor),
                .inode = sx.stx_ino,
        };
        return 0;
}

/* A private copy of the stage's mount, not attached anywhere yet. */
static int stage_clone(const MounterVolume *v, Error *err)
{
        _cleanup_close_ int fd = sys_open_tree(AT_FDCWD, v->staging_path,
                                               OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW |
                                                               AT_NO_AUTOMOUNT);
        if (fd < 0)
                return error_set(err, ERROR_MOUNT_FAILED, errno, "Cannot open the stage %s: %m", v->staging_path);
        FAULT_POINT("publish.after-clone");
        return TAKE_FD(fd);
}

/*
 * Whether a mount is read-only. statfs() tells, but asks a server that may be gone; for those the mount table is read instead,
 * which costs more the more mounts there are.
 */
static int mount_is_read_only(int fd, FsStorage storage, bool *ret)
{
        _cleanup_fclose_ FILE *f = NULL;
        _cleanup_free_ char *line = NULL;
        struct statfs sf;
        struct statx sx;
        size_t size = 0;

        if (storage == FS_STORAGE_DEVICE) {
                if (fstatfs(fd, &sf) < 0)
                        return -errno;
                *ret = (unsigned long) sf.f_flags & ST_RDONLY;
                return 0;
        }
        if (statx(fd, "", STATX_FLAGS | AT_EMPTY_PATH, STATX_MNT_ID, &sx) < 0)
                return -errno;
        f = fopen("/proc/self/mountinfo", "re");
        while (f && getline(&line, &size, f) > 0) {
                unsigned long long id;
                int at = -1;

                /* 36 35 98:0 /root /target rw,noatime … */
                if (sscanf(line, "%llu %*u %*s %*s %*s %n", &id, &at) == 1 && at > 0 && id == sx.stx_mnt_id) {
                        *ret = strncmp(line + at, "ro", 2) == 0 && strchr(", ", line[at + 2]);
                        return 0;
                }
        }
        return -ENOENT;
}

/*
 * Private: the copy leaves the stage's peer group, so that nothing mounted in one pod's volume shows up in the stage
 * or in another pod. Attached below a shared parent (a kubelet root usually is) the kernel makes it shared anew, in
 * a peer group of its own, which containers' namespaces need in order to see it.
 */
static int clone_restrict(int tree_fd, const MounterVolume *v, Error *err)
{
        struct mount_attr attr = {
                .attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | (v->read_only ? MOUNT_ATTR_RDONLY : 0),
                .propagation = MS_PRIVATE,
        };

        if (sys_mount_setattr(tree_fd, "", AT_EMPTY_PATH, &attr) < 0)
                return error_set(err, ERROR_MOUNT_FAILED, errno, "Cannot restrict the mount of %s: %m",
                                 v->staging_path);
        return 0;
}

/* 1: it shows this stage with these flags; 0: nothing is mounted there. */
static int target_is_published(const Target *t, int target_fd, int tree_fd, FsStorage storage,
                               const MounterVolume *v, MounterResult *r, Error *err)
{
        MountState now, tree;
        bool read_only = false;
        int k = mount_state(target_fd, &now);

        if (k >= 0 && !now.mounted)
                return 0;
        if (k >= 0)
                k = mount_state(tree_fd, &tree);
        if (k >= 0)
                k = mount_is_read_only(target_fd, storage, &read_only);
        if (k < 0)
                return error_set(err, ERROR_MOUNT_FAILED, k, "Cannot look at target %s: %s", t->path,
                                 strerror(-k));
        if (now.device != tree.device || now.inode != tree.inode)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Something else is mounted on target %s", t->path);
        if (read_only != v->read_only)
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "The volume is mounted on target %s already, but %s", t->path,
                                 read_only ? "read-only" : "read-write");
        r->mount_id = now.mount_id;
        return 1;
}

/*
 * Takes away exactly the mount that tree_fd is the root of: "." is resolved without a step, so neither a rename nor
 * something mounted on top leads elsewhere. Lazy, since our own descriptor keeps it busy; it ends with that.
 */
static int mount_undo(int tree_fd)
{
        int r = 0;

        if (fchdir(tree_fd) < 0)
                return -errno;
        if (umount2(".", MNT_DETACH) < 0)
                r = -errno;
        if (chdir("/") < 0 && r == 0)
                r = -errno;
        return r;
}

/* Whether the target's path, resolved anew, leads to the mount that was made. */
static int target_verify(const Target *t, uint64_t mount_id, Error *err)
{
        bool mounted = false;
        uint64_t found = 0;
        _cleanup_close_ int fd = target_open(t, err);
        if (fd < 0)
                return error_set(err, ERROR_TARGET_INVALID, EXDEV, "Target %s was moved away during the mount",
                                 t->path);

        int r = mount_id_at(fd, "", &found, &mounted);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot look at target %s: %s", t->path,
                                 strerror(-r));
        if (!mounted || found != mount_id)
                return error_set(err, ERROR_TARGET_INVALID, EXDEV, "Target %s was exchanged during the mount",
                                 t->path);
        return 0;
}

static int clone_attach(const Target *t, int tree_fd, int target_fd, MounterResult *r, Error *err)
{
        uint64_t mount_id;

        FAULT_POINT("publish.before-move");
        if (sys_move_mount(tree_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
                return error_set(err, errno == ENOENT ? ERROR_TARGET_MISSING : ERROR_MOUNT_FAILED, errno,
                                 "Cannot mount on target %s: %m", t->path);
        FAULT_POINT("publish.after-move");

        int k = mount_id_at(tree_fd, "", &mount_id, NULL);
        if (k < 0)
                k = error_set(err, ERROR_MOUNT_FAILED, k, "Cannot look at the new mount: %s", strerror(-k));
        else
                k = target_verify(t, mount_id, err);
        if (k < 0) {
                int u = mount_undo(tree_fd);
                /* -EINVAL: whoever removed or unmounted the directory took the mount along */
                if (u < 0 && u != -EINVAL)
                        log_error("Cannot take back a mount that was to go to %s: %s", t->path, strerror(-u));
                return k;
        }
        r->mount_id = mount_id;
        FAULT_POINT("publish.after-verify");
        return 0;
}

int fs_publish_tree(Mounter *m, const MounterVolume *v, int tree_fd, FsStorage storage, MounterResult *r, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        int k = target_parse(v->target, &m->settings, &t, err);
        if (k < 0)
                return k;

        _cleanup_close_ int target_fd = target_open(&t, err);
        if (target_fd < 0)
                return target_fd;
        k = target_is_published(&t, target_fd, tree_fd, storage, v, r, err);
        if (k != 0)
                return k < 0 ? k : 0;

        k = clone_restrict(tree_fd, v, err);
        return k < 0 ? k : clone_attach(&t, tree_fd, target_fd, r, err);
}

int fs_publish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_close_ int tree_fd = -EBADF;
        bool staged = false, read_only = false;

        if (!v->target || !v->staging_path)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Publish needs target and stagingPath");
        int k = mount_id_at(AT_FDCWD, v->staging_path, NULL, &staged);
        if (k < 0 && k != -ENOENT)
                return error_set(err, ERROR_MOUNT_FAILED, k, "Cannot look at the stage %s: %s", v->staging_path,
                                 strerror(-k));
        if (k < 0 || !staged) {
                r->next = "stage"; /* somebody has unmounted it */
                return 0;
        }
        tree_fd = stage_clone(v, err);
        if (tree_fd < 0)
                return tree_fd;
        k = mount_is_read_only(tree_fd, FS_STORAGE_DEVICE, &read_only);
        if (k < 0)
                return error_set(err, ERROR_MOUNT_FAILED, k, "Cannot look at the stage %s: %s", v->staging_path,
                                 strerror(-k));
        if (!v->read_only && read_only)
                return error_set(err, ERROR_READ_ONLY_STAGE, EROFS, "The stage %s is read-only", v->staging_path);
        return fs_publish_tree(m, v, tree_fd, FS_STORAGE_DEVICE, r, err);
}

static dev_t device_at(int parent_fd, const char *name)
{
        struct statx sx;

        if (statx(parent_fd, name, STATX_FLAGS, STATX_TYPE, &sx) < 0)
                return 0;
        return makedev(sx.stx_dev_major, sx.stx_dev_minor);
}

int fs_unpublish(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        const char *name = NULL;

        if (!v->target)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Unpublish needs a target");
        int k = target_parse(v->target, &m->settings, &t, err);
        if (k < 0)
                return k;

        _cleanup_error_ Error e = ERROR_INIT;
        _cleanup_close_ int parent_fd = target_open_parent(&t, &name, &e);
        if (parent_fd < 0) {
                k = parent_fd;
                if (e.code == ERROR_TARGET_MISSING)
                        return 0;
                error_move(err, &e);
                return k;
        }

        k = fs_umount_all(parent_fd, name, &r->layers);
        if (k == -EBUSY) {
                _cleanup_free_ char *holders = fs_holders(device_at(parent_fd, name));
                return error_set(err, ERROR_BUSY, EBUSY, "Target %s is in use%s%s", t.path, holders ? " by " : "",
                                 holders ? holders : "");
        }
        if (k < 0)
                return error_set(err, ERROR_UNMOUNT_FAILED, k, "Cannot unmount target %s: %s", t.path,
                                 strerror(-k));
        return 0;
}
