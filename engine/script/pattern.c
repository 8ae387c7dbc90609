/* Lua patterns (find, match, gmatch, gsub) with a matcher that counts its steps.
 *
 * Same language and results as the reference manual 6.4.1.  The matcher looks at the budget every
 * few thousand steps, so a pathological pattern is sliced and in the end killed like any other
 * loop; its recursion is bounded.  Subjects may be zero-copy bytes. */
#include "script/host_int.h"

#include <ctype.h>
#include <string.h>

#define CAPTURES 32
#define DEPTH 180
#define STEPS 4096

enum { CAP_OPEN = -1, CAP_POSITION = -2 };

struct matcher {
    lua_State *L;
    const char *src, *end; /* the subject */
    const char *pend;      /* end of the pattern */
    unsigned steps;
    int depth, level;
    struct {
        const char *at;
        ptrdiff_t len;
    } cap[CAPTURES];
};

static const char *run(struct matcher *m, const char *s, const char *p);

/* One step, and one more for each 16 bytes of a set. */
static void steps(struct matcher *m, ptrdiff_t set)
{
    m->steps += (unsigned)(set / 16);
    if (++m->steps >= STEPS) {
        m->steps = 0;
        budget_charge(m->L, 65536);
    }
}

static void step(struct matcher *m)
{
    if (++m->steps >= STEPS) {
        m->steps = 0;
        budget_charge(m->L, 65536);
    }
}

/* One past the single-character item that begins at p. */
static const char *item_end(struct matcher *m, const char *p)
{
    char c = *p++;

    if (c == '%') {
        if (p == m->pend)
            luaL_error(m->L, "malformed pattern (ends with '%%')");
        return p + 1;
    }
    if (c != '[')
        return p;
    if (p < m->pend && *p == '^')
        p++;
    /* A ']' in first place stands for itself. */
    do {
        if (p == m->pend)
            luaL_error(m->L, "malformed pattern (missing ']')");
        c = *p++;
        if (c == '%') {
            if (p == m->pend)
                luaL_error(m->L, "malformed pattern (missing ']')");
            p++;
        }
        if (p == m->pend)
            luaL_error(m->L, "malformed pattern (missing ']')");
    } while (*p != ']');
    return p + 1;
}

static bool in_class(int c, int class)
{
    bool r;

    switch (tolower(class)) {
    case 'a':
        r = isalpha(c);
        break;
    case 'c':
        r = iscntrl(c);
        break;
    case 'd':
        r = isdigit(c);
        break;
    case 'g':
        r = isgraph(c);
        break;
    case 'l':
        r = islower(c);
        break;
    case 'p':
        r = ispunct(c);
        break;
    case 's':
        r = isspace(c);
        break;
    case 'u':
        r = isupper(c);
        break;
    case 'w':
        r = isalnum(c);
        break;
    case 'x':
        r = isxdigit(c);
        break;
    default:
        return class == c;
    }
    return isupper(class) ? !r : r;
}

/* p at '[', last at its closing ']'. */
static bool in_set(int c, const char *p, const char *last)
{
    bool yes = true;

    if (p[1] == '^') {
        yes = false;
        p++;
    }
    while (++p < last) {
        if (*p == '%') {
            p++;
            if (in_class(c, (unsigned char)*p))
                return yes;
        } else if (p[1] == '-' && p + 2 < last) {
            if ((unsigned char)*p <= c && c <= (unsigned char)p[2])
                return yes;
            p += 2;
        } else if ((unsigned char)*p == c) {
            return yes;
        }
    }
    return !yes;
}

static bool single(struct matcher *m, const char *s, const char *p, const char *after)
{
    steps(m, after - p);
    if (s >= m->end)
        return false;
    int c = (unsigned char)*s;
    switch (*p) {
    case '.':
        return true;
    case '%':
        return in_class(c, (unsigned char)p[1]);
    case '[':
        return in_set(c, p, after - 1);
    default:
        return (unsigned char)*p == c;
    }
}

static const char *balanced(struct matcher *m, const char *s, const char *p)
{
    if (m->pend - p < 2)
        luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
    if (s >= m->end || *s != *p)
        return NULL;
    for (int open = 1; ++s < m->end;) {
        step(m);
        if (*s == p[1]) {
            if (--open == 0)
                return s + 1;
        } else if (*s == *p) {
            open++;
        }
    }
    return NULL;
}

static const char *repeat_most(struct matcher *m, const char *s, const char *p, const char *after)
{
    ptrdiff_t n = 0;

    while (single(m, s + n, p, after))
        n++;
    for (; n >= 0; n--) {
        const char *r = run(m, s + n, after + 1);
        if (r != NULL)
            return r;
    }
    return NULL;
}

static const char *repeat_least(struct matcher *m, const char *s, const char *p, const char *after)
{
    for (;; s++) {
        const char *r = run(m, s, after + 1);
        if (r != NULL)
            return r;
        if (!single(m, s, p, after))
            return NULL;
    }
}

static int digit_capture(struct matcher *m, int c)
{
    int i = c - '1';

    if (i < 0 || i >= m->level || m->cap[i].len == CAP_OPEN)
        return luaL_error(m->L, "invalid capture index %%%d", i + 1);
    return i;
}

static const char *open_capture(struct matcher *m, const char *s, const char *p, ptrdiff_t what)
{
    if (m->level >= CAPTURES)
        luaL_error(m->L, "too many captures");
    m->cap[m->level].at = s;
    m->cap[m->level].len = what;
    m->level++;
    const char *r = run(m, s, p);
    if (r == NULL)
        m->level--;
    return r;
}

static const char *close_capture(struct matcher *m, const char *s, const char *p)
{
    int i = m->level - 1;

    while (i >= 0 && m->cap[i].len != CAP_OPEN)
        i--;
    if (i < 0)
        luaL_error(m->L, "invalid pattern capture");
    m->cap[i].len = s - m->cap[i].at;
    const char *r = run(m, s, p);
    if (r == NULL)
        m->cap[i].len = CAP_OPEN;
    return r;
}

static const char *back_reference(struct matcher *m, const char *s, int c)
{
    int i = digit_capture(m, c);
    size_t n = m->cap[i].len < 0 ? 0 : (size_t)m->cap[i].len;

    m->steps += (unsigned)(n / 16);
    step(m);
    if ((size_t)(m->end - s) < n || memcmp(m->cap[i].at, s, n) != 0)
        return NULL;
    return s + n;
}

static bool frontier(struct matcher *m, const char *s, const char *p, const char *after)
{
    int before = s == m->src ? 0 : (unsigned char)s[-1];
    int here = s < m->end ? (unsigned char)*s : 0;

    steps(m, (after - p) * 3);
    return !in_set(before, p, after - 1) && in_set(here, p, after - 1);
}

/* Where the match of the rest p of the pattern at s ends, or NULL. */
static const char *match_here(struct matcher *m, const char *s, const char *p)
{
    while (p < m->pend) {
        step(m);
        switch (*p) {
        case '(':
            return p + 1 < m->pend && p[1] == ')' ? open_capture(m, s, p + 2, CAP_POSITION)
                                                  : open_capture(m, s, p + 1, CAP_OPEN);
        case ')':
            return close_capture(m, s, p + 1);
        case '$':
            if (p + 1 == m->pend)
                return s == m->end ? s : NULL;
            break;
        case '%':
            if (p + 1 == m->pend)
                break;
            if (p[1] == 'b') {
                s = balanced(m, s, p + 2);
                if (s == NULL)
                    return NULL;
                p += 4;
                continue;
            }
            if (p[1] == 'f') {
                p += 2;
                if (p >= m->pend || *p != '[')
                    luaL_error(m->L, "missing '[' after '%%f' in pattern");
                const char *after = item_end(m, p);
                if (!frontier(m, s, p, after))
                    return NULL;
                p = after;
                continue;
            }
            if (isdigit((unsigned char)p[1])) {
                s = back_reference(m, s, (unsigned char)p[1]);
                if (s == NULL)
                    return NULL;
                p += 2;
                continue;
            }
            break;
        default:
            break;
        }
        const char *after = item_end(m, p);
        char how = after < m->pend ? *after : '\0';
        if (how == '*')
            return repeat_most(m, s, p, after);
        if (how == '-')
            return repeat_least(m, s, p, after);
        bool ok = single(m, s, p, after);
        if (how == '+')
            return ok ? repeat_most(m, s + 1, p, after) : NULL;
        if (how == '?') {
            if (ok) {
                const char *r = run(m, s + 1, after + 1);
                if (r != NULL)
                    return r;
            }
            p = after + 1;
            continue;
        }
        if (!ok)
            return NULL;
        s++;
        p = after;
    }
    return s;
}

static const char *run(struct matcher *m, const char *s, const char *p)
{
    if (++m->depth > DEPTH)
        luaL_error(m->L, "pattern too complex");
    const char *r = match_here(m, s, p);
    m->depth--;
    return r;
}

static void matcher_init(struct matcher *m, lua_State *L, const char *s, size_t n, const char *p,
                         size_t pn)
{
    if (pn > SCRIPT_PATTERN_MAX)
        luaL_error(L, "pattern is longer than %d bytes", (int)SCRIPT_PATTERN_MAX);
    /* 180 levels of the two functions above, with room for what an error needs. */
    budget_stack(L, SCRIPT_STACK_MIN + 24 * 1024);
    m->L = L;
    m->src = s;
    m->end = s + n;
    m->pend = p + pn;
    m->steps = 0;
    m->depth = 0;
    m->level = 0;
}

static const char *attempt(struct matcher *m, const char *s, const char *p)
{
    m->level = 0;
    m->depth = 0;
    return run(m, s, p);
}

static void push_capture(struct matcher *m, int i, const char *s, const char *e)
{
    if (i >= m->level) {
        if (i != 0)
            luaL_error(m->L, "invalid capture index %%%d", i + 1);
        lua_pushlstring(m->L, s, (size_t)(e - s));
        return;
    }
    if (m->cap[i].len == CAP_OPEN)
        luaL_error(m->L, "unfinished capture");
    if (m->cap[i].len == CAP_POSITION)
        lua_pushinteger(m->L, m->cap[i].at - m->src + 1);
    else
        lua_pushlstring(m->L, m->cap[i].at, (size_t)m->cap[i].len);
}

/* All captures, or the whole match when there are none and `s` is given. */
static int push_captures(struct matcher *m, const char *s, const char *e)
{
    int n = m->level == 0 && s != NULL ? 1 : m->level;

    luaL_checkstack(m->L, n, "too many captures");
    for (int i = 0; i < n; i++)
        push_capture(m, i, s, e);
    return n;
}

static size_t start_of(lua_Integer init, size_t n)
{
    if (init > 0)
        return (size_t)init - 1;
    if (init == 0 || init < -(lua_Integer)n)
        return 0;
    return n - (size_t)-init;
}

static bool plain_text(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != '\0' && strchr("^$*+?.([%-", p[i]) != NULL)
            return false;
    return true;
}

/* As str_find() from `at`, with looks at the budget in between. */
static ptrdiff_t find_plain(lua_State *L, struct str s, size_t at, struct str what)
{
    size_t window = what.n * 2 > 262144 ? what.n * 2 : 262144;

    if (what.n == 0)
        return (ptrdiff_t)at;
    for (; at < s.n; at += window - (what.n - 1)) {
        size_t n = s.n - at < window ? s.n - at : window;
        ptrdiff_t r = str_find(str_make(s.p + at, n), what);
        budget_charge(L, n);
        if (r >= 0)
            return (ptrdiff_t)at + r;
        if (n < window)
            break;
    }
    return -1;
}

static int find(lua_State *L, bool positions)
{
    struct matcher m;
    size_t n, pn;
    const char *s = bytes_check(L, 1, &n), *p = bytes_check(L, 2, &pn);
    size_t init = start_of(luaL_optinteger(L, 3, 1), n);

    if (init > n) {
        luaL_pushfail(L);
        return 1;
    }
    if (positions && (lua_toboolean(L, 4) || plain_text(p, pn))) {
        ptrdiff_t at = find_plain(L, str_make(s, n), init, str_make(p, pn));
        if (at < 0) {
            luaL_pushfail(L);
            return 1;
        }
        lua_pushinteger(L, (lua_Integer)at + 1);
        lua_pushinteger(L, (lua_Integer)at + (lua_Integer)pn);
        return 2;
    }
    bool anchor = pn > 0 && *p == '^';
    matcher_init(&m, L, s, n, p, pn);
    for (const char *at = s + init; at <= m.end; at++) {
        const char *e = attempt(&m, at, anchor ? p + 1 : p);
        if (e != NULL && positions) {
            lua_pushinteger(L, at - s + 1);
            lua_pushinteger(L, e - s);
            return push_captures(&m, NULL, NULL) + 2;
        }
        if (e != NULL)
            return push_captures(&m, at, e);
        if (anchor)
            break;
    }
    luaL_pushfail(L);
    return 1;
}

static int p_find(lua_State *L)
{
    return find(L, true);
}

static int p_match(lua_State *L)
{
    return find(L, false);
}

/* Upvalues: subject, pattern, where to go on, end of the last match (-1: none). */
static int gmatch_next(lua_State *L)
{
    struct matcher m;
    size_t n, pn;
    const char *s = bytes_check(L, lua_upvalueindex(1), &n);
    const char *p = bytes_check(L, lua_upvalueindex(2), &pn);
    lua_Integer from = lua_tointeger(L, lua_upvalueindex(3));
    lua_Integer last = lua_tointeger(L, lua_upvalueindex(4));

    matcher_init(&m, L, s, n, p, pn);
    for (; from <= (lua_Integer)n; from++) {
        const char *e = attempt(&m, s + from, p);
        if (e == NULL || e - s == last)
            continue;
        lua_pushinteger(L, e - s);
        lua_copy(L, -1, lua_upvalueindex(3));
        lua_copy(L, -1, lua_upvalueindex(4));
        lua_pop(L, 1);
        return push_captures(&m, s + from, e);
    }
    lua_pushinteger(L, (lua_Integer)n + 1);
    lua_replace(L, lua_upvalueindex(3));
    return 0;
}

static int p_gmatch(lua_State *L)
{
    size_t n, pn;

    bytes_check(L, 1, &n);
    bytes_check(L, 2, &pn);
    size_t init = start_of(luaL_optinteger(L, 3, 1), n);
    lua_settop(L, 2);
    lua_pushinteger(L, (lua_Integer)(init > n ? n + 1 : init));
    lua_pushinteger(L, -1);
    lua_pushcclosure(L, gmatch_next, 4);
    return 1;
}

static void add_string(struct matcher *m, luaL_Buffer *b, const char *r, size_t n, const char *s,
                       const char *e)
{
    lua_State *L = m->L;

    for (size_t i = 0; i < n; i++) {
        if (r[i] != '%') {
            const char *next = memchr(r + i, '%', n - i);
            size_t len = next ? (size_t)(next - (r + i)) : n - i;
            luaL_addlstring(b, r + i, len);
            budget_charge(L, len);
            i += len - 1;
            continue;
        }
        budget_charge(L, 64);
        i++;
        if (i < n && r[i] == '%') {
            luaL_addchar(b, '%');
        } else if (i < n && r[i] == '0') {
            luaL_addlstring(b, s, (size_t)(e - s));
            budget_charge(L, (size_t)(e - s));
        } else if (i < n && isdigit((unsigned char)r[i])) {
            push_capture(m, r[i] - '1', s, e);
            luaL_tolstring(L, -1, NULL);
            lua_remove(L, -2);
            luaL_addvalue(b);
        } else {
            luaL_error(L, "invalid use of '%%' in replacement string");
        }
    }
}

/* True when the text was changed. */
static bool add_value(struct matcher *m, luaL_Buffer *b, int type, const char *s, const char *e)
{
    lua_State *L = m->L;

    if (type == LUA_TFUNCTION) {
        lua_pushvalue(L, 3);
        int n = push_captures(m, s, e);
        lua_call(L, n, 1);
    } else if (type == LUA_TTABLE) {
        push_capture(m, 0, s, e);
        lua_gettable(L, 3);
    } else {
        size_t n;
        const char *r = bytes_check(L, 3, &n);
        add_string(m, b, r, n, s, e);
        return true;
    }
    if (!lua_toboolean(L, -1)) {
        lua_pop(L, 1);
        luaL_addlstring(b, s, (size_t)(e - s));
        return false;
    }
    struct str text;
    if (bytes_is(L, -1, &text)) {
        lua_pushlstring(L, text.p, text.n);
        lua_remove(L, -2);
    } else if (!lua_isstring(L, -1)) {
        luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
    }
    luaL_addvalue(b);
    return true;
}

static int p_gsub(lua_State *L)
{
    struct matcher m;
    luaL_Buffer b;
    size_t n, pn, ignored;
    const char *s = bytes_check(L, 1, &n), *p = bytes_check(L, 2, &pn), *last = NULL;
    int type = lua_type(L, 3);
    lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)n + 1), count = 0;
    bool anchor = pn > 0 && *p == '^', changed = false;

    if (type != LUA_TFUNCTION && type != LUA_TTABLE)
        bytes_check(L, 3, &ignored);
    matcher_init(&m, L, s, n, anchor ? p + 1 : p, anchor ? pn - 1 : pn);
    luaL_buffinit(L, &b);
    const char *pattern = anchor ? p + 1 : p;
    while (count < most) {
        budget_charge(L, 64);
        const char *e = attempt(&m, s, pattern);
        if (e != NULL && e != last) {
            count++;
            changed |= add_value(&m, &b, type, s, e);
            budget_charge(L, (size_t)(e - s));
            s = last = e;
        } else if (s < m.end) {
            luaL_addchar(&b, *s);
            s++;
        } else {
            break;
        }
        if (anchor)
            break;
    }
    if (!changed) {
        if (lua_isuserdata(L, 1))
            luaL_tolstring(L, 1, NULL);
        else
            lua_pushvalue(L, 1);
    } else {
        luaL_addlstring(&b, s, (size_t)(m.end - s));
        luaL_pushresult(&b);
    }
    lua_pushinteger(L, count);
    return 2;
}

void pattern_add(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"find", p_find}, {"match", p_match}, {"gmatch", p_gmatch}, {"gsub", p_gsub}, {NULL, NULL}};

    luaL_setfuncs(L, functions, 0);
}
