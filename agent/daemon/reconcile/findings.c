/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The memory of what was told. Runs in berthd; no system calls beside memory: the time is given, so that tests need not wait.
 *
 * Invariant: the table is in the order in which things were last seen (an entry that is seen again goes to its end), so what
 * was forgotten by time, or has to go for a newer one, is at its head.
 */

#include "daemon/reconcile/findings.h"

#include <string.h>

#define FINDINGS_MAX 10000U
/* Not seen for so long, it has ended and begun anew. */
#define ENDED_USEC (10 * UINT64_C(60000000))
#define TOLD_AGAIN_USEC (3600 * UINT64_C(1000000))

struct Finding {
        uint64_t seen_usec, told_usec;
        UT_hash_handle hh;
        char text[];
};

/* What has succeeded and is done for good cannot be seen again unless it has happened again. */
static bool is_over(const PlanStep *s, const char *result)
{
        switch (s->type) {
        case PLAN_ADOPT_VOLUME:
        case PLAN_ADOPT_PUBLISH:
        case PLAN_DROP_PUBLISH:
                return strcmp(result, "ok") == 0;
        case PLAN_UNPUBLISH:
        case PLAN_REPUBLISH:
        case PLAN_CORRECT_STATE:
        case PLAN_CLEANUP:
        case PLAN_REPORT:
        case _PLAN_STEP_TYPE_MAX:
        case _PLAN_STEP_TYPE_INVALID:
                break;
        }
        return false;
}

static void finding_free(Findings *f, Finding *e)
{
        HASH_DEL(*f, e);
        free(e);
}

static Finding *finding_new(const char *text)
{
        size_t size = strlen(text) + 1;
        Finding *e = calloc(1, sizeof(*e) + size);

        if (e)
                memcpy(e->text, text, size);
        return e;
}

bool findings_note(Findings *f, const PlanStep *step, const char *result, uint64_t now_usec)
{
        _cleanup_free_ char *text = NULL;
        Finding *e = NULL;

        while (*f && now_usec - (*f)->seen_usec > ENDED_USEC)
                finding_free(f, *f);
        if (is_over(step, result))
                return true;
        if (asprintf(&text, "%s\n%s\n%s\n%s\n%s", plan_step_type_to_string(step->type), str_or(step->volume, ""),
                     str_or(step->target, ""), step->reason, result) < 0) {
                text = NULL;
                return true;
        }
        HASH_FIND_STR(*f, text, e);
        if (!e) {
                e = finding_new(text);
                if (!e)
                        return true;
                if (HASH_COUNT(*f) >= FINDINGS_MAX)
                        finding_free(f, *f);
        } else {
                HASH_DEL(*f, e);
        }
        bool tell = e->told_usec == 0 || now_usec - e->told_usec > TOLD_AGAIN_USEC;
        e->seen_usec = now_usec;
        if (tell)
                e->told_usec = now_usec;
        HASH_ADD_KEYPTR(hh, *f, e->text, strlen(e->text), e);
        return tell;
}

void findings_free(Findings *f)
{
        while (*f)
                finding_free(f, *f);
}
