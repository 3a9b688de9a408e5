/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Runs one program (mkfs, e2fsck, resize2fs, …) to its end. Called in mounters only; blocks for as long as the
 * program runs.
 *
 * Invariants: the program survives this process whatever happens to it. It has a session of its own, so that a
 * signal to the mounter's process group passes it by; it carries the volume's lock, so that nobody touches
 * the volume while it works on; and its output goes into a memory file instead of a pipe, which nobody has to read for
 * it to go on and which cannot kill it with SIGPIPE when the reader dies.
 */

#include "mounters/mounter.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fault.h"
#include "base/fd.h"

#define OUTPUT_TAIL_MAX 4096

int mounter_program_find(const char *name, char **ret)
{
        static const char *const directories[] = { "/usr/sbin", "/usr/bin", "/sbin", "/bin" };

        for (size_t i = 0; i < ELEMENTSOF(directories); i++) {
                _cleanup_free_ char *path = NULL;
                if (asprintf(&path, "%s/%s", directories[i], name) < 0) {
                        path = NULL;
                        return -ENOMEM;
                }
                if (access(path, X_OK) >= 0) {
                        *ret = TAKE_PTR(path);
                        return 0;
                }
        }
        return -ENOENT;
}

/* The last OUTPUT_TAIL_MAX bytes; NUL bytes become spaces so that the text is one string. */
static int output_tail(int fd, char **ret)
{
        _cleanup_free_ char *text = malloc(OUTPUT_TAIL_MAX + 1);
        struct stat st;
        ssize_t n = 0;

        if (!text)
                return -ENOMEM;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (st.st_size > 0)
                n = pread(fd, text, OUTPUT_TAIL_MAX,
                          st.st_size > OUTPUT_TAIL_MAX ? st.st_size - OUTPUT_TAIL_MAX : 0);
        if (n < 0)
                return -errno;
        while (n > 0 && strchr(" \r\n\t", text[n - 1])) /* strchr() finds the NUL as well */
                n--;
        for (ssize_t i = 0; i < n; i++)
                if (text[i] == 0)
                        text[i] = ' ';
        text[n] = 0;
        *ret = TAKE_PTR(text);
        return 0;
}

/* dup2() of a descriptor onto itself is posix_spawn's way to clear close-on-exec in the child alone. */
static int actions_fill(posix_spawn_file_actions_t *a, int output_fd, int lock_fd, int extra_fd)
{
        int e = posix_spawn_file_actions_addopen(a, STDIN_FILENO, "/dev/null", O_RDONLY, 0);

        if (e == 0)
                e = posix_spawn_file_actions_adddup2(a, output_fd, STDOUT_FILENO);
        if (e == 0)
                e = posix_spawn_file_actions_adddup2(a, output_fd, STDERR_FILENO);
        if (e == 0 && lock_fd >= 0)
                e = posix_spawn_file_actions_adddup2(a, lock_fd, lock_fd);
        if (e == 0 && extra_fd >= 0)
                e = posix_spawn_file_actions_adddup2(a, extra_fd, extra_fd);
        if (e == 0)
                e = posix_spawn_file_actions_addchdir_np(a, "/");
        return -e;
}

/* The mounter ignores SIGPIPE and may have SIGTERM blocked: neither is the program's business. */
static int attributes_fill(posix_spawnattr_t *a)
{
        sigset_t none, all;

        sigemptyset(&none);
        sigfillset(&all);
        int e = posix_spawnattr_setflags(a, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        if (e == 0)
                e = posix_spawnattr_setsigmask(a, &none);
        if (e == 0)
                e = posix_spawnattr_setsigdefault(a, &all);
        return -e;
}

static int program_spawn(const char *path, char *const *argv, int output_fd, int lock_fd, int extra_fd,
                         pid_t *ret)
{
        static char locale[] = "LC_ALL=C", search[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", home[] = "HOME=/";
        char *const environment[] = { locale, search, home, NULL };
        posix_spawn_file_actions_t actions;
        posix_spawnattr_t attributes;
        int e = posix_spawn_file_actions_init(&actions);
        if (e != 0)
                return -e;

        int r = actions_fill(&actions, output_fd, lock_fd, extra_fd);
        if (r >= 0)
                r = -posix_spawnattr_init(&attributes);
        if (r >= 0) {
                r = attributes_fill(&attributes);
                if (r >= 0)
                        r = -posix_spawn(ret, path, &actions, &attributes, argv, environment);
                posix_spawnattr_destroy(&attributes);
        }
        posix_spawn_file_actions_destroy(&actions);
        return r;
}

int mounter_run(Mounter *m, char *const *argv, int extra_fd, char **ret_output)
{
        _cleanup_free_ char *path = NULL, *output = NULL;
        _cleanup_close_ int output_fd = -EBADF;
        int status;
        pid_t pid;
        int r = mounter_program_find(argv[0], &path);
        if (r < 0)
                return r;

        output_fd = memfd_create("berth-output", MFD_CLOEXEC);
        if (output_fd < 0)
                return -errno;
        r = FAULT_ERROR("program.before");
        if (r >= 0)
                r = program_spawn(path, argv, output_fd, m->lock_fd, extra_fd, &pid);
        if (r < 0)
                return r;
        FAULT_POINT("program.started");

        while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR)
                        return -errno;
        FAULT_POINT("program.ended");

        r = output_tail(output_fd, &output);
        if (r < 0)
                return r;
        *ret_output = TAKE_PTR(output);
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
