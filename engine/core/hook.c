#include "core/hook.h"

static const struct hook_provider *provider;

static const struct hook_info infos[HOOK_COUNT] = {
#define HOOK(id, script, function, life, args, results, may_await, fail, since, doc)               \
    [HOOK_##id] = {#id, script, function, life, args, results, may_await, fail, since, doc},
#include "core/hooks.def"
#undef HOOK
};

const struct hook_info *hook_info(enum hook_id id)
{
    return &infos[id];
}

void hook_register(const struct hook_provider *p)
{
    provider = p;
}

struct hook_env *hook_env_new(const char *script, struct str user)
{
    return provider ? provider->env_new(script, user) : NULL;
}

void hook_env_free(struct hook_env **env)
{
    if (provider && *env)
        provider->env_free(*env);
    *env = NULL;
}

void hook_env_set(struct hook_env *env, const char *name, struct hval v)
{
    if (provider && env)
        provider->env_set(env, name, &v);
}

bool hook_env_get(struct hook_env *env, const char *name, struct arena *a, struct hval *v_r)
{
    return provider && env && provider->env_get(env, name, a, v_r);
}

bool hook_present(struct hook_env *env, enum hook_id id)
{
    return provider && env && provider->present(env, id);
}

bool hook_env_stale(struct hook_env *env)
{
    return provider && env && provider->stale && provider->stale(env);
}

enum hook_outcome hook_call(struct hook_call *c, struct err *e)
{
    c->nresults = 0;
    return provider && c->env ? provider->call(c, e) : HOOK_DEFAULT;
}

struct hval hv_list(void)
{
    return (struct hval){.type = HV_LIST};
}

struct hval hv_map(void)
{
    return (struct hval){.type = HV_MAP};
}

static void grow(struct arena *a, struct hval *v, uint32_t values)
{
    uint32_t room = v->v.room ? v->v.room * 2 : 8;
    struct hval *items = arena_alloc(a, room * sizeof *items);

    if (values)
        memcpy(items, v->v.items, values * sizeof *items);
    v->v.items = items;
    v->v.room = room;
}

void hv_push(struct arena *a, struct hval *list, struct hval v)
{
    if (list->v.count == list->v.room)
        grow(a, list, list->v.count);
    list->v.items[list->v.count++] = v;
}

void hv_put(struct arena *a, struct hval *map, const char *key, struct hval v)
{
    if (map->v.count * 2 == map->v.room)
        grow(a, map, map->v.count * 2);
    map->v.items[map->v.count * 2] = hv_str(str_of(key));
    map->v.items[map->v.count * 2 + 1] = v;
    map->v.count++;
}

const struct hval *hv_get(const struct hval *map, const char *key)
{
    if (map == NULL || map->type != HV_MAP)
        return NULL;
    for (uint32_t i = 0; i < map->v.count; i++)
        if (str_eqz(map->v.items[i * 2].s, key))
            return &map->v.items[i * 2 + 1];
    return NULL;
}

struct str hv_as_str(const struct hval *v, struct str fallback)
{
    return v && (v->type == HV_STR || v->type == HV_BYTES) ? v->s : fallback;
}

int64_t hv_as_int(const struct hval *v, int64_t fallback)
{
    uint64_t u;

    if (v == NULL)
        return fallback;
    if (v->type == HV_INT)
        return v->i;
    if (v->type == HV_NUM && v->n >= -9e15 && v->n <= 9e15)
        return (int64_t)v->n;
    if (v->type == HV_STR && str_u64(v->s, &u) && u <= INT64_MAX)
        return (int64_t)u;
    return fallback;
}

bool hv_as_bool(const struct hval *v, bool fallback)
{
    if (v == NULL)
        return fallback;
    if (v->type == HV_BOOL)
        return v->b;
    if (v->type == HV_INT)
        return v->i != 0;
    return fallback;
}

struct str hv_get_str(const struct hval *map, const char *key, struct str fallback)
{
    return hv_as_str(hv_get(map, key), fallback);
}

int64_t hv_get_int(const struct hval *map, const char *key, int64_t fallback)
{
    return hv_as_int(hv_get(map, key), fallback);
}

bool hv_get_bool(const struct hval *map, const char *key, bool fallback)
{
    return hv_as_bool(hv_get(map, key), fallback);
}
