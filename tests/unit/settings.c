/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* protocol/settings.h: files, drop-ins, command lines. On real files in a directory of the test's own. */

#include <criterion/criterion.h>

#include "protocol/settings.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "protocol/names.h"

static char dir[] = "/tmp/berth-settings.XXXXXX";
static char *config, *drop_ins;

static void init(void)
{
        cr_assert(mkdtemp(dir));
        cr_assert(asprintf(&config, "%s/berthd.conf", dir) > 0);
        cr_assert(asprintf(&drop_ins, "%s.d", config) > 0);
}

static void fini(void)
{
        _cleanup_free_ char *command = NULL;

        cr_assert(asprintf(&command, "rm -rf '%s'", dir) > 0);
        cr_assert_eq(system(command), 0);
        free(config);
        free(drop_ins);
}

TestSuite(settings, .init = init, .fini = fini);

static void put(const char *path, const char *content)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        cr_assert(fd >= 0, "%s: %s", path, strerror(errno));
        cr_assert_eq(write_full(fd, content, strlen(content)), 0);
        cr_assert_eq(fchmod(fd, 0644), 0);
}

static void put_drop_in(const char *name, const char *content)
{
        _cleanup_free_ char *path = NULL;

        (void) mkdir(drop_ins, 0755);
        cr_assert(asprintf(&path, "%s/%s", drop_ins, name) > 0);
        put(path, content);
}

/* Loading must fail as INVALID_ARGUMENT with both words in the text. */
static void expect_refused(const char *content, const char *word, const char *other)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        put(config, content);
        cr_assert_lt(settings_load(&s, config, &err), 0, "accepted: %s", content);
        cr_assert_eq(err.code, ERROR_INVALID_ARGUMENT, "%s", error_code_name(err.code));
        cr_assert(strstr(err.text, word) && strstr(err.text, other), "'%s' does not name %s and %s", err.text, word, other);
}

Test(settings, missing_file_means_defaults)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(settings_load(&s, config, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_str_eq(s.socket, BERTH_SOCKET_DEFAULT);
        cr_assert_str_eq(s.state_dir, "/var/lib/berth");
        cr_assert_str_eq(s.kubelet_root, "/var/lib/kubelet");
        cr_assert_eq(s.request_timeout_usec, 100000000);
        cr_assert_eq(strv_length(s.loop_directories), 1);
        cr_assert_str_eq(s.loop_directories[0], "/var/lib/berth/loop");
        cr_assert_eq(strv_length(s.targets_allow), 0);
        cr_assert(s.loop_direct_io);
        cr_assert_not(s.flexvolume_attach);
        cr_assert(*s.node_name, "the host's name");
}

Test(settings, file_and_drop_ins_in_order)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        put(config, "# comment\n[Agent]\nStepTimeoutSec=5\nLingerSec = 2min\n[Targets]\nAllow=/a, /b\n[Loop]\nDirectories=/i\n");
        put_drop_in("20-late.conf", "[Agent]\nStepTimeoutSec=7\n");
        put_drop_in("10-early.conf", "[Agent]\nStepTimeoutSec=6\nMaxConnections=9\n[FlexVolume]\nAttach=yes\nNodeName=n1\n");
        put_drop_in(".hidden.conf", "[Agent]\nStepTimeoutSec=1\n");
        put_drop_in("99-editor.conf~", "[Agent]\nStepTimeoutSec=1\n");
        cr_assert_eq(settings_load(&s, config, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_eq(s.step_timeout_usec, 7000000, "%lu", (unsigned long) s.step_timeout_usec);
        cr_assert_eq(s.linger_usec, 120000000);
        cr_assert_eq(s.max_connections, 9);
        cr_assert_eq(strv_length(s.targets_allow), 2);
        cr_assert_str_eq(s.targets_allow[1], "/b");
        cr_assert_eq(strv_length(s.loop_directories), 1);
        cr_assert_str_eq(s.loop_directories[0], "/i");
        cr_assert(s.flexvolume_attach);
        cr_assert_str_eq(s.node_name, "n1");
}

Test(settings, typing_errors_are_refused)
{
        expect_refused("[Agent]\nStepTimeoutSecs=5\n", "StepTimeoutSecs", config);
        expect_refused("[Agnet]\nStepTimeoutSec=5\n", "Agnet", config);
        expect_refused("[Agent]\nDirectIO=yes\n", "DirectIO", config); /* of another section */
        expect_refused("[Agent]\nStepTimeoutSec=soon\n", "soon", "StepTimeoutSec");
        expect_refused("[Agent]\nStepTimeoutSec=-1\n", "-1", "StepTimeoutSec");
        expect_refused("[Agent]\nMaxConnections=5000000000\n", "5000000000", "MaxConnections");
        expect_refused("[Loop]\nDirectIO=maybe\n", "maybe", "DirectIO");
        expect_refused("[Format]\nMaxProofBytes=1X\n", "1X", "MaxProofBytes");
}

Test(settings, a_bad_drop_in_is_named)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        put_drop_in("site.conf", "[Agent]\nNoSuchKey=1\n");
        cr_assert_lt(settings_load(&s, config, &err), 0);
        cr_assert(strstr(err.text, "site.conf"), "%s", err.text);
}

Test(settings, files_that_others_can_write_are_refused)
{
        static const mode_t modes[] = { 0664, 0646, 0666 };

        for (size_t i = 0; i < ELEMENTSOF(modes); i++) {
                _cleanup_settings_ Settings s = SETTINGS_INIT;
                _cleanup_error_ Error err = ERROR_INIT;

                put(config, "[Agent]\nMaxConnections=9\n");
                cr_assert_eq(chmod(config, modes[i]), 0);
                cr_assert_lt(settings_load(&s, config, &err), 0, "mode %o was accepted", modes[i]);
                cr_assert(strstr(err.text, config), "%s", err.text);
        }
}

Test(settings, a_directory_is_no_file)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(mkdir(config, 0755), 0);
        cr_assert_lt(settings_load(&s, config, &err), 0);
}

static int from_arguments(Settings *s, char **argv, char ***rest, Error *err)
{
        return settings_from_arguments(s, (int) strv_length(argv), argv, rest, err);
}

#define ARGV(...) ((char *[]) { (char *) "berthd", __VA_ARGS__, NULL })

Test(settings, arguments_override_the_file)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL;

        put(config, "[Paths]\nSocket=/file/socket\nRuntimeDirectory=/file/run\n");
        int r = from_arguments(&s, ARGV("--config", config, "--socket=/arg/socket", "--state-dir", "/arg/state", "--extra", "word"),
                               &rest, &err);
        cr_assert_eq(r, 0, "%s", str_or(err.text, ""));
        cr_assert_str_eq(s.socket, "/arg/socket");
        cr_assert_str_eq(s.runtime_dir, "/file/run");
        cr_assert_str_eq(s.state_dir, "/arg/state");
        cr_assert_str_eq(s.loop_directories[0], "/arg/state/loop", "the default follows the state directory: %s",
                         s.loop_directories[0]);
        cr_assert_eq(strv_length(rest), 2);
        cr_assert_str_eq(rest[0], "--extra");
        cr_assert_str_eq(rest[1], "word");
}

Test(settings, configured_loop_directories_stay)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL;

        put(config, "[Loop]\nDirectories=/images\n");
        cr_assert_eq(from_arguments(&s, ARGV("--config", config, "--state-dir=/arg/state"), &rest, &err), 0);
        cr_assert_eq(strv_length(s.loop_directories), 1);
        cr_assert_str_eq(s.loop_directories[0], "/images");
}

Test(settings, bad_arguments_are_refused)
{
        char *const bad[] = { (char *) "--socket=relative", (char *) "--state-dir=", (char *) "--runtime-dir" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_settings_ Settings s = SETTINGS_INIT;
                _cleanup_error_ Error err = ERROR_INIT;
                _cleanup_strv_ char **rest = NULL;

                cr_assert_lt(from_arguments(&s, ARGV("--config", config, bad[i]), &rest, &err), 0, "%s", bad[i]);
                cr_assert_null(s.socket, "an output of a failure");
                error_done(&err);
        }
}

Test(settings, a_config_that_was_named_must_exist)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL;

        cr_assert_lt(from_arguments(&s, ARGV("--config", config), &rest, &err), 0);
        cr_assert(strstr(err.text, config), "%s", err.text);
}

Test(settings, mounters_see_the_same)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT, seen = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL, **passed = NULL, **argv = NULL, **none = NULL;

        put(config, "[Loop]\nDirectIO=no\n[Paths]\nKubeletRoot=/file/kubelet\n");
        cr_assert_eq(from_arguments(&s, ARGV("--config", config, "--state-dir", "/s", "--runtime-dir", "/r"), &rest, &err), 0);
        cr_assert_eq(settings_to_arguments(&s, &passed), 0);
        cr_assert_eq(strv_append(&argv, "mounter"), 0);
        STRV_FOREACH (a, passed)
                cr_assert_eq(strv_append(&argv, *a), 0);
        cr_assert_eq(from_arguments(&seen, argv, &none, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_eq(strv_length(none), 0, "not understood: %s", none ? none[0] : "");
        cr_assert_str_eq(seen.state_dir, "/s");
        cr_assert_str_eq(seen.runtime_dir, "/r");
        cr_assert_str_eq(seen.socket, s.socket);
        cr_assert_str_eq(seen.kubelet_root, "/file/kubelet");
        cr_assert(strv_equal(seen.loop_directories, s.loop_directories));
        cr_assert_not(seen.loop_direct_io);
}

/* The file that the printed settings make. */
static char *print_settings(const Settings *s)
{
        char *text = NULL;
        size_t size = 0;
        FILE *file = open_memstream(&text, &size);

        cr_assert(file);
        settings_print(s, file);
        cr_assert_eq(fclose(file), 0);
        return text;
}

Test(settings, what_is_printed_is_read_back_alike)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT, again = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *printed = NULL, *printed_again = NULL;

        put(config, "[Agent]\nRequestTimeoutSec=1500ms\nLingerSec=5min\n[Targets]\nAllow=/srv/a /srv/b,/srv/c\n"
                    "[Loop]\nDirectIO=no\n[Format]\nMaxProofBytes=3G\n[FlexVolume]\nNodeName=node-1\n");
        cr_assert_eq(settings_load(&s, config, &err), 0, "%s", err.text);
        printed = print_settings(&s);
        cr_assert(strstr(printed, "RequestTimeoutSec=1500000us\n"), "%s", printed);
        cr_assert(strstr(printed, "LingerSec=300\n"), "%s", printed);
        cr_assert(strstr(printed, "Allow=/srv/a /srv/b /srv/c\n"), "%s", printed);
        cr_assert(strstr(printed, "MaxProofBytes=3G\n"), "%s", printed);
        cr_assert(strstr(printed, "NodeName=node-1\n"), "%s", printed);

        put(config, printed);
        cr_assert_eq(settings_load(&again, config, &err), 0, "%s\n%s", err.text, printed);
        printed_again = print_settings(&again);
        cr_assert_str_eq(printed_again, printed);
}

/* What berthd has not accepted counts for no mounter: neither the file nor its drop-ins are read again. */
Test(settings, mounters_read_no_file)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT, seen = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL, **passed = NULL, **argv = NULL, **none = NULL;

        put(config, "[Loop]\nDirectories=/a b,/c\n[Agent]\nStepTimeoutSec=7\n[FlexVolume]\nNodeName=a=b c\n");
        cr_assert_eq(from_arguments(&s, ARGV("--config", config), &rest, &err), 0);
        put(config, "[Loop]\nNoSuchKey=1\n");
        cr_assert_eq(settings_to_arguments(&s, &passed), 0);
        cr_assert_eq(strv_append(&argv, "mounter"), 0);
        STRV_FOREACH (a, passed)
                cr_assert_eq(strv_append(&argv, *a), 0);
        /* of a newer berthd */
        cr_assert(strv_append(&argv, "--set=New.Key=1") == 0 && strv_append(&argv, "--set=NewKey=1") == 0);
        cr_assert_eq(from_arguments(&seen, argv, &none, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_eq(strv_length(none), 0);
        cr_assert(strv_equal(seen.loop_directories, s.loop_directories) && strv_length(seen.loop_directories) == 3);
        cr_assert_eq(seen.step_timeout_usec, 7000000);
        cr_assert_str_eq(seen.node_name, "a=b c");
}

Test(settings, bad_given_values_are_refused)
{
        char *const bad[] = { (char *) "--set=Mounters.Warm=many", (char *) "--set=Mounters.Warm", (char *) "--set" };

        for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
                _cleanup_settings_ Settings s = SETTINGS_INIT;
                _cleanup_error_ Error err = ERROR_INIT;
                _cleanup_strv_ char **rest = NULL;

                cr_assert_lt(from_arguments(&s, ARGV("--no-config", bad[i]), &rest, &err), 0, "%s", bad[i]);
                error_done(&err);
        }
}

static int reload(Settings *s, char **argv, char ***fixed, Error *err)
{
        return settings_reload(s, (int) strv_length(argv), argv, fixed, err);
}

Test(settings, reload_keeps_paths_and_names_them)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL, **fixed = NULL;
        char **argv = ARGV("--config", config, "--runtime-dir=/r");

        put(config, "[Paths]\nStateDirectory=/one\n[Mounters]\nWarm=1\n");
        cr_assert_eq(from_arguments(&s, argv, &rest, &err), 0);
        put(config, "[Paths]\nStateDirectory=/two\nRuntimeDirectory=/not/this\nKubeletRoot=/k\n[Mounters]\nWarm=2\nMax=9\n");
        cr_assert_eq(reload(&s, argv, &fixed, &err), 0, "%s", str_or(err.text, ""));
        cr_assert_eq(strv_length(fixed), 2, "the command line wins over the third");
        cr_assert(strv_contains(fixed, "StateDirectory") && strv_contains(fixed, "KubeletRoot"));
        cr_assert_str_eq(s.state_dir, "/one");
        cr_assert_str_eq(s.runtime_dir, "/r");
        cr_assert_str_eq(s.kubelet_root_resolved, "/var/lib/kubelet");
        cr_assert_str_eq(s.loop_directories[0], "/one/loop", "a default follows what is in force");
        cr_assert(s.mounters_warm == 2 && s.mounters_max == 9);

        /* what is no longer set has its default again, for mounters too */
        _cleanup_strv_ char **none = NULL, **passed = NULL;
        put(config, "[Paths]\nStateDirectory=/one\n");
        cr_assert_eq(reload(&s, argv, &none, &err), 0);
        cr_assert_null(none);
        cr_assert_eq(s.mounters_max, 16);
        cr_assert_eq(settings_to_arguments(&s, &passed), 0);
        STRV_FOREACH (a, passed)
                cr_assert_null(strstr(*a, "Mounters"), "%s", *a);
}

Test(settings, reload_of_a_wrong_file_changes_nothing)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **rest = NULL, **fixed = NULL;

        put(config, "[Mounters]\nWarm=1\n");
        cr_assert_eq(from_arguments(&s, ARGV("--config", config), &rest, &err), 0);
        put(config, "[Mounters]\nWarm=3\nMax=many\n");
        cr_assert_lt(reload(&s, ARGV("--config", config), &fixed, &err), 0);
        cr_assert(strstr(err.text, "many"), "%s", err.text);
        cr_assert_null(fixed);
        cr_assert(s.mounters_warm == 1 && s.mounters_max == 16);

        error_done(&err);
        cr_assert_eq(unlink(config), 0);
        cr_assert_lt(reload(&s, ARGV("--config", config), &fixed, &err), 0, "the file is gone");
        cr_assert_eq(s.mounters_warm, 1);
}

Test(settings, kubelet_root_is_resolved)
{
        _cleanup_settings_ Settings s = SETTINGS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *real = NULL, *link = NULL;

        cr_assert(asprintf(&real, "%s/real", dir) > 0 && asprintf(&link, "%s/link", dir) > 0);
        cr_assert_eq(mkdir(real, 0755), 0);
        cr_assert_eq(symlink(real, link), 0);
        cr_assert_eq(settings_defaults(&s), 0);
        cr_assert_eq(str_replace(&s.kubelet_root, link), 0);
        cr_assert_eq(settings_resolve(&s, &err), 0);
        cr_assert_str_eq(s.kubelet_root_resolved, real);
}

Test(parse, sizes)
{
        static const struct {
                const char *text;
                int r;
                uint64_t size;
        } cases[] = {
                { "0", 0, 0 }, { "512", 0, 512 }, { "64M", 0, 64 << 20 }, { "64MiB", 0, 64 << 20 }, { "1g", 0, 1 << 30 },
                { "16777215T", 0, UINT64_C(16777215) << 40 }, { "16777216T", -ERANGE, 0 }, { "18446744073709551616", -ERANGE, 0 },
                { "", -EINVAL, 0 }, { "-1", -EINVAL, 0 }, { "+1", -EINVAL, 0 }, { " 1", -EINVAL, 0 }, { "1 M", -EINVAL, 0 },
                { "1MB", -EINVAL, 0 }, { "1.5G", -EINVAL, 0 }, { "0x10", -EINVAL, 0 }, { "M", -EINVAL, 0 }, { "1MM", -EINVAL, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t size = 7;

                cr_assert_eq(parse_size(cases[i].text, &size), cases[i].r, "'%s'", cases[i].text);
                cr_assert_eq(size, cases[i].r < 0 ? 7 : cases[i].size, "'%s' is %lu", cases[i].text, (unsigned long) size);
        }
}

Test(parse, durations)
{
        static const struct {
                const char *text;
                int r;
                uint64_t usec;
        } cases[] = {
                { "10", 0, 10000000 }, { "10s", 0, 10000000 }, { "100ms", 0, 100000 }, { "5 min", 0, 300000000 }, { "1h", 0, 3600000000 },
                { "5us", 0, 5 }, { "", -EINVAL, 0 }, { "-5", -EINVAL, 0 }, { "5 parsecs", -EINVAL, 0 }, { "18446744073709551615", -ERANGE, 0 },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                uint64_t usec = 7;

                cr_assert_eq(parse_usec(cases[i].text, &usec), cases[i].r, "'%s'", cases[i].text);
                cr_assert_eq(usec, cases[i].r < 0 ? 7 : cases[i].usec, "'%s' is %lu", cases[i].text, (unsigned long) usec);
        }
}

Test(parse, numbers_and_booleans)
{
        unsigned n = 7;
        bool b = false;

        cr_assert_eq(parse_unsigned("4294967295", &n), 0);
        cr_assert_eq(n, 4294967295U);
        cr_assert_eq(parse_unsigned("4294967296", &n), -ERANGE);
        cr_assert_eq(parse_unsigned("1x", &n), -EINVAL);
        cr_assert_eq(parse_unsigned("", &n), -EINVAL);
        cr_assert(parse_boolean("on", &b) == 0 && b);
        cr_assert(parse_boolean("0", &b) == 0 && !b);
        cr_assert_eq(parse_boolean("YES", &b), -EINVAL);
        cr_assert_eq(parse_boolean("", &b), -EINVAL);
}
