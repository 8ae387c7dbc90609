/* The packed part tree that is stored with a message, so that BODYSTRUCTURE and the byte range of a
 * part can be answered without reading the body.
 *
 * Format (version 1; integers are LEB128, strings are a length and bytes): a version byte, then the
 * parts depth first.  A part is: kind, number of children, header_start as distance from its
 * parent's body_start, header length, body length, lines; for all but the root type, subtype,
 * parameters and the other Content- fields, and for the message in a message/rfc822 the header
 * fields that an envelope shows.  The root's own fields are read from the head when unpacking: they
 * may be changed by rules while the body stays. */
#pragma once

#include "mail/mime.h"

/* A larger structure is not stored: such a message is parsed again when somebody asks. */
enum { STRUCTURE_MAX = 256 * 1024 };

/* p == NULL when it would be larger than STRUCTURE_MAX. */
struct str structure_pack(struct arena *a, const struct mime_part *root);
/* NULL when `packed` is empty or damaged, or made by a newer version. */
struct mime_part *structure_unpack(struct arena *a, struct str packed, struct str head);
/* Of a header section: the fields an envelope shows (RFC 3501 7.4.2), whole, in their order. */
struct str structure_envelope_fields(struct arena *a, struct str head);
