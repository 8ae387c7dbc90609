/* Everything the IMAP parser reads: the first byte chooses what the rest is. */
#include "proto/imap_int.h"

#include <stdlib.h>
#include <string.h>

static void sets(struct arena *a, struct imap_in *in)
{
    struct imap_set set;
    uint32_t uids[200], *v, n;

    for (uint32_t i = 0; i < 200; i++)
        uids[i] = i * 3 + 1;
    if (!imap_set(in, &set))
        return;
    for (unsigned uid = 0; uid < 2; uid++) {
        if (!imap_set_resolve(&set, uid, uids, 200, a, &v, &n))
            continue;
        for (uint32_t i = 0; i < n; i++)
            if (v[i] >= 200 || (i && v[i] <= v[i - 1]))
                abort();
        imap_set_emit(a, v, n);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    struct arena *a = arena_new(8192);
    struct str s = str_make(data + 1, size - 1), r;
    struct imap_in in = imap_in(a, s);
    struct imap_fetch fetch;
    struct imap_search search;
    struct imap_flags flags;
    unsigned items;

    switch (data[0] % 8) {
    case 0:
        if (imap_fetch_items(&in, &fetch))
            for (struct imap_section *x = fetch.sections; x; x = x->next)
                if (x->label.n == 0 || memchr(x->label.p, '\n', x->label.n))
                    abort(); /* it stands in the response */
        break;
    case 1:
        if (imap_search_keys(&in, &search) && (search.root == NULL || search.text_keys > 64))
            abort();
        break;
    case 2:
        sets(a, &in);
        break;
    case 3:
        imap_flag_list(&in, true, &flags);
        break;
    case 4:
        imap_append_ready(s);
        break;
    case 5:
        if (imap_mailbox(&in, &r) && !str_utf8(r))
            abort();
        break;
    case 6:
        imap_status_items(&in, &items);
        break;
    default: {
        struct str pattern = str_head(s, s.n / 2);
        imap_list_match(pattern, str_from(s, s.n / 2));
        if (imap_astring(&in, &r) && r.n > s.n)
            abort();
    }
    }
    if (in.p < s.p || in.p > s.p + s.n)
        abort();
    arena_free(&a);
    return 0;
}
