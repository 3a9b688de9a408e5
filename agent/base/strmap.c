/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Sorted string maps and string arrays. Pure memory work: no system calls, never blocks, used by every
 * process. Invariant of StrMap: entries are strictly ascending by strcmp() of their keys.
 */

#include "base/strmap.h"

#include <string.h>

/* The index of key, or where it would have to be inserted. */
static size_t strmap_position(const StrMap *m, const char *key, bool *ret_found)
{
        size_t low = 0, high = m->n_entries;

        while (low < high) {
                size_t middle = low + (high - low) / 2;
                int c = strcmp(m->entries[middle].key, key);

                if (c == 0) {
                        *ret_found = true;
                        return middle;
                }
                if (c < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        *ret_found = false;
        return low;
}

int strmap_add(StrMap *m, const char *key, const char *value)
{
        bool found;
        size_t at = strmap_position(m, key, &found);
        if (found)
                return -EEXIST;

        _cleanup_free_ char *k = strdup(key), *v = strdup(value);
        StrMapEntry *grown = NULL;
        if (k && v)
                grown = reallocarray(m->entries, m->n_entries + 1, sizeof(StrMapEntry));
        if (!grown)
                return -ENOMEM;

        m->entries = grown;
        memmove(grown + at + 1, grown + at, (m->n_entries - at) * sizeof(StrMapEntry));
        grown[at] = (StrMapEntry) { TAKE_PTR(k), TAKE_PTR(v) };
        m->n_entries++;
        return 0;
}

int strmap_set(StrMap *m, const char *key, const char *value)
{
        bool found;
        size_t at = strmap_position(m, key, &found);

        return found ? str_replace(&m->entries[at].value, value) : strmap_add(m, key, value);
}

const char *strmap_get(const StrMap *m, const char *key)
{
        bool found;
        size_t at = strmap_position(m, key, &found);

        return found ? m->entries[at].value : NULL;
}

void strmap_remove(StrMap *m, const char *key)
{
        bool found;
        size_t at = strmap_position(m, key, &found);

        if (!found)
                return;
        free(m->entries[at].key);
        free(m->entries[at].value);
        m->n_entries--;
        memmove(m->entries + at, m->entries + at + 1, (m->n_entries - at) * sizeof(StrMapEntry));
}

const char *strmap_first_difference(const StrMap *a, const StrMap *b)
{
        size_t i = 0, j = 0;

        while (i < a->n_entries || j < b->n_entries) {
                if (i == a->n_entries)
                        return b->entries[j].key;
                if (j == b->n_entries)
                        return a->entries[i].key;

                int c = strcmp(a->entries[i].key, b->entries[j].key);
                if (c != 0)
                        return c < 0 ? a->entries[i].key : b->entries[j].key;
                if (strcmp(a->entries[i].value, b->entries[j].value) != 0)
                        return a->entries[i].key;
                i++;
                j++;
        }
        return NULL;
}

bool strmap_equal(const StrMap *a, const StrMap *b)
{
        return !strmap_first_difference(a, b);
}

int strmap_copy(const StrMap *m, StrMap *ret)
{
        _cleanup_strmap_ StrMap copy = STRMAP_INIT;

        STRMAP_FOREACH (e, m) {
                int r = strmap_add(&copy, e->key, e->value);
                if (r < 0)
                        return r;
        }
        *ret = copy;
        copy = STRMAP_INIT;
        return 0;
}

void strmap_done(StrMap *m)
{
        for (size_t i = 0; i < m->n_entries; i++) {
                free(m->entries[i].key);
                free(m->entries[i].value);
        }
        free(m->entries);
        *m = STRMAP_INIT;
}

void strmap_erase(StrMap *m)
{
        STRMAP_FOREACH (e, m)
                explicit_bzero(e->value, strlen(e->value));
        strmap_done(m);
}

size_t strv_length(char *const *v)
{
        size_t n = 0;

        STRV_FOREACH (s, v)
                n++;
        return n;
}

int strv_append(char ***v, const char *s)
{
        size_t n = strv_length(*v);
        _cleanup_free_ char *copy = strdup(s);
        if (!copy)
                return -ENOMEM;

        char **grown = reallocarray(*v, n + 2, sizeof(char *));
        if (!grown)
                return -ENOMEM;
        grown[n] = TAKE_PTR(copy);
        grown[n + 1] = NULL;
        *v = grown;
        return 0;
}

bool strv_contains(char *const *v, const char *s)
{
        STRV_FOREACH (i, v)
                if (strcmp(*i, s) == 0)
                        return true;
        return false;
}

bool strv_equal(char *const *a, char *const *b)
{
        size_t n = strv_length(a);

        if (n != strv_length(b))
                return false;
        for (size_t i = 0; i < n; i++)
                if (strcmp(a[i], b[i]) != 0)
                        return false;
        return true;
}

int strv_copy(char *const *v, char ***ret)
{
        _cleanup_strv_ char **copy = NULL;

        STRV_FOREACH (s, v) {
                int r = strv_append(&copy, *s);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(copy);
        return 0;
}

void strv_remove(char **v, const char *s)
{
        char **to = v;

        for (char **from = v; from && *from; from++) {
                if (strcmp(*from, s) == 0)
                        free(*from);
                else
                        *to++ = *from;
        }
        if (to)
                *to = NULL;
}

int strv_split(const char *s, char ***ret)
{
        static const char separators[] = " \t\r\n,";
        _cleanup_strv_ char **v = NULL;

        for (s += strspn(s, separators); *s; s += strspn(s, separators)) {
                size_t n = strcspn(s, separators);
                _cleanup_free_ char *part = strndup(s, n);
                if (!part)
                        return -ENOMEM;
                int r = strv_append(&v, part);
                if (r < 0)
                        return r;
                s += n;
        }
        *ret = TAKE_PTR(v);
        return 0;
}

void strv_free(char **v)
{
        for (char **s = v; s && *s; s++)
                free(*s);
        free(v);
}

int str_replace(char **p, const char *s)
{
        char *copy = NULL;

        if (s) {
                copy = strdup(s);
                if (!copy)
                        return -ENOMEM;
        }
        free(*p);
        *p = copy;
        return 0;
}

bool str_equal(const char *a, const char *b)
{
        return a == b || (a && b && strcmp(a, b) == 0);
}
