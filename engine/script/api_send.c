/* What scripts may do to the world: sending messages, blocking clients, asking the DNS, and who is
 * in which group.
 *
 * Messages made here have the null return path and are delivered without hooks, so that no script
 * can make mail go in a circle. */
#include "core/limits.h"
#include "core/shm.h"
#include "mail/build.h"
#include "mail/date.h"
#include "mail/encode.h"
#include "net/dns.h"
#include "script/host_int.h"
#include "store/account.h"
#include "store/db.h"
#include "store/deliver.h"
#include "store/setting.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <unistd.h>

/* --- SendMessage
 * ------------------------------------------------------------------------------------ */
struct letter {
    struct str to, from, subject, text, html;
    uint64_t body; /* what the store named it */
    unsigned receivers;
};

static const char *host_name(char *room, size_t n)
{
    struct str set = setting_str("server.name");

    if (set.n > 0)
        snprintf(room, n, "%.*s", STR_ARG(set));
    else if (gethostname(room, n) != 0)
        snprintf(room, n, "localhost");
    return room;
}

/* Header section and body of the message. */
static void compose(struct arena *a, const struct letter *l, struct str *head_r, struct str *body_r)
{
    static const char *const plain = "text/plain; charset=utf-8", *const html =
                                                                      "text/html; charset=utf-8";
    char name[256];
    struct buf h, b;
    struct str host = str_of(host_name(name, sizeof name)), boundary = STR_NONE;
    struct str from = l->from;

    if (from.n == 0)
        from = arena_printf(a, "postmaster@%.*s", STR_ARG(host));
    buf_init(&h, HEADER_MAX);
    buf_init(&b, MESSAGE_HOOK_MAX * 2u);
    build_field(&h, "From", from);
    build_field(&h, "To", l->to);
    build_text_field(&h, "Subject", l->subject);
    build_date(&h, date_now(), 0);
    build_field(&h, "Message-ID", build_message_id(a, host));
    build_field(&h, "Auto-Submitted", STR("auto-generated"));
    build_field(&h, "MIME-Version", STR("1.0"));
    if (l->html.n > 0 && l->text.n > 0) {
        boundary = build_boundary(a);
        build_field(&h, "Content-Type",
                    arena_printf(a, "multipart/alternative; boundary=\"%.*s\"", STR_ARG(boundary)));
    } else {
        build_field(&h, "Content-Type", str_of(l->html.n > 0 ? html : plain));
        build_field(&h, "Content-Transfer-Encoding", STR("base64"));
    }
    buf_addz(&h, "\r\n");
    for (int part = 0; part < 2; part++) {
        struct str s = part ? l->html : l->text;
        if (s.n == 0 && (part == 1 || l->html.n > 0))
            continue;
        if (boundary.p != NULL)
            buf_printf(&b,
                       "--%.*s\r\nContent-Type: %s\r\nContent-Transfer-Encoding: base64\r\n\r\n",
                       STR_ARG(boundary), part ? html : plain);
        buf_add(&b, base64_encode_lines(a, s));
        buf_addz(&b, "\r\n");
    }
    if (boundary.p != NULL)
        buf_printf(&b, "--%.*s--\r\n", STR_ARG(boundary));
    *head_r = arena_dup(a, buf_str(&h));
    *body_r = arena_dup(a, buf_str(&b));
    buf_free(&h);
    buf_free(&b);
}

struct receivers {
    struct arena *a;
    struct deliver_target locals[RECEIVERS_SENT_MAX];
    struct deliver_remote remotes[RECEIVERS_SENT_MAX];
    uint32_t local_count, remote_count;
};

static int add_user(struct receivers *r, struct str name, struct err *e)
{
    struct account x;

    if (account_find(name, &x, r->a, e) != 0)
        return -1;
    for (uint32_t i = 0; i < r->local_count; i++)
        if (r->locals[i].mailbox == x.inbox)
            return 0;
    if (r->local_count == RECEIVERS_SENT_MAX)
        return err_set(e, ERR_LIMIT, "more than %d recipients", RECEIVERS_SENT_MAX);
    r->locals[r->local_count++] = (struct deliver_target){.account = x.id, .mailbox = x.inbox};
    return 0;
}

static int add_receiver(struct receivers *r, struct str to, struct err *e)
{
    struct resolve_target *v;
    uint32_t n;

    if (to.n > ADDRESS_MAX)
        return err_set(e, ERR_SYNTAX, "address too long");
    if (str_chr(to, '@') < 0)
        return add_user(r, arena_lower(r->a, to), e);
    if (address_resolve(to, true, r->a, &v, &n, e) != 0)
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        switch (v[i].what) {
        case RESOLVE_LOCAL:
            if (add_user(r, v[i].address, e) != 0)
                return -1;
            break;
        case RESOLVE_REMOTE:
            if (r->remote_count == RECEIVERS_SENT_MAX)
                return err_set(e, ERR_LIMIT, "more than %d recipients", RECEIVERS_SENT_MAX);
            r->remotes[r->remote_count++] = (struct deliver_remote){.recipient = v[i].address,
                                                                    .route = v[i].route,
                                                                    .notify = STR("NEVER"),
                                                                    .orcpt = STR("")};
            break;
        case RESOLVE_UNKNOWN:
            return err_set(e, ERR_NOTFOUND, "there is no %.*s", STR_ARG(to));
        case RESOLVE_DISCARD:
            break;
        }
    }
    return 0;
}

static int send_letter(struct arena *a, struct letter *l, struct err *e)
{
    struct receivers *r = ARENA_NEW(a, struct receivers);
    struct str list = l->to, head, body;

    *r = (struct receivers){.a = a};
    while (list.n > 0) {
        struct str one = str_trim(str_cut(&list, ';'));
        if (one.n > 0 && add_receiver(r, one, e) != 0)
            return -1;
    }
    l->receivers = r->local_count + r->remote_count;
    if (l->receivers == 0)
        return 0;
    compose(a, l, &head, &body);
    struct stage *stage = stage_new();
    stage_head(stage, head);
    int rc = stage_add(stage, body, e);
    if (rc == 0) {
        struct str path = STR("Return-Path: <>\r\n");
        struct deliver_head heads[2] = {
            {.bytes = arena_printf(a, "%.*s%.*s", STR_ARG(path), STR_ARG(head)),
             .ours = (uint32_t)path.n},
            {.bytes = head}};
        bool both = r->local_count > 0 && r->remote_count > 0;
        for (uint32_t i = 0; i < r->remote_count; i++)
            r->remotes[i].head = both ? 1 : 0;
        struct deliver_message m = {.stage = stage,
                                    .sender = STR(""),
                                    .heads = r->local_count > 0 ? heads : heads + 1,
                                    .head_count = both ? 2 : 1,
                                    .targets = r->locals,
                                    .target_count = r->local_count,
                                    .remotes = r->remotes,
                                    .remote_count = r->remote_count,
                                    .trace = STR(""),
                                    .subject = l->subject,
                                    .kind = "script"};
        rc = deliver_commit(&m, &l->body, e);
    }
    stage_free(&stage);
    return rc;
}

static struct str text_field(lua_State *L, const char *name, struct arena *a)
{
    struct str s = STR("");

    lua_getfield(L, 1, name);
    if (!lua_isnil(L, -1)) {
        s.p = bytes_check(L, -1, &s.n);
        if (s.n > SCRIPT_SEND_MAX)
            luaL_error(L, "SendMessage: field '%s' is too long", name);
        budget_charge(L, s.n * 4);
        s = arena_dup(a, s);
    }
    lua_pop(L, 1);
    return s;
}

/* VPOP3.SendMessage{to=, from=, subject=, text=, html=} -> number of recipients it went to; nil,
 * text, class when it could not be sent.  to: `;` list of addresses and users; from: an address,
 * else the postmaster's; text and html: UTF-8.  It is delivered to mailboxes, or queued, as it is,
 * without hooks and forwardings, with the null return path; nobody is told when it cannot be
 * delivered.  Waits.
 * @since 1.0 */
static int api_send(lua_State *L)
{
    struct err e = ERR_INIT;
    struct letter l = {0};

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    struct arena *a = scratch_push(L, 4096);
    l.to = text_field(L, "to", a);
    l.from = text_field(L, "from", a);
    l.subject = text_field(L, "subject", a);
    l.text = text_field(L, "text", a);
    l.html = text_field(L, "html", a);
    luaL_argcheck(L, str_trim(l.to).n > 0, 1, "field 'to' is missing");
    struct call *c = budget_await(L, "VPOP3.SendMessage");
    if (!c->manage && ++c->sent > SCRIPT_SENDS) {
        budget_awaited(L, c);
        return luaL_error(L, "more than %d messages sent in one call", SCRIPT_SENDS);
    }
    int rc = send_letter(a, &l, &e);
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_pushinteger(L, l.receivers);
    scratch_free(L, 2);
    return 1;
}

/* --- BlockIP
 * ------------------------------------------------------------------------------------------ */
/* VPOP3.BlockIP(address, minutes) -> true; nil, text, class when it is no address or the list is
 * full.  No service of this machine talks to that client (IPv6: to its /64) for so long; 0 lifts
 * the block.
 * @since 1.0 */
static int api_block(lua_State *L)
{
    const char *text = luaL_checkstring(L, 1);
    lua_Integer minutes = luaL_checkinteger(L, 2);
    struct sockaddr_storage peer = {0};
    struct err e = ERR_INIT;

    luaL_argcheck(L, minutes >= 0 && minutes <= 999999999, 2, "0 to 999,999,999 minutes");
    if (inet_pton(AF_INET, text, &((struct sockaddr_in *)&peer)->sin_addr) == 1) {
        peer.ss_family = AF_INET;
    } else if (inet_pton(AF_INET6, text, &((struct sockaddr_in6 *)&peer)->sin6_addr) == 1) {
        peer.ss_family = AF_INET6;
    } else {
        err_set(&e, ERR_SYNTAX, "'%.60s' is no IP address", text);
        return push_failure(L, &e);
    }
    if (!shm_block(&peer, (unsigned)minutes)) {
        err_set(&e, ERR_LIMIT, "the block list is full");
        return push_failure(L, &e);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* --- LookupDNS
 * ------------------------------------------------------------------------------------------ */
/* VPOP3.LookupDNS(type, name) -> list of texts: addresses, host names (MX by preference), or TXT
 * records; nil, text, class: "notfound" when there is none, "temp" when it cannot be told now.
 * type: A, AAAA, MX, PTR or TXT; for PTR an IP address will do as name.  Waits.
 * @since 1.0 */
static int api_dns(lua_State *L)
{
    static const char *const names[] = {"A", "AAAA", "MX", "PTR", "TXT", NULL};
    static const enum dns_type types[] = {DNS_A, DNS_AAAA, DNS_MX, DNS_PTR, DNS_TXT};
    struct err e = ERR_INIT;
    struct dns_answer r = {0};
    struct sockaddr_storage peer = {0};
    char upper[8] = "";
    const char *given = luaL_checkstring(L, 1), *name = luaL_checkstring(L, 2);

    for (size_t i = 0; i < sizeof upper - 1 && given[i] != '\0'; i++)
        upper[i] = given[i] >= 'a' && given[i] <= 'z' ? (char)(given[i] - 32) : given[i];
    lua_settop(L, 2);
    lua_pushstring(L, upper);
    int type = luaL_checkoption(L, 3, NULL, names);
    struct arena *a = scratch_push(L, 4096);
    if (types[type] == DNS_PTR) {
        if (inet_pton(AF_INET, name, &((struct sockaddr_in *)&peer)->sin_addr) == 1)
            peer.ss_family = AF_INET;
        else if (inet_pton(AF_INET6, name, &((struct sockaddr_in6 *)&peer)->sin6_addr) == 1)
            peer.ss_family = AF_INET6;
        if (peer.ss_family != 0)
            name = arena_dupz(a, dns_reverse_name(a, &peer, STR("")));
    }
    struct call *c = budget_await(L, "VPOP3.LookupDNS");
    int rc = dns_lookup(types[type], name, a, &r, &e);
    budget_awaited(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_createtable(L, (int)r.count, 0);
    for (uint32_t i = 0; i < r.count; i++) {
        struct str s = r.records[i].text;
        lua_pushlstring(L, s.p ? s.p : "", s.n);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    scratch_free(L, 4);
    return 1;
}

/* --- GetUserGroup
 * ------------------------------------------------------------------------------------------ */
/* VPOP3.GetUserGroup(user) -> name of the first group (by name) the user was put into; "" when
 * there is none; nil, text, class when that cannot be told now.  Waits.
 * @since 1.0 */
static int api_group(lua_State *L)
{
    struct err e = ERR_INIT;
    const struct rows *rows = NULL;
    struct str name;

    name.p = bytes_check(L, 1, &name.n);
    luaL_argcheck(L, name.n <= ADDRESS_MAX, 1, "name too long");
    struct arena *a = scratch_push(L, 1024);
    name = arena_lower(a, name);
    struct call *c = budget_await(L, "VPOP3.GetUserGroup");
    int rc = db_exec(a, &rows, &e,
                     "select g.name from account a join group_member m on m.account = a.id"
                     " join user_group g on g.id = m.user_group where a.name = $1"
                     " order by g.name limit 1",
                     DB_ARGS(db_text(name)));
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    struct str group = rows_count(rows) > 0 ? rows_str(rows, 0, 0) : STR("");
    lua_pushlstring(L, group.p ? group.p : "", group.n);
    scratch_free(L, -2);
    return 1;
}

void api_send_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"SendMessage", api_send}, {"BlockIP", api_block},      {"block_ip", api_block},
        {"LookupDNS", api_dns},    {"GetUserGroup", api_group}, {NULL, NULL},
    };

    luaL_setfuncs(L, functions, 0);
}
