/* Transfer encodings (RFC 2045 6), encoded words (RFC 2047) and the modified UTF-7 of IMAP mailbox
 * names (RFC 3501 5.1.3).  Decoders of message content are lenient and never fail; those of
 * protocol data are strict. */
#pragma once

#include "core/arena.h"
#include "core/buf.h"
#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

/* --- base64.  One line, padded. */
struct str base64_encode(struct arena *a, struct str s);
/* With CRLF after every 76 characters and at the end. */
struct str base64_encode_lines(struct arena *a, struct str s);
/* RFC 4648 4, strict: no foreign characters, right padding. */
bool base64_decode(struct arena *a, struct str s, struct str *r);

/* --- content decoders in pieces: `out` has room for in.n + 8 bytes; returns bytes written.  `last`
 * flushes. */
enum transfer { TRANSFER_NONE, TRANSFER_BASE64, TRANSFER_QP };
/* What a Content-Transfer-Encoding value asks for. */
enum transfer transfer_of(struct str value);
struct transfer_decoder {
    enum transfer kind;
    uint32_t acc;    /* base64: bits waiting */
    unsigned n;      /* base64: characters waiting; QP: bytes of an escape waiting */
    char wait[2];    /* QP */
    uint32_t blanks; /* QP: blanks that may turn out to end a line */
    bool end;        /* base64: padding seen */
};
size_t transfer_feed(struct transfer_decoder *d, struct str in, bool last, char *out);
/* The whole of a content. */
struct str transfer_decode(struct arena *a, enum transfer kind, struct str s);

/* Quoted-printable with lines of at most 76 characters; line ends of the text stay line ends. */
struct str qp_encode(struct arena *a, struct str s);

/* --- RFC 2047.  Unfolds, decodes what is an encoded word (also in places where none is allowed:
 * senders put them there), and answers valid UTF-8. */
struct str word_decode(struct arena *a, struct str raw);
/* UTF-8 to the value of an unstructured field or phrase: unchanged when it is plain ASCII, else
 * encoded words of at most 75 characters separated by blanks. */
struct str word_encode(struct arena *a, struct str utf8);

/* --- mailbox names.  False: not the modified UTF-7 of RFC 3501 5.1.3. */
bool mutf7_decode(struct arena *a, struct str s, struct str *utf8_r);
struct str mutf7_encode(struct arena *a, struct str utf8);
