/* Arenas: memory that is freed all at once, with the session, message or command it belongs to.
 *
 * Allocation never returns NULL: callers check sizes against limits.h before, and true exhaustion
 * aborts the worker (its supervisor starts another). */
#pragma once

#include "core/str.h"

#include <stddef.h>

struct arena;

/* `hint`: expected total in bytes, the size of the first chunk. */
struct arena *arena_new(size_t hint);
/* Frees everything and sets the pointer to NULL.  NULL inside is fine. */
void arena_free(struct arena **a);
/* Forgets all contents, keeps at most the first chunk. */
void arena_reset(struct arena *a);
/* Bytes handed out since the last reset. */
size_t arena_used(const struct arena *a);

/* Aligned to 16 bytes.  arena_zalloc zeroes. */
void *arena_alloc(struct arena *a, size_t n) __attribute__((malloc, alloc_size(2)));
void *arena_zalloc(struct arena *a, size_t n) __attribute__((malloc, alloc_size(2)));
#define ARENA_NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))
#define ARENA_ARRAY(a, type, n) ((type *)arena_zalloc((a), sizeof(type) * (n)))

/* Copies; the copy is NUL-terminated beyond its length, so .p is also a C string when it holds no
 * NUL byte. */
struct str arena_dup(struct arena *a, struct str s);
char *arena_dupz(struct arena *a, struct str s);
struct str arena_lower(struct arena *a, struct str s);
struct str arena_printf(struct arena *a, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* malloc family that aborts on exhaustion, for what outlives every arena. */
void *xmalloc(size_t n) __attribute__((malloc, alloc_size(1)));
void *xcalloc(size_t n, size_t size) __attribute__((malloc, alloc_size(1, 2)));
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *z);

/* Overwrites secrets in a way the compiler keeps. */
void wipe(void *p, size_t n);
