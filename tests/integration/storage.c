/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See the header; and the driver loop. Runs in test processes. */

#include <criterion/criterion.h>

#include "storage.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "fixture/internal.h"

#define PIECE 1048576U /* each is an opening of the image */

const Storage *storage_begin(Fixture *f)
{
        const char *driver = getenv("BERTH_TEST_DRIVER");
        const Storage *s = &storage_loop;

#ifdef BERTH_TEST_RBD
        const char *mounter = getenv("BERTH_TEST_RBD_MOUNTER");

        if (driver && strcmp(driver, "rbd") == 0)
                s = mounter && strcmp(mounter, "nbd") == 0 ? &storage_nbd : &storage_rbd;
#endif
#ifdef BERTH_TEST_NFS
        if (driver && strcmp(driver, "nfs") == 0)
                s = &storage_nfs;
#endif
        cr_assert(!driver || strcmp(driver, s->driver) == 0, "this build has no driver %s", driver);
        s->begin(f);
        return s;
}

/* mkfs' work is done on a file: of its pieces only those with something in them are written, so the image is as sparse. */
char *storage_make_formatted(const Storage *s, Fixture *f, const char *name, uint64_t size, const char *fs_type, char *const *options)
{
        _cleanup_free_ char *file = format("%s/mkfs", f->dir), *mkfs = format("mkfs.%s", fs_type), *piece = malloc(PIECE);
        char *image = s->make(f, name, size), *argv[16] = { mkfs, "-q", strncmp(fs_type, "ext", 3) == 0 ? "-F" : "-f" };
        static const char zeros[PIECE];
        size_t n = 3;

        for (char *const *o = options; o && *o; o++)
                argv[n++] = *o;
        argv[n] = file;
        _cleanup_close_ int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && piece && ftruncate(fd, (off_t) size) >= 0, "cannot make %s: %s", file, strerror(errno));
        cr_assert_eq(run(argv, NULL, NULL), 0, "%s failed", mkfs);
        for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0; at += PIECE) {
                at -= at % PIECE;
                ssize_t got = pread(fd, piece, PIECE, at);
                cr_assert(got >= 0, "cannot read %s: %s", file, strerror(errno));
                if (memcmp(piece, zeros, (size_t) got) != 0)
                        s->write(image, (uint64_t) at, piece, (size_t) got);
        }
        cr_assert(unlink(file) >= 0);
        return image;
}

static void leftover_device(const char *device, const char *image, void *arg)
{
        char **what = arg;

        if (!*what)
                *what = format("device %s showing %s", device, image);
}

bool storage_all_clean(const Storage *s, Fixture *f, char **ret_what)
{
        char *what = NULL;

        if (!fixture_is_clean(f, ret_what))
                return false;
        s->devices(f, leftover_device, &what);
        if (!what)
                what = s->stray(f);
        if (ret_what)
                *ret_what = what;
        else
                free(what);
        return !what;
}

void storage_start(const Storage *s, Fixture *f, const char *config)
{
        _cleanup_free_ char *own = s->config(f), *all = format("%s%s", config, own);

        fixture_start(f, all);
}

/* ---- loop ---- */

static char *loop_config(Fixture *f)
{
        return strdup("");
}

static void loop_begin(Fixture *f)
{
}

static char *loop_name(Fixture *f, const char *name)
{
        return format("%s/%s", f->image_dir, name);
}

static void loop_remove(const char *image)
{
        cr_assert(unlink(image) >= 0 || errno == ENOENT, "%s: %s", image, strerror(errno));
}

static uint64_t loop_size(const char *image)
{
        struct stat st;

        cr_assert(stat(image, &st) >= 0, "%s: %s", image, strerror(errno));
        return (uint64_t) st.st_size;
}

static void loop_write(const char *image, uint64_t offset, const void *data, size_t size)
{
        _cleanup_close_ int fd = open(image, O_WRONLY | O_CLOEXEC);

        cr_assert(fd >= 0 && pwrite(fd, data, size, (off_t) offset) == (ssize_t) size && fsync(fd) >= 0, "cannot write %s: %s", image,
                  strerror(errno));
}

static bool loop_read(const char *image, uint64_t offset, void *data, size_t size)
{
        _cleanup_close_ int fd = open(image, O_RDONLY | O_CLOEXEC);

        return fd >= 0 && pread(fd, data, size, (off_t) offset) == (ssize_t) size;
}

typedef struct Devices {
        void (*found)(const char *device, const char *image, void *arg);
        void *arg;
} Devices;

static void loop_found(const char *name, const char *file, void *arg)
{
        const Devices *d = arg;
        _cleanup_free_ char *path = strndup(file, strcspn(file, "\n"));

        d->found(name, path, d->arg);
}

static void loop_devices(Fixture *f, void (*found)(const char *device, const char *image, void *arg), void *arg)
{
        loops_foreach(f->dir, loop_found, &(Devices) { found, arg });
}

/* The inode of its directory in sysfs is new with each binding. */
static ino_t loop_binding(const char *device, const char *image)
{
        _cleanup_free_ char *dir = format("/sys/block/%s/loop", device), *path = format("%s/backing_file", dir), *file = NULL;
        struct stat st;

        if (read_file_at(AT_FDCWD, path, 65536, &file, NULL) < 0 || strncmp(file, image, strlen(image)) != 0 || stat(dir, &st) < 0)
                return 0;
        return st.st_ino;
}

static char *loop_stray(Fixture *f)
{
        return NULL;
}

const Storage storage_loop = {
        .driver = "loop",
        .points = "loop",
        .grown = "xfs",
        .makes_images = true,
        .drops_used = true,
        .config = loop_config,
        .begin = loop_begin,
        .make = fixture_image,
        .name = loop_name,
        .remove = loop_remove,
        .size = loop_size,
        .write = loop_write,
        .read = loop_read,
        .params = loop_params,
        .source_key = "path",
        .devices = loop_devices,
        .binding = loop_binding,
        .stray = loop_stray,
};
