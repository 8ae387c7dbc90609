/* One connection: connecting without blocking, pipelined runs, the cache of prepared statements.
 *
 * Invariants: a run ends with exactly one Sync, and its results are read up to that Sync before the
 * connection can be used again; a statement counts as prepared only when the server said so,
 * because an error earlier in the pipeline skips its Parse. */
#include "store/pg.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"
#include "core/work.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    CONNECT_MS = 10000,
    BACKOFF_LEAST_MS = 100,
    BACKOFF_MOST_MS = 5000,
    STATEMENTS_MAX = 512, /* prepared on a connection; a power of two, filled to a half */
    QUEUE_MAX = 512,      /* statements a run */
    ARGS_MAX = 40
};

#define EMBEDDED_NAME "moonpost_embedded"

struct option {
    char *key, *value;
};

struct pg_server {
    struct option *options;
    unsigned count;
    unsigned flags;
    uint64_t retry_at; /* ms: no attempt before */
    unsigned backoff;
    bool up;
};

struct statement {
    uint64_t hash;
    char *sql;
    unsigned number;
    bool prepared;
};

struct queued {
    struct statement *prepares; /* this entry is a Parse */
    bool single;
};

struct pg {
    struct pg_server *server;
    PGconn *c;
    struct watch *watch;
    struct timer *timer;
    struct task *task; /* parked in us; NULL while idle: the last owner may have ended */
    bool dead, lost, expired, running;
    int backend;
    unsigned patience;
    struct statement *statements; /* STATEMENTS_MAX slots, open addressing */
    unsigned statement_count;
    struct queued queue[QUEUE_MAX];
    unsigned queued;
    struct arena *scratch;
};

/* --- where to connect
 * ----------------------------------------------------------------------------- */
static void option_set(struct pg_server *s, const char *key, const char *value)
{
    for (unsigned i = 0; i < s->count; i++)
        if (strcmp(s->options[i].key, key) == 0) {
            free(s->options[i].value);
            s->options[i].value = xstrdup(value);
            return;
        }
    s->options = xrealloc(s->options, sizeof *s->options * (s->count + 1));
    s->options[s->count++] = (struct option){xstrdup(key), xstrdup(value)};
}

static const char *option_get(const struct pg_server *s, const char *key)
{
    for (unsigned i = 0; i < s->count; i++)
        if (strcmp(s->options[i].key, key) == 0)
            return s->options[i].value;
    return NULL;
}

bool pg_conninfo_embedded(const char *conninfo)
{
    return strstr(conninfo, "application_name=" EMBEDDED_NAME) != NULL;
}

struct pg_server *pg_server_new(const char *conninfo, const char *role, const char *password,
                                bool login, unsigned flags)
{
    struct pg_server *s = xcalloc(1, sizeof *s);
    char *text = NULL;
    char options[512];

    PQconninfoOption *all = PQconninfoParse(conninfo, &text);
    if (all == NULL)
        log_error("store", "connection string: %s", text ? text : "out of memory");
    PQfreemem(text);
    for (PQconninfoOption *o = all; o != NULL && o->keyword != NULL; o++)
        if (o->val != NULL)
            option_set(s, o->keyword, o->val);
    PQconninfoFree(all);
    s->flags = flags;
    if (role != NULL && login)
        option_set(s, "user", role);
    if (password != NULL)
        option_set(s, "password", password);
    const char *given = option_get(s, "options");
    snprintf(options, sizeof options,
             "%s%s-c statement_timeout=%d -c idle_in_transaction_session_timeout=60000 "
             "-c timezone=UTC -c synchronous_commit=%s -c jit=off%s%s",
             given ? given : "", given ? " " : "", DB_STATEMENT_MS,
             flags & PG_ASYNC_COMMIT ? "off" : "on", role != NULL && !login ? " -c role=" : "",
             role != NULL && !login ? role : "");
    option_set(s, "options", options);
    option_set(s, "application_name", "moonpost");
    option_set(s, "client_encoding", "UTF8");
    if (option_get(s, "tcp_user_timeout") == NULL)
        option_set(s, "tcp_user_timeout", "15000");
    if (option_get(s, "keepalives_idle") == NULL)
        option_set(s, "keepalives_idle", "30");
    s->up = true;
    return s;
}

void pg_server_free(struct pg_server **sp)
{
    struct pg_server *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    for (unsigned i = 0; i < s->count; i++) {
        wipe(s->options[i].value, strlen(s->options[i].value));
        free(s->options[i].key);
        free(s->options[i].value);
    }
    free(s->options);
    free(s);
}

bool pg_server_up(const struct pg_server *s)
{
    return s->up;
}

/* --- host names: libpq would block in getaddrinfo
 * --------------------------------------------------- */
struct lookup {
    char host[256];
    char address[256];
};

static void lookup_run(void *arg)
{
    struct lookup *l = arg;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;

    l->address[0] = '\0';
    if (getaddrinfo(l->host, NULL, &hints, &found) != 0)
        return;
    getnameinfo(found->ai_addr, found->ai_addrlen, l->address, sizeof l->address, NULL, 0,
                NI_NUMERICHOST);
    freeaddrinfo(found);
}

static bool numeric(const char *host)
{
    unsigned char raw[16];
    return inet_pton(AF_INET, host, raw) == 1 || inet_pton(AF_INET6, host, raw) == 1;
}

/* The hostaddr list that goes with the host list, or NULL when nothing has to be resolved.  A host
 * that cannot be resolved gets an address that answers nobody, so that the others are tried. */
static char *resolve(struct pg_server *s, struct arena *a)
{
    const char *hosts = option_get(s, "host");
    bool names = false;

    if (hosts == NULL || hosts[0] == '\0' || option_get(s, "hostaddr") != NULL)
        return NULL;
    struct str rest = str_of(hosts);
    struct str list = STR("");
    bool first = true;
    while (rest.p != NULL) {
        struct str host = str_cut(&rest, ',');
        struct lookup l = {.address = ""};
        if (host.n > 0 && host.n < sizeof l.host && host.p[0] != '/' && host.p[0] != '@') {
            memcpy(l.host, host.p, host.n);
            if (numeric(l.host)) {
                snprintf(l.address, sizeof l.address, "%s", l.host);
            } else {
                names = true;
                work_run(lookup_run, &l);
                if (l.address[0] == '\0') {
                    log_warn("store", "cannot resolve database host %s", l.host);
                    snprintf(l.address, sizeof l.address, "0.0.0.1");
                }
            }
        }
        list = arena_printf(a, "%.*s%s%s", STR_ARG(list), first ? "" : ",", l.address);
        first = false;
    }
    return names ? arena_dupz(a, list) : NULL;
}

/* --- life
 * ------------------------------------------------------------------------------------------ */
struct pg *pg_new(struct pg_server *s)
{
    struct pg *p = xcalloc(1, sizeof *p);

    p->server = s;
    p->scratch = arena_new(8192);
    p->dead = true;
    return p;
}

static void statements_free(struct pg *p)
{
    for (unsigned i = 0; p->statements != NULL && i < STATEMENTS_MAX; i++)
        free(p->statements[i].sql);
    free(p->statements);
    p->statements = NULL;
    p->statement_count = 0;
}

void pg_close(struct pg *p)
{
    watch_free(&p->watch);
    timer_free(&p->timer);
    if (p->c != NULL)
        PQfinish(p->c);
    p->c = NULL;
    p->dead = true;
    p->queued = 0;
    statements_free(p);
}

void pg_free(struct pg **pp)
{
    struct pg *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    pg_close(p);
    arena_free(&p->scratch);
    free(p);
}

int pg_backend(const struct pg *p)
{
    return p->backend;
}

bool pg_lost(const struct pg *p)
{
    return p->lost;
}

void pg_patience(struct pg *p, unsigned ms)
{
    p->patience = ms;
}

struct pausing {
    struct task *task;
    bool over;
};

static void pause_over(void *ctx)
{
    struct pausing *w = ctx;
    w->over = true;
    task_wake(w->task);
}

void pg_pause(unsigned ms)
{
    struct pausing w = {.task = task_self()};
    struct timer *t = timer_new(pause_over, &w);

    timer_set(t, ms);
    while (!w.over)
        task_park();
    timer_free(&t);
}

static void on_notice(void *ctx, const char *text)
{
    (void)ctx;
    log_debug("store", "%.*s", (int)strcspn(text, "\n"), text);
}

static void wake(struct pg *p)
{
    if (p->task != NULL)
        task_wake(p->task);
}

static void on_timer(void *ctx)
{
    struct pg *p = ctx;
    p->expired = true;
    wake(p);
}

static void on_connect_ready(void *ctx, int what)
{
    struct pg *p = ctx;
    (void)what;
    /* Level-triggered: quiet until the task has polled. */
    watch_set(p->watch, 0);
    wake(p);
}

/* Reads what is there, so that a task is woken only by whole results. */
static void on_ready(void *ctx, int what)
{
    struct pg *p = ctx;

    if (what & WATCH_READ) {
        if (!PQconsumeInput(p->c) || PQstatus(p->c) == CONNECTION_BAD) {
            p->dead = true;
            watch_set(p->watch, 0);
            wake(p);
            return;
        }
        if (!p->running) {
            /* Idle: only notices and parameter changes come; parse them. */
            (void)PQisBusy(p->c);
            return;
        }
        if (!PQisBusy(p->c))
            wake(p);
    }
    if (what & WATCH_WRITE)
        wake(p);
}

static void backoff(struct pg_server *s)
{
    s->backoff = s->backoff == 0 ? BACKOFF_LEAST_MS : s->backoff * 2;
    if (s->backoff > BACKOFF_MOST_MS)
        s->backoff = BACKOFF_MOST_MS;
    s->retry_at = loop_ns() / 1000000u + s->backoff;
}

static int connect_failed(struct pg *p, struct err *e)
{
    struct pg_server *s = p->server;
    char text[200];

    p->task = NULL;
    snprintf(text, sizeof text, "%s",
             p->expired ? "no answer" : (p->c ? PQerrorMessage(p->c) : "out of memory"));
    text[strcspn(text, "\n")] = '\0';
    if (s->up)
        log_warn("store", "database: %s", text);
    s->up = false;
    backoff(s);
    pg_close(p);
    return err_set(e, ERR_TEMP, "database: %s", text);
}

static PostgresPollingStatusType poll_once(struct pg *p)
{
    PostgresPollingStatusType st = PQconnectPoll(p->c);

    if (st != PGRES_POLLING_READING && st != PGRES_POLLING_WRITING)
        return st;
    /* The socket changes from attempt to attempt when there are several hosts. */
    watch_free(&p->watch);
    p->watch = watch_new(PQsocket(p->c), on_connect_ready, p);
    watch_set(p->watch, st == PGRES_POLLING_READING ? WATCH_READ : WATCH_WRITE);
    return st;
}

static void start(struct pg *p)
{
    struct pg_server *s = p->server;
    struct arena *a = arena_new(1024);
    const char **keys = ARENA_ARRAY(a, const char *, s->count + 2);
    const char **values = ARENA_ARRAY(a, const char *, s->count + 2);
    unsigned n = 0;

    for (unsigned i = 0; i < s->count; i++, n++) {
        keys[n] = s->options[i].key;
        values[n] = s->options[i].value;
    }
    char *addresses = resolve(s, a);
    if (addresses != NULL) {
        keys[n] = "hostaddr";
        values[n++] = addresses;
    }
    p->c = PQconnectStartParams(keys, values, 0);
    arena_free(&a);
}

int pg_connect(struct pg *p, struct err *e)
{
    struct pg_server *s = p->server;

    if (loop_ns() / 1000000u < s->retry_at)
        return err_set(e, ERR_TEMP, "the database is away");
    pg_close(p);
    p->task = task_self();
    p->expired = p->lost = p->running = false;
    start(p);
    if (p->c == NULL || PQstatus(p->c) == CONNECTION_BAD)
        return connect_failed(p, e);
    PQsetNoticeProcessor(p->c, on_notice, p);
    p->timer = timer_new(on_timer, p);
    timer_set(p->timer, CONNECT_MS);
    watch_free(&p->watch);
    p->watch = watch_new(PQsocket(p->c), on_connect_ready, p);
    watch_set(p->watch, WATCH_WRITE);
    for (;;) {
        task_park();
        if (p->expired)
            return connect_failed(p, e);
        PostgresPollingStatusType st = poll_once(p);
        if (st == PGRES_POLLING_FAILED)
            return connect_failed(p, e);
        if (st == PGRES_POLLING_OK)
            break;
    }
    timer_stop(p->timer);
    if (PQsetnonblocking(p->c, 1) != 0 || PQenterPipelineMode(p->c) != 1)
        return connect_failed(p, e);
    watch_free(&p->watch);
    p->watch = watch_new(PQsocket(p->c), on_ready, p);
    watch_set(p->watch, WATCH_READ);
    p->backend = PQbackendPID(p->c);
    p->task = NULL;
    p->dead = false;
    p->statements = xcalloc(STATEMENTS_MAX, sizeof *p->statements);
    if (!s->up)
        log_info("store", "database: connected again");
    s->up = true;
    s->backoff = 0;
    s->retry_at = 0;
    return 0;
}

bool pg_alive(struct pg *p)
{
    if (p->dead || p->c == NULL)
        return false;
    if (!PQconsumeInput(p->c) || PQstatus(p->c) == CONNECTION_BAD) {
        p->dead = true;
        watch_set(p->watch, 0);
        return false;
    }
    (void)PQisBusy(p->c);
    return PQstatus(p->c) != CONNECTION_BAD;
}

/* --- sending
 * ----------------------------------------------------------------------------------------- */
/* The slot of a statement; a new one when there is room, else NULL. */
static struct statement *statement_find(struct pg *p, const char *sql, const Oid *types, unsigned n)
{
    uint64_t hash = str_hash(str_of(sql));

    for (unsigned i = 0; i < n; i++)
        hash = (hash ^ types[i]) * 0x9e3779b97f4a7c15u;
    for (unsigned i = (unsigned)hash & (STATEMENTS_MAX - 1);; i = (i + 1) & (STATEMENTS_MAX - 1)) {
        struct statement *s = &p->statements[i];
        if (s->sql == NULL) {
            if (p->statement_count >= STATEMENTS_MAX / 2)
                return NULL;
            s->hash = hash;
            s->sql = xstrdup(sql);
            s->number = p->statement_count++;
            return s;
        }
        if (s->hash == hash && strcmp(s->sql, sql) == 0)
            return s;
    }
}

static bool prepare_pending(const struct pg *p, const struct statement *s)
{
    for (unsigned i = 0; i < p->queued; i++)
        if (p->queue[i].prepares == s)
            return true;
    return false;
}

static int send_failed(struct pg *p, struct err *e)
{
    int rc = err_set(e, ERR_TEMP, "database: %.*s", (int)strcspn(PQerrorMessage(p->c), "\n"),
                     PQerrorMessage(p->c));
    p->dead = true;
    return rc;
}

int pg_send(struct pg *p, unsigned flags, struct err *e, const char *sql, unsigned nargs,
            const struct db_arg *args)
{
    const char *values[ARGS_MAX];
    int lengths[ARGS_MAX], formats[ARGS_MAX];
    Oid types[ARGS_MAX];
    char name[16];

    if (p->dead)
        return err_set(e, ERR_TEMP, "the database connection was lost");
    if (nargs > ARGS_MAX || p->queued + 2 > QUEUE_MAX)
        return err_set(e, ERR_INTERNAL, "too many arguments or statements");
    for (unsigned i = 0; i < nargs; i++) {
        struct str s;
        bool infer = flags & PG_INFER && args[i].type == DB_TEXT;
        types[i] = infer ? 0 : pg_arg_oid(args[i].type);
        formats[i] = infer ? 0 : 1;
        values[i] = NULL;
        lengths[i] = 0;
        if (!pg_encode(p->scratch, &args[i], &s))
            continue;
        if (s.n > 0x3fffffff)
            return err_set(e, ERR_LIMIT, "a value is too large for the database");
        values[i] = infer ? arena_dupz(p->scratch, s) : s.p;
        lengths[i] = (int)s.n;
    }
    int format = flags & PG_TEXT ? 0 : 1;
    struct statement *s = flags & PG_ONCE ? NULL : statement_find(p, sql, types, nargs);
    if (s == NULL) {
        if (!PQsendQueryParams(p->c, sql, (int)nargs, types, values, lengths, formats, format))
            return send_failed(p, e);
    } else {
        snprintf(name, sizeof name, "s%u", s->number);
        if (!s->prepared && !prepare_pending(p, s)) {
            if (!PQsendPrepare(p->c, name, sql, (int)nargs, types))
                return send_failed(p, e);
            p->queue[p->queued++] = (struct queued){.prepares = s};
        }
        if (!PQsendQueryPrepared(p->c, name, (int)nargs, values, lengths, formats, format))
            return send_failed(p, e);
    }
    p->queue[p->queued++] = (struct queued){.single = (flags & PG_SINGLE) != 0};
    return 0;
}

/* --- results
 * ------------------------------------------------------------------------------------------- */
static enum err_class class_of(const char *state)
{
    if (state == NULL || state[0] == '\0')
        return ERR_TEMP;
    if (strcmp(state, "23505") == 0)
        return ERR_EXISTS;
    if (strcmp(state, "53100") == 0 || strncmp(state, "54", 2) == 0)
        return ERR_LIMIT;
    if (strncmp(state, "08", 2) == 0 || strncmp(state, "53", 2) == 0 ||
        strncmp(state, "57", 2) == 0 || strncmp(state, "40", 2) == 0 ||
        strcmp(state, "25006") == 0 || strcmp(state, "55P03") == 0 || strncmp(state, "58", 2) == 0)
        return ERR_TEMP;
    if (strcmp(state, "42501") == 0)
        return ERR_DENIED;
    return ERR_INTERNAL;
}

static void result_err(const PGresult *res, struct err *e)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

    if (text == NULL)
        text = PQresultErrorMessage(res);
    err_set(e, class_of(state), "database: %.*s%s%s", (int)strcspn(text, "\n"), text,
            state ? " " : "", state ? state : "");
}

static int run_dead(struct pg *p, struct err *e, bool failed)
{
    if (!failed)
        err_set(e, ERR_TEMP, "database: %s", p->expired ? "no answer" : "the connection was lost");
    log_warn("store", "database connection (backend %d) lost: %s", p->backend,
             p->expired ? "no answer in time" : PQerrorMessage(p->c));
    p->dead = p->lost = true;
    p->running = false;
    p->task = NULL;
    p->queued = 0;
    arena_reset(p->scratch);
    pg_close(p);
    return -1;
}

/* Waits until a result can be taken without blocking.  False: the connection is dead. */
static bool result_ready(struct pg *p)
{
    for (;;) {
        int left = PQflush(p->c);
        if (left < 0 || p->dead || p->expired)
            /* What the server said last (a FATAL message) is still worth reading. */
            return false;
        if (!PQisBusy(p->c))
            return PQstatus(p->c) != CONNECTION_BAD;
        watch_set(p->watch, left > 0 ? WATCH_READ | WATCH_WRITE : WATCH_READ);
        task_park();
        /* libpq has closed the socket of a dead connection: that number may be another's now. */
        if (!p->dead)
            watch_set(p->watch, WATCH_READ);
    }
}

int pg_run(struct pg *p, pg_result fn, void *ctx, struct err *e)
{
    unsigned pos = 0, index = 0, empty = 0;
    bool failed = false;

    p->lost = false;
    if (p->dead) {
        p->queued = 0;
        return err_set(e, ERR_TEMP, "the database connection was lost");
    }
    p->task = task_self();
    p->running = true;
    p->expired = false;
    if (!PQpipelineSync(p->c))
        return run_dead(p, e, false);
    timer_set(p->timer, p->patience ? p->patience : DB_STATEMENT_MS + 5000);
    if (p->queued > 0 && p->queue[0].single)
        PQsetSingleRowMode(p->c);
    for (;;) {
        if (!result_ready(p))
            return run_dead(p, e, failed);
        PGresult *res = PQgetResult(p->c);
        if (res == NULL) {
            /* The end of one statement's results; twice in a row means that libpq has no more. */
            if (++empty > 1)
                return run_dead(p, e, failed);
            if (pos < p->queued && p->queue[pos].prepares == NULL)
                index++;
            pos++;
            if (pos < p->queued && p->queue[pos].single)
                PQsetSingleRowMode(p->c);
            continue;
        }
        empty = 0;
        ExecStatusType st = PQresultStatus(res);
        bool more = true;
        if (st == PGRES_PIPELINE_SYNC) {
            PQclear(res);
            break;
        }
        if (st == PGRES_FATAL_ERROR) {
            if (!failed)
                result_err(res, e);
            failed = true;
        } else if (st == PGRES_COMMAND_OK || st == PGRES_TUPLES_OK || st == PGRES_SINGLE_TUPLE) {
            if (pos < p->queued && p->queue[pos].prepares != NULL)
                p->queue[pos].prepares->prepared = true;
            else if (fn != NULL && !failed)
                more = fn(ctx, index, res);
        }
        PQclear(res);
        if (!more) {
            p->running = false;
            p->task = NULL;
            p->queued = 0;
            arena_reset(p->scratch);
            pg_close(p);
            return 0;
        }
    }
    timer_stop(p->timer);
    p->running = false;
    p->task = NULL;
    p->queued = 0;
    arena_reset(p->scratch);
    return failed ? -1 : 0;
}
