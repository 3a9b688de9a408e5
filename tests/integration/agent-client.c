/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See the header. Runs in test processes. Calls beside the test are processes, not threads: one can be killed in the middle, as a
 * kubelet can, and none leaves anything in the test's own address space.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"
#include "protocol/names.h"

#define MKE2FS "/usr/sbin/mke2fs"
#define CALL_USEC (120 * UINT64_C(1000000))

char *format(const char *text, ...)
{
        va_list ap;
        char *s = NULL;

        va_start(ap, text);
        if (vasprintf(&s, text, ap) < 0)
                abort();
        va_end(ap);
        return s;
}

/* ---- chance ---- */

uint64_t chance(uint64_t *state)
{
        uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        return z ^ z >> 31;
}

unsigned below(uint64_t *state, unsigned n)
{
        return (unsigned) (chance(state) % n);
}

/* ---- calls ---- */

MountParams volume_params(const Volume *v, const char *target)
{
        MountParams p = (v->params ? v->params : loop_params)(target, v->image, v->fs_type, v->read_only);

        if ((v->option && strv_append(&p.mount_options, v->option) < 0) ||
            (v->size && strmap_set(&p.source, "size", v->size) < 0) || (v->name && str_replace(&p.volume_name, v->name) < 0))
                abort();
        return p;
}

static ErrorCode outcome(int r, Error *err, char **ret_text)
{
        ErrorCode code = r < 0 ? err->code : ERROR_NONE;

        if (ret_text)
                *ret_text = TAKE_PTR(err->text);
        error_done(err);
        return code;
}

ErrorCode try_mount(Fixture *f, const char *target, const Volume *v, char **ret_text)
{
        _cleanup_mount_params_ MountParams p = volume_params(v, target);
        Error err = ERROR_INIT;
        ErrorCode code = fixture_mount(f, &p, &err);

        return outcome(code == ERROR_NONE ? 0 : -EIO, &err, ret_text);
}

ErrorCode try_attach(Fixture *f, const Volume *v, char **ret_device, char **ret_text)
{
        _cleanup_mount_params_ MountParams p = volume_params(v, "");
        _cleanup_bus_ sd_bus *bus = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC;
        Error err = ERROR_INIT;
        int r = client_connect(f->socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_attach(bus, &p, deadline, ret_device, &err);
        return outcome(r, &err, ret_text);
}

ErrorCode try_detach(Fixture *f, const char *name)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC;
        Error err = ERROR_INIT;
        int r = client_connect(f->socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_detach(bus, name, deadline, &err);
        return outcome(r, &err, NULL);
}

void mount_ok(Fixture *f, const char *target, const Volume *v)
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = try_mount(f, target, v, &text);

        cr_assert_eq(code, ERROR_NONE, "mount of %s on %s: %s: %s", v->image, target, error_code_name(code), text);
}

void unmount_ok(Fixture *f, const char *target)
{
        _cleanup_error_ Error err = ERROR_INIT;
        ErrorCode code = fixture_unmount(f, target, &err);

        cr_assert_eq(code, ERROR_NONE, "unmount of %s: %s: %s", target, error_code_name(code), err.text);
}

void mount_refused(Fixture *f, const char *target, const Volume *v, ErrorCode code, const char *text)
{
        _cleanup_free_ char *said = NULL;
        ErrorCode c = try_mount(f, target, v, &said);

        cr_assert_eq(c, code, "mount of %s on %s: %s, not %s: %s", v->image, target, error_code_name(c), error_code_name(code), said);
        cr_assert(!text || strstr(said, text), "'%s' does not tell '%s'", said, text);
}

json_t *berthctl(Fixture *f, char *const *args)
{
        _cleanup_free_ char *program = executable_path(f, "berthctl"), *out = NULL, *err = NULL;
        char *argv[16] = { program };
        json_error_t e;

        for (size_t i = 0; args[i]; i++)
                argv[i + 1] = args[i];
        int status = run(argv, &out, &err);
        cr_assert_eq(status, 0, "berthctl %s: status %d: %s", args[0], status, err);
        json_t *j = json_loads(out, JSON_REJECT_DUPLICATES, &e);
        cr_assert_not_null(j, "berthctl %s: %s: %s", args[0], e.text, out);
        return j;
}

char *volume_property(Fixture *f, const char *target, const char *property)
{
        _cleanup_json_ json_t *volume = BERTHCTL(f, "explain", (char *) target);
        const char *value = json_string_value(json_object_get(volume, property));

        cr_assert_not_null(value, "the volume at %s has no %s", target, property);
        return strdup(value);
}

unsigned count_volumes(Fixture *f)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");

        return (unsigned) json_integer_value(json_object_get(status, "volumes"));
}

/* ---- the file system of a mounted target ---- */

void write_line(const char *target, const char *name, const char *line)
{
        _cleanup_free_ char *path = format("%s/%s", target, name);

        write_text(path, line);
}

void expect_line(const char *target, const char *name, const char *line)
{
        _cleanup_free_ char *path = format("%s/%s", target, name), *content = read_text(path);

        cr_assert_str_eq(content, line, "%s holds '%s', not '%s'", path, content, line);
}

bool is_read_only(const char *target)
{
        struct statvfs st;

        cr_assert(statvfs(target, &st) >= 0, "statvfs of %s: %s", target, strerror(errno));
        return st.f_flag & ST_RDONLY;
}

uint64_t mount_id(const char *target)
{
        uint64_t id = 0;
        bool root = false;
        int r = mount_id_at(AT_FDCWD, target, &id, &root);

        cr_assert(r >= 0 && root, "%s is no mount: %s", target, strerror(-r));
        return id;
}

/* ---- calls beside the test ---- */

static _Noreturn void call_main(Fixture *f, CallKind kind, const char *target, const Volume *v)
{
        ErrorCode code = ERROR_INTERNAL;

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        switch (kind) {
        case CALL_MOUNT:
                code = try_mount(f, target, v, NULL);
                break;
        case CALL_UNMOUNT:
                code = fixture_unmount(f, target, NULL);
                break;
        case CALL_ATTACH:
                code = try_attach(f, v, NULL, NULL);
                break;
        }
        _exit((int) code);
}

_Static_assert(ERROR_MAX < 128, "an error's code fits into an exit status");

Call call_start(Fixture *f, CallKind kind, const char *target, const Volume *v)
{
        Call c = { .started = now_seconds() };

        fflush(NULL);
        c.pid = fork();
        cr_assert(c.pid >= 0, "fork: %s", strerror(errno));
        if (c.pid == 0)
                call_main(f, kind, target, v);
        return c;
}

bool call_runs(const Call *c)
{
        siginfo_t info = {};

        return waitid(P_PID, (id_t) c->pid, &info, WEXITED | WNOHANG | WNOWAIT) >= 0 && info.si_pid == 0;
}

ErrorCode call_wait(Call *c)
{
        int status;

        while (waitpid(c->pid, &status, 0) < 0)
                cr_assert_eq(errno, EINTR, "waitpid: %s", strerror(errno));
        c->seconds = now_seconds() - c->started;
        cr_assert(WIFEXITED(status), "the client ended with wait status %#x", (unsigned) status);
        return (ErrorCode) WEXITSTATUS(status);
}

void call_abandon(Call *c)
{
        kill(c->pid, SIGKILL);
        waitpid(c->pid, NULL, 0);
}

/* ---- holders ---- */

pid_t holder_start(const char *device)
{
        int pipes[2];
        char byte = 0;

        cr_assert(pipe2(pipes, O_CLOEXEC) >= 0);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
                int r = device ? open(device, O_RDONLY | O_CLOEXEC) : unshare(CLONE_NEWNS);
                if (r >= 0 && write(pipes[1], "", 1) == 1)
                        for (;;)
                                pause();
                _exit(1);
        }
        close(pipes[1]);
        cr_assert(pid > 0 && read(pipes[0], &byte, 1) == 1, "the holder does not hold");
        close(pipes[0]);
        return pid;
}

void holder_end(pid_t pid)
{
        kill(pid, SIGKILL);
        cr_assert_eq(waitpid(pid, NULL, 0), pid);
}

/* ---- a mke2fs that waits ---- */

static char *gate_path(Fixture *f, const char *name)
{
        return format("%s/gate/%s", f->dir, name);
}

void gate_init(Fixture *f)
{
        _cleanup_free_ char *dir = gate_path(f, ""), *real = gate_path(f, "mke2fs"), *log = gate_path(f, "log"),
                            *open = gate_path(f, "open"), *program = gate_path(f, "program");
        _cleanup_free_ char *script = format("#!/bin/sh\n"
                                             "echo $PPID >>'%s'\n"
                                             "while [ ! -e '%s' ]; do sleep 0.02; done\n"
                                             "exec '%s' \"$@\"\n",
                                             log, open, real);

        cr_assert(mkdir_parents(dir, 0700) >= 0);
        RUN_OK("cp", MKE2FS, real);
        write_text(program, script);
        cr_assert(chmod(program, 0755) >= 0);
        cr_assert(mount(program, MKE2FS, NULL, MS_BIND, NULL) >= 0, "cannot mount over %s: %s", MKE2FS, strerror(errno));
}

unsigned gate_count(Fixture *f)
{
        _cleanup_free_ char *log = gate_path(f, "log"), *content = NULL;
        unsigned n = 0;

        if (read_file_at(AT_FDCWD, log, 1 << 20, &content, NULL) < 0)
                return 0;
        for (const char *p = content; (p = strchr(p, '\n')); p++)
                n++;
        return n;
}

pid_t gate_caller(Fixture *f)
{
        _cleanup_free_ char *log = gate_path(f, "log"), *content = read_text(log);
        int pid = atoi(content);

        cr_assert(pid > 1, "mke2fs was not begun");
        return pid;
}

typedef struct GateWait {
        Fixture *f;
        unsigned n;
} GateWait;

static bool gate_reached(void *arg)
{
        const GateWait *w = arg;

        return gate_count(w->f) >= w->n;
}

void gate_wait(Fixture *f, unsigned n)
{
        wait_until(gate_reached, &(GateWait) { f, n }, 30, "mke2fs is begun");
}

void gate_open(Fixture *f)
{
        _cleanup_free_ char *open = gate_path(f, "open");

        write_text(open, "");
}

void gate_done(Fixture *f)
{
        gate_open(f);
        cr_assert(umount2(MKE2FS, MNT_DETACH) >= 0, "%s", strerror(errno));
}

void wait_clean(Fixture *f, double seconds)
{
        static const struct timespec pause = { .tv_nsec = 5000000 };

        for (double end = now_seconds() + seconds;;) {
                _cleanup_free_ char *what = NULL;

                if (fixture_is_clean(f, &what))
                        return;
                cr_assert(now_seconds() < end, "after %.1f s there is still %s", seconds, what);
                nanosleep(&pause, NULL);
        }
}
