/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* base/strmap.h: sorted maps and string arrays. */

#include <criterion/criterion.h>

#include "base/strmap.h"

#include <string.h>

Test(strmap, keeps_keys_sorted_and_replaces_values)
{
        static const char *const keys[] = { "m", "b", "z", "a", "", "b/c", "\xc3\xa4" };
        _cleanup_strmap_ StrMap m = STRMAP_INIT;

        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                cr_assert_eq(strmap_set(&m, keys[i], "old"), 0);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                cr_assert_eq(strmap_set(&m, keys[i], keys[i]), 0);

        cr_assert_eq(m.n_entries, ELEMENTSOF(keys), "%zu entries", m.n_entries);
        for (size_t i = 1; i < m.n_entries; i++)
                cr_assert_lt(strcmp(m.entries[i - 1].key, m.entries[i].key), 0, "'%s' stands before '%s'",
                             m.entries[i - 1].key, m.entries[i].key);
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                cr_assert_str_eq(strmap_get(&m, keys[i]), keys[i]);
        cr_assert_null(strmap_get(&m, "c"));
        cr_assert_null(strmap_get(&m, "zz"));
}

Test(strmap, add_refuses_a_second_value)
{
        _cleanup_strmap_ StrMap m = STRMAP_INIT;

        cr_assert_eq(strmap_add(&m, "k", "1"), 0);
        cr_assert_eq(strmap_add(&m, "k", "2"), -EEXIST);
        cr_assert_str_eq(strmap_get(&m, "k"), "1");
}

Test(strmap, remove_takes_out_one_entry)
{
        _cleanup_strmap_ StrMap m = STRMAP_INIT;

        strmap_remove(&m, "x");
        for (const char *const *k = (const char *[]) { "a", "b", "c", NULL }; *k; k++)
                cr_assert_eq(strmap_add(&m, *k, *k), 0);
        strmap_remove(&m, "b");
        strmap_remove(&m, "b");
        cr_assert_eq(m.n_entries, 2);
        cr_assert_null(strmap_get(&m, "b"));
        cr_assert_str_eq(strmap_get(&m, "c"), "c");
}

Test(strmap, difference_names_the_first_key)
{
        static const struct {
                const char *a_key, *a_value, *b_key, *b_value, *differs;
        } cases[] = {
                { "k", "v", "k", "v", NULL },   { "k", "v", "k", "w", "k" }, { "a", "v", "b", "v", "a" },
                { "b", "v", "a", "v", "a" },    { "k", "v", NULL, NULL, "k" }, { NULL, NULL, "k", "v", "k" },
                { NULL, NULL, NULL, NULL, NULL },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_strmap_ StrMap a = STRMAP_INIT, b = STRMAP_INIT;

                if (cases[i].a_key)
                        cr_assert_eq(strmap_add(&a, cases[i].a_key, cases[i].a_value), 0);
                if (cases[i].b_key)
                        cr_assert_eq(strmap_add(&b, cases[i].b_key, cases[i].b_value), 0);
                const char *differs = strmap_first_difference(&a, &b);
                cr_assert(str_equal(differs, cases[i].differs), "case %zu: '%s'", i, str_or(differs, "(none)"));
                cr_assert_eq(strmap_equal(&a, &b), !cases[i].differs, "case %zu", i);
        }
}

Test(strmap, copy_is_independent)
{
        _cleanup_strmap_ StrMap m = STRMAP_INIT, copy = STRMAP_INIT;

        cr_assert_eq(strmap_add(&m, "k", "v"), 0);
        cr_assert_eq(strmap_copy(&m, &copy), 0);
        cr_assert(strmap_equal(&m, &copy));
        cr_assert_eq(strmap_set(&m, "k", "w"), 0);
        cr_assert_str_eq(strmap_get(&copy, "k"), "v");
        strmap_erase(&m);
        cr_assert_eq(m.n_entries, 0);
}

Test(strv, split_at_blanks_and_commas)
{
        static const struct {
                const char *text;
                size_t n;
                const char *last;
        } cases[] = { { "", 0, NULL }, { " ,\t\n", 0, NULL }, { "a", 1, "a" }, { "/a /b", 2, "/b" }, { ",a,,b , c\n", 3, "c" } };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                _cleanup_strv_ char **v = NULL;

                cr_assert_eq(strv_split(cases[i].text, &v), 0);
                cr_assert_eq(strv_length(v), cases[i].n, "'%s': %zu parts", cases[i].text, strv_length(v));
                if (cases[i].n > 0)
                        cr_assert_str_eq(v[cases[i].n - 1], cases[i].last);
        }
}

Test(strv, append_contains_remove_equal)
{
        _cleanup_strv_ char **a = NULL, **b = NULL;

        cr_assert(strv_equal(NULL, NULL));
        cr_assert_not(strv_contains(NULL, "x"));
        for (const char *const *s = (const char *[]) { "x", "y", "z", NULL }; *s; s++)
                cr_assert_eq(strv_append(&a, *s), 0);
        cr_assert_eq(strv_copy(a, &b), 0);
        cr_assert(strv_equal(a, b));
        strv_remove(a, "y");
        strv_remove(a, "absent");
        cr_assert_eq(strv_length(a), 2);
        cr_assert_not(strv_contains(a, "y"));
        cr_assert(strv_contains(a, "z"));
        cr_assert_not(strv_equal(a, b));
}

Test(str, replace_and_equal)
{
        _cleanup_free_ char *s = NULL;

        cr_assert_eq(str_replace(&s, "a"), 0);
        cr_assert_eq(str_replace(&s, s), 0, "its own value");
        cr_assert_str_eq(s, "a");
        cr_assert_eq(str_replace(&s, NULL), 0);
        cr_assert_null(s);
        cr_assert(str_equal(NULL, NULL));
        cr_assert_not(str_equal(NULL, ""));
        cr_assert_not(str_equal("", NULL));
        cr_assert_str_eq(str_or(NULL, "f"), "f");
        cr_assert_str_eq(str_or("", "f"), "f");
        cr_assert_str_eq(str_or("s", "f"), "s");
}
