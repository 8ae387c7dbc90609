/* SEARCH keys: a tree, with texts already converted to folded UTF-8 (RFC 3501 6.4.4, 9). */
#include "core/limits.h"
#include "mail/charset.h"
#include "mail/encode.h"
#include "proto/imap_parse.h"
#include "store/mailbox.h"

#include <string.h>

/* Depth of parentheses, NOT and OR; keys in all; keys that look at contents. */
enum { DEPTH_MAX = 50, KEYS_MAX = 2000, TEXT_KEYS_MAX = 64 };

static struct imap_key *key_new(struct imap_in *in, struct imap_search *r, enum imap_key_type type)
{
    struct imap_key *k = ARENA_NEW(in->a, struct imap_key);
    k->type = type;
    if (++r->keys > KEYS_MAX)
        imap_bad(in, "too many search keys");
    return k;
}

static struct imap_key *negate(struct imap_in *in, struct imap_search *r, struct imap_key *k)
{
    struct imap_key *n = key_new(in, r, KEY_NOT);
    n->child = k;
    return n;
}

/* Text as it is compared: folded UTF-8.  Bytes that do not fit the charset match nothing real. */
static bool text(struct imap_in *in, struct imap_search *r, struct str *t)
{
    struct str raw;

    if (!imap_space(in) || !imap_astring(in, &raw))
        return false;
    struct str u = r->charset.n ? charset_to_utf8(in->a, r->charset, raw) : raw;
    *t = utf8_fold(in->a, utf8_clean(in->a, u));
    return true;
}

static struct imap_key *flag_key(struct imap_in *in, struct imap_search *r)
{
    static const struct {
        const char *name;
        uint32_t flag;
        bool no;
    } keys[] = {{"ANSWERED", FLAG_ANSWERED, false}, {"DELETED", FLAG_DELETED, false},
                {"DRAFT", FLAG_DRAFT, false},       {"FLAGGED", FLAG_FLAGGED, false},
                {"SEEN", FLAG_SEEN, false},         {"UNANSWERED", FLAG_ANSWERED, true},
                {"UNDELETED", FLAG_DELETED, true},  {"UNDRAFT", FLAG_DRAFT, true},
                {"UNFLAGGED", FLAG_FLAGGED, true},  {"UNSEEN", FLAG_SEEN, true}};

    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (!imap_word(in, keys[i].name))
            continue;
        struct imap_key *k = key_new(in, r, KEY_FLAG);
        k->flag = keys[i].flag;
        return keys[i].no ? negate(in, r, k) : k;
    }
    return NULL;
}

static struct imap_key *header_key(struct imap_in *in, struct imap_search *r, const char *field)
{
    struct imap_key *k = key_new(in, r, KEY_HEADER);

    if (field)
        k->name = str_of(field);
    else if (!imap_space(in) || !imap_astring(in, &k->name))
        return NULL;
    return text(in, r, &k->text) ? k : NULL;
}

static struct imap_key *content_key(struct imap_in *in, struct imap_search *r,
                                    enum imap_key_type type)
{
    struct imap_key *k = key_new(in, r, type);

    if (r->text_keys == TEXT_KEYS_MAX) {
        imap_bad(in, "too many text keys");
        return NULL;
    }
    k->slot = r->text_keys++;
    return text(in, r, &k->text) ? k : NULL;
}

static struct imap_key *other_key(struct imap_in *in, struct imap_search *r, bool *known_r)
{
    static const struct {
        const char *name;
        enum imap_key_type type;
    } dates[] = {{"BEFORE", KEY_BEFORE}, {"ON", KEY_ON},
                 {"SINCE", KEY_SINCE},   {"SENTBEFORE", KEY_SENTBEFORE},
                 {"SENTON", KEY_SENTON}, {"SENTSINCE", KEY_SENTSINCE}};
    static const char *const fields[] = {"BCC", "CC", "FROM", "SUBJECT", "TO"};

    *known_r = true;
    for (size_t i = 0; i < sizeof dates / sizeof *dates; i++)
        if (imap_word(in, dates[i].name)) {
            struct imap_key *k = key_new(in, r, dates[i].type);
            return imap_space(in) && imap_date(in, &k->day) ? k : NULL;
        }
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (imap_word(in, fields[i]))
            return header_key(in, r, fields[i]);
    if (imap_word(in, "HEADER"))
        return header_key(in, r, NULL);
    if (imap_word(in, "BODY"))
        return content_key(in, r, KEY_BODY);
    if (imap_word(in, "TEXT"))
        return content_key(in, r, KEY_TEXT);
    bool larger = imap_word(in, "LARGER");
    if (larger || imap_word(in, "SMALLER")) {
        struct imap_key *k = key_new(in, r, larger ? KEY_LARGER : KEY_SMALLER);
        return imap_space(in) && imap_number(in, &k->flag) ? k : NULL;
    }
    bool un = imap_word(in, "UNKEYWORD");
    if (un || imap_word(in, "KEYWORD")) {
        struct imap_key *k = key_new(in, r, KEY_KEYWORD);
        if (!imap_space(in) || !imap_atom(in, &k->name))
            return NULL;
        return un ? negate(in, r, k) : k;
    }
    if (imap_word(in, "UID")) {
        struct imap_key *k = key_new(in, r, KEY_UIDS);
        return imap_space(in) && imap_set(in, &k->set) ? k : NULL;
    }
    if (imap_word(in, "ALL"))
        return key_new(in, r, KEY_ALL);
    if (imap_word(in, "RECENT"))
        return key_new(in, r, KEY_RECENT);
    if (imap_word(in, "OLD"))
        return negate(in, r, key_new(in, r, KEY_RECENT));
    if (imap_word(in, "NEW")) { /* RECENT UNSEEN */
        struct imap_key *k = key_new(in, r, KEY_AND);
        struct imap_key *seen = key_new(in, r, KEY_FLAG);
        seen->flag = FLAG_SEEN;
        k->child = key_new(in, r, KEY_RECENT);
        k->child->next = negate(in, r, seen);
        return k;
    }
    *known_r = false;
    return NULL;
}

static bool key_list(struct imap_in *in, struct imap_search *r, struct imap_key *and,
                     unsigned depth, bool inner);

/* Recursion is bounded by DEPTH_MAX. */
static struct imap_key *one_key(struct imap_in *in, struct imap_search *r, unsigned depth)
{
    bool known;

    if (depth > DEPTH_MAX) {
        imap_bad(in, "search keys are nested too deep");
        return NULL;
    }
    if (imap_at(in, '(')) {
        struct imap_key *k = key_new(in, r, KEY_AND);
        in->p++;
        return key_list(in, r, k, depth, true) && imap_char(in, ')') ? k : NULL;
    }
    if (imap_word(in, "NOT")) {
        struct imap_key *k;
        if (!imap_space(in) || (k = one_key(in, r, depth + 1)) == NULL)
            return NULL;
        return negate(in, r, k);
    }
    if (imap_word(in, "OR")) {
        struct imap_key *k = key_new(in, r, KEY_OR);
        if (!imap_space(in) || (k->child = one_key(in, r, depth + 1)) == NULL || !imap_space(in) ||
            (k->child->next = one_key(in, r, depth + 1)) == NULL)
            return NULL;
        return k;
    }
    struct imap_key *k = flag_key(in, r);
    if (k)
        return k;
    k = other_key(in, r, &known);
    if (known)
        return k;
    if (in->p < in->end && (ascii_digit(*in->p) || *in->p == '*')) {
        k = key_new(in, r, KEY_SET);
        return imap_set(in, &k->set) ? k : NULL;
    }
    imap_bad(in, "unknown search key");
    return NULL;
}

static bool key_list(struct imap_in *in, struct imap_search *r, struct imap_key *and,
                     unsigned depth, bool inner)
{
    struct imap_key **tail = &and->child;

    for (;;) {
        struct imap_key *k = one_key(in, r, depth + 1);
        if (k == NULL || in->bad)
            return false;
        *tail = k;
        tail = &k->next;
        while (imap_at(in, ' '))
            in->p++;
        if (imap_at_end(in) || (inner && imap_at(in, ')')))
            return true;
        if (in->p[-1] != ' ')
            return imap_bad(in, "blank expected between search keys");
    }
}

bool imap_search_keys(struct imap_in *in, struct imap_search *r)
{
    *r = (struct imap_search){0};
    if (imap_word(in, "CHARSET")) {
        if (!imap_space(in) || !imap_astring(in, &r->charset) || !imap_space(in))
            return false;
        r->bad_charset = !charset_known(r->charset);
    }
    r->root = key_new(in, r, KEY_AND);
    return key_list(in, r, r->root, 0, false);
}
