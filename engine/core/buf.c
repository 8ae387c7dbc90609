#include "core/buf.h"

#include "core/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { KEEP = 4096, FIRST = 256 };

void buf_init(struct buf *b, size_t cap)
{
    *b = (struct buf){.cap = cap};
}

void buf_free(struct buf *b)
{
    free(b->base);
    *b = (struct buf){.cap = b->cap};
}

void buf_wipe(struct buf *b)
{
    if (b->base)
        wipe(b->base, b->size);
    buf_free(b);
}

char *buf_room(struct buf *b, size_t n)
{
    if (n > b->cap || b->len > b->cap - n)
        return NULL;
    if (b->start + b->len + n > b->size) {
        if (b->start > 0) {
            memmove(b->base, b->base + b->start, b->len);
            b->start = 0;
        }
        if (b->len + n > b->size) {
            size_t size = b->size ? b->size : FIRST;
            while (size < b->len + n)
                size *= 2;
            b->base = xrealloc(b->base, size);
            b->size = size;
        }
    }
    return b->base + b->start + b->len;
}

void buf_added(struct buf *b, size_t n)
{
    b->len += n;
}

bool buf_add(struct buf *b, struct str s)
{
    if (s.n == 0)
        return true;
    char *p = buf_room(b, s.n);
    if (p == NULL)
        return false;
    memcpy(p, s.p, s.n);
    b->len += s.n;
    return true;
}

bool buf_addz(struct buf *b, const char *z)
{
    return buf_add(b, str_of(z));
}

bool buf_addc(struct buf *b, char c)
{
    return buf_add(b, (struct str){&c, 1});
}

bool buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : buf_room(b, (size_t)n + 1);
    if (p != NULL) {
        vsnprintf(p, (size_t)n + 1, fmt, again);
        b->len += (size_t)n;
    }
    va_end(again);
    return p != NULL;
}

void buf_consume(struct buf *b, size_t n)
{
    if (n >= b->len) {
        buf_clear(b);
        return;
    }
    b->start += n;
    b->len -= n;
}

void buf_clear(struct buf *b)
{
    b->start = b->len = 0;
    if (b->size > KEEP) {
        free(b->base);
        b->base = NULL;
        b->size = 0;
    }
}
