#include "proto/login.h"

#include "core/hook.h"
#include "store/access.h"
#include "store/setting.h"

static const char *protocol_name(uint32_t service)
{
    switch (service) {
    case ACCESS_POP3:
        return "POP3";
    case ACCESS_IMAP:
        return "IMAP4";
    case ACCESS_SMTP:
        return "SMTP";
    case ACCESS_WEB:
        return "WEBMAIL";
    case ACCESS_LDAP:
        return "LDAP";
    default:
        return "";
    }
}

int login_translate(struct str submitted, uint32_t service, struct arena *a, struct str *name_r,
                    struct err *e)
{
    struct str name = submitted;
    struct hook_env *env = hook_env_new("usermanager", STR(""));

    if (hook_present(env, HOOK_USERMANAGER_TranslateUsername)) {
        struct hval args[] = {hv_str(str_of(protocol_name(service))), hv_str(submitted)};
        struct hook_call c = {.id = HOOK_USERMANAGER_TranslateUsername,
                              .env = env,
                              .arena = a,
                              .args = args,
                              .nargs = 2};
        if (hook_call(&c, e) == HOOK_DONE && c.nresults > 0 && c.results[0].type == HV_STR &&
            c.results[0].s.n > 0)
            name = c.results[0].s;
    }
    hook_env_free(&env);
    ptrdiff_t at = str_rchr(name, '@');
    if (at > 0) {
        bool local = false;
        if (domain_is_local(arena_lower(a, str_from(name, (size_t)at + 1)), &local, e) != 0)
            return -1;
        if (local)
            name = str_head(name, (size_t)at);
    }
    *name_r = arena_lower(a, name);
    return 0;
}

int login_password(struct str submitted, struct str password, uint32_t service, const char *peer,
                   struct account *r, struct arena *a, struct err *e)
{
    struct str name;

    if (login_translate(submitted, service, a, &name, e) != 0)
        return -1;
    if (account_login(name, password, service, str_of(peer), r, a, e) != 0)
        return -1;
    return login_permitted(service, peer, r->name, e);
}

int login_permitted(uint32_t service, const char *peer, struct str name, struct err *e)
{
    const char *list = service == ACCESS_POP3 ? "pop3" : service == ACCESS_IMAP ? "imap" : NULL;

    if (list == NULL || access_user(list, peer, name))
        return 0;
    return err_set(e, ERR_DENIED, "%.*s may not sign in from there", STR_ARG(name));
}

bool login_plain_allowed(bool secure, const char *peer)
{
    struct str p = str_of(peer);
    return secure || str_starts(p, STR("127.")) || str_eq(p, STR("::1")) ||
           setting_bool("security.plaintext_auth");
}
