/* VPOP3.JSON: RFC 8259 text to Lua values and back.
 *
 * Depth is bounded both ways.  null in an object leaves its field out; null in a list is JSON.null,
 * so that positions stay.  Numbers without fraction and exponent that fit are integers. */
#include "script/host_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define JSON_DEPTH 64

static const char null_key;

/* --- encode
 * --------------------------------------------------------------------------------------------- */
static void put_text(struct out *o, const char *p, size_t n)
{
    size_t from = 0;
    char hex[8];

    budget_charge(o->L, 8);
    out_add(o, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        if ((i & 0xfff) == 0xfff)
            budget_charge(o->L, 8192);
        unsigned char c = (unsigned char)p[i];
        if (c >= 32 && c != '"' && c != '\\')
            continue;
        out_add(o, p + from, i - from);
        from = i + 1;
        const char *known = c == '"'    ? "\\\""
                            : c == '\\' ? "\\\\"
                            : c == '\n' ? "\\n"
                            : c == '\r' ? "\\r"
                            : c == '\t' ? "\\t"
                                        : NULL;
        if (known == NULL) {
            snprintf(hex, sizeof hex, "\\u%04x", c);
            known = hex;
        }
        out_add(o, known, strlen(known));
    }
    out_add(o, p + from, n - from);
    out_add(o, "\"", 1);
}

static void put_value(struct out *o, int index, int depth)
{
    lua_State *L = o->L;
    struct str s;
    char text[40];
    int n;

    luaL_checkstack(L, 6, NULL);
    if (depth > JSON_DEPTH)
        luaL_error(L, "table is nested too deeply, or contains itself");
    budget_charge(L, 32);
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        out_add(o, "null", 4);
        return;
    case LUA_TBOOLEAN:
        out_add(o, lua_toboolean(L, index) ? "true" : "false", lua_toboolean(L, index) ? 4 : 5);
        return;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            n = snprintf(text, sizeof text, "%lld", (long long)lua_tointeger(L, index));
        else if (isfinite(lua_tonumber(L, index)))
            n = snprintf(text, sizeof text, "%.17g", lua_tonumber(L, index));
        else
            n = snprintf(text, sizeof text, "null");
        out_add(o, text, (size_t)n);
        return;
    case LUA_TSTRING:
        s.p = lua_tolstring(L, index, &s.n);
        put_text(o, s.p, s.n);
        return;
    case LUA_TLIGHTUSERDATA:
        out_add(o, "null", 4);
        return;
    case LUA_TTABLE:
        break;
    default:
        if (!bytes_is(L, index, &s))
            luaL_error(L, "a %s has no JSON form", luaL_typename(L, index));
        put_text(o, s.p, s.n);
        return;
    }
    lua_Unsigned count = lua_rawlen(L, index);
    if (count > 0) {
        for (lua_Unsigned i = 1; i <= count; i++) {
            out_add(o, i == 1 ? "[" : ",", 1);
            lua_rawgeti(L, index, (lua_Integer)i);
            put_value(o, lua_gettop(L), depth + 1);
            lua_pop(L, 1);
        }
        out_add(o, "]", 1);
        return;
    }
    bool first = true;
    out_add(o, "{", 1);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        size_t len;
        if (lua_type(L, -2) != LUA_TSTRING && lua_type(L, -2) != LUA_TNUMBER)
            luaL_error(L, "a key of an object must be text");
        if (!first)
            out_add(o, ",", 1);
        first = false;
        lua_pushvalue(L, -2);
        const char *key = lua_tolstring(L, -1, &len);
        put_text(o, key, len);
        lua_pop(L, 1);
        out_add(o, ":", 1);
        put_value(o, lua_gettop(L), depth + 1);
        lua_pop(L, 1);
    }
    out_add(o, "}", 1);
}

/* VPOP3.JSON.encode(value) -> text.  A table with a first element is a list, any other an object;
 * the empty table is {}.  Raises an error for functions, cycles and tables nested over 64 deep.
 * @since 1.0 */
static int api_encode(lua_State *L)
{
    struct out o;

    luaL_checkany(L, 1);
    lua_settop(L, 1);
    budget_stack(L, SCRIPT_STACK_MIN + 16384);
    out_open(L, &o);
    put_value(&o, 1, 0);
    out_push(&o);
    return 1;
}

/* --- decode
 * --------------------------------------------------------------------------------------------- */
struct parser {
    lua_State *L;
    const char *begin, *p, *end;
    const char *what; /* what is wrong; NULL: nothing */
};

static void blanks(struct parser *j)
{
    const char *from = j->p;

    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
        if (((++j->p - from) & 0xffff) == 0)
            budget_charge(j->L, 65536);
}

static bool bad(struct parser *j, const char *what)
{
    if (j->what == NULL)
        j->what = what;
    return false;
}

static int hex4(struct parser *j)
{
    int v = 0;

    if (j->end - j->p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = ascii_lower(*j->p++);
        int d = ascii_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

static size_t utf8_put(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | (c >> 6));
        to[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | (c >> 12));
        to[1] = (char)(0x80 | ((c >> 6) & 63));
        to[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | (c >> 18));
    to[1] = (char)(0x80 | ((c >> 12) & 63));
    to[2] = (char)(0x80 | ((c >> 6) & 63));
    to[3] = (char)(0x80 | (c & 63));
    return 4;
}

static bool escape(struct parser *j, struct out *o)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    char utf8[4];

    if (j->p == j->end)
        return bad(j, "unfinished text");
    char c = *j->p++;
    const char *known = c == '\0' ? NULL : strchr(from, c);
    if (known != NULL) {
        out_add(o, &to[known - from], 1);
        return true;
    }
    if (c != 'u')
        return bad(j, "unknown escape");
    int v = hex4(j);
    if (v < 0)
        return bad(j, "bad \\u escape");
    uint32_t u = (uint32_t)v;
    if (u >= 0xd800 && u < 0xdc00 && j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u') {
        const char *back = j->p;
        j->p += 2;
        int low = hex4(j);
        if (low >= 0xdc00 && low < 0xe000)
            u = 0x10000 + ((u - 0xd800) << 10) + ((uint32_t)low - 0xdc00);
        else
            j->p = back;
    }
    if (u >= 0xd800 && u < 0xe000)
        u = 0xfffd; /* half a pair */
    out_add(o, utf8, utf8_put(utf8, u));
    return true;
}

/* After the opening quote; pushes the text. */
static bool parse_text(struct parser *j)
{
    const char *from = j->p;
    struct out o;

    while (j->p < j->end && *j->p != '"' && *j->p != '\\' && (unsigned char)*j->p >= 32)
        if (((++j->p - from) & 0xffff) == 0)
            budget_charge(j->L, 65536);
    budget_charge(j->L, 16);
    if (j->p < j->end && *j->p == '"') {
        lua_pushlstring(j->L, from, (size_t)(j->p++ - from));
        return true;
    }
    out_open(j->L, &o);
    out_add(&o, from, (size_t)(j->p - from));
    for (;;) {
        if (j->p == j->end)
            return bad(j, "unfinished text");
        char c = *j->p++;
        if (c == '"')
            break;
        if ((unsigned char)c < 32)
            return bad(j, "control character in a text");
        if (c == '\\') {
            if (!escape(j, &o))
                return false;
        } else {
            out_add(&o, &c, 1);
        }
        budget_charge(j->L, 8);
    }
    out_push(&o);
    lua_replace(j->L, o.slot);
    return true;
}

static bool parse_number(struct parser *j)
{
    char text[64];
    const char *from = j->p;
    bool whole = true;

    while (j->p < j->end && (ascii_digit(*j->p) || strchr("+-.eE", *j->p) != NULL)) {
        whole &= *j->p != '.' && *j->p != 'e' && *j->p != 'E';
        j->p++;
    }
    size_t n = (size_t)(j->p - from);
    if (n == 0 || n >= sizeof text || from[0] == '+' || from[0] == '.')
        return bad(j, "bad value");
    memcpy(text, from, n);
    text[n] = '\0';
    if (lua_stringtonumber(j->L, text) == 0)
        return bad(j, "bad number");
    if (!whole && lua_isinteger(j->L, -1)) {
        lua_pushnumber(j->L, lua_tonumber(j->L, -1));
        lua_remove(j->L, -2);
    }
    return true;
}

static bool word(struct parser *j, const char *w)
{
    size_t n = strlen(w);

    if ((size_t)(j->end - j->p) < n || memcmp(j->p, w, n) != 0)
        return bad(j, "bad value");
    j->p += n;
    return true;
}

static bool parse_value(struct parser *j, int depth);

static bool parse_list(struct parser *j, int depth)
{
    lua_newtable(j->L);
    blanks(j);
    if (j->p < j->end && *j->p == ']') {
        j->p++;
        return true;
    }
    for (lua_Integer i = 1;; i++) {
        if (!parse_value(j, depth + 1))
            return false;
        if (lua_isnil(j->L, -1)) {
            lua_pop(j->L, 1);
            lua_pushlightuserdata(j->L, (void *)(uintptr_t)&null_key);
        }
        lua_rawseti(j->L, -2, i);
        blanks(j);
        char c = j->p < j->end ? *j->p++ : '\0';
        if (c == ']')
            return true;
        if (c != ',')
            return bad(j, "',' or ']' expected");
    }
}

static bool parse_object(struct parser *j, int depth)
{
    lua_newtable(j->L);
    blanks(j);
    if (j->p < j->end && *j->p == '}') {
        j->p++;
        return true;
    }
    for (;;) {
        blanks(j);
        if (j->p == j->end || *j->p++ != '"')
            return bad(j, "name expected");
        if (!parse_text(j))
            return false;
        blanks(j);
        if (j->p == j->end || *j->p++ != ':')
            return bad(j, "':' expected");
        if (!parse_value(j, depth + 1))
            return false;
        lua_rawset(j->L, -3);
        blanks(j);
        char c = j->p < j->end ? *j->p++ : '\0';
        if (c == '}')
            return true;
        if (c != ',')
            return bad(j, "',' or '}' expected");
    }
}

static bool parse_value(struct parser *j, int depth)
{
    if (depth > JSON_DEPTH)
        return bad(j, "nested too deeply");
    luaL_checkstack(j->L, 8, NULL);
    budget_charge(j->L, 32); /* lists of numbers look at no text */
    blanks(j);
    if (j->p == j->end)
        return bad(j, "value expected");
    switch (*j->p) {
    case '{':
        j->p++;
        return parse_object(j, depth);
    case '[':
        j->p++;
        return parse_list(j, depth);
    case '"':
        j->p++;
        return parse_text(j);
    case 't':
        lua_pushboolean(j->L, 1);
        return word(j, "true");
    case 'f':
        lua_pushboolean(j->L, 0);
        return word(j, "false");
    case 'n':
        lua_pushnil(j->L);
        return word(j, "null");
    default:
        return parse_number(j);
    }
}

/* VPOP3.JSON.decode(text) -> value; nil, text, "syntax" when it is no JSON.  null is left out of
 * objects and is JSON.null in lists.
 * @since 1.0 */
static int api_decode(lua_State *L)
{
    struct parser j = {.L = L};
    size_t n;

    j.begin = j.p = bytes_check(L, 1, &n);
    j.end = j.p + n;
    budget_stack(L, SCRIPT_STACK_MIN + 32768);
    bool ok = parse_value(&j, 0);
    if (ok) {
        blanks(&j);
        if (j.p != j.end)
            ok = bad(&j, "something follows the value");
    }
    if (ok)
        return 1;
    lua_pushnil(L);
    lua_pushfstring(L, "JSON: %s at byte %d", j.what, (int)(j.p - j.begin) + 1);
    lua_pushliteral(L, "syntax");
    return 3;
}

void api_json_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"encode", api_encode}, {"decode", api_decode}, {NULL, NULL}};

    luaL_newlib(L, functions);
    lua_pushlightuserdata(L, (void *)(uintptr_t)&null_key);
    lua_setfield(L, -2, "null");
    lua_setfield(L, -2, "JSON");
}
