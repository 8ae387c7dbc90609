/* Large mailboxes: opening, flags, expunge and move with many messages; prints the figures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/account.h"
#include "store/mailbox_int.h"
#include "support/pg.h"

#include <cmocka.h>

#include "intask.h"

static uint64_t user;

static long memory_kb(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f == NULL || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f != NULL)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void make(const char *name, uint32_t count)
{
    struct err e = ERR_INIT;
    struct mailbox_row m;
    uint64_t id;
    bool waiting;
    struct page_entry *v = calloc(4096, sizeof *v);

    OK(mailbox_create(user, str_of(name), STR_NONE, &e));
    OK(mailbox_lookup(user, str_of(name), &id, &waiting, &e));
    for (uint32_t at = 0; at < count; at += 4096) {
        struct arena *a = arena_new(4096);
        uint32_t n = count - at < 4096 ? count - at : 4096;
        struct tx *tx = tx_begin(&e);
        OK(mailbox_lock(tx, id, a, &m, &e));
        m.highestmodseq++;
        for (uint32_t i = 0; i < n; i++) {
            v[i] = (struct page_entry){.uid = m.uidnext++,
                                       .mod = m.highestmodseq,
                                       .head = 1000 + at + i,
                                       .size = 1000,
                                       .date = 1600000000};
            mailbox_count(&m, 0, 1000, 1);
        }
        OK(pages_append(tx, &m, v, n, &e));
        OK(mailbox_save(tx, &m, &e));
        OK(tx_end(&tx, true, &e));
        arena_free(&a);
    }
    free(v);
}

static double ms_since(uint64_t start)
{
    return (double)(loop_ns() - start) / 1e6;
}

static struct view *open_box(const char *name, uint32_t count)
{
    struct err e = ERR_INIT;
    struct view *v = NULL;
    double best = 1e9;
    long before = memory_kb(), grown = 0;

    for (int i = 0; i < 4; i++) {
        uint64_t start = loop_ns();
        view_close(&v);
        OK(view_open(user, str_of(name), true, &v, &e));
        if (ms_since(start) < best)
            best = ms_since(start);
        if (memory_kb() - before > grown)
            grown = memory_kb() - before;
    }
    assert_int_equal(v->count, count);
    print_message("open %u: %.1f ms, %ld KB more\n", count, best, grown);
    for (uint32_t i = 0; i < count; i += 997)
        assert_int_equal(v->uids[i], i + 1);
    return v;
}

IN_TASK(test_hundred_thousand)
{
    struct err e = ERR_INIT;
    struct view_changes c;
    struct copied r;
    enum { N = 100000 };

    (void)arg;
    OK(account_add(STR("user"), STR("secret"), false, &user, &e));
    make("big", N);
    struct view *v = open_box("big", N);
    struct view *w;
    OK(view_open(user, STR("big"), false, &w, &e));
    uint32_t *all = calloc(N, sizeof *all);
    for (uint32_t i = 0; i < N; i++)
        all[i] = i;
    uint64_t start = loop_ns();
    OK(view_store(v, all, 10000, STORE_ADD, FLAG_SEEN, NULL, 0, 0, arena, NULL, NULL, &e));
    print_message("store on 10,000: %.1f ms\n", ms_since(start));
    start = loop_ns();
    OK(view_store(v, all, N, STORE_ADD, FLAG_FLAGGED, NULL, 0, 0, arena, NULL, NULL, &e));
    print_message("store on 100,000: %.1f ms\n", ms_since(start));
    uint32_t some[100];
    for (uint32_t i = 0; i < 100; i++)
        some[i] = i * 1000 + 7;
    start = loop_ns();
    OK(view_store(v, some, 100, STORE_ADD, FLAG_DELETED, NULL, 0, 0, arena, NULL, NULL, &e));
    print_message("store on every 1,000th: %.1f ms\n", ms_since(start));
    start = loop_ns();
    OK(view_sync(w, true, arena, &c, &e));
    print_message("sync of 100,000 changes: %.1f ms\n", ms_since(start));
    assert_int_equal(c.changed_count, N);
    assert_memory_equal(v->flags, w->flags, sizeof(uint32_t) * N);
    start = loop_ns();
    OK(view_sync(w, true, arena, &c, &e));
    print_message("sync of nothing: %.2f ms\n", ms_since(start));
    start = loop_ns();
    OK(view_expunge(v, NULL, 0, STR("user"), "expunge", &e));
    print_message("expunge 100 spread: %.1f ms\n", ms_since(start));
    start = loop_ns();
    OK(view_sync(w, true, arena, &c, &e));
    print_message("sync of 100 expunges: %.1f ms\n", ms_since(start));
    assert_int_equal(c.expunged_count, 100);
    assert_int_equal(c.expunged[0], 8);
    assert_int_equal(c.expunged[99], 99008 - 99);
    OK(view_sync(v, true, arena, &c, &e));
    OK(mailbox_create(user, STR("other"), STR_NONE, &e));
    start = loop_ns();
    OK(view_copy(v, all + 30000, 10000, STR("other"), true, arena, &r, &e));
    print_message("move of 10,000: %.1f ms\n", ms_since(start));
    assert_int_equal(r.count, 10000);
    start = loop_ns();
    OK(view_expunge(v, v->uids, 5000, STR("user"), "expunge", &e)); /* none is marked */
    OK(mailbox_remove(v->mailbox, v->uids, 20000, STR("user"), "test", &e));
    print_message("remove 20,000: %.1f ms\n", ms_since(start));
    OK(view_sync(v, true, arena, &c, &e));
    assert_int_equal(c.expunged_count, 30000);
    assert_int_equal(v->count, N - 100 - 30000);
    OK(view_sync(w, true, arena, &c, &e));
    assert_int_equal(w->count, v->count);
    assert_memory_equal(v->uids, w->uids, sizeof(uint32_t) * v->count);
    /* refs at random, of those there and of one that is gone */
    struct view_ref *refs = calloc(v->count, sizeof *refs);
    start = loop_ns();
    OK(view_refs(v, all, v->count, refs, &e));
    print_message("refs of %u: %.1f ms\n", v->count, ms_since(start));
    for (uint32_t i = 0; i < v->count; i++)
        assert_int_equal(refs[i].head, 999 + v->uids[i]);
    for (uint32_t i = 0; i < 500; i++) {
        uint32_t at = (i * 7919) % v->count;
        OK(view_refs(v, &at, 1, refs, &e));
        assert_int_equal(refs[0].head, 999 + v->uids[at]);
    }
    struct mailbox_info info;
    OK(mailbox_find(user, STR("big"), arena, &info, &e));
    assert_int_equal(info.messages, v->count);
    free(refs);
    free(all);
    view_close(&v);
    view_close(&w);
}

IN_TASK(test_million)
{
    uint64_t start = loop_ns();

    (void)arg;
    make("huge", 1000000);
    print_message("made in %.0f ms\n", ms_since(start));
    struct view *v = open_box("huge", 1000000);
    struct err e = ERR_INIT;
    uint32_t index[1000];
    struct view_ref refs[1000];
    for (uint32_t i = 0; i < 1000; i++)
        index[i] = i * 1000;
    start = loop_ns();
    OK(view_refs(v, index, 1000, refs, &e));
    print_message("refs of every 1,000th: %.1f ms\n", ms_since(start));
    start = loop_ns();
    OK(view_store(v, index, 1000, STORE_ADD, FLAG_SEEN, NULL, 0, 0, arena, NULL, NULL, &e));
    print_message("store on every 1,000th of a million: %.1f ms\n", ms_since(start));
    view_close(&v);
}

/* Small appends through the tail, then random removals: pages stay packed and right. */
IN_TASK(test_tail)
{
    struct err e = ERR_INIT;
    struct view *v;
    struct view_changes c;
    uint64_t id;
    bool waiting;
    const struct rows *r;

    (void)arg;
    make("small", 0);
    OK(mailbox_lookup(user, STR("small"), &id, &waiting, &e));
    OK(view_open(user, STR("small"), true, &v, &e));
    uint32_t next = 1;
    srand(3);
    for (int round = 0; round < 150; round++) {
        struct mailbox_row m;
        struct page_entry x[200];
        uint32_t n = round % 10 == 9 ? 200 : 1 + (uint32_t)rand() % 9;
        struct tx *tx = tx_begin(&e);
        OK(mailbox_lock(tx, id, arena, &m, &e));
        m.highestmodseq++;
        if (round == 75) /* a hole wider than a page's span */
            m.uidnext = next += 200000;
        for (uint32_t i = 0; i < n; i++) {
            x[i] = (struct page_entry){.uid = m.uidnext++, .mod = m.highestmodseq, .head = 1};
            mailbox_count(&m, 0, 0, 1);
        }
        next = m.uidnext;
        OK(pages_append(tx, &m, x, n, &e));
        OK(mailbox_save(tx, &m, &e));
        OK(tx_end(&tx, true, &e));
        OK(view_sync(v, true, arena, &c, &e));
        assert_int_equal(c.added, n);
        if (round % 3 == 2) {
            uint32_t gone[20], count = 0;
            for (uint32_t i = 0; i < 20 && v->count > 20; i++)
                gone[count++] = v->uids[((uint32_t)rand() % (v->count / 20)) + i * (v->count / 20)];
            OK(mailbox_remove(id, gone, count, STR("user"), "test", &e));
            OK(view_sync(v, true, arena, &c, &e));
            assert_int_equal(c.expunged_count, count);
        }
    }
    struct view *w;
    OK(view_open(user, STR("small"), true, &w, &e));
    assert_int_equal(v->count, w->count);
    assert_memory_equal(v->uids, w->uids, sizeof(uint32_t) * v->count);
    assert_memory_equal(v->mods, w->mods, sizeof(uint64_t) * v->count);
    OK(db_exec(arena, &r, &e, "select count(*), sum(n) from mailbox_page where mailbox = $1",
               DB_ARGS(db_int((int64_t)id))));
    print_message("%u messages in %lld pages\n", v->count, (long long)rows_int(r, 0, 0));
    assert_true(rows_int(r, 0, 0) < v->count / 40);
    view_close(&v);
    view_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hundred_thousand),
        cmocka_unit_test(test_tail),
        cmocka_unit_test(test_million),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
