/* Verbs about the installation: check, status, stop, backup, restore. */
#include "app/install.h"
#include "app/out.h"
#include "app/verb.h"
#include "core/config.h"
#include "core/proc.h"
#include "store/backup.h"
#include "store/cluster.h"
#include "store/db.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STOP_TENTHS = 500 };

static void nap(void)
{
    struct timespec ts = {0, 100000000};
    nanosleep(&ts, NULL);
}

int verb_check(struct args *a)
{
    struct install in;
    struct err e = ERR_INIT;
    bool started = false;

    if (a->argc != 0)
        return EXIT_USAGE;
    if (install_prepare(&in, &e) != 0)
        return verb_fail(&e);
    if (config.dsn[0] == '\0' && cluster_running(config.data)) {
        if (cluster_conninfo(config.data, in.conninfo, sizeof in.conninfo, &e) != 0)
            return verb_fail(&e);
    } else {
        if (install_database(&in, &e) != 0)
            return verb_fail(&e);
        started = in.postgres != 0;
    }
    int rc = cluster_check(in.conninfo, &e);
    struct err stop = ERR_INIT;
    if (started && cluster_stop(config.data, true, &stop) != 0)
        verb_fail(&stop);
    if (rc != 0)
        return verb_fail(&e);
    out_say("database and data folder %s are in order", config.data);
    return EXIT_OK;
}

int verb_status(struct args *a)
{
    static const char *const columns[] = {"server", "users", "domains", "queue", "waiting", NULL};
    struct err e = ERR_INIT;
    const struct rows *r;
    pid_t pid = install_server_pid();

    if (a->argc != 0)
        return EXIT_USAGE;
    if (db_exec(a->arena, &r, &e,
                "select (select count(*) from account), (select count(*) from domain), "
                "(select count(*) from queue where state in ('wait', 'active', 'hold')), "
                "(select count(*) from arrival)",
                0, NULL) != 0)
        return verb_fail(&e);
    out_table(columns);
    out_str(pid ? arena_printf(a->arena, "running, pid %d", (int)pid) : STR("not running"));
    for (uint32_t c = 0; c < 4; c++)
        out_int(rows_int(r, 0, c));
    out_row();
    out_end();
    return pid ? EXIT_OK : EXIT_NO;
}

int verb_stop(struct args *a)
{
    struct err e = ERR_INIT;
    pid_t pid = install_server_pid();

    if (a->argc != 0)
        return EXIT_USAGE;
    if (pid == 0) {
        err_set(&e, ERR_NOTFOUND, "no server is running on %s", config.data);
        return verb_fail(&e);
    }
    if (kill(pid, SIGTERM) != 0) {
        err_set(&e, ERR_DENIED, "cannot signal process %d: %s", (int)pid, strerror(errno));
        return verb_fail(&e);
    }
    for (int i = 0; i < STOP_TENTHS; i++) {
        if (install_lock(&e) == 0) { /* it has let go of its folder */
            out_say("stopped");
            return EXIT_OK;
        }
        nap();
    }
    err_set(&e, ERR_TIMEOUT, "process %d has not ended yet", (int)pid);
    return verb_fail(&e);
}

int verb_backup(struct args *a)
{
    struct err e = ERR_INIT;
    char conninfo[1200];

    if (a->argc != 1)
        return EXIT_USAGE;
    if (config.dsn[0] != '\0')
        snprintf(conninfo, sizeof conninfo, "%s", config.dsn);
    else if (!cluster_running(config.data)) {
        err_set(&e, ERR_TEMP, "the database below %s is not running: start the server first",
                config.data);
        return verb_fail(&e);
    } else if (cluster_conninfo(config.data, conninfo, sizeof conninfo, &e) != 0) {
        return verb_fail(&e);
    }
    if (backup_run(conninfo, a->argv[0], &e) != 0)
        return verb_fail(&e);
    out_say("backup written to %s", a->argv[0]);
    return EXIT_OK;
}

int verb_restore(struct args *a)
{
    struct install in;
    struct err e = ERR_INIT;

    if (a->argc != 1)
        return EXIT_USAGE;
    if (install_prepare(&in, &e) != 0)
        return verb_fail(&e);
    uid_t uid = in.uid == (uid_t)-1 ? CLUSTER_SAME_USER : in.uid;
    if (backup_restore(a->argv[0], config.data, uid, in.gid, &e) != 0)
        return verb_fail(&e);
    out_say("restored into %s; clients see higher UIDs for what arrives from now on", config.data);
    return EXIT_OK;
}
