/* Layers, default(), declared globals, isolation between environments, zero-copy bytes, and how
 * long things take. */
#include "unit/script/script_test.h"

static struct str first(const struct outcome *o)
{
    return o->hc.nresults ? hv_as_str(&o->hc.results[0], STR("")) : STR("");
}

/* --- one function overridden, default()
 * --------------------------------------------------------------------- */
IN_TASK(test_override)
{
    struct outcome o;
    struct hval args[] = {hv_str(STR("POP3")), hv_str(STR("DOM\\anna"))};
    (void)unused;
    /* No site script: the shipped function. */
    struct hook_env *env = env_of("usermanager", NULL);
    CHECK(hook_present(env, HOOK_USERMANAGER_TranslateUsername));
    o = call_hook(env, HOOK_USERMANAGER_TranslateUsername, 2, args);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "anna"));
    outcome_free(&o);
    env_drop(&env);
    /* The site changes what default() says. */
    env = env_of("usermanager",
                 "function TranslateUsername(p, s) return default(p, s) .. '-' .. p end");
    o = call_hook(env, HOOK_USERMANAGER_TranslateUsername, 2, args);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "anna-POP3"));
    outcome_free(&o);
    env_drop(&env);
    /* A site script with other functions only. */
    env = env_of("usermanager", "function Other() end x = 1");
    o = call_hook(env, HOOK_USERMANAGER_TranslateUsername, 2, args);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "anna"));
    outcome_free(&o);
    env_drop(&env);
    /* default() below the last layer gives nothing: the built-in behaviour. */
    env = env_of("smtpsvr", "function DoMAILFROM(a) return default(a) end");
    o = call_hook(env, HOOK_SMTPSVR_DoMAILFROM, 0, NULL);
    CHECK(o.what == HOOK_DONE && o.hc.results[0].type == HV_NIL);
    outcome_free(&o);
    CHECK(!hook_present(env, HOOK_SMTPSVR_MessageLine));
    CHECK(hook_present(env, HOOK_SMTPSVR_DoVRFY));
    o = call_hook(env, HOOK_SMTPSVR_MessageLine, 0, NULL);
    CHECK(o.what == HOOK_DEFAULT);
    outcome_free(&o);
    env_drop(&env);
    /* Globals of layers are their own. */
    env = env_of("usermanager", "function helper() end TranslateUsername = nil\n"
                                "assert(TranslateUsername == nil and inside == nil)");
    o = call_hook(env, HOOK_USERMANAGER_TranslateUsername, 2, args);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "anna"));
    outcome_free(&o);
    env_drop(&env);
}

/* --- chunk shape and user scripts
 * ---------------------------------------------------------------------------- */
IN_TASK(test_chunk)
{
    struct arena *a = arena_new(512);
    struct release *r = release_new(1);
    struct hval v;
    struct outcome o;
    (void)unused;
    release_add(r, chunk_new(STR("user_redirect"), STR("Forwards = 'site'"), false));
    release_add(r,
                chunk_new(STR("anna/user_redirect"),
                          STR("default() Forwards = User .. '@' .. tostring(UseForwards) Mine = 1"),
                          false));
    struct hook_env *env = env_make("user_redirect", STR("anna"), r);
    hook_env_set(env, "User", hv_str(STR("anna")));
    hook_env_set(env, "UseForwards", hv_bool(true));
    hook_env_set(env, "ForwardHours", hv_str(STR("20200101-20200102")));
    hook_env_set(env, "Now", hv_str(STR("20260601120000")));
    o = call_hook(env, HOOK_USER_REDIRECT, 0, NULL);
    CHECK(o.what == HOOK_DONE);
    CHECK(hook_env_get(env, "Forwards", a, &v) && str_eqz(v.s, "anna@false"));
    CHECK(hook_env_get(env, "UseForwards", a, &v) && v.type == HV_BOOL && !v.b);
    CHECK(!hook_env_get(env, "Mine", a, &v));
    outcome_free(&o);
    env_drop(&env);
    env = env_make("user_redirect", STR("bert"), r);
    o = call_hook(env, HOOK_USER_REDIRECT, 0, NULL);
    CHECK(o.what == HOOK_DONE && hook_env_get(env, "Forwards", a, &v) && str_eqz(v.s, "site"));
    outcome_free(&o);
    env_drop(&env);
    release_unref(&r);
    arena_free(&a);
}

/* --- declared globals
 * ------------------------------------------------------------------------------------------ */
IN_TASK(test_globals)
{
    struct arena *a = arena_new(512);
    struct hval v;
    (void)unused;
    struct hook_env *env = env_of(
        "smtpsvr", "function DoNOOP() assert(IPAddress == '192.0.2.1' and Recipients[2] == 'b')\n"
                   "IPAddress = 'forged' ValidClientAddress = true MaxLineLength = '77' Own = 1\n"
                   "assert(IPAddress == 'forged' and rawget(_G, 'ValidClientAddress') == nil)\n"
                   "RBLHeader = {} return tostring(MaxSessions) end");
    struct hval list = hv_list();
    hv_push(a, &list, hv_str(STR("a")));
    hv_push(a, &list, hv_str(STR("b")));
    hook_env_set(env, "IPAddress", hv_str(STR("192.0.2.1")));
    hook_env_set(env, "Recipients", list);
    hook_env_set(env, "MaxSessions", hv_int(5));
    hook_env_set(env, "ValidClientAddress", hv_bool(false));
    struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "5"));
    CHECK(hook_env_get(env, "IPAddress", a, &v) && str_eqz(v.s, "192.0.2.1"));
    CHECK(hook_env_get(env, "ValidClientAddress", a, &v) && v.b);
    CHECK(hook_env_get(env, "MaxLineLength", a, &v) && v.type == HV_INT && v.i == 77);
    CHECK(!hook_env_get(env, "RBLHeader", a, &v)); /* not a string: as if it were not set */
    CHECK(!hook_env_get(env, "Own", a, &v) && !hook_env_get(env, "print", a, &v));
    outcome_free(&o);
    env_drop(&env);
    arena_free(&a);
}

/* --- results
 * ------------------------------------------------------------------------------------------------------
 */
IN_TASK(test_results)
{
    struct outcome o;
    struct hval map = hv_map();
    struct arena *a = arena_new(512);
    (void)unused;
    hv_put(a, &map, "Delete", hv_bool(false));
    struct hval args[] = {hv_str(STR("a@x")), hv_str(STR("hi")), hv_list(), map,
                          hv_list(),          hv_int(100),       hv_list()};
    struct hook_env *env = env_of(
        "smtpsvr", "function ProcessMessage(from, subj, rcpts, act, mime, size, att)\n"
                   "act.HeaderModifiers = {'X-A: 1', 'X-B: ' .. size} act.Recipients = {'z@x'}\n"
                   "act.Nested = {a = {b = {1, 2.5, true}}} return act end\n"
                   "function GetMaxMessageSize() return '1000.9' end\n"
                   "function GetEHLOCapabilities(c) c[#c + 1] = 'XTEST' return c end\n"
                   "function DoHELO() return 250 end\n"
                   "function CheckRecipients() local t = {} t[1] = t return t end\n"
                   "function MonitorBcc() return {a = 1} end");
    o = call_hook(env, HOOK_SMTPSVR_ProcessMessage, 7, args);
    CHECK(o.what == HOOK_DONE && o.hc.nresults == 2 && o.hc.results[1].type == HV_NIL);
    const struct hval *mods = hv_get(&o.hc.results[0], "HeaderModifiers");
    CHECK(mods && mods->type == HV_LIST && mods->v.count == 2 &&
          str_eqz(mods->v.items[1].s, "X-B: 100"));
    const struct hval *deep = hv_get(hv_get(hv_get(&o.hc.results[0], "Nested"), "a"), "b");
    CHECK(deep && deep->v.count == 3 && deep->v.items[1].type == HV_NUM);
    CHECK(!hv_get_bool(&o.hc.results[0], "Delete", true));
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_GetMaxMessageSize, 0, NULL);
    CHECK(o.what == HOOK_DONE && o.hc.results[0].type == HV_INT && o.hc.results[0].i == 1000);
    outcome_free(&o);
    struct hval caps = hv_list();
    hv_push(a, &caps, hv_str(STR("PIPELINING")));
    o = call_hook(env, HOOK_SMTPSVR_GetEHLOCapabilities, 1, &caps);
    CHECK(o.what == HOOK_DONE && o.hc.results[0].v.count == 2);
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_DoHELO, 0, NULL);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "250"));
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_CheckRecipients, 0, NULL);
    CHECK(o.what == HOOK_FAILED && strstr(o.e.text, "contains itself") != NULL);
    outcome_free(&o);
    o = call_hook(env, HOOK_SMTPSVR_MonitorBcc, 0, NULL);
    CHECK(o.what == HOOK_FAILED);
    outcome_free(&o);
    env_drop(&env);
    arena_free(&a);
}

/* --- the message, zero-copy
 * ----------------------------------------------------------------------------------------- */
static const char message[] =
    "Subject: hi\r\nTo: b@x\r\n\r\nline one\r\nline two\r\n--b\r\nX: y\r\n\r\naGVsbG8=\r\n";

IN_TASK(test_message)
{
    struct arena *a = arena_new(512);
    struct hval part = hv_map(), mime = hv_list();
    (void)unused;
    const char *sub = strstr(message, "X: y");
    hv_put(a, &part, "Path", hv_str(STR("1")));
    hv_put(a, &part, "Start", hv_int(sub - message));
    hv_put(a, &part, "BodyStart", hv_int(strstr(message, "aGV") - message));
    hv_put(a, &part, "End", hv_int((int64_t)sizeof message - 1));
    hv_put(a, &part, "Encoding", hv_str(STR("base64")));
    hv_push(a, &mime, part);
    struct hval args[] = {hv_str(STR("")), hv_str(STR("")), hv_list(), hv_map(), mime,
                          hv_int(0),       hv_list()};
    struct hook_env *env = env_of(
        "smtpsvr",
        "function ProcessMessage(_, _, _, act)\n"
        "local l = VPOP3.GetMessageLines(2) assert(#l == 2 and l[1] == 'Subject: hi')\n"
        "assert(VPOP3.GetMessageLines(1)[1] == '') assert(#VPOP3.GetMessageLines(100) == 6)\n"
        "assert(#VPOP3.GetMessageLines(1) == 0) VPOP3.MessageReset()\n"
        "assert(VPOP3.GetMessageLines(1)[1] == 'Subject: hi')\n"
        "assert(VPOP3.GetMessagePart('1'):find('^X: y\\r\\n\\r\\naGVs'))\n"
        "assert(VPOP3.GetMessagePartHeader('1') == 'X: y\\r\\n\\r\\n')\n"
        "assert(VPOP3.GetMessagePartBody('1') == 'aGVsbG8=\\r\\n')\n"
        "assert(VPOP3.GetMessagePartBody('1', true) == 'hello')\n"
        "assert(VPOP3.GetMessagePart('9') == nil)\n"
        "local m = mail.Message() kept = m it = m:gmatch('%a+')\n"
        "assert(#m > 50 and m:len() == #m and m:sub(1, 7) == 'Subject' and m:find('hi', 1, true) "
        "== 10)\n"
        "assert(m:match('To: (%S+)') == 'b@x' and m:byte() == 83 and m:upper():sub(1, 4) == "
        "'SUBJ')\n"
        "assert(m:gsub('line', 'row'):find('row one')) assert(tostring(m):sub(1, 3) == 'Sub')\n"
        "assert((m .. 'x'):sub(-1) == 'x' and ('x' .. m):sub(1, 2) == 'xS' and m == "
        "mail.Message())\n"
        "assert(m < 'T' and m > 'A' and 'A' <= m and ('%s'):format(m) == tostring(m))\n"
        "assert(m:rep(2) == tostring(m) .. tostring(m) and m:reverse():reverse() == tostring(m))\n"
        "assert(table.concat({m, 'x'}):sub(-1) == 'x' and string.find(m, 'two'))\n"
        "assert(#VPOP3.SHA256(m) == 32 and VPOP3.Base64Decode(VPOP3.Base64Encode(m)) == "
        "tostring(m))\n"
        "assert(mail.regex.compile('line (\\\\w+)'):match(m) == 'one')\n"
        "assert(not pcall(function() m.x = 1 end) and getmetatable(m) == false)\n"
        "assert(not pcall(setmetatable, m, {}))\n"
        "return act end\n"
        "function DoNOOP() assert(not pcall(tostring, kept)) assert(not pcall(function() return "
        "#kept end))\n"
        "assert(not pcall(it)) assert(not pcall(mail.Message)) return 'ok' end");
    struct outcome o = {.e = ERR_INIT, .a = arena_new(512)};
    char *copy = strdup(message);
    o.hc = (struct hook_call){.id = HOOK_SMTPSVR_ProcessMessage,
                              .env = env,
                              .arena = o.a,
                              .args = args,
                              .nargs = 7,
                              .message = str_make(copy, sizeof message - 1)};
    o.what = hook_call(&o.hc, &o.e);
    if (o.what != HOOK_DONE)
        fprintf(stderr, "%s\n", o.e.text);
    CHECK(o.what == HOOK_DONE);
    outcome_free(&o);
    free(copy); /* what a script kept must not read it any more */
    o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 0, NULL);
    CHECK(o.what == HOOK_DONE && str_eqz(first(&o), "ok"));
    outcome_free(&o);
    env_drop(&env);
    arena_free(&a);
}

/* --- isolation: A marks everything it can reach, B looks at everything it can reach
 * --------------------------------- */
static const char marker[] =
    "local seen = {}\n"
    "local function mark(t)\n"
    "  if type(t) == 'table' and not seen[t] then\n"
    "    seen[t] = true\n"
    "    local keys = {} pcall(function() for k in pairs(t) do keys[#keys + 1] = k end end)\n"
    "    pcall(function() local k = nil repeat k = next(t, k) if k ~= nil then keys[#keys + 1] = k "
    "end until k == nil end)\n"
    "    pcall(function() t.MARK = 'leak' end) pcall(rawset, t, 'MARK', 'leak')\n"
    "    pcall(function() t[1] = 'leak' end) pcall(table.insert, t, 'leak')\n"
    "    local m = getmetatable(t) if type(m) == 'table' then mark(m) end\n"
    "    pcall(setmetatable, t, {__index = function() return 'leak' end})\n"
    "    for _, k in ipairs(keys) do mark(rawget(t, k)) mark(k) mark(t[k]) end\n"
    "  elseif type(t) == 'function' and not seen[t] then\n"
    "    seen[t] = true pcall(t, 'leak') pcall(t, {'leak'}, 'leak')\n"
    "  elseif type(t) == 'thread' then pcall(coroutine.close, t)\n"
    "  end\n"
    "end\n"
    "function DoNOOP()\n"
    "  local skip = {[mail.cache.set] = 1, [mail.cache.add] = 1, [print] = 1, [mail.Log] = 1}\n"
    "  for f in pairs(skip) do seen[f] = true end\n"
    "  local E = _G\n"
    "  mark(E) for _, n in "
    "ipairs{'string','table','math','utf8','os','coroutine','bit32','mail','VPOP3','VPOP3Net'} do "
    "mark(E[n]) end\n"
    "  mark(getmetatable('')) mark(getmetatable(print)) mark(getmetatable(1)) "
    "mark(getmetatable(coroutine.running()))\n"
    "  mark(require 'text') mark(require 'address') mark(require 'shared')\n"
    "  require('shared').value = 'leak' require('shared').set('leak')\n"
    "  math.randomseed(42)\n"
    "  ValidClientAddress = 'leak' IPAddress = 'leak' Recipients = {'leak'}\n"
    "  load('LOADED = \"leak\"')() _G.GLOBAL = 'leak' string2 = string\n"
    "  pcall(rawset, _G, 'print', function() return 'leak' end)\n"
    "  pcall(coroutine.wrap(function() error({MARK = 'leak'}) end))\n"
    "  return 'ok'\n"
    "end\n";
static const char watcher[] =
    "local seen = {}\n"
    "local function look(t, path)\n"
    "  if t == 'leak' then error('found at ' .. path, 0) end\n"
    "  if type(t) == 'table' and not seen[t] then\n"
    "    seen[t] = true\n"
    "    assert(t.MARK == nil, path) assert(rawget(t, 'MARK') == nil, path) assert(rawget(t, 1) == "
    "nil or path:find('reach'), path)\n"
    "    local m = getmetatable(t) if type(m) == 'table' then look(m, path .. '#') end\n"
    "    for k, v in pairs(t) do look(k, path .. '.key') look(v, path .. '.' .. tostring(k)) end\n"
    "  end\n"
    "end\n"
    "function DoNOOP()\n"
    "  look(_G, '_G') local E = _G\n"
    "  for _, n in ipairs{'string','table','math','utf8','os','coroutine','bit32','mail','VPOP3'} "
    "do look(E[n], n) end\n"
    "  look(require 'text', 'text') look(require 'address', 'address') look(require 'shared', "
    "'shared')\n"
    "  assert(require('shared').value == nil and require('shared').get() == nil)\n"
    "  assert(LOADED == nil and GLOBAL == nil and string2 == nil and ValidClientAddress ~= 'leak' "
    "and IPAddress == nil and Recipients == nil)\n"
    "  assert(('x').MARK == nil) local a = math.random(2^40) RANDOM = a\n"
    "  return tostring(a)\n"
    "end\n";
static const char shared_module[] = "local hidden\n"
                                    "local M = {}\n"
                                    "function M.set(v) hidden = v end\n"
                                    "function M.get() return hidden end\n"
                                    "return M\n";

static struct hook_env *isolated(const char *text)
{
    struct release *r = release_new(1);
    release_add(r, chunk_new(STR("smtpsvr"), str_of(text), false));
    release_add(r, chunk_new(STR("shared"), str_of(shared_module), false));
    struct hook_env *env = env_make("smtpsvr", STR(""), r);
    release_unref(&r);
    return env;
}

IN_TASK(test_isolation)
{
    struct hook_env *a = isolated(marker), *b = isolated(watcher);
    struct outcome o;
    char random[2][40];
    (void)unused;
    for (int round = 0; round < 2; round++) {
        o = call_hook(a, HOOK_SMTPSVR_DoNOOP, 0, NULL);
        if (o.what != HOOK_DONE)
            fprintf(stderr, "marker: %s\n", o.e.text);
        CHECK(o.what == HOOK_DONE);
        outcome_free(&o);
        o = call_hook(b, HOOK_SMTPSVR_DoNOOP, 0, NULL);
        if (o.what != HOOK_DONE)
            fprintf(stderr, "watcher: %s\n", o.e.text);
        CHECK(o.what == HOOK_DONE);
        snprintf(random[round], sizeof random[round], "%.*s", STR_ARG(first(&o)));
        outcome_free(&o);
        /* A fresh environment of the same script sees nothing either. */
        struct hook_env *c = isolated(watcher);
        o = call_hook(c, HOOK_SMTPSVR_DoNOOP, 0, NULL);
        if (o.what != HOOK_DONE)
            fprintf(stderr, "fresh watcher: %s\n", o.e.text);
        CHECK(o.what == HOOK_DONE);
        outcome_free(&o);
        env_drop(&c);
    }
    CHECK(strcmp(random[0], random[1]) != 0);
    env_drop(&a);
    env_drop(&b);
}

/* --- steps of the ledger
 * ---------------------------------------------------------------------------------------------- */
IN_TASK(test_steps)
{
    struct arena *a = arena_new(512);
    struct hook_steps *steps = hook_steps_new(a);
    (void)unused;
    CHECK(str_eqz(hook_steps_text(steps), "[]"));
    struct hook_env *env = env_of(
        "smtpsvr",
        "function DoNOOP() return '250 \"ok\"\\n' end function DoMAILFROM() error('no') end");
    for (int i = 0; i < 100; i++) {
        struct hook_call hc = {.id = i % 2 ? HOOK_SMTPSVR_DoNOOP : HOOK_SMTPSVR_DoMAILFROM,
                               .env = env,
                               .arena = a,
                               .steps = steps};
        struct err e = ERR_INIT;
        hook_call(&hc, &e);
        if (i == 1) {
            struct str t = hook_steps_text(steps);
            CHECK(str_find(t, STR("[\"SMTPSVR_DoMAILFROM\",\"smtpsvr.lua ")) == 1);
            CHECK(str_find(t, STR("\"failed\",\"smtpsvr.lua:1: no\"")) > 0);
            CHECK(str_find(t, STR("\"done\",\"250 \\\"ok\\\" \"")) > 0);
        }
    }
    struct str t = hook_steps_text(steps);
    CHECK(t.n <= HOOK_STEPS_MAX + 16 && str_ends(t, STR(",\"cut\"]")));
    env_drop(&env);
    arena_free(&a);
}

/* --- memory and time
 * ----------------------------------------------------------------------------------------------------
 */
static char *big_script(void)
{
    struct arena *a = arena_new(65536);
    char *text = xmalloc(65536);
    size_t n = 0;

    for (int i = 0; i < 70; i++)
        n += (size_t)snprintf(
            text + n, 65536 - n,
            "function helper%d(a, b)\n  local t = {a, b, %d}\n"
            "  if a == 'x%d' then\n    return t[1] .. ' value ' .. tostring(b)\n  end\n"
            "  -- a comment\n\n  return nil\nend\n\n",
            i, i, i);
    snprintf(text + n, 65536 - n, "function DoNOOP() end\n");
    arena_free(&a);
    return text;
}

IN_TASK(test_speed)
{
    enum { ENVS = 2000, CALLS = 20000 };
    char *text = big_script();
    struct release *r = release_new(1);
    struct arena *arena = arena_new(4096);
    (void)unused;
    release_add(r, chunk_new(STR("smtpsvr"), str_of(text), false));
    struct hook_env *warm = env_make("smtpsvr", STR(""), r);
    CHECK(hook_present(warm, HOOK_SMTPSVR_DoNOOP));
    lua_gc(host_L, LUA_GCCOLLECT);
    size_t before_bytes = memory_total();
    uint64_t before = loop_ns();
    static struct hook_env *envs[ENVS];
    for (int i = 0; i < ENVS; i++) {
        envs[i] = env_make("smtpsvr", STR(""), r);
        hook_env_set(envs[i], "IPAddress", hv_str(STR("192.0.2.1")));
        hook_present(envs[i], HOOK_SMTPSVR_DoNOOP);
    }
    double set_up = (double)(loop_ns() - before) / 1000.0 / ENVS;
    double bytes = (double)warm->purse.used;
    before = loop_ns();
    for (int i = 0; i < CALLS; i++) {
        struct hook_call hc = {.id = HOOK_SMTPSVR_DoNOOP, .env = warm, .arena = arena};
        struct err e = ERR_INIT;
        CHECK(hook_call(&hc, &e) == HOOK_DONE);
    }
    double call = (double)(loop_ns() - before) / 1000.0 / CALLS;
    before = loop_ns();
    for (int i = 0; i < CALLS; i++)
        hook_present(warm, HOOK_SMTPSVR_MessageLine);
    double present = (double)(loop_ns() - before) / 1000.0 / CALLS;
    printf(
        "environment of 700 lines: %.1f us, %.1f KB; empty hook: %.2f us; hook_present: %.2f us\n",
        set_up, bytes / 1024, call, present);
#if !defined(__SANITIZE_ADDRESS__)
    CHECK(set_up < 100);
    CHECK(call < 20);
#endif
    for (int i = 0; i < ENVS; i++)
        env_drop(&envs[i]);
    env_drop(&warm);
    release_unref(&r);
    lua_gc(host_L, LUA_GCCOLLECT);
    lua_gc(host_L, LUA_GCCOLLECT);
    CHECK(memory_total() < before_bytes + 200000);
    arena_free(&arena);
    free(text);
}

/* --- names
 * ----------------------------------------------------------------------------------------------------------------
 */
static void test_names(void **state)
{
    static const char *const good[][2] = {{"SMTPSVR.LUA", "smtpsvr"},
                                          {"Anna/User_Redirect.lua", "anna/user_redirect"},
                                          {"a", "a"},
                                          {"pack.txt", "pack.txt"},
                                          {"lib.sub", "lib.sub"}};
    static const char *const wrong[] = {"",    ".lua", "../x", "a//b",   "/a", "a/",
                                        "a b", "a\n",  "..",   "a/../b", ".x"};
    struct err e = ERR_INIT;
    char to[112];
    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(chunk_name(str_of(good[i][0]), to, sizeof to));
        assert_string_equal(to, good[i][1]);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(chunk_name(str_of(wrong[i]), to, sizeof to));
    assert_int_equal(script_check(STR("guard.lua"), STR(""), &e), -1);
    assert_int_equal(e.cls, ERR_DENIED);
    assert_int_equal(script_check(STR("anna/guard"), STR(""), &e), -1);
    assert_int_equal(script_check(STR("smtpsvr"), STR("x = = 1"), &e), -1);
    assert_int_equal(e.cls, ERR_SYNTAX);
    assert_non_null(strstr(e.text, "smtpsvr.lua:1:"));
    assert_int_equal(script_check(STR("smtpsvr"),
                                  STR("-- [[\nlocal s = [==[\nfunction DoNoop() ]==]\n"
                                      "function DoMailFrom() end"),
                                  &e),
                     -1);
    assert_non_null(strstr(e.text, "smtpsvr.lua:4: the hook is called DoMAILFROM"));
    assert_int_equal(script_check(STR("smtpsvr"),
                                  STR("--[[ function DoMailFrom() ]] local function doquit() end "
                                      "x = 'function DoMailFrom()' function DoMAILFROM() end "
                                      "function t() end"),
                                  &e),
                     0);
    assert_int_equal(script_check(STR("smtpsvr"), STR("\x1bLua"), &e), -1);
    assert_int_equal(script_check(STR("rules.txt"), STR("not lua"), &e), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_override), cmocka_unit_test(test_chunk),
        cmocka_unit_test(test_globals),  cmocka_unit_test(test_results),
        cmocka_unit_test(test_message),  cmocka_unit_test(test_isolation),
        cmocka_unit_test(test_steps),    cmocka_unit_test(test_speed),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, host_setup, host_teardown);
}
