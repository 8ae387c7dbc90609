/* DNS by libunbound.
 *
 * A lookup lives on the heap and is held by two: the task that waits for it and the resolver.  The
 * resolver cannot be told to forget a question (ub_cancel of an event context frees what its own
 * callback uses later), so the waiter of an abandoned one just lets go, and the answer is dropped
 * when it comes.  Questions are handed to libunbound on the loop's stack, which is larger than a
 * task's.
 *
 * Answers come as the bytes of a DNS message (RFC 1035 4.1), read here with every length checked.
 */
#include "net/dns.h"

#include "core/limits.h"
#include "core/log.h"
#include "core/loop.h"
#include "core/task.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unbound-event.h>
#include <unbound.h>

enum { NAME_MAX_DNS = 253, POINTERS_MAX = 64, RCODE_NXDOMAIN = 3 };

struct lookup {
    struct lookup *next, *prev; /* while the resolver holds it */
    char name[NAME_MAX_DNS + 2];
    enum dns_type type;
    unsigned holders;
    bool asked, done;
    /* of the waiter; NULL once it has let go */
    struct task *task;
    struct arena *arena;
    struct dns_question *question;
};

static struct ub_ctx *ctx;
static char *open_servers, *open_anchor;
static struct lookup *lookups;
static unsigned lookup_count;

static void release(struct lookup *l)
{
    if (--l->holders == 0)
        free(l);
}

static void unlink_lookup(struct lookup *l)
{
    if (l->prev)
        l->prev->next = l->next;
    else
        lookups = l->next;
    if (l->next)
        l->next->prev = l->prev;
    lookup_count--;
}

/* The resolver's part is over. */
static void finish(struct lookup *l)
{
    unlink_lookup(l);
    l->done = true;
    if (l->task != NULL)
        task_wake(l->task);
    release(l);
}

/* --- reading answers -------------------------------------------------------------------------- */

struct packet {
    const unsigned char *p;
    size_t n;
};

static unsigned get16(const unsigned char *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

static uint32_t get32(const unsigned char *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* A name at *at, which moves behind it.  `out` (NAME_MAX_DNS + 2 bytes, or NULL) gets it in lower
 * case; bytes that are no printable ASCII, and dots inside a label, become '?', which no host name
 * has.  False: malformed. */
static bool read_name(struct packet k, size_t *at, char *out)
{
    size_t i = *at, len = 0;
    unsigned jumps = 0;
    bool jumped = false;

    for (;;) {
        if (i >= k.n)
            return false;
        unsigned c = k.p[i];
        if ((c & 0xc0) == 0xc0) {
            if (i + 1 >= k.n || ++jumps > POINTERS_MAX)
                return false;
            if (!jumped)
                *at = i + 2;
            jumped = true;
            i = get16(k.p + i) & 0x3fff;
            continue;
        }
        if (c > 63 || i + 1 + c > k.n)
            return false;
        if (c == 0)
            break;
        if (len + c + 1 > NAME_MAX_DNS + 1)
            return false;
        if (out != NULL) {
            if (len > 0)
                out[len - 1] = '.';
            for (unsigned j = 0; j < c; j++) {
                unsigned char b = k.p[i + 1 + j];
                out[len + j] = b <= ' ' || b > 126 || b == '.' ? '?' : ascii_lower((char)b);
            }
        }
        len += c + 1;
        i += c + 1;
    }
    if (out != NULL)
        out[len ? len - 1 : 0] = '\0';
    if (!jumped)
        *at = i + 1;
    return true;
}

static bool read_txt(struct packet k, size_t at, size_t end, struct arena *a, struct str *r)
{
    char *out = arena_alloc(a, end - at + 1);
    size_t n = 0;

    while (at < end) {
        size_t len = k.p[at++];
        if (len > end - at)
            return false;
        memcpy(out + n, k.p + at, len);
        n += len;
        at += len;
    }
    out[n] = '\0';
    *r = str_make(out, n);
    return true;
}

/* The data of one record; false: malformed. */
static bool read_data(struct packet k, size_t at, size_t len, enum dns_type type, struct arena *a,
                      struct dns_record *r)
{
    char name[NAME_MAX_DNS + 2], text[INET6_ADDRSTRLEN];
    size_t end = at + len;

    switch (type) {
    case DNS_A:
        if (len != 4)
            return false;
        memcpy(&r->a, k.p + at, 4);
        r->text = arena_dup(a, str_of(inet_ntop(AF_INET, &r->a, text, sizeof text)));
        return true;
    case DNS_AAAA:
        if (len != 16)
            return false;
        memcpy(&r->aaaa, k.p + at, 16);
        r->text = arena_dup(a, str_of(inet_ntop(AF_INET6, &r->aaaa, text, sizeof text)));
        return true;
    case DNS_MX:
        if (len < 3)
            return false;
        r->preference = (uint16_t)get16(k.p + at);
        at += 2;
        /* fall through */
    case DNS_PTR:
        if (!read_name(k, &at, name) || at != end)
            return false;
        r->text = arena_dup(a, str_of(name));
        return true;
    case DNS_TXT:
        return read_txt(k, at, end, a, &r->text);
    }
    return false;
}

static int by_preference(const void *x, const void *y)
{
    const struct dns_record *a = x, *b = y;
    return a->preference < b->preference ? -1 : a->preference > b->preference;
}

/* All records of the type in the answer section: libunbound has followed and checked the chain of
 * aliases that leads to them. */
static int read_answer(struct packet k, enum dns_type type, struct arena *a, struct dns_answer *r,
                       struct err *e)
{
    size_t at = 12;

    if (k.n < 12)
        return err_set(e, ERR_TEMP, "truncated DNS answer");
    unsigned questions = get16(k.p + 4), answers = get16(k.p + 6);
    for (unsigned i = 0; i < questions; i++) {
        if (!read_name(k, &at, NULL) || k.n - at < 4)
            return err_set(e, ERR_TEMP, "malformed DNS answer");
        at += 4;
    }
    /* A record takes 11 bytes at least, whatever the header says. */
    size_t room = (k.n - at) / 11;
    if (answers > room)
        return err_set(e, ERR_TEMP, "malformed DNS answer");
    r->records = ARENA_ARRAY(a, struct dns_record, answers ? answers : 1);
    r->ttl = UINT32_MAX;
    for (unsigned i = 0; i < answers; i++) {
        if (!read_name(k, &at, NULL) || k.n - at < 10)
            return err_set(e, ERR_TEMP, "malformed DNS answer");
        unsigned rtype = get16(k.p + at), rclass = get16(k.p + at + 2);
        uint32_t ttl = get32(k.p + at + 4);
        size_t len = get16(k.p + at + 8);
        at += 10;
        if (len > k.n - at)
            return err_set(e, ERR_TEMP, "malformed DNS answer");
        if (rtype == (unsigned)type && rclass == 1) {
            if (!read_data(k, at, len, type, a, &r->records[r->count]))
                return err_set(e, ERR_TEMP, "malformed DNS record");
            r->count++;
            if (ttl < r->ttl)
                r->ttl = ttl;
        }
        at += len;
    }
    if (r->count == 0)
        return err_set(e, ERR_NOTFOUND, "no such DNS record");
    if (type == DNS_MX)
        qsort(r->records, r->count, sizeof *r->records, by_preference);
    return 0;
}

static void on_answer(void *arg, int rcode, void *packet, int len, int sec, char *why_bogus,
                      int limited)
{
    struct lookup *l = arg;

    (void)limited;
    if (l->task != NULL) {
        struct dns_question *q = l->question;
        struct dns_answer *r = &q->answer;
        r->secure = sec == 2;
        r->bogus = sec == 1;
        if (r->bogus)
            q->rc = err_set(&q->err, ERR_TEMP, "%s: DNSSEC: %s", l->name,
                            why_bogus ? why_bogus : "answer is proved false");
        else if (rcode == RCODE_NXDOMAIN)
            q->rc = err_set(&q->err, ERR_NOTFOUND, "%s: no such name", l->name);
        else if (rcode != 0)
            q->rc = err_set(&q->err, ERR_TEMP, "%s: DNS failure, code %d", l->name, rcode);
        else
            q->rc = read_answer((struct packet){packet, len > 0 ? (size_t)len : 0}, l->type,
                                l->arena, r, &q->err);
        if (q->rc != 0)
            r->count = 0;
    }
    finish(l);
}

/* --- asking ----------------------------------------------------------------------------------- */

static void ask(void *arg)
{
    struct lookup *l = arg;

    if (l->done || l->task == NULL) { /* closed, or given up already */
        if (!l->done)
            finish(l);
        release(l);
        return;
    }
    l->asked = true;
    int rc = ctx == NULL ? UB_INITFAIL
                         : ub_resolve_event(ctx, l->name, (int)l->type, 1, l, on_answer, NULL);
    if (rc != 0) {
        l->question->rc = err_set(&l->question->err, rc == UB_SYNTAX ? ERR_SYNTAX : ERR_TEMP,
                                  "%s: %s", l->name, ub_strerror(rc));
        finish(l);
    }
    release(l);
}

static bool name_valid(const char *name)
{
    size_t n = strlen(name), label = 0;

    if (n > 0 && name[n - 1] == '.')
        n--;
    if (n == 0 || n > NAME_MAX_DNS)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c == '.' ? label == 0 : c <= ' ' || c > 126 || c == '\\')
            return false;
        label = c == '.' ? 0 : label + 1;
        if (label > 63)
            return false;
    }
    return true;
}

static struct lookup *lookup_new(struct dns_question *q, struct arena *a)
{
    struct lookup *l = xcalloc(1, sizeof *l);

    snprintf(l->name, sizeof l->name, "%s", q->name);
    l->type = q->type;
    l->holders = 3; /* the waiter, the resolver, and the deferred call */
    l->task = task_self();
    l->arena = a;
    l->question = q;
    l->next = lookups;
    if (lookups)
        lookups->prev = l;
    lookups = l;
    lookup_count++;
    loop_defer(ask, l);
    return l;
}

static void on_time(void *arg)
{
    task_wake(arg);
}

static bool all_done(struct lookup *const *v, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (v[i] != NULL && !v[i]->done)
            return false;
    return true;
}

void dns_lookup_all(struct dns_question *v, unsigned n, uint64_t ms, struct arena *a)
{
    struct lookup **l = xcalloc(n ? n : 1, sizeof *l);
    uint64_t until = loop_ns() / 1000000u + ms;

    for (unsigned i = 0; i < n; i++) {
        v[i].rc = 0;
        v[i].answer = (struct dns_answer){0};
        v[i].err = (struct err)ERR_INIT;
        if (!name_valid(v[i].name))
            v[i].rc = err_set(&v[i].err, ERR_SYNTAX, "not a domain name");
        else if (ctx == NULL)
            v[i].rc = err_set(&v[i].err, ERR_TEMP, "%s: DNS is not open", v[i].name);
        else if (lookup_count >= DNS_LOOKUPS_MAX)
            v[i].rc = err_set(&v[i].err, ERR_TEMP, "%s: too many DNS questions", v[i].name);
        else
            l[i] = lookup_new(&v[i], a);
    }
    struct timer *timer = timer_new(on_time, task_self());
    uint64_t now;
    while (!all_done(l, n) && !task_cancelled() && (now = loop_ns() / 1000000u) < until) {
        timer_set(timer, until - now);
        task_park();
    }
    timer_free(&timer);
    for (unsigned i = 0; i < n; i++) {
        if (l[i] == NULL)
            continue;
        if (!l[i]->done)
            v[i].rc = task_cancelled()
                          ? err_set(&v[i].err, ERR_CANCELLED, "%s: cancelled", v[i].name)
                          : err_set(&v[i].err, ERR_TEMP, "%s: no answer in time", v[i].name);
        l[i]->task = NULL;
        release(l[i]);
    }
    free(l);
}

int dns_lookup(enum dns_type type, const char *name, struct arena *a, struct dns_answer *r,
               struct err *e)
{
    struct dns_question q = {.type = type, .name = name};

    dns_lookup_all(&q, 1, DNS_SECONDS * 1000u, a);
    *r = q.answer;
    if (q.rc != 0 && e != NULL)
        *e = q.err;
    return q.rc;
}

struct str dns_reverse_name(struct arena *a, const struct sockaddr_storage *peer, struct str zone)
{
    const unsigned char *b = NULL;

    if (peer->ss_family == AF_INET) {
        b = (const unsigned char *)&((const struct sockaddr_in *)peer)->sin_addr;
    } else if (peer->ss_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)peer)->sin6_addr;
        if (!IN6_IS_ADDR_V4MAPPED(in6)) {
            static const char hex[] = "0123456789abcdef";
            char nibbles[65];
            for (int i = 0; i < 16; i++) {
                unsigned char c = in6->s6_addr[15 - i];
                nibbles[i * 4] = hex[c & 15];
                nibbles[i * 4 + 2] = hex[c >> 4];
                nibbles[i * 4 + 1] = nibbles[i * 4 + 3] = '.';
            }
            nibbles[64] = '\0';
            return arena_printf(a, "%s%.*s", nibbles, STR_ARG(zone.n ? zone : STR("ip6.arpa")));
        }
        b = in6->s6_addr + 12;
    }
    if (b == NULL)
        return STR("");
    return arena_printf(a, "%u.%u.%u.%u.%.*s", b[3], b[2], b[1], b[0],
                        STR_ARG(zone.n ? zone : STR("in-addr.arpa")));
}

/* --- opening ---------------------------------------------------------------------------------- */

static bool option(struct ub_ctx *c, const char *name, const char *value, struct err *e)
{
    int rc = ub_ctx_set_option(c, name, value);

    if (rc != 0)
        err_set(e, ERR_INTERNAL, "DNS option %s %s: %s", name, value, ub_strerror(rc));
    return rc == 0;
}

static bool server_valid(struct str s)
{
    struct in_addr a4;
    struct in6_addr a6;
    char ip[INET6_ADDRSTRLEN];
    uint32_t port = 53;
    struct str addr = str_cut(&s, '@');

    if (s.p != NULL && (!str_u32(s, &port) || port == 0 || port > 65535))
        return false;
    if (addr.n == 0 || addr.n >= sizeof ip)
        return false;
    memcpy(ip, addr.p, addr.n);
    ip[addr.n] = '\0';
    return inet_pton(AF_INET, ip, &a4) == 1 || inet_pton(AF_INET6, ip, &a6) == 1;
}

static int set_servers(struct ub_ctx *c, struct str servers, struct err *e)
{
    bool any = false;
    int rc;

    while (servers.p != NULL) {
        struct str one = str_trim(str_cut(&servers, ','));
        char text[80];
        if (one.n == 0)
            continue;
        if (!server_valid(one))
            return err_set(e, ERR_SYNTAX, "dns.servers: not an address: %.*s", STR_ARG(one));
        snprintf(text, sizeof text, "%.*s", STR_ARG(one));
        if ((rc = ub_ctx_set_fwd(c, text)) != 0)
            return err_set(e, ERR_SYNTAX, "dns.servers: %s: %s", text, ub_strerror(rc));
        any = true;
    }
    if (!any && (rc = ub_ctx_resolvconf(c, NULL)) != 0)
        log_warn("net", "resolv.conf: %s; asking the root servers", ub_strerror(rc));
    return 0;
}

void dns_close(void)
{
    if (ctx != NULL)
        ub_ctx_delete(ctx);
    ctx = NULL;
    for (struct lookup *l = lookups, *next; l != NULL; l = next) {
        next = l->next;
        if (l->task != NULL)
            l->question->rc = err_set(&l->question->err, ERR_TEMP, "%s: DNS was closed", l->name);
        finish(l);
    }
    free(open_servers);
    free(open_anchor);
    open_servers = open_anchor = NULL;
}

static char *copy(struct str s)
{
    char *z = xmalloc(s.n + 1);
    if (s.n > 0)
        memcpy(z, s.p, s.n);
    z[s.n] = '\0';
    return z;
}

static int set_anchor(struct ub_ctx *c, struct str file, struct err *e)
{
    if (file.n == 0)
        return 0;
    char *name = copy(file);
    int rc = ub_ctx_add_ta_file(c, name);
    if (rc != 0)
        err_set(e, ERR_SYNTAX, "dns.trust_anchor_file: %s", ub_strerror(rc));
    free(name);
    return rc == 0 ? 0 : -1;
}

int dns_open(struct str servers, struct str anchor_file, struct err *e)
{
    if (ctx != NULL && str_eqz(servers, open_servers) && str_eqz(anchor_file, open_anchor))
        return 0;
    struct ub_ctx *c = ub_ctx_create_event(loop_base());
    if (c == NULL)
        return err_set(e, ERR_INTERNAL, "cannot make a DNS resolver");
    ub_ctx_debugout(c, NULL);
    /* A resolver on this machine is the usual case; addresses of private networks and the domain
     * "test" are the business of the site's own servers, not of built-in empty zones; a server that
     * was silent for a while is tried again soon. */
    static const char *const options[][2] = {
        {"do-not-query-localhost:", "no"}, {"unblock-lan-zones:", "yes"},
        {"insecure-lan-zones:", "yes"},    {"local-zone:", "test. nodefault"},
        {"infra-host-ttl:", "60"},         {"infra-keep-probing:", "yes"},
        {"outgoing-range:", "256"},        {"num-queries-per-thread:", "1024"},
    };
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof options / sizeof *options; i++)
        ok = option(c, options[i][0], options[i][1], e);
    if (!ok || set_servers(c, servers, e) != 0 || set_anchor(c, anchor_file, e) != 0) {
        ub_ctx_delete(c);
        return -1;
    }
    dns_close();
    ctx = c;
    open_servers = copy(servers);
    open_anchor = copy(anchor_file);
    return 0;
}
