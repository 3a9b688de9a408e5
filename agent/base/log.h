/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Logging that never blocks. Under systemd (JOURNAL_STREAM is set) lines go to the journal's native socket,
 * otherwise to standard error; both without waiting: what cannot be delivered at once is dropped and counted
 * (sd_journal_send() blocks for good once journald stops reading). Secrets must never be passed here.
 *
 * A line is a message and any number of structured fields (systemd.journal-fields(7)); on standard error
 * the fields follow the message as KEY=value.
 */

#include <stdint.h>
#include <syslog.h>

#include "base/cleanup.h"

typedef struct LogField {
        const char *name;  /* upper case, such as "VOLUME" */
        const char *value; /* a field whose value is NULL or empty is left out */
} LogField;

/* Opens the sink. identifier is kept (SYSLOG_IDENTIFIER). Messages of a level above max_level are skipped. */
void log_open(const char *identifier, int max_level);
/* How many lines have been dropped since log_open(). */
uint64_t log_dropped(void);

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_notice(...) log_line(LOG_NOTICE, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERR, __VA_ARGS__)

void log_line(int level, const char *format, ...) _printf_(2, 3);
/* fields ends with an entry whose name is NULL. errno is left as it was. */
void log_fields(int level, const LogField *fields, const char *format, ...) _printf_(3, 4);
