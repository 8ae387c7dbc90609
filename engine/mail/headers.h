/* Header sections: iterating fields without copying, finding them, unfolding their values, and
 * finding where a header section ends (RFC 5322 2.1, 2.2, 3.6.8).
 *
 * Input is what the network brought: NUL bytes, bare LF, lines without a colon and lines of any
 * length are tolerated.  A line without a colon is given as a field with an empty name, so that no
 * byte of a section is lost to a caller that walks it. */
#pragma once

#include "core/arena.h"
#include "core/str.h"

#include <stdbool.h>
#include <stddef.h>

struct header_field {
    struct str name;   /* without trailing blanks; empty for a line that is no field */
    struct str value;  /* raw: after the colon, folds inside, without the last line end */
    size_t start, end; /* the whole field in the section, with its line ends */
};

/* The field at *at, which moves behind it; start with 0.  False at the empty line and at the end
 * of the section. */
bool header_next(struct str section, size_t *at, struct header_field *f_r);

/* The first field of that name; a later one with *at as left by the call before. */
bool header_find(struct str section, const char *name, struct header_field *f_r);
bool header_find_next(struct str section, struct str name, size_t *at, struct header_field *f_r);

/* Line ends removed (the blanks after them stay, RFC 5322 2.2.3), trimmed, NUL bytes dropped.
 * Without folds inside nothing is copied. */
struct str header_unfold(struct arena *a, struct str raw);
/* find + unfold; p == NULL when absent. */
struct str header_value(struct arena *a, struct str section, const char *name);

/* Length of the header section with the empty line that ends it.  Without such a line the whole of
 * `raw` is header. */
size_t header_end(struct str raw);

/* The same for bytes that come in pieces: answers how many bytes of this piece still belong to the
 * header; `done` once the empty line has been seen.  Zero-initialised. */
struct header_scan {
    unsigned state;
    bool done;
};
size_t header_scan(struct header_scan *s, struct str piece);
