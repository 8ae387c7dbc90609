/* Every way out of the sandbox that is known, each as a script that says "ok" when it is shut. */
#include "unit/script/script_test.h"

static const char *const escapes[] = {
    /* modules that must not be there */
    "assert(not debug and not package and not dofile and not loadfile and not io.popen and not "
    "io.tmpfile and not io.output and not io.stdout)",
    "assert(not os.execute and not os.exit and not os.getenv and not os.remove and not os.rename "
    "and not os.tmpname and not os.setlocale)",
    "assert(not string.dump and not collectgarbage('x' == 'x' and 'count') == false)",
    /* bytecode */
    "local f, e = load('\\27Lua', 'x', 'b') assert(not f)",
    "local f, e = load('\\27LuaS\\0', 'x', 'bt') assert(not f)",
    "local done local f = load(function() if done then return end done = true return '\\27Lua' "
    "end) "
    "assert(not f)",
    /* load: caller's globals, bounded text */
    "y = 5 assert(load('return y')() == 5)",
    "load('z = 7')() assert(z == 7 and rawget(_G, 'z') == 7)",
    "assert(load('return y', 'n', 't', {y = 3})() == 3)",
    "assert(not load(('x = 1 '):rep(20000)))",
    "local f = load('return _G', 'n', 't', {}) assert(f() == nil)",
    /* shared tables are frozen */
    "for _, t in ipairs{string, table, math, utf8, os, coroutine, bit32, mail, VPOP3, VPOP3.JSON, "
    "mail.cache, mail.index, mail.regex} do "
    "assert(not pcall(function() t.x = 1 end)) assert(not pcall(rawset, t, 'x', 1)) "
    "assert(not pcall(setmetatable, t, {})) assert(getmetatable(t) == false) "
    "assert(t.x == nil and rawget(t, 'x') == nil) "
    "assert(not pcall(table.insert, t, 1)) assert(not pcall(table.move, {1}, 1, 1, 1, t)) "
    "pcall(table.sort, t) end",
    "assert(not pcall(function() string.rep = print end)) assert(('x'):rep(2) == 'xx')",
    "local n = 0 for k, v in pairs(string) do n = n + 1 end assert(n >= 15)",
    "assert(next(string) ~= nil and rawget(string, 'rep') == string.rep)",
    /* string metatable */
    "assert(getmetatable('') == false) assert(not pcall(setmetatable, '', {}))",
    "assert(not pcall(function() ('').x = 1 end))",
    /* globals of the layer */
    "assert(getmetatable(_G) == false) assert(not pcall(setmetatable, _G, {}))",
    "print2 = print print = nil assert(print) ",
    "_G.x9 = 1 assert(x9 == 1)",
    "assert(not pcall(rawset, nil, 1, 2)) assert(not pcall(rawget, 1, 2))",
    /* no finalizers */
    "assert(not pcall(setmetatable, {}, {__gc = function() end}))",
    "local m = {} local t = setmetatable({}, m) m.__gc = function() BAD = true end t = nil "
    "for i = 1, 1000 do local x = {} end assert(not BAD)",
    "assert(not pcall(setmetatable, {}, setmetatable({}, {__index = function() return 1 end})) "
    "== false)",
    /* metatables of others */
    "assert(getmetatable(setmetatable({}, {__metatable = 1})) == 1)",
    "assert(not pcall(setmetatable, setmetatable({}, {__metatable = 1}), nil))",
    /* coroutines: the hook's own thread cannot be resumed or closed */
    "local co, main = coroutine.running() assert(not main) "
    "assert(not coroutine.resume(co)) assert(not pcall(coroutine.close, co)) "
    "coroutine.wrap(function() assert(not coroutine.resume(co)) "
    "assert(not pcall(coroutine.close, co)) end)()",
    "assert(not pcall(coroutine.yield))",
    "local co = coroutine.create(function() local a = coroutine.yield(1) error({a}) end) "
    "local _, v = coroutine.resume(co) assert(v == 1) local ok, e = coroutine.resume(co, 5) "
    "assert(not ok and e[1] == 5)",
    "local co = coroutine.wrap(function() pcall(function() coroutine.yield(2) end) return 3 end) "
    "assert(co() == 2 and co() == 3)",
    "local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = "
    "function() "
    "CLOSED = true end}) coroutine.yield() end) coroutine.resume(co) assert(coroutine.close(co)) "
    "assert(CLOSED)",
    /* collectgarbage only counts */
    "assert(collectgarbage('count') > 1 and collectgarbage() == 0 and collectgarbage('stop') == 0)",
    /* require */
    "assert(not pcall(require, '../x')) assert(not pcall(require, '/etc/passwd')) "
    "assert(not pcall(require, 'nosuch')) assert(not pcall(require, ''))",
    "local t = require 'text' assert(t.trim(' a ') == 'a') assert(require 'text' == t) "
    "assert(not pcall(function() t.trim = 1 end)) assert(#t.split('a, b,,c') == 3)",
    "local a = require 'address' assert(a.domain('x@Example.COM') == 'example.com')",
    /* error values of all sorts come through pcall */
    "local ok, e = pcall(error) assert(not ok and e == nil) "
    "ok, e = pcall(error, {1}) assert(e[1] == 1) "
    "ok, e = xpcall(function() error('a', 0) end, function(m) return m .. 'b' end) assert(e == "
    "'ab') "
    "local t = table.pack(xpcall(function(...) return ... end, print, 1, nil, 3)) "
    "assert(t.n == 4 and t[4] == 3)",
    "assert(select('#', pcall(function() return 1, 2, 3 end)) == 4)",
    /* the 5.2 shim */
    "assert(unpack{1, 2} == 1 and table.getn{1, 2} == 2 and table.maxn{[7] = 1} == 7) "
    "local s = 0 table.foreach({1, 2}, function(k, v) s = s + v end) assert(s == 3) "
    "table.foreachi({1, 2}, function(k, v) s = s + v end) assert(s == 6) "
    "assert(loadstring('return 4')() == 4) assert(math.pow(2, 3) == 8 and math.log10(100) == 2) "
    "assert(math.ldexp(1, 4) == 16) assert(('%d'):format(3.7) == '3' and ('%u'):format(2) == '2') "
    "assert(('%x'):format(255.5) == 'ff' and ('%5.1f|%%'):format(2) == '  2.0|%')",
    "assert(bit32.band(0xff, 0x0f) == 15 and bit32.bor(1, 2) == 3 and bit32.bxor(3, 1) == 2 "
    "and bit32.bnot(0) == 0xffffffff and bit32.lshift(1, 31) == 0x80000000 "
    "and bit32.rshift(0x80000000, 31) == 1 and bit32.arshift(0x80000000, 31) == 0xffffffff "
    "and bit32.lrotate(0x80000001, 1) == 3 and bit32.rrotate(1, 1) == 0x80000000 "
    "and bit32.extract(0xf0, 4, 4) == 15 and bit32.replace(0, 5, 4, 4) == 0x50 "
    "and bit32.btest(1, 3) and bit32.band(-1) == 0xffffffff and bit32.lshift(1, 40) == 0)",
    "assert(goto_x == nil)",
    /* a seed is nobody else's, and one's own is repeatable */
    "math.randomseed(5) local a = math.random(1000) math.randomseed(5) assert(math.random(1000) == "
    "a) "
    "for i = 1, 100 do local x = math.random(3, 5) assert(x >= 3 and x <= 5) x = math.random() "
    "assert(x >= 0 and x < 1) end assert(not pcall(math.random, 2, 1))",
};

IN_TASK(test_escapes)
{
    (void)unused;
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++) {
        char text[4000];
        snprintf(text, sizeof text, "function DoNOOP()\n%s\nreturn 'ok'\nend", escapes[i]);
        CHECK(script_says_ok(text));
    }
}

/* Strings, patterns and tables against the manual's results. */
static const char *const library[] = {
    "assert(('hello world'):find('o w') == 5 and ('hello'):find('l+') == 3)",
    "assert(('key = value'):match('^(%w+)%s*=%s*(%w+)$') == 'key')",
    "local a, b = ('hello'):find('xyz') assert(a == nil)",
    "assert(select(2, ('hello'):find('')) == 0 and ('hello'):find('', 10) == nil)",
    "assert(('f(a(b)c)d'):match('%b()') == '(a(b)c)')",
    "assert(('THE (quick) fox'):find('%f[%a]%a+%f[%A]') == 1)",
    "assert(('x'):rep(3, ',') == 'x,x,x' and ('x'):rep(-1) == '' and (''):rep(1e9) == '')",
    "assert(('abc'):gsub('%w', '%0%0') == 'aabbcc')",
    "assert(('abc'):gsub('', '-') == '-a-b-c-')",
    "assert(('hello world'):gsub('o', {o = '0'}) == 'hell0 w0rld')",
    "assert(('abc'):gsub('b', function() return false end) == 'abc')",
    "local s, n = ('abc abc'):gsub('abc', 'x', 1) assert(s == 'x abc' and n == 1)",
    "assert(('hello'):gsub('(l)(l)', '%2%1') == 'hello')",
    "assert(('  x'):gsub('^%s+', '') == 'x')",
    "assert(not pcall(string.gsub, 'x', 'x', '%'))",
    "assert(not pcall(string.find, 'x', '[x'))",
    "assert(not pcall(string.find, 'x', '%')) assert(not pcall(string.rep))",
    "local t = {} for k, v in ('a=1, b=2'):gmatch('(%w+)=(%w+)') do t[k] = v end "
    "assert(t.a == '1' and t.b == '2')",
    "local n = 0 for w in ('one two'):gmatch('%a+') do n = n + 1 end assert(n == 2)",
    "local n = 0 for w in ('abc'):gmatch('') do n = n + 1 end assert(n == 4)",
    "assert(('abc'):match('()b()') == 2)",
    "assert(('abab'):match('(ab)%1') == 'ab')",
    "assert(('a\\0b'):find('\\0') == 2 and ('a\\0b'):find('%z') == nil)",
    "assert((']'):match('[]]') == ']' and ('^'):match('[%^]') == '^' and ('-'):match('[a-]') == "
    "'-')",
    "assert(('a.b'):find('.', 1, true) == 2 and ('aXb'):match('%u') == 'X')",
    "assert(('abc'):sub(2) == 'bc' and ('abc'):sub(-2, -1) == 'bc' and ('abc'):sub(0) == 'abc' "
    "and ('abc'):sub(3, 2) == '' and ('abc'):sub(-100, 1) == 'a' and ('abc'):sub(2, 100) == 'bc')",
    "assert(('abc'):byte() == 97 and ('abc'):byte(-1) == 99 and ('abc'):byte(10) == nil)",
    "assert(string.char(72, 105) == 'Hi' and not pcall(string.char, 256))",
    "assert(('aB'):upper() == 'AB' and ('aB'):lower() == 'ab' and ('ab'):reverse() == 'ba')",
    "assert(string.pack('>I2', 258) == '\\1\\2' and string.unpack('>I2', '\\1\\2') == 258)",
    "assert(('%5s|%-5s|%05.1f|%q'):format('a', 'b', 2.25, 'x\"') == '    a|b    "
    "|002.2|\"x\\\\\"\"')",
    "assert(('%s %s'):format(nil, true) == 'nil true' and ('%i'):format(-2.9) == '-2')",
    "assert(not pcall(string.format, '%d', 'x')) assert(not pcall(string.format, '%100d', 1))",
    "assert(not pcall(string.format, '%d')) assert(not pcall(string.format, '%y', 1))",
    "local t = {1, 2, 4} table.insert(t, 3, 3) assert(table.concat(t, ',') == '1,2,3,4') "
    "assert(table.remove(t, 1) == 1 and #t == 3 and table.remove(t) == 4 and table.remove({}) == "
    "nil)",
    "assert(not pcall(table.insert, {1}, 5, 1)) assert(not pcall(table.insert, {}, 1, 2, 3))",
    "assert(not pcall(table.remove, {1}, 5)) assert(table.concat({}) == '' and "
    "table.concat({1, 'x', 2.5}) == '1x2.5') assert(not pcall(table.concat, {{}}))",
    "local t = table.move({1, 2, 3}, 1, 3, 2) assert(t[1] == 1 and t[2] == 1 and t[4] == 3) "
    "t = table.move({1, 2, 3}, 2, 3, 1) assert(t[1] == 2 and t[2] == 3)",
    "local t = {} for i = 1, 1000 do t[i] = (i * 7919) % 1009 end table.sort(t) "
    "for i = 2, 1000 do assert(t[i - 1] <= t[i]) end "
    "table.sort(t, function(a, b) return a > b end) for i = 2, 1000 do assert(t[i - 1] >= t[i]) "
    "end",
    "table.sort({3, 1, 2}, function() return true end) assert(not pcall(table.sort, {1, 'x'}))",
    "assert(select('#', table.unpack({1, nil, 3}, 1, 3)) == 3 and table.pack(1, nil).n == 2)",
    "assert(utf8.len('h\\u{e9}') == 2 and utf8.char(233) == '\\u{e9}') "
    "for p, c in utf8.codes('ab') do assert(c) end",
    "assert(math.floor(2.5) == 2 and math.huge > 1 and math.type(1) == 'integer')",
    "assert(os.time{year = 2020, month = 1, day = 1, hour = 12} and #os.date('%Y') == 4 and "
    "os.date('!%H', 0) == '00') assert(not pcall(os.date, ('%c'):rep(1000)))",
    "assert(tostring(setmetatable({}, {__tostring = function() return 'T' end})) == 'T')",
};

IN_TASK(test_library)
{
    (void)unused;
    for (size_t i = 0; i < sizeof library / sizeof *library; i++) {
        char text[2000];
        snprintf(text, sizeof text, "function DoNOOP()\n%s\nreturn 'ok'\nend", library[i]);
        CHECK(script_says_ok(text));
    }
}

/* The product's functions. */
static const char *const product[] = {
    "assert(VPOP3.HexString('AZ') == '415a' and VPOP3.HexString{1, 255} == '01ff' "
    "and VPOP3.HexString{300} == nil and VPOP3.HexString() == nil)",
    "local b = VPOP3.UnHexString('01fFzz') assert(b[1] == 1 and b[2] == 255 and b[3] == 0 and #b "
    "== 3) "
    "assert(VPOP3.UnHexString('1') == nil and VPOP3.UnHexString{} == nil)",
    "assert(VPOP3.HexString(VPOP3.MD5('')) == 'd41d8cd98f00b204e9800998ecf8427e')",
    "assert(VPOP3.HexString(VPOP3.SHA1('abc')) == 'a9993e364706816aba3e25717850c26c9cd0d89d')",
    "assert(VPOP3.HexString(VPOP3.SHA256('abc')):sub(1, 16) == 'ba7816bf8f01cfea')",
    "assert(#VPOP3.SHA512('abc') == 64)",
    "assert(VPOP3.HexString(VPOP3.HMAC('sha256', 'key', 'The quick brown fox jumps over the lazy "
    "dog')) "
    "== 'f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8') "
    "assert(VPOP3.HMAC('x', 'k', 'd') == nil)",
    "assert(VPOP3.Base64Encode('hello') == 'aGVsbG8=' and VPOP3.Base64Decode('aGVs\\r\\nbG8=') == "
    "'hello' "
    "and VPOP3.Base64Decode('aGVsbG8') == 'hello' and VPOP3.Base64Decode('!!') == nil "
    "and VPOP3.Base64Encode('') == '' and VPOP3.Base64Decode('') == '')",
    "local J = VPOP3.JSON local t = "
    "J.decode('{\"a\":[1,2.5,null,true],\"b\":\"x\\\\u00e9\\\\n\",\"c\":null}') "
    "assert(t.a[1] == 1 and math.type(t.a[1]) == 'integer' and t.a[2] == 2.5 and t.a[3] == J.null "
    "and t.a[4] == true and t.b == 'x\\u{e9}\\n' and t.c == nil) "
    "assert(J.encode{1, 'a\"\\n', false} == '[1,\"a\\\\\"\\\\n\",false]' and J.encode{} == '{}' "
    "and J.encode{x = {}} == '{\"x\":{}}' and J.encode(J.null) == 'null')",
    "local J = VPOP3.JSON for _, s in ipairs{'', '{', '[1,', '{\"a\"}', '\"', 'nul', '1 2', '[1}', "
    "('['):rep(1000), '\"\\\\x\"', '+1', '01x', '--1'} do assert(J.decode(s) == nil, s) end "
    "local c = {} c.c = c assert(not pcall(J.encode, c)) assert(not pcall(J.encode, print))",
    "assert(#VPOP3.Now() == 14 and mail.time() > 1e9 and type(mail.version) == 'string')",
    "local re = mail.regex.compile('(\\\\w+)@(\\\\w+)', 'i') local a, b = re:match('x Me@You y') "
    "assert(a == 'Me' and b == 'You') assert(re:find('x Me@You') == 3) "
    "assert(re:gsub('a@b c@d', '%2 at %1') == 'b at a d at c') "
    "local n = 0 for u, d in re:gmatch('a@b c@d') do n = n + 1 end assert(n == 2) "
    "assert(re:match('none') == nil) local r, e, c = mail.regex.compile('(') assert(not r and c == "
    "'syntax') "
    "assert(mail.regex.compile('x*'):gsub('abc', '-') == '-a-b-c-')",
    "mail.cache.set('k', {a = {1, 2}}, 10) local v = mail.cache.get('k') assert(v.a[2] == 2) "
    "v.a[2] = 9 "
    "assert(mail.cache.get('k').a[2] == 2) mail.cache.set('k', nil) assert(mail.cache.get('k') == "
    "nil) "
    "assert(mail.cache.add('n', 2) == 2 and mail.cache.add('n', 3) == 5) "
    "assert(not pcall(mail.cache.set, 'f', print)) assert(not pcall(mail.cache.set, '', 1)) "
    "assert(not pcall(mail.cache.set, 'big', ('x'):rep(300000)))",
    "assert(not pcall(VPOP3.GetMessageLines, 1)) assert(not pcall(VPOP3.GetMessagePart, '1'))",
    /* no database: nil, text, class */
    "local r, text, class = VPOP3.PostgresQuery('select 1') assert(r == nil and text and class == "
    "'temp', class) "
    "r, text, class = mail.index.account('anna') assert(r == nil and class == 'temp', class) ",
    "mail.sleep(5) mail.sleep(0) assert(not pcall(mail.sleep, -1))",
};

IN_TASK(test_product)
{
    (void)unused;
    for (size_t i = 0; i < sizeof product / sizeof *product; i++) {
        char text[3000];
        snprintf(text, sizeof text, "function DoNOOP()\n%s\nreturn 'ok'\nend", product[i]);
        CHECK(script_says_ok(text));
    }
}

/* Every function within reach, called with every combination of bad values: errors are fine,
 * crashes, hangs and escapes are not. */
static const char worst[] =
    "local bad = {0, -1, 1, 2^53, -2^63, math.maxinteger, math.mininteger, 0/0, 1/0, '', 'x', "
    "('x'):rep(1000), '\\0', '%', '[', true, false, {}, {1, 2, 3}, {n = 1e9}, print, function() "
    "end, "
    "coroutine.create(function() end), string, setmetatable({}, {__len = function() return 2^40 "
    "end}), "
    "setmetatable({}, {__index = function() return 1 end, __len = function() return 100 end}), "
    "setmetatable({}, {__tostring = function() return 1 end}), "
    "setmetatable({}, {__tostring = function() error('x') end})}\n"
    "local deep = {} local d = deep for i = 1, 2000 do d.d = {} d = d.d end bad[#bad + 1] = deep\n"
    "local skip = {[error] = true, [coroutine.yield] = true, [print] = true}\n"
    "local seen, count = {}, 0\n"
    "local function try(f, name)\n"
    "  if skip[f] or f == table.foreach or f == table.foreachi or name == 'sleep' or name == 'Log' "
    "then return end\n"
    "  count = count + 1\n"
    "  pcall(f)\n"
    "  for _, a in ipairs(bad) do\n"
    "    pcall(f, a)\n"
    "    for _, b in ipairs(bad) do pcall(f, a, b) pcall(f, 'abcabc', a, b) pcall(f, {3, 1, 2}, a, "
    "b) end\n"
    "  end\n"
    "  pcall(f, nil, nil, nil) pcall(f, 1, 2, 3, 4, 5, 6)\n"
    "end\n"
    "local function walk(t)\n"
    "  if seen[t] then return end\n"
    "  seen[t] = true\n"
    "  for k, v in pairs(t) do\n"
    "    if type(v) == 'function' then FUNCTIONS[#FUNCTIONS + 1] = {v, tostring(k)}\n"
    "    elseif type(v) == 'table' then walk(v) end\n"
    "  end\n"
    "end\n"
    "FUNCTIONS = {}\n"
    "for _, n in "
    "ipairs{'assert','getmetatable','ipairs','pairs','rawequal','rawlen','select','tonumber',"
    "'type','next','rawget','rawset','pcall','xpcall','setmetatable','tostring','collectgarbage','"
    "load',"
    "'require','unpack'} do FUNCTIONS[#FUNCTIONS + 1] = {_G[n], n} end\n"
    "for _, t in ipairs{string, table, math, utf8, os, coroutine, bit32, mail} do walk(t) end\n"
    "function DoNOOP(from)\n"
    "  local f = FUNCTIONS[tonumber(from)]\n"
    "  if not f then return 'end' end\n"
    "  try(f[1], f[2])\n"
    "  return f[2]\n"
    "end\n";

IN_TASK(test_worst)
{
    unsigned done = 0, over = 0;
    (void)unused;
    for (int i = 1;; i++) {
        char n[16];
        snprintf(n, sizeof n, "%d", i);
        struct hval args[] = {hv_str(str_of(n))};
        struct hook_env *env = env_of("smtpsvr", worst);
        struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 1, args);
        bool end = o.what == HOOK_DONE && str_eqz(hv_as_str(&o.hc.results[0], STR("")), "end");
        if (o.what != HOOK_DONE) {
            over++;
            /* Running into a budget is an answer, a broken host is none. */
            if (o.e.cls != ERR_TIMEOUT && o.e.cls != ERR_LIMIT)
                fprintf(stderr, "function %d: %s\n", i, o.e.text);
            CHECK(o.e.cls == ERR_TIMEOUT || o.e.cls == ERR_LIMIT);
        }
        outcome_free(&o);
        env_drop(&env);
        if (end)
            break;
        done++;
    }
    printf("%u functions with the worst inputs, %u of them ran into a budget\n", done, over);
    CHECK(done > 90);
    CHECK(script_says_ok("function DoNOOP() return 'ok' end"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escapes),
        cmocka_unit_test(test_library),
        cmocka_unit_test(test_product),
        cmocka_unit_test(test_worst),
    };
    return cmocka_run_group_tests(tests, host_setup, host_teardown);
}
