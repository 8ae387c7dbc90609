/* Header sections: fields, folds, damage, the end of a section. */
#include "mail/headers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_fields(void **state)
{
    (void)state;
    struct str s =
        STR("From: a\r\nSubject: one\r\n two\r\nno colon here\r\nX-Empty:\nTo : b\r\n\r\nBody: x");
    struct header_field f;
    size_t at = 0;

    assert_true(header_next(s, &at, &f));
    assert_true(str_eqz(f.name, "From") && str_eqz(f.value, " a"));
    assert_int_equal(f.start, 0);
    assert_int_equal(f.end, 9);
    assert_true(header_next(s, &at, &f));
    assert_true(str_eqz(f.value, " one\r\n two"));
    assert_true(header_next(s, &at, &f));
    assert_int_equal(f.name.n, 0);
    assert_true(header_next(s, &at, &f));
    assert_true(str_eqz(f.name, "X-Empty") && f.value.n == 0);
    assert_true(header_next(s, &at, &f));
    assert_true(str_eqz(f.name, "To"));
    assert_false(header_next(s, &at, &f));

    struct arena *a = arena_new(0);
    assert_true(str_eqz(header_value(a, s, "subject"), "one two"));
    assert_null(header_value(a, s, "body").p);
    arena_free(&a);
}

static void test_end(void **state)
{
    (void)state;
    assert_int_equal(header_end(STR("A: b\r\n\r\nbody")), 8);
    assert_int_equal(header_end(STR("A: b\n\nbody")), 6);
    assert_int_equal(header_end(STR("\r\nbody")), 2);
    assert_int_equal(header_end(STR("A: b\r\n\rbody\r\n")), 13);
    assert_int_equal(header_end(STR("A: b")), 4);

    struct str s = STR("A: b\r\nC: d\r\n\r\nbody");
    struct header_scan scan = {0};
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += header_scan(&scan, str_make(s.p + i, 1));
    assert_int_equal(n, 14);
    assert_true(scan.done);
}

static void test_nul(void **state)
{
    (void)state;
    struct arena *a = arena_new(0);
    struct str s = str_make("S: a\0b\r\n\r\n", 10);
    assert_true(str_eqz(header_value(a, s, "S"), "ab"));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_end),
        cmocka_unit_test(test_nul),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
