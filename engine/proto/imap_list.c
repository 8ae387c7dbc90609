/* LIST with the options of RFC 5258 and 5819, and LSUB (RFC 3501 6.3.8, 6.3.9; RFC 3348, 6154). */
#include "core/map.h"
#include "proto/imap_int.h"

#include <string.h>

enum { PATTERNS_MAX = 20 };
enum { SELECT_SUBSCRIBED = 1, SELECT_REMOTE = 2, SELECT_RECURSIVE = 4, SELECT_SPECIAL = 8 };

struct request {
    struct str pattern[PATTERNS_MAX];
    unsigned patterns;
    unsigned select;
    bool return_subscribed, extended;
    bool root;       /* an empty pattern: asks for the hierarchy delimiter */
    unsigned status; /* STATUS_ bits to add */
};

/* Remembers the last '*' and the last '%' behind it: a mismatch goes back to the nearest one that
 * may take one byte more, so at worst pattern times name steps. */
bool imap_list_match(struct str pattern, struct str name)
{
    size_t p = 0, n = 0;
    size_t star_p = SIZE_MAX, star_n = 0, percent_p = SIZE_MAX, percent_n = 0;

    for (;;) {
        if (p < pattern.n && pattern.p[p] == '*') {
            star_p = ++p;
            star_n = n;
            percent_p = SIZE_MAX;
            continue;
        }
        if (p < pattern.n && pattern.p[p] == '%') {
            percent_p = ++p;
            percent_n = n;
            continue;
        }
        if (n < name.n && p < pattern.n && pattern.p[p] == name.p[n]) {
            p++;
            n++;
            continue;
        }
        if (n == name.n && p == pattern.n)
            return true;
        if (percent_p != SIZE_MAX && percent_n < name.n && name.p[percent_n] != '/') {
            n = ++percent_n;
            p = percent_p;
            continue;
        }
        percent_p = SIZE_MAX;
        if (star_p != SIZE_MAX && star_n < name.n) {
            n = ++star_n;
            p = star_p;
            continue;
        }
        return false;
    }
}

static bool matches(const struct request *r, struct str name)
{
    for (unsigned i = 0; i < r->patterns; i++) {
        struct str p = r->pattern[i];
        if (imap_list_match(p, name))
            return true;
        /* INBOX without case, as the first level of the pattern too. */
        if (str_starts(name, STR("INBOX")) && p.n >= 5 && str_eqiz(str_head(p, 5), "INBOX") &&
            imap_list_match(str_from(p, 5), str_from(name, 5)))
            return true;
    }
    return false;
}

struct line {
    struct str name;
    const struct mailbox_info *box; /* NULL: a parent that is no mailbox */
    bool child_info;                /* a subscribed mailbox lies below (RFC 5258 4) */
};

static void put_line(struct imap_session *s, struct buf *b, const struct request *r,
                     const char *verb, const struct line *l, bool lsub)
{
    const struct mailbox_info *m = l->box;

    buf_printf(b, "* %s (", verb);
    if (lsub) {
        if (m == NULL || !m->selectable)
            buf_addz(b, "\\Noselect");
    } else {
        if (m == NULL || m->id == 0)
            buf_addz(b, "\\NonExistent");
        else if (!m->selectable)
            buf_addz(b, "\\Noselect");
        bool children = m == NULL || m->has_children;
        if (m && m->id && m->selectable)
            buf_addz(b, children ? "\\HasChildren" : "\\HasNoChildren");
        else
            buf_addz(b, children ? " \\HasChildren" : " \\HasNoChildren");
        if (m && m->special_use.n)
            buf_printf(b, " %.*s", STR_ARG(m->special_use));
        if (m && m->subscribed && (r->return_subscribed || r->select & SELECT_SUBSCRIBED))
            buf_addz(b, " \\Subscribed");
    }
    buf_addz(b, ") \"/\" ");
    imap_put_mailbox(b, s->a, l->name);
    if (l->child_info && !lsub)
        buf_addz(b, " (\"CHILDINFO\" (\"SUBSCRIBED\"))");
    buf_addz(b, "\r\n");
    if (b->len > 16384) {
        stream_write(s->stream, buf_str(b));
        buf_clear(b);
    }
}

/* Would this mailbox be listed if its name matched? */
static bool selected(const struct request *r, const struct mailbox_info *m, bool lsub)
{
    if (lsub || r->select & SELECT_SUBSCRIBED) {
        if (!m->subscribed)
            return false;
    } else if (m->id == 0) {
        return false;
    }
    return !(r->select & SELECT_SPECIAL) || m->special_use.n > 0;
}

/* A parent whose name matches, while only something below it is wanted: LSUB "%" (RFC 3501 6.3.9)
 * and RECURSIVEMATCH. */
static void parents(struct imap_session *s, struct buf *b, const struct request *r,
                    const char *verb, const struct map *by_name, struct map *told,
                    const struct mailbox_info *m, bool lsub)
{
    for (size_t i = 0; i < m->name.n; i++) {
        if (m->name.p[i] != '/')
            continue;
        struct str up = str_head(m->name, i);
        if (!matches(r, up) || map_find(told, up))
            continue;
        const struct mailbox_info *box = map_find(by_name, up);
        if (box && selected(r, box, lsub))
            continue; /* comes by itself */
        struct line l = {up, lsub ? NULL : box, true};
        map_set(told, up, told);
        put_line(s, b, r, verb, &l, lsub);
    }
}

static void run(struct imap_session *s, const struct request *r, const char *verb, bool lsub)
{
    struct mailbox_info *v;
    uint32_t n;
    struct err e = ERR_INIT;
    struct buf b;
    uint64_t since = 0;

    if (mailbox_list(s->account, s->a, &v, &n, &e) != 0) {
        imap_fail(s, &e, "Cannot list mailboxes now");
        return;
    }
    bool want_parents = lsub || r->select & SELECT_RECURSIVE;
    struct map *by_name = want_parents ? map_new(false) : NULL;
    struct map *told = want_parents ? map_new(false) : NULL;
    struct map *below = want_parents ? map_new(false) : NULL;
    buf_init(&b, 1024 * 1024);
    for (uint32_t i = 0; i < n && want_parents; i++) {
        map_set(by_name, v[i].name, &v[i]);
        if (!selected(r, &v[i], lsub))
            continue;
        for (size_t k = 0; k < v[i].name.n; k++)
            if (v[i].name.p[k] == '/')
                map_set(below, str_head(v[i].name, k), v);
    }
    for (uint32_t i = 0; i < n && !task_cancelled(); i++) {
        if (!selected(r, &v[i], lsub))
            continue;
        if (want_parents)
            parents(s, &b, r, verb, by_name, told, &v[i], lsub);
        if (!matches(r, v[i].name))
            continue;
        struct line l = {v[i].name, &v[i],
                         r->select & SELECT_RECURSIVE && map_find(below, v[i].name)};
        put_line(s, &b, r, verb, &l, lsub);
        if (r->status && v[i].id && v[i].selectable) {
            struct mailbox_info m;
            if (b.len) {
                stream_write(s->stream, buf_str(&b));
                buf_clear(&b);
            }
            /* A mailbox deleted meanwhile has no STATUS (RFC 5819 2). */
            if (mailbox_status(s->account, v[i].name, s->a, &m, &e) == 0)
                imap_status_line(s, &m, r->status);
        }
        imap_breathe(&since);
    }
    if (b.len)
        stream_write(s->stream, buf_str(&b));
    buf_free(&b);
    if (want_parents) {
        map_free(&by_name);
        map_free(&told);
        map_free(&below);
    }
    imap_ok(s, "%s completed", lsub ? "Lsub" : "List");
}

static bool selection_options(struct imap_in *in, struct request *r)
{
    static const struct {
        const char *name;
        unsigned bit;
    } options[] = {{"SUBSCRIBED", SELECT_SUBSCRIBED},
                   {"REMOTE", SELECT_REMOTE},
                   {"RECURSIVEMATCH", SELECT_RECURSIVE},
                   {"SPECIAL-USE", SELECT_SPECIAL}};

    if (!imap_at(in, '('))
        return true;
    in->p++;
    r->extended = true;
    while (!imap_at(in, ')')) {
        size_t i = 0;
        while (i < sizeof options / sizeof *options && !imap_word(in, options[i].name))
            i++;
        if (i == sizeof options / sizeof *options)
            return imap_bad(in, "unknown LIST selection option");
        r->select |= options[i].bit;
        if (!imap_at(in, ')') && !imap_space(in))
            return false;
    }
    in->p++;
    if (r->select & SELECT_RECURSIVE &&
        !(r->select & ~(unsigned)(SELECT_RECURSIVE | SELECT_REMOTE)))
        return imap_bad(in, "RECURSIVEMATCH needs another selection option");
    return imap_space(in);
}

static bool return_options(struct imap_in *in, struct request *r)
{
    if (imap_at_end(in))
        return true;
    if (!imap_space(in) || !imap_word(in, "RETURN") || !imap_space(in) || !imap_char(in, '('))
        return imap_bad(in, "RETURN expected");
    r->extended = true;
    while (!imap_at(in, ')')) {
        if (imap_word(in, "SUBSCRIBED")) {
            r->return_subscribed = true;
        } else if (imap_word(in, "STATUS")) {
            if (!imap_space(in) || !imap_status_items(in, &r->status))
                return false;
        } else if (!imap_word(in, "CHILDREN") && !imap_word(in, "SPECIAL-USE")) {
            return imap_bad(in, "unknown LIST return option"); /* those two are always given */
        }
        if (!imap_at(in, ')') && !imap_space(in))
            return false;
    }
    in->p++;
    return true;
}

/* Reference and pattern make one pattern; an absolute pattern stands alone. */
static bool one_pattern(struct imap_in *in, struct request *r, struct str reference)
{
    struct str p;

    if (r->patterns == PATTERNS_MAX)
        return imap_bad(in, "too many patterns");
    if (!imap_list_mailbox(in, &p))
        return false;
    r->root = p.n == 0;
    if (p.n && p.p[0] == '/')
        p = str_from(p, 1);
    else if (reference.n)
        p = arena_printf(in->a, "%.*s%.*s", STR_ARG(reference), STR_ARG(p));
    if (p.n > 4 * MAILBOX_NAME_MAX)
        return imap_bad(in, "pattern too long");
    r->pattern[r->patterns++] = p;
    return true;
}

static bool patterns(struct imap_in *in, struct request *r, struct str reference)
{
    if (!imap_at(in, '('))
        return one_pattern(in, r, reference);
    in->p++;
    r->extended = true;
    do {
        while (imap_at(in, ' '))
            in->p++;
        if (!one_pattern(in, r, reference))
            return false;
    } while (imap_at(in, ' '));
    return imap_char(in, ')');
}

void imap_list(struct imap_session *s, struct imap_in *in)
{
    struct request r = {0};
    struct str reference;

    if (!imap_space(in) || !selection_options(in, &r) || !imap_mailbox(in, &reference) ||
        !imap_space(in) || !patterns(in, &r, reference) || !return_options(in, &r) || !imap_end(in))
        return;
    if (!r.extended && r.root) {
        imap_untagged(s, "LIST (\\Noselect) \"/\" \"\"");
        imap_ok(s, "List completed");
        return;
    }
    run(s, &r, "LIST", false);
}

void imap_lsub(struct imap_session *s, struct imap_in *in)
{
    struct request r = {0};
    struct str reference;

    if (!imap_space(in) || !imap_mailbox(in, &reference) || !imap_space(in) ||
        !one_pattern(in, &r, reference) || !imap_end(in))
        return;
    run(s, &r, "LSUB", true);
}
