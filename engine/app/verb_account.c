/* Verbs: domain, user, mapping, access. */
#include "app/out.h"
#include "app/verb.h"
#include "core/shm.h"
#include "store/access.h"
#include "store/account.h"
#include "store/db.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int verb_domain_add(struct args *a)
{
    struct err e = ERR_INIT;

    if (a->argc != 1)
        return EXIT_USAGE;
    if (domain_add(str_of(a->argv[0]), &e) != 0)
        return verb_fail(&e);
    out_say("%s is a local domain now", a->argv[0]);
    return EXIT_OK;
}

int verb_domain_list(struct args *a)
{
    static const char *const columns[] = {"domain", NULL};
    struct err e = ERR_INIT;
    struct str *v;
    uint32_t n;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (domain_list(a->arena, &v, &n, &e) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < n; i++)
        out_str(v[i]), out_row();
    out_end();
    return EXIT_OK;
}

/* From --password or the first line of standard input; p == NULL: not given. */
static struct str password_of(struct args *a)
{
    static char line[512];
    const char *p = args_option(a, "--password");

    if (p != NULL)
        return str_of(p);
    if (!args_flag(a, "--password-stdin"))
        return STR_NONE;
    if (fgets(line, sizeof line, stdin) == NULL)
        return STR_NONE;
    line[strcspn(line, "\r\n")] = '\0';
    return str_of(line);
}

int verb_user_add(struct args *a)
{
    struct err e = ERR_INIT;
    uint64_t id;
    struct str password = password_of(a);
    bool admin = args_flag(a, "--admin");

    if (a->argc != 1)
        return EXIT_USAGE;
    if (account_add(str_of(a->argv[0]), password, admin, &id, &e) != 0)
        return verb_fail(&e);
    out_say("user %s added%s", a->argv[0],
            password.p ? "" : "; no password yet, so nobody can sign in");
    return EXIT_OK;
}

int verb_user_list(struct args *a)
{
    static const char *const columns[] = {"name",  "enabled", "admin",   "messages",
                                          "bytes", "forward", "comment", NULL};
    struct err e = ERR_INIT;
    struct account_info *v;
    uint32_t n;

    if (a->argc > 1)
        return EXIT_USAGE;
    if (account_list(a->arena, str_of(a->argc ? a->argv[0] : "*"), &v, &n, &e) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < n; i++) {
        out_str(v[i].account.name);
        out_bool(v[i].account.enabled && !v[i].account.expired);
        out_bool(v[i].account.admin);
        out_int((int64_t)v[i].messages);
        out_int((int64_t)v[i].bytes);
        out_str(v[i].account.use_forward ? v[i].account.forward : STR(""));
        out_str(v[i].comment);
        out_row();
    }
    out_end();
    return EXIT_OK;
}

static int find(struct args *a, const char *name, struct account *r, struct err *e)
{
    return account_find(arena_lower(a->arena, str_of(name)), r, a->arena, e);
}

int verb_user_set(struct args *a)
{
    struct err e = ERR_INIT;
    struct account account;
    struct str password = password_of(a);

    if (a->argc != (password.p ? 1 : 3))
        return EXIT_USAGE;
    if (find(a, a->argv[0], &account, &e) != 0)
        return verb_fail(&e);
    int rc = password.p ? account_set_password(account.id, password, &e)
                        : account_set(account.id, str_of(a->argv[1]), str_of(a->argv[2]), &e);
    if (rc != 0)
        return verb_fail(&e);
    out_say("%s of %s set", password.p ? "password" : a->argv[1], a->argv[0]);
    return EXIT_OK;
}

int verb_user_remove(struct args *a)
{
    struct err e = ERR_INIT;
    struct account account;

    if (a->argc != 1)
        return EXIT_USAGE;
    if (find(a, a->argv[0], &account, &e) != 0 || account_remove(account.id, &e) != 0)
        return verb_fail(&e);
    out_say("user %s removed", a->argv[0]);
    return EXIT_OK;
}

int verb_mapping_add(struct args *a)
{
    struct err e = ERR_INIT;
    const char *type = args_option(a, "--type"), *comment = args_option(a, "--comment");

    if (a->argc != 2)
        return EXIT_USAGE;
    if (mapping_add(str_of(a->argv[0]), str_of(a->argv[1]), str_of(type ? type : "always"),
                    str_of(comment ? comment : ""), &e) != 0)
        return verb_fail(&e);
    out_say("%s goes to %s", a->argv[0], a->argv[1]);
    return EXIT_OK;
}

int verb_mapping_list(struct args *a)
{
    static const char *const columns[] = {"address", "target", NULL};
    struct err e = ERR_INIT;
    struct mapping *v;
    uint32_t n;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (mapping_list(a->arena, &v, &n, &e) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < n; i++) {
        out_str(v[i].pattern);
        out_str(v[i].target);
        out_row();
    }
    out_end();
    return EXIT_OK;
}

int verb_mapping_remove(struct args *a)
{
    struct err e = ERR_INIT;

    if (a->argc != 2)
        return EXIT_USAGE;
    if (mapping_remove(str_of(a->argv[0]), str_of(a->argv[1]), &e) != 0)
        return verb_fail(&e);
    out_say("mapping removed");
    return EXIT_OK;
}

int verb_access_add(struct args *a)
{
    static const char *const words[] = {"any", "any4", "any6", "local"};
    struct err e = ERR_INIT;
    bool unauth = args_flag(a, "--unauth");
    const char *users = args_option(a, "--users");

    if (a->argc != 3 || (strcmp(a->argv[1], "allow") != 0 && strcmp(a->argv[1], "block") != 0))
        return EXIT_USAGE;
    const char *type = "network";
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strcmp(a->argv[2], words[i]) == 0)
            type = words[i];
    bool network = strcmp(type, "network") == 0;
    if (network && !access_network_valid(str_of(a->argv[2]))) {
        err_set(&e, ERR_SYNTAX, "'%s' is no network: 192.168.1.0/24, 2001:db8::/32, 10.0.0.1",
                a->argv[2]);
        return verb_fail(&e);
    }
    if (db_exec(a->arena, NULL, &e,
                "insert into access_rule (service, type, network, allow, allow_unauth, users) "
                "values ($1, $2, $3, $4, $5, $6)",
                DB_ARGS(db_text(str_of(a->argv[0])), db_text(str_of(type)),
                        db_text(str_of(network ? a->argv[2] : "")),
                        db_bool(strcmp(a->argv[1], "allow") == 0), db_bool(unauth),
                        db_text(str_of(users ? users : "")))) != 0)
        return verb_fail(&e);
    shm_bump(GEN_ACL);
    out_say("rule added");
    return EXIT_OK;
}

int verb_access_list(struct args *a)
{
    static const char *const columns[] = {"id",      "service", "restrict", "type",
                                          "network", "unauth",  "users",    NULL};
    struct err e = ERR_INIT;
    const struct rows *r;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (db_exec(a->arena, &r, &e,
                "select id, service, allow, type, network, allow_unauth, users from access_rule "
                "order by service, id",
                0, NULL) != 0)
        return verb_fail(&e);
    out_table(columns);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        out_int(rows_int(r, i, 0));
        out_str(rows_str(r, i, 1));
        out_str(rows_bool(r, i, 2) ? STR("allow") : STR("block"));
        out_str(rows_str(r, i, 3));
        out_str(rows_str(r, i, 4));
        out_bool(rows_bool(r, i, 5));
        out_str(rows_str(r, i, 6));
        out_row();
    }
    out_end();
    return EXIT_OK;
}

int verb_access_remove(struct args *a)
{
    struct err e = ERR_INIT;
    const struct rows *r;
    uint64_t id;

    if (a->argc != 1 || !str_u64(str_of(a->argv[0]), &id))
        return EXIT_USAGE;
    if (db_exec(a->arena, &r, &e, "delete from access_rule where id = $1",
                DB_ARGS(db_int((int64_t)id))) != 0)
        return verb_fail(&e);
    if (rows_affected(r) == 0) {
        err_set(&e, ERR_NOTFOUND, "there is no rule %s", a->argv[0]);
        return verb_fail(&e);
    }
    shm_bump(GEN_ACL);
    out_say("rule removed");
    return EXIT_OK;
}
