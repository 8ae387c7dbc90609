/* The exclusive lease of a maildrop for POP3 (architecture 6).  A dead client or worker frees it by
 * not renewing; losing the row in a crash is the same. */
#include "store/mailbox_int.h"

#define LEASE_SECONDS "60"

static int ask(bool *got, struct err *e, const char *sql, unsigned nargs, const struct db_arg *args)
{
    struct arena *a = arena_new(256);
    const struct rows *r;
    int rc = db_exec_async(a, &r, e, sql, nargs, args);

    *got = rc == 0 && rows_count(r) > 0;
    arena_free(&a);
    return rc;
}

int pop3_lease_take(uint64_t account, uint64_t *token_r, struct err *e)
{
    uint64_t token;
    bool got;

    if (db_next_id(&token, e) != 0 ||
        ask(&got, e,
            "insert into pop3_lease (account, token, until) "
            "values ($1, $2, now() + interval '" LEASE_SECONDS " s') on conflict (account) "
            "do update set token = excluded.token, until = excluded.until "
            "where pop3_lease.until < now() returning 1",
            DB_ARGS(db_int((int64_t)account), db_int((int64_t)token))) != 0)
        return -1;
    if (!got)
        return err_set(e, ERR_DENIED, "the mailbox is locked by another session");
    *token_r = token;
    return 0;
}

int pop3_lease_renew(uint64_t account, uint64_t token, struct err *e)
{
    bool got;

    if (ask(&got, e,
            "update pop3_lease set until = now() + interval '" LEASE_SECONDS " s' "
            "where account = $1 and token = $2 returning 1",
            DB_ARGS(db_int((int64_t)account), db_int((int64_t)token))) != 0)
        return -1;
    return got ? 0 : err_set(e, ERR_DENIED, "the lease was lost");
}

void pop3_lease_drop(uint64_t account, uint64_t token)
{
    db_exec_async(NULL, NULL, NULL, "delete from pop3_lease where account = $1 and token = $2",
                  DB_ARGS(db_int((int64_t)account), db_int((int64_t)token)));
}
