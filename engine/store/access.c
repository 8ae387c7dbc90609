#include "store/access.h"

#include "core/arena.h"
#include "core/log.h"
#include "core/shm.h"
#include "store/db.h"
#include "store/setting.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum row_type { ROW_ANY, ROW_ANY4, ROW_ANY6, ROW_LOCAL, ROW_NETWORK };

struct network {
    unsigned char addr[16]; /* IPv4 mapped */
    unsigned bits;          /* 0-128 */
};

struct row {
    struct str service;
    enum row_type type;
    struct network net;
    bool allow, allow_unauth;
    struct str users;
};

static struct arena *arena;
static struct row *rows;
static uint32_t row_count;
static uint64_t loaded_generation;
static struct network attached[64];
static unsigned attached_count;

static bool address_bytes(const struct sockaddr_storage *ss, unsigned char out[16])
{
    memset(out, 0, 16);
    if (ss->ss_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)ss)->sin6_addr, 16);
        return true;
    }
    if (ss->ss_family == AF_INET) {
        out[10] = out[11] = 0xff;
        memcpy(out + 12, &((const struct sockaddr_in *)ss)->sin_addr, 4);
        return true;
    }
    return false;
}

static bool is_v4(const unsigned char a[16])
{
    static const unsigned char prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(a, prefix, sizeof prefix) == 0;
}

static bool network_has(const struct network *n, const unsigned char a[16])
{
    unsigned whole = n->bits / 8, rest = n->bits % 8;

    if (memcmp(n->addr, a, whole) != 0)
        return false;
    if (rest == 0)
        return true;
    unsigned char mask = (unsigned char)(0xff << (8 - rest));
    return (n->addr[whole] & mask) == (a[whole] & mask);
}

/* "192.168.1.0/24", "2001:db8::/32", "10.0.0.1" */
static bool network_parse(struct str s, struct network *n)
{
    char text[64];
    uint32_t bits = 0;
    struct str rest = str_trim(s);
    struct str addr = str_cut(&rest, '/');

    if (addr.n == 0 || addr.n >= sizeof text)
        return false;
    snprintf(text, sizeof text, "%.*s", STR_ARG(addr));
    memset(n, 0, sizeof *n);
    if (inet_pton(AF_INET, text, n->addr + 12) == 1) {
        n->addr[10] = n->addr[11] = 0xff;
        if (rest.p != NULL && (!str_u32(rest, &bits) || bits > 32))
            return false;
        n->bits = 96 + (rest.p ? bits : 32);
        return true;
    }
    if (inet_pton(AF_INET6, text, n->addr) != 1)
        return false;
    if (rest.p != NULL && (!str_u32(rest, &bits) || bits > 128))
        return false;
    n->bits = rest.p ? bits : 128;
    return true;
}

bool access_network_valid(struct str s)
{
    struct network n;
    return network_parse(s, &n);
}

bool access_in_list(struct str list, const struct sockaddr_storage *peer)
{
    unsigned char a[16];
    struct network n;

    if (!address_bytes(peer, a))
        return false;
    while (list.p != NULL && list.n > 0) {
        struct str one = str_trim(str_cut(&list, ','));
        if (one.n > 0 && network_parse(one, &n) && network_has(&n, a))
            return true;
    }
    return false;
}

static unsigned mask_bits(const struct sockaddr *mask)
{
    unsigned n = 0;
    const unsigned char *p;
    size_t len;

    if (mask == NULL)
        return 128;
    if (mask->sa_family == AF_INET) {
        p = (const unsigned char *)&((const struct sockaddr_in *)(const void *)mask)->sin_addr;
        len = 4;
        n = 96;
    } else {
        p = (const unsigned char *)&((const struct sockaddr_in6 *)(const void *)mask)->sin6_addr;
        len = 16;
    }
    for (size_t i = 0; i < len; i++)
        for (unsigned char b = p[i]; b & 0x80; b = (unsigned char)(b << 1))
            n++;
    return n;
}

static void find_attached(void)
{
    struct ifaddrs *list;

    attached_count = 0;
    if (getifaddrs(&list) != 0)
        return;
    for (struct ifaddrs *i = list; i != NULL && attached_count < 64; i = i->ifa_next) {
        struct sockaddr_storage ss = {0};
        if (i->ifa_addr == NULL || (i->ifa_flags & IFF_POINTOPOINT))
            continue;
        if (i->ifa_addr->sa_family == AF_INET)
            memcpy(&ss, i->ifa_addr, sizeof(struct sockaddr_in));
        else if (i->ifa_addr->sa_family == AF_INET6)
            memcpy(&ss, i->ifa_addr, sizeof(struct sockaddr_in6));
        else
            continue;
        struct network *n = &attached[attached_count++];
        address_bytes(&ss, n->addr);
        n->bits = mask_bits(i->ifa_netmask);
    }
    freeifaddrs(list);
}

bool access_is_attached(const struct sockaddr_storage *peer)
{
    unsigned char a[16];

    if (!address_bytes(peer, a))
        return false;
    for (unsigned i = 0; i < attached_count; i++)
        if (network_has(&attached[i], a))
            return true;
    return false;
}

bool access_stale(void)
{
    return loaded_generation != shm_generation(GEN_ACL);
}

static bool row_parse(struct row *r, struct str type, struct str network)
{
    if (str_eqi(type, STR("any")))
        r->type = ROW_ANY;
    else if (str_eqi(type, STR("any4")))
        r->type = ROW_ANY4;
    else if (str_eqi(type, STR("any6")))
        r->type = ROW_ANY6;
    else if (str_eqi(type, STR("local")))
        r->type = ROW_LOCAL;
    else if (str_eqi(type, STR("network")))
        r->type = ROW_NETWORK;
    else
        return false;
    return r->type != ROW_NETWORK || network_parse(network, &r->net);
}

/* Most specific first, as the product sorts them: hosts, networks by length, local, any. */
static unsigned rank(const struct row *r)
{
    switch (r->type) {
    case ROW_NETWORK:
        return 1000 + r->net.bits;
    case ROW_LOCAL:
        return 900;
    case ROW_ANY4:
    case ROW_ANY6:
        return 100;
    default:
        return 0;
    }
}

static int by_rank(const void *a, const void *b)
{
    unsigned x = rank(a), y = rank(b);
    return x > y ? -1 : x < y;
}

int access_load(struct err *e)
{
    uint64_t generation = shm_generation(GEN_ACL);
    struct arena *a = arena_new(1024);
    const struct rows *r;

    if (db_exec(a, &r, e,
                "select service, type, network, allow, allow_unauth, users from access_rule "
                "order by id",
                0, NULL) != 0) {
        arena_free(&a);
        return -1;
    }
    uint32_t n = rows_count(r), used = 0;
    struct row *v = ARENA_ARRAY(a, struct row, n ? n : 1);
    for (uint32_t i = 0; i < n; i++) {
        struct row *w = &v[used];
        if (!row_parse(w, rows_str(r, i, 1), rows_str(r, i, 2))) {
            log_error("access", "access rule with type '%.*s' and network '%.*s' is left out",
                      STR_ARG(rows_str(r, i, 1)), STR_ARG(rows_str(r, i, 2)));
            continue;
        }
        w->service = rows_str(r, i, 0);
        w->allow = rows_bool(r, i, 3);
        w->allow_unauth = rows_bool(r, i, 4);
        w->users = rows_str(r, i, 5);
        used++;
    }
    qsort(v, used, sizeof *v, by_rank);
    arena_free(&arena);
    arena = a;
    rows = v;
    row_count = used;
    loaded_generation = generation;
    find_attached();
    return 0;
}

static bool row_has(const struct row *r, const unsigned char a[16],
                    const struct sockaddr_storage *peer)
{
    switch (r->type) {
    case ROW_ANY:
        return true;
    case ROW_ANY4:
        return is_v4(a);
    case ROW_ANY6:
        return !is_v4(a);
    case ROW_LOCAL:
        return access_is_attached(peer);
    case ROW_NETWORK:
        return network_has(&r->net, a);
    }
    return false;
}

/* Walks one list; true when it has rows at all. */
static bool walk(const char *service, const struct sockaddr_storage *peer, struct access *x)
{
    unsigned char a[16];
    bool any = false;

    if (!address_bytes(peer, a))
        return false;
    for (uint32_t i = 0; i < row_count; i++) {
        const struct row *r = &rows[i];
        if (!str_eqz(r->service, service))
            continue;
        any = true;
        if (row_has(r, a, peer)) {
            *x = (struct access){r->allow, true, r->allow && r->allow_unauth, r->users};
            return true;
        }
    }
    return any;
}

void access_check(const char *service, const struct sockaddr_storage *peer, struct access *r)
{
    *r = (struct access){.users = STR("")};
    if (!walk(service, peer, r) && !walk("*", peer, r))
        r->allowed = true;
}

bool access_allowed(const char *service, const struct sockaddr_storage *peer)
{
    struct access r;
    access_check(service, peer, &r);
    return r.allowed;
}

bool access_user(const char *service, const char *peer, struct str name)
{
    struct sockaddr_storage ss = {0};
    struct access r;

    if (inet_pton(AF_INET, peer, &((struct sockaddr_in *)&ss)->sin_addr) == 1)
        ss.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, peer, &((struct sockaddr_in6 *)&ss)->sin6_addr) == 1)
        ss.ss_family = AF_INET6;
    access_check(service, &ss, &r);
    if (!r.allowed)
        return false;
    if (r.users.n == 0)
        return true;
    while (r.users.p != NULL)
        if (str_eqi(str_trim(str_cut(&r.users, ',')), name))
            return true;
    return false;
}
