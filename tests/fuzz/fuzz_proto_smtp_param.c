/* Arguments of MAIL and RCPT: paths hold no line ends and are read again as they were written;
 * parameters end. */
#include "proto/smtp_int.h"

#include <stdlib.h>

static bool clean(struct str s)
{
    return str_chr(s, '\r') < 0 && str_chr(s, '\n') < 0 && str_chr(s, '\0') < 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned flags[] = {0, PATH_NULL, PATH_UTF8, PATH_NULL | PATH_UTF8};
    struct arena *a = arena_new(4096);

    for (size_t i = 0; i < 4; i++) {
        struct str rest = str_make(data, size), key, value;
        struct smtp_path p, again;
        struct err e = ERR_INIT;
        if (smtp_path_parse(a, &rest, flags[i], &p, &e) != 0) {
            if (e.text[0] == '\0' || !clean(str_of(e.text)))
                abort(); /* the text goes to the client */
            continue;
        }
        if (!clean(p.address) || (p.address.n == 0 && !(flags[i] & PATH_NULL)))
            abort();
        if (p.address.n > 0) {
            struct str text = arena_printf(a, "<%.*s>", STR_ARG(p.address));
            if (smtp_path_parse(a, &text, flags[i], &again, &e) != 0 ||
                !str_eq(again.address, p.address))
                abort();
        }
        size_t steps = 0;
        int more;
        while ((more = smtp_param_next(&rest, &key, &value)) > 0) {
            if (key.n == 0 || !clean(key) || !clean(value) || ++steps > size)
                abort();
            if (smtp_xtext_valid(value) && !str_ascii(value))
                abort();
        }
    }
    arena_free(&a);
    return 0;
}
