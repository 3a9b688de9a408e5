/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Fault points, see the header. Compiled only with -DBERTH_FAULT_POINTS. Runs in berthd and in mounters; kills for
 * good only when the victim is gone, so that what happens next in the killer comes after it.
 */

#include "base/fault.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define SPEC_MAX 256U
#define ERRNO_MAX 133

typedef struct FaultSpec {
        char name[64], action[32], argument[32];
        unsigned count; /* 1: the first time */
} FaultSpec;

static bool process_is_agent(void)
{
        return strcmp(program_invocation_short_name, "berthd") == 0;
}

static void trace(const char *name)
{
        const char *path = getenv("BERTH_FAULT_TRACE");
        _cleanup_close_ int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -EBADF;
        char line[80];

        if (fd >= 0)
                (void) write_full(fd, line, (size_t) snprintf(line, sizeof(line), "%s\n", name));
}

/* Moves *text past the separator and copies what is before it. */
static void take_until(const char **text, const char *separators, char *ret, size_t size)
{
        size_t n = strcspn(*text, separators);

        snprintf(ret, size, "%.*s", (int) n, *text);
        *text += n;
}

/* What is asked for now; false if nothing is. */
static bool spec_read(FaultSpec *ret)
{
        const char *s = getenv("BERTH_FAULT");
        _cleanup_free_ char *content = NULL;
        char count[16] = "";

        if (!s || !*s)
                return false;
        if (*s == '@') {
                if (read_file_at(AT_FDCWD, s + 1, SPEC_MAX - 1, &content, NULL) < 0)
                        return false;
                s = content;
        }
        take_until(&s, "=", ret->name, sizeof(ret->name));
        if (*s++ != '=')
                return false;
        take_until(&s, ":@\n", ret->action, sizeof(ret->action));
        ret->argument[0] = 0;
        if (*s == ':') {
                s++;
                take_until(&s, "@\n", ret->argument, sizeof(ret->argument));
        }
        if (*s == '@') {
                s++;
                take_until(&s, "\n", count, sizeof(count));
        }
        ret->count = *count ? (unsigned) atoi(count) : 1;
        return true;
}

/* How often the point has been reached, this time included: by this process, or by all that read the same file. */
static unsigned count_hit(void)
{
        static unsigned count;
        const char *spec = getenv("BERTH_FAULT");
        char path[PATH_MAX];

        if (*spec != '@')
                return ++count;
        snprintf(path, sizeof(path), "%s.count", spec + 1);
        _cleanup_close_ int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        /* where an appending write ended is ours alone */
        return fd >= 0 && write(fd, "", 1) == 1 ? (unsigned) lseek(fd, 0, SEEK_CUR) : 0;
}

/* Whether it is this process that does it: never twice, whoever else has the same specification. */
static bool spec_claim(void)
{
        const char *spec = getenv("BERTH_FAULT"), *once = getenv("BERTH_FAULT_ONCE");

        if (*spec == '@' && unlink(spec + 1) < 0)
                return false;
        if (!once)
                return true;
        _cleanup_close_ int fd = open(once, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        return fd >= 0;
}

static void pause_briefly(long msec)
{
        struct timespec ts = { .tv_sec = msec / 1000, .tv_nsec = msec % 1000 * 1000000 };

        while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
                ;
}

/* The children of berthd; left as they are for berthd to reap, should it live on. */
static void kill_mounters(void)
{
        _cleanup_free_ char *path = NULL, *children = NULL;
        char *save = NULL;

        if (asprintf(&path, "/proc/%d/task/%d/children", getpid(), getpid()) < 0) {
                path = NULL;
                return;
        }
        if (read_file_at(AT_FDCWD, path, 65536, &children, NULL) < 0)
                return;
        for (char *p = strtok_r(children, " \n", &save); p; p = strtok_r(NULL, " \n", &save)) {
                pid_t pid = (pid_t) atoi(p);

                (void) kill(pid, SIGKILL);
                (void) waitid(P_PID, (id_t) pid, &(siginfo_t) {}, WEXITED | WNOWAIT);
        }
}

/* The parent of a mounter, if it still is the berthd that started it. */
static void kill_parent(void)
{
        _cleanup_free_ char *path = NULL, *name = NULL;
        pid_t parent = getppid();

        if (asprintf(&path, "/proc/%d/comm", parent) < 0) {
                path = NULL;
                return;
        }
        if (read_file_at(AT_FDCWD, path, 64, &name, NULL) < 0 || strcmp(name, "berthd\n") != 0)
                return;
        (void) kill(parent, SIGKILL);
        for (unsigned i = 0; i < 5000 && getppid() == parent; i++)
                pause_briefly(1);
}

static void die(void)
{
        (void) raise(SIGKILL);
}

static int error_number(const char *s)
{
        for (int e = 1; e <= ERRNO_MAX; e++) {
                const char *name = strerrorname_np(e);
                if (name && strcmp(name, s) == 0)
                        return e;
        }
        return isdigit((unsigned char) *s) ? atoi(s) : EIO;
}

static int act(const FaultSpec *spec)
{
        bool agent = process_is_agent();

        if (strcmp(spec->action, "kill-self") == 0)
                die();
        if (strcmp(spec->action, "kill-mounter") == 0 || strcmp(spec->action, "kill-both") == 0) {
                bool both = spec->action[5] == 'b';

                if (agent)
                        kill_mounters();
                else if (both)
                        kill_parent();
                if (both || !agent)
                        die();
        }
        if (strcmp(spec->action, "kill-agent") == 0) {
                if (agent)
                        die();
                kill_parent();
                pause_briefly(atol(spec->argument));
        }
        if (strcmp(spec->action, "fail") == 0)
                return -error_number(spec->argument);
        if (strcmp(spec->action, "delay") == 0)
                pause_briefly(atol(spec->argument));
        if (strcmp(spec->action, "stop") == 0)
                (void) raise(SIGSTOP);
        return 0;
}

int fault_reached(const char *name)
{
        int saved = errno;
        FaultSpec spec;
        int r = 0;

        trace(name);
        if (spec_read(&spec) && strcmp(spec.name, name) == 0 && count_hit() == spec.count && spec_claim())
                r = act(&spec);
        errno = saved;
        return r;
}
