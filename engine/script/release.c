/* Releases in the database: immutable manifests of the site's scripts and rule files.
 *
 * A change makes a new release from the active one and activates it in the same transaction; then
 * the generation moves and the bus wakes the other processes.  Workers load the new release beside
 * the old one: environments finish on the release they began with. */
#include "script/release.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "script/host_int.h"
#include "store/bus.h"
#include "store/db.h"

#include <openssl/evp.h>
#include <stdlib.h>

static struct bus_watch *watch;
static uint64_t seen; /* generation that the current release was read under */
static bool loaded, busy, safe_mode;
static uint64_t retry_ms;

/* --- reading
 * -----------------------------------------------------------------------------------------------
 */
static int read_release(struct arena *a, struct release **r_r, struct err *e)
{
    const struct rows *rows;

    if (db_exec(a, &rows, e,
                "select r.id, f.name, b.text from release r"
                " left join release_file f on f.release = r.id"
                " left join script_blob b on b.hash = f.hash where r.active",
                0, NULL) != 0)
        return -1;
    if (rows_count(rows) == 0) {
        *r_r = release_new(0);
        return 0;
    }
    *r_r = release_new((uint64_t)rows_int(rows, 0, 0));
    for (uint32_t i = 0; i < rows_count(rows); i++)
        if (!rows_null(rows, i, 1))
            release_add(*r_r, chunk_new(rows_str(rows, i, 1), rows_str(rows, i, 2), false));
    return 0;
}

int release_load(struct err *e)
{
    struct release *r = NULL;
    struct arena *a;
    int rc;

    if (safe_mode)
        return 0;
    while (busy) {
        if (task_cancelled())
            return err_set(e, ERR_CANCELLED, "the task was cancelled");
        task_sleep(2, NULL);
    }
    busy = true;
    uint64_t now = shm_generation(GEN_RELEASE);
    a = arena_new(65536);
    rc = read_release(a, &r, e);
    arena_free(&a);
    busy = false;
    if (rc != 0) {
        retry_ms = loop_ns() / 1000000u + 1000;
        return -1;
    }
    seen = now;
    loaded = true;
    struct release *old = release_current();
    if (old != NULL && release_id(old) == release_id(r)) {
        release_unref(&r);
        return 0;
    }
    log_info("script", "release %llu is active", (unsigned long long)release_id(r));
    release_use(r);
    return 0;
}

static void load_task(void *unused)
{
    struct err e = ERR_INIT;

    (void)unused;
    if (release_load(&e) != 0)
        log_warn("script", "the active release cannot be read: %s", e.text);
}

/* Before each new environment: a look at two numbers, and a task when they differ. */
static void poll_release(void)
{
    if (safe_mode || busy)
        return;
    if (loaded ? shm_generation(GEN_RELEASE) == seen : loop_ns() / 1000000u < retry_ms)
        return;
    if (!loaded)
        retry_ms = loop_ns() / 1000000u + 1000;
    task_spawn(load_task, NULL);
}

static void on_bus(void *ctx, enum bus_kind kind, uint64_t id)
{
    (void)ctx, (void)kind, (void)id;
    if (!safe_mode && !busy)
        task_spawn(load_task, NULL);
}

void release_open(bool safe)
{
    safe_mode = safe;
    loaded = busy = false;
    retry_ms = 0;
    release_poll = poll_release;
    if (!safe)
        watch = bus_watch(BUS_RELEASE, 0, on_bus, NULL);
}

void release_close(void)
{
    if (watch != NULL)
        bus_unwatch(&watch);
    release_poll = NULL;
}

/* --- changing
 * ------------------------------------------------------------------------------------------------
 */
static int hash_of(struct arena *a, struct str text, struct str *hash_r)
{
    unsigned char *out = arena_alloc(a, EVP_MAX_MD_SIZE);
    unsigned n = 0;

    if (EVP_Digest(text.n ? text.p : "", text.n, out, &n, EVP_sha256(), NULL) != 1)
        return -1;
    *hash_r = str_make(out, n);
    return 0;
}

/* A new active release whose files are those of `from` (0: of the active one), without `name` and,
 * when text.p is not NULL, with the new text of that name. */
struct change {
    struct str name, text, who, note;
    uint64_t from;
    uint64_t id;
    bool ship; /* only if the active release has other shipped files */
    bool done;
};

/* Names and hashes of the files that came with the engine. */
static int shipped_list(struct arena *a, struct str **names_r, struct str **hashes_r, uint32_t *n_r,
                        struct err *e)
{
    struct str *names = ARENA_ARRAY(a, struct str, 1000),
               *hashes = ARENA_ARRAY(a, struct str, 1000);
    uint32_t n = 0;

    for (int part = 0; part < 2; part++) {
        size_t it = 0;
        for (struct chunk *c; n < 1000 && (c = part ? stdlib_next(&it) : shipped_next(&it)) != NULL;
             n++) {
            names[n] = arena_printf(a, "%s/%s", part ? "stdlib" : "lua", c->name);
            if (hash_of(a, str_make(c->source, c->source_len), &hashes[n]) != 0)
                return err_set(e, ERR_INTERNAL, "no SHA-256");
        }
    }
    *names_r = names;
    *hashes_r = hashes;
    *n_r = n;
    return 0;
}

static int put_shipped(struct tx *tx, struct arena *a, uint64_t release, struct err *e)
{
    struct str *names, *hashes;
    uint32_t n;

    if (shipped_list(a, &names, &hashes, &n, e) != 0)
        return -1;
    return tx_exec(
        tx, a, NULL, e,
        "insert into release_shipped (release, name, hash)"
        " select $1, x.name, x.hash from unnest($2::text[], $3::bytea[]) as x(name, hash)",
        DB_ARGS(db_int((int64_t)release), db_texts(names, n), db_bytess(hashes, n)));
}

/* Did that release run with the files we have? */
static int same_shipped(struct tx *tx, struct arena *a, int64_t release, bool *same_r,
                        struct err *e)
{
    struct str *names, *hashes;
    const struct rows *rows;
    uint32_t n;

    if (shipped_list(a, &names, &hashes, &n, e) != 0 ||
        tx_exec(tx, a, &rows, e,
                "select count(*) filter (where s.hash = x.hash), count(s.name), count(x.name)"
                " from (select name, hash from release_shipped where release = $1) s"
                " full join unnest($2::text[], $3::bytea[]) as x(name, hash) on x.name = s.name",
                DB_ARGS(db_int(release), db_texts(names, n), db_bytess(hashes, n))) != 0)
        return -1;
    *same_r = rows_int(rows, 0, 0) == rows_int(rows, 0, 1) &&
              rows_int(rows, 0, 0) == rows_int(rows, 0, 2);
    return 0;
}

static int make_release(struct tx *tx, struct arena *a, struct change *c, struct err *e)
{
    const struct rows *rows;
    struct str hash = STR_NONE;
    int64_t parent = 0;

    /* The lock makes two changes at once follow each other, so that none is lost. */
    if (tx_exec(tx, a, &rows, e, "lock table release in share row exclusive mode", 0, NULL) != 0 ||
        tx_exec(tx, a, &rows, e, "select id from release where active", 0, NULL) != 0)
        return -1;
    if (rows_count(rows) > 0)
        parent = rows_int(rows, 0, 0);
    if (c->ship) {
        bool same = parent == 0; /* nothing was saved yet: nothing to keep apart */
        if (!same && same_shipped(tx, a, parent, &same, e) != 0)
            return -1;
        if (same)
            return 0;
    }
    c->done = true;
    if (c->from != 0) {
        if (tx_exec(tx, a, &rows, e, "select id from release where id = $1",
                    DB_ARGS(db_int((int64_t)c->from))) != 0)
            return -1;
        if (rows_count(rows) == 0)
            return err_set(e, ERR_NOTFOUND, "there is no release %llu",
                           (unsigned long long)c->from);
        parent = (int64_t)c->from;
    }
    if (c->name.n > 0 && c->text.p == NULL) {
        if (tx_exec(tx, a, &rows, e, "select 1 from release_file where release = $1 and name = $2",
                    DB_ARGS(db_int(parent), db_text(c->name))) != 0)
            return -1;
        if (rows_count(rows) == 0)
            return err_set(e, ERR_NOTFOUND, "there is no script %.*s", STR_ARG(c->name));
    }
    if (tx_exec(tx, a, NULL, e, "update release set active = false where active", 0, NULL) != 0 ||
        tx_exec(tx, a, NULL, e,
                "insert into release (id, parent, who, note, active)"
                " values ($1, nullif($2, 0), $3, $4, true)",
                DB_ARGS(db_int((int64_t)c->id), db_int(parent), db_text(c->who),
                        db_text(c->note))) != 0 ||
        tx_exec(tx, a, NULL, e,
                "insert into release_file (release, name, hash)"
                " select $1, name, hash from release_file where release = $2 and name <> $3",
                DB_ARGS(db_int((int64_t)c->id), db_int(parent), db_text(c->name))) != 0)
        return -1;
    if (put_shipped(tx, a, c->id, e) != 0)
        return -1;
    if (c->text.p == NULL)
        return 0;
    if (hash_of(a, c->text, &hash) != 0)
        return err_set(e, ERR_INTERNAL, "no SHA-256");
    if (tx_exec(tx, a, NULL, e,
                "insert into script_blob (hash, text) values ($1, $2) on conflict do nothing",
                DB_ARGS(db_bytes(hash), db_bytes(c->text))) != 0)
        return -1;
    return tx_exec(tx, a, NULL, e,
                   "insert into release_file (release, name, hash) values ($1, $2, $3)",
                   DB_ARGS(db_int((int64_t)c->id), db_text(c->name), db_bytes(hash)));
}

static int activate(struct change *c, uint64_t *release_r, struct err *e)
{
    struct arena *a = arena_new(4096);
    struct tx *tx = NULL;
    int rc = -1;

    if (c->who.p == NULL)
        c->who = STR("");
    if (c->note.p == NULL)
        c->note = STR("");
    if (c->name.p == NULL)
        c->name = STR("");
    if (db_next_id(&c->id, e) == 0 && (tx = tx_begin(e)) != NULL) {
        rc = make_release(tx, a, c, e);
        struct err end = ERR_INIT;
        if (tx_end(&tx, rc == 0, &end) != 0 && rc == 0) {
            if (e != NULL)
                *e = end;
            rc = -1;
        }
    }
    arena_free(&a);
    if (rc != 0)
        return -1;
    if (!c->done)
        return 0;
    if (release_r != NULL)
        *release_r = c->id;
    shm_bump(GEN_RELEASE);
    bus_publish(BUS_RELEASE, 0);
    /* This process uses it before the caller goes on. */
    struct err ignored = ERR_INIT;
    if (release_load(&ignored) != 0)
        log_warn("script", "the new release cannot be read back: %s", ignored.text);
    return 0;
}

int release_put(struct str name, struct str text, struct str who, struct str note,
                uint64_t *release_r, struct err *e)
{
    struct change c = {.name = name, .text = text, .who = who, .note = note};

    if (c.text.p == NULL)
        c.text = STR("");
    return activate(&c, release_r, e);
}

int release_drop(struct str name, struct str who, struct str note, uint64_t *release_r,
                 struct err *e)
{
    struct change c = {.name = name, .text = STR_NONE, .who = who, .note = note};

    return activate(&c, release_r, e);
}

int release_rollback(uint64_t id, struct str who, uint64_t *release_r, struct err *e)
{
    struct change c = {.who = who, .note = STR("rollback"), .from = id};

    return activate(&c, release_r, e);
}

int release_ship(struct err *e)
{
    struct change c = {
        .who = STR("moonpost"), .note = STR("version " MOONPOST_VERSION), .ship = true};

    return safe_mode ? 0 : activate(&c, NULL, e);
}

/* --- asking
 * ----------------------------------------------------------------------------------------------------
 */
int release_text(struct str name, struct arena *a, struct str *text_r, struct err *e)
{
    const struct rows *rows;

    if (db_exec(a, &rows, e,
                "select b.text from release r join release_file f on f.release = r.id"
                " join script_blob b on b.hash = f.hash where r.active and f.name = $1",
                DB_ARGS(db_text(name))) != 0)
        return -1;
    if (rows_count(rows) == 0)
        return err_set(e, ERR_NOTFOUND, "there is no script %.*s", STR_ARG(name));
    *text_r = rows_str(rows, 0, 0);
    return 0;
}

int release_files(struct arena *a, struct script_info **v_r, uint32_t *n_r, struct err *e)
{
    const struct rows *rows;

    if (db_exec(a, &rows, e,
                "select f.name, encode(f.hash, 'hex'), octet_length(b.text)::bigint"
                " from release r join release_file f on f.release = r.id"
                " join script_blob b on b.hash = f.hash where r.active order by f.name",
                0, NULL) != 0)
        return -1;
    *n_r = rows_count(rows);
    *v_r = ARENA_ARRAY(a, struct script_info, *n_r + 1);
    for (uint32_t i = 0; i < *n_r; i++)
        (*v_r)[i] = (struct script_info){.name = rows_str(rows, i, 0),
                                         .hash = rows_str(rows, i, 1),
                                         .site = true,
                                         .size = (uint64_t)rows_int(rows, i, 2)};
    return 0;
}

int release_history(struct arena *a, struct script_release **v_r, uint32_t *n_r, struct err *e)
{
    const struct rows *rows;

    if (db_exec(a, &rows, e,
                "select r.id, r.at, r.who, r.note, r.active,"
                " (select count(*) from release_file f where f.release = r.id)"
                " from release r order by r.id desc limit 1000",
                0, NULL) != 0)
        return -1;
    *n_r = rows_count(rows);
    *v_r = ARENA_ARRAY(a, struct script_release, *n_r + 1);
    for (uint32_t i = 0; i < *n_r; i++)
        (*v_r)[i] = (struct script_release){.id = (uint64_t)rows_int(rows, i, 0),
                                            .at = rows_int(rows, i, 1),
                                            .who = rows_str(rows, i, 2),
                                            .note = rows_str(rows, i, 3),
                                            .active = rows_bool(rows, i, 4),
                                            .files = (uint32_t)rows_int(rows, i, 5)};
    return 0;
}
