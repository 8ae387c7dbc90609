/* Dates in and out. */
#include "mail/date.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void reads(const char *text, int64_t secs, int zone)
{
    int64_t ms = -1;
    int z = 999;
    if (!date_parse(str_of(text), &ms, &z) || ms != secs * 1000 || z != zone)
        fail_msg("%s: %lld zone %d", text, (long long)ms / 1000, z);
}

static void test_parse(void **state)
{
    (void)state;
    reads("Fri, 21 Nov 1997 09:55:06 -0600", 880127706, -360);
    reads("Fri,21 Nov 97 09:55:06 CST", 880127706, -360);
    reads("21 Nov 97 09:55 GMT", 880106100, 0);
    reads("Thu, 13 Feb 1969 23:32 -0330 (Newfoundland (Time))", -27723480, -210);
    reads("Thu,\r\n      13\r\n        Feb\r\n          1969\r\n      23:32\r\n (x) -0330",
          -27723480, -210);
    reads("1 Jan 2000 00:00:00 Z", 946684800, 0);
    reads("1-Jan-2000 00:00:00+0100", 946681200, 60);
    reads("Sat Jan  1 00:00:00 2000", 946684800, 0);
    reads("29 Feb 2024 12:00:00 +05:30", 1709188200, 330);
    reads("31 Dec 98 23:59:60 +0000", 915148800, 0);
    reads("1 Jan 103 00:00:00 +0000", 1041379200, 0);
}

static void test_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "hello",
                                      "Fri, 32 Nov 1997 09:55:06 -0600",
                                      "1 Foo 1999 1:1",
                                      "12:00",
                                      "99 99 99 99 99",
                                      "Nov 1997",
                                      "1 Jan 2000 25:00:00"};
    int64_t ms;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (date_parse(str_of(bad[i]), &ms, NULL))
            fail_msg("read: %s", bad[i]);
}

static void test_emit(void **state)
{
    char t[DATE_TEXT];
    int64_t ms;
    int32_t day;
    (void)state;
    assert_true(str_eqz(date_emit(t, 880127706000, -360), "Fri, 21 Nov 1997 09:55:06 -0600"));
    assert_true(str_eqz(date_emit(t, 1730448300000, 60), "Fri, 1 Nov 2024 09:05:00 +0100"));
    assert_true(str_eqz(date_imap_emit(t, 1730448300000, 0), "01-Nov-2024 08:05:00 +0000"));
    assert_true(date_imap_parse(STR("17-Jul-1996 02:44:25 -0700"), &ms));
    assert_int_equal(ms, 837596665000);
    assert_true(date_imap_parse(STR(" 1-Nov-2024 08:05:00 +0000"), &ms));
    assert_int_equal(ms, 1730448300000);
    assert_false(date_imap_parse(STR("1-Nov-2024 08:05:00 +0000"), &ms));
    assert_false(date_imap_parse(STR("31-Feb-2024 08:05:00 +0000"), &ms));
    assert_false(date_imap_parse(STR("17-Jul-1996 02:44:25 PST  "), &ms));
    assert_true(date_search_parse(STR("1-Feb-1994"), &day));
    assert_int_equal(day, 8797);
    assert_true(date_search_parse(STR("01-Jan-1970"), &day));
    assert_int_equal(day, 0);
    assert_false(date_search_parse(STR("1-Feb-94"), &day));
    assert_int_equal(date_day(-1, 0), -1);
    for (int64_t d = -800000; d < 2000000; d += 37) { /* all the way there and back */
        char u[DATE_TEXT];
        int64_t back;
        struct str e = date_imap_emit(u, d * 86400000 + 3723000, 0);
        if (d > -719162 && !(date_imap_parse(e, &back) && back == d * 86400000 + 3723000))
            fail_msg("%.*s", STR_ARG(e));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_emit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
