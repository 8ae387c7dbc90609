/* Reading and writing index pages inside a transaction that holds the mailbox's lock. */
#include "store/mailbox_int.h"

#include <stdlib.h>

enum {
    WRITE_PAGES = 32, /* pages a statement: bounds the memory of one */
    SCAN_PAGES = 256, /* pages a chunk of a scan, about 900 KB */
    SAMPLE = 64, /* of this many neighbours one is looked up, the others are expected with it */
    MERGES = 8   /* small pages merged per expunge: later ones go on */
};

#define PAGE_KEY(account, mailbox) db_int((int64_t)(account)), db_int((int64_t)(mailbox))

static int each(struct tx *tx, pg_result fn, void *ctx, struct err *e, const char *sql,
                unsigned nargs, const struct db_arg *args)
{
    return tx ? tx_each(tx, fn, ctx, e, sql, nargs, args) : db_each(fn, ctx, e, sql, nargs, args);
}

/* --- reading
 * -------------------------------------------------------------------------------------- */
static struct page *list_add(struct page_list *l)
{
    if (l->n == l->room) {
        uint32_t room = l->room ? l->room * 2 : 16;
        struct page **v = ARENA_ARRAY(l->a, struct page *, room);
        if (l->n)
            memcpy(v, l->v, sizeof *v * l->n);
        l->v = v;
        l->room = room;
    }
    struct page *p = arena_alloc(l->a, sizeof *p);
    p->n = p->base = 0;
    p->dirty = false;
    return l->v[l->n++] = p;
}

struct loading {
    struct page_list *l;
    bool bad;
};

static bool load_page(void *ctx, unsigned index, const PGresult *res)
{
    struct loading *g = ctx;

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        struct page *p = list_add(g->l);
        if (!page_unpack(p, (uint32_t)pg_get_int(res, i, 0), (uint32_t)pg_get_int(res, i, 1),
                         pg_get_str(res, i, 2), pg_get_str(res, i, 3), pg_get_str(res, i, 4),
                         PQnfields(res) > 5 ? pg_get_str(res, i, 5) : STR_NONE)) {
            g->bad = true;
            g->l->n--;
        }
    }
    return true;
}

static int by_base(const void *a, const void *b)
{
    uint32_t x = (*(struct page *const *)a)->base, y = (*(struct page *const *)b)->base;
    return x < y ? -1 : x > y;
}

static struct page *page_of(const struct page_list *l, uint32_t uid)
{
    uint32_t low = 0, high = l->n;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (l->v[mid]->base <= uid)
            low = mid + 1;
        else
            high = mid;
    }
    return low > 0 ? l->v[low - 1] : NULL;
}

struct page_entry *pages_find(const struct page_list *l, uint32_t uid, struct page **page_r)
{
    struct page *p = page_of(l, uid);
    uint32_t low = 0, high = p ? p->n : 0;

    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (p->v[mid].uid < uid)
            low = mid + 1;
        else
            high = mid;
    }
    if (p == NULL || low >= p->n || p->v[low].uid != uid)
        return NULL;
    if (page_r != NULL)
        *page_r = p;
    return &p->v[low];
}

#define FLAG_COLUMNS "p.min_uid, p.n, p.uids, p.flags, p.mods"
#define ALL_COLUMNS FLAG_COLUMNS ", p.refs"
#define WHERE_BOX " from mailbox_page p where p.account = $1 and p.mailbox = $2 "
#define IN_RANGE                                                                                   \
    "and p.min_uid >= coalesce((select max(q.min_uid) from mailbox_page q where q.account = $1 "   \
    "and q.mailbox = $2 and q.min_uid <= $3), 0) and p.min_uid <= $4 order by p.min_uid"
#define BY_SAMPLE                                                                                  \
    "and p.min_uid in (select (select max(q.min_uid) from mailbox_page q where q.account = $1 "    \
    "and q.mailbox = $2 and q.min_uid <= u) from unnest($3::bigint[]) u) order by p.min_uid"

/* Is the page that must hold this UID, if any does, in the list?  Pages are looked up by their
 * greatest base below a UID, so a loaded one settles all UIDs up to its last, and every UID that
 * was asked for itself. */
static bool settled(const struct page_list *l, uint32_t uid)
{
    const struct page *p = page_of(l, uid);
    return p != NULL && p->n > 0 && uid <= p->v[p->n - 1].uid;
}

static int load_samples(struct tx *tx, uint64_t account, uint64_t mailbox, const uint32_t *uids,
                        uint32_t n, unsigned what, struct page_list *out, struct err *e)
{
    struct loading g = {.l = out};
    int64_t *ask = malloc(sizeof *ask * (n + 1));
    bool *asked = calloc(n + 1, 1);
    int rc = 0;

    if (ask == NULL || asked == NULL)
        abort();
    for (;;) {
        uint32_t count = 0, last = 0;
        bool any = false;
        for (uint32_t i = 0; i < n; i++) {
            if (asked[i] || settled(out, uids[i]))
                continue;
            if (any && i - last < SAMPLE)
                continue;
            any = true;
            last = i;
            asked[i] = true;
            ask[count++] = uids[i];
        }
        if (count == 0)
            break;
        uint32_t before = out->n;
        rc = each(tx, load_page, &g, e,
                  what & LOAD_REFS ? "select " ALL_COLUMNS WHERE_BOX BY_SAMPLE
                                   : "select " FLAG_COLUMNS WHERE_BOX BY_SAMPLE,
                  DB_ARGS(PAGE_KEY(account, mailbox), db_ints(ask, count)));
        if (rc != 0)
            break;
        if (out->n > before)
            qsort(out->v, out->n, sizeof *out->v, by_base);
        /* A UID that was asked for may lead to a page that is there already. */
        uint32_t kept = 0;
        for (uint32_t i = 0; i < out->n; i++)
            if (kept == 0 || out->v[kept - 1]->base != out->v[i]->base)
                out->v[kept++] = out->v[i];
        out->n = kept;
    }
    free(ask);
    free(asked);
    return rc == 0 && g.bad ? err_set(e, ERR_INTERNAL, "an index page is damaged") : rc;
}

int pages_load(struct tx *tx, uint64_t account, uint64_t mailbox, const uint32_t *uids, uint32_t n,
               unsigned what, struct page_list *out, struct err *e)
{
    struct loading g = {.l = out};

    if (n == 0)
        return 0;
    if (uids[n - 1] - uids[0] >= n * 8 && uids[n - 1] - uids[0] > PAGE_ENTRIES)
        return load_samples(tx, account, mailbox, uids, n, what, out, e);
    if (each(tx, load_page, &g, e,
             what & LOAD_REFS ? "select " ALL_COLUMNS WHERE_BOX IN_RANGE
                              : "select " FLAG_COLUMNS WHERE_BOX IN_RANGE,
             DB_ARGS(PAGE_KEY(account, mailbox), db_int(uids[0]), db_int(uids[n - 1]))) != 0)
        return -1;
    return g.bad ? err_set(e, ERR_INTERNAL, "an index page is damaged") : 0;
}

struct scanning {
    pg_result fn;
    void *ctx;
    int rows;
    int64_t last;
};

static bool scan_chunk(void *ctx, unsigned index, const PGresult *res)
{
    struct scanning *s = ctx;

    s->rows = PQntuples(res);
    if (s->rows > 0)
        s->last = pg_get_int(res, s->rows - 1, 0);
    return s->fn(s->ctx, index, res);
}

int pages_scan(struct tx *tx, uint64_t account, uint64_t mailbox, bool mods, pg_result fn,
               void *ctx, struct err *e)
{
    struct scanning s = {.fn = fn, .ctx = ctx, .last = -1};

    do {
        s.rows = 0;
        if (each(tx, scan_chunk, &s, e,
                 mods ? "select p.min_uid, p.n, p.uids, p.flags, p.mods" WHERE_BOX
                        "and p.min_uid > $3 order by p.min_uid limit 256"
                      : "select p.min_uid, p.n, p.uids, p.flags" WHERE_BOX
                        "and p.min_uid > $3 order by p.min_uid limit 256",
                 DB_ARGS(PAGE_KEY(account, mailbox), db_int(s.last))) != 0)
            return -1;
    } while (s.rows == SCAN_PAGES);
    return 0;
}

/* --- writing
 * ---------------------------------------------------------------------------------------- */
/* One statement's worth of pages in the form of arrays. */
struct write {
    uint32_t n;
    int64_t base[WRITE_PAGES], last[WRITE_PAGES], mod[WRITE_PAGES], count[WRITE_PAGES];
    struct str uids[WRITE_PAGES], flags[WRITE_PAGES], mods[WRITE_PAGES], refs[WRITE_PAGES];
    struct page_bytes bytes[WRITE_PAGES];
};

static void write_add(struct write *w, uint32_t base, const struct page_entry *v, uint32_t n)
{
    uint32_t i = w->n++;
    struct page_bytes *b = &w->bytes[i];

    page_pack(base, v, n, b);
    w->base[i] = base;
    w->last[i] = n ? v[n - 1].uid : base;
    w->mod[i] = (int64_t)page_max_mod(v, n);
    w->count[i] = n;
    w->uids[i] = str_make(b->uids, n * 2);
    w->flags[i] = str_make(b->flags, n * 4);
    w->mods[i] = str_make(b->mods, n * 8);
    w->refs[i] = str_make(b->refs, n * 16);
}

static int write_all(struct tx *tx, const struct mailbox_row *r, struct write *w, struct err *e)
{
    uint32_t n = w->n;

    w->n = 0;
    if (n == 0)
        return 0;
    return tx_queue(
        tx, e,
        "insert into mailbox_page (account, mailbox, min_uid, max_uid, max_modseq, n, uids, flags, "
        "mods, refs) select $1, $2, * from unnest($3::bigint[], $4::bigint[], $5::bigint[], "
        "$6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[]) "
        "on conflict (account, mailbox, min_uid) do update set max_uid = excluded.max_uid, "
        "max_modseq = excluded.max_modseq, n = excluded.n, uids = excluded.uids, "
        "flags = excluded.flags, mods = excluded.mods, refs = excluded.refs",
        DB_ARGS(PAGE_KEY(r->account, r->id), db_ints(w->base, n), db_ints(w->last, n),
                db_ints(w->mod, n), db_ints(w->count, n), db_bytess(w->uids, n),
                db_bytess(w->flags, n), db_bytess(w->mods, n), db_bytess(w->refs, n)));
}

static int write_flags(struct tx *tx, const struct mailbox_row *r, struct write *w, struct err *e)
{
    uint32_t n = w->n;

    w->n = 0;
    if (n == 0)
        return 0;
    return tx_queue(tx, e,
                    "update mailbox_page p set max_modseq = u.m, flags = u.f, mods = u.s from "
                    "unnest($3::bigint[], $4::bigint[], $5::bytea[], $6::bytea[]) u(b, m, f, s) "
                    "where p.account = $1 and p.mailbox = $2 and p.min_uid = u.b",
                    DB_ARGS(PAGE_KEY(r->account, r->id), db_ints(w->base, n), db_ints(w->mod, n),
                            db_bytess(w->flags, n), db_bytess(w->mods, n)));
}

static int delete_pages(struct tx *tx, const struct mailbox_row *r, const int64_t *bases,
                        uint32_t n, struct err *e)
{
    return n == 0 ? 0
                  : tx_queue(tx, e,
                             "delete from mailbox_page where account = $1 and mailbox = $2 and "
                             "min_uid = any($3)",
                             DB_ARGS(PAGE_KEY(r->account, r->id), db_ints(bases, n)));
}

int pages_write_flags(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                      struct err *e)
{
    struct write *w = xmalloc(sizeof *w);
    int rc = 0;

    w->n = 0;
    for (uint32_t i = 0; i < l->n && rc == 0; i++) {
        if (l->v[i]->dirty)
            write_add(w, l->v[i]->base, l->v[i]->v, l->v[i]->n);
        if (w->n == WRITE_PAGES)
            rc = write_flags(tx, r, w, e);
    }
    if (rc == 0)
        rc = write_flags(tx, r, w, e);
    free(w);
    return rc;
}

int pages_write(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                struct err *e)
{
    struct write *w = xmalloc(sizeof *w);
    int64_t *gone = xmalloc(sizeof *gone * (l->n + 1));
    uint32_t gone_count = 0;
    int rc = 0;

    w->n = 0;
    for (uint32_t i = 0; i < l->n && rc == 0; i++) {
        if (!l->v[i]->dirty)
            continue;
        if (l->v[i]->n == 0)
            gone[gone_count++] = l->v[i]->base;
        else
            write_add(w, l->v[i]->base, l->v[i]->v, l->v[i]->n);
        if (w->n == WRITE_PAGES)
            rc = write_all(tx, r, w, e);
    }
    if (rc == 0)
        rc = write_all(tx, r, w, e);
    if (rc == 0)
        rc = delete_pages(tx, r, gone, gone_count, e);
    free(w);
    free(gone);
    return rc;
}

/* --- appending
 * ------------------------------------------------------------------------------------------ */
/* Entries that fit on a page that begins with v[0]. */
static uint32_t page_take(uint32_t base, const struct page_entry *v, uint32_t n)
{
    uint32_t most = n < PAGE_ENTRIES ? n : PAGE_ENTRIES, i = 0;

    while (i < most && v[i].uid - base <= PAGE_SPAN)
        i++;
    /* Whole tails only, so that the rest starts the new tail. */
    if (i == n && i > PAGE_TAIL_ENTRIES && i < PAGE_ENTRIES)
        i -= i % PAGE_TAIL_ENTRIES;
    return i;
}

static int append_chunks(struct tx *tx, const struct mailbox_row *r, uint32_t base,
                         const struct page_entry *v, uint32_t n, struct err *e)
{
    struct write *w = xmalloc(sizeof *w);
    int rc = 0;

    w->n = 0;
    for (uint32_t at = 0; at < n && rc == 0;) {
        uint32_t first = at == 0 ? base : v[at].uid;
        uint32_t count = page_take(first, v + at, n - at);
        write_add(w, first, v + at, count);
        at += count;
        if (w->n == WRITE_PAGES)
            rc = write_all(tx, r, w, e);
    }
    if (rc == 0)
        rc = write_all(tx, r, w, e);
    free(w);
    return rc;
}

int pages_append(struct tx *tx, const struct mailbox_row *r, const struct page_entry *v, uint32_t n,
                 struct err *e)
{
    struct page_list l = {.a = arena_new(4096)};
    struct loading g = {.l = &l};
    int rc = tx_each(tx, load_page, &g, e,
                     "select " ALL_COLUMNS WHERE_BOX "order by p.min_uid desc limit 2",
                     DB_ARGS(PAGE_KEY(r->account, r->id)));

    if (rc == 0 && g.bad)
        rc = err_set(e, ERR_INTERNAL, "an index page is damaged");
    /* l.v[0] is the last page; it is the tail while it is small. */
    const struct page *tail = l.n > 0 && l.v[0]->n < PAGE_TAIL_ENTRIES ? l.v[0] : NULL;
    const struct page *before = tail ? (l.n > 1 ? l.v[1] : NULL) : (l.n > 0 ? l.v[0] : NULL);
    uint32_t tail_n = tail ? tail->n : 0;
    if (rc == 0 && tail_n + n < PAGE_TAIL_ENTRIES)
        before = NULL; /* the tail has room */
    if (before != NULL && before->n >= PAGE_ENTRIES)
        before = NULL;
    /* A tail whose base is too far away from the new UIDs is left as it is. */
    if (rc == 0) {
        uint32_t before_n = before ? before->n : 0, total = before_n + tail_n + n;
        struct page_entry *all = xmalloc(sizeof *all * total);
        if (before_n)
            memcpy(all, before->v, sizeof *all * before_n);
        if (tail_n)
            memcpy(all + before_n, tail->v, sizeof *all * tail_n);
        memcpy(all + before_n + tail_n, v, sizeof *all * n);
        uint32_t base = before ? before->base : tail ? tail->base : all[0].uid;
        if (tail != NULL && before != NULL) {
            int64_t gone = tail->base;
            rc = delete_pages(tx, r, &gone, 1, e);
        }
        if (rc == 0)
            rc = append_chunks(tx, r, base, all, total, e);
        free(all);
    }
    arena_free(&l.a);
    return rc;
}

/* --- merging
 * ------------------------------------------------------------------------------------------- */
int pages_merge_small(struct tx *tx, const struct mailbox_row *r, const struct page_list *l,
                      struct err *e)
{
    unsigned merges = 0;

    for (uint32_t i = 0; i < l->n && merges < MERGES; i++) {
        const struct page *p = l->v[i];
        if (!p->dirty || p->n == 0 || p->n >= PAGE_ENTRIES / 4)
            continue;
        struct page_list two = {.a = arena_new(4096)};
        struct loading g = {.l = &two};
        int rc = tx_each(tx, load_page, &g, e,
                         "select " ALL_COLUMNS WHERE_BOX
                         "and p.min_uid <= $3 order by p.min_uid desc limit 2",
                         DB_ARGS(PAGE_KEY(r->account, r->id), db_int(p->base)));
        if (rc == 0 && two.n == 2 && two.v[0]->base == p->base) {
            struct page *low = two.v[1], *high = two.v[0];
            if (low->n > 0 && low->n + high->n <= PAGE_ENTRIES &&
                high->v[high->n - 1].uid - low->base <= PAGE_SPAN) {
                memcpy(low->v + low->n, high->v, sizeof *high->v * high->n);
                low->n += high->n;
                high->n = 0;
                low->dirty = high->dirty = true;
                rc = pages_write(tx, r, &two, e);
                merges++;
            }
        }
        arena_free(&two.a);
        if (rc != 0)
            return rc;
    }
    return 0;
}
