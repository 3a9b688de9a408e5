/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Tables, fields and JSON on standard output. Runs in berthctl. What is printed comes from requests of pod
 * authors: everything is escaped on its way to the terminal. Running out of memory shows as an empty cell.
 */

#include "output.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "base/escape.h"

#define COLOUR_BOLD "\x1b[1m"
#define COLOUR_RED "\x1b[31m"
#define COLOUR_OFF "\x1b[0m"

/* Appends to *s with a separator, freeing part. */
static void join(char **s, const char *separator, char *part)
{
        char *joined = NULL;

        if (asprintf(&joined, "%s%s%s", *s ? *s : "", *s ? separator : "", part ? part : "") < 0)
                joined = NULL;
        free(*s);
        free(part);
        *s = joined;
}

static char *format_object(const json_t *object)
{
        const char *key;
        json_t *value;
        char *s = NULL;

        json_object_foreach((json_t *) object, key, value) {
                _cleanup_free_ char *text = format_text(value);
                char *part = NULL;

                if (asprintf(&part, "%s=%s", key, text ? text : "") < 0)
                        part = NULL;
                join(&s, " ", part);
        }
        return s ? s : strdup("");
}

char *format_text(const json_t *value)
{
        char *s = NULL;

        switch (value ? json_typeof(value) : JSON_NULL) {
        case JSON_STRING:
                return strdup(json_string_value(value));
        case JSON_INTEGER:
                return asprintf(&s, "%" JSON_INTEGER_FORMAT, json_integer_value(value)) < 0 ? NULL : s;
        case JSON_REAL:
                return asprintf(&s, "%g", json_real_value(value)) < 0 ? NULL : s;
        case JSON_TRUE:
                return strdup("yes");
        case JSON_FALSE:
                return strdup("no");
        case JSON_ARRAY:
                for (size_t i = 0; i < json_array_size(value); i++)
                        join(&s, ", ", format_text(json_array_get(value, i)));
                return s ? s : strdup("");
        case JSON_OBJECT:
                return format_object(value);
        case JSON_NULL:
                break;
        }
        return strdup("");
}

char *format_bytes(const Ctl *c, const json_t *value)
{
        static const char suffixes[] = "BKMGTPE";
        double n = (double) json_integer_value(value);
        unsigned i = 0;
        char *s = NULL;

        if (!c->terminal || !json_is_integer(value))
                return format_text(value);
        for (; n >= 1024 && i + 2 < sizeof(suffixes); i++)
                n /= 1024;
        return asprintf(&s, i == 0 ? "%.0f%c" : "%.1f%c", n, suffixes[i]) < 0 ? NULL : s;
}

char *format_duration(const Ctl *c, const json_t *value)
{
        uint64_t usec = (uint64_t) json_integer_value(value), sec = usec / 1000000;
        char *s = NULL;
        int n;

        if (!c->terminal || !json_is_integer(value))
                return format_text(value);
        if (sec >= 86400)
                n = asprintf(&s, "%" PRIu64 "d %" PRIu64 "h", sec / 86400, sec / 3600 % 24);
        else if (sec >= 3600)
                n = asprintf(&s, "%" PRIu64 "h %" PRIu64 "min", sec / 3600, sec / 60 % 60);
        else if (sec >= 60)
                n = asprintf(&s, "%" PRIu64 "min %" PRIu64 "s", sec / 60, sec % 60);
        else
                n = asprintf(&s, "%.3fs", (double) usec / 1e6);
        return n < 0 ? NULL : s;
}

char *format_time(const Ctl *c, const json_t *value)
{
        time_t sec = (time_t) (json_integer_value(value) / 1000000);
        char buffer[64];
        struct tm tm;

        if (!json_is_integer(value) || !localtime_r(&sec, &tm) ||
            strftime(buffer, sizeof(buffer), c->terminal ? "%F %T" : "%FT%T%z", &tm) == 0)
                return format_text(value);
        return strdup(buffer);
}

char *format_access(const Ctl *c, const json_t *row)
{
        const json_t *value = json_object_get(row, "ReadOnly");

        if (!value)
                value = json_object_get(row, "readOnly");
        return strdup(!value ? "" : json_is_true(value) ? "ro" : "rw");
}

/*
 * A cell's text as it may be printed. Values of type ay were escaped on their way into JSON, others were not:
 * taking the first escape back and making it anew does both alike.
 */
static char *cell_text(const Ctl *c, const json_t *row, const Column *column)
{
        _cleanup_free_ char *raw = column->format ? column->format(c, row) : format_text(json_object_get(row, column->key)),
                            *bytes = raw && *raw ? bytes_unescape(raw) : NULL;

        return bytes ? bytes_escape(bytes) : strdup("-");
}

/* Columns on the screen, taking each character for one wide. */
static size_t text_width(const char *s)
{
        size_t n = 0;

        for (; *s; s++)
                n += ((unsigned char) *s & 0xc0) != 0x80;
        return n;
}

static size_t columns_count(const Column *columns)
{
        size_t n = 0;

        while (columns[n].header)
                n++;
        return n;
}

static void print_cell(const Ctl *c, const char *text, size_t width, const char *colour, bool last)
{
        if (c->colour && colour)
                fputs(colour, stdout);
        fputs(text, stdout);
        if (c->colour && colour)
                fputs(COLOUR_OFF, stdout);
        if (last)
                putchar('\n');
        else if (c->terminal)
                printf("%*s", (int) (width - text_width(text)) + 2, "");
        else
                putchar('\t');
}

void print_table(const Ctl *c, const json_t *rows, const Column *columns)
{
        size_t n = columns_count(columns), n_rows = json_array_size(rows);
        _cleanup_free_ char **cells = calloc((n_rows + 1) * n, sizeof(char *));
        _cleanup_free_ size_t *widths = calloc(n, sizeof(size_t));

        if (!cells || !widths)
                return;
        for (size_t i = 0; i <= n_rows; i++)
                for (size_t k = 0; k < n; k++) {
                        char *text = i == 0 ? strdup(columns[k].header) : cell_text(c, json_array_get(rows, i - 1), &columns[k]);
                        size_t width = text ? text_width(text) : 0;

                        cells[i * n + k] = text;
                        if (width > widths[k])
                                widths[k] = width;
                }
        for (size_t i = 0; i <= n_rows; i++)
                for (size_t k = 0; k < n; k++) {
                        _cleanup_free_ char *owned = cells[i * n + k];
                        const char *text = owned ? owned : "-";
                        bool alarm = i > 0 && columns[k].alarming && strcmp(text, "-") != 0;

                        print_cell(c, text, widths[k], i == 0 ? COLOUR_BOLD : alarm ? COLOUR_RED : NULL, k == n - 1);
                }
}

void print_fields(const Ctl *c, const json_t *row, const Column *columns)
{
        size_t width = 0;

        for (const Column *column = columns; column->header; column++)
                if (strlen(column->header) + 1 > width)
                        width = strlen(column->header) + 1;
        for (const Column *column = columns; column->header; column++) {
                _cleanup_free_ char *text = cell_text(c, row, column), *header = NULL;

                if (!text || asprintf(&header, "%s:", column->header) < 0)
                        return;
                print_cell(c, header, width, COLOUR_BOLD, false);
                print_cell(c, text, 0, column->alarming && strcmp(text, "-") != 0 ? COLOUR_RED : NULL, true);
        }
}

void print_heading(const Ctl *c, const char *heading)
{
        printf("\n%s%s%s\n", c->colour ? COLOUR_BOLD : "", heading, c->colour ? COLOUR_OFF : "");
}

void print_json(const json_t *j)
{
        json_dumpf(j, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
        putchar('\n');
}
