/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Who waits for an operation, what they are answered, and the one line in the log. Runs in berthd; a caller that is gone costs nothing.
 */

#include "daemon/operation-internal.h"

#include <string.h>

#include "base/log.h"
#include "protocol/bus-util.h"
#include "protocol/messages.h"
#include "protocol/names.h"

int operation_add_waiter(Operation *op, sd_bus_message *call)
{
        Waiter *grown = reallocarray(op->waiters, op->n_waiters + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;

        op->waiters = grown;
        op->waiters[op->n_waiters++] = (Waiter) {
                .call = sd_bus_message_ref(call),
                .deadline_usec = now_boottime_usec() + op->manager->settings.request_timeout_usec,
        };
        op->had_waiters = true;
        op->manager->n_waiters++;
        return 0;
}

bool operation_is_awaited(Operation *op)
{
        if (!op->had_waiters)
                return true; /* berthd's own wish never lapses */
        for (size_t i = 0; i < op->n_waiters; i++)
                if (sd_bus_is_open(sd_bus_message_get_bus(op->waiters[i].call)) > 0)
                        return true;
        return false;
}

void operation_reply_error(sd_bus_message *call, const Error *err)
{
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;

        error_to_bus(err, &e);
        (void) sd_bus_reply_method_error(call, &e);
}

static int append_stats(sd_bus_message *m, const StepResult *s)
{
        const struct {
                const char *key;
                uint64_t value;
        } numbers[] = {
                { "totalBytes", s->usage.total_bytes },   { "availableBytes", s->usage.available_bytes },
                { "usedBytes", s->usage.used_bytes },     { "totalInodes", s->usage.total_inodes },
                { "freeInodes", s->usage.free_inodes },   { "usedInodes", s->usage.used_inodes },
        };
        int r = sd_bus_message_open_container(m, 'a', "{sv}");

        for (size_t i = 0; i < ELEMENTSOF(numbers) && r >= 0; i++)
                r = bus_append_entry(m, numbers[i].key, "t", numbers[i].value);
        if (r >= 0)
                r = bus_append_entry(m, "healthy", "b", (int) s->healthy);
        if (r >= 0)
                r = bus_append_entry(m, "reason", "s", str_or(s->reason, ""));
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_answer(const Operation *op, sd_bus_message *m)
{
        _cleanup_free_ char *path = NULL;

        switch (op->type) {
        case OPERATION_MOUNT:
                if (sd_bus_path_encode(VOLUME_PATH_PREFIX, op->volume->key, &path) < 0)
                        return -ENOMEM;
                return sd_bus_message_append(m, "o", path);
        case OPERATION_ATTACH:
                return sd_bus_message_append(m, "s", str_or(op->volume->device, ""));
        case OPERATION_EXPAND:
                return sd_bus_message_append(m, "t", op->result.size);
        case OPERATION_STATS:
                return append_stats(m, &op->result);
        case OPERATION_FENCE:
                return sd_bus_message_append_strv(m, op->result.holders);
        case OPERATION_FORCE_DETACH:
                return sd_bus_message_append(m, "s", str_or(op->result.device, ""));
        case OPERATION_UNMOUNT:
        case OPERATION_DETACH:
        case OPERATION_FORGET:
        case OPERATION_CLEANUP:
        case OPERATION_REPUBLISH:
        case OPERATION_CHECK:
        case OPERATION_SCAN:
        case _OPERATION_TYPE_MAX:
        case _OPERATION_TYPE_INVALID:
                return 0;
        }
        return 0;
}

static void reply_success(Operation *op, sd_bus_message *call)
{
        _cleanup_message_ sd_bus_message *reply = NULL;

        if (sd_bus_message_new_method_return(call, &reply) < 0 || append_answer(op, reply) < 0)
                return;
        (void) sd_bus_send(NULL, reply, NULL);
}

/* Answers the first n who wait: with err, or with success if it is NULL. */
void operation_answer_first(Operation *op, size_t n, const Error *err)
{
        for (size_t i = 0; i < n; i++) {
                if (err)
                        operation_reply_error(op->waiters[i].call, err);
                else
                        reply_success(op, op->waiters[i].call);
                sd_bus_message_unref(op->waiters[i].call);
        }
        op->n_waiters -= n;
        op->manager->n_waiters -= (unsigned) n;
        if (n > 0 && op->n_waiters > 0)
                memmove(op->waiters, op->waiters + n, op->n_waiters * sizeof(*op->waiters));
}

/* The same for everybody. */
void operation_answer(Operation *op, const Error *err)
{
        operation_answer_first(op, op->n_waiters, err);
}

/* The one line a request: with the fields that journalctl filters by. */
void operation_log(Operation *op, const Error *err)
{
        char request[24], duration[24];
        const LogField fields[] = {
                { "VOLUME", op->volume ? op->volume->key : op->key },
                { "TARGET", op->target },
                { "POD_UID", op->params.pod_uid },
                { "REQUEST", request },
                { "STEP", err ? str_or(err->step, step_to_string(op->step)) : NULL },
                { "DURATION_USEC", duration },
                { "ERROR", err ? error_code_name(err->code) : NULL },
                { "MESSAGE_ID", err ? error_code_message_id(err->code) : NULL },
                { NULL, NULL },
        };

        snprintf(request, sizeof(request), "%llu", (unsigned long long) op->request);
        snprintf(duration, sizeof(duration), "%llu",
                 (unsigned long long) (now_boottime_usec() - op->started_usec));
        if (err)
                log_fields(LOG_WARNING, fields, "%s failed: %s", operation_type_to_string(op->type),
                           str_or(err->text, ""));
        else
                log_fields(op->had_waiters && op->type != OPERATION_STATS ? LOG_INFO : LOG_DEBUG, fields,
                           "%s done", operation_type_to_string(op->type));
}

const char *operation_volume_key(const Operation *op)
{
        return op->volume ? op->volume->key : op->key;
}
