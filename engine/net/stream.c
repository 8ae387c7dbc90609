#include "net/stream.h"

#include "core/arena.h"
#include "core/loop.h"
#include "core/task.h"
#include "net/tls.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum {
    READ_CHUNK = 16384,
    OUT_CAP =
        64 * 1024 *
        1024, /* one FETCH response may be a whole message; writers in tasks park long before */
    HIGH_WATER = 256 * 1024,
    LOW_WATER = 64 * 1024,
    FINISH_SECONDS = 10,
    LINGER_SECONDS = 2
};

struct stream {
    int fd;
    struct watch *watch;
    struct timer *soon; /* flush and pending announcements, at the end of the turn */
    struct timer *idle;
    struct buf in, out;
    stream_fn *fn;
    void *ctx;
    SSL *ssl;
    struct task *writer; /* parked at the high-water mark */
    size_t told;         /* bytes in `in` when the owner last looked and left the rest */
    uint64_t deadline;   /* loop_ms() of the idle timeout, 0: none */
    unsigned timeout_s;
    unsigned depth; /* of callbacks under way */
    bool paused, frozen, announce, handshaking, finishing, eof, closed, told_closed, dead;
    bool blocked;        /* the socket took no more: wait until it does */
    bool ssl_want_write; /* TLS needs to write before it can go on */
    bool drained_due;
    bool fresh;     /* bytes came since the owner last looked */
    bool lingering; /* all is sent; what still comes is dropped until the peer has closed, too */
    char error[120];
    char peer_text[INET6_ADDRSTRLEN];
    struct sockaddr_storage peer, local;
};

static void free_now(struct stream *s)
{
    watch_free(&s->watch);
    timer_free(&s->soon);
    timer_free(&s->idle);
    if (s->ssl)
        SSL_free(s->ssl);
    if (s->fd >= 0)
        close(s->fd);
    buf_wipe(&s->in);
    buf_free(&s->out);
    free(s);
}

/* Returns false when the owner freed the stream meanwhile. */
static bool tell(struct stream *s, enum stream_event ev)
{
    s->depth++;
    s->fn(s->ctx, s, ev);
    s->depth--;
    if (s->dead && s->depth == 0) {
        free_now(s);
        return false;
    }
    return !s->dead;
}

static void wake_writer(struct stream *s)
{
    if (s->writer != NULL) {
        struct task *t = s->writer;
        s->writer = NULL;
        task_wake(t);
    }
}

static void set_closed(struct stream *s, const char *why)
{
    if (s->closed)
        return;
    s->closed = true;
    snprintf(s->error, sizeof s->error, "%s", why);
    watch_set(s->watch, 0);
    buf_free(&s->out);
    wake_writer(s);
    timer_now(s->soon);
}

/* TLS has bytes in its own buffer that no event will tell of. */
static bool tls_pending(const struct stream *s)
{
    return s->ssl != NULL && !s->handshaking && SSL_pending(s->ssl) > 0;
}

/* May bytes be read into the buffer?  A peer that does not read its replies is not given more. */
static bool may_fill(const struct stream *s)
{
    return !s->closed && !s->eof && !s->frozen && !s->lingering && s->in.len < s->in.cap &&
           s->out.len <= HIGH_WATER;
}

static void update_watch(struct stream *s)
{
    if (s->closed)
        return;
    bool fills = may_fill(s);
    bool want_read = fills || (!s->eof && (s->handshaking || s->lingering));
    if (fills && tls_pending(s))
        timer_now(s->soon);
    /* Not for what is merely written at the end of the turn: two changes of the watch a reply. */
    bool want_write = (s->blocked && s->out.len > 0 && !s->handshaking) || s->ssl_want_write;
    watch_set(s->watch, (want_read ? WATCH_READ : 0) | (want_write ? WATCH_WRITE : 0));
}

/* -1: closed; 0: would block; else bytes. */
static ssize_t ssl_result(struct stream *s, int n)
{
    if (n > 0)
        return n;
    int code = SSL_get_error(s->ssl, n);
    if (code == SSL_ERROR_WANT_READ)
        return 0;
    if (code == SSL_ERROR_WANT_WRITE) {
        s->ssl_want_write = true;
        return 0;
    }
    if (code == SSL_ERROR_ZERO_RETURN) {
        s->eof = true;
        return 0;
    }
    char text[100];
    unsigned long q = ERR_get_error();
    if (q != 0)
        ERR_error_string_n(q, text, sizeof text);
    else
        snprintf(text, sizeof text, "connection closed");
    ERR_clear_error();
    set_closed(s, text);
    return -1;
}

static ssize_t raw_read(struct stream *s, char *p, size_t n)
{
    ERR_clear_error(); /* what others left there would be taken for this call's error */
    if (s->ssl)
        return ssl_result(s, SSL_read(s->ssl, p, (int)n));
    ssize_t r = read(s->fd, p, n);
    if (r > 0)
        return r;
    if (r == 0) {
        s->eof = true;
        return 0;
    }
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    set_closed(s, strerror(errno));
    return -1;
}

static ssize_t raw_write(struct stream *s, const char *p, size_t n)
{
    ERR_clear_error();
    if (s->ssl)
        return ssl_result(s, SSL_write(s->ssl, p, n > 16384 ? 16384 : (int)n));
    ssize_t r = write(s->fd, p, n);
    if (r >= 0)
        return r;
    if (errno == EAGAIN || errno == EINTR)
        return 0;
    set_closed(s, strerror(errno));
    return -1;
}

static void touch(struct stream *s)
{
    if (s->timeout_s && !s->finishing)
        s->deadline = loop_ms() + s->timeout_s * 1000u;
}

static void flush_out(struct stream *s)
{
    bool had = s->out.len > 0;

    while (s->out.len > 0 && !s->closed && !s->handshaking) {
        struct str o = buf_str(&s->out);
        ssize_t n = raw_write(s, o.p, o.n);
        s->blocked = n <= 0;
        if (n <= 0)
            break;
        buf_consume(&s->out, (size_t)n);
        if (s->writer != NULL) /* a long download is activity; a notice now and then is not */
            touch(s);
    }
    if (s->out.len <= LOW_WATER)
        wake_writer(s);
    if (had && s->out.len == 0 && !s->closed) {
        s->drained_due = true;
        timer_now(s->soon);
    }
}

static void handshake(struct stream *s)
{
    s->ssl_want_write = false;
    ERR_clear_error();
    int r = SSL_do_handshake(s->ssl);
    if (r != 1) {
        ssl_result(s, r);
        if (s->eof)
            set_closed(s, "closed during the TLS handshake");
        return;
    }
    s->handshaking = false;
    flush_out(s);
    tell(s, STREAM_TLS);
}

/* Reads into the buffer what there is and fits. */
static void fill(struct stream *s)
{
    bool got = false;

    /* At most four chunks a turn, so that one fast sender does not starve the others. */
    for (int i = 0; i < 4 && may_fill(s); i++) {
        size_t want = s->in.cap - s->in.len;
        size_t room = want < READ_CHUNK ? want : READ_CHUNK;
        char *p = buf_room(&s->in, room);
        if (p == NULL)
            break;
        ssize_t n = raw_read(s, p, room);
        if (n <= 0)
            break;
        buf_added(&s->in, (size_t)n);
        got = true;
        if ((size_t)n < room && !tls_pending(s))
            break;
    }
    if (got)
        touch(s);
    if (s->in.len == 0 && !s->frozen)
        buf_clear(&s->in);
    if (got || s->eof) {
        s->fresh = true;
        s->announce = true;
        timer_now(s->soon);
    }
}

/* A socket that is closed while bytes stand unread answers with a reset, and the peer may lose the
 * last reply.  So the end of our side is sent, and what still comes is read for a moment. */
static void linger(struct stream *s)
{
    char dropped[READ_CHUNK];

    if (!s->lingering) {
        s->lingering = true;
        if (s->ssl && !s->handshaking) {
            ERR_clear_error();
            SSL_shutdown(s->ssl); /* close_notify, which is all that is wanted */
            ERR_clear_error();
        }
        if (shutdown(s->fd, SHUT_WR) != 0) {
            set_closed(s, "");
            return;
        }
        s->deadline = loop_ms() + LINGER_SECONDS * 1000u;
        timer_set(s->idle, LINGER_SECONDS * 1000u);
    }
    for (int i = 0; i < 4; i++) {
        ssize_t n = read(s->fd, dropped, sizeof dropped);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            set_closed(s, "");
            return;
        }
        if (n < (ssize_t)sizeof dropped)
            return;
    }
}

static void on_ready(void *ctx, int what)
{
    struct stream *s = ctx;

    s->depth++;
    s->ssl_want_write = false;
    if (s->lingering) {
        linger(s);
    } else if (s->handshaking) {
        handshake(s);
    } else {
        if (what & WATCH_WRITE)
            flush_out(s);
        fill(s);
    }
    s->depth--;
    if (s->dead && s->depth == 0) {
        free_now(s);
        return;
    }
    update_watch(s);
}

/* Hands out what came; at the peer's end, what it sent is handed out as long as the owner consumes
 * it, and then the stream ends when our last words have gone. */
static void announce(struct stream *s)
{
    size_t before = s->in.len;

    s->announce = s->fresh = false;
    s->told = before;
    if (before > 0)
        tell(s, STREAM_DATA);
    if (!s->eof || s->dead || s->paused || s->closed || s->finishing)
        return;
    if (s->in.len > 0 && s->in.len != before) {
        s->announce = true;
        timer_now(s->soon);
        return;
    }
    flush_out(s);
    if (s->out.len > 0)
        stream_finish(s);
    else
        set_closed(s, "closed by the peer");
}

static void on_soon(void *ctx)
{
    struct stream *s = ctx;

    s->depth++;
    if (s->out.len > 0 && !s->closed)
        flush_out(s);
    if (s->drained_due && !s->closed && !s->lingering) {
        s->drained_due = false;
        if (s->finishing && s->eof)
            set_closed(s, "");
        else if (s->finishing)
            linger(s);
        else if (!s->dead)
            tell(s, STREAM_DRAINED);
    }
    if (!s->dead && tls_pending(s) && may_fill(s))
        fill(s);
    if (s->announce && !s->paused && !s->dead && !s->closed && !s->finishing)
        announce(s);
    if (s->closed && !s->told_closed && !s->dead) {
        s->told_closed = true;
        tell(s, STREAM_CLOSED);
    }
    s->depth--;
    if (s->dead && s->depth == 0) {
        free_now(s);
        return;
    }
    update_watch(s);
}

static void on_idle(void *ctx)
{
    struct stream *s = ctx;
    uint64_t now = loop_ms();

    if (s->closed || s->deadline == 0)
        return;
    if (now < s->deadline) {
        timer_set(s->idle, s->deadline - now);
        return;
    }
    if (s->finishing || s->writer != NULL) { /* nobody reads what we write */
        set_closed(s, s->lingering ? "" : "timeout");
        return;
    }
    s->deadline = now + s->timeout_s * 1000u;
    timer_set(s->idle, s->timeout_s * 1000u);
    tell(s, STREAM_TIMEOUT);
}

struct stream *stream_new(int fd, const struct sockaddr_storage *peer, size_t in_cap, stream_fn *fn,
                          void *ctx)
{
    struct stream *s = xcalloc(1, sizeof *s);
    socklen_t len = sizeof s->local;
    int one = 1;

    s->fd = fd;
    s->peer = *peer;
    s->fn = fn;
    s->ctx = ctx;
    buf_init(&s->in, in_cap);
    buf_init(&s->out, OUT_CAP);
    if (getsockname(fd, (struct sockaddr *)&s->local, &len) != 0)
        memset(&s->local, 0, sizeof s->local);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (peer->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr))
            inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, s->peer_text, sizeof s->peer_text);
        else
            inet_ntop(AF_INET6, &in6->sin6_addr, s->peer_text, sizeof s->peer_text);
    } else if (peer->ss_family == AF_INET) {
        inet_ntop(AF_INET, &((const struct sockaddr_in *)peer)->sin_addr, s->peer_text,
                  sizeof s->peer_text);
    } else {
        snprintf(s->peer_text, sizeof s->peer_text, "unknown");
    }
    s->watch = watch_new(fd, on_ready, s);
    s->soon = timer_new(on_soon, s);
    s->idle = timer_new(on_idle, s);
    update_watch(s);
    return s;
}

void stream_free(struct stream **sp)
{
    struct stream *s = *sp;

    *sp = NULL;
    if (s == NULL)
        return;
    s->dead = true;
    wake_writer(s);
    if (s->depth == 0)
        free_now(s);
}

struct buf *stream_in(struct stream *s)
{
    return &s->in;
}

void stream_in_cap(struct stream *s, size_t cap)
{
    s->in.cap = cap;
    update_watch(s);
}

void stream_freeze(struct stream *s, bool on)
{
    s->frozen = on;
    if (!on)
        update_watch(s);
}

void stream_pause(struct stream *s)
{
    s->paused = true;
}

void stream_resume(struct stream *s)
{
    s->paused = false;
    /* A partial line that the owner has seen already is not shown to it again and again. */
    if (s->eof || (s->in.len > 0 && (s->fresh || s->in.len != s->told))) {
        s->announce = true;
        timer_now(s->soon);
    }
    update_watch(s);
}

int stream_write(struct stream *s, struct str bytes)
{
    if (s->closed || s->finishing || s->dead)
        return -1;
    if (!buf_add(&s->out, bytes)) {
        set_closed(s, "the peer does not read");
        return -1;
    }
    timer_now(s->soon);
    if (s->out.len > HIGH_WATER && task_self() != NULL) {
        flush_out(s);
        update_watch(s);
        s->depth++; /* whoever frees the stream meanwhile leaves it to us */
        while (s->out.len > HIGH_WATER && !s->closed && !s->dead && !task_cancelled()) {
            s->writer = task_self();
            task_park();
        }
        s->writer = NULL;
        s->depth--;
        if (s->dead) {
            if (s->depth == 0)
                free_now(s);
            return -1;
        }
    }
    return s->closed ? -1 : 0;
}

int stream_printf(struct stream *s, const char *fmt, ...)
{
    char small[1024];
    va_list ap, again;

    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    int rc = -1;
    if (n >= 0 && (size_t)n < sizeof small) {
        rc = stream_write(s, str_make(small, (size_t)n));
    } else if (n >= 0) {
        char *big = xmalloc((size_t)n + 1);
        vsnprintf(big, (size_t)n + 1, fmt, again);
        rc = stream_write(s, str_make(big, (size_t)n));
        free(big);
    }
    va_end(again);
    return rc;
}

size_t stream_unsent(const struct stream *s)
{
    return s->out.len;
}

void stream_finish(struct stream *s)
{
    if (s->finishing || s->closed)
        return;
    s->finishing = true;
    stream_timeout(s, FINISH_SECONDS);
    if (s->out.len == 0)
        s->drained_due = true;
    timer_now(s->soon);
}

bool stream_closed(const struct stream *s)
{
    return s->closed;
}

const char *stream_error(const struct stream *s)
{
    return s->error;
}

void stream_timeout(struct stream *s, unsigned seconds)
{
    s->timeout_s = seconds;
    s->deadline = seconds ? loop_ms() + seconds * 1000u : 0;
    if (seconds)
        timer_set(s->idle, seconds * 1000u);
    else
        timer_stop(s->idle);
}

int stream_start_tls(struct stream *s, struct tls_ctx *ctx, struct err *e)
{
    if (s->ssl != NULL)
        return err_set(e, ERR_PERM, "TLS is on already");
    /* What was sent in the clear behind the command must not be read as if it came encrypted. */
    buf_wipe(&s->in);
    s->announce = s->fresh = false;
    s->told = 0;
    flush_out(s);
    if (s->closed || s->out.len > 0)
        return err_set(e, ERR_TEMP, "the reply could not be sent");
    s->drained_due = false;
    s->ssl = SSL_new(tls_ctx_get(ctx));
    if (s->ssl == NULL || SSL_set_fd(s->ssl, s->fd) != 1)
        return err_set(e, ERR_INTERNAL, "cannot make a TLS session");
    SSL_set_accept_state(s->ssl);
    s->handshaking = true;
    update_watch(s);
    return 0;
}

bool stream_is_tls(const struct stream *s)
{
    return s->ssl != NULL && !s->handshaking;
}

const char *stream_tls_text(const struct stream *s)
{
    static char text[100];

    if (!stream_is_tls(s))
        return "";
    snprintf(text, sizeof text, "%s %s", SSL_get_version(s->ssl), SSL_get_cipher_name(s->ssl));
    return text;
}

const struct sockaddr_storage *stream_peer(const struct stream *s)
{
    return &s->peer;
}

const struct sockaddr_storage *stream_local(const struct stream *s)
{
    return &s->local;
}

const char *stream_peer_text(const struct stream *s)
{
    return s->peer_text;
}

unsigned stream_local_port(const struct stream *s)
{
    if (s->local.ss_family == AF_INET6)
        return ntohs(((const struct sockaddr_in6 *)&s->local)->sin6_port);
    return ntohs(((const struct sockaddr_in *)&s->local)->sin_port);
}
