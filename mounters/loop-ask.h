/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Asking loop devices what they show, when one of them may never answer. */

#include <linux/loop.h>
#include <sys/types.h>

typedef struct LoopQuestion {
        unsigned number;         /* of /dev/loop<number> */
        int result;              /* 1: bound, with info; 0: not bound; -ETIMEDOUT: it does not answer; other errors */
        struct loop_info64 info;
} LoopQuestion;

/*
 * Calls look for each question's number in a child process and fills in the answers. look returns what result means and
 * must not use what belongs to the process: its descriptors are closed. Takes about half a second for a device that is the first not to
 * answer and less for others. -ENOMEM, -EAGAIN or -EMFILE if no child can be made.
 */
int loop_ask(LoopQuestion *questions, size_t n, int (*look)(unsigned number, struct loop_info64 *ret));
