#include "store/page.h"

#include <assert.h>

static void put16(char *p, uint32_t v)
{
    p[0] = (char)(v >> 8);
    p[1] = (char)v;
}

static void put32(char *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}

static void put64(char *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

static uint32_t get16(const char *c)
{
    const unsigned char *p = (const unsigned char *)c;
    return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t get32(const char *c)
{
    uint32_t v;
    memcpy(&v, c, 4);
    return __builtin_bswap32(v);
}

static uint64_t get64(const char *c)
{
    uint64_t v;
    memcpy(&v, c, 8);
    return __builtin_bswap64(v);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "get32 and get64 swap bytes");

void page_pack(uint32_t base, const struct page_entry *v, uint32_t n, struct page_bytes *out)
{
    assert(n <= PAGE_ENTRIES);
    for (uint32_t i = 0; i < n; i++) {
        assert(v[i].uid >= base && v[i].uid - base <= PAGE_SPAN);
        put16(out->uids + i * 2, v[i].uid - base);
        put32(out->flags + i * 4, v[i].flags);
        put64(out->mods + i * 8, v[i].mod);
        put64(out->refs + i * 16, v[i].head);
        put32(out->refs + i * 16 + 8, v[i].size);
        put32(out->refs + i * 16 + 12, v[i].date);
    }
}

static bool fits(struct str s, uint32_t n, size_t width, bool optional)
{
    return (optional && s.p == NULL) || (s.p != NULL && s.n == n * width) || n == 0;
}

bool page_unpack(struct page *p, uint32_t base, uint32_t n, struct str uids, struct str flags,
                 struct str mods, struct str refs)
{
    if (n > PAGE_ENTRIES || !fits(uids, n, 2, false) || !fits(flags, n, 4, false) ||
        !fits(mods, n, 8, true) || !fits(refs, n, 16, true))
        return false;
    p->base = base;
    p->n = n;
    p->dirty = false;
    for (uint32_t i = 0; i < n; i++)
        p->v[i] = (struct page_entry){
            .uid = base + get16(uids.p + i * 2),
            .flags = get32(flags.p + i * 4),
            .mod = mods.p ? get64(mods.p + i * 8) : 0,
            .head = refs.p ? get64(refs.p + i * 16) : 0,
            .size = refs.p ? get32(refs.p + i * 16 + 8) : 0,
            .date = refs.p ? get32(refs.p + i * 16 + 12) : 0,
        };
    return true;
}

bool page_unpack_columns(uint32_t base, uint32_t n, struct str uids, struct str flags,
                         struct str mods, uint32_t *uids_r, uint32_t *flags_r, uint64_t *mods_r)
{
    if (n > PAGE_ENTRIES || !fits(uids, n, 2, uids_r == NULL) ||
        !fits(flags, n, 4, flags_r == NULL) || !fits(mods, n, 8, mods_r == NULL))
        return false;
    for (uint32_t i = 0; uids_r != NULL && i < n; i++)
        uids_r[i] = base + get16(uids.p + i * 2);
    for (uint32_t i = 0; flags_r != NULL && i < n; i++)
        flags_r[i] = get32(flags.p + i * 4);
    for (uint32_t i = 0; mods_r != NULL && i < n; i++)
        mods_r[i] = get64(mods.p + i * 8);
    return true;
}

uint64_t page_max_mod(const struct page_entry *v, uint32_t n)
{
    uint64_t max = 0;

    for (uint32_t i = 0; i < n; i++)
        if (v[i].mod > max)
            max = v[i].mod;
    return max;
}

uint32_t page_date(int64_t ms)
{
    int64_t s = ms / 1000;
    return s < 0 ? 0 : s > UINT32_MAX ? UINT32_MAX : (uint32_t)s;
}
