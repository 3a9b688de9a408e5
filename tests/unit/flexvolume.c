/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The shim's two translations: the kubelet's JSON to parameters, hostile JSON included, and results to the
 * answer the kubelet parses.
 */

#include <criterion/criterion.h>
#include <string.h>

#include "base/escape.h"
#include "call.h"
#include "options.h"
#include "protocol/names.h"
#include "reply.h"

static ErrorCode parse(const char *json, MountParams *p, Error *err)
{
        int r = options_parse(json, p, err);

        cr_assert_eq(r < 0, err->code != ERROR_NONE, "a failure and only a failure fills the error");
        return err->code;
}

/* Asserts that the JSON is refused and that the text has `expected` in it. */
static void refuse(const char *json, const char *expected)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse(json, &p, &err), ERROR_INVALID_ARGUMENT, "accepted: %.100s", json);
        cr_assert(strstr(err.text, expected), "'%s' does not tell '%s'", err.text, expected);
}

static const char recorded[] =
        "{\"empty\":\"\",\"image\":\"one\",\"kubernetes.io/fsType\":\"\",\"kubernetes.io/mounterArgs.FsGroup\":\"2000\","
        "\"kubernetes.io/pod.name\":\"one-labnode\",\"kubernetes.io/pod.namespace\":\"default\","
        "\"kubernetes.io/pod.uid\":\"fbdbc3ac\",\"kubernetes.io/pvOrVolumeName\":\"v\",\"kubernetes.io/readwrite\":\"rw\","
        "\"kubernetes.io/serviceAccount.name\":\"\",\"lsep\":\"\\u2028\","
        "\"special\":\"a\\u0026b \\u003cc\\u003e \\\"d\\\" \\\\e /f 'g' $h `i` äöü 中文 😀 \",\"tab\":\"x\\ty\\nz\"}";

Test(flexvolume, recorded_options)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse(recorded, &p, &err), ERROR_NONE, "%s", err.text);
        cr_assert_eq(p.source.n_entries, 5);
        cr_assert_str_eq(strmap_get(&p.source, "empty"), "");
        cr_assert_str_eq(strmap_get(&p.source, "image"), "one");
        cr_assert_str_eq(strmap_get(&p.source, "lsep"), "\u2028");
        cr_assert_str_eq(strmap_get(&p.source, "special"), "a&b <c> \"d\" \\e /f 'g' $h `i` äöü 中文 😀 ");
        cr_assert_str_eq(strmap_get(&p.source, "tab"), "x\ty\nz");
        cr_assert_str_eq(p.fs_type, "");
        cr_assert_str_eq(p.volume_name, "v");
        cr_assert_str_eq(p.pod_name, "one-labnode");
        cr_assert_str_eq(p.pod_namespace, "default");
        cr_assert_str_eq(p.pod_uid, "fbdbc3ac");
        cr_assert(!p.read_only);
        cr_assert_null(p.mount_options);
        cr_assert_eq(p.secrets.n_entries, 0);
}

Test(flexvolume, read_only)
{
        static const struct {
                const char *json;
                bool read_only;
        } cases[] = {
                { "{}", false },
                { "{\"kubernetes.io/readwrite\":\"ro\"}", true },
                { "{\"kubernetes.io/readwrite\":\"rw\",\"readOnly\":\"true\"}", true },
                { "{\"readOnly\":\"true\",\"kubernetes.io/readwrite\":\"rw\"}", true },
                { "{\"readOnly\":\"false\",\"kubernetes.io/readwrite\":\"ro\"}", true },
                { "{\"readOnly\":\"false\",\"kubernetes.io/readwrite\":\"rw\"}", false },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
                _cleanup_error_ Error err = ERROR_INIT;

                cr_assert_eq(parse(cases[i].json, &p, &err), ERROR_NONE);
                cr_assert_eq(p.read_only, cases[i].read_only, "%s", cases[i].json);
                cr_assert_eq(p.source.n_entries, 0);
        }
        refuse("{\"readOnly\":\"yes\"}", "readOnly");
        refuse("{\"readOnly\":\"\"}", "readOnly");
        refuse("{\"kubernetes.io/readwrite\":\"\"}", "kubernetes.io/readwrite");
}

Test(flexvolume, mount_options)
{
        static const char *const expected[] = { "noatime", "commit=60", " x y" };
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT, none = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse("{\"mountOptions\":\",noatime,,commit=60, x y,\"}", &p, &err), ERROR_NONE);
        cr_assert_eq(strv_length(p.mount_options), ELEMENTSOF(expected));
        for (size_t i = 0; i < ELEMENTSOF(expected); i++)
                cr_assert_str_eq(p.mount_options[i], expected[i]);
        cr_assert_eq(p.source.n_entries, 0);

        cr_assert_eq(parse("{\"mountOptions\":\"\"}", &none, &err), ERROR_NONE);
        cr_assert_null(none.mount_options);
}

Test(flexvolume, secrets)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(parse("{\"kubernetes.io/secret/key\":\"c2VjcmV0IQ==\",\"kubernetes.io/secret/empty\":\"\","
                           "\"kubernetes.io/secret/utf8\":\"w6TDtsO8\",\"key\":\"c2VjcmV0IQ==\"}",
                           &p, &err),
                     ERROR_NONE);
        cr_assert_eq(p.secrets.n_entries, 3);
        cr_assert_str_eq(strmap_get(&p.secrets, "key"), "secret!");
        cr_assert_str_eq(strmap_get(&p.secrets, "empty"), "");
        cr_assert_str_eq(strmap_get(&p.secrets, "utf8"), "äöü");
        cr_assert_eq(p.source.n_entries, 1);
        cr_assert_str_eq(strmap_get(&p.source, "key"), "c2VjcmV0IQ==");
}

Test(flexvolume, base64)
{
        static const struct {
                const char *encoded, *decoded; /* NULL: refused */
        } cases[] = {
                { "", "" },
                { "YQ==", "a" },
                { "YWI=", "ab" },
                { "YWJj", "abc" },
                { "YWJjZA==", "abcd" },
                { "+/+/", "\xfb\xff\xbf" },
                { "Y", NULL },        { "YQ", NULL },       { "YQ=", NULL },      { "YQ===", NULL },
                { "=", NULL },        { "====", NULL },     { "Y===", NULL },     { "YQ==YQ==", NULL },
                { "YR==", NULL },     { "YWJ=", NULL },     { "YQ =", NULL },     { "YQ==\n", NULL },
                { "YW-_", NULL },     { "YQ=a", NULL },     { "AAAA", NULL },     { "YQA=", NULL },
                { "\xc3\xa4\xc3\xa4", NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_free_ char *decoded = NULL;
                int r = base64_decode(cases[i].encoded, &decoded);

                if (!cases[i].decoded) {
                        cr_assert_eq(r, -EINVAL, "accepted: '%s'", cases[i].encoded);
                        cr_assert_null(decoded);
                } else {
                        cr_assert_eq(r, 0, "refused: '%s'", cases[i].encoded);
                        cr_assert_str_eq(decoded, cases[i].decoded);
                }
        }
}

Test(flexvolume, wrong_types)
{
        static const char *const values[] = { "1", "1.5", "true", "null", "[]", "{}", "[\"x\"]", "{\"x\":\"y\"}" };

        for (size_t i = 0; i < ELEMENTSOF(values); i++) {
                _cleanup_free_ char *json = NULL;

                cr_assert(asprintf(&json, "{\"good\":\"1\",\"bad one\":%s}", values[i]) > 0);
                refuse(json, "'bad one' is not a string");
        }
        refuse("{\"kubernetes.io/fsType\":7}", "'kubernetes.io/fsType' is not a string");
        refuse("{\"kubernetes.io/anything\":{}}", "'kubernetes.io/anything' is not a string");
        refuse("[\"a\",\"b\"]", "not a JSON object");
        refuse("\"text\"", "JSON");
        refuse("null", "JSON");
}

Test(flexvolume, malformed)
{
        refuse("", "ends too early");
        refuse("{", "JSON");
        refuse("{\"a\":\"b\"", "ends too early");
        refuse("{\"a\":\"b\"}x", "follows its end");
        refuse("{\"a\":\"b\"}{}", "follows its end");
        refuse("{'a':'b'}", "malformed");
        refuse("{\"a\":\"b\",}", "malformed");
        refuse("{\"a\":\"1\",\"a\":\"2\"}", "twice");
        refuse("{\"a\":\"1\",\"\\u0061\":\"2\"}", "twice");
        refuse("{\"a\":\"x\\u0000y\"}", "NUL");
        refuse("{\"a\\u0000b\":\"x\"}", "NUL");
        refuse("{\"a\":\"\xff\"}", "UTF-8");
        refuse("{\"a\":\"\xc0\x80\"}", "UTF-8");
        refuse("{\"\xed\xa0\x80\":\"x\"}", "UTF-8");
        refuse("{\"a\":\"\\ud800\"}", "malformed");
        refuse("{\"a\":\"x\ny\"}", "malformed");
        refuse("{\"kubernetes.io/secret/k\":\"/w==\"}", "'kubernetes.io/secret/k' is not UTF-8");
        refuse("{\"kubernetes.io/secret/k\":\"AA==\"}", "'kubernetes.io/secret/k'");
        refuse("{\"kubernetes.io/secret/k\":\"hunter2\"}", "'kubernetes.io/secret/k'");
}

/* What stands near an error may be a secret. */
Test(flexvolume, errors_quote_no_value)
{
        static const char *const cases[] = {
                "{\"kubernetes.io/secret/k\":\"aHVudGVyMg\"}",
                "{\"kubernetes.io/secret/k\":\"aHVudGVyMg==\" aHVudGVyMg}",
                "{\"kubernetes.io/secret/k\":\"aHVudGVyMg==\n\"}",
                "{\"kubernetes.io/secret/k\":\"aHVudGVyMg==\",\"kubernetes.io/secret/k\":\"aHVudGVyMg==\"}",
                "{\"kubernetes.io/secret/k\":aHVudGVyMg}",
                "{\"kubernetes.io/secret/k\":\"aHVudGVyMg",
                "{\"kubernetes.io/readwrite\":\"aHVudGVyMg\"}",
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
                _cleanup_error_ Error err = ERROR_INIT;

                cr_assert_eq(parse(cases[i], &p, &err), ERROR_INVALID_ARGUMENT);
                cr_assert_null(strstr(err.text, "aHV"), "%s", err.text);
                cr_assert_null(strstr(err.text, "hunter"), "%s", err.text);
        }
}

Test(flexvolume, huge_and_deep)
{
        static char json[2 * REQUEST_JSON_MAX];

        memset(json, '[', sizeof(json) - 1);
        refuse(json, "bytes");
        json[REQUEST_JSON_MAX - 1] = 0;
        refuse(json, "too deeply");

        /* the largest that fits: one long value */
        memset(json, 'x', sizeof(json) - 1);
        memcpy(json, "{\"a\":\"", 6);
        memcpy(json + REQUEST_JSON_MAX - 3, "\"}", 3);
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        cr_assert_eq(parse(json, &p, &err), ERROR_NONE);
        cr_assert_eq(strlen(strmap_get(&p.source, "a")), REQUEST_JSON_MAX - 9);

        /* a key that would drown the message */
        memset(json, 'k', sizeof(json) - 1);
        memcpy(json, "{\"", 2);
        memcpy(json + 50000, "\":1}", 5);
        _cleanup_mount_params_ MountParams q = MOUNT_PARAMS_INIT;
        cr_assert_eq(parse(json, &q, &err), ERROR_INVALID_ARGUMENT);
        cr_assert_lt(strlen(err.text), 400);
}

Test(flexvolume, many_keys)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        char json[REQUEST_JSON_MAX];
        size_t n = 0;

        for (unsigned i = 0; i < 5000; i++)
                n += (size_t) snprintf(json + n, sizeof(json) - n, "%c\"k%u\":\"%u\"", i ? ',' : '{', i, i);
        snprintf(json + n, sizeof(json) - n, "}");
        cr_assert_eq(parse(json, &p, &err), ERROR_NONE);
        cr_assert_eq(p.source.n_entries, 5000);
        cr_assert_str_eq(strmap_get(&p.source, "k4999"), "4999");
}

/* Whatever bytes a text has: the reply is one line of ASCII, one JSON value, and keeps the error's name. */
Test(flexvolume, failure_reply)
{
        static char huge[100000];
        memset(huge, '\xff', sizeof(huge) - 1);
        static char umlauts[9001];
        for (size_t i = 0; i + 2 < sizeof(umlauts); i += 2)
                memcpy(umlauts + i, "\xc3\xa4", 2);
        const char *texts[] = { "plain", "new\nline\ttab \"quotes\" \\ back", "bad \xff\xfe\xc3 utf-8", "äöü 中文 😀", "",
                                "</script>\x1b[31m", huge, umlauts };

        for (size_t i = 0; i < ELEMENTSOF(texts); i++) {
                _cleanup_error_ Error err = ERROR_INIT;
                json_error_t e;

                error_set(&err, ERROR_NOT_BLANK, EEXIST, "%s", texts[i]);
                json_t *reply = reply_failure(&err);
                cr_assert_not_null(reply);
                _cleanup_free_ char *line = reply_render(reply);
                cr_assert_not_null(line);
                for (const char *c = line; *c; c++)
                        cr_assert((*c >= 0x20 && *c < 0x7f) || (*c == '\n' && !c[1]), "byte %d", *c);

                json_t *parsed = json_loads(line, JSON_REJECT_DUPLICATES, &e);
                cr_assert_not_null(parsed, "%s", e.text);
                const char *message = json_string_value(json_object_get(parsed, "message"));
                cr_assert_str_eq(json_string_value(json_object_get(parsed, "status")), "Failure");
                cr_assert_leq(strlen(message), REPLY_MESSAGE_MAX);
                cr_assert(strstr(message, "(io.berth.Error.NotBlank)"));
                json_decref(parsed);
                json_decref(reply);
        }
}

Test(flexvolume, failure_has_the_remedy)
{
        _cleanup_error_ Error err = ERROR_INIT;

        error_set(&err, ERROR_SHRINK, EINVAL, "The volume has 10 bytes");
        json_t *reply = reply_failure(&err);
        cr_assert_str_eq(json_string_value(json_object_get(reply, "message")),
                         "The volume has 10 bytes. berth never makes a volume smaller. (io.berth.Error.Shrink)");
        json_decref(reply);
}

static json_t *serve(const char *program, char *const *args)
{
        return call_serve(program, args, (int) strv_length(args), UINT64_MAX);
}

static const char *status_of(json_t *reply)
{
        return json_string_value(json_object_get(reply, "status"));
}

Test(flexvolume, calls_without_agent)
{
        static const struct {
                char *args[7];
                const char *status;
        } cases[] = {
                { { "init" }, "Success" },
                { { "getvolumename", "{}" }, "Not supported" },
                { { "attach", "{}", "a-node-elsewhere" }, "Success" },
                { { "waitforattach", "", "{}" }, "Success" },
                { { "detach", "v", "a-node-elsewhere" }, "Success" },
                { { "isattached", "{}", "a-node-elsewhere" }, "Success" },
                { { "expandvolume", "{}", "/dir", "100", "10" }, "Success" },
                { { "expandvolume", "{}", "/dir", "-1", "10" }, "Failure" },
                { { "expandvolume", "{}", "/dir" }, "Failure" },
                { { "mount" }, "Failure" },
                { { "mount", "/dir" }, "Failure" },
                { { "mount", "/dir", "{}" }, "Failure" },
                { { "unmount", "/dir" }, "Failure" },
                { { "Mount", "/dir", "{}" }, "Not supported" },
                { { "" }, "Not supported" },
                { { "provision", "x" }, "Not supported" },
                { {}, "Failure" },
        };

        setenv(BERTH_SOCKET_ENV, "/nonexistent/berthd.sock", 1);
        setenv(BERTH_CONFIG_ENV, "/nonexistent/berthd.conf", 1);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                json_t *reply = serve("loop", cases[i].args);
                cr_assert_str_eq(status_of(reply), cases[i].status, "%s", cases[i].args[0]);
                json_decref(reply);
        }
}

Test(flexvolume, capabilities)
{
        static const struct {
                const char *program;
                bool device;
        } cases[] = { { "loop", true },           { "/plugins/berth~loop/loop", true },
                      { "/a b/berth~nfs", false }, { "/plugins/berth~nfs/nfs", false },
                      { "rbd", true } };

        setenv(BERTH_CONFIG_ENV, "/nonexistent/berthd.conf", 1);
        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                json_t *reply = serve(cases[i].program, (char *[]) { "init", NULL });
                json_t *c = json_object_get(reply, "capabilities");

                cr_assert_eq(json_object_size(c), 5);
                cr_assert(json_is_false(json_object_get(c, "attach")));
                cr_assert(json_is_true(json_object_get(c, "supportsMetrics")));
                cr_assert_eq(json_is_true(json_object_get(c, "fsGroup")), cases[i].device);
                cr_assert_eq(json_is_true(json_object_get(c, "selinuxRelabel")), cases[i].device);
                cr_assert_eq(json_is_true(json_object_get(c, "requiresFSResize")), cases[i].device);
                json_decref(reply);
        }
}
