/* Environments: the globals of one script for one session, recipient or call.
 *
 * An environment has up to two layers, the site's script (or the user's in its place) above the
 * shipped one.  Each layer is a chunk with an _ENV table of its own, made when first needed; behind
 * all of them stands one table with the declared hook globals, and behind that the frozen common
 * table.  Nothing of one environment can be reached from another. */
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"
#include "script/host_int.h"

#include <stdio.h>
#include <stdlib.h>

static const struct hook_global *global_find(const char *script, const char *name)
{
    unsigned n;
    const struct hook_global *g = hook_globals(&n);

    for (unsigned i = 0; i < n; i++)
        if (strcmp(g[i].name, name) == 0 && strcmp(g[i].script, script) == 0)
            return &g[i];
    return NULL;
}

static bool is_chunk_shape(const char *script)
{
    for (int id = 0; id < HOOK_COUNT; id++) {
        const struct hook_info *i = hook_info((enum hook_id)id);
        if (strcmp(i->script, script) == 0)
            return i->function[0] == '\0';
    }
    return false;
}

static struct hook_env *blank(const char *script, struct str user, size_t memory)
{
    struct hook_env *env = xcalloc(1, sizeof *env);

    snprintf(env->script, sizeof env->script, "%s", script);
    snprintf(env->user, sizeof env->user, "%.*s", STR_ARG(user));
    purse_open(&env->purse, memory);
    env->shared_ref = env->meta_ref = env->thread_ref = LUA_NOREF;
    env->refs = 1;
    env->made_ms = loop_ns() / 1000000u;
    return env;
}

static void add_layer(struct hook_env *env, struct chunk *c)
{
    if (c != NULL && env->layer_count < ENV_LAYERS)
        env->layers[env->layer_count++] = (struct layer){.chunk = c, .ref = LUA_NOREF};
}

struct hook_env *env_make(const char *script, struct str user, struct release *release)
{
    struct hook_env *env = blank(script, user, SCRIPT_MEMORY);
    struct str name = str_of(env->script);

    env->release = release_ref(release);
    env->chunk_shape = is_chunk_shape(script);
    if (release != NULL && !shipped_only(name)) {
        struct chunk *c = NULL;
        if (user.n > 0) {
            char path[140];
            snprintf(path, sizeof path, "%.*s/%s", STR_ARG(user), script);
            c = release_find(release, str_of(path));
        }
        add_layer(env, c ? c : release_find(release, name));
    }
    add_layer(env, shipped_find(name));
    return env;
}

struct hook_env *env_make_text(struct str name, struct str text, size_t memory, struct err *e)
{
    struct hook_env *env = blank("run", STR_NONE, memory);

    snprintf(env->script, sizeof env->script, "%.*s", STR_ARG(name));
    struct chunk *c = chunk_new(name, text, false);
    /* A release of its own holds the text as long as the environment lives. */
    env->release = release_new(0);
    release_add(env->release, c);
    add_layer(env, c);
    env->chunk_shape = true;
    if (chunk_compile(c, e) != 0)
        env_drop(&env);
    return env;
}

struct hook_env *env_make_chunk(struct release *release, struct chunk *c, size_t memory)
{
    struct hook_env *env = blank(c->name, STR_NONE, memory);

    env->release = release_ref(release);
    add_layer(env, c);
    env->chunk_shape = true;
    return env;
}

void env_drop(struct hook_env **envp)
{
    struct hook_env *env = *envp;

    *envp = NULL;
    if (env == NULL || --env->refs > 0)
        return;
    for (unsigned i = 0; i < env->layer_count; i++)
        luaL_unref(host_L, LUA_REGISTRYINDEX, env->layers[i].ref);
    luaL_unref(host_L, LUA_REGISTRYINDEX, env->shared_ref);
    luaL_unref(host_L, LUA_REGISTRYINDEX, env->meta_ref);
    luaL_unref(host_L, LUA_REGISTRYINDEX, env->thread_ref);
    purse_close(&env->purse);
    release_unref(&env->release);
    free(env);
}

/* __newindex of layers.  Upvalues: the shared table, the script's declared names -> may be changed.
 */
static int new_global(lua_State *L)
{
    lua_settop(L, 3);
    lua_pushvalue(L, 2);
    lua_rawget(L, lua_upvalueindex(2));
    bool share = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_rawset(L, share ? lua_upvalueindex(1) : 1);
    return 0;
}

/* Upvalues must be tables for rawset: both are. */
static void ensure(lua_State *L, struct hook_env *env)
{
    unsigned n;
    const struct hook_global *g = hook_globals(&n);

    if (env->shared_ref != LUA_NOREF)
        return;
    luaL_checkstack(L, 8, NULL);
    lua_newtable(L);
    luaL_getmetatable(L, "mail.shared");
    lua_setmetatable(L, -2);
    lua_createtable(L, 0, 3);
    lua_pushvalue(L, -2);
    lua_setfield(L, -2, "__index");
    lua_pushvalue(L, -2);
    /* The names are the same for all environments of a script. */
    lua_pushfstring(L, "mail.declared.%s", env->script);
    if (lua_rawget(L, LUA_REGISTRYINDEX) != LUA_TTABLE) {
        lua_pop(L, 1);
        struct purse *payer = memory_switch(NULL);
        lua_newtable(L);
        for (unsigned i = 0; i < n; i++) {
            if (strcmp(g[i].script, env->script) != 0)
                continue;
            lua_pushboolean(L, g[i].direction == HOOK_INOUT);
            lua_setfield(L, -2, g[i].name);
        }
        lua_pushfstring(L, "mail.declared.%s", env->script);
        lua_pushvalue(L, -2);
        lua_rawset(L, LUA_REGISTRYINDEX);
        memory_switch(payer);
    }
    lua_pushcclosure(L, new_global, 2);
    lua_setfield(L, -2, "__newindex");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    env->meta_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    env->shared_ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

int sandbox_default(lua_State *L)
{
    struct call *c = host_call;
    int n = lua_gettop(L);

    if (c == NULL || c->function == NULL)
        return 0;
    budget_stack(L, SCRIPT_STACK_MIN);
    unsigned was = c->layer;
    int got = env_push_function(L, c->env, (unsigned)lua_tointeger(L, lua_upvalueindex(1)) + 1,
                                c->function);
    if (got < 0)
        return 0;
    c->layer = (unsigned)got;
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    c->layer = was;
    return lua_gettop(L);
}

/* Pushes the layer's _ENV, made on first use; the main chunk is not run. */
static void push_table(lua_State *L, struct hook_env *env, unsigned i)
{
    struct layer *l = &env->layers[i];

    if (l->ref != LUA_NOREF) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, l->ref);
        return;
    }
    ensure(L, env);
    lua_createtable(L, 0, 16);
    sandbox_layer(L, -1);
    lua_pushliteral(L, "default");
    lua_pushinteger(L, (lua_Integer)i);
    lua_pushcclosure(L, sandbox_default, 1);
    lua_rawset(L, -3);
    lua_rawgeti(L, LUA_REGISTRYINDEX, env->meta_ref);
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    l->ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

void env_push_layer(lua_State *L, struct hook_env *env, unsigned i)
{
    struct layer *l = &env->layers[i];

    luaL_checkstack(L, 6, NULL);
    /* Only environments that sessions share can be found half loaded, by another task. */
    while (l->loading && host_call != NULL && task_self() != NULL) {
        bool may = host_call->may_await;
        host_call->may_await = true;
        struct call *c = budget_await(L, "loading a script");
        c->may_await = may;
        task_sleep(1, NULL);
        budget_awaited(L, c);
    }
    if (l->failed)
        luaL_error(L, "%s failed when it was loaded", l->chunk->where);
    push_table(L, env, i);
    if (l->loaded)
        return;
    l->loaded = l->loading = true;
    chunk_push(L, l->chunk, -1);
    int status = lua_pcall(L, 0, 0, 0);
    l->loading = false;
    if (status == LUA_OK)
        return;
    if (host_call != NULL && host_call->kill == KILL_CANCELLED)
        l->loaded = false;
    else
        l->failed = true;
    budget_check(L);
    lua_error(L);
}

int env_push_function(lua_State *L, struct hook_env *env, unsigned from, const char *name)
{
    luaL_checkstack(L, 6, NULL);
    for (unsigned i = from; i < env->layer_count; i++) {
        if (name[0] == '\0') {
            push_table(L, env, i);
            chunk_push(L, env->layers[i].chunk, -1);
            lua_remove(L, -2);
            return (int)i;
        }
        env_push_layer(L, env, i);
        lua_pushstring(L, name);
        lua_rawget(L, -2);
        lua_remove(L, -2);
        if (lua_isfunction(L, -1))
            return (int)i;
        lua_pop(L, 1);
    }
    return -1;
}

/* --- declared globals
 * --------------------------------------------------------------------------------- */
struct global_access {
    struct hook_env *env;
    const char *name;
    const struct hval *set;
    struct arena *a;
    struct hval *get;
    bool found;
};

static int set_global(lua_State *L)
{
    struct global_access *x = lua_touserdata(L, 1);

    ensure(L, x->env);
    lua_rawgeti(L, LUA_REGISTRYINDEX, x->env->shared_ref);
    lua_pushstring(L, x->name);
    value_push(L, x->set);
    lua_rawset(L, -3);
    return 0;
}

static int get_global(lua_State *L)
{
    struct global_access *x = lua_touserdata(L, 1);
    const struct hook_global *g = global_find(x->env->script, x->name);

    if (x->env->shared_ref == LUA_NOREF)
        return 0;
    lua_rawgeti(L, LUA_REGISTRYINDEX, x->env->shared_ref);
    lua_pushstring(L, x->name);
    lua_rawget(L, -2);
    if (!lua_isnil(L, -1))
        x->found = value_read_as(L, -1, str_of(g ? g->type : "any"), true, x->a, x->get);
    return 0;
}

void env_globals_set(struct hook_env *env, const char *name, const struct hval *v)
{
    struct global_access x = {.env = env, .name = name, .set = v};
    struct call *running = host_call;
    struct purse *payer = memory_switch(&env->purse);

    /* What the engine sets is not refused: without a running call no cap is enforced. */
    host_call = NULL;
    host_protected(set_global, &x);
    host_call = running;
    memory_switch(payer);
}

bool env_globals_get(struct hook_env *env, const char *name, struct arena *a, struct hval *v_r)
{
    struct global_access x = {.env = env, .name = name, .a = a, .get = v_r};
    struct call *running = host_call;

    host_call = NULL;
    int rc = host_protected(get_global, &x);
    host_call = running;
    return rc == 0 && x.found;
}
