/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Other processes: run to their end, and what the kernel tells of their memory and time. */

#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

#include "bench/bench.h"

extern char **environ;

void process_run(char *const *argv, char *output, size_t size)
{
        posix_spawn_file_actions_t actions;
        char buffer[16384];
        size_t n = 0;
        int fds[2], status, r;
        pid_t pid;

        if (pipe2(fds, O_CLOEXEC) < 0)
                die("pipe: %m");
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
        posix_spawn_file_actions_adddup2(&actions, fds[1], STDERR_FILENO);
        r = posix_spawnp(&pid, argv[0], &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (r != 0)
                die("%s: %s", argv[0], strerror(r));
        close(fds[1]);
        for (;;) {
                ssize_t got = read(fds[0], buffer + n, sizeof buffer - 1 - n);

                if (got < 0 && errno == EINTR)
                        continue;
                if (got <= 0)
                        break;
                n += (size_t) got;
        }
        close(fds[0]);
        buffer[n] = '\0';
        if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
                die("%s failed: %s", argv[0], buffer);
        if (output)
                snprintf(output, size, "%s", buffer);
}

static uint64_t rollup_field(const char *text, const char *name)
{
        const char *line = strstr(text, name);

        if (!line)
                die("smaps_rollup has no %s", name);
        return strtoull(line + strlen(name), NULL, 10);
}

/* Reads a file of proc(5); false if the process is gone. */
static bool read_proc(pid_t pid, const char *name, char *buffer, size_t size)
{
        char path[64];
        _cleanup_close_ int fd = -EBADF;
        ssize_t n;

        snprintf(path, sizeof path, "/proc/%d/%s", (int) pid, name);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        n = fd < 0 ? -1 : read(fd, buffer, size - 1);
        if (n <= 0)
                return false;
        buffer[n] = '\0';
        return true;
}

Memory memory_of(pid_t pid)
{
        char text[4096];

        if (!read_proc(pid, "smaps_rollup", text, sizeof text))
                return (Memory){};
        return (Memory){
                        .pss = rollup_field(text, "\nPss:"),
                        .pss_anon = rollup_field(text, "\nPss_Anon:"),
                        .rss = rollup_field(text, "\nRss:"),
                        .processes = 1,
        };
}

/* The nth field of /proc/PID/stat (proc(5) counts from 1), n > 2; 0 if the process is gone. */
static uint64_t stat_field(pid_t pid, unsigned n)
{
        char text[1024], *p;

        if (!read_proc(pid, "stat", text, sizeof text))
                return 0;
        p = strrchr(text, ')'); /* the name before it may hold anything */
        for (unsigned i = 2; p && i < n; i++)
                p = strchr(p + 1, ' ');
        return p ? strtoull(p + 1, NULL, 10) : 0;
}

Memory memory_of_children(pid_t pid)
{
        _cleanup_closedir_ DIR *proc = opendir("/proc");
        Memory sum = {};
        struct dirent *e;

        if (!proc)
                die("/proc: %m");
        while ((e = readdir(proc))) {
                pid_t child = (pid_t) strtol(e->d_name, NULL, 10);
                Memory m;

                if (child <= 0 || stat_field(child, 4) != (uint64_t) pid)
                        continue;
                m = memory_of(child);
                sum.pss += m.pss;
                sum.pss_anon += m.pss_anon;
                sum.rss += m.rss;
                sum.processes += m.processes;
        }
        return sum;
}

uint64_t process_ticks(pid_t pid)
{
        return stat_field(pid, 14) + stat_field(pid, 15);
}
