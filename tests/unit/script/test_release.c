/* Releases against a real database: put, roll back, history; sessions keep the release they began
 * with; routing and the store's functions for scripts. */
#include "unit/script/script_test.h"

#include "store/account.h"
#include "support/pg.h"

static void start(void *unused)
{
    struct err e = ERR_INIT;
    (void)unused;
    db_open(test_pg_conninfo, "moonpost_engine", 4);
    CHECK(setting_load(&e) == 0);
    CHECK(script_open(share_dir(), false, &e) == 0);
}

static int setup(void **state)
{
    (void)state;
    log_set_level(LOG_ERROR);
    loop_init();
    shm_create();
    shm_attach(1);
    bus_open(-1);
    test_pg_start();
    check_failures = 0;
    task_run_main(start, NULL);
    return check_failures ? -1 : 0;
}

static void stop(void *unused)
{
    (void)unused;
    script_close();
}

static int teardown(void **state)
{
    (void)state;
    task_run_main(stop, NULL);
    db_close();
    bus_close();
    test_pg_stop();
    work_stop();
    task_pool_free();
    loop_free();
    return 0;
}

static bool says(struct hook_env *env, const char *want)
{
    struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
    bool ok = o.what == HOOK_DONE && str_eqz(hv_as_str(&o.hc.results[0], STR("")), want);

    if (!ok)
        fprintf(stderr, "wanted %s: outcome %d %s\n", want, o.what, o.e.text);
    outcome_free(&o);
    return ok;
}

#define NOOP(reply) STR("function DoNOOP() return '" reply "' end")

IN_TASK(test_change)
{
    struct err e = ERR_INIT;
    struct arena *a = arena_new(4096);
    uint64_t one, two, three;
    struct str text;
    bool shipped;
    struct script_info *v;
    struct script_release *h;
    uint32_t n;
    (void)unused;
    CHECK(script_put(STR("SMTPSVR.LUA"), NOOP("one"), STR("admin"), STR("first"), &one, &e) == 0);
    struct hook_env *first = hook_env_new("smtpsvr", STR(""));
    CHECK(says(first, "one"));
    CHECK(script_put(STR("smtpsvr"), NOOP("two"), STR("admin"), STR(""), &two, &e) == 0 &&
          two != one);
    struct hook_env *second = hook_env_new("smtpsvr", STR(""));
    CHECK(says(second, "two"));
    CHECK(says(first, "one")); /* the session keeps what it began with */
    /* What does not compile, or is the engine's own, changes nothing. */
    CHECK(script_put(STR("smtpsvr"), STR("function"), STR("admin"), STR(""), NULL, &e) == -1 &&
          e.cls == ERR_SYNTAX);
    CHECK(script_put(STR("guard"), STR(""), STR("admin"), STR(""), NULL, &e) == -1 &&
          e.cls == ERR_DENIED);
    CHECK(script_put(STR("../x"), STR(""), STR("admin"), STR(""), NULL, &e) == -1 &&
          e.cls == ERR_SYNTAX);
    CHECK(script_get(STR("SmtpSvr.lua"), a, &text, &shipped, &e) == 0 && !shipped &&
          str_find(text, STR("two")) > 0);
    CHECK(script_get(STR("guard"), a, &text, &shipped, &e) == 0 && shipped && text.n > 100);
    CHECK(script_get(STR("nosuch"), a, &text, &shipped, &e) == -1 && e.cls == ERR_NOTFOUND);
    /* Bytes stay bytes. */
    CHECK(script_put(STR("pack.txt"), str_make("a\0\xff", 3), STR("admin"), STR(""), NULL, &e) ==
          0);
    CHECK(script_get(STR("pack.txt"), a, &text, &shipped, &e) == 0 && text.n == 3 &&
          text.p[1] == '\0');
    CHECK(script_put(STR("empty"), STR(""), STR("admin"), STR(""), &three, &e) == 0);
    CHECK(script_list(a, &v, &n, &e) == 0 && n >= 7);
    bool listed = false;
    for (uint32_t i = 0; i < n; i++)
        listed |= str_eqz(v[i].name, "smtpsvr") && v[i].site && v[i].shipped && v[i].hash.n >= 8;
    CHECK(listed);
    CHECK(script_remove(STR("empty"), STR("admin"), STR(""), NULL, &e) == 0);
    CHECK(script_remove(STR("empty"), STR("admin"), STR(""), NULL, &e) == -1 &&
          e.cls == ERR_NOTFOUND);
    CHECK(script_rollback(one, STR("admin"), NULL, &e) == 0);
    CHECK(script_rollback(999999999, STR("admin"), NULL, &e) == -1 && e.cls == ERR_NOTFOUND);
    struct hook_env *third = hook_env_new("smtpsvr", STR(""));
    CHECK(says(third, "one") && says(second, "two"));
    CHECK(script_get(STR("pack.txt"), a, &text, &shipped, &e) == -1);
    CHECK(script_history(a, &h, &n, &e) == 0 && n == 6 && h[0].active && !h[1].active &&
          h[0].files == 1);
    CHECK(str_eqz(h[0].who, "admin") && str_eqz(h[0].note, "rollback") && h[5].id == one &&
          h[5].at > 0);
    hook_env_free(&first);
    hook_env_free(&second);
    hook_env_free(&third);
    arena_free(&a);
}

/* Two at once: both changes are in what is active afterwards. */
static unsigned putting;

static void put_one(void *arg)
{
    struct err e = ERR_INIT;
    char name[20];
    snprintf(name, sizeof name, "file%d", *(int *)arg);
    CHECK(script_put(str_of(name), STR("x = 1"), STR("t"), STR(""), NULL, &e) == 0);
    if (e.cls)
        fprintf(stderr, "%s\n", e.text);
    putting--;
}

IN_TASK(test_at_once)
{
    static int numbers[8];
    struct err e = ERR_INIT;
    struct arena *a = arena_new(4096);
    (void)unused;
    putting = 8;
    for (int i = 0; i < 8; i++) {
        numbers[i] = i;
        task_spawn(put_one, &numbers[i]);
    }
    while (putting > 0)
        task_sleep(1, NULL);
    for (int i = 0; i < 8; i++) {
        char name[20];
        struct str text;
        bool shipped;
        snprintf(name, sizeof name, "file%d", i);
        CHECK(script_get(str_of(name), a, &text, &shipped, &e) == 0);
    }
    arena_free(&a);
}

/* Another process changed the release: only the generation tells. */
IN_TASK(test_generation)
{
    struct err e = ERR_INIT;
    struct arena *a = arena_new(4096);
    uint64_t id;
    (void)unused;
    CHECK(script_put(STR("smtpsvr"), NOOP("before"), STR("t"), STR(""), NULL, &e) == 0);
    CHECK(db_next_id(&id, &e) == 0);
    struct tx *tx = tx_begin(&e);
    CHECK(tx != NULL);
    CHECK(tx_exec(tx, a, NULL, &e, "update release set active = false where active", 0, NULL) == 0);
    CHECK(tx_exec(tx, a, NULL, &e, "insert into release (id, active) values ($1, true)",
                  DB_ARGS(db_int((int64_t)id))) == 0);
    CHECK(tx_exec(tx, a, NULL, &e, "insert into script_blob (hash, text) values ('\\x01', $1)",
                  DB_ARGS(db_bytes(NOOP("after")))) == 0);
    CHECK(tx_exec(tx, a, NULL, &e, "insert into release_file values ($1, 'smtpsvr', '\\x01')",
                  DB_ARGS(db_int((int64_t)id))) == 0);
    CHECK(tx_end(&tx, true, &e) == 0);
    struct hook_env *env = hook_env_new("smtpsvr", STR(""));
    CHECK(says(env, "before"));
    hook_env_free(&env);
    shm_bump(GEN_RELEASE);
    env = hook_env_new("smtpsvr", STR("")); /* this one sees that it moved */
    hook_env_free(&env);
    uint64_t began = loop_ns();
    bool after = false;
    while (!after && loop_ns() - began < 2000000000u) {
        task_sleep(5, NULL);
        env = hook_env_new("smtpsvr", STR(""));
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
        after = o.what == HOOK_DONE && str_eqz(hv_as_str(&o.hc.results[0], STR("")), "after");
        outcome_free(&o);
        hook_env_free(&env);
    }
    printf("a release of another process was in use after %llu ms\n",
           (unsigned long long)((loop_ns() - began) / 1000000u));
    CHECK(after && loop_ns() - began < 100000000u);
    arena_free(&a);
}

static bool resolves(const char *address, bool local_sender, const char *kind, const char *to)
{
    struct arena *a = arena_new(1024);
    struct hook_env *env = hook_env_new("routing", STR(""));
    struct hval session = hv_map();
    hv_put(a, &session, "local_sender", hv_bool(local_sender));
    struct hval args[] = {hv_str(str_of(address)), session};
    struct outcome o = call_hook(env, HOOK_ROUTING_resolve, 2, args);
    bool ok = false;
    if (o.what == HOOK_DONE && o.hc.results[0].v.count > 0) {
        const struct hval *t = &o.hc.results[0].v.items[0];
        ok = str_eqz(hv_get_str(t, "kind", STR("")), kind) &&
             (to == NULL || str_eqz(hv_get_str(t, "user", hv_get_str(t, "address", STR(""))), to));
        if (!ok)
            fprintf(stderr, "%s: %.*s\n", address, STR_ARG(hv_get_str(t, "kind", STR(""))));
    } else {
        fprintf(stderr, "%s: %s\n", address, o.e.text);
    }
    outcome_free(&o);
    hook_env_free(&env);
    arena_free(&a);
    return ok;
}

IN_TASK(test_routing)
{
    struct err e = ERR_INIT;
    uint64_t id;
    (void)unused;
    CHECK(domain_add(STR("example.com"), &e) == 0);
    CHECK(account_add(STR("anna"), STR("secret123"), false, &id, &e) == 0);
    CHECK(account_add(STR("postmaster"), STR("secret123"), true, &id, &e) == 0);
    CHECK(mapping_add(STR("info@example.com"), STR("anna"), STR("always"), STR(""), &e) == 0);
    if (e.cls)
        fprintf(stderr, "%s\n", e.text);
    CHECK(resolves("anna@example.com", false, "local", "anna"));
    CHECK(resolves("Info@Example.com", false, "local", "anna"));
    CHECK(resolves("nobody@example.com", false, "unknown", NULL));
    CHECK(resolves("abuse@example.com", false, "local", "postmaster"));
    CHECK(resolves("x@elsewhere.org", true, "remote", "x@elsewhere.org"));
    CHECK(
        script_put(STR("routing"),
                   STR("function resolve(a, s) if a:find('^ticket') then return {{kind = 'local', "
                       "user = 'anna'}} end return default(a, s) end"),
                   STR("t"), STR(""), NULL, &e) == 0);
    CHECK(resolves("ticket-5@example.com", false, "local", "anna"));
    CHECK(resolves("nobody@example.com", false, "unknown", NULL));
}

static const char *const store_scripts[] = {
    "local r = assert(VPOP3.PostgresQuery('select 1 + 1 as two, null as none, $1::text as t', "
    "{'x'})) "
    "assert(#r == 1 and r[1].two == '2' and r[1].none == nil and r[1].t == 'x')",
    "local r, text, class = VPOP3.PostgresQuery('select nosuch from nowhere') assert(r == nil and "
    "text and class)",
    "local r, text, class = VPOP3.PostgresQuery('insert into domain values (1)') assert(r == nil)",
    "local r = VPOP3.PostgresQuery('select * from credential') assert(r == nil)",
    "local r = VPOP3.PostgresQuery('select pg_sleep(10)') assert(r == nil)",
    "local r = VPOP3.PostgresQuery('select generate_series(1, 20000) as i') assert(r == nil or #r "
    "<= 10000)",
    "assert(VPOP3.GetSetting('server.product') == 'Moonpost' and VPOP3.GetSetting('no.such') == "
    "nil "
    "and VPOP3.GetSetting('*') == nil)",
    "assert(VPOP3.IsLocalAddress('anna@example.com') == true and "
    "VPOP3.IsLocalAddress('x@elsewhere.org') == false)",
    "assert(VPOP3.AddressType('anna@example.com') == 'User') "
    "assert(VPOP3.AddressType('info@example.com') == 'Mapping') "
    "assert(VPOP3.AddressType('x@elsewhere.org') == 'Remote') "
    "assert(VPOP3.AddressType('zz@example.com') == 'Invalid') "
    "assert(VPOP3.AddressType('abuse@example.com') == 'Postmaster') assert(VPOP3.AddressType('') "
    "== 'Invalid')",
    "assert(mail.index.domain_is_local('Example.COM') == true and "
    "mail.index.domain_is_local('x.y') == false)",
    "local a = mail.index.account('Anna') assert(a.name == 'anna' and a.id > 0 and a.admin == "
    "false) "
    "local n, t, c = mail.index.account('nosuch') assert(n == nil and c == 'notfound')",
    "local m = mail.index.mappings('info@example.com') assert(#m == 1 and m[1].target == 'anna') "
    "assert(#mail.index.mappings('x@example.com') == 0 and #mail.index.mappings('x@y', 'from', "
    "true) == 0)",
    "local t = mail.index.resolve('anna@example.com') assert(t[1].kind == 'local' and t[1].user == "
    "'anna')",
};

IN_TASK(test_store)
{
    (void)unused;
    for (size_t i = 0; i < sizeof store_scripts / sizeof *store_scripts; i++) {
        char text[2000];
        snprintf(text, sizeof text, "function DoNOOP()\n%s\nreturn 'ok'\nend", store_scripts[i]);
        CHECK(script_says_ok(text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_change),     cmocka_unit_test(test_at_once),
        cmocka_unit_test(test_generation), cmocka_unit_test(test_routing),
        cmocka_unit_test(test_store),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
