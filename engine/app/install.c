#include "app/install.h"

#include "core/config.h"
#include "core/log.h"
#include "core/proc.h"
#include "store/cluster.h"
#include "store/migrate.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const folders[] = {"run", "tls", "spool", "log"};

int install_prepare(struct install *in, struct err *e)
{
    char path[700];

    *in = (struct install){.uid = (uid_t)-1, .gid = (gid_t)-1};
    if (geteuid() == 0 && proc_lookup_user(config.user, &in->uid, &in->gid, e) != 0)
        return -1;
    if (config.data[0] != '/') {
        char cwd[400], rel[512];
        snprintf(rel, sizeof rel, "%s", config.data);
        if (getcwd(cwd, sizeof cwd) == NULL ||
            snprintf(config.data, sizeof config.data, "%s/%s", cwd, rel) >= (int)sizeof config.data)
            return err_set(e, ERR_SYNTAX, "data folder's path is too long");
    }
    if (proc_make_folder(config.data, in->uid, in->gid, e) != 0)
        return -1;
    /* A folder made by hand for root would lock the service user out. */
    struct stat st;
    if (in->uid != (uid_t)-1 && stat(config.data, &st) == 0 && st.st_uid != in->uid &&
        chown(config.data, in->uid, in->gid) != 0)
        return err_set(e, ERR_DENIED, "chown %s: %s", config.data, strerror(errno));
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        if (!config_path(folders[i], path, sizeof path) ||
            proc_make_folder(path, in->uid, in->gid, e) != 0)
            return -1;
    return 0;
}

int install_lock(struct err *e)
{
    char path[700];

    config_path("run/lock", path, sizeof path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_set(e, ERR_DENIED, "cannot open %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        close(fd);
        return err_set(e, ERR_EXISTS, "a server is running on %s already", config.data);
    }
    return 0; /* the descriptor is the lock and stays open */
}

pid_t install_server_pid(void)
{
    char path[700], text[32] = "";

    config_path("run/pid", path, sizeof path);
    FILE *f = fopen(path, "r");
    if (f == NULL)
        return 0;
    pid_t pid = fgets(text, sizeof text, f) ? (pid_t)strtol(text, NULL, 10) : 0;
    fclose(f);
    return pid > 1 && (kill(pid, 0) == 0 || errno == EPERM) ? pid : 0;
}

int install_write_pid(struct err *e)
{
    char path[700];

    config_path("run/pid", path, sizeof path);
    FILE *f = fopen(path, "w");
    if (f == NULL || fprintf(f, "%d\n", (int)getpid()) < 0 || fclose(f) != 0)
        return err_set(e, ERR_DENIED, "cannot write %s: %s", path, strerror(errno));
    return 0;
}

int install_database(struct install *in, struct err *e)
{
    uid_t uid = in->uid == (uid_t)-1 || geteuid() != 0 ? CLUSTER_SAME_USER : in->uid;

    if (config.dsn[0] != '\0') {
        snprintf(in->conninfo, sizeof in->conninfo, "%s", config.dsn);
        if (cluster_check(in->conninfo, e) != 0)
            return -1;
    } else {
        if (!cluster_running(config.data) || in->postgres == 0) {
            log_info("app", "starting the database below %s", config.data);
            if (cluster_start(config.data, uid, in->gid, &in->postgres, e) != 0)
                return err_wrap(e, "database");
        }
        if (cluster_conninfo(config.data, in->conninfo, sizeof in->conninfo, e) != 0)
            return -1;
    }
    return migrate_run(in->conninfo, e) == 0 ? 0 : err_wrap(e, "migration");
}
