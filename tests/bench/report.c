/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The figures, collected once and printed as a table for people or as one JSON object for programs. Goals
 * are reported, reached or not, and never change the exit status: the benchmark judges nothing.
 */

#include <jansson.h>
#include <string.h>

#include "bench/bench.h"

typedef struct Line {
        char *title; /* of a section; then nothing else is set */
        char *label;
        double value, p99, limit;
        Unit unit;
        Bound bound;
        bool has_p99, has_goal;
} Line;

struct Report {
        Line *lines;
        size_t n_lines;
        json_t *json, *goals;
};

Report *report_new(void)
{
        Report *r = calloc(1, sizeof *r);

        if (!r || !(r->json = json_object()) || !(r->goals = json_object()))
                die("out of memory");
        return r;
}

void report_free(Report *r)
{
        for (size_t i = 0; i < r->n_lines; i++) {
                free(r->lines[i].title);
                free(r->lines[i].label);
        }
        free(r->lines);
        json_decref(r->json);
        json_decref(r->goals);
        free(r);
}

static char *copy(const char *text)
{
        return format_string("%s", text);
}

static void add_line(Report *r, Line line)
{
        r->lines = realloc(r->lines, (r->n_lines + 1) * sizeof *r->lines);
        if (!r->lines)
                die("out of memory");
        r->lines[r->n_lines++] = line;
}

static void add_value(json_t *object, const char *key, double value)
{
        /* to four digits after the point: more would only pretend */
        _cleanup_free_ char *text = format_string("%.4f", value);

        if (json_object_set_new(object, key, json_real(strtod(text, NULL))) < 0)
                die("out of memory");
}

void report_section(Report *r, const char *title)
{
        add_line(r, (Line){ .title = copy(title) });
}

void report_figure(Report *r, const char *key, const char *label, double value, Unit unit)
{
        add_value(r->json, key, value);
        add_line(r, (Line){ .label = copy(label), .value = value, .unit = unit });
}

void report_samples(Report *r, const char *key, const char *label, const Samples *s)
{
        _cleanup_free_ char *median = format_string("%s_us", key);
        _cleanup_free_ char *p99 = format_string("%s_p99_us", key);

        add_value(r->json, median, samples_median(s));
        add_value(r->json, p99, samples_p99(s));
        add_line(r, (Line){.label = copy(label),
                           .value = samples_median(s),
                           .p99 = samples_p99(s),
                           .unit = UNIT_USEC,
                           .has_p99 = true});
}

static bool goal_reached(const Line *l)
{
        return l->bound == BOUND_AT_MOST ? l->value <= l->limit : l->value >= l->limit;
}

void report_goal(Report *r, const char *key, const char *label, double value, Unit unit, Bound bound,
                 double limit)
{
        Line line = {.label = copy(label),
                     .value = value,
                     .unit = unit,
                     .bound = bound,
                     .limit = limit,
                     .has_goal = true};

        add_value(r->json, key, value);
        if (json_object_set_new(r->goals, key, json_boolean(goal_reached(&line))) < 0)
                die("out of memory");
        add_line(r, line);
}

static char *format_value(double value, Unit unit)
{
        switch (unit) {
        case UNIT_USEC:
                return value >= 1e5 ? format_string("%.0f ms", value / 1e3)
                                    : format_string("%.3f ms", value / 1e3);
        case UNIT_MSEC:
                return format_string("%.3f ms", value);
        case UNIT_KIB:
                return value >= 100 ? format_string("%.0f KiB", value) : format_string("%.2f KiB", value);
        case UNIT_RATIO:
                return format_string("%.2f x", value);
        case UNIT_CORES:
                return format_string("%.3f core", value);
        case UNIT_COUNT:
        default:
                return format_string("%.0f", value);
        }
}

static void print_line(const Line *l)
{
        _cleanup_free_ char *value = NULL, *extra = NULL;

        if (l->title) {
                printf("\n%s\n", l->title);
                return;
        }
        value = format_value(l->value, l->unit);
        if (l->has_p99) {
                extra = format_value(l->p99, l->unit);
        } else if (l->has_goal) {
                _cleanup_free_ char *limit = format_value(l->limit, l->unit);

                extra = format_string("%s  (goal: %s %s)", goal_reached(l) ? "reached" : "NOT REACHED",
                                      l->bound == BOUND_AT_MOST ? "at most" : "at least", limit);
        }
        printf("  %-58s %12s %s%s\n", l->label, value, l->has_p99 ? "p99 " : "", extra ? extra : "");
}

void report_print_table(const Report *r)
{
        for (size_t i = 0; i < r->n_lines; i++)
                print_line(r->lines + i);
}

void report_print_json(const Report *r)
{
        if (json_object_set(r->json, "goals", r->goals) < 0 ||
            json_dumpf(r->json, stdout, JSON_INDENT(2)) < 0)
                die("cannot write JSON");
        putchar('\n');
}
