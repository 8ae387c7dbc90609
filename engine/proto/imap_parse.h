/* Parsing of IMAP commands (RFC 3501 9, RFC 4466): a cursor over one command as it came, literals
 * in their places ("{n}" CRLF and n bytes).  Nothing is allocated but what outlives the cursor,
 * depth is limited, and the first error's text stays in `bad` for the BAD response. */
#pragma once

#include "core/arena.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

struct imap_in {
    const char *p, *end;
    struct arena *a;
    const char *bad; /* NULL while all is well */
    bool odd_name;   /* a mailbox name was no modified UTF-7: can be asked for, but not made */
};

struct imap_in imap_in(struct arena *a, struct str command);
/* Notes the first error; always false. */
bool imap_bad(struct imap_in *in, const char *why);
bool imap_at(const struct imap_in *in, char c); /* is this the next byte? */
bool imap_end(struct imap_in *in);              /* must be the end */
bool imap_at_end(const struct imap_in *in);
bool imap_space(struct imap_in *in); /* one blank (more are forgiven) */
bool imap_char(struct imap_in *in, char c);
/* Takes the word when it stands here, without case, and a delimiter or the end follows. */
bool imap_word(struct imap_in *in, const char *word);

bool imap_atom(struct imap_in *in, struct str *r);
bool imap_tag(struct imap_in *in, struct str *r);
bool imap_string(struct imap_in *in, struct str *r); /* quoted or literal */
bool imap_astring(struct imap_in *in, struct str *r);
bool imap_nstring(struct imap_in *in, struct str *r); /* NIL: p == NULL */
bool imap_number(struct imap_in *in, uint32_t *r);
bool imap_nz_number(struct imap_in *in, uint32_t *r);
bool imap_number64(struct imap_in *in, uint64_t *r);
/* A mailbox name in UTF-8: decoded, INBOX in capitals. */
bool imap_mailbox(struct imap_in *in, struct str *utf8_r);
/* The same for what was taken already; false when it is no modified UTF-7. */
bool imap_mailbox_name(struct arena *a, struct str wire, struct str *utf8_r);
/* Pattern of LIST: astring with wildcards. */
bool imap_list_mailbox(struct imap_in *in, struct str *utf8_r);
/* "1-Feb-1994", quoted or not: days since 1970. */
bool imap_date(struct imap_in *in, int32_t *days_r);

struct imap_flags {
    uint32_t system; /* FLAG_ bits */
    struct str *keywords;
    uint32_t keyword_count;
};
/* With or without parentheses when `bare` allows it. */
bool imap_flag_list(struct imap_in *in, bool bare, struct imap_flags *r);
/* One system flag's bit; 0: unknown. */
uint32_t imap_system_flag(struct str name);

/* --- message sets.  0 stands for '*'. */
struct imap_range {
    uint32_t first, last;
};
struct imap_set {
    struct imap_range *v;
    uint32_t n;
};
bool imap_set(struct imap_in *in, struct imap_set *r);
/* Marks what the set means among `count` messages: ascending indexes.  By UID: those that exist. By
 * number: false when one is beyond count. */
bool imap_set_resolve(const struct imap_set *set, bool by_uid, const uint32_t *uids, uint32_t count,
                      struct arena *a, uint32_t **index_r, uint32_t *n_r);
/* "1:3,7" of ascending numbers (COPYUID, SEARCH). */
struct str imap_set_emit(struct arena *a, const uint32_t *v, uint32_t n);

/* --- FETCH (RFC 3501 6.4.5) */
enum {
    FETCH_FLAGS = 1,
    FETCH_UID = 2,
    FETCH_DATE = 4,
    FETCH_SIZE = 8,
    FETCH_ENVELOPE = 16,
    FETCH_BODY = 32,
    FETCH_STRUCTURE = 64
};
enum imap_what {
    SECTION_ALL,
    SECTION_HEADER,
    SECTION_FIELDS,
    SECTION_FIELDS_NOT,
    SECTION_TEXT,
    SECTION_MIME
};
struct imap_section {
    struct imap_section *next;
    uint32_t *path;
    unsigned path_n;
    enum imap_what what;
    struct str *fields;
    unsigned field_count;
    bool partial, peek;
    uint64_t offset, length;
    struct str label; /* what stands before the data: BODY[1.MIME]<0> */
};
struct imap_fetch {
    unsigned items; /* FETCH_ bits */
    struct imap_section *sections;
};
bool imap_fetch_items(struct imap_in *in, struct imap_fetch *r);

/* --- SEARCH (RFC 3501 6.4.4) */
enum imap_key_type {
    KEY_ALL,
    KEY_AND,
    KEY_OR,
    KEY_NOT,
    KEY_SET,
    KEY_UIDS,
    KEY_FLAG,
    KEY_KEYWORD,
    KEY_RECENT,
    KEY_LARGER,
    KEY_SMALLER,
    KEY_BEFORE,
    KEY_ON,
    KEY_SINCE,
    KEY_SENTBEFORE,
    KEY_SENTON,
    KEY_SENTSINCE,
    KEY_HEADER,
    KEY_BODY,
    KEY_TEXT
};
struct imap_key {
    struct imap_key *next;  /* of the same AND */
    struct imap_key *child; /* AND, NOT, OR (its two) */
    enum imap_key_type type;
    struct imap_set set;
    uint32_t flag; /* FLAG, LARGER, SMALLER */
    int32_t day;
    struct str name;     /* HEADER: field; KEYWORD */
    struct str text;     /* UTF-8, case-folded */
    unsigned slot;       /* BODY and TEXT: number among them */
    unsigned char *bits; /* SET and UIDS once resolved against a view */
};
struct imap_search {
    struct imap_key *root; /* an AND */
    struct str charset;
    unsigned keys, text_keys;
    bool bad_charset; /* NO [BADCHARSET] */
};
bool imap_search_keys(struct imap_in *in, struct imap_search *r);
