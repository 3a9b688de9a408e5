/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Errors of operations and their table (errors.def). Used by every process; never blocks. Running out of
 * memory while describing an error loses the text, never the code.
 */


#include "protocol/error.h"

#include <stdarg.h>
#include <string.h>

#include "base/escape.h"
#include "base/strmap.h"

#define NAME_PREFIX "io.berth.Error."

typedef enum ErrorClass { CLASS_FINAL, CLASS_RETRY } ErrorClass;

static const struct {
        const char *name;
        ErrorClass class;
        const char *remedy;
} error_table[ERROR_MAX] = {
#define ERROR(code, name, class, remedy) [ERROR_##code] = { name, CLASS_##class, remedy },
#include "protocol/errors.def"
#undef ERROR
};

int error_set(Error *err, ErrorCode code, int error, const char *format, ...)
{
        if (error < 0)
                error = -error;
        if (err) {
                va_list ap;
                char *text = NULL;

                va_start(ap, format);
                if (vasprintf(&text, format, ap) < 0)
                        text = NULL;
                va_end(ap);

                error_done(err);
                *err = (Error) { .code = code, .error = error, .text = text };
        }
        return error ? -error : -EIO;
}

void error_prefix(Error *err, const char *format, ...)
{
        _cleanup_free_ char *prefix = NULL;
        char *text = NULL;
        va_list ap;

        if (!err || !err->text)
                return;
        va_start(ap, format);
        if (vasprintf(&prefix, format, ap) < 0)
                prefix = NULL;
        va_end(ap);
        if (prefix && asprintf(&text, "%s: %s", prefix, err->text) >= 0) {
                free(err->text);
                err->text = text;
        }
}

int error_oom(Error *err)
{
        return error_set(err, ERROR_INTERNAL, ENOMEM, "Out of memory");
}

void error_done(Error *err)
{
        free(err->text);
        *err = ERROR_INIT;
}

void error_move(Error *to, Error *from)
{
        if (!to) {
                error_done(from);
                return;
        }
        error_done(to);
        *to = *from;
        *from = ERROR_INIT;
}

int error_copy(Error *to, const Error *from)
{
        error_done(to);
        *to = *from;
        to->text = from->text ? strdup(from->text) : NULL;
        return from->text && !to->text ? -ENOMEM : 0;
}

int error_errno(const Error *err)
{
        return err->error ? -err->error : -EIO;
}

const char *error_code_name(ErrorCode code)
{
        return code > ERROR_NONE && code < ERROR_MAX ? error_table[code].name : "None";
}

ErrorCode error_code_from_name(const char *name)
{
        if (name && strncmp(name, NAME_PREFIX, strlen(NAME_PREFIX)) == 0)
                name += strlen(NAME_PREFIX);
        for (ErrorCode c = ERROR_NONE + 1; name && c < ERROR_MAX; c++)
                if (strcmp(error_table[c].name, name) == 0)
                        return c;
        return ERROR_INVALID_CODE;
}

const char *error_code_remedy(ErrorCode code)
{
        return code > ERROR_NONE && code < ERROR_MAX ? error_table[code].remedy : "";
}

bool error_code_is_retryable(ErrorCode code)
{
        return code > ERROR_NONE && code < ERROR_MAX && error_table[code].class == CLASS_RETRY;
}

char *error_render(const Error *err)
{
        _cleanup_free_ char *escaped = NULL;
        const char *text = str_or(err->text, error_code_name(err->code));

        /* as error_to_bus() does: what is kept of it must be fit to be sent and recorded */
        if (!bytes_are_text(text)) {
                escaped = bytes_escape(text);
                if (!escaped)
                        return NULL;
                text = escaped;
        }
        size_t n = strlen(text);
        bool stop = n > 0 && strchr(".!?", text[n - 1]);
        char *rendered = NULL;

        if (asprintf(&rendered, "%s%s %s", text, stop ? "" : ".", error_code_remedy(err->code)) < 0)
                return NULL;
        return rendered;
}

/* Whether the text came from another process with "[<step>] " in front of it already. */
static bool names_step(const char *text, const char *step)
{
        size_t n = strlen(step);

        return text[0] == '[' && strncmp(text + 1, step, n) == 0 && text[n + 1] == ']';
}

int error_to_bus(const Error *err, sd_bus_error *ret)
{
        _cleanup_free_ char *name = NULL, *escaped = NULL;
        const char *text = str_or(err->text, "");

        if (asprintf(&name, NAME_PREFIX "%s", error_code_name(err->code)) < 0)
                return -ENOMEM;
        /* a path in it may have any bytes; with them the answer could not be sent at all */
        if (!bytes_are_text(text)) {
                escaped = bytes_escape(text);
                if (!escaped)
                        return -ENOMEM;
                text = escaped;
        }
        if (err->step && !names_step(text, err->step))
                return sd_bus_error_setf(ret, name, "[%s] %s", err->step, text);
        return sd_bus_error_set(ret, name, text);
}

int error_from_bus(Error *err, const sd_bus_error *e, ErrorCode disconnected)
{
        const char *text = str_or(e->message, str_or(e->name, "no reason given"));
        ErrorCode code = error_code_from_name(e->name);

        if (code != ERROR_INVALID_CODE)
                return error_set(err, code, code == ERROR_BUSY || code == ERROR_LOCKED ? EBUSY : EIO, "%s", text);

        if (sd_bus_error_has_names(e, SD_BUS_ERROR_NO_REPLY, SD_BUS_ERROR_DISCONNECTED))
                code = disconnected;
        else if (sd_bus_error_has_name(e, SD_BUS_ERROR_TIMEOUT))
                code = ERROR_TIMED_OUT;
        else if (sd_bus_error_has_name(e, SD_BUS_ERROR_ACCESS_DENIED))
                code = ERROR_PERMISSION_DENIED;
        else if (sd_bus_error_has_names(e, SD_BUS_ERROR_INVALID_ARGS, SD_BUS_ERROR_INVALID_SIGNATURE))
                code = ERROR_INVALID_ARGUMENT;
        else
                code = ERROR_INTERNAL;
        return error_set(err, code, sd_bus_error_get_errno(e), "%s", text);
}
