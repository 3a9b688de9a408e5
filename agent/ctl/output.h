/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What berthctl prints. On a terminal: aligned columns, sizes and times shortened, colour unless NO_COLOR is
 * set. Into a pipe: the same cells separated by one tab, numbers in full. Bytes that are not printable UTF-8
 * appear as \xNN (base/escape.h), so that a cell never has a tab, a newline or a control sequence in it; an
 * empty cell is "-".
 */

#include "ctl.h"

typedef struct Column {
        const char *header;
        const char *key; /* of the row's object */
        /* The cell's text where it is more than the value of key: a new string, NULL if out of memory. */
        char *(*format)(const Ctl *c, const json_t *row);
        bool alarming; /* red where it is not empty */
} Column;

/* One line for each row of the array, under a line of headers; columns ends with one that has no header. */
void print_table(const Ctl *c, const json_t *rows, const Column *columns);
/* One line for each column: "Header: cell". */
void print_fields(const Ctl *c, const json_t *row, const Column *columns);
/* A line between tables. */
void print_heading(const Ctl *c, const char *heading);
/* One JSON value, indented, with a newline. */
void print_json(const json_t *j);

/* Helpers for format functions: new strings. */
char *format_text(const json_t *value);                    /* any value; lists joined by commas, objects as key=value */
char *format_bytes(const Ctl *c, const json_t *value);     /* 64.0M, or the number */
char *format_duration(const Ctl *c, const json_t *value);  /* of microseconds: 2min 3s, or the number */
char *format_time(const Ctl *c, const json_t *value);      /* of CLOCK_REALTIME microseconds: local time */
char *format_access(const Ctl *c, const json_t *row);      /* of ReadOnly or readOnly: ro or rw */
