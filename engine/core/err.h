/* Errors as values.
 *
 * A function that can fail returns 0 or -1 and fills a `struct err`.  The class says what the
 * caller may do about it (one table per protocol maps a class to its reply codes); the text is for
 * the administrator's log and never goes to a remote peer as it is. */
#pragma once

enum err_class {
    ERR_NONE,
    ERR_TEMP,      /* may work later: database away, out of some resource */
    ERR_PERM,      /* will never work as asked */
    ERR_NOTFOUND,  /* the named thing does not exist */
    ERR_EXISTS,    /* the named thing exists already */
    ERR_DENIED,    /* not allowed for this caller */
    ERR_LIMIT,     /* a limit of limits.h or of a setting was reached */
    ERR_QUOTA,     /* the account's quota was reached */
    ERR_SYNTAX,    /* the input is malformed */
    ERR_TIMEOUT,   /* took longer than allowed */
    ERR_CANCELLED, /* the caller went away */
    ERR_INTERNAL,  /* a bug, or the system refused something that cannot be refused */
    ERR_CLASS_COUNT
};

struct err {
    enum err_class cls;
    char text[240];
};

#define ERR_INIT                                                                                   \
    {                                                                                              \
        ERR_NONE, ""                                                                               \
    }

/* Fills `e` (which may be NULL) and returns -1, so that `return err_set(...)` is the idiom.  A text
 * that is too long is cut. */
int err_set(struct err *e, enum err_class cls, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text of `e` and returns -1. */
int err_wrap(struct err *e, const char *prefix);

/* "temp", "perm", ...: the name scripts see as third result of a failed call. */
const char *err_class_name(enum err_class cls);
