/* Changes through a view: STORE, EXPUNGE, COPY, MOVE, and APPEND. */
#include "store/view_int.h"

#include "store/bus.h"
#include "store/setting.h"
#include "store/stage_int.h"

#include <stdlib.h>
#include <time.h>

/* Bits that STORE replaces; the others are the product's own. */
#define CLIENT_FLAGS (0x1fu | 0xffffff00u)

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* --- STORE
 * ------------------------------------------------------------------------------------------ */
struct storing {
    struct view *v;
    struct tx *tx;
    struct mailbox_row *m;
    enum store_op op;
    uint32_t bits;
    uint64_t unchangedsince, modseq;
    uint32_t *modified, modified_count; /* indexes */
    uint32_t *done, *done_flags, done_count;
    bool held; /* somebody vanished from clients' eyes */
};

static uint32_t new_flags(const struct storing *s, uint32_t old)
{
    switch (s->op) {
    case STORE_ADD:
        return old | s->bits;
    case STORE_REMOVE:
        return old & ~s->bits;
    default:
        return (old & ~CLIENT_FLAGS) | s->bits;
    }
}

static int store_slice(struct storing *s, const uint32_t *index, uint32_t n, struct err *e)
{
    struct page_list l = {.a = arena_new(65536)};
    uint32_t *uids = ARENA_ARRAY(l.a, uint32_t, n);

    for (uint32_t i = 0; i < n; i++)
        uids[i] = s->v->uids[index[i]];
    int rc = pages_load(s->tx, s->v->account, s->v->mailbox, uids, n, 0, &l, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct page *p = NULL;
        struct page_entry *x = pages_find(&l, uids[i], &p);
        if (x == NULL)
            continue;
        if (s->unchangedsince > 0 && x->mod > s->unchangedsince) {
            s->modified[s->modified_count++] = index[i];
            continue;
        }
        uint32_t flags = new_flags(s, x->flags);
        if (flags == x->flags)
            continue;
        mailbox_count(s->m, x->flags, 0, -1);
        mailbox_count(s->m, flags, 0, 1);
        s->held = s->held || (flags & ~x->flags & FLAG_HELD);
        x->flags = flags;
        x->mod = s->modseq;
        p->dirty = true;
        s->done[s->done_count] = index[i];
        s->done_flags[s->done_count++] = flags;
    }
    if (rc == 0)
        rc = pages_write_flags(s->tx, s->m, &l, e);
    arena_free(&l.a);
    return rc;
}

static void store_picture(struct storing *s)
{
    struct view *v = s->v;

    for (uint32_t i = 0; i < s->done_count; i++) {
        v->flags[s->done[i]] = s->done_flags[i];
        v->mods[s->done[i]] = s->modseq;
    }
    /* Nobody else changed anything in between: the picture is up to date. */
    if (s->done_count > 0 && v->highestmodseq + 1 == s->modseq && !s->held) {
        v->highestmodseq = s->modseq;
        view_keywords(v, s->m);
    } else if (s->m->keywords_changed) {
        view_keywords(v, s->m);
    }
}

int view_store(struct view *v, const uint32_t *index, uint32_t n, enum store_op op, uint32_t flags,
               const struct str *keywords, uint32_t keyword_count, uint64_t unchangedsince,
               struct arena *a, uint32_t **modified_r, uint32_t *modified_count_r, struct err *e)
{
    struct arena *tmp = arena_new(16384);
    struct mailbox_row m;
    struct storing s = {.v = v, .m = &m, .op = op, .unchangedsince = unchangedsince};
    uint32_t bits = 0;
    int rc;

    if (modified_r != NULL) {
        *modified_r = NULL;
        *modified_count_r = 0;
    }
    uint32_t *sorted = ARENA_ARRAY(tmp, uint32_t, (size_t)n + 1);
    if (n > 0)
        memcpy(sorted, index, sizeof *sorted * n);
    qsort(sorted, n, sizeof *sorted, by_number);
    s.modified = ARENA_ARRAY(tmp, uint32_t, (size_t)n + 1);
    s.done = ARENA_ARRAY(tmp, uint32_t, (size_t)n + 1);
    s.done_flags = ARENA_ARRAY(tmp, uint32_t, (size_t)n + 1);
    s.tx = tx_begin(e);
    rc = s.tx == NULL ? -1 : mailbox_lock(s.tx, v->mailbox, tmp, &m, e);
    if (rc == 0)
        rc =
            mailbox_keywords(&m, tmp, keywords, keyword_count, op != STORE_REMOVE, false, &bits, e);
    if (rc == 0) {
        s.bits = (flags & 0xffu) | bits;
        s.modseq = m.highestmodseq + 1;
    }
    for (uint32_t at = 0; rc == 0 && at < n; at += SLICE)
        rc = store_slice(&s, sorted + at, n - at < SLICE ? n - at : SLICE, e);
    bool write = rc == 0 && (s.done_count > 0 || m.keywords_changed);
    if (write) {
        m.highestmodseq = s.modseq;
        if (s.held)
            m.expunge_modseq = s.modseq;
        rc = mailbox_save(s.tx, &m, e);
    }
    if (rc == 0 && write)
        rc = tx_end(&s.tx, true, e);
    else
        tx_abort(&s.tx);
    if (rc == 0) {
        store_picture(&s);
        if (modified_r != NULL && s.modified_count > 0) {
            *modified_r = ARENA_ARRAY(a, uint32_t, s.modified_count);
            memcpy(*modified_r, s.modified, sizeof **modified_r * s.modified_count);
            *modified_count_r = s.modified_count;
        }
        if (write)
            bus_publish(BUS_CHANGE, v->mailbox);
    }
    arena_free(&tmp);
    return rc;
}

/* --- removing
 * ------------------------------------------------------------------------------------------ */
/* Rows of the recycle bin, or references given back. */
static int bury(struct tx *tx, const struct mailbox_row *m, const struct page_entry *v, uint32_t n,
                const struct removal *how, struct err *e)
{
    struct arena *a = arena_new(16384);
    int64_t *uid = ARENA_ARRAY(a, int64_t, n), *head = ARENA_ARRAY(a, int64_t, n),
            *size = ARENA_ARRAY(a, int64_t, n), *at = ARENA_ARRAY(a, int64_t, n),
            *flags = ARENA_ARRAY(a, int64_t, n);
    struct str *names = ARENA_ARRAY(a, struct str, n);
    int rc;

    for (uint32_t i = 0; i < n; i++) {
        uid[i] = v[i].uid;
        head[i] = (int64_t)v[i].head;
        size[i] = v[i].size;
        at[i] = (int64_t)v[i].date;
        flags[i] = v[i].flags & 0xff;
        names[i] = mailbox_keyword_names(m, v[i].flags, a);
    }
    if (how->keep)
        rc = tx_queue(tx, e,
                      "insert into deleted_message (account, mailbox, uid, head, size, at, flags, "
                      "keywords, who, why) select $1, $2, u, h, s, to_timestamp(a), f, k, $9, $10 "
                      "from unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], "
                      "$7::bigint[], $8::text[]) x(u, h, s, a, f, k)",
                      DB_ARGS(db_int((int64_t)m->account), db_int((int64_t)m->id), db_ints(uid, n),
                              db_ints(head, n), db_ints(size, n), db_ints(at, n), db_ints(flags, n),
                              db_texts(names, n), db_text(how->who.p ? how->who : STR("")),
                              db_text(str_of(how->why ? how->why : ""))));
    else
        rc = tx_queue(tx, e,
                      "insert into effect (kind, key, delta) select 1, h.body, -count(*) from "
                      "unnest($1::bigint[]) x(id) join head h on h.id = x.id group by h.body",
                      DB_ARGS(db_ints(head, n)));
    arena_free(&a);
    return rc;
}

static int remove_slice(struct tx *tx, struct mailbox_row *m, const uint32_t *uids, uint32_t n,
                        struct removal *how, bool bury_them, struct err *e)
{
    struct page_list l = {.a = arena_new(65536)};
    struct page_entry *gone = ARENA_ARRAY(l.a, struct page_entry, n);
    uint32_t count = 0, next = 0;
    int rc = pages_load(tx, m->account, m->id, uids, n, LOAD_REFS, &l, e);

    for (uint32_t i = 0; rc == 0 && i < l.n; i++) {
        struct page *p = l.v[i];
        uint32_t kept = 0;
        for (uint32_t k = 0; k < p->n; k++) {
            while (next < n && uids[next] < p->v[k].uid)
                next++;
            bool out = next < n && uids[next] == p->v[k].uid &&
                       (!how->only_deleted || (p->v[k].flags & FLAG_DELETED));
            if (out) {
                mailbox_count(m, p->v[k].flags, p->v[k].size, -1);
                gone[count++] = p->v[k];
                p->dirty = true;
            } else {
                p->v[kept++] = p->v[k];
            }
        }
        p->n = kept;
    }
    if (rc == 0 && count > 0) {
        how->removed += count;
        rc = pages_write(tx, m, &l, e);
        if (rc == 0 && bury_them)
            rc = bury(tx, m, gone, count, how, e);
        if (rc == 0)
            rc = pages_merge_small(tx, m, &l, e);
    }
    arena_free(&l.a);
    return rc;
}

static int remove_all(struct tx *tx, struct mailbox_row *m, const uint32_t *uids, uint32_t n,
                      struct removal *how, bool bury_them, struct err *e)
{
    int rc = 0;

    for (uint32_t at = 0; rc == 0 && at < n; at += SLICE)
        rc = remove_slice(tx, m, uids + at, n - at < SLICE ? n - at : SLICE, how, bury_them, e);
    return rc;
}

int pages_remove(struct tx *tx, struct mailbox_row *m, const uint32_t *uids, uint32_t n,
                 struct removal *how, struct err *e)
{
    return remove_all(tx, m, uids, n, how, true, e);
}

struct marked {
    uint32_t *uids, n, room;
};

static bool take_deleted(void *ctx, unsigned index, const PGresult *res)
{
    struct marked *d = ctx;
    uint32_t uids[PAGE_ENTRIES], flags[PAGE_ENTRIES];

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        uint32_t n = (uint32_t)pg_get_int(res, i, 1);
        if (!page_unpack_columns((uint32_t)pg_get_int(res, i, 0), n, pg_get_str(res, i, 2),
                                 pg_get_str(res, i, 3), STR_NONE, uids, flags, NULL))
            continue;
        for (uint32_t k = 0; k < n; k++) {
            if (!(flags[k] & FLAG_DELETED) || (flags[k] & FLAG_HELD))
                continue;
            if (d->n == d->room) {
                d->room = d->room ? d->room * 2 : 256;
                d->uids = xrealloc(d->uids, sizeof *d->uids * d->room);
            }
            d->uids[d->n++] = uids[k];
        }
    }
    return true;
}

/* uids NULL: all that are marked \Deleted. */
static int remove_from(uint64_t mailbox, const uint32_t *uids, uint32_t n, struct removal *how,
                       struct err *e)
{
    struct arena *a = arena_new(4096);
    struct marked d = {0};
    struct mailbox_row m;
    struct tx *tx = tx_begin(e);
    int rc = tx == NULL ? -1 : mailbox_lock(tx, mailbox, a, &m, e);

    how->keep = setting_int("storage.undelete_days") > 0;
    if (rc == 0 && uids == NULL) {
        rc = pages_scan(tx, m.account, m.id, false, take_deleted, &d, e);
    } else if (rc == 0) {
        d.uids = xmalloc(sizeof *d.uids * ((size_t)n + 1));
        if (n > 0)
            memcpy(d.uids, uids, sizeof *d.uids * n);
        d.n = n;
        qsort(d.uids, d.n, sizeof *d.uids, by_number);
    }
    if (rc == 0)
        rc = pages_remove(tx, &m, d.uids, d.n, how, e);
    if (rc == 0 && how->removed > 0) {
        m.expunge_modseq = ++m.highestmodseq;
        rc = mailbox_save(tx, &m, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
    }
    tx_abort(&tx);
    free(d.uids);
    arena_free(&a);
    if (rc == 0 && how->removed > 0)
        bus_publish(BUS_CHANGE, mailbox);
    return rc;
}

int view_expunge(struct view *v, const uint32_t *uids, uint32_t n, struct str who, const char *why,
                 struct err *e)
{
    struct removal how = {.only_deleted = true, .who = who, .why = why};
    return remove_from(v->mailbox, uids, n, &how, e);
}

int mailbox_remove(uint64_t mailbox, const uint32_t *uids, uint32_t n, struct str who,
                   const char *why, struct err *e)
{
    struct removal how = {.who = who, .why = why};
    return n == 0 ? 0 : remove_from(mailbox, uids, n, &how, e);
}

int mailbox_hold(uint64_t mailbox, const uint32_t *uids, uint32_t n, struct err *e)
{
    struct arena *a = arena_new(4096);
    struct page_list l = {.a = arena_new(65536)};
    struct mailbox_row m;
    struct tx *tx = tx_begin(e);
    int rc = tx == NULL ? -1 : mailbox_lock(tx, mailbox, a, &m, e);

    uint32_t *sorted = ARENA_ARRAY(a, uint32_t, (size_t)n + 1);
    memcpy(sorted, uids, sizeof *sorted * n);
    qsort(sorted, n, sizeof *sorted, by_number);
    if (rc == 0)
        rc = pages_load(tx, m.account, m.id, sorted, n, 0, &l, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        struct page *p = NULL;
        struct page_entry *x = pages_find(&l, sorted[i], &p);
        if (x == NULL || (x->flags & FLAG_HELD))
            continue;
        mailbox_count(&m, x->flags, 0, -1);
        x->flags |= FLAG_HELD;
        mailbox_count(&m, x->flags, 0, 1);
        x->mod = m.highestmodseq + 1;
        p->dirty = true;
    }
    if (rc == 0)
        rc = pages_write_flags(tx, &m, &l, e);
    if (rc == 0) {
        m.expunge_modseq = ++m.highestmodseq; /* clients see it vanish */
        rc = mailbox_save(tx, &m, e);
    }
    if (rc == 0)
        rc = tx_end(&tx, true, e);
    tx_abort(&tx);
    arena_free(&l.a);
    arena_free(&a);
    if (rc == 0)
        bus_publish(BUS_CHANGE, mailbox);
    return rc;
}

/* --- COPY and MOVE
 * ----------------------------------------------------------------------------------------- */
static uint32_t map_keywords(const struct mailbox_row *from, struct mailbox_row *to,
                             struct arena *a, uint32_t flags)
{
    uint32_t bits = 0, all = flags & 0xff;

    for (uint32_t k = 0; k < from->keyword_count; k++)
        if (flags & ((uint32_t)FLAG_KEYWORD0 << k)) {
            mailbox_keywords(to, a, &from->keywords[k], 1, true, true, &bits, NULL);
            all |= bits;
        }
    return all;
}

static int add_references(struct tx *tx, const struct page_entry *v, uint32_t n, struct err *e)
{
    struct arena *a = arena_new(16384);
    int64_t *heads = ARENA_ARRAY(a, int64_t, n);

    for (uint32_t i = 0; i < n; i++)
        heads[i] = (int64_t)v[i].head;
    int rc = tx_queue(tx, e,
                      "insert into effect (kind, key, delta) select 1, h.body, count(*) from "
                      "unnest($1::bigint[]) x(id) join head h on h.id = x.id group by h.body",
                      DB_ARGS(db_ints(heads, n)));
    arena_free(&a);
    return rc;
}

static int transfer_slice(struct tx *tx, struct arena *keep, const uint32_t *uids, uint32_t n,
                          struct transfer *t, struct err *e)
{
    struct page_list l = {.a = arena_new(65536)};
    struct page_entry *v = ARENA_ARRAY(l.a, struct page_entry, n);
    struct mailbox_row *to = t->to;
    uint32_t count = 0;
    int rc = pages_load(tx, t->from->account, t->from->id, uids, n, LOAD_REFS, &l, e);

    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct page_entry *x = pages_find(&l, uids[i], NULL);
        if (x == NULL)
            continue;
        v[count] = *x;
        if (t->from != to)
            v[count].flags = map_keywords(t->from, to, keep, x->flags);
        if (to->uidnext == UINT32_MAX) {
            rc = err_set(e, ERR_LIMIT, "the mailbox has used up its UIDs");
            break;
        }
        v[count].uid = to->uidnext++;
        v[count].mod = to->highestmodseq;
        mailbox_count(to, v[count].flags, v[count].size, 1);
        t->from_uids[t->count] = uids[i];
        t->to_uids[t->count++] = v[count].uid;
        count++;
    }
    if (rc == 0 && count > 0) {
        rc = pages_append(tx, to, v, count, e);
        if (rc == 0 && !t->move)
            rc = add_references(tx, v, count, e);
    }
    arena_free(&l.a);
    return rc;
}

int pages_transfer(struct tx *tx, struct arena *a, const uint32_t *uids, uint32_t n,
                   struct transfer *t, struct err *e)
{
    int rc = 0;

    t->to->highestmodseq++;
    for (uint32_t at = 0; rc == 0 && at < n; at += SLICE)
        rc = transfer_slice(tx, a, uids + at, n - at < SLICE ? n - at : SLICE, t, e);
    if (rc == 0 && t->move && t->count > 0) {
        struct removal how = {0};
        if (t->from != t->to)
            t->from->highestmodseq++;
        t->from->expunge_modseq = t->from->highestmodseq;
        rc = remove_all(tx, t->from, t->from_uids, t->count, &how, false, e);
    }
    return rc;
}

int view_copy(struct view *v, const uint32_t *index, uint32_t n, struct str to, bool move,
              struct arena *a, struct copied *r, struct err *e)
{
    struct arena *tmp = arena_new(16384);
    struct mailbox_row from, other;
    uint64_t id = 0;
    bool waiting = false;
    struct transfer t = {.from = &from, .move = move};
    struct tx *tx = NULL;
    int rc = mailbox_lookup(v->account, to, &id, &waiting, e);

    *r = (struct copied){0};
    if (rc == 0 && waiting)
        rc = mailbox_sequence(id, NULL, e);
    if (rc == 0) {
        tx = tx_begin(e);
        rc = tx == NULL ? -1 : 0;
    }
    /* In the order of ids, so that two copies cannot wait for each other. */
    if (rc == 0 && id < v->mailbox)
        rc = mailbox_lock(tx, id, tmp, &other, e);
    if (rc == 0)
        rc = mailbox_lock(tx, v->mailbox, tmp, &from, e);
    if (rc == 0 && id > v->mailbox)
        rc = mailbox_lock(tx, id, tmp, &other, e);
    uint32_t *uids = ARENA_ARRAY(tmp, uint32_t, (size_t)n + 1);
    for (uint32_t i = 0; i < n; i++)
        uids[i] = v->uids[index[i]];
    qsort(uids, n, sizeof *uids, by_number);
    if (rc == 0) {
        t.to = id == v->mailbox ? &from : &other;
        t.from_uids = ARENA_ARRAY(a, uint32_t, (size_t)n + 1);
        t.to_uids = ARENA_ARRAY(a, uint32_t, (size_t)n + 1);
        rc = pages_transfer(tx, tmp, uids, n, &t, e);
    }
    if (rc == 0 && t.count > 0) {
        rc = mailbox_save(tx, t.to, e);
        if (rc == 0 && move && t.from != t.to)
            rc = mailbox_save(tx, t.from, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
    }
    tx_abort(&tx);
    if (rc == 0) {
        *r = (struct copied){t.to->uidvalidity, t.from_uids, t.to_uids, t.count};
        if (t.count > 0) {
            bus_publish(BUS_CHANGE, id);
            if (move && id != v->mailbox)
                bus_publish(BUS_CHANGE, v->mailbox);
        }
    }
    arena_free(&tmp);
    return rc;
}

/* --- APPEND
 * ------------------------------------------------------------------------------------------------
 */
static int append_message(struct tx *tx, struct stage *s, struct str head, uint64_t ids,
                          struct err *e)
{
    int64_t body = (int64_t)(s->body ? s->body : ids), head_id = (int64_t)ids + 1;

    if (s->parts > 0 &&
        (tx_queue(tx, e,
                  "select 1 / (case when count(*) = $2 then 1 else 0 end) from body_part "
                  "where body = $1",
                  DB_ARGS(db_int(body), db_int(s->parts))) != 0 ||
         tx_queue(tx, e, "delete from stage where body = $1", DB_ARGS(db_int(body))) != 0))
        return -1;
    if (tx_queue(tx, e,
                 "insert into body (id, size, parts, refs, head_first, heads, bytes) "
                 "values ($1, $2, $3, 1, $4, 1, $5)",
                 DB_ARGS(db_int(body), db_int((int64_t)s->size), db_int(s->parts), db_int(head_id),
                         db_bytes(s->parts ? STR_NONE
                                           : str_make(s->bytes ? s->bytes : "", s->used)))) != 0)
        return -1;
    return tx_queue(tx, e,
                    "insert into head (id, body, size, body_size, sender, bytes, structure) "
                    "values ($1, $2, $3, $4, '', $5, $6)",
                    DB_ARGS(db_int(head_id), db_int(body), db_int((int64_t)head.n),
                            db_int((int64_t)s->size), db_bytes(head.p ? head : STR("")),
                            db_bytes(stage_structure(s))));
}

int mailbox_append(uint64_t account, struct str name, struct stage *s, struct str head,
                   uint32_t flags, const struct str *keywords, uint32_t keyword_count, int64_t at,
                   uint32_t *uidvalidity_r, uint32_t *uid_r, struct err *e)
{
    struct arena *a = arena_new(4096);
    struct mailbox_row m;
    uint64_t id = 0, ids = 0;
    bool waiting = false;
    uint32_t bits = 0;
    struct tx *tx = NULL;
    int rc = mailbox_lookup(account, name, &id, &waiting, e);

    if (rc == 0 && head.n + s->size > UINT32_MAX)
        rc = err_set(e, ERR_LIMIT, "the message is too large");
    if (rc == 0 && waiting)
        rc = mailbox_sequence(id, NULL, e);
    if (rc == 0)
        rc = stage_finish(s, e);
    if (rc == 0)
        rc = db_next_ids(2, &ids, e);
    if (rc == 0) {
        tx = tx_begin(e);
        rc = tx == NULL ? -1 : append_message(tx, s, head, ids, e);
    }
    if (rc == 0)
        rc = mailbox_lock(tx, id, a, &m, e);
    if (rc == 0)
        rc = mailbox_keywords(&m, a, keywords, keyword_count, true, true, &bits, e);
    if (rc == 0 && m.uidnext == UINT32_MAX)
        rc = err_set(e, ERR_LIMIT, "the mailbox has used up its UIDs");
    if (rc == 0) {
        struct page_entry x = {
            .uid = m.uidnext++,
            .flags = (flags & 0xff) | bits,
            .mod = ++m.highestmodseq,
            .head = ids + 1,
            .size = (uint32_t)(head.n + s->size),
            .date = page_date(at ? at : (int64_t)time(NULL) * 1000),
        };
        mailbox_count(&m, x.flags, x.size, 1);
        rc = pages_append(tx, &m, &x, 1, e);
        if (rc == 0)
            rc = mailbox_save(tx, &m, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
        *uid_r = x.uid;
        *uidvalidity_r = m.uidvalidity;
    }
    tx_abort(&tx);
    arena_free(&a);
    if (rc == 0) {
        s->taken = true;
        bus_publish(BUS_CHANGE, id);
    }
    return rc;
}
