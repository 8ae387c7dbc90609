/* The group commit: many tasks at once, small and large bodies byte for byte, backends killed in
 * the middle, the sequencer, maintenance. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/account.h"
#include "store/mailbox.h"
#include "store/maintain.h"
#include "support/pg.h"

#include <cmocka.h>

#include "intask.h"

enum { USERS = 4 };

static uint64_t users[USERS], boxes[USERS];
static unsigned running, stored, failed;

struct job {
    unsigned n, user, targets;
    size_t size;
};

/* The body of message n: different at every offset, so that a swapped part shows. */
static void fill(char *out, size_t size, unsigned n)
{
    uint32_t x = n * 2654435761u + 1;
    for (size_t i = 0; i < size; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (char)(x >> 24);
    }
}

static int deliver(unsigned n, unsigned user, unsigned targets, size_t size, uint64_t *id,
                   struct err *e)
{
    char head[100];
    char *body = malloc(size + 1);
    struct stage *s = stage_new();
    struct deliver_target t[USERS] = {{0}};
    struct str words[] = {STR("$Junk"), STR("second")};

    snprintf(head, sizeof head, "Message: %u\r\nSize: %zu\r\n\r\n", n, size);
    fill(body, size, n);
    int rc = 0;
    /* in uneven pieces */
    for (size_t at = 0; rc == 0 && at < size;) {
        size_t piece = 1 + (at * 7 + n) % 70000;
        if (piece > size - at)
            piece = size - at;
        rc = stage_add(s, str_make(body + at, piece), e);
        at += piece;
    }
    free(body);
    struct deliver_head h = {.bytes = str_of(head),
                             .received = n % 5 ? STR_NONE : STR("A: b\r\n\r\n")};
    for (unsigned i = 0; i < targets; i++)
        t[i] = (struct deliver_target){.account = users[(user + i) % USERS],
                                       .mailbox = boxes[(user + i) % USERS],
                                       .keywords = words,
                                       .keyword_count = n % 3};
    struct deliver_remote r = {.recipient = STR("x@Far.net")};
    struct deliver_message m = {.stage = s,
                                .sender = STR("a@b.org"),
                                .heads = &h,
                                .head_count = 1,
                                .targets = t,
                                .target_count = targets,
                                .remotes = &r,
                                .remote_count = n % 7 == 0,
                                .trace = str_of(head),
                                .ledger_steps = n % 2 ? STR("[1,2") : STR("{\"a\":1}"),
                                .kind = "smtp"};
    if (rc == 0)
        rc = deliver_commit(&m, id, e);
    stage_free(&s);
    return rc;
}

static void deliver_task(void *arg)
{
    struct job *j = arg;
    struct err e = ERR_INIT;

    if (deliver(j->n, j->user, j->targets, j->size, NULL, &e) == 0)
        stored++;
    else
        failed++;
    free(j);
    running--;
}

static void spawn(unsigned n, unsigned user, unsigned targets, size_t size)
{
    struct job *j = malloc(sizeof *j);
    *j = (struct job){n, user, targets, size};
    running++;
    task_spawn(deliver_task, j);
}

static void wait_all(void)
{
    struct err e = ERR_INIT;
    while (running > 0)
        task_sleep(5, &e);
}

/* Every message of a mailbox: head and body byte for byte; marks which numbers were seen. */
static uint32_t check_box(unsigned user, unsigned char *seen, unsigned most)
{
    struct err e = ERR_INIT;
    struct view *v;

    OK(view_open(users[user], STR("INBOX"), true, &v, &e));
    for (uint32_t i = 0; i < v->count; i++) {
        struct arena *a = arena_new(65536);
        struct view_ref ref;
        struct str text;
        unsigned n;
        size_t size;
        OK(view_refs(v, &i, 1, &ref, &e));
        OK(message_read(ref.head, 0, MESSAGE_MAX, a, &text, &e));
        assert_int_equal(text.n, ref.size);
        assert_int_equal(sscanf(text.p, "Message: %u\r\nSize: %zu", &n, &size), 2);
        assert_true(n < most);
        seen[n]++;
        char *want = arena_alloc(a, size + 1);
        fill(want, size, n);
        assert_memory_equal(text.p + text.n - size, want, size);
        if (size > 300000) {
            struct str part;
            size_t at = text.n - size + BODY_PART - 10;
            OK(message_read(ref.head, at, 20, a, &part, &e));
            assert_memory_equal(part.p, text.p + at, 20);
        }
        arena_free(&a);
    }
    uint32_t count = v->count;
    view_close(&v);
    return count;
}

IN_TASK(test_many)
{
    struct err e = ERR_INIT;
    unsigned char seen[4][1000];
    uint64_t messages, batches, largest;
    struct account acc;

    (void)arg;
    for (unsigned i = 0; i < USERS; i++) {
        struct str name = arena_printf(arena, "user%u", i);
        OK(account_add(name, STR("secret"), false, &users[i], &e));
        OK(account_find(name, &acc, arena, &e));
        boxes[i] = acc.inbox;
    }
    uint64_t start = loop_ns();
    for (unsigned n = 0; n < 1000; n++)
        spawn(n, n % USERS, 1 + n % 3, n % 100 == 7 ? 300000 + n * 1000 : 100 + n * 8);
    wait_all();
    uint64_t ms = (loop_ns() - start) / 1000000;
    assert_int_equal(failed, 0);
    assert_int_equal(stored, 1000);
    deliver_stats(&messages, &batches, &largest);
    print_message("1000 messages in %llu ms: %llu batches, largest %llu\n", (unsigned long long)ms,
                  (unsigned long long)batches, (unsigned long long)largest);
    assert_int_equal(messages, 1000);
    assert_true(largest > 16 && largest <= BATCH_MESSAGES);
    memset(seen, 0, sizeof seen);
    uint32_t all = 0;
    for (unsigned i = 0; i < USERS; i++)
        all += check_box(i, seen[i], 1000);
    assert_int_equal(all, 334 + 333 * 2 + 333 * 3);
    for (unsigned n = 0; n < 1000; n++)
        for (unsigned i = 0; i < USERS; i++)
            assert_int_equal(seen[i][n], (i + USERS - n % USERS) % USERS < 1 + n % 3);

    const struct rows *r;
    OK(db_exec(arena, &r, &e,
               "select (select count(*) from queue), (select count(*) from destination), "
               "(select count(*) from ledger), (select count(*) from ledger "
               "where tableoid::regclass::text = 'ledger_default'), "
               "(select count(*) from head where original is not null), "
               "(select count(*) from stage), (select count(distinct destination) from "
               "destination_wake)",
               0, NULL));
    assert_int_equal(rows_int(r, 0, 0), 143);
    assert_int_equal(rows_int(r, 0, 1), 1);
    assert_int_equal(rows_int(r, 0, 2), 1000);
    assert_int_equal(rows_int(r, 0, 3), 0);
    assert_int_equal(rows_int(r, 0, 4), 200);
    assert_int_equal(rows_int(r, 0, 5), 0);
    assert_int_equal(rows_int(r, 0, 6), 1);
    struct mailbox_info info;
    OK(mailbox_status(users[0], STR("INBOX"), arena, &info, &e));
    assert_int_equal(info.messages, info.unseen);
    struct view *v;
    OK(view_open(users[0], STR("INBOX"), true, &v, &e));
    assert_int_equal(v->keyword_count, 2);
    for (uint32_t i = 1; i < v->count; i++)
        assert_true(v->uids[i] > v->uids[i - 1]);
    view_close(&v);
}

IN_TASK(test_small_batches)
{
    struct err e = ERR_INIT;
    struct stage *s = stage_new();
    struct deliver_message m = {.stage = s, .kind = "smtp"};
    uint64_t id;

    (void)arg;
    OK(deliver(0, 0, 1, 0, &id, &e)); /* empty body */
    FAILS(deliver_commit(&m, &id, &e), ERR_INTERNAL);
    stage_free(&s);
    uint64_t start = loop_ns();
    for (unsigned i = 0; i < 100; i++)
        OK(deliver(1, 0, 1, 2000, &id, &e));
    print_message("one by one: %llu us a message\n",
                  (unsigned long long)((loop_ns() - start) / 100000));
    /* what was staged and never named is dropped */
    s = stage_new();
    char *big = calloc(1, 600000);
    OK(stage_add(s, str_make(big, 600000), &e));
    assert_int_equal(stage_size(s), 600000);
    free(big);
    stage_free(&s);
    const struct rows *r;
    for (int i = 0; i < 100; i++) {
        task_sleep(10, &e);
        OK(db_exec(arena, &r, &e, "select count(*) from stage", 0, NULL));
        if (rows_int(r, 0, 0) == 0)
            break;
    }
    assert_int_equal(rows_int(r, 0, 0), 0);
    OK(db_exec(arena, &r, &e,
               "select count(*) from body_part p where not exists (select from body b "
               "where b.id = p.body)",
               0, NULL));
    assert_int_equal(rows_int(r, 0, 0), 0);
}

static bool killing;
static unsigned kills;

static void killer(void *arg)
{
    struct err e = ERR_INIT;
    struct arena *a = arena_new(1024);
    const struct rows *r;

    (void)arg;
    while (killing) {
        arena_reset(a);
        /* whoever is writing a batch just now */
        if (db_exec(a, &r, &e,
                    "select pg_terminate_backend(pid) from pg_stat_activity where "
                    "usename = 'moonpost_engine' and pid <> pg_backend_pid() and "
                    "(query like 'insert into body%' or query like 'insert into ledger%' or "
                    "query like 'insert into arrival%' or query like 'insert into head%')",
                    0, NULL) == 0)
            kills += rows_count(r);
        task_sleep(7, &e);
    }
    arena_free(&a);
    running--;
}

/* Every success exactly once, every failure not at all. */
IN_TASK(test_killed)
{
    struct err e = ERR_INIT;
    unsigned char *seen = calloc(1, 100000);
    unsigned next = 2000;

    (void)arg;
    for (unsigned i = 0; i < USERS; i++) {
        struct view *v;
        OK(view_open(users[i], STR("INBOX"), false, &v, &e));
        if (v->count > 0)
            OK(mailbox_remove(boxes[i], v->uids, v->count, STR("test"), "test", &e));
        view_close(&v);
    }
    stored = failed = 0;
    killing = true;
    running++;
    task_spawn(killer, NULL);
    uint64_t until = loop_ns() + 4000000000u;
    while (loop_ns() < until) {
        if (running < 60)
            for (int i = 0; i < 20; i++) {
                spawn(next, next % USERS, 1, 500 + next % 3000);
                next++;
            }
        task_sleep(2, &e);
    }
    killing = false;
    wait_all();
    print_message("%u kills: %u stored, %u failed\n", kills, stored, failed);
    assert_true(kills > 10);
    assert_true(stored > 100);
    uint32_t all = 0;
    for (unsigned i = 0; i < USERS; i++)
        all += check_box(i, seen, 100000);
    assert_int_equal(all, stored);
    for (unsigned n = 0; n < next; n++)
        assert_true(seen[n] <= 1);
    free(seen);
}

/* One message that the database refuses must not take others with it. */
IN_TASK(test_bad_one)
{
    struct err e = ERR_INIT;
    const struct rows *r;

    (void)arg;
    OK(db_exec(arena, &r, &e, "select count(*) from arrival", 0, NULL));
    stored = failed = 0;
    for (unsigned n = 0; n < 30; n++)
        spawn(n, 0, 1, n == 11 ? 700000 : 700);
    /* the large one loses a part before its commit */
    struct stage *s = stage_new();
    char *big = calloc(1, 600000);
    OK(stage_add(s, str_make(big, 600000), &e));
    free(big);
    OK(db_exec(NULL, NULL, &e,
               "delete from body_part where body = (select max(body) from stage) and n = 0", 0,
               NULL));
    struct deliver_head h = {.bytes = STR("X: y\r\n\r\n")};
    struct deliver_target t = {.account = users[0], .mailbox = boxes[0]};
    struct deliver_message m = {
        .stage = s, .heads = &h, .head_count = 1, .targets = &t, .target_count = 1, .kind = "smtp"};
    int rc = deliver_commit(&m, NULL, &e);
    stage_free(&s);
    wait_all();
    /* either this one or n == 11 lost its part */
    assert_int_equal(stored + (rc == 0), 30);
    assert_int_equal(failed + (rc != 0), 1);
}

IN_TASK(test_orphans_and_maintenance)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    struct mailbox_info m;

    (void)arg;
    /* arrivals of a mailbox that was deleted meanwhile go to INBOX */
    OK(mailbox_create(users[1], STR("short lived"), STR_NONE, &e));
    OK(mailbox_find(users[1], STR("short lived"), arena, &m, &e));
    uint64_t keep = boxes[1];
    boxes[1] = m.id;
    OK(deliver(5, 1, 1, 100, NULL, &e));
    OK(mailbox_delete(users[1], STR("short lived"), &e));
    OK(deliver(6, 1, 1, 100, NULL, &e));
    boxes[1] = keep;
    OK(mailbox_status(users[1], STR("INBOX"), arena, &m, &e));
    uint32_t before = m.messages;
    /* those of an account that was removed are held */
    OK(account_remove(users[3], &e));
    OK(deliver(7, 3, 1, 100, NULL, &e));
    OK(store_maintain(&e));
    OK(mailbox_status(users[1], STR("INBOX"), arena, &m, &e));
    assert_int_equal(m.messages, before + 1);
    OK(db_exec(arena, &r, &e, "select count(*) from held_message", 0, NULL));
    assert_int_equal(rows_int(r, 0, 0), 1);
    OK(db_exec(arena, &r, &e, "select count(*) from effect", 0, NULL));
    assert_int_equal(rows_int(r, 0, 0), 0);

    /* a message whose last place goes: counted to nothing, freed a day later */
    OK(setting_set(STR("storage.undelete_days"), STR("0"), STR("test"), &e));
    OK(setting_load(&e));
    struct view *v;
    OK(view_open(users[2], STR("INBOX"), false, &v, &e));
    assert_true(v->count > 10);
    OK(mailbox_remove(boxes[2], v->uids, v->count, STR("test"), "test", &e));
    view_close(&v);
    OK(store_maintain(&e));
    OK(db_exec(arena, &r, &e, "select count(*) from body_free", 0, NULL));
    int64_t freed = rows_int(r, 0, 0);
    assert_true(freed > 0);
    OK(db_exec(arena, &r, &e, "select count(*) from body", 0, NULL));
    int64_t bodies = rows_int(r, 0, 0);
    OK(store_maintain(&e)); /* not yet */
    OK(db_exec(NULL, NULL, &e, "update body_free set since = since - interval '2 days'", 0, NULL));
    OK(store_maintain(&e));
    OK(db_exec(arena, &r, &e,
               "select (select count(*) from body), (select count(*) from body_free), "
               "(select count(*) from head h where not exists (select from body b "
               "where b.id = h.body)), (select count(*) from body_part p where not exists "
               "(select from body b where b.id = p.body) and not exists (select from stage s "
               "where s.body = p.body))",
               0, NULL));
    assert_int_equal(rows_int(r, 0, 0), bodies - freed);
    assert_int_equal(rows_int(r, 0, 1), 0);
    assert_int_equal(rows_int(r, 0, 2), 0);
    assert_int_equal(rows_int(r, 0, 3), 0);
    /* what is left is exact */
    OK(db_exec(
        arena, &r, &e,
        "select b.id from body b left join body_delta d on d.body = b.id left join ("
        "select h.body, count(*) n from (select head from mailbox_entry union all "
        "select head from deleted_message union all select head from held_message "
        "union all select head from queue) x join head h on h.id = x.head group by h.body) p "
        "on p.body = b.id where b.refs + coalesce(d.delta, 0) <> coalesce(p.n, 0)",
        0, NULL));
    assert_int_equal(rows_count(r), 0);
    /* the recycle bin after its days */
    OK(db_exec(NULL, NULL, &e,
               "update deleted_message set deleted_at = now() - interval '100 days'", 0, NULL));
    OK(store_maintain(&e));
    OK(db_exec(arena, &r, &e, "select count(*) from deleted_message", 0, NULL));
    assert_int_equal(rows_int(r, 0, 0), 0);
    OK(setting_set(STR("storage.undelete_days"), STR("14"), STR("test"), &e));
    OK(setting_load(&e));
}

IN_TASK(test_ledger_sessions)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    int64_t n = 0;

    (void)arg;
    for (int i = 0; i < 300; i++)
        ledger_session(STR("t"), STR("10.0.0.1"), STR("{\"helo\": \"x\"}"), STR("bad json \xff"));
    for (int i = 0; i < 200 && n < 300; i++) {
        task_sleep(20, &e);
        OK(db_exec(arena, &r, &e, "select count(*) from ledger where kind = 'session'", 0, NULL));
        n = rows_int(r, 0, 0);
    }
    assert_int_equal(n, 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_small_batches),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_bad_one),
        cmocka_unit_test(test_orphans_and_maintenance),
        cmocka_unit_test(test_ledger_sessions),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
