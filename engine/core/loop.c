#include "core/loop.h"

#include "core/arena.h"

#include <assert.h>
#include <event2/event.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

enum { SIGNALS_MAX = 8 };

static struct event_base *base;
static struct {
    int signo;
    void (*fn)(void *, int);
    void *ctx;
} signals[SIGNALS_MAX];
static int signal_count, signal_fd = -1;
static sigset_t signal_set;
static struct watch *signal_watch;
static void (*turn_fn)(void *);
static void *turn_ctx;
static bool stopping;

struct timer {
    struct event *ev;
    void (*fn)(void *);
    void *ctx;
};

struct watch {
    struct event *ev;
    int fd, what;
    void (*fn)(void *, int);
    void *ctx;
};

struct deferred {
    struct deferred *next;
    void (*fn)(void *);
    void *ctx;
};

struct deferred_list {
    struct deferred *first, **last;
    struct event *ev;
};

static struct deferred_list now_list, next_list;

static void list_init(struct deferred_list *l)
{
    l->first = NULL;
    l->last = &l->first;
}

static void run_deferred(evutil_socket_t fd, short what, void *ctx)
{
    struct deferred_list *l = ctx;
    struct deferred *d = l->first;

    (void)fd, (void)what;
    list_init(l);
    while (d != NULL) {
        struct deferred *next = d->next;
        d->fn(d->ctx);
        free(d);
        d = next;
    }
}

static void list_free(struct deferred_list *l)
{
    event_free(l->ev);
    while (l->first != NULL) {
        struct deferred *next = l->first->next;
        free(l->first);
        l->first = next;
    }
    list_init(l);
}

void loop_init(void)
{
    if (base != NULL)
        loop_free();
    base = event_base_new();
    if (base == NULL)
        abort();
    list_init(&now_list);
    list_init(&next_list);
    now_list.ev = event_new(base, -1, 0, run_deferred, &now_list);
    next_list.ev = event_new(base, -1, 0, run_deferred, &next_list);
    stopping = false;
}

void loop_free(void)
{
    if (base == NULL)
        return;
    watch_free(&signal_watch);
    if (signal_fd >= 0)
        close(signal_fd);
    signal_fd = -1;
    signal_count = 0;
    sigprocmask(SIG_UNBLOCK, &signal_set, NULL);
    sigemptyset(&signal_set);
    list_free(&now_list);
    list_free(&next_list);
    event_base_free(base);
    base = NULL;
}

struct event_base *loop_base(void)
{
    return base;
}

uint64_t loop_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t loop_ms(void)
{
    return loop_ns() / 1000000u;
}

void loop_on_turn(void (*fn)(void *), void *ctx)
{
    turn_fn = fn;
    turn_ctx = ctx;
}

void loop_run(void)
{
    stopping = false;
    while (!stopping) {
        if (event_base_loop(base, EVLOOP_ONCE) != 0)
            break;
        if (turn_fn)
            turn_fn(turn_ctx);
    }
}

void loop_turn(void)
{
    event_base_loop(base, EVLOOP_NONBLOCK | EVLOOP_ONCE);
    if (turn_fn)
        turn_fn(turn_ctx);
}

void loop_stop(void)
{
    stopping = true;
    event_base_loopbreak(base);
}

static void timer_fire(evutil_socket_t fd, short what, void *ctx)
{
    struct timer *t = ctx;
    (void)fd, (void)what;
    t->fn(t->ctx);
}

struct timer *timer_new(void (*fn)(void *), void *ctx)
{
    struct timer *t = xmalloc(sizeof *t);
    t->fn = fn;
    t->ctx = ctx;
    t->ev = event_new(base, -1, 0, timer_fire, t);
    return t;
}

void timer_set(struct timer *t, uint64_t ms)
{
    struct timeval tv = {(time_t)(ms / 1000), (suseconds_t)(ms % 1000 * 1000)};
    event_add(t->ev, &tv);
}

void timer_now(struct timer *t)
{
    event_active(t->ev, EV_TIMEOUT, 0);
}

void timer_stop(struct timer *t)
{
    event_del(t->ev);
}

void timer_free(struct timer **tp)
{
    struct timer *t = *tp;

    *tp = NULL;
    if (t == NULL)
        return;
    event_free(t->ev);
    free(t);
}

static void watch_fire(evutil_socket_t fd, short what, void *ctx)
{
    struct watch *w = ctx;
    (void)fd;
    w->fn(w->ctx, (what & EV_READ ? WATCH_READ : 0) | (what & EV_WRITE ? WATCH_WRITE : 0));
}

struct watch *watch_new(int fd, void (*fn)(void *, int), void *ctx)
{
    struct watch *w = xcalloc(1, sizeof *w);
    w->fd = fd;
    w->fn = fn;
    w->ctx = ctx;
    w->ev = event_new(base, fd, EV_PERSIST, watch_fire, w);
    return w;
}

void watch_set(struct watch *w, int what)
{
    if (what == w->what)
        return;
    event_del(w->ev);
    w->what = what;
    if (what == 0)
        return;
    event_assign(w->ev, base, w->fd,
                 (short)(EV_PERSIST | (what & WATCH_READ ? EV_READ : 0) |
                         (what & WATCH_WRITE ? EV_WRITE : 0)),
                 watch_fire, w);
    event_add(w->ev, NULL);
}

void watch_free(struct watch **wp)
{
    struct watch *w = *wp;

    *wp = NULL;
    if (w == NULL)
        return;
    event_free(w->ev);
    free(w);
}

/* A signalfd rather than libevent's own handlers, which are one base a process and do not survive a
 * fork. */
static void on_signal_fd(void *ctx, int what)
{
    struct signalfd_siginfo info;

    (void)ctx, (void)what;
    while (read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info)
        for (int i = 0; i < signal_count; i++)
            if (signals[i].signo == (int)info.ssi_signo)
                signals[i].fn(signals[i].ctx, signals[i].signo);
}

void loop_on_signal(int signo, void (*fn)(void *, int), void *ctx)
{
    assert(signal_count < SIGNALS_MAX);
    signals[signal_count].signo = signo;
    signals[signal_count].fn = fn;
    signals[signal_count++].ctx = ctx;
    sigaddset(&signal_set, signo);
    sigprocmask(SIG_BLOCK, &signal_set, NULL);
    signal_fd = signalfd(signal_fd, &signal_set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signal_fd < 0)
        abort();
    if (signal_watch == NULL) {
        signal_watch = watch_new(signal_fd, on_signal_fd, NULL);
        watch_set(signal_watch, WATCH_READ);
    }
}

void loop_forget(void)
{
    /* Freeing the base would take the parent's descriptors out of the epoll set that both share. */
    if (base != NULL) {
        list_free(&now_list);
        list_free(&next_list);
    }
    static struct event_base *parents_base;
    static struct watch *parents_watch;
    parents_base = base; /* still reachable, for leak checkers */
    parents_watch = signal_watch;
    (void)parents_base, (void)parents_watch;
    base = NULL;
    signal_watch = NULL;
    signal_count = 0;
    if (signal_fd >= 0)
        close(signal_fd);
    signal_fd = -1;
    sigprocmask(SIG_UNBLOCK, &signal_set, NULL);
    sigemptyset(&signal_set);
    turn_fn = NULL;
}

static void list_add(struct deferred_list *l, void (*fn)(void *), void *ctx)
{
    struct deferred *d = xmalloc(sizeof *d);

    d->next = NULL;
    d->fn = fn;
    d->ctx = ctx;
    *l->last = d;
    l->last = &d->next;
}

void loop_defer(void (*fn)(void *), void *ctx)
{
    list_add(&now_list, fn, ctx);
    event_active(now_list.ev, 0, 0);
}

void loop_next(void (*fn)(void *), void *ctx)
{
    struct timeval zero = {0, 0};

    list_add(&next_list, fn, ctx);
    event_add(next_list.ev, &zero); /* a timer: libevent polls before it fires */
}
