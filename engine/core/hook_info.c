/* What the tables hooks.def and globals.def say, beyond the rows themselves, and the compact steps
 * of the decision ledger.
 *
 * Invariant: the text of the steps is valid JSON at any time, whatever a script gave as reason. */
#include "core/hook.h"
#include "core/limits.h"

#include <stdio.h>

static const struct hook_global globals[] = {
#define HOOK_GLOBAL(script, name, type, direction, since, doc)                                     \
    {script, name, type, direction, since, doc},
#include "core/globals.def"
#undef HOOK_GLOBAL
};

const struct hook_global *hook_globals(unsigned *n_r)
{
    *n_r = sizeof globals / sizeof *globals;
    return globals;
}

bool hook_field(const char **rest, struct str *name_r, struct str *type_r, bool *optional_r)
{
    const char *p = *rest;

    while (*p == ' ' || *p == ',')
        p++;
    if (*p == '\0')
        return false;
    const char *colon = strchr(p, ':');
    if (colon == NULL)
        return false;
    const char *end = colon + 1;
    while (*end != '\0' && *end != ',' && *end != '?')
        end++;
    *name_r = str_make(p, (size_t)(colon - p));
    *type_r = str_make(colon + 1, (size_t)(end - colon - 1));
    *optional_r = *end == '?';
    *rest = *end == '?' ? end + 1 : end;
    return true;
}

struct hook_steps {
    struct arena *arena;
    char *text;
    size_t len;
    bool cut;
};

struct hook_steps *hook_steps_new(struct arena *a)
{
    struct hook_steps *s = ARENA_NEW(a, struct hook_steps);

    s->arena = a;
    return s;
}

/* Bytes that a JSON string cannot hold become spaces: reasons are for people. */
static size_t put_quoted(char *to, struct str s, size_t most)
{
    size_t n = 0;

    to[n++] = '"';
    for (size_t i = 0; i < s.n && i < most; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '"' || c == '\\')
            to[n++] = '\\';
        to[n++] = c < 32 || c > 126 ? ' ' : (char)c;
    }
    to[n++] = '"';
    return n;
}

void hook_steps_add(struct hook_steps *s, const char *hook, struct str script, const char *outcome,
                    struct str reason, uint64_t us)
{
    char entry[1200];
    size_t n = 0;

    if (s == NULL || s->cut)
        return;
    if (s->text == NULL) {
        s->text = arena_alloc(s->arena, HOOK_STEPS_MAX + 16);
        s->text[s->len++] = '[';
    }
    if (s->len > 1)
        entry[n++] = ',';
    entry[n++] = '[';
    n += put_quoted(entry + n, str_of(hook), 60);
    entry[n++] = ',';
    n += put_quoted(entry + n, script, 120);
    entry[n++] = ',';
    n += put_quoted(entry + n, str_of(outcome), 20);
    entry[n++] = ',';
    n += put_quoted(entry + n, reason, 200);
    n += (size_t)snprintf(entry + n, sizeof entry - n, ",%llu]", (unsigned long long)us);
    if (s->len + n > HOOK_STEPS_MAX) {
        s->cut = true;
        const char *mark = s->len > 1 ? ",\"cut\"" : "\"cut\"";
        memcpy(s->text + s->len, mark, strlen(mark));
        s->len += strlen(mark);
        return;
    }
    memcpy(s->text + s->len, entry, n);
    s->len += n;
}

struct str hook_steps_text(const struct hook_steps *s)
{
    if (s == NULL || s->text == NULL)
        return STR("[]");
    /* Closing the array here leaves room for further steps. */
    s->text[s->len] = ']';
    return str_make(s->text, s->len + 1);
}
