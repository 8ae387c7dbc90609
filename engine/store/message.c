/* Bytes of stored messages: a head followed by its body. */
#include "store/mailbox_int.h"

#include <stdlib.h>

/* --- ranges
 * ----------------------------------------------------------------------------------------- */
/* The head's slice, then the body's: computed in SQL, so that one round trip does for small bodies.
 */
#define SLICE_SQL                                                                                  \
    "select h.size, b.id, b.size, b.parts, "                                                       \
    "substr(h.bytes, $2::int + 1, greatest(0, least($3, h.size - $2))::int), "                     \
    "case when b.parts = 0 then substr(b.bytes, greatest($2 - h.size, 0)::int + 1, "               \
    "greatest(0, least($3, $2 + $3 - h.size))::int) end "                                          \
    "from head h join body b on b.id = h.body where h.id = $1"

static int read_parts(uint64_t body, uint64_t offset, uint64_t length, char *out, struct err *e)
{
    uint64_t end = offset + length;

    while (offset < end) {
        struct arena *a = arena_new(BODY_PART + 1024);
        const struct rows *r;
        uint64_t n = offset / BODY_PART, skip = offset % BODY_PART;
        uint64_t want = end - offset < BODY_PART - skip ? end - offset : BODY_PART - skip;
        int rc = db_exec(a, &r, e,
                         "select substr(bytes, $3::int + 1, $4::int) from body_part "
                         "where body = $1 and n = $2",
                         DB_ARGS(db_int((int64_t)body), db_int((int64_t)n), db_int((int64_t)skip),
                                 db_int((int64_t)want)));
        if (rc == 0 && (rows_count(r) != 1 || rows_str(r, 0, 0).n != want))
            rc = err_set(e, ERR_INTERNAL, "body %llu: part %llu is missing",
                         (unsigned long long)body, (unsigned long long)n);
        if (rc == 0) {
            memcpy(out, rows_str(r, 0, 0).p, want);
            out += want;
            offset += want;
        }
        arena_free(&a);
        if (rc != 0)
            return rc;
    }
    return 0;
}

struct sliced {
    struct arena *a;
    uint64_t offset, length;
    bool found;
    char *out;
    size_t n;                                /* bytes of the head, and of a small body */
    uint64_t body, body_offset, body_length; /* of a large one, still to be read */
};

static bool take_slice(void *ctx, unsigned index, const PGresult *res)
{
    struct sliced *s = ctx;

    (void)index;
    if (PQntuples(res) != 1)
        return true;
    s->found = true;
    uint64_t head_size = (uint64_t)pg_get_int(res, 0, 0), size = (uint64_t)pg_get_int(res, 0, 2);
    struct str head = pg_get_str(res, 0, 4), body = pg_get_str(res, 0, 5);
    uint64_t end = s->offset + s->length, all = head_size + size;
    if (end > all)
        end = all;
    if (pg_get_int(res, 0, 3) > 0 && end > head_size && end > s->offset) {
        s->body = (uint64_t)pg_get_int(res, 0, 1);
        s->body_offset = s->offset > head_size ? s->offset - head_size : 0;
        s->body_length = end - head_size - s->body_offset;
    }
    s->out = arena_alloc(s->a, head.n + body.n + s->body_length + 1);
    if (head.n)
        memcpy(s->out, head.p, head.n);
    if (body.n)
        memcpy(s->out + head.n, body.p, body.n);
    s->n = head.n + body.n;
    return true;
}

int message_read(uint64_t head, uint64_t offset, uint64_t length, struct arena *a, struct str *r,
                 struct err *e)
{
    struct sliced s = {.a = a, .offset = offset, .length = length};

    if (offset > INT32_MAX)
        offset = s.offset = INT32_MAX;
    if (length > INT32_MAX)
        length = s.length = INT32_MAX;
    if (db_each(take_slice, &s, e, SLICE_SQL,
                DB_ARGS(db_int((int64_t)head), db_int((int64_t)offset), db_int((int64_t)length))) !=
        0)
        return -1;
    if (!s.found)
        return err_set(e, ERR_NOTFOUND, "the message does not exist");
    if (s.body != 0) {
        if (read_parts(s.body, s.body_offset, s.body_length, s.out + s.n, e) != 0)
            return -1;
        s.n += s.body_length;
    }
    s.out[s.n] = '\0';
    *r = str_make(s.out, s.n);
    return 0;
}

int message_info(uint64_t head, struct arena *a, struct message_info *m, struct err *e)
{
    const struct rows *r;

    if (db_exec(a, &r, e,
                "select body, size, body_size, ours, at, sender, structure from head where id = $1",
                DB_ARGS(db_int((int64_t)head))) != 0)
        return -1;
    if (rows_count(r) == 0)
        return err_set(e, ERR_NOTFOUND, "the message does not exist");
    *m = (struct message_info){
        .body = (uint64_t)rows_int(r, 0, 0),
        .head_size = (uint64_t)rows_int(r, 0, 1),
        .body_size = (uint64_t)rows_int(r, 0, 2),
        .ours = (uint32_t)rows_int(r, 0, 3),
        .at = rows_int(r, 0, 4),
        .sender = rows_str(r, 0, 5),
        .structure = rows_str(r, 0, 6),
    };
    return 0;
}

/* --- many at once
 * ------------------------------------------------------------------------------------- */
struct many {
    struct arena *a;
    struct str *out;
    uint32_t n;
    uint32_t *parted, parted_count; /* entries whose body lies in parts */
};

static bool take_heads(void *ctx, unsigned index, const PGresult *res)
{
    struct many *m = ctx;

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        int64_t at = pg_get_int(res, i, 0) - 1;
        if (at >= 0 && at < m->n)
            m->out[at] = arena_dup(m->a, pg_get_str(res, i, 1));
    }
    return true;
}

int message_heads(const uint64_t *heads, uint32_t n, struct arena *a, struct str *out,
                  struct err *e)
{
    struct many m = {.a = a, .out = out, .n = n};

    for (uint32_t i = 0; i < n; i++)
        out[i] = STR("");
    return n == 0
               ? 0
               : db_each(take_heads, &m, e,
                         "select u.o, h.bytes from unnest($1::bigint[]) with ordinality u(id, o) "
                         "join head h on h.id = u.id",
                         DB_ARGS(db_ints((const int64_t *)heads, n)));
}

static bool take_messages(void *ctx, unsigned index, const PGresult *res)
{
    struct many *m = ctx;

    (void)index;
    for (int i = 0; i < PQntuples(res); i++) {
        int64_t at = pg_get_int(res, i, 0) - 1;
        if (at < 0 || at >= m->n)
            continue;
        if (pg_get_int(res, i, 1) == 0) {
            m->out[at] = STR_NONE; /* over the limit */
            continue;
        }
        if (pg_get_int(res, i, 2) > 0) {
            m->parted[m->parted_count++] = (uint32_t)at;
            continue;
        }
        struct str head = pg_get_str(res, i, 3), body = pg_get_str(res, i, 4);
        char *p = arena_alloc(m->a, head.n + body.n + 1);
        if (head.n)
            memcpy(p, head.p, head.n);
        if (body.n)
            memcpy(p + head.n, body.p, body.n);
        p[head.n + body.n] = '\0';
        m->out[at] = str_make(p, head.n + body.n);
    }
    return true;
}

int messages_read(const uint64_t *heads, uint32_t n, uint64_t limit, struct arena *a,
                  struct str *out, struct err *e)
{
    struct many m = {.a = a, .out = out, .n = n};
    int rc = 0;

    if (n == 0)
        return 0;
    for (uint32_t i = 0; i < n; i++)
        out[i] = STR("");
    m.parted = xmalloc(sizeof *m.parted * n);
    rc = db_each(take_messages, &m, e,
                 "select o, ok::int, parts, case when ok and parts = 0 then hb end, "
                 "case when ok and parts = 0 then bb end from ("
                 "select u.o, h.size + b.size <= $2 ok, b.parts, h.bytes hb, b.bytes bb "
                 "from unnest($1::bigint[]) with ordinality u(id, o) join head h on h.id = u.id "
                 "join body b on b.id = h.body) x",
                 DB_ARGS(db_ints((const int64_t *)heads, n),
                         db_int(limit > INT64_MAX ? INT64_MAX : (int64_t)limit)));
    for (uint32_t i = 0; rc == 0 && i < m.parted_count; i++)
        rc = message_read(heads[m.parted[i]], 0, MESSAGE_MAX, a, &out[m.parted[i]], e);
    free(m.parted);
    return rc;
}
