/* The string, math and utf8 libraries as environments see them.
 *
 * String functions take zero-copy bytes like strings and are charged for what they touch.  Where the
 * stock function is right but unbounded in time, it is called through a wrapper that charges.  Random
 * numbers are an environment's own: a shared generator would be a channel between sessions. */
#include "script/host_int.h"

#include <ctype.h>
#include <lualib.h>
#include <math.h>
#include <sys/random.h>

static size_t from_pos(lua_Integer i, size_t n)
{
    if (i > 0)
        return (size_t)i;
    if (i == 0 || i < -(lua_Integer)n)
        return 1;
    return n + (size_t)i + 1;
}

static size_t to_pos(lua_Integer i, size_t n)
{
    if (i > (lua_Integer)n)
        return n;
    if (i >= 0)
        return (size_t)i;
    return i < -(lua_Integer)n ? 0 : n + (size_t)i + 1;
}

static int s_len(lua_State *L)
{
    size_t n;

    bytes_check(L, 1, &n);
    lua_pushinteger(L, (lua_Integer)n);
    return 1;
}

static int s_sub(lua_State *L)
{
    size_t n;
    const char *s = bytes_check(L, 1, &n);
    size_t from = from_pos(luaL_checkinteger(L, 2), n);
    size_t to = to_pos(luaL_optinteger(L, 3, -1), n);

    if (from > to) {
        lua_pushliteral(L, "");
        return 1;
    }
    budget_charge(L, to - from + 1);
    lua_pushlstring(L, s + from - 1, to - from + 1);
    return 1;
}

static int s_byte(lua_State *L)
{
    size_t n;
    const char *s = bytes_check(L, 1, &n);
    lua_Integer i = luaL_optinteger(L, 2, 1);
    size_t from = from_pos(i, n), to = to_pos(luaL_optinteger(L, 3, (lua_Integer)from), n);

    if (from > to)
        return 0;
    if (to - from >= 200000 || !lua_checkstack(L, (int)(to - from + 1)))
        return luaL_error(L, "string slice too long");
    for (size_t k = from; k <= to; k++)
        lua_pushinteger(L, (unsigned char)s[k - 1]);
    return (int)(to - from + 1);
}

static int s_char(lua_State *L)
{
    luaL_Buffer b;
    int n = lua_gettop(L);
    char *p = luaL_buffinitsize(L, &b, (size_t)n);

    for (int i = 1; i <= n; i++) {
        lua_Integer c = luaL_checkinteger(L, i);
        luaL_argcheck(L, c >= 0 && c <= 255, i, "value out of range");
        p[i - 1] = (char)c;
    }
    luaL_pushresultsize(&b, (size_t)n);
    return 1;
}

static int mapped(lua_State *L, int how)
{
    luaL_Buffer b;
    size_t n;
    const char *s = bytes_check(L, 1, &n);
    char *p = luaL_buffinitsize(L, &b, n);

    budget_charge(L, n);
    for (size_t i = 0; i < n; i++)
        p[i] = how < 0   ? (char)tolower((unsigned char)s[i])
               : how > 0 ? (char)toupper((unsigned char)s[i])
                         : s[n - 1 - i];
    luaL_pushresultsize(&b, n);
    return 1;
}

static int s_lower(lua_State *L)
{
    return mapped(L, -1);
}

static int s_upper(lua_State *L)
{
    return mapped(L, 1);
}

static int s_reverse(lua_State *L)
{
    return mapped(L, 0);
}

static int s_rep(lua_State *L)
{
    luaL_Buffer b;
    size_t n, sep_n;
    const char *s = bytes_check(L, 1, &n);
    lua_Integer times = luaL_checkinteger(L, 2);
    const char *sep = bytes_opt(L, 3, "", &sep_n);

    if (times <= 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    if (n + sep_n == 0)
        times = 1;
    else if ((size_t)times > SCRIPT_RUN_MEMORY / (n + sep_n))
        return luaL_error(L, "resulting string too large");
    size_t total = n * (size_t)times + sep_n * (size_t)(times - 1);
    budget_charge(L, total);
    char *p = luaL_buffinitsize(L, &b, total);
    for (lua_Integer i = 0; i < times; i++) {
        memcpy(p, s, n);
        p += n;
        if (sep_n > 0 && i + 1 < times) {
            memcpy(p, sep, sep_n);
            p += sep_n;
        }
    }
    luaL_pushresultsize(&b, total);
    return 1;
}

/* %d and its like truncate, as they did before Lua 5.3; %u is taken as %d. */
static void truncate_argument(lua_State *L, int arg)
{
    int is_int;

    lua_tointegerx(L, arg, &is_int);
    if (is_int || !lua_isnumber(L, arg))
        return;
    lua_Number x = trunc(lua_tonumber(L, arg));
    luaL_argcheck(L, x >= -9.2e18 && x <= 9.2e18, arg, "number has no integer representation");
    lua_pushinteger(L, (lua_Integer)x);
    lua_replace(L, arg);
}

static int s_format(lua_State *L)
{
    size_t n;
    const char *f = bytes_check(L, 1, &n);
    int arg = 1, top = lua_gettop(L);
    luaL_Buffer b;

    budget_stack(L, SCRIPT_STACK_MIN);
    budget_charge(L, n);
    luaL_checkstack(L, top + 4, "too many arguments");
    for (size_t i = 0; i < n; i++) {
        struct str s;
        if (f[i] != '%' || ++i >= n || f[i] == '%')
            continue;
        while (i < n && (isdigit((unsigned char)f[i]) || strchr("-+ #0.", f[i]) != NULL))
            i++;
        if (++arg > top || i >= n || f[i] == '\0')
            continue; /* the stock function says what is wrong */
        if (strchr("diuoxXc", f[i]) != NULL)
            truncate_argument(L, arg);
        else if (bytes_is(L, arg, &s)) {
            budget_charge(L, s.n);
            lua_pushlstring(L, s.p, s.n);
            lua_replace(L, arg);
        } else if (lua_type(L, arg) == LUA_TSTRING) {
            budget_charge(L, lua_rawlen(L, arg));
        }
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    luaL_buffinit(L, &b);
    for (size_t i = 0; i < n; i++) {
        luaL_addchar(&b, f[i]);
        if (f[i] != '%' || i + 1 >= n)
            continue;
        if (f[i + 1] == '%') {
            luaL_addchar(&b, f[++i]);
            continue;
        }
        while (i + 1 < n && (isdigit((unsigned char)f[i + 1]) || strchr("-+ #0.", f[i + 1])))
            luaL_addchar(&b, f[++i]);
        if (i + 1 < n) {
            i++;
            luaL_addchar(&b, f[i] == 'u' ? 'd' : f[i]);
        }
    }
    luaL_pushresult(&b);
    for (int i = 2; i <= top; i++)
        lua_pushvalue(L, i);
    lua_call(L, top, 1);
    budget_charge(L, lua_rawlen(L, -1));
    return 1;
}

/* Upvalue: a stock function of strings.  Charges for arguments and results. */
static int charged(lua_State *L)
{
    int top = lua_gettop(L);

    budget_stack(L, SCRIPT_STACK_MIN);
    luaL_checkstack(L, top + 4, "too many arguments");
    for (int i = 1; i <= top; i++) {
        struct str s;
        if (lua_type(L, i) == LUA_TSTRING) {
            budget_charge(L, lua_rawlen(L, i));
        } else if (bytes_is(L, i, &s)) {
            budget_charge(L, s.n);
            lua_pushlstring(L, s.p, s.n);
            lua_replace(L, i);
        }
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, top, LUA_MULTRET);
    if (lua_type(L, 1) == LUA_TSTRING)
        budget_charge(L, lua_rawlen(L, 1));
    return lua_gettop(L);
}

/* Wraps functions of the stock library at `from` into the table on top. */
static void wrap(lua_State *L, int from, const char *const *names, lua_CFunction wrapper)
{
    from = lua_absindex(L, from);
    for (; *names != NULL; names++) {
        lua_getfield(L, from, *names);
        lua_pushcclosure(L, wrapper, 1);
        lua_setfield(L, -2, *names);
    }
}

void libstring_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"len", s_len},     {"sub", s_sub},     {"byte", s_byte},       {"char", s_char},
        {"lower", s_lower}, {"upper", s_upper}, {"reverse", s_reverse}, {"rep", s_rep},
        {NULL, NULL},
    };
    static const char *const stock[] = {"pack", "unpack", "packsize", NULL};
    static const char *const format[] = {"format", NULL};

    lua_pushcfunction(L, luaopen_string);
    lua_call(L, 0, 1);
    luaL_newlib(L, functions);
    wrap(L, -2, stock, charged);
    wrap(L, -2, format, s_format);
    pattern_add(L);
    lua_remove(L, -2);
    /* luaopen_string made a metatable for all strings whose __index scripts could reach. */
    lua_pushliteral(L, "");
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}

void libutf8_open(lua_State *L)
{
    static const char *const stock[] = {"char", "codepoint", "len", "offset", "codes", NULL};

    lua_pushcfunction(L, luaopen_utf8);
    lua_call(L, 0, 1);
    lua_newtable(L);
    wrap(L, -2, stock, charged);
    lua_getfield(L, -2, "charpattern");
    lua_setfield(L, -2, "charpattern");
    lua_remove(L, -2);
}

/* --- math ------------------------------------------------------------------------------------------ */
static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

/* xoshiro256**, seeded from the system once an environment. */
static uint64_t draw(void)
{
    static uint64_t host_random[4];
    uint64_t *s = host_call && host_call->env ? host_call->env->random : host_random;

    while ((s[0] | s[1] | s[2] | s[3]) == 0)
        if (getrandom(s, 32, 0) != 32)
            s[0] = 1;
    uint64_t r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return r;
}

static int m_random(lua_State *L)
{
    lua_Integer low = 1, high;
    uint64_t r = draw();

    switch (lua_gettop(L)) {
    case 0:
        lua_pushnumber(L, (lua_Number)(r >> 11) * (0.5 / ((uint64_t)1 << 52)));
        return 1;
    case 1:
        high = luaL_checkinteger(L, 1);
        if (high == 0) {
            lua_pushinteger(L, (lua_Integer)r);
            return 1;
        }
        break;
    case 2:
        low = luaL_checkinteger(L, 1);
        high = luaL_checkinteger(L, 2);
        break;
    default:
        return luaL_error(L, "wrong number of arguments");
    }
    luaL_argcheck(L, low <= high, lua_gettop(L), "interval is empty");
    uint64_t span = (uint64_t)high - (uint64_t)low;
    if (span != UINT64_MAX) {
        uint64_t limit = UINT64_MAX - UINT64_MAX % (span + 1);
        while (r >= limit)
            r = draw();
        r %= span + 1;
    }
    lua_pushinteger(L, (lua_Integer)(r + (uint64_t)low));
    return 1;
}

static int m_randomseed(lua_State *L)
{
    if (host_call != NULL && host_call->env != NULL) {
        uint64_t *s = host_call->env->random;
        lua_Number n = luaL_optnumber(L, 1, 0);
        memset(s, 0, 32);
        if (!lua_isnoneornil(L, 1)) {
            memcpy(s, &n, sizeof n);
            s[1] = 0x9e3779b97f4a7c15u;
            for (int i = 0; i < 16; i++)
                draw();
        }
    }
    return 0;
}

static int m_pow(lua_State *L)
{
    lua_pushnumber(L, pow(luaL_checknumber(L, 1), luaL_checknumber(L, 2)));
    return 1;
}

static int m_log10(lua_State *L)
{
    lua_pushnumber(L, log10(luaL_checknumber(L, 1)));
    return 1;
}

static int m_ldexp(lua_State *L)
{
    lua_Integer e = luaL_checkinteger(L, 2);

    lua_pushnumber(L, ldexp(luaL_checknumber(L, 1), e > 99999 ? 99999 : e < -99999 ? -99999 : (int)e));
    return 1;
}

static int m_frexp(lua_State *L)
{
    int e;

    lua_pushnumber(L, frexp(luaL_checknumber(L, 1), &e));
    lua_pushinteger(L, e);
    return 2;
}

static int m_hyperbolic(lua_State *L)
{
    lua_Number x = luaL_checknumber(L, 1);

    switch (lua_tointeger(L, lua_upvalueindex(1))) {
    case 0:
        lua_pushnumber(L, cosh(x));
        break;
    case 1:
        lua_pushnumber(L, sinh(x));
        break;
    default:
        lua_pushnumber(L, tanh(x));
        break;
    }
    return 1;
}

void libmath_open(lua_State *L)
{
    static const luaL_Reg ours[] = {
        {"random", m_random}, {"randomseed", m_randomseed}, {"pow", m_pow},
        {"log10", m_log10},   {"ldexp", m_ldexp},           {"frexp", m_frexp},
        {NULL, NULL},
    };
    static const char *const hyperbolic[] = {"cosh", "sinh", "tanh"};

    lua_pushcfunction(L, luaopen_math);
    lua_call(L, 0, 1);
    luaL_setfuncs(L, ours, 0);
    for (int i = 0; i < 3; i++) {
        lua_pushinteger(L, i);
        lua_pushcclosure(L, m_hyperbolic, 1);
        lua_setfield(L, -2, hyperbolic[i]);
    }
}
