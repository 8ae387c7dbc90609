/* The program: options, verbs, exit status (0 ok, 1 said no, 2 usage, 3 could not). */
#include "app/control.h"
#include "app/install.h"
#include "app/scratch.h"
#include "app/supervisor.h"
#include "app/verb.h"
#include "core/config.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "store/bus.h"
#include "store/cluster.h"
#include "store/db.h"
#include "store/setting.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct verb {
    const char *name, *sub;
    verb_fn *fn;
    bool database;
    const char *usage;
} verbs[] = {
    {"check", NULL, verb_check, false, "prove that the database and the data folder will do"},
    {"status", NULL, verb_status, true, "is a server running, and what is in it"},
    {"stop", NULL, verb_stop, false, "stop the running server in good order"},
    {"domain", "add", verb_domain_add, true, "DOMAIN: make it local"},
    {"domain", "list", verb_domain_list, true, "the local domains"},
    {"user", "add", verb_user_add, true, "NAME [--password P | --password-stdin] [--admin]"},
    {"user", "list", verb_user_list, true, "[PATTERN]: users with their mail"},
    {"user", "set", verb_user_set, true,
     "NAME FIELD VALUE, or NAME --password P | --password-stdin"},
    {"user", "remove", verb_user_remove, true, "NAME: the user and all mail of the user"},
    {"mapping", "add", verb_mapping_add, true,
     "ADDRESS TARGET [--type always|smtp|pop3|from] [--comment TEXT]"},
    {"mapping", "list", verb_mapping_list, true, "all mappings"},
    {"mapping", "remove", verb_mapping_remove, true, "ADDRESS TARGET"},
    {"access", "add", verb_access_add, true,
     "SERVICE allow|block any|any4|any6|local|NETWORK [--unauth] [--users A,B]"},
    {"access", "list", verb_access_list, true, "who may reach which service"},
    {"access", "remove", verb_access_remove, true, "ID, as access list shows it"},
    {"setting", "get", verb_setting_get, true, "NAME: value, default and meaning"},
    {"setting", "set", verb_setting_set, true, "NAME VALUE"},
    {"setting", "list", verb_setting_list, true, "[PATTERN]: such as smtp.*"},
    {"script", "list", verb_script_list, true, "scripts of the site and shipped ones"},
    {"script", "get", verb_script_get, true, "NAME: its text"},
    {"script", "put", verb_script_put, true,
     "NAME FILE [--note TEXT]: check and activate; FILE may be -"},
    {"script", "check", verb_script_check, true, "NAME FILE: would it be accepted?"},
    {"script", "run", verb_script_run, true, "NAME | FILE: by hand, with its output"},
    {"script", "test", verb_script_test, true, "FILE | FOLDER: *_spec.lua"},
    {"script", "history", verb_script_history, true, "releases, newest first"},
    {"script", "rollback", verb_script_rollback, true, "RELEASE: make its files active again"},
    {"message", "import", verb_message_import, true, "USER FILE.eml|MAILDIR... [--mailbox NAME]"},
    {"message", "source", verb_message_source, true, "ID: a stored message as it is"},
    {"message", "trace", verb_message_trace, true, "TRACE: why a message went where it went"},
    {"queue", "list", verb_queue_list, true, "mail that waits to be sent"},
    {"backup", NULL, verb_backup, false, "FOLDER: base backup with WAL"},
    {"restore", NULL, verb_restore, false, "FOLDER: into an empty data folder"},
};

static int usage(const char *verb)
{
    FILE *f = verb ? stderr : stdout;
    bool known = false;

    for (size_t i = 0; verb && i < sizeof verbs / sizeof verbs[0]; i++)
        known |= strcmp(verbs[i].name, verb) == 0;
    if (verb == NULL || !known)
        fprintf(f,
                "moonpost %s\n\n"
                "moonpost serve [--data DIR] [--dsn CONNINFO] [--listen ADDR]... [--port-base N]\n"
                "               [--workers N] [--user NAME] [--single] [--safe]\n\n"
                "All other verbs take --data DIR or --dsn CONNINFO, and --json:\n",
                MOONPOST_VERSION);
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (!known || strcmp(verbs[i].name, verb) == 0)
            fprintf(f, "  %-7s %-9s %s\n", verbs[i].name, verbs[i].sub ? verbs[i].sub : "",
                    verbs[i].usage);
    return verb ? EXIT_USAGE : EXIT_OK;
}

const char *args_option(struct args *a, const char *name)
{
    for (int i = 0; i < a->argc; i++) {
        size_t n = strlen(name);
        if (strncmp(a->argv[i], name, n) == 0 && a->argv[i][n] == '=') {
            const char *v = a->argv[i] + n + 1;
            memmove(a->argv + i, a->argv + i + 1, (size_t)(a->argc - i - 1) * sizeof *a->argv);
            a->argc--;
            return v;
        }
        if (strcmp(a->argv[i], name) == 0 && i + 1 < a->argc) {
            const char *v = a->argv[i + 1];
            memmove(a->argv + i, a->argv + i + 2, (size_t)(a->argc - i - 2) * sizeof *a->argv);
            a->argc -= 2;
            return v;
        }
    }
    return NULL;
}

bool args_flag(struct args *a, const char *name)
{
    for (int i = 0; i < a->argc; i++)
        if (strcmp(a->argv[i], name) == 0) {
            memmove(a->argv + i, a->argv + i + 1, (size_t)(a->argc - i - 1) * sizeof *a->argv);
            a->argc--;
            return true;
        }
    return false;
}

int verb_fail(const struct err *e)
{
    fprintf(stderr, "moonpost: %s\n", e->text);
    switch (e->cls) {
    case ERR_SYNTAX:
    case ERR_NOTFOUND:
    case ERR_EXISTS:
    case ERR_DENIED:
    case ERR_PERM:
        return EXIT_NO;
    default:
        return EXIT_COULD_NOT;
    }
}

struct verb_run {
    const struct verb *verb;
    struct args args;
    int status;
};

static void verb_task(void *arg)
{
    struct verb_run *r = arg;
    struct err e = ERR_INIT;

    if (setting_load(&e) != 0) {
        r->status = verb_fail(&e);
        return;
    }
    r->status = r->verb->fn(&r->args);
}

/* A verb that needs the database: uses the running one, or starts the embedded one for as long as
 * the verb takes. */
static int run_with_database(struct verb_run *r)
{
    struct install in;
    struct err e = ERR_INIT;
    bool started = false;

    shm_create();
    shm_attach(0);
    if (install_prepare(&in, &e) != 0)
        return verb_fail(&e);
    if (config.dsn[0] == '\0' && cluster_running(config.data)) {
        if (cluster_conninfo(config.data, in.conninfo, sizeof in.conninfo, &e) != 0)
            return verb_fail(&e);
    } else {
        log_init("moonpost", LOG_WARN, false);
        if (install_database(&in, &e) != 0)
            return verb_fail(&e);
        started = in.postgres != 0;
    }
    loop_init();
    control_attach();
    db_open(in.conninfo, "moonpost_engine", 2);
    scratch_prepare(in.conninfo);
    bus_open(control_bus());
    task_run_main(verb_task, r);
    bus_close();
    db_close();
    work_stop();
    if (started && cluster_stop(config.data, true, &e) != 0)
        verb_fail(&e);
    return r->status;
}

static int run_verb(const struct verb *v, int argc, char **argv)
{
    struct verb_run r = {.verb = v, .args = {argc, argv, arena_new(4096)}};

    log_init("moonpost", getenv("MOONPOST_DEBUG") ? LOG_DEBUG : LOG_WARN, false);
    int status = v->database ? run_with_database(&r) : v->fn(&r.args);
    arena_free(&r.args.arena);
    if (status == EXIT_USAGE)
        usage(v->name);
    return status;
}

static bool number(const char *text, unsigned *r)
{
    uint32_t v;
    if (!str_u32(str_of(text), &v))
        return false;
    *r = v;
    return true;
}

/* Options of all verbs; false: a value is missing or malformed. */
static bool common_options(struct args *a)
{
    const char *v;

    if ((v = args_option(a, "--data")) != NULL)
        snprintf(config.data, sizeof config.data, "%s", v);
    if ((v = args_option(a, "--dsn")) != NULL)
        snprintf(config.dsn, sizeof config.dsn, "%s", v);
    if ((v = args_option(a, "--user")) != NULL)
        snprintf(config.user, sizeof config.user, "%s", v);
    config.json = args_flag(a, "--json");
    return true;
}

static bool serve_options(struct args *a)
{
    const char *v;

    while ((v = args_option(a, "--listen")) != NULL) {
        if (config.listen_count == 16)
            return false;
        snprintf(config.listen[config.listen_count++], sizeof config.listen[0], "%s", v);
    }
    if ((v = args_option(a, "--port-base")) != NULL && !number(v, &config.port_base))
        return false;
    if ((v = args_option(a, "--workers")) != NULL && !number(v, &config.workers))
        return false;
    config.single = args_flag(a, "--single");
    config.safe = args_flag(a, "--safe");
    return a->argc == 0;
}

int main(int argc, char **argv)
{
    struct args a = {argc - 1, argv + 1, NULL};

    config_init();
    signal(SIGPIPE, SIG_IGN);
    if (a.argc == 0 || strcmp(a.argv[0], "--help") == 0 || strcmp(a.argv[0], "help") == 0)
        return usage(NULL);
    if (strcmp(a.argv[0], "--version") == 0) {
        puts("moonpost " MOONPOST_VERSION);
        return EXIT_OK;
    }
    if (strcmp(a.argv[0], "scratch") == 0 && a.argc == 1)
        return scratch_main();
    if (!common_options(&a) || a.argc == 0)
        return usage("");
    const char *name = a.argv[0];
    a.argc--;
    a.argv++;
    if (strcmp(name, "serve") == 0) {
        if (serve_options(&a))
            return supervisor_main();
        fprintf(stderr, "moonpost: unknown or malformed option of serve\n");
        return usage("");
    }
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
        const struct verb *v = &verbs[i];
        if (strcmp(v->name, name) != 0)
            continue;
        if (v->sub == NULL)
            return run_verb(v, a.argc, a.argv);
        if (a.argc > 0 && strcmp(v->sub, a.argv[0]) == 0)
            return run_verb(v, a.argc - 1, a.argv + 1);
    }
    fprintf(stderr, "moonpost: unknown verb '%s%s%s'\n", name, a.argc ? " " : "",
            a.argc ? a.argv[0] : "");
    return usage(name);
}
