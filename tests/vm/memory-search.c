/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * memory-search FILE PID...: which of the processes have one of the file's lines, each the bytes of a string in hex, in memory that they may
 * write to: what a core dump would have. Prints the pid, the process' name and the number of the line; exit status 0 if any is found, 1 if none,
 * 2 on an error. A process that is gone has nothing.
 *
 * Runs in guests of tests/vm, as root.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATTERNS_MAX 32U
#define PATTERN_MAX 256U
#define PIECE (1U << 20)

static unsigned char patterns[PATTERNS_MAX][PATTERN_MAX];
static size_t sizes[PATTERNS_MAX], n_patterns;

static int read_patterns(const char *path)
{
        FILE *file = fopen(path, "re");
        char line[2 * PATTERN_MAX + 2];

        while (file && fgets(line, sizeof(line), file) && n_patterns < PATTERNS_MAX) {
                unsigned byte;
                size_t n = 0;

                for (const char *p = line; n < PATTERN_MAX && sscanf(p, "%2x", &byte) == 1; p += 2)
                        patterns[n_patterns][n++] = (unsigned char) byte;
                if (n > 0)
                        sizes[n_patterns++] = n;
        }
        if (file)
                fclose(file);
        return n_patterns > 0 ? 0 : -1;
}

/* The bits of the patterns that are in the process' memory from start to end. */
static unsigned search_range(int fd, unsigned long start, unsigned long end)
{
        static unsigned char buffer[PIECE];
        unsigned found = 0;

        /* pieces overlap, so that it is found across their borders too */
        for (unsigned long at = start; at < end; at += PIECE - PATTERN_MAX) {
                ssize_t n = pread(fd, buffer, end - at < PIECE ? end - at : PIECE, (off_t) at);
                for (size_t i = 0; n > 0 && i < n_patterns; i++)
                        if (memmem(buffer, (size_t) n, patterns[i], sizes[i]))
                                found |= 1U << i;
                if (n <= 0 || end - at <= PIECE)
                        break;
        }
        return found;
}

static int search_process(const char *pid)
{
        char path[64], line[512], name[64] = "?", mode[5];
        unsigned long start, end;
        unsigned found = 0;

        snprintf(path, sizeof(path), "/proc/%s/comm", pid);
        FILE *comm = fopen(path, "re");
        if (comm && fgets(name, sizeof(name), comm))
                name[strcspn(name, "\n")] = 0;
        if (comm)
                fclose(comm);
        snprintf(path, sizeof(path), "/proc/%s/maps", pid);
        FILE *maps = fopen(path, "re");
        snprintf(path, sizeof(path), "/proc/%s/mem", pid);
        int fd = open(path, O_RDONLY | O_CLOEXEC), gone = !maps || (fd < 0 && (errno == ENOENT || errno == ESRCH));
        while (maps && fd >= 0 && fgets(line, sizeof(line), maps))
                if (sscanf(line, "%lx-%lx %4s", &start, &end, mode) == 3 && mode[0] == 'r' && mode[1] == 'w')
                        found |= search_range(fd, start, end);
        for (size_t i = 0; i < n_patterns; i++)
                if (found & 1U << i)
                        printf("%s %s %zu\n", pid, name, i + 1);
        if (maps)
                fclose(maps);
        if (fd >= 0)
                close(fd);
        else if (!gone)
                fprintf(stderr, "cannot read the memory of %s\n", pid);
        return fd >= 0 || gone ? found != 0 : -1;
}

int main(int argc, char **argv)
{
        int any = 0;

        if (argc < 3 || read_patterns(argv[1]) < 0) {
                fprintf(stderr, "usage: %s FILE PID...\n", argv[0]);
                return 2;
        }
        for (int i = 2; i < argc; i++) {
                int r = search_process(argv[i]);
                if (r < 0)
                        return 2;
                any |= r;
        }
        return !any;
}
