/* Transfer encodings, encoded words, mailbox names, character sets. */
#include "mail/charset.h"
#include "mail/encode.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct arena *a;

static int setup(void **state)
{
    (void)state;
    a = arena_new(0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&a);
    return 0;
}

static void same(struct str got, const char *want)
{
    if (!str_eqz(got, want))
        fail_msg("got <%.*s>, want <%s>", STR_ARG(got), want);
}

static void test_base64(void **state)
{
    struct str r;
    (void)state;
    same(base64_encode(a, STR("")), "");
    same(base64_encode(a, STR("f")), "Zg==");
    same(base64_encode(a, STR("foobar")), "Zm9vYmFy");
    assert_true(base64_decode(a, STR("Zm9vYmE="), &r));
    same(r, "fooba");
    assert_true(base64_decode(a, STR(""), &r));
    assert_false(base64_decode(a, STR("Zg="), &r));
    assert_false(base64_decode(a, STR("Zh=="), &r)); /* stray bits */
    assert_false(base64_decode(a, STR("Z g="), &r));
    assert_false(base64_decode(a, STR("Zg==Zg=="), &r));
    same(transfer_decode(a, TRANSFER_BASE64, STR("Zm9v\r\n!!YmFy\r\n")), "foobar");
    same(transfer_decode(a, TRANSFER_BASE64, STR("Zg==Zm8")), "ffo");
    struct str lines = base64_encode_lines(a, str_make(memset(arena_alloc(a, 100), 'x', 100), 100));
    assert_int_equal(str_find(lines, STR("\r\n")), 76);
    assert_true(str_ends(lines, STR("\r\n")));
}

static void test_qp(void **state)
{
    (void)state;
    same(transfer_decode(a, TRANSFER_QP, STR("a=3Db=\r\nc  \r\nd=20\r\n=4=XX=")),
         "a=bc\r\nd \r\n=4=XX");
    same(transfer_decode(a, TRANSFER_QP, STR("soft=  \r\nbreak")), "softbreak");
    same(qp_encode(a, STR("a=b \r\n.x\nFrom y\n\xC3\xA4")),
         "a=3Db=20\r\n=2Ex\r\n=46rom y\r\n=C3=A4");
    char *big = arena_alloc(a, 1000);
    memset(big, 'x', 1000);
    struct str e = qp_encode(a, str_make(big, 1000));
    for (struct str rest = e, l; rest.p;) {
        l = str_cut(&rest, '\n');
        assert_true(l.n <= 77);
    }
    assert_true(str_eq(transfer_decode(a, TRANSFER_QP, e), str_make(big, 1000)));
}

/* One byte at a time gives what the whole gives. */
static void test_pieces(void **state)
{
    static const char *const texts[] = {"a=3Db=\r\nc\r\nd=20\r\n=4=XX=",
                                        "Zm9v\r\n!!YmFy\r\nZg==Zm8"};
    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        enum transfer kind = k ? TRANSFER_BASE64 : TRANSFER_QP;
        struct str in = str_of(texts[k]);
        struct transfer_decoder d = {.kind = kind};
        char out[200];
        size_t n = 0;
        for (size_t i = 0; i < in.n; i++)
            n += transfer_feed(&d, str_make(in.p + i, 1), false, out + n);
        n += transfer_feed(&d, STR(""), true, out + n);
        assert_true(str_eq(str_make(out, n), transfer_decode(a, kind, in)));
    }
}

static void test_words(void **state)
{
    (void)state;
    same(word_decode(a, STR("plain")), "plain");
    same(word_decode(a, STR("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?_b?=")), "a b");
    same(word_decode(a, STR("=?ISO-8859-1?Q?Andr=E9?= Pirard")), "Andr\xC3\xA9 Pirard");
    same(word_decode(a, STR("x =?utf-8?B?w6Q=?=\r\n =?utf-8?b?w7Y=?= y")), "x \xC3\xA4\xC3\xB6 y");
    same(word_decode(a, STR("=?utf-8?Q?=C3?= =?utf-8?Q?=A4?=")),
         "\xC3\xA4"); /* one character, two words */
    same(word_decode(a, STR("=?utf-8*de?Q?z?=")), "z");
    same(word_decode(a, STR("=?utf-8?Q?a?b")), "=?utf-8?Q?a?b");
    same(word_decode(a, STR("=?no-such?Q?=E4?=")), "\xC3\xA4");
    same(word_decode(a, STR("raw \xE4")), "raw \xC3\xA4");
    same(word_decode(a, STR("=?utf-8?Q?evil=0D=0AX:_y?=")), "evilX: y");
    same(word_decode(a, STR("=?ISO-2022-JP?B?GyRCJDMkcyRLJEEkTxsoQg==?=")),
         "\xE3\x81\x93\xE3\x82\x93\xE3\x81\xAB\xE3\x81\xA1\xE3\x81\xAF");
    same(word_encode(a, STR("plain")), "plain");
    struct str long_text =
        STR("\xC3\xA4\xC3\xB6\xC3\xBC 0123456789 0123456789 0123456789 \xE2\x82\xAC\xE2\x82\xAC");
    struct str e = word_encode(a, long_text);
    for (struct str rest = e, w; rest.p;) {
        w = str_cut(&rest, ' ');
        assert_true(w.n <= 75);
    }
    assert_true(str_eq(word_decode(a, e), long_text));
}

static void test_mutf7(void **state)
{
    struct str r;
    static const char *const bad[] = {"&",        "&Jjo", "&Jjo!", "&AGE-", "&U,BTFw-&ZeVnLIqe-",
                                      "\xC3\xA4", "&2AA-"};
    (void)state;
    assert_true(mutf7_decode(a, STR("~peter/mail/&U,BTFw-/&ZeVnLIqe-"), &r));
    same(r, "~peter/mail/\xE5\x8F\xB0\xE5\x8C\x97/\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E");
    same(mutf7_encode(a, r), "~peter/mail/&U,BTFw-/&ZeVnLIqe-");
    assert_true(mutf7_decode(a, STR("a&-b"), &r));
    same(r, "a&b");
    same(mutf7_encode(a, STR("a&b")), "a&-b");
    assert_true(mutf7_decode(a, mutf7_encode(a, STR("x\xF0\x9F\x98\x80y")), &r));
    same(r, "x\xF0\x9F\x98\x80y");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (mutf7_decode(a, str_of(bad[i]), &r))
            fail_msg("%s", bad[i]);
}

static void test_charset(void **state)
{
    (void)state;
    same(charset_to_utf8(a, STR("windows-1251"), STR("\xCF\xF0\xE8")), "\xD0\x9F\xD1\x80\xD0\xB8");
    same(charset_to_utf8(a, STR("utf-8"), STR("a\xFFz")), "a\xC3\xBFz");
    same(charset_to_utf8(a, STR("../../etc"), STR("abc")), "abc");
    same(charset_to_utf8(a, STR("gb2312"), STR("\xC4\xE3")), "\xE4\xBD\xA0");
    assert_true(charset_known(STR("KOI8-R")));
    assert_true(charset_known(STR("utf-8")));
    assert_false(charset_known(STR("x-nothing")));
    assert_false(charset_known(STR("UTF-8//TRANSLIT")));
    same(utf8_fold(a, STR("ABC \xC3\x84 \xD0\x96 \xCE\xA3")), "abc \xC3\xA4 \xD0\xB6 \xCF\x83");
    same(utf8_clean(a, STR("a\xED\xA0\x80")), "a\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");

    struct charset *c = charset_open(STR("shift_jis"));
    struct buf out;
    buf_init(&out, 100000);
    struct str in = STR("\x82\xB1\x82\xF1\x82");
    for (size_t i = 0; i < in.n; i++)
        assert_true(charset_feed(c, str_make(in.p + i, 1), i + 1 == in.n, &out));
    same(buf_str(&out), "\xE3\x81\x93\xE3\x82\x93\xEF\xBF\xBD");
    charset_close(&c);
    buf_clear(&out);
    c = charset_open(STR("utf-8"));
    in = STR("\xC3\xA4\xFFx\xE2\x82\xAC");
    for (size_t i = 0; i < in.n; i++)
        assert_true(charset_feed(c, str_make(in.p + i, 1), i + 1 == in.n, &out));
    same(buf_str(&out), "\xC3\xA4\xEF\xBF\xBDx\xE2\x82\xAC");
    charset_close(&c);
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64), cmocka_unit_test(test_qp),    cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_words),  cmocka_unit_test(test_mutf7), cmocka_unit_test(test_charset),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
