/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * mount-load SECONDS LINE...: as many pods as there are lines mount and unmount their volumes, again and
 * again. A line is words: c, k or pMSEC, a target, a driver, options key=value, secrets secret:key=value. c begins anew
 * at once; k, as a kubelet does, waits 0.5, 1, 2, … 16 s after a failure, and does not unmount what did not mount; p begins anew every
 * MSEC milliseconds, whatever happens, or when the last is over, and such lines are spread over that time.
 * Prints a line for each call: the line's number, "mount" or "unmount", its milliseconds, and "ok" or the
 * error's name.
 *
 * Runs in guests of tests/vm, against the guest's berthd.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "protocol/client.h"

#define CALL_USEC (110 * UINT64_C(1000000))

static void tell(int line, const char *call, uint64_t begun_usec, int r, const Error *err)
{
        printf("%d %s %.3f %s\n", line, call, (double) (now_boottime_usec() - begun_usec) / 1000,
               r < 0 ? error_code_name(err->code) : "ok");
        (void) fflush(stdout);
}

/* What a pod does between its turns. */
typedef struct Pace {
        bool kubelet;
        uint64_t period_usec; /* 0: no rhythm */
        uint64_t next_usec;
        uint64_t pause_usec;
} Pace;

static void sleep_until(uint64_t usec)
{
        uint64_t now = now_boottime_usec(), left = usec > now ? usec - now : 0;
        const struct timespec pause = {.tv_sec = (time_t) (left / 1000000), .tv_nsec = (long) (left % 1000000 * 1000)};

        (void) nanosleep(&pause, NULL);
}

/* Whether there is another turn before the end; waits for its beginning. */
static bool pace_wait(Pace *pace, uint64_t end_usec)
{
        if (pace->period_usec == 0)
                return now_boottime_usec() < end_usec;
        while (pace->next_usec < now_boottime_usec())
                pace->next_usec += pace->period_usec;
        if (pace->next_usec >= end_usec)
                return false;
        sleep_until(pace->next_usec);
        return true;
}

static void pace_failed(Pace *pace, uint64_t end_usec)
{
        if (!pace->kubelet)
                return;
        uint64_t until = now_boottime_usec() + pace->pause_usec;
        sleep_until(until < end_usec ? until : end_usec);
        pace->pause_usec = pace->pause_usec < 16000000 ? pace->pause_usec * 2 : pace->pause_usec;
}

static int parse(char *text, MountParams *p, Pace *pace)
{
        char *save = NULL, *word = strtok_r(text, " ", &save), *target = strtok_r(NULL, " ", &save),
             *driver = strtok_r(NULL, " ", &save);

        if (!word || !target || !driver || str_replace(&p->target, target) < 0 ||
            str_replace(&p->driver, driver) < 0)
                return -EINVAL;
        pace->kubelet = *word == 'k';
        pace->period_usec = *word == 'p' ? (uint64_t) atoi(word + 1) * 1000 : 0;
        while ((word = strtok_r(NULL, " ", &save))) {
                char *value = strchr(word, '=');

                if (!value)
                        return -EINVAL;
                *value++ = 0;
                bool secret = strncmp(word, "secret:", 7) == 0;
                if (strmap_set(secret ? &p->secrets : &p->source, secret ? word + 7 : word, value) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int run(int line, double share, char *text, uint64_t end_usec)
{
        Pace pace = {.pause_usec = 500000};
        MountParams p = {};
        sd_bus *bus = NULL;
        _cleanup_error_ Error e = ERROR_INIT;

        if (parse(text, &p, &pace) < 0 || client_connect(NULL, now_boottime_usec() + CALL_USEC, &bus, &e) < 0) {
                fprintf(stderr, "line %d: %s\n", line, e.text ? e.text : "not as it should be");
                return EXIT_FAILURE;
        }
        pace.next_usec = now_boottime_usec() + (uint64_t) (share * (double) pace.period_usec);
        sleep_until(pace.next_usec);
        do {
                _cleanup_error_ Error err = ERROR_INIT;
                uint64_t begun_usec = now_boottime_usec();
                int r = client_mount(bus, &p, begun_usec + CALL_USEC, NULL, &err);

                tell(line, "mount", begun_usec, r, &err);
                if (r < 0 && !(pace.period_usec == 0 && !pace.kubelet)) {
                        pace_failed(&pace, end_usec);
                        continue;
                }
                error_done(&err);
                begun_usec = now_boottime_usec();
                r = client_unmount(bus, p.target, begun_usec + CALL_USEC, &err);
                tell(line, "unmount", begun_usec, r, &err);
        } while (pace_wait(&pace, end_usec));
        sd_bus_flush_close_unref(bus);
        mount_params_done(&p);
        return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
        int failed = 0, status;

        if (argc < 3) {
                fprintf(stderr, "usage: %s SECONDS LINE...\n", argv[0]);
                return 2;
        }
        uint64_t end_usec = now_boottime_usec() + (uint64_t) atoi(argv[1]) * 1000000;
        for (int i = 2; i < argc; i++)
                if (fork() == 0)
                        _exit(run(i - 2, (double) (i - 2) / (argc - 2), argv[i], end_usec));
        while (wait(&status) > 0)
                failed += status != 0;
        return failed > 0;
}
