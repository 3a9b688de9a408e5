/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What pod authors may write into an rbd volume, what becomes of it in the line that the kernel takes, and what sysfs says. */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "mounters/rbd-device.h"
#include "mounters/rbd-use.h"

#define FSID "6b0b5bd8-2f52-4c29-9d3b-6a2b6f5a1a11"
#define KEY "AQAAAAAAAAAAABAAnAjmwmd0/MhCfKSRWyai9A=="

static Settings settings;

static void setup(void)
{
        cr_assert_eq(settings_defaults(&settings), 0);
}

static void teardown(void)
{
        settings_done(&settings);
}

TestSuite(rbd, .init = setup, .fini = teardown);

/* Pairs of option and value up to NULL, on top of an image that is right. */
static ErrorCode read_source(RbdSource *ret, char **ret_text, const char *const *pairs)
{
        static StrMap map; /* the source points into it */
        _cleanup_error_ Error err = ERROR_INIT;

        strmap_done(&map);
        strmap_set(&map, "monitors", "10.0.0.1");
        strmap_set(&map, "image", "web-0");
        for (; *pairs; pairs += 2)
                strmap_set(&map, pairs[0], pairs[1]);
        ErrorCode code = rbd_source_read(&settings, &map, ret, &err) < 0 ? err.code : ERROR_NONE;
        if (ret_text)
                *ret_text = TAKE_PTR(err.text);
        return code;
}
#define SOURCE(s, ...) read_source((s), NULL, (const char *const[]) { __VA_ARGS__, NULL })

Test(rbd, source_defaults)
{
        _cleanup_rbd_source_ RbdSource s = RBD_SOURCE_INIT;
        _cleanup_free_ char *spec = NULL, *identity = NULL, *key = NULL;

        cr_assert_eq(read_source(&s, NULL, (const char *const[]) { NULL }), ERROR_NONE);
        cr_assert_str_eq(s.pool, "rbd");
        cr_assert_str_eq(s.space, "");
        cr_assert_str_eq(s.user, "admin");
        cr_assert_null(s.snapshot);
        cr_assert_eq(s.mapper, RBD_MAPPER_AUTO);
        spec = rbd_source_spec(&s);
        cr_assert_str_eq(spec, "rbd/web-0");
        identity = rbd_identity("F", s.pool, "ns", s.image, "snap");
        cr_assert_str_eq(identity, "rbd:F/rbd/ns/web-0@snap");
        key = rbd_key(identity);
        cr_assert_eq(strlen(key), 36U);
        cr_assert_eq(strncmp(key, "rbd-", 4), 0);
}

Test(rbd, monitors)
{
        static const struct {
                const char *list, *mon_host;
        } good[] = {
                { "10.0.0.1", "10.0.0.1" },
                { "10.0.0.2:6789,10.0.0.1:6789", "10.0.0.1:6789,10.0.0.2:6789" },
                { " 10.0.0.1 , 10.0.0.1,", "10.0.0.1" },
                { "[::1]:3300", "[::1]:3300" },
                { "[fd00::1]", "[fd00::1]" },
                { "v2:10.0.0.1:3300/0", "v2:10.0.0.1:3300" },
                { "[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]", "v2:10.0.0.1:3300,v1:10.0.0.1:6789" },
                { "[v2:[::1]:3300/0,v1:[::1]:6789/0],10.0.0.9", "10.0.0.9,v2:[::1]:3300,v1:[::1]:6789" },
                { "mon-a.example.com:3300", "mon-a.example.com:3300" },
        };
        static const char *const bad[] = {
                "", ",", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:", "10.0.0.1:x", "::1", "[::1", "[]", "[10.0.0.1]:1",
                "10.0.0.1;rm", "a b/c d", "10.0.0.1/0x", "10.0.0.1:6789 name=admin,secret=x \n", "mon\n", "-o", "[v2:10.0.0.1:3300",
                "v3:10.0.0.1:1", "host_name", "[v2:[v2:1.1.1.1:1]]", "10.0.0.1\t10.0.0.2", "%2f", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
        };

        for (size_t i = 0; i < ELEMENTSOF(good); i++) {
                _cleanup_rbd_source_ RbdSource s = RBD_SOURCE_INIT;
                cr_assert_eq(SOURCE(&s, "monitors", good[i].list), ERROR_NONE, "'%s'", good[i].list);
                _cleanup_free_ char *hosts = rbd_source_mon_host(&s);
                cr_assert_str_eq(hosts, good[i].mon_host);
        }
        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_rbd_source_ RbdSource s = RBD_SOURCE_INIT;
                cr_assert_eq(SOURCE(&s, "monitors", bad[i]), ERROR_INVALID_ARGUMENT, "'%s'", bad[i]);
        }
}

Test(rbd, hostile_names)
{
        static const char *const options[] = { "pool", "image", "namespace", "snapshot", "user" };
        static const char *const bad[] = { "a b", "a\nb", "a\tb", "\x7f", "a/b", "a@b", "-", "-o", " ", "a\x01" };
        static const char *const bad_option[] = { "a,secret=x", "a=b" };
        char *huge = malloc(4097);

        memset(huge, 'a', 4096);
        huge[4096] = 0;
        for (size_t i = 0; i < ELEMENTSOF(options); i++) {
                RbdSource s = RBD_SOURCE_INIT;
                for (size_t k = 0; k < ELEMENTSOF(bad); k++)
                        cr_assert_eq(SOURCE(&s, options[i], bad[k]), ERROR_INVALID_ARGUMENT, "%s '%s'", options[i], bad[k]);
                cr_assert_eq(SOURCE(&s, options[i], huge), ERROR_INVALID_ARGUMENT, "%s", options[i]);
                huge[97] = 0;
                cr_assert_eq(SOURCE(&s, options[i], huge), ERROR_INVALID_ARGUMENT, "%s", options[i]);
                huge[97] = 'a';
        }
        for (size_t k = 0; k < ELEMENTSOF(bad_option); k++) {
                RbdSource s = RBD_SOURCE_INIT;
                cr_assert_eq(SOURCE(&s, "user", bad_option[k]), ERROR_INVALID_ARGUMENT);
                cr_assert_eq(SOURCE(&s, "namespace", bad_option[k]), ERROR_INVALID_ARGUMENT);
        }
        free(huge);
}

Test(rbd, options_that_are_none)
{
        RbdSource s = RBD_SOURCE_INIT;
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(SOURCE(&s, "colour", "red"), ERROR_UNKNOWN_OPTION);
        cr_assert_eq(SOURCE(&s, "mounter", "fuse"), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(SOURCE(&s, "imageformat", "two"), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(SOURCE(&s, "imagefeatures", "layering,magic"), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(SOURCE(&s, "keyring", "etc/ceph/keyring"), ERROR_INVALID_ARGUMENT);
        cr_assert_eq(read_source(&s, &text, (const char *const[]) { "key", KEY, NULL }), ERROR_UNKNOWN_OPTION);
        cr_assert_null(strstr(text, KEY), "%s", text);
}

Test(rbd, map_options)
{
        static const char *const bad[] = { "secret=x", "key=client.admin", "name=admin", "rw", "ro", "exclusive", "mount_timeout=1", "lock_timeout=0",
                                           "_pool_ns=x", "fsid=x", "share", "osd_request_timeout", "queue_depth=0", "queue_depth=-1",
                                           "queue_depth=99999999", "ms_mode=none", "ms_mode=", "notrim=1", "noshare=", "crush_location=a:b",
                                           "read_from_replica=no balance", "compression_hint=none compressible " };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                RbdSource s = RBD_SOURCE_INIT;
                cr_assert_neq(SOURCE(&s, "mapOptions", bad[i]), ERROR_NONE, "'%s'", bad[i]);
        }
        _cleanup_rbd_source_ RbdSource s = RBD_SOURCE_INIT;
        cr_assert_eq(SOURCE(&s, "mapOptions", "noshare,osd_request_timeout=30,ms_mode=secure"), ERROR_NONE);
        cr_assert_eq(strv_length(s.map_options), 3U);
}

Test(rbd, allow_lists)
{
        RbdSource s = RBD_SOURCE_INIT;

        strv_split("10.0.0.1,10.0.0.2:3300", &settings.rbd_allowed_monitors);
        cr_assert_eq(SOURCE(&s, "monitors", "10.0.0.1:6789"), ERROR_NONE);
        rbd_source_done(&s);
        cr_assert_eq(SOURCE(&s, "monitors", "v2:10.0.0.2:3300/0"), ERROR_NONE);
        rbd_source_done(&s);
        cr_assert_eq(SOURCE(&s, "monitors", "10.0.0.2"), ERROR_CLUSTER_FORBIDDEN);
        cr_assert_eq(SOURCE(&s, "monitors", "10.0.0.1,10.0.0.3"), ERROR_CLUSTER_FORBIDDEN, "each one must be allowed");

        strv_split("kube rbd/team-a", &settings.rbd_allowed_pools);
        cr_assert_eq(SOURCE(&s, "pool", "kube"), ERROR_NONE);
        rbd_source_done(&s);
        cr_assert_eq(SOURCE(&s, "pool", "kube", "namespace", "x"), ERROR_NONE);
        rbd_source_done(&s);
        cr_assert_eq(SOURCE(&s, "pool", "rbd", "namespace", "team-a"), ERROR_NONE);
        rbd_source_done(&s);
        cr_assert_eq(SOURCE(&s, "pool", "rbd"), ERROR_CLUSTER_FORBIDDEN);
        cr_assert_eq(SOURCE(&s, "pool", "rbd", "namespace", "team-ab"), ERROR_CLUSTER_FORBIDDEN);
        cr_assert_eq(SOURCE(&s, "pool", "kub"), ERROR_CLUSTER_FORBIDDEN);
        cr_assert_eq(SOURCE(&s, "pool", "kube2"), ERROR_CLUSTER_FORBIDDEN);
}

Test(rbd, map_line)
{
        char *defaults[] = { (char *) "share", NULL }, *options[] = { (char *) "queue_depth=64", NULL };
        const RbdMapLine line = { .addresses = "10.0.0.1:3300,[::1]:3300", .fsid = "F", .user = "kube", .key = "rbd-0123", .pool = "p", .space = "ns",
                                  .image = "i", .ms_mode = "prefer-crc", .timeout_sec = 30, .locks = true, .defaults = defaults, .options = options };
        _cleanup_free_ char *text = NULL;

        cr_assert_eq(rbd_map_line(&line, &text, NULL), 0);
        cr_assert_str_eq(text, "10.0.0.1:3300,[::1]:3300 name=kube,key=berth-rbd-0123,fsid=F,mount_timeout=30,ms_mode=prefer-crc,_pool_ns=ns,share,queue_depth=64,"
                               "lock_on_read,lock_timeout=30 p i -");
        cr_assert(rbd_config_is_own(text, "rbd-0123"));
        cr_assert(!rbd_config_is_own(text, "rbd-012"));
        cr_assert(!rbd_config_is_own(text, "rbd-01234"));

        RbdMapLine read_only = line;
        read_only.read_only = true;
        read_only.snapshot = "s";
        free(TAKE_PTR(text));
        cr_assert_eq(rbd_map_line(&read_only, &text, NULL), 0);
        cr_assert_null(strstr(text, "lock"));
        cr_assert(strstr(text, ",read_only p i s"));
}

/* Even if the options' own checks let something through: the line stays a line of five words. */
Test(rbd, map_line_refuses)
{
        static const char *const bad[] = { "", " ", "a b", "a\nb", "a\tb", "a\x7f" };
        static const size_t fields[] = { offsetof(RbdMapLine, addresses), offsetof(RbdMapLine, user), offsetof(RbdMapLine, pool), offsetof(RbdMapLine, image),
                                         offsetof(RbdMapLine, fsid), offsetof(RbdMapLine, key) };
        const RbdMapLine line = { .addresses = "10.0.0.1:1", .fsid = "F", .user = "u", .key = "k", .pool = "p", .space = "", .image = "i" };
        char *text = NULL, *long_name = malloc(4097);

        for (size_t i = 0; i < ELEMENTSOF(fields); i++)
                for (size_t k = 0; k < ELEMENTSOF(bad); k++) {
                        RbdMapLine l = line;
                        *(const char **) (void *) ((char *) &l + fields[i]) = bad[k];
                        cr_assert(rbd_map_line(&l, &text, NULL) < 0, "field %zu, '%s'", i, bad[k]);
                }
        RbdMapLine l = line;
        l.user = "a,secret=b";
        cr_assert(rbd_map_line(&l, &text, NULL) < 0);
        l = line;
        l.space = "a,secret=b";
        cr_assert(rbd_map_line(&l, &text, NULL) < 0);
        memset(long_name, 'a', 4096);
        long_name[4096] = 0;
        l = line;
        l.image = long_name;
        cr_assert(rbd_map_line(&l, &text, NULL) < 0, "longer than the page that sysfs takes");
        char *secret[] = { (char *) "secret=x", NULL };
        l = line;
        l.defaults = secret;
        cr_assert(rbd_map_line(&l, &text, NULL) < 0);
        free(long_name);
}

/* config_info is the line that was written, by whoever wrote it: an image or a pool may be called as the tag is. */
Test(rbd, own_tag)
{
        cr_assert(!rbd_config_is_own("10.0.0.1 name=a,key=client.a p i -", "k"));
        cr_assert(!rbd_config_is_own("10.0.0.1 name=a key=berth-k i -", "k"), "a pool of that name");
        cr_assert(!rbd_config_is_own("10.0.0.1 name=a,xkey=berth-k p i -", "k"));
        cr_assert(!rbd_config_is_own("10.0.0.1 name=a,key=berth-kk p i -", "k"));
        cr_assert(!rbd_config_is_own("key=berth-k", "k"));
        cr_assert(!rbd_config_is_own("", "k"));
        cr_assert(rbd_config_is_own("10.0.0.1 key=berth-k p i -", "k"));
}

/* A map as sysfs shows it, below a directory of the test's own; snapshot: "-" for none. */
static void map_make(const char *sysfs, unsigned number, const char *image, const char *id, const char *snapshot)
{
        const char *const attributes[][2] = { { "cluster_fsid", FSID }, { "pool", "kube" }, { "pool_ns", "" }, { "name", image }, { "image_id", id },
                                              { "current_snap", snapshot }, { "client_addr", "10.0.0.1:0/1" }, { "major", "250" }, { "pool_id", "2" },
                                              { "config_info", "10.0.0.2:3300 name=kube,key=client.kube kube web-0 -" } };
        char path[256];

        snprintf(path, sizeof(path), "%s/devices/%u", sysfs, number);
        cr_assert_eq(mkdir(path, 0700), 0);
        for (size_t i = 0; i <= ELEMENTSOF(attributes); i++) {
                snprintf(path, sizeof(path), "%s/devices/%u/%s", sysfs, number, i < ELEMENTSOF(attributes) ? attributes[i][0] : "minor");
                FILE *f = fopen(path, "w");
                cr_assert_not_null(f);
                if (i < ELEMENTSOF(attributes))
                        fprintf(f, "%s\n", attributes[i][1]);
                else
                        fprintf(f, "%u\n", number * 16);
                cr_assert_eq(fclose(f), 0);
        }
}

/* For writing one more way than the volume's own: not a snapshot's, not another image's. */
Test(rbd, mapped_twice)
{
        char sysfs[] = "/tmp/berth-sysfs-XXXXXX", command[64];
        _cleanup_rbd_device_ RbdDevice first = RBD_DEVICE_INIT, other = RBD_DEVICE_INIT;
        _cleanup_free_ char *identity = rbd_identity(FSID, "kube", "", "web-0", NULL), *key = rbd_key(identity);

        cr_assert(mkdtemp(sysfs));
        snprintf(command, sizeof(command), "%s/devices", sysfs);
        cr_assert_eq(mkdir(command, 0700), 0);
        map_make(sysfs, 7000, "web-0", "1a2b", "-");
        cr_assert_eq(rbd_device_find(sysfs, key, &first), 1);
        cr_assert_eq(first.number, 7000U);
        cr_assert_eq(rbd_device_find_other(sysfs, &first, &other), 0);
        map_make(sysfs, 7001, "web-1", "3c4d", "-");
        map_make(sysfs, 7002, "web-0", "1a2b", "daily");
        cr_assert_eq(rbd_device_find_other(sysfs, &first, &other), 0, "/dev/rbd%u", other.number);
        /* its name was another's since; and one that was renamed is what it was */
        map_make(sysfs, 7003, "web-0", "5e6f", "-");
        cr_assert_eq(rbd_device_find_other(sysfs, &first, &other), 0, "/dev/rbd%u", other.number);
        map_make(sysfs, 7004, "web-2", "1a2b", "-");
        cr_assert_eq(rbd_device_find_other(sysfs, &first, &other), 1);
        cr_assert_eq(other.number, 7004U);
        snprintf(command, sizeof(command), "rm -r %s", sysfs);
        cr_assert_eq(system(command), 0);
}

/* A node may have hundreds of maps, and looks through them several times a map. What is read is told by what cannot be: directories. */
Test(rbd, search_reads_little_of_other_maps)
{
        static const char *const unread[] = { "image_id", "client_addr", "major", "minor", "pool_id", "config_info" };
        char sysfs[] = "/tmp/berth-sysfs-XXXXXX", path[128];
        _cleanup_free_ char *identity = rbd_identity(FSID, "kube", "", "web-0", NULL), *key = rbd_key(identity);
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT, other = RBD_DEVICE_INIT;
        _cleanup_strv_ char **addresses = NULL;

        cr_assert(mkdtemp(sysfs));
        snprintf(path, sizeof(path), "%s/devices", sysfs);
        cr_assert_eq(mkdir(path, 0700), 0);
        map_make(sysfs, 1, "web-0", "1a2b", "-");
        for (unsigned i = 0; i < ELEMENTSOF(unread); i++) {
                map_make(sysfs, i + 2, "web-1", "3c4d", "-");
                snprintf(path, sizeof(path), "%s/devices/%u/%s", sysfs, i + 2, unread[i]);
                cr_assert(unlink(path) == 0 && mkdir(path, 0700) == 0);
        }
        cr_assert_eq(rbd_device_find(sysfs, key, &d), 1);
        cr_assert_eq(d.number, 1U);

        /* and what image it is, or the address, alone */
        snprintf(path, sizeof(path), "%s/devices/2/image_id", sysfs);
        cr_assert_eq(rmdir(path), 0);
        cr_assert_eq(rbd_device_find_other(sysfs, &d, &other), 0);
        snprintf(path, sizeof(path), "%s/devices/3/client_addr", sysfs);
        cr_assert_eq(rmdir(path), 0);
        cr_assert_eq(rbd_device_addresses(sysfs, &addresses), 0);
        cr_assert_eq(strv_length(addresses), 1U);
        snprintf(path, sizeof(path), "rm -r %s", sysfs);
        cr_assert_eq(system(path), 0);
}

Test(rbd, client_of_its_own)
{
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a,key=client.a noshare i -"), "a pool of that name");
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a,xnoshare p i -"));
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a,noshare,share p i -"), "the last one counts");
        cr_assert(!rbd_config_is_alone(""));
        cr_assert(rbd_config_is_alone("10.0.0.1 name=a,share,noshare,crc p i -"));
        cr_assert(rbd_config_is_alone("10.0.0.1 noshare p i -"));
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a noshare noshare -"), "an image of that name");
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a,noshare2,noshare=1 p i -"));
}

/* Names may hold commas and equals signs. */
Test(rbd, requests_that_fail_after_a_while)
{
        cr_assert(!rbd_config_times_out(""));
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a,mount_timeout=5 p i -"));
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a p i,osd_request_timeout=5 -"), "an image of that name");
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a p,osd_request_timeout=5 i -"), "a pool of that name");
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a,xosd_request_timeout=5,osd_request_timeout_x=5,osd_request_timeout p i -"));
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a,osd_request_timeout=0 p i -"), "0 is never");
        cr_assert(!rbd_config_times_out("10.0.0.1 name=a,osd_request_timeout=5,osd_request_timeout=0 p i -"), "the last one counts");
        cr_assert(rbd_config_times_out("10.0.0.1 name=a,osd_request_timeout=0,osd_request_timeout=60,noshare p i -"));
        cr_assert(rbd_config_times_out("10.0.0.1 osd_request_timeout=60,name=a p i -"), "the first of the options");
}

/* An operator's line may be written with more space than berth's, wherever the kernel takes it. */
Test(rbd, words_end_where_the_kernel_ends_them)
{
        static const char line[] = " \t10.0.0.1:6789,10.0.0.2:6789\tname=a,,noshare,osd_request_timeout=9,key=berth-k \t p  i -";

        cr_assert(rbd_config_is_alone(line));
        cr_assert(rbd_config_times_out(line));
        cr_assert(rbd_config_is_own(line, "k"));
        cr_assert(rbd_config_is_alone(" 10.0.0.1 noshare p i -"));
        cr_assert(!rbd_config_is_alone("10.0.0.1 name=a\tnoshare,x i -"), "a pool of that name");
}

Test(rbd, keyring)
{
        static const char text[] = "# comment\n[client.kube2]\n key = two\n[client.kube]\r\n\tcaps mon = \"profile rbd\"\r\n\tkey = " KEY "  \r\n"
                                   "keyfile = x\n[client.bare]\nkeys = no\n";
        char *key = NULL;
        uint8_t bytes[64];

        cr_assert_eq(rbd_keyring_parse(text, "kube", &key), 1);
        cr_assert_str_eq(key, KEY);
        cr_assert_eq(rbd_key_decode(key, bytes), 28);
        rbd_secret_free(key);
        cr_assert_eq(rbd_keyring_parse(text, "kub", &key), 0);
        cr_assert_eq(rbd_keyring_parse(text, "bare", &key), 0);
        cr_assert_eq(rbd_keyring_parse("", "kube", &key), 0);
        cr_assert_eq(rbd_keyring_parse("[client.kube", "kube", &key), 0);

        static const char *const bad[] = { "", "AQAA", "x", "AQAAAAAAAAAAABAAnAjmwmd0/MhCfKSRWyai9A=", "AgAAAAAAAAAAABAAnAjmwmd0/MhCfKSRWyai9A==",
                                           "AQAAAAAAAAAAABEAnAjmwmd0/MhCfKSRWyai9A==", "AQAAAAAAAAAAABAAnAjmwmd0/MhCfKSRWyai9A==AAAA", "!!!!" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_assert_eq(rbd_key_decode(bad[i], bytes), -EINVAL, "'%s'", bad[i]);
}

static ErrorCode key_of(const char *keyring, const StrMap *secrets, char **ret)
{
        const RbdSource s = { .user = "kube", .keyring = keyring };
        _cleanup_error_ Error err = ERROR_INIT;
        ErrorCode code = rbd_source_key(&settings, &s, secrets, ret, &err) < 0 ? err.code : ERROR_NONE;

        cr_assert(!err.text || !strstr(err.text, KEY));
        return code;
}

Test(rbd, keyring_only_inside_its_directories)
{
        char dir[] = "/tmp/berth-keyring-XXXXXX", path[128], other[128];
        StrMap none = STRMAP_INIT, secrets = STRMAP_INIT;
        char *key = NULL;

        cr_assert(mkdtemp(dir));
        strv_free(settings.rbd_keyring_directories);
        settings.rbd_keyring_directories = NULL;
        strv_append(&settings.rbd_keyring_directories, dir);
        cr_assert_eq(key_of(NULL, &none, &key), ERROR_KEYRING_INVALID);

        snprintf(path, sizeof(path), "%s/ceph.client.kube.keyring", dir);
        FILE *f = fopen(path, "w");
        cr_assert(f && fputs("[client.kube]\nkey = " KEY "\n", f) >= 0 && fclose(f) == 0);
        chmod(path, 0600);
        cr_assert_eq(key_of(NULL, &none, &key), ERROR_NONE, "found by its name");
        cr_assert_str_eq(key, KEY);
        rbd_secret_free(key);
        cr_assert_eq(key_of(path, &none, &key), ERROR_NONE);
        rbd_secret_free(key);

        static const char *const outside[] = { "/etc/passwd", "/proc/self/environ", "/tmp", "/" };
        for (size_t i = 0; i < ELEMENTSOF(outside); i++)
                cr_assert_eq(key_of(outside[i], &none, &key), ERROR_KEYRING_INVALID, "%s", outside[i]);
        snprintf(other, sizeof(other), "%s/../%s/ceph.client.kube.keyring", dir, strrchr(dir, '/') + 1);
        cr_assert_eq(key_of(other, &none, &key), ERROR_KEYRING_INVALID, "..");
        snprintf(other, sizeof(other), "%s/link", dir);
        cr_assert(symlink(path, other) == 0);
        cr_assert_eq(key_of(other, &none, &key), ERROR_KEYRING_INVALID, "a link");
        unlink(other);
        cr_assert(mkfifo(other, 0600) == 0);
        cr_assert_eq(key_of(other, &none, &key), ERROR_KEYRING_INVALID, "a pipe");
        unlink(other);
        chmod(path, 0666);
        cr_assert_eq(key_of(path, &none, &key), ERROR_KEYRING_INVALID, "writable by all");

        strmap_set(&secrets, "userKey", KEY "\n");
        cr_assert_eq(key_of(path, &secrets, &key), ERROR_NONE, "the Secret wins");
        cr_assert_str_eq(key, KEY);
        rbd_secret_free(key);
        strmap_set(&secrets, "key", "nonsense");
        cr_assert_eq(key_of(path, &secrets, &key), ERROR_KEY_INVALID);
        strmap_erase(&secrets);
        unlink(path);
        rmdir(dir);
}

Test(rbd, addresses)
{
        char host[64], *own[] = { (char *) "10.0.0.1:0/12", NULL }, *watchers[] = { (char *) "10.0.0.1:0/12", (char *) "10.0.0.1:0/13", (char *) "10.0.0.2:0/12", NULL };
        _cleanup_strv_ char **others = NULL;

        cr_assert(rbd_address_host("10.0.0.7:0/4102", host, sizeof(host)));
        cr_assert_str_eq(host, "10.0.0.7");
        cr_assert(rbd_address_host("[fd00::1]:0/4102", host, sizeof(host)));
        cr_assert_str_eq(host, "fd00::1");
        static const char *const bad[] = { "", "/", ":0/1", "10.0.0.7", "[fd00::1", "[]:0/1", "10.0.0.7:0" };
        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                cr_assert(!rbd_address_host(bad[i], host, sizeof(host)), "'%s'", bad[i]);
        cr_assert_eq(rbd_use_others(watchers, own, &others), 0);
        cr_assert_eq(strv_length(others), 2U);
        cr_assert_eq(rbd_fence_from_string("never"), RBD_FENCE_NEVER);
        cr_assert_lt(rbd_fence_from_string("sometimes"), 0);
}
