/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* reconcile/findings.h: what is told again, and when. The clock is the test's own. */

#include <criterion/criterion.h>

#include "daemon/reconcile/findings.h"

#include <stdio.h>

#define SECOND UINT64_C(1000000)
#define MINUTE (60 * SECOND)
#define BEGIN (5 * MINUTE)

static const PlanStep held = { .type = PLAN_CORRECT_STATE, .volume = "loop-1-2-3", .reason = "its stage is mounted" };
static const PlanStep strange = { .type = PLAN_REPORT, .target = "/staging/x", .reason = "nobody's" };
static const PlanStep dropped = { .type = PLAN_DROP_PUBLISH, .volume = "loop-1-2-3", .target = "/t", .reason = "not mounted" };

Test(findings, told_once)
{
        Findings f = NULL;

        for (uint64_t i = 0; i < 30 * 60; i++) {
                cr_assert_eq(findings_note(&f, &held, "ok", BEGIN + i * SECOND), i == 0, "second %ju", (uintmax_t) i);
                cr_assert_eq(findings_note(&f, &strange, "ok", BEGIN + i * SECOND), i == 0, "second %ju", (uintmax_t) i);
        }
        findings_free(&f);
        cr_assert_null(f);
}

Test(findings, told_again_seldom)
{
        Findings f = NULL;
        unsigned n = 0;

        for (uint64_t i = 0; i < 24 * 60; i++)
                n += findings_note(&f, &strange, "ok", BEGIN + i * MINUTE);
        cr_assert(n >= 20 && n <= 24, "told %u times a day", n);
        findings_free(&f);
}

Test(findings, a_change_is_told)
{
        Findings f = NULL;
        PlanStep other = held;

        cr_assert(findings_note(&f, &held, "ok", BEGIN));
        cr_assert(findings_note(&f, &held, "No space left on device", BEGIN + SECOND));
        cr_assert_not(findings_note(&f, &held, "No space left on device", BEGIN + 2 * SECOND));
        other.reason = "its device is there";
        cr_assert(findings_note(&f, &other, "ok", BEGIN + 2 * SECOND));
        other = held;
        other.volume = "loop-1-2-4";
        cr_assert(findings_note(&f, &other, "ok", BEGIN + 2 * SECOND));
        other = strange;
        other.target = "/staging/y";
        cr_assert(findings_note(&f, &other, "ok", BEGIN + 2 * SECOND));
        findings_free(&f);
}

Test(findings, what_had_ended_is_told)
{
        Findings f = NULL;

        cr_assert(findings_note(&f, &strange, "ok", BEGIN));
        cr_assert_not(findings_note(&f, &strange, "ok", BEGIN + 9 * MINUTE));
        cr_assert(findings_note(&f, &strange, "ok", BEGIN + 9 * MINUTE + 11 * MINUTE));
        findings_free(&f);
}

/* What was done cannot be found again unless it has happened again; what could not be done can. */
Test(findings, what_is_done_is_always_told)
{
        Findings f = NULL;

        for (unsigned i = 0; i < 5; i++)
                cr_assert(findings_note(&f, &dropped, "ok", BEGIN + i * SECOND));
        for (unsigned i = 0; i < 5; i++)
                cr_assert_eq(findings_note(&f, &dropped, "No space left on device", BEGIN + i * SECOND), i == 0);
        findings_free(&f);
}

/* Ten thousand mounts that are nobody's, then others: told, remembered as far as memory is meant to go, and no further. */
Test(findings, bounded)
{
        Findings f = NULL;
        char target[32];
        PlanStep s = strange;

        s.target = target;
        for (unsigned round = 0; round < 2; round++)
                for (unsigned i = 0; i < 10000; i++) {
                        snprintf(target, sizeof(target), "/staging/%u", i);
                        cr_assert_eq(findings_note(&f, &s, "ok", BEGIN + round * SECOND), round == 0);
                }
        snprintf(target, sizeof(target), "/staging/more");
        cr_assert(findings_note(&f, &s, "ok", BEGIN + 2 * SECOND));
        cr_assert_not(findings_note(&f, &s, "ok", BEGIN + 2 * SECOND));
        snprintf(target, sizeof(target), "/staging/9999");
        cr_assert_not(findings_note(&f, &s, "ok", BEGIN + 2 * SECOND), "not the oldest was forgotten");
        snprintf(target, sizeof(target), "/staging/0");
        cr_assert(findings_note(&f, &s, "ok", BEGIN + 2 * SECOND), "nothing was forgotten");
        findings_free(&f);
}
