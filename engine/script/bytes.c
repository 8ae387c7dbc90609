/* Zero-copy strings: userdata that point at bytes of the engine for the length of one call.
 *
 * A bytes object answers every string method, compares, concatenates and prints like a string; only
 * type() tells them apart.  It holds the call's lease: once the call is over it raises an error
 * instead of reading memory that is gone. */
#include "script/host_int.h"

#define BYTES "mail.bytes"

struct bytes {
    struct str s;
    struct lease *lease; /* alive by the user value */
};

void bytes_push(lua_State *L, struct str s, struct lease *lease, int lease_index)
{
    lease_index = lua_absindex(L, lease_index);
    struct bytes *b = lua_newuserdatauv(L, sizeof *b, 1);
    *b = (struct bytes){s, lease};
    lua_pushvalue(L, lease_index);
    lua_setiuservalue(L, -2, 1);
    luaL_setmetatable(L, BYTES);
}

bool bytes_is(lua_State *L, int index, struct str *s_r)
{
    struct bytes *b = lua_type(L, index) == LUA_TUSERDATA ? luaL_testudata(L, index, BYTES) : NULL;

    if (b == NULL)
        return false;
    if (!b->lease->alive)
        luaL_error(L, "this text belongs to a call that is over (keep tostring(it) instead)");
    *s_r = b->s;
    return true;
}

const char *bytes_check(lua_State *L, int index, size_t *n_r)
{
    struct str s;

    if (lua_type(L, index) == LUA_TUSERDATA && bytes_is(L, index, &s)) {
        *n_r = s.n;
        return s.p ? s.p : "";
    }
    return luaL_checklstring(L, index, n_r);
}

const char *bytes_opt(lua_State *L, int index, const char *fallback, size_t *n_r)
{
    if (lua_isnoneornil(L, index)) {
        *n_r = fallback ? strlen(fallback) : 0;
        return fallback;
    }
    return bytes_check(L, index, n_r);
}

static int bytes_tostring(lua_State *L)
{
    size_t n;
    const char *p = bytes_check(L, 1, &n);

    budget_charge(L, n);
    lua_pushlstring(L, p, n);
    return 1;
}

static int bytes_len(lua_State *L)
{
    size_t n;

    bytes_check(L, 1, &n);
    lua_pushinteger(L, (lua_Integer)n);
    return 1;
}

static int bytes_concat(lua_State *L)
{
    luaL_Buffer b;
    size_t n, m;
    const char *p = bytes_check(L, 1, &n), *q = bytes_check(L, 2, &m);

    budget_charge(L, n + m);
    luaL_buffinitsize(L, &b, n + m);
    luaL_addlstring(&b, p, n);
    luaL_addlstring(&b, q, m);
    luaL_pushresult(&b);
    return 1;
}

static int compare(lua_State *L)
{
    size_t n, m;
    const char *p = bytes_check(L, 1, &n), *q = bytes_check(L, 2, &m);

    budget_charge(L, n < m ? n : m);
    return str_cmp(str_make(p, n), str_make(q, m));
}

static int bytes_eq(lua_State *L)
{
    struct str a, b;

    lua_pushboolean(L, bytes_is(L, 1, &a) && bytes_is(L, 2, &b) && compare(L) == 0);
    return 1;
}

static int bytes_lt(lua_State *L)
{
    lua_pushboolean(L, compare(L) < 0);
    return 1;
}

static int bytes_le(lua_State *L)
{
    lua_pushboolean(L, compare(L) <= 0);
    return 1;
}

/* The string functions stand on top of the stack: they are the methods. */
void bytes_open(lua_State *L)
{
    static const luaL_Reg meta[] = {
        {"__tostring", bytes_tostring},
        {"__len", bytes_len},
        {"__concat", bytes_concat},
        {"__eq", bytes_eq},
        {"__lt", bytes_lt},
        {"__le", bytes_le},
        {NULL, NULL},
    };

    luaL_newmetatable(L, BYTES);
    luaL_setfuncs(L, meta, 0);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
}
