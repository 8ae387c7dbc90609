/* Hash map from byte strings to pointers; keys compare without ASCII case when made so.
 * Keys are copied.  Open addressing, keyed hash. */
#pragma once

#include "core/str.h"

#include <stdbool.h>
#include <stddef.h>

struct map;

struct map *map_new(bool fold_case);
/* Values are not freed.  Sets the pointer to NULL. */
void map_free(struct map **m);
size_t map_count(const struct map *m);
/* NULL when absent. */
void *map_find(const struct map *m, struct str key);
/* Returns the value that stood there before, or NULL.  `value` must not be NULL. */
void *map_set(struct map *m, struct str key, void *value);
/* Returns the removed value, or NULL. */
void *map_remove(struct map *m, struct str key);
/* Iteration in no particular order: start with *it = 0; false at the end.  No changes meanwhile. */
bool map_next(const struct map *m, size_t *it, struct str *key_r, void **value_r);
