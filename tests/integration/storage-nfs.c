/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The driver nfs for suites that run over any driver, see storage.h: directories of an export of this machine's own server, each the subDir
 * of a pod; and the superblocks of the kernel's client. Runs in test processes.
 */

#include <criterion/criterion.h>

#include "storage.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "fixture/internal.h"

#define SUPERBLOCKS "/proc/fs/nfsfs/volumes"

static const char *server, *export;

static void nfs_begin(Fixture *f)
{
        _cleanup_free_ char *program = executable_path(f, "mounter-nfs"), *link = format("%s/mounters/mounter-nfs", f->dir);

        server = getenv("BERTH_TEST_NFS_SERVER");
        export = getenv("BERTH_TEST_NFS_EXPORT");
        cr_assert(server && export, "BERTH_TEST_NFS_SERVER and _EXPORT are not set");
        (void) RUN("modprobe", "nfs");
        if (access(SUPERBLOCKS, F_OK) < 0)
                cr_skip("the kernel has no NFS client");
        cr_assert(symlink(program, link) >= 0, "%s: %s", link, strerror(errno));
}

static char *nfs_config(Fixture *f)
{
        return strdup("");
}

static char *nfs_name(Fixture *f, const char *name)
{
        return format("test-%d-%s", getpid(), name);
}

static char *nfs_make(Fixture *f, const char *name, uint64_t size)
{
        char *image = nfs_name(f, name);
        _cleanup_free_ char *path = format("%s/%s", export, image);

        cr_assert(mkdir(path, 0755) >= 0, "%s: %s", path, strerror(errno));
        return image;
}

static void nfs_remove(const char *image)
{
        _cleanup_free_ char *path = format("%s/%s", export, image);

        cr_assert(remove_tree(path) >= 0 && access(path, F_OK) < 0, "cannot remove %s", path);
}

static void nfs_renew(const char *image)
{
        _cleanup_free_ char *path = format("%s/%s", export, image), *next = format("%s/next-%s", export, image),
                            *former = format("%s/former-%s", export, image);

        cr_assert_eq(RUN("cp", "-a", path, next), 0);
        cr_assert(rename(path, former) >= 0 && rename(next, path) >= 0, "%s: %s", path, strerror(errno));
        cr_assert(remove_tree(former) >= 0, "cannot remove %s", former);
}

static MountParams nfs_params(const char *target, const char *image, const char *fs_type, bool read_only)
{
        const char *const options[][2] = { { "server", server }, { "path", export }, { "subDir", image }, { "createSubDir", "true" } };
        MountParams p = MOUNT_PARAMS_INIT;

        p.target = strdup(target);
        p.driver = strdup("nfs");
        p.fs_type = fs_type ? strdup(fs_type) : NULL;
        p.read_only = read_only;
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                if (strmap_set(&p.source, options[i][0], options[i][1]) < 0)
                        abort();
        return p;
}

/* Lines of NV SERVER PORT DEV FSID FSC. The kernel does not tell of which export; nobody else in the guest mounts any. */
static void nfs_devices(Fixture *f, void (*found)(const char *device, const char *image, void *arg), void *arg)
{
        _cleanup_free_ char *lines = read_text(SUPERBLOCKS);
        char *save = NULL, number[32];

        for (char *line = strtok_r(lines, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
                if (sscanf(line, "v%*s %*s %*s %31s", number) == 1)
                        found(number, export, arg);
}

/* A directory that was begun has its name at last, or is gone. */
static char *nfs_stray(Fixture *f)
{
        DIR *d = opendir(export);
        char *what = NULL;

        cr_assert(d, "%s: %s", export, strerror(errno));
        for (struct dirent *e = readdir(d); e && !what; e = readdir(d))
                if (strncmp(e->d_name, ".berth-", 7) == 0)
                        what = format("%s/%s", export, e->d_name);
        closedir(d);
        return what;
}

const Storage storage_nfs = {
        .driver = "nfs",
        .points = "nfs",
        .is_share = true,
        .makes_images = true,
        .config = nfs_config,
        .begin = nfs_begin,
        .make = nfs_make,
        .name = nfs_name,
        .remove = nfs_remove,
        .params = nfs_params,
        .source_key = "subDir",
        .devices = nfs_devices,
        .stray = nfs_stray,
        .renew = nfs_renew,
};
