#include "mail/mime.h"

#include "core/limits.h"

#include <stdlib.h>
#include <string.h>

/* Longest boundary that is looked for (RFC 2046 5.1.1 allows 70), and what is kept of a line that
 * may be one. */
enum { BOUNDARY_MAX = 250, CANDIDATE_MAX = BOUNDARY_MAX + 8 };
/* What is kept of a part's header; fields behind it are not looked at. */
enum { PART_HEADER_MAX = 64 * 1024, BUCKETS = 256 };

/* A part whose end has not been seen, innermost last. */
struct open_part {
    struct mime_part *part;
    struct mime_part *last; /* its last child */
    struct str boundary;    /* multipart, after the first boundary is wanted; else empty */
    uint64_t hash;
    int hash_next;     /* next in the bucket, index + 1 */
    uint64_t lf_start; /* line feeds before the body's start */
    bool digest;
};

enum state { IN_HEADER, IN_BODY };

struct mime_parser {
    struct arena *a;
    struct mime_part *root;
    struct open_part open[MIME_DEPTH_MAX + 2];
    unsigned depth;                     /* of open[] */
    int bucket[BUCKETS];                /* index + 1 of the innermost open part with such a hash */
    uint16_t lengths[BOUNDARY_MAX + 1]; /* how many open boundaries have this length */
    uint64_t seed;
    unsigned boundaries; /* open ones */
    uint32_t parts;
    bool full; /* MIME_PARTS_MAX reached: boundaries mean nothing any more */

    enum state state;
    uint64_t pos;   /* bytes taken */
    uint64_t lf;    /* line feeds among them */
    char before[3]; /* the last three bytes taken */
    /* The line at hand. */
    bool line_start;     /* pos is at the start of a line */
    bool skip_line;      /* the rest of this line is of no interest */
    uint64_t line_pos;   /* where it began */
    char line_before[3]; /* what stood before it */
    uint64_t line_lf;
    char line[CANDIDATE_MAX];
    size_t line_n;
    bool collecting; /* bytes go to line[] */
    char *header;    /* of the part at hand, malloc */
    size_t header_n, header_size;
};

/* --- boundaries ------------------------------------------------------------------------------- */

static uint64_t hash_step(uint64_t h, char c)
{
    return (h ^ (unsigned char)c) * 0x9E3779B97F4A7C15u + (h >> 29);
}

static void boundary_open(struct mime_parser *p, struct open_part *o, struct str b)
{
    uint64_t h = p->seed;
    for (size_t i = 0; i < b.n; i++)
        h = hash_step(h, b.p[i]);
    o->boundary = b;
    o->hash = h;
    int *slot = &p->bucket[h >> 56];
    o->hash_next = *slot;
    *slot = (int)(o - p->open) + 1;
    p->lengths[b.n]++;
    p->boundaries++;
}

static void boundary_close(struct mime_parser *p, struct open_part *o)
{
    if (o->boundary.n == 0)
        return;
    p->bucket[o->hash >> 56] = o->hash_next; /* it is the innermost of its bucket */
    p->lengths[o->boundary.n]--;
    p->boundaries--;
    o->boundary = STR_NONE;
}

/* The open part whose boundary stands at the start of `s` (RFC 2046 5.1.1: a prefix is enough); the
 * longest, and of equal ones the innermost, wins.  -1: none. */
static int boundary_find(const struct mime_parser *p, struct str s)
{
    uint64_t h = p->seed;
    int best = -1;

    for (size_t i = 0; i < s.n && i < BOUNDARY_MAX; i++) {
        h = hash_step(h, s.p[i]);
        if (p->lengths[i + 1] == 0)
            continue;
        for (int k = p->bucket[h >> 56]; k; k = p->open[k - 1].hash_next) {
            const struct open_part *o = &p->open[k - 1];
            if (o->hash == h && o->boundary.n == i + 1 && memcmp(o->boundary.p, s.p, i + 1) == 0) {
                best = k - 1;
                break;
            }
        }
    }
    return best;
}

/* --- the tree --------------------------------------------------------------------------------- */

static struct open_part *push(struct mime_parser *p, struct mime_part *part)
{
    struct open_part *o = &p->open[p->depth++];
    *o = (struct open_part){.part = part, .lf_start = p->lf};
    part->body_start = part->header_end;
    return o;
}

static struct mime_part *child(struct mime_parser *p, uint64_t at)
{
    struct open_part *o = &p->open[p->depth - 1];
    struct mime_part *part = ARENA_NEW(p->a, struct mime_part);

    part->parent = o->part;
    if (o->last)
        o->last->next = part;
    else
        o->part->first = part;
    o->last = part;
    o->part->children++;
    part->header_start = at;
    if (++p->parts >= MIME_PARTS_MAX)
        p->full = true;
    return part;
}

static void start_header(struct mime_parser *p, struct mime_part *part)
{
    struct open_part *o = &p->open[p->depth++];
    *o = (struct open_part){.part = part};
    p->header_n = 0;
    p->state = IN_HEADER;
}

/* The fields of the innermost open part are known: what is it? */
static void start_body(struct mime_parser *p, struct str head)
{
    struct open_part *o = &p->open[p->depth - 1];
    struct mime_part *part = o->part;
    struct open_part *up = p->depth > 1 ? &p->open[p->depth - 2] : NULL;

    part->header_end = part->body_start = p->pos;
    o->lf_start = p->lf;
    if (part != p->root)
        mime_fields(p->a, part, head, up && up->digest);
    if (up && up->part->kind == MIME_MESSAGE && head.n)
        part->parent->envelope = arena_dup(p->a, head);
    p->state = IN_BODY;
    p->line_start = true;
    if (p->depth > MIME_DEPTH_MAX)
        return;
    if (mime_type_is(part, "multipart", NULL)) {
        struct str b = mime_param(&part->params, "boundary");
        while (b.n && (b.p[b.n - 1] == ' ' || b.p[b.n - 1] == '\t'))
            b.n--;
        if (b.n == 0 || b.n > BOUNDARY_MAX)
            return;
        part->kind = MIME_MULTIPART;
        o->digest = str_eqiz(part->subtype, "digest");
        boundary_open(p, o, b);
    } else if (mime_type_is(part, "message", "rfc822") && !p->full) {
        part->kind = MIME_MESSAGE;
        start_header(p, child(p, p->pos));
    }
}

/* Ends the innermost open part at `end`, before which `lf` line feeds stand and `last` is. */
static void pop(struct mime_parser *p, uint64_t end, uint64_t lf, char last)
{
    struct open_part *o = &p->open[--p->depth];
    struct mime_part *part = o->part;

    boundary_close(p, o);
    if (end < part->body_start)
        end = part->body_start;
    /* A child whose header met this boundary at once begins where the line end before it stands. */
    if (o->last && o->last->body_end > end)
        end = o->last->body_end;
    part->body_end = end;
    uint64_t lines = lf > o->lf_start ? lf - o->lf_start : 0;
    if (end > part->body_start && last != '\n')
        lines++;
    part->lines = lines > UINT32_MAX ? UINT32_MAX : (uint32_t)lines;
}

static void end_header(struct mime_parser *p)
{
    start_body(p, str_make(p->header, p->header_n));
}

/* A line "--..." is complete (or as much of it as matters). */
static bool boundary_line(struct mime_parser *p, struct str line)
{
    if (line.n < 3 || line.p[0] != '-' || line.p[1] != '-' || p->full)
        return false;
    struct str s = str_from(line, 2);
    int found = boundary_find(p, s);
    if (found < 0)
        return false;
    struct open_part *o = &p->open[found];
    bool close = str_starts(str_from(s, o->boundary.n), STR("--"));

    /* The line end before the boundary belongs to it. */
    uint64_t end = p->line_pos, lf = p->line_lf;
    const char *b = p->line_before;
    char last = b[2];
    if (end > 0 && b[2] == '\n') {
        bool cr = end > 1 && b[1] == '\r';
        end -= cr ? 2 : 1;
        lf--;
        last = cr ? b[0] : b[1];
    }
    if (p->state == IN_HEADER) { /* a header without its empty line */
        uint64_t pos = p->pos;
        struct open_part *in = &p->open[p->depth - 1];
        p->pos = end > in->part->header_start ? end : in->part->header_start;
        uint64_t all = p->lf;
        p->lf = lf;
        mime_fields(p->a, in->part, str_make(p->header, p->header_n),
                    p->depth > 1 && p->open[p->depth - 2].digest);
        if (in->part->parent->kind == MIME_MESSAGE && p->header_n)
            in->part->parent->envelope = arena_dup(p->a, str_make(p->header, p->header_n));
        in->part->header_end = in->part->body_start = p->pos;
        in->lf_start = p->lf;
        p->pos = pos;
        p->lf = all;
        p->state = IN_BODY;
    }
    while (p->depth > (unsigned)found + 1)
        pop(p, end, lf, last);
    if (close) {
        boundary_close(p, o); /* the epilogue belongs to the multipart, and ends with its parent */
    } else {
        /* The header begins behind this line: header_start is set when it has passed. */
        start_header(p, child(p, 0));
    }
    return true;
}

/* A whole line of a part's header, or the first CANDIDATE_MAX bytes of it. */
static void header_add(struct mime_parser *p, struct str s)
{
    if (s.n > PART_HEADER_MAX - p->header_n)
        s.n = PART_HEADER_MAX - p->header_n;
    if (s.n == 0)
        return;
    if (p->header_n + s.n > p->header_size) {
        p->header_size = p->header_size ? p->header_size * 2 : 1024;
        while (p->header_size < p->header_n + s.n)
            p->header_size *= 2;
        p->header = xrealloc(p->header, p->header_size);
    }
    memcpy(p->header + p->header_n, s.p, s.n);
    p->header_n += s.n;
}

uint64_t count_lf(struct str s)
{
    uint64_t total = 0;
    size_t i = 0;

    for (; i + 64 <= s.n; i += 64) { /* constant inner count: becomes vector code */
        unsigned char n = 0;
        for (size_t k = 0; k < 64; k++)
            n = (unsigned char)(n + (s.p[i + k] == '\n'));
        total += n;
    }
    for (; i < s.n; i++)
        total += s.p[i] == '\n';
    return total;
}

static void take(struct mime_parser *p, struct str s)
{
    if (s.n == 0)
        return;
    p->pos += s.n;
    p->lf += count_lf(s);
    for (size_t i = s.n > 3 ? s.n - 3 : 0; i < s.n; i++) {
        p->before[0] = p->before[1];
        p->before[1] = p->before[2];
        p->before[2] = s.p[i];
    }
}

static void begin_line(struct mime_parser *p)
{
    p->line_start = false;
    p->line_pos = p->pos;
    p->line_lf = p->lf;
    memcpy(p->line_before, p->before, 3);
    p->line_n = 0;
    p->collecting = true;
}

/* What is in line[] (without what follows in an overlong line) has been taken. */
static void finish_line(struct mime_parser *p, bool complete)
{
    struct str line = str_make(p->line, p->line_n);
    bool header = p->state == IN_HEADER;

    p->collecting = false;
    if (boundary_line(p, line)) {
        if (p->state == IN_HEADER) {
            p->open[p->depth - 1].part->header_start = p->pos;
            p->skip_line = !complete;
        }
        return;
    }
    if (!header)
        return;
    if (complete && (str_eqz(line, "\n") || str_eqz(line, "\r\n"))) {
        end_header(p);
        return;
    }
    header_add(p, line);
}

/* Bytes of the line at hand, up to and with its line feed; returns how many were used. */
static size_t feed_line(struct mime_parser *p, struct str s)
{
    const char *lf = memchr(s.p, '\n', s.n);
    size_t n = lf ? (size_t)(lf - s.p) + 1 : s.n;

    if (p->skip_line || !p->collecting) {
        bool header = p->state == IN_HEADER && !p->skip_line;
        if (header) /* the rest of a long header line */
            header_add(p, str_head(s, n));
        take(p, str_head(s, n));
        if (lf) {
            p->line_start = true;
            if (p->skip_line)
                p->open[p->depth - 1].part->header_start = p->pos;
            p->skip_line = false;
        }
        return n;
    }
    size_t room = CANDIDATE_MAX - p->line_n;
    bool complete = lf && n <= room;
    if (n > room)
        n = room;
    memcpy(p->line + p->line_n, s.p, n);
    p->line_n += n;
    take(p, str_head(s, n));
    if (complete || p->line_n == CANDIDATE_MAX) {
        p->line_start = complete;
        finish_line(p, complete);
    }
    return n;
}

/* Body bytes at a place that is not the start of a line: jumps to the next line that begins with
 * "--".  Returns bytes used. */
static size_t skip_body(struct mime_parser *p, struct str s)
{
    if (p->boundaries == 0 || p->full) {
        take(p, s);
        p->line_start = s.p[s.n - 1] == '\n';
        return s.n;
    }
    const char *hit = memmem(s.p, s.n, "\n--", 3);
    size_t n = hit ? (size_t)(hit - s.p) + 1 : s.n;
    if (!hit && s.n > 1 && s.p[s.n - 1] == '-' && s.p[s.n - 2] == '\n')
        n--; /* the second dash may come with the next piece */
    take(p, str_head(s, n));
    p->line_start = s.p[n - 1] == '\n';
    return n;
}

void mime_feed(struct mime_parser *p, struct str s)
{
    while (s.n > 0) {
        size_t n;
        if (p->line_start) {
            if (p->state == IN_BODY && (s.p[0] != '-' || p->boundaries == 0 || p->full)) {
                p->line_start = false;
                n = skip_body(p, s);
            } else {
                begin_line(p);
                n = feed_line(p, s);
            }
        } else if (p->collecting || p->skip_line || p->state == IN_HEADER) {
            n = feed_line(p, s);
        } else {
            n = skip_body(p, s);
        }
        s = str_from(s, n);
    }
}

struct mime_parser *mime_begin(struct arena *a, struct str head)
{
    struct mime_parser *p = xcalloc(1, sizeof *p);

    p->a = a;
    p->seed = str_hash(STR("boundary")); /* keyed: senders cannot choose collisions */
    p->root = ARENA_NEW(a, struct mime_part);
    p->parts = 1;
    mime_fields(a, p->root, head, false);
    push(p, p->root);
    start_body(p, STR_NONE);
    return p;
}

struct mime_part *mime_end(struct mime_parser **pp)
{
    struct mime_parser *p = *pp;

    *pp = NULL;
    if (p->collecting)
        finish_line(p, p->line_n > 0 && p->line[p->line_n - 1] == '\n');
    if (p->state == IN_HEADER) {
        struct open_part *o = &p->open[p->depth - 1];
        if (p->skip_line)
            o->part->header_start = p->pos;
        while (p->state == IN_HEADER) /* again for the empty message in an empty message/rfc822 */
            end_header(p);
    }
    while (p->depth > 0)
        pop(p, p->pos, p->lf, p->before[2]);
    struct mime_part *root = p->root;
    free(p->header);
    free(p);
    return root;
}

struct mime_part *mime_parse(struct arena *a, struct str head, struct str body)
{
    struct mime_parser *p = mime_begin(a, head);
    mime_feed(p, body);
    return mime_end(&p);
}

/* --- using a tree ----------------------------------------------------------------------------- */

static struct mime_part *nth(const struct mime_part *part, uint32_t n)
{
    struct mime_part *c = part->first;
    while (c && --n > 0)
        c = c->next;
    return c;
}

struct mime_part *mime_by_path(struct mime_part *root, const uint32_t *path, unsigned n)
{
    struct mime_part *part = root;

    for (unsigned i = 0; i < n; i++) {
        struct mime_part *inside =
            part->kind == MIME_MESSAGE && (part != root || i > 0) ? part->first : part;
        if (path[i] == 0)
            return NULL;
        if (inside->kind == MIME_MULTIPART && inside->children) {
            part = nth(inside, path[i]);
            if (part == NULL)
                return NULL;
        } else {
            /* The only part of a message that is not multipart (RFC 3501 6.4.5). */
            if (path[i] != 1 || (inside == part && (part != root || i > 0)))
                return NULL;
            part = inside;
        }
    }
    return part;
}

struct str mime_path(struct arena *a, const struct mime_part *part)
{
    uint32_t number[MIME_DEPTH_MAX + 4];
    unsigned n = 0;
    struct str r = STR("");

    for (const struct mime_part *q = part; q && n < MIME_DEPTH_MAX + 3; q = q->parent) {
        const struct mime_part *up = q->parent;
        if (up && up->kind == MIME_MULTIPART) {
            uint32_t k = 1;
            for (const struct mime_part *c = up->first; c != q; c = c->next)
                k++;
            number[n++] = k;
        } else if (q->kind != MIME_MULTIPART) {
            number[n++] = 1; /* the whole of a message, or of the message in a part */
        }
    }
    while (n > 0) {
        n--;
        r = r.n ? arena_printf(a, "%.*s.%u", STR_ARG(r), number[n])
                : arena_printf(a, "%u", number[n]);
    }
    return r;
}

struct mime_part *mime_next(const struct mime_part *root, const struct mime_part *part)
{
    if (part->first)
        return part->first;
    while (part && part != root) {
        if (part->next)
            return part->next;
        part = part->parent;
    }
    return NULL;
}
