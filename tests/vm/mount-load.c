/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * mount-load SECONDS LINE...: as many pods as there are lines mount and unmount their volumes, again and
 * again. A line is words: c, k, u, pMSEC or sMSEC, a target, a driver, options key=value, secrets secret:key=value. c begins anew
 * at once; k, as a kubelet does, waits 0.5, 1, 2, … 16 s after a failure, and does not unmount what did not mount; p begins anew every
 * MSEC milliseconds, whatever happens, or when the last is over, and such lines are spread over that time; sMSEC, in the same rhythm, asks
 * for the stats of what is mounted at the target. A target "-" stands for reconcile instead, of everything. u unmounts, once.
 * Prints a line for each call: the line's number, "mount", "unmount", "stats" or "reconcile", its milliseconds, and "ok", the
 * error's name, or "ails" for stats of what is not healthy.
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
        bool looks; /* instead of mounting and unmounting */
        bool unmounts; /* once, and nothing else */
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
        pace->looks = *word == 's';
        pace->unmounts = *word == 'u';
        pace->period_usec = *word == 'p' || *word == 's' ? (uint64_t) atoi(word + 1) * 1000 : 0;
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

static int ask_stats(sd_bus *bus, const char *target, uint64_t deadline_usec, bool *ret_healthy, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL, *reply = NULL;
        const char *key;
        int r = client_new_call(bus, "Stats", &m, err);

        if (r >= 0 && (r = bus_append_bytes(m, target)) < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot make the call: %s", strerror(-r));
        if (r < 0 || (r = client_call(bus, m, deadline_usec, &reply, err)) < 0)
                return r;
        r = sd_bus_message_enter_container(reply, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(reply, 'e', "sv")) > 0 &&
               (r = sd_bus_message_read(reply, "s", &key)) >= 0) {
                int healthy;

                if (strcmp(key, "healthy") != 0)
                        r = sd_bus_message_skip(reply, "v");
                else if ((r = sd_bus_message_read(reply, "v", "b", &healthy)) >= 0)
                        *ret_healthy = healthy;
                if (r >= 0)
                        r = sd_bus_message_exit_container(reply);
        }
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "The answer has an unknown form") : 0;
}

static int ask_reconcile(sd_bus *bus, uint64_t deadline_usec, Error *err)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        int r = client_new_call(bus, "Reconcile", &m, err);

        if (r >= 0 && (r = sd_bus_message_append(m, "b", 0)) < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot make the call: %s", strerror(-r));
        return r < 0 ? r : client_call(bus, m, deadline_usec, NULL, err);
}

static void look(int line, sd_bus *bus, const char *target)
{
        _cleanup_error_ Error err = ERROR_INIT;
        uint64_t begun_usec = now_boottime_usec();
        bool healthy = true, all = strcmp(target, "-") == 0;
        int r = all ? ask_reconcile(bus, begun_usec + CALL_USEC, &err)
                    : ask_stats(bus, target, begun_usec + CALL_USEC, &healthy, &err);

        printf("%d %s %.3f %s\n", line, all ? "reconcile" : "stats", (double) (now_boottime_usec() - begun_usec) / 1000,
               r < 0 ? error_code_name(err.code) : healthy ? "ok" : "ails");
        (void) fflush(stdout);
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
                if (pace.looks) {
                        look(line, bus, p.target);
                        continue;
                }
                _cleanup_error_ Error err = ERROR_INIT;
                uint64_t begun_usec = now_boottime_usec();
                int r = pace.unmounts ? 0 : client_mount(bus, &p, begun_usec + CALL_USEC, NULL, &err);

                if (!pace.unmounts)
                        tell(line, "mount", begun_usec, r, &err);
                if (r < 0 && !(pace.period_usec == 0 && !pace.kubelet)) {
                        pace_failed(&pace, end_usec);
                        continue;
                }
                error_done(&err);
                begun_usec = now_boottime_usec();
                r = client_unmount(bus, p.target, begun_usec + CALL_USEC, &err);
                tell(line, "unmount", begun_usec, r, &err);
        } while (!pace.unmounts && pace_wait(&pace, end_usec));
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
