/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The JSON that the kubelet passes: one flat object of strings. Keys below "kubernetes.io/" come from the kubelet,
 * all others are the options of the volume's definition, written by a pod's author and therefore hostile.
 */

#include "protocol/client.h"

/*
 * Makes jansson overwrite what it frees: secrets pass through its buffers. To be called before the first
 * use of jansson.
 */
void options_init(void);

/*
 * Fills *p (which is empty, but for target and driver) from the JSON of a call:
 *
 *      kubernetes.io/fsType          fs_type; "" is the driver's default
 *      kubernetes.io/readwrite       "ro" or "rw": read_only
 *      kubernetes.io/pvOrVolumeName  volume_name
 *      kubernetes.io/pod.name, pod.namespace, pod.uid
 *      kubernetes.io/secret/<key>    secrets[<key>], standard base64, which must be text
 *      kubernetes.io/…               anything else is ignored: newer kubelets may send more
 *      readOnly                      "true" or "false"; true makes a "rw" read-only
 *      mountOptions                  mount_options, separated by commas
 *      …                             source, as it stands
 *
 * Refused with ERROR_INVALID_ARGUMENT: anything that is not one flat object of strings, a duplicate key, a NUL
 * character, invalid UTF-8, more than REQUEST_JSON_MAX bytes. No error text has a value in it, since a value may
 * be a secret. *p is to be freed with mount_params_done() in any case.
 */
int options_parse(const char *json, MountParams *p, Error *err);

/* Standard base64 with padding, canonical, without white space: a new string, or -EINVAL (also for a NUL in it). */
int base64_decode(const char *s, char **ret);
