/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * berthctl: what its verbs share. A verb is a file verb-<name>.c with one `const Verb verb_<name>`; main.c has the
 * table of them. A verb parses its options with ctl_next_option(), makes one call of the agent and prints
 * the answer: as JSON, or as text by output.h.
 *
 * Verbs return an exit status, one of:
 */
typedef enum ExitStatus {
        STATUS_OK = 0,
        STATUS_FAILED = 1,      /* the agent refused or failed: repeating does not help */
        STATUS_USAGE = 2,       /* the command line is wrong; nothing was asked of the agent */
        STATUS_UNREACHABLE = 3, /* no answer from the agent at all */
        STATUS_RETRY = 75,      /* EX_TEMPFAIL of sysexits.h: it failed and may succeed when repeated */
} ExitStatus;

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "protocol/client.h"

typedef struct Verb Verb;

typedef struct Ctl {
        const Verb *verb;
        const char *socket;     /* NULL: $BERTH_SOCKET or the default */
        bool json;
        bool terminal;          /* standard output is one: align and shorten */
        bool colour;
        uint64_t deadline_usec; /* CLOCK_BOOTTIME, of the whole command */
        sd_bus *bus;            /* by ctl_new_call() */
        ExitStatus status;      /* to return after ctl_next_option() ended the verb */
} Ctl;

struct Verb {
        const char *name;
        const char *arguments; /* for the synopsis: "--target DIR …" */
        const char *summary;   /* one line */
        const char *help;      /* options and explanations, lines; "" if there is nothing to add */
        ExitStatus (*run)(Ctl *c, int argc, char **argv);
};

extern const Verb verb_mount, verb_unmount, verb_list, verb_status, verb_explain, verb_reconcile, verb_stats,
        verb_expand, verb_detach, verb_fence, verb_drain, verb_forget, verb_version;

/* What getopt_long() returns for the options all verbs have; a verb's own are numbered from OPTION_OWN. */
enum { OPTION_HELP = 256, OPTION_SOCKET, OPTION_JSON, OPTION_OWN };
/* clang-format off */
#define CTL_OPTIONS                                                                                          \
        { "help", no_argument, NULL, OPTION_HELP },                                                          \
        { "socket", required_argument, NULL, OPTION_SOCKET },                                                \
        { "json", no_argument, NULL, OPTION_JSON }
/* clang-format on */

/*
 * The next of the verb's own options (its value in optarg), 0 when only arguments are left (from optind on), or
 * -1 when the verb is to return c->status: help was printed, or the options are wrong.
 */
int ctl_next_option(Ctl *c, int argc, char **argv, const struct option *options);
/* For verbs without options of their own that take n_min to n_max arguments: false when the verb is to return c->status. */
bool ctl_arguments(Ctl *c, int argc, char **argv, int n_min, int n_max);
/* Says on standard error what is wrong with the command line. Returns STATUS_USAGE. */
ExitStatus ctl_usage(Ctl *c, const char *format, ...) _printf_(2, 3);
/* Says on standard error what failed, with its remedy and its name. Returns the status for it. */
ExitStatus ctl_fail(const Error *err);

/* Operations as in client.h: what may be asked again of the next berthd, if this one ends meanwhile; and what is asked once. */
int ctl_ask(Ctl *c, ClientAsk ask, void *userdata, Error *err);
int ctl_new_call(Ctl *c, const char *method, sd_bus_message **ret, Error *err);
/* Sends and converts the answer's one value (NULL if it has none); the caller json_decref()s it. */
int ctl_call(Ctl *c, sd_bus_message *call, json_t **ret, Error *err);
/* --option KEY=VALUE and --secret-file KEY=FILE into a map. Negative when the verb is to return c->status. */
int ctl_add_pair(Ctl *c, StrMap *map, const char *argument);
int ctl_add_secret(Ctl *c, StrMap *map, const char *argument);
/* The end of a call's encoding: r is what the append functions returned. */
int ctl_encoded(int r, Error *err);

/* json_decrefp() is jansson's */
#define _cleanup_json_ _cleanup_(json_decrefp)
