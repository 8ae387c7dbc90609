/* The private PostgreSQL: long paths, survivors, restarts under a pool; backup and restore; the
 * bus. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/account.h"
#include "store/backup.h"
#include "store/diskfloor.h"
#include "store/mailbox.h"
#include "support/pg.h"

#include <cmocka.h>
#include <fcntl.h>
#include <libpq-fe.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "intask.h"

static uint64_t user;

static void append(const char *text)
{
    struct err e = ERR_INIT;
    struct stage *s = stage_new();
    uint32_t validity, uid;

    OK(stage_add(s, str_of(text), &e));
    OK(mailbox_append(user, STR("INBOX"), s, STR("A: b\r\n\r\n"), 0, NULL, 0, 0, &validity, &uid,
                      &e));
    stage_free(&s);
}

IN_TASK(test_fill)
{
    struct err e = ERR_INIT;

    (void)arg;
    OK(account_add(STR("user"), STR("secret"), false, &user, &e));
    append("one");
    append("two");
    disk_open(NULL);
    assert_int_equal(disk_state(), 0);
    disk_open(test_pg_dir);
    OK(setting_set(STR("storage.disk_refuse_mb"), STR("100000000"), STR("test"), &e));
    OK(setting_load(&e));
    assert_int_equal(disk_state(), DISK_REFUSE_CONNECTIONS);
    disk_open(NULL);
}

static void make_dir(char *out, size_t size, const char *deep)
{
    snprintf(out, size, "/tmp/mp-test2-XXXXXX");
    assert_non_null(mkdtemp(out));
    if (test_pg_uid != CLUSTER_SAME_USER)
        assert_int_equal(chown(out, test_pg_uid, test_pg_gid), 0);
    if (deep == NULL)
        return;
    size_t n = strlen(out);
    snprintf(out + n, size - n, "/%s", deep);
    assert_int_equal(mkdir(out, 0700), 0);
    if (test_pg_uid != CLUSTER_SAME_USER)
        assert_int_equal(chown(out, test_pg_uid, test_pg_gid), 0);
}

static void remove_dir(const char *dir)
{
    char cmd[600];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    assert_int_equal(system(cmd), 0);
}

/* Into a data directory whose path is too long for a socket. */
static void test_backup(void **state)
{
    char dir[64], copy[100], data[400], deep[150], info[500];
    struct err e = ERR_INIT;
    pid_t pid;

    (void)state;
    make_dir(dir, sizeof dir, NULL);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    OK(backup_run(test_pg_conninfo, copy, &e));
    memset(deep, 'x', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    make_dir(data, sizeof data, deep);
    FAILS(backup_restore(dir, data, test_pg_uid, test_pg_gid, &e), ERR_NOTFOUND);
    OK(backup_restore(copy, data, test_pg_uid, test_pg_gid, &e));
    assert_false(cluster_running(data));
    FAILS(backup_restore(copy, data, test_pg_uid, test_pg_gid, &e), ERR_EXISTS);
    OK(cluster_start(data, test_pg_uid, test_pg_gid, &pid, &e));
    assert_true(cluster_running(data));
    OK(cluster_conninfo(data, info, sizeof info, &e));
    OK(cluster_check(info, &e));
    /* a second start replaces the first, whoever that belongs to */
    pid_t second;
    OK(cluster_start(data, test_pg_uid, test_pg_gid, &second, &e));
    assert_int_not_equal(pid, second);
    PGconn *c = PQconnectdb(info);
    assert_int_equal(PQstatus(c), CONNECTION_OK);
    PGresult *res = PQexec(c, "select uidnext, highestmodseq >= 4294967296, messages from mailbox");
    assert_string_equal(PQgetvalue(res, 0, 0), "1048579");
    assert_string_equal(PQgetvalue(res, 0, 1), "t");
    assert_string_equal(PQgetvalue(res, 0, 2), "2");
    PQclear(res);
    PQfinish(c);
    OK(cluster_stop(data, true, &e));
    assert_false(cluster_running(data));
    char note[500], socket_dir[200] = "";
    snprintf(note, sizeof note, "%s/postgres.socket", data);
    FILE *f = fopen(note, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%199s", socket_dir), 1);
    fclose(f);
    assert_int_equal(strncmp(socket_dir, "/tmp/moonpost-", 14), 0);
    remove_dir(socket_dir);
    remove_dir(dir);
    data[strlen(data) - strlen(deep) - 1] = '\0';
    remove_dir(data);
}

IN_TASK(test_away)
{
    struct err e = ERR_INIT;
    struct view *v;
    struct view_changes c;
    struct account a;

    (void)arg;
    OK(account_find(STR("user"), &a, arena, &e));
    OK(account_login(STR("user"), STR("secret"), ACCESS_IMAP, STR("10.0.0.1"), &a, arena, &e));
    OK(view_open(user, STR("INBOX"), false, &v, &e));
    OK(cluster_stop(test_pg_dir, false, &e));
    FAILS(view_sync(v, true, arena, &c, &e), ERR_TEMP);
    FAILS(view_open(user, STR("INBOX"), true, &v, &e), ERR_TEMP);
    FAILS(account_find(STR("stranger"), &a, arena, &e), ERR_TEMP);
    assert_false(db_up());
    /* what is cached goes on */
    OK(account_find(STR("user"), &a, arena, &e));
    OK(account_login(STR("user"), STR("secret"), ACCESS_IMAP, STR("10.0.0.1"), &a, arena, &e));
    FAILS(account_login(STR("user"), STR("wrong"), ACCESS_IMAP, STR("10.0.0.1"), &a, arena, &e),
          ERR_TEMP);
    OK(cluster_start(test_pg_dir, test_pg_uid, test_pg_gid, &test_pg_pid, &e));
    int rc = -1;
    for (int i = 0; i < 300 && rc != 0; i++) {
        task_sleep(20, &e);
        rc = view_sync(v, true, arena, &c, &e);
    }
    assert_int_equal(rc, 0);
    assert_true(db_up());
    assert_int_equal(v->count, 2);
    view_close(&v);
}

/* Messages on their way while the server is killed: answered once it is known, and true. */
static unsigned running, stored, failed;

static void deliver_one(void *arg)
{
    struct err e = ERR_INIT;
    struct stage *s = stage_new();
    struct account a;
    struct arena *mem = arena_new(512);
    struct deliver_head h = {.bytes = STR("A: b\r\n\r\n")};

    (void)arg;
    if (account_find(STR("user"), &a, mem, &e) == 0 && stage_add(s, STR("x"), &e) == 0) {
        struct deliver_target t = {.account = user, .mailbox = a.inbox};
        struct deliver_message m = {.stage = s,
                                    .heads = &h,
                                    .head_count = 1,
                                    .targets = &t,
                                    .target_count = 1,
                                    .kind = "smtp"};
        if (deliver_commit(&m, NULL, &e) == 0)
            stored++;
        else
            failed++;
    } else {
        failed++;
    }
    stage_free(&s);
    arena_free(&mem);
    running--;
}

IN_TASK(test_crash)
{
    struct err e = ERR_INIT;
    struct mailbox_info before, after;

    (void)arg;
    OK(mailbox_status(user, STR("INBOX"), arena, &before, &e));
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 300; i++) {
            running++;
            task_spawn(deliver_one, NULL);
        }
        task_sleep(4, &e);
        kill(test_pg_pid, SIGQUIT); /* backends end at once, then recovery */
        OK(cluster_start(test_pg_dir, test_pg_uid, test_pg_gid, &test_pg_pid, &e));
        while (running > 0)
            task_sleep(10, &e);
    }
    int rc = -1;
    for (int i = 0; i < 300 && rc != 0; i++) {
        task_sleep(20, &e);
        rc = mailbox_status(user, STR("INBOX"), arena, &after, &e);
    }
    assert_int_equal(rc, 0);
    print_message("%u stored, %u failed in 3 crashes\n", stored, failed);
    assert_int_equal(after.messages - before.messages, stored);
}

/* Somebody else's PostgreSQL: the role is taken on, and scripts sign in with a password. */
IN_TASK(test_dsn)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    char info[500];

    (void)arg;
    deliver_drain();
    db_close();
    snprintf(info, sizeof info, "host='%s/run' dbname=moonpost user=moonpost", test_pg_dir);
    OK(migrate_run(info, &e));
    db_open(info, "moonpost_engine", 4);
    deliver_open();
    OK(db_exec(arena, &r, &e, "select current_user::text, session_user::text", 0, NULL));
    assert_true(str_eqz(rows_str(r, 0, 0), "moonpost_engine"));
    assert_true(str_eqz(rows_str(r, 0, 1), "moonpost"));
    OK(db_script_exec(arena, &r, &e, STR("select session_user::text"), 0, NULL, false, 10));
    assert_true(str_eqz(rows_text(r, 0, 0, arena), "moonpost_script"));
    stored = failed = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 50; i++) {
            running++;
            task_spawn(deliver_one, NULL);
        }
        task_sleep(1 + (uint64_t)round, &e);
        db_exec(arena, &r, &e,
                "select pg_terminate_backend(pid) from pg_stat_activity where "
                "pid <> pg_backend_pid() and usename = 'moonpost'",
                0, NULL);
        while (running > 0)
            task_sleep(5, &e);
    }
    assert_true(stored > 0);
}

static unsigned heard, heard_id;

static void on_bus(void *ctx, enum bus_kind kind, uint64_t id)
{
    (void)ctx, (void)kind;
    heard++;
    heard_id = (unsigned)id;
}

IN_TASK(test_bus)
{
    struct err e = ERR_INIT;
    int mine[2], other[2];
    struct bus_packet p;

    (void)arg;
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, mine), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, other), 0);
    struct bus_relay members[] = {{mine[1], 0}, {-1, 0}, {other[1], 0}};
    bus_open(mine[0]);
    struct bus_watch *w = bus_watch(BUS_CHANGE, 7, on_bus, NULL);
    bus_publish(BUS_CHANGE, 7);
    bus_publish(BUS_CHANGE, 8);
    task_sleep(10, &e);
    assert_int_equal(heard, 1);
    bus_relay(members, 3, 0);
    assert_int_equal(recv(other[0], &p, sizeof p, 0), sizeof p);
    assert_int_equal(p.id, 7);
    assert_int_equal(p.number, 1);
    assert_int_equal(recv(other[0], &p, sizeof p, 0), sizeof p);
    assert_int_equal(p.number, 2);
    /* from the other */
    p = (struct bus_packet){.id = 7, .kind = BUS_CHANGE};
    assert_int_equal(send(other[0], &p, sizeof p, 0), sizeof p);
    bus_relay(members, 3, 2);
    task_sleep(10, &e);
    assert_int_equal(heard, 2);
    /* a gap: everybody looks again */
    members[0].number += 3;
    p.id = 99;
    assert_int_equal(send(other[0], &p, sizeof p, 0), sizeof p);
    bus_relay(members, 3, 2);
    task_sleep(10, &e);
    assert_int_equal(heard, 3);
    assert_int_equal(heard_id, 7);
    bus_unwatch(&w);
    bus_close();
    close(mine[1]);
    close(other[0]);
    close(other[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fill), cmocka_unit_test(test_backup), cmocka_unit_test(test_bus),
        cmocka_unit_test(test_away), cmocka_unit_test(test_crash),  cmocka_unit_test(test_dsn),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
