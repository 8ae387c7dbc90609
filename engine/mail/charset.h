/* Character sets to UTF-8, and case folding for searches.
 *
 * Conversion never fails: what cannot be read becomes U+FFFD, an unknown name is read as UTF-8 when
 * the bytes are valid UTF-8 and as Windows-1252 otherwise, because that is what unlabelled mail
 * mostly is. */
#pragma once

#include "core/arena.h"
#include "core/buf.h"
#include "core/str.h"

#include <stdbool.h>

/* Can this name be converted?  (SEARCH CHARSET) */
bool charset_known(struct str name);

/* The result is valid UTF-8; when the input already is, nothing is copied. */
struct str charset_to_utf8(struct arena *a, struct str name, struct str bytes);

/* The same in pieces: characters that lie across two pieces are kept together. */
struct charset;
struct charset *charset_open(struct str name);
/* Appends to `out`; false when its cap would be passed.  `last` flushes what was left over. */
bool charset_feed(struct charset *c, struct str bytes, bool last, struct buf *out);
void charset_close(struct charset **c);

/* Valid UTF-8 from any bytes: each bad byte becomes U+FFFD. */
struct str utf8_clean(struct arena *a, struct str s);
/* Lower case of every letter that has one, in all scripts; other bytes as they are. */
struct str utf8_fold(struct arena *a, struct str s);
/* In place of a buffer's content; the length may change. */
size_t utf8_fold_into(struct str s, char *out); /* out: 2 * s.n bytes suffice */

/* Decodes one character: returns its length, 0 when the bytes at p are not a valid character. */
unsigned utf8_get(const char *p, size_t n, uint32_t *c_r);
/* Writes one character, returns its length (1-4). */
unsigned utf8_put(uint32_t c, char out[4]);
