/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mounting NFS by fsopen(2) and fsconfig(2): no helper program, no string in which a comma could start
 * another option, and the kernel's own words when it fails. Runs in mounter-nfs; blocks on the server, in a
 * thread with a time limit.
 *
 * Each stage has a superblock of its own (nosharecache). So its device number says which stage a mount
 * belongs to, an end by force reaches nobody else's data, and a new mount never waits for an old one that
 * still has something to write to a dead server.
 */

#include "mounters/nfs-mount.h"

#include <fcntl.h>
#include <libmount.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/fault.h"
#include "base/fd.h"
#include "mounters/bounded.h"
#include "mounters/fs/mount-api.h"

#define PING_USEC (1000 * UINT64_C(1000))

/* ---- mounting ---- */

typedef struct MountJob {
        const NfsSource *source;
        const NfsPeer *peer;
        int mount_fd;
        const char *refused; /* the option that the kernel does not take */
        char words[512];     /* the kernel's */
} MountJob;

/* Options of the mount, not of the superblock. */
static unsigned attribute_of(const char *option)
{
        static const struct {
                const char *option;
                unsigned attribute;
        } attributes[] = {
                        {"noexec", MOUNT_ATTR_NOEXEC},     {"nodiratime", MOUNT_ATTR_NODIRATIME},
                        {"noatime", MOUNT_ATTR_NOATIME},   {"strictatime", MOUNT_ATTR_STRICTATIME},
                        {"relatime", MOUNT_ATTR_RELATIME}, {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW},
        };

        for (size_t i = 0; i < ELEMENTSOF(attributes); i++)
                if (strcmp(option, attributes[i].option) == 0)
                        return attributes[i].attribute;
        return 0;
}

/* What is so anyway, and what is no option of the kernel's. */
static bool option_is_implied(const char *option)
{
        static const char *const implied[] = {"nosuid", "nodev",    "defaults", "atime",        "diratime",
                                              "async",  "relatime", "lock",     "nosharecache", "ac",
                                              "cto",    "acl",      "rdirplus", "resvport"};

        for (size_t i = 0; i < ELEMENTSOF(implied); i++)
                if (strcmp(option, implied[i]) == 0)
                        return true;
        return false;
}

static int set_flag(MountJob *j, int fd, const char *key)
{
        if (sys_fsconfig(fd, FSCONFIG_SET_FLAG, key, NULL) >= 0)
                return 0;
        j->refused = key;
        return -errno;
}

static int set_string(MountJob *j, int fd, const char *key, const char *value)
{
        if (sys_fsconfig(fd, FSCONFIG_SET_STRING, key, value) >= 0)
                return 0;
        j->refused = key;
        return -errno;
}

static int set_option(MountJob *j, int fd, const char *option)
{
        const char *value = strchr(option, '=');
        char key[32];

        if (option_is_implied(option) || attribute_of(option) != 0)
                return 0;
        int r = value ? 0 : set_flag(j, fd, option);
        if (value && snprintf(key, sizeof(key), "%.*s", (int) (value - option), option) < (int) sizeof(key))
                r = set_string(j, fd, key, value + 1);
        if (r < 0)
                j->refused = option;
        return r;
}

static int set_all(MountJob *j, int fd)
{
        const NfsSource *s = j->source;
        const NfsPeer *peer = j->peer;
        bool v3 = peer->version == NFS_VERSION_3;
        const char *proto = peer->family == AF_INET6 ? "tcp6" : "tcp";
        _cleanup_free_ char *source = NULL;
        char port[16];
        int r;

        if (asprintf(&source, "%s:%s", s->server, s->export) < 0) {
                source = NULL;
                return -ENOMEM;
        }
        snprintf(port, sizeof(port), "%u", s->port);
        if ((r = set_string(j, fd, "source", source)) < 0 ||
            (r = set_string(j, fd, "vers", nfs_version_to_string(peer->version))) < 0 ||
            (r = set_string(j, fd, "proto", proto)) < 0 ||
            (r = set_string(j, fd, "addr", peer->address)) < 0 ||
            (r = set_flag(j, fd, "nosharecache")) < 0 ||
            (s->port && (r = set_string(j, fd, "port", port)) < 0) ||
            (v3 && (r = set_string(j, fd, "mountproto", proto)) < 0) ||
            (!v3 && *peer->client && (r = set_string(j, fd, "clientaddr", peer->client)) < 0))
                return r;
        STRV_FOREACH (o, s->options)
                if (!(v3 == false && strncmp(*o, "mountport=", 10) == 0) && (r = set_option(j, fd, *o)) < 0)
                        return r;
        return 0;
}

/* "e NFS: …": the last error, without its mark. */
static void read_words(MountJob *j, int fd)
{
        char message[sizeof(j->words)];
        ssize_t n;

        while ((n = read(fd, message, sizeof(message) - 1)) > 0) {
                message[n] = 0;
                message[strcspn(message, "\n")] = 0;
                if (strncmp(message, "e ", 2) == 0)
                        memcpy(j->words, message + 2, (size_t) n - 1);
        }
}

static int mount_run(void *argument)
{
        MountJob *j = argument;
        unsigned attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
        _cleanup_close_ int fd = sys_fsopen("nfs", FSOPEN_CLOEXEC);
        if (fd < 0)
                return errno == ENODEV ? -ENOSYS : -errno;

        STRV_FOREACH (o, j->source->options)
                attributes |= attribute_of(*o);
        int r = set_all(j, fd);
        FAULT_POINT("nfs.before-create");
        if (r >= 0 && sys_fsconfig(fd, FSCONFIG_CMD_CREATE, NULL, NULL) < 0)
                r = -errno;
        FAULT_POINT("nfs.after-create");
        if (r >= 0) {
                j->mount_fd = sys_fsmount(fd, FSMOUNT_CLOEXEC, attributes);
                if (j->mount_fd < 0)
                        r = -errno;
        }
        if (r < 0)
                read_words(j, fd);
        return r;
}

/* Beside the mount that failed. */
static bool peer_answers(const MountJob *j)
{
        bool v3 = j->peer->version == NFS_VERSION_3;
        unsigned port = j->source->port ? j->source->port : v3 ? 0 : NFS_PORT;

        return nfs_null(j->peer->address, port, v3 ? 3 : 4, PING_USEC) == 0;
}

static int mount_error(const MountJob *j, int r, Error *err)
{
        const NfsSource *s = j->source;
        const char *version = nfs_version_to_string(j->peer->version);
        ErrorCode code;

        if (r == -ENOSYS)
                return error_set(err, ERROR_NOT_SUPPORTED, r,
                                 "This node's kernel has no NFS client (module nfs)");
        if (j->refused)
                return error_set(err, ERROR_FORBIDDEN_OPTION, r,
                                 "This node's kernel does not take NFS mount option '%s': %s", j->refused,
                                 *j->words ? j->words : strerror(-r));
        /* so a mount with "soft" says that it has given up waiting; and so does a server that cannot read its disk */
        if (r == -EIO && !peer_answers(j))
                r = -ETIMEDOUT;
        switch (-r) {
        case ENOENT:
        case ENOTDIR:
                code = ERROR_EXPORT_NOT_FOUND;
                break;
        case EACCES:
        case EPERM:
                code = ERROR_EXPORT_DENIED;
                break;
        case EPROTONOSUPPORT:
                code = ERROR_VERSION_NOT_OFFERED;
                break;
        case ECONNREFUSED:
                code = ERROR_SERVER_REFUSED;
                break;
        case ETIMEDOUT:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case ECONNRESET:
                code = ERROR_SERVER_UNREACHABLE;
                break;
        default:
                code = ERROR_MOUNT_FAILED;
        }
        return error_set(err, code, r, "Cannot mount %s:%s (%s) with NFSv%s: %s%s%s%s", s->server, s->export,
                         j->peer->address, version, strerror(-r), *j->words ? " (" : "", j->words,
                         *j->words ? ")" : "");
}

int nfs_mount(Mounter *m, const NfsSource *s, const NfsPeer *peer, const char *path, dev_t *ret_device,
              uint64_t *ret_mount_id, Error *err)
{
        MountJob *j = calloc(1, sizeof(*j));
        struct statx sx;
        int result = 0;

        if (!j)
                return error_oom(err);
        *j = (MountJob){.source = s, .peer = peer, .mount_fd = -EBADF};
        int r = bounded_call(m, NFS_MOUNT_USEC, mount_run, j, &result);
        if (r == -ETIMEDOUT) /* the thread still has j */
                return error_set(err, ERROR_SERVER_UNREACHABLE, r,
                                 "Server %s (%s) does not answer the mount of %s", s->server, peer->address,
                                 s->export);
        if (r < 0)
                r = error_set(err, ERROR_INTERNAL, r, "Cannot start a thread: %s", strerror(-r));
        else if (result < 0)
                r = mount_error(j, result, err);
        _cleanup_close_ int fd = j->mount_fd;
        free(j);
        if (r < 0)
                return r;

        FAULT_POINT("nfs.before-move");
        if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &sx) < 0 ||
            sys_move_mount(fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH) < 0)
                return error_set(err, ERROR_MOUNT_FAILED, errno, "Cannot mount on %s: %m", path);
        FAULT_POINT("nfs.after-move");
        *ret_device = makedev(sx.stx_dev_major, sx.stx_dev_minor);
        r = mount_id_at(fd, "", ret_mount_id, NULL);
        return r < 0 ? error_set(err, ERROR_MOUNT_FAILED, r, "Cannot look at the mount on %s: %s", path,
                                 strerror(-r))
                     : 0;
}

/* ---- the mount table ---- */

void nfs_mount_done(NfsMount *m)
{
        free(m->source);
        free(m->target);
        *m = (NfsMount){};
}

/* The number that an option begins with: "3" and "4.2" of vers. */
static unsigned read_number(const char *options, const char *name, unsigned fallback)
{
        unsigned number;
        char text[16];
        char *value;
        size_t n;

        if (mnt_optstr_get_option(options, name, &value, &n) != 0 || n >= sizeof(text))
                return fallback;
        memcpy(text, value, n);
        text[n] = 0;
        text[strcspn(text, ".")] = 0;
        return parse_unsigned(text, &number) < 0 ? fallback : number;
}

static int mount_read(struct libmnt_fs *fs, NfsMount *ret)
{
        const char *options = str_or(mnt_fs_get_fs_options(fs), "");
        char *value;
        size_t n;

        *ret = (NfsMount){.target = strdup(mnt_fs_get_target(fs)),
                          .source = strdup(str_or(mnt_fs_get_source(fs), "")),
                          .device = mnt_fs_get_devno(fs),
                          .version = read_number(options, "vers", 4) == 3 ? 3 : 4};
        /* the kernel does not show the port that it takes by itself: NFSv4's own, or what rpcbind says */
        ret->port = read_number(options, "port", ret->version == 3 ? 0 : NFS_PORT);
        if (mnt_optstr_get_option(options, "addr", &value, &n) == 0 && n < sizeof(ret->address))
                memcpy(ret->address, value, n);
        if (ret->target && ret->source)
                return 0;
        nfs_mount_done(ret);
        return -ENOMEM;
}

static bool is_nfs(struct libmnt_fs *fs)
{
        const char *type = str_or(mnt_fs_get_fstype(fs), "");

        return mnt_fs_get_target(fs) && (strcmp(type, "nfs") == 0 || strcmp(type, "nfs4") == 0);
}

/* The table of this mount namespace, and an iterator of it, backwards. */
typedef struct MountTable {
        struct libmnt_table *table;
        struct libmnt_iter *iterator;
} MountTable;

static void table_done(MountTable *t)
{
        mnt_free_iter(t->iterator);
        mnt_unref_table(t->table);
}

static int table_read(MountTable *t)
{
        t->table = mnt_new_table();
        t->iterator = mnt_new_iter(MNT_ITER_BACKWARD);
        return t->table && t->iterator ? mnt_table_parse_file(t->table, "/proc/self/mountinfo") : -ENOMEM;
}

int nfs_mount_list(const char *directory, NfsMount **ret, size_t *ret_n)
{
        _cleanup_(table_done) MountTable t = {};
        size_t n = 0, k = strlen(directory);
        NfsMount *list = NULL;
        struct libmnt_fs *fs;
        int r = table_read(&t);

        while (r >= 0 && mnt_table_next_fs(t.table, t.iterator, &fs) == 0) {
                const char *target = mnt_fs_get_target(fs);

                if (!is_nfs(fs) || strncmp(target, directory, k) != 0 || target[k] != '/' || strchr(target + k + 1, '/'))
                        continue;
                NfsMount *grown = reallocarray(list, n + 1, sizeof(*grown));
                if (grown)
                        list = grown;
                r = grown ? mount_read(fs, &list[n]) : -ENOMEM;
                n += r >= 0;
        }
        if (r < 0) {
                for (size_t i = 0; i < n; i++)
                        nfs_mount_done(&list[i]);
                free(list);
                return r;
        }
        *ret = list;
        *ret_n = n;
        return 0;
}

int nfs_mount_find(const char *path, NfsMount *ret)
{
        _cleanup_(table_done) MountTable t = {};
        struct libmnt_fs *fs;
        int r = table_read(&t);

        if (r < 0)
                return r;
        while (mnt_table_next_fs(t.table, t.iterator, &fs) == 0)
                if (str_equal(mnt_fs_get_target(fs), path))
                        return is_nfs(fs) ? mount_read(fs, ret) : -ENOENT;
        return -ENOENT;
}

/* The root is shown as "/" for all; what tells them apart is the source, which goes on with the directory. */
int nfs_mount_list_directories(const char *path, char ***ret)
{
        _cleanup_(table_done) MountTable t = {};
        _cleanup_strv_ char **list = NULL;
        struct libmnt_fs *fs, *at = NULL;
        int r = table_read(&t);

        if (r < 0)
                return r;
        while (!at && mnt_table_next_fs(t.table, t.iterator, &fs) == 0)
                if (str_equal(mnt_fs_get_target(fs), path))
                        at = fs;
        mnt_reset_iter(t.iterator, MNT_ITER_FORWARD);
        while (r >= 0 && at && mnt_table_next_fs(t.table, t.iterator, &fs) == 0)
                if (mnt_fs_get_devno(fs) == mnt_fs_get_devno(at) && !str_equal(mnt_fs_get_source(fs), mnt_fs_get_source(at)) &&
                    mnt_fs_get_target(fs))
                        r = strv_append(&list, mnt_fs_get_target(fs));
        if (r >= 0)
                *ret = TAKE_PTR(list);
        return r < 0 ? r : 0;
}

bool nfs_superblock_exists(dev_t device)
{
        _cleanup_fclose_ FILE *f = fopen("/proc/fs/nfsfs/volumes", "re");
        _cleanup_free_ char *line = NULL;
        unsigned major_number, minor_number;
        size_t size = 0;

        /* NV SERVER PORT DEV FSID FSC */
        while (f && device != 0 && getline(&line, &size, f) > 0)
                if (sscanf(line, "%*s %*s %*s %u:%u", &major_number, &minor_number) == 2 &&
                    makedev(major_number, minor_number) == device)
                        return true;
        return false;
}
