/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The table of message ids (messages.def). Pure; used where berthd logs. */

#include "protocol/messages.h"

static const char *const error_ids[ERROR_MAX] = {
#define ERROR_MESSAGE(code, id, what) [ERROR_##code] = id,
#define EVENT_MESSAGE(name, id, what)
#include "protocol/messages.def"
#undef ERROR_MESSAGE
#undef EVENT_MESSAGE
};

static const char *const event_ids[_EVENT_MAX] = {
#define ERROR_MESSAGE(code, id, what)
#define EVENT_MESSAGE(name, id, what) [EVENT_##name] = id,
#include "protocol/messages.def"
#undef ERROR_MESSAGE
#undef EVENT_MESSAGE
};

const char *event_message_id(Event event)
{
        return event >= 0 && event < _EVENT_MAX ? event_ids[event] : NULL;
}

const char *error_code_message_id(ErrorCode code)
{
        return code > ERROR_NONE && code < ERROR_MAX ? error_ids[code] : NULL;
}
