/* SMTP: the bytes of a message, from DATA (RFC 5321 4.5.2) or BDAT (RFC 3030), into a header
 * section in memory and a staged body.
 *
 * A line ends with CRLF and with nothing else: a bare CR or LF is never a line end here, so the end
 * mark cannot be smuggled, and a message that holds one is refused.  After a fault the rest of the
 * message is read and dropped, and the one reply stands at its end. */
#include "core/limits.h"
#include "proto/smtp_int.h"
#include "store/setting.h"

#include <string.h>

enum { IN_CAP = 64 * 1024 };

void smtp_intake_free(struct smtp_session *s)
{
    stage_free(&s->in.body);
    buf_free(&s->in.head);
    buf_free(&s->in.line);
    s->in = (struct smtp_intake){0};
}

static void intake_open(struct smtp_session *s)
{
    struct smtp_intake *in = &s->in;

    smtp_intake_free(s);
    buf_init(&in->head, HEADER_MAX);
    buf_init(&in->line, SMTP_TEXT_LINE_MAX);
    in->body = stage_new();
    in->in_head = in->bol = true;
    in->raw_hook = hook_present(s->env, HOOK_SMTPSVR_MessageLineRaw);
    in->line_hook = hook_present(s->env, HOOK_SMTPSVR_MessageLine);
    stream_in_cap(s->stream, IN_CAP);
    smtp_publish_rcpts(s);
    if (hook_present(s->env, HOOK_SMTPSVR_StartMessage)) {
        struct hook_call c = {
            .id = HOOK_SMTPSVR_StartMessage, .env = s->env, .arena = s->cmd, .steps = s->tx.steps};
        struct err e = ERR_INIT;
        hook_call(&c, &e);
        smtp_hooks_sync(s);
    }
}

void smtp_data_start(struct smtp_session *s)
{
    intake_open(s);
    s->phase = SMTP_DATA;
}

static bool broken(const struct smtp_intake *in)
{
    return in->bare || in->too_big || in->head_too_big || in->line_too_long || in->failed;
}

static void add_body(struct smtp_intake *in, struct str bytes)
{
    if (bytes.n > 0 && !broken(in) && stage_add(in->body, bytes, &in->err) != 0)
        in->failed = true;
}

/* Does a header section end before this line?  An empty line ends it; so does a line that is
 * neither a field nor a continuation, which then belongs to the body. */
static bool ends_head(const struct smtp_intake *in, struct str line, bool *empty_r)
{
    *empty_r = line.n == 0;
    if (line.n == 0)
        return true;
    if (line.p[0] == ' ' || line.p[0] == '\t')
        return in->head.len == 0;
    ptrdiff_t colon = str_chr(line, ':');
    if (colon <= 0)
        return true;
    for (ptrdiff_t i = 0; i < colon; i++) {
        unsigned char c = (unsigned char)line.p[i];
        if (c < 33 || c > 126) /* RFC 5322 2.2; white space before the colon is seen in the wild */
            return !(i > 0 && (c == ' ' || c == '\t') &&
                     str_trim(str_make(line.p + i, (size_t)(colon - i))).n == 0);
    }
    return false;
}

/* A whole line without its CRLF. */
static void take_line(struct smtp_session *s, struct str line)
{
    struct smtp_intake *in = &s->in;
    bool empty;

    if (in->in_head) {
        if (!ends_head(in, line, &empty)) {
            if (!buf_add(&in->head, line) || !buf_addz(&in->head, "\r\n"))
                in->head_too_big = true;
            return;
        }
        in->in_head = false;
        stage_head(in->body, buf_str(&in->head));
        if (empty)
            return;
    }
    add_body(in, line);
    add_body(in, STR("\r\n"));
}

/* A hook sees the line and may change or drop it; what it makes lives in the arena. */
static bool hook_line(struct smtp_session *s, enum hook_id id, struct str *line, struct arena *a)
{
    struct hval args[] = {hv_str(*line)};
    struct hook_call c = {
        .id = id, .env = s->env, .arena = a, .args = args, .nargs = 1, .steps = s->tx.steps};
    struct err e = ERR_INIT;
    bool keep = true;

    switch (hook_call(&c, &e)) {
    case HOOK_DEFAULT:
        break;
    case HOOK_FAILED:
        s->in.failed = true;
        err_set(&s->in.err, ERR_TEMP, "%s", e.text);
        break;
    case HOOK_DONE:
        if (c.nresults == 0 || c.results[0].type == HV_NIL)
            keep = false;
        else
            *line = hv_as_str(&c.results[0], *line);
        break;
    }
    return keep;
}

/* Line by line, for the header section and where scripts look at lines.  Returns the bytes used. */
static size_t by_line(struct smtp_session *s, struct str data, bool *end_r, bool dots)
{
    struct smtp_intake *in = &s->in;
    ptrdiff_t lf = str_chr(data, '\n');
    size_t n = lf < 0 ? data.n : (size_t)lf + 1;

    if (!buf_add(&in->line, str_head(data, n))) {
        in->line_too_long = true;
        buf_clear(&in->line);
        buf_add(&in->line, STR("x")); /* the rest of it is dropped, too */
        buf_add(&in->line, str_make(data.p + (n > 2 ? n - 2 : 0), n > 2 ? 2 : n));
    }
    struct str line = buf_str(&in->line);
    if (line.n > in->longest)
        in->longest = line.n;
    if (lf < 0)
        return n;
    if (line.n < 2 || line.p[line.n - 2] != '\r') {
        in->bare = true; /* not a line end: go on collecting, which keeps the end mark honest */
        return n;
    }
    line = str_head(line, line.n - 2);
    if (str_chr(line, '\r') >= 0 || str_chr(line, '\n') >= 0)
        in->bare = true;
    if (dots && str_eq(line, STR("."))) {
        *end_r = true;
    } else if (!broken(in)) {
        bool keep = true;
        struct arena *a = in->raw_hook || in->line_hook ? arena_new(0) : NULL;
        if (in->raw_hook)
            keep = hook_line(s, HOOK_SMTPSVR_MessageLineRaw, &line, a);
        if (keep && dots && line.n > 0 && line.p[0] == '.')
            line = str_from(line, 1);
        if (keep && in->line_hook)
            keep = hook_line(s, HOOK_SMTPSVR_MessageLine, &line, a);
        if (keep) {
            in->size += line.n + 2;
            take_line(s, line);
        }
        arena_free(&a);
    }
    buf_clear(&in->line);
    return n;
}

/* The body in runs: whole buffers go to the stage at once, cut only where a dot is dropped.
 * Returns the bytes used; less than all when the end mark may be split. */
static size_t by_run(struct smtp_session *s, struct str data, bool *end_r)
{
    struct smtp_intake *in = &s->in;
    size_t from = 0, i = 0;

    while (i < data.n) {
        if (in->bol && data.p[i] == '.') {
            size_t left = data.n - i;
            if (left == 1 || (left == 2 && data.p[i + 1] == '\r'))
                break; /* may be the end mark: wait for the rest */
            add_body(in, str_make(data.p + from, i - from));
            if (left >= 3 && data.p[i + 1] == '\r' && data.p[i + 2] == '\n') {
                *end_r = true;
                return i + 3;
            }
            from = ++i;
        }
        const char *p = data.p + i;
        const char *lf = memchr(p, '\n', data.n - i);
        size_t n = lf ? (size_t)(lf - p) + 1 : data.n - i;
        const char *cr = memchr(p, '\r', n);
        bool proper = lf && (n >= 2 ? lf[-1] == '\r' : in->last_cr);
        if ((lf && !proper) || (cr && cr != (lf ? lf - 1 : p + n - 1)) ||
            (in->last_cr && p[0] != '\n'))
            in->bare = true;
        in->line_bytes += n;
        if (in->line_bytes > in->longest)
            in->longest = in->line_bytes;
        in->last_cr = !lf && p[n - 1] == '\r';
        in->bol = proper;
        if (lf)
            in->line_bytes = 0;
        i += n;
    }
    add_body(in, str_make(data.p + from, i - from));
    return i;
}

static void check_limits(struct smtp_session *s)
{
    struct hval v;
    int64_t most = setting_int("smtp.max_line_length");

    if (hook_env_get(s->env, "MaxLineLength", s->cmd, &v))
        most = hv_as_int(&v, most);
    if (s->in.size > s->max_size)
        s->in.too_big = true;
    if (most > 0 && s->in.longest > (size_t)most + 2)
        s->in.line_too_long = true;
}

static void finish_line(struct smtp_session *s)
{
    /* A last line without CRLF (BDAT only) */
    if (s->in.line.len > 0 && !broken(&s->in)) {
        struct str line = buf_str(&s->in.line);
        if (s->in.in_head) {
            bool empty;
            if (!ends_head(&s->in, line, &empty)) {
                if (!buf_add(&s->in.head, line) || !buf_addz(&s->in.head, "\r\n"))
                    s->in.head_too_big = true;
                return;
            }
            s->in.in_head = false;
            stage_head(s->in.body, buf_str(&s->in.head));
        }
        s->in.size += line.n;
        add_body(&s->in, line);
    }
}

static void complete(struct smtp_session *s)
{
    stream_in_cap(s->stream, SMTP_LINE_MAX + 2);
    s->phase = SMTP_COMMAND;
    if (s->in.in_head)
        stage_head(s->in.body, buf_str(&s->in.head));
    smtp_deliver(s);
    smtp_reset(s);
}

bool smtp_data_input(struct smtp_session *s)
{
    struct smtp_intake *in = &s->in;
    struct str data = buf_str(stream_in(s->stream));
    bool end = false;
    size_t used = 0;

    if (data.n == 0)
        return false;
    while (!end && used < data.n && (in->in_head || in->raw_hook || in->line_hook))
        used += by_line(s, str_from(data, used), &end, true);
    if (!end && used < data.n) {
        size_t n = by_run(s, str_from(data, used), &end);
        in->size += n;
        used += n;
        if (n == 0 && !end)
            return false;
    }
    check_limits(s);
    buf_consume(stream_in(s->stream), used);
    if (end)
        complete(s);
    return true;
}

void smtp_bdat_start(struct smtp_session *s, uint64_t n, bool last)
{
    bool ok = s->tx.open && s->tx.rcpt_count > 0;

    if (ok && s->in.body == NULL)
        intake_open(s);
    s->in.bdat_left = n;
    s->in.bdat_last = last;
    s->in.bdat_refused = !ok;
    s->phase = SMTP_BDAT;
    stream_in_cap(s->stream, IN_CAP);
}

static void bdat_chunk_end(struct smtp_session *s)
{
    struct smtp_intake *in = &s->in;

    stream_in_cap(s->stream, SMTP_LINE_MAX + 2);
    s->phase = SMTP_COMMAND;
    if (in->bdat_refused) {
        smtp_bad(s, s->tx.open ? "554 5.5.1 no valid recipients" : "503 5.5.1 need MAIL first");
    } else if (in->bdat_last) {
        finish_line(s);
        complete(s);
    } else if (in->too_big) {
        smtp_reply(s, "552 5.3.4 Message size exceeds fixed maximum message size");
        smtp_reset(s);
    } else {
        smtp_reply(s, "250 2.0.0 chunk of message taken");
    }
}

bool smtp_bdat_input(struct smtp_session *s)
{
    struct smtp_intake *in = &s->in;
    struct str data = buf_str(stream_in(s->stream));

    if (in->bdat_left == 0) {
        bdat_chunk_end(s);
        return true;
    }
    if (data.n == 0)
        return false;
    if (data.n > in->bdat_left)
        data.n = (size_t)in->bdat_left;
    in->bdat_left -= data.n;
    if (!in->bdat_refused && !broken(in)) {
        size_t used = 0;
        bool end = false;
        bool binary = s->tx.binary;
        while (used < data.n && (in->in_head || ((in->raw_hook || in->line_hook) && !binary)))
            used += by_line(s, str_from(data, used), &end, false);
        if (used < data.n) {
            struct str rest = str_from(data, used);
            for (size_t i = 0; !binary && i < rest.n; i++) {
                if ((rest.p[i] == '\n' && !in->last_cr) || (in->last_cr && rest.p[i] != '\n'))
                    in->bare = true;
                in->last_cr = rest.p[i] == '\r';
            }
            in->size += rest.n;
            add_body(in, rest);
        }
        check_limits(s);
    }
    buf_consume(stream_in(s->stream), data.n);
    return true;
}
