/* Making header lines and whole messages of our own (RFC 5322 2.2.3, 3.6; RFC 5321 4.4). */
#pragma once

#include "core/arena.h"
#include "core/buf.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

/* "Name: value" CRLF, folded at blanks to 78 columns where possible.  Line ends and NUL in the
 * value become blanks: a value can never start another field. */
bool build_field(struct buf *b, const char *name, struct str value);
/* The same for UTF-8 text (Subject, Comments): encoded words where needed. */
bool build_text_field(struct buf *b, const char *name, struct str utf8);
/* "Display Name" <local@domain>; `utf8_name` may be empty. */
struct str build_mailbox(struct arena *a, struct str utf8_name, struct str address);
/* "<time.random@host>" */
struct str build_message_id(struct arena *a, struct str host);
bool build_date(struct buf *b, int64_t ms, int zone);

/* The words after "with" (RFC 3848, 6531). */
enum { WITH_ESMTP = 1, WITH_TLS = 2, WITH_AUTH = 4, WITH_UTF8 = 8 };
struct build_received {
    struct str helo;    /* what the client called itself; may be empty */
    struct str peer;    /* printable address */
    struct str reverse; /* its name by DNS, or empty */
    struct str host;    /* our name */
    struct str trace;   /* our id for the message */
    struct str tls;     /* "TLSv1.3 TLS_AES_..." for a comment, or empty */
    struct str rcpt;    /* only for a message with one recipient (traps: Bcc), or empty */
    unsigned with;      /* WITH_ bits */
    int64_t at;         /* ms */
    int zone;
};
bool build_received(struct buf *b, const struct build_received *r);

/* A boundary that stands in no text anybody sent. */
struct str build_boundary(struct arena *a);
/* Eight bytes of randomness as 16 hexadecimal digits, from the system. */
struct str build_random(struct arena *a);
