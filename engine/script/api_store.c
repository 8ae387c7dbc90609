/* What scripts may ask the store: SQL as the role moonpost_script, settings, and the address book.
 *
 * All of these wait.  The outside world's failures come back as nil, text, class. */
#include "script/host_int.h"
#include "store/account.h"
#include "store/db.h"
#include "store/setting.h"

static struct str text_arg(lua_State *L, int arg)
{
    struct str s;

    s.p = bytes_check(L, arg, &s.n);
    return s;
}

/* --- SQL
 * --------------------------------------------------------------------------------------------------
 */
static struct db_arg sql_arg(lua_State *L, int index, struct arena *a)
{
    struct str s;

    switch (lua_type(L, index)) {
    case LUA_TNIL:
        return db_text(STR_NONE);
    case LUA_TBOOLEAN:
        if (lua_toboolean(L, index))
            return db_bool(true);
        return db_bool(false);
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            return db_int(lua_tointeger(L, index));
        return (struct db_arg){.type = DB_FLOAT8, .n = lua_tonumber(L, index)};
    default:
        s.p = bytes_check(L, index, &s.n);
        return db_text(arena_dup(a, s));
    }
}

static void push_rows(lua_State *L, const struct rows *r, struct arena *a)
{
    uint32_t columns = rows_columns(r), count = rows_count(r);

    lua_createtable(L, (int)count, 0);
    for (uint32_t i = 0; i < count; i++) {
        lua_createtable(L, 0, (int)columns);
        for (uint32_t c = 0; c < columns; c++) {
            if (rows_null(r, i, c))
                continue;
            struct str s = rows_text(r, i, c, a);
            budget_charge(L, s.n + 32);
            lua_pushlstring(L, s.p ? s.p : "", s.n);
            lua_setfield(L, -2, rows_name(r, c));
        }
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
}

/* VPOP3.PostgresQuery(sql [, parameters]) -> list of rows, each a table of texts by column name
 * (null is left out); nil, text, class when it fails.  parameters: list for $1, $2 ...; cast them
 * in the statement where a number is meant ($1::bigint).  One statement, 2 seconds, 10,000 rows;
 * only management runs may write.  Waits.
 * @since 1.0 */
static int api_query(lua_State *L)
{
    struct err e = ERR_INIT;
    const struct rows *rows = NULL;
    struct str sql = text_arg(L, 1);
    lua_Unsigned n = 0;

    lua_settop(L, 2);
    if (!lua_isnil(L, 2)) {
        luaL_checktype(L, 2, LUA_TTABLE);
        n = lua_rawlen(L, 2);
        luaL_argcheck(L, n <= 100, 2, "too many parameters");
    }
    struct arena *a = scratch_push(L, 4096);
    struct db_arg *args = ARENA_ARRAY(a, struct db_arg, n + 1);
    for (lua_Unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, 2, (lua_Integer)i + 1);
        args[i] = sql_arg(L, lua_gettop(L), a);
        lua_pop(L, 1);
    }
    sql = arena_dup(a, sql);
    struct call *c = budget_await(L, "VPOP3.PostgresQuery");
    int rc = db_script_exec(a, &rows, &e, sql, (unsigned)n, args, c->manage, SCRIPT_SQL_ROWS);
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    push_rows(L, rows, a);
    scratch_free(L, 3);
    return 1;
}

/* --- settings
 * -----------------------------------------------------------------------------------------------
 */
/* VPOP3.GetSetting(name) -> the setting's value as text; nil when there is none of that name, or
 * when it is a secret.  Waits.
 * @since 1.0 */
static int api_setting(lua_State *L)
{
    struct err e = ERR_INIT;
    struct str name = text_arg(L, 1);
    struct setting_info *v = NULL;
    uint32_t n = 0;

    for (size_t i = 0; i < name.n; i++)
        if (name.p[i] == '*' || name.p[i] == '?') {
            lua_pushnil(L);
            return 1;
        }
    struct arena *a = scratch_push(L, 1024);
    struct call *c = budget_await(L, "VPOP3.GetSetting");
    name = arena_lower(a, name);
    int rc = setting_list(a, name, &v, &n, &e);
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0 && e.cls != ERR_NOTFOUND)
        return push_failure(L, &e);
    bool secret = str_find(name, STR("password")) >= 0 || str_find(name, STR("secret")) >= 0 ||
                  str_ends(name, STR("_key"));
    if (n != 1 || rc != 0 || secret)
        lua_pushnil(L);
    else
        lua_pushlstring(L,
                        v[0].value.p      ? v[0].value.p
                        : v[0].fallback.p ? v[0].fallback.p
                                          : "",
                        v[0].value.p ? v[0].value.n : v[0].fallback.n);
    scratch_free(L, -2);
    return 1;
}

/* --- addresses
 * ------------------------------------------------------------------------------------------------
 */
static struct str lower_arg(lua_State *L, int arg, struct arena *a)
{
    struct str s = text_arg(L, arg);

    luaL_argcheck(L, s.n <= ADDRESS_MAX, arg, "address too long");
    return arena_lower(a, s);
}

/* mail.index.domain_is_local(domain) -> boolean; nil, text, class when that cannot be told now.
 * Waits.
 * @since 1.0 */
static int api_domain(lua_State *L)
{
    struct err e = ERR_INIT;
    bool local = false;
    struct arena *a = scratch_push(L, 512);
    struct str domain = lower_arg(L, 1, a);
    struct call *c = budget_await(L, "mail.index.domain_is_local");
    int rc = domain_is_local(domain, &local, &e);

    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_pushboolean(L, local);
    scratch_free(L, -2);
    return 1;
}

static void set_text(lua_State *L, const char *name, struct str s)
{
    lua_pushlstring(L, s.p ? s.p : "", s.n);
    lua_setfield(L, -2, name);
}

static void set_bool(lua_State *L, const char *name, bool b)
{
    lua_pushboolean(L, b);
    lua_setfield(L, -2, name);
}

/* mail.index.account(name) -> table {id, name, enabled, admin, expired, may_send_remote,
 * may_receive_remote, forward, assistant, use_forward, redirect_assistant}; nil, text, "notfound"
 * when there is no such user, nil, text, class when that cannot be told now.  Waits.
 * @since 1.0 */
static int api_account(lua_State *L)
{
    struct err e = ERR_INIT;
    struct account x;
    struct arena *a = scratch_push(L, 1024);
    struct str name = lower_arg(L, 1, a);
    struct call *c = budget_await(L, "mail.index.account");
    int rc = account_find(name, &x, a, &e);

    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_createtable(L, 0, 12);
    lua_pushinteger(L, (lua_Integer)x.id);
    lua_setfield(L, -2, "id");
    set_text(L, "name", x.name);
    set_bool(L, "enabled", x.enabled);
    set_bool(L, "admin", x.admin);
    set_bool(L, "expired", x.expired);
    set_bool(L, "may_send_remote", x.may_send_remote);
    set_bool(L, "may_receive_remote", x.may_receive_remote);
    set_text(L, "forward", x.forward);
    set_text(L, "assistant", x.assistant);
    set_bool(L, "use_forward", x.use_forward);
    set_bool(L, "redirect_assistant", x.redirect_assistant);
    scratch_free(L, -2);
    return 1;
}

/* mail.index.mappings(address [, kind [, tilde]]) -> list of {pattern, target} that match, in
 * order; nil, text, class when that cannot be told now.  kind: "smtp" (default), "pop3" or "from";
 * tilde = true asks for the ~@domain mappings.  Waits.
 * @since 1.0 */
static int api_mappings(lua_State *L)
{
    static const char *const kinds[] = {"smtp", "pop3", "from", NULL};
    struct err e = ERR_INIT;
    struct mapping *v = NULL;
    uint32_t n = 0;
    int kind = luaL_checkoption(L, 2, "smtp", kinds);
    bool tilde = lua_toboolean(L, 3);
    struct arena *a = scratch_push(L, 1024);
    struct str address = lower_arg(L, 1, a);
    struct call *c = budget_await(L, "mail.index.mappings");
    int rc = mapping_find(address, (enum mapping_kind)kind, tilde, a, &v, &n, &e);

    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_createtable(L, (int)n, 0);
    for (uint32_t i = 0; i < n; i++) {
        lua_createtable(L, 0, 2);
        set_text(L, "pattern", v[i].pattern);
        set_text(L, "target", v[i].target);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    scratch_free(L, -2);
    return 1;
}

/* mail.index.resolve(address [, local_sender]) -> list of targets by the rules of the address book:
 * mappings, then users and groups, then ~@domain mappings (see routing.resolve for their form);
 * nil, text, class when that cannot be told now.  Waits.
 * @since 1.0 */
static int api_resolve(lua_State *L)
{
    static const char *const kinds[] = {[RESOLVE_LOCAL] = "local",
                                        [RESOLVE_REMOTE] = "remote",
                                        [RESOLVE_UNKNOWN] = "unknown",
                                        [RESOLVE_DISCARD] = "discard"};
    struct err e = ERR_INIT;
    struct resolve_target *v = NULL;
    uint32_t n = 0;
    bool inside = lua_toboolean(L, 2);
    struct arena *a = scratch_push(L, 1024);
    struct str address = text_arg(L, 1);

    luaL_argcheck(L, address.n <= ADDRESS_MAX, 1, "address too long");
    address = arena_dup(a, address);
    struct call *c = budget_await(L, "mail.index.resolve");
    int rc = address_resolve(address, inside, a, &v, &n, &e);
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_createtable(L, (int)n, 0);
    for (uint32_t i = 0; i < n; i++) {
        lua_createtable(L, 0, 3);
        set_text(L, "kind", str_of(kinds[v[i].what]));
        if (v[i].what == RESOLVE_LOCAL)
            set_text(L, "user", v[i].address);
        else if (v[i].what != RESOLVE_DISCARD)
            set_text(L, "address", v[i].address);
        if (v[i].what == RESOLVE_REMOTE)
            set_text(L, "route", v[i].route);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    scratch_free(L, -2);
    return 1;
}

/* VPOP3.IsLocalAddress(address) -> boolean: does mail to it end here?  nil, text, class when that
 * cannot be told now.  Waits.
 * @since 1.0 */
static int api_is_local(lua_State *L)
{
    struct err e = ERR_INIT;
    struct resolve_target *v = NULL;
    uint32_t n = 0;
    struct arena *a = scratch_push(L, 1024);
    struct str address = lower_arg(L, 1, a);
    struct call *c = budget_await(L, "VPOP3.IsLocalAddress");
    int rc = address_resolve(address, true, a, &v, &n, &e);
    bool local = false;

    for (uint32_t i = 0; rc == 0 && i < n; i++)
        local |= v[i].what == RESOLVE_LOCAL || v[i].what == RESOLVE_DISCARD;
    budget_awaited(L, c);
    budget_query(L, c);
    if (rc != 0)
        return push_failure(L, &e);
    lua_pushboolean(L, local);
    scratch_free(L, -2);
    return 1;
}

/* In a wait: the kind of an address, or NULL with the error. */
static const char *address_type(struct str address, struct arena *a, struct err *e)
{
    struct mapping *m;
    struct resolve_target *v;
    struct account x;
    uint32_t n;
    bool local = true;
    ptrdiff_t at = str_rchr(address, '@');
    struct str user = at < 0 ? address : str_head(address, (size_t)at);

    if (address.n == 0 || user.n == 0)
        return "Invalid";
    if (mapping_find(address, MAPPING_SMTP, false, a, &m, &n, e) != 0)
        return NULL;
    if (n > 0)
        return "Mapping";
    if (at >= 0 && domain_is_local(str_from(address, (size_t)at + 1), &local, e) != 0)
        return NULL;
    if (local) {
        if (account_find(user, &x, a, e) == 0)
            return "User";
        if (e->cls != ERR_NOTFOUND)
            return NULL;
        if (str_eqz(user, "postmaster") || str_eqz(user, "abuse"))
            return "Postmaster";
        if (str_eqz(user, "listserver") || str_eqz(user, "mailer_daemon"))
            return "Special";
    }
    if (mapping_find(address, MAPPING_SMTP, true, a, &m, &n, e) != 0)
        return NULL;
    if (n > 0)
        return "UnknownMapping";
    if (!local)
        return "Remote";
    if (address_resolve(address, true, a, &v, &n, e) != 0)
        return NULL;
    return n > 0 && v[0].what != RESOLVE_UNKNOWN ? "List" : "Invalid";
}

/* VPOP3.AddressType(address) -> "Mapping", "User", "List", "Special", "Postmaster",
 * "UnknownMapping", "Remote" or "Invalid"; nil, text, class when that cannot be told now.  Waits.
 * @since 1.0 */
static int api_address_type(lua_State *L)
{
    struct err e = ERR_INIT;
    struct arena *a = scratch_push(L, 1024);
    struct str address = lower_arg(L, 1, a);
    struct call *c = budget_await(L, "VPOP3.AddressType");
    const char *type = address_type(address, a, &e);

    budget_awaited(L, c);
    budget_query(L, c);
    if (type == NULL)
        return push_failure(L, &e);
    lua_pushstring(L, type);
    scratch_free(L, -2);
    return 1;
}

void api_store_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"PostgresQuery", api_query},
        {"GetSetting", api_setting},
        {"IsLocalAddress", api_is_local},
        {"AddressType", api_address_type},
        {NULL, NULL},
    };
    static const luaL_Reg index[] = {
        {"domain_is_local", api_domain},
        {"account", api_account},
        {"mappings", api_mappings},
        {"resolve", api_resolve},
        {NULL, NULL},
    };

    luaL_setfuncs(L, functions, 0);
    luaL_newlib(L, index);
    lua_setfield(L, -2, "index");
}
