#include "core/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, enum err_class cls, const char *fmt, ...)
{
    va_list ap;

    if (e == NULL)
        return -1;
    e->cls = cls;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    return -1;
}

int err_wrap(struct err *e, const char *prefix)
{
    char old[sizeof e->text];

    if (e == NULL)
        return -1;
    memcpy(old, e->text, sizeof old);
    size_t n = strlen(prefix);
    if (n > sizeof e->text - 3)
        n = sizeof e->text - 3;
    memcpy(e->text, prefix, n);
    memcpy(e->text + n, ": ", 2);
    size_t room = sizeof e->text - n - 3, m = strlen(old);
    if (m > room)
        m = room;
    memcpy(e->text + n + 2, old, m);
    e->text[n + 2 + m] = '\0';
    return -1;
}

const char *err_class_name(enum err_class cls)
{
    static const char *const names[ERR_CLASS_COUNT] = {
        "none",  "temp",  "perm",   "notfound", "exists",    "denied",
        "limit", "quota", "syntax", "timeout",  "cancelled", "internal",
    };
    return (unsigned)cls < ERR_CLASS_COUNT ? names[cls] : "unknown";
}
