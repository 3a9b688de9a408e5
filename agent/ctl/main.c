/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthctl: the command line for people. Owns the table of verbs, the options they share, the connection and the
 * exit statuses (ctl.h). One call of the agent a run; blocks on the agent's socket for at most two minutes.
 */

#include <stdarg.h>
#include <string.h>

#include "base/escape.h"
#include "build.h"
#include "ctl.h"
#include "dict.h"
#include "output.h"

/* Longer than any request may take (RequestTimeoutSec= is 100 s). */
#define TIMEOUT_USEC (120 * UINT64_C(1000000))

static const Verb *const verbs[] = {
        &verb_mount,     &verb_unmount, &verb_list,   &verb_status, &verb_explain,
        &verb_reconcile, &verb_stats,   &verb_expand, &verb_detach, &verb_fence,
        &verb_drain,     &verb_forget,  &verb_version,
};

static const char common_help[] =
        "Options of every verb:\n"
        "  --socket PATH  the agent's socket (default: $BERTH_SOCKET, else /run/berth/berthd.sock)\n"
        "  --json         print the answer as one JSON value\n"
        "  --help         print this help\n";

static const char status_help[] =
        "Exit status:\n"
        "  0   done\n"
        "  1   the agent refused or failed, and repeating does not help\n"
        "  2   the command line is wrong\n"
        "  3   the agent cannot be reached\n"
        "  75  failed, and may succeed when repeated\n";

static void print_help(void)
{
        printf("berthctl [OPTIONS] VERB [OPTIONS] [ARGUMENTS]\n\nWatch and steer berthd, which gives pods their volumes on this node.\n\n"
               "Verbs:\n");
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                printf("  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
        printf("  %-10s %s\n\n%s\n%s\n", "help", "Explain a verb: help VERB", common_help, status_help);
        printf("Where standard output is a terminal, tables are aligned and coloured (unless NO_COLOR is set);\n"
               "otherwise cells are separated by tabs and numbers are given in full.\n");
}

static void print_verb_help(const Verb *v)
{
        printf("berthctl %s%s%s\n\n%s\n\n%s%s%s\n%s", v->name, *v->arguments ? " " : "", v->arguments, v->summary, v->help,
               *v->help ? "\n" : "", common_help, status_help);
}

static const Verb *verb_find(const char *name)
{
        for (size_t i = 0; i < ELEMENTSOF(verbs); i++)
                if (str_equal(verbs[i]->name, name))
                        return verbs[i];
        return NULL;
}

/* One line, whatever the text has in it; what came over D-Bus may be escaped already, and is not to be so twice. */
static void complain(const char *text)
{
        _cleanup_free_ char *bytes = bytes_unescape(text), *escaped = bytes ? bytes_escape(bytes) : NULL;

        fprintf(stderr, "berthctl: %s\n", escaped ? escaped : "out of memory");
}

ExitStatus ctl_usage(Ctl *c, const char *format, ...)
{
        _cleanup_free_ char *text = NULL;
        va_list ap;

        va_start(ap, format);
        if (vasprintf(&text, format, ap) < 0)
                text = NULL;
        va_end(ap);
        complain(text ? text : "out of memory");
        fprintf(stderr, "Try: berthctl help%s%s\n", c->verb ? " " : "", c->verb ? c->verb->name : "");
        return c->status = STATUS_USAGE;
}

ExitStatus ctl_fail(const Error *err)
{
        _cleanup_free_ char *rendered = error_render(err), *text = NULL;

        if (rendered && asprintf(&text, "%s (io.berth.Error.%s)", rendered, error_code_name(err->code)) < 0)
                text = NULL;
        complain(text ? text : "out of memory");
        if (err->code == ERROR_AGENT_UNREACHABLE)
                return STATUS_UNREACHABLE;
        return error_code_is_retryable(err->code) ? STATUS_RETRY : STATUS_FAILED;
}

/* Options that stand before or after the verb alike: 0, or -1 as ctl_next_option(). */
static int common_option(Ctl *c, int option)
{
        switch (option) {
        case OPTION_HELP:
                if (c->verb)
                        print_verb_help(c->verb);
                else
                        print_help();
                c->status = STATUS_OK;
                return -1;
        case OPTION_SOCKET:
                c->socket = optarg;
                return 0;
        case OPTION_JSON:
                c->json = true;
                return 0;
        default:
                return -1;
        }
}

int ctl_next_option(Ctl *c, int argc, char **argv, const struct option *options)
{
        for (;;) {
                int option = getopt_long(argc, argv, c->verb ? ":" : "+:", options, NULL);

                if (option < 0)
                        return 0;
                if (option == '?' || option == ':') {
                        ctl_usage(c, option == ':' ? "Option %s needs a value" : "Unknown option, or one that takes no value: %s",
                                  argv[optind - 1]);
                        return -1;
                }
                if (option >= OPTION_OWN)
                        return option;
                if (common_option(c, option) < 0)
                        return -1;
        }
}

bool ctl_arguments(Ctl *c, int argc, char **argv, int n_min, int n_max)
{
        static const struct option options[] = { CTL_OPTIONS, {} };
        int n;

        if (ctl_next_option(c, argc, argv, options) < 0)
                return false;
        n = argc - optind;
        if (n >= n_min && n <= n_max)
                return true;
        ctl_usage(c, n < n_min ? "An argument is missing: berthctl %s %s" : "Too many arguments: berthctl %s %s", c->verb->name,
                  c->verb->arguments);
        return false;
}

int ctl_ask(Ctl *c, ClientAsk ask, void *userdata, Error *err)
{
        return client_ask(c->socket, c->deadline_usec, ask, userdata, err);
}

int ctl_new_call(Ctl *c, const char *method, sd_bus_message **ret, Error *err)
{
        int r = c->bus ? 0 : client_connect(c->socket, c->deadline_usec, &c->bus, err);

        return r < 0 ? r : client_new_call(c->bus, method, ret, err);
}

int ctl_encoded(int r, Error *err)
{
        if (r >= 0)
                return 0;
        if (r == -EINVAL)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "An argument is not valid UTF-8");
        return error_set(err, ERROR_INTERNAL, r, "Cannot encode the request: %s", strerror(-r));
}

int ctl_call(Ctl *c, sd_bus_message *call, json_t **ret, Error *err)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        int r = client_call(c->bus, call, c->deadline_usec, &reply, err);
        if (r < 0)
                return r;
        if (sd_bus_message_is_empty(reply) > 0) {
                *ret = NULL;
                return 0;
        }
        r = bus_to_json(reply, ret);
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "Cannot read berthd's answer: %s", strerror(-r)) : 0;
}

static ExitStatus help_verb(Ctl *c, int argc, char **argv)
{
        const Verb *v = argc > 1 ? verb_find(argv[1]) : NULL;

        if (argc > 1 && !v)
                return ctl_usage(c, "There is no verb %s", argv[1]);
        if (v)
                print_verb_help(v);
        else
                print_help();
        return STATUS_OK;
}

static ExitStatus ctl_run(Ctl *c, int argc, char **argv)
{
        static const struct option options[] = { CTL_OPTIONS, { "version", no_argument, NULL, OPTION_OWN }, {} };
        int option;

        opterr = 0;
        while ((option = ctl_next_option(c, argc, argv, options)) != 0) {
                if (option < 0)
                        return c->status;
                printf("berthctl %s\n", BERTH_VERSION);
                return STATUS_OK;
        }
        argc -= optind;
        argv += optind;
        if (argc < 1)
                return ctl_usage(c, "Which verb?");
        if (str_equal(argv[0], "help"))
                return help_verb(c, argc, argv);
        c->verb = verb_find(argv[0]);
        if (!c->verb)
                return ctl_usage(c, "There is no verb %s", argv[0]);
        optind = 0; /* glibc: start afresh, with the verb in the place of the program's name */
        return c->verb->run(c, argc, argv);
}

int main(int argc, char **argv)
{
        const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
        Ctl c = { .deadline_usec = now_boottime_usec() + TIMEOUT_USEC, .terminal = isatty(STDOUT_FILENO) };
        ExitStatus status;

        c.colour = c.terminal && !(no_color && *no_color) && !str_equal(term, "dumb");
        status = ctl_run(&c, argc, argv);
        sd_bus_flush_close_unref(c.bus);
        if (fflush(stdout) != 0 || ferror(stdout)) {
                fprintf(stderr, "berthctl: cannot write to standard output: %s\n", strerror(errno));
                return status == STATUS_OK ? STATUS_FAILED : status;
        }
        return status;
}
