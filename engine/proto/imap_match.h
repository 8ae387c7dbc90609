/* Does a message match a SEARCH key?  Three-valued: what cannot be said yet (head or body not read)
 * is unknown, so a search first drops what flags and dates rule out (RFC 3501 6.4.4). */
#pragma once

#include "mail/mime.h"
#include "proto/imap_parse.h"
#include "store/mailbox.h"

enum imap_answer { MATCH_NO, MATCH_YES, MATCH_UNKNOWN };

/* What is known of one message; a later field is set only when those before it are. */
struct imap_facts {
    uint32_t index; /* in the view */
    const struct view_ref *ref;
    struct str head;  /* p == NULL: not read */
    const bool *text; /* by slot of the BODY and TEXT keys; NULL: not read */
    struct arena *a;  /* scratch for decoding */
};
enum imap_answer imap_match(const struct imap_key *k, const struct view *v,
                            const struct imap_facts *f);

/* Resolves the sets of a tree against a view.  False: a message number is out of range. */
bool imap_match_prepare(struct imap_key *k, const struct view *v, struct arena *a);

/* Searching contents as they pass: made once a message. */
struct imap_scan;
/* Keys BODY and TEXT of the tree; found[] has search->text_keys entries. */
struct imap_scan *imap_scan_new(const struct imap_search *search, bool *found);
void imap_scan_free(struct imap_scan **s);
/* The message's header section: TEXT keys only. */
void imap_scan_head(struct imap_scan *s, struct str head);
/* All keys: the content of one part, still in its transfer encoding, in pieces. */
void imap_scan_part(struct imap_scan *s, const struct mime_part *part);
void imap_scan_bytes(struct imap_scan *s, struct str bytes, bool last);
/* A header section within the body (of an attached message). */
void imap_scan_inner_head(struct imap_scan *s, struct str head);
/* Everything that is asked for has been found. */
bool imap_scan_done(const struct imap_scan *s);
/* Is the content of this part text that is searched? */
bool imap_scan_wants(const struct mime_part *part);
