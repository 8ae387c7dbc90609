/* Byte slices: a pointer and a length, not terminated, not owned.
 *
 * Everything that comes from a network or a file is a `struct str`; it may hold NUL bytes.  "Case"
 * always means ASCII case, as in the RFCs, and never depends on the locale. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *p;
    size_t n;
};

#define STR(lit) ((struct str){"" lit, sizeof(lit) - 1})
#define STR_NONE ((struct str){NULL, 0})
/* For printf("%.*s"). */
#define STR_ARG(s) (int)(s).n, (s).p ? (s).p : ""

static inline struct str str_of(const char *z)
{
    return (struct str){z, z ? strlen(z) : 0};
}

static inline struct str str_make(const void *p, size_t n)
{
    return (struct str){(const char *)p, n};
}

/* The part from `from` on; empty when `from` is past the end. */
static inline struct str str_from(struct str s, size_t from)
{
    if (from > s.n)
        from = s.n;
    return (struct str){s.p ? s.p + from : NULL, s.n - from};
}

/* The first `n` bytes, or all. */
static inline struct str str_head(struct str s, size_t n)
{
    return (struct str){s.p, n < s.n ? n : s.n};
}

static inline char ascii_lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static inline bool ascii_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool str_eq(struct str a, struct str b);
bool str_eqi(struct str a, struct str b);  /* without case */
bool str_eqz(struct str a, const char *z); /* with a C string */
bool str_eqiz(struct str a, const char *z);
bool str_starts(struct str s, struct str prefix);
bool str_startsi(struct str s, struct str prefix);
bool str_ends(struct str s, struct str suffix);
bool str_endsi(struct str s, struct str suffix);
int str_cmp(struct str a, struct str b); /* byte order */

/* Offset of the first `c`, of the last `c`, or of the first occurrence of `needle`; -1: none. */
ptrdiff_t str_chr(struct str s, char c);
ptrdiff_t str_rchr(struct str s, char c);
ptrdiff_t str_find(struct str s, struct str needle);
ptrdiff_t str_findi(struct str s, struct str needle);

/* Without leading and trailing spaces, tabs, CR and LF. */
struct str str_trim(struct str s);

/* Cuts `*rest` at the first `c`: returns what stands before it and leaves what follows.  Without a
 * `c`, returns everything and leaves an empty slice with p == NULL. */
struct str str_cut(struct str *rest, char c);

/* Decimal digits only, the whole slice, no sign.  False on anything else or overflow. */
bool str_u64(struct str s, uint64_t *v_r);
bool str_u32(struct str s, uint32_t *v_r);

/* Whole-value match of a pattern with `*` (any run) and `?` (one byte), without case.  Runs in
 * O(pattern x text) at worst, never exponential.  (spec 1, "Wildcards everywhere") */
bool str_glob(struct str pattern, struct str text);

/* Does the slice hold only valid UTF-8 (RFC 3629: no surrogates, no overlong forms)? */
bool str_utf8(struct str s);
/* Only bytes 1..127? */
bool str_ascii(struct str s);

/* A keyed 64-bit hash (SipHash-2-4, key drawn at start), so that peers cannot choose collisions. */
uint64_t str_hash(struct str s);
uint64_t str_hashi(struct str s); /* of the lower-cased bytes */
