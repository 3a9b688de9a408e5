/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The error of an operation: which of errors.def, the errno behind it, the step it happened in and a text
 * for the operator. Operations take `Error *err`, return negative errno and fill *err exactly when they
 * fail; callers branch on err->code, never on the text. err may be NULL where the caller does not care.
 *
 *      _cleanup_error_ Error err = ERROR_INIT;
 *      if (volume_stage(v, &err) < 0)
 *              return error_report(&err);
 */

#include <stdbool.h>
#include <systemd/sd-bus.h>

#include "base/cleanup.h"

typedef enum ErrorCode {
        ERROR_NONE,
#define ERROR(code, name, class, remedy) ERROR_##code,
#include "protocol/errors.def"
#undef ERROR
        ERROR_MAX,
        ERROR_INVALID_CODE = -EINVAL,
} ErrorCode;

typedef struct Error {
        ErrorCode code;
        int error;        /* positive errno, 0 if there is none */
        const char *step; /* static string, such as "stage"; NULL if not within a step */
        char *text;       /* without the remedy; owned */
} Error;

#define ERROR_INIT ((Error) {})

/*
 * Fills *err (an earlier content is replaced) and returns -abs(error), or -EIO if error is 0, so that
 * `return error_set(err, ERROR_BUSY, EBUSY, "…");` reads as one statement. The text names the thing that
 * failed and the value that was wrong; the remedy comes from the table.
 */
int error_set(Error *err, ErrorCode code, int error, const char *format, ...) _printf_(4, 5);
/* Puts "<text>: " in front of the text that is there. */
void error_prefix(Error *err, const char *format, ...) _printf_(2, 3);
int error_oom(Error *err);

void error_done(Error *err);
/* Moves from into to, leaving from empty. */
void error_move(Error *to, Error *from);
int error_copy(Error *to, const Error *from);
static inline bool error_is_set(const Error *err)
{
        return err->code != ERROR_NONE;
}
/* The errno to return for a set error, negative. */
int error_errno(const Error *err);

const char *error_code_name(ErrorCode code); /* "NotBlank" */
ErrorCode error_code_from_name(const char *name); /* with or without "io.berth.Error."; ERROR_INVALID_CODE */
const char *error_code_remedy(ErrorCode code);
bool error_code_is_retryable(ErrorCode code);

/* Text and remedy as one string, as clients are to see it: "<text>. <remedy>". NULL if out of memory. */
char *error_render(const Error *err);

/*
 * On the wire: the D-Bus name is "io.berth.Error.<name>", the message is the text without the remedy (each
 * client renders it with its own table), prefixed by "[<step>] " if there is a step.
 */
int error_to_bus(const Error *err, sd_bus_error *ret);
/*
 * The reverse, for the answer to a call. Errors of D-Bus itself are mapped: no reply and disconnection to
 * `disconnected`, a time-out to TIMED_OUT, access denied to PERMISSION_DENIED, everything else to INTERNAL.
 * Returns the negative errno of the error.
 */
int error_from_bus(Error *err, const sd_bus_error *e, ErrorCode disconnected);

#define _cleanup_error_ _cleanup_(error_done)
