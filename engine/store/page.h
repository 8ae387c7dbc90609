/* Pages of a mailbox's index: the one place that knows their binary layout (architecture 4).
 *
 * A page holds up to PAGE_ENTRIES messages in UID order, in four big-endian columns: uids 2 bytes
 * (distance from the page's base, its key min_uid, which is at most the first UID), flags 4, mods
 * 8, refs 16 (head 8, size 4, seconds since 1970 4).  The view mailbox_entry unpacks the same in
 * SQL. */
#pragma once

#include "core/limits.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

enum { PAGE_SPAN = 65535 }; /* largest distance of a UID from the base */

struct page_entry {
    uint32_t uid, flags;
    uint64_t mod, head;
    uint32_t size, date;
};

struct page {
    uint32_t base, n;
    bool dirty;
    struct page_entry v[PAGE_ENTRIES];
};

struct page_bytes {
    char uids[PAGE_ENTRIES * 2];
    char flags[PAGE_ENTRIES * 4];
    char mods[PAGE_ENTRIES * 8];
    char refs[PAGE_ENTRIES * 16];
};

/* `v`: n entries, ascending, none more than PAGE_SPAN above base. */
void page_pack(uint32_t base, const struct page_entry *v, uint32_t n, struct page_bytes *out);
/* False when lengths do not fit n.  mods and refs may have p == NULL: then these fields are 0. */
bool page_unpack(struct page *p, uint32_t base, uint32_t n, struct str uids, struct str flags,
                 struct str mods, struct str refs);
/* Columns straight into arrays (for views); any array may be NULL. */
bool page_unpack_columns(uint32_t base, uint32_t n, struct str uids, struct str flags,
                         struct str mods, uint32_t *uids_r, uint32_t *flags_r, uint64_t *mods_r);
uint64_t page_max_mod(const struct page_entry *v, uint32_t n);
/* Internal dates: milliseconds to the page's seconds and back; dates before 1970 become 1970. */
uint32_t page_date(int64_t ms);
