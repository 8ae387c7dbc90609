/* The table library with bounded work: everything that is linear in a table's size looks at the
 * clock, and sorting is a heap sort, which cannot be led astray by an inconsistent order. */
#include "script/host_int.h"

static lua_Integer length(lua_State *L, int index)
{
    if (lua_type(L, index) != LUA_TTABLE) {
        if (luaL_getmetafield(L, index, "__index") == LUA_TNIL)
            luaL_checktype(L, index, LUA_TTABLE);
        lua_pop(L, 1);
    }
    return luaL_len(L, index);
}

static int t_insert(lua_State *L)
{
    int args = lua_gettop(L);
    lua_Integer n = length(L, 1), at = n + 1;

    lua_settop(L, args);
    if (args == 3) {
        at = luaL_checkinteger(L, 2);
        luaL_argcheck(L, at >= 1 && at <= n + 1, 2, "position out of bounds");
        for (lua_Integer i = n + 1; i > at; i--) {
            budget_charge(L, 16);
            lua_geti(L, 1, i - 1);
            lua_seti(L, 1, i);
        }
    } else if (args != 2) {
        return luaL_error(L, "wrong number of arguments to 'insert'");
    }
    lua_seti(L, 1, at);
    return 0;
}

static int t_remove(lua_State *L)
{
    lua_Integer n = length(L, 1);

    lua_settop(L, 2);
    lua_Integer at = luaL_optinteger(L, 2, n);
    if (at != n)
        luaL_argcheck(L, (lua_Unsigned)at - 1u <= (lua_Unsigned)n, 2, "position out of bounds");
    lua_geti(L, 1, at);
    for (; at < n; at++) {
        budget_charge(L, 16);
        lua_geti(L, 1, at + 1);
        lua_seti(L, 1, at);
    }
    lua_pushnil(L);
    lua_seti(L, 1, at);
    return 1;
}

static int t_move(lua_State *L)
{
    lua_Integer from = luaL_checkinteger(L, 2), end = luaL_checkinteger(L, 3);
    lua_Integer to = luaL_checkinteger(L, 4);
    int target = lua_isnoneornil(L, 5) ? 1 : 5;

    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, target, LUA_TTABLE);
    if (end >= from) {
        luaL_argcheck(L, from > 0 || end < LUA_MAXINTEGER + from, 3, "too many elements to move");
        lua_Integer n = end - from + 1;
        luaL_argcheck(L, to <= LUA_MAXINTEGER - n + 1, 4, "destination wrap around");
        bool forward = to > end || to <= from || (target != 1 && !lua_compare(L, 1, 5, LUA_OPEQ));
        for (lua_Integer k = 0; k < n; k++) {
            lua_Integer i = forward ? k : n - 1 - k;
            budget_charge(L, 16);
            lua_geti(L, 1, from + i);
            lua_seti(L, target, to + i);
        }
    }
    lua_pushvalue(L, target);
    return 1;
}

static int t_concat(lua_State *L)
{
    size_t sep_len;
    lua_Integer n = length(L, 1);
    const char *sep = bytes_opt(L, 2, "", &sep_len);
    lua_Integer i = luaL_optinteger(L, 3, 1), last = luaL_optinteger(L, 4, n);
    luaL_Buffer b;

    luaL_buffinit(L, &b);
    for (; i <= last; i++) {
        struct str s;
        lua_geti(L, 1, i);
        if (bytes_is(L, -1, &s)) {
            lua_pushlstring(L, s.p, s.n);
            lua_remove(L, -2);
        } else if (!lua_isstring(L, -1)) {
            return luaL_error(L, "invalid value (at index %I) in table for 'concat'",
                              (LUAI_UACINT)i);
        }
        budget_charge(L, lua_rawlen(L, -1) + sep_len + 8);
        luaL_addvalue(&b);
        if (i == last)
            break; /* LUA_MAXINTEGER + 1 does not exist */
        luaL_addlstring(&b, sep, sep_len);
    }
    luaL_pushresult(&b);
    return 1;
}

static int t_pack(lua_State *L)
{
    int n = lua_gettop(L);

    lua_createtable(L, n, 1);
    lua_insert(L, 1);
    for (int i = n; i >= 1; i--)
        lua_seti(L, 1, i);
    lua_pushinteger(L, n);
    lua_setfield(L, 1, "n");
    return 1;
}

static int t_unpack(lua_State *L)
{
    lua_Integer i = luaL_optinteger(L, 2, 1);
    lua_Integer last = luaL_opt(L, luaL_checkinteger, 3, luaL_len(L, 1));

    if (i > last)
        return 0;
    lua_Unsigned n = (lua_Unsigned)last - (lua_Unsigned)i;
    if (n >= 200000 || !lua_checkstack(L, (int)(n + 1)))
        return luaL_error(L, "too many results to unpack");
    budget_charge(L, (size_t)n * 16);
    for (; i < last; i++)
        lua_geti(L, 1, i);
    lua_geti(L, 1, last);
    return (int)n + 1;
}

/* --- sort ----------------------------------------------------------------------------------------
 */
static bool less(lua_State *L, int a, int b)
{
    if (lua_isnil(L, 2)) {
        if (lua_type(L, a) == LUA_TSTRING && lua_type(L, b) == LUA_TSTRING)
            budget_charge(L, lua_rawlen(L, a) / 8);
        return lua_compare(L, a, b, LUA_OPLT);
    }
    a = lua_absindex(L, a);
    b = lua_absindex(L, b);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool r = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return r;
}

/* The value on top sinks from the hole at `root` of a heap of n values. */
static void sink(lua_State *L, lua_Integer root, lua_Integer n)
{
    for (lua_Integer child; (child = root * 2) <= n; root = child) {
        budget_charge(L, 32);
        lua_geti(L, 1, child);
        if (child < n) {
            lua_geti(L, 1, child + 1);
            if (less(L, -2, -1)) {
                lua_remove(L, -2);
                child++;
            } else {
                lua_pop(L, 1);
            }
        }
        if (!less(L, -2, -1)) {
            lua_pop(L, 1);
            break;
        }
        lua_seti(L, 1, root);
    }
    lua_seti(L, 1, root);
}

static int t_sort(lua_State *L)
{
    lua_Integer n = length(L, 1);

    luaL_argcheck(L, n < INT32_MAX, 1, "array too big");
    lua_settop(L, 2);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    if (n < 2)
        return 0;
    budget_stack(L, SCRIPT_STACK_MIN);
    for (lua_Integer i = n / 2; i >= 1; i--) {
        lua_geti(L, 1, i);
        sink(L, i, n);
    }
    for (lua_Integer i = n; i >= 2; i--) {
        lua_geti(L, 1, i);
        lua_geti(L, 1, 1);
        lua_seti(L, 1, i);
        sink(L, 1, i - 1);
    }
    return 0;
}

/* --- Lua 5.0 to 5.2
 * ------------------------------------------------------------------------------- */
static int t_getn(lua_State *L)
{
    lua_pushinteger(L, length(L, 1));
    return 1;
}

static int t_maxn(lua_State *L)
{
    lua_Number most = 0;

    luaL_checktype(L, 1, LUA_TTABLE);
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        budget_charge(L, 16);
        if (lua_type(L, -2) == LUA_TNUMBER && lua_tonumber(L, -2) > most)
            most = lua_tonumber(L, -2);
        lua_pop(L, 1);
    }
    if (most < 9e15 && most == (lua_Number)(lua_Integer)most)
        lua_pushinteger(L, (lua_Integer)most);
    else
        lua_pushnumber(L, most);
    return 1;
}

static int t_foreach(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    luaL_checktype(L, 2, LUA_TFUNCTION);
    budget_stack(L, SCRIPT_STACK_MIN);
    lua_pushnil(L);
    while (lua_next(L, 1)) {
        budget_charge(L, 32);
        lua_pushvalue(L, 2);
        lua_pushvalue(L, -3);
        lua_pushvalue(L, -3);
        lua_call(L, 2, 1);
        if (!lua_isnil(L, -1))
            return 1;
        lua_pop(L, 2);
    }
    return 0;
}

static int t_foreachi(lua_State *L)
{
    lua_Integer n = length(L, 1);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    budget_stack(L, SCRIPT_STACK_MIN);
    for (lua_Integer i = 1; i <= n; i++) {
        budget_charge(L, 32);
        lua_pushvalue(L, 2);
        lua_pushinteger(L, i);
        lua_geti(L, 1, i);
        lua_call(L, 2, 1);
        if (!lua_isnil(L, -1))
            return 1;
        lua_pop(L, 1);
    }
    return 0;
}

void libtable_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"insert", t_insert},   {"remove", t_remove},     {"move", t_move},
        {"concat", t_concat},   {"pack", t_pack},         {"unpack", t_unpack},
        {"sort", t_sort},       {"getn", t_getn},         {"maxn", t_maxn},
        {"foreach", t_foreach}, {"foreachi", t_foreachi}, {NULL, NULL},
    };

    luaL_newlib(L, functions);
}
