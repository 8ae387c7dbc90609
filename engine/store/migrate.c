#include "store/migrate.h"

#include "core/arena.h"
#include "core/config.h"
#include "core/log.h"
#include "core/str.h"
#include "store/pg.h"

#include <dirent.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIGRATIONS_MAX = 1000, FILE_MOST = 4 * 1024 * 1024 };
#define LOCK_KEY "727274001" /* any constant: one migration at a time a database */

struct migration {
    char file[300];
    unsigned version;
};

static char *file_read(const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (f == NULL) {
        err_set(e, ERR_NOTFOUND, "cannot open %s", path);
        return NULL;
    }
    char *text = xmalloc(FILE_MOST + 1);
    size_t n = fread(text, 1, FILE_MOST, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

static int by_version(const void *a, const void *b)
{
    unsigned x = ((const struct migration *)a)->version, y = ((const struct migration *)b)->version;
    return x < y ? -1 : x > y;
}

static int list_files(struct migration **v_r, size_t *n_r, struct err *e)
{
    char dir[400];
    struct dirent *d;
    size_t n = 0;

    snprintf(dir, sizeof dir, "%s/sql/migrations", config_share());
    DIR *open = opendir(dir);
    if (open == NULL)
        return err_set(e, ERR_NOTFOUND, "cannot read %s", dir);
    struct migration *v = xcalloc(MIGRATIONS_MAX, sizeof *v);
    while ((d = readdir(open)) != NULL && n < MIGRATIONS_MAX) {
        struct str name = str_of(d->d_name);
        uint32_t version;
        if (!str_ends(name, STR(".sql")) || name.n < 9 || name.n > 200 ||
            !str_u32(str_head(name, 4), &version))
            continue;
        v[n].version = version;
        snprintf(v[n].file, sizeof v[n].file, "%s", d->d_name);
        n++;
    }
    closedir(open);
    qsort(v, n, sizeof *v, by_version);
    *v_r = v;
    *n_r = n;
    return 0;
}

static int run(PGconn *c, const char *what, const char *sql, struct err *e)
{
    PGresult *res = PQexec(c, sql);
    ExecStatusType st = PQresultStatus(res);
    int rc = 0;

    if (st != PGRES_COMMAND_OK && st != PGRES_TUPLES_OK && st != PGRES_EMPTY_QUERY)
        rc = err_set(e, PQstatus(c) == CONNECTION_BAD ? ERR_TEMP : ERR_INTERNAL, "%s: %.*s", what,
                     (int)strcspn(PQerrorMessage(c), "\n"), PQerrorMessage(c));
    PQclear(res);
    return rc;
}

static int roles(PGconn *c, struct err *e)
{
    return run(c, "roles",
               "do $$ begin "
               "if not exists (select from pg_roles where rolname = 'moonpost_engine') then "
               "  create role moonpost_engine login nosuperuser nocreatedb nocreaterole; end if; "
               "if not exists (select from pg_roles where rolname = 'moonpost_script') then "
               "  create role moonpost_script login nosuperuser nocreatedb nocreaterole; end if; "
               "if not (select rolsuper from pg_roles where rolname = current_user) then "
               "  execute format('grant moonpost_engine to %I', current_user); end if; "
               "execute format('grant usage on schema %I to moonpost_engine, moonpost_script', "
               "  current_schema()); "
               "end $$",
               e);
}

/* The name behind "create table ..." and its kin, or an empty slice. */
static struct str created_name(struct str line)
{
    static const struct {
        const char *words, *kind;
    } starts[] = {{"create table ", ""}, {"create view ", ""}, {"create sequence ", "sequence "}};

    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        struct str words = str_of(starts[i].words);
        if (!str_starts(line, words))
            continue;
        struct str rest = str_from(line, words.n);
        size_t n = strcspn(rest.p, " (;\n");
        return str_head(rest, n);
    }
    return STR_NONE;
}

/* "-- grant: engine select, insert; script select" before a create statement. */
static int grant(PGconn *c, struct str rights, struct str name, bool sequence, struct err *e)
{
    char sql[512];

    while (rights.p != NULL) {
        struct str one = str_trim(str_cut(&rights, ';'));
        struct str role = str_cut(&one, ' ');
        if (one.p == NULL)
            return err_set(e, ERR_SYNTAX, "grant line of %.*s", STR_ARG(name));
        snprintf(sql, sizeof sql, "grant %.*s on %s%.*s to moonpost_%.*s", STR_ARG(one),
                 sequence ? "sequence " : "", STR_ARG(name), STR_ARG(role));
        if (run(c, "grant", sql, e) != 0)
            return -1;
    }
    return 0;
}

static int grants(PGconn *c, const char *text, struct err *e)
{
    struct str rest = str_of(text), rights = STR_NONE;

    while (rest.p != NULL) {
        struct str line = str_cut(&rest, '\n');
        if (str_starts(line, STR("-- grant: "))) {
            rights = str_from(line, 10);
            continue;
        }
        struct str name = created_name(line);
        if (name.n == 0 || rights.p == NULL)
            continue;
        if (grant(c, rights, name, str_starts(line, STR("create sequence")), e) != 0)
            return -1;
        rights = STR_NONE;
    }
    return 0;
}

static bool done_already(PGconn *c, unsigned version)
{
    char sql[120];

    snprintf(sql, sizeof sql, "select 1 from migration where version = %u", version);
    PGresult *res = PQexec(c, sql);
    bool done = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1;
    PQclear(res);
    return done;
}

static int apply(PGconn *c, const struct migration *m, const char *text, struct err *e)
{
    char sql[500];
    char *name = PQescapeLiteral(c, m->file, strlen(m->file));

    snprintf(sql, sizeof sql, "insert into migration (version, name) values (%u, %s)", m->version,
             name ? name : "''");
    PQfreemem(name);
    if (run(c, m->file, "begin", e) != 0)
        return -1;
    if (run(c, m->file, text, e) != 0 || run(c, m->file, sql, e) != 0) {
        run(c, m->file, "rollback", NULL);
        return -1;
    }
    return run(c, m->file, "commit", e);
}

static int make_secret(PGconn *c, const char *name, struct err *e)
{
    unsigned char raw[32];
    char sql[300], hex[65];

    if (RAND_bytes(raw, sizeof raw) != 1)
        return err_set(e, ERR_INTERNAL, "no random bytes");
    for (unsigned i = 0; i < sizeof raw; i++)
        snprintf(hex + i * 2, 3, "%02x", raw[i]);
    snprintf(sql, sizeof sql,
             "insert into secret (name, bytes) values ('%s', '\\x%s') on conflict do nothing", name,
             hex);
    int rc = run(c, "secret", sql, e);
    wipe(raw, sizeof raw);
    wipe(hex, sizeof hex);
    wipe(sql, sizeof sql);
    return rc;
}

/* Where roles do not sign in by name alone, the script role gets the password that db.c will use.
 */
static int script_password(PGconn *c, struct err *e)
{
    return run(c, "role moonpost_script",
               "do $$ begin execute format('alter role moonpost_script password %L', "
               "(select encode(bytes, 'hex') from secret where name = 'script_role')); end $$",
               e);
}

static int all(PGconn *c, bool embedded, struct err *e)
{
    struct migration *v = NULL;
    size_t n = 0;
    char path[800];
    int rc = list_files(&v, &n, e);

    if (rc != 0)
        return rc;
    for (size_t pass = 0; pass < 2 && rc == 0; pass++)
        for (size_t i = 0; i < n && rc == 0; i++) {
            snprintf(path, sizeof path, "%s/sql/migrations/%s", config_share(), v[i].file);
            char *text = file_read(path, e);
            if (text == NULL)
                rc = -1;
            else if (pass == 0 && !done_already(c, v[i].version)) {
                log_info("store", "migration %s", v[i].file);
                rc = apply(c, &v[i], text, e);
            } else if (pass == 1) {
                rc = grants(c, text, e);
            }
            free(text);
        }
    free(v);
    snprintf(path, sizeof path, "%s/sql/seed.sql", config_share());
    char *seed = rc == 0 ? file_read(path, e) : NULL;
    if (seed == NULL)
        return -1;
    rc = run(c, "seed.sql", seed, e);
    free(seed);
    if (rc != 0) {
        run(c, "seed.sql", "rollback", NULL);
        return rc;
    }
    if (make_secret(c, "scram_salt", e) != 0 || make_secret(c, "script_role", e) != 0)
        return -1;
    if (!embedded && script_password(c, e) != 0)
        return -1;
    return run(c, "ledger partitions",
               "select ledger_day(current_date - 1), ledger_day(current_date), "
               "ledger_day(current_date + 1), ledger_day(current_date + 2)",
               e);
}

int migrate_run(const char *conninfo, struct err *e)
{
    PGconn *c = PQconnectdb(conninfo);
    int rc;

    if (PQstatus(c) != CONNECTION_OK) {
        rc = err_set(e, ERR_TEMP, "database: %.*s", (int)strcspn(PQerrorMessage(c), "\n"),
                     PQerrorMessage(c));
        PQfinish(c);
        return rc;
    }
    rc = run(c, "settings",
             "set client_min_messages = warning; set timezone = 'UTC'; "
             "select pg_advisory_lock(" LOCK_KEY "); "
             "create table if not exists migration (version integer primary key, "
             "name text not null, at timestamptz not null default now()); "
             "comment on table migration is 'Which files of sql/migrations have run.'",
             e);
    if (rc == 0)
        rc = roles(c, e);
    if (rc == 0)
        rc = all(c, pg_conninfo_embedded(conninfo), e);
    PQfinish(c); /* frees the lock */
    return rc;
}
