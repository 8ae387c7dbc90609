/* What changed in the selected mailbox, announced where RFC 3501 5.5 and 7.4.1 allow it. */
#include "core/log.h"
#include "core/loop.h"
#include "proto/imap_int.h"

#include <string.h>

/* The bus may lose a message: look at least so often, in ms. */
enum { LOOK_ANYWAY = 60000, OUT_MAX = 32 * 1024 };

uint32_t imap_recent(const struct view *v)
{
    uint32_t n = 0;
    while (n < v->count && v->uids[v->count - 1 - n] >= v->recent_from)
        n++;
    return n;
}

static void flush(struct imap_session *s, struct buf *b, size_t above)
{
    if (b->len > above) {
        stream_write(s->stream, buf_str(b));
        buf_clear(b);
    }
}

void imap_flags_lines(struct imap_session *s)
{
    const struct view *v = s->view;
    struct buf b;

    buf_init(&b, 16384);
    buf_addz(&b, "* FLAGS (");
    imap_put_flag_names(&b, v);
    buf_addz(&b, ")\r\n* OK [PERMANENTFLAGS (");
    if (!v->readonly) {
        imap_put_flag_names(&b, v);
        if (v->keyword_count < KEYWORDS_MAX)
            buf_addz(&b, " \\*");
    }
    buf_printf(&b, ")] %s\r\n", v->readonly ? "No permanent flags permitted" : "Flags permitted");
    stream_write(s->stream, buf_str(&b));
    buf_free(&b);
}

static void announce(struct imap_session *s, const struct view_changes *c)
{
    struct view *v = s->view;
    struct buf b;

    buf_init(&b, OUT_MAX * 4);
    if (c->keywords_changed)
        imap_flags_lines(s);
    for (uint32_t i = 0; i < c->expunged_count; i++) {
        buf_printf(&b, "* %u EXPUNGE\r\n", c->expunged[i]);
        flush(s, &b, OUT_MAX);
    }
    if (c->added)
        buf_printf(&b, "* %u EXISTS\r\n* %u RECENT\r\n", v->count, imap_recent(v));
    for (uint32_t i = 0; i < c->changed_count; i++) {
        uint32_t index = c->changed[i];
        buf_printf(&b, "* %u FETCH (", index + 1);
        if (s->by_uid)
            buf_printf(&b, "UID %u ", v->uids[index]);
        buf_addz(&b, "FLAGS ");
        imap_put_flags(&b, v, index);
        buf_addz(&b, ")\r\n");
        flush(s, &b, OUT_MAX);
    }
    flush(s, &b, 0);
    buf_free(&b);
}

bool imap_sync(struct imap_session *s, bool expunge)
{
    struct view_changes c = {0};
    struct err e = ERR_INIT;

    /* Cleared first: what the bus tells while the database works must not be lost. */
    s->dirty = s->arrived = false;
    s->synced_at = loop_ms();
    if (view_sync(s->view, expunge, s->a, &c, &e) != 0) { /* sequences arrivals too */
        log_info("imap", "%s: %s: cannot look for changes: %s", stream_peer_text(s->stream),
                 s->user, e.text);
        s->dirty = s->arrived = true; /* the command itself is done; the next one tries again */
        return true;
    }
    if (c.gone) {
        imap_bye(s, "The selected mailbox was deleted");
        return false;
    }
    announce(s, &c);
    return true;
}

void imap_sync_due(struct imap_session *s, bool expunge)
{
    if (s->view == NULL || s->closing)
        return;
    if (s->sync_now || s->dirty || s->arrived || s->expunge_due ||
        loop_ms() - s->synced_at > LOOK_ANYWAY) {
        /* What must not be announced now is announced by the next command that may. */
        bool ok = imap_sync(s, expunge);
        if (ok)
            s->expunge_due = !expunge;
    }
}

static void on_bus(void *ctx, enum bus_kind kind, uint64_t id)
{
    struct imap_session *s = ctx;

    (void)id;
    if (kind == BUS_ARRIVAL)
        s->arrived = true;
    else
        s->dirty = true;
    if (s->idling && !s->busy && !s->closing)
        imap_idle_wake(s);
}

void imap_watch(struct imap_session *s)
{
    s->watch_change = bus_watch(BUS_CHANGE, s->view->mailbox, on_bus, s);
    s->watch_arrival = bus_watch(BUS_ARRIVAL, s->view->mailbox, on_bus, s);
    /* Whatever happened between the view's query and now was told to nobody. */
    s->dirty = s->arrived = true;
    s->synced_at = loop_ms();
}

void imap_deselect(struct imap_session *s)
{
    bus_unwatch(&s->watch_change);
    bus_unwatch(&s->watch_arrival);
    if (s->view)
        view_close(&s->view);
    s->dirty = s->arrived = s->expunge_due = false;
    if (s->state == IMAP_SELECTED)
        s->state = IMAP_AUTHENTICATED;
}
