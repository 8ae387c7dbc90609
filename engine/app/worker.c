#include "app/worker.h"

#include "app/scratch.h"
#include "app/services.h"
#include "core/config.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/proc.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "net/dns.h"
#include "script/script.h"
#include "store/access.h"
#include "store/bus.h"
#include "store/bus_remote.h"
#include "store/db.h"
#include "store/deliver.h"
#include "store/diskfloor.h"
#include "store/maintain.h"
#include "store/setting.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    BEAT_MS = 1000,
    STOP_SECONDS = 30,
    JOB_MS = 5000,
    LEASE_SECONDS = 20,
    MAINTAIN_MS = 60000,
    RETRY_MS = 500
};

static struct worker_start self;
static struct timer *beat, *jobs;
static bool stopping, refreshing, working;
static int exit_status;
static char who[32];

static void open_dns(void)
{
    struct err e = ERR_INIT;

    if (dns_open(setting_str("dns.servers"), setting_str("dns.trust_anchor_file"), &e) != 0)
        log_error("app", "DNS: %s", e.text);
}

/* Settings and access rules are refreshed in the background when their generation moved. */
static void refresh_task(void *arg)
{
    struct err e = ERR_INIT;

    (void)arg;
    if (setting_stale() && setting_load(&e) != 0)
        log_warn("app", "settings not refreshed: %s", e.text);
    if (access_stale() && access_load(&e) != 0)
        log_warn("app", "access rules not refreshed: %s", e.text);
    open_dns();
    refreshing = false;
}

static void refresh(void *ctx, enum bus_kind kind, uint64_t id)
{
    (void)ctx, (void)kind, (void)id;
    if (refreshing || !(setting_stale() || access_stale()))
        return;
    refreshing = true;
    task_spawn(refresh_task, NULL);
}

static void on_beat(void *ctx)
{
    (void)ctx;
    shm_beat();
    refresh(NULL, BUS_SETTING, 0);
    timer_set(beat, BEAT_MS);
}

static void on_turn(void *ctx)
{
    (void)ctx;
    shm_beat();
}

/* --- jobs: what must run once on all machines together -----------------------------------------
 */

static void job_task(void *arg)
{
    static uint64_t maintained;
    char host[128] = "", holder[160];
    struct err e = ERR_INIT;
    uint64_t epoch;

    (void)arg;
    gethostname(host, sizeof host - 1);
    snprintf(holder, sizeof holder, "%s.%d", host, (int)getpid());
    if (lease_take("jobs", holder, LEASE_SECONDS, &epoch, &e) != 0) {
        if (e.cls != ERR_DENIED)
            log_warn("jobs", "lease: %s", e.text);
    } else if (maintained == 0 || loop_ms() - maintained >= MAINTAIN_MS) {
        maintained = loop_ms();
        if (store_maintain(&e) != 0)
            log_warn("jobs", "maintenance: %s", e.text);
    }
    if (stopping)
        lease_drop("jobs", holder);
    working = false;
}

static void on_job(void *ctx)
{
    (void)ctx;
    if (!working && !stopping) {
        working = true;
        task_spawn(job_task, NULL);
    }
    timer_set(jobs, JOB_MS);
}

/* --- stopping ----------------------------------------------------------------------------------
 */

static void stop_task(void *arg)
{
    uint64_t until = loop_ms() + STOP_SECONDS * 1000u;

    (void)arg;
    services_stop();
    services_drain();
    while (services_sessions() > 0 && loop_ms() < until)
        task_sleep(20, NULL);
    if (services_sessions() > 0)
        log_warn("app", "%u sessions did not end in time", services_sessions());
    deliver_drain();
    while (working && loop_ms() < until)
        task_sleep(20, NULL);
    loop_stop();
}

static void on_signal(void *ctx, int signo)
{
    (void)ctx;
    if (signo == SIGHUP) {
        services_reload_tls();
        return;
    }
    if (stopping)
        return;
    stopping = true;
    log_info("app", "stopping");
    task_spawn(stop_task, NULL);
}

static void start_task(void *arg)
{
    struct err e = ERR_INIT;

    (void)arg;
    while (setting_load(&e) != 0 || access_load(&e) != 0) {
        log_warn("app", "waiting for the database: %s", e.text);
        if (stopping)
            return;
        task_sleep(RETRY_MS, NULL);
    }
    open_dns();
    if (script_open(config_share(), config.safe, &e) != 0) {
        log_error("app", "scripts: %s", e.text);
        exit_status = 3;
        loop_stop();
        return;
    }
    deliver_open();
    if ((self.roles & ROLE_MAIL) && services_start(self.number, &e) != 0) {
        log_error("app", "%s", e.text);
        exit_status = 3;
        loop_stop();
        return;
    }
    if (self.roles & ROLE_JOBS) {
        if (config.dsn[0] != '\0')
            bus_remote_open(self.conninfo);
        jobs = timer_new(on_job, NULL);
        timer_set(jobs, 1000);
    }
    bus_watch(BUS_SETTING, 0, refresh, NULL);
    log_info("app", "ready");
}

int worker_main(const struct worker_start *w)
{
    self = *w;
    snprintf(who, sizeof who, "%s%s.%u", w->roles & ROLE_MAIL ? "mail" : "jobs",
             (w->roles & ROLE_MAIL) && (w->roles & ROLE_JOBS) ? "+jobs" : "", w->number);
    log_init(who, getenv("MOONPOST_DEBUG") ? LOG_DEBUG : LOG_INFO, false);
    shm_attach(w->column);
    proc_harden();
    loop_init();
    loop_on_turn(on_turn, NULL);
    loop_on_signal(SIGTERM, on_signal, NULL);
    loop_on_signal(SIGINT, on_signal, NULL);
    loop_on_signal(SIGHUP, on_signal, NULL);
    signal(SIGPIPE, SIG_IGN);
    db_open(w->conninfo, "moonpost_engine", DB_POOL);
    scratch_prepare(w->conninfo);
    script_on_try(scratch_try);
    bus_open(w->bus);
    disk_open(config.dsn[0] ? NULL : config.data);
    beat = timer_new(on_beat, NULL);
    timer_set(beat, BEAT_MS);
    task_spawn(start_task, NULL);
    loop_run();
    script_close();
    bus_close();
    dns_close();
    db_close();
    work_stop();
    timer_free(&beat);
    timer_free(&jobs);
    log_info("app", "stopped");
    return exit_status;
}
