/* Scripts as text and bytecode, and the releases that hold them in memory.
 *
 * Bytecode is made here from text that passed the compiler and never comes from anywhere else:
 * foreign bytecode could crash the machine.  A release does not change once it is in use;
 * environments hold a reference to the one they began with. */
#include "core/log.h"
#include "core/map.h"
#include "core/task.h"
#include "script/host_int.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

struct release {
    uint64_t id, number; /* number: the how manieth that came into use */
    unsigned refs;
    struct map *chunks;
};

static struct map *shipped, *stdlib;
static struct release *current;
void (*release_poll)(void);

bool chunk_name(struct str given, char *to, size_t room)
{
    bool slash = true; /* a part may not begin with a dot */

    if (str_endsi(given, STR(".lua")))
        given.n -= 4;
    if (given.n == 0 || given.n >= room || given.n > 100)
        return false;
    for (size_t i = 0; i < given.n; i++) {
        char c = ascii_lower(given.p[i]);
        bool word = (c >= 'a' && c <= 'z') || ascii_digit(c) || c == '_' || c == '-';
        if (!word && (slash || (c != '.' && c != '/')))
            return false;
        slash = c == '/' || c == '.';
        to[i] = c;
    }
    to[given.n] = '\0';
    return !slash;
}

struct chunk *chunk_new(struct str name, struct str source, bool is_shipped)
{
    struct chunk *c = xcalloc(1, sizeof *c);
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    snprintf(c->name, sizeof c->name, "%.*s", STR_ARG(name));
    snprintf(c->where, sizeof c->where, "%s%s%s", is_shipped ? "lua/" : "", c->name,
             str_endsi(name, STR(".txt")) ? "" : ".lua");
    c->shipped = is_shipped;
    c->source = xmalloc(source.n + 1);
    if (source.n > 0)
        memcpy(c->source, source.p, source.n);
    c->source[source.n] = '\0';
    c->source_len = source.n;
    if (EVP_Digest(source.n ? source.p : "", source.n, digest, &n, EVP_sha256(), NULL) == 1)
        for (int i = 0; i < 4; i++)
            snprintf(c->hash + i * 2, 3, "%02x", digest[i]);
    return c;
}

void chunk_free(struct chunk **c)
{
    if (*c == NULL)
        return;
    free((*c)->source);
    free((*c)->code);
    free(*c);
    *c = NULL;
}

struct compiling {
    struct chunk *c;
    char text[200];
    bool ok;
};

static int dump_some(lua_State *L, const void *p, size_t n, void *ud)
{
    struct chunk *c = ud;

    (void)L;
    c->code = xrealloc(c->code, c->code_len + n);
    memcpy(c->code + c->code_len, p, n);
    c->code_len += n;
    return 0;
}

static int compile(lua_State *L)
{
    struct compiling *k = lua_touserdata(L, 1);
    char name[140];

    snprintf(name, sizeof name, "@%s", k->c->where);
    if (luaL_loadbufferx(L, k->c->source, k->c->source_len, name, "t") != LUA_OK) {
        snprintf(k->text, sizeof k->text, "%s", luaL_tolstring(L, -1, NULL));
        return 0;
    }
    lua_dump(L, dump_some, k->c, 0);
    k->ok = true;
    return 0;
}

int chunk_compile(struct chunk *c, struct err *e)
{
    struct compiling k = {.c = c};

    if (c->code != NULL)
        return 0;
    if (task_stack_left() < SCRIPT_STACK_PARSE)
        return err_set(e, ERR_LIMIT, "%s: needed at too deep a place", c->where);
    struct purse *payer = memory_switch(NULL);
    int rc = host_protected(compile, &k);
    memory_switch(payer);
    if (rc == 0 && k.ok)
        return 0;
    return err_set(e, ERR_SYNTAX, "%s", k.text[0] ? k.text : "out of memory");
}

void chunk_push(lua_State *L, struct chunk *c, int env)
{
    struct err e = ERR_INIT;
    char name[140];

    env = lua_absindex(L, env);
    if (chunk_compile(c, &e) != 0)
        luaL_error(L, "%s", e.text);
    snprintf(name, sizeof name, "@%s", c->where);
    if (luaL_loadbufferx(L, c->code, c->code_len, name, "b") != LUA_OK)
        lua_error(L);
    lua_pushvalue(L, env);
    if (lua_setupvalue(L, -2, 1) == NULL)
        lua_pop(L, 1);
}

/* --- releases
 * ------------------------------------------------------------------------------------------- */
struct release *release_new(uint64_t id)
{
    struct release *r = xcalloc(1, sizeof *r);

    r->id = id;
    r->refs = 1;
    r->chunks = map_new(false);
    return r;
}

uint64_t release_id(const struct release *r)
{
    return r->id;
}

void release_add(struct release *r, struct chunk *c)
{
    struct chunk *old = map_set(r->chunks, str_of(c->name), c);

    chunk_free(&old);
}

struct chunk *release_find(const struct release *r, struct str name)
{
    return r ? map_find(r->chunks, name) : NULL;
}

struct release *release_copy(const struct release *r)
{
    struct release *copy = release_new(0);
    size_t it = 0;

    for (struct chunk *c; (c = release_next(r, &it)) != NULL;)
        release_add(copy, chunk_new(str_of(c->name), str_make(c->source, c->source_len), false));
    return copy;
}

struct chunk *release_remove(struct release *r, struct str name)
{
    return map_remove(r->chunks, name);
}

struct chunk *release_next(const struct release *r, size_t *it)
{
    struct str key;
    void *value;

    return r && map_next(r->chunks, it, &key, &value) ? value : NULL;
}

unsigned release_behind(const struct release *r)
{
    return current == NULL || r == NULL || current == r ? 0
                                                        : (unsigned)(current->number - r->number);
}

struct release *release_ref(struct release *r)
{
    if (r != NULL)
        r->refs++;
    return r;
}

static void free_chunks(struct map **m)
{
    size_t it = 0;
    struct str key;
    void *value;

    if (*m == NULL)
        return;
    while (map_next(*m, &it, &key, &value)) {
        struct chunk *c = value;
        chunk_free(&c);
    }
    map_free(m);
}

void release_unref(struct release **r)
{
    if (*r != NULL && --(*r)->refs == 0) {
        free_chunks(&(*r)->chunks);
        free(*r);
    }
    *r = NULL;
}

void release_use(struct release *r)
{
    static uint64_t used;
    struct release *old = current;

    if (r != NULL)
        r->number = ++used;
    current = r;
    release_unref(&old);
}

struct release *release_current(void)
{
    return current;
}

/* --- shipped files
 * ---------------------------------------------------------------------------------------- */
static int load_file(struct map *into, const char *path, struct str name, struct err *e)
{
    FILE *f = fopen(path, "r");
    char *text = NULL;
    size_t n = 0, room = 0;

    if (f == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    for (;;) {
        if (n == room) {
            room = room ? room * 2 : 16384;
            text = xrealloc(text, room);
        }
        size_t got = fread(text + n, 1, room - n, f);
        if (got == 0)
            break;
        n += got;
    }
    fclose(f);
    struct chunk *c = chunk_new(name, str_make(text, n), true);
    free(text);
    struct chunk *old = map_set(into, name, c);
    chunk_free(&old);
    return chunk_compile(c, e);
}

static int load_folder(struct map *into, const char *share, const char *folder, struct err *e)
{
    char path[1000], name[112];
    int rc = 0;

    snprintf(path, sizeof path, "%s/%s", share, folder);
    DIR *d = opendir(path);
    if (d == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", path, strerror(errno));
    for (struct dirent *f; rc == 0 && (f = readdir(d)) != NULL;) {
        struct str file = str_of(f->d_name);
        if (!str_ends(file, STR(".lua")) || !chunk_name(file, name, sizeof name))
            continue;
        snprintf(path, sizeof path, "%s/%s/%s", share, folder, f->d_name);
        rc = load_file(into, path, str_of(name), e);
    }
    closedir(d);
    return rc;
}

int shipped_load(const char *share_dir, struct err *e)
{
    shipped = map_new(false);
    stdlib = map_new(false);
    if (load_folder(shipped, share_dir, "lua", e) != 0)
        return -1;
    return load_folder(stdlib, share_dir, "stdlib", e);
}

void shipped_free(void)
{
    free_chunks(&shipped);
    free_chunks(&stdlib);
}

struct chunk *shipped_find(struct str name)
{
    return shipped ? map_find(shipped, name) : NULL;
}

struct chunk *stdlib_find(struct str name)
{
    return stdlib ? map_find(stdlib, name) : NULL;
}

bool shipped_only(struct str name)
{
    static const char *const names[] = {"guard"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eqiz(name, names[i]))
            return true;
    return false;
}

uint32_t shipped_count(void)
{
    return shipped ? (uint32_t)map_count(shipped) : 0;
}

struct chunk *shipped_next(size_t *it)
{
    struct str key;
    void *value;

    return shipped && map_next(shipped, it, &key, &value) ? value : NULL;
}

struct chunk *stdlib_next(size_t *it)
{
    struct str key;
    void *value;

    return stdlib && map_next(stdlib, it, &key, &value) ? value : NULL;
}
