/* Verbs: message import, source, trace; queue list. */
#include "app/out.h"
#include "app/verb.h"
#include "core/buf.h"
#include "core/config.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/task.h"
#include "core/work.h"
#include "mail/headers.h"
#include "store/account.h"
#include "store/db.h"
#include "store/mailbox.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMPORT_TASKS = 16 };

struct file {
    char *path;
    uint32_t flags;
    int64_t at;
};

struct import {
    struct file *files;
    uint32_t count, room, next;
    uint32_t stored, failed, running;
    uint64_t account, mailbox;
    struct task *waiting;
};

static void add_file(struct import *im, const char *path, uint32_t flags, int64_t at)
{
    if (im->count == im->room) {
        im->room = im->room ? im->room * 2 : 64;
        im->files = xrealloc(im->files, im->room * sizeof *im->files);
    }
    im->files[im->count++] = (struct file){xstrdup(path), flags, at};
}

/* Flags behind ":2," in a maildir's file name. */
static uint32_t maildir_flags(const char *name)
{
    const char *info = strstr(name, ":2,");
    uint32_t flags = 0;

    for (info = info ? info + 3 : ""; *info; info++)
        flags |= *info == 'S'   ? FLAG_SEEN
                 : *info == 'R' ? FLAG_ANSWERED
                 : *info == 'F' ? FLAG_FLAGGED
                 : *info == 'T' ? FLAG_DELETED
                 : *info == 'D' ? FLAG_DRAFT
                                : 0u;
    return flags;
}

static void add_folder(struct import *im, const char *path, bool seen_by_place)
{
    struct dirent **names;
    int n = scandir(path, &names, NULL, alphasort);

    for (int i = 0; i < n; i++) {
        char full[4096];
        struct stat st;
        bool fits = snprintf(full, sizeof full, "%s/%s", path, names[i]->d_name) < (int)sizeof full;
        if (names[i]->d_name[0] != '.' && fits && stat(full, &st) == 0 && S_ISREG(st.st_mode))
            add_file(im, full, seen_by_place ? maildir_flags(names[i]->d_name) : 0,
                     (int64_t)st.st_mtime * 1000);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
}

static int add_path(struct import *im, const char *path, struct err *e)
{
    struct stat st;
    char sub[4096];

    if (stat(path, &st) != 0)
        return err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    if (!S_ISDIR(st.st_mode)) {
        add_file(im, path, 0, (int64_t)st.st_mtime * 1000);
        return 0;
    }
    struct stat cur;
    if (snprintf(sub, sizeof sub, "%s/cur", path) < (int)sizeof sub && stat(sub, &cur) == 0) {
        add_folder(im, sub, true);
        snprintf(sub, sizeof sub, "%s/new", path);
        add_folder(im, sub, true);
    } else {
        add_folder(im, path, false);
    }
    return 0;
}

struct content {
    const char *path;
    char *bytes; /* with CRLF line ends */
    size_t n;
    int error;
};

/* On a pool thread: reads the file and gives its lines CRLF where they have only LF. */
static void read_file(void *arg)
{
    struct content *c = arg;
    struct stat st;
    int fd = open(c->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        c->error = errno;
    } else if ((uint64_t)st.st_size > MESSAGE_MAX) {
        c->error = EFBIG;
    } else {
        char *raw = malloc((size_t)st.st_size + 1);
        size_t n = 0, lines = 0;
        ssize_t r = 0;
        while (raw && n < (size_t)st.st_size && (r = read(fd, raw + n, (size_t)st.st_size - n)) > 0)
            n += (size_t)r;
        if (raw == NULL || r < 0)
            c->error = raw ? errno : ENOMEM;
        for (size_t i = 0; raw && i < n; i++)
            lines += raw[i] == '\n' && (i == 0 || raw[i - 1] != '\r');
        c->bytes = raw ? malloc(n + lines + 1) : NULL;
        if (c->bytes == NULL && c->error == 0)
            c->error = ENOMEM;
        for (size_t i = 0; c->error == 0 && i < n; i++) {
            if (raw[i] == '\n' && (i == 0 || raw[i - 1] != '\r'))
                c->bytes[c->n++] = '\r';
            c->bytes[c->n++] = raw[i];
        }
        free(raw);
    }
    if (fd >= 0)
        close(fd);
}

/* Is there a header section at all? */
static size_t head_size(struct str all)
{
    struct header_field f;
    size_t at = 0;

    if (!header_next(all, &at, &f) || f.name.n == 0)
        return 0;
    return header_end(all);
}

static int store(struct import *im, const struct file *f, struct err *e)
{
    struct content c = {.path = f->path};
    uint64_t id;
    int rc = -1;

    work_run(read_file, &c);
    if (c.error != 0) {
        free(c.bytes);
        return err_set(e, ERR_PERM, "%s: %s", f->path, strerror(c.error));
    }
    struct str all = str_make(c.bytes, c.n);
    size_t n = head_size(all);
    struct arena *a = arena_new(4096);
    struct str head = str_head(all, n);
    if (!str_ends(head, STR("\r\n\r\n")) && !str_eq(head, STR("\r\n")))
        head = arena_printf(a, "%.*s%s\r\n", STR_ARG(head),
                            n > 0 && !str_ends(head, STR("\r\n")) ? "\r\n" : "");
    struct stage *stage = stage_new();
    stage_head(stage, head);
    if (head.n > HEADER_MAX) {
        err_set(e, ERR_LIMIT, "%s: header section is larger than %d bytes", f->path, HEADER_MAX);
    } else if (stage_add(stage, str_from(all, n), e) == 0) {
        struct deliver_head h = {.bytes = head};
        struct deliver_target t = {
            .account = im->account, .mailbox = im->mailbox, .flags = f->flags, .at = f->at};
        struct deliver_message m = {.stage = stage,
                                    .sender = STR(""),
                                    .heads = &h,
                                    .head_count = 1,
                                    .targets = &t,
                                    .target_count = 1,
                                    .trace = STR(""),
                                    .kind = "import"};
        rc = deliver_commit(&m, &id, e);
    }
    stage_free(&stage);
    arena_free(&a);
    free(c.bytes);
    return rc;
}

static void import_task(void *arg)
{
    struct import *im = arg;

    while (im->next < im->count) {
        const struct file *f = &im->files[im->next++];
        struct err e = ERR_INIT;
        if (store(im, f, &e) == 0) {
            im->stored++;
        } else {
            im->failed++;
            fprintf(stderr, "moonpost: %s\n", e.text);
        }
    }
    im->running--;
    task_wake(im->waiting);
}

int verb_message_import(struct args *a)
{
    const char *name = args_option(a, "--mailbox");
    struct import im = {.waiting = task_self()};
    struct account account;
    struct mailbox_info box;
    struct err e = ERR_INIT;

    if (a->argc < 2)
        return EXIT_USAGE;
    if (account_find(arena_lower(a->arena, str_of(a->argv[0])), &account, a->arena, &e) != 0)
        return verb_fail(&e);
    struct str target = str_of(name ? name : "INBOX");
    if (mailbox_find(account.id, target, a->arena, &box, &e) != 0) {
        if (e.cls != ERR_NOTFOUND || mailbox_create(account.id, target, STR(""), &e) != 0 ||
            mailbox_find(account.id, target, a->arena, &box, &e) != 0)
            return verb_fail(&e);
    }
    im.account = account.id;
    im.mailbox = box.id;
    for (int i = 1; i < a->argc; i++)
        if (add_path(&im, a->argv[i], &e) != 0)
            return verb_fail(&e);
    deliver_open();
    for (im.running = 0; im.running < IMPORT_TASKS;) {
        im.running++;
        task_spawn(import_task, &im);
    }
    while (im.running > 0)
        task_park();
    deliver_drain();
    for (uint32_t i = 0; i < im.count; i++)
        free(im.files[i].path);
    free(im.files);
    out_say("%u messages imported into %.*s of %s, %u failed", im.stored, STR_ARG(target),
            a->argv[0], im.failed);
    return im.failed ? EXIT_NO : EXIT_OK;
}

int verb_message_source(struct args *a)
{
    struct err e = ERR_INIT;
    uint64_t id, at = 0;
    struct str piece;

    if (a->argc != 1 || !str_u64(str_of(a->argv[0]), &id))
        return EXIT_USAGE;
    do {
        if (message_read(id, at, BODY_PART, a->arena, &piece, &e) != 0)
            return verb_fail(&e);
        fwrite(piece.p, 1, piece.n, stdout);
        at += piece.n;
        arena_reset(a->arena);
    } while (piece.n == BODY_PART);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_COULD_NOT;
}

int verb_message_trace(struct args *a)
{
    static const char *const facts[] = {"trace", "at",      "kind", "peer",   "user",
                                        "from",  "subject", "size", "inputs", NULL};
    static const char *const steps[] = {"hook", "at", "outcome", "reason", "us", NULL};
    struct err e = ERR_INIT;
    const struct rows *r, *s;

    if (a->argc != 1)
        return EXIT_USAGE;
    struct db_arg trace = db_text(str_of(a->argv[0]));
    if (db_exec(a->arena, &r, &e,
                "select trace, to_char(at, 'YYYY-MM-DD HH24:MI:SS.MS TZ'), kind, peer, auth_user, "
                "sender, subject, size, inputs::text from ledger where trace = $1",
                1, &trace) != 0 ||
        db_exec(a->arena, &s, &e,
                "select step->>0, step->>1, step->>2, step->>3, (step->>4)::int8 from ledger, "
                "jsonb_array_elements(case when jsonb_typeof(steps) = 'array' then steps "
                "else '[]' end) with ordinality as t(step, n) where trace = $1 order by n",
                1, &trace) != 0)
        return verb_fail(&e);
    if (rows_count(r) == 0) {
        err_set(&e, ERR_NOTFOUND, "nothing is known of '%s'", a->argv[0]);
        return verb_fail(&e);
    }
    out_table(facts);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        for (uint32_t c = 0; c < 9; c++) {
            if (c == 7)
                out_int(rows_null(r, i, c) ? 0 : rows_int(r, i, c));
            else
                out_str(rows_null(r, i, c) ? STR("") : rows_str(r, i, c));
        }
        out_row();
    }
    out_end();
    out_table(steps);
    for (uint32_t i = 0; i < rows_count(s); i++) {
        for (uint32_t c = 0; c < 4; c++)
            out_str(rows_null(s, i, c) ? STR("") : rows_str(s, i, c));
        out_int(rows_null(s, i, 4) ? 0 : rows_int(s, i, 4));
        out_row();
    }
    out_end();
    return EXIT_OK;
}

int verb_queue_list(struct args *a)
{
    static const char *const columns[] = {"id",   "state", "from", "to",   "route",
                                          "size", "tries", "next", "last", NULL};
    struct err e = ERR_INIT;
    const struct rows *r;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (db_exec(a->arena, &r, &e,
                "select q.id, q.state, q.sender, q.recipient, d.key, q.size, q.attempts, "
                "to_char(q.next_attempt, 'YYYY-MM-DD HH24:MI:SS'), q.last_result "
                "from queue q join destination d on d.id = q.destination order by q.id limit 1000",
                0, NULL) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        for (uint32_t c = 0; c < 9; c++) {
            if (c == 0 || c == 5 || c == 6)
                out_int(rows_int(r, i, c));
            else
                out_str(rows_null(r, i, c) ? STR("") : rows_str(r, i, c));
        }
        out_row();
    }
    out_end();
    return EXIT_OK;
}
