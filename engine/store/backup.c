#include "store/backup.h"

#include "core/str.h"
#include "store/cluster.h"

#include <errno.h>
#include <libpq-fe.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

int backup_run(const char *conninfo, const char *dir, struct err *e)
{
    char program[600], log_path[PATH_MAX], target[PATH_MAX];

    if (cluster_program("pg_basebackup", program, sizeof program, e) != 0)
        return -1;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_set(e, ERR_INTERNAL, "%s: %s", dir, strerror(errno));
    if (realpath(dir, target) == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", dir, strerror(errno));
    int n = snprintf(log_path, sizeof log_path, "%s.log", target);
    if (n < 0 || (size_t)n >= sizeof log_path)
        return err_set(e, ERR_LIMIT, "the path is too long");
    const char *const argv[] = {program,         "-D", target,   "-d",
                                conninfo,        "-X", "stream", "--checkpoint=fast",
                                "--no-password", NULL};
    if (cluster_exec(argv, CLUSTER_SAME_USER, 0, log_path, e) != 0)
        return -1;
    unlink(log_path);
    return 0;
}

static const char *const raise_counters[] = {
    /* Where the numbers would run out, a new UIDVALIDITY tells clients to start again. */
    "update account_uidvalidity v set last = greatest(v.last, "
    "(select max(m.uidvalidity) from mailbox m where m.account = v.account)) + 1 "
    "where exists (select from mailbox m where m.account = v.account and "
    "m.uidnext > 4294967295 - 2 * 1048576)",
    "update mailbox m set uidvalidity = v.last from account_uidvalidity v "
    "where v.account = m.account and m.uidnext > 4294967295 - 2 * 1048576",
    "update mailbox set uidnext = least(uidnext + 1048576, 4294967294), "
    "highestmodseq = highestmodseq + 4294967296",
    "select setval('id_block', nextval('id_block') + 1024)",
    "delete from pop3_lease",
    "update lease set until = now()",
};

static int raise_all(const char *conninfo, struct err *e)
{
    PGconn *c = PQconnectdb(conninfo);
    int rc = 0;

    if (PQstatus(c) != CONNECTION_OK)
        rc = err_set(e, ERR_TEMP, "database: %.*s", (int)strcspn(PQerrorMessage(c), "\n"),
                     PQerrorMessage(c));
    PQclear(rc == 0 ? PQexec(c, "begin") : NULL);
    for (size_t i = 0; rc == 0 && i < sizeof raise_counters / sizeof *raise_counters; i++) {
        PGresult *res = PQexec(c, raise_counters[i]);
        if (PQresultStatus(res) != PGRES_COMMAND_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
            rc = err_set(e, ERR_INTERNAL, "restore: %.*s", (int)strcspn(PQerrorMessage(c), "\n"),
                         PQerrorMessage(c));
        PQclear(res);
    }
    if (rc == 0) {
        PGresult *res = PQexec(c, "commit");
        if (strcmp(PQcmdStatus(res), "COMMIT") != 0)
            rc = err_set(e, ERR_INTERNAL, "restore: the commit failed");
        PQclear(res);
    }
    PQfinish(c);
    return rc;
}

static int copy_tree(const char *from, const char *to, uid_t uid, gid_t gid, struct err *e)
{
    char owner[64], log_path[PATH_MAX + 64];
    const char *const copy[] = {"/bin/cp", "-a", "--", from, to, NULL};
    const char *const own[] = {"/bin/chown", "-R", owner, to, NULL};

    snprintf(log_path, sizeof log_path, "%s.log", to);
    if (cluster_exec(copy, CLUSTER_SAME_USER, 0, log_path, e) != 0)
        return -1;
    if (uid != CLUSTER_SAME_USER) {
        snprintf(owner, sizeof owner, "%ld:%ld", (long)uid, (long)gid);
        if (cluster_exec(own, CLUSTER_SAME_USER, 0, log_path, e) != 0 ||
            chown(log_path, uid, gid) != 0)
            return -1;
    }
    if (chmod(to, 0700) != 0)
        return err_set(e, ERR_INTERNAL, "%s: %s", to, strerror(errno));
    return 0;
}

int backup_restore(const char *dir, const char *datadir, uid_t uid, gid_t gid, struct err *e)
{
    char from[PATH_MAX], to[PATH_MAX + 16], data[PATH_MAX], conninfo[500];
    pid_t pid;

    if (realpath(dir, from) == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", dir, strerror(errno));
    snprintf(to, sizeof to, "%s/PG_VERSION", from);
    if (strlen(from) + 12 >= PATH_MAX || access(to, R_OK) != 0)
        return err_set(e, ERR_NOTFOUND, "%s is no backup", dir);
    if (realpath(datadir, data) == NULL)
        return err_set(e, ERR_NOTFOUND, "%s: %s", datadir, strerror(errno));
    snprintf(to, sizeof to, "%s/postgres", data);
    if (access(to, F_OK) == 0)
        return err_set(e, ERR_EXISTS, "%s exists already: restore into a new data directory", to);
    if (copy_tree(from, to, uid, gid, e) != 0 || cluster_start(datadir, uid, gid, &pid, e) != 0)
        return -1;
    int rc = cluster_conninfo(datadir, conninfo, sizeof conninfo, e);
    if (rc == 0)
        rc = raise_all(conninfo, e);
    struct err stopping = ERR_INIT;
    if (cluster_stop(datadir, true, rc == 0 ? e : &stopping) != 0)
        rc = -1;
    return rc;
}
