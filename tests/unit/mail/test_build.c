/* Lines and messages of our own. */
#include "mail/build.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void same(struct buf *b, const char *want)
{
    if (!str_eqz(buf_str(b), want))
        fail_msg("got <%.*s>\nwant <%s>", STR_ARG(buf_str(b)), want);
    buf_clear(b);
}

static void test_fields(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 100000);
    assert_true(build_field(&b, "Subject", STR("hello")));
    same(&b, "Subject: hello\r\n");
    assert_true(build_field(&b, "Subject", STR("a\r\nX-Evil: b\0c")));
    same(&b, "Subject: a  X-Evil: b c\r\n");
    assert_true(build_field(&b, "X", STR("")));
    same(&b, "X:\r\n");
    assert_true(build_field(&b, "To",
                            STR("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb "
                                "ccccccccccccccccc")));
    same(&b, "To: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n "
             "ccccccccccccccccc\r\n");
    assert_true(build_text_field(&b, "Subject", STR("\xC3\xA4")));
    same(&b, "Subject: =?UTF-8?B?w6Q=?=\r\n");
    char big[3000];
    memset(big, 'x', sizeof big);
    assert_true(build_field(&b, "X", str_make(big, sizeof big)));
    for (struct str rest = buf_str(&b), l; rest.p;) {
        l = str_cut(&rest, '\n');
        assert_true(l.n <= 999);
    }
    buf_free(&b);
}

static void test_received(void **state)
{
    struct buf b;
    (void)state;
    buf_init(&b, 100000);
    struct build_received r = {.helo = STR("me (x)"),
                               .peer = STR("192.0.2.1"),
                               .host = STR("mx.example"),
                               .trace = STR("T1"),
                               .with = WITH_ESMTP | WITH_TLS | WITH_AUTH,
                               .tls = STR("TLSv1.3 X"),
                               .rcpt = STR("a@b"),
                               .at = 1730448300000,
                               .zone = 60};
    assert_true(build_received(&b, &r));
    same(&b, "Received: from me??x? (unknown [192.0.2.1])\r\n\tby mx.example with ESMTPSA id T1\r\n"
             "\t(TLSv1.3 X)\r\n\tfor <a@b>;\r\n\tFri, 1 Nov 2024 09:05:00 +0100\r\n");
    struct arena *a = arena_new(0);
    struct str id = build_message_id(a, STR("h"));
    assert_true(str_starts(id, STR("<")) && str_ends(id, STR("@h>")));
    assert_false(str_eq(id, build_message_id(a, STR("h"))));
    assert_true(str_eqz(build_mailbox(a, STR("A \"B\""), STR("a@b")), "\"A \\\"B\\\"\" <a@b>"));
    assert_true(str_eqz(build_mailbox(a, STR(""), STR("a@b")), "a@b"));
    arena_free(&a);
    buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_received),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
