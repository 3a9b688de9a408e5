/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The loop kind's Scan (io.berth.Mounter1). */

#include "mounters/loop-find.h"
#include "mounters/mounter.h"

/* Fills r->devices with every bound loop device of the node, foreign ones too. */
int loop_scan_devices(Mounter *m, LoopTable *t, MounterResult *r, Error *err);
