/* Growable byte buffers with a cap.
 *
 * Bytes from a network live only here, and every buffer has a cap from limits.h: an append beyond
 * it fails and leaves the buffer as it was.  Consuming from the front is cheap. */
#pragma once

#include "core/str.h"

#include <stdbool.h>
#include <stddef.h>

struct buf {
    char *base;   /* allocation, NULL while empty */
    size_t start; /* first unread byte */
    size_t len;   /* unread bytes */
    size_t size;  /* allocation */
    size_t cap;   /* most unread bytes ever */
};

void buf_init(struct buf *b, size_t cap);
/* Frees the memory; the buffer can be used again. */
void buf_free(struct buf *b);
/* Overwrites what was in it, then frees. */
void buf_wipe(struct buf *b);

static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->base ? b->base + b->start : "", b->len};
}

/* False when the cap would be passed. */
bool buf_add(struct buf *b, struct str s);
bool buf_addz(struct buf *b, const char *z);
bool buf_addc(struct buf *b, char c);
bool buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Room for `n` more bytes to be written at the returned place; NULL beyond the cap.  Commit what
 * was written with buf_added(). */
char *buf_room(struct buf *b, size_t n);
void buf_added(struct buf *b, size_t n);

/* Drops `n` bytes from the front; an emptied buffer gives back memory above 4 KB. */
void buf_consume(struct buf *b, size_t n);
void buf_clear(struct buf *b);
