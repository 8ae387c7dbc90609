/* Connections, statements, transactions, settings, SQL from scripts, against a real server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/pg.h"
#include "store/text.h"
#include "support/pg.h"

#include <cmocka.h>

#include "intask.h"

IN_TASK(test_values)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    int64_t ints[] = {1, -5, INT64_MAX};
    struct str texts[] = {STR("a"), STR_NONE, STR("\xff")};

    (void)arg;
    assert_int_equal(
        db_exec(arena, &r, &e,
                "select $1::bool b, $2::int, $3::bigint, $4::text, $5::bytea, $6::timestamptz, "
                "$7::bigint[], $8::text[], $9::jsonb, null::int, $10::float8, array[]::text[]",
                DB_ARGS(db_bool(true), db_int4(-7), db_int(1LL << 40), db_text(STR("x\0y\xfe")),
                        db_bytes(STR("\0\1")), db_time(1234567890123), db_ints(ints, 3),
                        db_texts(texts, 3),
                        ((struct db_arg){.type = DB_JSONB, .s = STR("{\"a\": [1, 2]}")}),
                        ((struct db_arg){.type = DB_FLOAT8, .n = 2.5}))),
        0);
    assert_int_equal(rows_count(r), 1);
    assert_string_equal(rows_name(r, 0), "b");
    assert_true(rows_bool(r, 0, 0));
    assert_int_equal(rows_int(r, 0, 1), -7);
    assert_int_equal(rows_int(r, 0, 2), 1LL << 40);
    assert_true(str_eqz(rows_str(r, 0, 3), "x y\xef\xbf\xbd"));
    assert_true(str_eq(rows_str(r, 0, 4), STR("\0\1")));
    assert_int_equal(rows_int(r, 0, 5), 1234567890123);
    int64_t *got;
    assert_int_equal(rows_ints(r, 0, 6, arena, &got), 3);
    assert_int_equal(got[1], -5);
    assert_true(got[2] == INT64_MAX);
    struct str *strs;
    assert_int_equal(rows_strs(r, 0, 7, arena, &strs), 3);
    assert_null(strs[1].p);
    assert_true(str_eqz(strs[2], "\xef\xbf\xbd"));
    assert_true(str_eqz(rows_str(r, 0, 8), "{\"a\": [1, 2]}"));
    assert_true(rows_null(r, 0, 9));
    assert_true(str_eqz(rows_text(r, 0, 10, arena), "2.5"));
    assert_int_equal(rows_strs(r, 0, 11, arena, &strs), 0);
}

IN_TASK(test_errors)
{
    struct err e = ERR_INIT;

    (void)arg;
    assert_int_equal(db_exec(NULL, NULL, &e, "insert into domain (name) values ('x.org')", 0, NULL),
                     0);
    assert_int_equal(db_exec(NULL, NULL, &e, "insert into domain (name) values ('x.org')", 0, NULL),
                     -1);
    assert_int_equal(e.cls, ERR_EXISTS);
    assert_int_equal(db_exec(NULL, NULL, &e, "select nonsense", 0, NULL), -1);
    assert_int_equal(e.cls, ERR_INTERNAL);
    /* the connection goes on working, and a statement that failed to prepare is tried again */
    assert_int_equal(db_exec(NULL, NULL, &e, "select nonsense", 0, NULL), -1);
    assert_int_equal(db_exec(NULL, NULL, &e, "select 1", 0, NULL), 0);
    assert_true(db_up());
}

IN_TASK(test_roles)
{
    struct err e = ERR_INIT;
    const struct rows *r;

    (void)arg;
    assert_int_equal(db_exec(arena, &r, &e,
                             "select current_user::text, session_user::text, "
                             "current_setting('synchronous_commit'), "
                             "(select rolsuper from pg_roles where rolname = session_user)",
                             0, NULL),
                     0);
    assert_true(str_eqz(rows_str(r, 0, 0), "moonpost_engine"));
    assert_true(str_eqz(rows_str(r, 0, 1), "moonpost_engine"));
    assert_true(str_eqz(rows_str(r, 0, 2), "on"));
    assert_false(rows_bool(r, 0, 3));
    assert_int_equal(db_exec(NULL, NULL, &e, "create table t (x int)", 0, NULL), -1);
    assert_int_equal(e.cls, ERR_DENIED);
    assert_int_equal(
        db_exec_async(arena, &r, &e, "select current_setting('synchronous_commit')", 0, NULL), 0);
    assert_true(str_eqz(rows_str(r, 0, 0), "off"));
}

IN_TASK(test_tx)
{
    struct err e = ERR_INIT;
    const struct rows *r;

    (void)arg;
    struct tx *tx = tx_begin(&e);
    assert_non_null(tx);
    assert_int_equal(
        tx_exec(tx, arena, &r, &e, "insert into domain (name) values ('tx.org')", 0, NULL), 0);
    assert_int_equal(rows_affected(r), 1);
    assert_int_equal(tx_end(&tx, false, &e), 0);
    tx = tx_begin(&e);
    assert_int_equal(tx_queue(tx, &e, "insert into domain (name) values ('tx.org')", 0, NULL), 0);
    assert_int_equal(tx_end(&tx, true, &e), 0);
    assert_null(tx);
    /* an error inside: the commit must say so */
    tx = tx_begin(&e);
    assert_int_equal(tx_queue(tx, &e, "insert into domain (name) values ('never.org')", 0, NULL),
                     0);
    assert_int_equal(tx_exec(tx, arena, NULL, &e, "select 1/0", 0, NULL), -1);
    assert_int_equal(tx_exec(tx, arena, NULL, &e, "select 1", 0, NULL), -1);
    assert_int_equal(tx_end(&tx, true, &e), -1);
    /* an error in what is queued before the commit */
    tx = tx_begin(&e);
    assert_int_equal(tx_queue(tx, &e, "insert into domain (name) values ('tx.org')", 0, NULL), 0);
    assert_int_equal(tx_end(&tx, true, &e), -1);
    assert_int_equal(e.cls, ERR_EXISTS);
    assert_int_equal(
        db_exec(arena, &r, &e, "select count(*) from domain where name ~ 'never|tx'", 0, NULL), 0);
    assert_int_equal(rows_int(r, 0, 0), 1);
}

static unsigned running, failures;

static void one_query(void *arg)
{
    struct err e = ERR_INIT;
    struct arena *a = arena_new(256);
    const struct rows *r;
    int64_t n = (int64_t)(intptr_t)arg;

    if (db_exec(a, &r, &e, "select $1::bigint, pg_sleep(0.002)::text", DB_ARGS(db_int(n))) != 0 ||
        rows_int(r, 0, 0) != n)
        failures++;
    arena_free(&a);
    running--;
}

IN_TASK(test_pool)
{
    struct err e = ERR_INIT;

    (void)arg;
    failures = 0;
    for (intptr_t i = 0; i < 200; i++) {
        running++;
        task_spawn(one_query, (void *)i);
    }
    while (running > 0)
        task_sleep(5, &e);
    assert_int_equal(failures, 0);
}

IN_TASK(test_killed_backends)
{
    struct err e = ERR_INIT;

    (void)arg;
    for (int i = 0; i < 5; i++) {
        struct err killed = ERR_INIT;
        db_exec(NULL, NULL, &killed,
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where usename = 'moonpost_engine' and pid <> pg_backend_pid()",
                0, NULL);
        assert_int_equal(
            db_exec(NULL, NULL, &killed, "select pg_terminate_backend(pg_backend_pid())", 0, NULL),
            -1);
        assert_int_equal(killed.cls, ERR_TEMP);
        task_sleep(20, &e);
        assert_int_equal(db_exec(NULL, NULL, &e, "select 1", 0, NULL), 0);
    }
}

IN_TASK(test_ids)
{
    struct err e = ERR_INIT;
    uint64_t last = 0, id;

    (void)arg;
    for (int i = 0; i < 70000; i++) {
        assert_int_equal(db_next_id(&id, &e), 0);
        assert_true(id > last);
        last = id;
    }
    uint64_t first;
    assert_int_equal(db_next_ids(20000, &first, &e), 0);
    assert_true(first > last);
    assert_int_equal(db_next_id(&id, &e), 0);
    assert_true(id >= first + 20000);
}

IN_TASK(test_settings)
{
    struct err e = ERR_INIT;
    struct setting_info *v;
    uint32_t n;

    (void)arg;
    assert_int_equal(setting_int("security.lock_after"), 3);
    assert_true(setting_bool("storage.disk_check"));
    assert_true(str_eqz(setting_str("server.product"), "Moonpost"));
    assert_int_equal(setting_set(STR("nonsense"), STR("1"), STR("me"), &e), -1);
    assert_int_equal(e.cls, ERR_NOTFOUND);
    assert_int_equal(setting_set(STR("security.lock_after"), STR("x"), STR("me"), &e), -1);
    assert_int_equal(e.cls, ERR_SYNTAX);
    assert_int_equal(setting_set(STR("security.lock_after"), STR("-1"), STR("me"), &e), -1);
    assert_int_equal(e.cls, ERR_SYNTAX);
    assert_int_equal(setting_set(STR("security.lock_after"), STR("5"), STR("me"), &e), 0);
    assert_true(setting_stale());
    assert_int_equal(setting_int("security.lock_after"), 3); /* refreshed in the background */
    for (int i = 0; i < 200 && setting_int("security.lock_after") != 5; i++)
        task_sleep(5, &e);
    assert_int_equal(setting_int("security.lock_after"), 5);
    assert_int_equal(setting_list(arena, STR("security.lock*"), &v, &n, &e), 0);
    assert_int_equal(n, 3);
    assert_false(v[0].is_default);
    assert_true(str_eqz(v[0].fallback, "3"));
    assert_int_equal(setting_set(STR("security.lock_after"), STR("3"), STR("me"), &e), 0);
    assert_int_equal(setting_load(&e), 0);
}

IN_TASK(test_script_sql)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    struct db_arg id = db_text(STR("3"));

    (void)arg;
    assert_int_equal(db_script_exec(arena, &r, &e,
                                    STR("select name, 1 + $1 from domain order by name"), 1, &id,
                                    false, 100),
                     0);
    assert_true(rows_count(r) >= 1);
    assert_true(str_eqz(rows_text(r, 0, 1, arena), "4"));
    assert_int_equal(db_script_exec(arena, &r, &e, STR("select * from generate_series(1, 100000)"),
                                    0, NULL, false, 50),
                     0);
    assert_int_equal(rows_count(r), 50);
    assert_int_equal(
        db_script_exec(arena, &r, &e, STR("select * from credential"), 0, NULL, false, 50), -1);
    assert_int_equal(e.cls, ERR_DENIED);
    assert_int_equal(db_script_exec(arena, &r, &e, STR("delete from domain"), 0, NULL, false, 50),
                     -1);
    assert_int_equal(db_script_exec(arena, &r, &e, STR("select 1; select 2"), 0, NULL, false, 50),
                     -1);
    assert_int_equal(
        db_script_exec(arena, &r, &e, STR("select count(*) from secret"), 0, NULL, true, 50), -1);
    assert_int_equal(db_script_exec(arena, &r, &e, STR("select 'fine'"), 0, NULL, false, 50), 0);
    assert_true(str_eqz(rows_text(r, 0, 0, arena), "fine"));
}

static void test_check_and_again(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    assert_int_equal(cluster_check(test_pg_conninfo, &e), 0);
    assert_int_equal(migrate_run(test_pg_conninfo, &e), 0);
    assert_true(cluster_running(test_pg_dir));
}

static void test_text(void **state)
{
    struct arena *a = arena_new(256);

    (void)state;
    assert_true(str_eqz(text_json(a, STR("[1, \"a\", null, {\"b\": -1.5e3}]")),
                        "[1, \"a\", null, {\"b\": -1.5e3}]"));
    assert_null(text_json(a, STR("")).p);
    assert_true(
        str_eqz(text_json(a, STR("{\"a\": \"\\u0000\"}")), "\"{\\\"a\\\": \\\"\\\\u0000\\\"}\""));
    assert_true(str_eqz(text_json(a, STR("1e999999")), "\"1e999999\""));
    assert_true(str_eqz(text_json(a, STR("[1")), "\"[1\""));
    assert_true(str_eqz(text_json(a, STR("\"\\ud800\"")), "\"\\\"\\\\ud800\\\"\""));
    assert_true(str_eqz(text_clean(a, STR("ok \xc3\xa9")), "ok \xc3\xa9"));
    assert_true(
        str_eqz(text_clean(a, STR("\xed\xa0\x80")), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_tx),
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_killed_backends),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_script_sql),
        cmocka_unit_test(test_check_and_again),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
