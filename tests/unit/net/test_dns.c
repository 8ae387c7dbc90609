/* DNS questions against a server of the test's own: answers, absence, silence, garbage. */
#include "core/loop.h"
#include "core/task.h"
#include "net/dns.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int server_fd;
static struct watch *server_watch;
static char server_text[40];
static unsigned asked;

struct reply {
    unsigned char p[2048];
    size_t n;
    unsigned answers;
};

static void put(struct reply *r, const void *p, size_t n)
{
    memcpy(r->p + r->n, p, n);
    r->n += n;
}

static void put16(struct reply *r, unsigned v)
{
    unsigned char b[2] = {(unsigned char)(v >> 8), (unsigned char)v};
    put(r, b, 2);
}

/* A record of the name in the question. */
static void record(struct reply *r, unsigned type, const void *data, size_t n)
{
    put16(r, 0xc00c);
    put16(r, type);
    put16(r, 1);
    put(r, "\0\0\1\0", 4);
    put16(r, (unsigned)n);
    put(r, data, n);
    r->answers++;
}

static void answer(struct reply *r, const char *name, unsigned type, unsigned *rcode)
{
    if (strncmp(name, "ok.", 3) == 0 && type == DNS_A) {
        record(r, DNS_A, "\x7f\0\0\2", 4);
        record(r, DNS_A, "\x0a\1\2\3", 4);
    } else if (strncmp(name, "ok.", 3) == 0 && type == DNS_AAAA) {
        record(r, DNS_AAAA, "\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
    } else if (strncmp(name, "mx.", 3) == 0 && type == DNS_MX) {
        record(r, DNS_MX, "\0\x14\3two\xc0\x0c", 8);
        record(r, DNS_MX, "\0\x0a\3oNE\xc0\x0c", 8);
    } else if (strncmp(name, "nullmx.", 7) == 0 && type == DNS_MX) {
        record(r, DNS_MX, "\0\0\0", 3);
    } else if (strncmp(name, "txt.", 4) == 0 && type == DNS_TXT) {
        record(r, DNS_TXT, "\6v=spf1\5 -all", 13);
    } else if (strcmp(name, "4.3.2.1.in-addr.arpa.") == 0 && type == DNS_PTR) {
        record(r, DNS_PTR, "\4host\7example\0", 14);
    } else if (strncmp(name, "alias.", 6) == 0) {
        record(r, 5, "\2ok\7example\0", 12);
    } else if (strncmp(name, "fail.", 5) == 0) {
        *rcode = 2;
    } else if (strncmp(name, "nx.", 3) == 0) {
        *rcode = 3;
    }
}

static void on_question(void *ctx, int what)
{
    unsigned char in[1500];
    struct sockaddr_storage from;
    socklen_t from_len = sizeof from;
    ssize_t n = recvfrom(server_fd, in, sizeof in, 0, (struct sockaddr *)&from, &from_len);
    char name[300];
    size_t at = 12, len = 0;
    unsigned rcode = 0;

    (void)ctx, (void)what;
    if (n < 17)
        return;
    asked++;
    while (in[at] != 0 && at + in[at] + 1 < (size_t)n) {
        for (unsigned i = 0; i < in[at]; i++)
            name[len++] = ascii_lower((char)in[at + 1 + i]);
        name[len++] = '.';
        at += in[at] + 1u;
    }
    name[len] = '\0';
    unsigned type = (unsigned)in[at + 1] << 8 | in[at + 2];
    if (strncmp(name, "slow.", 5) == 0)
        return;
    struct reply r = {.n = 0};
    put(&r, in, 2);
    put(&r, "\x81\x80\0\1\0\0\0\0\0\0", 10);
    put(&r, in + 12, at + 5 - 12);
    answer(&r, name, type, &rcode);
    r.p[3] = (unsigned char)(0x80 | rcode);
    r.p[7] = (unsigned char)r.answers;
    if (strncmp(name, "garbage.", 8) == 0) {
        r.p[7] = 9;
        put(&r, "\xc0\xff\xc0", 3);
    }
    if (strncmp(name, "loop.", 5) == 0) { /* a name that points to itself */
        unsigned char self[4] = {0, 10, 0xc0, (unsigned char)(r.n + 14)};
        record(&r, DNS_MX, self, 4);
        r.p[7] = 1;
    }
    sendto(server_fd, r.p, r.n, 0, (struct sockaddr *)&from, from_len);
}

static int open_server(void **state)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof in;

    (void)state;
    loop_init();
    server_fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (bind(server_fd, (struct sockaddr *)&in, len) != 0 ||
        getsockname(server_fd, (struct sockaddr *)&in, &len) != 0)
        return -1;
    snprintf(server_text, sizeof server_text, "127.0.0.1@%u", ntohs(in.sin_port));
    server_watch = watch_new(server_fd, on_question, NULL);
    watch_set(server_watch, WATCH_READ);
    struct err e = ERR_INIT;
    return dns_open(str_of(server_text), STR(""), &e);
}

static int close_server(void **state)
{
    (void)state;
    dns_close();
    watch_free(&server_watch);
    close(server_fd);
    task_pool_free();
    loop_free();
    return 0;
}

static void ask_all(void *arg)
{
    struct arena *a = arena_new(0);
    struct dns_answer r;
    struct err e = ERR_INIT;

    (void)arg;
    int rc = dns_lookup(DNS_A, "ok.example", a, &r, &e);
    assert_string_equal(e.text, "");
    assert_int_equal(rc, 0);
    assert_int_equal(r.count, 2);
    bool first = str_eqz(r.records[0].text, "127.0.0.2");
    assert_true(str_eqz(r.records[first ? 1 : 0].text, "10.1.2.3"));
    assert_int_equal(r.ttl, 256);
    assert_false(r.secure || r.bogus);
    unsigned before = asked;
    assert_int_equal(dns_lookup(DNS_A, "ok.example.", a, &r, &e), 0);
    assert_int_equal(asked, before); /* cached */

    assert_int_equal(dns_lookup(DNS_AAAA, "ok.example", a, &r, &e), 0);
    assert_true(str_eqz(r.records[0].text, "2001:db8::1"));
    assert_int_equal(dns_lookup(DNS_A, "alias.example", a, &r, &e), 0);
    assert_int_equal(r.count, 2);
    assert_int_equal(dns_lookup(DNS_MX, "mx.example", a, &r, &e), 0);
    assert_int_equal(r.count, 2);
    assert_int_equal(r.records[0].preference, 10);
    assert_true(str_eqz(r.records[0].text, "one.mx.example"));
    assert_true(str_eqz(r.records[1].text, "two.mx.example"));
    assert_int_equal(dns_lookup(DNS_MX, "nullmx.example", a, &r, &e), 0);
    assert_int_equal(r.records[0].text.n, 0);
    assert_int_equal(dns_lookup(DNS_TXT, "txt.example", a, &r, &e), 0);
    assert_true(str_eqz(r.records[0].text, "v=spf1 -all"));
    assert_int_equal(dns_lookup(DNS_PTR, "4.3.2.1.in-addr.arpa", a, &r, &e), 0);
    assert_true(str_eqz(r.records[0].text, "host.example"));

    assert_int_equal(dns_lookup(DNS_A, "nx.example", a, &r, &e), -1);
    assert_int_equal(e.cls, ERR_NOTFOUND);
    assert_int_equal(dns_lookup(DNS_TXT, "nodata.example", a, &r, &e), -1);
    assert_int_equal(e.cls, ERR_NOTFOUND);
    assert_int_equal(dns_lookup(DNS_A, "fail.example", a, &r, &e), -1);
    assert_int_equal(e.cls, ERR_TEMP);
    static const char *const bad[] = {"", ".", "a..b", "has blank", "back\\slash", "\xff.x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(dns_lookup(DNS_A, bad[i], a, &r, &e), -1);
        assert_int_equal(e.cls, ERR_SYNTAX);
    }
    arena_free(&a);
}

static void test_answers(void **state)
{
    (void)state;
    task_run_main(ask_all, NULL);
}

static void ask_hostile(void *arg)
{
    struct arena *a = arena_new(0);
    struct dns_question q[] = {{.type = DNS_MX, .name = "garbage.example"},
                               {.type = DNS_MX, .name = "loop.example"},
                               {.type = DNS_A, .name = "slow.example"},
                               {.type = DNS_A, .name = "ok.other.example"}};
    uint64_t begun = loop_ms();

    (void)arg;
    dns_lookup_all(q, 4, 700, a);
    uint64_t took = loop_ms() - begun;
    assert_true(took >= 650 && took < 3000);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(q[i].rc, -1);
        assert_int_equal(q[i].err.cls, ERR_TEMP);
        assert_int_equal(q[i].answer.count, 0);
    }
    assert_int_equal(q[3].rc, 0);
    assert_int_equal(q[3].answer.count, 2);
    arena_free(&a);
}

static void test_hostile(void **state)
{
    (void)state;
    task_run_main(ask_hostile, NULL);
}

static int cancelled, closed;

static void waits(void *arg)
{
    struct arena *a = arena_new(0);
    struct dns_answer r;
    struct err e = ERR_INIT;
    int *seen = arg;

    assert_int_equal(
        dns_lookup(DNS_A, seen == &closed ? "slow.two.example" : "slow.one.example", a, &r, &e),
        -1);
    *seen = (int)e.cls;
    arena_free(&a);
}

static void cancel_and_close(void *arg)
{
    struct err e = ERR_INIT;

    (void)arg;
    struct task *t = task_spawn(waits, &cancelled);
    assert_int_equal(task_sleep(20, NULL), 0);
    task_cancel(t);
    while (task_count() > 1)
        task_yield();
    assert_int_equal(cancelled, ERR_CANCELLED);
    task_spawn(waits, &closed);
    assert_int_equal(task_sleep(20, NULL), 0);
    assert_int_equal(dns_open(STR("not an address"), STR(""), &e), -1);
    assert_int_equal(e.cls, ERR_SYNTAX);
    assert_int_equal(task_count(), 2); /* nothing changed */
    assert_int_equal(dns_open(STR("127.0.0.1@1, ::1@53"), STR(""), &e), 0);
    while (task_count() > 1)
        task_yield();
    assert_int_equal(closed, ERR_TEMP);
    /* Closed before it was even asked. */
    task_spawn(waits, &closed);
    task_yield();
    dns_close();
    while (task_count() > 1)
        task_yield();
    assert_int_equal(closed, ERR_TEMP);
}

static void test_cancel_and_close(void **state)
{
    (void)state;
    task_run_main(cancel_and_close, NULL);
}

static void test_reverse_name(void **state)
{
    struct arena *a = arena_new(0);
    struct sockaddr_storage ss = {.ss_family = AF_INET};
    struct sockaddr_in *in = (struct sockaddr_in *)&ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;

    (void)state;
    inet_pton(AF_INET, "1.2.3.4", &in->sin_addr);
    assert_true(str_eqz(dns_reverse_name(a, &ss, STR("")), "4.3.2.1.in-addr.arpa"));
    assert_true(str_eqz(dns_reverse_name(a, &ss, STR("zen.example")), "4.3.2.1.zen.example"));
    memset(&ss, 0, sizeof ss);
    ss.ss_family = AF_INET6;
    inet_pton(AF_INET6, "::ffff:1.2.3.4", &in6->sin6_addr);
    assert_true(str_eqz(dns_reverse_name(a, &ss, STR("z")), "4.3.2.1.z"));
    inet_pton(AF_INET6, "2001:db8::f1", &in6->sin6_addr);
    assert_true(str_eqz(dns_reverse_name(a, &ss, STR("z")),
                        "1.f.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.z"));
    arena_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_hostile, open_server, close_server),
        cmocka_unit_test_setup_teardown(test_cancel_and_close, open_server, close_server),
        cmocka_unit_test(test_reverse_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
