/* IDLE (RFC 2177): while it lasts the session has no task; each change the bus tells of starts a
 * short one that looks and announces. */
#include "core/loop.h"
#include "proto/imap_int.h"
#include "store/setting.h"

#include <stdio.h>

/* Translators of addresses forget silent connections; a line now and then keeps them, and finds out
 * which clients are gone. */
static void on_timer(void *ctx)
{
    struct imap_session *s = ctx;

    if (!s->idling || s->closing)
        return;
    if (!s->busy)
        imap_untagged(s, "OK Still here");
    timer_set(s->idle_timer, (uint64_t)setting_int("imap.idle_notify") * 1000);
}

static void look(void *arg)
{
    struct imap_session *s = arg;

    s->task = task_self();
    s->a = arena_new(1024);
    s->by_uid = false;
    if (s->view && !s->closing && (s->dirty || s->arrived))
        imap_sync(s, true);
    if (s->dirty || s->arrived) /* the database is away, or more came: not at once again */
        task_sleep(500, NULL);
    imap_task_end(s);
}

void imap_idle_wake(struct imap_session *s)
{
    imap_spawn(s, look);
}

void imap_idle(struct imap_session *s, struct imap_in *in)
{
    if (!imap_end(in))
        return;
    if (!setting_bool("imap.idle")) {
        imap_no(s, "[CANNOT] IDLE is switched off here");
        return;
    }
    snprintf(s->idle_tag, sizeof s->idle_tag, "%.*s", STR_ARG(s->tag));
    if (s->view) {
        s->sync_now = true;
        if (!imap_sync(s, true))
            return;
        s->sync_now = false;
    }
    stream_printf(s->stream, "+ idling\r\n");
    s->idling = true;
    s->done = true;
    if (s->idle_timer == NULL)
        s->idle_timer = timer_new(on_timer, s);
    if (setting_int("imap.idle_notify") > 0)
        timer_set(s->idle_timer, (uint64_t)setting_int("imap.idle_notify") * 1000);
}

static void finish(void *arg)
{
    struct imap_session *s = arg;

    s->task = task_self();
    s->a = arena_new(1024);
    s->tag = arena_dup(s->a, str_of(s->idle_tag));
    s->verb = NULL;
    s->done = s->by_uid = s->sync_now = false;
    imap_ok(s, "Idle completed");
    imap_task_end(s);
}

static void refuse(void *arg)
{
    struct imap_session *s = arg;

    s->task = task_self();
    s->a = arena_new(1024);
    s->tag = arena_dup(s->a, str_of(s->idle_tag));
    s->verb = NULL;
    s->done = s->by_uid = s->sync_now = false;
    imap_reject(s, "Expected DONE");
    imap_task_end(s);
}

void imap_idle_line(struct imap_session *s, struct str line)
{
    s->idling = false;
    timer_free(&s->idle_timer);
    imap_spawn(s, str_eqiz(str_trim(line), "DONE") ? finish : refuse);
}
