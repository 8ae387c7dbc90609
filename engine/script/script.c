/* The script layer's front door: start and end, and what administrators do with scripts. */
#include "script/script.h"

#include "core/log.h"
#include "core/shm.h"
#include "script/host_int.h"
#include "script/release.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static api_open_fn *const apis[] = {
    api_mail_open,    api_crypto_open, api_json_open, api_cache_open, api_regex_open,
    api_message_open, api_store_open,  api_send_open, NULL,
};

int script_open(const char *share_dir, bool safe, struct err *e)
{
    struct err away = ERR_INIT;

    if (host_open(share_dir, apis, e) != 0)
        return -1;
    release_open(safe);
    if (release_load(&away) != 0)
        log_warn("script", "the active release cannot be read yet: %s", away.text);
    else if (!safe && release_ship(&away) != 0)
        log_warn("script", "the release of this version cannot be made yet: %s", away.text);
    hook_register(&host_provider);
    budget_follow_settings(true);
    io_sweep();
    return 0;
}

void script_close(void)
{
    hook_register(NULL);
    budget_follow_settings(false);
    release_close();
    host_close();
}

/* --- checking
 * ------------------------------------------------------------------------------------------------
 */
static bool is_rules(const char *name)
{
    return str_endsi(str_of(name), STR(".txt"));
}

/* The script of hooks.def that a name stands for: itself, or what follows the user's name. */
static struct str hook_script(const char *name)
{
    struct str s = str_of(name);
    ptrdiff_t slash = str_rchr(s, '/');

    return slash < 0 ? s : str_from(s, (size_t)slash + 1);
}

/* A function that is named like a hook but for its case is never called: say so. */
static int check_function(struct str script, struct str function, const char *where, int line,
                          struct err *e)
{
    const char *meant = NULL;

    for (int id = 0; id < HOOK_COUNT; id++) {
        const struct hook_info *i = hook_info((enum hook_id)id);
        if (!str_eqz(script, i->script) || i->function[0] == '\0')
            continue;
        if (str_eqz(function, i->function))
            return 0;
        if (str_eqiz(function, i->function))
            meant = i->function;
    }
    if (meant == NULL)
        return 0;
    return err_set(e, ERR_SYNTAX, "%s:%d: the hook is called %s, not %.*s", where, line, meant,
                   STR_ARG(function));
}

/* Skips a long bracket at p ([[, [=[ ...); NULL when there is none. */
static const char *long_bracket(const char *p, int *line)
{
    size_t level = 0;

    if (*p != '[')
        return NULL;
    while (p[1 + level] == '=')
        level++;
    if (p[1 + level] != '[')
        return NULL;
    for (p += level + 2; *p != '\0'; p++) {
        *line += *p == '\n';
        if (*p != ']' || strspn(p + 1, "=") < level || p[1 + level] != ']')
            continue;
        return p + level + 2;
    }
    return p;
}

/* Walks over the tokens of a text that compiles and looks at `function NAME(` statements. */
static int check_names(const struct chunk *c, struct err *e)
{
    struct str script = hook_script(c->name);
    const char *p = c->source;
    bool local = false;
    int line = 1;

    while (*p != '\0') {
        const char *past;
        if (*p == '\n')
            line++;
        if (p[0] == '-' && p[1] == '-') {
            past = long_bracket(p + 2, &line);
            p = past ? past : p + strcspn(p, "\n");
        } else if ((past = long_bracket(p, &line)) != NULL) {
            p = past;
        } else if (*p == '"' || *p == '\'') {
            char quote = *p++;
            for (; *p != '\0' && *p != quote; p++) {
                if (*p == '\\' && p[1] != '\0')
                    p++;
                line += *p == '\n';
            }
            p += *p != '\0';
        } else if (isalpha((unsigned char)*p) || *p == '_') {
            const char *from = p;
            while (isalnum((unsigned char)*p) || *p == '_')
                p++;
            struct str word = str_make(from, (size_t)(p - from));
            if (str_eq(word, STR("function")) && !local) {
                while (*p == ' ' || *p == '\t')
                    p++;
                from = p;
                while (isalnum((unsigned char)*p) || *p == '_')
                    p++;
                word = str_make(from, (size_t)(p - from));
                if (word.n > 0 && *p != '.' && *p != ':' &&
                    check_function(script, word, c->where, line, e) != 0)
                    return -1;
            }
            local = str_eq(word, STR("local"));
        } else {
            p++;
        }
    }
    return 0;
}

static int normal_name(struct str given, char *name, size_t room, struct err *e)
{
    if (!chunk_name(given, name, room))
        return err_set(e, ERR_SYNTAX, "'%.*s' is no name for a script", STR_ARG(given));
    return 0;
}

int script_check(struct str given, struct str text, struct err *e)
{
    char name[112];

    if (normal_name(given, name, sizeof name, e) != 0)
        return -1;
    if (shipped_only(hook_script(name)))
        return err_set(e, ERR_DENIED, "%s is part of the server and cannot be replaced", name);
    if (text.n > SCRIPT_SOURCE_MAX)
        return err_set(e, ERR_LIMIT, "the text is longer than %u bytes", SCRIPT_SOURCE_MAX);
    if (is_rules(name))
        return 0; /* the rules compiler's matter */
    struct chunk *c = chunk_new(str_of(name), text, false);
    int rc = chunk_compile(c, e);
    if (rc == 0)
        rc = check_names(c, e);
    chunk_free(&c);
    return rc;
}

/* --- changing
 * -------------------------------------------------------------------------------------------------
 */
static int (*try_fn)(struct str, struct str, void (*)(void *, struct str), void *,
                     struct script_test_result *, struct err *) = script_try;

void script_on_try(int (*fn)(struct str, struct str, void (*)(void *, struct str), void *,
                             struct script_test_result *, struct err *))
{
    try_fn = fn ? fn : script_try;
}

static void first_failure(void *ctx, struct str line)
{
    char *first = ctx;

    if (first[0] == '\0' && str_starts(line, STR("FAIL")))
        snprintf(first, 300, "%.*s", (int)str_trim(line).n, line.p);
}

/* The tests of the site that depend on the script, with the change in place. */
static int try_change(const char *name, struct str text, struct err *e)
{
    struct script_test_result r = {0, 0};
    char first[300] = "";
    size_t it = 0;
    bool tests = str_starts(str_of(name), STR("tests/"));

    for (struct chunk *c; !tests && (c = release_next(release_current(), &it)) != NULL;)
        tests = str_starts(str_of(c->name), STR("tests/"));
    if (!tests)
        return 0;
    if (try_fn(str_of(name), text, first_failure, first, &r, e) != 0)
        return -1;
    if (r.failed > 0)
        return err_set(e, ERR_DENIED, "%u of the site's tests failed, nothing was changed: %s",
                       r.failed, first);
    return 0;
}

int script_put(struct str given, struct str text, struct str who, struct str note,
               uint64_t *release_r, struct err *e)
{
    char name[112];

    if (text.p == NULL)
        text = STR("");
    if (script_check(given, text, e) != 0 || normal_name(given, name, sizeof name, e) != 0 ||
        try_change(name, text, e) != 0)
        return -1;
    if (release_put(str_of(name), text, who, note, release_r, e) != 0)
        return -1;
    shm_forgive(name);
    return 0;
}

int script_remove(struct str given, struct str who, struct str note, uint64_t *release_r,
                  struct err *e)
{
    char name[112];

    if (normal_name(given, name, sizeof name, e) != 0)
        return -1;
    if (release_find(release_current(), str_of(name)) != NULL && try_change(name, STR_NONE, e) != 0)
        return -1;
    return release_drop(str_of(name), who, note, release_r, e);
}

int script_rollback(uint64_t release, struct str who, uint64_t *release_r, struct err *e)
{
    return release_rollback(release, who, release_r, e);
}

/* --- asking
 * -----------------------------------------------------------------------------------------------------
 */
int script_get(struct str given, struct arena *a, struct str *text_r, bool *shipped_r,
               struct err *e)
{
    char name[112];
    struct err own = ERR_INIT;

    if (normal_name(given, name, sizeof name, e) != 0)
        return -1;
    *shipped_r = false;
    if (release_text(str_of(name), a, text_r, &own) == 0)
        return 0;
    const struct chunk *c = own.cls == ERR_NOTFOUND ? shipped_find(str_of(name)) : NULL;
    if (c == NULL) {
        if (e != NULL)
            *e = own;
        return -1;
    }
    *shipped_r = true;
    *text_r = arena_dup(a, str_make(c->source, c->source_len));
    return 0;
}

static int by_name(const void *x, const void *y)
{
    return str_cmp(((const struct script_info *)x)->name, ((const struct script_info *)y)->name);
}

int script_list(struct arena *a, struct script_info **v_r, uint32_t *n_r, struct err *e)
{
    struct script_info *site;
    uint32_t n, total;

    if (release_files(a, &site, &n, e) != 0)
        return -1;
    struct script_info *v = ARENA_ARRAY(a, struct script_info, n + shipped_count() + 1);
    for (total = 0; total < n; total++) {
        v[total] = site[total];
        v[total].shipped = shipped_find(site[total].name) != NULL;
    }
    size_t it = 0;
    for (struct chunk *c; (c = shipped_next(&it)) != NULL;) {
        bool known = false;
        for (uint32_t i = 0; i < n; i++)
            known |= str_eqz(v[i].name, c->name);
        if (!known)
            v[total++] = (struct script_info){.name = arena_dup(a, str_of(c->name)),
                                              .hash = arena_dup(a, str_of(c->hash)),
                                              .shipped = true,
                                              .size = c->source_len};
    }
    qsort(v, total, sizeof *v, by_name);
    *v_r = v;
    *n_r = total;
    return 0;
}

int script_history(struct arena *a, struct script_release **v_r, uint32_t *n_r, struct err *e)
{
    return release_history(a, v_r, n_r, e);
}

/* --- management runs
 * -----------------------------------------------------------------------------------------------
 */
int script_run(struct str name, struct str text, void (*print)(void *ctx, struct str out),
               void *ctx, struct err *e)
{
    struct arena *a = arena_new(65536);
    bool shipped;
    int rc = -1;

    if (text.p != NULL || script_get(name, a, &text, &shipped, e) == 0) {
        struct hook_env *env =
            env_make_text(name.n ? name : STR("run"), text, SCRIPT_RUN_MEMORY, e);
        if (env != NULL) {
            rc = host_run(env, "run", print, ctx, e);
            env_drop(&env);
        }
    }
    arena_free(&a);
    return rc;
}
