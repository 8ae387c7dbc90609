/* The Lua host of a process: one state, the common table, start and end.
 *
 * What environments have in common is built once, frozen, and stands under one registry key. */
#include "core/log.h"
#include "script/host_int.h"

#include <stdlib.h>

lua_State *host_L;
static const char common_key;

void host_push_common(lua_State *L)
{
    lua_rawgetp(L, LUA_REGISTRYINDEX, &common_key);
}

int host_protected(lua_CFunction fn, void *ud)
{
    lua_State *L = host_L;
    int top = lua_gettop(L);

    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, ud);
    int status = lua_pcall(L, 1, 0, 0);
    if (status != LUA_OK)
        log_warn("script", "host: %s",
                 lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "failed");
    lua_settop(L, top);
    return status == LUA_OK ? 0 : -1;
}

static void add_frozen(lua_State *L, const char *name)
{
    freeze_push(L, -1);
    lua_setfield(L, -3, name);
    lua_pop(L, 1);
}

static int build(lua_State *L)
{
    api_open_fn *const *apis = lua_touserdata(L, 1);
    static const char *const frozen[] = {"coroutine", "os", "bit32", NULL};

    scratch_open(L);
    lua_newtable(L); /* the common table */
    sandbox_open(L);
    shim_open(L);
    for (int i = 0; frozen[i] != NULL; i++) {
        lua_getfield(L, -1, frozen[i]);
        add_frozen(L, frozen[i]);
    }
    libstring_open(L);
    bytes_open(L);
    add_frozen(L, "string");
    libmath_open(L);
    add_frozen(L, "math");
    libutf8_open(L);
    add_frozen(L, "utf8");
    libtable_open(L);
    lua_getfield(L, -1, "unpack");
    lua_setfield(L, -3, "unpack");
    add_frozen(L, "table");

    libio_open(L);
    add_frozen(L, "io");

    lua_newtable(L); /* mail = VPOP3 = VPOP3Net */
    for (; *apis != NULL; apis++)
        (*apis)(L);
    freeze_push(L, -1);
    lua_remove(L, -2);
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "mail");
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "VPOP3");
    lua_setfield(L, -2, "VPOP3Net");

    luaL_newmetatable(L, "mail.shared");
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &common_key);
    return 0;
}

int host_open(const char *share_dir, api_open_fn *const *apis, struct err *e)
{
    union {
        api_open_fn *const *in;
        void *out;
    } list = {apis};

    host_L = memory_new_state();
    if (host_L == NULL)
        return err_set(e, ERR_INTERNAL, "no memory for Lua");
    /* Every thread inherits the hook from the one that made it. */
    lua_sethook(host_L, budget_tick, LUA_MASKCOUNT, SCRIPT_TICK);
    if (host_protected(build, list.out) != 0) {
        host_close();
        return err_set(e, ERR_INTERNAL, "the Lua host could not be set up");
    }
    if (shipped_load(share_dir, e) != 0) {
        host_close();
        return -1;
    }
    return 0;
}

void host_close(void)
{
    provider_close();
    release_use(NULL);
    shipped_free();
    cache_free();
    regex_free();
    if (host_L != NULL)
        lua_close(host_L);
    host_L = NULL;
}
