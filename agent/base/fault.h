/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Fault points: named places at which a test lets the agent or a mounter die, fail, wait or stop. They stand around every
 * recorded step and every effect in the kernel. Without the build option fault_points nothing of them is in the
 * binaries, neither code nor names (tests/check/faults).
 *
 * Names are literals, written here as "<area>.<what>" and nowhere twice: the tests take the list of them from the source.
 *
 * BERTH_FAULT in the environment of berthd (mounters inherit it) chooses what happens:
 *
 *      name=action[:argument][@N]    at the N-th time (default: first) that a process reaches the point
 *      @PATH                         the same, read from the file at each point; the file is removed when it happens.
 *                                    The N-th time is then that of all processes together, counted in the file PATH.count
 *
 *      kill-self       the process that reaches the point
 *      kill-agent[:MSEC]  berthd; in a mounter, its parent if that is berthd, and the mounter goes on after MSEC
 *      kill-mounter    the mounter; in berthd, all of its mounters
 *      kill-both       the mounter (or all) and berthd
 *      fail:ERRNO      FAULT_ERROR() gives -ERRNO (a name or a number); ignored at FAULT_POINT()
 *      delay:MSEC
 *      stop            SIGSTOP
 *
 * BERTH_FAULT_ONCE=PATH: only if PATH does not exist, and it is made then: a restarted agent does not die again.
 * BERTH_FAULT_TRACE=PATH: the name of every point reached is appended as a line.
 */

#ifdef BERTH_FAULT_POINTS
#define FAULT_POINT(name) ((void) fault_reached("" name))
#define FAULT_ERROR(name) fault_reached("" name)
/* 0, or the negative errno that was asked for. Helper. */
int fault_reached(const char *name);
#else
#define FAULT_POINT(name) ((void) 0)
#define FAULT_ERROR(name) 0
#endif
