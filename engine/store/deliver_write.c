/* Messages into statements: one row each for up to three messages, unnest of binary arrays above
 * (measured: at batch 1 unnest costs twice as much, at 16 half). */
#include "store/deliver_int.h"

#include "core/limits.h"
#include "store/stage_int.h"
#include "store/text.h"

#include <stdlib.h>
#include <time.h>

enum { ONE_ROW_MOST = 3, COLUMNS_MOST = 20 };

/* Rows collected for one table: columns of int8, text or bytea. */
struct column {
    enum db_type type; /* of an element: DB_INT8, DB_TEXT, DB_BYTEA, DB_TIMESTAMP */
    union {
        int64_t *ints;
        struct str *strs;
    };
};

struct table {
    struct arena *a;
    const char *one, *many; /* statements */
    unsigned columns;
    uint32_t rows, room;
    struct column v[COLUMNS_MOST];
};

static void table_init(struct table *t, struct arena *a, const char *one, const char *many,
                       const char *types)
{
    *t = (struct table){.a = a, .one = one, .many = many};
    for (; *types; types++)
        t->v[t->columns++].type = *types == 'i'   ? DB_INT8
                                  : *types == 't' ? DB_TEXT
                                  : *types == 'a' ? DB_TIMESTAMP
                                                  : DB_BYTEA;
}

static bool numeric(const struct column *c)
{
    return c->type == DB_INT8 || c->type == DB_TIMESTAMP;
}

static uint32_t table_row(struct table *t)
{
    if (t->rows == t->room) {
        uint32_t room = t->room ? t->room * 2 : 8;
        for (unsigned i = 0; i < t->columns; i++) {
            struct column *c = &t->v[i];
            if (numeric(c)) {
                int64_t *v = arena_alloc(t->a, sizeof *v * room);
                if (t->rows)
                    memcpy(v, c->ints, sizeof *v * t->rows);
                c->ints = v;
            } else {
                struct str *v = arena_alloc(t->a, sizeof *v * room);
                if (t->rows)
                    memcpy(v, c->strs, sizeof *v * t->rows);
                c->strs = v;
            }
        }
        t->room = room;
    }
    return t->rows++;
}

static int table_send(const struct table *t, struct pg *c, struct err *e)
{
    struct db_arg args[COLUMNS_MOST];

    if (t->rows > ONE_ROW_MOST) {
        for (unsigned i = 0; i < t->columns; i++) {
            const struct column *col = &t->v[i];
            args[i] =
                (struct db_arg){.type = col->type == DB_INT8        ? DB_INT8_ARRAY
                                        : col->type == DB_TEXT      ? DB_TEXT_ARRAY
                                        : col->type == DB_TIMESTAMP ? DB_TIMESTAMP_ARRAY
                                                                    : DB_BYTEA_ARRAY,
                                .a = {numeric(col) ? (const void *)col->ints : col->strs, t->rows}};
        }
        return pg_send(c, 0, e, t->many, t->columns, args);
    }
    for (uint32_t row = 0; row < t->rows; row++) {
        for (unsigned i = 0; i < t->columns; i++) {
            const struct column *col = &t->v[i];
            if (numeric(col))
                args[i] = (struct db_arg){.type = col->type, .i = col->ints[row]};
            else
                args[i] = (struct db_arg){
                    .type = col->type, .s = col->strs[row], .null = col->strs[row].p == NULL};
        }
        if (pg_send(c, 0, e, t->one, t->columns, args) != 0)
            return -1;
    }
    return 0;
}

static void init_tables(struct table *body, struct table *head, struct table *arrival,
                        struct table *destination, struct table *queue, struct table *ledger,
                        struct arena *a)
{
    table_init(body, a,
               "insert into body (id, size, parts, refs, head_first, heads, bytes) "
               "values ($1, $2, $3, $4, $5, $6, $7)",
               "insert into body (id, size, parts, refs, head_first, heads, bytes) "
               "select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], "
               "$5::bigint[], $6::bigint[], $7::bytea[])",
               "iiiiiib");
    table_init(
        head, a,
        "insert into head (id, body, size, body_size, ours, original, sender, bytes, structure) "
        "values ($1, $2, $3, $4, $5, nullif($6, 0), $7, $8, $9)",
        "insert into head (id, body, size, body_size, ours, original, sender, bytes, structure) "
        "select id, b, s, bs, o, nullif(g, 0), f, x, st from unnest($1::bigint[], "
        "$2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], "
        "$7::text[], $8::bytea[], $9::bytea[]) u(id, b, s, bs, o, g, f, x, st)",
        "iiiiiitbb");
    table_init(arrival, a,
               "insert into arrival (account, mailbox, id, head, size, at, flags, keywords) "
               "values ($1, $2, $3, $4, $5, $6, $7, $8)",
               "insert into arrival (account, mailbox, id, head, size, at, flags, keywords) "
               "select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], "
               "$5::bigint[], $6::timestamptz[], $7::bigint[], $8::text[])",
               "iiiiiait");
    table_init(destination, a,
               "insert into destination (key, domain, route) values ($1, $2, $3) "
               "on conflict (key) do nothing",
               "insert into destination (key, domain, route) select distinct on (1) * "
               "from unnest($1::text[], $2::text[], $3::text[]) on conflict (key) do nothing",
               "ttt");
    table_init(queue, a,
               "with new as (insert into queue (id, destination, head, size, sender, recipient, "
               "env_id, ret, notify, orcpt, auth_user, trace, state) "
               "select $1, d.id, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 "
               "from destination d where d.key = $13 returning destination) "
               "insert into destination_wake (destination) select destination from new",
               "with new as (insert into queue (id, destination, head, size, sender, recipient, "
               "env_id, ret, notify, orcpt, auth_user, trace, state) "
               "select u.id, d.id, h, s, f, r, env, ret, nfy, orc, au, tr, st "
               "from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], "
               "$6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], "
               "$12::text[], $13::text[]) "
               "u(id, h, s, f, r, env, ret, nfy, orc, au, tr, st, key) "
               "join destination d on d.key = u.key returning destination) "
               "insert into destination_wake (destination) select distinct destination from new",
               "iiitttttttttt");
    table_init(ledger, a,
               "insert into ledger (id, trace, kind, peer, auth_user, sender, subject, size, "
               "inputs, steps, answers) values ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, "
               "$10::jsonb, $11::jsonb)",
               "insert into ledger (id, trace, kind, peer, auth_user, sender, subject, size, "
               "inputs, steps, answers) select i, t, k, p, au, f, su, s, x::jsonb, y::jsonb, "
               "z::jsonb from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], "
               "$5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::text[], "
               "$11::text[]) u(i, t, k, p, au, f, su, s, x, y, z)",
               "itttttti"
               "ttt");
}

static struct str or_null(struct str s)
{
    return s.n ? s : STR_NONE;
}

static struct str not_null(struct str s)
{
    return s.p ? s : STR("");
}

static void add_heads(struct table *t, const struct pending *p)
{
    uint64_t original = p->heads + p->m->head_count;
    struct str structure = p->structure;

    for (uint32_t i = 0; i < p->m->head_count; i++) {
        const struct deliver_head *h = &p->m->heads[i];
        bool changed = h->received.n > 0;
        for (int second = 0; second < (changed ? 2 : 1); second++) {
            struct str bytes = not_null(second ? h->received : h->bytes);
            uint32_t r = table_row(t);
            t->v[0].ints[r] = (int64_t)(second ? original : p->heads + i);
            t->v[1].ints[r] = (int64_t)p->body;
            t->v[2].ints[r] = (int64_t)bytes.n;
            t->v[3].ints[r] = (int64_t)p->m->stage->size;
            t->v[4].ints[r] = second ? 0 : h->ours;
            t->v[5].ints[r] = changed && !second ? (int64_t)original : 0;
            t->v[6].strs[r] = not_null(p->m->sender);
            t->v[7].strs[r] = bytes;
            t->v[8].strs[r] = structure;
        }
        original += changed;
    }
}

/* Keyword names are atoms, so a space separates them; what is none is dropped. */
static struct str join_keywords(struct arena *a, const struct deliver_target *t)
{
    struct str s = STR_NONE;

    for (uint32_t i = 0; i < t->keyword_count; i++)
        if (t->keywords[i].n > 0 && str_chr(t->keywords[i], ' ') < 0)
            s = arena_printf(a, "%.*s%s%.*s", STR_ARG(s), s.n ? " " : "", STR_ARG(t->keywords[i]));
    return s;
}

static uint64_t head_size(const struct pending *p, uint32_t head)
{
    return p->m->heads[head].bytes.n + p->m->stage->size;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void add_arrivals(struct table *t, struct arena *a, const struct pending *p, uint64_t *id)
{
    for (uint32_t i = 0; i < p->m->target_count; i++) {
        const struct deliver_target *d = &p->m->targets[i];
        uint32_t r = table_row(t);
        t->v[0].ints[r] = (int64_t)d->account;
        t->v[1].ints[r] = (int64_t)d->mailbox;
        t->v[2].ints[r] = (int64_t)(*id)++;
        t->v[3].ints[r] = (int64_t)(p->heads + d->head);
        t->v[4].ints[r] = (int64_t)head_size(p, d->head);
        t->v[5].ints[r] = d->at ? d->at : now_ms();
        t->v[6].ints[r] = d->flags & 0xff;
        t->v[7].strs[r] = join_keywords(a, d);
    }
}

static void add_queue(struct table *destination, struct table *queue, struct arena *a,
                      const struct pending *p, uint64_t *id)
{
    for (uint32_t i = 0; i < p->m->remote_count; i++) {
        const struct deliver_remote *d = &p->m->remotes[i];
        ptrdiff_t at = str_rchr(d->recipient, '@');
        struct str domain = at < 0 ? STR("") : str_from(d->recipient, (size_t)at + 1);
        domain = text_clean(a, arena_lower(a, domain));
        struct str key = d->route.n ? arena_printf(a, "smtp:%.*s", STR_ARG(d->route)) : domain;
        key = text_clean(a, key);
        uint32_t r = table_row(destination);
        destination->v[0].strs[r] = key;
        destination->v[1].strs[r] = domain;
        destination->v[2].strs[r] = not_null(d->route);
        r = table_row(queue);
        queue->v[0].ints[r] = (int64_t)(*id)++;
        queue->v[1].ints[r] = (int64_t)(p->heads + d->head);
        queue->v[2].ints[r] = (int64_t)head_size(p, d->head);
        queue->v[3].strs[r] = not_null(p->m->sender);
        queue->v[4].strs[r] = not_null(d->recipient);
        queue->v[5].strs[r] = or_null(p->m->env_id);
        queue->v[6].strs[r] = or_null(p->m->ret);
        queue->v[7].strs[r] = or_null(d->notify);
        queue->v[8].strs[r] = or_null(d->orcpt);
        queue->v[9].strs[r] = or_null(p->m->auth_user);
        queue->v[10].strs[r] = or_null(p->m->trace);
        queue->v[11].strs[r] = d->hold ? STR("hold") : STR("wait");
        queue->v[12].strs[r] = key;
    }
}

static void add_ledger(struct table *t, struct arena *a, const struct pending *p)
{
    const struct deliver_message *m = p->m;
    uint32_t r;

    if (m->trace.n == 0)
        return;
    r = table_row(t);
    t->v[0].ints[r] = (int64_t)p->body;
    t->v[1].strs[r] = m->trace;
    t->v[2].strs[r] = str_of(m->kind ? m->kind : "smtp");
    t->v[3].strs[r] = or_null(m->peer);
    t->v[4].strs[r] = or_null(m->auth_user);
    t->v[5].strs[r] = not_null(m->sender);
    t->v[6].strs[r] = or_null(m->subject);
    t->v[7].ints[r] = (int64_t)m->stage->size;
    t->v[8].strs[r] = text_json(a, m->ledger_inputs);
    t->v[9].strs[r] = text_json(a, m->ledger_steps);
    t->v[10].strs[r] = text_json(a, m->ledger_answers);
}

static int add_body(struct table *t, struct pg *c, const struct pending *p, struct err *e)
{
    const struct stage *s = p->m->stage;
    uint32_t r = table_row(t);

    t->v[0].ints[r] = (int64_t)p->body;
    t->v[1].ints[r] = (int64_t)s->size;
    t->v[2].ints[r] = s->parts;
    t->v[3].ints[r] = (int64_t)p->m->target_count + p->m->remote_count;
    t->v[4].ints[r] = (int64_t)p->heads;
    t->v[5].ints[r] = p->head_rows;
    t->v[6].strs[r] = s->parts ? STR_NONE : str_make(s->bytes ? s->bytes : "", s->used);
    if (s->parts == 0)
        return 0;
    /* A crash between the parts and now may have lost some: the division then fails the commit. */
    struct db_arg args[] = {db_int((int64_t)p->body), db_int(s->parts)};
    struct db_arg id = db_int((int64_t)p->body);
    if (pg_send(c, 0, e,
                "select 1 / (case when count(*) = $2 then 1 else 0 end) from body_part "
                "where body = $1",
                2, args) != 0)
        return -1;
    return pg_send(c, 0, e, "delete from stage where body = $1", 1, &id);
}

int deliver_write(struct pg *c, struct arena *a, struct pending *const *v, uint32_t n,
                  struct err *e)
{
    struct table body, head, arrival, destination, queue, ledger;
    uint64_t id = 0;

    init_tables(&body, &head, &arrival, &destination, &queue, &ledger, a);
    for (uint32_t i = 0; i < n; i++) {
        if (add_body(&body, c, v[i], e) != 0)
            return -1;
        add_heads(&head, v[i]);
        /* Ids of arrivals and queue rows follow those of the heads (deliver.c reserves them). */
        id = v[i]->heads + v[i]->head_rows;
        add_arrivals(&arrival, a, v[i], &id);
        add_queue(&destination, &queue, a, v[i], &id);
        add_ledger(&ledger, a, v[i]);
    }
    const struct table *const order[] = {&body, &head, &arrival, &destination, &queue, &ledger};
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (order[i]->rows > 0 && table_send(order[i], c, e) != 0)
            return -1;
    return 0;
}
