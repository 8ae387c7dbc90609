#include "store/setting.h"

#include "core/log.h"
#include "core/loop.h"
#include "core/map.h"
#include "core/shm.h"
#include "core/task.h"
#include "store/bus.h"
#include "store/db.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>

enum { RETRY_MS = 1000 };

struct entry {
    struct str text;
    int64_t number;
    bool flag;
    char type; /* i, b, t */
};

struct table {
    struct arena *a;
    struct map *entries;
};

static struct table now, before; /* before: strings handed out this turn may still point there */
static uint64_t loaded_generation;
static bool refreshing;
static uint64_t retry_at; /* ms: a refresh that failed is not tried again before */

static bool parse_bool(struct str s, bool *v_r)
{
    static const char *const yes[] = {"true", "t", "on", "yes", "1"};
    static const char *const no[] = {"false", "f", "off", "no", "0"};

    for (size_t i = 0; i < 5; i++) {
        if (str_eqiz(s, yes[i]))
            return *v_r = true;
        if (str_eqiz(s, no[i])) {
            *v_r = false;
            return true;
        }
    }
    return false;
}

static bool parse_int(struct str s, int64_t *v_r)
{
    uint64_t u;
    bool minus = s.n > 0 && s.p[0] == '-';

    if (!str_u64(minus ? str_from(s, 1) : s, &u) || u > INT64_MAX)
        return false;
    *v_r = minus ? -(int64_t)u : (int64_t)u;
    return true;
}

static void table_free(struct table *t)
{
    map_free(&t->entries);
    arena_free(&t->a);
}

int setting_load(struct err *e)
{
    uint64_t generation = shm_generation(GEN_SETTING);
    struct table next = {.a = arena_new(32768)};
    const struct rows *r;

    if (db_exec(next.a, &r, e, "select name, type, coalesce(value, fallback) from setting", 0,
                NULL) != 0) {
        arena_free(&next.a);
        return -1;
    }
    next.entries = map_new(false);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        struct entry *n = ARENA_NEW(next.a, struct entry);
        n->text = rows_str(r, i, 2);
        n->type = rows_str(r, i, 1).p[0];
        if (n->type == 'i')
            parse_int(n->text, &n->number);
        else if (n->type == 'b')
            parse_bool(n->text, &n->flag);
        map_set(next.entries, rows_str(r, i, 0), n);
    }
    table_free(&before);
    before = now;
    now = next;
    loaded_generation = generation;
    return 0;
}

bool setting_stale(void)
{
    return now.entries == NULL || shm_generation(GEN_SETTING) != loaded_generation;
}

static void refresh(void *arg)
{
    struct err e = ERR_INIT;

    (void)arg;
    if (setting_load(&e) != 0) {
        log_warn("store", "settings were not refreshed: %s", e.text);
        retry_at = loop_ms() + RETRY_MS;
    }
    refreshing = false;
}

static const struct entry *find(const char *name, char type)
{
    if (now.entries != NULL && !refreshing && setting_stale() && loop_ms() >= retry_at) {
        refreshing = true;
        /* Deferred when called from a task, so nothing moves under the caller. */
        task_spawn(refresh, NULL);
    }
    assert(now.entries != NULL);
    const struct entry *n = map_find(now.entries, str_of(name));
    if (n == NULL || n->type != type)
        log_error("store", "no setting %s of this type: sql/seed.sql does not declare it", name);
    assert(n != NULL && n->type == type);
    return n;
}

int64_t setting_int(const char *name)
{
    return find(name, 'i')->number;
}

bool setting_bool(const char *name)
{
    return find(name, 'b')->flag;
}

struct str setting_str(const char *name)
{
    return find(name, 't')->text;
}

static int check(const struct rows *r, struct str name, struct str value, struct err *e)
{
    struct str type = rows_str(r, 0, 0);
    int64_t number;
    bool flag;

    if (str_eqz(type, "bool") && !parse_bool(value, &flag))
        return err_set(e, ERR_SYNTAX, "%.*s is yes or no", STR_ARG(name));
    if (str_eqz(type, "text") && (!str_utf8(value) || str_chr(value, '\0') >= 0))
        return err_set(e, ERR_SYNTAX, "%.*s must be UTF-8 text", STR_ARG(name));
    if (!str_eqz(type, "int"))
        return 0;
    if (!parse_int(value, &number))
        return err_set(e, ERR_SYNTAX, "%.*s is a whole number", STR_ARG(name));
    if (!rows_null(r, 0, 1) && number < rows_int(r, 0, 1))
        return err_set(e, ERR_SYNTAX, "%.*s is at least %" PRId64, STR_ARG(name),
                       rows_int(r, 0, 1));
    if (!rows_null(r, 0, 2) && number > rows_int(r, 0, 2))
        return err_set(e, ERR_SYNTAX, "%.*s is at most %" PRId64, STR_ARG(name), rows_int(r, 0, 2));
    return 0;
}

int setting_set(struct str name, struct str value, struct str who, struct err *e)
{
    struct arena *a = arena_new(512);
    const struct rows *r;
    int rc = db_exec(a, &r, e, "select type, least, most from setting where name = $1",
                     DB_ARGS(db_text(name)));

    if (rc == 0 && rows_count(r) == 0)
        rc = err_set(e, ERR_NOTFOUND, "there is no setting %.*s", STR_ARG(name));
    if (rc == 0)
        rc = check(r, name, value, e);
    if (rc == 0)
        rc = db_exec(a, NULL, e,
                     "update setting set value = $2, changed_at = now(), changed_by = $3 "
                     "where name = $1",
                     DB_ARGS(db_text(name), db_text(value.p ? value : STR("")), db_text(who)));
    arena_free(&a);
    if (rc != 0)
        return rc;
    shm_bump(GEN_SETTING);
    bus_publish(BUS_SETTING, 0);
    return 0;
}

int setting_list(struct arena *a, struct str glob, struct setting_info **v_r, uint32_t *n_r,
                 struct err *e)
{
    const struct rows *r;
    uint32_t n = 0;

    if (db_exec(a, &r, e,
                "select name, type, coalesce(value, fallback), fallback, description, "
                "value is null from setting order by name",
                0, NULL) != 0)
        return -1;
    struct setting_info *v = ARENA_ARRAY(a, struct setting_info, (size_t)rows_count(r) + 1);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        if (glob.n > 0 && !str_glob(glob, rows_str(r, i, 0)))
            continue;
        v[n++] = (struct setting_info){
            .name = rows_str(r, i, 0),
            .type = rows_str(r, i, 1),
            .value = rows_str(r, i, 2),
            .fallback = rows_str(r, i, 3),
            .description = rows_str(r, i, 4),
            .is_default = rows_bool(r, i, 5),
        };
    }
    *v_r = v;
    *n_r = n;
    return 0;
}
