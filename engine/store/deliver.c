/* The group commit (architecture 4): forming batches, committing them, and being certain.
 *
 * Invariants: a message's task is woken only when its transaction is flushed or is known to have
 * failed; after a lost connection nobody is answered and nothing is retried until the old backend
 * has gone and its outcome was looked up. */
#include "store/deliver_int.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"
#include "store/bus.h"
#include "store/db.h"
#include "store/stage_int.h"
#include "store/text.h"

#include <assert.h>
#include <stdlib.h>

enum {
    WRITERS = 2,
    SECOND_WRITER_MESSAGES = 16, /* a second commit starts only for a batch worth it */
    SECOND_WRITER_BYTES = 1024 * 1024,
    RECOVER_MS = 50,
    BUSY_MS = 50,        /* so long after a small message more are expected */
    SESSIONS_MAX = 1000, /* ledger rows of sessions that wait; more are counted only */
    SESSIONS_MS = 500,
    SESSIONS_BATCH = 200
};

struct writer {
    struct pg *c;
    int64_t backend_start; /* microseconds since 1970, as the server tells it */
    int backend;
    bool running;
};

static struct writer writers[WRITERS];
static struct pending *first, **last = &first;
static uint32_t waiting;
static size_t waiting_bytes;
static bool open_now;
static unsigned active;   /* writers at work */
static uint64_t small_at; /* loop_ms() of the last message without parts */
static struct {
    uint64_t messages, batches, largest;
} stats;

/* --- connecting
 * ------------------------------------------------------------------------------------- */
struct identity {
    int backend;
    int64_t start;
};

static bool take_identity(void *ctx, unsigned index, const PGresult *res)
{
    struct identity *id = ctx;
    (void)index;
    if (PQntuples(res) == 1) {
        id->backend = (int)pg_get_int(res, 0, 0);
        id->start = pg_get_int(res, 0, 1);
    }
    return true;
}

static int writer_connect(struct writer *w, struct err *e)
{
    struct identity id = {0, 0};

    if (w->c != NULL && pg_alive(w->c))
        return 0;
    pg_free(&w->c);
    w->c = pg_new(db_commit_server());
    if (pg_connect(w->c, e) != 0 ||
        pg_send(w->c, 0, e,
                "select pid, (extract(epoch from backend_start) * 1000000)::bigint "
                "from pg_stat_activity where pid = pg_backend_pid()",
                0, NULL) != 0 ||
        pg_run(w->c, take_identity, &id, e) != 0) {
        pg_free(&w->c);
        return -1;
    }
    w->backend = id.backend;
    w->backend_start = id.start;
    return 0;
}

/* --- certainty after a lost connection
 * ------------------------------------------------------------------ */
static bool take_found(void *ctx, unsigned index, const PGresult *res)
{
    (void)index;
    *(bool *)ctx = PQntuples(res) > 0;
    return true;
}

/* One look: *gone_r when the old backend has left.  Asks as the login user, whose backend it was.
 */
static int look_for_backend(struct writer *w, int backend, int64_t start, bool end_it, bool *gone_r,
                            struct err *e)
{
    struct db_arg args[] = {db_int(backend), db_int(start), db_bool(end_it)};
    bool there = false;

    if (pg_send(w->c, PG_ONCE, e, "select set_config('role', 'none', true)", 0, NULL) != 0 ||
        pg_send(w->c, PG_ONCE, e,
                "select case when $3 then pg_terminate_backend(pid) end from pg_stat_activity "
                "where pid = $1 and (backend_start is null or "
                "(extract(epoch from backend_start) * 1000000)::bigint = $2)",
                3, args) != 0 ||
        pg_run(w->c, take_found, &there, e) != 0)
        return -1;
    *gone_r = !there;
    return 0;
}

/* Did the transaction that wrote this body commit?  Waits until that is certain. */
static bool outcome(struct writer *w, uint64_t body)
{
    int backend = w->backend;
    int64_t start = w->backend_start;
    struct db_arg id = db_int((int64_t)body);
    bool committed = false, gone = false;
    unsigned looks = 0;

    log_warn("store", "commit connection lost: finding out what became of the batch of %llu",
             (unsigned long long)body);
    for (;;) {
        struct err e = ERR_INIT;
        if (db_closing())
            return false;
        if (writer_connect(w, &e) == 0 &&
            (gone || look_for_backend(w, backend, start, looks++ > 0, &gone, &e) == 0) && gone) {
            struct db_arg mark = db_int(w->backend);
            if (pg_send(w->c, 0, &e, "select 1 from body where id = $1", 1, &id) == 0 &&
                pg_run(w->c, take_found, &committed, &e) == 0) {
                if (!committed)
                    return false;
                /* A commit of our own covers the flush, and the standby, of all before it. */
                if (pg_send(w->c, 0, &e,
                            "insert into commit_mark (id) values ($1) "
                            "on conflict (id) do update set at = now()",
                            1, &mark) == 0 &&
                    pg_run(w->c, NULL, NULL, &e) == 0)
                    return true;
            }
        }
        pg_pause(RECOVER_MS);
    }
}

/* --- one batch
 * ----------------------------------------------------------------------------------------- */
static int commit(struct writer *w, struct pending *const *v, uint32_t n, struct err *e)
{
    if (writer_connect(w, e) != 0)
        return -1;
    struct arena *a = arena_new(4096);
    int rc = deliver_write(w->c, a, v, n, e);
    bool sent = rc == 0;
    if (rc != 0)
        pg_close(w->c); /* forget the statements that are queued already */
    else
        rc = pg_run(w->c, NULL, NULL, e);
    arena_free(&a);
    if (rc != 0 && sent && pg_lost(w->c)) {
        if (outcome(w, v[0]->body))
            rc = 0;
        else
            err_set(e, ERR_TEMP, "the database connection was lost");
    }
    return rc;
}

static void tell_bus(struct pending *const *v, uint32_t n)
{
    bool queued = false;
    uint64_t told[BATCH_MESSAGES];
    uint32_t told_count = 0;

    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t t = 0; t < v[i]->m->target_count; t++) {
            uint64_t mailbox = v[i]->m->targets[t].mailbox;
            uint32_t k = 0;
            while (k < told_count && told[k] != mailbox)
                k++;
            if (k < told_count)
                continue;
            if (told_count < BATCH_MESSAGES)
                told[told_count++] = mailbox;
            bus_publish(BUS_ARRIVAL, mailbox);
        }
        queued = queued || v[i]->m->remote_count > 0;
    }
    if (queued)
        bus_publish(BUS_QUEUE, 0);
}

static void settle(struct pending *p, int rc, const struct err *e)
{
    p->rc = rc;
    if (rc != 0)
        p->err = *e;
    p->done = true;
    task_wake(p->task);
}

static void run_batch(struct writer *w, struct pending **v, uint32_t n)
{
    struct err e = ERR_INIT;
    int rc = commit(w, v, n, &e);

    stats.batches++;
    if (n > stats.largest)
        stats.largest = n;
    if (rc != 0 && n > 1 && w->c != NULL) {
        /* Known to have failed: one bad message must not take the others with it. */
        log_warn("store", "a batch of %u failed, trying one by one: %s", n, e.text);
        for (uint32_t i = 0; i < n; i++)
            run_batch(w, v + i, 1);
        return;
    }
    if (rc == 0) {
        stats.messages += n;
        tell_bus(v, n);
    } else {
        log_warn("store", "a message was not stored: %s", e.text);
    }
    for (uint32_t i = 0; i < n; i++)
        settle(v[i], rc, &e);
}

static uint32_t take_batch(struct pending **v)
{
    uint32_t n = 0;
    size_t bytes = 0;

    while (first != NULL && n < BATCH_MESSAGES && (n == 0 || bytes + first->bytes <= BATCH_BYTES)) {
        struct pending *p = first;
        first = p->next;
        bytes += p->bytes;
        waiting--;
        waiting_bytes -= p->bytes;
        v[n++] = p;
    }
    if (first == NULL)
        last = &first;
    return n;
}

static void writer_run(void *arg)
{
    struct writer *w = arg;
    struct pending *v[BATCH_MESSAGES];
    uint32_t n;

    while ((n = take_batch(v)) > 0) {
        run_batch(w, v, n);
        /* One writer is enough for small change: batches grow while it is busy. */
        if (active > 1 && waiting < SECOND_WRITER_MESSAGES && waiting_bytes < SECOND_WRITER_BYTES)
            break;
    }
    w->running = false;
    active--;
}

static void kick(void)
{
    if (active > 0 && waiting < SECOND_WRITER_MESSAGES && waiting_bytes < SECOND_WRITER_BYTES)
        return;
    for (unsigned i = 0; i < WRITERS; i++)
        if (!writers[i].running) {
            writers[i].running = true;
            active++;
            task_spawn(writer_run, &writers[i]);
            return;
        }
}

/* --- the calls
 * ---------------------------------------------------------------------------------------- */
static int check(const struct deliver_message *m, struct err *e)
{
    assert(m->stage != NULL);
    if (m->target_count + m->remote_count == 0)
        return err_set(e, ERR_INTERNAL, "a message without targets");
    if (m->target_count + m->remote_count > RECIPIENTS_MAX)
        return err_set(e, ERR_LIMIT, "too many recipients");
    if (m->head_count == 0 || m->head_count > RECIPIENTS_MAX)
        return err_set(e, ERR_INTERNAL, "a message with %u heads", m->head_count);
    for (uint32_t i = 0; i < m->target_count; i++)
        if (m->targets[i].head >= m->head_count)
            return err_set(e, ERR_INTERNAL, "a target names no head");
    for (uint32_t i = 0; i < m->remote_count; i++)
        if (m->remotes[i].head >= m->head_count)
            return err_set(e, ERR_INTERNAL, "a queue row names no head");
    for (uint32_t i = 0; i < m->head_count; i++)
        if (m->heads[i].bytes.n + m->stage->size > UINT32_MAX)
            return err_set(e, ERR_LIMIT, "the message is too large");
    return 0;
}

bool deliver_busy(void)
{
    return small_at != 0 && loop_ms() - small_at < BUSY_MS;
}

int deliver_commit(struct deliver_message *m, uint64_t *id_r, struct err *e)
{
    struct pending p = {.m = m, .task = task_self()};
    uint64_t ids;

    if (!open_now)
        return err_set(e, ERR_TEMP, "the store is closed");
    if (check(m, e) != 0 || stage_finish(m->stage, e) != 0)
        return -1;
    p.head_rows = m->head_count;
    p.structure = stage_structure(m->stage);
    p.bytes = m->stage->used;
    for (uint32_t i = 0; i < m->head_count; i++) {
        p.head_rows += m->heads[i].received.n > 0;
        p.bytes += m->heads[i].bytes.n + m->heads[i].received.n;
    }
    if (db_next_ids(1 + p.head_rows + m->target_count + m->remote_count, &ids, e) != 0)
        return -1;
    p.body = m->stage->body ? m->stage->body : ids;
    p.heads = ids + 1;
    if (m->stage->parts == 0)
        small_at = loop_ms();
    *last = &p;
    last = &p.next;
    waiting++;
    waiting_bytes += p.bytes;
    kick();
    while (!p.done)
        task_park();
    if (p.rc != 0)
        return err_set(e, p.err.cls, "%s", p.err.text);
    m->stage->taken = true;
    if (id_r != NULL)
        *id_r = p.body;
    return 0;
}

/* --- ledger rows of sessions
 * ----------------------------------------------------------------------------- */
struct session_row {
    struct session_row *next;
    struct arena *a;
    struct str trace, peer, inputs, steps;
};

static struct session_row *session_first, **session_last = &session_first;
static uint32_t session_count, session_thinned;
static struct timer *session_timer;
static bool session_running;

static void sessions_write(void *arg)
{
    (void)arg;
    while (session_first != NULL && !db_closing()) {
        struct str trace[SESSIONS_BATCH], peer[SESSIONS_BATCH], in[SESSIONS_BATCH],
            steps[SESSIONS_BATCH];
        struct session_row *rows[SESSIONS_BATCH];
        struct err e = ERR_INIT;
        uint32_t n = 0;
        uint64_t id = 0;
        while (session_first != NULL && n < SESSIONS_BATCH) {
            struct session_row *r = session_first;
            session_first = r->next;
            rows[n] = r;
            trace[n] = r->trace;
            peer[n] = r->peer;
            in[n] = r->inputs;
            steps[n] = r->steps;
            n++;
            session_count--;
        }
        if (session_first == NULL)
            session_last = &session_first;
        if (db_next_ids(n, &id, &e) != 0 ||
            db_exec_async(NULL, NULL, &e,
                          "insert into ledger (id, trace, kind, peer, inputs, steps) "
                          "select $1 + o - 1, t, 'session', p, i::jsonb, s::jsonb from "
                          "unnest($2::text[], $3::text[], $4::text[], $5::text[]) "
                          "with ordinality u(t, p, i, s, o)",
                          DB_ARGS(db_int((int64_t)id), db_texts(trace, n), db_texts(peer, n),
                                  db_texts(in, n), db_texts(steps, n))) != 0)
            log_warn("store", "%u ledger rows of sessions were not written: %s", n, e.text);
        for (uint32_t i = 0; i < n; i++) {
            struct arena *a = rows[i]->a;
            arena_free(&a);
        }
    }
    if (session_thinned > 0)
        log_warn("store", "%u ledger rows of sessions were thinned out", session_thinned);
    session_thinned = 0;
    session_running = false;
}

static void on_session_timer(void *ctx)
{
    (void)ctx;
    if (session_running || session_first == NULL)
        return;
    session_running = true;
    task_spawn(sessions_write, NULL);
}

void ledger_session(struct str trace, struct str peer, struct str inputs, struct str steps)
{
    if (!open_now)
        return;
    if (session_count >= SESSIONS_MAX) {
        session_thinned++;
        return;
    }
    struct arena *a = arena_new(512);
    struct session_row *r = ARENA_NEW(a, struct session_row);
    r->a = a;
    r->trace = arena_dup(a, trace);
    r->peer = arena_dup(a, peer);
    r->inputs = text_json(a, inputs.n ? arena_dup(a, inputs) : STR_NONE);
    r->steps = text_json(a, steps.n ? arena_dup(a, steps) : STR_NONE);
    *session_last = r;
    session_last = &r->next;
    session_count++;
    if (session_timer == NULL)
        session_timer = timer_new(on_session_timer, NULL);
    if (session_count == 1 || session_count == SESSIONS_BATCH)
        timer_set(session_timer, session_count == 1 ? SESSIONS_MS : 1);
}

/* --- life
 * ------------------------------------------------------------------------------------------------
 */
void deliver_open(void)
{
    open_now = true;
}

void deliver_drain(void)
{
    while (active > 0 || first != NULL)
        pg_pause(5);
    on_session_timer(NULL);
    while (session_running)
        pg_pause(5);
    open_now = false;
    timer_free(&session_timer);
    for (unsigned i = 0; i < WRITERS; i++)
        pg_free(&writers[i].c);
}

void deliver_stats(uint64_t *messages_r, uint64_t *batches_r, uint64_t *largest_r)
{
    *messages_r = stats.messages;
    *batches_r = stats.batches;
    *largest_r = stats.largest;
}
