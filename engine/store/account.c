/* The directory and look-ups in it (account.h, account_int.h). */
#include "store/account_int.h"

#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "store/bus.h"
#include "store/db.h"
#include "store/pg.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

enum {
    VERIFY_MS = 60000,       /* other machines' changes are noticed after this at the latest */
    CACHED_ACCOUNTS = 50000, /* then a fresh directory is begun */
};

#define ACCOUNT_COLUMNS                                                                            \
    "id, name, enabled, admin, expires, access, may_send_remote, may_receive_remote, "             \
    "max_out_bytes, inbox, forward, use_forward, assistant, redirect_assistant, "                  \
    "assistant_hours, forward_hours, big_redirect, small_redirect, skip_if_quarantined"

static struct directory *current;
static bool loading;

static void directory_free(struct directory *d)
{
    map_free(&d->by_name);
    map_free(&d->by_id);
    map_free(&d->domains);
    arena_free(&d->a);
    free(d);
}

void directory_drop(struct directory **dp)
{
    struct directory *d = *dp;

    *dp = NULL;
    if (d != NULL && --d->holders == 0)
        directory_free(d);
}

static int64_t generation_ask(struct err *e)
{
    struct arena *a = arena_new(256);
    const struct rows *r;
    int64_t n = -1;

    if (db_exec(a, &r, e, "select n from generation where name = 'account'", 0, NULL) == 0)
        n = rows_count(r) == 1 ? rows_int(r, 0, 0)
                               : err_set(e, ERR_INTERNAL, "no row of table generation");
    arena_free(&a);
    return n;
}

static void add_mapping(struct directory *d, struct str pattern, struct str target, struct str kind)
{
    struct directory_mapping *m = &d->mappings[d->mapping_count++];

    m->tilde = str_starts(pattern, STR("~@"));
    m->pattern = m->tilde ? str_from(pattern, 2) : pattern;
    m->local_part = !m->tilde && str_chr(pattern, '@') < 0;
    m->target = target;
    bool normal = str_eqz(kind, "Normal");
    m->smtp = normal || str_eqz(kind, "SMTP");
    m->pop3 = normal || str_eqz(kind, "POP3");
    m->from = str_eqz(kind, "FROM");
}

static int fill(struct directory *d, struct err *e)
{
    const struct rows *r;
    static char present;

    if (db_exec(d->a, &r, e, "select name from domain", 0, NULL) != 0)
        return -1;
    for (uint32_t i = 0; i < rows_count(r); i++)
        map_set(d->domains, rows_str(r, i, 0), &present);
    if (db_exec(d->a, &r, e, "select pattern, target, kind from mapping order by id", 0, NULL) != 0)
        return -1;
    d->mappings = ARENA_ARRAY(d->a, struct directory_mapping, (size_t)rows_count(r) + 1);
    for (uint32_t i = 0; i < rows_count(r); i++)
        add_mapping(d, rows_str(r, i, 0), rows_str(r, i, 1), rows_str(r, i, 2));
    if (db_exec(d->a, &r, e, "select id, name, built_in, enabled from user_group", 0, NULL) != 0)
        return -1;
    d->groups = ARENA_ARRAY(d->a, struct directory_group, (size_t)rows_count(r) + 1);
    for (uint32_t i = 0; i < rows_count(r); i++)
        d->groups[d->group_count++] = (struct directory_group){
            .id = (uint64_t)rows_int(r, i, 0),
            .name = rows_str(r, i, 1),
            .built_in = rows_str(r, i, 2),
            .enabled = rows_bool(r, i, 3),
        };
    return 0;
}

static int load(struct err *e)
{
    struct directory *d = xcalloc(1, sizeof *d);

    d->a = arena_new(16384);
    d->holders = 1;
    d->by_name = map_new(true);
    d->by_id = map_new(false);
    d->domains = map_new(true);
    /* Read before the data: a change meanwhile makes it look old, never new. */
    d->generation = shm_generation(GEN_ACCOUNT);
    d->in_database = generation_ask(e);
    d->verified_at = loop_ms();
    if (d->in_database < 0 || fill(d, e) != 0) {
        directory_free(d);
        return -1;
    }
    directory_drop(&current);
    current = d;
    return 0;
}

/* One load at a time; the others wait for it. */
static int load_once(struct err *e)
{
    if (loading) {
        while (loading)
            pg_pause(2);
        if (current != NULL)
            return 0;
    }
    loading = true;
    int rc = load(e);
    loading = false;
    return rc;
}

int directory_take(struct directory **d_r, struct err *e)
{
    if (current == NULL || current->generation != shm_generation(GEN_ACCOUNT) ||
        map_count(current->by_id) > CACHED_ACCOUNTS) {
        if (load_once(e) != 0)
            return -1;
    } else if (loop_ms() - current->verified_at > VERIFY_MS) {
        current->verified_at = loop_ms();
        int64_t n = generation_ask(NULL);
        /* With the database away what is known goes on being true. */
        if (n >= 0 && current != NULL && n != current->in_database && load_once(e) != 0)
            return -1;
    }
    *d_r = current;
    current->holders++;
    return 0;
}

int directory_verify(struct directory **d, bool *changed_r, struct err *e)
{
    int64_t n = generation_ask(e);

    *changed_r = false;
    if (n < 0)
        return -1;
    if (n == (*d)->in_database)
        return 0;
    *changed_r = true;
    directory_drop(d);
    if ((current == NULL || current->in_database != n) && load_once(e) != 0)
        return -1;
    *d = current;
    current->holders++;
    return 0;
}

void directory_changed(void)
{
    shm_bump(GEN_ACCOUNT);
    bus_publish(BUS_ACCOUNT, 0);
}

/* --- accounts
 * ----------------------------------------------------------------------------------------- */
static struct str id_key(const uint64_t *id)
{
    return str_make(id, sizeof *id);
}

static struct directory_account *from_row(struct directory *d, const struct rows *r)
{
    struct directory_account *x = ARENA_NEW(d->a, struct directory_account);
    struct account *a = &x->account;

    a->id = (uint64_t)rows_int(r, 0, 0);
    a->name = arena_dup(d->a, rows_str(r, 0, 1));
    a->enabled = rows_bool(r, 0, 2);
    a->admin = rows_bool(r, 0, 3);
    x->expires = rows_null(r, 0, 4) ? 0 : rows_int(r, 0, 4) + 86400000;
    a->access = (uint32_t)rows_int(r, 0, 5);
    a->may_send_remote = rows_bool(r, 0, 6);
    a->may_receive_remote = rows_bool(r, 0, 7);
    a->max_out_bytes = (uint64_t)rows_int(r, 0, 8);
    a->inbox = (uint64_t)rows_int(r, 0, 9);
    a->forward = arena_dup(d->a, rows_str(r, 0, 10));
    a->use_forward = rows_bool(r, 0, 11);
    a->assistant = arena_dup(d->a, rows_str(r, 0, 12));
    a->redirect_assistant = rows_bool(r, 0, 13);
    a->assistant_hours = arena_dup(d->a, rows_str(r, 0, 14));
    a->forward_hours = arena_dup(d->a, rows_str(r, 0, 15));
    a->big_redirect = arena_dup(d->a, rows_str(r, 0, 16));
    a->small_redirect = arena_dup(d->a, rows_str(r, 0, 17));
    a->skip_if_quarantined = rows_bool(r, 0, 18);
    map_set(d->by_name, a->name, x);
    map_set(d->by_id, id_key(&a->id), x);
    return x;
}

static const struct directory_account *ask(struct directory *d, const char *sql, struct db_arg key,
                                           struct err *e)
{
    struct arena *a = arena_new(1024);
    const struct directory_account *x = NULL;
    const struct rows *r;

    if (db_exec(a, &r, e, sql, 1, &key) == 0) {
        if (rows_count(r) == 1)
            x = from_row(d, r);
        else
            err_set(e, ERR_NOTFOUND, "no such account");
    }
    arena_free(&a);
    return x;
}

const struct directory_account *directory_account(struct directory *d, struct str name,
                                                  struct err *e)
{
    const struct directory_account *x = map_find(d->by_name, name);

    if (x != NULL)
        return x;
    if (name.n == 0 || name.n > 32) {
        err_set(e, ERR_NOTFOUND, "no such account");
        return NULL;
    }
    struct arena *a = arena_new(64);
    x = ask(d, "select " ACCOUNT_COLUMNS " from account where name = $1",
            db_text(arena_lower(a, name)), e);
    arena_free(&a);
    return x;
}

const struct directory_account *directory_account_id(struct directory *d, uint64_t id,
                                                     struct err *e)
{
    const struct directory_account *x = map_find(d->by_id, id_key(&id));

    if (x != NULL)
        return x;
    return ask(d, "select " ACCOUNT_COLUMNS " from account where id = $1", db_int((int64_t)id), e);
}

void directory_copy(const struct directory_account *from, struct account *to, struct arena *a)
{
    *to = from->account;
    to->name = arena_dup(a, to->name);
    to->forward = arena_dup(a, to->forward);
    to->assistant = arena_dup(a, to->assistant);
    to->assistant_hours = arena_dup(a, to->assistant_hours);
    to->forward_hours = arena_dup(a, to->forward_hours);
    to->big_redirect = arena_dup(a, to->big_redirect);
    to->small_redirect = arena_dup(a, to->small_redirect);
    to->expired = from->expires != 0 && (int64_t)time(NULL) * 1000 >= from->expires;
}

int account_find(struct str name, struct account *r, struct arena *a, struct err *e)
{
    struct directory *d;

    if (directory_take(&d, e) != 0)
        return -1;
    const struct directory_account *x = directory_account(d, name, e);
    if (x != NULL)
        directory_copy(x, r, a);
    directory_drop(&d);
    return x ? 0 : -1;
}

int account_by_id(uint64_t id, struct account *r, struct arena *a, struct err *e)
{
    struct directory *d;

    if (directory_take(&d, e) != 0)
        return -1;
    const struct directory_account *x = directory_account_id(d, id, e);
    if (x != NULL)
        directory_copy(x, r, a);
    directory_drop(&d);
    return x ? 0 : -1;
}

int domain_is_local(struct str domain, bool *local_r, struct err *e)
{
    struct directory *d;
    bool changed;

    if (directory_take(&d, e) != 0)
        return -1;
    *local_r = map_find(d->domains, domain) != NULL;
    if (!*local_r) {
        if (directory_verify(&d, &changed, e) != 0) {
            directory_drop(&d);
            return -1;
        }
        if (changed)
            *local_r = map_find(d->domains, domain) != NULL;
    }
    directory_drop(&d);
    return 0;
}

struct str login_name(struct directory *d, struct str name, struct arena *a)
{
    ptrdiff_t at = str_rchr(name, '@');

    if (at > 0 && map_find(d->domains, str_from(name, (size_t)at + 1)) != NULL)
        name = str_head(name, (size_t)at);
    return arena_lower(a, name);
}
