/* The database as the rest of the engine sees it: a pool of asynchronous connections per process
 * and statements that are called like functions.
 *
 * Every function here runs in a task (task.h) and parks it while the server works.  A statement is
 * parametrised ($1...), prepared on first use per connection (keyed by its text, so pass string
 * literals or long-lived text), with binary results and parameters.  Result memory is the caller's
 * arena.  Errors: TEMP when the database is away (callers answer 451, NO [UNAVAILABLE],
 * [SYS/TEMP]), EXISTS for unique violations, LIMIT for a full disk, INTERNAL else. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

enum db_type {
    DB_BOOL,
    DB_INT4,
    DB_INT8,
    DB_FLOAT8,
    DB_TEXT,
    DB_BYTEA,
    DB_TIMESTAMP, /* ms since 1970, UTC */
    DB_JSONB,
    DB_INET_TEXT, /* text sent with a cast in the statement */
    DB_INT8_ARRAY,
    DB_INT4_ARRAY,
    DB_TEXT_ARRAY,
    DB_BYTEA_ARRAY,
    DB_BOOL_ARRAY,
    DB_TIMESTAMP_ARRAY
};

struct db_arg {
    enum db_type type;
    bool null;
    union {
        bool b;
        int64_t i; /* INT4, INT8, TIMESTAMP */
        double n;
        struct str s; /* TEXT is cleaned to valid UTF-8 without NUL on the way */
        struct {
            const void *items; /* int64_t[], bool[] or struct str[]; a str with p == NULL is null */
            uint32_t count;
        } a;
    };
};

static inline struct db_arg db_bool(bool b)
{
    return (struct db_arg){.type = DB_BOOL, .b = b};
}
static inline struct db_arg db_int(int64_t i)
{
    return (struct db_arg){.type = DB_INT8, .i = i};
}
static inline struct db_arg db_int4(int32_t i)
{
    return (struct db_arg){.type = DB_INT4, .i = i};
}
static inline struct db_arg db_text(struct str s)
{
    return (struct db_arg){.type = DB_TEXT, .s = s, .null = s.p == NULL};
}
static inline struct db_arg db_bytes(struct str s)
{
    return (struct db_arg){.type = DB_BYTEA, .s = s, .null = s.p == NULL};
}
static inline struct db_arg db_time(int64_t ms)
{
    return (struct db_arg){.type = DB_TIMESTAMP, .i = ms};
}
static inline struct db_arg db_ints(const int64_t *v, uint32_t n)
{
    return (struct db_arg){.type = DB_INT8_ARRAY, .a = {v, n}};
}
static inline struct db_arg db_texts(const struct str *v, uint32_t n)
{
    return (struct db_arg){.type = DB_TEXT_ARRAY, .a = {v, n}};
}
static inline struct db_arg db_bytess(const struct str *v, uint32_t n)
{
    return (struct db_arg){.type = DB_BYTEA_ARRAY, .a = {v, n}};
}

/* A result.  Values stay valid as long as the arena. */
struct rows;
uint32_t rows_count(const struct rows *r);
uint32_t rows_columns(const struct rows *r);
const char *rows_name(const struct rows *r, uint32_t col);
uint64_t rows_affected(const struct rows *r);
bool rows_null(const struct rows *r, uint32_t row, uint32_t col);
bool rows_bool(const struct rows *r, uint32_t row, uint32_t col);
int64_t rows_int(const struct rows *r, uint32_t row,
                 uint32_t col); /* int2, int4, int8, timestamp (ms) */
struct str rows_str(const struct rows *r, uint32_t row,
                    uint32_t col); /* text, bytea, name, jsonb */
/* Any type as text (for SQL from scripts and the command line). */
struct str rows_text(const struct rows *r, uint32_t row, uint32_t col, struct arena *a);
/* Binary array of int8 or text; returns the count. */
uint32_t rows_ints(const struct rows *r, uint32_t row, uint32_t col, struct arena *a,
                   int64_t **v_r);
uint32_t rows_strs(const struct rows *r, uint32_t row, uint32_t col, struct arena *a,
                   struct str **v_r);

/* One statement, its own transaction.  `r` may be NULL.  Retried once, transparently, when the
 * connection turned out to be dead before anything was sent. */
int db_exec(struct arena *a, const struct rows **r, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args);
#define DB_ARGS(...)                                                                               \
    (sizeof((struct db_arg[]){__VA_ARGS__}) / sizeof(struct db_arg)), (struct db_arg[])            \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* Several statements in one transaction on one connection.  tx_begin waits for a free connection
 * (at most 10 s, then TEMP).  After an error only tx_end is allowed.  tx_end with commit = true
 * returns 0 only when the COMMIT was acknowledged; with false it rolls back. */
struct tx;
struct tx *tx_begin(struct err *e);
int tx_exec(struct tx *tx, struct arena *a, const struct rows **r, struct err *e, const char *sql,
            unsigned nargs, const struct db_arg *args);
int tx_end(struct tx **tx, bool commit, struct err *e);

/* Opens the pool of this process (lazily connecting; back-off 0.1 to 5 s).  `role`: the database
 * role, e.g. "moonpost_engine".  `connections`: at most so many. */
void db_open(const char *conninfo, const char *role, unsigned connections);
void db_close(void);
/* Is the database answering, as far as is known? */
bool db_up(void);
/* A connection of the role moonpost_script: one statement, read only unless `write`, 2 s,
 * `max_rows` rows (spec 5.14 PostgresQuery). */
int db_script_exec(struct arena *a, const struct rows **r, struct err *e, struct str sql,
                   unsigned nargs, const struct db_arg *args, bool write, uint32_t max_rows);

/* Ids from blocks of 1,000 per process: never given twice, not gapless. */
int db_next_id(uint64_t *id_r, struct err *e);
