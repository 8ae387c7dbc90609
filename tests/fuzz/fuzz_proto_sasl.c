/* SASL exchanges with a store double that knows bob with the password secret: whatever is sent,
 * nobody else gets in, and replies are base64. */
#include "mail/encode.h"
#include "proto/login.h"
#include "proto/sasl.h"
#include "store/access.h"
#include "store/setting.h"

#include <stdlib.h>

static bool proved;

static int give(struct str name, struct account *r, struct arena *a, struct err *e)
{
    if (!proved)
        return err_set(e, ERR_DENIED, "authentication failed");
    *r = (struct account){.id = 1,
                          .name = arena_dup(a, name),
                          .enabled = true,
                          .forward = STR(""),
                          .assistant = STR("")};
    return 0;
}

int account_login(struct str name, struct str password, uint32_t service, struct str peer,
                  struct account *r, struct arena *a, struct err *e)
{
    (void)service, (void)peer;
    proved = str_eq(name, STR("bob")) && str_eq(password, STR("secret"));
    return give(name, r, a, e);
}

int account_scram(struct str name, struct scram_verifier *v_r, bool *known_r, struct err *e)
{
    (void)e;
    memset(v_r, 0x5a, sizeof *v_r);
    v_r->iterations = 4096;
    *known_r = str_eq(name, STR("bob"));
    return 0;
}

int account_login_done(struct str name, bool proof_ok, uint32_t service, struct str peer,
                       struct account *r, struct arena *a, struct err *e)
{
    (void)service, (void)peer;
    proved = proof_ok;
    return give(name, r, a, e);
}

bool access_user(const char *service, const char *peer, struct str name)
{
    (void)service, (void)peer, (void)name;
    return true;
}

int domain_is_local(struct str domain, bool *local_r, struct err *e)
{
    (void)e;
    *local_r = str_eq(domain, STR("example.test"));
    return 0;
}

bool setting_bool(const char *name)
{
    (void)name;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"PLAIN", "login", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"};
    struct account account;
    struct str out, decoded;
    struct err e = ERR_INIT;

    if (size < 1)
        return 0;
    struct sasl *s = sasl_new(str_of(names[data[0] & 3]), ACCESS_SMTP, "192.0.2.1", true, true);
    if (s == NULL)
        return 0;
    bool raw = data[0] & 4, ask = data[0] & 8;
    struct str rest = str_make(data + 1, size - 1);
    struct arena *a = arena_new(4096);
    enum sasl_result r = ask ? sasl_step(s, STR_NONE, a, &out, &account, &e) : SASL_CONTINUE;
    proved = false;
    while (r == SASL_CONTINUE && rest.p != NULL) {
        /* without base64 around them the inner parsers are out of reach */
        struct str line = str_cut(&rest, '\n');
        if (!raw)
            line = base64_encode(a, line);
        r = sasl_step(s, line, a, &out, &account, &e);
        if (out.n > 0 && !base64_decode(a, out, &decoded))
            abort();
    }
    if (r == SASL_OK && (!proved || !str_eq(account.name, STR("bob"))))
        abort();
    sasl_free(&s);
    arena_free(&a);
    return 0;
}
