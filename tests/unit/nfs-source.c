/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* mounters/nfs-source.h: what a pod's author may write, and what it is called then. */

#include <criterion/criterion.h>

#include "mounters/nfs-source.h"

#include <arpa/inet.h>
#include <string.h>

static Settings settings;

static void init(void)
{
        cr_assert_eq(settings_defaults(&settings), 0);
}

static void fini(void)
{
        settings_done(&settings);
}

TestSuite(nfs_source, .init = init, .fini = fini);

/* "key=value" strings; an option that stands twice is the last one. */
static int parse(const char *const *pairs, char *const *mount_options, NfsSource *ret, Error *err)
{
        _cleanup_strmap_ StrMap options = STRMAP_INIT;

        for (; *pairs; pairs++) {
                _cleanup_free_ char *key = strndup(*pairs, strcspn(*pairs, "="));
                cr_assert_eq(strmap_set(&options, key, *pairs + strlen(key) + 1), 0);
        }
        return nfs_source_parse(&options, mount_options, &settings, ret, err);
}

#define PAIRS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define OPTIONS(...) ((char *[]){__VA_ARGS__, NULL})

static void expect_refused(const char *const *pairs, char *const *mount_options, ErrorCode code,
                           const char *word)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_lt(parse(pairs, mount_options, &s, &err), 0, "accepted: %s %s", pairs[0], pairs[1]);
        cr_assert_eq(err.code, code, "%s: %s", error_code_name(err.code), err.text);
        cr_assert(strstr(err.text, word), "'%s' does not name '%s'", err.text, word);
        cr_assert_lt(strlen(err.text), 600, "a text of %zu bytes", strlen(err.text));
        cr_assert_null(s.host);
        cr_assert_null(s.identity);
}

static void expect_server(const char *server, const char *host, const char *shown, bool numeric)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *pair = NULL;

        cr_assert_gt(asprintf(&pair, "server=%s", server), 0);
        cr_assert_eq(parse(PAIRS(pair, "path=/e"), NULL, &s, &err), 0, "%s: %s", server,
                     str_or(err.text, ""));
        cr_assert_str_eq(s.host, host);
        cr_assert_str_eq(s.server, shown);
        cr_assert_eq(s.is_numeric, numeric);
}

Test(nfs_source, servers)
{
        expect_server("10.244.1.4", "10.244.1.4", "10.244.1.4", true);
        expect_server("NAS-1.Storage.Example", "nas-1.storage.example", "nas-1.storage.example", false);
        expect_server("nas.", "nas", "nas", false);
        expect_server("under_score", "under_score", "under_score", false);
        expect_server("[FD00:0:0::1]", "fd00::1", "[fd00::1]", true);
        expect_server("[fe80::1%eth0]", "fe80::1%eth0", "[fe80::1%eth0]", true);
        expect_server("[::ffff:10.0.0.1]", "10.0.0.1", "10.0.0.1", true);
}

Test(nfs_source, servers_refused)
{
        static const char *const bad[] = {
                        "server=nas:/data",
                        "server=10.0.0.1:2049",
                        "server=[fd00::1",
                        "server=fd00::1]",
                        "server=[10.0.0.1]",
                        "server=[]",
                        "server=[fd00::1%eth0]",
                        "server=[fe80::1%]",
                        "server=[fe80::1%a/b]",
                        "server=[fd00::1]x",
                        "server=a b",
                        "server=a,b",
                        "server=-a",
                        "server=a-",
                        "server=a..b",
                        "server=.a",
                        "server=.",
                        "server=a/b",
                        "server=a\nb",
                        "server=10.1",
                        "server=1",
                        "server=1.2.3.4.5",
                        "server=10.0.0.256",
                        "server=\xc3\xa4.example",
                        "server=*",
                        "server=a@b",
        };
        char name[5000] = "server=";

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                expect_refused(PAIRS(bad[i], "path=/e"), NULL, ERROR_INVALID_ARGUMENT, "server");
        expect_refused(PAIRS("server=fd00::1", "path=/e"), NULL, ERROR_INVALID_ARGUMENT, "brackets");
        expect_refused(PAIRS("path=/e", "vers=4.2"), NULL, ERROR_INVALID_ARGUMENT, "server is missing");
        memset(name + 7, 'a', 4096);
        expect_refused(PAIRS(name, "path=/e"), NULL, ERROR_INVALID_ARGUMENT, "host name");
}

Test(nfs_source, paths)
{
        static const struct {
                const char *path, *sub_dir, *export, *relative;
        } cases[] = {
                        {"path=/nfsdata", "subDir=", "/nfsdata", NULL},
                        {"path=//a///b//", "subDir=x//y/", "/a/b", "x/y"},
                        {"path=/", "subDir=a", "/", "a"},
                        {"share=/a b:c,d", "subDir=..a/b../...", "/a b:c,d", "..a/b../..."},
                        {"path=/%2e%2e/\\..", "subDir=%2e%2e", "/%2e%2e/\\..",
                         "%2e%2e"}, /* names like any other: nothing decodes them */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
                _cleanup_error_ Error err = ERROR_INIT;

                cr_assert_eq(parse(PAIRS("server=s", cases[i].path, cases[i].sub_dir), NULL, &s, &err), 0,
                             "%s", str_or(err.text, ""));
                cr_assert_str_eq(s.export, cases[i].export);
                cr_assert(str_equal(s.sub_dir, cases[i].relative), "%s", str_or(s.sub_dir, "(none)"));
        }
}

Test(nfs_source, paths_refused)
{
        static const char *const bad[] = {"..",    "../a",      "a/..",    "a/../b", "./a",  "a/.",
                                          ".",     "..//",      "a//../b", "/a",     "a\nb", "a\x7f",
                                          "a/./b", "../../etc", "/..",     "//../a"};
        char path[5000] = "path=/", sub_dir[5000] = "subDir=";

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_free_ char *s = NULL, *p = NULL;

                cr_assert_gt(asprintf(&s, "subDir=%s", bad[i]), 0);
                cr_assert_gt(asprintf(&p, "path=/x/%s", bad[i]), 0);
                expect_refused(PAIRS("server=s", "path=/e", s), NULL, ERROR_INVALID_ARGUMENT, "subDir");
                if (strcmp(bad[i], "/a") != 0)
                        expect_refused(PAIRS("server=s", p), NULL, ERROR_INVALID_ARGUMENT, "path");
        }
        expect_refused(PAIRS("server=s", "path=a/b"), NULL, ERROR_INVALID_ARGUMENT, "not absolute");
        expect_refused(PAIRS("server=s", "vers=4.2"), NULL, ERROR_INVALID_ARGUMENT, "path");
        expect_refused(PAIRS("server=s", "path=/a", "share=/b"), NULL, ERROR_INVALID_ARGUMENT, "share");

        memset(path + 6, 'a', 4096);
        memset(sub_dir + 7, 'a', 4096);
        expect_refused(PAIRS("server=s", path), NULL, ERROR_INVALID_ARGUMENT, "255 bytes");
        expect_refused(PAIRS("server=s", "path=/e", sub_dir), NULL, ERROR_INVALID_ARGUMENT, "255 bytes");
        for (size_t i = 0; i < 4096; i += 200)
                path[6 + i] = sub_dir[7 + i] = '/';
        sub_dir[7] = 'a';
        expect_refused(PAIRS("server=s", path), NULL, ERROR_INVALID_ARGUMENT, "too long");
        expect_refused(PAIRS("server=s", "path=/e", sub_dir), NULL, ERROR_INVALID_ARGUMENT, "too long");
}

Test(nfs_source, creation)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse(PAIRS("server=s", "path=/e", "subDir=a", "createSubDir=true", "mode=2770",
                                 "gid=1000"),
                           NULL, &s, &err),
                     0, "%s", str_or(err.text, ""));
        cr_assert(s.create_sub_dir && s.mode == 02770 && s.gid == 1000);
        expect_refused(PAIRS("server=s", "path=/e", "createSubDir=true"), NULL, ERROR_INVALID_ARGUMENT,
                       "subDir");
        expect_refused(PAIRS("server=s", "path=/e", "subDir=a", "mode=755"), NULL, ERROR_INVALID_ARGUMENT,
                       "createSubDir");
        expect_refused(PAIRS("server=s", "path=/e", "subDir=a", "createSubDir=yes"), NULL,
                       ERROR_INVALID_ARGUMENT, "createSubDir");
        for (const char *const *bad =
                             PAIRS("mode=4755", "mode=8", "mode=u+rwx", "mode=-1", "mode=", "mode=00007777");
             *bad; bad++)
                expect_refused(PAIRS("server=s", "path=/e", "subDir=a", "createSubDir=true", *bad), NULL,
                               ERROR_INVALID_ARGUMENT, "mode");
        for (const char *const *bad =
                             PAIRS("gid=-1", "gid=4294967295", "gid=4294967296", "gid=users", "gid=");
             *bad; bad++)
                expect_refused(PAIRS("server=s", "path=/e", "subDir=a", "createSubDir=true", *bad), NULL,
                               ERROR_INVALID_ARGUMENT, "gid");
}

Test(nfs_source, options)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse(PAIRS("server=s", "path=/e", "vers=4"),
                           OPTIONS("soft", "timeo=50", "rsize=65536", "port=20490", "soft",
                                   "context=system_u:object_r:nfs_t:s0:c1"),
                           &s, &err),
                     0, "%s", str_or(err.text, ""));
        cr_assert_eq(s.version, NFS_VERSION_4_2);
        cr_assert_eq(s.port, 20490);
        cr_assert_str_eq(s.identity, "nfs:s:/"
                                     "e:vers=4.2,port=20490,context=system_u:object_r:nfs_t:s0:c1,retrans=3,"
                                     "rsize=65536,soft,timeo=50");
        cr_assert_str_eq(nfs_source_option(&s, "timeo"), "50");
        cr_assert_str_eq(nfs_source_option(&s, "soft"), "");
        cr_assert_null(nfs_source_option(&s, "time"));
}

/* What the kernel has to know reaches it as one option, commas and all, and parts stages. */
Test(nfs_source, labels_and_security)
{
        static char *given[] = {"sec=sys",
                                "sec=krb5",
                                "sec=krb5i",
                                "sec=krb5p",
                                "context=system_u:object_r:nfs_t:s0:c1,c2",
                                "context=system_u:object_r:container_file_t:s0",
                                "fscontext=system_u:object_r:nfs_t:s0",
                                "defcontext=system_u:object_r:nfs_t:s0",
                                "rootcontext=system_u:object_r:nfs_t:s0"};
        char *keys[ELEMENTSOF(given)] = {};

        for (size_t i = 0; i < ELEMENTSOF(given); i++) {
                _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
                _cleanup_error_ Error err = ERROR_INIT;

                cr_assert_eq(parse(PAIRS("server=s", "path=/e"), OPTIONS(given[i]), &s, &err), 0, "%s: %s",
                             given[i], str_or(err.text, ""));
                cr_assert(strv_contains(s.options, given[i]), "%s is not passed on", given[i]);
                keys[i] = TAKE_PTR(s.key);
                for (size_t k = 0; k < i; k++)
                        cr_assert_str_neq(keys[k], keys[i], "%s and %s share a stage", given[k], given[i]);
        }
        for (size_t i = 0; i < ELEMENTSOF(given); i++)
                free(keys[i]);
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("context=a:b:c:s0", "context=a:b:d:s0"),
                       ERROR_INVALID_ARGUMENT, "contradict");
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("sec=krb5", "sec=sys"), ERROR_INVALID_ARGUMENT,
                       "contradict");
}

Test(nfs_source, options_refused)
{
        static char *bad[] = {"ro",
                              "rw",
                              "suid",
                              "dev",
                              "addr=10.0.0.1",
                              "clientaddr=1.2.3.4",
                              "mountaddr=1.2.3.4",
                              "mounthost=x",
                              "fsc",
                              "sharecache",
                              "bg",
                              "hard,addr=10.0.0.1",
                              "timeo=",
                              "timeo=-1",
                              "timeo=1s",
                              "retry=1000",
                              "sec=evil",
                              "context=\"a\"",
                              "",
                              "source=x:/y",
                              "proto=udp",
                              "port=0x1",
                              "hard=1",
                              "lookupcache=no"};

        for (size_t i = 0; i < ELEMENTSOF(bad); i++)
                expect_refused(PAIRS("server=s", "path=/e"), OPTIONS(bad[i]), ERROR_FORBIDDEN_OPTION,
                               bad[i]);
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("port=0"), ERROR_INVALID_ARGUMENT, "port");
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("port=65536"), ERROR_INVALID_ARGUMENT, "port");
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("hard", "soft"), ERROR_INVALID_ARGUMENT,
                       "contradict");
        expect_refused(PAIRS("server=s", "path=/e"), OPTIONS("timeo=1", "timeo=2"), ERROR_INVALID_ARGUMENT,
                       "contradict");
        expect_refused(PAIRS("server=s", "path=/e", "vers=3"), OPTIONS("nfsvers=4.1"),
                       ERROR_INVALID_ARGUMENT, "twice");
        expect_refused(PAIRS("server=s", "path=/e", "vers=2"), NULL, ERROR_INVALID_ARGUMENT, "'2'");
        expect_refused(PAIRS("server=s", "path=/e", "vers=4.3"), NULL, ERROR_INVALID_ARGUMENT, "'4.3'");
        expect_refused(PAIRS("server=s", "path=/e", "Server=x"), NULL, ERROR_UNKNOWN_OPTION, "Server");
}

static char *key_of(const char *const *pairs, char *const *mount_options)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse(pairs, mount_options, &s, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_eq(strlen(s.key), 36);
        return TAKE_PTR(s.key);
}

/* The stage is shared by all that may share it, and by nobody else. */
Test(nfs_source, same_stage)
{
        _cleanup_free_ char *key = key_of(PAIRS("server=nas", "path=/e"), OPTIONS("noatime", "noexec"));
        const struct {
                const char *const *pairs;
                char *const *options;
                bool same;
        } cases[] = {
                        {PAIRS("server=NAS.", "path=//e/"), OPTIONS("noexec", "noatime"), true},
                        {PAIRS("server=nas", "share=/e", "subDir=a"), OPTIONS("noatime", "noexec", "noexec"),
                         true},
                        {PAIRS("server=nas", "path=/e"), OPTIONS("hard", "noatime", "noexec"), true},
                        {PAIRS("server=nas", "path=/e"), OPTIONS("soft", "noatime", "noexec"), false},
                        {PAIRS("server=nas", "path=/e"), OPTIONS("noatime"), false},
                        {PAIRS("server=nas", "path=/e/f"), OPTIONS("noatime", "noexec"), false},
                        {PAIRS("server=nas", "path=/E"), OPTIONS("noatime", "noexec"), false},
                        {PAIRS("server=nas2", "path=/e"), OPTIONS("noatime", "noexec"), false},
                        {PAIRS("server=nas", "path=/e", "vers=4.1"), OPTIONS("noatime", "noexec"), false},
                        {PAIRS("server=nas", "path=/e"), OPTIONS("noatime", "noexec", "port=2049"), false},
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *other = key_of(cases[i].pairs, cases[i].options);
                cr_assert_eq(strcmp(key, other) == 0, cases[i].same, "case %zu", i);
        }
        /* what could be read as the end of the path and the beginning of the options */
        _cleanup_free_ char *a = key_of(PAIRS("server=nas", "path=/e:vers=4.1,hard"), NULL),
                            *b = key_of(PAIRS("server=nas", "path=/e", "vers=4.1"), NULL),
                            *c = key_of(PAIRS("server=nas", "path=/e%3Avers=4.1,hard"), NULL);
        cr_assert_str_neq(a, b);
        cr_assert_str_neq(a, c);
}

static void allow(const char *list)
{
        strv_free(settings.nfs_allowed_servers);
        settings.nfs_allowed_servers = NULL;
        cr_assert_eq(strv_split(list, &settings.nfs_allowed_servers), 0);
}

static void expect_allowed(const char *server, bool allowed, bool by_address)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *pair = NULL;

        cr_assert_gt(asprintf(&pair, "server=%s", server), 0);
        int r = parse(PAIRS(pair, "path=/e"), NULL, &s, &err);
        cr_assert_eq(r >= 0, allowed, "%s: %s", server, str_or(err.text, "allowed"));
        if (r < 0)
                cr_assert_eq(err.code, ERROR_SERVER_NOT_ALLOWED);
        cr_assert_eq(s.check_address, by_address, "%s", server);
}

Test(nfs_source, allowed_servers)
{
        expect_allowed("anything", true, false);
        allow("nas1, *.storage.example 192.168.7.1");
        expect_allowed("NAS1", true, false);
        expect_allowed("a.storage.example", true, false);
        expect_allowed("a.b.storage.example", true, false);
        expect_allowed("192.168.7.1", true, false);
        expect_allowed("[::ffff:192.168.7.1]", true, false);
        expect_allowed("192.168.7.2", false, false);
        /* by its address, then: what is looked up is what is mounted */
        expect_allowed("nas2", true, true);
        expect_allowed("storage.example", true, true);
        expect_allowed("evilstorage.example", true, true);

        allow("nas1 *.storage.example");
        expect_allowed("nas2", false, false);
        expect_allowed("storage.example", false, false);
        expect_allowed("evilstorage.example", false, false);
        expect_allowed("x.storage.example.evil", false, false);
        expect_allowed("10.0.0.1", false, false);

        allow("10.1.0.0/16 [fd00:1::]/32 fe80::/10");
        expect_allowed("10.1.255.255", true, false);
        expect_allowed("10.2.0.0", false, false);
        expect_allowed("[fd00:1:ffff::9]", true, false);
        expect_allowed("[fd00:2::9]", false, false);
        expect_allowed("[fe80::1%eth0]", true, false);
}

Test(nfs_source, allowed_addresses)
{
        struct in6_addr v6;
        struct in_addr v4;

        allow("10.1.2.0/23 fd00::/8 0.0.0.0/33");
        cr_assert_eq(inet_pton(AF_INET, "10.1.3.255", &v4), 1);
        cr_assert(nfs_address_is_allowed(AF_INET, &v4, settings.nfs_allowed_servers));
        cr_assert_eq(inet_pton(AF_INET, "10.1.4.0", &v4), 1);
        cr_assert_not(nfs_address_is_allowed(AF_INET, &v4, settings.nfs_allowed_servers),
                      "a network of 33 bits is none");
        cr_assert_eq(inet_pton(AF_INET6, "::ffff:10.1.2.1", &v6), 1);
        cr_assert(nfs_address_is_allowed(AF_INET6, &v6, settings.nfs_allowed_servers), "IPv4 in disguise");
        cr_assert_eq(inet_pton(AF_INET6, "fe00::1", &v6), 1);
        cr_assert_not(nfs_address_is_allowed(AF_INET6, &v6, settings.nfs_allowed_servers));
        allow("0.0.0.0/0");
        cr_assert(nfs_address_is_allowed(AF_INET, &v4, settings.nfs_allowed_servers));
}
