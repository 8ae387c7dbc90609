#include "core/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, CHUNK_MIN = 1024, CHUNK_MAX = 64 * 1024 };

struct chunk {
    struct chunk *next;
    size_t size, used;
    _Alignas(ALIGN) char bytes[];
};

struct arena {
    struct chunk *first, *last;
    size_t used;
};

static _Noreturn void exhausted(size_t n)
{
    fprintf(stderr, "moonpost: out of memory (%zu bytes)\n", n);
    abort();
}

void *xmalloc(size_t n)
{
    void *p = malloc(n ? n : 1);
    if (p == NULL)
        exhausted(n);
    return p;
}

void *xcalloc(size_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (p == NULL)
        exhausted(n);
    return p;
}

void *xrealloc(void *p, size_t n)
{
    p = realloc(p, n ? n : 1);
    if (p == NULL)
        exhausted(n);
    return p;
}

char *xstrdup(const char *z)
{
    size_t n = strlen(z) + 1;
    return memcpy(xmalloc(n), z, n);
}

void wipe(void *p, size_t n)
{
    explicit_bzero(p, n);
}

static struct chunk *chunk_new(size_t size)
{
    struct chunk *c = xmalloc(sizeof *c + size);
    c->next = NULL;
    c->size = size;
    c->used = 0;
    return c;
}

struct arena *arena_new(size_t hint)
{
    struct arena *a = xmalloc(sizeof *a);
    if (hint < CHUNK_MIN)
        hint = CHUNK_MIN;
    a->first = a->last = chunk_new(hint);
    a->used = 0;
    return a;
}

static void free_chain(struct chunk *c)
{
    while (c != NULL) {
        struct chunk *next = c->next;
        free(c);
        c = next;
    }
}

void arena_free(struct arena **ap)
{
    struct arena *a = *ap;

    *ap = NULL;
    if (a == NULL)
        return;
    free_chain(a->first);
    free(a);
}

void arena_reset(struct arena *a)
{
    free_chain(a->first->next);
    a->first->next = NULL;
    a->first->used = 0;
    a->last = a->first;
    a->used = 0;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}

void *arena_alloc(struct arena *a, size_t n)
{
    size_t need = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);

    if (need < n)
        exhausted(n);
    if (a->last->size - a->last->used < need) {
        size_t size = a->last->size * 2;
        if (size > CHUNK_MAX)
            size = CHUNK_MAX;
        a->last->next = chunk_new(need > size ? need : size);
        a->last = a->last->next;
    }
    void *p = a->last->bytes + a->last->used;
    a->last->used += need;
    a->used += need;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n)
{
    return memset(arena_alloc(a, n), 0, n);
}

struct str arena_dup(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return (struct str){p, s.n};
}

char *arena_dupz(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (s.n)
        memcpy(p, s.p, s.n);
    p[s.n] = '\0';
    return p;
}

struct str arena_lower(struct arena *a, struct str s)
{
    char *p = arena_alloc(a, s.n + 1);
    for (size_t i = 0; i < s.n; i++)
        p[i] = ascii_lower(s.p[i]);
    p[s.n] = '\0';
    return (struct str){p, s.n};
}

struct str arena_printf(struct arena *a, const char *fmt, ...)
{
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        n = 0;
    char *p = arena_alloc(a, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return (struct str){p, (size_t)n};
}
