#include "store/maintain.h"

#include "core/log.h"
#include "store/db.h"
#include "store/setting.h"

#include <string.h>

enum { CHUNK = 5000 /* rows a transaction */ };

/* Each statement is its own transaction and moves at most CHUNK rows. */
static int repeat(const char *sql, struct err *e)
{
    uint64_t n;

    do {
        struct arena *a = arena_new(1024);
        const struct rows *r;
        if (db_exec(a, &r, e, sql, 0, NULL) != 0) {
            arena_free(&a);
            return -1;
        }
        n = rows_affected(r);
        arena_free(&a);
    } while (n >= CHUNK);
    return 0;
}

/* Effects into body_delta, in key order, and what came to nothing into body_free.  A place that
 * still exists has its reference: whoever takes a new one holds the lock of an old one meanwhile.
 */
static int fold_bodies(struct err *e)
{
    if (repeat("with old as (delete from effect where id in (select id from effect where kind = 1 "
               "order by id limit 5000) returning key, delta), "
               "sum as (select key, sum(delta)::bigint d from old group by key order by key), "
               "put as (insert into body_delta (body, delta) select key, d from sum where d <> 0 "
               "on conflict (body) do update set delta = body_delta.delta + excluded.delta) "
               "select 1 from old",
               e) != 0)
        return -1;
    return repeat("insert into body_free (body) select d.body from body_delta d "
                  "join body b on b.id = d.body where b.refs + d.delta <= 0 and not exists "
                  "(select from body_free f where f.body = d.body) limit 5000",
                  e);
}

/* After a day, so that nobody who still reads it loses it in the middle. */
static int remove_bodies(struct err *e)
{
    return repeat(
        "with gone as (delete from body_free where body in (select f.body from body_free f "
        "where f.since < now() - interval '1 day' limit 5000) returning body), "
        "dead as (select b.id, b.head_first, b.heads, b.parts from gone g "
        "join body b on b.id = g.body left join body_delta d on d.body = b.id "
        "where b.refs + coalesce(d.delta, 0) <= 0 and not exists "
        "(select from effect x where x.kind = 1 and x.key = b.id)), "
        "h as (delete from head using dead where head.id >= dead.head_first "
        "and head.id < dead.head_first + dead.heads), "
        "p as (delete from body_part using dead where body_part.body = dead.id), "
        "d as (delete from body_delta using dead where body_delta.body = dead.id), "
        "b as (delete from body using dead where body.id = dead.id) "
        "select 1 from gone",
        e);
}

static int remove_stages(struct err *e)
{
    return repeat("with old as (delete from stage where at < now() - interval '1 day' "
                  "returning body), p as (delete from body_part using old where "
                  "body_part.body = old.body and not exists (select from body b "
                  "where b.id = old.body)) select 1 from old",
                  e);
}

/* Arrivals whose mailbox has gone: to the account's INBOX, or into hold. */
static int place_orphans(struct err *e)
{
    if (repeat("update arrival a set mailbox = c.inbox from account c where c.id = a.account and "
               "not exists (select from mailbox m where m.id = a.mailbox)",
               e) != 0)
        return -1;
    return repeat("with lost as (delete from arrival a where not exists (select from account c "
                  "where c.id = a.account) returning a.id, a.account, a.head, a.size, a.at) "
                  "insert into held_message (id, account, head, size, at, why) "
                  "select id, account, head, size, at, 'the account was removed' from lost",
                  e);
}

static int empty_bin(struct err *e)
{
    struct arena *a = arena_new(1024);
    const struct rows *r;
    int rc;

    do {
        rc = db_exec(a, &r, e,
                     "with old as (delete from deleted_message where (account, mailbox, uid) in "
                     "(select account, mailbox, uid from deleted_message where deleted_at < "
                     "now() - make_interval(days => $1::int) order by deleted_at limit 5000) "
                     "returning head), put as (insert into effect (kind, key, delta) "
                     "select 1, h.body, -count(*) from old join head h on h.id = old.head "
                     "group by h.body) select 1 from old",
                     DB_ARGS(db_int(setting_int("storage.undelete_days"))));
    } while (rc == 0 && rows_affected(r) >= CHUNK);
    arena_free(&a);
    return rc;
}

static int partitions(struct err *e)
{
    if (db_exec(NULL, NULL, e, "select ledger_day(current_date + n) from generate_series(0, 2) n",
                0, NULL) != 0)
        return -1;
    return db_exec(NULL, NULL, e, "select ledger_drop(current_date - $1::int)",
                   DB_ARGS(db_int(setting_int("storage.ledger_days"))));
}

int store_maintain(struct err *e)
{
    static const struct {
        const char *name;
        int (*fn)(struct err *);
    } steps[] = {
        {"orphans", place_orphans}, {"recycle bin", empty_bin}, {"effects", fold_bodies},
        {"bodies", remove_bodies},  {"stages", remove_stages},  {"partitions", partitions},
    };
    int rc = 0;

    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct err one = ERR_INIT;
        if (steps[i].fn(&one) == 0)
            continue;
        log_warn("store", "maintenance, %s: %s", steps[i].name, one.text);
        rc = err_set(e, one.cls, "%s: %s", steps[i].name, one.text);
    }
    return rc;
}

int lease_take(const char *name, const char *holder, unsigned seconds, uint64_t *epoch_r,
               struct err *e)
{
    struct arena *a = arena_new(512);
    const struct rows *r;
    int rc = db_exec(a, &r, e,
                     "insert into lease (name, holder, until) "
                     "values ($1, $2, now() + make_interval(secs => $3::float8)) "
                     "on conflict (name) do update set until = excluded.until, "
                     "holder = excluded.holder, epoch = lease.epoch + "
                     "(lease.holder <> excluded.holder)::int "
                     "where lease.holder = excluded.holder or lease.until < now() "
                     "returning epoch",
                     DB_ARGS(db_text(str_of(name)), db_text(str_of(holder)), db_int(seconds)));

    if (rc == 0 && rows_count(r) == 0)
        rc = err_set(e, ERR_DENIED, "the lease %s is held by another process", name);
    else if (rc == 0)
        *epoch_r = (uint64_t)rows_int(r, 0, 0);
    arena_free(&a);
    return rc;
}

void lease_drop(const char *name, const char *holder)
{
    db_exec(NULL, NULL, NULL,
            "update lease set until = now() - interval '1 s' where name = $1 and holder = $2",
            DB_ARGS(db_text(str_of(name)), db_text(str_of(holder))));
}
