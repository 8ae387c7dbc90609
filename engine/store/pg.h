/* One asynchronous connection to PostgreSQL on our loop: libpq in pipeline mode, prepared
 * statements, binary values.  Only store/ uses this; everybody else uses db.h.
 *
 * A connection belongs to one task at a time.  Statements are queued with pg_send() and travel with
 * pg_run(), which ends them with one Sync: without "begin" all of one run are one transaction. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "store/db.h"

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

/* Where and as whom to connect; shared by the connections of a pool, so that they share the
 * back-off. */
struct pg_server;
enum { PG_ASYNC_COMMIT = 1 /* synchronous_commit = off */ };
/* `role`: the database role, or NULL for the conninfo's own user.  `password` may be NULL: then the
 * one of the conninfo.  `login`: connect as the role itself instead of "set role". */
struct pg_server *pg_server_new(const char *conninfo, const char *role, const char *password,
                                bool login, unsigned flags);
void pg_server_free(struct pg_server **s);
bool pg_server_up(const struct pg_server *s);
/* Is this the private cluster of store/cluster.c?  Then roles sign in by name alone. */
bool pg_conninfo_embedded(const char *conninfo);

struct pg;
struct pg *pg_new(struct pg_server *s);
void pg_free(struct pg **p);
/* TEMP: not now; fails at once inside the back-off window. */
int pg_connect(struct pg *p, struct err *e);
/* Connected and, as far as the socket tells, alive. */
bool pg_alive(struct pg *p);
/* Who serves us, to find out later whether it still lives. */
int pg_backend(const struct pg *p);

enum {
    PG_ONCE = 1,  /* do not prepare */
    PG_TEXT = 2,  /* results as text */
    PG_INFER = 4, /* text arguments go without a type, so that the server infers it */
    PG_SINGLE = 8 /* results come row by row */
};
/* Queues a statement; nothing is copied but the arguments' bytes.  -1 when the connection is dead.
 */
int pg_send(struct pg *p, unsigned flags, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args);
/* Gets each result of a statement that returned rows or a command tag; `index` counts pg_send calls
 * since the last run.  Must not wait.  False: give up, the connection is closed. */
typedef bool (*pg_result)(void *ctx, unsigned index, const PGresult *res);
/* Sync, and all results.  The first error wins.  After -1, pg_lost() tells whether the connection
 * died with the outcome unknown. */
int pg_run(struct pg *p, pg_result fn, void *ctx, struct err *e);
bool pg_lost(const struct pg *p);
/* Ends the connection at once. */
void pg_close(struct pg *p);
/* Sleeps whether or not the task is cancelled: waits of the store finish first. */
void pg_pause(unsigned ms);
/* Milliseconds a run may take before the connection counts as dead; 0: the default. */
void pg_patience(struct pg *p, unsigned ms);

/* Copies a result into the arena (db.h). */
struct rows *rows_make(struct arena *a, const PGresult *res);
/* For results that are filled by single rows: appends, at most `max` rows; false when it is full.
 */
bool rows_append(struct arena *a, struct rows **r, const PGresult *res, uint32_t max);

/* --- values, pg_value.c ------------------------------------------------------------------------
 */
enum {
    OID_BOOL = 16,
    OID_BYTEA = 17,
    OID_NAME = 19,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_TEXT = 25,
    OID_OID = 26,
    OID_JSON = 114,
    OID_FLOAT4 = 700,
    OID_FLOAT8 = 701,
    OID_BOOL_ARRAY = 1000,
    OID_BYTEA_ARRAY = 1001,
    OID_INT4_ARRAY = 1007,
    OID_TEXT_ARRAY = 1009,
    OID_INT8_ARRAY = 1016,
    OID_VARCHAR = 1043,
    OID_DATE = 1082,
    OID_TIMESTAMP = 1114,
    OID_TIMESTAMPTZ = 1184,
    OID_TIMESTAMPTZ_ARRAY = 1185,
    OID_UUID = 2950,
    OID_JSONB = 3802
};
Oid pg_arg_oid(enum db_type t);
/* The binary form of an argument in the arena; false for null. */
bool pg_encode(struct arena *a, const struct db_arg *arg, struct str *out);
int64_t pg_get_int(const PGresult *res, int row, int col);
struct str pg_get_str(const PGresult *res, int row, int col);

/* --- pools, pool.c -----------------------------------------------------------------------------
 */
struct pool;
struct pool *pool_new(struct pg_server *s, unsigned most);
void pool_free(struct pool **p);
/* A connected connection; waits at most 10 s for a free one. */
struct pg *pool_take(struct pool *p, struct err *e);
/* Dead ones, and those with a transaction open, must be closed before. */
void pool_give(struct pool *p, struct pg **c);

/* --- shared by the files of store/, db.c and tx.c ------------------------------------------------
 */
struct pool *db_pool(void);
struct pool *db_async_pool(void); /* asynchronous commit: what may be lost in a crash */
struct pg_server *db_commit_server(void);
bool db_closing(void);
/* db_exec on the asynchronous pool. */
int db_exec_async(struct arena *a, const struct rows **r, struct err *e, const char *sql,
                  unsigned nargs, const struct db_arg *args);
/* db_exec with a handler in place of rows: no copy is made. */
int db_each(pg_result fn, void *ctx, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args);
/* `n` consecutive ids. */
int db_next_ids(uint32_t n, uint64_t *first_r, struct err *e);

/* "begin" with these words; tx_begin() uses "begin". */
struct tx *tx_begin_as(const char *begin, struct err *e);
/* Queues a statement whose result does not matter; it travels with the next tx_exec or tx_end. */
int tx_queue(struct tx *tx, struct err *e, const char *sql, unsigned nargs,
             const struct db_arg *args);
int tx_each(struct tx *tx, pg_result fn, void *ctx, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args);
/* Rolls back and forgets; for error paths. */
void tx_abort(struct tx **tx);
