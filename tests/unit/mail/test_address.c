/* SMTP paths and address lists. */
#include "core/limits.h"
#include "mail/address.h"

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

static void path(const char *text, unsigned flags, const char *local, const char *domain,
                 const char *rest)
{
    struct address r;
    struct str left;
    struct err e = ERR_INIT;
    if (address_path(a, str_of(text), flags, &r, &left, &e) < 0)
        fail_msg("%s: %s", text, e.text);
    if (!str_eqz(r.local, local) || !str_eqz(r.domain, domain) || !str_eqz(left, rest))
        fail_msg("%s: <%.*s> <%.*s> <%.*s>", text, STR_ARG(r.local), STR_ARG(r.domain),
                 STR_ARG(left));
}

static void test_paths(void **state)
{
    (void)state;
    path("<a@b.c>", 0, "a", "b.c", "");
    path(" <a@b.c> SIZE=1", 0, "a", "b.c", " SIZE=1");
    path("<>", PATH_NULL, "", "", "");
    path("<@x,@y.z:a@b>", 0, "a", "b", "");
    path("<\"a b\\\"c\"@d>", 0, "a b\"c", "d", "");
    path("<a@[127.0.0.1]>", 0, "a", "[127.0.0.1]", "");
    path("<a@[IPv6:2001:db8::1]>", 0, "a", "[IPv6:2001:db8::1]", "");
    path("<postmaster>", PATH_NO_DOMAIN, "postmaster", "", "");
    path("a@b BODY=8BITMIME", PATH_BARE, "a", "b", " BODY=8BITMIME");
    path("<\xC3\xA4@\xC3\xB6.de>", PATH_UTF8, "\xC3\xA4", "\xC3\xB6.de", "");
    path("<a+b/c=d@x_y.z>", 0, "a+b/c=d", "x_y.z", "");
}

static void test_bad_paths(void **state)
{
    static const char *const bad[] = {
        "",
        "a@b",
        "<>",
        "<a>",
        "<a@>",
        "<@b>",
        "<a@b",
        "<a@b>x",
        "<a b@c>",
        "<.a@b>",
        "<a.@b>",
        "<a..b@c>",
        "<a@-b>",
        "<a@b-.c>",
        "<a@b..c>",
        "<a@.b>",
        "<a@b.>",
        "<a@[1.2.3]>",
        "<a@[IPv6:zz]>",
        "<\"a@b>",
        "<a@b@c>",
        "<@x a@b>",
        "<\xC3\xA4@b>",
        "<a@b,c>",
        "<a@b\r\nX>",
        "<a@b>>",
        "<aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@"
        "b>",
    };
    struct address r;
    struct str rest;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (address_path(a, str_of(bad[i]), 0, &r, &rest, NULL) == 0)
            fail_msg("accepted %s", bad[i]);
}

static void test_canonical(void **state)
{
    struct address r;
    (void)state;
    assert_int_equal(address_parse(a,
                                   STR("Bob@B\xC3\x9C"
                                       "CHER.Example"),
                                   PATH_UTF8, &r, NULL),
                     0);
    assert_true(str_eqz(address_canonical(a, &r), "Bob@xn--bcher-kva.example"));
    assert_int_equal(address_parse(a, STR("\"a b\"@C"), 0, &r, NULL), 0);
    assert_true(str_eqz(address_canonical(a, &r), "\"a b\"@c"));
    assert_int_equal(address_parse(a, STR("\"ab\"@C"), 0, &r, NULL), 0);
    assert_true(str_eqz(address_canonical(a, &r), "ab@c"));
    /* wide signs do not become ASCII ones: no second '@', no blank */
    assert_true(str_chr(domain_canonical(a, STR("evil\xEF\xBC\xA0host.test")), '@') < 0);
    assert_true(str_chr(domain_canonical(a, STR("a\xE2\x80\x8A")), ' ') < 0);
    assert_int_equal(address_parse(a, STR("a@b c"), 0, &r, NULL), -1);
}

static void list(const char *text, const char *want)
{
    struct str got = STR("");
    for (struct list_entry *m = address_list(a, str_of(text)); m; m = m->next) {
        if (m->kind == LIST_MAILBOX)
            got = arena_printf(a, "%.*s{%.*s|%.*s|%.*s|%.*s}", STR_ARG(got), STR_ARG(m->name),
                               STR_ARG(m->route), STR_ARG(m->local), STR_ARG(m->domain));
        else
            got = arena_printf(a, "%.*s%s%.*s", STR_ARG(got), m->kind == LIST_GROUP ? "G:" : ";",
                               STR_ARG(m->name));
    }
    if (!str_eqz(got, want))
        fail_msg("%s:\n got %.*s\nwant %s", text, STR_ARG(got), want);
}

static void test_lists(void **state)
{
    (void)state;
    list("", "");
    list("a@b", "{||a|b}");
    list("A B <a@b>", "{A B||a|b}");
    list("\"A, \\\"B\" <a@b>, c@d", "{A, \"B||a|b}{||c|d}");
    list("a@b (Name (x))", "{Name (x)||a|b}");
    list("=?utf-8?Q?=C3=A4?= <a@b>", "{=?utf-8?Q?=C3=A4?=||a|b}");
    list("G: a@b, C <c@d>; e@f", "G:G{||a|b}{C||c|d};{||e|f}");
    list("undisclosed-recipients:;", "G:undisclosed-recipients;");
    list("<@x,@y:a@b>", "{|@x,@y|a|b}");
    list("John . Q . Public <john @ x . y>", "{John . Q . Public||john|x.y}");
    list("a . b@c . d", "{||a.b|c.d}");
    list("a@b,\r\n c@d,,\r\n ,e@f", "{||a|b}{||c|d}{||e|f}");
    list("nobody", "{||nobody|}");
    list("\"quoted local\"@d", "{||quoted local|d}");
    list("a@[1.2.3.4]", "{||a|[1.2.3.4]}");
    list("A <a@b", "{A||a|b}");
    list("<a@b> trailing, c@d", "{||a|b}{||trailing|}{||c|d}");
    list("X <>", "{X|||}");
    list("a@b c@d", "{||a|b}{||c|d}");
}

static void test_hostile(void **state)
{
    static const char *const pieces[] = {"(",  "<", "\"", "@",  "a@",    "<@",  ",",
                                         "()", "[", "G:", "\\", "<a@b,", "a b "};
    (void)state;
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        size_t n = strlen(pieces[i]), total = 1000000 / n;
        struct arena *own = arena_new(0);
        char *text = arena_alloc(own, n * total);
        for (size_t k = 0; k < total; k++)
            memcpy(text + k * n, pieces[i], n);
        uint32_t count = 0;
        for (struct list_entry *m = address_list(own, str_make(text, n * total)); m; m = m->next)
            count++;
        assert_true(count <= RECIPIENTS_MAX + 1);
        assert_true(arena_used(own) < 60u * 1024 * 1024);
        arena_free(&own);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),     cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_canonical), cmocka_unit_test(test_lists),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
