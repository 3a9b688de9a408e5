/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Strings in bulk: StrMap (a small sorted map from string to string, as FlexVolume options and D-Bus a{ss}
 * are) and strv (a NULL-terminated array of strings, as in sd-bus). Both own their strings.
 *
 * A StrMap is kept sorted by key, so that two maps with the same content compare equal entry by entry and
 * print in the same order. It is meant for tens of entries; look-up is a binary search.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

typedef struct StrMapEntry {
        char *key;
        char *value;
} StrMapEntry;

typedef struct StrMap {
        StrMapEntry *entries;
        size_t n_entries;
} StrMap;

#define STRMAP_INIT ((StrMap) {})
#define STRMAP_FOREACH(e, m)                                                                                 \
        for (const StrMapEntry *e = (m)->entries; e && e < (m)->entries + (m)->n_entries; e++)
#define STRV_FOREACH(s, v) for (char *const *s = (v); s && *s; s++)

/* Copies key and value in, replacing an older value. 0, or -ENOMEM with the map unchanged. */
int strmap_set(StrMap *m, const char *key, const char *value);
/* The same, but an existing key is -EEXIST. */
int strmap_add(StrMap *m, const char *key, const char *value);
/* The value, owned by the map, or NULL. */
const char *strmap_get(const StrMap *m, const char *key);
void strmap_remove(StrMap *m, const char *key);
bool strmap_equal(const StrMap *a, const StrMap *b);
/* The first key at which the two maps differ (in presence or value), or NULL if they are equal. */
const char *strmap_first_difference(const StrMap *a, const StrMap *b);
int strmap_copy(const StrMap *m, StrMap *ret);
/* Frees everything and leaves an empty map. */
void strmap_done(StrMap *m);
/* The same, after overwriting the values: for secrets. */
void strmap_erase(StrMap *m);

size_t strv_length(char *const *v);
/* Appends a copy of s. *v may be NULL. 0 or -ENOMEM. */
int strv_append(char ***v, const char *s);
bool strv_contains(char *const *v, const char *s);
bool strv_equal(char *const *a, char *const *b);
int strv_copy(char *const *v, char ***ret);
void strv_remove(char **v, const char *s);
/* Splits at white space and commas, dropping empty parts: the form of lists in berthd.conf. */
int strv_split(const char *s, char ***ret);
void strv_free(char **v);

DEFINE_POINTER_CLEANUP(char **, strv_free);

#define _cleanup_strmap_ _cleanup_(strmap_done)
#define _cleanup_strmap_erase_ _cleanup_(strmap_erase)
#define _cleanup_strv_ _cleanup_(strv_freep)

/* Copies s into *p, freeing the old value; s may be NULL. 0 or -ENOMEM with *p unchanged. */
int str_replace(char **p, const char *s);
bool str_equal(const char *a, const char *b); /* NULL equals NULL only */
static inline const char *str_or(const char *s, const char *fallback)
{
        return s && *s ? s : fallback;
}
