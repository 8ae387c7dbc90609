/* Addresses: the paths of SMTP (RFC 5321 4.1.2, 4.1.3, 4.5.3.1; RFC 6531) and the address lists of
 * header fields (RFC 5322 3.4 with the obsolete forms of 4.4).
 *
 * Paths are parsed strictly: what is refused here never reaches routing.  Lists are parsed
 * leniently and in linear time: whatever stands in a header gives some list. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

struct address {
    struct str local;  /* without its quotes and escapes */
    struct str domain; /* as written, "[192.0.2.1]" for a literal; empty when absent */
};

enum {
    PATH_NULL = 1,      /* <> is allowed (MAIL FROM) */
    PATH_NO_DOMAIN = 2, /* <postmaster>, or local names of submitting users */
    PATH_UTF8 = 4,      /* SMTPUTF8 was asked for */
    PATH_BARE = 8       /* the angle brackets may be missing */
};

/* The path at the start of `s`, blanks before it allowed; a source route is checked and dropped.
 * `rest_r` is what follows.  SYNTAX with a text that may be shown to the client; LIMIT for lengths.
 */
int address_path(struct arena *a, struct str s, unsigned flags, struct address *r,
                 struct str *rest_r, struct err *e);
/* A whole "local@domain" and nothing else (settings, mappings, headers). */
int address_parse(struct arena *a, struct str s, unsigned flags, struct address *r, struct err *e);

/* local@domain as it is written in protocols: quoted where it must be. */
struct str address_emit(struct arena *a, const struct address *r);
/* The form that is compared and stored: domain in lower case and as A-labels, local part as it is.
 * A domain that IDNA refuses stays, lower-cased. */
struct str address_canonical(struct arena *a, const struct address *r);
struct str domain_canonical(struct arena *a, struct str domain);
/* Letters, digits, hyphens and dots as RFC 5321 wants them, or (with utf8) U-labels. */
bool domain_valid(struct str domain, bool utf8);

/* --- lists */
enum list_kind { LIST_MAILBOX, LIST_GROUP, LIST_GROUP_END };
struct list_entry {
    struct list_entry *next;
    enum list_kind kind;
    struct str
        name; /* display name or group name, unquoted, encoded words left raw; p NULL: none */
    struct str route;  /* "@a,@b" of an obsolete route, else p == NULL */
    struct str local;  /* unquoted */
    struct str domain; /* may be empty: the input had none */
};
/* A raw field value, folds and all.  At most RECIPIENTS_MAX entries. */
struct list_entry *address_list(struct arena *a, struct str value);
/* The first mailbox of a list (From, Sender ...) as "local@domain", p == NULL without one. */
struct str address_first(struct arena *a, struct str value);
