/* Budgets and kills: what a bad script does must end in its fail mode within its budget, while
 * other tasks are answered; nothing swallows a kill; deep recursion ends in an error. */
#include "unit/script/script_test.h"

#include <time.h>

static uint64_t now_ms(void)
{
    return loop_ns() / 1000000u;
}

static void turn(void)
{
    task_sleep(1, NULL);
}

/* --- a second session that wants an answer every turn
 * --------------------------------------------------- */
static bool other_stop;
static unsigned other_calls;
static uint64_t other_worst_us;

static void other_session(void *unused)
{
    struct hook_env *env = env_of("smtpsvr", "function DoNOOP(x) return '250 ' .. x end");
    struct hval args[] = {hv_str(STR("hi"))};
    (void)unused;
    while (!other_stop) {
        uint64_t before = loop_ns();
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 1, args);
        CHECK(o.what == HOOK_DONE);
        outcome_free(&o);
        turn();
        uint64_t us = (loop_ns() - before) / 1000;
        if (us > other_worst_us)
            other_worst_us = us;
        other_calls++;
    }
    env_drop(&env);
}

static const struct {
    const char *what, *text;
    enum err_class cls;
} bad[] = {
    {"endless loop", "while true do end", ERR_TIMEOUT},
    {"endless loop in pcall", "while true do pcall(function() while true do end end) end",
     ERR_TIMEOUT},
    {"endless xpcall handler",
     "xpcall(function() while true do end end, function() while true do end end)", ERR_TIMEOUT},
    {"handler of a handler",
     "while true do xpcall(function() error('x') end, function() local x = nil; x() end) end",
     ERR_TIMEOUT},
    {"endless loop in a coroutine",
     "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
     ERR_TIMEOUT},
    {"endless wrap", "while true do pcall(coroutine.wrap(function() while true do end end)) end",
     ERR_TIMEOUT},
    {"short coroutines without end", "while true do coroutine.wrap(function() end)() end",
     ERR_TIMEOUT},
    {"endless __close",
     "local function f() local x <close> = setmetatable({}, {__close = function() while true do "
     "end "
     "end}) while true do end end while true do pcall(f) end",
     ERR_TIMEOUT},
    {"many __close",
     "local mt = {__close = function() while true do end end} local function f(n) local x <close> "
     "= "
     "setmetatable({}, mt) if n > 0 then f(n - 1) end while true do end end while true do pcall(f, "
     "150) end",
     ERR_TIMEOUT},
    {"endless __index",
     "local t t = setmetatable({}, {__index = function() while true do end end}) return t.x",
     ERR_TIMEOUT},
    {"endless gsub callback", "('x'):gsub('x', function() while true do end end)", ERR_TIMEOUT},
    {"endless sort callback", "table.sort({1, 2, 3}, function() while true do end end)",
     ERR_TIMEOUT},
    {"endless iterator", "for _ in function() return 1 end do end", ERR_TIMEOUT},
    {"endless goto", "::a:: goto a", ERR_TIMEOUT},
    {"endless tostring",
     "return tostring(setmetatable({}, {__tostring = function() while true do end end}))",
     ERR_TIMEOUT},
    {"pathological pattern", "return (('a'):rep(200)):find(('a-'):rep(30) .. 'b')", ERR_TIMEOUT},
    {"pathological pattern in pcall",
     "while true do pcall(string.find, ('a'):rep(3000), ('.-'):rep(60) .. 'b') end", ERR_TIMEOUT},
    {"pathological %b", "local s = ('('):rep(200000) return s:find('%b()')", ERR_TIMEOUT},
    {"pathological regex in pcall",
     "local re = mail.regex.compile('(a+)+$') while true do pcall(re.find, re, ('a'):rep(40) .. "
     "'b') end",
     ERR_TIMEOUT},
    {"quadratic regex",
     "local re = mail.regex.compile('x*y') local s = ('x'):rep(4000000) return re:find(s)",
     ERR_TIMEOUT},
    {"long sort",
     "local t = {} for i = 1, 300000 do t[i] = -i end while true do table.sort(t, function(a, b) "
     "return "
     "a > b end) end",
     ERR_TIMEOUT},
    {"sort of long strings",
     "local s = ('x'):rep(1000000) local t = {} for i = 1, 200000 do t[i] = s end while true do "
     "table.sort(t) end",
     ERR_TIMEOUT},
    {"upper without end", "local s = ('x'):rep(4000000) while true do local u = s:upper() end",
     ERR_TIMEOUT},
    {"front inserts", "local t = {} while true do table.insert(t, 1, 1) end", ERR_TIMEOUT},
    {"hashing without end", "local s = ('x'):rep(4000000) while true do VPOP3.SHA512(s) end",
     ERR_TIMEOUT},
    {"format without end",
     "local s = ('x'):rep(1000000) while true do local x = ('%s%s'):format(s, s) end", ERR_TIMEOUT},
    {"memory bomb: table", "local t = {} while true do t[#t + 1] = {} end", ERR_LIMIT},
    {"memory bomb: string", "local s = 'x' while true do s = s .. s end", ERR_LIMIT},
    {"memory bomb in pcall",
     "local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end",
     ERR_LIMIT},
    {"memory bomb: rep", "local s = ('x'):rep(100000000)", ERR_LIMIT},
    {"memory bomb: rep in pcall", "while true do pcall(string.rep, 'x', 100000000) end", ERR_LIMIT},
    {"memory bomb: concat",
     "local s = ('x'):rep(1000000) local t = {} for i = 1, 100 do t[i] = s end return "
     "table.concat(t)",
     ERR_LIMIT},
    {"memory bomb: gsub", "return (('x'):rep(1000)):gsub('x', ('y'):rep(1000000))", ERR_LIMIT},
    {"memory bomb: coroutines",
     "local t = {} while true do local co = coroutine.create(function() coroutine.yield() end) "
     "coroutine.resume(co) t[#t + 1] = co end",
     ERR_LIMIT},
    {"memory bomb: closures", "local t = {} while true do t[#t + 1] = function() return t end end",
     ERR_LIMIT},
    {"memory bomb: load", "local t = {} while true do t[#t + 1] = load('return ' .. #t) end",
     ERR_LIMIT},
    {"memory bomb: pack", "return string.pack('c100000000', '')", ERR_PERM},
    {"memory bomb: json",
     "local s = ('x'):rep(1000000) local t = {} for i = 1, 100 do t[i] = s end return "
     "VPOP3.JSON.encode(t)",
     ERR_LIMIT},
    {"error", "error('refused by the test')", ERR_PERM},
    {"error table", "error({})", ERR_PERM},
    {"error nil", "error()", ERR_PERM},
    {"wrong result", "return {}", ERR_PERM},
    {"wrong result: function", "return print", ERR_PERM},
    {"output", "while true do pcall(print, ('x'):rep(100000)) end", ERR_LIMIT},
};

IN_TASK(test_bad)
{
    (void)unused;
    other_stop = false;
    other_calls = 0;
    task_spawn(other_session, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[1000];
        /* The first has more; the others show the same in less time. */
        budget_limits.cpu_ms = i == 0 ? 1000 : 120;
        /* Only what has to collect long before it is refused may take as long as it likes. */
        if (bad[i].cls == ERR_LIMIT)
            budget_limits.cpu_ms = SCRIPT_CPU_MS;
        budget_limits.memory = 12u << 20;
        other_worst_us = 0;
        unsigned calls = other_calls;
        snprintf(text, sizeof text, "function DoMAILFROM()\n%s\nend", bad[i].text);
        struct hook_env *env = env_of("smtpsvr", text);
        uint64_t before = now_ms();
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
        uint64_t ms = now_ms() - before;
        printf("%-32s %5llu ms, others answered %5u times, waited %3llu ms at most: %s\n",
               bad[i].what, (unsigned long long)ms, other_calls - calls,
               (unsigned long long)other_worst_us / 1000, o.e.text);
        CHECK(o.what == HOOK_FAILED);
        CHECK(o.e.cls == bad[i].cls);
        CHECK(strstr(o.e.text, "smtpsvr.lua:2:") != NULL ||
              strstr(o.e.text, "DoMAILFROM") != NULL || bad[i].cls == ERR_PERM);
        CHECK(ms < 30000);
        CHECK(other_worst_us < 2500000);
        outcome_free(&o);
        /* The environment is still good for another hook. */
        o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
        CHECK(o.what == HOOK_DEFAULT);
        outcome_free(&o);
        env_drop(&env);
    }
    budget_limits.cpu_ms = SCRIPT_CPU_MS;
    budget_limits.memory = SCRIPT_MEMORY;
    other_stop = true;
    while (task_count() > 1)
        turn();
    CHECK(script_says_ok("function DoNOOP() return 'ok' end"));
}

/* --- deep recursion of every kind ends in an error, never in a crash
 * ------------------------------------- */
static const char *const deep[] = {
    "local function f() return f() + 1 end f()",
    "local function f() pcall(f) error('x') end f() error('deep')",
    "local function f() return ('x'):gsub('x', f) end f()",
    "local function f() table.sort({1, 2}, f) end f()",
    "local function f() coroutine.wrap(f)() end f()",
    "local function f() local ok, e = coroutine.resume(coroutine.create(f)) error(e, 0) end f()",
    "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, k) return t[k .. 'x'] "
    "end return t.x",
    "local t = setmetatable({}, {}) getmetatable(t).__tostring = function(t) return tostring(t) "
    "end return tostring(t)",
    "local t = setmetatable({}, {}) getmetatable(t).__tostring = function(t) return "
    "('%s'):format(t) end return tostring(t)",
    "local t = setmetatable({}, {}) getmetatable(t).__concat = function(a, b) return a .. b end "
    "return t .. t",
    "local t = setmetatable({}, {}) getmetatable(t).__eq = function(a, b) return a == "
    "setmetatable({}, getmetatable(t)) end return t == setmetatable({}, getmetatable(t))",
    "local t = setmetatable({}, {}) getmetatable(t).__len = function(a) return #a end return #t",
    "local t = setmetatable({}, {}) getmetatable(t).__call = function(a) return 1 + a() end return "
    "t()",
    "local function f() return load('local f = ... return 1 + f()')(f) end f()",
    "local function f() return 1 + xpcall(f, f) end f() error('deep')",
    "local function f() for _ in setmetatable({}, {__call = f}) do end end f()",
    "local function f() table.foreach({1}, f) end f()",
    "local function f() local x <close> = setmetatable({}, {__close = f}) end f()",
    "local function f() return mail.regex.compile('x'):gsub('x', f) end f()",
    "local function f() return (load(f)) end f() error('deep')",
    "assert(load(('('):rep(30000) .. '1' .. (')'):rep(30000)))",
    "assert(load('return ' .. ('{'):rep(30000)))",
    "assert(load(('do '):rep(20000)))",
    "assert(load(('function f() '):rep(4000)))",
    "assert(load('return ' .. ('function() return '):rep(3000)))",
    "assert(load('x = ' .. ('a.b[c('):rep(6000)))",
    "assert(load('return ' .. ('-'):rep(1) .. ('not '):rep(16000) .. '1'))",
    "assert(load('return ' .. ('1 .. '):rep(10000) .. '1'))",
    "assert(load('return ' .. ('2 ^ '):rep(10000) .. '2'))",
    "assert(('x'):rep(300):find(('x?'):rep(300) .. ('x'):rep(300))) "
    "('x'):rep(300):find(('(x'):rep(31) .. ('x?'):rep(400)) error('deep')",
    "assert(mail.regex.compile(('('):rep(2000) .. 'x' .. (')'):rep(2000)))",
    "local t = {} for i = 1, 100000 do t = {t} end return t",
    "local t = {} for i = 1, 100000 do t = {t} end VPOP3.JSON.encode(t)",
    "local t = {} for i = 1, 100000 do t = {t} end mail.cache.set('x', t)",
    "assert(VPOP3.JSON.decode(('['):rep(100000)))",
    "local function f(...) return f(1, ...) end f()",
    "return table.unpack({}, 1, 1e8)",
    "return ('x'):rep(1000000):byte(1, -1)",
    "string.char(table.unpack({}, 1, 190000))",
    "local s = 'return 1' for i = 1, 8 do s = 'return ' .. ('%q'):format(s) end error('deep')",
    /* mixed: the cheap kinds after the dear ones */
    "local t = setmetatable({}, {}) local function f(n) if n == 0 then return t.x end return "
    "(('x'):gsub('x', function() f(n - 1) end)) end "
    "getmetatable(t).__index = function(t, k) return t[k .. 'x'] end for n = 1, 200 do pcall(f, n) "
    "end error('deep')",
    "local t = setmetatable({}, {}) local function f(n) if n == 0 then return "
    "load(('('):rep(3000)) end return (('x'):gsub('x', function() f(n - 1) end)) end "
    "for n = 1, 200 do pcall(f, n) end error('deep')",
    "local function f(n) if n == 0 then return ('x'):rep(300):find(('x?'):rep(300) .. "
    "('x'):rep(300)) end coroutine.wrap(function() f(n - 1) end)() end "
    "for n = 1, 200 do pcall(f, n) end error('deep')",
    "local function f(n) if n == 0 then return VPOP3.JSON.decode(('['):rep(60) .. (']'):rep(60)) "
    "end table.sort({1, 2}, function() f(n - 1) end) end "
    "for n = 1, 200 do pcall(f, n) end error('deep')",
    "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, n) if n == 0 then return "
    "('%s %99.99f %q'):format(1, 1e308, 'x') end return t[n - 1] end "
    "for n = 1, 250 do pcall(function() return t[n] end) end error('deep')",
    "local t = setmetatable({}, {}) getmetatable(t).__index = function(t, n) if n == 0 then return "
    "VPOP3.SHA512('x'), mail.regex.compile('(a+)+$'):find(('a'):rep(30)), VPOP3.Now(), os.date(), "
    "VPOP3.JSON.decode(('['):rep(60) .. (']'):rep(60)) end return t[n - 1] end "
    "for n = 1, 250 do pcall(function() return t[n] end) end error('deep')",
};

IN_TASK(test_deep)
{
    (void)unused;
    for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
        char text[1500];
        snprintf(text, sizeof text, "function DoMAILFROM()\n%s\nend", deep[i]);
        struct hook_env *env = env_of("smtpsvr", text);
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
        if (o.what != HOOK_FAILED)
            fprintf(stderr, "no error from: %s\n", deep[i]);
        CHECK(o.what == HOOK_FAILED);
        outcome_free(&o);
        env_drop(&env);
    }
    CHECK(script_says_ok("function DoNOOP() return 'ok' end"));
}

/* --- waiting anywhere
 * ------------------------------------------------------------------------------------ */
static const char *const waits[] = {
    "mail.sleep(1)",
    "assert(pcall(mail.sleep, 1))",
    "local t = setmetatable({}, {__index = function() mail.sleep(1) return 4 end}) assert(t.x == "
    "4)",
    "local n = 0 for i in function(_, i) mail.sleep(1) if (i or 0) < 3 then return (i or 0) + 1 "
    "end end do n = n + 1 end assert(n == 3)",
    "assert(('ab'):gsub('.', function(c) mail.sleep(1) return c .. c end) == 'aabb')",
    "local t = {3, 1, 2} table.sort(t, function(a, b) mail.sleep(1) return a < b end) assert(t[1] "
    "== 1 and t[3] == 3)",
    "local co = coroutine.wrap(function() mail.sleep(1) coroutine.yield(1) mail.sleep(1) return 2 "
    "end) assert(co() == 1 and co() == 2)",
    "do local x <close> = setmetatable({}, {__close = function() mail.sleep(1) end}) end",
    "assert(load(function() if DONE then return end DONE = true mail.sleep(1) return 'return 5' "
    "end)() == 5)",
    "assert(not pcall(function() mail.sleep(1) error('x') end))",
};

IN_TASK(test_waits)
{
    (void)unused;
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++) {
        char text[1000];
        snprintf(text, sizeof text, "function DoNOOP()\n%s\nreturn 'ok'\nend", waits[i]);
        CHECK(script_says_ok(text));
    }
    /* A hook that may not wait says so. */
    struct hook_env *env = env_of("smtpsvr", "function LoadLimits() mail.sleep(1) end");
    struct outcome o = call_hook(env, HOOK_SMTPSVR_LoadLimits, 0, NULL);
    CHECK(o.what == HOOK_FAILED && strstr(o.e.text, "may not wait") != NULL);
    outcome_free(&o);
    env_drop(&env);
}

/* Many sessions wait and compute at once; each keeps its own globals. */
static unsigned sessions_right;

static void session(void *arg)
{
    char text[200], want[20];
    struct hook_env *env = env_of(
        "smtpsvr", "function Start() return MailFrom end\n"
                   "function DoNOOP(x) mine = x for i = 1, 20 do mail.sleep(1) for j = 1, 2000 do "
                   "local t = {j} end assert(mine == x and MailFrom == x) end return mine end");
    snprintf(want, sizeof want, "%d", *(int *)arg);
    snprintf(text, sizeof text, "%s", want);
    hook_env_set(env, "MailFrom", hv_str(str_of(want)));
    struct hval args[] = {hv_str(str_of(text))};
    struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 1, args);
    sessions_right += o.what == HOOK_DONE && str_eqz(o.hc.results[0].s, want);
    outcome_free(&o);
    env_drop(&env);
}

IN_TASK(test_sessions)
{
    static int numbers[200];
    (void)unused;
    sessions_right = 0;
    for (int i = 0; i < 200; i++) {
        numbers[i] = i;
        task_spawn(session, &numbers[i]);
    }
    while (task_count() > 1)
        turn();
    CHECK(sessions_right == 200);
}

/* --- the client leaves
 * ------------------------------------------------------------------------------------- */
static const char *leaving_text;
static enum err_class leaving_class;
static bool leaving_end_ran;

static void leaving(void *unused)
{
    struct hook_env *env = env_of("smtpsvr", leaving_text);
    (void)unused;
    struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
    CHECK(o.what == HOOK_FAILED);
    leaving_class = o.e.cls;
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_End, 0, NULL);
    leaving_end_ran = o.what == HOOK_DONE;
    outcome_free(&o);
    env_drop(&env);
}

IN_TASK(test_cancel)
{
    static const char *const texts[] = {
        "function DoNOOP() mail.sleep(30000) end function End() for i = 1, 1e5 do end end",
        "function DoNOOP() while true do pcall(mail.sleep, 30000) end end function End() end",
        "function DoNOOP() while true do end end function End() end",
    };
    (void)unused;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        leaving_text = texts[i];
        leaving_class = ERR_NONE;
        leaving_end_ran = false;
        struct task *t = task_spawn(leaving, NULL);
        turn();
        turn();
        uint64_t before = now_ms();
        task_cancel(t);
        while (task_count() > 1)
            turn();
        CHECK(now_ms() - before < 500);
        CHECK(leaving_class == ERR_CANCELLED);
        CHECK(leaving_end_ran);
    }
}

/* --- fail modes
 * -----------------------------------------------------------------------------------------------
 */
IN_TASK(test_fail_modes)
{
    struct outcome o;
    struct hval args[] = {hv_str(STR("a")), hv_str(STR("b"))};
    (void)unused;
    /* FAIL_DEFAULT: the shipped layer answers. */
    struct hook_env *env =
        env_of("usermanager", "function TranslateUsername() error('broken') end");
    args[1] = hv_str(STR("DOM\\anna"));
    o = call_hook(env, HOOK_USERMANAGER_TranslateUsername, 2, args);
    CHECK(o.what == HOOK_DONE && str_eqz(hv_as_str(&o.hc.results[0], STR("")), "anna"));
    outcome_free(&o);
    env_drop(&env);
    /* A script that does not load: hooks that fail closed fail, the others pass it over. */
    env = env_of("smtpsvr", "error('at load') function DoMAILFROM() end");
    o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
    CHECK(o.what == HOOK_FAILED && strstr(o.e.text, "at load") != NULL);
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
    CHECK(o.what == HOOK_FAILED && strstr(o.e.text, "failed when it was loaded") != NULL);
    CHECK(hook_present(env, HOOK_SMTPSVR_DoMAILFROM));
    outcome_free(&o);
    env_drop(&env);
    /* A site's guard does not exist for the host. */
    env = env_of("guard", "function rcpt() return '' end");
    CHECK(env->layer_count == 1 && env->layers[0].chunk->shipped);
    env_drop(&env);
}

/* --- the wall: waiting counts too, and no pcall gets around it
 * ------------------------------------------------ */
IN_TASK(test_wall)
{
    static const char *const texts[] = {
        "mail.sleep(30000)",
        "while true do pcall(mail.sleep, 20) end",
        "while true do coroutine.wrap(function() pcall(mail.sleep, 20) end)() end",
    };
    (void)unused;
    budget_limits.wall_ms = 200;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char text[300];
        snprintf(text, sizeof text, "function DoMAILFROM()\n%s\nend", texts[i]);
        struct hook_env *env = env_of("smtpsvr", text);
        uint64_t before = now_ms();
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
        CHECK(o.what == HOOK_FAILED && o.e.cls == ERR_TIMEOUT);
        CHECK(strstr(o.e.text, "smtpsvr.lua:2: ended: took longer") != NULL);
        CHECK(now_ms() - before >= 200 && now_ms() - before < 1000);
        outcome_free(&o);
        env_drop(&env);
    }
    budget_limits.wall_ms = SCRIPT_WALL_MS;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wall),       cmocka_unit_test(test_waits),
        cmocka_unit_test(test_sessions),   cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_fail_modes), cmocka_unit_test(test_deep),
        cmocka_unit_test(test_bad),
    };
    return cmocka_run_group_tests(tests, host_setup, host_teardown);
}
