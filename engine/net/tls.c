#include "net/tls.h"

#include "core/arena.h"
#include "core/shm.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TICKET_KEYS = 80 }; /* OpenSSL: 16 bytes of name, two keys of 32 */

struct tls_ctx {
    SSL_CTX *ssl;
    char *cert_file, *key_file;
};

static int fail(struct err *e, const char *what)
{
    char text[160];
    unsigned long code = ERR_get_error();
    ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    return err_set(e, ERR_PERM, "%s: %s", what, code ? text : "unknown TLS error");
}

/* Name, HMAC key and AES key of session tickets from the material that all workers share.  The name
 * goes over the wire in the clear, so it must tell nothing of the keys. */
static void ticket_keys(unsigned char keys[TICKET_KEYS])
{
    unsigned char seed[48 + 1], hash[SHA512_DIGEST_LENGTH];

    memcpy(seed, shm_ticket_key(), 48);
    seed[48] = 'n';
    SHA512(seed, sizeof seed, hash);
    memcpy(keys, hash, TICKET_KEYS - sizeof hash);
    seed[48] = 'k';
    SHA512(seed, sizeof seed, hash);
    memcpy(keys + TICKET_KEYS - sizeof hash, hash, sizeof hash);
    wipe(seed, sizeof seed);
    wipe(hash, sizeof hash);
}

static SSL_CTX *load(const char *cert_file, const char *key_file, struct err *e)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (ctx == NULL) {
        fail(e, "TLS context");
        return NULL;
    }
    /* TLS 1.2 is the least that RFC 8997 allows for mail. */
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                              SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* Stateless tickets only, under a key that all workers share. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"moonpost", 8);
    unsigned char keys[TICKET_KEYS];
    ticket_keys(keys);
    if (SSL_CTX_set_tlsext_ticket_keys(ctx, keys, TICKET_KEYS) != 1)
        SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
    wipe(keys, sizeof keys);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert_file) != 1) {
        fail(e, cert_file);
    } else if (SSL_CTX_use_PrivateKey_file(ctx, key_file, SSL_FILETYPE_PEM) != 1) {
        fail(e, key_file);
    } else if (SSL_CTX_check_private_key(ctx) != 1) {
        fail(e, "private key and certificate do not belong together");
    } else {
        return ctx;
    }
    SSL_CTX_free(ctx);
    return NULL;
}

struct tls_ctx *tls_ctx_new(const char *cert_file, const char *key_file, struct err *e)
{
    SSL_CTX *ssl = load(cert_file, key_file, e);

    if (ssl == NULL)
        return NULL;
    struct tls_ctx *c = xcalloc(1, sizeof *c);
    c->ssl = ssl;
    c->cert_file = xstrdup(cert_file);
    c->key_file = xstrdup(key_file);
    return c;
}

int tls_ctx_reload(struct tls_ctx *c, struct err *e)
{
    SSL_CTX *ssl = load(c->cert_file, c->key_file, e);

    if (ssl == NULL)
        return -1;
    SSL_CTX_free(c->ssl); /* counted: sessions under way hold it */
    c->ssl = ssl;
    return 0;
}

void tls_ctx_free(struct tls_ctx **cp)
{
    struct tls_ctx *c = *cp;

    *cp = NULL;
    if (c == NULL)
        return;
    SSL_CTX_free(c->ssl);
    free(c->cert_file);
    free(c->key_file);
    free(c);
}

SSL_CTX *tls_ctx_get(struct tls_ctx *c)
{
    return c->ssl;
}

static int add_extension(X509 *x, int nid, const char *value)
{
    X509V3_CTX v3;
    X509V3_set_ctx_nodb(&v3);
    X509V3_set_ctx(&v3, x, x, NULL, NULL, 0);
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
    if (ext == NULL)
        return 0;
    int ok = X509_add_ext(x, ext, -1);
    X509_EXTENSION_free(ext);
    return ok;
}

static X509 *self_sign(EVP_PKEY *key, const char *host)
{
    X509 *x = X509_new();
    char alt[300];

    if (x == NULL)
        return NULL;
    snprintf(alt, sizeof alt, "DNS:%s,DNS:localhost,IP:127.0.0.1,IP:::1", host);
    X509_set_version(x, 2);
    BIGNUM *serial = BN_new();
    int ok = serial != NULL && BN_rand(serial, 120, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
             BN_to_ASN1_INTEGER(serial, X509_get_serialNumber(x)) != NULL;
    BN_free(serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 10L * 365 * 86400);
    X509_NAME *name = X509_get_subject_name(x);
    ok = ok &&
         X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)host, -1, -1,
                                    0) == 1 &&
         X509_set_issuer_name(x, name) == 1 && X509_set_pubkey(x, key) == 1 &&
         add_extension(x, NID_subject_alt_name, alt) &&
         add_extension(x, NID_basic_constraints, "critical,CA:TRUE") &&
         X509_sign(x, key, EVP_sha256()) > 0;
    if (!ok) {
        X509_free(x);
        return NULL;
    }
    return x;
}

int tls_self_signed(const char *cert_file, const char *key_file, const char *host, bool *made_r,
                    struct err *e)
{
    *made_r = false;
    if (access(cert_file, R_OK) == 0 && access(key_file, R_OK) == 0)
        return 0;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = key ? self_sign(key, host) : NULL;
    int rc = -1;
    if (x == NULL) {
        fail(e, "cannot make a certificate");
        EVP_PKEY_free(key);
        return -1;
    }
    int kfd = open(key_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int cfd = open(cert_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    FILE *kf = kfd >= 0 ? fdopen(kfd, "w") : NULL, *cf = cfd >= 0 ? fdopen(cfd, "w") : NULL;
    if (kf != NULL && cf != NULL && PEM_write_PrivateKey(kf, key, NULL, NULL, 0, NULL, NULL) == 1 &&
        PEM_write_X509(cf, x) == 1 && fflush(kf) == 0 && fflush(cf) == 0) {
        *made_r = true;
        rc = 0;
    } else {
        err_set(e, ERR_PERM, "cannot write %s or %s", cert_file, key_file);
    }
    if (kf != NULL)
        fclose(kf);
    else if (kfd >= 0)
        close(kfd);
    if (cf != NULL)
        fclose(cf);
    else if (cfd >= 0)
        close(cfd);
    X509_free(x);
    EVP_PKEY_free(key);
    return rc;
}
