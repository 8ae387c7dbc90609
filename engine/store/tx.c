/* Transactions of several statements. */
#include "store/db.h"

#include "store/pg.h"

#include <stdlib.h>

struct tx {
    struct pg *c;
    bool failed;
    unsigned queued;
};

struct tx *tx_begin_as(const char *begin, struct err *e)
{
    struct pg *c = pool_take(db_pool(), e);

    if (c == NULL)
        return NULL;
    if (pg_send(c, 0, e, begin, 0, NULL) != 0) {
        pool_give(db_pool(), &c);
        return NULL;
    }
    struct tx *tx = xcalloc(1, sizeof *tx);
    tx->c = c;
    tx->queued = 1;
    return tx;
}

struct tx *tx_begin(struct err *e)
{
    return tx_begin_as("begin", e);
}

int tx_queue(struct tx *tx, struct err *e, const char *sql, unsigned nargs,
             const struct db_arg *args)
{
    if (tx->failed)
        return err_set(e, ERR_INTERNAL, "the transaction has failed already");
    if (pg_send(tx->c, 0, e, sql, nargs, args) != 0) {
        tx->failed = true;
        return -1;
    }
    tx->queued++;
    return 0;
}

struct last {
    unsigned index; /* of the statement whose result is wanted */
    struct arena *a;
    const struct rows **r;
    pg_result fn;
    void *ctx;
};

static bool on_result(void *ctx, unsigned index, const PGresult *res)
{
    struct last *l = ctx;

    if (index != l->index)
        return true;
    if (l->fn != NULL)
        return l->fn(l->ctx, 0, res);
    if (l->r != NULL)
        *l->r = rows_make(l->a, res);
    return true;
}

static int run(struct tx *tx, struct last *l, struct err *e, const char *sql, unsigned nargs,
               const struct db_arg *args)
{
    l->index = tx->queued;
    if (tx_queue(tx, e, sql, nargs, args) != 0)
        return -1;
    tx->queued = 0;
    if (pg_run(tx->c, on_result, l, e) != 0) {
        tx->failed = true;
        return -1;
    }
    return 0;
}

int tx_exec(struct tx *tx, struct arena *a, const struct rows **r, struct err *e, const char *sql,
            unsigned nargs, const struct db_arg *args)
{
    struct last l = {.a = a, .r = r};
    return run(tx, &l, e, sql, nargs, args);
}

int tx_each(struct tx *tx, pg_result fn, void *ctx, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args)
{
    struct last l = {.fn = fn, .ctx = ctx};
    return run(tx, &l, e, sql, nargs, args);
}

/* COMMIT of a failed transaction is no error for libpq: its tag says ROLLBACK. */
static bool check_tag(void *ctx, unsigned index, const PGresult *res)
{
    (void)index;
    *(bool *)ctx = strcmp(PQcmdStatus((PGresult *)(uintptr_t)res), "COMMIT") == 0;
    return true;
}

int tx_end(struct tx **txp, bool commit, struct err *e)
{
    struct tx *tx = *txp;
    struct last l = {0};
    bool committed = false;
    int rc = 0;

    *txp = NULL;
    if (tx == NULL)
        return 0;
    if (commit && !tx->failed) {
        l.fn = check_tag;
        l.ctx = &committed;
        rc = run(tx, &l, e, "commit", 0, NULL);
        if (rc == 0 && !committed)
            rc = err_set(e, ERR_INTERNAL, "the transaction was rolled back");
    } else if (commit) {
        rc = err_set(e, ERR_INTERNAL, "the transaction has failed already");
    }
    /* After an error inside the pipeline the server still waits in the failed transaction. */
    if ((!commit || rc != 0) && pg_alive(tx->c)) {
        if (pg_send(tx->c, 0, NULL, "rollback", 0, NULL) != 0 ||
            pg_run(tx->c, NULL, NULL, NULL) != 0) {
            /* Queued statements before it may have failed: once more, alone. */
            if (!pg_alive(tx->c) || pg_send(tx->c, 0, NULL, "rollback", 0, NULL) != 0 ||
                pg_run(tx->c, NULL, NULL, NULL) != 0)
                pg_close(tx->c);
        }
    }
    pool_give(db_pool(), &tx->c);
    free(tx);
    return rc;
}

void tx_abort(struct tx **tx)
{
    tx_end(tx, false, NULL);
}
