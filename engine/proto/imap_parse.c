#include "proto/imap_parse.h"

#include "core/limits.h"
#include "mail/date.h"
#include "mail/encode.h"
#include "store/mailbox.h"

#include <stdlib.h>
#include <string.h>

struct imap_in imap_in(struct arena *a, struct str command)
{
    return (struct imap_in){.p = command.p, .end = command.p + command.n, .a = a};
}

bool imap_bad(struct imap_in *in, const char *why)
{
    if (in->bad == NULL)
        in->bad = why;
    return false;
}

bool imap_at(const struct imap_in *in, char c)
{
    return in->p < in->end && *in->p == c;
}

bool imap_at_end(const struct imap_in *in)
{
    return in->p == in->end;
}

bool imap_end(struct imap_in *in)
{
    while (imap_at(in, ' '))
        in->p++;
    return in->p == in->end || imap_bad(in, "unexpected text at the end of the command");
}

bool imap_space(struct imap_in *in)
{
    if (!imap_at(in, ' '))
        return imap_bad(in, imap_at_end(in) ? "argument missing" : "blank expected");
    while (imap_at(in, ' '))
        in->p++;
    return true;
}

bool imap_char(struct imap_in *in, char c)
{
    if (!imap_at(in, c))
        return imap_bad(in, c == ')' ? "closing parenthesis expected" : "unexpected character");
    in->p++;
    return true;
}

/* ATOM-CHAR without the wildcards and ']' that some contexts add. */
static bool atom_char(char ch)
{
    unsigned char c = (unsigned char)ch;
    return c > ' ' && c < 127 && !strchr("(){%*\"\\]", c);
}

static bool delimiter(const struct imap_in *in, const char *p)
{
    return p == in->end || !atom_char(*p) || *p == '[' || *p == '<' || *p == '.';
}

bool imap_word(struct imap_in *in, const char *word)
{
    struct str w = str_of(word);

    if (!str_startsi(str_make(in->p, (size_t)(in->end - in->p)), w) || !delimiter(in, in->p + w.n))
        return false;
    in->p += w.n;
    return true;
}

static bool take(struct imap_in *in, bool (*fits)(char), struct str *r, const char *why)
{
    const char *from = in->p;

    while (in->p < in->end && fits(*in->p))
        in->p++;
    *r = str_make(from, (size_t)(in->p - from));
    return r->n > 0 || imap_bad(in, why);
}

bool imap_atom(struct imap_in *in, struct str *r)
{
    return take(in, atom_char, r, "atom expected");
}

static bool tag_char(char c)
{
    return (atom_char(c) || c == ']') && c != '+';
}

bool imap_tag(struct imap_in *in, struct str *r)
{
    return take(in, tag_char, r, "tag expected");
}

static bool astring_char(char c)
{
    return atom_char(c) || c == ']';
}

static bool list_char(char c)
{
    return astring_char(c) || c == '%' || c == '*';
}

static bool quoted(struct imap_in *in, struct str *r)
{
    const char *from = ++in->p;
    size_t escapes = 0;

    while (in->p < in->end && *in->p != '"') {
        unsigned char c = (unsigned char)*in->p;
        if (c == '\r' || c == '\n' || c == '\0')
            return imap_bad(in, "line end in a quoted string");
        if (c == '\\') {
            in->p++;
            escapes++;
            if (in->p == in->end || (*in->p != '"' && *in->p != '\\'))
                return imap_bad(in, "bad escape in a quoted string");
        }
        in->p++;
    }
    if (in->p == in->end)
        return imap_bad(in, "quoted string is not closed");
    size_t n = (size_t)(in->p++ - from);
    *r = str_make(from, n);
    if (escapes) {
        char *out = arena_alloc(in->a, n);
        size_t k = 0;
        for (size_t i = 0; i < n; i++) {
            if (from[i] == '\\')
                i++;
            out[k++] = from[i];
        }
        *r = str_make(out, k);
    }
    return true;
}

/* The session has checked the sizes; they are checked again here, as a fuzzer comes without one. */
static bool literal(struct imap_in *in, struct str *r)
{
    uint64_t n = 0;

    in->p++;
    if (in->p == in->end || !ascii_digit(*in->p))
        return imap_bad(in, "bad literal");
    while (in->p < in->end && ascii_digit(*in->p) && n < IMAP_COMMAND_MAX)
        n = n * 10 + (uint64_t)(*in->p++ - '0');
    if (imap_at(in, '+'))
        in->p++;
    if (!imap_at(in, '}'))
        return imap_bad(in, "bad literal");
    in->p++;
    if (imap_at(in, '\r'))
        in->p++;
    if (!imap_at(in, '\n'))
        return imap_bad(in, "bad literal");
    in->p++;
    if (n > (uint64_t)(in->end - in->p))
        return imap_bad(in, "literal is cut off");
    *r = str_make(in->p, (size_t)n);
    in->p += n;
    return true;
}

bool imap_string(struct imap_in *in, struct str *r)
{
    if (imap_at(in, '"'))
        return quoted(in, r);
    if (imap_at(in, '{'))
        return literal(in, r);
    return imap_bad(in, "string expected");
}

bool imap_astring(struct imap_in *in, struct str *r)
{
    if (imap_at(in, '"') || imap_at(in, '{'))
        return imap_string(in, r);
    return take(in, astring_char, r, "string or atom expected");
}

bool imap_nstring(struct imap_in *in, struct str *r)
{
    if (imap_at(in, '"') || imap_at(in, '{'))
        return imap_string(in, r);
    if (imap_word(in, "NIL")) {
        *r = STR_NONE;
        return true;
    }
    return imap_bad(in, "string or NIL expected");
}

bool imap_number64(struct imap_in *in, uint64_t *r)
{
    const char *from = in->p;

    while (in->p < in->end && ascii_digit(*in->p))
        in->p++;
    return str_u64(str_make(from, (size_t)(in->p - from)), r) || imap_bad(in, "number expected");
}

bool imap_number(struct imap_in *in, uint32_t *r)
{
    uint64_t v;

    if (!imap_number64(in, &v))
        return false;
    if (v > UINT32_MAX)
        return imap_bad(in, "number too large");
    *r = (uint32_t)v;
    return true;
}

bool imap_nz_number(struct imap_in *in, uint32_t *r)
{
    return imap_number(in, r) && (*r > 0 || imap_bad(in, "number must not be zero"));
}

/* What is no modified UTF-7 is taken as it stands: such a name can be asked for, and is not found.
 */
static bool lenient_name(struct arena *a, struct str wire, struct str *r)
{
    if (mutf7_decode(a, wire, r))
        return true;
    *r = wire;
    return str_utf8(wire) && str_chr(wire, '\0') < 0;
}

bool imap_mailbox_name(struct arena *a, struct str wire, struct str *r)
{
    struct str s;

    if (!lenient_name(a, wire, &s))
        return false;
    if (s.n >= 5 && str_eqiz(str_head(s, 5), "INBOX") && (s.n == 5 || s.p[5] == '/')) {
        char *copy = arena_dupz(a, s);
        memcpy(copy, "INBOX", 5);
        s.p = copy;
    }
    *r = s;
    return true;
}

bool imap_mailbox(struct imap_in *in, struct str *r)
{
    struct str wire;

    if (!imap_astring(in, &wire))
        return false;
    struct str name;
    in->odd_name = in->odd_name || !mutf7_decode(in->a, wire, &name);
    return imap_mailbox_name(in->a, wire, r) ||
           imap_bad(in, "mailbox name is not in modified UTF-7");
}

bool imap_list_mailbox(struct imap_in *in, struct str *r)
{
    struct str wire;

    if (imap_at(in, '"') || imap_at(in, '{')) {
        if (!imap_string(in, &wire))
            return false;
    } else if (!take(in, list_char, &wire, "mailbox pattern expected")) {
        return false;
    }
    return lenient_name(in->a, wire, r) || imap_bad(in, "mailbox name is not in modified UTF-7");
}

bool imap_date(struct imap_in *in, int32_t *days_r)
{
    struct str s;

    if (!imap_astring(in, &s))
        return false;
    return date_search_parse(s, days_r) || imap_bad(in, "date expected, as 1-Feb-1994");
}

/* --- flags */

uint32_t imap_system_flag(struct str s)
{
    static const struct {
        const char *name;
        uint32_t bit;
    } flags[] = {{"\\Seen", FLAG_SEEN},
                 {"\\Answered", FLAG_ANSWERED},
                 {"\\Flagged", FLAG_FLAGGED},
                 {"\\Deleted", FLAG_DELETED},
                 {"\\Draft", FLAG_DRAFT}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (str_eqiz(s, flags[i].name))
            return flags[i].bit;
    return 0;
}

enum { FLAGS_MAX = 100, KEYWORD_MAX = 63 };

static bool one_flag(struct imap_in *in, struct imap_flags *r)
{
    struct str name;

    if (imap_at(in, '\\')) {
        const char *from = in->p++;
        if (!imap_atom(in, &name))
            return false;
        uint32_t bit = imap_system_flag(str_make(from, (size_t)(in->p - from)));
        r->system |= bit;
        return bit || imap_bad(in, "system flag cannot be set");
    }
    if (!imap_atom(in, &name))
        return false;
    if (name.n > KEYWORD_MAX)
        return imap_bad(in, "keyword too long");
    for (uint32_t i = 0; i < r->keyword_count; i++)
        if (str_eqi(r->keywords[i], name))
            return true;
    if (r->keyword_count == FLAGS_MAX)
        return imap_bad(in, "too many keywords");
    r->keywords[r->keyword_count++] = name;
    return true;
}

bool imap_flag_list(struct imap_in *in, bool bare, struct imap_flags *r)
{
    bool list = imap_at(in, '(');

    *r = (struct imap_flags){.keywords = ARENA_ARRAY(in->a, struct str, FLAGS_MAX)};
    if (!list && !bare)
        return imap_bad(in, "flag list expected");
    if (list) {
        in->p++;
        if (imap_at(in, ')')) {
            in->p++;
            return true;
        }
    }
    for (;;) {
        if (!one_flag(in, r))
            return false;
        if (!imap_at(in, ' '))
            break;
        imap_space(in);
    }
    return !list || imap_char(in, ')');
}

/* --- sets */

static bool set_number(struct imap_in *in, uint32_t *r)
{
    if (imap_at(in, '*')) {
        in->p++;
        *r = 0;
        return true;
    }
    return imap_nz_number(in, r);
}

bool imap_set(struct imap_in *in, struct imap_set *r)
{
    uint32_t room = 8;

    r->v = ARENA_ARRAY(in->a, struct imap_range, room);
    r->n = 0;
    for (;;) {
        struct imap_range g;
        if (!set_number(in, &g.first))
            return imap_bad(in, "message set expected");
        g.last = g.first;
        if (imap_at(in, ':')) {
            in->p++;
            if (!set_number(in, &g.last))
                return imap_bad(in, "message set expected");
        }
        if (r->n == room) {
            struct imap_range *v = ARENA_ARRAY(in->a, struct imap_range, room * 2);
            memcpy(v, r->v, room * sizeof *v);
            r->v = v;
            room *= 2;
        }
        r->v[r->n++] = g;
        if (!imap_at(in, ','))
            return true;
        in->p++;
    }
}

static int by_first(const void *x, const void *y)
{
    const struct imap_range *a = x, *b = y;
    return a->first < b->first ? -1 : a->first > b->first;
}

/* First index whose UID is >= uid. */
static uint32_t lower_bound(const uint32_t *uids, uint32_t count, uint64_t uid)
{
    uint32_t lo = 0, hi = count;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (uids[mid] < uid)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool imap_set_resolve(const struct imap_set *set, bool by_uid, const uint32_t *uids, uint32_t count,
                      struct arena *a, uint32_t **index_r, uint32_t *n_r)
{
    struct imap_range *v = ARENA_ARRAY(a, struct imap_range, set->n + 1);
    uint32_t star = by_uid ? (count ? uids[count - 1] : 0) : count;
    uint64_t total = 0;
    uint32_t n = 0, merged = 0;

    *index_r = NULL;
    *n_r = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        uint32_t first = set->v[i].first ? set->v[i].first : star;
        uint32_t last = set->v[i].last ? set->v[i].last : star;
        if (first > last) {
            uint32_t t = first;
            first = last;
            last = t;
        }
        if (!by_uid && (last > count || first == 0))
            return false;
        uint32_t from = by_uid ? lower_bound(uids, count, first) : first - 1;
        uint32_t to = by_uid ? lower_bound(uids, count, (uint64_t)last + 1) : last;
        if (from < to)
            v[n++] = (struct imap_range){from, to};
    }
    qsort(v, n, sizeof *v, by_first);
    for (uint32_t i = 0; i < n; i++) { /* so that "1:*,1:*,..." costs no more than "1:*" */
        if (merged && v[i].first <= v[merged - 1].last) {
            if (v[i].last > v[merged - 1].last)
                v[merged - 1].last = v[i].last;
        } else {
            v[merged++] = v[i];
        }
    }
    for (uint32_t i = 0; i < merged; i++)
        total += v[i].last - v[i].first;
    uint32_t *out = arena_alloc(a, sizeof *out * (size_t)(total + 1)), k = 0;
    for (uint32_t i = 0; i < merged; i++)
        for (uint32_t m = v[i].first; m < v[i].last; m++)
            out[k++] = m;
    *index_r = out;
    *n_r = k;
    return true;
}

struct str imap_set_emit(struct arena *a, const uint32_t *v, uint32_t n)
{
    char *out = arena_alloc(a, (size_t)n * 11 + 1);
    size_t len = 0;

    for (uint32_t i = 0; i < n;) {
        uint32_t k = i;
        char digits[10];
        while (k + 1 < n && v[k + 1] == v[k] + 1)
            k++;
        if (i)
            out[len++] = ',';
        for (unsigned half = 0; half < (k > i ? 2u : 1u); half++) {
            uint32_t x = half ? v[k] : v[i];
            unsigned d = 0;
            do
                digits[d++] = (char)('0' + x % 10);
            while (x /= 10);
            if (half)
                out[len++] = ':';
            while (d)
                out[len++] = digits[--d];
        }
        i = k + 1;
    }
    return str_make(out, len);
}
