/* Calls and their budgets: slices of processor time, waits, kills.
 *
 * The count hook and expensive C functions come here.  After a slice the task yields to the loop with
 * all its Lua and C frames in place.  A call over its budget is killed: the error is raised again by
 * every later look and by our pcall, coroutine.resume and friends, so no script can outlive it. */
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "script/host_int.h"

#include <stdio.h>
#include <time.h>

struct call *host_call;
uint64_t budget_cpu_ms = SCRIPT_CPU_MS, budget_wall_ms = SCRIPT_WALL_MS;

static uint64_t cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void slice_begin(struct call *c)
{
    host_call = c;
    memory_switch(c->env ? &c->env->purse : NULL);
    c->slice_ns = loop_ns();
    c->slice_cpu = cpu_now();
    c->debt = 0;
    shm_doing(c->hook, c->env ? c->env->script : "", c->message_id, c->message_hash);
}

static void slice_end(struct call *c)
{
    uint64_t now = cpu_now();

    c->cpu_ns += now > c->slice_cpu ? now - c->slice_cpu : 0;
    host_call = NULL;
    memory_switch(NULL);
    shm_doing("", "", 0, 0);
}

void budget_init(struct call *c, struct hook_env *env, const char *hook, bool manage)
{
    *c = (struct call){.env = env, .hook = hook, .manage = manage, .may_await = true};
    c->cpu_max_ns = (manage ? (uint64_t)SCRIPT_RUN_CPU_MS : budget_cpu_ms) * 1000000u;
    c->wall_end_ns = loop_ns() + (manage ? (uint64_t)SCRIPT_RUN_WALL_MS : budget_wall_ms) * 1000000u;
    c->output_max = manage ? SCRIPT_RUN_OUTPUT : SCRIPT_OUTPUT;
    c->ignore_cancel = task_cancelled();
}

/* `script:line` of the innermost Lua function of L; does not allocate. */
static void place(lua_State *L, char *to, size_t room)
{
    lua_Debug ar;

    for (int level = 0; level < 50 && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0) {
            snprintf(to, room, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    snprintf(to, room, "%s", "");
}

void budget_kill(struct call *c, enum kill kill, lua_State *L)
{
    static const char *const what[] = {
        [KILL_CPU] = "ended: used more computing time than a call may have",
        [KILL_WALL] = "ended: took longer than a call may take",
        [KILL_MEMORY] = "ended: used more memory than a script may have",
        [KILL_CANCELLED] = "ended: the client has left",
        [KILL_COUNT] = "ended: asked the database more often than a call may",
    };
    char at[100];

    if (c->kill != KILL_NO)
        return;
    c->kill = kill;
    place(L ? L : c->thread, at, sizeof at);
    snprintf(c->why, sizeof c->why, "%s%s", at, what[kill]);
}

void budget_note(struct call *c)
{
    if (c->kill == KILL_NO)
        place(c->running, c->why, sizeof c->why);
}

static int raise_kill(lua_State *L)
{
    /* Handlers of to-be-closed variables get one instruction each from here on. */
    lua_sethook(L, budget_tick, LUA_MASKCOUNT, 1);
    lua_pushstring(L, host_call->why);
    return lua_error(L);
}

void budget_check(lua_State *L)
{
    if (host_call != NULL && host_call->kill != KILL_NO)
        raise_kill(L);
}

/* A timer rather than task_yield(): deferred functions that defer again can run ahead of sockets and
 * timers, and a script that computes must hold up nobody. */
static void give_turn(void)
{
    struct err e = ERR_INIT;

    if (task_cancelled())
        task_yield(); /* a sleep would end at once */
    else
        task_sleep(1, &e);
}

static void look(lua_State *L, struct call *c)
{
    if (c->kill == KILL_NO && task_cancelled() && !c->ignore_cancel)
        budget_kill(c, KILL_CANCELLED, L);
    if (c->kill != KILL_NO)
        raise_kill(L);
    uint64_t now = loop_ns();
    if (now - c->slice_ns < SCRIPT_SLICE_MS * 1000000u)
        return;
    slice_end(c);
    if (c->cpu_ns > c->cpu_max_ns)
        budget_kill(c, KILL_CPU, L);
    else if (now > c->wall_end_ns)
        budget_kill(c, KILL_WALL, L);
    else if (task_self() != NULL)
        give_turn();
    slice_begin(c);
    if (c->kill != KILL_NO)
        raise_kill(L);
}

void budget_tick(lua_State *L, lua_Debug *ar)
{
    struct call *c = host_call;

    (void)ar;
    if (c == NULL)
        return;
    look(L, c);
    budget_stack(L, SCRIPT_STACK_MIN / 2);
}

void budget_charge(lua_State *L, size_t n)
{
    struct call *c = host_call;

    if (c == NULL)
        return;
    c->debt += n;
    if (c->debt < 65536)
        return;
    c->debt = 0;
    look(L, c);
}

void budget_stack(lua_State *L, size_t need)
{
    if (task_stack_left() < need)
        luaL_error(L, "stack overflow (too many nested calls)");
}

struct call *budget_await(lua_State *L, const char *what)
{
    struct call *c = host_call;

    if (c == NULL || task_self() == NULL)
        luaL_error(L, "%s cannot be called here", what);
    if (!c->may_await)
        luaL_error(L, "%s waits, and this hook may not wait", what);
    look(L, c);
    slice_end(c);
    return c;
}

void budget_awaited(lua_State *L, struct call *c)
{
    slice_begin(c);
    if (c->slice_ns > c->wall_end_ns)
        budget_kill(c, KILL_WALL, L);
    look(L, c);
}

uint64_t budget_wall_left_ms(const struct call *c)
{
    uint64_t now = loop_ns();

    return now < c->wall_end_ns ? (c->wall_end_ns - now) / 1000000u : 0;
}

int budget_run(struct call *c, lua_CFunction fn, void *ud, struct err *e)
{
    lua_State *L = c->thread;
    struct call *outer = host_call;

    if (task_stack_left() < SCRIPT_STACK_MIN * 2)
        return err_set(e, ERR_LIMIT, "%s: scripts called each other too deeply", c->hook);
    c->outer = outer;
    c->running = L;
    if (outer != NULL)
        slice_end(outer);
    slice_begin(c);
    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, ud);
    int status = lua_pcall(L, 1, 0, 0);
    slice_end(c);
    if (outer != NULL)
        slice_begin(outer);
    if (status == LUA_OK && c->kill == KILL_NO)
        return 0;
    if (c->kill != KILL_NO) {
        bool left = c->kill == KILL_CANCELLED;
        bool late = c->kill == KILL_CPU || c->kill == KILL_WALL;
        return err_set(e, left ? ERR_CANCELLED : late ? ERR_TIMEOUT : ERR_LIMIT, "%s", c->why);
    }
    if (lua_type(L, -1) == LUA_TSTRING && strstr(lua_tostring(L, -1), "not enough memory") != NULL)
        return err_set(e, ERR_LIMIT, "%s%s", c->why, lua_tostring(L, -1));
    if (lua_type(L, -1) == LUA_TSTRING)
        return err_set(e, ERR_PERM, "%s", lua_tostring(L, -1));
    return err_set(e, ERR_PERM, "%s: raised an error that is a %s", c->hook, luaL_typename(L, -1));
}
