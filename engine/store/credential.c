/* Passwords: SCRAM verifiers, signing in, lockouts (spec 1 section 8). */
#include "store/credential.h"

#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/work.h"
#include "store/account_int.h"
#include "store/db.h"
#include "store/pg.h"
#include "store/setting.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdlib.h>

enum { PASSWORD_MAX = 1024, REMEMBERED_MAX = 10000, CREDENTIALS_MAX = 20, PACK_VERSION = 1 };

static bool hmac(const void *key, size_t key_n, const void *data, size_t n, unsigned char out[32])
{
    unsigned len = 32;
    return HMAC(EVP_sha256(), key, (int)key_n, data, n, out, &len) != NULL;
}

struct derive {
    struct str password;
    const unsigned char *salt;
    uint32_t rounds;
    unsigned char stored_key[32], server_key[32];
    bool ok;
};

/* On a pool thread: SaltedPassword := Hi(password), then the two keys (RFC 5802 section 3). */
static void derive_run(void *arg)
{
    struct derive *d = arg;
    unsigned char salted[32], client_key[32];

    d->ok = PKCS5_PBKDF2_HMAC(d->password.p ? d->password.p : "", (int)d->password.n, d->salt, 16,
                              (int)d->rounds, EVP_sha256(), 32, salted) == 1 &&
            hmac(salted, 32, "Client Key", 10, client_key) &&
            SHA256(client_key, 32, d->stored_key) != NULL &&
            hmac(salted, 32, "Server Key", 10, d->server_key);
    OPENSSL_cleanse(salted, sizeof salted);
    OPENSSL_cleanse(client_key, sizeof client_key);
}

int credential_make(struct str password, uint32_t rounds, unsigned char out[CREDENTIAL_BYTES],
                    struct err *e)
{
    unsigned char salt[16];

    if (RAND_bytes(salt, sizeof salt) != 1)
        return err_set(e, ERR_INTERNAL, "no random bytes");
    struct derive d = {.password = password, .salt = salt, .rounds = rounds};
    work_run(derive_run, &d);
    if (!d.ok)
        return err_set(e, ERR_INTERNAL, "PBKDF2 failed");
    out[0] = PACK_VERSION;
    for (int i = 0; i < 4; i++)
        out[1 + i] = (unsigned char)(rounds >> (24 - i * 8));
    memcpy(out + 5, salt, 16);
    memcpy(out + 21, d.stored_key, 32);
    memcpy(out + 53, d.server_key, 32);
    wipe(&d, sizeof d);
    return 0;
}

bool credential_unpack(struct str packed, struct scram_verifier *v_r)
{
    const unsigned char *p = (const unsigned char *)packed.p;

    if (packed.n != CREDENTIAL_BYTES || p[0] != PACK_VERSION)
        return false;
    v_r->iterations = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
    memcpy(v_r->salt, p + 5, 16);
    memcpy(v_r->stored_key, p + 21, 32);
    memcpy(v_r->server_key, p + 53, 32);
    return v_r->iterations > 0 && v_r->iterations <= 10000000;
}

bool credential_check(struct str password, const struct scram_verifier *v)
{
    struct derive d = {.password = password, .salt = v->salt, .rounds = v->iterations};

    work_run(derive_run, &d);
    bool same = d.ok && CRYPTO_memcmp(d.stored_key, v->stored_key, 32) == 0;
    wipe(&d, sizeof d);
    return same;
}

/* The key behind made-up salts: the same in all workers and after restarts, or a prober would see
 * the salt of an unknown name change. */
static int fake_key(unsigned char out[32], struct err *e)
{
    static unsigned char kept[32];
    static bool have;

    if (!have) {
        struct arena *a = arena_new(256);
        const struct rows *r;
        int rc = db_exec(a, &r, e, "select bytes from secret where name = 'scram_salt'", 0, NULL);
        if (rc == 0 && (rows_count(r) != 1 || rows_str(r, 0, 0).n != 32))
            rc = err_set(e, ERR_INTERNAL, "the secret scram_salt is missing");
        if (rc == 0) {
            memcpy(kept, rows_str(r, 0, 0).p, 32);
            have = true;
        }
        arena_free(&a);
        if (rc != 0)
            return rc;
    }
    memcpy(out, kept, 32);
    return 0;
}

int credential_fake(struct str name, struct scram_verifier *v_r, struct err *e)
{
    unsigned char key[32], digest[32];

    if (fake_key(key, e) != 0)
        return -1;
    hmac(key, sizeof key, name.p ? name.p : "", name.n, digest);
    memcpy(v_r->salt, digest, 16);
    hmac(digest, 32, "stored", 6, v_r->stored_key);
    hmac(digest, 32, "server", 6, v_r->server_key);
    v_r->iterations = (uint32_t)setting_int("security.pbkdf2_rounds");
    wipe(key, sizeof key);
    return 0;
}

void credential_digest(uint64_t account, uint64_t generation, struct str password,
                       unsigned char out[32])
{
    static unsigned char key[32];
    static bool drawn;
    unsigned char inner[32];
    uint64_t facts[2] = {account, generation};

    if (!drawn && RAND_bytes(key, sizeof key) != 1)
        abort();
    drawn = true;
    hmac(key, sizeof key, password.p ? password.p : "", password.n, inner);
    unsigned char data[48];
    memcpy(data, facts, 16);
    memcpy(data + 16, inner, 32);
    hmac(key, sizeof key, data, sizeof data, out);
    wipe(inner, sizeof inner);
}

/* --- remembered successes: bound to the generation, so any change of accounts ends them
 * ------------- */
static struct map *remembered;

struct remembered {
    uint64_t until;
};

static void forget_all(void)
{
    size_t it = 0;
    struct str key;
    void *value;

    if (remembered == NULL)
        return;
    while (map_next(remembered, &it, &key, &value))
        free(value);
    map_free(&remembered);
}

static bool is_remembered(const unsigned char digest[32])
{
    const struct remembered *r = remembered ? map_find(remembered, str_make(digest, 32)) : NULL;
    return r != NULL && loop_ms() < r->until;
}

static void remember(const unsigned char digest[32])
{
    int64_t minutes = setting_int("security.login_cache_minutes");

    if (minutes <= 0)
        return;
    if (remembered != NULL && map_count(remembered) >= REMEMBERED_MAX)
        forget_all();
    if (remembered == NULL)
        remembered = map_new(false);
    struct remembered *r = xmalloc(sizeof *r);
    r->until = loop_ms() + (uint64_t)minutes * 60000;
    free(map_set(remembered, str_make(digest, 32), r));
}

/* --- signing in
 * ----------------------------------------------------------------------------------------- */
static bool loopback(struct str peer)
{
    return str_starts(peer, STR("127.")) || str_eqz(peer, "::1") ||
           str_starts(peer, STR("::ffff:127."));
}

static bool lockable(struct str peer)
{
    return setting_int("security.lock_after") > 0 &&
           (!loopback(peer) || setting_bool("security.lock_loopback"));
}

static bool locked(struct str name, struct str peer)
{
    return lockable(peer) && shm_lockout(name, peer, (unsigned)setting_int("security.lock_after"),
                                         (unsigned)setting_int("security.lock_minutes"));
}

/* Why an account may not use a service, or NULL. */
static const char *refusal(const struct directory_account *x, uint32_t service)
{
    struct account a = x->account;
    struct arena *tmp = arena_new(64);

    directory_copy(x, &a, tmp);
    arena_free(&tmp);
    if ((a.access & service) != service)
        return "protocol not allowed";
    /* An administrator must be able to repair his own account. */
    if (!a.enabled && !(a.admin && service == ACCESS_WEB))
        return "account disabled";
    if (a.expired)
        return "account expired";
    return NULL;
}

static int denied(struct str name, struct str peer, bool was_locked, const char *why, struct err *e)
{
    if (!was_locked && lockable(peer))
        shm_login_failed(name, peer, (unsigned)setting_int("security.lock_minutes"));
    log_info("login", "%.*s from %.*s refused: %s", STR_ARG(name), STR_ARG(peer), why);
    return err_set(e, ERR_DENIED, "authentication failed");
}

/* All verifiers of an account, with their ids. */
static int verifiers(uint64_t account, struct scram_verifier *v, uint64_t *ids, uint32_t *n_r,
                     struct err *e)
{
    struct arena *a = arena_new(2048);
    const struct rows *r;
    int rc = db_exec(a, &r, e,
                     "select id, data from credential where account = $1 and "
                     "kind = 'scram-sha-256' order by scope <> 'main', id limit 20",
                     DB_ARGS(db_int((int64_t)account)));

    *n_r = 0;
    for (uint32_t i = 0; rc == 0 && i < rows_count(r) && i < CREDENTIALS_MAX; i++)
        if (credential_unpack(rows_str(r, i, 1), &v[*n_r]))
            ids[(*n_r)++] = (uint64_t)rows_int(r, i, 0);
    arena_free(&a);
    return rc;
}

static void note_use(uint64_t credential)
{
    db_exec_async(NULL, NULL, NULL,
                  "update credential set last_used = now() where id = $1 and "
                  "(last_used is null or last_used < now() - interval '1 hour')",
                  DB_ARGS(db_int((int64_t)credential)));
}

static int verify(const struct directory_account *x, struct str name, struct str password,
                  bool *ok_r, uint64_t *credential_r, struct err *e)
{
    struct scram_verifier v[CREDENTIALS_MAX];
    uint64_t ids[CREDENTIALS_MAX];
    uint32_t n = 0;

    *ok_r = false;
    if (x != NULL && verifiers(x->account.id, v, ids, &n, e) != 0)
        return -1;
    if (n == 0) {
        /* The same work for names that do not exist. */
        if (credential_fake(name, &v[0], e) != 0)
            return -1;
        credential_check(password, &v[0]);
        return 0;
    }
    for (uint32_t i = 0; i < n && !*ok_r; i++)
        if (credential_check(password, &v[i])) {
            *ok_r = true;
            *credential_r = ids[i];
        }
    return 0;
}

static int finish(struct directory *d, const struct directory_account *x, struct str name,
                  bool proof, uint32_t service, struct str peer, struct account *r, struct arena *a,
                  struct err *e)
{
    bool is_locked = locked(name, peer);
    const char *why = x == NULL   ? "unknown account"
                      : !proof    ? "wrong password"
                      : is_locked ? "locked out"
                                  : refusal(x, service);
    (void)d;
    if (why != NULL)
        return denied(name, peer, is_locked && proof, why, e);
    shm_login_ok(name, peer);
    directory_copy(x, r, a);
    return 0;
}

int account_login(struct str name, struct str password, uint32_t service, struct str peer,
                  struct account *r, struct arena *a, struct err *e)
{
    struct directory *d;
    struct err not_found = ERR_INIT;
    unsigned char digest[32];
    uint64_t credential = 0;
    bool proof = false;
    int rc = 0;

    if (directory_take(&d, e) != 0)
        return -1;
    struct str user = login_name(d, name, a);
    const struct directory_account *x = directory_account(d, user, &not_found);
    if (x == NULL && not_found.cls != ERR_NOTFOUND) {
        directory_drop(&d);
        return err_set(e, not_found.cls, "%s", not_found.text);
    }
    if (password.n > PASSWORD_MAX)
        password = STR(" ");
    if (x != NULL) {
        credential_digest(x->account.id, d->generation, password, digest);
        proof = is_remembered(digest);
    }
    if (!proof) {
        rc = verify(x, user, password, &proof, &credential, e);
        if (rc == 0 && proof) {
            remember(digest);
            note_use(credential);
        }
    }
    if (rc == 0)
        rc = finish(d, x, user, proof, service, peer, r, a, e);
    directory_drop(&d);
    wipe(digest, sizeof digest);
    return rc;
}

int account_scram(struct str name, struct scram_verifier *v_r, bool *known_r, struct err *e)
{
    struct directory *d;
    struct err not_found = ERR_INIT;
    struct scram_verifier v[CREDENTIALS_MAX];
    uint64_t ids[CREDENTIALS_MAX];
    uint32_t n = 0;
    struct arena *a;
    int rc = 0;

    if (directory_take(&d, e) != 0)
        return -1;
    a = arena_new(128);
    struct str user = login_name(d, name, a);
    const struct directory_account *x = directory_account(d, user, &not_found);
    if (x == NULL && not_found.cls != ERR_NOTFOUND) {
        rc = err_set(e, not_found.cls, "%s", not_found.text);
    } else if (x != NULL) {
        rc = verifiers(x->account.id, v, ids, &n, e);
    }
    *known_r = n > 0;
    if (rc == 0 && n > 0)
        *v_r = v[0];
    else if (rc == 0)
        rc = credential_fake(user, v_r, e);
    directory_drop(&d);
    arena_free(&a);
    return rc;
}

int account_login_done(struct str name, bool proof_ok, uint32_t service, struct str peer,
                       struct account *r, struct arena *a, struct err *e)
{
    struct directory *d;
    struct err not_found = ERR_INIT;
    int rc;

    if (directory_take(&d, e) != 0)
        return -1;
    struct str user = login_name(d, name, a);
    const struct directory_account *x = directory_account(d, user, &not_found);
    if (x == NULL && not_found.cls != ERR_NOTFOUND) {
        rc = err_set(e, not_found.cls, "%s", not_found.text);
    } else {
        rc = finish(d, x, user, proof_ok, service, peer, r, a, e);
    }
    directory_drop(&d);
    return rc;
}
