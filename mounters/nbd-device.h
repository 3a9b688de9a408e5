/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Network block devices of this node: what sysfs shows of them, and the two requests to the kernel that need no server. What is behind
 * one, and which program serves it, is not known here.
 *
 * The kernel repeats a text, the cookie, that was given when a device was connected ("backend"); it is berth's own if that is "berth-"
 * and the volume's key.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define NBD_SYSFS "/sys/block"
#define NBD_COOKIE_PREFIX "berth-"
#define NBD_MAJOR_NUMBER 43U

typedef struct NbdDevice {
        unsigned number; /* of /dev/nbd<number> */
        dev_t device_number;
        pid_t pid;       /* of the process that connected it; after a re-attach still the first one */
        bool read_only;
        char cookie[128]; /* "" if it was given none */
} NbdDevice;

/*
 * Calls f for every connected device until it answers other than 0, which is then the result. sysfs: NBD_SYSFS, or a test's. A device
 * whose server has died is connected until somebody disconnects it. Helper.
 */
int nbd_device_each(const char *sysfs, int (*f)(const NbdDevice *d, void *userdata), void *userdata);
/* The one of that cookie: 1, 0 or negative errno. Helper. */
int nbd_device_find(const char *sysfs, const char *cookie, NbdDevice *ret);

/*
 * Disconnects it, whoever has it open: what has not been written is lost, and who reads or writes gets EIO. Its server is told to end;
 * -ENOENT or -EINVAL: there is no such device. Blocks for seconds at most, unless the server is stopped with its queue full. Helper.
 */
int nbd_disconnect(unsigned number);
/* Tells the kernel the device's new size; the cookie has to be its own. Helper. */
int nbd_resize(unsigned number, const char *cookie, uint64_t size);
