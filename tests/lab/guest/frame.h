/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What tests/lab/guest/on (host) and the guest's agent say to each other on one virtio-serial port, which carries one
 * command at a time. Both ends run on the same machine, so numbers are in its byte order.
 *
 *     host:  COMMAND (argv, each word with its NUL), then any of INPUT, INPUT_END, KILL
 *     guest: any of OUTPUT, ERROR_OUTPUT, then EXITED (a wait status as int32_t)
 *     host:  GOODBYE; the port is free for the next command
 *
 * A host that goes away without GOODBYE leaves the port unusable until the guest is started anew: see on.c. */

#include <stdint.h>

typedef enum FrameType {
        FRAME_COMMAND = 1,
        FRAME_INPUT,
        FRAME_INPUT_END,
        FRAME_KILL,
        FRAME_GOODBYE,
        FRAME_OUTPUT,
        FRAME_ERROR_OUTPUT,
        FRAME_EXITED,
} FrameType;

typedef struct FrameHeader {
        uint32_t type;
        uint32_t length; /* of what follows */
} FrameHeader;

#define FRAME_LENGTH_MAX (1024 * 1024)
#define FRAME_CHUNK 32768

/* Ports are called so in the guest, the number from 0 up. Of 16, the guest's kernel did not hear of the last that the host's end
 * is open: qemu tells more about them than fits into its queue of 32 messages. */
#define PORT_NAME "lab."
#define PORT_MAX 12
