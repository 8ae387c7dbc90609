/* Streams over a socketpair: lines in pieces of one byte, pausing, slow readers, ends of both
 * sides, TLS with records larger than the buffer. */
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "net/line.h"
#include "net/stream.h"
#include "net/tls.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { LINE_CAP = 100 };

static struct stream *stream;
static int far; /* the peer's end, non-blocking */
static unsigned lines, data_events, closed_events, drained_events, timeouts, tls_events;
static bool echo, free_at_line, pause_at_line;
static char last[LINE_CAP + 3];

static void on_event(void *ctx, struct stream *s, enum stream_event ev)
{
    struct str line;
    size_t used;

    (void)ctx;
    switch (ev) {
    case STREAM_DATA:
        data_events++;
        while (line_get(stream_in(s), LINE_CAP, &line, &used, NULL) == LINE_OK) {
            lines++;
            snprintf(last, sizeof last, "%.*s", STR_ARG(line));
            if (echo)
                stream_printf(s, "%.*s\r\n", STR_ARG(line));
            buf_consume(stream_in(s), used);
            if (free_at_line) {
                stream_free(&stream);
                return;
            }
            if (pause_at_line) {
                stream_pause(s);
                return;
            }
        }
        break;
    case STREAM_CLOSED:
        closed_events++;
        break;
    case STREAM_DRAINED:
        drained_events++;
        break;
    case STREAM_TIMEOUT:
        timeouts++;
        break;
    case STREAM_TLS:
        tls_events++;
        break;
    }
}

static int open_pair(void **state)
{
    struct sockaddr_storage peer = {.ss_family = AF_UNIX};
    int fd[2];

    (void)state;
    signal(SIGPIPE, SIG_IGN);
    loop_init();
    lines = data_events = closed_events = drained_events = timeouts = tls_events = 0;
    echo = free_at_line = pause_at_line = false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) != 0)
        return -1;
    far = fd[1];
    stream = stream_new(fd[0], &peer, LINE_CAP + 2, on_event, NULL);
    return 0;
}

static int close_pair(void **state)
{
    (void)state;
    stream_free(&stream);
    if (far >= 0)
        close(far);
    task_pool_free();
    loop_free();
    return 0;
}

static void turns(unsigned n)
{
    while (n-- > 0)
        loop_turn();
}

static void say(const char *p, size_t n)
{
    assert_int_equal(write(far, p, n), (ssize_t)n);
}

static void test_pieces(void **state)
{
    static const char text[] = "first\r\nsecond\nthird\r\n";

    (void)state;
    for (size_t i = 0; i + 1 < sizeof text; i++) {
        say(text + i, 1);
        turns(3);
    }
    assert_int_equal(lines, 3);
    assert_string_equal(last, "third");
}

/* A partial line is shown once, not in each turn. */
static void test_partial(void **state)
{
    (void)state;
    say("part", 4);
    turns(5);
    assert_int_equal(data_events, 1);
    for (int i = 0; i < 20; i++) {
        stream_pause(stream);
        stream_resume(stream);
        turns(2);
    }
    assert_int_equal(data_events, 1);
    say("ial\r\n", 5);
    turns(5);
    assert_int_equal(lines, 1);
    assert_string_equal(last, "partial");
}

/* Pipelined lines are handed out one a resume; those that came while paused, too. */
static void test_pause(void **state)
{
    (void)state;
    pause_at_line = true;
    say("1\r\n2\r\n3\r\n", 9);
    turns(5);
    assert_int_equal(lines, 1);
    say("4\r\n", 3);
    turns(5);
    assert_int_equal(lines, 1);
    for (unsigned want = 2; want <= 4; want++) {
        stream_resume(stream);
        turns(5);
        assert_int_equal(lines, want);
    }
    stream_resume(stream);
    turns(5);
    assert_int_equal(lines, 4);
}

static void test_line_limits(void **state)
{
    struct buf b;
    struct str line;
    size_t used;
    bool bare;

    (void)state;
    buf_init(&b, 100);
    assert_int_equal(line_get(&b, 5, &line, &used, NULL), LINE_MORE);
    buf_addz(&b, "12345\r");
    assert_int_equal(line_get(&b, 5, &line, &used, NULL), LINE_MORE); /* just right so far */
    buf_addz(&b, "\nx");
    assert_int_equal(line_get(&b, 5, &line, &used, &bare), LINE_OK);
    assert_true(line.n == 5 && used == 7 && !bare);
    buf_clear(&b);
    buf_addz(&b, "123456");
    assert_int_equal(line_get(&b, 5, &line, &used, NULL), LINE_TOO_LONG);
    buf_clear(&b);
    buf_addz(&b, "12345\rx");
    assert_int_equal(line_get(&b, 5, &line, &used, NULL), LINE_TOO_LONG);
    buf_clear(&b);
    buf_addz(&b, "123456\n");
    assert_int_equal(line_get(&b, 5, &line, &used, NULL), LINE_TOO_LONG);
    buf_clear(&b);
    buf_addz(&b, "\n\r\n");
    assert_int_equal(line_get(&b, 5, &line, &used, &bare), LINE_OK);
    assert_true(line.n == 0 && used == 1 && bare);
    buf_free(&b);
}

/* The peer's half close: all that it sent is handled, and all replies arrive. */
static void test_half_close(void **state)
{
    char got[4096];
    size_t n = 0;

    (void)state;
    echo = true;
    for (int i = 0; i < 200; i++)
        say("0123456789\r\n", 12);
    shutdown(far, SHUT_WR);
    for (int i = 0; i < 500 && closed_events == 0; i++) {
        turns(1);
        ssize_t r = read(far, got, sizeof got);
        n += r > 0 ? (size_t)r : 0;
    }
    ssize_t r;
    stream_free(&stream);
    while ((r = read(far, got, sizeof got)) > 0)
        n += (size_t)r;
    assert_int_equal(r, 0);
    assert_int_equal(n, 2400);
    assert_int_equal(closed_events, 1);
}

/* stream_finish sends what is queued, then ends; what the peer still sends is no reset for it. */
static void test_finish(void **state)
{
    char got[100];

    (void)state;
    say("noise that nobody reads\r\n", 25);
    stream_pause(stream);
    turns(2);
    stream_printf(stream, "bye\r\n");
    stream_finish(stream);
    assert_int_equal(stream_write(stream, STR("too late")), -1);
    turns(3);
    assert_int_equal(closed_events, 0); /* lingers for the peer's end */
    say("still here\r\n", 12);
    turns(3);
    assert_int_equal(read(far, got, sizeof got), 5);
    assert_int_equal(read(far, got, sizeof got), 0);
    close(far);
    far = -1;
    turns(3);
    assert_int_equal(closed_events, 1);
    assert_int_equal(data_events, 1 - 1);
}

static void test_free_inside(void **state)
{
    (void)state;
    free_at_line = true;
    say("a\r\nb\r\n", 6);
    turns(5);
    assert_int_equal(lines, 1);
    assert_null(stream);
}

static bool wrote;
static int write_rc;

static void big_writer(void *arg)
{
    static char block[64 * 1024];

    (void)arg;
    write_rc = 0;
    for (int i = 0; i < 100 && write_rc == 0; i++)
        write_rc = stream_write(stream, str_make(block, sizeof block));
    wrote = true;
}

/* A task that writes more than the peer reads is parked, holds at most the high-water mark, and
 * goes on when the peer reads; meanwhile nothing more is read from that peer. */
static void test_slow_reader(void **state)
{
    static char sink[65536];
    size_t n = 0;

    (void)state;
    wrote = false;
    task_spawn(big_writer, NULL);
    turns(10);
    assert_false(wrote);
    assert_true(stream_unsent(stream) < 400 * 1024);
    say("ignored until then\r\n", 20);
    turns(5);
    assert_int_equal(lines, 0);
    for (int i = 0; i < 100000 && n < 100u * 65536; i++) {
        ssize_t r = read(far, sink, sizeof sink);
        n += r > 0 ? (size_t)r : 0;
        turns(1);
    }
    assert_int_equal(n, 100u * 65536);
    assert_true(wrote && write_rc == 0);
    turns(5);
    assert_int_equal(lines, 1);
}

/* A reader that never reads is given up after the timeout, and the writer with it. */
static void test_stuck_reader(void **state)
{
    (void)state;
    wrote = false;
    stream_timeout(stream, 1);
    task_spawn(big_writer, NULL);
    uint64_t until = loop_ms() + 5000;
    while (!wrote && loop_ms() < until) {
        turns(1);
        usleep(1000);
    }
    assert_true(wrote && write_rc == -1);
    turns(3);
    assert_int_equal(closed_events, 1);
    assert_int_equal(timeouts, 0);
    assert_int_equal(task_count(), 0);
}

/* The owner frees the stream while a task is parked in a write. */
static void test_free_while_writing(void **state)
{
    (void)state;
    wrote = false;
    task_spawn(big_writer, NULL);
    turns(3);
    struct stream *s = stream;
    stream_free(&stream);
    stream = s; /* what the writer goes on with: it must only be told -1 */
    turns(3);
    assert_true(wrote && write_rc == -1);
    stream = NULL;
}

/* --- TLS */

static struct tls_ctx *server_tls;
static SSL_CTX *client_ctx;
static char folder[] = "/tmp/mp-tls-XXXXXX", cert[64], key[64];

static SSL *shake(void)
{
    struct err e = ERR_INIT;
    SSL *c = SSL_new(client_ctx);

    assert_int_equal(stream_start_tls(stream, server_tls, &e), 0);
    SSL_set_fd(c, far);
    SSL_set_connect_state(c);
    int r = 0;
    for (int i = 0; i < 1000 && (r = SSL_do_handshake(c)) != 1; i++)
        turns(1);
    assert_int_equal(r, 1);
    turns(3);
    assert_int_equal(tls_events, 1);
    assert_true(stream_is_tls(stream));
    assert_non_null(strstr(stream_tls_text(stream), "TLSv1.3"));
    return c;
}

static void test_tls_record(void **state)
{
    static char record[16200];

    (void)state;
    SSL *c = shake();
    for (size_t i = 0; i + 6 <= sizeof record; i += 6)
        memcpy(record + i, "abcd\r\n", 6);
    /* one record, many times the input buffer: no event tells of the part inside the TLS library */
    assert_int_equal(SSL_write(c, record, sizeof record), sizeof record);
    turns(1000);
    assert_int_equal(lines, sizeof record / 6);
    /* and once more through a task's pauses */
    pause_at_line = true;
    lines = 0;
    assert_int_equal(SSL_write(c, record, 6000), 6000);
    turns(10);
    for (int i = 0; i < 2000 && lines < 1000; i++) {
        stream_resume(stream);
        turns(3);
    }
    assert_int_equal(lines, 1000);
    SSL_free(c);
}

static void test_tls_end(void **state)
{
    char got[100];

    (void)state;
    SSL *c = shake();
    stream_printf(stream, "bye\r\n");
    stream_finish(stream);
    turns(5);
    assert_int_equal(SSL_read(c, got, sizeof got), 5);
    assert_int_equal(SSL_read(c, got, sizeof got), 0);
    assert_int_equal(SSL_get_shutdown(c) & SSL_RECEIVED_SHUTDOWN, SSL_RECEIVED_SHUTDOWN);
    SSL_free(c);
}

/* A ticket of one worker is good for another one, and its name tells nothing of the keys. */
static void test_tls_tickets(void **state)
{
    unsigned char one[80], other[80];
    struct err e = ERR_INIT;
    struct tls_ctx *t = tls_ctx_new(cert, key, &e);

    (void)state;
    assert_non_null(t);
    assert_int_equal(SSL_CTX_get_tlsext_ticket_keys(tls_ctx_get(server_tls), one, 80), 1);
    assert_int_equal(SSL_CTX_get_tlsext_ticket_keys(tls_ctx_get(t), other, 80), 1);
    assert_memory_equal(one, other, 80);
    for (int from = 16; from + 16 <= 80; from += 16) {
        bool same = true; /* up to a constant difference */
        for (int i = 1; i < 16; i++)
            same &= (one[i] ^ one[0]) == (one[from + i] ^ one[from]);
        assert_false(same);
    }
    tls_ctx_free(&t);
}

/* What stood in the clear behind STARTTLS is not read as if it came encrypted. */
static void test_tls_injection(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    pause_at_line = true;
    say("STARTTLS\r\nEVIL\r\n", 16);
    turns(5);
    assert_int_equal(lines, 1);
    assert_int_equal(stream_start_tls(stream, server_tls, &e), 0);
    stream_resume(stream);
    turns(5);
    assert_int_equal(lines, 1);
    assert_int_equal(stream_in(stream)->len, 0);
    assert_int_equal(stream_start_tls(stream, server_tls, &e), -1);
    say("no handshake", 12);
    turns(5);
    assert_int_equal(closed_events, 1);
}

static int setup(void **state)
{
    struct err e = ERR_INIT;
    bool made;

    (void)state;
    shm_create();
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(cert, sizeof cert, "%s/c", folder);
    snprintf(key, sizeof key, "%s/k", folder);
    if (tls_self_signed(cert, key, "test.example", &made, &e) != 0)
        return -1;
    server_tls = tls_ctx_new(cert, key, &e);
    client_ctx = SSL_CTX_new(TLS_client_method());
    return server_tls && client_ctx ? tls_ctx_reload(server_tls, &e) : -1;
}

static int teardown(void **state)
{
    (void)state;
    tls_ctx_free(&server_tls);
    SSL_CTX_free(client_ctx);
    unlink(cert);
    unlink(key);
    rmdir(folder);
    return 0;
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, open_pair, close_pair)
    const struct CMUnitTest tests[] = {
        TEST(test_pieces),        TEST(test_partial),
        TEST(test_pause),         TEST(test_line_limits),
        TEST(test_half_close),    TEST(test_finish),
        TEST(test_free_inside),   TEST(test_slow_reader),
        TEST(test_stuck_reader),  TEST(test_free_while_writing),
        TEST(test_tls_record),    TEST(test_tls_end),
        TEST(test_tls_injection), TEST(test_tls_tickets),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
