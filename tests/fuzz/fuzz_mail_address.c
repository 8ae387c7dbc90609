/* Paths and address lists: what is accepted is accepted again when it is written out. */
#include "mail/address.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena *a = arena_new(8192);
    struct str s = str_make(data, size);
    struct address r, again;
    struct str rest;
    struct err e = ERR_INIT;

    for (unsigned flags = 0; flags < 16; flags += 5)
        address_path(a, s, flags, &r, &rest, &e);
    if (address_parse(a, s, PATH_UTF8 | PATH_NO_DOMAIN, &r, &e) == 0 && r.local.n) {
        struct str text = address_emit(a, &r);
        if (address_parse(a, text, PATH_UTF8 | PATH_NO_DOMAIN, &again, &e) < 0 ||
            !str_eq(r.local, again.local) || !str_eq(r.domain, again.domain))
            abort();
        address_canonical(a, &r);
    }
    unsigned groups = 0;
    for (struct list_entry *m = address_list(a, s); m; m = m->next) {
        groups += m->kind == LIST_GROUP;
        groups -= m->kind == LIST_GROUP_END;
        if (groups > 1)
            abort();
    }
    if (groups)
        abort();
    address_first(a, s);
    arena_free(&a);
    return 0;
}
