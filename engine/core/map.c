#include "core/map.h"

#include "core/arena.h"

#include <stdlib.h>

struct slot {
    char *key;
    size_t n;
    uint64_t hash;
    void *value; /* NULL with key set: removed */
};

struct map {
    struct slot *slots;
    size_t size, count, used; /* used counts removed ones too */
    bool fold;
};

struct map *map_new(bool fold_case)
{
    struct map *m = xcalloc(1, sizeof *m);
    m->fold = fold_case;
    m->size = 16;
    m->slots = xcalloc(m->size, sizeof *m->slots);
    return m;
}

void map_free(struct map **mp)
{
    struct map *m = *mp;

    *mp = NULL;
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->size; i++)
        free(m->slots[i].key);
    free(m->slots);
    free(m);
}

size_t map_count(const struct map *m)
{
    return m->count;
}

static uint64_t hash_of(const struct map *m, struct str key)
{
    return m->fold ? str_hashi(key) : str_hash(key);
}

static struct slot *probe(const struct map *m, struct str key, uint64_t h)
{
    size_t i = h & (m->size - 1);

    for (;; i = (i + 1) & (m->size - 1)) {
        struct slot *s = &m->slots[i];
        if (s->key == NULL)
            return s;
        struct str k = {s->key, s->n};
        if (s->hash == h && (m->fold ? str_eqi(k, key) : str_eq(k, key)))
            return s;
    }
}

void *map_find(const struct map *m, struct str key)
{
    return probe(m, key, hash_of(m, key))->value;
}

static void rebuild(struct map *m, size_t size)
{
    struct slot *old = m->slots;
    size_t n = m->size;

    m->slots = xcalloc(size, sizeof *m->slots);
    m->size = size;
    m->used = m->count;
    for (size_t i = 0; i < n; i++) {
        if (old[i].value != NULL)
            *probe(m, (struct str){old[i].key, old[i].n}, old[i].hash) = old[i];
        else
            free(old[i].key);
    }
    free(old);
}

void *map_set(struct map *m, struct str key, void *value)
{
    uint64_t h = hash_of(m, key);

    if ((m->used + 1) * 4 > m->size * 3)
        rebuild(m, m->count * 2 >= m->size ? m->size * 2 : m->size);
    struct slot *s = probe(m, key, h);
    void *before = s->value;
    if (s->key == NULL) {
        s->key = xmalloc(key.n + 1);
        if (key.n)
            memcpy(s->key, key.p, key.n);
        s->key[key.n] = '\0';
        s->n = key.n;
        s->hash = h;
        m->used++;
    }
    if (before == NULL)
        m->count++;
    s->value = value;
    return before;
}

void *map_remove(struct map *m, struct str key)
{
    struct slot *s = probe(m, key, hash_of(m, key));
    void *before = s->value;

    if (before != NULL) {
        s->value = NULL;
        m->count--;
    }
    return before;
}

bool map_next(const struct map *m, size_t *it, struct str *key_r, void **value_r)
{
    while (*it < m->size) {
        struct slot *s = &m->slots[(*it)++];
        if (s->value == NULL)
            continue;
        if (key_r)
            *key_r = (struct str){s->key, s->n};
        if (value_r)
            *value_r = s->value;
        return true;
    }
    return false;
}
