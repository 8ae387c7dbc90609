/* Mailboxes: names, append, flags, views of two sessions, copy and move, leases, SQL view of pages.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "store/account.h"
#include "store/mailbox.h"
#include "store/page.h"
#include "support/pg.h"

#include <cmocka.h>

#include "intask.h"

static uint64_t user, inbox;

static uint32_t append(const char *box, const char *text, uint32_t flags)
{
    struct err e = ERR_INIT;
    struct stage *s = stage_new();
    uint32_t validity, uid = 0;

    OK(stage_add(s, str_of(text), &e));
    OK(mailbox_append(user, str_of(box), s, STR("Subject: x\r\n\r\n"), flags, NULL, 0,
                      1600000000000, &validity, &uid, &e));
    stage_free(&s);
    return uid;
}

/* Every counter of the row against the pages. */
static void check_counts(void)
{
    struct err e = ERR_INIT;
    const struct rows *r;

    OK(db_exec(arena, &r, &e,
               "select m.name from mailbox m left join (select mailbox, count(*) n, "
               "count(*) filter (where flags & 1 = 0) u, sum(size) s, max(modseq) x, max(uid) y "
               "from mailbox_entry where uid is not null group by mailbox) p on p.mailbox = m.id "
               "where m.messages <> coalesce(p.n, 0) or m.unseen <> coalesce(p.u, 0) or "
               "m.bytes <> coalesce(p.s, 0) or m.uidnext <= coalesce(p.y, 0) or "
               "m.highestmodseq < coalesce(p.x, 0)",
               0, NULL));
    if (rows_count(r) > 0)
        fail_msg("counters of %.*s are wrong", STR_ARG(rows_str(r, 0, 0)));
    OK(db_exec(
        arena, &r, &e,
        "select min_uid from mailbox_page p, lateral (select min(uid) lo, max(uid) hi, "
        "max(modseq) x, count(distinct uid) n from (select p.min_uid + be_int(p.uids, i * 2, 2) "
        "uid, be_int(p.mods, i * 8, 8) modseq from generate_series(0, p.n - 1) i) q) q "
        "where q.n <> p.n or q.hi <> p.max_uid or q.x > p.max_modseq or q.lo < p.min_uid or "
        "p.n = 0 or length(p.refs) <> p.n * 16",
        0, NULL));
    assert_int_equal(rows_count(r), 0);
}

static struct mailbox_info find(const char *name)
{
    struct err e = ERR_INIT;
    struct mailbox_info m;
    OK(mailbox_find(user, str_of(name), arena, &m, &e));
    return m;
}

IN_TASK(test_names)
{
    struct err e = ERR_INIT;
    struct mailbox_info *v, m;
    uint32_t n;

    (void)arg;
    OK(account_add(STR("user"), STR("secret"), false, &user, &e));
    inbox = find("inbox").id;
    OK(mailbox_create(user, STR("a/b/c"), STR_NONE, &e));
    OK(mailbox_create(user, STR("Sent"), STR("\\Sent"), &e));
    FAILS(mailbox_create(user, STR("a/b"), STR_NONE, &e), ERR_EXISTS);
    FAILS(mailbox_create(user, STR("iNbOx"), STR_NONE, &e), ERR_EXISTS);
    FAILS(mailbox_create(user, STR("/x"), STR_NONE, &e), ERR_SYNTAX);
    FAILS(mailbox_create(user, STR("x//y"), STR_NONE, &e), ERR_SYNTAX);
    FAILS(mailbox_create(user, STR("x\ny"), STR_NONE, &e), ERR_SYNTAX);
    OK(mailbox_subscribe(user, STR("ghost"), true, &e));
    OK(mailbox_subscribe(user, STR("Sent"), true, &e));
    OK(mailbox_list(user, arena, &v, &n, &e));
    assert_int_equal(n, 6); /* INBOX Sent a a/b a/b/c ghost */
    assert_true(str_eqz(v[0].name, "INBOX"));
    assert_true(str_eqz(v[1].special_use, "\\Sent") && v[1].subscribed);
    assert_true(v[2].has_children && v[3].has_children && !v[4].has_children);
    assert_true(v[5].id == 0 && !v[5].selectable && v[5].subscribed);
    OK(mailbox_subscribe(user, STR("ghost"), false, &e));

    uint32_t validity = find("a/b").uidvalidity;
    OK(mailbox_delete(user, STR("a/b"), &e)); /* with a child: \Noselect */
    m = find("a/b");
    assert_false(m.selectable);
    FAILS(mailbox_delete(user, STR("a/b"), &e), ERR_PERM);
    struct view *view;
    FAILS(view_open(user, STR("a/b"), true, &view, &e), ERR_NOTFOUND);
    OK(mailbox_create(user, STR("a/b"), STR_NONE, &e));
    assert_true(find("a/b").uidvalidity > validity);
    OK(mailbox_rename(user, STR("a"), STR("new/place"), &e));
    find("new/place/b/c");
    find("new");
    FAILS(mailbox_find(user, STR("a/b"), arena, &m, &e), ERR_NOTFOUND);
    FAILS(mailbox_rename(user, STR("new"), STR("new/x"), &e), ERR_PERM);
    FAILS(mailbox_rename(user, STR("nothing"), STR("y"), &e), ERR_NOTFOUND);
    FAILS(mailbox_rename(user, STR("new"), STR("Sent"), &e), ERR_EXISTS);
    validity = find("Sent").uidvalidity;
    OK(mailbox_delete(user, STR("Sent"), &e));
    OK(mailbox_create(user, STR("Sent"), STR_NONE, &e));
    assert_true(find("Sent").uidvalidity > validity);
    FAILS(mailbox_delete(user, STR("INBOX"), &e), ERR_PERM);
}

IN_TASK(test_two_views)
{
    struct err e = ERR_INIT;
    struct view *a, *b;
    struct view_changes c;
    uint32_t *modified, count;

    (void)arg;
    for (uint32_t i = 1; i <= 10; i++)
        assert_int_equal(append("INBOX", "body\r\n", i == 1 ? FLAG_SEEN : 0), i);
    OK(view_open(user, STR("inbox"), false, &a, &e));
    assert_int_equal(a->count, 10);
    assert_int_equal(a->recent_from, 1);
    struct err ignored = ERR_INIT;
    task_sleep(30, &ignored);
    OK(view_open(user, STR("INBOX"), true, &b, &e));
    assert_int_equal(b->recent_from, 11);

    uint32_t some[] = {2, 4, 6};
    struct str words[] = {STR("$Work"), STR("todo")};
    OK(view_store(a, some, 3, STORE_ADD, FLAG_DELETED, words, 2, 0, arena, &modified, &count, &e));
    assert_int_equal(count, 0);
    assert_int_equal(a->keyword_count, 2);
    assert_int_equal(a->flags[2], FLAG_DELETED | FLAG_KEYWORD0 | FLAG_KEYWORD0 << 1);
    OK(view_sync(a, true, arena, &c, &e));
    assert_int_equal(c.changed_count + c.added + c.expunged_count, 0);
    uint64_t before = b->highestmodseq;
    OK(view_sync(b, false, arena, &c, &e));
    assert_int_equal(c.changed_count, 3);
    assert_int_equal(c.changed[1], 4);
    assert_true(c.keywords_changed);
    assert_true(b->highestmodseq > before && b->highestmodseq == a->highestmodseq);
    assert_string_equal(b->keywords[1], "todo");

    /* UNCHANGEDSINCE leaves alone what changed later */
    uint32_t pair[] = {1, 2};
    OK(view_store(b, pair, 2, STORE_ADD, FLAG_FLAGGED, NULL, 0, before, arena, &modified, &count,
                  &e));
    assert_int_equal(count, 1);
    assert_int_equal(modified[0], 2);
    assert_int_equal(b->flags[1], FLAG_FLAGGED);
    uint32_t first = 0;
    OK(view_store(b, &first, 1, STORE_SET, FLAG_ANSWERED, NULL, 0, 0, arena, NULL, NULL, &e));
    assert_int_equal(b->flags[0], FLAG_ANSWERED);
    check_counts();

    /* expunge: one view goes on, the other keeps the messages until it may say so */
    uint32_t only[] = {3};
    OK(view_expunge(a, only, 1, STR("user"), "expunge", &e));
    OK(view_expunge(a, NULL, 0, STR("user"), "expunge", &e));
    append("INBOX", "new\r\n", 0);
    OK(view_sync(b, false, arena, &c, &e));
    assert_int_equal(c.expunged_count, 0);
    assert_int_equal(c.added, 1);
    assert_int_equal(b->count, 11);
    struct view_ref refs[11];
    uint32_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    OK(view_refs(b, all, 11, refs, &e));
    assert_false(refs[2].gone); /* out of the recycle bin */
    assert_int_equal(refs[10].size, 14 + 5);
    assert_int_equal(refs[0].at, 1600000000000);
    OK(view_sync(b, true, arena, &c, &e));
    assert_int_equal(c.expunged_count, 3);
    assert_int_equal(c.expunged[0], 3);
    assert_int_equal(c.expunged[1], 4);
    assert_int_equal(c.expunged[2], 5);
    assert_int_equal(b->count, 8);
    assert_int_equal(b->uids[2], 4);
    OK(view_sync(a, true, arena, &c, &e));
    assert_int_equal(c.expunged_count, 3);
    assert_int_equal(c.added, 1);
    assert_int_equal(c.changed_count, 2);
    assert_int_equal(a->flags[1], FLAG_FLAGGED);
    assert_memory_equal(a->uids, b->uids, sizeof(uint32_t) * 8);
    assert_memory_equal(a->flags, b->flags, sizeof(uint32_t) * 8);

    uint32_t gone[] = {1, 2, 999};
    OK(mailbox_remove(inbox, gone, 3, STR("user"), "pop3 dele", &e));
    OK(view_sync(a, true, arena, &c, &e));
    assert_int_equal(a->count, 6);
    check_counts();

    struct str out;
    OK(view_refs(a, all, 6, refs, &e));
    OK(message_read(refs[5].head, 0, 1000, arena, &out, &e));
    assert_true(str_eqz(out, "Subject: x\r\n\r\nnew\r\n"));
    OK(message_read(refs[5].head, 9, 8, arena, &out, &e));
    assert_true(str_eqz(out, "x\r\n\r\nnew"));
    OK(message_read(refs[5].head, 16, 100, arena, &out, &e));
    assert_true(str_eqz(out, "w\r\n"));
    OK(message_read(refs[5].head, 100, 100, arena, &out, &e));
    assert_int_equal(out.n, 0);
    FAILS(message_read(1, 0, 100, arena, &out, &e), ERR_NOTFOUND);
    uint64_t heads[] = {refs[5].head, 1, refs[0].head};
    struct str many[3];
    OK(message_heads(heads, 3, arena, many, &e));
    assert_true(str_eqz(many[0], "Subject: x\r\n\r\n") && many[1].n == 0);
    OK(messages_read(heads, 3, 19, arena, many, &e));
    assert_true(str_eqz(many[0], "Subject: x\r\n\r\nnew\r\n"));
    assert_null(many[2].p);
    struct message_info info;
    OK(message_info(heads[0], arena, &info, &e));
    assert_int_equal(info.head_size, 14);
    assert_int_equal(info.body_size, 5);
    view_close(&a);
    view_close(&b);
}

IN_TASK(test_keyword_limit)
{
    struct err e = ERR_INIT;
    struct view *v;
    uint32_t first = 0;

    (void)arg;
    OK(view_open(user, STR("INBOX"), false, &v, &e));
    for (uint32_t i = v->keyword_count; i < KEYWORDS_MAX; i++) {
        struct str word = arena_printf(arena, "key%u", i);
        OK(view_store(v, &first, 1, STORE_ADD, 0, &word, 1, 0, arena, NULL, NULL, &e));
    }
    assert_int_equal(v->keyword_count, KEYWORDS_MAX);
    struct str extra[] = {STR("KEY5"), STR("onemore")};
    uint32_t flags = v->flags[0];
    OK(view_store(v, &first, 1, STORE_REMOVE, 0, extra, 1, 0, arena, NULL, NULL, &e));
    assert_int_equal(v->flags[0], flags & ~((uint32_t)FLAG_KEYWORD0 << 5));
    FAILS(view_store(v, &first, 1, STORE_ADD, FLAG_FLAGGED, extra, 2, 0, arena, NULL, NULL, &e),
          ERR_LIMIT);
    assert_int_equal(v->flags[0], flags & ~((uint32_t)FLAG_KEYWORD0 << 5)); /* nothing was stored */
    /* removing a word nobody knows is nothing */
    OK(view_store(v, &first, 1, STORE_REMOVE, 0, extra + 1, 1, 0, arena, NULL, NULL, &e));
    view_close(&v);
}

IN_TASK(test_copy_move)
{
    struct err e = ERR_INIT;
    struct view *v, *w;
    struct view_changes c;
    struct copied r;

    (void)arg;
    OK(mailbox_create(user, STR("target"), STR_NONE, &e));
    OK(view_open(user, STR("INBOX"), false, &v, &e));
    assert_int_equal(v->count, 6);
    uint32_t all[] = {5, 0, 1, 2, 3, 4};
    OK(view_copy(v, all, 6, STR("target"), false, arena, &r, &e));
    assert_int_equal(r.count, 6);
    assert_int_equal(r.from[0], v->uids[0]);
    assert_int_equal(r.to[5], 6);
    assert_int_equal(r.uidvalidity, find("target").uidvalidity);
    OK(view_copy(v, all, 2, STR("target"), true, arena, &r, &e));
    assert_int_equal(r.count, 2);
    assert_int_equal(r.to[1], 8);
    FAILS(view_copy(v, all, 2, STR("nowhere"), true, arena, &r, &e), ERR_NOTFOUND);
    /* those moved are gone here, and are left out */
    OK(view_copy(v, all, 6, STR("target"), false, arena, &r, &e));
    assert_int_equal(r.count, 4);
    OK(view_sync(v, true, arena, &c, &e));
    assert_int_equal(c.expunged_count, 2);
    assert_int_equal(v->count, 4);
    /* onto itself */
    OK(view_copy(v, all + 1, 2, STR("INBOX"), true, arena, &r, &e));
    assert_int_equal(r.count, 2);
    OK(view_sync(v, true, arena, &c, &e));
    assert_int_equal(v->count, 4);
    assert_int_equal(c.expunged_count, 2);
    assert_int_equal(c.added, 2);
    OK(view_open(user, STR("target"), true, &w, &e));
    assert_int_equal(w->count, 12);
    check_counts();
    /* references: body counts plus effects are the places that name each body */
    const struct rows *rows;
    OK(db_exec(
        arena, &rows, &e,
        "select b.id from body b left join (select key, sum(delta) d from effect "
        "where kind = 1 group by key) f on f.key = b.id left join (select h.body, count(*) n "
        "from (select head from mailbox_entry union all select head from deleted_message) x "
        "join head h on h.id = x.head group by h.body) p on p.body = b.id "
        "where b.refs + coalesce(f.d, 0) <> coalesce(p.n, 0)",
        0, NULL));
    assert_int_equal(rows_count(rows), 0);
    view_close(&v);
    view_close(&w);
}

IN_TASK(test_rename_inbox)
{
    struct err e = ERR_INIT;
    struct mailbox_info m;

    (void)arg;
    uint32_t messages = find("INBOX").messages;
    OK(mailbox_rename(user, STR("INBOX"), STR("old mail"), &e));
    assert_int_equal(find("INBOX").messages, 0);
    assert_int_equal(find("old mail").messages, messages);
    check_counts();
    OK(mailbox_status(user, STR("old mail"), arena, &m, &e));
    assert_int_equal(m.messages, messages);
    append("INBOX", "x", 0);
    OK(mailbox_status(user, STR("INBOX"), arena, &m, &e));
    assert_int_equal(m.recent, 1);
    assert_int_equal(m.unseen, 1);
}

IN_TASK(test_lease)
{
    struct err e = ERR_INIT;
    uint64_t one, two;

    (void)arg;
    OK(pop3_lease_take(user, &one, &e));
    FAILS(pop3_lease_take(user, &two, &e), ERR_DENIED);
    OK(pop3_lease_renew(user, one, &e));
    FAILS(pop3_lease_renew(user, one + 1, &e), ERR_DENIED);
    pop3_lease_drop(user, one);
    OK(pop3_lease_take(user, &two, &e));
    OK(db_exec(NULL, NULL, &e, "update pop3_lease set until = now() - interval '1 s'", 0, NULL));
    OK(pop3_lease_take(user, &one, &e));
    FAILS(pop3_lease_renew(user, two, &e), ERR_DENIED);
    pop3_lease_drop(user, one);
}

/* Random pages through C and through the SQL view. */
IN_TASK(test_page_view)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    struct page_bytes *b = arena_alloc(arena, sizeof *b);
    struct page *p = arena_alloc(arena, sizeof *p), *q = arena_alloc(arena, sizeof *q);

    (void)arg;
    srand(7);
    for (int round = 0; round < 30; round++) {
        uint32_t n = 1 + (uint32_t)rand() % PAGE_ENTRIES;
        uint32_t base = (uint32_t)rand() % 2 ? (uint32_t)rand() : UINT32_MAX - PAGE_SPAN;
        uint32_t uid = base;
        for (uint32_t i = 0; i < n; i++) {
            p->v[i] = (struct page_entry){
                .uid = uid,
                .flags = (uint32_t)rand() << 1,
                .mod = (uint64_t)rand() << 31,
                .head = ((uint64_t)rand() << 32 | (uint32_t)rand()) >> 1,
                .size = (uint32_t)rand() * 2,
                .date = (uint32_t)rand() * 2,
            };
            uid += 1 + (uint32_t)rand() % 255;
        }
        page_pack(base, p->v, n, b);
        assert_true(page_unpack(q, base, n, str_make(b->uids, n * 2), str_make(b->flags, n * 4),
                                str_make(b->mods, n * 8), str_make(b->refs, n * 16)));
        for (uint32_t i = 0; i < n; i++)
            assert_memory_equal(&p->v[i], &q->v[i], sizeof p->v[i]);
        struct tx *tx = tx_begin(&e);
        OK(tx_exec(tx, arena, NULL, &e,
                   "insert into mailbox_page (account, mailbox, min_uid, max_uid, max_modseq, n, "
                   "uids, flags, mods, refs) values (1, 1, $1, $2, 1, $3, $4, $5, $6, $7)",
                   DB_ARGS(db_int(base), db_int(p->v[n - 1].uid), db_int(n),
                           db_bytes(str_make(b->uids, n * 2)), db_bytes(str_make(b->flags, n * 4)),
                           db_bytes(str_make(b->mods, n * 8)),
                           db_bytes(str_make(b->refs, n * 16)))));
        OK(tx_exec(tx, arena, &r, &e,
                   "select uid, flags, modseq, head, size, at from mailbox_entry "
                   "where account = 1 and mailbox = 1 order by uid",
                   0, NULL));
        assert_int_equal(rows_count(r), n);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(rows_int(r, i, 0), p->v[i].uid);
            assert_int_equal(rows_int(r, i, 1), p->v[i].flags);
            assert_int_equal(rows_int(r, i, 2), p->v[i].mod);
            assert_int_equal(rows_int(r, i, 3), p->v[i].head);
            assert_int_equal(rows_int(r, i, 4), p->v[i].size);
            assert_int_equal(rows_int(r, i, 5), (int64_t)p->v[i].date * 1000);
        }
        OK(tx_end(&tx, false, &e));
    }
    assert_false(page_unpack(q, 1, 2, STR("abc"), STR("12345678"), STR_NONE, STR_NONE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),         cmocka_unit_test(test_two_views),
        cmocka_unit_test(test_keyword_limit), cmocka_unit_test(test_copy_move),
        cmocka_unit_test(test_rename_inbox),  cmocka_unit_test(test_lease),
        cmocka_unit_test(test_page_view),
    };
    test_store_start();
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    test_store_stop();
    return rc;
}
