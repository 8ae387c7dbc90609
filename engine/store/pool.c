/* A pool: connections of one process to one server under one role, given out first come first
 * served.  Idle sessions hold none. */
#include "store/pg.h"

#include "core/loop.h"
#include "core/task.h"

#include <stdlib.h>

enum { WAIT_MS = 10000, POOL_MOST = 32 };

struct waiter {
    struct waiter *next;
    struct task *task;
    struct pg *got;
    bool may_open, over; /* may_open: a seat became free */
};

struct pool {
    struct pg_server *server;
    unsigned most, open; /* open: idle and given out */
    struct pg *idle[POOL_MOST];
    unsigned idle_count;
    struct waiter *first, **last;
};

struct pool *pool_new(struct pg_server *s, unsigned most)
{
    struct pool *p = xcalloc(1, sizeof *p);

    p->server = s;
    p->most = most > POOL_MOST ? POOL_MOST : most;
    p->last = &p->first;
    return p;
}

void pool_free(struct pool **pp)
{
    struct pool *p = *pp;

    *pp = NULL;
    if (p == NULL)
        return;
    for (unsigned i = 0; i < p->idle_count; i++)
        pg_free(&p->idle[i]);
    free(p);
}

static struct waiter *pop(struct pool *p)
{
    struct waiter *w = p->first;

    if (w != NULL) {
        p->first = w->next;
        if (p->first == NULL)
            p->last = &p->first;
    }
    return w;
}

/* A seat became free: the next waiter may open a connection. */
static void seat_free(struct pool *p)
{
    struct waiter *w;

    p->open--;
    w = pop(p);
    if (w == NULL)
        return;
    p->open++;
    w->may_open = true;
    task_wake(w->task);
}

static struct pg *open_one(struct pool *p, struct err *e)
{
    struct pg *c = pg_new(p->server);

    if (pg_connect(c, e) == 0)
        return c;
    pg_free(&c);
    seat_free(p);
    return NULL;
}

static void on_late(void *ctx)
{
    struct waiter *w = ctx;
    w->over = true;
    task_wake(w->task);
}

static void remove_waiter(struct pool *p, const struct waiter *w)
{
    for (struct waiter **at = &p->first; *at != NULL; at = &(*at)->next)
        if (*at == w) {
            *at = w->next;
            if (*at == NULL)
                p->last = at;
            return;
        }
}

struct pg *pool_take(struct pool *p, struct err *e)
{
    struct waiter w = {.task = task_self()};

    while (p->idle_count > 0) {
        struct pg *c = p->idle[--p->idle_count];
        if (pg_alive(c))
            return c;
        pg_free(&c);
        p->open--;
    }
    if (p->open < p->most) {
        p->open++;
        return open_one(p, e);
    }
    struct timer *timer = timer_new(on_late, &w);
    timer_set(timer, WAIT_MS);
    *p->last = &w;
    p->last = &w.next;
    while (w.got == NULL && !w.may_open && !w.over)
        task_park();
    timer_free(&timer);
    if (w.got != NULL)
        return w.got;
    if (w.may_open)
        return open_one(p, e);
    remove_waiter(p, &w);
    err_set(e, ERR_TEMP, "no database connection became free in time");
    return NULL;
}

void pool_give(struct pool *p, struct pg **cp)
{
    struct pg *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    if (!pg_alive(c)) {
        pg_free(&c);
        seat_free(p);
        return;
    }
    struct waiter *w = pop(p);
    if (w != NULL) {
        w->got = c;
        task_wake(w->task);
        return;
    }
    p->idle[p->idle_count++] = c;
}
