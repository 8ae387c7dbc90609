/* Calls and their budgets: slices of processor time, waits, kills.
 *
 * The count hook and expensive C functions come here.  After a slice the task yields to the loop
 * with all its Lua and C frames in place.  A call over its budget is killed: the error is raised
 * again by every later look and by our pcall, coroutine.resume and friends, so no script can
 * outlive it. */
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "script/host_int.h"
#include "store/setting.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

struct call *host_call;
struct budget_limits budget_limits = {
    .slice_ms = SCRIPT_SLICE_MS,
    .cpu_ms = SCRIPT_CPU_MS,
    .wall_ms = SCRIPT_WALL_MS,
    .memory = SCRIPT_MEMORY,
    .output = SCRIPT_OUTPUT,
    .waits = SCRIPT_WAITS,
    .queries = SCRIPT_QUERIES,
};
static bool follow;
static uint64_t followed_ms;

void budget_follow_settings(bool yes)
{
    follow = yes;
    followed_ms = 0;
}

bool host_has_settings(void)
{
    return follow;
}

/* A few times a second rather than at each of thousands of calls. */
static void read_settings(void)
{
    if (!follow || (followed_ms != 0 && loop_ms() - followed_ms < 100))
        return;
    followed_ms = loop_ms() + 1;
    budget_limits = (struct budget_limits){
        .slice_ms = (uint64_t)setting_int("script.cpu_slice_ms"),
        .cpu_ms = (uint64_t)setting_int("script.cpu_seconds") * 1000,
        .wall_ms = (uint64_t)setting_int("script.wall_seconds") * 1000,
        .memory = (size_t)setting_int("script.memory_mb") << 20,
        .output = (size_t)setting_int("script.max_output_kb") * 1024,
        .waits = (uint32_t)setting_int("script.max_waits"),
        .queries = (uint32_t)setting_int("script.max_queries"),
    };
}

static uint64_t cpu_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Asking for the thread's processor time is a system call, asking for the time is not: slices start
 * on the wall clock, and those that turn out longer than this go over to processor time. */
enum { SLICE_WALL_NS = 1000000 };

static void slice_begin(struct call *c)
{
    host_call = c;
    if (c->env != NULL)
        c->env->purse.cap = c->memory_cap;
    memory_switch(c->env ? &c->env->purse : NULL);
    c->slice_ns = loop_ns();
    c->slice_cpu = 0;
    c->debt = 0;
    shm_doing(c->hook, c->env ? c->env->script : "", c->message_id, c->message_hash);
}

static void slice_end(struct call *c)
{
    uint64_t from = c->slice_cpu ? c->slice_cpu : c->slice_ns;
    uint64_t now = c->slice_cpu ? cpu_now() : loop_ns();

    c->cpu_ns += now > from ? now - from : 0;
    host_call = NULL;
    memory_switch(NULL);
    shm_doing("", "", 0, 0);
}

void budget_init(struct call *c, struct hook_env *env, const char *hook, bool manage)
{
    *c = (struct call){.env = env, .hook = hook, .manage = manage, .may_await = true};
    read_settings();
    const struct budget_limits *l = &budget_limits;
    c->slice_max_ns = l->slice_ms * 1000000u;
    c->cpu_max_ns = (manage ? (uint64_t)SCRIPT_RUN_CPU_MS : l->cpu_ms) * 1000000u;
    c->wall_end_ns = loop_ns() + (manage ? (uint64_t)SCRIPT_RUN_WALL_MS : l->wall_ms) * 1000000u;
    c->output_max = manage ? SCRIPT_RUN_OUTPUT : l->output;
    c->waits_max = manage ? 0 : l->waits;
    c->queries_max = manage ? 0 : l->queries;
    if (env != NULL) {
        /* Growth in this call; what earlier ones left behind counts over the environment's life. */
        size_t grow = manage ? SCRIPT_RUN_MEMORY : l->memory, life = grow * SCRIPT_MEMORY_LIFE;
        c->memory_cap = env->purse.used + grow < life ? env->purse.used + grow : life;
    }
    c->pending_fd = -1;
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
        [KILL_QUERIES] = "ended: asked the database more often than a call may",
        [KILL_WAITS] = "ended: waited more often than a call may",
        [KILL_OUTPUT] = "ended: wrote more than a call may",
    };
    char at[100];

    if (c->kill != KILL_NO)
        return;
    c->kill = kill;
    place(L ? L : c->thread, at, sizeof at);
    snprintf(c->why, sizeof c->why, "%s%s", at, what[kill]);
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

/* A timer rather than task_yield(): deferred functions that defer again can run ahead of sockets
 * and timers, and a script that computes must hold up nobody. */
static void give_turn(void)
{
    struct err e = ERR_INIT;

    if (task_cancelled())
        task_yield(); /* a sleep would end at once */
    else
        task_sleep(1, &e);
}

/* The slice is used up: others have their turn, unless this was the last. */
static void next_slice(lua_State *L, struct call *c, uint64_t now)
{
    slice_end(c);
    if (c->cpu_ns > c->cpu_max_ns)
        budget_kill(c, KILL_CPU, L);
    else if (now > c->wall_end_ns)
        budget_kill(c, KILL_WALL, L);
    else if (task_self() != NULL)
        give_turn();
    slice_begin(c);
    if (c->kill == KILL_NO && task_cancelled() && !c->ignore_cancel)
        budget_kill(c, KILL_CANCELLED, L);
    if (c->kill != KILL_NO)
        raise_kill(L);
}

/* Gives the loop its turn when the slice is over. */
static void slice_check(lua_State *L, struct call *c)
{
    uint64_t now = loop_ns();

    if (now - c->slice_ns >= c->slice_max_ns)
        next_slice(L, c, now);
}

/* Over the cap: whatever is garbage goes before the call is judged.  Two ends of a cycle must be
 * seen, as the one under way takes what is new for alive. */
static void collect(lua_State *L, struct call *c)
{
    struct purse *p = &c->env->purse;

    for (uint64_t goal = memory_cycles() + 2; p->used > c->memory_cap && memory_cycles() < goal;) {
        memory_step(L);
        slice_check(L, c);
    }
    if (p->used > c->memory_cap) {
        budget_kill(c, KILL_MEMORY, L);
        raise_kill(L);
    }
    p->over = false;
    lua_sethook(L, budget_tick, LUA_MASKCOUNT, memory_tick(p));
}

static void look(lua_State *L, struct call *c)
{
    if (c->kill == KILL_NO && task_cancelled() && !c->ignore_cancel)
        budget_kill(c, KILL_CANCELLED, L);
    if (c->kill != KILL_NO)
        raise_kill(L);
    while (memory_step_due()) {
        memory_step(L);
        slice_check(L, c);
    }
    if (c->env != NULL && c->env->purse.over)
        collect(L, c);
    slice_check(L, c);
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

void budget_query(lua_State *L, struct call *c)
{
    if (c->queries_max == 0 || ++c->queries <= c->queries_max)
        return;
    budget_kill(c, KILL_QUERIES, L);
    raise_kill(L);
}

void budget_output(lua_State *L, size_t n)
{
    struct call *c = host_call;

    budget_charge(L, n);
    if (c == NULL || (c->output += n) <= c->output_max)
        return;
    budget_kill(c, KILL_OUTPUT, L);
    raise_kill(L);
}

void budget_room(lua_State *L, size_t n)
{
    struct call *c = host_call;

    if (c == NULL || c->env == NULL || n < 65536)
        return;
    if (c->env->purse.used + n <= c->env->purse.cap * 2)
        return;
    budget_kill(c, KILL_MEMORY, L);
    raise_kill(L);
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
    if (c->waits_max != 0 && ++c->waits > c->waits_max) {
        budget_kill(c, KILL_WAITS, L);
        raise_kill(L);
    }
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

    if (memory_total() > SCRIPT_HOST_MEMORY + SCRIPT_HOST_MEMORY / 8)
        return err_set(e, ERR_LIMIT, "%s: the scripts of this process use too much memory",
                       c->hook);
    if (task_stack_left() < SCRIPT_STACK_MIN * 2)
        return err_set(e, ERR_LIMIT, "%s: scripts called each other too deeply", c->hook);
    c->outer = outer;
    c->running = L;
    if (outer != NULL)
        slice_end(outer);
    if (memory_total() > SCRIPT_HOST_MEMORY)
        memory_step(host_L);
    slice_begin(c);
    lua_sethook(L, budget_tick, LUA_MASKCOUNT, memory_tick(c->env ? &c->env->purse : NULL));
    lua_pushcfunction(L, fn);
    lua_pushlightuserdata(L, ud);
    int status = lua_pcall(L, 1, 0, 0);
    slice_end(c);
    if (c->pending_fd >= 0)
        close(c->pending_fd);
    io_end(c);
    /* Short calls never come to a look: their garbage is dealt with here. */
    for (uint64_t begun = loop_ns(); memory_step_due() && loop_ns() - begun < 1000000u;)
        memory_step(host_L);
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
