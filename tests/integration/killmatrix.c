/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The kill matrix. For every fault point (the list is made from the source), each time that a request reaches it: the agent
 * killed there, the mounter killed, both, and, where a point can fail, an error. Then the agent is started again if it is dead and the
 * request repeated, which must succeed; the data is there; and after the unmount nothing is left. A mounter that dies while
 * its agent lives must not even be noticed by who asked.
 *
 * Each scenario is gone through once with every point written down; that tells which points it reaches and how often.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define DATA "this must survive everything\n"
#define CLEAN_SECONDS 20.0
#define FIRE_SECONDS 20.0
#define POINTS_MAX 128
#define CALL_USEC (120 * UINT64_C(1000000))

static const struct {
        const char *name;
        bool can_fail;
} all_points[] = {
#define FAULT(name, can_fail) { name, can_fail },
#include "fault-points.h"
#undef FAULT
};

typedef struct Matrix Matrix;

typedef struct Scenario {
        const char *name, *fs_type, *size;
        const char *only; /* NULL, or a part of the names that are of interest */
        bool abandons;    /* the request is not repeated */
        void (*begin)(Matrix *x);   /* once; may be NULL */
        void (*prepare)(Matrix *x); /* each time, before the request */
        ErrorCode (*request)(Matrix *x, char **ret_text);
        void (*verify)(Matrix *x); /* after the request has succeeded; leaves the volume mounted, or not */
} Scenario;

struct Matrix {
        Fixture f;
        const Scenario *s;
        char *target, *image, *spec, *trace;
        char label[160];
        unsigned n_cases;
        uint64_t size; /* Expand */
        pid_t holder;
        bool lost; /* the records */
};

typedef struct Reached {
        const char *name;
        bool can_fail;
        unsigned n;
} Reached;

/* ---- what scenarios are made of ---- */

static void matrix_start(Matrix *x)
{
        fixture_start(&x->f, "[Mounters]\nWarm=1\n[Agent]\nLingerSec=200ms\n");
}

/* A dry run, after whatever reconcile is under way. */
static int reconcile_look(Matrix *x, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *call = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC;
        int r = client_connect(x->f.socket, deadline, &bus, err);

        if (r >= 0)
                r = client_new_call(bus, "Reconcile", &call, err);
        if (r >= 0)
                r = sd_bus_message_append(call, "b", 1);
        return r < 0 ? r : client_call(bus, call, deadline, NULL, err);
}

static Volume matrix_volume(const Matrix *x)
{
        return (Volume) { .image = x->image, .fs_type = x->s->fs_type, .size = x->s->size };
}

static ErrorCode request_mount(Matrix *x, char **ret_text)
{
        Volume v = matrix_volume(x);

        return try_mount(&x->f, x->target, &v, ret_text);
}

static ErrorCode request_unmount(Matrix *x, char **ret_text)
{
        Error err = ERROR_INIT;
        ErrorCode code = fixture_unmount(&x->f, x->target, &err);

        *ret_text = TAKE_PTR(err.text);
        error_done(&err);
        return code;
}

static ErrorCode request_expand(Matrix *x, char **ret_text)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC, size = 0;
        Error err = ERROR_INIT;
        int r = client_connect(x->f.socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_expand(bus, x->target, x->size, deadline, &size, &err);
        ErrorCode code = r < 0 ? err.code : ERROR_NONE;
        *ret_text = TAKE_PTR(err.text);
        error_done(&err);
        return code;
}

/* Started anew without its records, the agent adopts what it finds; then comes the unmount. */
static ErrorCode request_after_loss(Matrix *x, char **ret_text)
{
        if (!x->lost) {
                _cleanup_free_ char *records = format("%s/volumes", x->f.runtime_dir);

                x->lost = true;
                fixture_stop(&x->f, SIGKILL);
                RUN_OK("find", records, "-name", "*.json", "-delete");
                matrix_start(x);
        }
        (void) reconcile_look(x, NULL);
        return request_unmount(x, ret_text);
}

static void must(Matrix *x, const char *what, ErrorCode (*request)(Matrix *x, char **ret_text))
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = request(x, &text);

        cr_assert_eq(code, ERROR_NONE, "%s: %s: %s: %s", x->label, what, error_code_name(code), text);
}

static void must_mount(Matrix *x)
{
        must(x, "the mount", request_mount);
}

static void must_unmount(Matrix *x)
{
        must(x, "the unmount", request_unmount);
}

static void must_become_clean(Matrix *x)
{
        static const struct timespec pause = { .tv_nsec = 2000000 };

        for (double end = now_seconds() + CLEAN_SECONDS;; nanosleep(&pause, NULL)) {
                _cleanup_free_ char *what = NULL;

                if (fixture_is_clean(&x->f, &what))
                        return;
                cr_assert(now_seconds() < end, "%s: there still is %s", x->label, what);
        }
}

/* A blank image, or one that is formatted and holds the data. */
static void begin_with_data(Matrix *x)
{
        x->image = fixture_image_formatted(&x->f, "image", strcmp(x->s->fs_type, "xfs") == 0 ? 300 << 20 : 16 << 20, x->s->fs_type);
        must_mount(x);
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
}

static void prepare_nothing(Matrix *x)
{
}

static void prepare_mounted(Matrix *x)
{
        must_mount(x);
}

static void prepare_blank(Matrix *x)
{
        _cleanup_free_ char *name = format("blank-%u", x->n_cases);

        free(x->image);
        x->image = fixture_image(&x->f, name, 8 << 20);
}

static void prepare_missing(Matrix *x)
{
        free(x->image);
        x->image = format("%s/new-%u", x->f.image_dir, x->n_cases);
}

static void prepare_expand(Matrix *x)
{
        x->size += 64 << 20;
        must_mount(x);
}

/* e2fsck asks for it: a flag in the superblock, which has no checksum here (struct ext2_super_block, s_state). */
static void begin_without_checksums(Matrix *x)
{
        x->image = fixture_image(&x->f, "image", 16 << 20);
        RUN_OK("mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", x->image);
        must_mount(x);
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
}

static void prepare_errors(Matrix *x)
{
        _cleanup_close_ int fd = open(x->image, O_WRONLY | O_CLOEXEC);
        static const uint8_t state[2] = { 2, 0 };

        cr_assert(fd >= 0 && pwrite(fd, state, sizeof(state), 1024 + 0x3a) == sizeof(state) && fsync(fd) >= 0);
}

/* Unmounted, but another mount namespace holds it: the kernel will let the device go as soon as that ends. */
static void prepare_held(Matrix *x)
{
        must_mount(x);
        x->holder = holder_start(NULL);
        must_unmount(x);
}

static void verify_data(Matrix *x)
{
        expect_line(x->target, "data", DATA);
}

static void prepare_loss(Matrix *x)
{
        must_mount(x);
        x->lost = false;
}

static void verify_unmounted(Matrix *x)
{
        cr_assert_eq(fixture_count_mounts(x->target), 0, "%s: the target is mounted", x->label);
}

static void verify_held(Matrix *x)
{
        verify_data(x);
        holder_end(x->holder);
}

static void verify_new(Matrix *x)
{
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
        must_mount(x);
        verify_data(x);
        must_unmount(x);
        cr_assert(unlink(x->image) >= 0, "%s: %s: %s", x->label, x->image, strerror(errno));
}

static void verify_size(Matrix *x)
{
        struct stat st;

        verify_data(x);
        cr_assert(stat(x->image, &st) >= 0 && (uint64_t) st.st_size == x->size, "%s: the image has %llu bytes", x->label,
                  (unsigned long long) st.st_size);
}

static const Scenario scenarios[] = {
        { "mount", "ext4", NULL, NULL, false, begin_with_data, prepare_nothing, request_mount, verify_data },
        { "unmount", "ext4", NULL, NULL, false, begin_with_data, prepare_mounted, request_unmount, verify_unmounted },
        { "format", "ext4", NULL, NULL, false, NULL, prepare_blank, request_mount, verify_new },
        { "create", "ext4", "8M", NULL, false, NULL, prepare_missing, request_mount, verify_new },
        /* resize2fs needs a capability that not every test machine gives */
        { "expand", "xfs", NULL, NULL, false, begin_with_data, prepare_expand, request_expand, verify_size },
        { "abandon", "ext4", NULL, NULL, true, begin_with_data, prepare_nothing, request_mount, verify_data },
        { "fsck", "ext4", NULL, "program.", false, begin_without_checksums, prepare_errors, request_mount, verify_data },
        { "adopt", "ext4", NULL, "agent.reconcile", false, begin_with_data, prepare_loss, request_after_loss, verify_unmounted },
        { "held", "ext4", NULL, "-keep", false, begin_with_data, prepare_held, request_mount, verify_held },
};

/* ---- the matrix ---- */

static const Scenario *scenario_find(const char *name)
{
        for (size_t i = 0; i < ELEMENTSOF(scenarios); i++)
                if (strcmp(scenarios[i].name, name) == 0)
                        return &scenarios[i];
        abort();
}

static void matrix_init(Matrix *x)
{
        _cleanup_free_ char *at = NULL;

        *x = (Matrix) {};
        fixture_init_faulty(&x->f);
        x->spec = format("%s/fault", x->f.dir);
        x->trace = format("%s/trace", x->f.dir);
        at = format("@%s", x->spec);
        setenv("BERTH_FAULT", at, 1);
        setenv("BERTH_FAULT_TRACE", x->trace, 1);
        x->target = fixture_target(&x->f, "5e4b6f2e-0000-4000-8000-000000000001", "vol");
        matrix_start(x);
}

static void matrix_begin(Matrix *x, const Scenario *s)
{
        x->s = s;
        snprintf(x->label, sizeof(x->label), "%s, its beginning", s->name);
        free(TAKE_PTR(x->image));
        x->size = 300 << 20;
        if (s->begin)
                s->begin(x);
}

static void matrix_done(Matrix *x)
{
        fixture_done(&x->f);
        free(x->target);
        free(x->image);
        free(x->spec);
        free(x->trace);
}

/*
 * When this is answered, whatever berthd and its mounters did for earlier requests is through: each is a single thread, and a
 * reconcile asks the mounter that was used last.
 */
static void matrix_settle(Matrix *x)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert(reconcile_look(x, &err) >= 0, "%s: reconcile: %s", x->label, err.text);
}

/* From the request's success to the machine as it was. */
static void matrix_conclude(Matrix *x)
{
        x->s->verify(x);
        must_unmount(x);
        must_become_clean(x);
}

/* Goes through the scenario once and counts; the number of different points that it reached. */
static size_t matrix_trace(Matrix *x, Reached ret[static POINTS_MAX])
{
        size_t n = 0;

        snprintf(x->label, sizeof(x->label), "%s, undisturbed", x->s->name);
        x->n_cases++;
        x->s->prepare(x);
        matrix_settle(x);
        write_text(x->trace, "");
        must(x, "the request", x->s->request);
        if (x->s->verify == verify_unmounted)
                must_become_clean(x);
        matrix_settle(x);
        _cleanup_free_ char *trace = read_text(x->trace);
        matrix_conclude(x);

        for (size_t i = 0; i < ELEMENTSOF(all_points); i++) {
                Reached r = { .name = all_points[i].name, .can_fail = all_points[i].can_fail };
                size_t length = strlen(r.name);

                for (const char *p = trace, *end; (end = strchr(p, '\n')); p = end + 1)
                        r.n += (size_t) (end - p) == length && memcmp(p, r.name, length) == 0;
                if (r.n > 0 && (!x->s->only || strstr(r.name, x->s->only)))
                        ret[n++] = r;
        }
        return n;
}

static bool spec_is_gone(void *arg)
{
        const Matrix *x = arg;

        return access(x->spec, F_OK) < 0;
}

static void matrix_arm(Matrix *x, const char *point, unsigned hit, const char *action)
{
        _cleanup_free_ char *spec = format("%s=%s@%u\n", point, action, hit);
        _cleanup_free_ char *temporary = format("%s.new", x->spec), *count = format("%s.count", x->spec);

        (void) unlink(count);
        write_text(temporary, spec);
        cr_assert(rename(temporary, x->spec) >= 0);
}

/*
 * Whether the point was reached as often as in the undisturbed run. A retry, such as of LOOP_CONFIGURE on a device that another process of the
 * machine was faster to take, happens then and not now; the first time always comes.
 */
static bool matrix_fired(Matrix *x)
{
        if (!spec_is_gone(x))
                (void) reconcile_look(x, NULL);
        if (unlink(x->spec) < 0)
                return true; /* whoever did it has removed it */
        fprintf(stderr, "%s: not reached\n", x->label);
        return false;
}

static void matrix_case(Matrix *x, const char *point, unsigned hit, const char *action)
{
        _cleanup_free_ char *text = NULL;
        bool agent_dies = strcmp(action, "kill-agent") == 0 || strcmp(action, "kill-both") == 0;

        x->n_cases++;
        snprintf(x->label, sizeof(x->label), "%s, %s at %s, time %u", x->s->name, action, point, hit);
        fprintf(stderr, "%s\n", x->label);
        x->s->prepare(x);
        matrix_settle(x);
        matrix_arm(x, point, hit, action);
        ErrorCode code = x->s->request(x, &text);
        if (hit > 1 && !matrix_fired(x))
                agent_dies = false;
        else
                wait_until(spec_is_gone, x, FIRE_SECONDS, x->label);
        if (agent_dies) {
                cr_assert_eq(waitpid(x->f.agent, NULL, 0), x->f.agent, "%s: %s", x->label, strerror(errno));
                x->f.agent = 0;
                matrix_start(x);
        } else if (strcmp(action, "kill-mounter") == 0)
                cr_assert_eq(code, ERROR_NONE, "%s: it was noticed: %s: %s", x->label, error_code_name(code), text);
        if (x->s->abandons) {
                must_unmount(x);
                must_become_clean(x);
        } else {
                must(x, "the repeat", x->s->request);
                matrix_conclude(x);
        }
}

static void matrix_run(const char *name)
{
        static const char *const actions[] = { "kill-agent", "kill-mounter", "kill-both", "fail:ENOSPC" };
        Reached points[POINTS_MAX];
        Matrix x;

        matrix_init(&x);
        matrix_begin(&x, scenario_find(name));
        size_t n = matrix_trace(&x, points);
        for (size_t i = 0; i < n; i++)
                for (unsigned hit = 1; hit <= points[i].n; hit++)
                        for (size_t k = 0; k < ELEMENTSOF(actions); k++)
                                if (x.s->abandons ? strcmp(actions[k], "kill-both") == 0
                                                  : points[i].can_fail || strncmp(actions[k], "fail", 4) != 0)
                                        matrix_case(&x, points[i].name, hit, actions[k]);
        fprintf(stderr, "%s: %u cases at %zu points\n", name, x.n_cases, n);
        matrix_done(&x);
}

TestSuite(killmatrix, .timeout = 400);

#define MATRIX_TEST(name)                                                                                    \
        Test(killmatrix, name)                                                                               \
        {                                                                                                    \
                matrix_run(#name);                                                                           \
        }

MATRIX_TEST(mount)
MATRIX_TEST(unmount)
MATRIX_TEST(format)
MATRIX_TEST(create)
MATRIX_TEST(expand)
MATRIX_TEST(fsck)
MATRIX_TEST(abandon)
MATRIX_TEST(held)
MATRIX_TEST(adopt)

/* A point that no scenario reaches would not be tested by anybody. */
Test(killmatrix, every_point_is_reached)
{
        bool reached[ELEMENTSOF(all_points)] = {};
        _cleanup_free_ char *missing = strdup("");
        Reached points[POINTS_MAX];
        Matrix x;

        matrix_init(&x);
        for (size_t s = 0; s < ELEMENTSOF(scenarios); s++) {
                matrix_begin(&x, &scenarios[s]);
                size_t n = matrix_trace(&x, points);
                for (size_t i = 0; i < n; i++)
                        for (size_t k = 0; k < ELEMENTSOF(all_points); k++)
                                reached[k] = reached[k] || strcmp(all_points[k].name, points[i].name) == 0;
                if (scenarios[s].begin)
                        cr_assert(unlink(x.image) >= 0);
        }
        for (size_t k = 0; k < ELEMENTSOF(all_points); k++) {
                if (reached[k])
                        continue;
                char *longer = format("%s %s", missing, all_points[k].name);
                free(missing);
                missing = longer;
        }
        cr_assert_str_empty(missing, "no scenario reaches:%s", missing);
        matrix_done(&x);
}
