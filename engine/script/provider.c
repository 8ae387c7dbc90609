/* Hook calls: the script layer as the provider of core/hook.h.
 *
 * A call runs on a Lua thread of its environment under a budget of its own; arguments go in and
 * results come out as copies.  Where a row of hooks.def says FAIL_DEFAULT, a failing script is
 * passed over and the next layer answers, with a fresh budget. */
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "script/host_int.h"
#include "script/script.h"

#include <stdio.h>
#include <stdlib.h>

/* --- threads
 * ------------------------------------------------------------------------------------------ */
struct fresh_thread {
    lua_State *L;
    int ref;
};

static int make_thread(lua_State *L)
{
    struct fresh_thread *t = lua_touserdata(L, 1);

    t->L = lua_newthread(L);
    t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* An environment keeps one thread; a call within a call gets another.  Threads never go from one
 * environment to another: a script can keep a reference to its own. */
static lua_State *thread_take(struct hook_env *env, int *ref_r)
{
    struct fresh_thread t = {.ref = LUA_NOREF};

    if (env->thread != NULL && !env->thread_busy) {
        env->thread_busy = true;
        *ref_r = env->thread_ref;
        return env->thread;
    }
    struct purse *payer = memory_switch(&env->purse);
    struct call *running = host_call;
    host_call = NULL;
    int rc = host_protected(make_thread, &t);
    host_call = running;
    memory_switch(payer);
    if (rc != 0)
        return NULL;
    if (env->thread == NULL) {
        env->thread = t.L;
        env->thread_ref = t.ref;
        env->thread_busy = true;
    }
    *ref_r = t.ref;
    return t.L;
}

static void thread_give(struct hook_env *env, lua_State *L, int ref, bool clean)
{
    if (L == env->thread && clean) {
        lua_settop(L, 0);
        env->thread_busy = false;
        return;
    }
    luaL_unref(host_L, LUA_REGISTRYINDEX, ref);
    if (L == env->thread) {
        env->thread = NULL;
        env->thread_ref = LUA_NOREF;
        env->thread_busy = false;
    }
}

/* --- one call
 * ------------------------------------------------------------------------------------------ */
struct running {
    struct hook_call *hc;
    const struct hook_info *info;
    struct call *c;
    unsigned from;
    int found; /* the layer that answers; -1: none */
};

static void check_results(lua_State *L, struct running *r, int base)
{
    const char *rest = r->info->results;
    struct hook_call *hc = r->hc;
    struct str name, type;
    bool optional;

    for (int i = 0; hook_field(&rest, &name, &type, &optional); i++) {
        if (!value_read_as(L, base + i, type, optional, hc->arena, &hc->results[hc->nresults]))
            luaL_error(L, "%s.%s: result %d (%s) must be a %s, not a %s", r->info->script,
                       r->info->function, i + 1, lua_pushlstring(L, name.p, name.n),
                       lua_pushlstring(L, type.p, type.n), luaL_typename(L, base + i));
        hc->nresults++;
    }
}

static int count_results(const char *rest)
{
    struct str name, type;
    bool optional;
    int n = 0;

    while (hook_field(&rest, &name, &type, &optional))
        n++;
    return n;
}

static int body(lua_State *L)
{
    struct running *r = lua_touserdata(L, 1);
    struct hook_call *hc = r->hc;
    bool lend = false;

    lua_settop(L, 0);
    for (unsigned i = 0; i < hc->nargs; i++)
        lend |= hc->args[i].type == HV_BYTES;
    if (lend || hc->message.p != NULL) {
        struct lease *lease = lua_newuserdatauv(L, sizeof *lease, 0);
        lease->alive = true;
        lua_rawsetp(L, LUA_REGISTRYINDEX, lease);
        r->c->lease = lease;
    }
    r->found = env_push_function(L, hc->env, r->from, r->info->function);
    if (r->found < 0)
        return 0;
    r->c->layer = (unsigned)r->found;
    luaL_checkstack(L, (int)hc->nargs + 4, NULL);
    for (unsigned i = 0; i < hc->nargs; i++)
        value_push(L, &hc->args[i]);
    int results = count_results(r->info->results);
    lua_call(L, (int)hc->nargs, results);
    if (results > 0)
        check_results(L, r, lua_gettop(L) - results + 1);
    return 0;
}

/* Zero-copy values end with the call: the lease stays in memory as long as one of them does. */
static void end_lease(struct call *c)
{
    if (c->lease == NULL)
        return;
    c->lease->alive = false;
    lua_pushnil(host_L);
    lua_rawsetp(host_L, LUA_REGISTRYINDEX, c->lease);
    c->lease = NULL;
}

static int run_from(struct running *r, struct err *e)
{
    struct hook_call *hc = r->hc;
    struct call c;
    int ref;

    budget_init(&c, hc->env, r->info->name, false);
    c.function = r->info->function;
    c.may_await = r->info->may_await;
    c.message = hc->message;
    c.message_id = hc->message_id;
    c.message_hash = hc->message_hash;
    c.layer = r->from;
    if (hc->id == HOOK_SMTPSVR_ProcessMessage && hc->nargs > 4)
        c.mime = &hc->args[4];
    if (hc->id == HOOK_SMTPSVR_End)
        c.ignore_cancel = true;
    if (hc->deadline != 0 && hc->deadline < c.wall_end_ns)
        c.wall_end_ns = hc->deadline;
    r->c = &c;
    r->found = -1;
    hc->nresults = 0;
    if (loop_ns() >= c.wall_end_ns) {
        r->found = (int)r->from;
        return err_set(e, ERR_TIMEOUT, "%s: no time is left for this message", r->info->name);
    }
    c.thread = thread_take(hc->env, &ref);
    if (c.thread == NULL)
        return err_set(e, ERR_LIMIT, "%s: no memory", r->info->name);
    int rc = budget_run(&c, body, r, e);
    if (rc != 0) {
        hc->nresults = 0;
        r->found = (int)c.layer;
    }
    end_lease(&c);
    thread_give(hc->env, c.thread, ref, rc == 0);
    return rc;
}

static void record(struct running *r, struct hook_call *hc, const char *outcome, struct str reason,
                   uint64_t began)
{
    char where[140];
    const struct chunk *k = r->found >= 0 ? hc->env->layers[r->found].chunk : NULL;

    if (hc->steps == NULL || k == NULL)
        return;
    snprintf(where, sizeof where, "%s %s", k->where, k->hash);
    hook_steps_add(hc->steps, r->info->name, str_of(where), outcome, reason,
                   (loop_ns() - began) / 1000u);
}

/* What the ledger keeps of a result: a text, or how many. */
static struct str gist(const struct hook_call *hc)
{
    return hc->nresults > 0 ? hv_as_str(&hc->results[0], STR_NONE) : STR_NONE;
}

static enum hook_outcome provider_call(struct hook_call *hc, struct err *e)
{
    struct running r = {.hc = hc, .info = hook_info(hc->id)};
    bool failed = false;

    hc->nresults = 0;
    while (r.from < hc->env->layer_count) {
        struct err own = ERR_INIT;
        uint64_t began = loop_ns();
        const char *name = hc->env->layers[r.from].chunk->name;
        if (!hc->env->layers[r.from].chunk->shipped && shm_is_switched_off(r.info->name, name)) {
            err_set(&own, ERR_PERM, "%s in %s is switched off: it ended the server twice",
                    r.info->name, name);
            r.found = (int)r.from;
        } else if (run_from(&r, &own) == 0) {
            if (r.found < 0)
                break;
            record(&r, hc, "done", gist(hc), began);
            return HOOK_DONE;
        }
        failed = true;
        log_warn("script", "%s: %s", r.info->name, own.text);
        record(&r, hc, "failed", str_of(own.text), began);
        if (e != NULL)
            *e = own;
        if (r.info->fail != FAIL_DEFAULT || own.cls == ERR_CANCELLED)
            return HOOK_FAILED;
        r.from = (unsigned)r.found + 1;
    }
    return failed ? HOOK_FAILED : HOOK_DEFAULT;
}

/* --- presence
 * -------------------------------------------------------------------------------------------- */
static int look(lua_State *L)
{
    struct running *r = lua_touserdata(L, 1);

    r->found = env_push_function(L, r->hc->env, 0, r->info->function);
    return 0;
}

/* The answer without a call, where all that is asked for was loaded before: then no script runs. */
static int look_loaded(lua_State *L)
{
    struct running *r = lua_touserdata(L, 1);
    struct hook_env *env = r->hc->env;

    lua_settop(L, 0);
    lua_pushstring(L, r->info->function);
    for (unsigned i = 0; i < env->layer_count; i++) {
        const struct layer *l = &env->layers[i];
        if (!l->loaded || l->loading || l->failed)
            return 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, l->ref);
        lua_pushvalue(L, 1);
        if (lua_rawget(L, -2) == LUA_TFUNCTION) {
            r->found = (int)i;
            break;
        }
        lua_settop(L, 1);
    }
    r->from = env->layer_count;
    return 0;
}

static bool provider_present(struct hook_env *env, enum hook_id id)
{
    struct hook_call hc = {.id = id, .env = env};
    struct running r = {.hc = &hc, .info = hook_info(id), .found = -1};
    struct err e = ERR_INIT;
    struct call c;
    int ref;

    if (env->layer_count == 0)
        return false;
    if (task_self() == NULL || r.info->function[0] == '\0')
        return true;
    struct call *running = host_call;
    struct purse *payer = memory_switch(NULL);
    host_call = NULL;
    int quick = host_protected(look_loaded, &r);
    host_call = running;
    memory_switch(payer);
    if (quick == 0 && r.from == env->layer_count)
        return r.found >= 0;
    budget_init(&c, env, r.info->name, false);
    c.thread = thread_take(env, &ref);
    if (c.thread == NULL)
        return true;
    r.c = &c;
    int rc = budget_run(&c, look, &r, &e);
    thread_give(env, c.thread, ref, rc == 0);
    /* A script that does not load is found again by the call, which then fails as its row says. */
    return rc != 0 || r.found >= 0;
}

/* --- environments
 * ------------------------------------------------------------------------------------------ */
static struct hook_env *permanent[8];

static bool is_permanent(const char *script)
{
    for (int id = 0; id < HOOK_COUNT; id++) {
        const struct hook_info *i = hook_info((enum hook_id)id);
        if (strcmp(i->script, script) == 0)
            return strcmp(i->life, "permanent") == 0;
    }
    return false;
}

static struct hook_env *provider_env_new(const char *script, struct str user)
{
    struct release *now;

    if (release_poll != NULL)
        release_poll();
    now = release_current();
    if (!is_permanent(script))
        return env_make(script, user, now);
    for (size_t i = 0; i < sizeof permanent / sizeof *permanent; i++) {
        struct hook_env **p = &permanent[i];
        if (*p != NULL && strcmp((*p)->script, script) != 0)
            continue;
        if (*p != NULL && (*p)->release != now)
            env_drop(p);
        if (*p == NULL)
            *p = env_make(script, STR_NONE, now);
        (*p)->refs++;
        return *p;
    }
    return env_make(script, user, now);
}

static void provider_env_free(struct hook_env *env)
{
    env_drop(&env);
}

void provider_close(void)
{
    for (size_t i = 0; i < sizeof permanent / sizeof *permanent; i++)
        env_drop(&permanent[i]);
}

static bool provider_stale(struct hook_env *env)
{
    if (release_poll != NULL)
        release_poll();
    if (env->release == release_current())
        return false;
    return release_behind(env->release) >= SCRIPT_RELEASES ||
           loop_ns() / 1000000u - env->made_ms > SCRIPT_STALE_SECONDS * 1000u;
}

const struct hook_provider host_provider = {
    .env_new = provider_env_new,
    .env_free = provider_env_free,
    .env_set = env_globals_set,
    .env_get = env_globals_get,
    .call = provider_call,
    .present = provider_present,
    .stale = provider_stale,
};

/* --- management runs
 * ----------------------------------------------------------------------------------------- */
static int run_main(lua_State *L)
{
    struct hook_env *env = lua_touserdata(L, 1);

    lua_settop(L, 0);
    env_push_function(L, env, 0, "");
    lua_call(L, 0, 0);
    return 0;
}

int host_run_with(struct hook_env *env, const char *what, lua_CFunction fn, void *ud,
                  void (*print)(void *, struct str), void *ctx, struct err *e)
{
    struct call c;
    int ref;

    budget_init(&c, env, what, true);
    c.print = print;
    c.print_ctx = ctx;
    c.thread = thread_take(env, &ref);
    if (c.thread == NULL)
        return err_set(e, ERR_LIMIT, "no memory");
    int rc = budget_run(&c, fn, ud, e);
    thread_give(env, c.thread, ref, rc == 0);
    return rc;
}

int host_run(struct hook_env *env, const char *what, void (*print)(void *, struct str), void *ctx,
             struct err *e)
{
    return host_run_with(env, what, run_main, env, print, ctx, e);
}
