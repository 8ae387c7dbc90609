/* Who an address belongs to (spec 1 sections 3 and 18): explicit mappings, else the user or group
 * of that name, else ~@domain mappings, else unknown or remote. */
#include "store/account_int.h"

#include "core/limits.h"
#include "store/db.h"
#include "store/setting.h"

enum {
    TARGET_DEPTH = 8,   /* mappings that lead to addresses that have mappings ... */
    TARGETS_MAX = 10000 /* one address; as many as a message may have */
};

struct split {
    struct str local, domain; /* domain empty: none given */
    bool domain_is_local;
};

static struct split split_address(struct directory *d, struct str address)
{
    struct split s = {.local = address};
    ptrdiff_t at = str_rchr(address, '@');

    if (at >= 0) {
        s.local = str_head(address, (size_t)at);
        s.domain = str_from(address, (size_t)at + 1);
    }
    s.domain_is_local = s.domain.n == 0 || map_find(d->domains, s.domain) != NULL;
    return s;
}

static bool matches(const struct directory_mapping *m, struct str address, const struct split *s)
{
    if (m->tilde)
        return s->domain.n > 0 && str_glob(m->pattern, s->domain);
    if (m->local_part)
        return s->domain_is_local && str_glob(m->pattern, s->local);
    return str_glob(m->pattern, address);
}

static bool of_kind(const struct directory_mapping *m, enum mapping_kind kind)
{
    return kind == MAPPING_SMTP ? m->smtp : kind == MAPPING_POP3 ? m->pop3 : m->from;
}

int mapping_find(struct str address, enum mapping_kind kind, bool tilde, struct arena *a,
                 struct mapping **v_r, uint32_t *n_r, struct err *e)
{
    struct directory *d;
    bool changed = false;
    uint32_t n = 0;

    *v_r = NULL;
    *n_r = 0;
    if (directory_take(&d, e) != 0)
        return -1;
    for (int round = 0; round < 2 && n == 0; round++) {
        struct split s = split_address(d, address);
        for (uint32_t i = 0; i < d->mapping_count; i++)
            n += d->mappings[i].tilde == tilde && of_kind(&d->mappings[i], kind) &&
                 matches(&d->mappings[i], address, &s);
        if (n > 0) {
            struct mapping *v = ARENA_ARRAY(a, struct mapping, n);
            n = 0;
            for (uint32_t i = 0; i < d->mapping_count; i++) {
                const struct directory_mapping *m = &d->mappings[i];
                if (m->tilde != tilde || !of_kind(m, kind) || !matches(m, address, &s))
                    continue;
                v[n++] = (struct mapping){
                    .pattern = m->tilde ? arena_printf(a, "~@%.*s", STR_ARG(m->pattern))
                                        : arena_dup(a, m->pattern),
                    .target = arena_dup(a, m->target),
                };
            }
            *v_r = v;
            *n_r = n;
        } else if (round == 0) {
            /* "None" is said only when the database agrees. */
            if (directory_verify(&d, &changed, e) != 0) {
                directory_drop(&d);
                return -1;
            }
            if (!changed)
                break;
        }
    }
    directory_drop(&d);
    return 0;
}

/* --- resolving
 * --------------------------------------------------------------------------------------- */
struct resolving {
    struct directory *d;
    struct arena *a;
    bool from_local;
    struct resolve_target *v;
    uint32_t n, room;
    struct err *e;
};

static bool same_target(const struct resolve_target *x, const struct resolve_target *y)
{
    return x->what == y->what && x->account == y->account && str_eqi(x->address, y->address) &&
           str_eq(x->route, y->route);
}

static int push(struct resolving *r, struct resolve_target t)
{
    for (uint32_t i = 0; i < r->n; i++)
        if (same_target(&r->v[i], &t))
            return 0;
    if (r->n >= TARGETS_MAX)
        return err_set(r->e, ERR_LIMIT, "an address leads to more than %d targets", TARGETS_MAX);
    if (r->n == r->room) {
        r->room = r->room ? r->room * 2 : 4;
        struct resolve_target *v = ARENA_ARRAY(r->a, struct resolve_target, r->room);
        if (r->n)
            memcpy(v, r->v, sizeof *v * r->n);
        r->v = v;
    }
    t.address = arena_dup(r->a, t.address);
    t.route = t.route.n ? arena_dup(r->a, t.route) : STR_NONE;
    r->v[r->n++] = t;
    return 0;
}

static int push_remote(struct resolving *r, struct str address, struct str route)
{
    return push(
        r, (struct resolve_target){.what = RESOLVE_REMOTE, .address = address, .route = route});
}

/* "SMTP:<address>@[<user>:<pass>@]<server>[:<port>]" without its prefix. */
static int push_route(struct resolving *r, struct str text)
{
    ptrdiff_t first = str_chr(text, '@');
    if (first <= 0)
        return 0;
    ptrdiff_t second = str_chr(str_from(text, (size_t)first + 1), '@');
    size_t cut = second < 0 ? (size_t)first : (size_t)(first + 1 + second);
    struct str address = second < 0 ? text : str_head(text, cut);
    struct str route = str_from(text, cut + 1);
    return route.n == 0 ? 0 : push_remote(r, address, route);
}

static int resolve_address(struct resolving *r, struct str address, int depth);

/* The user of that name; 1: there is one, 0: no, -1: cannot tell. */
static int push_user(struct resolving *r, struct str name)
{
    struct err found = ERR_INIT;
    const struct directory_account *x = directory_account(r->d, name, &found);

    if (x == NULL)
        return found.cls == ERR_NOTFOUND ? 0 : err_set(r->e, found.cls, "%s", found.text);
    /* Who may not receive from outside does not exist there (spec 1 section 12). */
    if (!x->account.may_receive_remote && !r->from_local)
        return 0;
    if (push(r, (struct resolve_target){.what = RESOLVE_LOCAL,
                                        .account = x->account.id,
                                        .address = x->account.name}) != 0)
        return -1;
    return 1;
}

static int push_members(struct resolving *r, const struct directory_group *g)
{
    const struct rows *rows;
    struct arena *tmp = arena_new(1024);
    const char *sql = str_eqz(g->built_in, "everyone")
                          ? "select name from account where in_everyone and $1 > 0 order by id"
                      : str_eqz(g->built_in, "admins")
                          ? "select name from account where admin and $1 > 0 order by id"
                          : "select a.name from group_member m join account a "
                            "on a.id = m.account where m.user_group = $1 order by a.id";
    int rc = db_exec(tmp, &rows, r->e, sql, DB_ARGS(db_int((int64_t)g->id)));

    for (uint32_t i = 0; rc >= 0 && i < rows_count(rows); i++)
        rc = push_user(r, rows_str(rows, i, 0));
    arena_free(&tmp);
    return rc < 0 ? -1 : 1;
}

/* A group; 1: there is one, 0: no, -1: cannot tell. */
static int push_group(struct resolving *r, struct str name)
{
    for (uint32_t i = 0; i < r->d->group_count; i++) {
        const struct directory_group *g = &r->d->groups[i];
        if (!str_eqi(g->name, name) || !g->enabled)
            continue;
        if (!str_eqz(g->built_in, "nobody"))
            return push_members(r, g);
        return push(r, (struct resolve_target){.what = RESOLVE_DISCARD}) < 0 ? -1 : 1;
    }
    return 0;
}

static int push_target(struct resolving *r, struct str target, struct str address, int depth)
{
    target = str_trim(target);
    if (str_eqiz(target, "*REMOTE"))
        return push_remote(r, address, STR_NONE);
    if (str_startsi(target, STR("SMTP:")))
        return push_route(r, str_from(target, 5));
    if (str_chr(target, '@') >= 0)
        return resolve_address(r, target, depth + 1);
    int rc = push_user(r, target);
    return rc == 0 ? push_group(r, target) : rc;
}

/* All mappings that match; 1: at least one did. */
static int push_mappings(struct resolving *r, struct str address, bool tilde, int depth)
{
    struct split s = split_address(r->d, address);
    int found = 0;

    for (uint32_t i = 0; i < r->d->mapping_count; i++) {
        const struct directory_mapping *m = &r->d->mappings[i];
        if (m->tilde != tilde || !m->smtp || !matches(m, address, &s))
            continue;
        found = 1;
        if (push_target(r, m->target, address, depth) < 0)
            return -1;
    }
    return found;
}

/* Adds targets; none when the address is unknown. */
static int resolve_address(struct resolving *r, struct str address, int depth)
{
    struct split s = split_address(r->d, address);

    if (depth > TARGET_DEPTH)
        return 0;
    int rc = push_mappings(r, address, false, depth);
    if (rc != 0)
        return rc;
    if (s.domain_is_local) {
        if (s.domain.n == 0 || setting_bool("routing.implicit_users")) {
            rc = push_user(r, s.local);
            if (rc != 0)
                return rc;
        }
        /* Groups are for people inside; from outside only a mapping leads to them. */
        if (r->from_local || depth > 0) {
            rc = push_group(r, s.local);
            if (rc != 0)
                return rc;
        }
    }
    rc = push_mappings(r, address, true, depth);
    if (rc != 0)
        return rc;
    return s.domain_is_local ? 0 : push_remote(r, address, STR_NONE);
}

int address_resolve(struct str address, bool from_local_sender, struct arena *a,
                    struct resolve_target **v_r, uint32_t *n_r, struct err *e)
{
    struct resolving r = {.a = a, .from_local = from_local_sender, .e = e};
    bool changed = false;

    if (address.n > ADDRESS_MAX)
        return err_set(e, ERR_SYNTAX, "the address is too long");
    if (directory_take(&r.d, e) != 0)
        return -1;
    for (;;) {
        r.n = 0;
        if (resolve_address(&r, address, 0) < 0) {
            directory_drop(&r.d);
            return -1;
        }
        /* "Unknown" and "not ours" are said only when the database agrees. */
        bool negative = r.n == 0 || (r.n == 1 && r.v[0].what == RESOLVE_REMOTE);
        if (!negative || changed)
            break;
        if (directory_verify(&r.d, &changed, e) != 0) {
            directory_drop(&r.d);
            return -1;
        }
        if (!changed)
            break;
    }
    directory_drop(&r.d);
    if (r.n == 0 &&
        push(&r, (struct resolve_target){.what = RESOLVE_UNKNOWN, .address = address}) < 0)
        return -1;
    /* Discarding matters only where nothing else happens. */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < r.n; i++)
        if (r.v[i].what != RESOLVE_DISCARD || r.n == 1)
            r.v[kept++] = r.v[i];
    *v_r = r.v;
    *n_r = kept;
    return 0;
}
