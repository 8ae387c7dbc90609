/* Parsing of IMAP commands: strings, sets, flags, FETCH items, SEARCH keys, LIST patterns. */
#include "proto/imap_int.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
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

static void string_is(const char *text, bool ok, const char *want)
{
    struct imap_in in = imap_in(a, str_of(text));
    struct str s;
    bool got = imap_astring(&in, &s) && imap_end(&in);
    if (got != ok || (ok && !str_eqz(s, want)))
        fail_msg("%s: %s", text, in.bad ? in.bad : "accepted");
}

static void test_strings(void **state)
{
    (void)state;
    string_is("abc", true, "abc");
    string_is("a]b", true, "a]b");
    string_is("\"a b\"", true, "a b");
    string_is("\"a\\\"\\\\b\"", true, "a\"\\b");
    string_is("\"\"", true, "");
    string_is("{3}\r\nabc", true, "abc");
    string_is("{3+}\r\na\nc", true, "a\nc");
    string_is("{0}\r\n", true, "");
    string_is("", false, NULL);
    string_is("\"abc", false, NULL);
    string_is("\"a\\x\"", false, NULL);
    string_is("{4}\r\nabc", false, NULL);
    string_is("{99999999999999999999}\r\nabc", false, NULL);
    string_is("{3}abc", false, NULL);
    string_is("a(b", false, NULL);
    string_is("a%b", false, NULL);
    string_is("\xC3\xA4", false, NULL);
}

static void mailbox_is(const char *text, const char *want)
{
    struct imap_in in = imap_in(a, str_of(text));
    struct str s;
    bool got = imap_mailbox(&in, &s) && imap_end(&in);
    if (got != (want != NULL) || (want && !str_eqz(s, want)))
        fail_msg("%s", text);
}

static void test_mailboxes(void **state)
{
    (void)state;
    mailbox_is("inbox", "INBOX");
    mailbox_is("\"InBox/x\"", "INBOX/x");
    mailbox_is("inboxes", "inboxes");
    mailbox_is("&AOQ-", "\xC3\xA4");
    mailbox_is("a&b", "a&b"); /* no modified UTF-7: taken as it stands */
    mailbox_is("{3+}\r\na\xff\n", NULL);
}

static void set_is(const char *text, bool uid, const char *want)
{
    static const uint32_t uids[] = {2, 3, 5, 8, 13};
    struct imap_in in = imap_in(a, str_of(text));
    struct imap_set set;
    uint32_t *v, n;
    struct str got = STR("bad");

    if (imap_set(&in, &set) && imap_end(&in)) {
        if (imap_set_resolve(&set, uid, uids, 5, a, &v, &n)) {
            for (uint32_t i = 0; i < n; i++)
                v[i]++;
            got = imap_set_emit(a, v, n);
        } else {
            got = STR("range");
        }
    }
    if (!str_eqz(got, want))
        fail_msg("%s: %.*s, want %s", text, STR_ARG(got), want);
}

static void test_sets(void **state)
{
    (void)state;
    set_is("1", false, "1");
    set_is("1:3,5", false, "1:3,5");
    set_is("3:1,2,2:*", false, "1:5");
    set_is("*", false, "5");
    set_is("6", false, "range");
    set_is("4:9", false, "range");
    set_is("0", false, "bad");
    set_is("1:", false, "bad");
    set_is("1,,2", false, "bad");
    set_is("", false, "bad");
    set_is("4294967296", false, "bad");
    set_is("2:5", true, "1:3");
    set_is("1,4,6:7", true, "");
    set_is("99:*", true, "5");
    set_is("*:99", true, "5");
    set_is("4294967295", true, "");
    set_is("1:4294967295", true, "1:5");
    uint32_t *v, n;
    struct imap_range r = {1, 0};
    struct imap_set all = {&r, 1};
    assert_true(imap_set_resolve(&all, true, NULL, 0, a, &v, &n));
    assert_int_equal(n, 0);
    assert_false(imap_set_resolve(&all, false, NULL, 0, a, &v, &n));
}

static void test_flags(void **state)
{
    struct imap_flags f;
    (void)state;
    struct imap_in in = imap_in(a, STR("(\\Seen \\dElEtEd $Forwarded foo FOO)"));
    assert_true(imap_flag_list(&in, false, &f) && imap_end(&in));
    assert_int_equal(f.system, FLAG_SEEN | FLAG_DELETED);
    assert_int_equal(f.keyword_count, 2);
    in = imap_in(a, STR("()"));
    assert_true(imap_flag_list(&in, false, &f));
    in = imap_in(a, STR("\\Flagged"));
    assert_true(imap_flag_list(&in, true, &f));
    in = imap_in(a, STR("\\Flagged"));
    assert_false(imap_flag_list(&in, false, &f));
    in = imap_in(a, STR("(\\Recent)"));
    assert_false(imap_flag_list(&in, false, &f));
    in = imap_in(a, STR("(\\Seen"));
    assert_false(imap_flag_list(&in, false, &f));
}

static void fetch_is(const char *text, const char *want)
{
    struct imap_in in = imap_in(a, str_of(text));
    struct imap_fetch f;
    struct str got = STR("bad");

    if (imap_fetch_items(&in, &f) && imap_end(&in)) {
        got = arena_printf(a, "%u", f.items);
        for (struct imap_section *s = f.sections; s; s = s->next)
            got = arena_printf(a, "%.*s %.*s%s%s", STR_ARG(got), STR_ARG(s->label),
                               s->peek ? "!" : "", s->partial ? "p" : "");
    }
    if (!str_eqz(got, want))
        fail_msg("%s: %.*s, want %s (%s)", text, STR_ARG(got), want, in.bad ? in.bad : "");
}

static void test_fetch(void **state)
{
    (void)state;
    fetch_is("ALL", "29");
    fetch_is("fast", "13");
    fetch_is("FULL", "61");
    fetch_is("FLAGS", "1");
    fetch_is("(UID FLAGS  INTERNALDATE RFC822.SIZE ENVELOPE BODY BODYSTRUCTURE )", "127");
    fetch_is("BODY[]", "0 BODY[]");
    fetch_is("body.peek[1.2.mime]<10.20>", "0 BODY[1.2.MIME]<10>!p");
    fetch_is("(BODY.PEEK[HEADER.FIELDS (From \"To\" x\\y)])", "bad");
    fetch_is("(BODY.PEEK[HEADER.FIELDS (From \"To\" \"a b\")] RFC822 RFC822.HEADER RFC822.TEXT)",
             "0 BODY[HEADER.FIELDS (From To \"a b\")]! RFC822 RFC822.HEADER! RFC822.TEXT");
    fetch_is("BODY[3.HEADER.FIELDS.NOT (X)]", "0 BODY[3.HEADER.FIELDS.NOT (X)]");
    fetch_is("BODY[TEXT]<0.5>", "0 BODY[TEXT]<0>p");
    fetch_is("BODY[MIME]", "bad");
    fetch_is("BODY[0]", "bad");
    fetch_is("BODY[1.]", "bad");
    fetch_is("BODY[1TEXT]", "bad");
    fetch_is("BODY[", "bad");
    fetch_is("BODY[]<1>", "bad");
    fetch_is("BODY[]<1.0>", "bad");
    fetch_is("(FLAGS)(UID)", "bad");
    fetch_is("(FLAGS", "bad");
    fetch_is("()", "bad");
    fetch_is("FLAGGED", "bad");
    fetch_is("(ALL)", "bad");
    fetch_is("BODY[HEADER.FIELDS ()]", "bad");
}

static bool search_ok(const char *text, struct imap_search *r)
{
    struct imap_in in = imap_in(a, str_of(text));
    return imap_search_keys(&in, r) && imap_end(&in) && !in.bad;
}

static void test_search(void **state)
{
    static const char *const good[] = {
        "ALL",
        "1:* UNSEEN",
        "OR SEEN (FLAGGED 2,4:7)",
        "NOT NOT DELETED",
        "SINCE 1-Feb-1994",
        "ON \"01-Feb-1994\"",
        "HEADER Message-ID \"<x>\"",
        "HEADER Subject \"\"",
        "KEYWORD $Junk",
        "UNKEYWORD foo",
        "LARGER 100 SMALLER 4294967295",
        "UID 1:*",
        "CHARSET utf-8 TEXT {2}\r\n\xC3\xA4",
        "NEW OLD RECENT",
        "SENTBEFORE 1-Jan-2020",
        "BCC a CC b FROM c TO d SUBJECT e BODY f TEXT g",
        "*",
    };
    static const char *const bad[] = {
        "",
        "FOO",
        "OR SEEN",
        "NOT",
        "(SEEN",
        "SEEN)",
        "SINCE 32-Feb-1994",
        "LARGER x",
        "HEADER a",
        "CHARSET",
        "0",
        "SEENX",
        "KEYWORD",
        "1:*UNSEEN",
        "()",
        "LARGER 4294967296",
    };
    struct imap_search r;
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        if (!search_ok(good[i], &r))
            fail_msg("refused %s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (search_ok(bad[i], &r))
            fail_msg("accepted %s", bad[i]);
    assert_true(search_ok("CHARSET x-none ALL", &r) && r.bad_charset);
    assert_true(search_ok("CHARSET iso-8859-1 SUBJECT \"\\\"\" BODY {1}\r\n\xC4", &r));
    assert_true(str_eqz(r.root->child->next->text, "\xC3\xA4")); /* converted and folded */
    char deep[4000];
    size_t n = 0;
    for (unsigned i = 0; i < 900; i++)
        n += (size_t)snprintf(deep + n, sizeof deep - n, "NOT ");
    snprintf(deep + n, sizeof deep - n, "ALL");
    assert_false(search_ok(deep, &r));
    memset(deep, '(', 900);
    deep[900] = '\0';
    assert_false(search_ok(deep, &r));
}

static void list_is(const char *pattern, const char *name, bool want)
{
    if (imap_list_match(str_of(pattern), str_of(name)) != want)
        fail_msg("%s %s", pattern, name);
}

static void test_list(void **state)
{
    (void)state;
    list_is("*", "a/b/c", true);
    list_is("%", "a", true);
    list_is("%", "a/b", false);
    list_is("%/%", "a/b", true);
    list_is("%/%", "a/b/c", false);
    list_is("a*", "a/b", true);
    list_is("a/*", "a", false);
    list_is("a/%", "a/b", true);
    list_is("*b", "a/b", true);
    list_is("*/c", "a/b/c", true);
    list_is("%b*d", "ab/cd", true);
    list_is("%%%x", "aax", true);
    list_is("*%/x", "a/b/x", true);
    list_is("*a%b", "xa/ya1b", true);
    list_is("", "", true);
    list_is("", "a", false);
    list_is("a", "A", false);
    char pattern[200], name[4000];
    for (size_t i = 0; i < 198; i += 2)
        memcpy(pattern + i, "*a", 2);
    pattern[198] = 'b';
    pattern[199] = '\0';
    memset(name, 'a', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    list_is(pattern, name, false); /* and ends soon */
    for (size_t i = 0; i < 198; i += 2)
        memcpy(pattern + i, "%a", 2);
    list_is(pattern, name, false);
}

static void test_append(void **state)
{
    (void)state;
    assert_true(imap_append_ready(STR("a APPEND x {5}")));
    assert_true(
        imap_append_ready(STR("a append \"x y\" (\\Seen) \" 1-Jan-2020 00:00:00 +0000\" {5+}")));
    assert_true(imap_append_ready(STR("a APPEND {1}\r\nx {5}")));
    assert_false(imap_append_ready(STR("a APPEND {5}")));
    assert_false(imap_append_ready(STR("a APPEND x (\\Bad) {5}")));
    assert_false(imap_append_ready(STR("a LOGIN x {5}")));
    assert_false(imap_append_ready(STR("a APPEND x {5}\r\nhello {3}")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strings), cmocka_unit_test(test_mailboxes),
        cmocka_unit_test(test_sets),    cmocka_unit_test(test_flags),
        cmocka_unit_test(test_fetch),   cmocka_unit_test(test_search),
        cmocka_unit_test(test_list),    cmocka_unit_test(test_append),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
