/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The client library: what the shim, berthctl and the tests use to talk to berthd. Synchronous, one
 * connection, one call at a time. All functions are operations: negative errno and *err.
 *
 * A connection that cannot be made, or is lost before the answer, is ERROR_AGENT_UNREACHABLE; an answer that
 * does not come within the deadline is ERROR_IN_PROGRESS (the agent works on; repeating joins it).
 */

#include <stdint.h>

#include "protocol/bus-util.h"
#include "protocol/error.h"

/*
 * Connects to the socket (NULL: $BERTH_SOCKET, else the default) and authenticates, within deadline_usec
 * (CLOCK_BOOTTIME, absolute; UINT64_MAX: none).
 */
int client_connect(const char *socket, uint64_t deadline_usec, sd_bus **ret, Error *err);

/* One call over the connection, such as client_mount(); may be made twice. */
typedef int (*ClientAsk)(sd_bus *bus, void *userdata, Error *err);
/*
 * Connects and asks. If berthd ends before it has answered, as it does when its package is upgraded, its successor is waited for and
 * asked the same, once: requests are idempotent. socket and deadline_usec as above.
 */
int client_ask(const char *socket, uint64_t deadline_usec, ClientAsk ask, void *userdata, Error *err);

/* Makes a call message to io.berth.Agent1's method; the caller appends the arguments. */
int client_new_call(sd_bus *bus, const char *method, sd_bus_message **ret, Error *err);
/* Sends it and waits for the answer until deadline_usec (as above). ret_reply may be NULL. */
int client_call(sd_bus *bus, sd_bus_message *call, uint64_t deadline_usec, sd_bus_message **ret_reply,
                Error *err);

/* The parameters of Mount and Attach, filled by the shim from JSON and by berthctl from arguments. */
typedef struct MountParams {
        char *target; /* Mount only */
        char *driver;
        StrMap source;
        StrMap secrets;
        char *fs_type; /* NULL: the driver's default */
        bool read_only;
        char **mount_options;
        char *volume_name;
        char *pod_name, *pod_namespace, *pod_uid;
} MountParams;

#define MOUNT_PARAMS_INIT ((MountParams) {})
/* Frees everything; secrets are overwritten first. */
void mount_params_done(MountParams *p);
#define _cleanup_mount_params_ _cleanup_(mount_params_done)

/* ret_volume (the object path) and ret_device may be NULL; else the caller frees them. */
int client_mount(sd_bus *bus, const MountParams *p, uint64_t deadline_usec, char **ret_volume, Error *err);
int client_attach(sd_bus *bus, const MountParams *p, uint64_t deadline_usec, char **ret_device, Error *err);
int client_unmount(sd_bus *bus, const char *target, uint64_t deadline_usec, Error *err);
int client_detach(sd_bus *bus, const char *volume_name, uint64_t deadline_usec, Error *err);
int client_expand(sd_bus *bus, const char *target, uint64_t size, uint64_t deadline_usec, uint64_t *ret_size,
                  Error *err);

/* CLOCK_BOOTTIME now, in microseconds: what deadlines count in, since it goes on during suspend. */
uint64_t now_boottime_usec(void);
