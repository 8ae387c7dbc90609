/* Names and counters of mailboxes: list, create, delete, rename, subscribe, status. */
#include "store/mailbox_int.h"

#include "store/bus.h"
#include "store/setting.h"

#include <stdlib.h>
#include <time.h>

/* --- names ---------------------------------------------------------------------------------------
 */
int mailbox_name(struct arena *a, struct str name, struct str *out, struct err *e)
{
    if (name.n == 0 || name.n > MAILBOX_NAME_MAX || name.p[0] == '/' || name.p[name.n - 1] == '/' ||
        str_find(name, STR("//")) >= 0 || !str_utf8(name))
        return err_set(e, ERR_SYNTAX, "not a mailbox name");
    for (size_t i = 0; i < name.n; i++)
        if ((unsigned char)name.p[i] < 0x20 || name.p[i] == 0x7f)
            return err_set(e, ERR_SYNTAX, "a mailbox name has no control characters");
    *out = name;
    /* INBOX is the same in any case (RFC 3501 5.1), also as the parent of others. */
    if (str_eqi(name, STR("INBOX")) || str_startsi(name, STR("INBOX/")))
        *out = arena_printf(a, "INBOX%.*s", STR_ARG(str_from(name, 5)));
    return 0;
}

struct looked_up {
    uint64_t id;
    bool selectable, waiting;
};

static bool take_lookup(void *ctx, unsigned index, const PGresult *res)
{
    struct looked_up *l = ctx;

    (void)index;
    if (PQntuples(res) == 1) {
        l->id = (uint64_t)pg_get_int(res, 0, 0);
        l->selectable = pg_get_int(res, 0, 1) != 0;
        l->waiting = pg_get_int(res, 0, 2) != 0;
    }
    return true;
}

int mailbox_lookup(uint64_t account, struct str name, uint64_t *id_r, bool *waiting_r,
                   struct err *e)
{
    struct looked_up l = {0, false, false};
    struct arena *a = arena_new(64);
    int rc = mailbox_name(a, name, &name, e);

    /* A name that cannot exist does not exist. */
    if (rc != 0)
        rc = err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    else
        rc = db_each(take_lookup, &l, e,
                     "select m.id, m.selectable, exists (select from arrival a where "
                     "a.account = m.account and a.mailbox = m.id) from mailbox m "
                     "where m.account = $1 and m.name = $2",
                     DB_ARGS(db_int((int64_t)account), db_text(name)));
    arena_free(&a);
    if (rc != 0)
        return rc;
    if (l.id == 0 || !l.selectable)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    *id_r = l.id;
    *waiting_r = l.waiting;
    return 0;
}

/* --- list
 * ------------------------------------------------------------------------------------------ */
static void info_fill(const struct rows *r, uint32_t i, uint64_t account, struct mailbox_info *m)
{
    *m = (struct mailbox_info){
        .id = (uint64_t)rows_int(r, i, 0),
        .account = account,
        .name = rows_str(r, i, 1),
        .uidvalidity = (uint32_t)rows_int(r, i, 2),
        .uidnext = (uint32_t)rows_int(r, i, 3),
        .highestmodseq = (uint64_t)rows_int(r, i, 4),
        .messages = (uint32_t)rows_int(r, i, 5),
        .unseen = (uint32_t)rows_int(r, i, 6),
        .bytes = (uint64_t)rows_int(r, i, 7),
        .selectable = rows_bool(r, i, 8),
        .special_use = rows_str(r, i, 9),
        .subscribed = rows_bool(r, i, 10),
    };
}

/* Sorted by bytes, a mailbox's children follow it, though "a-b" may stand between "a" and "a/b". */
static void mark_children(struct mailbox_info *v, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct str name = v[i].name;
        ptrdiff_t cut = str_rchr(name, '/');
        if (cut < 0)
            continue;
        struct str parent = str_head(name, (size_t)cut);
        uint32_t low = 0, high = i;
        while (low < high) {
            uint32_t mid = (low + high) / 2;
            if (str_cmp(v[mid].name, parent) < 0)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < i && str_eq(v[low].name, parent))
            v[low].has_children = true;
    }
}

int mailbox_list(uint64_t account, struct arena *a, struct mailbox_info **v_r, uint32_t *n_r,
                 struct err *e)
{
    const struct rows *r;

    if (db_exec(a, &r, e,
                "select coalesce(m.id, 0), coalesce(m.name, s.name), coalesce(m.uidvalidity, 0), "
                "coalesce(m.uidnext, 0) + coalesce(w.n, 0), coalesce(m.highestmodseq, 0), "
                "coalesce(m.messages, 0) + coalesce(w.n, 0), "
                "coalesce(m.unseen, 0) + coalesce(w.u, 0), "
                "coalesce(m.bytes, 0) + coalesce(w.s, 0)::bigint, "
                "coalesce(m.selectable, false), coalesce(m.special_use, ''), "
                "s.name is not null from (select * from mailbox where account = $1) m "
                "full join (select * from subscription where account = $1) s on s.name = m.name "
                "left join (select mailbox, count(*) n, count(*) filter (where flags & 1 = 0) u, "
                "sum(size) s from arrival where account = $1 group by mailbox) w "
                "on w.mailbox = m.id order by coalesce(m.name, s.name) collate \"C\"",
                DB_ARGS(db_int((int64_t)account))) != 0)
        return -1;
    *n_r = rows_count(r);
    *v_r = ARENA_ARRAY(a, struct mailbox_info, (size_t)*n_r + 1);
    for (uint32_t i = 0; i < *n_r; i++)
        info_fill(r, i, account, &(*v_r)[i]);
    mark_children(*v_r, *n_r);
    return 0;
}

int mailbox_find(uint64_t account, struct str name, struct arena *a, struct mailbox_info *m,
                 struct err *e)
{
    const struct rows *r;

    if (mailbox_name(a, name, &name, NULL) != 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    if (db_exec(a, &r, e,
                "select m.id, m.name, m.uidvalidity, m.uidnext, m.highestmodseq, m.messages, "
                "m.unseen, m.bytes, m.selectable, m.special_use, "
                "exists (select from subscription s where s.account = $1 and s.name = $2), "
                "exists (select from mailbox c where c.account = $1 and "
                "left(c.name, length($2) + 1) = $2 || '/') "
                "from mailbox m where m.account = $1 and m.name = $2",
                DB_ARGS(db_int((int64_t)account), db_text(name))) != 0)
        return -1;
    if (rows_count(r) == 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    info_fill(r, 0, account, m);
    m->has_children = rows_bool(r, 0, 11);
    return 0;
}

struct recent {
    uint32_t from, count;
};

static bool count_recent(void *ctx, unsigned index, const PGresult *res)
{
    struct recent *c = ctx;
    struct page *p = xmalloc(sizeof *p);

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        if (!page_unpack(p, (uint32_t)pg_get_int(res, i, 0), (uint32_t)pg_get_int(res, i, 1),
                         pg_get_str(res, i, 2), pg_get_str(res, i, 3), STR_NONE, STR_NONE))
            continue;
        for (uint32_t k = 0; k < p->n; k++)
            c->count += p->v[k].uid > c->from && !(p->v[k].flags & FLAG_HELD);
    }
    free(p);
    return true;
}

int mailbox_status(uint64_t account, struct str name, struct arena *a, struct mailbox_info *m,
                   struct err *e)
{
    uint64_t id;
    bool waiting;
    const struct rows *r;

    if (mailbox_lookup(account, name, &id, &waiting, e) != 0)
        return -1;
    if (waiting && mailbox_sequence(id, NULL, e) != 0)
        return -1;
    if (mailbox_find(account, name, a, m, e) != 0)
        return -1;
    if (db_exec(a, &r, e, "select recent_uid from mailbox where id = $1",
                DB_ARGS(db_int((int64_t)id))) != 0)
        return -1;
    struct recent c = {rows_count(r) ? (uint32_t)rows_int(r, 0, 0) : 0, 0};
    if (c.from + 1 < m->uidnext &&
        db_each(count_recent, &c, e,
                "select min_uid, n, uids, flags from mailbox_page where account = $1 and "
                "mailbox = $2 and max_uid > $3",
                DB_ARGS(db_int((int64_t)account), db_int((int64_t)id), db_int(c.from))) != 0)
        return -1;
    m->recent = c.count;
    return 0;
}

/* --- create
 * ----------------------------------------------------------------------------------------- */
/* Locks the account's UIDVALIDITY row, which also keeps two creators apart. */
static int next_uidvalidity(struct tx *tx, uint64_t account, int64_t *v_r, struct err *e)
{
    struct arena *a = arena_new(256);
    const struct rows *r;
    int rc = tx_exec(tx, a, &r, e,
                     "update account_uidvalidity set last = greatest(last + 1, $2) "
                     "where account = $1 returning last",
                     DB_ARGS(db_int((int64_t)account), db_int((int64_t)time(NULL))));

    if (rc == 0 && rows_count(r) == 0)
        rc = err_set(e, ERR_NOTFOUND, "no such account");
    if (rc == 0)
        *v_r = rows_int(r, 0, 0);
    arena_free(&a);
    return rc;
}

/* Inside a transaction: the mailbox, and parents that are missing.  A \Noselect one becomes
 * selectable.  EXISTS. */
static int create_in(struct tx *tx, uint64_t account, struct str name, struct str special_use,
                     struct err *e)
{
    struct arena *a = arena_new(512);
    const struct rows *r;
    int64_t validity = 0;
    size_t at = 0;
    int rc = next_uidvalidity(tx, account, &validity, e);

    if (rc == 0)
        rc = tx_exec(tx, a, &r, e, "select count(*) from mailbox where account = $1",
                     DB_ARGS(db_int((int64_t)account)));
    if (rc == 0 && rows_int(r, 0, 0) >= MAILBOXES_MAX)
        rc = err_set(e, ERR_LIMIT, "too many mailboxes");
    while (rc == 0 && at < name.n) {
        ptrdiff_t cut = str_chr(str_from(name, at), '/');
        size_t end = cut < 0 ? name.n : at + (size_t)cut;
        bool last = end == name.n;
        uint64_t id;
        if (db_next_id(&id, e) != 0) {
            rc = -1;
            break;
        }
        rc = tx_exec(tx, a, &r, e,
                     "insert into mailbox (id, account, name, special_use, uidvalidity) "
                     "values ($1, $2, $3, $4, $5) on conflict (account, name) do update set "
                     "selectable = true, uidvalidity = excluded.uidvalidity, "
                     "special_use = excluded.special_use "
                     "where not mailbox.selectable and $6",
                     DB_ARGS(db_int((int64_t)id), db_int((int64_t)account),
                             db_text(str_head(name, end)),
                             db_text(last && special_use.p ? special_use : STR("")),
                             db_int(validity), db_bool(last)));
        if (rc == 0 && last && rows_affected(r) == 0)
            rc = err_set(e, ERR_EXISTS, "the mailbox exists");
        if (rc == 0 && !last && rows_affected(r) > 0)
            rc = next_uidvalidity(tx, account, &validity, e);
        at = end + 1;
    }
    arena_free(&a);
    return rc;
}

int mailbox_create(uint64_t account, struct str name, struct str special_use, struct err *e)
{
    struct arena *a = arena_new(64);
    int rc = mailbox_name(a, name, &name, e);

    if (rc == 0) {
        struct tx *tx = tx_begin(e);
        rc = tx == NULL ? -1 : create_in(tx, account, name, special_use, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
        else
            tx_abort(&tx);
    }
    arena_free(&a);
    return rc;
}

/* --- delete
 * ------------------------------------------------------------------------------------------ */
static int empty_in(struct tx *tx, const struct mailbox_row *m, struct err *e)
{
    struct db_arg args[] = {db_int((int64_t)m->account), db_int((int64_t)m->id)};
    int rc;

    if (setting_int("storage.undelete_days") > 0)
        rc = tx_queue(tx, e,
                      "insert into deleted_message (account, mailbox, uid, head, size, at, flags, "
                      "keywords, why) select account, mailbox, uid, head, size, at, "
                      "(flags & 255)::int, (select string_agg(k, ' ') from unnest($3::text[]) "
                      "with ordinality x(k, o) where (flags >> (7 + o)::int) & 1 = 1), 'delete' "
                      "from mailbox_entry where account = $1 and mailbox = $2 and uid is not null",
                      DB_ARGS(args[0], args[1], db_texts(m->keywords, m->keyword_count)));
    else
        rc = tx_queue(tx, e,
                      "insert into effect (kind, key, delta) select 1, h.body, -count(*) from "
                      "mailbox_entry x join head h on h.id = x.head where x.account = $1 and "
                      "x.mailbox = $2 and x.uid is not null group by h.body",
                      2, args);
    if (rc == 0)
        rc = tx_queue(tx, e, "delete from mailbox_page where account = $1 and mailbox = $2", 2,
                      args);
    if (rc == 0)
        rc = tx_queue(tx, e,
                      "update arrival set mailbox = (select inbox from account where id = $1) "
                      "where account = $1 and mailbox = $2",
                      2, args);
    return rc;
}

static int delete_in(struct tx *tx, struct arena *a, uint64_t account, struct str name,
                     uint64_t *id_r, struct err *e)
{
    const struct rows *r;
    struct mailbox_row m;
    int64_t validity;

    /* First the account's row, as in create and rename: always in the same order. */
    if (next_uidvalidity(tx, account, &validity, e) != 0 ||
        tx_exec(tx, a, &r, e, "select id from mailbox where account = $1 and name = $2",
                DB_ARGS(db_int((int64_t)account), db_text(name))) != 0)
        return -1;
    if (rows_count(r) == 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    if (mailbox_lock(tx, (uint64_t)rows_int(r, 0, 0), a, &m, e) != 0 || empty_in(tx, &m, e) != 0 ||
        tx_exec(tx, a, &r, e,
                "select exists (select from mailbox c where c.account = $1 and "
                "left(c.name, length($2) + 1) = $2 || '/')",
                DB_ARGS(db_int((int64_t)account), db_text(name))) != 0)
        return -1;
    *id_r = m.id;
    if (!rows_bool(r, 0, 0))
        return tx_queue(tx, e, "delete from mailbox where id = $1", DB_ARGS(db_int((int64_t)m.id)));
    if (!m.selectable)
        return err_set(e, ERR_PERM, "the mailbox has children and cannot be deleted");
    /* A fresh id, so that sessions which have it open see that it is gone. */
    uint64_t fresh;
    if (db_next_id(&fresh, e) != 0)
        return -1;
    return tx_queue(tx, e,
                    "update mailbox set id = $2, selectable = false, special_use = '', "
                    "messages = 0, unseen = 0, bytes = 0, uidnext = 1, recent_uid = 0, "
                    "highestmodseq = highestmodseq + 1, keywords = '{}' where id = $1",
                    DB_ARGS(db_int((int64_t)m.id), db_int((int64_t)fresh)));
}

int mailbox_delete(uint64_t account, struct str name, struct err *e)
{
    struct arena *a = arena_new(1024);
    uint64_t id = 0;
    int rc = mailbox_name(a, name, &name, e);

    if (rc == 0 && str_eqz(name, "INBOX"))
        rc = err_set(e, ERR_PERM, "INBOX cannot be deleted");
    if (rc == 0) {
        struct tx *tx = tx_begin(e);
        rc = tx == NULL ? -1 : delete_in(tx, a, account, name, &id, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
        else
            tx_abort(&tx);
    }
    arena_free(&a);
    if (rc == 0)
        bus_publish(BUS_CHANGE, id);
    return rc;
}

/* --- rename
 * ------------------------------------------------------------------------------------------- */
static struct str parent_of(struct str name)
{
    ptrdiff_t cut = str_rchr(name, '/');
    return cut < 0 ? STR_NONE : str_head(name, (size_t)cut);
}

static int rename_in(struct tx *tx, struct arena *a, uint64_t account, struct str from,
                     struct str to, struct err *e)
{
    struct db_arg names[] = {db_int((int64_t)account), db_text(from), db_text(to)};
    struct err exists = ERR_INIT;
    const struct rows *r;
    int64_t validity;

    if (next_uidvalidity(tx, account, &validity, e) != 0 ||
        tx_exec(tx, a, &r, e,
                "select count(*) filter (where name = $2), count(*) filter (where name = $3), "
                "count(*) filter (where name = $4) from mailbox where account = $1",
                DB_ARGS(names[0], names[1], names[2],
                        db_text(parent_of(to).p ? parent_of(to) : STR("")))) != 0)
        return -1;
    if (rows_int(r, 0, 0) == 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    if (rows_int(r, 0, 1) > 0)
        return err_set(e, ERR_EXISTS, "the mailbox exists");
    if (parent_of(to).p != NULL && rows_int(r, 0, 2) == 0 &&
        create_in(tx, account, parent_of(to), STR_NONE, &exists) != 0)
        return err_set(e, exists.cls, "%s", exists.text);
    return tx_queue(tx, e,
                    "update mailbox set name = $3 || substr(name, length($2) + 1) "
                    "where account = $1 and (name = $2 or left(name, length($2) + 1) = $2 || '/')",
                    3, names);
}

/* Renaming INBOX: a new mailbox gets its messages, INBOX stays (RFC 3501 6.3.5). */
static int rename_inbox(struct tx *tx, struct arena *a, uint64_t account, struct str to,
                        uint64_t *ids, struct err *e)
{
    const struct rows *r;
    struct mailbox_row from, target;

    if (create_in(tx, account, to, STR_NONE, e) != 0 ||
        tx_exec(tx, a, &r, e,
                "select id from mailbox where account = $1 and name = any($2) "
                "order by name <> 'INBOX'",
                DB_ARGS(db_int((int64_t)account),
                        db_texts((const struct str[]){STR("INBOX"), to}, 2))) != 0)
        return -1;
    ids[0] = (uint64_t)rows_int(r, 0, 0);
    ids[1] = (uint64_t)rows_int(r, 1, 0);
    uint64_t low = ids[0] < ids[1] ? ids[0] : ids[1], high = ids[0] < ids[1] ? ids[1] : ids[0];
    if (mailbox_lock(tx, low, a, low == ids[0] ? &from : &target, e) != 0 ||
        mailbox_lock(tx, high, a, high == ids[0] ? &from : &target, e) != 0)
        return -1;
    /* The pages change hands as they are: UIDs and MODSEQs stay valid in a new UIDVALIDITY. */
    target.uidnext = from.uidnext;
    target.highestmodseq = from.highestmodseq + 1;
    target.messages = from.messages;
    target.unseen = from.unseen;
    target.bytes = from.bytes;
    target.keyword_count = from.keyword_count;
    memcpy(target.keywords, from.keywords, sizeof target.keywords);
    target.keywords_changed = true;
    from.messages = from.unseen = from.bytes = 0;
    from.expunge_modseq = ++from.highestmodseq;
    if (tx_queue(tx, e, "update mailbox_page set mailbox = $3 where account = $1 and mailbox = $2",
                 DB_ARGS(db_int((int64_t)account), db_int((int64_t)from.id),
                         db_int((int64_t)target.id))) != 0 ||
        mailbox_save(tx, &from, e) != 0)
        return -1;
    return mailbox_save(tx, &target, e);
}

int mailbox_rename(uint64_t account, struct str from, struct str to, struct err *e)
{
    struct arena *a = arena_new(2048);
    uint64_t ids[2] = {0, 0};
    bool inbox = false;
    int rc = mailbox_name(a, from, &from, e);

    if (rc != 0)
        rc = err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    if (rc == 0)
        rc = mailbox_name(a, to, &to, e);
    if (rc == 0) {
        inbox = str_eqz(from, "INBOX");
        if (str_eq(from, to))
            rc = err_set(e, ERR_EXISTS, "the mailbox exists");
        else if (!inbox && str_starts(to, arena_printf(a, "%.*s/", STR_ARG(from))))
            rc = err_set(e, ERR_PERM, "a mailbox cannot be moved below itself");
    }
    if (rc == 0 && inbox) {
        bool waiting;
        /* What has arrived belongs to the messages that move. */
        rc = mailbox_lookup(account, from, &ids[0], &waiting, e);
        if (rc == 0 && waiting)
            rc = mailbox_sequence(ids[0], NULL, e);
    }
    if (rc == 0) {
        struct tx *tx = tx_begin(e);
        rc = tx == NULL ? -1
             : inbox    ? rename_inbox(tx, a, account, to, ids, e)
                        : rename_in(tx, a, account, from, to, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
        else
            tx_abort(&tx);
    }
    arena_free(&a);
    if (rc == 0 && inbox) {
        bus_publish(BUS_CHANGE, ids[0]);
        bus_publish(BUS_CHANGE, ids[1]);
    }
    return rc;
}

int mailbox_subscribe(uint64_t account, struct str name, bool on, struct err *e)
{
    struct arena *a = arena_new(64);
    int rc = mailbox_name(a, name, &name, e);

    if (rc == 0)
        rc = db_exec(NULL, NULL, e,
                     on ? "insert into subscription (account, name) values ($1, $2) "
                          "on conflict do nothing"
                        : "delete from subscription where account = $1 and name = $2",
                     DB_ARGS(db_int((int64_t)account), db_text(name)));
    arena_free(&a);
    return rc;
}
