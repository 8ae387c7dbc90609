/* SASL server mechanisms: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 (RFC 5802, 7677), for SMTP, POP3
 * and IMAP alike.  Base64 framing is done here; the protocol only moves lines. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "store/account.h"

struct sasl;

/* NULL: unknown mechanism, or one not allowed on this connection (`secure`: TLS is on; plain-text
 * mechanisms need it unless `allow_plain`). */
struct sasl *sasl_new(struct str mechanism, uint32_t service, const char *peer, bool secure,
                      bool allow_plain);
void sasl_free(struct sasl **s);
/* "PLAIN LOGIN SCRAM-SHA-256" as allowed; for EHLO, CAPA and CAPABILITY. */
const char *sasl_mechanisms(bool secure, bool allow_plain);

enum sasl_result {
    SASL_CONTINUE, /* send *out_r (base64, may be empty) as challenge, feed the client's line */
    SASL_OK,       /* *account_r is filled */
    SASL_FAILED,   /* wrong credentials; *e says more for the log */
    SASL_BAD,      /* malformed exchange (also "*" = cancelled by the client) */
    SASL_TEMP      /* database away */
};
/* `line`: base64 of the client; p == NULL on the first call without an initial response.  Strings
 * of *account_r and *out_r live in `a`.  Runs in a task. */
enum sasl_result sasl_step(struct sasl *s, struct str line, struct arena *a, struct str *out_r,
                           struct account *account_r, struct err *e);
