/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the shim answers: one JSON object on one line. The kubelet reads status, message, device, attached,
 * volumeNewSize and capabilities (DriverStatus in pkg/volume/flexvolume/driver-call.go) and ignores the rest.
 */

#include <jansson.h>

#include "protocol/error.h"

/* Longest message, in bytes of UTF-8: it ends up in an event of the pod. */
#define REPLY_MESSAGE_MAX 1500U

/* New references, or NULL if out of memory. Fields may be added with json_object_set_new(). */
json_t *reply_success(void);
/* The kubelet remembers this for the call until the driver is probed anew: only for what is never supported. */
json_t *reply_not_supported(void);
/* The error's rendering and its D-Bus name; always valid UTF-8 and bounded, whatever bytes the text has. */
json_t *reply_failure(const Error *err);

/* The reply (which may be NULL) as the line to write, owned by the caller; NULL if out of memory. */
char *reply_render(const json_t *reply);
