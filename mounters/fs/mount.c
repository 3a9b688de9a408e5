/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Staging mounts: made by libmount, on berth's own directories only, and what can be asked of them. Runs in
 * mounters; everything here may block on the storage.
 *
 * Invariants: what is mounted on a staging path is compared with the device that was asked for, whether it was found or
 * made. libmount is given source, target and type, so that it looks nothing up: neither fstab nor the mount
 * table, whose cost would grow with every mount on the node.
 */

#include "mounters/fs/mount.h"

#include <dirent.h>
#include <fcntl.h>
#include <libmount.h>
#include <linux/btrfs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "base/fault.h"
#include "base/fd.h"
#include "mounters/fs/mount-api.h"
#include "mounters/fs/target.h"
#include "mounters/fs/umount.h"

DEFINE_POINTER_CLEANUP(struct libmnt_context *, mnt_free_context);

/* A btrfs shows an anonymous st_dev; its device is asked of the file system itself. */
static int btrfs_device(int fd, dev_t *ret)
{
        struct btrfs_ioctl_fs_info_args fs = {};
        struct stat st;

        if (ioctl(fd, BTRFS_IOC_FS_INFO, &fs) < 0)
                return -errno;
        for (uint64_t id = 1; id <= fs.max_id; id++) {
                struct btrfs_ioctl_dev_info_args device = { .devid = id };

                if (ioctl(fd, BTRFS_IOC_DEV_INFO, &device) < 0) {
                        if (errno == ENODEV)
                                continue;
                        return -errno;
                }
                device.path[sizeof(device.path) - 1] = 0;
                if (stat((const char *) device.path, &st) < 0)
                        return -errno;
                *ret = st.st_rdev;
                return 0;
        }
        return -ENODEV;
}

/* The block device below a mounted directory. */
static int mounted_device(const char *path, dev_t *ret)
{
        struct statfs sf;
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
                return -errno;

        if (fstatfs(fd, &sf) < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (sf.f_type == BTRFS_SUPER_MAGIC)
                return btrfs_device(fd, ret);
        *ret = st.st_dev;
        return 0;
}

static int mount_compare(const FsMountParams *p, Error *err)
{
        dev_t device;

        if (p->device_number == 0)
                return 0;
        int r = mounted_device(p->staging_path, &device);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot look at the mount on %s: %s",
                                 p->staging_path, strerror(-r));
        if (device != p->device_number)
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "On %s is mounted device %u:%u instead of %s (%u:%u)", p->staging_path,
                                 major(device), minor(device), p->source, major(p->device_number),
                                 minor(p->device_number));
        return 0;
}

static int mount_failed(struct libmnt_context *context, const FsMountParams *p, int rc, Error *err)
{
        char reason[512] = "";
        int e = mnt_context_syscall_called(context) ? mnt_context_get_syscall_errno(context)
                : rc < 0                            ? -rc
                                                    : EINVAL;

        (void) mnt_context_get_excode(context, rc, reason, sizeof(reason));
        return error_set(err, e == ENOSPC ? ERROR_NO_SPACE : ERROR_MOUNT_FAILED, e,
                         "Cannot mount %s on %s as %s: %s%s%s%s", p->source, p->staging_path, p->fs_type,
                         *reason ? reason : strerror(e), *reason ? " (" : "", *reason ? strerror(e) : "",
                         *reason ? ")" : "");
}

/* Neither utab (a block file system has no _netdev) nor helpers (mount.<type>) nor canonicalisation are needed here. */
static int mount_make(const FsMountParams *p, Error *err)
{
        _cleanup_(mnt_free_contextp) struct libmnt_context *context = mnt_new_context();

        if (!context || mnt_context_disable_mtab(context, 1) < 0 ||
            mnt_context_disable_helpers(context, 1) < 0 || mnt_context_disable_canonicalize(context, 1) < 0 ||
            mnt_context_set_source(context, p->source) < 0 ||
            mnt_context_set_target(context, p->staging_path) < 0 ||
            mnt_context_set_fstype(context, p->fs_type) < 0 || mnt_context_set_options(context, p->options) < 0)
                return error_oom(err);

        int rc = mnt_context_mount(context);
        if (rc != 0 || mnt_context_get_status(context) != 1)
                return mount_failed(context, p, rc, err);
        return 0;
}

static int mount_finish(const FsMountParams *p, uint64_t *ret_mount_id, Error *err)
{
        bool mounted = false;
        int r = mount_id_at(AT_FDCWD, p->staging_path, ret_mount_id, &mounted);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot look at the mount on %s: %s",
                                 p->staging_path, strerror(-r));
        if (!mounted)
                return error_set(err, ERROR_MOUNT_FAILED, ENOENT, "The mount on %s is not to be seen",
                                 p->staging_path);
        return mount_compare(p, err);
}

int fs_mount(const FsMountParams *p, uint64_t *ret_mount_id, Error *err)
{
        bool mounted = false;
        FAULT_POINT("stage.before-mkdir");
        int r = mkdir(p->staging_path, 0700) < 0 && errno != EEXIST ? -errno : 0;
        if (r == -ENOENT) /* its parents are there but for the first time */
                r = mkdir_parents(p->staging_path, 0700);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot make the directory %s: %s", p->staging_path,
                                 strerror(-r));
        r = mount_id_at(AT_FDCWD, p->staging_path, NULL, &mounted);
        if (r < 0)
                return error_set(err, ERROR_MOUNT_FAILED, r, "Cannot look at %s: %s", p->staging_path,
                                 strerror(-r));

        if (mounted)
                return mount_finish(p, ret_mount_id, err);

        FAULT_POINT("stage.before-mount");
        r = mount_make(p, err);
        FAULT_POINT("stage.after-mount");
        if (r < 0) {
                (void) rmdir(p->staging_path);
                return r;
        }
        r = mount_finish(p, ret_mount_id, err);
        if (r < 0) {
                (void) umount2(p->staging_path, UMOUNT_NOFOLLOW);
                (void) rmdir(p->staging_path);
        }
        return r;
}

static int staging_open_parent(const MounterVolume *v, const char **ret_name, Error *err)
{
        const char *slash = v->staging_path ? strrchr(v->staging_path, '/') : NULL;

        if (!slash || slash == v->staging_path || !slash[1])
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "stagingPath is missing or not absolute");
        _cleanup_free_ char *parent = strndup(v->staging_path, (size_t) (slash - v->staging_path));
        if (!parent)
                return error_oom(err);
        int fd = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
                return error_set(err, ERROR_UNMOUNT_FAILED, errno, "Cannot open %s: %m", parent);
        *ret_name = slash + 1;
        return fd;
}

int fs_unstage(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        const char *name = NULL;
        unsigned layers;
        _cleanup_error_ Error e = ERROR_INIT;
        _cleanup_close_ int parent_fd = staging_open_parent(v, &name, &e);
        if (parent_fd < 0) {
                int k = parent_fd;
                if (k == -ENOENT)
                        return 0;
                error_move(err, &e);
                return k;
        }

        int k = fs_umount_all(parent_fd, name, &layers);
        if (k == -EBUSY) {
                _cleanup_free_ char *holders = fs_holders(v->device_number);
                return error_set(err, ERROR_BUSY, EBUSY, "The stage %s is in use%s%s", v->staging_path,
                                 holders ? " by " : "", holders ? holders : "");
        }
        if (k < 0)
                return error_set(err, ERROR_UNMOUNT_FAILED, k, "Cannot unmount %s: %s", v->staging_path,
                                 strerror(-k));
        FAULT_POINT("unstage.before-rmdir");
        /* this also takes away the copies of the mount that other mount namespaces have (since Linux 3.18) */
        if (unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
                return error_set(err, ERROR_UNMOUNT_FAILED, errno, "Cannot remove the directory %s: %m",
                                 v->staging_path);
        FAULT_POINT("unstage.after-rmdir");
        return 0;
}

/*
 * Since Linux 6.15 an ext4 that an error has made read-only, or shut down, says so in its options alone, while its root is still
 * read from memory. Such kernels have statmount(); on others the flag of statvfs() tells of the first.
 */
static int mount_emergency(int fd)
{
        MountStateBuffer state = {};
        uint64_t id;

        if (mount_id_at(fd, "", &id, NULL) < 0 || sys_statmount(id, MOUNT_STATE_OPTIONS, &state) < 0 ||
            !(state.mask & MOUNT_STATE_OPTIONS) || state.options >= sizeof(state.strings))
                return 0;
        state.strings[sizeof(state.strings) - 1] = 0;
        for (const char *o = state.strings + state.options; *o; o += strcspn(o, ","), o += *o == ',') {
                size_t n = strcspn(o, ",");

                if (n == strlen("shutdown") && memcmp(o, "shutdown", n) == 0)
                        return -ESHUTDOWN;
                if (n == strlen("emergency_ro") && memcmp(o, "emergency_ro", n) == 0)
                        return -EROFS;
        }
        return 0;
}

/*
 * 0, or why a mounted file system does not work: negative errno, -EROFS where it should be writable. Reading the root directory
 * reaches what statfs() answers from memory.
 */
static int mount_ailment(const char *path, bool read_only, struct statvfs *ret)
{
        _cleanup_closedir_ DIR *d = NULL;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 || fstatvfs(fd, ret) < 0)
                return -errno;

        int emergency = mount_emergency(fd);
        bool is_read_only = (ret->f_flag & ST_RDONLY) || emergency == -EROFS;
        d = fdopendir(fd);
        if (!d)
                return -errno;
        fd = -EBADF;
        errno = 0;
        if (!readdir(d) && errno != 0)
                return -errno;
        if (emergency == -ESHUTDOWN)
                return emergency;
        return is_read_only && !read_only ? -EROFS : 0;
}

static const char *ailment_text(int ailment)
{
        return ailment == -EROFS ? "the file system has turned read-only, as after an error" : strerror(-ailment);
}

/* Errors that no waiting cures: the server, the device or the file system below this mount is not the one it was. */
static bool ailment_is_corruption(int ailment)
{
        return ailment == -EIO || ailment == -ESTALE || ailment == -ENOTCONN || ailment == -ENODEV ||
               ailment == -ESHUTDOWN;
}

int fs_stats(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        bool mounted = false;
        struct statvfs st = {};
        int k = v->staging_path ? mount_id_at(AT_FDCWD, v->staging_path, NULL, &mounted) : -ENOENT;
        if (k < 0 || !mounted)
                return error_set(err, ERROR_NOT_FOUND, k < 0 ? k : ENOENT, "Nothing is staged on %s",
                                 str_or(v->staging_path, "(none)"));

        int ailment = mount_ailment(v->staging_path, v->read_only, &st);
        r->healthy = ailment == 0;
        r->total_bytes = st.f_blocks * st.f_frsize;
        r->available_bytes = st.f_bavail * st.f_frsize;
        r->used_bytes = (st.f_blocks - st.f_bfree) * st.f_frsize;
        r->total_inodes = st.f_files;
        r->free_inodes = st.f_ffree;
        r->used_inodes = st.f_files - st.f_ffree;
        if (ailment < 0 && str_replace(&r->reason, ailment_text(ailment)) < 0)
                return error_oom(err);
        return 0;
}

/* A target that is gone is an answer here: not published. */
static int check_target(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        const char *name = NULL;
        int k = target_parse(v->target, &m->settings, &t, err);
        if (k < 0)
                return k;

        _cleanup_close_ int parent_fd = target_open_parent(&t, &name, NULL);
        if (parent_fd < 0 || mount_id_at(parent_fd, name, &r->mount_id, &r->published) < 0 || !r->published) {
                r->published = false;
                r->mount_id = 0;
        }
        return 0;
}

int fs_check(Mounter *m, const MounterVolume *v, MounterResult *r, Error *err)
{
        struct statvfs st = {};

        r->healthy = true;
        if (v->target) {
                int k = check_target(m, v, r, err);
                if (k < 0)
                        return k;
        }
        if (!v->staging_path)
                return 0;
        int k = mount_id_at(AT_FDCWD, v->staging_path, NULL, &r->staged);
        if (k == -ENOENT || (k >= 0 && !r->staged))
                return 0;
        int ailment = k < 0 ? k : mount_ailment(v->staging_path, v->read_only, &st);
        if (ailment < 0) {
                r->healthy = false;
                r->corrupted = ailment_is_corruption(ailment);
                if (str_replace(&r->reason, ailment_text(ailment)) < 0)
                        return error_oom(err);
        }
        return 0;
}
