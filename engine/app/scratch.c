/* The scratch process (scratch.h).
 *
 * Both ends of a socket pair: the request goes in as length-prefixed fields, and frames of type,
 * length and bytes come back: 'O' output, 'E' class and text of an error, 'R' results of tests. The
 * last frame but for 'R' decides: none at all means that the process was ended. */
#include "app/scratch.h"

#include "app/control.h"
#include "app/share.h"
#include "core/arena.h"
#include "core/buf.h"
#include "core/config.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/proc.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "net/dns.h"
#include "store/bus.h"
#include "store/db.h"
#include "store/deliver.h"
#include "store/setting.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REQUEST_FD = 3, REQUEST_MAX = 4 * 1024 * 1024, FRAME_MAX = 1024 * 1024, FIELDS = 8 };

static char *conninfo_kept;

void scratch_prepare(const char *conninfo)
{
    free(conninfo_kept);
    conninfo_kept = xstrdup(conninfo);
}

/* --- this end -----------------------------------------------------------------------------------
 */
struct running {
    struct scratch_job *job;
    struct task *task;
    struct watch *watch;
    struct timer *timer;
    struct buf in, out;
    int fd;
    bool over, late, decided;
    int rc;
    struct err *e;
};

static void put_field(struct buf *b, struct str s)
{
    uint32_t n = s.p == NULL ? UINT32_MAX : (uint32_t)s.n;

    buf_add(b, str_make((const char *)&n, sizeof n));
    if (s.p != NULL)
        buf_add(b, s);
}

static void take_frame(struct running *r, char type, struct str s)
{
    uint32_t v[2];

    switch (type) {
    case 'O':
        if (r->job->print != NULL)
            r->job->print(r->job->ctx, s);
        break;
    case 'R':
        if (s.n == sizeof v) {
            memcpy(v, s.p, sizeof v);
            r->job->result = (struct script_test_result){v[0], v[1]};
        }
        break;
    case 'E':
        r->decided = true;
        r->rc = 0;
        if (s.n >= 1 && s.p[0] != ERR_NONE && (unsigned char)s.p[0] < ERR_CLASS_COUNT) {
            struct str text = str_from(s, 1);
            r->rc = err_set(r->e, (enum err_class)s.p[0], "%.*s", STR_ARG(text));
        }
        break;
    default:
        break;
    }
}

static void take_frames(struct running *r)
{
    for (;;) {
        struct str s = buf_str(&r->in);
        uint32_t n;
        if (s.n < 5)
            return;
        memcpy(&n, s.p + 1, sizeof n);
        if (n > FRAME_MAX) {
            r->over = true;
            return;
        }
        if (s.n < 5 + (size_t)n)
            return;
        take_frame(r, s.p[0], str_make(s.p + 5, n));
        buf_consume(&r->in, 5 + (size_t)n);
    }
}

static void on_ready(void *ctx, int what)
{
    struct running *r = ctx;

    (void)what;
    if (r->out.len > 0) {
        struct str s = buf_str(&r->out);
        ssize_t n = send(r->fd, s.p, s.n, MSG_NOSIGNAL);
        if (n > 0)
            buf_consume(&r->out, (size_t)n);
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
            r->over = true;
        if (r->out.len == 0)
            watch_set(r->watch, WATCH_READ);
    }
    char *p = buf_room(&r->in, 65536);
    ssize_t n = p != NULL ? recv(r->fd, p, 65536, 0) : 0;
    if (n > 0)
        buf_added(&r->in, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        r->over = true;
    task_wake(r->task);
}

static void on_late(void *ctx)
{
    struct running *r = ctx;

    r->late = r->over = true;
    task_wake(r->task);
}

static pid_t start_process(int fd, struct err *e)
{
    pid_t pid = fork();

    if (pid == 0) {
        char program[] = "moonpost", verb[] = "scratch";
        char *const argv[] = {program, verb, NULL};
        if (fd == REQUEST_FD ? fcntl(fd, F_SETFD, 0) != 0 : dup2(fd, REQUEST_FD) < 0)
            _exit(3);
        close_range(REQUEST_FD + 1, ~0u, 0);
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        execv("/proc/self/exe", argv);
        _exit(3);
    }
    if (pid < 0)
        err_set(e, ERR_TEMP, "no process for the script: %s", strerror(errno));
    return pid;
}

/* The process is dead or dying; a task must not block for it. */
static int reap(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, WNOHANG) == 0)
        task_sleep(2, NULL);
    return status;
}

int scratch_run(struct scratch_job *job, struct err *e)
{
    struct running r = {.job = job, .task = task_self(), .e = e};
    uint64_t wall = job->wall_seconds ? job->wall_seconds : SCRATCH_WALL_SECONDS;
    char kind = (char)('0' + job->kind);
    int fd[2];

    if (conninfo_kept == NULL)
        return err_set(e, ERR_INTERNAL, "scratch_prepare() was not called");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) != 0)
        return err_set(e, ERR_TEMP, "socketpair: %s", strerror(errno));
    fcntl(fd[0], F_SETFL, O_NONBLOCK);
    pid_t pid = start_process(fd[1], e);
    close(fd[1]);
    if (pid < 0) {
        close(fd[0]);
        return -1;
    }
    r.fd = fd[0];
    buf_init(&r.in, FRAME_MAX * 2);
    buf_init(&r.out, REQUEST_MAX);
    put_field(&r.out, str_make(&kind, 1));
    put_field(&r.out, str_of(conninfo_kept));
    put_field(&r.out, str_of(config.data));
    put_field(&r.out, str_make((const char *)&wall, sizeof wall));
    put_field(&r.out, job->name);
    put_field(&r.out, job->text);
    put_field(&r.out, str_of(config_share()));
    put_field(&r.out, str_of(config.user));
    r.watch = watch_new(r.fd, on_ready, &r);
    watch_set(r.watch, WATCH_READ | WATCH_WRITE);
    r.timer = timer_new(on_late, &r);
    timer_set(r.timer, wall * 1000);
    while (!r.over && !task_cancelled()) {
        task_park();
        take_frames(&r);
    }
    take_frames(&r);
    if (!r.over)
        r.late = true; /* cancelled */
    if (r.late)
        kill(pid, SIGKILL);
    watch_free(&r.watch);
    timer_free(&r.timer);
    close(r.fd);
    int status = reap(pid);
    buf_free(&r.in);
    buf_free(&r.out);
    if (r.decided && !r.late)
        return r.rc;
    if (r.late)
        return err_set(e, ERR_TIMEOUT, "ended: took longer than %llu s", (unsigned long long)wall);
    if (WIFSIGNALED(status))
        return err_set(e, ERR_LIMIT, "ended by signal %d: over its memory or computing time",
                       WTERMSIG(status));
    return err_set(e, ERR_INTERNAL, "the script's process ended without an answer");
}

int scratch_try(struct str name, struct str text, void (*print)(void *ctx, struct str out),
                void *ctx, struct script_test_result *r, struct err *e)
{
    struct scratch_job job = {.kind = SCRATCH_TRY,
                              .name = name,
                              .text = text,
                              .print = print,
                              .ctx = ctx,
                              .wall_seconds = SCRATCH_TRY_SECONDS};
    int rc = scratch_run(&job, e);

    *r = job.result;
    return rc;
}

/* --- the process
 * ---------------------------------------------------------------------------------- */
static struct str fields[FIELDS];
static struct script_tests *tests;
static struct arena *field_arena;
static bool failed_to_write;

static void send_all(const void *p, size_t n)
{
    for (const char *from = p; n > 0 && !failed_to_write;) {
        ssize_t got = write(REQUEST_FD, from, n);
        if (got < 0 && errno != EINTR)
            failed_to_write = true;
        if (got > 0) {
            from += got;
            n -= (size_t)got;
        }
    }
}

static void send_frame(char type, struct str s)
{
    do {
        struct str some = str_head(s, s.n < FRAME_MAX ? s.n : FRAME_MAX);
        uint32_t n = (uint32_t)some.n;
        send_all(&type, 1);
        send_all(&n, sizeof n);
        send_all(some.p, some.n);
        s = str_from(s, some.n);
    } while (s.n > 0);
}

static void print(void *ctx, struct str out)
{
    (void)ctx;
    if (out.n > 0)
        send_frame('O', out);
}

static bool read_all(void *to, size_t n)
{
    for (char *p = to; n > 0;) {
        ssize_t got = read(REQUEST_FD, p, n);
        if (got <= 0 && !(got < 0 && errno == EINTR))
            return false;
        if (got > 0) {
            p += got;
            n -= (size_t)got;
        }
    }
    return true;
}

static bool read_request(void)
{
    field_arena = arena_new(65536);
    for (int i = 0; i < FIELDS; i++) {
        uint32_t n;
        if (!read_all(&n, sizeof n))
            return false;
        if (n == UINT32_MAX) {
            fields[i] = STR_NONE;
            continue;
        }
        if (n > REQUEST_MAX)
            return false;
        char *p = arena_alloc(field_arena, (size_t)n + 1);
        if (!read_all(p, n))
            return false;
        p[n] = '\0';
        fields[i] = str_make(p, n);
    }
    return fields[0].n == 1 && fields[1].p != NULL && fields[2].p != NULL &&
           fields[3].n == sizeof(uint64_t) && fields[4].p != NULL && fields[6].p != NULL &&
           fields[7].p != NULL;
}

static void limit(__rlimit_resource_t what, rlim_t n)
{
    struct rlimit r = {n, n};

    setrlimit(what, &r);
}

static void confine(uint64_t wall)
{
    prctl(PR_SET_PDEATHSIG, (long)SIGKILL);
    setpriority(PRIO_PROCESS, 0, SCRATCH_NICE);
    proc_harden();
#ifndef __SANITIZE_ADDRESS__ /* its shadow memory takes terabytes of address space */
    limit(RLIMIT_AS, SCRATCH_MEMORY);
#endif
    limit(RLIMIT_CPU, SCRIPT_RUN_CPU_MS / 1000 + 5);
    limit(RLIMIT_FSIZE, SCRATCH_FILE);
    limit(RLIMIT_NOFILE, 256);
    alarm((unsigned)wall + 5); /* should the other end not do it */
}

static void answer(const struct script_test_result *r, int rc, const struct err *e)
{
    uint32_t v[2] = {r->passed, r->failed};
    char text[sizeof e->text + 1];
    size_t n = rc == 0 ? 0 : strlen(e->text);

    text[0] = (char)(rc == 0 ? ERR_NONE : e->cls);
    memcpy(text + 1, e->text, n);
    send_frame('R', str_make((const char *)v, sizeof v));
    send_frame('E', str_make(text, n + 1));
}

static void script_task(void *unused)
{
    struct err e = ERR_INIT;
    struct script_test_result r = {0, 0};
    int rc = -1;

    (void)unused;
    if (setting_load(&e) == 0 && script_open(config_share(), false, &e) == 0) {
        struct err dns = ERR_INIT;
        if (dns_open(setting_str("dns.servers"), setting_str("dns.trust_anchor_file"), &dns) != 0)
            log_warn("scratch", "DNS: %s", dns.text);
        deliver_open();
        switch ((enum scratch_kind)(fields[0].p[0] - '0')) {
        case SCRATCH_RUN:
            rc = script_run(fields[4], fields[5], print, NULL, &e);
            break;
        case SCRATCH_TEST:
            rc = script_tests_run(tests, print, NULL, &r, &e);
            break;
        case SCRATCH_TRY:
            rc = script_try(fields[4], fields[5], print, NULL, &r, &e);
            break;
        }
        deliver_drain();
        script_close();
    }
    answer(&r, rc, &e);
}

/* As root: reads what only root may, and becomes the service user. */
static int begin(struct err *e)
{
    uid_t uid;
    gid_t gid;

    if (fields[0].p[0] == '0' + SCRATCH_TEST && (tests = script_tests_read(fields[4].p, e)) == NULL)
        return -1;
    if (geteuid() != 0)
        return 0;
    if (proc_lookup_user(config.user, &uid, &gid, e) != 0 || share_provide(uid, gid, e) != 0)
        return -1;
    return proc_drop(config.user, uid, gid, false, e);
}

int scratch_main(void)
{
    struct err e = ERR_INIT;
    uint64_t wall;

    if (fcntl(REQUEST_FD, F_GETFD) < 0 || !read_request())
        return 2;
    fcntl(REQUEST_FD, F_SETFD, FD_CLOEXEC);
    memcpy(&wall, fields[3].p, sizeof wall);
    snprintf(config.data, sizeof config.data, "%.*s", STR_ARG(fields[2]));
    config_set_share(fields[6].p);
    log_init("scratch", LOG_WARN, false);
    snprintf(config.user, sizeof config.user, "%.*s", STR_ARG(fields[7]));
    if (begin(&e) != 0) {
        answer(&(struct script_test_result){0, 0}, -1, &e);
        return 3;
    }
    confine(wall);
    shm_create();
    shm_attach(0);
    loop_init();
    if (config.data[0] != '\0')
        control_attach(); /* what a management run changes, the server knows at once */
    db_open(fields[1].p, "moonpost_engine", 2);
    bus_open(control_bus());
    task_run_main(script_task, NULL);
    dns_close();
    bus_close();
    db_close();
    work_stop();
    script_tests_free(&tests);
    arena_free(&field_arena);
    return failed_to_write ? 3 : 0;
}
