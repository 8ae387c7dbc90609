/* The sequencer: arrivals get UIDs (architecture 4), and what every change of a mailbox shares: its
 * lock, its row, its keywords. */
#include "store/mailbox_int.h"

#include "core/log.h"
#include "store/bus.h"
#include "store/setting.h"

#include <stdlib.h>

enum { CHUNK = 4096 /* arrivals a transaction: bounds its memory and how long the lock is held */ };

/* --- the row
 * -------------------------------------------------------------------------------------- */
void mailbox_row_read(const struct rows *r, uint32_t i, struct arena *a, struct mailbox_row *m)
{
    struct str *names;

    *m = (struct mailbox_row){
        .id = (uint64_t)rows_int(r, i, 0),
        .account = (uint64_t)rows_int(r, i, 1),
        .name = rows_str(r, i, 2),
        .uidvalidity = (uint32_t)rows_int(r, i, 3),
        .uidnext = (uint32_t)rows_int(r, i, 4),
        .recent_uid = (uint32_t)rows_int(r, i, 5),
        .highestmodseq = (uint64_t)rows_int(r, i, 6),
        .expunge_modseq = (uint64_t)rows_int(r, i, 7),
        .messages = rows_int(r, i, 8),
        .unseen = rows_int(r, i, 9),
        .bytes = rows_int(r, i, 10),
        .selectable = rows_bool(r, i, 12),
    };
    uint32_t n = rows_strs(r, i, 11, a, &names);
    for (uint32_t k = 0; k < n && k < KEYWORDS_MAX; k++)
        m->keywords[m->keyword_count++] = names[k];
}

int mailbox_lock(struct tx *tx, uint64_t id, struct arena *a, struct mailbox_row *m, struct err *e)
{
    const struct rows *r;

    if (tx_exec(tx, a, &r, e, "select " MAILBOX_COLUMNS " from mailbox where id = $1 for update",
                DB_ARGS(db_int((int64_t)id))) != 0)
        return -1;
    if (rows_count(r) == 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    mailbox_row_read(r, 0, a, m);
    return 0;
}

int mailbox_save(struct tx *tx, const struct mailbox_row *m, struct err *e)
{
    if (m->keywords_changed)
        return tx_queue(
            tx, e,
            "update mailbox set uidnext = $2, highestmodseq = $3, expunge_modseq = $4, "
            "messages = $5, unseen = $6, bytes = $7, keywords = $8 where id = $1",
            DB_ARGS(db_int((int64_t)m->id), db_int(m->uidnext), db_int((int64_t)m->highestmodseq),
                    db_int((int64_t)m->expunge_modseq), db_int(m->messages), db_int(m->unseen),
                    db_int(m->bytes), db_texts(m->keywords, m->keyword_count)));
    return tx_queue(tx, e,
                    "update mailbox set uidnext = $2, highestmodseq = $3, expunge_modseq = $4, "
                    "messages = $5, unseen = $6, bytes = $7 where id = $1",
                    DB_ARGS(db_int((int64_t)m->id), db_int(m->uidnext),
                            db_int((int64_t)m->highestmodseq), db_int((int64_t)m->expunge_modseq),
                            db_int(m->messages), db_int(m->unseen), db_int(m->bytes)));
}

void mailbox_count(struct mailbox_row *m, uint32_t flags, uint32_t size, int by)
{
    m->bytes += (int64_t)size * by;
    if (flags & FLAG_HELD)
        return;
    m->messages += by;
    if (!(flags & FLAG_SEEN))
        m->unseen += by;
}

int mailbox_keywords(struct mailbox_row *m, struct arena *a, const struct str *names, uint32_t n,
                     bool make, bool drop, uint32_t *bits_r, struct err *e)
{
    uint32_t bits = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = 0;
        if (names[i].n == 0)
            continue;
        while (k < m->keyword_count && !str_eqi(m->keywords[k], names[i]))
            k++;
        if (k == m->keyword_count) {
            bool fits = names[i].n <= (size_t)setting_int("storage.max_keyword_bytes");
            if (!make)
                continue;
            if (k == KEYWORDS_MAX || !fits) {
                if (!drop)
                    return err_set(e, ERR_LIMIT, "the mailbox has no room for another keyword");
                log_info("store", "mailbox %llu: keyword %.*s dropped", (unsigned long long)m->id,
                         STR_ARG(names[i]));
                continue;
            }
            m->keywords[m->keyword_count++] = arena_dup(a, names[i]);
            m->keywords_changed = true;
        }
        bits |= (uint32_t)FLAG_KEYWORD0 << k;
    }
    *bits_r = bits;
    return 0;
}

struct str mailbox_keyword_names(const struct mailbox_row *m, uint32_t flags, struct arena *a)
{
    struct str s = STR_NONE;

    for (uint32_t k = 0; k < m->keyword_count; k++)
        if (flags & ((uint32_t)FLAG_KEYWORD0 << k))
            s = arena_printf(a, "%.*s%s%.*s", STR_ARG(s), s.n ? " " : "", STR_ARG(m->keywords[k]));
    return s;
}

/* --- giving UIDs
 * ------------------------------------------------------------------------------------- */
struct arrived {
    int64_t at;
    uint64_t id;
    struct page_entry entry;
};

static int by_time(const void *a, const void *b)
{
    const struct arrived *x = a, *y = b;

    if (x->at != y->at)
        return x->at < y->at ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* "a b c" into bits; a full mailbox drops the surplus. */
static uint32_t arrival_keywords(struct mailbox_row *m, struct arena *a, struct str text)
{
    struct str names[KEYWORDS_MAX * 2];
    uint32_t n = 0, bits = 0;

    while (text.p != NULL && n < KEYWORDS_MAX * 2)
        names[n++] = str_cut(&text, ' ');
    mailbox_keywords(m, a, names, n, true, true, &bits, NULL);
    return bits;
}

static int take_arrivals(struct tx *tx, struct arena *a, struct mailbox_row *m, uint32_t *n_r,
                         struct err *e)
{
    const struct rows *r;

    /* A statement of its own, after the lock: it must see what the last holder left.  By place: a
     * join on the ids took n * n steps, for the planner never knows how many rows wait here. */
    if (tx_exec(tx, a, &r, e,
                "delete from arrival where ctid = any (array(select ctid from arrival "
                "where account = $1 and mailbox = $2 order by at, id limit 4096)) "
                "returning at, id, head, size, flags, keywords",
                DB_ARGS(db_int((int64_t)m->account), db_int((int64_t)m->id))) != 0)
        return -1;
    uint32_t n = rows_count(r);
    *n_r = n;
    if (n == 0)
        return 0;
    if (n > UINT32_MAX - m->uidnext)
        return err_set(e, ERR_LIMIT, "the mailbox has used up its UIDs");
    struct arrived *v = ARENA_ARRAY(a, struct arrived, n);
    for (uint32_t i = 0; i < n; i++) {
        v[i].at = rows_int(r, i, 0);
        v[i].id = (uint64_t)rows_int(r, i, 1);
        v[i].entry.head = (uint64_t)rows_int(r, i, 2);
        v[i].entry.size = (uint32_t)rows_int(r, i, 3);
        v[i].entry.flags = (uint32_t)rows_int(r, i, 4) & 0xff;
        v[i].entry.date = page_date(v[i].at);
        if (!rows_null(r, i, 5))
            v[i].entry.flags |= arrival_keywords(m, a, rows_str(r, i, 5));
    }
    qsort(v, n, sizeof *v, by_time);
    struct page_entry *entries = ARENA_ARRAY(a, struct page_entry, n);
    m->highestmodseq++;
    for (uint32_t i = 0; i < n; i++) {
        entries[i] = v[i].entry;
        entries[i].uid = m->uidnext++;
        entries[i].mod = m->highestmodseq;
        mailbox_count(m, entries[i].flags, entries[i].size, 1);
    }
    return pages_append(tx, m, entries, n, e);
}

static int sequence_chunk(uint64_t mailbox, uint32_t *n_r, struct err *e)
{
    struct arena *a = arena_new(16384);
    struct mailbox_row m;
    struct tx *tx = tx_begin(e);
    int rc = tx == NULL ? -1 : mailbox_lock(tx, mailbox, a, &m, e);

    *n_r = 0;
    if (rc == 0)
        rc = take_arrivals(tx, a, &m, n_r, e);
    if (rc == 0 && *n_r > 0)
        rc = mailbox_save(tx, &m, e);
    if (rc == 0 && *n_r > 0)
        rc = tx_end(&tx, true, e);
    else
        tx_abort(&tx);
    arena_free(&a);
    return rc;
}

static bool take_flag(void *ctx, unsigned index, const PGresult *res)
{
    (void)index;
    *(bool *)ctx = PQntuples(res) > 0;
    return true;
}

int mailbox_sequence(uint64_t mailbox, uint32_t *new_r, struct err *e)
{
    uint32_t n = 0, all = 0;
    bool waiting = false;

    if (new_r != NULL)
        *new_r = 0;
    if (db_each(take_flag, &waiting, e,
                "select 1 from mailbox m where m.id = $1 and exists (select from arrival a where "
                "a.account = m.account and a.mailbox = m.id)",
                DB_ARGS(db_int((int64_t)mailbox))) != 0)
        return -1;
    if (!waiting)
        return 0;
    do {
        int rc = sequence_chunk(mailbox, &n, e);
        if (rc != 0)
            return all > 0 ? 0 : rc;
        all += n;
        if (n > 0)
            bus_publish(BUS_CHANGE, mailbox);
    } while (n == CHUNK);
    if (new_r != NULL)
        *new_r = all;
    return 0;
}
