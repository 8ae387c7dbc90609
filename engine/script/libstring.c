/* The string, math and utf8 libraries as environments see them.
 *
 * String functions take zero-copy bytes like strings and are charged for what they touch.  Where
 * the stock function is right but unbounded in time, it is called through a wrapper that charges.
 * Random numbers are an environment's own: a shared generator would be a channel between sessions.
 */
#include "script/host_int.h"

#include <ctype.h>
#include <lualib.h>
#include <math.h>
#include <stdio.h>
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
    budget_room(L, to - from + 1);
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

    budget_room(L, n * 2);
    char *p = luaL_buffinitsize(L, &b, n);
    for (size_t i = 0; i < n; i++) {
        if ((i & 0xffff) == 0xffff)
            budget_charge(L, 65536);
        p[i] = how < 0   ? (char)tolower((unsigned char)s[i])
               : how > 0 ? (char)toupper((unsigned char)s[i])
                         : s[n - 1 - i];
    }
    budget_charge(L, n & 0xffff);
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
    budget_room(L, total * 2);
    char *p = luaL_buffinitsize(L, &b, total);
    for (lua_Integer i = 0; i < times; i++) {
        budget_charge(L, n + sep_n + 8);
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

/* Length of the conversion at f[0] == '%', without regard to whether the stock function likes it.
 */
static size_t conversion(const char *f, size_t n)
{
    size_t i = 1;

    while (i < n && (isdigit((unsigned char)f[i]) || strchr("-+ #0.", f[i]) != NULL) &&
           f[i] != '\0')
        i++;
    return i < n ? i + 1 : i;
}

/* '%q' of a text, as the stock function writes it. */
static void quote(struct out *o, const char *s, size_t n)
{
    char code[8];

    out_add(o, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        budget_charge(o->L, 4);
        if (s[i] == '"' || s[i] == '\\' || s[i] == '\n') {
            out_add(o, "\\", 1);
            out_add(o, s + i, 1);
        } else if (iscntrl((unsigned char)s[i])) {
            bool digit = i + 1 < n && isdigit((unsigned char)s[i + 1]);
            int k = snprintf(code, sizeof code, digit ? "\\%03d" : "\\%d", (unsigned char)s[i]);
            out_add(o, code, (size_t)k);
        } else {
            out_add(o, s + i, 1);
        }
    }
    out_add(o, "\"", 1);
}

/* string.format one conversion at a time: for many arguments or long texts, where the stock
 * function would be at work for a second. */
static int format_slowly(lua_State *L, const char *f, size_t n, int top)
{
    struct out o;
    int arg = 1;

    out_open(L, &o);
    for (size_t i = 0; i < n;) {
        const char *next = memchr(f + i, '%', n - i);
        size_t plain = next ? (size_t)(next - (f + i)) : n - i, len;
        out_add(&o, f + i, plain);
        i += plain;
        if (i >= n)
            break;
        if (i + 1 < n && f[i + 1] == '%') {
            out_add(&o, "%", 1);
            i += 2;
            continue;
        }
        const char *spec = conversion(f + i, n - i) > 0 ? f + i : f;
        i += len = conversion(spec, n - i);
        if (++arg > top)
            return luaL_argerror(L, arg, "no value");
        budget_charge(L, 2048);
        if (len == 2 && spec[1] == 'q' && lua_type(L, arg) == LUA_TSTRING) {
            size_t k;
            const char *s = lua_tolstring(L, arg, &k);
            quote(&o, s, k);
            continue;
        }
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushlstring(L, spec, len);
        lua_pushvalue(L, arg);
        lua_call(L, 2, 1);
        size_t k;
        const char *s = lua_tolstring(L, -1, &k);
        out_add(&o, s, k);
        lua_pop(L, 1);
    }
    out_push(&o);
    return 1;
}

static int s_format(lua_State *L)
{
    size_t n, texts = 0;
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
            budget_room(L, s.n);
            lua_pushlstring(L, s.p, s.n);
            lua_replace(L, arg);
            texts += s.n;
        } else if (lua_type(L, arg) == LUA_TSTRING) {
            texts += lua_rawlen(L, arg);
        }
    }
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
    if (top > 40 || texts + n > 262144) {
        f = lua_tolstring(L, -1, &n);
        return format_slowly(L, f, n, top);
    }
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, -2);
    for (int i = 2; i <= top; i++)
        lua_pushvalue(L, i);
    lua_call(L, top, 1);
    budget_charge(L, lua_rawlen(L, -1));
    return 1;
}

/* A format of pack and its like must be short, and so must what its numbers ask for: the stock
 * functions pad byte by byte. */
static void check_pack_format(lua_State *L)
{
    size_t n, sum = 0, number = 0;
    const char *f = luaL_checklstring(L, 1, &n);

    luaL_argcheck(L, n <= SCRIPT_PATTERN_MAX, 1, "format too long");
    for (size_t i = 0; i <= n; i++) {
        if (i < n && isdigit((unsigned char)f[i])) {
            number = number < (1u << 28) ? number * 10 + (size_t)(f[i] - '0') : number;
            continue;
        }
        sum += number;
        number = 0;
    }
    luaL_argcheck(L, sum <= 8u << 20, 1, "format asks for too much");
    budget_room(L, sum * 2);
}

/* Upvalues: a stock function of strings, is its first argument a format of string.pack?  Charges
 * for arguments and results. */
static int charged(lua_State *L)
{
    int top = lua_gettop(L);

    if (lua_toboolean(L, lua_upvalueindex(2)))
        check_pack_format(L);

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
        lua_pushboolean(L, str_ends(str_of(*names), STR("pack")) ||
                               str_starts(str_of(*names), STR("pack")));
        lua_pushcclosure(L, wrapper, 2);
        lua_setfield(L, -2, *names);
    }
}

void libstring_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"len", s_len},         {"sub", s_sub},     {"byte", s_byte},
        {"char", s_char},       {"lower", s_lower}, {"upper", s_upper},
        {"reverse", s_reverse}, {"rep", s_rep},     {NULL, NULL},
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

/* Upvalues: the stock utf8.len and utf8.offset.  In pieces of 64 KB. */
static int u_len(lua_State *L)
{
    size_t n;
    const char *s = bytes_check(L, 1, &n);
    lua_Integer i = luaL_optinteger(L, 2, 1), j = luaL_optinteger(L, 3, -1), count = 0;
    bool lax = lua_toboolean(L, 4);

    budget_room(L, n);
    if (!lua_isstring(L, 1)) {
        lua_pushlstring(L, s, n);
        lua_replace(L, 1);
    }
    i = i >= 0 ? i : i < -(lua_Integer)n ? 0 : i + (lua_Integer)n + 1;
    j = j >= 0 ? j : j < -(lua_Integer)n ? 0 : j + (lua_Integer)n + 1;
    luaL_argcheck(L, i >= 1 && i <= (lua_Integer)n + 1, 2, "initial position out of bounds");
    luaL_argcheck(L, j <= (lua_Integer)n, 3, "final position out of bounds");
    lua_settop(L, 1);
    while (i <= j) {
        lua_Integer to = j - i > 65535 ? i + 65535 : j;
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, 1);
        lua_pushinteger(L, i);
        lua_pushinteger(L, to);
        lua_pushboolean(L, lax);
        lua_call(L, 4, 2);
        if (!lua_toboolean(L, 2))
            return 2;
        lua_Integer some = lua_tointeger(L, 2);
        count += some;
        lua_settop(L, 1);
        budget_charge(L, (size_t)(to - i) + 1);
        if (to == j)
            break;
        lua_pushvalue(L, lua_upvalueindex(2));
        lua_pushvalue(L, 1);
        lua_pushinteger(L, some + 1);
        lua_pushinteger(L, i);
        lua_call(L, 3, 1);
        i = lua_tointeger(L, 2);
        lua_settop(L, 1);
    }
    lua_pushinteger(L, count);
    return 1;
}

static bool continues(const char *s, lua_Integer i, lua_Integer n)
{
    return i < n && ((unsigned char)s[i] & 0xc0) == 0x80;
}

/* utf8.offset(s, n [, i]), as the manual has it. */
static int u_offset(lua_State *L)
{
    size_t size;
    const char *s = bytes_check(L, 1, &size);
    lua_Integer len = (lua_Integer)size, n = luaL_checkinteger(L, 2);
    lua_Integer i = luaL_optinteger(L, 3, n > 0 ? 1 : len + 1);

    i = (i >= 0 ? i : i < -len ? 0 : i + len + 1) - 1;
    luaL_argcheck(L, i >= 0 && i <= len, 3, "position out of bounds");
    if (n == 0) {
        while (i > 0 && continues(s, i, len)) {
            i--;
            budget_charge(L, 1);
        }
        lua_pushinteger(L, i + 1);
        return 1;
    }
    if (continues(s, i, len))
        return luaL_error(L, "initial position is a continuation byte");
    if (n < 0) {
        for (; n < 0 && i > 0; n++)
            do {
                i--;
                budget_charge(L, 1);
            } while (i > 0 && continues(s, i, len));
    } else {
        for (n--; n > 0 && i < len; n--)
            do {
                i++;
                budget_charge(L, 1);
            } while (continues(s, i, len));
    }
    if (n == 0)
        lua_pushinteger(L, i + 1);
    else
        luaL_pushfail(L);
    return 1;
}

void libutf8_open(lua_State *L)
{
    static const char *const stock[] = {"char", "codepoint", "codes", NULL};

    lua_pushcfunction(L, luaopen_utf8);
    lua_call(L, 0, 1);
    lua_newtable(L);
    lua_getfield(L, -2, "len");
    lua_getfield(L, -3, "offset");
    lua_pushcclosure(L, u_len, 2);
    lua_setfield(L, -2, "len");
    lua_pushcfunction(L, u_offset);
    lua_setfield(L, -2, "offset");
    wrap(L, -2, stock, charged);
    lua_getfield(L, -2, "charpattern");
    lua_setfield(L, -2, "charpattern");
    lua_remove(L, -2);
}

/* --- math
 * ------------------------------------------------------------------------------------------ */
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

    lua_pushnumber(L, ldexp(luaL_checknumber(L, 1), e > 99999    ? 99999
                                                    : e < -99999 ? -99999
                                                                 : (int)e));
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
        {"random", m_random}, {"randomseed", m_randomseed}, {"pow", m_pow}, {"log10", m_log10},
        {"ldexp", m_ldexp},   {"frexp", m_frexp},           {NULL, NULL},
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
