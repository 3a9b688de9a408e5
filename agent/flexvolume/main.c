/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The FlexVolume driver: a process the kubelet starts for one call. What it must keep to, however the call goes:
 *
 * - exactly one JSON value on standard output, in one write, and nothing on standard error, which the kubelet reads
 *   together with it;
 * - exit status 0: for any other the kubelet logs the arguments, secrets included;
 * - an answer before the kubelet gives up (2 min 3 s): the agent has 110 s, and a timer that does not depend on
 *   anything but the kernel answers a second later even when this process is blocked elsewhere;
 * - the arguments, which hold secrets, are not to be read by other processes for longer than it takes to copy them.
 *
 * It blocks on the agent's socket only.
 */

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "call.h"
#include "options.h"
#include "protocol/client.h"
#include "protocol/names.h"
#include "protocol/settings.h"
#include "reply.h"

#define TIMEOUT_SEC 110U
#define BACKSTOP_SEC 1U

/* Signals that would end the process without an answer, and the backstop's. */
static const int answered_signals[] = { SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU };

static void put(const char *line)
{
        /* nobody is left to be told when this fails */
        (void) !write(STDOUT_FILENO, line, strlen(line));
}

static void on_signal(int signal)
{
        if (signal == SIGALRM)
                put("{\"status\":\"Failure\",\"message\":\"The call is in progress and not finished yet. "
                    "The work goes on; repeat the request to join it. (io.berth.Error.InProgress)\"}\n");
        else
                put("{\"status\":\"Failure\",\"message\":\"The driver was interrupted by a signal. "
                    "The work goes on; repeat the request to join it. (io.berth.Error.InProgress)\"}\n");
        _exit(EXIT_SUCCESS);
}

static void signal_set(sigset_t *set)
{
        sigemptyset(set);
        for (size_t i = 0; i < ELEMENTSOF(answered_signals); i++)
                sigaddset(set, answered_signals[i]);
}

/* Dispositions and masks are inherited over exec: all that matter are set here. */
static void signals_install(void)
{
        struct sigaction answer = { .sa_handler = on_signal }, ignore = { .sa_handler = SIG_IGN };
        sigset_t set;

        signal_set(&set);
        sigfillset(&answer.sa_mask);
        for (size_t i = 0; i < ELEMENTSOF(answered_signals); i++)
                (void) sigaction(answered_signals[i], &answer, NULL);
        (void) sigaction(SIGPIPE, &ignore, NULL);
        (void) sigaction(SIGUSR1, &ignore, NULL);
        (void) sigaction(SIGUSR2, &ignore, NULL);
        (void) sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void backstop_arm(unsigned seconds)
{
        struct itimerspec spec = { .it_value = { .tv_sec = (time_t) seconds } };
        timer_t timer;

        if (timer_create(CLOCK_BOOTTIME, NULL, &timer) >= 0)
                (void) timer_settime(timer, 0, &spec, NULL);
}

/* No library may find 0 to 2 free and open a socket there, nor write to what the kubelet takes for the answer. */
static void descriptors_secure(void)
{
        int fd;

        do
                fd = open("/dev/null", O_RDWR);
        while (fd >= 0 && fd <= STDERR_FILENO);
        if (fd < 0)
                return;
        (void) dup2(fd, STDERR_FILENO);
        close(fd);
}

/* Copies the arguments and overwrites the originals, which /proc/PID/cmdline shows. */
static char **arguments_take(int argc, char **argv)
{
        char **copy = NULL;
        int r = 0;

        for (int i = 0; i < argc; i++) {
                if (r >= 0)
                        r = strv_append(&copy, argv[i]);
                explicit_bzero(argv[i], strlen(argv[i]));
        }
        if (r < 0) {
                strv_free(copy);
                copy = NULL;
        }
        return copy;
}

static void arguments_erase(char **args)
{
        STRV_FOREACH (s, args)
                explicit_bzero(*s, strlen(*s));
        strv_free(args);
}

/* BERTH_TIMEOUT_SEC in the kubelet's environment may only shorten the wait. */
static unsigned timeout_sec(void)
{
        const char *s = getenv(BERTH_TIMEOUT_ENV);
        unsigned sec;

        return s && parse_unsigned(s, &sec) >= 0 && sec > 0 && sec < TIMEOUT_SEC ? sec : TIMEOUT_SEC;
}

int main(int argc, char **argv)
{
        uint64_t start = now_boottime_usec();
        unsigned timeout = timeout_sec();
        json_t *reply = NULL;
        sigset_t set;

        (void) prctl(PR_SET_DUMPABLE, 0); /* neither a core dump nor a debugger of the same user */
        char **args = arguments_take(argc, argv);
        descriptors_secure();
        signals_install();
        backstop_arm(timeout + BACKSTOP_SEC);
        options_init();

        if (args && args[0])
                reply = call_serve(args[0], args + 1, argc - 1, start + timeout * UINT64_C(1000000));
        arguments_erase(args);

        _cleanup_free_ char *line = reply_render(reply);
        json_decref(reply);
        signal_set(&set);
        (void) sigprocmask(SIG_BLOCK, &set, NULL);
        put(line ? line : "{\"status\":\"Failure\",\"message\":\"Out of memory (io.berth.Error.Internal)\"}\n");
        return EXIT_SUCCESS;
}
