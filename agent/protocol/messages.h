/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The journal's MESSAGE_ID= of what is logged (messages.def): `journalctl -x` shows the catalog's entry for it, and
 * `journalctl MESSAGE_ID=…` finds all lines of one sort. The catalog is packaging/catalog/berth.catalog.
 */

#include "base/log.h"
#include "protocol/error.h"

typedef enum Event {
#define ERROR_MESSAGE(code, id, what)
#define EVENT_MESSAGE(name, id, what) EVENT_##name,
#include "protocol/messages.def"
#undef ERROR_MESSAGE
#undef EVENT_MESSAGE
        _EVENT_MAX,
        _EVENT_INVALID = -EINVAL,
} Event;

const char *event_message_id(Event event);
/* NULL for ERROR_NONE, and for an error that messages.def does not know. */
const char *error_code_message_id(ErrorCode code);

/* One line of that sort, without other fields. */
#define log_event(level, event, ...)                                                                         \
        log_fields(level, (const LogField[]) { { "MESSAGE_ID", event_message_id(event) }, {} }, __VA_ARGS__)
