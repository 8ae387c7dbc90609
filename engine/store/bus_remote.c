#include "store/bus_remote.h"

#include "core/arena.h"
#include "core/buf.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "store/bus.h"
#include "store/db.h"
#include "store/pg.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    GATHER_MS = 5,
    RETRY_MS = 1000,
    PAYLOAD_MAX = 7500, /* a notification ends at 8,000 bytes */
    ECHO_MAX = 256      /* events of others that our own watchers are about to hear, too */
};

struct event {
    enum bus_kind kind;
    uint64_t id;
};

static char *conninfo_kept, origin[64];
static PGconn *conn;
static struct watch *watch;
static struct timer *gather, *retry;
static struct bus_watch *watches[6];
static struct buf payload;
static struct event echoes[ECHO_MAX];
static unsigned echo_count;
static bool sending, closing, lost;

/* An event that came from another machine must not go back there. */
static bool is_echo(enum bus_kind kind, uint64_t id)
{
    for (unsigned i = 0; i < echo_count; i++)
        if (echoes[i].kind == kind && echoes[i].id == id) {
            echoes[i] = echoes[--echo_count];
            return true;
        }
    return false;
}

static void send_task(void *arg)
{
    struct err e = ERR_INIT;
    struct str all = buf_str(&payload);
    char *text = xmalloc(all.n + 1);

    (void)arg;
    memcpy(text, all.p, all.n);
    text[all.n] = '\0';
    struct str s = str_make(text, all.n);
    buf_clear(&payload);
    /* Asynchronous: what it tells of is committed already. */
    if (db_exec_async(NULL, NULL, &e, "select pg_notify('moonpost_bus', $1)",
                      DB_ARGS(db_text(s))) != 0)
        log_debug("store", "bus between machines: %s", e.text);
    free(text);
    sending = false;
    if (payload.len > 0 && !closing)
        timer_set(gather, GATHER_MS);
}

static void on_gather(void *ctx)
{
    (void)ctx;
    if (sending || payload.len == 0 || closing)
        return;
    sending = true;
    task_spawn(send_task, NULL);
}

static void on_local(void *ctx, enum bus_kind kind, uint64_t id)
{
    char one[64];

    (void)ctx;
    if (is_echo(kind, id))
        return;
    int n = snprintf(one, sizeof one, " %d:%" PRIu64 ";", (int)kind, id);
    if (n < 0 || str_find(buf_str(&payload), str_make(one, (size_t)n)) >= 0)
        return;
    if (payload.len == 0)
        buf_printf(&payload, "%s", origin);
    if (!buf_add(&payload, str_make(one, (size_t)n)))
        return; /* full: the others look again within a minute */
    timer_set(gather, GATHER_MS);
}

static void apply(enum bus_kind kind, uint64_t id)
{
    if (echo_count < ECHO_MAX)
        echoes[echo_count++] = (struct event){kind, id};
    if (kind == BUS_ACCOUNT)
        shm_bump(GEN_ACCOUNT);
    if (kind == BUS_SETTING) {
        shm_bump(GEN_SETTING);
        shm_bump(GEN_ACL);
    }
    if (kind == BUS_RELEASE)
        shm_bump(GEN_RELEASE);
    bus_publish(kind, id);
}

static void on_notification(const char *text)
{
    struct str rest = str_of(text);
    struct str from = str_cut(&rest, ' ');

    if (str_eqz(from, origin))
        return;
    while (rest.p != NULL && rest.n > 0) {
        struct str id = str_trim(str_cut(&rest, ';'));
        struct str kind = str_cut(&id, ':');
        uint64_t k, i;
        if (str_u64(kind, &k) && str_u64(id, &i) && k >= BUS_ARRIVAL && k <= BUS_QUEUE)
            apply((enum bus_kind)k, i);
    }
}

static void drop(void)
{
    watch_free(&watch);
    if (conn != NULL)
        PQfinish(conn);
    conn = NULL;
    lost = true;
    if (!closing)
        timer_set(retry, RETRY_MS);
}

static void on_readable(void *ctx, int what)
{
    PGnotify *n;

    (void)ctx, (void)what;
    if (PQconsumeInput(conn) != 1) {
        log_warn("store", "bus between machines: %s", PQerrorMessage(conn));
        drop();
        return;
    }
    while (conn != NULL && (n = PQnotifies(conn)) != NULL) {
        on_notification(n->extra);
        PQfreemem(n);
    }
}

/* On a pool thread: connecting by name and by password may block. */
static void connect_now(void *arg)
{
    PGconn **c = arg;

    *c = PQconnectdb(conninfo_kept);
    if (PQstatus(*c) != CONNECTION_OK)
        return;
    PGresult *r = PQexec(*c, "listen moonpost_bus");
    if (PQresultStatus(r) != PGRES_COMMAND_OK || PQsetnonblocking(*c, 1) != 0) {
        PQclear(r);
        PQfinish(*c);
        *c = NULL;
        return;
    }
    PQclear(r);
}

static void connect_task(void *arg)
{
    PGconn *c = NULL;

    (void)arg;
    work_run(connect_now, &c);
    if (c == NULL || PQstatus(c) != CONNECTION_OK || closing) {
        if (c != NULL)
            PQfinish(c);
        if (!closing)
            timer_set(retry, RETRY_MS);
        return;
    }
    conn = c;
    watch = watch_new(PQsocket(c), on_readable, NULL);
    watch_set(watch, WATCH_READ);
    if (lost) { /* whatever was said meanwhile was missed */
        apply(BUS_ACCOUNT, 0);
        apply(BUS_SETTING, 0);
        apply(BUS_RELEASE, 0);
    }
    log_info("store", "listening to other machines as %s", origin);
    on_readable(NULL, 0);
}

static void on_retry(void *ctx)
{
    (void)ctx;
    task_spawn(connect_task, NULL);
}

void bus_remote_open(const char *conninfo)
{
    static const enum bus_kind kinds[] = {BUS_ARRIVAL, BUS_CHANGE,  BUS_ACCOUNT,
                                          BUS_SETTING, BUS_RELEASE, BUS_QUEUE};
    char host[40] = "";

    gethostname(host, sizeof host - 1);
    snprintf(origin, sizeof origin, "%s.%d", host, (int)getpid());
    for (char *p = origin; *p; p++)
        if (*p == ' ')
            *p = '_';
    conninfo_kept = xstrdup(conninfo);
    buf_init(&payload, PAYLOAD_MAX);
    gather = timer_new(on_gather, NULL);
    retry = timer_new(on_retry, NULL);
    for (unsigned i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        watches[i] = bus_watch(kinds[i], 0, on_local, NULL);
    timer_set(retry, 1);
}

void bus_remote_close(void)
{
    if (conninfo_kept == NULL)
        return;
    closing = true;
    for (unsigned i = 0; i < sizeof watches / sizeof watches[0]; i++)
        if (watches[i])
            bus_unwatch(&watches[i]);
    drop();
    timer_free(&gather);
    timer_free(&retry);
    buf_free(&payload);
    free(conninfo_kept);
    conninfo_kept = NULL;
}
