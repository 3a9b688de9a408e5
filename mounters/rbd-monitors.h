/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Which of a source's monitors answer, and by which messenger. */

#include "mounters/rbd-source.h"

typedef struct RbdAddresses {
        char *list;     /* as the kernel takes them: "10.0.0.1:3300,10.0.0.2:3300" */
        char *mon_host; /* as librados does: "v2:10.0.0.1:3300,…" */
        uint8_t protocol; /* 1 or 2 */
} RbdAddresses;
#define RBD_ADDRESSES_INIT ((RbdAddresses) {})
void rbd_addresses_done(RbdAddresses *a);
#define _cleanup_rbd_addresses_ _cleanup_(rbd_addresses_done)

/*
 * protocol: 1 or 2 if it has to be that messenger, 0 for either (then 2, where some monitor has it). Waits for the first answer at most
 * timeout_usec, for the others a moment longer. Errors: MONITORS_UNREACHABLE.
 */
int rbd_monitors_answering(const RbdSource *s, uint8_t protocol, uint64_t timeout_usec, RbdAddresses *ret, Error *err);
