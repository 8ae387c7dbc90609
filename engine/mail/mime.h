/* MIME structure: a tree of parts with their places in the body (RFC 2045, 2046, 2183, 2231, 3282).
 *
 * The parser takes a body in pieces of any size, so a message of hundreds of megabytes is indexed
 * while it passes; it keeps part headers and nothing of the contents.  Time is linear for any
 * input. All offsets count from the start of the body (behind the header section of the message):
 * they stay true when trace lines are put on top.
 *
 * Parts past MIME_PARTS_MAX belong to the one before; a multipart or message/rfc822 deeper than
 * MIME_DEPTH_MAX is a leaf. */
#pragma once

#include "core/arena.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

struct mime_param {
    struct str
        name; /* as written; with '*' at its end when `value` is of RFC 2231's extended form */
    struct str value; /* unquoted, continuations joined */
};
struct mime_params {
    struct mime_param *v;
    uint32_t n;
};

enum mime_kind { MIME_LEAF, MIME_MULTIPART, MIME_MESSAGE };

struct mime_part {
    struct mime_part *parent, *first, *next;
    uint32_t children; /* MIME_MESSAGE: 1, the message inside */
    enum mime_kind kind;
    /* Header fields; empty when absent.  type and subtype are never empty. */
    struct str type, subtype;
    struct mime_params params;
    struct str id, description, encoding, language, location, md5;
    struct str disposition;
    struct mime_params disposition_params;
    /* Places in the body.  The root's header is the message's own: its header_* are 0. */
    uint64_t header_start, header_end; /* header_end is behind the empty line */
    uint64_t body_start, body_end;
    uint32_t lines; /* of the body */
    /* Of the message in a MIME_MESSAGE: its header section, or the fields that an envelope shows.
     */
    struct str envelope;
};

struct mime_parser;
/* `head`: the message's header section.  The tree and what it shows live in `a`. */
struct mime_parser *mime_begin(struct arena *a, struct str head);
void mime_feed(struct mime_parser *p, struct str bytes);
/* Frees the parser; returns the root.  (A parser that is given up is ended too.) */
struct mime_part *mime_end(struct mime_parser **p);
/* All at once. */
struct mime_part *mime_parse(struct arena *a, struct str head, struct str body);

/* Fills type, params, encoding ... of `part` from a header section.  `digest`: of a
 * multipart/digest, whose parts are messages by default. */
void mime_fields(struct arena *a, struct mime_part *part, struct str head, bool digest);

/* A parameter's raw value, p == NULL when absent; and decoded to UTF-8 by RFC 2231, or by RFC 2047
 * as many senders write it. */
struct str mime_param(const struct mime_params *p, const char *name);
struct str mime_param_text(struct arena *a, const struct mime_params *p, const char *name);
/* File name of a part: disposition's filename, else the type's name; UTF-8; p == NULL: none. */
struct str mime_filename(struct arena *a, const struct mime_part *part);
bool mime_type_is(const struct mime_part *part, const char *type, const char *subtype);

/* --- IMAP part numbers (RFC 3501 6.4.5) */
/* The part a path such as 1.2.3 names; NULL when there is none.  An empty path names the root.  For
 * a message/rfc822 part the part itself is returned: its message is ->first. */
struct mime_part *mime_by_path(struct mime_part *root, const uint32_t *path, unsigned n);
/* "1.2.3"; the root of a message that is not multipart is "1". */
struct str mime_path(struct arena *a, const struct mime_part *part);
/* The following part in the order of the text; NULL at the end. */
struct mime_part *mime_next(const struct mime_part *root, const struct mime_part *part);

/* Number of lines in bytes, an unfinished last one counted. */
uint64_t count_lf(struct str s);
