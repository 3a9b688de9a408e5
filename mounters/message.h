/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What calls of io.berth.Mounter1 bring and their answers tell: dictionaries a{sv}, read into a MounterVolume and written from a MounterResult. */

#include <systemd/sd-bus.h>

#include "mounters/mounter.h"

/* Which keys an answer has; bits of result_send()'s `answer`. */
typedef enum Answer {
        ANSWER_IDENTITY = 1 << 0,
        ANSWER_CREATE = 1 << 1,
        ANSWER_DEVICE = 1 << 2,
        ANSWER_NEXT = 1 << 3,
        ANSWER_FILE_SYSTEM = 1 << 4,
        ANSWER_MOUNT_ID = 1 << 5,
        ANSWER_LAYERS = 1 << 6,
        ANSWER_SIZE = 1 << 7,
        ANSWER_GONE = 1 << 8,
        ANSWER_PRESENCE = 1 << 9,
        ANSWER_HEALTH = 1 << 10,
        ANSWER_USAGE = 1 << 11,
        ANSWER_DEVICES = 1 << 12,
        ANSWER_HOLDERS = 1 << 13,
} Answer;


/* Frees what the request brought; secrets are erased. */
void mounter_volume_done(MounterVolume *v);
#define _cleanup_volume_ _cleanup_(mounter_volume_done)
#define _cleanup_result_ _cleanup_(mounter_result_done)

/*
 * Reads the dictionary at the message's position. Unknown keys are passed over; one of the wrong type or given twice is
 * INVALID_ARGUMENT. With secrets in it, this process dumps no core from then on.
 */
int request_read(sd_bus_message *msg, MounterVolume *v, Error *err);

/* Answers the call with those keys of the result. Negative errno. Helper. */
int result_send(sd_bus_message *call, unsigned answer, const MounterResult *result);
