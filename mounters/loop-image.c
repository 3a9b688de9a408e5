/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Images of the loop kind. Runs in the loop mounter; may block on the file system that holds the image.
 *
 * Invariants: an image is looked at by descriptor only, opened beneath a configured directory; it is a regular file
 * with one name. A new image has no name before it is formatted, remembered and on the disk.
 */

#include "mounters/loop-image.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <time.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "base/fault.h"
#include "base/fd.h"
#include "mounters/block/block.h"

#define CLAIM_WAIT_STEPS 50U /* 0.1 s */
#define CLAIM_WAIT_NSEC (2L * 1000 * 1000)
#define SIZE_ALIGNMENT UINT64_C(4096)
#define RESOLVE_IMAGE (RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)

void image_done(Image *i)
{
        close_fd(i->fd);
        *i = IMAGE_INIT;
}

/* --- options --- */

static int size_option(const char *value, uint64_t *ret, Error *err)
{
        uint64_t size;
        int r = parse_size(value, &size);

        if (r < 0 || size == 0 || size > INT64_MAX - SIZE_ALIGNMENT)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Option size='%s' is not a size such as 64M or 1G", value);
        *ret = (size + SIZE_ALIGNMENT - 1) / SIZE_ALIGNMENT * SIZE_ALIGNMENT;
        return 0;
}

static int allocation_option(const char *value, ImageAllocation *ret, Error *err)
{
        if (strcmp(value, "sparse") == 0)
                *ret = ALLOCATION_SPARSE;
        else if (strcmp(value, "reserved") == 0)
                *ret = ALLOCATION_RESERVED;
        else
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Option allocation='%s' is neither sparse nor reserved", value);
        return 0;
}

int image_options_read(const StrMap *source, ImageOptions *ret, Error *err)
{
        ImageOptions o = { .allocation = ALLOCATION_SPARSE };
        int r = 0;

        STRMAP_FOREACH (e, source) {
                if (strcmp(e->key, "path") == 0)
                        o.path = e->value;
                else if (strcmp(e->key, "size") == 0)
                        r = size_option(e->value, &o.size, err);
                else if (strcmp(e->key, "allocation") == 0)
                        r = allocation_option(e->value, &o.allocation, err);
                else
                        r = error_set(err, ERROR_UNKNOWN_OPTION, EINVAL, "Driver loop has no option '%s'",
                                      e->key);
                if (r < 0)
                        return r;
        }
        if (!o.path || !*o.path)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Driver loop needs option path");
        if (strlen(o.path) >= PATH_MAX)
                return error_set(err, ERROR_INVALID_ARGUMENT, ENAMETOOLONG, "Option path is too long");
        *ret = o;
        return 0;
}

/* --- reaching the file --- */

static const char *path_below(const char *path, const char *directory)
{
        size_t n = strlen(directory);

        while (n > 0 && directory[n - 1] == '/')
                n--;
        if (strncmp(path, directory, n) != 0 || path[n] != '/')
                return NULL;
        path += n;
        path += strspn(path, "/");
        return *path ? path : NULL;
}

/* Which of the configured directories a path belongs to, by its letters alone; openat2(2) sees to it that it stays there. */
static int path_split(const Mounter *m, const char *path, const char **ret_directory, const char **ret_relative,
                      Error *err)
{
        char *const *directories = m->settings.loop_directories;

        if (*path != '/' && directories && directories[0]) {
                *ret_directory = directories[0];
                *ret_relative = path;
                return 0;
        }
        STRV_FOREACH (d, directories) {
                const char *relative = path_below(path, *d);
                if (!relative)
                        continue;
                *ret_directory = *d;
                *ret_relative = relative;
                return 0;
        }
        return error_set(err, ERROR_IMAGE_FORBIDDEN, EPERM, "Image %s is not below a directory for images", path);
}

static int image_error(const char *path, int r, Error *err)
{
        switch (-r) {
        case ENOENT:
                return error_set(err, ERROR_IMAGE_NOT_FOUND, r, "Image %s does not exist", path);
        case ENOTDIR:
                return error_set(err, ERROR_IMAGE_NOT_FOUND, r,
                                 "Image %s: something on the way is not a directory", path);
        case EXDEV:
        case ELOOP:
                return error_set(err, ERROR_IMAGE_FORBIDDEN, r,
                                 "Image %s leads out of the directory for images", path);
        case ENAMETOOLONG:
                return error_set(err, ERROR_INVALID_ARGUMENT, r, "Image %s has too long a name", path);
        default:
                return error_set(err, ERROR_DEVICE_ERROR, r, "Cannot open image %s: %s", path, strerror(-r));
        }
}

/*
 * An absolute symbolic link counts as leaving for openat2(2), even one that comes back. So where it leads is asked for
 * first, and then that place is opened beneath the directory without following anything.
 */
static int open_through_link(int directory_fd, const char *relative, int flags)
{
        char root[PATH_MAX], end[PATH_MAX], self[40];
        _cleanup_close_ int fd = openat(directory_fd, relative, O_PATH | O_CLOEXEC);
        if (fd < 0)
                return -errno;

        snprintf(self, sizeof(self), "/proc/self/fd/%d", directory_fd);
        ssize_t n = readlink(self, root, sizeof(root) - 1);
        if (n < 0)
                return -errno;
        root[n] = 0;
        snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
        n = readlink(self, end, sizeof(end) - 1);
        if (n < 0)
                return -errno;
        end[n] = 0;

        const char *inside = path_below(end, root);
        if (!inside)
                return -EXDEV;
        return open_beneath(directory_fd, inside, (uint64_t) flags, RESOLVE_IMAGE | RESOLVE_NO_SYMLINKS);
}

static int open_in_directory(int directory_fd, const char *relative, int flags)
{
        int fd = open_beneath(directory_fd, relative, (uint64_t) flags, RESOLVE_IMAGE);

        return fd == -EXDEV && relative[0] != '/' ? open_through_link(directory_fd, relative, flags) : fd;
}

static int image_check(const char *path, Image *i, Error *err)
{
        struct stat st;

        if (fstat(i->fd, &st) < 0)
                return error_set(err, ERROR_DEVICE_ERROR, errno, "Cannot look at image %s: %m", path);
        if (!S_ISREG(st.st_mode))
                return error_set(err, ERROR_IMAGE_INVALID, EINVAL, "Image %s is not a regular file", path);
        if (st.st_nlink != 1)
                return error_set(err, ERROR_IMAGE_INVALID, EMLINK, "Image %s has %ju hard links", path,
                                 (uintmax_t) st.st_nlink);
        i->device = st.st_dev;
        i->inode = st.st_ino;
        i->size = (uint64_t) st.st_size;
        return 0;
}

int image_open(Mounter *m, const ImageOptions *o, Image *ret, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        _cleanup_close_ int directory_fd = -EBADF;
        const char *directory = NULL, *relative = NULL;
        int r = path_split(m, o->path, &directory, &relative, err);
        if (r < 0)
                return r;

        directory_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (directory_fd < 0)
                return image_error(o->path, -errno, err);
        image.fd = open_in_directory(directory_fd, relative, O_PATH);
        if (image.fd < 0)
                return image_error(o->path, image.fd, err);
        r = image_check(o->path, &image, err);
        if (r < 0)
                return r;
        *ret = image;
        image = IMAGE_INIT;
        return 0;
}

int image_reopen(Image *i, int flags, Error *err)
{
        char self[40];

        snprintf(self, sizeof(self), "/proc/self/fd/%d", i->fd);
        int fd = -EBADF;
        for (unsigned n = 0; n < CLAIM_WAIT_STEPS; n++) {
                fd = open(self, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
                if (fd >= 0 || errno != EWOULDBLOCK)
                        break;
                (void) nanosleep(&(struct timespec) { .tv_nsec = CLAIM_WAIT_NSEC }, NULL); /* claimed by another mounter */
        }
        if (fd < 0)
                return error_set(err, errno == EWOULDBLOCK ? ERROR_BUSY : ERROR_DEVICE_ERROR, errno,
                                 "Cannot open the image: %m");
        close_fd(i->fd);
        i->fd = fd;
        return 0;
}

int image_claim(const Image *i)
{
        return fcntl(i->fd, F_SETLEASE, F_WRLCK) < 0 ? -errno : 0;
}

void image_unclaim(const Image *i)
{
        (void) fcntl(i->fd, F_SETLEASE, F_UNLCK);
}

int image_open_volume(Mounter *m, const MounterVolume *v, int flags, Image *ret, Error *err)
{
        _cleanup_image_ Image image = IMAGE_INIT;
        ImageOptions o;
        dev_t device;
        uint64_t inode;

        if (!v->key || image_parse_key(v->key, &device, &inode) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "'%s' is not the key of a loop volume",
                                 str_or(v->key, ""));
        int r = image_options_read(&v->source, &o, err);
        if (r >= 0)
                r = image_open(m, &o, &image, err);
        if (r < 0)
                return r;
        if (image.device != device || image.inode != inode)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE,
                                 "Image %s has been exchanged for another file", o.path);
        r = image_reopen(&image, flags, err);
        if (r < 0)
                return r;
        *ret = image;
        image = IMAGE_INIT;
        return 0;
}

/* --- names --- */

char *image_identity(const Image *i)
{
        char *s = NULL;

        return asprintf(&s, "loop:%u:%u:%" PRIu64, major(i->device), minor(i->device), i->inode) < 0 ? NULL : s;
}

char *image_key(const Image *i)
{
        char *s = NULL;

        return asprintf(&s, "loop-%u-%u-%" PRIu64, major(i->device), minor(i->device), i->inode) < 0 ? NULL : s;
}

int image_parse_key(const char *key, dev_t *ret_device, uint64_t *ret_inode)
{
        unsigned maj, min;
        uint64_t inode;
        int end = 0;

        if (sscanf(key, "loop-%u-%u-%" SCNu64 "%n", &maj, &min, &inode, &end) != 3 || key[end] != 0)
                return -EINVAL;
        *ret_device = makedev(maj, min);
        *ret_inode = inode;
        return 0;
}

char *image_lasting_id(const Image *i)
{
        struct statx sx;
        char *s = NULL;
        int n;

        if (statx(i->fd, "", AT_EMPTY_PATH, STATX_INO | STATX_BTIME, &sx) < 0)
                return NULL;
        if (sx.stx_mask & STATX_BTIME)
                n = asprintf(&s, "loop-%" PRIu64 "-%lld.%09u", i->inode, (long long) sx.stx_btime.tv_sec,
                             sx.stx_btime.tv_nsec);
        else
                n = asprintf(&s, "loop-%" PRIu64 "-dev-%u-%u", i->inode, major(i->device), minor(i->device));
        return n < 0 ? NULL : s;
}

/* --- making one --- */

typedef struct NewImage {
        int directory_fd; /* where it will lie */
        char *name;
        char *path; /* for texts */
        bool at_top; /* directly in the configured directory */
} NewImage;

static void new_image_done(NewImage *n)
{
        close_fd(n->directory_fd);
        free(n->name);
        free(n->path);
}

/* Takes the directory of a missing image; make_root: the configured directory itself is made if missing. */
static int new_image_locate(Mounter *m, const ImageOptions *o, bool make_root, NewImage *n, Error *err)
{
        const char *directory = NULL, *relative = NULL;
        int r = path_split(m, o->path, &directory, &relative, err);
        if (r < 0)
                return r;

        const char *slash = strrchr(relative, '/'), *name = slash ? slash + 1 : relative;
        if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strlen(name) > NAME_MAX)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Option path='%s' does not end in a file name", o->path);
        if (make_root) {
                r = mkdir_parents(directory, 0700);
                if (r < 0)
                        return error_set(err, ERROR_NO_SPACE, r, "Cannot make the directory %s: %s", directory,
                                         strerror(-r));
        }
        n->at_top = !slash;
        n->name = strdup(name);
        n->path = strdup(o->path);
        _cleanup_free_ char *parent = slash ? strndup(relative, (size_t) (slash - relative)) : strdup(".");
        if (!n->name || !n->path || !parent)
                return error_oom(err);

        _cleanup_close_ int root_fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (root_fd < 0)
                return image_error(o->path, -errno, err);
        n->directory_fd = open_in_directory(root_fd, parent, O_RDONLY | O_DIRECTORY);
        if (n->directory_fd == -ENOENT)
                return error_set(err, ERROR_IMAGE_NOT_FOUND, ENOENT, "The directory of image %s does not exist",
                                 o->path);
        return n->directory_fd < 0 ? image_error(o->path, n->directory_fd, err) : 0;
}

static uint64_t hash_add(uint64_t hash, const void *data, size_t size)
{
        for (const unsigned char *p = data; size > 0; p++, size--)
                hash = (hash ^ *p) * UINT64_C(0x100000001b3); /* FNV-1a: a name, no defence */
        return hash;
}

int image_creation_key(Mounter *m, const ImageOptions *o, char **ret, Error *err)
{
        _cleanup_(new_image_done) NewImage n = { .directory_fd = -EBADF };
        uint64_t hash = UINT64_C(0xcbf29ce484222325);
        struct stat st = {};
        _cleanup_error_ Error e = ERROR_INIT;
        int r = new_image_locate(m, o, false, &n, &e);

        /* the configured directory itself is missing: then only a name directly in it can be made */
        if (r < 0 && !(e.code == ERROR_IMAGE_NOT_FOUND && n.at_top)) {
                error_move(err, &e);
                return r;
        }
        if (n.directory_fd >= 0) {
                if (fstat(n.directory_fd, &st) < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, errno,
                                         "Cannot look at the directory of %s: %m", o->path);
                if (fstatat(n.directory_fd, n.name, &(struct stat){}, AT_SYMLINK_NOFOLLOW) >= 0)
                        return error_set(err, ERROR_IMAGE_NOT_FOUND, ENOENT,
                                         "Image %s is a dangling symbolic link", o->path);
        }
        hash = hash_add(hash, &st.st_dev, sizeof(st.st_dev));
        hash = hash_add(hash, &st.st_ino, sizeof(st.st_ino));
        hash = hash_add(hash, n.name, strlen(n.name));
        return asprintf(ret, "loop-new-%016" PRIx64, hash) < 0 ? error_oom(err) : 0;
}

static int storage_error(const NewImage *n, const char *what, int r, Error *err)
{
        if (r == -ENOSPC || r == -EDQUOT)
                return error_set(err, ERROR_NO_SPACE, r, "The file system that is to hold image %s is full",
                                 n->path);
        if (r == -EFBIG)
                return error_set(err, ERROR_INVALID_ARGUMENT, r,
                                 "Image %s would be larger than its file system can hold", n->path);
        return error_set(err, ERROR_FORMAT_FAILED, r, "Cannot %s image %s: %s", what, n->path, strerror(-r));
}

/* A file without a name; where the file system has none such, one with a name that tells what it is. */
static int new_image_file(const NewImage *n, char *temporary, size_t size)
{
        int fd = openat(n->directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0) {
                *temporary = 0;
                return fd;
        }
        if (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL)
                return -errno;

        uint64_t hash = hash_add(UINT64_C(0xcbf29ce484222325), n->name, strlen(n->name));
        snprintf(temporary, size, ".berth-new-%016" PRIx64, hash);
        /* under the lock of the creation key, what lies there is of a crash */
        (void) unlinkat(n->directory_fd, temporary, 0);
        fd = openat(n->directory_fd, temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        return fd < 0 ? -errno : fd;
}

static int new_image_publish(const NewImage *n, int fd, const char *temporary)
{
        char self[40];
        int r = FAULT_ERROR("image.before-link");

        if (r < 0)
                return r;
        if (*temporary) {
                if (renameat2(n->directory_fd, temporary, n->directory_fd, n->name, RENAME_NOREPLACE) < 0)
                        return -errno;
        } else {
                snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
                if (linkat(AT_FDCWD, self, n->directory_fd, n->name, AT_SYMLINK_FOLLOW) < 0)
                        return -errno;
        }
        FAULT_POINT("image.after-link");
        return fsync(n->directory_fd) < 0 ? -errno : 0;
}

/* Size, file system, memory; everything durable before the file gets its name. */
static int new_image_fill(Mounter *m, const ImageOptions *o, const char *fs_type, const NewImage *n,
                          const Image *i, Error *err)
{
        _cleanup_free_ char *identity = image_identity(i), *lasting_id = image_lasting_id(i);
        char path[40], uuid[37];

        if (!identity || !lasting_id)
                return error_oom(err);
        if (ftruncate(i->fd, (off_t) o->size) < 0)
                return storage_error(n, "make", -errno, err);
        FAULT_POINT("image.after-truncate");
        if (o->allocation == ALLOCATION_RESERVED && fallocate(i->fd, 0, 0, (off_t) o->size) < 0)
                return storage_error(n, "reserve the space of", -errno, err);

        block_new_uuid(uuid);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", i->fd);
        int r = block_mkfs(m, path, i->fd, fs_type, uuid, false, err);
        if (r < 0)
                return r;
        if (fsync(i->fd) < 0)
                return storage_error(n, "write", -errno, err);
        FAULT_POINT("image.after-sync");
        return block_remember(m, &(BlockStorage) { .lasting_id = lasting_id }, identity, fs_type, uuid, o->size, err);
}

/* Nobody will ever ask for a file that never got a name. */
static void new_image_forget(Mounter *m, const Image *i)
{
        _cleanup_free_ char *lasting_id = image_lasting_id(i);

        if (lasting_id)
                (void) block_forget(m, &(BlockStorage) { .lasting_id = lasting_id }, NULL);
}

/* mkfs reports a full file system below as it likes; the file system itself is asked. */
static void explain_full(const NewImage *n, Error *err)
{
        struct statvfs st;

        if (!err || err->code != ERROR_FORMAT_FAILED || fstatvfs(n->directory_fd, &st) < 0 ||
            st.f_bavail * st.f_frsize >= UINT64_C(1024) * 1024)
                return;
        _cleanup_free_ char *text = TAKE_PTR(err->text);
        error_set(err, ERROR_NO_SPACE, ENOSPC, "The file system that is to hold image %s is full: %s", n->path,
                  str_or(text, ""));
}

int image_create(Mounter *m, const ImageOptions *o, const char *fs_type, Error *err)
{
        _cleanup_(new_image_done) NewImage n = { .directory_fd = -EBADF };
        _cleanup_image_ Image image = IMAGE_INIT;
        char temporary[64];
        struct stat st;
        const char *type = block_fs_type(fs_type, err);
        if (!type)
                return error_errno(err);

        if (o->size < block_minimum_size(type))
                return error_set(err, ERROR_TOO_SMALL, EINVAL,
                                 "%" PRIu64 " bytes are too small for %s, which needs %" PRIu64, o->size, type,
                                 block_minimum_size(type));
        int r = new_image_locate(m, o, true, &n, err);
        if (r < 0)
                return r;

        image.fd = new_image_file(&n, temporary, sizeof(temporary));
        if (image.fd < 0)
                return storage_error(&n, "make", image.fd, err);
        FAULT_POINT("image.made");
        if (fstat(image.fd, &st) < 0)
                return storage_error(&n, "make", -errno, err);
        image.device = st.st_dev;
        image.inode = st.st_ino;

        r = new_image_fill(m, o, type, &n, &image, err);
        if (r < 0)
                explain_full(&n, err);
        else {
                r = new_image_publish(&n, image.fd, temporary);
                if (r >= 0)
                        return 0;
                new_image_forget(m, &image);
                if (r != -EEXIST) /* somebody else was faster: theirs it is */
                        storage_error(&n, "name", r, err);
        }
        if (*temporary)
                (void) unlinkat(n.directory_fd, temporary, 0);
        return r == -EEXIST && !error_is_set(err) ? 0 : r;
}

int image_grow(Image *i, const ImageOptions *o, uint64_t size, Error *err)
{
        uint64_t aligned = (size + SIZE_ALIGNMENT - 1) / SIZE_ALIGNMENT * SIZE_ALIGNMENT;

        FAULT_POINT("image.before-grow");
        int r = o->allocation == ALLOCATION_RESERVED ? fallocate(i->fd, 0, 0, (off_t) aligned) :
                                                       ftruncate(i->fd, (off_t) aligned);

        FAULT_POINT("image.after-grow");
        if (r >= 0)
                r = fsync(i->fd);
        if (r < 0)
                return error_set(err, errno == ENOSPC || errno == EDQUOT ? ERROR_NO_SPACE : ERROR_GROW_FAILED,
                                 errno, "Cannot grow image %s to %" PRIu64 " bytes: %m", o->path, aligned);
        i->size = aligned;
        return 0;
}

char *image_shortage(const Image *i)
{
        struct statvfs fs;
        struct stat st;
        char *text = NULL;

        if (fstatvfs(i->fd, &fs) < 0 || fstat(i->fd, &st) < 0)
                return NULL;
        uint64_t free_bytes = (uint64_t) fs.f_bavail * fs.f_frsize, allocated = (uint64_t) st.st_blocks * 512;
        if (allocated >= (uint64_t) st.st_size || (uint64_t) st.st_size - allocated <= free_bytes)
                return NULL;
        return asprintf(&text,
                        "the file system that holds the image has %" PRIu64
                        " bytes free, but the sparse image may still take %" PRIu64,
                        free_bytes, (uint64_t) st.st_size - allocated) < 0
                               ? NULL
                               : text;
}
