/* The pools of a process and single statements. */
#include "store/db.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"
#include "store/pg.h"
#include "store/text.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

/* Larger than the heads of the largest message, so that these have consecutive ids. */
enum { ID_BLOCK = 32768, ASYNC_CONNECTIONS = 3, SCRIPT_CONNECTIONS = 2, SCRIPT_MS = 2000 };

static struct pg_server *server, *async_server, *script_server;
static struct pool *pool, *async_pool, *script_pool;
static char *conninfo_kept;
static bool closing;

static uint64_t id_next, id_end;
static bool id_fetching;

void db_open(const char *conninfo, const char *role, unsigned connections)
{
    bool embedded = pg_conninfo_embedded(conninfo);

    assert(pool == NULL);
    closing = false;
    conninfo_kept = xstrdup(conninfo);
    server = pg_server_new(conninfo, role, NULL, embedded, 0);
    async_server = pg_server_new(conninfo, role, NULL, embedded, PG_ASYNC_COMMIT);
    pool = pool_new(server, connections);
    async_pool = pool_new(async_server, ASYNC_CONNECTIONS);
}

void db_close(void)
{
    closing = true;
    pool_free(&pool);
    pool_free(&async_pool);
    pool_free(&script_pool);
    pg_server_free(&server);
    pg_server_free(&async_server);
    pg_server_free(&script_server);
    free(conninfo_kept);
    conninfo_kept = NULL;
    id_next = id_end = 0;
}

bool db_up(void)
{
    return server != NULL && pg_server_up(server);
}

bool db_closing(void)
{
    return closing;
}

struct pool *db_pool(void)
{
    assert(pool != NULL);
    return pool;
}

struct pool *db_async_pool(void)
{
    assert(async_pool != NULL);
    return async_pool;
}

struct pg_server *db_commit_server(void)
{
    return server;
}

static int exec_on(struct pool *where, pg_result fn, void *ctx, struct err *e, const char *sql,
                   unsigned nargs, const struct db_arg *args)
{
    struct pg *c = pool_take(where, e);

    if (c == NULL)
        return -1;
    int rc = pg_send(c, 0, e, sql, nargs, args);
    if (rc != 0 && !pg_alive(c)) {
        /* Dead before anything was sent: another connection, once. */
        pool_give(where, &c);
        c = pool_take(where, e);
        if (c == NULL)
            return -1;
        rc = pg_send(c, 0, e, sql, nargs, args);
    }
    if (rc == 0)
        rc = pg_run(c, fn, ctx, e);
    pool_give(where, &c);
    return rc;
}

struct collect {
    struct arena *a;
    const struct rows **r;
};

static bool collect_rows(void *ctx, unsigned index, const PGresult *res)
{
    struct collect *c = ctx;
    (void)index;
    if (c->r != NULL)
        *c->r = rows_make(c->a, res);
    return true;
}

int db_exec(struct arena *a, const struct rows **r, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args)
{
    struct collect c = {a, r};
    return exec_on(db_pool(), collect_rows, &c, e, sql, nargs, args);
}

int db_exec_async(struct arena *a, const struct rows **r, struct err *e, const char *sql,
                  unsigned nargs, const struct db_arg *args)
{
    struct collect c = {a, r};
    return exec_on(db_async_pool(), collect_rows, &c, e, sql, nargs, args);
}

int db_each(pg_result fn, void *ctx, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args)
{
    return exec_on(db_pool(), fn, ctx, e, sql, nargs, args);
}

/* --- ids ----------------------------------------------------------------------------------------
 */
static bool take_block(void *ctx, unsigned index, const PGresult *res)
{
    (void)index;
    *(int64_t *)ctx = pg_get_int(res, 0, 0);
    return true;
}

int db_next_ids(uint32_t n, uint64_t *first_r, struct err *e)
{
    assert(n > 0 && n <= ID_BLOCK);
    while (id_end - id_next < n) {
        if (id_fetching) {
            /* Another task asks already; one more turn costs less than a second block. */
            pg_pause(1);
            continue;
        }
        int64_t block = 0;
        id_fetching = true;
        int rc = exec_on(db_pool(), take_block, &block, e, "select nextval('id_block')", 0, NULL);
        id_fetching = false;
        if (rc != 0)
            return -1;
        id_next = (uint64_t)block * ID_BLOCK;
        id_end = id_next + ID_BLOCK;
    }
    *first_r = id_next;
    id_next += n;
    return 0;
}

int db_next_id(uint64_t *id_r, struct err *e)
{
    return db_next_ids(1, id_r, e);
}

/* --- SQL from scripts
 * ------------------------------------------------------------------------------ */
/* On the private cluster the role signs in by name.  Elsewhere it has a password of its own,
 * because "set role" could be undone from inside a statement. */
static int script_open(struct err *e)
{
    const struct rows *r = NULL;
    char password[80] = "";

    if (script_pool != NULL)
        return 0;
    bool embedded = pg_conninfo_embedded(conninfo_kept);
    if (!embedded) {
        struct arena *a = arena_new(256);
        int rc =
            db_exec(a, &r, e, "select encode(bytes, 'hex') from secret where name = 'script_role'",
                    0, NULL);
        if (rc == 0 && rows_count(r) == 1)
            snprintf(password, sizeof password, "%.*s", STR_ARG(rows_str(r, 0, 0)));
        arena_free(&a);
        if (rc != 0)
            return rc;
    }
    if (script_pool == NULL) {
        script_server =
            pg_server_new(conninfo_kept, "moonpost_script", embedded ? NULL : password, true, 0);
        script_pool = pool_new(script_server, SCRIPT_CONNECTIONS);
    }
    wipe(password, sizeof password);
    return 0;
}

struct script_rows {
    struct arena *a;
    struct rows *rows;
    uint32_t max;
    bool full;
};

static bool collect_script(void *ctx, unsigned index, const PGresult *res)
{
    struct script_rows *s = ctx;

    if (index != 2)
        return true;
    s->full = !rows_append(s->a, &s->rows, res, s->max);
    return !s->full;
}

int db_script_exec(struct arena *a, const struct rows **r, struct err *e, struct str sql,
                   unsigned nargs, const struct db_arg *args, bool write, uint32_t max_rows)
{
    struct script_rows s = {.a = a, .max = max_rows};
    const char *text = arena_dupz(a, text_clean(a, sql));

    if (script_open(e) != 0)
        return -1;
    struct pg *c = pool_take(script_pool, e);
    if (c == NULL)
        return -1;
    pg_patience(c, SCRIPT_MS + 1000);
    bool sent = pg_send(c, 0, e, write ? "begin read write" : "begin read only", 0, NULL) == 0 &&
                pg_send(c, 0, e, "set local statement_timeout = 2000", 0, NULL) == 0 &&
                pg_send(c, PG_ONCE | PG_TEXT | PG_INFER | PG_SINGLE, e, text, nargs, args) == 0 &&
                pg_send(c, 0, e, write ? "commit" : "rollback", 0, NULL) == 0;
    int rc = sent ? pg_run(c, collect_script, &s, e) : -1;
    /* A failed transaction, or settings that the statement changed, must not reach the next one. */
    if (rc != 0 && pg_alive(c)) {
        if (pg_send(c, 0, NULL, "rollback", 0, NULL) != 0 || pg_run(c, NULL, NULL, NULL) != 0)
            pg_close(c);
    }
    if (pg_alive(c) &&
        (pg_send(c, PG_ONCE, NULL, "reset all", 0, NULL) != 0 || pg_run(c, NULL, NULL, NULL) != 0))
        pg_close(c);
    pool_give(script_pool, &c);
    if (rc == 0 && s.rows == NULL)
        return err_set(e, ERR_SYNTAX, "the statement gave no result");
    if (rc == 0)
        *r = s.rows;
    return rc;
}
