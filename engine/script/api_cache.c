/* mail.cache: values shared by all environments of a process, by copy.
 *
 * The one way in which sessions may know of each other.  Values are copied in and out, so no table
 * is ever shared.  Bounded in entries and bytes: the least recently used go first. */
#include "core/loop.h"
#include "core/map.h"
#include "script/host_int.h"

#include <stdlib.h>

struct entry {
    struct entry *newer, *older;
    struct arena *arena; /* key and value */
    struct str key;
    struct hval value;
    uint64_t until_ms;
    size_t size;
};

static struct map *entries;
static struct entry *newest, *oldest;
static size_t bytes;

static void unlink_entry(struct entry *x)
{
    *(x->newer ? &x->newer->older : &newest) = x->older;
    *(x->older ? &x->older->newer : &oldest) = x->newer;
}

static void link_newest(struct entry *x)
{
    x->newer = NULL;
    x->older = newest;
    *(newest ? &newest->newer : &oldest) = x;
    newest = x;
}

static void forget(struct entry *x)
{
    map_remove(entries, x->key);
    unlink_entry(x);
    bytes -= x->size;
    arena_free(&x->arena);
    free(x);
}

static struct entry *lookup(struct str key)
{
    struct entry *x = entries ? map_find(entries, key) : NULL;

    if (x != NULL && x->until_ms <= loop_ns() / 1000000u) {
        forget(x);
        return NULL;
    }
    return x;
}

void cache_free(void)
{
    while (oldest != NULL)
        forget(oldest);
    if (entries != NULL)
        map_free(&entries);
}

static uint64_t time_to_live(lua_State *L, int arg)
{
    lua_Number ttl = luaL_optnumber(L, arg, 300);

    luaL_argcheck(L, ttl > 0 && ttl <= 86400 * 7, arg, "seconds, at most a week");
    return loop_ns() / 1000000u + (uint64_t)(ttl * 1000);
}

static struct str key_of(lua_State *L)
{
    struct str key;

    key.p = luaL_checklstring(L, 1, &key.n);
    luaL_argcheck(L, key.n > 0 && key.n <= 500, 1, "key of 1 to 500 bytes expected");
    return key;
}

static void store(struct str key, struct arena *a, struct hval v, uint64_t until)
{
    struct entry *x = lookup(key);

    if (x != NULL)
        forget(x);
    if (entries == NULL)
        entries = map_new(false);
    x = xcalloc(1, sizeof *x);
    x->arena = a;
    x->key = arena_dup(a, key);
    x->value = v;
    x->until_ms = until;
    x->size = arena_used(a) + 200;
    bytes += x->size;
    map_set(entries, x->key, x);
    link_newest(x);
    while (oldest != x && (map_count(entries) > SCRIPT_CACHE_ENTRIES || bytes > SCRIPT_CACHE_BYTES))
        forget(oldest);
}

/* mail.cache.get(key) -> value, or nil when there is none or it has expired.
 * @since 1.0 */
static int api_get(lua_State *L)
{
    struct entry *x = lookup(key_of(L));

    if (x == NULL) {
        lua_pushnil(L);
        return 1;
    }
    unlink_entry(x);
    link_newest(x);
    value_push(L, &x->value);
    return 1;
}

/* mail.cache.set(key, value [, seconds]) keeps a copy of value (text, number, boolean, or table of
 * such) for all sessions of this process, 300 seconds unless said otherwise; nil removes it.  It
 * may be gone earlier when memory is short.
 * @since 1.0 */
static int api_set(lua_State *L)
{
    struct str key = key_of(L);
    uint64_t until = time_to_live(L, 3);
    struct hval v;

    lua_settop(L, 3);
    if (lua_isnil(L, 2)) {
        struct entry *x = lookup(key);
        if (x != NULL)
            forget(x);
        return 0;
    }
    struct arena *a = scratch_push(L, 128);
    value_read(L, 2, a, &v);
    if (arena_used(a) > SCRIPT_CACHE_VALUE)
        return luaL_error(L, "value is too large for the cache");
    store(key, scratch_take(L, -1), v, until);
    return 0;
}

/* mail.cache.add(key, n [, seconds]) -> the new sum.  Counts: adds n to the number under key, which
 * begins at 0 and then lives for that many seconds (300).
 * @since 1.0 */
static int api_add(lua_State *L)
{
    struct str key = key_of(L);
    lua_Integer n = luaL_checkinteger(L, 2);
    uint64_t until = time_to_live(L, 3);
    struct entry *x = lookup(key);

    if (x != NULL && x->value.type == HV_INT) {
        x->value.i = (int64_t)((uint64_t)x->value.i + (uint64_t)n);
        lua_pushinteger(L, x->value.i);
        return 1;
    }
    store(key, arena_new(64), hv_int(n), until);
    lua_pushinteger(L, n);
    return 1;
}

void api_cache_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"get", api_get}, {"set", api_set}, {"add", api_add}, {NULL, NULL}};

    luaL_newlib(L, functions);
    lua_setfield(L, -2, "cache");
}
