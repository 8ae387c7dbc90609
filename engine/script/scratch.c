/* Memory for bindings that survives a raised error: a userdata that owns an arena, and a byte
 * buffer that lives in a stack slot.  Nothing else with a C resource may stand across a call that
 * can raise. */
#include "script/host_int.h"

#define SCRATCH "mail.scratch"

static int scratch_gc(lua_State *L)
{
    struct arena **a = lua_touserdata(L, 1);

    arena_free(a);
    return 0;
}

void scratch_open(lua_State *L)
{
    luaL_newmetatable(L, SCRATCH);
    lua_pushcfunction(L, scratch_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
}

struct arena *scratch_push(lua_State *L, size_t hint)
{
    budget_room(L, hint);
    struct arena **a = lua_newuserdatauv(L, sizeof(struct arena *), 0);

    *a = NULL;
    luaL_setmetatable(L, SCRATCH);
    *a = arena_new(hint);
    return *a;
}

void scratch_free(lua_State *L, int index)
{
    arena_free(lua_touserdata(L, index));
}

struct arena *scratch_take(lua_State *L, int index)
{
    struct arena **slot = lua_touserdata(L, index), *a = *slot;

    *slot = NULL;
    return a;
}

void out_open(lua_State *L, struct out *o)
{
    o->L = L;
    o->n = 0;
    o->room = 512;
    o->p = lua_newuserdatauv(L, o->room, 0);
    o->slot = lua_gettop(L);
}

char *out_room(struct out *o, size_t n)
{
    if (o->n + n > o->room) {
        size_t room = o->room * 2 > o->n + n ? o->room * 2 : o->n + n;
        luaL_checkstack(o->L, 1, NULL);
        budget_room(o->L, room);
        char *p = lua_newuserdatauv(o->L, room, 0);
        memcpy(p, o->p, o->n);
        lua_replace(o->L, o->slot);
        o->p = p;
        o->room = room;
        budget_charge(o->L, o->n);
    }
    return o->p + o->n;
}

void out_add(struct out *o, const void *p, size_t n)
{
    if (n == 0)
        return;
    while (n > 0) {
        size_t some = n < 65536 ? n : 65536;
        memcpy(out_room(o, some), p, some);
        o->n += some;
        p = (const char *)p + some;
        n -= some;
        if (n > 0)
            budget_charge(o->L, some);
    }
}

void out_push(struct out *o)
{
    budget_room(o->L, o->n);
    lua_pushlstring(o->L, o->p, o->n);
}

int push_failure(lua_State *L, const struct err *e)
{
    lua_pushnil(L);
    lua_pushstring(L, e->text);
    lua_pushstring(L, err_class_name(e->cls));
    return 3;
}
