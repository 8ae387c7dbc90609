/* SMTP load client: N connections at once send COUNT messages whose bodies all differ.
 *
 *   smtp_load --port P --conns N --count M --size BYTES --users PREFIX:COUNT --domain D
 *             [--no-reuse] [--seed S]
 *
 * Each connection waits for every reply before it sends the next command, as most senders do.  With
 * --no-reuse a connection carries one message.  The recipient of message i is PREFIX(i mod
 * COUNT)@D. Latency is the time from MAIL FROM (without reuse: from connecting) to the reply to the
 * final dot. Prints one line of JSON; `start` and `end` are CLOCK_MONOTONIC seconds, which the
 * caller compares with its own clock.  Exit status 1 when any message was not accepted. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum step { GREET, EHLO, MAIL, RCPT, DATA, DOT, QUIT };

struct conn {
    int fd;
    enum step step;
    char in[1024];
    size_t in_len;
    char *out;
    size_t out_len, out_at;
    double begun;
    long message;
    unsigned waiting_write;
};

static const char *prefix = "u", *domain = "bench.test";
static int port = 25, conns = 1, users = 10, reuse = 1;
static long count = 100, size = 4096, given, finished, failed;
static uint64_t seed = 1;
static double *latency;
static int epoll;
static size_t body_room;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what)
{
    fprintf(stderr, "smtp_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Random text: lines of 76 characters, so nothing compresses away and no two bodies agree. */
static size_t make_message(char *out, long n)
{
    static const char alphabet[65] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-";
    uint64_t x = (seed * 1000003u + (uint64_t)n + 1) * 0x9E3779B97F4A7C15u;
    int head = sprintf(
        out,
        "From: Sender %ld <sender%ld@example.org>\r\nTo: %s%ld@%s\r\n"
        "Subject: load message %ld of seed %llu\r\nDate: Mon, 05 Jan 2026 10:00:00 +0000\r\n"
        "Message-ID: <%llx.%ld@example.org>\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n\r\n",
        n % 1000, n % 1000, prefix, n % users, domain, n, (unsigned long long)seed,
        (unsigned long long)x, n);
    char *p = out + head, *end = out + (size > head + 80 ? size : head + 80) - 2;
    unsigned column = 0;
    enum { BLOCK = 78 * 1024 };

    while (p < end) {
        /* Of a large message only the first block is random, and repeated: the client shares the
         * machine with the server, and ten messages differ all the same. */
        if (p - out - head >= BLOCK && column == 0 && end - p > BLOCK) {
            char place[24];
            snprintf(place, sizeof place, "%012ld", (long)(p - out));
            memcpy(p, p - BLOCK, BLOCK);
            memcpy(p, place, 12);
            p += BLOCK;
            continue;
        }
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        uint64_t bits = x;
        for (int i = 0; i < 10 && p < end; i++, bits >>= 6) {
            *p++ = alphabet[bits & 63];
            if (++column == 76 && p + 2 < end) {
                *p++ = '\r';
                *p++ = '\n';
                column = 0;
            }
        }
    }
    memcpy(p, "\r\n.\r\n", 5);
    return (size_t)(p + 5 - out);
}

static void watch(struct conn *c, int op)
{
    struct epoll_event ev = {.events = EPOLLIN | (c->waiting_write ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll, op, c->fd, &ev) != 0)
        die("epoll_ctl");
}

static void flush_out(struct conn *c)
{
    while (c->out_at < c->out_len) {
        ssize_t n = write(c->fd, c->out + c->out_at, c->out_len - c->out_at);
        if (n < 0 && errno == EAGAIN) {
            if (!c->waiting_write) {
                c->waiting_write = 1;
                watch(c, EPOLL_CTL_MOD);
            }
            return;
        }
        if (n < 0)
            die("write");
        c->out_at += (size_t)n;
    }
    if (c->waiting_write) {
        c->waiting_write = 0;
        watch(c, EPOLL_CTL_MOD);
    }
}

static void open_conn(struct conn *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;

    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->begun = now();
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0 ||
        (connect(c->fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS))
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->step = GREET;
    c->in_len = 0;
    c->out_len = c->out_at = 0;
    c->waiting_write = 0;
    watch(c, EPOLL_CTL_ADD);
}

static void say_line(struct conn *c, enum step next, int n)
{
    c->out_len = (size_t)n;
    c->out_at = 0;
    c->step = next;
    flush_out(c);
}

static void close_conn(struct conn *c)
{
    close(c->fd);
    c->fd = -1;
}

static void begin_message(struct conn *c)
{
    if (given >= count) {
        say_line(c, QUIT, sprintf(c->out, "QUIT\r\n"));
        return;
    }
    c->message = given++;
    if (reuse)
        c->begun = now();
    say_line(c, MAIL, sprintf(c->out, "MAIL FROM:<sender%ld@example.org>\r\n", c->message % 1000));
}

static void reply(struct conn *c, int code)
{
    static const int expected[] = {
        [GREET] = 220, [EHLO] = 250, [MAIL] = 250, [RCPT] = 250, [DATA] = 354, [DOT] = 250};
    if (c->step != QUIT && code != expected[c->step]) {
        if (failed++ < 5)
            fprintf(stderr, "smtp_load: step %d answered: %.200s\n", (int)c->step, c->in);
        if (c->step >= MAIL)
            finished++;
        close_conn(c);
        if (given < count)
            open_conn(c);
        return;
    }
    switch (c->step) {
    case GREET:
        say_line(c, EHLO, sprintf(c->out, "EHLO client.test\r\n"));
        break;
    case EHLO:
        begin_message(c);
        break;
    case MAIL:
        say_line(c, RCPT,
                 sprintf(c->out, "RCPT TO:<%s%ld@%s>\r\n", prefix, c->message % users, domain));
        break;
    case RCPT:
        say_line(c, DATA, sprintf(c->out, "DATA\r\n"));
        break;
    case DATA:
        c->out_len = make_message(c->out, c->message);
        c->out_at = 0;
        c->step = DOT;
        flush_out(c);
        break;
    case DOT:
        latency[finished++ - failed] = now() - c->begun;
        if (reuse)
            begin_message(c);
        else
            say_line(c, QUIT, sprintf(c->out, "QUIT\r\n"));
        break;
    case QUIT:
        close_conn(c);
        if (given < count)
            open_conn(c);
        break;
    }
}

static void readable(struct conn *c)
{
    ssize_t n = read(c->fd, c->in + c->in_len, sizeof c->in - 1 - c->in_len);

    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0) {
        if (c->step != QUIT) {
            failed++;
            if (c->step >= MAIL)
                finished++;
        }
        close_conn(c);
        if (given < count)
            open_conn(c);
        return;
    }
    c->in_len += (size_t)n;
    c->in[c->in_len] = '\0';
    char *start = c->in, *eol;
    int code = 0;
    while ((eol = strchr(start, '\n')) != NULL) {
        if (eol - start >= 4 && start[3] != '-')
            code = atoi(start);
        start = eol + 1;
    }
    if (code != 0) { /* no pipelining: a last line ends what was read */
        c->in_len = 0;
        reply(c, code);
    } else if (start != c->in) {
        c->in_len = (size_t)(c->in + c->in_len - start);
        memmove(c->in, start, c->in_len);
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *v = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--no-reuse")) {
            reuse = 0;
            continue;
        }
        if (!strcmp(argv[i], "--port"))
            port = atoi(v);
        else if (!strcmp(argv[i], "--conns"))
            conns = atoi(v);
        else if (!strcmp(argv[i], "--count"))
            count = atol(v);
        else if (!strcmp(argv[i], "--size"))
            size = atol(v);
        else if (!strcmp(argv[i], "--domain"))
            domain = v;
        else if (!strcmp(argv[i], "--seed"))
            seed = strtoull(v, NULL, 10);
        else if (!strcmp(argv[i], "--users")) {
            prefix = strdup(v);
            char *colon = strchr(prefix, ':');
            if (colon == NULL || (users = atoi(colon + 1)) < 1)
                return 2;
            *colon = '\0';
        } else {
            fprintf(stderr, "smtp_load: unknown option %s\n", argv[i]);
            return 2;
        }
        i++;
    }
    struct conn *all = calloc((size_t)conns, sizeof *all);
    latency = calloc((size_t)count + 1, sizeof *latency);
    body_room = (size_t)size + 2048;
    epoll = epoll_create1(0);
    double start = now();
    for (int i = 0; i < conns; i++) {
        all[i].out = malloc(body_room);
        open_conn(&all[i]);
    }
    while (finished < count && failed < 1000) {
        struct epoll_event ev[64];
        int n = epoll_wait(epoll, ev, 64, 60000);
        if (n == 0) {
            fprintf(stderr, "smtp_load: nothing happened for a minute\n");
            failed++;
            break;
        }
        for (int i = 0; i < n; i++) {
            struct conn *c = ev[i].data.ptr;
            if (c->fd >= 0 && ev[i].events & EPOLLOUT)
                flush_out(c);
            if (c->fd >= 0 && ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                readable(c);
        }
    }
    double end = now();
    long good = finished - failed;
    if (good > 0)
        qsort(latency, (size_t)good, sizeof *latency, by_size);
    printf("{\"accepted\": %ld, \"failed\": %ld, \"start\": %.6f, \"end\": %.6f, \"rate\": %.1f, "
           "\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f}\n",
           good, failed, start, end, (double)good / (end - start),
           good ? latency[good / 2] * 1e3 : 0, good ? latency[good * 99 / 100] * 1e3 : 0,
           good ? latency[good - 1] * 1e3 : 0);
    return failed != 0;
}
