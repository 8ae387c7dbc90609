/* What scripts written for Lua 5.1 and 5.2 expect of the global table and 5.4 no longer has: bit32
 * and unpack.  (table.getn and friends are in libtable.c, math.pow in libstring.c, loadstring in
 * sandbox.c.) */
#include "script/host_int.h"

/* 5.2 took any number modulo 2^32. */
static uint32_t bits(lua_State *L, int arg)
{
    int is_int;
    lua_Integer i = lua_tointegerx(L, arg, &is_int);

    if (is_int)
        return (uint32_t)i;
    lua_Number n = luaL_checknumber(L, arg);
    luaL_argcheck(L, n > -9.2e18 && n < 9.2e18, arg, "number has no integer representation");
    return (uint32_t)(int64_t)n;
}

static int result(lua_State *L, uint32_t r)
{
    lua_pushinteger(L, r);
    return 1;
}

static uint32_t all_and(lua_State *L)
{
    uint32_t r = UINT32_MAX;

    for (int i = lua_gettop(L); i >= 1; i--)
        r &= bits(L, i);
    return r;
}

static int b_band(lua_State *L)
{
    return result(L, all_and(L));
}

static int b_btest(lua_State *L)
{
    lua_pushboolean(L, all_and(L) != 0);
    return 1;
}

static int b_bor(lua_State *L)
{
    uint32_t r = 0;

    for (int i = lua_gettop(L); i >= 1; i--)
        r |= bits(L, i);
    return result(L, r);
}

static int b_bxor(lua_State *L)
{
    uint32_t r = 0;

    for (int i = lua_gettop(L); i >= 1; i--)
        r ^= bits(L, i);
    return result(L, r);
}

static int b_bnot(lua_State *L)
{
    return result(L, ~bits(L, 1));
}

/* Positive: to the left. */
static uint32_t shift(uint32_t x, lua_Integer by)
{
    if (by <= -32 || by >= 32)
        return 0;
    return by >= 0 ? x << by : x >> -by;
}

static int b_lshift(lua_State *L)
{
    return result(L, shift(bits(L, 1), luaL_checkinteger(L, 2)));
}

static int b_rshift(lua_State *L)
{
    lua_Integer by = luaL_checkinteger(L, 2);

    return result(L, shift(bits(L, 1), by == LUA_MININTEGER ? 32 : -by));
}

static int b_arshift(lua_State *L)
{
    uint32_t x = bits(L, 1);
    lua_Integer by = luaL_checkinteger(L, 2);

    if (by < 0 || (x & 0x80000000u) == 0)
        return result(L, shift(x, by == LUA_MININTEGER ? 32 : -by));
    if (by >= 32)
        return result(L, UINT32_MAX);
    return result(L, (x >> by) | ~(UINT32_MAX >> by));
}

static int rotate(lua_State *L, bool left)
{
    uint32_t x = bits(L, 1);
    unsigned by = (unsigned)luaL_checkinteger(L, 2) & 31;

    if (!left)
        by = (32 - by) & 31;
    return result(L, by == 0 ? x : (x << by) | (x >> (32 - by)));
}

static int b_lrotate(lua_State *L)
{
    return rotate(L, true);
}

static int b_rrotate(lua_State *L)
{
    return rotate(L, false);
}

static uint32_t field(lua_State *L, int arg, unsigned *at_r)
{
    lua_Integer at = luaL_checkinteger(L, arg), width = luaL_optinteger(L, arg + 1, 1);

    luaL_argcheck(L, at >= 0, arg, "field cannot be negative");
    luaL_argcheck(L, width > 0, arg + 1, "width must be positive");
    luaL_argcheck(L, at < 32 && width <= 32 && at + width <= 32, arg,
                  "trying to access non-existent bits");
    *at_r = (unsigned)at;
    return width == 32 ? UINT32_MAX : ((uint32_t)1 << width) - 1;
}

static int b_extract(lua_State *L)
{
    unsigned at;
    uint32_t x = bits(L, 1), mask = field(L, 2, &at);

    return result(L, (x >> at) & mask);
}

static int b_replace(lua_State *L)
{
    unsigned at;
    uint32_t x = bits(L, 1), v = bits(L, 2), mask = field(L, 3, &at);

    return result(L, (x & ~(mask << at)) | ((v & mask) << at));
}

void shim_open(lua_State *L)
{
    static const luaL_Reg bit32[] = {
        {"band", b_band},       {"bor", b_bor},         {"bxor", b_bxor},
        {"bnot", b_bnot},       {"btest", b_btest},     {"lshift", b_lshift},
        {"rshift", b_rshift},   {"arshift", b_arshift}, {"lrotate", b_lrotate},
        {"rrotate", b_rrotate}, {"extract", b_extract}, {"replace", b_replace},
        {NULL, NULL},
    };

    luaL_newlib(L, bit32);
    lua_setfield(L, -2, "bit32");
}
