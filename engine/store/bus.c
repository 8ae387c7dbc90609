/* See bus.h.  One datagram an event; the relay numbers what it sends to each process, so that a
 * reader notices a gap and then tells all its watchers to look again. */
#include "store/bus.h"

#include "core/arena.h"
#include "core/log.h"
#include "core/loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct bus_watch {
    struct bus_watch *next;
    enum bus_kind kind;
    uint64_t id;
    void (*fn)(void *, enum bus_kind, uint64_t);
    void *ctx;
    bool dead;
};

struct local {
    enum bus_kind kind;
    uint64_t id;
};

static int bus_fd = -1;
static struct watch *watch;
static struct bus_watch *watches;
static unsigned walking; /* depth of dispatch: dead entries are freed outside */
static uint64_t expected;

static void sweep(void)
{
    for (struct bus_watch **at = &watches; *at != NULL;) {
        struct bus_watch *w = *at;
        if (w->dead) {
            *at = w->next;
            free(w);
        } else {
            at = &w->next;
        }
    }
}

static void dispatch(enum bus_kind kind, uint64_t id)
{
    walking++;
    for (struct bus_watch *w = watches; w != NULL; w = w->next)
        if (!w->dead && w->kind == kind && (w->id == 0 || w->id == id))
            w->fn(w->ctx, kind, id);
    if (--walking == 0)
        sweep();
}

/* Something was missed: everybody looks again. */
static void dispatch_all(void)
{
    walking++;
    for (struct bus_watch *w = watches; w != NULL; w = w->next)
        if (!w->dead)
            w->fn(w->ctx, w->kind, w->id);
    if (--walking == 0)
        sweep();
}

static void on_packet(void *ctx, int what)
{
    struct bus_packet m;

    (void)ctx, (void)what;
    for (;;) {
        ssize_t n = recv(bus_fd, &m, sizeof m, MSG_DONTWAIT);
        if (n == 0) {
            log_warn("store", "the bus was closed");
            watch_free(&watch);
            return;
        }
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return;
        }
        if ((size_t)n != sizeof m)
            continue;
        bool gap = expected != 0 && m.number != expected;
        expected = m.number + 1;
        if (gap)
            dispatch_all();
        else
            dispatch((enum bus_kind)m.kind, m.id);
        if (watch == NULL)
            return;
    }
}

void bus_open(int fd)
{
    bus_fd = fd;
    expected = 0;
    if (fd < 0)
        return;
    watch = watch_new(fd, on_packet, NULL);
    watch_set(watch, WATCH_READ);
}

void bus_close(void)
{
    watch_free(&watch);
    if (bus_fd >= 0)
        close(bus_fd);
    bus_fd = -1;
}

static void local_run(void *ctx)
{
    struct local l = *(struct local *)ctx;
    free(ctx);
    dispatch(l.kind, l.id);
}

void bus_publish(enum bus_kind kind, uint64_t id)
{
    struct local *l = xmalloc(sizeof *l);

    *l = (struct local){kind, id};
    loop_defer(local_run, l);
    if (bus_fd < 0)
        return;
    struct bus_packet m = {.id = id, .kind = (uint32_t)kind};
    /* A full socket loses the event: the relay's readers look again by themselves once a minute. */
    if (send(bus_fd, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
        log_warn("store", "the bus does not take events");
}

struct bus_watch *bus_watch(enum bus_kind kind, uint64_t id,
                            void (*fn)(void *, enum bus_kind, uint64_t), void *ctx)
{
    struct bus_watch *w = xcalloc(1, sizeof *w);

    *w = (struct bus_watch){.next = watches, .kind = kind, .id = id, .fn = fn, .ctx = ctx};
    watches = w;
    return w;
}

void bus_unwatch(struct bus_watch **wp)
{
    struct bus_watch *w = *wp;

    *wp = NULL;
    if (w == NULL)
        return;
    w->dead = true;
    if (walking == 0)
        sweep();
}

void bus_relay(struct bus_relay *members, unsigned count, unsigned from)
{
    struct bus_packet m;

    for (unsigned rounds = 0; rounds < 64; rounds++) {
        ssize_t n = recv(members[from].fd, &m, sizeof m, MSG_DONTWAIT);
        if (n != (ssize_t)sizeof m)
            return;
        m.from = from;
        for (unsigned i = 0; i < count; i++) {
            if (i == from || members[i].fd < 0)
                continue;
            /* Counted even when it does not fit: the next one then shows the gap. */
            m.number = ++members[i].number;
            if (send(members[i].fd, &m, sizeof m, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                continue;
        }
    }
}
