/* Values between C and Lua: struct hval in both directions.
 *
 * What comes from a script is untrusted: depth and number of values are bounded, strings are copied
 * into the caller's arena, functions and threads are refused. */
#include "script/host_int.h"

#include <math.h>
#include <stdio.h>

static void push(lua_State *L, const struct hval *v, int depth)
{
    luaL_checkstack(L, 4, "value is nested too deeply");
    if (depth > SCRIPT_VALUE_DEPTH)
        luaL_error(L, "value is nested too deeply");
    switch (v->type) {
    case HV_NIL:
        lua_pushnil(L);
        break;
    case HV_BOOL:
        lua_pushboolean(L, v->b);
        break;
    case HV_INT:
        lua_pushinteger(L, v->i);
        break;
    case HV_NUM:
        lua_pushnumber(L, v->n);
        break;
    case HV_BYTES:
        if (host_call != NULL && host_call->lease != NULL) {
            /* The lease stands in the registry under its address while the call lasts. */
            lua_rawgetp(L, LUA_REGISTRYINDEX, host_call->lease);
            bytes_push(L, v->s, host_call->lease, -1);
            lua_remove(L, -2);
            break;
        }
        lua_pushlstring(L, v->s.p ? v->s.p : "", v->s.n);
        break;
    case HV_STR:
        lua_pushlstring(L, v->s.p ? v->s.p : "", v->s.n);
        break;
    case HV_LIST:
        lua_createtable(L, (int)v->v.count, 0);
        for (uint32_t i = 0; i < v->v.count; i++) {
            push(L, &v->v.items[i], depth + 1);
            lua_rawseti(L, -2, (lua_Integer)i + 1);
        }
        break;
    case HV_MAP:
        lua_createtable(L, 0, (int)v->v.count);
        for (uint32_t i = 0; i < v->v.count; i++) {
            if (v->v.items[i * 2].type == HV_NIL)
                continue;
            push(L, &v->v.items[i * 2], depth + 1);
            push(L, &v->v.items[i * 2 + 1], depth + 1);
            lua_rawset(L, -3);
        }
        break;
    }
}

void value_push(lua_State *L, const struct hval *v)
{
    push(L, v, 0);
}

struct reading {
    lua_State *L;
    struct arena *a;
    uint32_t nodes;
};

static void read_value(struct reading *r, int index, struct hval *v_r, int depth, bool as_map);

static void read_table(struct reading *r, int index, struct hval *v_r, int depth, bool as_map)
{
    lua_State *L = r->L;
    lua_Unsigned n = as_map ? 0 : lua_rawlen(L, index);

    luaL_checkstack(L, 6, "value is nested too deeply");
    *v_r = hv_list();
    if (n > 0 || (!as_map && (lua_pushnil(L), lua_next(L, index) == 0))) {
        for (lua_Unsigned i = 1; i <= n; i++) {
            struct hval item;
            lua_rawgeti(L, index, (lua_Integer)i);
            read_value(r, lua_gettop(L), &item, depth + 1, false);
            lua_pop(L, 1);
            hv_push(r->a, v_r, item);
        }
        return;
    }
    if (!as_map)
        lua_pop(L, 2);
    lua_pushnil(L);
    while (lua_next(L, index) != 0) {
        struct hval key, item;
        int type = lua_type(L, -2);
        if (type == LUA_TSTRING || type == LUA_TNUMBER) {
            lua_pushvalue(L, -2); /* converted in place, which must not happen to lua_next's key */
            read_value(r, lua_gettop(L), &key, depth + 1, false);
            if (key.type != HV_STR) {
                size_t len;
                const char *p = lua_tolstring(L, -1, &len);
                key = hv_str(arena_dup(r->a, str_make(p, len)));
            }
            lua_pop(L, 1);
            read_value(r, lua_gettop(L), &item, depth + 1, false);
            hv_push(r->a, v_r, key);
            hv_push(r->a, v_r, item);
        }
        lua_pop(L, 1);
    }
    v_r->type = HV_MAP;
    v_r->v.count /= 2;
}

static void read_value(struct reading *r, int index, struct hval *v_r, int depth, bool as_map)
{
    lua_State *L = r->L;
    struct str s;

    if (depth > SCRIPT_VALUE_DEPTH)
        luaL_error(L, "table is nested too deeply, or contains itself");
    if (++r->nodes > SCRIPT_VALUE_NODES)
        luaL_error(L, "table holds too many values");
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        *v_r = HV_NONE;
        break;
    case LUA_TBOOLEAN:
        *v_r = hv_bool(lua_toboolean(L, index));
        break;
    case LUA_TNUMBER:
        if (lua_isinteger(L, index))
            *v_r = hv_int(lua_tointeger(L, index));
        else
            *v_r = (struct hval){.type = HV_NUM, .n = lua_tonumber(L, index)};
        break;
    case LUA_TSTRING:
        s.p = lua_tolstring(L, index, &s.n);
        budget_charge(L, s.n);
        *v_r = hv_str(arena_dup(r->a, s));
        break;
    case LUA_TTABLE:
        read_table(r, index, v_r, depth, as_map);
        break;
    default:
        if (!bytes_is(L, index, &s))
            luaL_error(L, "a %s cannot leave the script", luaL_typename(L, index));
        budget_charge(L, s.n);
        *v_r = hv_str(arena_dup(r->a, s));
        break;
    }
}

void value_read(lua_State *L, int index, struct arena *a, struct hval *v_r)
{
    struct reading r = {.L = L, .a = a};

    read_value(&r, lua_absindex(L, index), v_r, 0, false);
}

static bool read_string(lua_State *L, int index, struct arena *a, struct hval *v_r)
{
    struct str s;

    if (lua_type(L, index) == LUA_TNUMBER) {
        lua_pushvalue(L, index);
        s.p = lua_tolstring(L, -1, &s.n);
        *v_r = hv_str(arena_dup(a, s));
        lua_pop(L, 1);
        return true;
    }
    if (lua_type(L, index) == LUA_TSTRING)
        s.p = lua_tolstring(L, index, &s.n);
    else if (!bytes_is(L, index, &s))
        return false;
    *v_r = hv_str(arena_dup(a, s));
    return true;
}

static bool read_int(lua_State *L, int index, struct hval *v_r)
{
    int ok;
    lua_Number n = lua_tonumberx(L, index, &ok);

    if (!ok)
        return false;
    lua_Integer i = lua_tointegerx(L, index, &ok);
    if (ok) {
        *v_r = hv_int(i);
        return true;
    }
    if (!(n >= -9e15 && n <= 9e15))
        return false;
    *v_r = hv_int((int64_t)trunc(n));
    return true;
}

bool value_read_as(lua_State *L, int index, struct str type, bool optional, struct arena *a,
                   struct hval *v_r)
{
    index = lua_absindex(L, index);
    *v_r = HV_NONE;
    if (lua_isnoneornil(L, index))
        return optional;
    if (str_eqz(type, "string") || str_eqz(type, "bytes"))
        return read_string(L, index, a, v_r);
    if (str_eqz(type, "int"))
        return read_int(L, index, v_r);
    if (str_eqz(type, "number")) {
        int ok;
        *v_r = (struct hval){.type = HV_NUM, .n = lua_tonumberx(L, index, &ok)};
        return ok;
    }
    if (str_eqz(type, "bool")) {
        *v_r = hv_bool(lua_toboolean(L, index));
        return true;
    }
    struct reading r = {.L = L, .a = a};
    if (str_eqz(type, "list") || str_eqz(type, "map")) {
        if (!lua_istable(L, index))
            return false;
        read_value(&r, index, v_r, 0, str_eqz(type, "map"));
        if (str_eqz(type, "list"))
            return v_r->type == HV_LIST;
        return true;
    }
    read_value(&r, index, v_r, 0, false);
    return true;
}
