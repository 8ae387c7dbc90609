/* SMTP: what DNS says about a client at its greeting: its name, confirmed forwards (RFC 8601 3),
 * and the block lists it stands in (RFC 5782; spec 2 'Realtime Blacklist Rules').
 *
 * The lists are asked at the greeting, all at once, and the decision is applied at MAIL and at the
 * end of a message, to clients that have not signed in: people whose provider's addresses stand in
 * a list sign in and send.  No answer in time means not listed. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/log.h"
#include "core/loop.h"
#include "net/dns.h"
#include "proto/smtp_int.h"
#include "store/access.h"
#include "store/setting.h"

#include <arpa/inet.h>
#include <pcre2.h>

enum { ZONES_MAX = 32, NAMES_MAX = 5, MATCH_LIMIT = 100000, TEXT_MS = 500 };

static uint64_t timeout_ms(void)
{
    return (uint64_t)setting_int("smtp.rbl_timeout") * 1000u;
}

/* --- the client's name ------------------------------------------------------------------------ */

static bool is_peer(const struct sockaddr_storage *peer, const struct dns_question *q)
{
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;

    for (uint32_t i = 0; i < q->answer.count; i++) {
        const struct dns_record *r = &q->answer.records[i];
        if (q->type == DNS_A && peer->ss_family == AF_INET &&
            memcmp(&((const struct sockaddr_in *)peer)->sin_addr, &r->a, 4) == 0)
            return true;
        if (q->type == DNS_A && peer->ss_family == AF_INET6 &&
            memcmp(in6->sin6_addr.s6_addr + 12, &r->a, 4) == 0)
            return true;
        if (q->type == DNS_AAAA && memcmp(&in6->sin6_addr, &r->aaaa, 16) == 0)
            return true;
    }
    return false;
}

void smtp_reverse(struct smtp_session *s)
{
    const struct sockaddr_storage *peer = stream_peer(s->stream);
    struct dns_question ptr = {.type = DNS_PTR}, *v;
    uint64_t until = loop_ms() + timeout_ms();

    s->reverse = STR("");
    if (!setting_bool("smtp.reverse_dns"))
        return;
    ptr.name = dns_reverse_name(s->cmd, peer, STR("")).p;
    dns_lookup_all(&ptr, 1, timeout_ms(), s->cmd);
    if (ptr.rc != 0)
        return;
    bool v4 = peer->ss_family == AF_INET ||
              IN6_IS_ADDR_V4MAPPED(&((const struct sockaddr_in6 *)peer)->sin6_addr);
    v = ARENA_ARRAY(s->cmd, struct dns_question, NAMES_MAX);
    unsigned n = 0;
    for (uint32_t i = 0; i < ptr.answer.count && n < NAMES_MAX; i++)
        if (domain_valid(ptr.answer.records[i].text, false))
            v[n++] = (struct dns_question){.type = v4 ? DNS_A : DNS_AAAA,
                                           .name = ptr.answer.records[i].text.p};
    uint64_t now = loop_ms();
    dns_lookup_all(v, n, until > now ? until - now : 0, s->cmd);
    for (unsigned i = 0; i < n; i++)
        if (v[i].rc == 0 && is_peer(peer, &v[i])) {
            s->reverse = arena_dup(s->arena, str_of(v[i].name));
            hook_env_set(s->env, "ReverseDNS", hv_str(s->reverse));
            return;
        }
}

/* --- block lists ------------------------------------------------------------------------------ */

/* The next word of a list separated by blanks and line ends; false at the end. */
static bool next_word(struct str *rest, struct str *word_r)
{
    *rest = str_trim(*rest);
    if (rest->n == 0)
        return false;
    size_t n = 0;
    while (n < rest->n && (unsigned char)rest->p[n] > ' ')
        n++;
    *word_r = str_head(*rest, n);
    *rest = str_from(*rest, n);
    return true;
}

static bool whitelisted(const struct sockaddr_storage *peer, struct str text)
{
    struct str list = setting_str("smtp.rbl_whitelist"), words, word;

    while (list.p != NULL) {
        words = str_cut(&list, ',');
        while (next_word(&words, &word))
            if (str_chr(word, '/') >= 0 ? access_in_list(word, peer) : str_glob(word, text))
                return true;
    }
    return false;
}

bool smtp_rbl_wanted(struct smtp_session *s)
{
    if (str_trim(setting_str("smtp.rbl_servers")).n == 0 || s->svc->kind == SERVICE_SUBMISSION)
        return false;
    if (setting_bool("smtp.rbl_skip_unauth") && (s->allow_unauth || s->local_client || s->relay))
        return false;
    return !whitelisted(stream_peer(s->stream), str_of(stream_peer_text(s->stream)));
}

struct zone {
    struct str name, regex; /* regex.p NULL: none */
};

static unsigned read_zones(struct smtp_session *s, struct zone *v)
{
    struct str rest = arena_dup(s->cmd, setting_str("smtp.rbl_servers")), word;
    unsigned n = 0;

    while (n < ZONES_MAX && next_word(&rest, &word)) {
        ptrdiff_t open = str_chr(word, '(');
        struct zone z = {.name = word};
        if (open >= 0 && word.p[word.n - 1] == ')') {
            z.name = str_head(word, (size_t)open);
            z.regex = str_make(word.p + open + 1, word.n - (size_t)open - 2);
        }
        if (z.name.n > 0 && z.name.p[0] == '.')
            z.name = str_from(z.name, 1);
        if (z.name.n == 0)
            continue;
        z.name = arena_dup(s->cmd, z.name);
        v[n++] = z;
    }
    return n;
}

static bool regex_matches(struct str regex, struct str text)
{
    int code;
    size_t at;
    bool found = false;
    pcre2_code *re =
        pcre2_compile((PCRE2_SPTR)regex.p, regex.n, PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);

    if (re == NULL) {
        log_warn("smtp", "smtp.rbl_servers: (%.*s) is no regular expression, the zone is left out",
                 STR_ARG(regex));
        return false;
    }
    pcre2_match_data *m = pcre2_match_data_create_from_pattern(re, NULL);
    pcre2_match_context *mc = pcre2_match_context_create(NULL);
    if (m != NULL && mc != NULL) {
        pcre2_set_match_limit(mc, MATCH_LIMIT);
        found = pcre2_match(re, (PCRE2_SPTR)text.p, text.n, 0, 0, m, mc) >= 0;
    }
    pcre2_match_context_free(mc);
    pcre2_match_data_free(m);
    pcre2_code_free(re);
    return found;
}

/* Does this address say that the client is listed?  Without a pattern it is one of 127.0.0.0/8, but
 * not of 127.255.255.0/24, by which lists report that they do not serve the asker: the web server
 * that answers for a list's expired domain must not block all mail. */
static bool says_listed(const struct zone *z, const struct dns_record *r)
{
    uint32_t a = ntohl(r->a.s_addr);

    if (z->regex.p != NULL)
        return regex_matches(z->regex, r->text);
    return a >> 24 == 127 && a >> 8 != 0x7fffff;
}

struct finding {
    const struct zone *zone;
    struct str address;
    bool listed;
};

/* Asks all zones; returns how many answered with an address. */
static unsigned ask_zones(struct smtp_session *s, struct finding *found)
{
    struct zone *zones = ARENA_ARRAY(s->cmd, struct zone, ZONES_MAX);
    unsigned n = read_zones(s, zones), count = 0;
    struct dns_question *v = ARENA_ARRAY(s->cmd, struct dns_question, ZONES_MAX);

    for (unsigned i = 0; i < n; i++)
        v[i] = (struct dns_question){
            .type = DNS_A,
            .name = dns_reverse_name(s->cmd, stream_peer(s->stream), zones[i].name).p};
    dns_lookup_all(v, n, timeout_ms(), s->cmd);
    for (unsigned i = 0; i < n; i++) {
        if (v[i].rc != 0) {
            if (v[i].err.cls != ERR_NOTFOUND)
                log_info("smtp", "block list: %s", v[i].err.text);
            continue;
        }
        struct finding *f = &found[count++];
        *f = (struct finding){.zone = &zones[i], .address = v[i].answer.records[0].text};
        for (uint32_t k = 0; k < v[i].answer.count && !f->listed; k++)
            if (says_listed(f->zone, &v[i].answer.records[k])) {
                f->listed = true;
                f->address = v[i].answer.records[k].text;
            }
    }
    return count;
}

/* RBLResultInfo; the lists' texts are fetched only when a script reads it. */
static void tell_script(struct smtp_session *s, const struct finding *found, unsigned n,
                        uint64_t until)
{
    struct hval info = hv_map();
    struct dns_question *v = ARENA_ARRAY(s->cmd, struct dns_question, n ? n : 1);

    for (unsigned i = 0; i < n; i++)
        v[i] = (struct dns_question){
            .type = DNS_TXT,
            .name = dns_reverse_name(s->cmd, stream_peer(s->stream), found[i].zone->name).p};
    uint64_t now = loop_ms();
    if (n > 0)
        dns_lookup_all(v, n, until > now + TEXT_MS ? until - now : TEXT_MS, s->cmd);
    for (unsigned i = 0; i < n; i++) {
        struct hval one = hv_map();
        hv_put(s->cmd, &one, "address", hv_str(found[i].address));
        hv_put(s->cmd, &one, "text", hv_str(v[i].rc == 0 ? v[i].answer.records[0].text : STR("")));
        hv_put(s->cmd, &one, "score", hv_int(found[i].listed));
        hv_put(s->cmd, &info, found[i].zone->name.p, one);
    }
    hook_env_set(s->env, "RBLResultInfo", info);
}

static struct str global_str(struct smtp_session *s, const char *name, struct str fallback)
{
    struct hval v;
    return hook_env_get(s->env, name, s->cmd, &v) ? hv_as_str(&v, STR("")) : fallback;
}

static bool check_wanted(struct smtp_session *s, bool fallback)
{
    struct hval v;
    return hook_env_get(s->env, "CheckRBL", s->cmd, &v) ? hv_as_bool(&v, fallback) : fallback;
}

/* The configured reaction to a listed client. */
static void react(struct smtp_session *s, struct str zone)
{
    struct smtp_rbl *r = &s->rbl;
    const char *peer = stream_peer_text(s->stream);
    struct str action = setting_str("smtp.rbl_action");

    log_info("smtp", "%s: found in block list %.*s", peer, STR_ARG(zone));
    hook_steps_add(s->steps, "block list", STR(""), "listed", zone, 0);
    if (str_eqi(action, STR("header"))) {
        if (r->header.n == 0)
            r->header =
                arena_printf(s->arena, "X-RBLFound: Sender address %s found in RBL entry on %.*s",
                             peer, STR_ARG(zone));
    } else if (str_eqi(action, STR("blackhole"))) {
        r->discard = true;
    } else if (str_eqi(action, STR("redirect")) && setting_str("smtp.rbl_redirect").n > 0) {
        r->redirect = arena_dup(s->arena, setting_str("smtp.rbl_redirect"));
    } else if (r->reject.n == 0) {
        r->reject = arena_printf(s->arena,
                                 "550 5.7.1 Mail not allowed because client address %s found in "
                                 "RBL entry on %.*s",
                                 peer, STR_ARG(zone));
    }
}

void smtp_rbl_check(struct smtp_session *s)
{
    struct smtp_rbl *r = &s->rbl;
    struct finding *found;
    struct str zone = STR("");

    *r = (struct smtp_rbl){.reject = STR(""), .header = STR(""), .redirect = STR("")};
    if (!check_wanted(s, smtp_rbl_wanted(s)))
        return;
    found = ARENA_ARRAY(s->cmd, struct finding, ZONES_MAX);
    uint64_t until = loop_ms() + timeout_ms();
    unsigned n = ask_zones(s, found);
    for (unsigned i = n; i-- > 0;)
        if (found[i].listed)
            zone = found[i].zone->name;
    if (zone.n > 0) {
        /* What Start() put there stands in the place of our words. */
        r->reject = arena_dup(s->arena, global_str(s, "RBLRejectMessage", STR("")));
        r->header = arena_dup(s->arena, global_str(s, "RBLHeader", STR("")));
        react(s, zone);
    }
    if (!hook_present(s->env, HOOK_SMTPSVR_RBLResults))
        return;
    hook_env_set(s->env, "RBLRejectMessage", hv_str(r->reject));
    hook_env_set(s->env, "RBLHeader", hv_str(r->header));
    tell_script(s, found, n, until);
    struct hook_call c = {
        .id = HOOK_SMTPSVR_RBLResults, .env = s->env, .arena = s->cmd, .steps = s->steps};
    struct err e = ERR_INIT;
    if (hook_call(&c, &e) != HOOK_DONE)
        return;
    smtp_hooks_sync(s);
    r->reject = arena_dup(s->arena, global_str(s, "RBLRejectMessage", STR("")));
    r->header = arena_dup(s->arena, global_str(s, "RBLHeader", STR("")));
    if (!check_wanted(s, true)) /* the script took the whole matter off our hands */
        *r = (struct smtp_rbl){.reject = STR(""), .header = STR(""), .redirect = STR("")};
}

bool smtp_rbl_refuses(struct smtp_session *s)
{
    struct str reply = s->rbl.reject;

    if (reply.n == 0 || s->authenticated)
        return false;
    if ((reply.p[0] != '4' && reply.p[0] != '5') || smtp_send_script_reply(s, reply) == 0)
        smtp_reply(s, "550 5.7.1 %.*s", reply.n > 480 ? 480 : (int)reply.n, reply.p);
    if (++s->errors >= (unsigned)setting_int("smtp.max_errors")) {
        smtp_reply(s, "421 4.7.0 %s too many errors, closing", smtp_host_name());
        smtp_close(s);
    }
    return true;
}
