/* Slices, buffers, maps, arenas and JSON strings: edges of lengths, caps and encodings. */
#include "core/arena.h"
#include "core/buf.h"
#include "core/json.h"
#include "core/map.h"
#include "core/str.h"

#include <stdlib.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_str(void **state)
{
    (void)state;
    assert_true(str_eq(STR_NONE, STR("")));
    assert_true(str_eqi(STR("aZ[\xc4"), STR("Az[\xc4")));
    assert_false(str_eqi(STR("["), STR("{"))); /* 0x20 apart, but no letters */
    assert_true(str_starts(STR("abc"), STR("")) && str_ends(STR("abc"), STR("bc")));
    assert_false(str_starts(STR("ab"), STR("abc")));
    assert_int_equal(str_find(STR("aab"), STR("ab")), 1);
    assert_int_equal(str_find(STR("ab"), STR("abc")), -1);
    assert_int_equal(str_findi(STR("xAB"), STR("ab")), 1);
    assert_int_equal(str_rchr(STR("a.b.c"), '.'), 3);
    assert_int_equal(str_rchr(STR_NONE, '.'), -1);
    assert_true(str_eqz(str_trim(STR(" \t a b\r\n")), "a b"));
    assert_int_equal(str_trim(STR("  ")).n, 0);
    assert_int_equal(str_from(STR("ab"), 5).n, 0);

    struct str rest = STR("a,,b");
    assert_true(str_eqz(str_cut(&rest, ','), "a"));
    assert_int_equal(str_cut(&rest, ',').n, 0);
    assert_true(str_eqz(str_cut(&rest, ','), "b"));
    assert_null(rest.p);
    rest = STR("a,");
    str_cut(&rest, ',');
    assert_non_null(rest.p); /* an empty last part is a part */
}

static void test_numbers(void **state)
{
    uint64_t v;
    uint32_t w;

    (void)state;
    assert_true(str_u64(STR("18446744073709551615"), &v) && v == UINT64_MAX);
    assert_false(str_u64(STR("18446744073709551616"), &v));
    assert_false(str_u64(STR("99999999999999999999"), &v));
    assert_true(str_u64(STR("000000000000000000000000000007"), &v) && v == 7);
    assert_false(str_u64(STR(""), &v) || str_u64(STR("-1"), &v) || str_u64(STR("+1"), &v) ||
                 str_u64(STR(" 1"), &v) || str_u64(STR("1\0"), &v));
    assert_true(str_u32(STR("4294967295"), &w) && w == UINT32_MAX);
    assert_false(str_u32(STR("4294967296"), &w));
}

static void test_glob(void **state)
{
    (void)state;
    assert_true(str_glob(STR("*"), STR("")) && str_glob(STR("a*c"), STR("ABBC")));
    assert_true(str_glob(STR("a?c*"), STR("abc")) && !str_glob(STR("a?"), STR("a")));
    assert_false(str_glob(STR(""), STR("a")));
    /* quadratic at worst: with back-tracking this would not end */
    char pattern[201], text[2001];
    for (int i = 0; i < 200; i += 2)
        memcpy(pattern + i, "a*", 2);
    pattern[200] = 'b';
    memset(text, 'a', sizeof text);
    assert_false(str_glob(str_make(pattern, 201), str_make(text, 2000)));
}

static void test_utf8(void **state)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc2",
                                      "\xc2"
                                      "a",
                                      "\xe0\x80\x80",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xe2\x82",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xff"};
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(str_utf8(str_of(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(str_utf8(str_of(bad[i])));
    assert_false(str_ascii(STR("a\0b")) || str_ascii(STR("\x80")));
    assert_true(str_ascii(STR("\x01~\x7f")));
    assert_true(str_hash(STR("Ab")) != str_hash(STR("aB")));
    assert_true(str_hashi(STR("Ab")) == str_hashi(STR("aB")));
}

static void test_buf(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 10);
    assert_true(buf_add(&b, STR(""))); /* nothing fits into nothing */
    assert_true(buf_addz(&b, "01234"));
    assert_false(buf_addz(&b, "012345"));
    assert_true(str_eqz(buf_str(&b), "01234")); /* as it was */
    assert_true(buf_addz(&b, "56789"));
    assert_false(buf_addc(&b, 'x'));
    assert_true(buf_add(&b, STR_NONE));
    buf_consume(&b, 4);
    assert_true(buf_addz(&b, "abcd"));
    assert_true(str_eqz(buf_str(&b), "456789abcd"));
    assert_null(buf_room(&b, 1));
    assert_null(buf_room(&b, SIZE_MAX));
    buf_consume(&b, 100);
    assert_int_equal(b.len, 0);
    assert_true(buf_printf(&b, "%d", 123456789)); /* its NUL needs room as well */
    assert_false(buf_printf(&b, "%d", 1));
    buf_wipe(&b);
    assert_int_equal(b.cap, 10);

    buf_init(&b, 1 << 20);
    for (int i = 0; i < 100000; i++) {
        assert_true(buf_addz(&b, "0123456"));
        buf_consume(&b, 6);
    }
    assert_int_equal(b.len, 100000);
    buf_clear(&b);
    assert_null(b.base); /* large memory is given back */
    buf_free(&b);
}

static void test_map(void **state)
{
    struct map *m = map_new(true);
    static int values[2000];
    char key[20];

    (void)state;
    for (int i = 0; i < 2000; i++) {
        snprintf(key, sizeof key, "Key%d", i);
        assert_null(map_set(m, str_of(key), &values[i]));
    }
    for (int i = 0; i < 2000; i += 2) {
        snprintf(key, sizeof key, "kEY%d", i);
        assert_ptr_equal(map_remove(m, str_of(key)), &values[i]);
        assert_null(map_remove(m, str_of(key)));
    }
    assert_int_equal(map_count(m), 1000);
    assert_null(map_set(m, STR("key0"), &values[1]));
    assert_ptr_equal(map_set(m, STR("KEY0"), &values[2]), &values[1]);
    assert_null(map_set(m, STR("a\0b"), &values[3]));
    assert_null(map_find(m, STR("a\0c")));
    assert_null(map_set(m, STR(""), &values[4]));
    size_t it = 0, n = 0;
    while (map_next(m, &it, NULL, NULL))
        n++;
    assert_int_equal(n, 1003);
    /* setting and removing for ever does not grow it: removed slots are used again */
    for (int i = 0; i < 100000; i++) {
        snprintf(key, sizeof key, "x%d", i);
        map_set(m, str_of(key), &values[0]);
        map_remove(m, str_of(key));
    }
    assert_int_equal(map_count(m), 1003);
    map_free(&m);
    assert_null(m);
}

static void test_arena(void **state)
{
    struct arena *a = arena_new(0);

    (void)state;
    for (size_t n = 0; n < 3000; n += 7) {
        char *p = arena_zalloc(a, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0x55, n);
    }
    struct str s = arena_dup(a, STR("a\0b"));
    assert_int_equal(s.n, 3);
    assert_int_equal(s.p[3], '\0');
    assert_true(str_eqz(arena_lower(a, STR("AbC\xc4")), "abc\xc4"));
    assert_true(str_eqz(arena_printf(a, "%s-%d", "x", 5), "x-5"));
    memset(arena_alloc(a, 1 << 20), 1, 1 << 20);
    arena_reset(a);
    assert_int_equal(arena_used(a), 0);
    arena_free(&a);
    arena_free(&a); /* NULL is fine */
}

static void test_json(void **state)
{
    struct buf b;

    (void)state;
    buf_init(&b, 1000);
    assert_true(json_str(&b, STR("a\"\\\n\x7f\0\xc3\xa4\xff\xe2\x82")));
    assert_string_equal(arena_dupz(NULL == *state ? (*state = arena_new(0)) : *state, buf_str(&b)),
                        "\"a\\\"\\\\\\u000a\\u007f\\ufffd\xc3\xa4\xef\xbf\xbd\xef\xbf\xbd"
                        "\xef\xbf\xbd\"");
    buf_free(&b);
    buf_init(&b, 4);
    assert_false(json_str(&b, STR("abc")));
    buf_free(&b);
    struct arena *a = *state;
    arena_free(&a);
    *state = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_str),   cmocka_unit_test(test_numbers), cmocka_unit_test(test_glob),
        cmocka_unit_test(test_utf8),  cmocka_unit_test(test_buf),     cmocka_unit_test(test_map),
        cmocka_unit_test(test_arena), cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
