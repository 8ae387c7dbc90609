/* Values on the wire: binary arguments out, binary or text results in. */
#include "store/pg.h"

#include "store/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* PostgreSQL counts microseconds from 2000-01-01. */
#define EPOCH_2000_MS 946684800000LL

struct cell {
    const char *p; /* NULL: null */
    uint32_t n;
};

struct rows {
    uint32_t count, columns, room;
    uint64_t affected;
    bool text;
    Oid *types;
    const char **names;
    struct cell *cells;
};

static void put32(char *p, uint32_t v)
{
    p[0] = (char)(v >> 24);
    p[1] = (char)(v >> 16);
    p[2] = (char)(v >> 8);
    p[3] = (char)v;
}

static void put64(char *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

static uint32_t get32(const char *c)
{
    const unsigned char *p = (const unsigned char *)c;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get64(const char *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

Oid pg_arg_oid(enum db_type t)
{
    static const Oid oids[] = {
        [DB_BOOL] = OID_BOOL,
        [DB_INT4] = OID_INT4,
        [DB_INT8] = OID_INT8,
        [DB_FLOAT8] = OID_FLOAT8,
        [DB_TEXT] = OID_TEXT,
        [DB_BYTEA] = OID_BYTEA,
        [DB_TIMESTAMP] = OID_TIMESTAMPTZ,
        [DB_JSONB] = OID_JSONB,
        [DB_INET_TEXT] = OID_TEXT,
        [DB_INT8_ARRAY] = OID_INT8_ARRAY,
        [DB_INT4_ARRAY] = OID_INT4_ARRAY,
        [DB_TEXT_ARRAY] = OID_TEXT_ARRAY,
        [DB_BYTEA_ARRAY] = OID_BYTEA_ARRAY,
        [DB_BOOL_ARRAY] = OID_BOOL_ARRAY,
        [DB_TIMESTAMP_ARRAY] = OID_TIMESTAMPTZ_ARRAY,
    };
    return oids[t];
}

static uint64_t stamp(int64_t ms)
{
    return (uint64_t)((ms - EPOCH_2000_MS) * 1000);
}

/* Array header: one dimension, a null bitmap is not kept, elements carry their lengths. */
static char *array_head(char *p, Oid element, uint32_t count)
{
    put32(p, count ? 1 : 0);
    put32(p + 4, 1);
    put32(p + 8, element);
    if (count == 0)
        return p + 12;
    put32(p + 12, count);
    put32(p + 16, 1);
    return p + 20;
}

static struct str encode_numbers(struct arena *a, const struct db_arg *arg)
{
    uint32_t width = arg->type == DB_BOOL_ARRAY ? 1 : arg->type == DB_INT4_ARRAY ? 4 : 8;
    char *out = arena_alloc(a, 20 + (size_t)arg->a.count * (4 + width));
    Oid element = arg->type == DB_BOOL_ARRAY   ? OID_BOOL
                  : arg->type == DB_INT4_ARRAY ? OID_INT4
                  : arg->type == DB_INT8_ARRAY ? OID_INT8
                                               : OID_TIMESTAMPTZ;
    char *p = array_head(out, element, arg->a.count);
    const int64_t *ints = arg->a.items;
    const bool *bools = arg->a.items;

    for (uint32_t i = 0; i < arg->a.count; i++) {
        put32(p, width);
        p += 4;
        if (arg->type == DB_BOOL_ARRAY)
            *p = bools[i] ? 1 : 0;
        else if (arg->type == DB_INT4_ARRAY)
            put32(p, (uint32_t)ints[i]);
        else if (arg->type == DB_INT8_ARRAY)
            put64(p, (uint64_t)ints[i]);
        else
            put64(p, stamp(ints[i]));
        p += width;
    }
    return str_make(out, (size_t)(p - out));
}

static struct str encode_strs(struct arena *a, const struct db_arg *arg)
{
    const struct str *v = arg->a.items;
    bool text = arg->type == DB_TEXT_ARRAY;
    struct str *clean = text ? arena_alloc(a, sizeof *clean * (arg->a.count + 1)) : NULL;
    size_t size = 20;

    for (uint32_t i = 0; i < arg->a.count; i++) {
        if (text)
            clean[i] = text_clean(a, v[i]);
        size += 4 + (text ? clean[i].n : v[i].n);
    }
    char *out = arena_alloc(a, size);
    char *p = array_head(out, text ? OID_TEXT : OID_BYTEA, arg->a.count);
    for (uint32_t i = 0; i < arg->a.count; i++) {
        struct str s = text ? clean[i] : v[i];
        put32(p, s.p ? (uint32_t)s.n : UINT32_MAX);
        p += 4;
        if (s.p && s.n) {
            memcpy(p, s.p, s.n);
            p += s.n;
        }
    }
    return str_make(out, (size_t)(p - out));
}

bool pg_encode(struct arena *a, const struct db_arg *arg, struct str *out)
{
    char *p;
    uint64_t bits;

    if (arg->null)
        return false;
    switch (arg->type) {
    case DB_BOOL:
        p = arena_alloc(a, 1);
        *p = arg->b ? 1 : 0;
        *out = str_make(p, 1);
        return true;
    case DB_INT4:
        p = arena_alloc(a, 4);
        put32(p, (uint32_t)arg->i);
        *out = str_make(p, 4);
        return true;
    case DB_INT8:
    case DB_TIMESTAMP:
        p = arena_alloc(a, 8);
        put64(p, arg->type == DB_INT8 ? (uint64_t)arg->i : stamp(arg->i));
        *out = str_make(p, 8);
        return true;
    case DB_FLOAT8:
        p = arena_alloc(a, 8);
        memcpy(&bits, &arg->n, 8);
        put64(p, bits);
        *out = str_make(p, 8);
        return true;
    case DB_TEXT:
    case DB_INET_TEXT:
        *out = text_clean(a, arg->s);
        break;
    case DB_BYTEA:
        *out = arg->s;
        break;
    case DB_JSONB: {
        struct str s = text_json(a, arg->s);
        if (s.p == NULL)
            return false;
        p = arena_alloc(a, s.n + 1);
        p[0] = 1;
        memcpy(p + 1, s.p, s.n);
        *out = str_make(p, s.n + 1);
        return true;
    }
    case DB_TEXT_ARRAY:
    case DB_BYTEA_ARRAY:
        *out = encode_strs(a, arg);
        return true;
    default:
        *out = encode_numbers(a, arg);
        return true;
    }
    if (out->p == NULL)
        *out = STR("");
    return true;
}

/* --- results ------------------------------------------------------------------------------------
 */
static struct rows *rows_head(struct arena *a, const PGresult *res)
{
    struct rows *r = ARENA_NEW(a, struct rows);
    int columns = PQnfields(res);

    r->columns = (uint32_t)columns;
    r->text = columns > 0 && PQfformat(res, 0) == 0;
    r->types = ARENA_ARRAY(a, Oid, (size_t)columns + 1);
    r->names = ARENA_ARRAY(a, const char *, (size_t)columns + 1);
    for (int i = 0; i < columns; i++) {
        r->types[i] = PQftype(res, i);
        r->names[i] = arena_dupz(a, str_of(PQfname(res, i)));
    }
    return r;
}

static void rows_copy(struct arena *a, struct rows *r, const PGresult *res, int from, int count)
{
    size_t size = 0;
    int columns = (int)r->columns;

    for (int i = from; i < from + count; i++)
        for (int c = 0; c < columns; c++)
            size += (size_t)PQgetlength(res, i, c) + 1;
    char *p = arena_alloc(a, size);
    struct cell *cell = r->cells + (size_t)r->count * r->columns;
    for (int i = from; i < from + count; i++)
        for (int c = 0; c < columns; c++, cell++) {
            size_t n = (size_t)PQgetlength(res, i, c);
            if (PQgetisnull(res, i, c)) {
                *cell = (struct cell){NULL, 0};
                continue;
            }
            memcpy(p, PQgetvalue(res, i, c), n);
            p[n] = '\0';
            *cell = (struct cell){p, (uint32_t)n};
            p += n + 1;
        }
    r->count += (uint32_t)count;
}

struct rows *rows_make(struct arena *a, const PGresult *res)
{
    struct rows *r = rows_head(a, res);
    int count = PQntuples(res);
    uint64_t affected;

    if (str_u64(str_of(PQcmdTuples((PGresult *)(uintptr_t)res)), &affected))
        r->affected = affected;
    r->cells = ARENA_ARRAY(a, struct cell, (size_t)count * r->columns + 1);
    rows_copy(a, r, res, 0, count);
    return r;
}

bool rows_append(struct arena *a, struct rows **rp, const PGresult *res, uint32_t max)
{
    struct rows *r = *rp;
    int count = PQntuples(res);
    uint64_t affected;

    if (r == NULL)
        *rp = r = rows_head(a, res);
    if (str_u64(str_of(PQcmdTuples((PGresult *)(uintptr_t)res)), &affected))
        r->affected = affected;
    if (count == 0)
        return true;
    if (r->count + (uint32_t)count > max)
        return false;
    if (r->count + (uint32_t)count > r->room) {
        r->room = (r->count + (uint32_t)count) * 2;
        struct cell *cells = ARENA_ARRAY(a, struct cell, (size_t)r->room * r->columns + 1);
        if (r->count)
            memcpy(cells, r->cells, sizeof *cells * r->count * r->columns);
        r->cells = cells;
    }
    rows_copy(a, r, res, 0, count);
    return true;
}

uint32_t rows_count(const struct rows *r)
{
    return r->count;
}

uint32_t rows_columns(const struct rows *r)
{
    return r->columns;
}

const char *rows_name(const struct rows *r, uint32_t col)
{
    return r->names[col];
}

uint64_t rows_affected(const struct rows *r)
{
    return r->affected;
}

static const struct cell *cell_at(const struct rows *r, uint32_t row, uint32_t col)
{
    return &r->cells[(size_t)row * r->columns + col];
}

bool rows_null(const struct rows *r, uint32_t row, uint32_t col)
{
    return cell_at(r, row, col)->p == NULL;
}

bool rows_bool(const struct rows *r, uint32_t row, uint32_t col)
{
    const struct cell *c = cell_at(r, row, col);

    if (c->p == NULL || c->n == 0)
        return false;
    return r->text ? c->p[0] == 't' : c->p[0] != 0;
}

static int64_t int_of(Oid type, const char *p, size_t n)
{
    if (type == OID_TIMESTAMPTZ || type == OID_TIMESTAMP) {
        int64_t us = (int64_t)get64(p);
        int64_t ms = us / 1000 - (us % 1000 < 0 ? 1 : 0);
        return ms + EPOCH_2000_MS;
    }
    if (type == OID_DATE)
        return (int64_t)(int32_t)get32(p) * 86400000LL + EPOCH_2000_MS;
    if (type == OID_BOOL)
        return p[0];
    if (type == OID_OID)
        return get32(p);
    if (n == 8)
        return (int64_t)get64(p);
    if (n == 4)
        return (int32_t)get32(p);
    if (n == 2)
        return (int16_t)((unsigned char)p[0] << 8 | (unsigned char)p[1]);
    return 0;
}

static double float_of(Oid type, const char *p)
{
    if (type == OID_FLOAT4) {
        uint32_t b = get32(p);
        float f;
        memcpy(&f, &b, 4);
        return (double)f;
    }
    uint64_t b = get64(p);
    double d;
    memcpy(&d, &b, 8);
    return d;
}

int64_t rows_int(const struct rows *r, uint32_t row, uint32_t col)
{
    const struct cell *c = cell_at(r, row, col);

    if (c->p == NULL)
        return 0;
    if (r->text)
        return strtoll(c->p, NULL, 10);
    if (r->types[col] == OID_FLOAT8 || r->types[col] == OID_FLOAT4)
        return (int64_t)float_of(r->types[col], c->p);
    return int_of(r->types[col], c->p, c->n);
}

struct str rows_str(const struct rows *r, uint32_t row, uint32_t col)
{
    const struct cell *c = cell_at(r, row, col);

    if (c->p == NULL)
        return STR_NONE;
    if (!r->text && r->types[col] == OID_JSONB && c->n > 0)
        return str_make(c->p + 1, c->n - 1);
    return str_make(c->p, c->n);
}

static struct str hex_text(struct arena *a, const char *p, size_t n)
{
    static const char hex[] = "0123456789abcdef";
    char *out = arena_alloc(a, n * 2 + 3);

    out[0] = '\\';
    out[1] = 'x';
    for (size_t i = 0; i < n; i++) {
        out[2 + i * 2] = hex[(unsigned char)p[i] >> 4];
        out[3 + i * 2] = hex[p[i] & 15];
    }
    out[2 + n * 2] = '\0';
    return str_make(out, n * 2 + 2);
}

static struct str time_text(struct arena *a, int64_t ms, bool date)
{
    time_t t = (time_t)(ms / 1000 - (ms % 1000 < 0 ? 1 : 0));
    struct tm tm;
    char z[64];

    gmtime_r(&t, &tm);
    size_t n = strftime(z, sizeof z, date ? "%Y-%m-%d" : "%Y-%m-%d %H:%M:%S+00", &tm);
    return arena_dup(a, str_make(z, n));
}

static struct str value_text(struct arena *a, Oid type, const char *p, size_t n)
{
    switch (type) {
    case OID_BOOL:
        return p[0] ? STR("t") : STR("f");
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
    case OID_OID:
        return arena_printf(a, "%" PRId64, int_of(type, p, n));
    case OID_FLOAT4:
    case OID_FLOAT8:
        return arena_printf(a, "%.15g", float_of(type, p));
    case OID_TIMESTAMP:
    case OID_TIMESTAMPTZ:
    case OID_DATE:
        return time_text(a, int_of(type, p, n), type == OID_DATE);
    case OID_JSONB:
        return str_make(p + 1, n - 1);
    case OID_TEXT:
    case OID_VARCHAR:
    case OID_NAME:
    case OID_JSON:
    case 705:  /* unknown */
    case 1042: /* char(n) */
        return str_make(p, n);
    default:
        return hex_text(a, p, n);
    }
}

struct str rows_text(const struct rows *r, uint32_t row, uint32_t col, struct arena *a)
{
    const struct cell *c = cell_at(r, row, col);

    if (c->p == NULL)
        return STR_NONE;
    if (r->text)
        return str_make(c->p, c->n);
    return value_text(a, r->types[col], c->p, c->n);
}

/* Elements of a one-dimensional binary array; -1 at its end. */
static uint32_t array_open(struct cell c, const char **p_r)
{
    if (c.p == NULL || c.n < 20 || get32(c.p) != 1)
        return 0;
    *p_r = c.p + 20;
    return get32(c.p + 12);
}

uint32_t rows_ints(const struct rows *r, uint32_t row, uint32_t col, struct arena *a, int64_t **v_r)
{
    const struct cell *c = cell_at(r, row, col);
    const char *p = NULL;
    uint32_t n = array_open(*c, &p);

    *v_r = ARENA_ARRAY(a, int64_t, (size_t)n + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = get32(p);
        p += 4;
        if (len == UINT32_MAX)
            continue;
        (*v_r)[i] = int_of(0, p, len);
        p += len;
    }
    return n;
}

uint32_t rows_strs(const struct rows *r, uint32_t row, uint32_t col, struct arena *a,
                   struct str **v_r)
{
    const struct cell *c = cell_at(r, row, col);
    const char *p = NULL;
    uint32_t n = array_open(*c, &p);

    *v_r = ARENA_ARRAY(a, struct str, (size_t)n + 1);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t len = get32(p);
        p += 4;
        if (len == UINT32_MAX)
            continue;
        (*v_r)[i] = str_make(p, len);
        p += len;
    }
    return n;
}

int64_t pg_get_int(const PGresult *res, int row, int col)
{
    if (PQgetisnull(res, row, col))
        return 0;
    return int_of(PQftype(res, col), PQgetvalue(res, row, col), (size_t)PQgetlength(res, row, col));
}

struct str pg_get_str(const PGresult *res, int row, int col)
{
    if (PQgetisnull(res, row, col))
        return STR_NONE;
    return str_make(PQgetvalue(res, row, col), (size_t)PQgetlength(res, row, col));
}
