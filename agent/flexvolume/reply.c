/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The shim's answers. A text that came from elsewhere (paths, options) may hold any bytes, and the kubelet
 * must be able to parse the answer nevertheless: it is escaped, cut at a character, and written as ASCII.
 * Never blocks.
 */

#include "reply.h"

#include <string.h>

#include "base/escape.h"

static json_t *reply_new(const char *status)
{
        return json_pack("{s:s}", "status", status);
}

json_t *reply_success(void)
{
        return reply_new("Success");
}

json_t *reply_not_supported(void)
{
        return reply_new("Not supported");
}

/* Cuts s, which is valid UTF-8, to at most max bytes without splitting a character. */
static void cut(char *s, size_t max)
{
        if (strlen(s) <= max)
                return;
        while (max > 0 && ((unsigned char) s[max] & 0xc0) == 0x80)
                max--;
        s[max] = 0;
}

json_t *reply_failure(const Error *err)
{
        /* what came over D-Bus may be escaped already: taking that back first escapes all texts once */
        _cleanup_free_ char *text = error_render(err), *bytes = text ? bytes_unescape(text) : NULL,
                            *escaped = bytes ? bytes_escape(bytes) : NULL, *message = NULL;

        if (!escaped)
                return NULL;
        /* the name is what programs look for: it is never cut */
        cut(escaped, REPLY_MESSAGE_MAX - 64);
        if (asprintf(&message, "%s (io.berth.Error.%s)", escaped, error_code_name(err->code)) < 0)
                return NULL;
        return json_pack("{s:s, s:s}", "status", "Failure", "message", message);
}

char *reply_render(const json_t *reply)
{
        _cleanup_free_ char *text = reply ? json_dumps(reply, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        char *line = NULL;

        if (!text || asprintf(&line, "%s\n", text) < 0)
                return NULL;
        return line;
}
