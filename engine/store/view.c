/* Views: one session's picture of a mailbox, loaded from index pages and brought up to date only
 * when the session asks (mailbox.h).
 *
 * Invariants: uids ascend; a snapshot is read in one repeatable-read transaction, so row and pages
 * agree; entries with FLAG_HELD are not in the picture; an expunge that was not yet announced
 * leaves the entry where it is and is found again by comparing UIDs. */
#include "store/view_int.h"

#include "core/arena.h"
#include "core/log.h"
#include "store/setting.h"

#include <stdlib.h>

#define SNAPSHOT "begin isolation level repeatable read read only"

/* --- arrays
 * ----------------------------------------------------------------------------------------- */
static void view_room(struct view *v, uint32_t n)
{
    if (n <= v->room)
        return;
    uint32_t room = v->room ? v->room + v->room / 4 : 0;
    if (room < n)
        room = n + 16;
    v->uids = xrealloc(v->uids, sizeof *v->uids * room);
    v->flags = xrealloc(v->flags, sizeof *v->flags * room);
    v->mods = xrealloc(v->mods, sizeof *v->mods * room);
    v->room = room;
}

uint32_t view_index(const struct view *v, uint32_t uid)
{
    uint32_t low = 0, high = v->count;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (v->uids[mid] < uid)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool view_keywords(struct view *v, const struct mailbox_row *m)
{
    bool changed = v->keyword_count != m->keyword_count;

    for (uint32_t i = 0; i < m->keyword_count; i++) {
        struct str name = str_head(m->keywords[i], sizeof v->keywords[i] - 1);
        if (!changed && !str_eq(str_of(v->keywords[i]), name))
            changed = true;
        memcpy(v->keywords[i], name.p, name.n);
        v->keywords[i][name.n] = '\0';
    }
    v->keyword_count = m->keyword_count;
    return changed;
}

/* --- opening
 * ------------------------------------------------------------------------------------------- */
static bool load_chunk(void *ctx, unsigned index, const PGresult *res)
{
    struct view *v = ctx;

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        uint32_t n = (uint32_t)pg_get_int(res, i, 1);
        if (n > PAGE_ENTRIES)
            return true;
        view_room(v, v->count + n);
        uint32_t at = v->count;
        if (!page_unpack_columns((uint32_t)pg_get_int(res, i, 0), n, pg_get_str(res, i, 2),
                                 pg_get_str(res, i, 3), pg_get_str(res, i, 4), v->uids + at,
                                 v->flags + at, v->mods + at))
            continue;
        uint32_t kept = at;
        for (uint32_t k = at; k < at + n; k++) {
            if (v->flags[k] & FLAG_HELD)
                continue;
            if (kept != k) {
                v->uids[kept] = v->uids[k];
                v->flags[kept] = v->flags[k];
                v->mods[kept] = v->mods[k];
            }
            kept++;
        }
        v->count = kept;
    }
    return true;
}

static int read_row(struct tx *tx, struct arena *a, uint64_t id, struct mailbox_row *m,
                    struct err *e)
{
    const struct rows *r;

    if (tx_exec(tx, a, &r, e, "select " MAILBOX_COLUMNS " from mailbox where id = $1",
                DB_ARGS(db_int((int64_t)id))) != 0)
        return -1;
    if (rows_count(r) == 0)
        return err_set(e, ERR_NOTFOUND, "the mailbox does not exist");
    mailbox_row_read(r, 0, a, m);
    return 0;
}

/* \Recent is a hint: lost in a crash, it is only given twice. */
static void claim_recent(const struct view *v)
{
    db_exec_async(NULL, NULL, NULL,
                  "update mailbox set recent_uid = $2 where id = $1 and recent_uid < $2",
                  DB_ARGS(db_int((int64_t)v->mailbox), db_int((int64_t)v->uidnext - 1)));
}

int view_open(uint64_t account, struct str name, bool readonly, struct view **v_r, struct err *e)
{
    struct arena *a = arena_new(4096);
    struct mailbox_row m;
    uint64_t id = 0;
    bool waiting = false;
    struct tx *tx = NULL;
    struct view *v = NULL;
    int rc = mailbox_lookup(account, name, &id, &waiting, e);

    if (rc == 0 && waiting)
        rc = mailbox_sequence(id, NULL, e);
    if (rc == 0) {
        tx = tx_begin_as(SNAPSHOT, e);
        rc = tx == NULL ? -1 : read_row(tx, a, id, &m, e);
    }
    if (rc == 0) {
        v = xcalloc(1, sizeof *v);
        v->account = account;
        v->mailbox = id;
        v->readonly = readonly;
        v->uidvalidity = m.uidvalidity;
        v->uidnext = m.uidnext;
        v->highestmodseq = m.highestmodseq;
        v->recent_from = m.recent_uid + 1;
        view_keywords(v, &m);
        struct view_private *p = xcalloc(1, sizeof *p);
        p->expunged = m.expunge_modseq;
        v->refs = p;
        if (m.messages > 0)
            view_room(v, (uint32_t)m.messages + 64);
        rc = pages_scan(tx, account, id, true, load_chunk, v, e);
    }
    tx_abort(&tx);
    arena_free(&a);
    if (rc != 0) {
        view_close(&v);
        return rc;
    }
    if (!readonly && v->recent_from < v->uidnext)
        claim_recent(v);
    *v_r = v;
    return 0;
}

void view_close(struct view **vp)
{
    struct view *v = *vp;

    *vp = NULL;
    if (v == NULL)
        return;
    struct view_private *p = v->refs;
    for (uint32_t i = 0; p != NULL && i < REF_PAGES; i++)
        free(p->pages[i]);
    free(p);
    free(v->uids);
    free(v->flags);
    free(v->mods);
    free(v);
}

/* --- synchronising
 * --------------------------------------------------------------------------------------- */
struct state {
    bool there, waiting;
    uint64_t highestmodseq, expunge_modseq;
};

static bool take_state(void *ctx, unsigned index, const PGresult *res)
{
    struct state *s = ctx;

    (void)index;
    s->there = PQntuples(res) == 1;
    if (s->there) {
        s->highestmodseq = (uint64_t)pg_get_int(res, 0, 0);
        s->expunge_modseq = (uint64_t)pg_get_int(res, 0, 1);
        s->waiting = pg_get_int(res, 0, 2) != 0;
    }
    return true;
}

static int ask_state(const struct view *v, struct state *s, struct err *e)
{
    return db_each(take_state, s, e,
                   "select m.highestmodseq, m.expunge_modseq, exists (select from arrival a where "
                   "a.account = $1 and a.mailbox = $2) from mailbox m where m.id = $2",
                   DB_ARGS(db_int((int64_t)v->account), db_int((int64_t)v->mailbox)));
}

/* What changed since, as read; applied when all of it is there. */
struct news {
    struct view *v;
    struct page_entry *changed;
    uint32_t count, room;
    unsigned char *alive; /* one a message of the picture */
    uint32_t next;        /* where the comparison stands */
};

static bool take_changed(void *ctx, unsigned index, const PGresult *res)
{
    struct news *w = ctx;
    struct page *p = xmalloc(sizeof *p);

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        if (!page_unpack(p, (uint32_t)pg_get_int(res, i, 0), (uint32_t)pg_get_int(res, i, 1),
                         pg_get_str(res, i, 2), pg_get_str(res, i, 3), pg_get_str(res, i, 4),
                         STR_NONE))
            continue;
        for (uint32_t k = 0; k < p->n; k++) {
            if (p->v[k].mod <= w->v->highestmodseq && p->v[k].uid < w->v->uidnext)
                continue;
            if (w->count == w->room) {
                w->room = w->room ? w->room * 2 : 64;
                w->changed = xrealloc(w->changed, sizeof *w->changed * w->room);
            }
            w->changed[w->count++] = p->v[k];
        }
    }
    free(p);
    return true;
}

static bool take_alive(void *ctx, unsigned index, const PGresult *res)
{
    struct news *w = ctx;
    const struct view *v = w->v;
    uint32_t uids[PAGE_ENTRIES], flags[PAGE_ENTRIES];

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        uint32_t n = (uint32_t)pg_get_int(res, i, 1);
        if (!page_unpack_columns((uint32_t)pg_get_int(res, i, 0), n, pg_get_str(res, i, 2),
                                 pg_get_str(res, i, 3), STR_NONE, uids, flags, NULL))
            continue;
        for (uint32_t k = 0; k < n; k++) {
            while (w->next < v->count && v->uids[w->next] < uids[k])
                w->next++;
            if (w->next < v->count && v->uids[w->next] == uids[k] && !(flags[k] & FLAG_HELD))
                w->alive[w->next++] = 1;
        }
    }
    return true;
}

static void apply_expunges(struct view *v, const struct news *w, struct arena *a,
                           struct view_changes *c)
{
    uint32_t kept = 0, gone = 0;

    for (uint32_t i = 0; i < v->count; i++)
        gone += !w->alive[i];
    if (gone == 0)
        return;
    c->expunged = ARENA_ARRAY(a, uint32_t, gone);
    for (uint32_t i = 0; i < v->count; i++) {
        if (!w->alive[i]) {
            /* The numbers of those after it drop by one each time. */
            c->expunged[c->expunged_count] = i + 1 - c->expunged_count;
            c->expunged_count++;
            continue;
        }
        if (kept != i) {
            v->uids[kept] = v->uids[i];
            v->flags[kept] = v->flags[i];
            v->mods[kept] = v->mods[i];
        }
        kept++;
    }
    v->count = kept;
}

static void apply_changes(struct view *v, const struct news *w, struct arena *a,
                          struct view_changes *c)
{
    uint32_t old_next = v->uidnext;

    c->changed = ARENA_ARRAY(a, uint32_t, (size_t)w->count + 1);
    for (uint32_t i = 0; i < w->count; i++) {
        const struct page_entry *x = &w->changed[i];
        if (x->uid < old_next) {
            uint32_t at = view_index(v, x->uid);
            if (at >= v->count || v->uids[at] != x->uid || v->mods[at] == x->mod)
                continue;
            bool differs = v->flags[at] != x->flags;
            v->flags[at] = x->flags;
            v->mods[at] = x->mod;
            if (differs)
                c->changed[c->changed_count++] = at;
        } else if (!(x->flags & FLAG_HELD)) {
            view_room(v, v->count + 1);
            v->uids[v->count] = x->uid;
            v->flags[v->count] = x->flags;
            v->mods[v->count] = x->mod;
            v->count++;
            c->added++;
        }
    }
}

static int sync_now(struct view *v, bool expunge, struct arena *a, struct view_changes *c,
                    struct err *e)
{
    struct view_private *p = v->refs;
    struct arena *tmp = arena_new(4096);
    struct news w = {.v = v};
    struct mailbox_row m;
    struct err local = ERR_INIT;
    bool compare = false;
    struct tx *tx = tx_begin_as(SNAPSHOT, e);
    int rc = tx == NULL ? -1 : read_row(tx, tmp, v->mailbox, &m, &local);

    if (tx != NULL && rc != 0) {
        if (local.cls == ERR_NOTFOUND) {
            c->gone = true;
            rc = 0;
        } else {
            rc = err_set(e, local.cls, "%s", local.text);
        }
        tx_abort(&tx);
        arena_free(&tmp);
        return rc;
    }
    if (rc == 0)
        rc = tx_each(tx, take_changed, &w, e,
                     "select min_uid, n, uids, flags, mods from mailbox_page where account = $1 "
                     "and mailbox = $2 and max_modseq > $3 order by min_uid",
                     DB_ARGS(db_int((int64_t)v->account), db_int((int64_t)v->mailbox),
                             db_int((int64_t)v->highestmodseq)));
    if (rc == 0 && expunge && m.expunge_modseq > p->expunged) {
        compare = true;
        w.alive = xcalloc((size_t)v->count + 1, 1);
        rc = pages_scan(tx, v->account, v->mailbox, false, take_alive, &w, e);
    }
    tx_abort(&tx);
    if (rc == 0) {
        if (compare) {
            apply_expunges(v, &w, a, c);
            p->expunged = m.expunge_modseq;
        }
        apply_changes(v, &w, a, c);
        v->uidnext = m.uidnext;
        v->highestmodseq = m.highestmodseq;
        v->uidvalidity = m.uidvalidity;
        c->keywords_changed = view_keywords(v, &m);
        if (c->added > 0 && !v->readonly && m.recent_uid + 1 < m.uidnext)
            claim_recent(v);
    }
    free(w.changed);
    free(w.alive);
    arena_free(&tmp);
    return rc;
}

int view_sync(struct view *v, bool expunge, struct arena *a, struct view_changes *c_r,
              struct err *e)
{
    const struct view_private *p = v->refs;
    struct state s = {0};

    *c_r = (struct view_changes){0};
    if (ask_state(v, &s, e) != 0)
        return -1;
    if (s.there && s.waiting) {
        if (mailbox_sequence(v->mailbox, NULL, e) != 0 || ask_state(v, &s, e) != 0)
            return -1;
    }
    if (!s.there) {
        c_r->gone = true;
        return 0;
    }
    if (s.highestmodseq == v->highestmodseq && (!expunge || s.expunge_modseq <= p->expunged))
        return 0;
    return sync_now(v, expunge, a, c_r, e);
}

/* --- references
 * ----------------------------------------------------------------------------------------- */
/* A UID's head never changes, so what was loaded stays true; pages only get replaced by newer ones.
 */
static const struct ref *ref_cached(const struct view_private *p, uint32_t uid)
{
    for (uint32_t i = 0; i < REF_PAGES; i++) {
        const struct ref_page *r = p->pages[i];
        if (r == NULL || r->n == 0 || uid < r->v[0].uid || uid > r->v[r->n - 1].uid)
            continue;
        uint32_t low = 0, high = r->n;
        while (low < high) {
            uint32_t mid = (low + high) / 2;
            if (r->v[mid].uid < uid)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < r->n && r->v[low].uid == uid)
            return &r->v[low];
    }
    return NULL;
}

static void ref_keep(struct view_private *p, const struct page *page)
{
    struct ref_page **slot = &p->pages[p->next];

    p->next = (p->next + 1) % REF_PAGES;
    if (*slot == NULL)
        *slot = xmalloc(sizeof **slot);
    (*slot)->n = page->n;
    for (uint32_t i = 0; i < page->n; i++)
        (*slot)->v[i] = (struct ref){.uid = page->v[i].uid,
                                     .size = page->v[i].size,
                                     .date = page->v[i].date,
                                     .head = page->v[i].head};
}

static void ref_out(struct view_ref *out, uint64_t head, uint32_t size, uint32_t date)
{
    *out = (struct view_ref){.head = head, .size = size, .at = (int64_t)date * 1000};
}

/* Expunged meanwhile: the recycle bin still knows it while it is kept. */
static int refs_from_bin(struct view *v, const uint32_t *index, const uint32_t *missing, uint32_t n,
                         struct view_ref *out, struct err *e)
{
    struct arena *a = arena_new(4096);
    int64_t *uids = ARENA_ARRAY(a, int64_t, n);
    const struct rows *r;

    for (uint32_t i = 0; i < n; i++)
        uids[i] = v->uids[index[missing[i]]];
    int rc = db_exec(
        a, &r, e,
        "select uid, head, size, at from deleted_message where account = $1 and "
        "mailbox = $2 and uid = any($3)",
        DB_ARGS(db_int((int64_t)v->account), db_int((int64_t)v->mailbox), db_ints(uids, n)));
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        out[missing[i]] = (struct view_ref){.gone = true};
        for (uint32_t k = 0; k < rows_count(r); k++)
            if (rows_int(r, k, 0) == uids[i])
                ref_out(&out[missing[i]], (uint64_t)rows_int(r, k, 1), (uint32_t)rows_int(r, k, 2),
                        page_date(rows_int(r, k, 3)));
    }
    arena_free(&a);
    return rc;
}

static int by_uid(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int refs_load(struct view *v, const uint32_t *index, const uint32_t *missing, uint32_t n,
                     struct view_ref *out, struct err *e)
{
    struct page_list l = {.a = arena_new(65536)};
    uint32_t *uids = ARENA_ARRAY(l.a, uint32_t, n);
    uint32_t *still = ARENA_ARRAY(l.a, uint32_t, n);
    uint32_t still_count = 0;

    for (uint32_t i = 0; i < n; i++)
        uids[i] = v->uids[index[missing[i]]];
    qsort(uids, n, sizeof *uids, by_uid);
    int rc = pages_load(NULL, v->account, v->mailbox, uids, n, LOAD_REFS, &l, e);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct page_entry *x = pages_find(&l, v->uids[index[missing[i]]], NULL);
        if (x != NULL)
            ref_out(&out[missing[i]], x->head, x->size, x->date);
        else
            still[still_count++] = missing[i];
    }
    /* Only the last ones of a long range: the next request most likely goes on from there. */
    if (rc == 0)
        for (uint32_t i = l.n > REF_PAGES ? l.n - REF_PAGES : 0; i < l.n; i++)
            if (l.v[i]->n > 0)
                ref_keep(v->refs, l.v[i]);
    if (rc == 0 && still_count > 0)
        rc = refs_from_bin(v, index, still, still_count, out, e);
    arena_free(&l.a);
    return rc;
}

int view_refs(struct view *v, const uint32_t *index, uint32_t n, struct view_ref *out,
              struct err *e)
{
    uint32_t *missing = xmalloc(sizeof *missing * ((size_t)n + 1));
    uint32_t count = 0;
    int rc = 0;

    for (uint32_t i = 0; i < n; i++) {
        const struct ref *r = ref_cached(v->refs, v->uids[index[i]]);
        if (r != NULL)
            ref_out(&out[i], r->head, r->size, r->date);
        else
            missing[count++] = i;
    }
    for (uint32_t at = 0; at < count && rc == 0; at += SLICE)
        rc = refs_load(v, index, missing + at, count - at < SLICE ? count - at : SLICE, out, e);
    free(missing);
    return rc;
}
