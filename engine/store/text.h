/* The one cleaning function for derived text: PostgreSQL's text takes neither NUL nor bad UTF-8,
 * and one message with such bytes would fail a whole batch for ever. */
#pragma once

#include "core/arena.h"
#include "core/str.h"

/* NUL becomes a space, bad bytes become U+FFFD.  Clean text is returned as it is, without a copy.
 */
struct str text_clean(struct arena *a, struct str s);
/* A JSON text that jsonb takes for sure: `s` itself when it is valid, clean, of sane depth and
 * numbers; else a JSON string with its cleaned bytes; null stays null, empty becomes null. */
struct str text_json(struct arena *a, struct str s);
