/* What FETCH says about one message: envelope, body structure, sections (RFC 3501 6.4.5, 7.4.2).
 * Pure functions of a head and a part tree. */
#pragma once

#include "core/buf.h"
#include "mail/mime.h"
#include "proto/imap_parse.h"

/* ENVELOPE from a header section (or only the fields it needs). */
void imap_put_envelope(struct buf *b, struct arena *a, struct str head);
/* BODYSTRUCTURE, or BODY when not extended.  `head`: of the whole message. */
void imap_put_structure(struct buf *b, struct arena *a, const struct mime_part *root,
                        bool extended);

/* Where the bytes of a section stand in the stored message, whose head is head_size bytes long. */
struct imap_place {
    bool found; /* false: NIL */
    uint64_t start, length;
    bool filter; /* a header section of which only some fields are wanted */
};
/* Does the section need the part tree? */
bool imap_section_needs_tree(const struct imap_section *s);
/* `root` may be NULL when it does not. */
struct imap_place imap_section_place(const struct imap_section *s, const struct mime_part *root,
                                     uint64_t head_size, uint64_t size);
/* The fields of a header section that s->fields names (or does not), with an empty line. */
struct str imap_filter_fields(struct arena *a, const struct imap_section *s, struct str head);
/* How much to read at `start` so that the next read begins with one of the stored parts of a body.
 */
uint64_t imap_piece(uint64_t head_size, uint64_t start);
/* Cuts a place by the partial range. */
void imap_place_cut(const struct imap_section *s, uint64_t *start, uint64_t *length);
