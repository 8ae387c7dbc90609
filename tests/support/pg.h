/* A private PostgreSQL for a test program: made in a folder below /tmp by store/cluster.c,
 * migrated, thrown away at the end.  As root it runs as the user postgres or nobody.  Header only.
 */
#pragma once

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "store/bus.h"
#include "store/cluster.h"
#include "store/db.h"
#include "store/deliver.h"
#include "store/migrate.h"
#include "store/setting.h"

#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static char test_pg_dir[64];
static char test_pg_conninfo[400];
static uid_t test_pg_uid = CLUSTER_SAME_USER;
static gid_t test_pg_gid;
static pid_t test_pg_pid;

static inline void test_pg_die(const char *what, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", what, e->text);
    exit(3);
}

/* The server is up and migrated; nothing is connected. */
static inline void test_pg_start(void)
{
    struct err e = ERR_INIT;
    struct cluster_options o = {.shared_buffers_mb = 96, .connections = 60};

    if (geteuid() == 0) {
        const struct passwd *pw = getpwnam("postgres");
        if (pw == NULL)
            pw = getpwnam("nobody");
        if (pw == NULL) {
            fprintf(stderr, "no user to run PostgreSQL as\n");
            exit(3);
        }
        test_pg_uid = pw->pw_uid;
        test_pg_gid = pw->pw_gid;
    }
    snprintf(test_pg_dir, sizeof test_pg_dir, "/tmp/mp-test-XXXXXX");
    if (mkdtemp(test_pg_dir) == NULL ||
        (test_pg_uid != CLUSTER_SAME_USER && chown(test_pg_dir, test_pg_uid, test_pg_gid) != 0)) {
        perror("mkdtemp");
        exit(3);
    }
    cluster_configure(&o);
    if (cluster_start(test_pg_dir, test_pg_uid, test_pg_gid, &test_pg_pid, &e) != 0)
        test_pg_die("cluster_start", &e);
    if (cluster_conninfo(test_pg_dir, test_pg_conninfo, sizeof test_pg_conninfo, &e) != 0)
        test_pg_die("cluster_conninfo", &e);
    if (migrate_run(test_pg_conninfo, &e) != 0)
        test_pg_die("migrate_run", &e);
}

static inline void test_pg_stop(void)
{
    char cmd[200];
    struct err e = ERR_INIT;

    if (cluster_stop(test_pg_dir, false, &e) != 0)
        fprintf(stderr, "cluster_stop: %s\n", e.text);
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", test_pg_dir);
    if (system(cmd) != 0)
        fprintf(stderr, "%s failed\n", cmd);
}

static inline void test_pg_load_settings(void *arg)
{
    struct err e = ERR_INIT;
    (void)arg;
    if (setting_load(&e) != 0)
        test_pg_die("setting_load", &e);
}

/* The same, and loop, shared segment, pools and settings of this process are ready. */
static inline void test_store_start(void)
{
    log_init("test", getenv("TEST_LOG") ? LOG_DEBUG : LOG_ERROR, false);
    test_pg_start();
    shm_create();
    shm_attach(1);
    loop_init();
    bus_open(-1);
    db_open(test_pg_conninfo, "moonpost_engine", DB_POOL);
    deliver_open();
    task_run_main(test_pg_load_settings, NULL);
}

static inline void test_store_drain(void *arg)
{
    (void)arg;
    deliver_drain();
}

static inline void test_store_stop(void)
{
    task_run_main(test_store_drain, NULL);
    db_close();
    bus_close();
    work_stop();
    task_pool_free();
    loop_free();
    test_pg_stop();
}
