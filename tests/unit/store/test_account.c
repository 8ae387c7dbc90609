/* Domains, accounts, mappings in their order of precedence, signing in and lockouts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/account.h"
#include "store/mailbox.h"
#include "support/pg.h"

#include <cmocka.h>

#include "intask.h"

static uint64_t bob, jane, fred;

IN_TASK(test_admin)
{
    struct err e = ERR_INIT;
    struct account a;
    struct str *v;
    uint32_t n;
    bool local;

    (void)arg;
    OK(domain_add(STR("Example.com"), &e));
    FAILS(domain_add(STR("example.COM"), &e), ERR_EXISTS);
    FAILS(domain_add(STR("bad domain"), &e), ERR_SYNTAX);
    OK(domain_add(STR("second.org"), &e));
    OK(domain_list(arena, &v, &n, &e));
    assert_int_equal(n, 2);
    assert_true(str_eqz(v[0], "example.com"));
    OK(domain_is_local(STR("EXAMPLE.com"), &local, &e));
    assert_true(local);
    OK(domain_is_local(STR("elsewhere.net"), &local, &e));
    assert_false(local);

    OK(account_add(STR("Bob"), STR("secret1"), false, &bob, &e));
    OK(account_add(STR("jane"), STR("secret2"), true, &jane, &e));
    OK(account_add(STR("fred"), STR("secret3"), false, &fred, &e));
    FAILS(account_add(STR("BOB"), STR("secret1"), false, NULL, &e), ERR_EXISTS);
    FAILS(account_add(STR("everyone"), STR("secret1"), false, NULL, &e), ERR_EXISTS);
    FAILS(account_add(STR("b b"), STR("secret1"), false, NULL, &e), ERR_SYNTAX);
    FAILS(account_add(STR("x"), STR("a b c"), false, NULL, &e), ERR_SYNTAX);
    FAILS(account_add(STR("x"), STR("ab"), false, NULL, &e), ERR_SYNTAX);
    OK(account_find(STR("BOB"), &a, arena, &e));
    assert_int_equal(a.id, bob);
    assert_true(str_eqz(a.name, "bob"));
    assert_true(a.enabled && !a.admin && !a.expired && a.may_send_remote);
    OK(account_by_id(jane, &a, arena, &e));
    assert_true(a.admin);
    FAILS(account_find(STR("nobody"), &a, arena, &e), ERR_NOTFOUND);

    OK(account_set(bob, STR("max_out_bytes"), STR("1000"), &e));
    OK(account_set(bob, STR("access"), STR("pop3, imap"), &e));
    OK(account_set(bob, STR("forward"), STR("x@y.org;z"), &e));
    FAILS(account_set(bob, STR("enabled"), STR("perhaps"), &e), ERR_SYNTAX);
    FAILS(account_set(bob, STR("id"), STR("7"), &e), ERR_SYNTAX);
    FAILS(account_set(1, STR("enabled"), STR("no"), &e), ERR_NOTFOUND);
    OK(account_find(STR("bob"), &a, arena, &e));
    assert_int_equal(a.max_out_bytes, 1000);
    assert_int_equal(a.access, ACCESS_POP3 | ACCESS_IMAP);
    assert_true(str_eqz(a.forward, "x@y.org;z"));
    OK(account_set(bob, STR("access"), STR("all"), &e));
}

/* The first row of targets that an address leads to: "l:name", "r:address>route", "d", "u". */
static const char *resolve(const char *address, bool inside)
{
    static char out[300];
    struct resolve_target *v;
    struct err e = ERR_INIT;
    uint32_t n;
    size_t at = 0;

    out[0] = '\0';
    if (address_resolve(str_of(address), inside, arena, &v, &n, &e) != 0)
        fail_msg("%s: %s", address, e.text);
    for (uint32_t i = 0; i < n; i++) {
        const char *sep = i ? " " : "";
        switch (v[i].what) {
        case RESOLVE_LOCAL:
            at +=
                (size_t)snprintf(out + at, sizeof out - at, "%sl:%.*s", sep, STR_ARG(v[i].address));
            break;
        case RESOLVE_REMOTE:
            at += (size_t)snprintf(out + at, sizeof out - at, "%sr:%.*s>%.*s", sep,
                                   STR_ARG(v[i].address), STR_ARG(v[i].route));
            break;
        case RESOLVE_DISCARD:
            at += (size_t)snprintf(out + at, sizeof out - at, "%sd", sep);
            break;
        default:
            at += (size_t)snprintf(out + at, sizeof out - at, "%su", sep);
        }
    }
    return out;
}

IN_TASK(test_mappings)
{
    struct err e = ERR_INIT;
    static const char *const mappings[][3] = {
        {"sales@example.com", "bob", "Normal"},
        {"sales@example.com", "jane", "SMTP"},
        {"Info@example.com", "fred", ""},
        {"collected@example.com", "fred", "POP3"},
        {"fred@second.org", "jane", "Normal"}, /* suppresses the user fred there */
        {"w?ld*@example.com", "bob", "Normal"},
        {"localonly", "bob", "Normal"},
        {"black@hole.net", "No-one", "Normal"},
        {"gone@example.com", "*REMOTE", "Normal"},
        {"lan@example.com", "SMTP:bob@example.net@fred:mypass@192.168.1.1:587", "Normal"},
        {"lan2@example.com", "SMTP:bob@example.net@mail.lan", "Normal"},
        {"chain@example.com", "sales@example.com", "Normal"},
        {"loop@example.com", "loop@example.com", "Normal"},
        {"out@example.com", "friend@far.net", "Normal"},
        {"all@example.com", "everyone", "Normal"},
        {"ghost@example.com", "not.there", "Normal"},
        {"~@second.org", "bob", "Normal"},
    };

    (void)arg;
    for (size_t i = 0; i < sizeof mappings / sizeof *mappings; i++)
        OK(mapping_add(str_of(mappings[i][0]), str_of(mappings[i][1]), str_of(mappings[i][2]),
                       STR_NONE, &e));
    FAILS(mapping_add(STR("a@b"), STR("bob"), STR("Sometimes"), STR_NONE, &e), ERR_SYNTAX);
    assert_string_equal(resolve("bob@example.com", false), "l:bob");
    assert_string_equal(resolve("BOB@second.org", false), "l:bob");
    assert_string_equal(resolve("postmaster@example.com", false), "u");
    assert_string_equal(resolve("bob", true), "l:bob");
    assert_string_equal(resolve("who@elsewhere.net", false), "r:who@elsewhere.net>");
    assert_string_equal(resolve("sales@example.com", false), "l:bob l:jane");
    assert_string_equal(resolve("sales@second.org", false), "l:bob"); /* only ~@second.org */
    assert_string_equal(resolve("info@EXAMPLE.com", false), "l:fred");
    assert_string_equal(resolve("collected@example.com", false), "u");
    assert_string_equal(resolve("fred@second.org", false), "l:jane");
    assert_string_equal(resolve("fred@example.com", false), "l:fred");
    assert_string_equal(resolve("wild.card@example.com", false), "l:bob");
    assert_string_equal(resolve("localonly@second.org", false), "l:bob");
    assert_string_equal(resolve("localonly@elsewhere.net", false), "r:localonly@elsewhere.net>");
    assert_string_equal(resolve("black@hole.net", false), "d");
    assert_string_equal(resolve("gone@example.com", false), "r:gone@example.com>");
    assert_string_equal(resolve("lan@example.com", false),
                        "r:bob@example.net>fred:mypass@192.168.1.1:587");
    assert_string_equal(resolve("lan2@example.com", false), "r:bob@example.net>mail.lan");
    assert_string_equal(resolve("chain@example.com", false), "l:bob l:jane");
    assert_string_equal(resolve("loop@example.com", false), "u");
    assert_string_equal(resolve("out@example.com", false), "r:friend@far.net>");
    assert_string_equal(resolve("all@example.com", false), "l:bob l:jane l:fred");
    assert_string_equal(resolve("everyone@example.com", false), "u"); /* groups: from inside */
    assert_string_equal(resolve("everyone@example.com", true), "l:bob l:jane l:fred");
    assert_string_equal(resolve("admins@example.com", true), "l:jane");
    assert_string_equal(resolve("ghost@example.com", false), "u");
    assert_string_equal(resolve("unknown@second.org", false), "l:bob");

    OK(account_set(fred, STR("may_receive_remote"), STR("no"), &e));
    assert_string_equal(resolve("fred@example.com", false), "u");
    assert_string_equal(resolve("fred@example.com", true), "l:fred");
    OK(account_set(fred, STR("may_receive_remote"), STR("yes"), &e));
    OK(setting_set(STR("routing.implicit_users"), STR("no"), STR("test"), &e));
    OK(setting_load(&e));
    assert_string_equal(resolve("bob@example.com", false), "u");
    OK(setting_set(STR("routing.implicit_users"), STR("yes"), STR("test"), &e));
    OK(setting_load(&e));

    struct mapping *v;
    uint32_t n;
    OK(mapping_find(STR("collected@example.com"), MAPPING_POP3, false, arena, &v, &n, &e));
    assert_int_equal(n, 1);
    assert_true(str_eqz(v[0].target, "fred"));
    OK(mapping_find(STR("x@second.org"), MAPPING_SMTP, true, arena, &v, &n, &e));
    assert_int_equal(n, 1);
    assert_true(str_eqz(v[0].pattern, "~@second.org"));
    OK(mapping_find(STR("x@example.com"), MAPPING_SMTP, false, arena, &v, &n, &e));
    assert_int_equal(n, 0);
    OK(mapping_list(arena, &v, &n, &e));
    assert_int_equal(n, sizeof mappings / sizeof *mappings);
}

/* What another machine wrote is believed before a "no" is given. */
IN_TASK(test_negative_asks)
{
    struct err e = ERR_INIT;
    bool local;

    (void)arg;
    assert_string_equal(resolve("new@third.org", false), "r:new@third.org>");
    OK(db_exec(NULL, NULL, &e, "insert into domain (name) values ('third.org')", 0, NULL));
    OK(db_exec(NULL, NULL, &e,
               "insert into mapping (pattern, target) values ('new@third.org', 'bob')", 0, NULL));
    assert_string_equal(resolve("new@third.org", false), "l:bob");
    OK(db_exec(NULL, NULL, &e, "insert into domain (name) values ('fourth.org')", 0, NULL));
    OK(domain_is_local(STR("fourth.org"), &local, &e));
    assert_true(local);
}

static int login(const char *name, const char *password, uint32_t service, const char *peer,
                 struct err *e)
{
    struct account a;
    return account_login(str_of(name), str_of(password), service, str_of(peer), &a, arena, e);
}

IN_TASK(test_login)
{
    struct err e = ERR_INIT;
    char text[240];

    (void)arg;
    OK(login("bob", "secret1", ACCESS_IMAP, "10.0.0.1", &e));
    OK(login("BOB@example.com", "secret1", ACCESS_IMAP, "10.0.0.1", &e)); /* remembered */
    FAILS(login("bob", "wrong", ACCESS_IMAP, "10.0.0.2", &e), ERR_DENIED);
    snprintf(text, sizeof text, "%s", e.text);
    FAILS(login("nobody", "secret1", ACCESS_IMAP, "10.0.0.2", &e), ERR_DENIED);
    assert_string_equal(e.text, text);
    /* a new password ends the remembered one */
    OK(account_set_password(bob, STR("other99"), &e));
    FAILS(login("bob", "secret1", ACCESS_IMAP, "10.0.0.3", &e), ERR_DENIED);
    OK(login("bob", "other99", ACCESS_IMAP, "10.0.0.3", &e));
    OK(account_set(bob, STR("access"), STR("pop3"), &e));
    FAILS(login("bob", "other99", ACCESS_IMAP, "10.0.0.4", &e), ERR_DENIED);
    assert_string_equal(e.text, text);
    OK(login("bob", "other99", ACCESS_POP3, "10.0.0.5", &e));
    OK(account_set(bob, STR("enabled"), STR("no"), &e));
    FAILS(login("bob", "other99", ACCESS_POP3, "10.0.0.6", &e), ERR_DENIED);
    OK(account_set(bob, STR("enabled"), STR("yes"), &e));
    OK(account_set(bob, STR("access"), STR("all"), &e));
    OK(account_set(bob, STR("expires"), STR("2020-01-31"), &e));
    FAILS(login("bob", "other99", ACCESS_POP3, "10.0.0.7", &e), ERR_DENIED);
    OK(account_set(bob, STR("expires"), STR("2199-01-31"), &e));
    OK(login("bob", "other99", ACCESS_POP3, "10.0.0.7", &e));
    OK(account_set(bob, STR("expires"), STR(""), &e));
    /* an administrator can always repair his own account */
    OK(account_set(jane, STR("enabled"), STR("no"), &e));
    OK(login("jane", "secret2", ACCESS_WEB, "10.0.0.8", &e));
    FAILS(login("jane", "secret2", ACCESS_IMAP, "10.0.0.8", &e), ERR_DENIED);
    OK(account_set(jane, STR("enabled"), STR("yes"), &e));
}

IN_TASK(test_lockout)
{
    struct err e = ERR_INIT;

    (void)arg;
    for (int i = 0; i < 3; i++)
        FAILS(login("fred", "bad", ACCESS_IMAP, "10.9.9.9", &e), ERR_DENIED);
    FAILS(login("fred", "secret3", ACCESS_IMAP, "10.9.9.9", &e), ERR_DENIED); /* locked there */
    OK(login("fred", "secret3", ACCESS_IMAP, "10.9.9.8", &e));                /* only there */
    for (int i = 0; i < 5; i++)
        FAILS(login("fred", "bad", ACCESS_IMAP, "127.0.0.1", &e), ERR_DENIED);
    OK(login("fred", "secret3", ACCESS_IMAP, "127.0.0.1", &e)); /* this machine is exempt */
}

IN_TASK(test_scram)
{
    struct err e = ERR_INIT;
    struct scram_verifier v, w;
    struct account a;
    bool known;

    (void)arg;
    OK(account_scram(STR("fred"), &v, &known, &e));
    assert_true(known);
    assert_int_equal(v.iterations, 4096);
    OK(account_scram(STR("nobody"), &v, &known, &e));
    assert_false(known);
    OK(account_scram(STR("nobody"), &w, &known, &e));
    assert_memory_equal(&v, &w, sizeof v); /* made up, but always the same */
    OK(account_scram(STR("nobody2"), &w, &known, &e));
    assert_memory_not_equal(v.salt, w.salt, sizeof v.salt);
    OK(account_login_done(STR("fred"), true, ACCESS_IMAP, STR("10.1.1.1"), &a, arena, &e));
    assert_int_equal(a.id, fred);
    FAILS(account_login_done(STR("fred"), false, ACCESS_IMAP, STR("10.1.1.1"), &a, arena, &e),
          ERR_DENIED);
    FAILS(account_login_done(STR("nobody"), true, ACCESS_IMAP, STR("10.1.1.1"), &a, arena, &e),
          ERR_DENIED);
}

IN_TASK(test_list_and_remove)
{
    struct err e = ERR_INIT;
    struct account_info *v;
    struct mailbox_info *boxes;
    struct account a;
    uint32_t n;

    (void)arg;
    OK(account_list(arena, STR("*e*"), &v, &n, &e));
    assert_int_equal(n, 2); /* fred, jane */
    assert_true(str_eqz(v[0].account.name, "fred"));
    OK(mailbox_list(fred, arena, &boxes, &n, &e));
    assert_int_equal(n, 1);
    assert_true(str_eqz(boxes[0].name, "INBOX"));
    OK(account_remove(fred, &e));
    FAILS(account_remove(fred, &e), ERR_NOTFOUND);
    FAILS(account_find(STR("fred"), &a, arena, &e), ERR_NOTFOUND);
    assert_string_equal(resolve("info@example.com", false), "u"); /* his mappings went along */
    OK(mailbox_list(fred, arena, &boxes, &n, &e));
    assert_int_equal(n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_admin),           cmocka_unit_test(test_mappings),
        cmocka_unit_test(test_negative_asks),   cmocka_unit_test(test_login),
        cmocka_unit_test(test_lockout),         cmocka_unit_test(test_scram),
        cmocka_unit_test(test_list_and_remove),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
