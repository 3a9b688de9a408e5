/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the processes of berth must agree on: D-Bus names, paths, versions, limits. The interfaces themselves
 * are described in io.berth.Agent1.xml and io.berth.Mounter1.xml beside this file.
 */

#define AGENT_INTERFACE "io.berth.Agent1"
#define AGENT_PATH "/io/berth/Agent1"
#define VOLUME_INTERFACE "io.berth.Volume1"
#define VOLUME_PATH_PREFIX "/io/berth/Volume1" /* children: the volume's key, sd_bus_path_encode(3)d */
#define MOUNTER_INTERFACE "io.berth.Mounter1"
#define MOUNTER_PATH "/io/berth/Mounter1"

/* Changes with every incompatible change of io.berth.Mounter1; berthd refuses a mounter with another. */
#define MOUNTER_PROTOCOL_VERSION 1U

#define BERTH_SOCKET_DEFAULT "/run/berth/berthd.sock"
#define BERTH_SOCKET_ENV "BERTH_SOCKET"
/* The shim alone, which has no options of its own: another configuration file; a shorter time limit, in seconds. */
#define BERTH_CONFIG_ENV "BERTH_CONFIG"
#define BERTH_TIMEOUT_ENV "BERTH_TIMEOUT_SEC"

/* A loop device's lo_file_name is LO_NAME_SIZE (64) bytes with its NUL: "berth:" and the key must fit. */
#define VOLUME_TAG_PREFIX "berth:"
#define VOLUME_KEY_MAX 55U

/* Bounds on what one request may bring. A path is at most PATH_MAX, a name NAME_MAX, by the kernel. */
#define REQUEST_STRING_MAX 4096U
#define REQUEST_OPTIONS_MAX 128U
#define REQUEST_JSON_MAX (128U * 1024U) /* the kernel's MAX_ARG_STRLEN */
