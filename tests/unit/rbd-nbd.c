/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What rbd-nbd is started with, and which of the node's network block devices are whose, by a sysfs made by hand. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "mounters/nbd-device.h"
#include "mounters/rbd-nbd.h"
#include "mounters/rbd-unit.h"

#define SECRET "AQAAAAAAAAAAABAAnAjmwmd0/MhCfKSRWyai9A=="
#define KEY "rbd-0123456789abcdef0123456789abcdef"
#define SPACE_IN_IMAGE "se t"

static char dir[64];
static Mounter m;
static RbdCluster cluster = { .fsid = "4fd2c0ae-0000-0000-0000-000000000000" };

static void put(const char *path, const char *text)
{
        char full[256];

        snprintf(full, sizeof(full), "%s/%s", dir, path);
        for (char *p = full + strlen(dir) + 1; (p = strchr(p, '/')); p++) {
                *p = 0;
                (void) mkdir(full, 0700);
                *p = '/';
        }
        FILE *f = fopen(full, "we");
        cr_assert_not_null(f, "%s: %m", full);
        fputs(text, f);
        fclose(f);
}

static void setup(void)
{
        snprintf(dir, sizeof(dir), "/tmp/unit-rbd-nbd.XXXXXX");
        cr_assert_not_null(mkdtemp(dir));
        cr_assert_eq(settings_defaults(&m.settings), 0);
        cr_assert_geq(str_replace(&m.settings.runtime_dir, dir), 0);
        m.runtime_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        cr_assert_geq(m.runtime_fd, 0);
}

static void teardown(void)
{
        char command[128];

        close(m.runtime_fd);
        settings_done(&m.settings);
        snprintf(command, sizeof(command), "rm -r %s", dir);
        cr_assert_eq(system(command), 0);
}

TestSuite(rbd_nbd, .init = setup, .fini = teardown);

static RbdMonitor monitors[] = { { .host = "10.0.0.1", .port = 3300 }, { .host = "mon-b" } };

static int place_make(RbdSource *source, bool read_only, Error *err)
{
        _cleanup_free_ char *spec = rbd_source_spec(source);
        RbdImage image = { .cluster = &cluster, .source = source, .spec = spec, .pool_id = 7, .id = "10e5b3" };
        const NbdPlacePlan p = { .image = &image, .volume_key = KEY, .program = "/usr/bin/rbd-nbd", .secret = SECRET, .read_only = read_only };

        return nbd_place_make(&m, &p, err);
}

static char *text_of(const char *name, size_t *ret_size)
{
        char path[256], *text = NULL;

        snprintf(path, sizeof(path), "%s/nbd/" KEY "/%s", dir, name);
        cr_assert_geq(read_file_at(AT_FDCWD, path, 65536, &text, ret_size), 0, "%s", path);
        return text;
}

/* Names are words of their own, whatever is in them, and the key is in one file. */
Test(rbd_nbd, place)
{
        char *options[] = { (char *) "osd_request_timeout=45", (char *) "read_from_replica=no", (char *) "queue_depth=7", NULL };
        RbdSource s = { .monitors = monitors, .n_monitors = 2, .pool = "kube", .space = "ns", .image = "$HOME%n\"" SPACE_IN_IMAGE,
                        .snapshot = "snap", .user = "kube", .map_options = options };
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        struct stat st;
        size_t size = 0;
        char path[256], *secret = NULL;

        cr_assert_geq(place_make(&s, true, &err), 0, "%s", err.text);
        _cleanup_free_ char *arguments = text_of("arguments", &size), *conf = text_of("conf", NULL), *image = text_of("image", NULL);
        _cleanup_strv_ char **words = NULL;
        for (char *p = arguments; p < arguments + size; p += strlen(p) + 1)
                strv_append(&words, p);
        size_t n = strv_length(words);
        cr_assert_str_eq(words[0], "/usr/bin/rbd-nbd");
        cr_assert_str_eq(words[n - 1], "kube/ns/$HOME%n\"" SPACE_IN_IMAGE "@snap");
        cr_assert_str_eq(words[n - 2], "--read-only");
        cr_assert(strv_contains(words, "client.kube") && strv_contains(words, "berth-" KEY) && strv_contains(words, "3600"));
        cr_assert(strstr(conf, "\nmon_host = 10.0.0.1:3300,mon-b\n") && strstr(conf, "\nkey = " SECRET "\n"), "%s", conf);
        cr_assert(strstr(conf, "\nrbd_cache = false\n"), "what was acknowledged has to survive");
        cr_assert(strstr(conf, "\nrados_osd_op_timeout = 45\n") && strstr(conf, "\nrbd_read_from_replica_policy = default\n"), "%s", conf);
        cr_assert(!strstr(image, SECRET) && !memmem(arguments, size, SECRET, strlen(SECRET)));

        snprintf(path, sizeof(path), "%s/nbd/" KEY "/conf", dir);
        cr_assert(stat(path, &st) >= 0 && (st.st_mode & 07777) == 0600);
        cr_assert_eq(nbd_place_secret(&m, KEY, &secret), 1);
        cr_assert_str_eq(secret, SECRET);
        rbd_secret_free(secret);
        cr_assert_geq(nbd_place_read(m.runtime_fd, KEY, &d), 0);
        cr_assert_str_eq(d.snapshot, "snap");
        cr_assert_str_eq(d.image_id, "10e5b3");
        cr_assert_eq(d.pool_id, 7);

        /* a leave can be taken once */
        cr_assert(nbd_place_forbid(&m, KEY));
        cr_assert_not(nbd_place_forbid(&m, KEY));
        put("nbd/" KEY "/.conf.tmp", SECRET);
        cr_assert_eq(nbd_place_erase(&m, KEY), 0);
        cr_assert_not(nbd_place_exists(&m, KEY));
        cr_assert_eq(nbd_place_erase(&m, KEY), 0, "again");
        cr_assert_eq(nbd_place_secret(&m, KEY, &secret), 0);
}

Test(rbd_nbd, modes_and_options)
{
        char buffer[1024];
        NbdConfig c = { .mon_host = "m", .secret = SECRET, .ms_mode = "prefer-secure", .compression_hint = "none", .n_monitors = 3 };

        cr_assert_eq(nbd_config_format(&c, buffer, sizeof(buffer)), 0);
        cr_assert(strstr(buffer, "\nms_client_mode = secure crc\n") && strstr(buffer, "\nrbd_compression_hint = none\n"), "%s", buffer);
        cr_assert(strstr(buffer, "\nmon_client_hunt_parallel = 3\n"));
        c.ms_mode = "legacy"; /* a matter of addresses */
        cr_assert_eq(nbd_config_format(&c, buffer, sizeof(buffer)), 0);
        cr_assert_not(strstr(buffer, "ms_client_mode"));
        cr_assert_eq(nbd_config_format(&c, buffer, 100), -EMSGSIZE);

        /* as the line for the kernel: no option that could be somebody else's */
        char *options[] = { (char *) "secret=x", NULL };
        RbdSource s = { .monitors = monitors, .n_monitors = 1, .pool = "p", .space = "", .image = "i", .user = "u", .map_options = options };
        _cleanup_error_ Error err = ERROR_INIT;
        cr_assert_lt(place_make(&s, false, &err), 0);
        cr_assert_eq(err.code, ERROR_FORBIDDEN_OPTION);
        cr_assert_eq(nbd_place_erase(&m, KEY), 0);
}

typedef struct Seen {
        unsigned n, n_own;
        RbdDevice own;
} Seen;

static int on_device(RbdDevice *d, void *userdata)
{
        Seen *seen = userdata;

        seen->n++;
        if (d->own) {
                seen->n_own++;
                rbd_device_done(&seen->own);
                seen->own = *d;
                *d = RBD_DEVICE_INIT;
        }
        return 0;
}

/* A cookie is anybody's text: only one that could be ours is, and only a connected device is one. */
Test(rbd_nbd, devices)
{
        RbdSource s = { .monitors = monitors, .n_monitors = 1, .pool = "kube", .space = "", .image = "web-0", .user = "u" };
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        Seen seen = {};

        put("block/nbd0/dev", "43:0\n"); /* not connected */
        put("block/nbd1/dev", "43:32\n");
        put("block/nbd1/pid", "999999999\n");
        put("block/nbd1/backend", "berth-../../etc\n");
        put("block/nbd2/dev", "43:64\n");
        put("block/nbd2/pid", "0\n");
        put("block/nbd2/ro", "1\n");
        put("block/nbd2/backend", "berth-" KEY "\n");
        put("block/nbd3x/pid", "1\n");
        put("block/sda/dev", "8:0\n");
        put("block/nbd4/dev", "43:128\n"); /* this very process is no rbd-nbd */
        put("block/nbd4/pid", "1\n");

        char block[128];
        snprintf(block, sizeof(block), "%s/block", dir);
        cr_assert_eq(rbd_nbd_each(block, m.runtime_fd, on_device, &seen), 0);
        cr_assert_eq(seen.n, 1U, "%u", seen.n);
        cr_assert_eq(seen.n_own, 1U);
        cr_assert_str_eq(seen.own.key, KEY);
        cr_assert_eq(seen.own.device_number, makedev(43, 64));
        cr_assert_str_eq(seen.own.image, "?", "its files are lost, and it is known all the same");
        cr_assert(seen.own.read_only);
        rbd_device_done(&seen.own);

        cr_assert_geq(place_make(&s, true, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_nbd_find(block, m.runtime_fd, KEY, &d), 1);
        cr_assert_str_eq(d.image, "web-0");
        cr_assert_str_eq(d.image_id, "10e5b3");
        cr_assert_eq(d.number, 2U);
        rbd_device_done(&d);
        cr_assert_eq(rbd_nbd_find(block, m.runtime_fd, "rbd-ffffffffffffffffffffffffffffffff", &d), 0);
        cr_assert_eq(rbd_nbd_each("/nowhere", m.runtime_fd, on_device, &seen), 0);
        cr_assert_eq(nbd_place_erase(&m, KEY), 0);
}

Test(rbd_nbd, unit_names)
{
        char name[UNIT_NAME_MAX];
        _cleanup_free_ char *mount = rbd_unit_of_mount("/run/berth/staging/" KEY);

        rbd_unit_name(KEY, name);
        cr_assert_str_eq(name, "berth-nbd-" KEY ".service");
        cr_assert_str_eq(mount, "run-berth-staging-rbd\\x2d0123456789abcdef0123456789abcdef.mount");
}
