#include "proto/imap_match.h"

#include "mail/address.h"
#include "mail/charset.h"
#include "mail/date.h"
#include "mail/encode.h"
#include "mail/headers.h"

#include <stdlib.h>
#include <string.h>

static bool bit(const unsigned char *bits, uint32_t i)
{
    return bits[i / 8] >> (i % 8) & 1;
}

bool imap_match_prepare(struct imap_key *k, const struct view *v, struct arena *a)
{
    for (; k; k = k->next) {
        if (k->child && !imap_match_prepare(k->child, v, a))
            return false;
        if (k->type != KEY_SET && k->type != KEY_UIDS)
            continue;
        uint32_t *index, n;
        if (!imap_set_resolve(&k->set, k->type == KEY_UIDS, v->uids, v->count, a, &index, &n))
            return false;
        k->bits = arena_zalloc(a, v->count / 8 + 1);
        for (uint32_t i = 0; i < n; i++)
            k->bits[index[i] / 8] = (unsigned char)(k->bits[index[i] / 8] | 1u << (index[i] % 8));
    }
    return true;
}

static enum imap_answer yes(bool b)
{
    return b ? MATCH_YES : MATCH_NO;
}

static bool contains(struct str hay, struct str needle)
{
    return needle.n == 0 || (hay.n >= needle.n && memmem(hay.p, hay.n, needle.p, needle.n) != NULL);
}

/* FROM, TO, CC and BCC ask about the envelope (RFC 3501 6.4.4), where comments and folds inside an
 * address are gone. */
static bool address_match(const struct imap_key *k, const struct imap_facts *f, struct str value)
{
    if (!str_eqiz(k->name, "From") && !str_eqiz(k->name, "To") && !str_eqiz(k->name, "Cc") &&
        !str_eqiz(k->name, "Bcc"))
        return false;
    for (const struct list_entry *x = address_list(f->a, value); x != NULL; x = x->next) {
        if (x->kind != LIST_MAILBOX)
            continue;
        struct str plain = arena_printf(f->a, "%.*s <%.*s@%.*s>", STR_ARG(x->name),
                                        STR_ARG(x->local), STR_ARG(x->domain));
        if (contains(utf8_fold(f->a, word_decode(f->a, plain)), k->text))
            return true;
    }
    return false;
}

static bool header_match(const struct imap_key *k, const struct imap_facts *f)
{
    struct header_field h;
    size_t at = 0;

    while (header_find_next(f->head, k->name, &at, &h)) {
        if (k->text.n == 0)
            return true; /* the field is there (RFC 3501 6.4.4 HEADER) */
        if (contains(utf8_fold(f->a, word_decode(f->a, h.value)), k->text) ||
            address_match(k, f, h.value))
            return true;
    }
    return false;
}

static enum imap_answer sent_match(const struct imap_key *k, const struct imap_facts *f)
{
    int64_t ms;
    int zone;
    struct str value = header_value(f->a, f->head, "Date");

    if (value.p == NULL || !date_parse(value, &ms, &zone))
        return MATCH_NO;
    int32_t day = date_day(ms, zone); /* as the sender wrote it */
    return yes(k->type == KEY_SENTBEFORE ? day < k->day
               : k->type == KEY_SENTON   ? day == k->day
                                         : day >= k->day);
}

static bool keyword_match(const struct imap_key *k, const struct view *v, uint32_t flags)
{
    for (uint32_t i = 0; i < v->keyword_count; i++)
        if (str_eqiz(k->name, v->keywords[i]))
            return flags & (uint32_t)FLAG_KEYWORD0 << i;
    return false;
}

static enum imap_answer all_of(const struct imap_key *k, const struct view *v,
                               const struct imap_facts *f)
{
    enum imap_answer r = MATCH_YES;

    for (const struct imap_key *c = k->child; c; c = c->next) {
        enum imap_answer x = imap_match(c, v, f);
        if (x == MATCH_NO)
            return MATCH_NO;
        if (x == MATCH_UNKNOWN)
            r = MATCH_UNKNOWN;
    }
    return r;
}

/* Depth is bounded by the parser. */
enum imap_answer imap_match(const struct imap_key *k, const struct view *v,
                            const struct imap_facts *f)
{
    uint32_t flags = v->flags[f->index];

    switch (k->type) {
    case KEY_ALL:
        return MATCH_YES;
    case KEY_AND:
        return all_of(k, v, f);
    case KEY_OR: {
        enum imap_answer x = imap_match(k->child, v, f);
        if (x == MATCH_YES)
            return x;
        enum imap_answer y = imap_match(k->child->next, v, f);
        return y == MATCH_YES || y == x ? y : MATCH_UNKNOWN;
    }
    case KEY_NOT: {
        enum imap_answer x = imap_match(k->child, v, f);
        return x == MATCH_UNKNOWN ? x : yes(x == MATCH_NO);
    }
    case KEY_SET:
    case KEY_UIDS:
        return yes(bit(k->bits, f->index));
    case KEY_FLAG:
        return yes(flags & k->flag);
    case KEY_KEYWORD:
        return yes(keyword_match(k, v, flags));
    case KEY_RECENT:
        return yes(v->uids[f->index] >= v->recent_from);
    case KEY_LARGER:
        return f->ref ? yes(f->ref->size > k->flag) : MATCH_UNKNOWN;
    case KEY_SMALLER:
        return f->ref ? yes(f->ref->size < k->flag) : MATCH_UNKNOWN;
    case KEY_BEFORE:
        return f->ref ? yes(date_day(f->ref->at, 0) < k->day) : MATCH_UNKNOWN;
    case KEY_ON:
        return f->ref ? yes(date_day(f->ref->at, 0) == k->day) : MATCH_UNKNOWN;
    case KEY_SINCE:
        return f->ref ? yes(date_day(f->ref->at, 0) >= k->day) : MATCH_UNKNOWN;
    case KEY_SENTBEFORE:
    case KEY_SENTON:
    case KEY_SENTSINCE:
        return f->head.p ? sent_match(k, f) : MATCH_UNKNOWN;
    case KEY_HEADER:
        return f->head.p ? yes(header_match(k, f)) : MATCH_UNKNOWN;
    case KEY_BODY:
    case KEY_TEXT:
        if (k->text.n == 0)
            return MATCH_YES;
        return f->text ? yes(f->text[k->slot]) : MATCH_UNKNOWN;
    }
    return MATCH_NO;
}

/* --- contents --------------------------------------------------------------------------------- */

enum { STEP = 16384 }; /* bytes decoded at once */

struct needle {
    struct str text;
    unsigned slot;
    bool body;
};

struct imap_scan {
    struct needle *needles;
    unsigned count, left; /* left: not found yet */
    bool *found;
    size_t longest;
    struct transfer_decoder transfer;
    struct charset *charset;
    struct buf plain; /* decoded UTF-8 of a step */
    char *window;     /* folded text: the tail of the last step, then this one */
    size_t tail, window_size;
};

static void collect(struct imap_scan *s, const struct imap_key *k)
{
    for (; k; k = k->next) {
        if (k->child)
            collect(s, k->child);
        if ((k->type != KEY_BODY && k->type != KEY_TEXT) || k->text.n == 0)
            continue;
        s->needles[s->count++] = (struct needle){k->text, k->slot, k->type == KEY_BODY};
        if (k->text.n > s->longest)
            s->longest = k->text.n;
    }
}

struct imap_scan *imap_scan_new(const struct imap_search *search, bool *found)
{
    struct imap_scan *s = xcalloc(1, sizeof *s);

    s->needles = xcalloc(search->text_keys + 1, sizeof *s->needles);
    s->found = found;
    memset(found, 0, search->text_keys * sizeof *found);
    collect(s, search->root);
    s->left = s->count;
    buf_init(&s->plain, STEP * 8 + 4096);
    return s;
}

void imap_scan_free(struct imap_scan **sp)
{
    struct imap_scan *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    charset_close(&s->charset);
    buf_free(&s->plain);
    free(s->window);
    free(s->needles);
    free(s);
}

bool imap_scan_done(const struct imap_scan *s)
{
    return s->left == 0;
}

static void look(struct imap_scan *s, struct str folded, bool head)
{
    for (unsigned i = 0; i < s->count; i++) {
        const struct needle *n = &s->needles[i];
        if (s->found[n->slot] || (head && n->body) || !contains(folded, n->text))
            continue;
        s->found[n->slot] = true;
        s->left--;
    }
}

static void scan_fields(struct imap_scan *s, struct str head, bool outer)
{
    struct arena *a = arena_new(4096);
    struct header_field h;
    size_t at = 0;

    while (s->left && header_next(head, &at, &h)) {
        struct str v = utf8_fold(a, word_decode(a, h.value));
        struct str text =
            arena_printf(a, "%.*s: %.*s", STR_ARG(arena_lower(a, h.name)), STR_ARG(v));
        look(s, text, outer);
        arena_reset(a);
    }
    arena_free(&a);
}

void imap_scan_head(struct imap_scan *s, struct str head)
{
    scan_fields(s, head, true);
}

void imap_scan_inner_head(struct imap_scan *s, struct str head)
{
    scan_fields(s, head, false);
}

bool imap_scan_wants(const struct mime_part *part)
{
    return part->kind == MIME_LEAF &&
           (mime_type_is(part, "text", NULL) || mime_type_is(part, "message", NULL));
}

void imap_scan_part(struct imap_scan *s, const struct mime_part *part)
{
    charset_close(&s->charset);
    s->charset = charset_open(mime_param(&part->params, "charset"));
    s->transfer = (struct transfer_decoder){.kind = transfer_of(part->encoding)};
    s->tail = 0;
}

/* Folded text of one step behind the tail of the one before, so that a needle may lie across. */
static void step(struct imap_scan *s)
{
    struct str plain = buf_str(&s->plain);
    size_t need = s->tail + plain.n * 2;

    if (need > s->window_size) {
        s->window_size = need + 4096;
        s->window = xrealloc(s->window, s->window_size);
    }
    size_t n = s->tail + (plain.n ? utf8_fold_into(plain, s->window + s->tail) : 0);
    /* Line ends count as one blank: a phrase may be wrapped anywhere. */
    size_t k = s->tail;
    for (size_t i = s->tail; i < n; i++) {
        char c = s->window[i];
        if (c == '\r')
            continue;
        s->window[k++] = c == '\n' || c == '\t' ? ' ' : c;
    }
    look(s, str_make(s->window, k), false);
    size_t keep = s->longest > 0 ? s->longest - 1 : 0;
    if (keep > k)
        keep = k;
    if (keep)
        memmove(s->window, s->window + k - keep, keep);
    s->tail = keep;
    buf_clear(&s->plain);
}

void imap_scan_bytes(struct imap_scan *s, struct str bytes, bool last)
{
    char decoded[STEP + 8];

    do {
        struct str piece = str_head(bytes, STEP);
        bytes = str_from(bytes, piece.n);
        bool end = last && bytes.n == 0;
        size_t n = transfer_feed(&s->transfer, piece, end, decoded);
        charset_feed(s->charset, str_make(decoded, n), end, &s->plain);
        step(s);
    } while (bytes.n > 0 && s->left > 0);
}
