#include "net/listener.h"

#include "core/arena.h"
#include "core/log.h"
#include "core/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG = 1024, ACCEPTS_A_TURN = 32, PAUSE_MS = 100 };

struct listener {
    int fd;
    struct watch *watch;
    struct timer *again; /* after EMFILE: the pending connection would wake us for ever */
    accept_fn *fn;
    void *ctx;
};

static int open_socket(const char *addr, unsigned port, bool share, bool *in_use_r, struct err *e)
{
    struct sockaddr_storage ss = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
    socklen_t len;
    int one = 1;

    *in_use_r = false;
    if (inet_pton(AF_INET, addr, &in->sin_addr) == 1) {
        ss.ss_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
        len = sizeof *in;
    } else if (inet_pton(AF_INET6, addr, &in6->sin6_addr) == 1) {
        ss.ss_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        len = sizeof *in6;
    } else {
        return err_set(e, ERR_SYNTAX, "not an IP address: %s", addr);
    }
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(e, ERR_TEMP, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (share)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (ss.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&ss, len) != 0 || listen(fd, BACKLOG) != 0) {
        *in_use_r = errno == EADDRINUSE;
        err_set(e, errno == EACCES ? ERR_DENIED : ERR_TEMP, "cannot listen on %s port %u: %s", addr,
                port, strerror(errno));
        close(fd);
        return -1;
    }
    return fd;
}

int listener_open(const char *addr, unsigned port, bool *in_use_r, struct err *e)
{
    return open_socket(addr, port, true, in_use_r, e);
}

int listener_probe(const char *addr, unsigned port, bool *in_use_r, struct err *e)
{
    int fd = open_socket(addr, port, false, in_use_r, e);

    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

static void on_again(void *ctx)
{
    struct listener *l = ctx;
    watch_set(l->watch, WATCH_READ);
}

static void on_acceptable(void *ctx, int what)
{
    struct listener *l = ctx;

    (void)what;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            l->fn(l->ctx, fd, &peer);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            log_error("net", "accept: %s", strerror(errno));
            watch_set(l->watch, 0);
            timer_set(l->again, PAUSE_MS);
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}

struct listener *listener_start(int fd, accept_fn *fn, void *ctx)
{
    struct listener *l = xcalloc(1, sizeof *l);

    l->fd = fd;
    l->fn = fn;
    l->ctx = ctx;
    l->watch = watch_new(fd, on_acceptable, l);
    l->again = timer_new(on_again, l);
    watch_set(l->watch, WATCH_READ);
    return l;
}

void listener_stop(struct listener **lp)
{
    struct listener *l = *lp;

    *lp = NULL;
    if (l == NULL)
        return;
    watch_free(&l->watch);
    timer_free(&l->again);
    free(l);
}
