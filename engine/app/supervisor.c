#include "app/supervisor.h"

#include "app/control.h"
#include "app/install.h"
#include "app/services.h"
#include "app/share.h"
#include "app/worker.h"
#include "core/arena.h"
#include "core/config.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/proc.h"
#include "core/shm.h"
#include "store/bus.h"
#include "store/cluster.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHECK_MS = 500, RESPAWN_MS = 200, STOP_SECONDS = 40, JOBS_COLUMN = WORKERS_MAX };

struct child {
    pid_t pid;
    unsigned number, column, roles;
    struct watch *watch; /* of our end of its bus socket */
    uint64_t beats, beat_at, started, respawn_at;
    unsigned quick_deaths;
    bool aborted; /* the watchdog sent SIGABRT */
};

static struct child children[WORKERS_MAX + 1];
static struct bus_relay members[WORKERS_MAX + 1];
static unsigned child_count;
static struct install install;
static struct timer *check;
static bool stopping;
static uint64_t stop_by;
static uint64_t postgres_again; /* when to start the database again */

static void on_bus(void *ctx, int what)
{
    struct child *c = ctx;
    (void)what;
    bus_relay(members, child_count, (unsigned)(c - children));
}

/* What a command line process said: to everybody. */
static void on_control(unsigned kind, unsigned long long id)
{
    for (unsigned i = 0; i < child_count; i++) {
        if (members[i].fd < 0)
            continue;
        struct bus_packet p = {.number = ++members[i].number, .id = id, .kind = kind};
        if (send(members[i].fd, &p, sizeof p, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            log_debug("app", "bus of process %u: %s", i, strerror(errno));
    }
}

static void close_other_sockets(const struct child *me)
{
    for (unsigned i = 0; i < binding_count; i++)
        for (unsigned w = 0; w < WORKERS_MAX; w++)
            if (bindings[i].fd[w] >= 0 && !((me->roles & ROLE_MAIL) && w == me->number))
                close(bindings[i].fd[w]);
    for (unsigned i = 0; i < child_count; i++)
        if (&children[i] != me && members[i].fd >= 0)
            close(members[i].fd);
}

static void spawn(struct child *c)
{
    int pair[2];
    pid_t parent = getpid();

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0) {
        log_error("app", "socketpair: %s", strerror(errno));
        c->respawn_at = loop_ms() + 1000;
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, (long)SIGTERM);
        if (getppid() != parent)
            _exit(0);
        loop_forget();
        control_forget();
        close(pair[0]);
        close_other_sockets(c);
        struct worker_start w = {c->number, c->column, c->roles, pair[1], install.conninfo};
        exit(worker_main(&w));
    }
    close(pair[1]);
    if (pid < 0) {
        log_error("app", "fork: %s", strerror(errno));
        close(pair[0]);
        c->respawn_at = loop_ms() + 1000;
        return;
    }
    c->pid = pid;
    c->started = c->beat_at = loop_ms();
    c->beats = shm_beats(c->column);
    c->aborted = false;
    c->respawn_at = 0;
    members[c - children] = (struct bus_relay){.fd = pair[0]};
    c->watch = watch_new(pair[0], on_bus, c);
    watch_set(c->watch, WATCH_READ);
}

static void buried(struct child *c, int status)
{
    uint64_t now = loop_ms();
    struct shm_doing doing = shm_doing_of(c->column);

    watch_free(&c->watch);
    close(members[c - children].fd);
    members[c - children].fd = -1;
    shm_reap(c->column);
    c->pid = 0;
    if (stopping)
        return;
    if (WIFSIGNALED(status)) {
        /* Deaths by SIGKILL and SIGTERM from outside are nobody's fault. */
        bool own_fault = c->aborted || (WTERMSIG(status) != SIGKILL && WTERMSIG(status) != SIGTERM);
        unsigned kills = own_fault ? shm_count_kill(&doing) : 0;
        log_error("app", "process %u ended by signal %d%s%s%s%s", c->column, WTERMSIG(status),
                  doing.hook[0] ? " in hook " : "", doing.hook, doing.script[0] ? " of " : "",
                  doing.script);
        if (kills >= 2 && doing.hook[0])
            log_error("app", "hook %s of %s is switched off until the script is edited", doing.hook,
                      doing.script);
    } else {
        log_error("app", "process %u ended with status %d", c->column, WEXITSTATUS(status));
    }
    c->quick_deaths = now - c->started < 5000 ? c->quick_deaths + 1 : 0;
    unsigned shift = c->quick_deaths < 6 ? c->quick_deaths : 6;
    c->respawn_at = now + (c->quick_deaths ? (uint64_t)RESPAWN_MS << shift : 1);
    if (c->respawn_at <= now + 1)
        spawn(c);
}

static void postgres_died(int status)
{
    install.postgres = 0;
    if (stopping)
        return;
    log_error("app", "the database ended (status %d), starting it again", status);
    postgres_again = loop_ms() + 500;
}

static void start_postgres(void)
{
    struct err e = ERR_INIT;

    postgres_again = 0;
    if (cluster_spawn(config.data, CLUSTER_SAME_USER, (gid_t)-1, &install.postgres, &e) != 0) {
        log_error("app", "database: %s", e.text);
        postgres_again = loop_ms() + 2000;
    }
}

static void reap_all(void)
{
    int status;
    pid_t pid;

    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == install.postgres)
            postgres_died(status);
        for (unsigned i = 0; i < child_count; i++)
            if (children[i].pid == pid)
                buried(&children[i], status);
    }
}

static bool any_child(void)
{
    for (unsigned i = 0; i < child_count; i++)
        if (children[i].pid > 0)
            return true;
    return false;
}

static void watch_child(struct child *c, uint64_t now)
{
    uint64_t beats = shm_beats(c->column);

    if (beats != c->beats) {
        c->beats = beats;
        c->beat_at = now;
        return;
    }
    uint64_t silent = now - c->beat_at;
    if (silent > (WATCHDOG_SECONDS + 2) * 1000u) {
        kill(c->pid, SIGKILL);
    } else if (silent > WATCHDOG_SECONDS * 1000u && !c->aborted) {
        struct shm_doing d = shm_doing_of(c->column);
        log_error("app", "process %u has been silent for %d s (hook %s, script %s, message %llu)",
                  c->column, WATCHDOG_SECONDS, d.hook[0] ? d.hook : "none",
                  d.script[0] ? d.script : "none", (unsigned long long)d.message);
        c->aborted = true;
        kill(c->pid, SIGABRT);
    }
}

static void on_check(void *ctx)
{
    uint64_t now = loop_ms();

    (void)ctx;
    for (unsigned i = 0; i < child_count; i++) {
        struct child *c = &children[i];
        if (c->pid > 0)
            watch_child(c, now);
        else if (!stopping && now >= c->respawn_at)
            spawn(c);
        if (stopping && c->pid > 0 && now > stop_by)
            kill(c->pid, SIGKILL);
    }
    if (!stopping && postgres_again != 0 && now >= postgres_again)
        start_postgres();
    if (stopping && !any_child())
        loop_stop();
    timer_set(check, stopping ? 50 : CHECK_MS);
}

static void on_signal(void *ctx, int signo)
{
    (void)ctx;
    if (signo == SIGCHLD) {
        reap_all();
        if (stopping && !any_child())
            loop_stop();
        return;
    }
    for (unsigned i = 0; i < child_count; i++)
        if (children[i].pid > 0)
            kill(children[i].pid, signo == SIGHUP ? SIGHUP : SIGTERM);
    if (signo == SIGHUP || stopping)
        return;
    log_info("app", "stopping");
    stopping = true;
    stop_by = loop_ms() + STOP_SECONDS * 1000u;
    timer_set(check, 50);
}

static void add_child(unsigned number, unsigned column, unsigned roles)
{
    children[child_count] = (struct child){.number = number, .column = column, .roles = roles};
    members[child_count].fd = -1;
    child_count++;
}

static int fail(const struct err *e)
{
    log_error("app", "%s", e->text);
    return 3;
}

/* Everything in one process: for debuggers, sanitizers and fuzzers. */
static int single(void)
{
    struct worker_start w = {0, 1, ROLE_MAIL | ROLE_JOBS, -1, install.conninfo};
    return worker_main(&w);
}

static void stop_postgres(void)
{
    struct err e = ERR_INIT;

    if (config.dsn[0] == '\0' && cluster_stop(config.data, true, &e) != 0)
        log_error("app", "database: %s", e.text);
}

int supervisor_main(void)
{
    struct err e = ERR_INIT;

    log_init("supervisor", getenv("MOONPOST_DEBUG") ? LOG_DEBUG : LOG_INFO, false);
    if (config.workers == 0 || config.workers > WORKERS_MAX - 1)
        return err_set(&e, ERR_SYNTAX, "--workers takes 1 to %d", WORKERS_MAX - 1), fail(&e);
    unsigned workers = config.single ? 1 : config.workers;
    unsigned long files = proc_raise_files();
    if (install_prepare(&install, &e) != 0 || services_open(workers, &e) != 0)
        return fail(&e);
    if (install.uid != (uid_t)-1 && share_provide(install.uid, install.gid, &e) != 0)
        return fail(&e);
    if (install.uid != (uid_t)-1 && proc_drop(config.user, install.uid, install.gid, true, &e) != 0)
        return fail(&e);
    if (install_lock(&e) != 0 || install_write_pid(&e) != 0 || services_certificate(&e) != 0)
        return fail(&e);
    signal(SIGPIPE, SIG_IGN);
    shm_create();
    shm_attach(0);
    str_hash(STR("")); /* draws the key that all workers then share */
    if (install_database(&install, &e) != 0)
        return fail(&e);
    log_info("app", "%u workers, %lu files each, data in %s", workers, files, config.data);
    if (config.single) {
        int rc = single();
        stop_postgres();
        return rc;
    }
    loop_init();
    if (control_listen(&e) != 0)
        return fail(&e);
    control_on_packet(on_control);
    loop_on_signal(SIGCHLD, on_signal, NULL);
    loop_on_signal(SIGTERM, on_signal, NULL);
    loop_on_signal(SIGINT, on_signal, NULL);
    loop_on_signal(SIGHUP, on_signal, NULL);
    for (unsigned i = 0; i < workers; i++)
        add_child(i, i + 1, ROLE_MAIL);
    add_child(0, JOBS_COLUMN, ROLE_JOBS);
    for (unsigned i = 0; i < child_count; i++)
        spawn(&children[i]);
    check = timer_new(on_check, NULL);
    timer_set(check, CHECK_MS);
    loop_run();
    control_close();
    stop_postgres();
    log_info("app", "stopped");
    return 0;
}
