/* mail.regex: Perl-compatible regular expressions (PCRE2) within bounds.
 *
 * Pattern length, nesting, match steps and heap are limited.  A subject is searched in windows of
 * start positions, with a look at the budget in between, since one search over a long text can take
 * the square of its length. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "script/host_int.h"

#include <pcre2.h>

#define REGEX "mail.regex"
#define WINDOW_WORK ((size_t)8 << 20) /* byte visits in one window: some 10 ms at worst */
#define SUBJECT_MAX ((size_t)8 << 20)

struct regex {
    pcre2_code *code;
    pcre2_match_data *data;
    uint32_t groups;
    bool utf;
};

static pcre2_match_context *context;
static pcre2_jit_stack *jit_stack;

static int regex_gc(lua_State *L)
{
    struct regex *r = luaL_checkudata(L, 1, REGEX);

    pcre2_match_data_free(r->data);
    pcre2_code_free(r->code);
    r->data = NULL;
    r->code = NULL;
    return 0;
}

static uint32_t flags_of(lua_State *L, int arg)
{
    const char *f = luaL_optstring(L, arg, "");
    uint32_t r = PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT;

    for (; *f != '\0'; f++)
        switch (*f) {
        case 'i':
            r |= PCRE2_CASELESS;
            break;
        case 'm':
            r |= PCRE2_MULTILINE;
            break;
        case 's':
            r |= PCRE2_DOTALL;
            break;
        case 'x':
            r |= PCRE2_EXTENDED;
            break;
        case 'u':
            r |= PCRE2_UTF | PCRE2_UCP | PCRE2_MATCH_INVALID_UTF;
            break;
        default:
            luaL_argerror(L, arg, "flags are i, m, s, x and u");
        }
    return r;
}

/* mail.regex.compile(pattern [, flags]) -> object with the methods find, match, gmatch and gsub;
 * nil, text, "syntax" when the pattern is wrong.  flags: i without case, m ^ and $ match at lines,
 * s the dot matches line ends, x blanks are ignored, u UTF-8.
 * @since 1.0 */
static int api_compile(lua_State *L)
{
    size_t n, offset;
    const char *p = luaL_checklstring(L, 1, &n);
    uint32_t flags = flags_of(L, 2);
    int code;

    luaL_argcheck(L, n <= SCRIPT_REGEX_MAX, 1, "regular expression too long");
    budget_stack(L, SCRIPT_STACK_PARSE);
    budget_charge(L, n * 64 + 4096);
    struct regex *r = lua_newuserdatauv(L, sizeof *r, 0);
    *r = (struct regex){.utf = flags & PCRE2_UTF};
    luaL_setmetatable(L, REGEX);
    pcre2_compile_context *limits = pcre2_compile_context_create(NULL);
    if (limits == NULL)
        return luaL_error(L, "no memory");
    pcre2_set_parens_nest_limit(limits, 40);
    r->code = pcre2_compile((PCRE2_SPTR)p, n, flags, &code, &offset, limits);
    pcre2_compile_context_free(limits);
    if (r->code == NULL) {
        char text[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)text, sizeof text);
        lua_pushnil(L);
        lua_pushfstring(L, "%s (at byte %d)", text, (int)offset + 1);
        lua_pushliteral(L, "syntax");
        return 3;
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it matching is only slower */
    r->data = pcre2_match_data_create_from_pattern(r->code, NULL);
    if (r->data == NULL)
        return luaL_error(L, "no memory");
    pcre2_pattern_info(r->code, PCRE2_INFO_CAPTURECOUNT, &r->groups);
    return 1;
}

static struct regex *check(lua_State *L, int arg)
{
    return luaL_checkudata(L, arg, REGEX);
}

/* Searches from `at`; false: no match.  Offsets stand in the match data. */
static bool search(lua_State *L, struct regex *r, struct str s, size_t at, uint32_t options)
{
    size_t window = s.n > 0 ? WINDOW_WORK / s.n + 1 : 1;

    if (s.n > SUBJECT_MAX)
        luaL_error(L, "text is too long for a regular expression");
    /* The interpreter, where there is no JIT, keeps 20 KB of frames on the stack. */
    budget_stack(L, SCRIPT_STACK_MIN + 32768);
    for (;;) {
        size_t limit = at + window < s.n ? at + window : s.n;
        pcre2_set_offset_limit(context, limit);
        int rc = pcre2_match(r->code, (PCRE2_SPTR)s.p, s.n, at, options, r->data, context);
        budget_charge(L, 65536);
        if (rc > 0)
            return true;
        if (rc != PCRE2_ERROR_NOMATCH)
            luaL_error(L, rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
                                  rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_JIT_STACKLIMIT
                              ? "regular expression needs too many steps on this text"
                              : "regular expression cannot be matched against this text");
        if (limit >= s.n || (options & PCRE2_ANCHORED))
            return false;
        at = limit + 1;
        if (r->utf)
            while (at < s.n && ((unsigned char)s.p[at] & 0xc0) == 0x80)
                at++;
    }
}

static struct str subject(lua_State *L, int arg)
{
    struct str s;

    s.p = bytes_check(L, arg, &s.n);
    return s;
}

static void push_group(lua_State *L, const struct regex *r, struct str s, uint32_t i)
{
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(r->data);

    if (o[i * 2] == PCRE2_UNSET)
        lua_pushboolean(L, 0);
    else
        lua_pushlstring(L, s.p + o[i * 2], o[i * 2 + 1] - o[i * 2]);
}

static int push_groups(lua_State *L, const struct regex *r, struct str s)
{
    luaL_checkstack(L, (int)r->groups + 4, "too many groups");
    for (uint32_t i = 1; i <= r->groups; i++)
        push_group(L, r, s, i);
    return (int)r->groups;
}

static size_t start(lua_State *L, int arg, size_t n)
{
    lua_Integer i = luaL_optinteger(L, arg, 1);

    if (i < 0)
        i = i + (lua_Integer)n + 1 < 1 ? 1 : i + (lua_Integer)n + 1;
    return i == 0 ? 0 : (size_t)i - 1;
}

/* re:find(text [, init]) -> first and last position, then the groups (false for one that took no
 * part); nil without a match.
 * @since 1.0 */
static int re_find(lua_State *L)
{
    struct regex *r = check(L, 1);
    struct str s = subject(L, 2);
    size_t at = start(L, 3, s.n);

    if (at > s.n || !search(L, r, s, at, 0)) {
        lua_pushnil(L);
        return 1;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(r->data);
    lua_pushinteger(L, (lua_Integer)o[0] + 1);
    lua_pushinteger(L, (lua_Integer)o[1]);
    return 2 + push_groups(L, r, s);
}

/* re:match(text [, init]) -> the groups, or the whole match when there are none; nil without a
 * match.
 * @since 1.0 */
static int re_match(lua_State *L)
{
    struct regex *r = check(L, 1);
    struct str s = subject(L, 2);
    size_t at = start(L, 3, s.n);

    if (at > s.n || !search(L, r, s, at, 0)) {
        lua_pushnil(L);
        return 1;
    }
    if (r->groups > 0)
        return push_groups(L, r, s);
    push_group(L, r, s, 0);
    return 1;
}

/* The next match at or after `at` that is not the empty one at `last`. */
static bool next_match(lua_State *L, struct regex *r, struct str s, size_t at, bool after_empty)
{
    if (at > s.n)
        return false;
    if (after_empty) {
        /* First anything that is not empty here, then further on (as Perl does). */
        if (search(L, r, s, at, PCRE2_NOTEMPTY_ATSTART | PCRE2_ANCHORED))
            return true;
        at++;
        while (r->utf && at < s.n && ((unsigned char)s.p[at] & 0xc0) == 0x80)
            at++;
        if (at > s.n)
            return false;
    }
    return search(L, r, s, at, 0);
}

static int gmatch_step(lua_State *L)
{
    struct regex *r = check(L, lua_upvalueindex(1));
    struct str s = subject(L, lua_upvalueindex(2));
    size_t at = (size_t)lua_tointeger(L, lua_upvalueindex(3));

    if (!next_match(L, r, s, at, lua_toboolean(L, lua_upvalueindex(4)))) {
        lua_pushinteger(L, (lua_Integer)s.n + 1);
        lua_replace(L, lua_upvalueindex(3));
        return 0;
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(r->data);
    lua_pushinteger(L, (lua_Integer)o[1]);
    lua_replace(L, lua_upvalueindex(3));
    lua_pushboolean(L, o[0] == o[1]);
    lua_replace(L, lua_upvalueindex(4));
    if (r->groups > 0)
        return push_groups(L, r, s);
    push_group(L, r, s, 0);
    return 1;
}

/* re:gmatch(text) -> iterator over all matches: the groups, or the whole match when there are none.
 * @since 1.0 */
static int re_gmatch(lua_State *L)
{
    check(L, 1);
    subject(L, 2);
    lua_settop(L, 2);
    lua_pushinteger(L, 0);
    lua_pushboolean(L, 0);
    lua_pushcclosure(L, gmatch_step, 4);
    return 1;
}

static void add_replacement(lua_State *L, struct out *o, const struct regex *r, struct str s,
                            struct str with)
{
    const PCRE2_SIZE *v = pcre2_get_ovector_pointer(r->data);

    for (size_t i = 0; i < with.n; i++) {
        if (with.p[i] == '%' && i + 1 < with.n && with.p[i + 1] == '%') {
            i++;
        } else if (with.p[i] == '%' && i + 1 < with.n && ascii_digit(with.p[i + 1])) {
            uint32_t g = (uint32_t)(with.p[++i] - '0');
            budget_charge(L, 32);
            if (g > r->groups)
                luaL_error(L, "invalid group %%%d in replacement", (int)g);
            if (v[g * 2] != PCRE2_UNSET)
                out_add(o, s.p + v[g * 2], v[g * 2 + 1] - v[g * 2]);
            continue;
        }
        out_add(o, &with.p[i], 1);
        budget_charge(L, 4);
    }
}

/* Stack: regex, text, replacement, max, then the buffer.  A function may use the same regex, so
 * what is needed of the match data is read before. */
static void replace_one(lua_State *L, struct out *o, struct regex *r, struct str s, size_t from,
                        size_t to)
{
    struct str with;

    if (lua_isfunction(L, 3)) {
        lua_pushvalue(L, 3);
        int n = r->groups > 0 ? push_groups(L, r, s) : (push_group(L, r, s, 0), 1);
        lua_call(L, n, 1);
    } else if (lua_istable(L, 3)) {
        push_group(L, r, s, r->groups > 0 ? 1 : 0);
        lua_gettable(L, 3);
    } else {
        with = subject(L, 3);
        add_replacement(L, o, r, s, with);
        return;
    }
    if (!lua_toboolean(L, -1)) {
        out_add(o, s.p + from, to - from);
    } else {
        with = subject(L, -1);
        out_add(o, with.p, with.n);
    }
    lua_pop(L, 1);
}

/* re:gsub(text, replacement [, max]) -> new text, number of replacements.  replacement: text with
 * %0 to %9 and %%, table, or function, as in string.gsub.
 * @since 1.0 */
static int re_gsub(lua_State *L)
{
    struct regex *r = check(L, 1);
    struct str s = subject(L, 2);
    lua_Integer most = luaL_optinteger(L, 4, LUA_MAXINTEGER), count = 0;
    size_t at = 0, done = 0;
    bool empty = false;
    struct out o;

    if (!lua_isfunction(L, 3) && !lua_istable(L, 3))
        subject(L, 3);
    lua_settop(L, 4);
    out_open(L, &o);
    while (count < most && next_match(L, r, s, at, empty)) {
        const PCRE2_SIZE *v = pcre2_get_ovector_pointer(r->data);
        size_t from = v[0], to = v[1];
        if (from > to) /* \K in a lookahead */
            from = to;
        out_add(&o, s.p + done, from > done ? from - done : 0);
        replace_one(L, &o, r, s, from, to);
        count++;
        at = done = to;
        empty = from == to;
    }
    out_add(&o, s.p + done, s.n - done);
    budget_charge(L, o.n);
    out_push(&o);
    lua_pushinteger(L, count);
    return 2;
}

void api_regex_open(lua_State *L)
{
    static const luaL_Reg methods[] = {{"find", re_find},
                                       {"match", re_match},
                                       {"gmatch", re_gmatch},
                                       {"gsub", re_gsub},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {{"compile", api_compile}, {NULL, NULL}};

    if (context == NULL) {
        context = pcre2_match_context_create(NULL);
        jit_stack = pcre2_jit_stack_create(32 * 1024, 512 * 1024, NULL);
        if (context == NULL)
            luaL_error(L, "no memory");
        pcre2_set_match_limit(context, SCRIPT_REGEX_STEPS);
        pcre2_set_depth_limit(context, 100000);
        pcre2_set_heap_limit(context, SCRIPT_REGEX_HEAP_KB);
        if (jit_stack != NULL)
            pcre2_jit_stack_assign(context, NULL, jit_stack);
    }
    luaL_newmetatable(L, REGEX);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, regex_gc);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 1);
    luaL_newlib(L, functions);
    lua_setfield(L, -2, "regex");
}

void regex_free(void)
{
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(jit_stack);
    context = NULL;
    jit_stack = NULL;
}
