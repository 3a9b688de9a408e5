/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See bystander.h. Runs in tests; the thread never asserts, since Criterion's assertions belong to the main thread. */

#include "bystander.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "fixture/internal.h"

#define CYCLE_SECONDS 30.0
#define SETTLE_SECONDS 10.0

static bool bystander_cycle(Bystander *b)
{
        _cleanup_mount_params_ MountParams p = loop_params(b->target, b->image, "ext4", false);
        _cleanup_error_ Error err = ERROR_INIT;
        const char *what = "Mount";
        double start = now_seconds();
        ErrorCode code = fixture_mount(b->f, &p, &err);

        if (code == ERROR_NONE && fixture_count_mounts(b->target) != 1) {
                b->failure = text("Mount succeeded, but nothing is mounted");
                return false;
        }
        if (code == ERROR_NONE) {
                what = "Unmount";
                code = fixture_unmount(b->f, b->target, &err);
        }
        if (code != ERROR_NONE) {
                b->failure = text("%s failed with %s: %s", what, error_code_name(code), str_or(err.text, ""));
                return false;
        }
        double took = now_seconds() - start;
        if (took > b->slowest)
                b->slowest = took;
        return true;
}

static void *bystander_run(void *arg)
{
        static const struct timespec pause = { .tv_nsec = 1000000 };
        Bystander *b = arg;
        bool well = true;

        while (well && !__atomic_load_n(&b->stop, __ATOMIC_SEQ_CST)) {
                pthread_mutex_lock(&b->between);
                well = bystander_cycle(b);
                pthread_mutex_unlock(&b->between);
                __atomic_add_fetch(&b->n_cycles, well, __ATOMIC_SEQ_CST);
                nanosleep(&pause, NULL); /* whoever waits for the mutex gets it */
        }
        return NULL;
}

void bystander_start(Bystander *b, Fixture *f)
{
        struct stat st;

        *b = (Bystander) { .f = f };
        b->target = fixture_target(f, "bystander", "volume");
        b->image = fixture_image_formatted(f, "bystander.img", 16 << 20, "ext4");
        cr_assert(stat(b->image, &st) >= 0);
        b->key = text("loop-%u-%u-%" PRIu64, major(st.st_dev), minor(st.st_dev), (uint64_t) st.st_ino);
        cr_assert_eq(pthread_mutex_init(&b->between, NULL), 0);
        cr_assert_eq(pthread_create(&b->thread, NULL, bystander_run, b), 0);
        bystander_wait(b, 1);
}

void bystander_wait(Bystander *b, unsigned n)
{
        static const struct timespec pause = { .tv_nsec = 2000000 };
        unsigned last = __atomic_load_n(&b->n_cycles, __ATOMIC_SEQ_CST), end = last + n, now;
        double since = now_seconds();

        while ((now = __atomic_load_n(&b->n_cycles, __ATOMIC_SEQ_CST)) < end) {
                if (now != last) {
                        last = now;
                        since = now_seconds();
                }
                if (pthread_tryjoin_np(b->thread, NULL) == 0)
                        cr_assert(false, "the bystander, after %u cycles: %s", now, str_or(b->failure, "ended"));
                cr_assert(now_seconds() < since + CYCLE_SECONDS, "the bystander has not been served for %.0f s", CYCLE_SECONDS);
                nanosleep(&pause, NULL);
        }
}

void bystander_stop(Bystander *b)
{
        __atomic_store_n(&b->stop, true, __ATOMIC_SEQ_CST);
        pthread_join(b->thread, NULL);
        cr_assert_null(b->failure, "the bystander, after %u cycles: %s", b->n_cycles, b->failure);
        pthread_mutex_destroy(&b->between);
        free(b->target);
        free(b->image);
        free(b->key);
}

typedef struct Lines {
        Fixture *f;
        char *text;
} Lines;

static void lines_add(Lines *l, const char *what, const char *name)
{
        char *grown = text("%s%s %s\n", str_or(l->text, ""), what, name);

        free(l->text);
        l->text = grown;
}

static void add_mount(const char *mount_point, void *arg)
{
        Lines *l = arg;

        if (path_is_below(mount_point, l->f->dir))
                lines_add(l, "mount", mount_point);
}

static void add_loop(const char *name, const char *file, void *arg)
{
        lines_add(arg, "loop", file); /* without its number, which changes */
}

/* Sorted by sh, since directories list in any order; what is the bystander's own is left out. */
static char *lines_finish(Lines *l, const Bystander *b)
{
        static const char *const script =
                        "cd \"$1\" || exit 1\n"
                        "{ printf %s \"$2\"; find . -xdev ! -name '*.log' ! -name 'sanitizer.*' ! -path './state*' "
                        "-printf '%y %m %s %T@ %p %l\\n'\n"
                        "find state run -mindepth 2 -printf '%y %m %s %p\\n'\n"
                        "find images allowed kubelet -xdev -type f ! -name 'bystander*' -exec cksum {} +\n"
                        "} | grep -a -v -e bystander -e \"$3\" | LC_ALL=C sort";
        _cleanup_free_ char *lines = l->text ? l->text : strdup(""), *key = strdup(b ? b->key : "bystander"), *complaint = NULL;
        char *output = NULL;

        /* what it may complain of is a record that went away meanwhile */
        run((char *[]) { "sh", "-c", (char *) script, "sh", l->f->dir, lines, key, NULL }, &output, &complaint);
        return output;
}

char *snapshot_take(Fixture *f, Bystander *b)
{
        Lines l = { .f = f };

        if (b)
                pthread_mutex_lock(&b->between);
        mounts_foreach(add_mount, &l);
        loops_foreach(f->dir, add_loop, &l);
        char *s = lines_finish(&l, b);
        if (b)
                pthread_mutex_unlock(&b->between);
        cr_assert(s && *s, "the snapshot is empty");
        return s;
}

void snapshot_expect(Fixture *f, Bystander *b, const char *before)
{
        double end = now_seconds() + SETTLE_SECONDS;

        for (;;) {
                _cleanup_free_ char *after = snapshot_take(f, b);
                if (strcmp(before, after) == 0)
                        return;
                if (now_seconds() < end)
                        continue;
                _cleanup_free_ char *diff = NULL;
                run((char *[]) { "bash", "-c", "diff <(printf %s \"$0\") <(printf %s \"$1\")", (char *) before, after, NULL }, &diff,
                    NULL);
                print_tail(f->log, 30);
                cr_assert(false, "something was changed:\n%s", diff);
        }
}
