/* Bodies on their way in.  Large ones go into body_part with asynchronous commit; each part is
 * acknowledged before stage_add() returns, so the flush of the commit that names them, which comes
 * later in the log, covers them too. */
#include "store/deliver_int.h"
#include "store/stage_int.h"

#include "core/arena.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"
#include "mail/structure.h"
#include "store/db.h"
#include "store/pg.h"

#include <stdlib.h>

enum {
    FIRST_ROOM = 4096,
    SHARE = 3 /* while small messages come, a part waits this many times as long as it took */
};

struct stage *stage_new(void)
{
    return xcalloc(1, sizeof(struct stage));
}

uint64_t stage_size(const struct stage *s)
{
    return s->size;
}

struct str stage_start(const struct stage *s, size_t n)
{
    return str_head(str_make(s->bytes ? s->bytes : "", s->used), n);
}

void stage_head(struct stage *s, struct str head)
{
    if (s->mime != NULL || s->size > 0 || s->arena != NULL)
        return;
    s->arena = arena_new(2048);
    s->mime = mime_begin(s->arena, arena_dup(s->arena, head));
}

struct str stage_structure(struct stage *s)
{
    if (s->mime == NULL)
        return STR_NONE;
    return structure_pack(s->arena, mime_end(&s->mime));
}

int stage_read(struct stage *s, struct arena *a, struct str *r, struct err *e)
{
    if (s->size > MESSAGE_HOOK_MAX)
        return err_set(e, ERR_LIMIT, "the message is larger than %u bytes", MESSAGE_HOOK_MAX);
    char *p = arena_alloc(a, s->size + 1);
    size_t n = 0;
    const struct rows *rows;
    for (uint32_t i = 0; i < s->parts; i++) {
        if (db_exec(a, &rows, e, "select bytes from body_part where body = $1 and n = $2",
                    DB_ARGS(db_int((int64_t)s->body), db_int4((int32_t)i))) != 0)
            return -1;
        if (rows_count(rows) != 1 || n + rows_str(rows, 0, 0).n > s->size)
            return err_set(e, ERR_INTERNAL, "part %u of a staged body is missing", i);
        memcpy(p + n, rows_str(rows, 0, 0).p, rows_str(rows, 0, 0).n);
        n += rows_str(rows, 0, 0).n;
    }
    if (s->used > 0)
        memcpy(p + n, s->bytes, s->used);
    *r = str_make(p, n + s->used);
    return 0;
}

/* Parts of all large messages of a process are written one after the other: side by side they would
 * keep every database connection and core busy, and small messages would wait behind them.  For the
 * same reason the next part is put off while small messages come. */
static struct stage *turns, **last_turn = &turns;
static bool writing;

static void turn_take(struct stage *s)
{
    if (!writing) {
        writing = true;
        return;
    }
    s->writer = task_self();
    s->next = NULL;
    *last_turn = s;
    last_turn = &s->next;
    while (s->writer != NULL)
        task_park();
}

static void turn_give(void)
{
    struct stage *s = turns;

    if (s == NULL) {
        writing = false;
        return;
    }
    turns = s->next;
    if (turns == NULL)
        last_turn = &turns;
    struct task *t = s->writer;
    s->writer = NULL;
    task_wake(t);
}

static int write_bytes(struct stage *s, struct err *e)
{
    if (s->body == 0) {
        uint64_t id;
        if (db_next_id(&id, e) != 0)
            return -1;
        if (db_exec_async(NULL, NULL, e, "insert into stage (body) values ($1)",
                          DB_ARGS(db_int((int64_t)id))) != 0)
            return -1;
        s->body = id;
    }
    if (db_exec_async(NULL, NULL, e, "insert into body_part (body, n, bytes) values ($1, $2, $3)",
                      DB_ARGS(db_int((int64_t)s->body), db_int4((int32_t)s->parts),
                              db_bytes(str_make(s->bytes, s->used)))) != 0)
        return -1;
    s->parts++;
    s->used = 0;
    return 0;
}

static int write_part(struct stage *s, struct err *e)
{
    turn_take(s);
    uint64_t start = loop_ns();
    int rc = write_bytes(s, e);
    if (rc == 0 && deliver_busy())
        task_sleep((loop_ns() - start) / 1000000u * SHARE + 1, e);
    turn_give();
    return rc;
}

int stage_add(struct stage *s, struct str bytes, struct err *e)
{
    if (s->size + bytes.n > MESSAGE_MAX)
        return err_set(e, ERR_LIMIT, "the message is larger than %u bytes", MESSAGE_MAX);
    while (bytes.n > 0) {
        /* Written only when more follows: a body of exactly one part stays in memory. */
        if (s->used == BODY_PART && write_part(s, e) != 0)
            return -1;
        size_t n = BODY_PART - s->used < bytes.n ? BODY_PART - s->used : bytes.n;
        if (s->used + n > s->room) {
            size_t room = s->room ? s->room : FIRST_ROOM;
            while (room < s->used + n)
                room *= 2;
            s->bytes = xrealloc(s->bytes, room);
            s->room = room;
        }
        memcpy(s->bytes + s->used, bytes.p, n);
        s->used += n;
        s->size += n;
        if (s->mime != NULL)
            mime_feed(s->mime, str_head(bytes, n));
        bytes = str_from(bytes, n);
    }
    return 0;
}

int stage_finish(struct stage *s, struct err *e)
{
    return s->body != 0 && s->used > 0 ? write_part(s, e) : 0;
}

static void drop(void *arg)
{
    struct err e = ERR_INIT;
    int64_t id = *(int64_t *)arg;

    free(arg);
    /* Not taken for sure: a body row would mean that a commit named it after all. */
    if (db_exec_async(NULL, NULL, &e,
                      "with gone as (delete from body_part where body = $1 and not exists "
                      "(select from body where id = $1)) delete from stage where body = $1",
                      DB_ARGS(db_int(id))) != 0)
        log_debug("store", "staged body %lld is left to the job: %s", (long long)id, e.text);
}

void stage_free(struct stage **sp)
{
    struct stage *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    if (s->body != 0 && !s->taken && task_self() != NULL && !db_closing()) {
        int64_t *id = xmalloc(sizeof *id);
        *id = (int64_t)s->body;
        task_spawn(drop, id);
    }
    if (s->mime != NULL)
        mime_end(&s->mime);
    arena_free(&s->arena);
    free(s->bytes);
    free(s);
}
