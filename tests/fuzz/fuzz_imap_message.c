/* ENVELOPE, BODYSTRUCTURE and sections of any message must be well formed: parentheses balance,
 * strings close, literals have their length. */
#include "core/limits.h"
#include "mail/headers.h"
#include "proto/imap_int.h"
#include "proto/imap_match.h"
#include "proto/imap_message.h"

#include <stdlib.h>

static void well_formed(struct arena *a, struct str s)
{
    struct imap_in in = imap_in(a, s);
    unsigned depth = 0;

    while (in.p < in.end) {
        struct str x;
        char c = *in.p;
        if (c == '(') {
            depth++;
            in.p++;
        } else if (c == ')') {
            if (depth-- == 0)
                abort();
            in.p++;
        } else if (c == ' ') {
            in.p++;
        } else if (c == '"' || c == '{') {
            if (!imap_string(&in, &x))
                abort();
        } else if (!imap_atom(&in, &x)) {
            abort();
        }
    }
    if (depth != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const specs[] = {"BODY[1]",
                                        "BODY[2.MIME]",
                                        "BODY[1.1.TEXT]",
                                        "BODY[2.HEADER]",
                                        "BODY[TEXT]<3.9>",
                                        "BODY[HEADER.FIELDS (From)]",
                                        "BODY[1.2.HEADER.FIELDS.NOT (To)]"};
    struct arena *a = arena_new(8192);
    struct str m = str_make(data, size);
    size_t h = header_end(m);
    struct str head = str_head(m, h), body = str_from(m, h);
    struct mime_part *root = mime_parse(a, head, body);
    struct buf b;

    buf_init(&b, 64 * 1024 * 1024);
    imap_put_envelope(&b, a, head);
    well_formed(a, buf_str(&b));
    buf_clear(&b);
    imap_put_structure(&b, a, root, true);
    well_formed(a, buf_str(&b));
    buf_clear(&b);
    imap_put_structure(&b, a, root, false);
    well_formed(a, buf_str(&b));
    buf_free(&b);
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct imap_fetch f;
        struct imap_in in = imap_in(a, str_of(specs[i]));
        if (!imap_fetch_items(&in, &f))
            abort();
        struct imap_place p = imap_section_place(f.sections, root, h, m.n);
        if (!p.found)
            continue;
        if (p.start + p.length > m.n)
            abort();
        if (p.filter)
            imap_filter_fields(a, f.sections, str_make(m.p + p.start, (size_t)p.length));
        imap_place_cut(f.sections, &p.start, &p.length);
        if (p.start + p.length > m.n)
            abort();
    }
    struct imap_search q;
    struct imap_in in = imap_in(a, STR("OR TEXT ab BODY cd"));
    bool hits[4];
    if (!imap_search_keys(&in, &q))
        abort();
    struct imap_scan *scan = imap_scan_new(&q, hits);
    imap_scan_head(scan, head);
    for (struct mime_part *p = root; p; p = mime_next(root, p)) {
        if (!imap_scan_wants(p))
            continue;
        imap_scan_part(scan, p);
        imap_scan_bytes(
            scan, str_make(body.p + p->body_start, (size_t)(p->body_end - p->body_start)), true);
    }
    imap_scan_free(&scan);
    arena_free(&a);
    return 0;
}
