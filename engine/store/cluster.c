#include "store/cluster.h"

#include "core/arena.h"
#include "core/log.h"
#include "core/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <libpq-fe.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    START_SECONDS = 30, /* old backends may hold the shared memory for a moment */
    STOP_SECONDS = 30,
    SOCKET_PATH_MAX = 107, /* sun_path */
    SOCKET_NAME_MAX = 24,  /* "/.s.PGSQL.5432.lock" and its NUL */
    VERSION_LEAST = 15
};

static struct cluster_options options;

void cluster_configure(const struct cluster_options *o)
{
    options = o ? *o : (struct cluster_options){0};
}

static void pause_ms(long ms)
{
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&ts, &ts) != 0 && errno == EINTR)
        ;
}

static long now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec;
}

/* --- the programs ------------------------------------------------------------------------------
 */
static bool try_dir(const char *dir, const char *name, char *out, size_t size)
{
    int n = snprintf(out, size, "%s/%s", dir, name);
    return n > 0 && (size_t)n < size && access(out, X_OK) == 0;
}

/* Version of a bin folder, by asking its postgres: "postgres (PostgreSQL) 15.4". */
static int dir_version(const char *dir)
{
    char cmd[600];
    int version = 0;

    snprintf(cmd, sizeof cmd, "'%s/postgres' --version 2>/dev/null", dir);
    if (strchr(dir, '\'') != NULL)
        return 0;
    FILE *f = popen(cmd, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "postgres (PostgreSQL) %d", &version) != 1)
        version = 0;
    pclose(f);
    return version;
}

static bool from_pg_config(char *dir, size_t size)
{
    FILE *f = popen("pg_config --bindir 2>/dev/null", "re");
    bool ok = f != NULL && fgets(dir, (int)size, f) != NULL;

    if (f != NULL)
        pclose(f);
    if (!ok)
        return false;
    dir[strcspn(dir, "\n")] = '\0';
    return dir_version(dir) >= VERSION_LEAST;
}

static bool newest_dir(char *dir, size_t size)
{
    static const char root[] = "/usr/lib/postgresql";
    DIR *d = opendir(root);
    struct dirent *entry;
    uint32_t best = 0, version;

    if (d == NULL)
        return false;
    while ((entry = readdir(d)) != NULL) {
        char path[600];
        if (!str_u32(str_of(entry->d_name), &version) || version < VERSION_LEAST || version <= best)
            continue;
        snprintf(path, sizeof path, "%s/%s/bin/postgres", root, entry->d_name);
        if (access(path, X_OK) == 0)
            best = version;
    }
    closedir(d);
    if (best == 0)
        return false;
    snprintf(dir, size, "%s/%u/bin", root, best);
    return true;
}

int cluster_program(const char *name, char *out, size_t size, struct err *e)
{
    static char dir[500];
    static bool known;

    if (!known)
        known = newest_dir(dir, sizeof dir) || from_pg_config(dir, sizeof dir);
    if (!known || !try_dir(dir, name, out, size))
        return err_set(e, ERR_NOTFOUND, "PostgreSQL %d or newer is not installed: no program %s",
                       VERSION_LEAST, name);
    return 0;
}

/* --- paths --------------------------------------------------------------------------------------
 */
static int pg_dir(const char *datadir, char *out, size_t size, struct err *e)
{
    char real[PATH_MAX];

    if (realpath(datadir, real) == NULL)
        return err_set(e, ERR_NOTFOUND, "data directory %s: %s", datadir, strerror(errno));
    int n = snprintf(out, size, "%s/postgres", real);
    if (n < 0 || (size_t)n >= size)
        return err_set(e, ERR_LIMIT, "the path of the data directory is too long");
    return 0;
}

/* Where the socket lies: below the data directory, or, when that path is too long for a socket
 * address, in a private folder whose name is kept in a file. */
static int socket_dir(const char *datadir, bool make, uid_t uid, gid_t gid, char *out, size_t size,
                      struct err *e)
{
    char dir[PATH_MAX], note[PATH_MAX + 16];

    if (pg_dir(datadir, dir, sizeof dir, e) != 0)
        return -1;
    int n = snprintf(out, size, "%.*s/run", (int)(strlen(dir) - strlen("/postgres")), dir);
    if (n > 0 && n + SOCKET_NAME_MAX <= SOCKET_PATH_MAX) {
        if (make && mkdir(out, 0700) != 0 && errno != EEXIST)
            return err_set(e, ERR_INTERNAL, "%s: %s", out, strerror(errno));
    } else {
        snprintf(note, sizeof note, "%s.socket", dir);
        FILE *f = fopen(note, "re");
        bool have = f != NULL && fgets(out, (int)size, f) != NULL;
        struct stat st;
        if (f != NULL)
            fclose(f);
        if (have)
            out[strcspn(out, "\n")] = '\0';
        /* Somebody else's folder of that name would be a trap. */
        if (have && (lstat(out, &st) != 0 || !S_ISDIR(st.st_mode) || (st.st_mode & 077) != 0 ||
                     (st.st_uid != geteuid() && st.st_uid != uid && geteuid() != 0)))
            have = false;
        if (!have && !make)
            return err_set(e, ERR_NOTFOUND, "the private PostgreSQL was never started");
        if (!have) {
            snprintf(out, size, "/tmp/moonpost-XXXXXX");
            if (mkdtemp(out) == NULL)
                return err_set(e, ERR_INTERNAL, "mkdtemp: %s", strerror(errno));
            f = fopen(note, "we");
            if (f == NULL || fprintf(f, "%s\n", out) < 0 || fclose(f) != 0)
                return err_set(e, ERR_INTERNAL, "%s: %s", note, strerror(errno));
        }
    }
    if (make && uid != CLUSTER_SAME_USER && chown(out, uid, gid) != 0)
        return err_set(e, ERR_INTERNAL, "chown %s: %s", out, strerror(errno));
    return 0;
}

int cluster_conninfo(const char *datadir, char *out, size_t size, struct err *e)
{
    char dir[256];

    if (socket_dir(datadir, false, CLUSTER_SAME_USER, 0, dir, sizeof dir, e) != 0)
        return -1;
    int n = snprintf(out, size,
                     "host='%s' port=5432 dbname=moonpost user=moonpost "
                     "application_name=moonpost_embedded",
                     dir);
    if (n < 0 || (size_t)n >= size || strchr(dir, '\'') != NULL)
        return err_set(e, ERR_LIMIT, "the socket path cannot be used");
    return 0;
}

/* --- child processes
 * ------------------------------------------------------------------------------- */
/* In the child: become the service user for good. */
static void become(uid_t uid, gid_t gid)
{
    if (uid == CLUSTER_SAME_USER || uid == geteuid())
        return;
    if (setgroups(0, NULL) != 0 || setgid(gid) != 0 || setuid(uid) != 0)
        _exit(126);
}

static void child_setup(uid_t uid, gid_t gid, const char *log_path)
{
    sigset_t none;
    pid_t parent = getppid();

    /* Its own process group: Ctrl-C in a terminal must not stop the database before us. */
    setpgid(0, 0);
    become(uid, gid);
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null >= 0)
        dup2(null, 0);
    if (fd >= 0) {
        dup2(fd, 1);
        dup2(fd, 2);
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int s = 1; s < 32; s++)
        signal(s, SIG_DFL);
    unsetenv("PGPORT");
    unsetenv("PGHOST");
    unsetenv("PGDATA");
    setenv("LC_ALL", "C", 1);
    /* After setuid, which clears it: a postmaster without its supervisor shuts down. */
    prctl(PR_SET_PDEATHSIG, SIGINT);
    if (getppid() != parent)
        _exit(125);
}

int cluster_exec(const char *const *argv, uid_t uid, gid_t gid, const char *log_path, struct err *e)
{
    int status;
    pid_t pid = fork();

    if (pid < 0)
        return err_set(e, ERR_TEMP, "fork: %s", strerror(errno));
    if (pid == 0) {
        child_setup(uid, gid, log_path);
        if (chdir("/") != 0)
            _exit(124);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return err_set(e, ERR_INTERNAL, "%s failed (status %d): see %s", argv[0], status, log_path);
    return 0;
}

int cluster_init(const char *datadir, uid_t uid, gid_t gid, struct err *e)
{
    char dir[PATH_MAX], version[PATH_MAX + 16], program[600], log_path[PATH_MAX + 16];

    if (pg_dir(datadir, dir, sizeof dir, e) != 0)
        return -1;
    snprintf(version, sizeof version, "%s/PG_VERSION", dir);
    if (access(version, F_OK) == 0)
        return 0;
    if (cluster_program("initdb", program, sizeof program, e) != 0)
        return -1;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return err_set(e, ERR_INTERNAL, "%s: %s", dir, strerror(errno));
    if (uid != CLUSTER_SAME_USER && chown(dir, uid, gid) != 0)
        return err_set(e, ERR_INTERNAL, "chown %s: %s", dir, strerror(errno));
    snprintf(log_path, sizeof log_path, "%s/../postgres.log", dir);
    int fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd >= 0) {
        if (uid != CLUSTER_SAME_USER && fchown(fd, uid, gid) != 0)
            log_warn("store", "chown %s: %s", log_path, strerror(errno));
        close(fd);
    }
    const char *const argv[] = {program,
                                "-D",
                                dir,
                                "-U",
                                "moonpost",
                                "-E",
                                "UTF8",
                                "--locale=C",
                                "--auth-local=trust",
                                "--auth-host=reject",
                                "--data-checksums",
                                "--no-instructions",
                                NULL};
    return cluster_exec(argv, uid, gid, log_path, e);
}

/* --- a postmaster that is there already
 * ------------------------------------------------------------- */
/* Its pid, or 0: the pid of the file must be a postgres that works in this folder. */
static pid_t postmaster_pid(const char *dir)
{
    char path[PATH_MAX + 32], cwd[PATH_MAX];
    long pid = 0;

    snprintf(path, sizeof path, "%s/postmaster.pid", dir);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return 0;
    if (fscanf(f, "%ld", &pid) != 1)
        pid = 0;
    fclose(f);
    if (pid <= 1 || kill((pid_t)pid, 0) != 0)
        return 0;
    snprintf(path, sizeof path, "/proc/%ld/cwd", pid);
    ssize_t n = readlink(path, cwd, sizeof cwd - 1);
    if (n < 0)
        return errno == ENOENT ? 0 : (pid_t)pid;
    cwd[n] = '\0';
    return strcmp(cwd, dir) == 0 ? (pid_t)pid : 0;
}

bool cluster_running(const char *datadir)
{
    char dir[PATH_MAX];
    return pg_dir(datadir, dir, sizeof dir, NULL) == 0 && postmaster_pid(dir) != 0;
}

/* Gone, or a zombie that its parent has yet to collect. */
static bool process_gone(pid_t pid)
{
    char path[64], state = 0;

    if (waitpid(pid, NULL, WNOHANG) == pid || kill(pid, 0) != 0)
        return true;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *f = fopen(path, "re");
    if (f == NULL)
        return true;
    if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
        state = 0;
    fclose(f);
    return state == 'Z';
}

static int stop_pid(pid_t pid, int signo, struct err *e)
{
    long until = now_s() + STOP_SECONDS;

    kill(pid, signo);
    while (!process_gone(pid)) {
        if (now_s() > until + STOP_SECONDS)
            return err_set(e, ERR_TIMEOUT, "PostgreSQL (process %ld) does not end", (long)pid);
        if (now_s() > until)
            kill(pid, SIGQUIT);
        pause_ms(20);
    }
    return 0;
}

int cluster_stop(const char *datadir, bool fast, struct err *e)
{
    char dir[PATH_MAX];

    if (pg_dir(datadir, dir, sizeof dir, e) != 0)
        return -1;
    pid_t pid = postmaster_pid(dir);
    return pid == 0 ? 0 : stop_pid(pid, fast ? SIGINT : SIGQUIT, e);
}

/* --- starting
 * -------------------------------------------------------------------------------------- */
/* Mail is written once and read seldom, and the kernel caches it, too: measured, 256 MB took in
 * mail no faster than 64 MB, and each page of it counts as memory of ours. */
static unsigned buffers_mb(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    long long mb = (long long)pages * size / (1024 * 1024) / 32;

    if (options.shared_buffers_mb)
        return options.shared_buffers_mb;
    return mb < 32 ? 32 : mb > 64 ? 64 : (unsigned)mb;
}

static int write_conf(const char *dir, const char *socket, uid_t uid, gid_t gid, struct err *e)
{
    char path[PATH_MAX + 32];

    snprintf(path, sizeof path, "%s/postgresql.conf", dir);
    FILE *f = fopen(path, "we");
    if (f == NULL)
        return err_set(e, ERR_INTERNAL, "%s: %s", path, strerror(errno));
    fprintf(f,
            "# Written by moonpost at each start; changes belong into moonpost.conf beside it.\n"
            "listen_addresses = ''\n"
            "unix_socket_directories = '%s'\n"
            "unix_socket_permissions = 0700\n"
            "max_connections = %u\n"
            "shared_buffers = %uMB\n"
            "dynamic_shared_memory_type = mmap\n"
            "fsync = on\n"
            "full_page_writes = on\n"
            "synchronous_commit = on\n"
            "wal_compression = off\n"
            /* A new log file of 16 MB is not filled with zeros first: everybody's commit would wait
             * for that, and after a large message for one such file after the other. */
            "wal_init_zero = off\n"
            "wal_level = replica\n"
            "max_wal_senders = 4\n"
            "max_wal_size = 4GB\n"
            "min_wal_size = 256MB\n"
            "checkpoint_timeout = 15min\n"
            "jit = off\n"
            "random_page_cost = 1.1\n"
            "autovacuum_naptime = 20s\n"
            "log_min_messages = warning\n"
            "log_line_prefix = '%%m [%%p] '\n"
            "lc_messages = 'C'\n"
            "timezone = 'UTC'\n"
            "log_timezone = 'UTC'\n"
            "include_if_exists = 'moonpost.conf'\n",
            socket, options.connections ? options.connections : 200, buffers_mb());
    bool ok = ferror(f) == 0;
    ok = fclose(f) == 0 && ok;
    if (uid != CLUSTER_SAME_USER && chown(path, uid, gid) != 0)
        ok = false;
    return ok ? 0 : err_set(e, ERR_INTERNAL, "%s: %s", path, strerror(errno));
}

int cluster_spawn(const char *datadir, uid_t uid, gid_t gid, pid_t *pid_r, struct err *e)
{
    char dir[PATH_MAX], socket[256], program[600], log_path[PATH_MAX + 32];

    if (pg_dir(datadir, dir, sizeof dir, e) != 0 ||
        cluster_program("postgres", program, sizeof program, e) != 0)
        return -1;
    pid_t old = postmaster_pid(dir);
    if (old != 0) {
        log_warn("store", "stopping PostgreSQL %ld that outlived its supervisor", (long)old);
        if (stop_pid(old, SIGINT, e) != 0)
            return -1;
    }
    if (socket_dir(datadir, true, uid, gid, socket, sizeof socket, e) != 0 ||
        write_conf(dir, socket, uid, gid, e) != 0)
        return -1;
    snprintf(log_path, sizeof log_path, "%s/../postgres.log", dir);
    pid_t pid = fork();
    if (pid < 0)
        return err_set(e, ERR_TEMP, "fork: %s", strerror(errno));
    if (pid == 0) {
        child_setup(uid, gid, log_path);
        if (chdir("/") != 0)
            _exit(124);
        execl(program, program, "-D", dir, (char *)NULL);
        _exit(127);
    }
    *pid_r = pid;
    return 0;
}

/* 1: answers, 0: not yet, -1: refused for good. */
static int try_connect(const char *datadir, struct err *e)
{
    char dir[256], info[400];

    if (socket_dir(datadir, false, CLUSTER_SAME_USER, 0, dir, sizeof dir, e) != 0)
        return -1;
    snprintf(info, sizeof info,
             "host='%s' port=5432 dbname=postgres user=moonpost "
             "connect_timeout=5",
             dir);
    PGconn *c = PQconnectdb(info);
    int rc = 0;
    if (PQstatus(c) == CONNECTION_OK) {
        PGresult *res = PQexec(c, "select 1 from pg_database where datname = 'moonpost'");
        bool known = PQntuples(res) == 1;
        PQclear(res);
        rc = 1;
        if (!known) {
            res = PQexec(c, "create database moonpost");
            if (PQresultStatus(res) != PGRES_COMMAND_OK)
                rc = err_set(e, ERR_INTERNAL, "create database: %.*s",
                             (int)strcspn(PQerrorMessage(c), "\n"), PQerrorMessage(c));
            PQclear(res);
        }
    } else {
        err_set(e, ERR_TEMP, "PostgreSQL does not answer: %.*s",
                (int)strcspn(PQerrorMessage(c), "\n"), PQerrorMessage(c));
    }
    PQfinish(c);
    return rc;
}

int cluster_start(const char *datadir, uid_t uid, gid_t gid, pid_t *pid_r, struct err *e)
{
    long until = now_s() + START_SECONDS;
    pid_t pid = 0;

    if (cluster_init(datadir, uid, gid, e) != 0)
        return -1;
    for (;;) {
        if (pid == 0 && cluster_spawn(datadir, uid, gid, &pid, e) != 0)
            return -1;
        int rc = try_connect(datadir, e);
        if (rc > 0) {
            *pid_r = pid;
            return 0;
        }
        if (rc < 0 || now_s() > until) {
            stop_pid(pid, SIGQUIT, NULL);
            return -1;
        }
        if (waitpid(pid, NULL, WNOHANG) == pid) {
            pid = 0;
            pause_ms(500);
        }
        /* Recovery after a crash may take long, and is no reason to give up. */
        if (e != NULL && strstr(e->text, "starting up") != NULL)
            until = now_s() + START_SECONDS;
        pause_ms(30);
    }
}

/* --- somebody else's PostgreSQL
 * --------------------------------------------------------------------- */
static bool ask(PGconn *c, const char *sql, char *out, size_t size)
{
    PGresult *res = PQexec(c, sql);
    bool ok = PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1;

    snprintf(out, size, "%s", ok ? PQgetvalue(res, 0, 0) : "");
    PQclear(res);
    return ok;
}

static int check(PGconn *c, struct err *e)
{
    static const char *const must_be_on[] = {"fsync", "full_page_writes", "synchronous_commit"};
    char value[200], sql[100];

    if (PQstatus(c) != CONNECTION_OK)
        return err_set(e, ERR_TEMP, "database: %.*s", (int)strcspn(PQerrorMessage(c), "\n"),
                       PQerrorMessage(c));
    if (PQserverVersion(c) < VERSION_LEAST * 10000)
        return err_set(e, ERR_PERM, "PostgreSQL %d is too old: %d or newer is needed",
                       PQserverVersion(c) / 10000, VERSION_LEAST);
    if (!ask(c, "show server_encoding", value, sizeof value) || strcmp(value, "UTF8") != 0)
        return err_set(e, ERR_PERM, "the database's encoding is %s: it must be UTF8", value);
    for (size_t i = 0; i < sizeof must_be_on / sizeof *must_be_on; i++) {
        snprintf(sql, sizeof sql, "show %s", must_be_on[i]);
        ask(c, sql, value, sizeof value);
        bool fine =
            strcmp(value, "on") == 0 ||
            (i == 2 && (strcmp(value, "remote_write") == 0 || strcmp(value, "remote_apply") == 0));
        if (!fine)
            return err_set(e, ERR_PERM, "%s is %s: mail could be lost; it must be on",
                           must_be_on[i], value);
    }
    /* A pooler makes up the process id that it gives to its clients. */
    ask(c, "select pg_backend_pid()", value, sizeof value);
    if (atoi(value) != PQbackendPID(c))
        return err_set(e, ERR_PERM,
                       "a connection pooler stands before the database: connect to PostgreSQL "
                       "itself");
    ask(c, "select pg_is_in_recovery()", value, sizeof value);
    if (strcmp(value, "f") != 0)
        return err_set(e, ERR_PERM,
                       "this server is a standby: add target_session_attrs="
                       "read-write and the primary's address");
    ask(c, "select has_schema_privilege(current_schema(), 'create')", value, sizeof value);
    if (strcmp(value, "t") != 0)
        return err_set(e, ERR_DENIED, "the user may not create tables in the current schema");
    ask(c,
        "select exists (select from pg_roles where rolname = 'moonpost_engine') or "
        "(select rolsuper or rolcreaterole from pg_roles where rolname = current_user)",
        value, sizeof value);
    if (strcmp(value, "t") != 0)
        return err_set(e, ERR_DENIED,
                       "the user may not create the roles moonpost_engine and "
                       "moonpost_script: grant CREATEROLE, or create them");
    return 0;
}

int cluster_check(const char *conninfo, struct err *e)
{
    PGconn *c = PQconnectdb(conninfo);
    int rc = check(c, e);

    PQfinish(c);
    return rc;
}
