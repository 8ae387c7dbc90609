/* The base library as scripts see it: nothing reaches the file system, the process or another
 * environment, and nothing survives a kill.
 *
 * Everything environments have in common is a frozen proxy: an empty table whose metatable leads to
 * the real one and refuses writes; raw access is ours and knows proxies. */
#include "core/log.h"
#include "script/host_int.h"

#include <lualib.h>
#include <stdlib.h>

/* Its address is the key under which a proxy's metatable holds the real table. */
static const char frozen_key;

/* --- frozen tables
 * ---------------------------------------------------------------------------------- */
bool frozen_real(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TTABLE || !lua_getmetatable(L, index))
        return false;
    if (lua_rawgetp(L, -1, &frozen_key) != LUA_TTABLE) {
        lua_pop(L, 2);
        return false;
    }
    lua_remove(L, -2);
    return true;
}

static int frozen_write(lua_State *L)
{
    return luaL_error(L, "attempt to change a read-only table (field '%s')",
                      luaL_tolstring(L, 2, NULL));
}

static int l_next(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    if (frozen_real(L, 1))
        lua_replace(L, 1);
    if (lua_next(L, 1))
        return 2;
    lua_pushnil(L);
    return 1;
}

static int frozen_pairs(lua_State *L)
{
    lua_pushcfunction(L, l_next);
    lua_pushvalue(L, 1);
    lua_pushnil(L);
    return 3;
}

static int frozen_len(lua_State *L)
{
    if (frozen_real(L, 1))
        lua_pushinteger(L, (lua_Integer)lua_rawlen(L, -1));
    else
        lua_pushinteger(L, 0);
    return 1;
}

void freeze_push(lua_State *L, int index)
{
    index = lua_absindex(L, index);
    luaL_checkstack(L, 8, NULL);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        if (lua_istable(L, -1)) {
            if (frozen_real(L, -1)) {
                lua_pop(L, 1);
            } else {
                freeze_push(L, -1);
                lua_pushvalue(L, -3);
                lua_insert(L, -2);
                lua_rawset(L, index);
            }
        }
        lua_pop(L, 1);
    }
    lua_newtable(L);
    lua_createtable(L, 0, 6);
    lua_pushvalue(L, index);
    lua_rawsetp(L, -2, &frozen_key);
    lua_pushvalue(L, index);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, frozen_write);
    lua_setfield(L, -2, "__newindex");
    lua_pushcfunction(L, frozen_pairs);
    lua_setfield(L, -2, "__pairs");
    lua_pushcfunction(L, frozen_len);
    lua_setfield(L, -2, "__len");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
}

/* --- raw access and metatables
 * ------------------------------------------------------------------------ */
static int l_rawget(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    lua_settop(L, 2);
    if (frozen_real(L, 1))
        lua_replace(L, 1);
    lua_rawget(L, 1);
    return 1;
}

static int l_rawset(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checkany(L, 2);
    luaL_checkany(L, 3);
    lua_settop(L, 3);
    if (frozen_real(L, 1))
        return frozen_write(L);
    lua_rawset(L, 1);
    return 1;
}

static int l_setmetatable(lua_State *L)
{
    int t = lua_type(L, 2);

    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_argexpected(L, t == LUA_TNIL || t == LUA_TTABLE, 2, "nil or table");
    if (luaL_getmetafield(L, 1, "__metatable") != LUA_TNIL)
        return luaL_error(L, "cannot change a protected metatable");
    if (t == LUA_TTABLE) {
        /* A finalizer would run in another task's time, outside of any budget. */
        lua_pushliteral(L, "__gc");
        if (lua_rawget(L, 2) != LUA_TNIL)
            return luaL_error(L, "finalizers (__gc) are not allowed");
        lua_pop(L, 1);
    }
    lua_settop(L, 2);
    lua_setmetatable(L, 1);
    return 1;
}

static int l_tostring(lua_State *L)
{
    luaL_checkany(L, 1);
    budget_stack(L, SCRIPT_STACK_MIN);
    luaL_tolstring(L, 1, NULL);
    return 1;
}

/* --- protected calls: a kill goes through them
 * --------------------------------------------------------- */
static int finish_pcall(lua_State *L, int status, lua_KContext extra)
{
    budget_check(L);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_pushvalue(L, -2);
        return 2;
    }
    return lua_gettop(L) - (int)extra;
}

static int l_pcall(lua_State *L)
{
    luaL_checkany(L, 1);
    budget_stack(L, SCRIPT_STACK_MIN);
    lua_pushboolean(L, 1);
    lua_insert(L, 1);
    return finish_pcall(L, lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, finish_pcall), 0);
}

/* Between Lua and a script's message handler: while an error is being raised from the count hook,
 * hooks are off, and a handler that loops could not be stopped. */
static int handler(lua_State *L)
{
    if (host_call != NULL && host_call->kill != KILL_NO)
        return 1;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

static int l_xpcall(lua_State *L)
{
    int n = lua_gettop(L);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    budget_stack(L, SCRIPT_STACK_MIN);
    lua_pushvalue(L, 2);
    lua_pushcclosure(L, handler, 1);
    lua_replace(L, 2);
    lua_pushboolean(L, 1);
    lua_pushvalue(L, 1);
    lua_rotate(L, 3, 2);
    return finish_pcall(L, lua_pcallk(L, n - 2, LUA_MULTRET, 2, 2, finish_pcall), 2);
}

/* --- coroutines
 * ------------------------------------------------------------------------------------------ */
/* Number of results on top of L, or -1 with the error's value there. */
static int resume(lua_State *L, lua_State *co, int nargs)
{
    int results;

    budget_stack(L, SCRIPT_STACK_MIN);
    if (!lua_checkstack(co, nargs)) {
        lua_pushliteral(L, "too many arguments to resume");
        return -1;
    }
    lua_xmove(L, co, nargs);
    if (host_call != NULL)
        host_call->running = co;
    lua_sethook(co, budget_tick, LUA_MASKCOUNT,
                memory_tick(host_call && host_call->env ? &host_call->env->purse : NULL));
    int status = lua_resume(co, L, nargs, &results);
    if (host_call != NULL)
        host_call->running = L;
    budget_check(L);
    if (status == LUA_OK || status == LUA_YIELD) {
        if (!lua_checkstack(L, results + 1)) {
            lua_pop(co, results);
            lua_pushliteral(L, "too many results to resume");
            return -1;
        }
        lua_xmove(co, L, results);
        return results;
    }
    lua_xmove(co, L, 1);
    return -1;
}

static lua_State *check_coroutine(lua_State *L)
{
    lua_State *co = lua_tothread(L, 1);

    luaL_argexpected(L, co != NULL, 1, "coroutine");
    return co;
}

static int co_resume(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    int n = resume(L, co, lua_gettop(L) - 1);

    if (n < 0) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushboolean(L, 1);
    lua_insert(L, -(n + 1));
    return n + 1;
}

static int wrap_call(lua_State *L)
{
    lua_State *co = lua_tothread(L, lua_upvalueindex(1));
    int n = resume(L, co, lua_gettop(L));

    if (n >= 0)
        return n;
    int status = lua_status(co);
    if (status != LUA_OK && status != LUA_YIELD) {
        lua_resetthread(co);
        budget_check(L);
    }
    if (lua_type(L, -1) == LUA_TSTRING) {
        luaL_where(L, 1);
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

static int co_create(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_State *co = lua_newthread(L);
    lua_pushvalue(L, 1);
    lua_xmove(L, co, 1);
    return 1;
}

static int co_wrap(lua_State *L)
{
    co_create(L);
    lua_pushcclosure(L, wrap_call, 1);
    return 1;
}

static int co_close(lua_State *L)
{
    lua_State *co = check_coroutine(L);
    lua_Debug ar;
    int status = lua_status(co);
    bool dead = status != LUA_OK && status != LUA_YIELD;

    if (co == L || (status == LUA_OK && lua_getstack(co, 0, &ar)))
        return luaL_error(L, "cannot close a running coroutine");
    budget_stack(L, SCRIPT_STACK_MIN);
    if (host_call != NULL)
        host_call->running = co;
    int closed = lua_resetthread(co);
    if (host_call != NULL)
        host_call->running = L;
    budget_check(L);
    if (closed == LUA_OK || dead) {
        lua_pushboolean(L, closed == LUA_OK);
        return 1;
    }
    lua_pushboolean(L, 0);
    lua_xmove(co, L, 1);
    return 2;
}

/* --- load
 * ------------------------------------------------------------------------------------------------
 */
static int load_text(lua_State *L, const char *p, size_t n, const char *name, int env)
{
    if (n > SCRIPT_LOAD_MAX) {
        lua_pushnil(L);
        lua_pushfstring(L, "text is longer than %d bytes", (int)SCRIPT_LOAD_MAX);
        return 2;
    }
    budget_stack(L, SCRIPT_STACK_PARSE);
    budget_charge(L, n * 8);
    if (luaL_loadbufferx(L, p, n, name, "t") != LUA_OK) {
        budget_check(L);
        lua_pushnil(L);
        lua_insert(L, -2);
        return 2;
    }
    lua_pushvalue(L, env);
    if (lua_setupvalue(L, -2, 1) == NULL)
        lua_pop(L, 1);
    return 1;
}

/* load(text | function [, name [, mode [, env]]]); upvalue 1: the layer's _ENV. */
static int l_load(lua_State *L)
{
    bool own = !lua_isnone(L, 4);
    size_t n;

    lua_settop(L, 4);
    if (lua_type(L, 1) == LUA_TFUNCTION) {
        luaL_Buffer b;
        size_t total = 0;
        budget_stack(L, SCRIPT_STACK_MIN);
        luaL_buffinit(L, &b);
        for (;;) {
            lua_pushvalue(L, 1);
            lua_call(L, 0, 1);
            if (lua_isnil(L, -1) || (lua_isstring(L, -1) && lua_rawlen(L, -1) == 0))
                break;
            if (!lua_isstring(L, -1))
                return luaL_error(L, "reader function must return a string");
            total += lua_rawlen(L, -1);
            if (total > SCRIPT_LOAD_MAX)
                return luaL_error(L, "text is longer than %d bytes", (int)SCRIPT_LOAD_MAX);
            luaL_addvalue(&b);
        }
        lua_pop(L, 1);
        luaL_pushresult(&b);
        lua_replace(L, 1);
    }
    const char *p = bytes_check(L, 1, &n);
    const char *name = luaL_optstring(L, 2, "=(load)");
    return load_text(L, p, n, name, own ? 4 : lua_upvalueindex(1));
}

/* --- require
 * ---------------------------------------------------------------------------------------------- */
static const char stdlib_key;

static int require_stdlib(lua_State *L, struct chunk *c)
{
    if (lua_rawgetp(L, LUA_REGISTRYINDEX, &stdlib_key) != LUA_TTABLE) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_rawsetp(L, LUA_REGISTRYINDEX, &stdlib_key);
    }
    int list = lua_gettop(L);
    if (lua_getfield(L, list, c->name) != LUA_TNIL)
        return 1;
    lua_pop(L, 1);
    /* Its own globals; it sees the common ones. */
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    host_push_common(L);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    chunk_push(L, c, -1);
    lua_call(L, 0, 1);
    if (lua_istable(L, -1))
        freeze_push(L, -1);
    lua_pushvalue(L, -1);
    lua_setfield(L, list, c->name);
    return 1;
}

/* Upvalues: the layer's _ENV, the modules it has loaded. */
static int l_require(lua_State *L)
{
    size_t n;
    const char *given = luaL_checklstring(L, 1, &n);
    char name[112], path[112];
    struct chunk *c = NULL;

    lua_settop(L, 1);
    if (lua_getfield(L, lua_upvalueindex(2), given) == LUA_TBOOLEAN && !lua_toboolean(L, -1))
        return luaL_error(L, "module '%s' requires itself", given);
    if (!lua_isnil(L, -1))
        return 1;
    lua_pop(L, 1);
    if (!chunk_name(str_make(given, n), name, sizeof name))
        return luaL_error(L, "'%s' is no module name", given);
    memcpy(path, name, sizeof path);
    for (char *p = path; *p != '\0'; p++)
        if (*p == '.')
            *p = '/';
    struct release *r = host_call && host_call->env ? host_call->env->release : NULL;
    if (r != NULL && (c = release_find(r, str_of(name))) == NULL)
        c = release_find(r, str_of(path));
    budget_stack(L, SCRIPT_STACK_MIN);
    lua_pushboolean(L, 0);
    lua_setfield(L, lua_upvalueindex(2), given);
    if (c != NULL) {
        lua_pushvalue(L, lua_upvalueindex(1));
        chunk_push(L, c, -1);
        lua_pushvalue(L, 1);
        lua_call(L, 1, 1);
    } else if ((c = stdlib_find(str_of(name))) != NULL || (c = stdlib_find(str_of(path))) != NULL) {
        require_stdlib(L, c);
    } else {
        lua_pushnil(L);
        lua_setfield(L, lua_upvalueindex(2), given);
        return luaL_error(L, "module '%s' not found among the site's scripts and in stdlib", given);
    }
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_pushboolean(L, 1);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, lua_upvalueindex(2), given);
    return 1;
}

/* --- print, collectgarbage, os
 * ------------------------------------------------------------------------------ */
static int l_print(lua_State *L)
{
    luaL_Buffer b;
    int n = lua_gettop(L);
    struct call *c = host_call;
    struct str text;

    budget_stack(L, SCRIPT_STACK_MIN);
    luaL_buffinit(L, &b);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&b, '\t');
        luaL_tolstring(L, i, NULL);
        luaL_addvalue(&b);
    }
    luaL_addchar(&b, '\n');
    luaL_pushresult(&b);
    text.p = lua_tolstring(L, -1, &text.n);
    budget_output(L, text.n);
    if (c == NULL)
        return 0;
    if (c->print != NULL)
        c->print(c->print_ctx, text);
    else
        log_info("script", "%s: %.*s", c->env ? c->env->script : "?", (int)text.n - 1, text.p);
    return 0;
}

static int l_collectgarbage(lua_State *L)
{
    static const char *const options[] = {"collect",  "count",      "step",        "isrunning",
                                          "stop",     "restart",    "incremental", "generational",
                                          "setpause", "setstepmul", NULL};

    switch (luaL_checkoption(L, 1, "collect", options)) {
    case 1:
        lua_pushnumber(
            L, host_call && host_call->env ? (lua_Number)host_call->env->purse.used / 1024.0 : 0.0);
        break;
    case 2:
    case 3:
        lua_pushboolean(L, 1);
        break;
    case 6:
    case 7:
        lua_pushliteral(L, "incremental");
        break;
    default:
        lua_pushinteger(L, 0);
        break;
    }
    return 1;
}

/* Upvalue: the stock function.  A long format would keep strftime busy for seconds. */
static int l_date(lua_State *L)
{
    if (lua_isstring(L, 1) && lua_rawlen(L, 1) > 500)
        return luaL_argerror(L, 1, "format too long");
    int n = lua_gettop(L) > 2 ? 2 : lua_gettop(L);
    lua_settop(L, n);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, 1);
    return 1;
}

/* Moves the named fields of the table on top into the table below it. */
static void keep(lua_State *L, const char *const *names)
{
    for (; *names != NULL; names++) {
        lua_getfield(L, -1, *names);
        lua_setfield(L, -3, *names);
    }
    lua_pop(L, 1);
}

void sandbox_open(lua_State *L)
{
    static const char *const base[] = {"assert",   "error",    "getmetatable", "ipairs",
                                       "pairs",    "rawequal", "rawlen",       "select",
                                       "tonumber", "type",     "_VERSION",     NULL};
    static const char *const co[] = {"isyieldable", "running", "status", "yield", NULL};
    static const char *const os[] = {"clock", "difftime", "time", NULL};
    static const luaL_Reg ours[] = {
        {"next", l_next},
        {"rawget", l_rawget},
        {"rawset", l_rawset},
        {"pcall", l_pcall},
        {"xpcall", l_xpcall},
        {"setmetatable", l_setmetatable},
        {"tostring", l_tostring},
        {"print", l_print},
        {"collectgarbage", l_collectgarbage},
        {NULL, NULL},
    };
    static const luaL_Reg our_co[] = {
        {"create", co_create}, {"resume", co_resume}, {"wrap", co_wrap},
        {"close", co_close},   {NULL, NULL},
    };

    lua_pushcfunction(L, luaopen_base);
    lua_call(L, 0, 1);
    keep(L, base);
    luaL_setfuncs(L, ours, 0);

    luaL_newlib(L, our_co);
    lua_pushcfunction(L, luaopen_coroutine);
    lua_call(L, 0, 1);
    keep(L, co);
    lua_setfield(L, -2, "coroutine");

    lua_newtable(L);
    lua_pushcfunction(L, luaopen_os);
    lua_call(L, 0, 1);
    lua_getfield(L, -1, "date");
    lua_pushcclosure(L, l_date, 1);
    lua_setfield(L, -3, "date");
    keep(L, os);
    lua_setfield(L, -2, "os");
}

void sandbox_layer(lua_State *L, int env)
{
    env = lua_absindex(L, env);
    lua_pushvalue(L, env);
    lua_pushliteral(L, "_G");
    lua_insert(L, -2);
    lua_rawset(L, env);
    lua_pushliteral(L, "load");
    lua_pushvalue(L, env);
    lua_pushcclosure(L, l_load, 1);
    lua_rawset(L, env);
    lua_pushliteral(L, "loadstring");
    lua_pushliteral(L, "load");
    lua_rawget(L, env);
    lua_rawset(L, env);
    lua_pushliteral(L, "require");
    lua_pushvalue(L, env);
    lua_newtable(L);
    lua_pushcclosure(L, l_require, 2);
    lua_rawset(L, env);
}
