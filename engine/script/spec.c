/* The test runner for *_spec.lua: describe, it, assert and `host`, in the real binary.
 *
 * A spec runs as a management run.  `host.env(script [, text])` makes an environment like a
 * session's, with `text` as the site's script, whose hooks and globals the spec drives. */
#include "core/task.h"
#include "script/host_int.h"
#include "script/script.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define ENV "mail.spec.env"

struct spec {
    struct script_test_result *r;
    void (*print)(void *ctx, struct str out);
    void *ctx;
    const char *file;
    char group[200];
    struct release *release; /* what the site has; NULL: nothing */
};

static struct spec *running;

static void say(const char *verdict, const char *name, const char *why)
{
    char line[900];
    int n =
        snprintf(line, sizeof line, "%s %s: %s%s%s%s%s\n", verdict, running->file, running->group,
                 running->group[0] ? ": " : "", name, why ? ": " : "", why ? why : "");

    if (n >= (int)sizeof line)
        n = (int)sizeof line - 1;
    if (running->print != NULL)
        running->print(running->ctx, str_make(line, (size_t)n));
}

/* describe(name, fn) */
static int spec_describe(lua_State *L)
{
    char before[sizeof running->group];
    size_t n = strlen(running->group);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    memcpy(before, running->group, sizeof before);
    snprintf(running->group + n, sizeof running->group - n, "%s%s", n ? " " : "",
             luaL_checkstring(L, 1));
    lua_settop(L, 2);
    int status = lua_pcall(L, 0, 0, 0);
    if (status != LUA_OK) {
        budget_check(L);
        running->r->failed++;
        say("FAIL", "describe", lua_tostring(L, -1));
    }
    memcpy(running->group, before, sizeof before);
    return 0;
}

/* it(name, fn) */
static int spec_it(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);

    luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    int status = lua_pcall(L, 0, 0, 0);
    budget_check(L);
    if (status == LUA_OK) {
        running->r->passed++;
        say("ok  ", name, NULL);
    } else {
        running->r->failed++;
        say("FAIL", name, luaL_tolstring(L, -1, NULL));
    }
    return 0;
}

/* --- host.env
 * ------------------------------------------------------------------------------------------------
 */
struct spec_env {
    struct hook_env *env;
    struct release *release;
};

static int env_gc(lua_State *L)
{
    struct spec_env *x = luaL_checkudata(L, 1, ENV);

    env_drop(&x->env);
    release_unref(&x->release);
    return 0;
}

/* host.env(script [, text [, user]]) -> environment */
static int spec_env(lua_State *L)
{
    const char *script = luaL_checkstring(L, 1);
    size_t n = 0;
    const char *text = luaL_optlstring(L, 2, NULL, &n);
    const char *user = luaL_optstring(L, 3, "");
    struct spec_env *x = lua_newuserdatauv(L, sizeof *x, 1);

    *x = (struct spec_env){NULL, NULL};
    luaL_setmetatable(L, ENV);
    x->release = running->release ? release_copy(running->release) : release_new(0);
    if (text != NULL)
        release_add(x->release, chunk_new(str_of(script), str_make(text, n), false));
    x->env = env_make(script, str_of(user), x->release);
    return 1;
}

/* env:set(name, value) */
static int env_set(lua_State *L)
{
    struct spec_env *x = luaL_checkudata(L, 1, ENV);
    const char *name = luaL_checkstring(L, 2);
    struct hval v;
    struct arena *a = scratch_push(L, 256);

    value_read(L, 3, a, &v);
    env_globals_set(x->env, name, &v);
    return 0;
}

/* env:get(name) -> value */
static int env_get(lua_State *L)
{
    struct spec_env *x = luaL_checkudata(L, 1, ENV);
    struct hval v = HV_NONE;
    struct arena *a = scratch_push(L, 256);

    if (!env_globals_get(x->env, luaL_checkstring(L, 2), a, &v))
        v = HV_NONE;
    value_push(L, &v);
    return 1;
}

/* env:call(function, ...) -> "default" | "done", results ... | "failed", text.  "" is the chunk of
 * a chunk-shaped script. */
static int env_call(lua_State *L)
{
    struct spec_env *x = luaL_checkudata(L, 1, ENV);
    const char *function = luaL_optstring(L, 2, "");
    struct err e = ERR_INIT;
    struct hook_call hc = {.env = x->env};
    int id = 0, nargs = lua_gettop(L) - 2;

    for (; id < HOOK_COUNT; id++)
        if (strcmp(hook_info((enum hook_id)id)->script, x->env->script) == 0 &&
            strcmp(hook_info((enum hook_id)id)->function, function) == 0)
            break;
    if (id == HOOK_COUNT)
        return luaL_error(L, "%s has no hook '%s'", x->env->script, function);
    if (nargs < 0)
        nargs = 0;
    struct arena *a = scratch_push(L, 1024);
    struct hval *args = ARENA_ARRAY(a, struct hval, (size_t)nargs + 1);
    for (int i = 0; i < nargs; i++)
        value_read(L, 3 + i, a, &args[i]);
    hc.id = (enum hook_id)id;
    hc.arena = a;
    hc.args = args;
    hc.nargs = (unsigned)nargs;
    if (lua_getiuservalue(L, 1, 1) == LUA_TSTRING)
        hc.message.p = lua_tolstring(L, -1, &hc.message.n);
    enum hook_outcome r = host_provider.call(&hc, &e);
    if (r == HOOK_DEFAULT) {
        lua_pushliteral(L, "default");
        return 1;
    }
    lua_pushstring(L, r == HOOK_DONE ? "done" : "failed");
    if (r == HOOK_FAILED) {
        lua_pushstring(L, e.text);
        return 2;
    }
    for (unsigned i = 0; i < hc.nresults; i++)
        value_push(L, &hc.results[i]);
    return 1 + (int)hc.nresults;
}

/* env:message(text): the message at hand in later calls */
static int env_message(lua_State *L)
{
    luaL_checkudata(L, 1, ENV);
    luaL_checkstring(L, 2);
    lua_settop(L, 2);
    lua_setiuservalue(L, 1, 1);
    return 0;
}

/* env:present(function) -> boolean */
static int env_present(lua_State *L)
{
    struct spec_env *x = luaL_checkudata(L, 1, ENV);
    const char *function = luaL_checkstring(L, 2);
    bool yes = false;

    for (int id = 0; id < HOOK_COUNT; id++)
        if (strcmp(hook_info((enum hook_id)id)->script, x->env->script) == 0 &&
            strcmp(hook_info((enum hook_id)id)->function, function) == 0)
            yes = host_provider.present(x->env, (enum hook_id)id);
    lua_pushboolean(L, yes);
    return 1;
}

/* --- running
 * ---------------------------------------------------------------------------------------------------
 */
struct spec_run {
    struct hook_env *env;
};

static int spec_main(lua_State *L)
{
    static const luaL_Reg methods[] = {{"set", env_set},         {"get", env_get},
                                       {"call", env_call},       {"present", env_present},
                                       {"message", env_message}, {NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"describe", spec_describe}, {"it", spec_it}, {NULL, NULL}};
    struct spec_run *r = lua_touserdata(L, 1);

    lua_settop(L, 0);
    if (luaL_newmetatable(L, ENV)) {
        luaL_newlib(L, methods);
        lua_setfield(L, -2, "__index");
        lua_pushcfunction(L, env_gc);
        lua_setfield(L, -2, "__gc");
        lua_pushboolean(L, 0);
        lua_setfield(L, -2, "__metatable");
    }
    env_push_function(L, r->env, 0, "");
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->env->layers[0].ref);
    for (const luaL_Reg *f = functions; f->name != NULL; f++) {
        lua_pushcfunction(L, f->func);
        lua_setfield(L, -2, f->name);
    }
    lua_newtable(L);
    lua_pushcfunction(L, spec_env);
    lua_setfield(L, -2, "env");
    lua_setfield(L, -2, "host");
    lua_pop(L, 1);
    lua_call(L, 0, 0);
    return 0;
}

static struct str read_file(const char *path, struct arena *a, struct err *e)
{
    FILE *f = fopen(path, "r");
    struct str s = STR_NONE;

    if (f == NULL) {
        err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
        return s;
    }
    char *p = arena_alloc(a, SCRIPT_SOURCE_MAX);
    s = str_make(p, fread(p, 1, SCRIPT_SOURCE_MAX, f));
    fclose(f);
    return s;
}

struct script_tests {
    struct arena *a;
    struct spec_file {
        const char *name;
        struct str text;
    } * files;
    unsigned count;
};

/* Runs the tests of one file in its environment, which ends here. */
static void run_tests(struct spec *s, const char *file, struct hook_env **env)
{
    struct err own = ERR_INIT;
    struct spec *outer = running;

    s->file = file;
    s->group[0] = '\0';
    running = s;
    if (host_run_with(*env, "test", spec_main, &(struct spec_run){*env}, s->print, s->ctx, &own) !=
        0) {
        s->r->failed++;
        say("FAIL", "the file", own.text);
    }
    running = outer;
    env_drop(env);
}

static int run_file(const struct spec_file *f, struct spec *s, struct err *e)
{
    struct err own = ERR_INIT;
    struct hook_env *env = env_make_text(str_of(f->name), f->text, SCRIPT_RUN_MEMORY, &own);

    if (env == NULL) {
        if (e != NULL)
            *e = own;
        return -1;
    }
    run_tests(s, f->name, &env);
    return 0;
}

static int is_spec(const struct dirent *d)
{
    return str_ends(str_of(d->d_name), STR("_spec.lua"));
}

static int add_file(struct script_tests *t, const char *path, struct err *e)
{
    const char *slash = strrchr(path, '/');
    struct spec_file *f = &t->files[t->count];

    f->name = arena_dupz(t->a, str_of(slash ? slash + 1 : path));
    f->text = read_file(path, t->a, e);
    t->count += f->text.p != NULL;
    return f->text.p != NULL ? 0 : -1;
}

struct script_tests *script_tests_read(const char *path, struct err *e)
{
    struct script_tests *t = xcalloc(1, sizeof *t);
    struct dirent **files = NULL;
    struct stat st;
    char full[1000];
    int rc = 0, n = 0;

    t->a = arena_new(65536);
    if (stat(path, &st) != 0) {
        rc = err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    } else if (!S_ISDIR(st.st_mode)) {
        t->files = ARENA_ARRAY(t->a, struct spec_file, 1);
        rc = add_file(t, path, e);
    } else {
        n = scandir(path, &files, is_spec, alphasort);
        t->files = ARENA_ARRAY(t->a, struct spec_file, (size_t)(n > 0 ? n : 0) + 1);
        if (n < 0)
            rc = err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        snprintf(full, sizeof full, "%s/%s", path, files[i]->d_name);
        free(files[i]);
        if (rc == 0)
            rc = add_file(t, full, e);
    }
    free(files);
    if (rc != 0)
        script_tests_free(&t);
    return t;
}

void script_tests_free(struct script_tests **t)
{
    if (*t != NULL)
        arena_free(&(*t)->a);
    free(*t);
    *t = NULL;
}

int script_tests_run(struct script_tests *t, void (*print)(void *ctx, struct str out), void *ctx,
                     struct script_test_result *r, struct err *e)
{
    struct spec s = {.r = r, .print = print, .ctx = ctx};
    int rc = 0;

    *r = (struct script_test_result){0, 0};
    for (unsigned i = 0; rc == 0 && i < t->count; i++)
        rc = run_file(&t->files[i], &s, e);
    return rc;
}

int script_test(const char *path, void (*print)(void *ctx, struct str out), void *ctx,
                struct script_test_result *r, struct err *e)
{
    struct script_tests *t = script_tests_read(path, e);
    int rc = -1;

    *r = (struct script_test_result){0, 0};
    if (t != NULL)
        rc = script_tests_run(t, print, ctx, r, e);
    script_tests_free(&t);
    return rc;
}

/* --- the site's own tests
 * ------------------------------------------------------------------------------------- */
static bool is_test(const struct chunk *c)
{
    return str_starts(str_of(c->name), STR("tests/"));
}

/* Does the text name the script, quoted, as host.env() and require() do? */
static bool names(const struct chunk *c, const char *name)
{
    struct str source = str_make(c->source, c->source_len), want = str_of(name);

    for (size_t i = 1; i + want.n < source.n; i++) {
        char q = source.p[i - 1];
        if ((q == '"' || q == '\'') && source.p[i + want.n] == q &&
            str_eqi(str_make(source.p + i, want.n), want))
            return true;
        if ((i & 0xffff) == 0 && task_self() != NULL)
            task_yield();
    }
    return false;
}

/* Marks in `in` what depends on `name`, over any number of steps.  Returns how many tests that are.
 */
static unsigned dependants(struct chunk *const *v, bool *in, size_t n, const char *name)
{
    unsigned tests = 0;
    bool more = true;

    for (size_t i = 0; i < n; i++)
        in[i] = strcmp(v[i]->name, name) == 0;
    while (more) {
        more = false;
        for (size_t i = 0; i < n; i++) {
            for (size_t k = 0; k <= n && !in[i]; k++)
                if (k == n ? names(v[i], name) : in[k] && names(v[i], v[k]->name))
                    in[i] = more = true;
        }
    }
    for (size_t i = 0; i < n; i++)
        tests += in[i] && is_test(v[i]);
    return tests;
}

static void run_site_test(struct chunk *c, struct spec *s)
{
    struct hook_env *env = env_make_chunk(s->release, c, SCRIPT_RUN_MEMORY);

    run_tests(s, c->where, &env);
}

int script_try(struct str given, struct str text, void (*print)(void *ctx, struct str out),
               void *ctx, struct script_test_result *r, struct err *e)
{
    struct spec s = {.r = r, .print = print, .ctx = ctx};
    char name[112];
    size_t it = 0, n = 0;

    *r = (struct script_test_result){0, 0};
    if (!chunk_name(given, name, sizeof name))
        return err_set(e, ERR_SYNTAX, "'%.*s' is no name for a script", STR_ARG(given));
    s.release = release_current() ? release_copy(release_current()) : release_new(0);
    struct chunk *old = release_remove(s.release, str_of(name));
    chunk_free(&old);
    if (text.p != NULL)
        release_add(s.release, chunk_new(str_of(name), text, false));
    while (release_next(s.release, &it) != NULL)
        n++;
    struct chunk **v = xcalloc(n + 1, sizeof *v);
    bool *in = xcalloc(n + 1, sizeof *in);
    it = 0;
    for (size_t i = 0; i < n; i++)
        v[i] = release_next(s.release, &it);
    if (dependants(v, in, n, name) > 0)
        for (size_t i = 0; i < n; i++)
            if (in[i] && is_test(v[i]))
                run_site_test(v[i], &s);
    free(v);
    free(in);
    release_unref(&s.release);
    return 0;
}
