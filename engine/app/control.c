#include "app/control.h"

#include "core/arena.h"
#include "core/config.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "store/bus.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

/* Kinds from here on are generation bumps; below stand the bus's own. */
enum { KIND_BUMP = 1000, ACK_SECONDS = 5 };

struct client {
    struct client *next, *prev;
    int fd;
    struct watch *watch;
};

static struct client *clients;
static int listen_fd = -1, attached_fd = -1;
static struct watch *listen_watch;
static void (*packet_fn)(unsigned, unsigned long long);

static bool address(struct sockaddr_un *un)
{
    *un = (struct sockaddr_un){.sun_family = AF_UNIX};
    return config_path("run/control", un->sun_path, sizeof un->sun_path);
}

static void on_client(void *ctx, int what)
{
    struct client *c = ctx;
    struct bus_packet p;

    (void)what;
    ssize_t n = recv(c->fd, &p, sizeof p, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        watch_free(&c->watch);
        close(c->fd);
        if (c->prev)
            c->prev->next = c->next;
        else
            clients = c->next;
        if (c->next)
            c->next->prev = c->prev;
        free(c);
        return;
    }
    if (n != (ssize_t)sizeof p)
        return;
    if (p.kind >= KIND_BUMP && p.kind < KIND_BUMP + GEN_COUNT) {
        static const enum bus_kind kinds[GEN_COUNT] = {[GEN_ACCOUNT] = BUS_ACCOUNT,
                                                       [GEN_SETTING] = BUS_SETTING,
                                                       [GEN_RELEASE] = BUS_RELEASE,
                                                       [GEN_ACL] = BUS_SETTING};
        shm_bump((enum shm_generation)(p.kind - KIND_BUMP));
        if (p.kind == KIND_BUMP + GEN_RELEASE)
            shm_forgive(NULL); /* an edit gives what was switched off another chance */
        packet_fn(kinds[p.kind - KIND_BUMP], 0);
        send(c->fd, &p, sizeof p, MSG_DONTWAIT | MSG_NOSIGNAL);
    } else {
        packet_fn(p.kind, p.id);
    }
}

static void on_connect(void *ctx, int what)
{
    (void)ctx, (void)what;
    int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    struct client *c = xcalloc(1, sizeof *c);
    c->fd = fd;
    c->next = clients;
    if (clients)
        clients->prev = c;
    clients = c;
    c->watch = watch_new(fd, on_client, c);
    watch_set(c->watch, WATCH_READ);
}

int control_listen(struct err *e)
{
    struct sockaddr_un un;

    if (!address(&un)) {
        log_warn("app", "data folder's path is too long for a control socket: changes made on the "
                        "command line are seen within a second");
        return 0;
    }
    unlink(un.sun_path);
    listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t old = umask(0077);
    int rc = listen_fd < 0 ? -1 : bind(listen_fd, (struct sockaddr *)&un, sizeof un);
    umask(old);
    if (rc != 0 || listen(listen_fd, 16) != 0)
        return err_set(e, ERR_DENIED, "cannot listen on %s: %s", un.sun_path, strerror(errno));
    listen_watch = watch_new(listen_fd, on_connect, NULL);
    watch_set(listen_watch, WATCH_READ);
    return 0;
}

void control_close(void)
{
    struct sockaddr_un un;

    watch_free(&listen_watch);
    if (listen_fd >= 0) {
        close(listen_fd);
        if (address(&un))
            unlink(un.sun_path);
    }
    listen_fd = -1;
}

void control_forget(void)
{
    if (listen_fd >= 0)
        close(listen_fd);
    listen_fd = -1;
    for (struct client *c = clients; c != NULL; c = c->next)
        close(c->fd);
}

void control_on_packet(void (*fn)(unsigned, unsigned long long))
{
    packet_fn = fn;
}

int control_bus(void)
{
    struct sockaddr_un un;

    if (!address(&un))
        return -1;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof un) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static void pass_on(enum shm_generation g)
{
    struct bus_packet p = {.kind = KIND_BUMP + (uint32_t)g};

    if (attached_fd < 0)
        return;
    if (send(attached_fd, &p, sizeof p, MSG_NOSIGNAL) == (ssize_t)sizeof p)
        recv(attached_fd, &p, sizeof p, 0); /* the acknowledgement, or ACK_SECONDS */
}

void control_attach(void)
{
    struct timeval tv = {ACK_SECONDS, 0};

    attached_fd = control_bus();
    if (attached_fd < 0)
        return;
    setsockopt(attached_fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    shm_on_bump(pass_on);
}
