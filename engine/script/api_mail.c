/* Small things every script may want: the log, the time, sleeping. */
#include "core/log.h"
#include "core/task.h"
#include "script/host_int.h"

#include <math.h>
#include <time.h>

/* VPOP3.Log(text) writes a line to the server's log, under the script's name.
 * @since 1.0 */
static int api_log(lua_State *L)
{
    size_t n;
    const char *p = bytes_check(L, 1, &n);
    struct call *c = host_call;

    budget_output(L, n);
    log_info("script", "%s: %.*s", c && c->env ? c->env->script : "?", n > 2000 ? 2000 : (int)n, p);
    return 0;
}

/* VPOP3.Now() -> local time as text, YYYYMMDDHHMMSS.
 * @since 1.0 */
static int api_now(lua_State *L)
{
    char text[32];
    time_t now = time(NULL);
    struct tm tm;

    localtime_r(&now, &tm);
    strftime(text, sizeof text, "%Y%m%d%H%M%S", &tm);
    lua_pushstring(L, text);
    return 1;
}

/* mail.time() -> seconds since 1970 with fraction.
 * @since 1.0 */
static int api_time(lua_State *L)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    lua_pushnumber(L, (lua_Number)t.tv_sec + (lua_Number)t.tv_nsec / 1e9);
    return 1;
}

/* mail.sleep(ms) waits; other sessions go on meanwhile.  Counts towards the call's time of 60
 * seconds. Waits.
 * @since 1.0 */
static int api_sleep(lua_State *L)
{
    lua_Number ms = luaL_checknumber(L, 1);
    struct err e = ERR_INIT;

    luaL_argcheck(L, ms >= 0 && ms < 1e9, 1, "milliseconds expected");
    struct call *c = budget_await(L, "mail.sleep");
    uint64_t most = budget_wall_left_ms(c) + 1;
    uint64_t want = (uint64_t)ceil(ms);
    /* A hook that may not be cancelled sleeps on a cancelled task not at all. */
    task_sleep(want < most ? want : most, &e);
    budget_awaited(L, c);
    return 0;
}

/* mail.version: the server's version.
 * @since 1.0 */
void api_mail_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"Log", api_log}, {"Now", api_now}, {"time", api_time}, {"sleep", api_sleep}, {NULL, NULL}};

    luaL_setfuncs(L, functions, 0);
    lua_pushliteral(L, MOONPOST_VERSION);
    lua_setfield(L, -2, "version");
}
