/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The driver rbd for suites that run over any driver, see storage.h: images by librbd, maps by sysfs, the kernel's or those of rbd-nbd. Runs in test
 * processes; each has a connection of its own, made when first needed, since none outlives a fork.
 */

#include <criterion/criterion.h>

#include "storage.h"

#include <fcntl.h>
#include <jansson.h>
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "fixture/internal.h"
#include "mounters/fs/mount-api.h"
#include "mounters/nbd-device.h"

#define POOL "kube"
#define DEVICES "/sys/bus/rbd/devices"
#define IMAGES_MAX 1024U
#define FEATURES (RBD_FEATURE_LAYERING | RBD_FEATURE_EXCLUSIVE_LOCK | RBD_FEATURE_OBJECT_MAP | RBD_FEATURE_FAST_DIFF)
#define REMOVE_SECONDS 30.0
#define LOOKED_AT_MAX 64U

static struct {
        Fixture *f;
        const char *monitor, *user, *key;
        char prefix[32]; /* of the test's images */
        pid_t test;      /* the process that Criterion listens to */
        pid_t pid;       /* whose connection it is */
        rados_t rados;
        rados_ioctx_t io;
        struct {
                char *name;
                rbd_image_t image;
        } looked_at[LOOKED_AT_MAX]; /* by the test, see look_at() */
} lab;

/* A client that a test has forked is not listened to: it says it by its end. */
#define lab_assert(condition, ...)                                                                           \
        do {                                                                                                 \
                if (condition)                                                                               \
                        break;                                                                               \
                fprintf(stderr, "%s, line %d: %s; ", __func__, __LINE__, #condition);                        \
                fprintf(stderr, __VA_ARGS__);                                                             \
                fputc('\n', stderr);                                                                         \
                if (getpid() != lab.test)                                                                    \
                        _exit(EXIT_FAILURE);                                                                 \
                cr_assert(false, __VA_ARGS__);                                                            \
        } while (0)

static rados_ioctx_t pool(void)
{
        const char *const options[][2] = { { "mon_host", lab.monitor }, { "key", lab.key },
                                           { "keyring", "/dev/null" },  { "rados_osd_op_timeout", "60" } };
        _cleanup_free_ char *name = format("client.%s", lab.user);

        if (lab.pid == getpid())
                return lab.io;
        lab_assert(rados_create2(&lab.rados, "ceph", name, 0) >= 0, "librados");
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                lab_assert(rados_conf_set(lab.rados, options[i][0], options[i][1]) >= 0, "%s", options[i][0]);
        int r = rados_connect(lab.rados);
        lab_assert(r >= 0, "cannot connect to %s: %s", lab.monitor, strerror(-r));
        r = rados_ioctx_create(lab.rados, POOL, &lab.io);
        lab_assert(r >= 0, "no pool " POOL ": %s", strerror(-r));
        lab.pid = getpid();
        return lab.io;
}

static void link_program(Fixture *f, const char *name)
{
        _cleanup_free_ char *program = executable_path(f, name), *link = format("%s/mounters/%s", f->dir, name);

        lab_assert(symlink(program, link) >= 0, "%s: %s", link, strerror(errno));
}

static void rbd_begin(Fixture *f)
{
        _cleanup_free_ char *dir = format("%s/ceph", f->dir);

        lab.f = f;
        lab.test = getpid();
        lab.monitor = getenv("BERTH_TEST_RBD_MONITOR");
        lab.user = getenv("BERTH_TEST_RBD_USER");
        lab.key = getenv("BERTH_TEST_RBD_KEY");
        lab_assert(lab.monitor && lab.user && lab.key, "BERTH_TEST_RBD_MONITOR, _USER and _KEY are not set");
        (void) RUN("modprobe", "rbd");
        if (access("/sys/bus/rbd", F_OK) < 0)
                cr_skip("the kernel has no RBD client");
        snprintf(lab.prefix, sizeof(lab.prefix), "test-%d-", getpid());
        link_program(f, "mounter-rbd");
        /* and no other kind is needed */
        _cleanup_free_ char *loop = format("%s/mounters/mounter-loop", f->dir);
        lab_assert(unlink(loop) >= 0, "%s: %s", loop, strerror(errno));
        /* growing brings no key */
        _cleanup_free_ char *keyring = format("%s/ceph.client.%s.keyring", dir, lab.user),
                            *text = format("[client.%s]\nkey = %s\n", lab.user, lab.key);
        lab_assert(mkdir(dir, 0700) >= 0, "%s: %s", dir, strerror(errno));
        write_text(keyring, text);
        lab_assert(chmod(keyring, 0600) >= 0, "%s: %s", keyring, strerror(errno));
}

static char *rbd_config(Fixture *f)
{
        /*
         * The kernel asks after its watches every 5 s by default, about as long as the lab waits for dead ones. Nobody is silent here, and a busy emulated
         * machine takes seconds to connect. No mounter is kept in reserve: starting one takes a second of its processor.
         */
        return format("[RBD]\nKeyringDirectories=%s/ceph\nMapOptions=osdkeepalive=2\nFence=expired\nConnectTimeoutSec=30\nOsdRequestTimeoutSec=40\n"
                      "[Mounters]\nWarm=0\n", f->dir);
}

static char *rbd_name(Fixture *f, const char *name)
{
        return format("%s%s", lab.prefix, name);
}

static char *rbd_make(Fixture *f, const char *name, uint64_t size)
{
        char *image = rbd_name(f, name);
        int order = 0, r = rbd_create2(pool(), image, size, FEATURES, &order);

        lab_assert(r >= 0, "cannot make image %s: %s", image, strerror(-r));
        return image;
}

static void look_away(size_t i)
{
        rbd_close(lab.looked_at[i].image);
        free(TAKE_PTR(lab.looked_at[i].name));
}

/* Whoever still has it open holds it up: nobody should, but a client that died is listed for a while. */
static void rbd_drop(const char *image)
{
        static const struct timespec pause = { .tv_nsec = 100000000 };
        double end = now_seconds() + REMOVE_SECONDS;
        int r;

        for (size_t i = 0; getpid() == lab.test && i < LOOKED_AT_MAX; i++)
                if (lab.looked_at[i].name && strcmp(lab.looked_at[i].name, image) == 0)
                        look_away(i);
        while ((r = rbd_remove(pool(), image)) == -EBUSY && now_seconds() < end)
                nanosleep(&pause, NULL);
        lab_assert(r >= 0 || r == -ENOENT, "cannot remove image %s: %s", image, strerror(-r));
}

static rbd_image_t image_open(const char *image)
{
        rbd_image_t i = NULL;
        int r = rbd_open_read_only(pool(), image, &i, NULL);

        lab_assert(r >= 0, "cannot open image %s: %s", image, strerror(-r));
        return i;
}

static uint64_t rbd_size(const char *image)
{
        rbd_image_t i = image_open(image);
        uint64_t size = 0;

        lab_assert(rbd_get_size(i, &size) >= 0, "no size of image %s", image);
        rbd_close(i);
        return size;
}

static void rbd_put(const char *image, uint64_t offset, const void *data, size_t size)
{
        rbd_image_t i = NULL;
        int r = rbd_open(pool(), image, &i, NULL);

        lab_assert(r >= 0, "cannot open image %s: %s", image, strerror(-r));
        lab_assert(rbd_write(i, offset, size, data) == (ssize_t) size, "cannot write image %s", image);
        lab_assert(rbd_flush(i) >= 0 && rbd_close(i) >= 0, "cannot write image %s", image);
}

/* The image's name that the device shows; NULL if it is gone. */
static char *device_image(const char *number)
{
        _cleanup_free_ char *path = format(DEVICES "/%s/name", number);
        char *name = NULL;

        if (read_file_at(AT_FDCWD, path, 4096, &name, NULL) < 0)
                return NULL;
        name[strcspn(name, "\n")] = 0;
        return name;
}

static void rbd_devices(Fixture *f, void (*found)(const char *device, const char *image, void *arg), void *arg)
{
        _cleanup_closedir_ DIR *d = opendir(DEVICES);

        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
                _cleanup_free_ char *image = e->d_name[0] == '.' ? NULL : device_image(e->d_name), *device = format("rbd%s", e->d_name);
                if (image && strncmp(image, lab.prefix, strlen(lab.prefix)) == 0)
                        found(device, image, arg);
        }
}

typedef struct Visit {
        Fixture *f;
        void (*found)(const char *device, const char *image, void *arg);
        void *arg;
} Visit;

/* The name is in the files of the map; one that has lost them is somebody's all the same. */
static int nbd_visit(const NbdDevice *d, void *userdata)
{
        const Visit *v = userdata;
        const char *key = d->cookie + strlen(NBD_COOKIE_PREFIX);
        _cleanup_free_ char *path = format("%s/nbd/%s/image", v->f->runtime_dir, key), *device = format("nbd%u", d->number);

        if (strncmp(d->cookie, NBD_COOKIE_PREFIX, strlen(NBD_COOKIE_PREFIX)) != 0)
                return 0;
        _cleanup_json_ json_t *j = json_load_file(path, 0, NULL);
        const char *image = json_string_value(json_object_get(j, "image"));
        v->found(device, image ? image : key, v->arg);
        return 0;
}

static void nbd_devices(Fixture *f, void (*found)(const char *device, const char *image, void *arg), void *arg)
{
        Visit v = { f, found, arg };
        int r = nbd_device_each(NBD_SYSFS, nbd_visit, &v);

        lab_assert(r >= 0, "cannot list the network block devices: %s", strerror(-r));
}

static void all_devices(void (*found)(const char *device, const char *image, void *arg), void *arg)
{
        rbd_devices(lab.f, found, arg);
        nbd_devices(lab.f, found, arg);
}

typedef struct Wanted {
        const char *image;
        char device[32];
        size_t n;
} Wanted;

static void compare(const char *device, const char *image, void *arg)
{
        Wanted *w = arg;

        if (strcmp(image, w->image) == 0)
                snprintf(w->device, sizeof(w->device), "/dev/%.16s", device);
}

/* Through the device's cache, which is where a mounted file system has its superblock. */
static bool rbd_get(const char *image, uint64_t offset, void *data, size_t size)
{
        Wanted w = { .image = image };

        all_devices(compare, &w);
        _cleanup_close_ int fd = *w.device ? open(w.device, O_RDONLY | O_CLOEXEC) : -EBADF;
        return fd >= 0 && pread(fd, data, size, (off_t) offset) == (ssize_t) size;
}

static MountParams rbd_params(const char *target, const char *image, const char *fs_type, bool read_only)
{
        const char *const options[][2] = { { "monitors", lab.monitor }, { "pool", POOL }, { "user", lab.user }, { "image", image } };
        MountParams p = MOUNT_PARAMS_INIT;

        p.target = strdup(target);
        p.driver = strdup("rbd");
        p.fs_type = fs_type ? strdup(fs_type) : NULL;
        p.read_only = read_only;
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                if (strmap_set(&p.source, options[i][0], options[i][1]) < 0)
                        abort();
        if (strmap_set(&p.secrets, "key", lab.key) < 0)
                abort();
        return p;
}

/* The inode of its directory in sysfs. */
static ino_t rbd_binding(const char *device, const char *image)
{
        const char *number = device + strlen("rbd");
        _cleanup_free_ char *dir = format(DEVICES "/%s/", number), *name = device_image(number);
        struct stat st;

        return name && strcmp(name, image) == 0 && stat(dir, &st) >= 0 ? st.st_ino : 0;
}

/* The inode of what is in its directory while it is connected. */
static ino_t nbd_binding(const char *device, const char *image)
{
        _cleanup_free_ char *path = format(NBD_SYSFS "/%s/pid", device);
        Wanted w = { .image = image };
        struct stat st;

        nbd_devices(lab.f, compare, &w);
        return strcmp(w.device + strlen("/dev/"), device) == 0 && stat(path, &st) >= 0 ? st.st_ino : 0;
}

static void count_device(const char *device, const char *image, void *arg)
{
        Wanted *w = arg;

        w->n += strcmp(image, w->image) == 0;
}

/* Opened for reading only, it tells who watches it now, as often as it is asked; opening is what takes long. */
static rbd_image_t look_at(const char *image)
{
        static size_t next;
        size_t i;

        lab_assert(getpid() == lab.test, "only the test looks for what is left");
        for (i = 0; i < LOOKED_AT_MAX; i++)
                if (lab.looked_at[i].name && strcmp(lab.looked_at[i].name, image) == 0)
                        return lab.looked_at[i].image;
        i = next++ % LOOKED_AT_MAX;
        if (lab.looked_at[i].name)
                look_away(i);
        lab.looked_at[i].image = image_open(image);
        lab.looked_at[i].name = strdup(image);
        return lab.looked_at[i].image;
}

/* Each map for writing watches its image, and nobody else does. */
static char *stray_watcher(const char *image)
{
        rbd_image_watcher_t watchers[8];
        size_t n = ELEMENTSOF(watchers);
        rbd_image_t i = look_at(image);
        Wanted w = { .image = image };
        char *what = NULL;

        int r = rbd_watchers_list(i, watchers, &n);
        lab_assert(r >= 0, "cannot list the watchers of %s: %s", image, strerror(-r));
        all_devices(count_device, &w);
        if (n != w.n)
                what = format("%zu watchers (%s …) of %s, which has %zu maps", n, n > 0 ? watchers[0].addr : "", image, w.n);
        rbd_watchers_list_cleanup(watchers, n);
        return what;
}

/* A mounter that outlived its agent is ours to bury, and until then a dead process has its keyring, with a key in it. */
static void bury(pid_t pid, void *arg)
{
        pid_t parent, session;
        char name[64], state;

        if (process_stat(pid, &parent, &session, &state, name) && state == 'Z' && parent == getpid() && strncmp(name, "mounter-", 8) == 0)
                (void) waitpid(pid, NULL, WNOHANG);
}

static char *stray_key(void)
{
        _cleanup_free_ char *keys = read_text("/proc/keys");
        const char *key = strstr(keys, " ceph ");

        if (key)
                processes_foreach(bury, NULL);
        return key ? format("a key, %.*s", (int) strcspn(key + 1, "\n"), key + 1) : NULL;
}

static char *rbd_stray(Fixture *f)
{
        _cleanup_free_ rbd_image_spec_t *images = calloc(IMAGES_MAX, sizeof(*images));
        size_t n = IMAGES_MAX;
        char *what = stray_key();
        int r = rbd_list2(pool(), images, &n);

        lab_assert(r >= 0, "cannot list the images: %s", strerror(-r));
        for (size_t i = 0; !what && i < n; i++)
                if (strncmp(images[i].name, lab.prefix, strlen(lab.prefix)) == 0)
                        what = stray_watcher(images[i].name);
        rbd_image_spec_list_cleanup(images, n);
        return what;
}

/* ---- by rbd-nbd ---- */

/*
 * systemd starts it, in whose namespace the test's mounts are not seen. So the runtime directory's tmpfs, where it finds its arguments, is shown there,
 * too; that mount goes when the directory is removed.
 */
static void show_runtime_dir(Fixture *f)
{
        int status = 0, tree = sys_open_tree(AT_FDCWD, f->runtime_dir, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        pid_t pid = fork();

        if (pid == 0) {
                int space = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
                _exit(tree >= 0 && space >= 0 && setns(space, CLONE_NEWNS) >= 0 &&
                                      sys_move_mount(tree, "", AT_FDCWD, f->runtime_dir, MOVE_MOUNT_F_EMPTY_PATH) >= 0
                              ? 0
                              : errno);
        }
        lab_assert(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "cannot show %s to systemd: %s", f->runtime_dir,
                   strerror(WEXITSTATUS(status)));
        close(tree);
}

static void nbd_begin(Fixture *f)
{
        rbd_begin(f);
        link_program(f, "rbd-nbd-run");
        show_runtime_dir(f);
        (void) RUN("modprobe", "nbd");
        lab_assert(RUN("rbd-nbd", "--version") == 0, "there is no rbd-nbd");
}

static MountParams nbd_params(const char *target, const char *image, const char *fs_type, bool read_only)
{
        MountParams p = rbd_params(target, image, fs_type, read_only);

        if (strmap_set(&p.source, "mounter", "nbd") < 0)
                abort();
        return p;
}

static void count_server(pid_t pid, void *arg)
{
        pid_t parent, session;
        char name[64], state;

        *(size_t *) arg += process_stat(pid, &parent, &session, &state, name) && strcmp(name, "rbd-nbd") == 0 && state != 'Z';
}

static void count_any(const char *device, const char *image, void *arg)
{
        ++*(size_t *) arg;
}

/* A process and a directory of files for each device, and no more. */
static char *nbd_stray(Fixture *f)
{
        size_t n_servers = 0, n_devices = 0, n_places = 0;
        _cleanup_free_ char *places = format("%s/nbd", f->runtime_dir);
        _cleanup_closedir_ DIR *d = opendir(places);

        processes_foreach(count_server, &n_servers);
        nbd_devices(f, count_any, &n_devices);
        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
                n_places += e->d_name[0] != '.';
        if (n_servers != n_devices || n_places != n_devices)
                return format("%zu rbd-nbd and %zu directories below %s for %zu devices", n_servers, n_places, places, n_devices);
        return rbd_stray(f);
}

/* clang-format off */
#define COMMON \
        .driver = "rbd", .grown = "ext4", .source_key = "image", .config = rbd_config, .make = rbd_make, .name = rbd_name, .remove = rbd_drop, \
        .size = rbd_size, .write = rbd_put, .read = rbd_get
/* clang-format on */

const Storage storage_rbd = {
        COMMON,
        .points = "rbd",
        .begin = rbd_begin,
        .params = rbd_params,
        .devices = rbd_devices,
        .binding = rbd_binding,
        .stray = rbd_stray,
};

const Storage storage_nbd = {
        COMMON,
        .points = "nbd",
        .own_points = true,
        .begin = nbd_begin,
        .params = nbd_params,
        .devices = nbd_devices,
        .binding = nbd_binding,
        .stray = nbd_stray,
};
