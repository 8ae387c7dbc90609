#include "proto/sasl.h"

#include "mail/encode.h"
#include "proto/login.h"

#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdlib.h>

enum mechanism { MECH_PLAIN, MECH_LOGIN, MECH_SCRAM_SHA_256 };
enum { NONCE_BYTES = 18, MESSAGE_MAX_BYTES = 2048 };

struct sasl {
    enum mechanism mech;
    uint32_t service;
    const char *peer;
    bool asked;          /* the empty first challenge was sent */
    unsigned messages;   /* of the client, so far */
    struct arena *arena; /* of the exchange; passwords live in the caller's arena of one step */
    struct str user;
    /* SCRAM */
    struct scram_verifier verifier;
    bool known;
    struct str first_bare, server_first, nonce, gs2;
    struct account account;
};

static const struct {
    const char *name;
    bool plain;
} mechanisms[] = {
    [MECH_PLAIN] = {"PLAIN", true},
    [MECH_LOGIN] = {"LOGIN", true},
    [MECH_SCRAM_SHA_256] = {"SCRAM-SHA-256", false},
};

struct sasl *sasl_new(struct str mechanism, uint32_t service, const char *peer, bool secure,
                      bool allow_plain)
{
    for (size_t i = 0; i < sizeof mechanisms / sizeof mechanisms[0]; i++) {
        if (!str_eqiz(mechanism, mechanisms[i].name))
            continue;
        if (mechanisms[i].plain && !secure && !allow_plain)
            return NULL;
        struct sasl *s = xcalloc(1, sizeof *s);
        s->mech = (enum mechanism)i;
        s->service = service;
        s->peer = peer;
        s->arena = arena_new(1024);
        return s;
    }
    return NULL;
}

void sasl_free(struct sasl **sp)
{
    struct sasl *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    arena_free(&s->arena);
    wipe(s, sizeof *s);
    free(s);
}

const char *sasl_mechanisms(bool secure, bool allow_plain)
{
    return secure || allow_plain ? "SCRAM-SHA-256 PLAIN LOGIN" : "SCRAM-SHA-256";
}

static enum sasl_result outcome(int rc, const struct err *e)
{
    if (rc == 0)
        return SASL_OK;
    return e->cls == ERR_TEMP || e->cls == ERR_TIMEOUT || e->cls == ERR_INTERNAL ? SASL_TEMP
                                                                                 : SASL_FAILED;
}

/* RFC 4616: [authzid] NUL authcid NUL passwd.  Acting for somebody else is not offered. */
static enum sasl_result plain_step(struct sasl *s, struct str in, struct arena *a,
                                   struct account *account_r, struct err *e)
{
    struct str rest = in;
    struct str authzid = str_cut(&rest, '\0');
    if (rest.p == NULL)
        return SASL_BAD;
    struct str user = str_cut(&rest, '\0');
    if (rest.p == NULL || user.n == 0 || str_chr(rest, '\0') >= 0 || !str_utf8(user))
        return SASL_BAD;
    if (authzid.n > 0 && !str_eqi(authzid, user)) {
        err_set(e, ERR_DENIED, "authorization identity differs from the user");
        return SASL_FAILED;
    }
    return outcome(login_password(user, rest, s->service, s->peer, account_r, a, e), e);
}

static enum sasl_result login_step(struct sasl *s, unsigned n, struct str in, struct arena *a,
                                   struct str *out_r, struct account *account_r, struct err *e)
{
    if (n == 0) {
        if (in.n == 0 || !str_utf8(in))
            return SASL_BAD;
        s->user = arena_dup(s->arena, in);
        *out_r = STR("UGFzc3dvcmQ6"); /* "Password:" */
        return SASL_CONTINUE;
    }
    if (n > 1)
        return SASL_BAD;
    return outcome(login_password(s->user, in, s->service, s->peer, account_r, a, e), e);
}

/* The value of attribute `k` at the front of a SCRAM message. */
static bool attribute(struct str *rest, char k, struct str *v_r)
{
    struct str field = str_cut(rest, ',');
    if (field.n < 2 || field.p[0] != k || field.p[1] != '=')
        return false;
    *v_r = str_from(field, 2);
    return true;
}

/* =2C and =3D (RFC 5802 5.1). */
static bool unescape(struct arena *a, struct str in, struct str *out_r)
{
    char *p = arena_alloc(a, in.n + 1);
    size_t n = 0;

    for (size_t i = 0; i < in.n; i++) {
        if (in.p[i] != '=') {
            p[n++] = in.p[i];
        } else if (str_starts(str_from(in, i), STR("=2C"))) {
            p[n++] = ',';
            i += 2;
        } else if (str_starts(str_from(in, i), STR("=3D"))) {
            p[n++] = '=';
            i += 2;
        } else {
            return false;
        }
    }
    *out_r = str_make(p, n);
    return n > 0;
}

static enum sasl_result scram_first(struct sasl *s, struct str in, struct arena *a,
                                    struct str *out_r, struct err *e)
{
    struct str rest = in, user, nonce;
    unsigned char random[NONCE_BYTES];

    if (in.n > MESSAGE_MAX_BYTES)
        return SASL_BAD;
    struct str bind = str_cut(&rest, ',');
    if (!str_eq(bind, STR("n")) && !str_eq(bind, STR("y")))
        return SASL_BAD; /* p=: channel binding belongs to SCRAM-SHA-256-PLUS, not offered */
    struct str authzid = str_cut(&rest, ',');
    if (authzid.n > 0 && !str_starts(authzid, STR("a=")))
        return SASL_BAD;
    if (rest.p == NULL)
        return SASL_BAD;
    s->gs2 = arena_dup(s->arena, str_head(in, in.n - rest.n));
    s->first_bare = arena_dup(s->arena, rest);
    if (!attribute(&rest, 'n', &user) || !attribute(&rest, 'r', &nonce) || nonce.n == 0 ||
        !unescape(s->arena, user, &user) || !str_utf8(user))
        return SASL_BAD;
    struct str name;
    if (login_translate(user, s->service, s->arena, &name, e) != 0 ||
        account_scram(name, &s->verifier, &s->known, e) != 0)
        return SASL_TEMP;
    s->user = name;
    if (RAND_bytes(random, sizeof random) != 1)
        return SASL_TEMP;
    struct str mine = base64_encode(a, str_make(random, sizeof random));
    s->nonce = arena_printf(s->arena, "%.*s%.*s", STR_ARG(nonce), STR_ARG(mine));
    struct str salt = base64_encode(a, str_make(s->verifier.salt, sizeof s->verifier.salt));
    s->server_first = arena_printf(s->arena, "r=%.*s,s=%.*s,i=%u", STR_ARG(s->nonce), STR_ARG(salt),
                                   s->verifier.iterations);
    *out_r = base64_encode(a, s->server_first);
    return SASL_CONTINUE;
}

static enum sasl_result scram_final(struct sasl *s, struct str in, struct arena *a,
                                    struct str *out_r, struct err *e)
{
    struct str rest = in, bind, nonce, proof;
    unsigned char sig[32], key[32], stored[32], server_sig[32];
    unsigned n = 0;

    ptrdiff_t at = str_find(in, STR(",p="));
    if (at < 0 || !attribute(&rest, 'c', &bind) || !attribute(&rest, 'r', &nonce) ||
        !base64_decode(a, bind, &bind) || !base64_decode(a, str_from(in, (size_t)at + 3), &proof))
        return SASL_BAD;
    if (!str_eq(bind, s->gs2) || !str_eq(nonce, s->nonce) || proof.n != sizeof key)
        return SASL_BAD;
    struct str auth = arena_printf(a, "%.*s,%.*s,%.*s", STR_ARG(s->first_bare),
                                   STR_ARG(s->server_first), STR_ARG(str_head(in, (size_t)at)));
    HMAC(EVP_sha256(), s->verifier.stored_key, 32, (const unsigned char *)auth.p, auth.n, sig, &n);
    for (size_t i = 0; i < sizeof key; i++)
        key[i] = (unsigned char)((unsigned char)proof.p[i] ^ sig[i]);
    SHA256(key, sizeof key, stored);
    bool ok = CRYPTO_memcmp(stored, s->verifier.stored_key, sizeof stored) == 0 && s->known;
    HMAC(EVP_sha256(), s->verifier.server_key, 32, (const unsigned char *)auth.p, auth.n,
         server_sig, &n);
    wipe(key, sizeof key);
    int rc = account_login_done(s->user, ok, s->service, str_of(s->peer), &s->account, s->arena, e);
    if (rc == 0)
        rc = login_permitted(s->service, s->peer, s->account.name, e);
    enum sasl_result r = outcome(rc, e);
    if (r != SASL_OK)
        return r;
    struct str v = base64_encode(a, str_make(server_sig, sizeof server_sig));
    *out_r = base64_encode(a, arena_printf(a, "v=%.*s", STR_ARG(v)));
    return SASL_CONTINUE;
}

enum sasl_result sasl_step(struct sasl *s, struct str line, struct arena *a, struct str *out_r,
                           struct account *account_r, struct err *e)
{
    struct str in;

    *out_r = STR("");
    if (line.p == NULL) { /* no initial response: ask for the first message */
        if (s->asked || s->messages > 0)
            return SASL_BAD;
        s->asked = true;
        if (s->mech == MECH_LOGIN)
            *out_r = STR("VXNlcm5hbWU6"); /* "Username:" */
        return SASL_CONTINUE;
    }
    unsigned n = s->messages++;
    if (str_eq(line, STR("*")) || !base64_decode(a, line, &in)) {
        err_set(e, ERR_SYNTAX, "cancelled or not base64");
        return SASL_BAD;
    }
    if (s->mech == MECH_LOGIN || s->mech == MECH_PLAIN) {
        enum sasl_result r = s->mech == MECH_LOGIN ? login_step(s, n, in, a, out_r, account_r, e)
                             : n == 0              ? plain_step(s, in, a, account_r, e)
                                                   : SASL_BAD;
        if (in.n > 0) /* a password; our copy, made by base64_decode() */
            wipe((char *)in.p, in.n);
        return r;
    }
    if (n == 0)
        return scram_first(s, in, a, out_r, e);
    if (n == 1)
        return scram_final(s, in, a, out_r, e);
    if (n > 2 || in.n != 0 || s->account.id == 0) /* the client's empty answer to v=... */
        return SASL_BAD;
    *account_r = s->account;
    account_r->name = arena_dup(a, s->account.name);
    account_r->forward = arena_dup(a, s->account.forward);
    account_r->assistant = arena_dup(a, s->account.assistant);
    return SASL_OK;
}
