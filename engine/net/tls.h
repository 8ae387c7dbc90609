/* TLS for servers: certificate contexts with hot reload, tickets shared by all workers. */
#pragma once

#include "core/err.h"

#include <stdbool.h>

struct tls_ctx;
typedef struct ssl_ctx_st SSL_CTX;

/* PEM files: certificate chain (server's first) and private key. */
struct tls_ctx *tls_ctx_new(const char *cert_file, const char *key_file, struct err *e);
/* Loads the files again; sessions under way keep what they began with.  On error the old stays. */
int tls_ctx_reload(struct tls_ctx *c, struct err *e);
void tls_ctx_free(struct tls_ctx **c);
SSL_CTX *tls_ctx_get(struct tls_ctx *c);

/* Makes a self-signed certificate for `host` (10 years, P-256) unless both files exist; the key
 * file is readable by the owner only.  *made_r: was it made now? */
int tls_self_signed(const char *cert_file, const char *key_file, const char *host, bool *made_r,
                    struct err *e);
