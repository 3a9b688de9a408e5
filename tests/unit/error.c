/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* protocol/error.h and its table errors.def. */

#include <criterion/criterion.h>

#include "protocol/error.h"

#include <ctype.h>
#include <string.h>

#include "base/strmap.h"

#define FOREACH_CODE(c) for (ErrorCode c = ERROR_NONE + 1; c < ERROR_MAX; c++)

Test(error, names_are_unique_and_found_again)
{
        FOREACH_CODE(c) {
                const char *name = error_code_name(c);
                _cleanup_free_ char *full = NULL;

                cr_assert(isupper((unsigned char) name[0]), "%s is no D-Bus error name's last part", name);
                for (const char *p = name; *p; p++)
                        cr_assert(isalnum((unsigned char) *p), "%s is no D-Bus error name's last part", name);
                cr_assert_eq(error_code_from_name(name), c, "%s stands twice", name);
                cr_assert(asprintf(&full, "io.berth.Error.%s", name) > 0);
                cr_assert_eq(error_code_from_name(full), c, "%s", full);
        }
        cr_assert_eq(error_code_from_name("io.berth.Error."), ERROR_INVALID_CODE);
        cr_assert_eq(error_code_from_name("org.freedesktop.DBus.Error.Failed"), ERROR_INVALID_CODE);
        cr_assert_eq(error_code_from_name(NULL), ERROR_INVALID_CODE);
}

/* A remedy is a sentence, or ends with the command to run: then no full stop may be copied along with it. */
Test(error, remedies_can_be_acted_on)
{
        FOREACH_CODE(c) {
                const char *remedy = error_code_remedy(c), *command = strrchr(remedy, ':');
                size_t n = strlen(remedy);

                cr_assert_gt(n, 10, "%s has no remedy", error_code_name(c));
                cr_assert(isupper((unsigned char) remedy[0]) || strncmp(remedy, "berth", 5) == 0,
                          "the remedy of %s starts in the middle: %s", error_code_name(c), remedy);
                if (remedy[n - 1] == '.')
                        continue;
                cr_assert(command && command[1] == ' ' && islower((unsigned char) command[2]),
                          "the remedy of %s ends neither with a full stop nor with a command: %s", error_code_name(c), remedy);
        }
}

Test(error, class_is_known_for_the_unmistakable)
{
        cr_assert(error_code_is_retryable(ERROR_BUSY));
        cr_assert(error_code_is_retryable(ERROR_IN_PROGRESS));
        cr_assert(error_code_is_retryable(ERROR_AGENT_UNREACHABLE));
        cr_assert_not(error_code_is_retryable(ERROR_NOT_BLANK));
        cr_assert_not(error_code_is_retryable(ERROR_WAS_FORMATTED));
        cr_assert_not(error_code_is_retryable(ERROR_NONE));
        cr_assert_not(error_code_is_retryable(ERROR_MAX));
}

Test(error, set_returns_the_negative_errno)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(error_set(&err, ERROR_BUSY, EBUSY, "device %s", "x"), -EBUSY);
        cr_assert_eq(err.error, EBUSY);
        cr_assert_str_eq(err.text, "device x");
        cr_assert_eq(error_set(&err, ERROR_TIMED_OUT, -ETIMEDOUT, "later"), -ETIMEDOUT, "a negative errno is taken as well");
        cr_assert_eq(err.code, ERROR_TIMED_OUT);
        cr_assert_eq(error_errno(&err), -ETIMEDOUT);
        cr_assert_eq(error_set(&err, ERROR_NOT_BLANK, 0, "data"), -EIO, "no errno at all must still be a failure");
        cr_assert_eq(error_set(NULL, ERROR_BUSY, EBUSY, "nobody listens"), -EBUSY);
}

Test(error, render_joins_text_and_remedy)
{
        static const struct {
                const char *text, *rendered;
        } cases[] = {
                { "Something is there", "Something is there. Repeat the request once the holder has let go." },
                { "Something is there.", "Something is there. Repeat the request once the holder has let go." },
                { "", "Busy. Repeat the request once the holder has let go." },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_error_ Error err = ERROR_INIT;
                (void) error_set(&err, ERROR_BUSY, EBUSY, "%s", cases[i].text);
                _cleanup_free_ char *rendered = error_render(&err);
                cr_assert_str_eq(rendered, cases[i].rendered, "'%s'", rendered);
        }
}

Test(error, prefix_move_copy)
{
        _cleanup_error_ Error a = ERROR_INIT, b = ERROR_INIT, c = ERROR_INIT;

        (void) error_set(&a, ERROR_BUSY, EBUSY, "held");
        error_prefix(&a, "Volume %d", 7);
        cr_assert_str_eq(a.text, "Volume 7: held");
        error_move(&b, &a);
        cr_assert_not(error_is_set(&a));
        cr_assert_null(a.text);
        cr_assert_eq(error_copy(&c, &b), 0);
        cr_assert_str_eq(c.text, b.text);
        cr_assert_neq(c.text, b.text, "the copy owns its text");
        error_prefix(NULL, "nobody");
        error_move(NULL, &c);
        cr_assert_null(c.text);
}

Test(error, wire_keeps_code_and_text)
{
        FOREACH_CODE(c) {
                sd_bus_error e = SD_BUS_ERROR_NULL;
                _cleanup_error_ Error sent = ERROR_INIT, received = ERROR_INIT;

                (void) error_set(&sent, c, EIO, "Volume x%% y");
                (void) error_to_bus(&sent, &e);
                cr_assert_lt(error_from_bus(&received, &e, ERROR_MOUNTER_DIED), 0, "%s must stay a failure", error_code_name(c));
                cr_assert_eq(received.code, c, "%s became %s", error_code_name(c), error_code_name(received.code));
                cr_assert_str_eq(received.text, "Volume x% y");
                sd_bus_error_free(&e);
        }
}

Test(error, wire_names_the_step)
{
        sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_error_ Error sent = ERROR_INIT, received = ERROR_INIT;

        (void) error_set(&sent, ERROR_MOUNT_FAILED, EIO, "no");
        sent.step = "stage";
        (void) error_to_bus(&sent, &e);
        (void) error_from_bus(&received, &e, ERROR_MOUNTER_DIED);
        cr_assert_str_eq(received.text, "[stage] no");
        sd_bus_error_free(&e);
}

/* From mounter to berthd to client: named once. */
Test(error, wire_names_the_step_once)
{
        sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_error_ Error sent = ERROR_INIT, received = ERROR_INIT;

        (void) error_set(&sent, ERROR_MOUNT_FAILED, EIO, "[stage] no");
        sent.step = "stage";
        (void) error_to_bus(&sent, &e);
        (void) error_from_bus(&received, &e, ERROR_MOUNTER_DIED);
        cr_assert_str_eq(received.text, "[stage] no");
        sd_bus_error_free(&e);
}

/* A message with such bytes as they are could not be sent at all. */
Test(error, wire_carries_any_bytes)
{
        static const struct {
                const char *text, *sent;
        } cases[] = {
                { "/dir/\xff\n gone", "/dir/\\xff\\x0a gone" },
                { "half \xc3", "half \\xc3" },
                { "noncharacter \xef\xbf\xbf", "noncharacter \\xef\\xbf\\xbf" },
                { "äöü \\ \n 中文", "äöü \\ \n 中文" }, /* what can be sent is left as it is */
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                sd_bus_error e = SD_BUS_ERROR_NULL;
                _cleanup_error_ Error sent = ERROR_INIT;

                (void) error_set(&sent, ERROR_TARGET_MISSING, ENOENT, "%s", cases[i].text);
                cr_assert_lt(error_to_bus(&sent, &e), 0, "as sd_bus_error_set() has it");
                cr_assert_str_eq(e.message, cases[i].sent);
                sd_bus_error_free(&e);
        }
}

Test(error, errors_of_dbus_are_mapped)
{
        static const struct {
                const char *name;
                ErrorCode code;
        } cases[] = {
                { SD_BUS_ERROR_NO_REPLY, ERROR_MOUNTER_DIED },
                { SD_BUS_ERROR_DISCONNECTED, ERROR_MOUNTER_DIED },
                { SD_BUS_ERROR_TIMEOUT, ERROR_TIMED_OUT },
                { SD_BUS_ERROR_ACCESS_DENIED, ERROR_PERMISSION_DENIED },
                { SD_BUS_ERROR_INVALID_ARGS, ERROR_INVALID_ARGUMENT },
                { SD_BUS_ERROR_UNKNOWN_METHOD, ERROR_INTERNAL },
                { "io.berth.Error.FromTheFuture", ERROR_INTERNAL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                sd_bus_error e = SD_BUS_ERROR_NULL;
                _cleanup_error_ Error err = ERROR_INIT;

                (void) sd_bus_error_set(&e, cases[i].name, "text");
                cr_assert_lt(error_from_bus(&err, &e, ERROR_MOUNTER_DIED), 0, "%s", cases[i].name);
                cr_assert_eq(err.code, cases[i].code, "%s became %s", cases[i].name, error_code_name(err.code));
                sd_bus_error_free(&e);
        }
}
