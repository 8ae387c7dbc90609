/* DNS questions, asked through libunbound on our own loop: caching, CNAME chains, retries, DNSSEC.
 *
 * Questions are asked in a task and look synchronous; several can be asked at once.  Answers are
 * checked and copied into the caller's arena.  A name that does not exist and a name without
 * records of the type are both NOTFOUND; whatever may go away by itself (SERVFAIL, nobody answers,
 * an answer that DNSSEC proves false) is TEMP. */
#pragma once

#include "core/arena.h"
#include "core/err.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum dns_type { DNS_A = 1, DNS_PTR = 12, DNS_MX = 15, DNS_TXT = 16, DNS_AAAA = 28 };

struct dns_record {
    struct in_addr a;     /* A */
    struct in6_addr aaaa; /* AAAA */
    uint16_t preference;  /* MX; records come sorted by it */
    struct str text;      /* A, AAAA: as text; MX, PTR: host name in lower case without the last dot
                             ("" for the root: RFC 7505); TXT: its strings joined */
};

struct dns_answer {
    struct dns_record *records;
    uint32_t count;
    uint32_t ttl;       /* seconds: the least of all records */
    bool secure, bogus; /* DNSSEC: proved, or proved false (then TEMP); neither: not signed */
};

/* `servers`: "ip[@port], ip[@port]"; empty: those of /etc/resolv.conf.  `anchor_file`: DNSSEC trust
 * anchors, or empty: nothing is validated.  Called again it does nothing when both are as before;
 * otherwise questions under way end with TEMP and the new servers are asked from then on.  On error
 * all stays as it was.  SYNTAX. */
int dns_open(struct str servers, struct str anchor_file, struct err *e);
void dns_close(void);

/* In a task.  Waits at most DNS_SECONDS.  NOTFOUND, TEMP, CANCELLED, SYNTAX (no domain name). */
int dns_lookup(enum dns_type type, const char *name, struct arena *a, struct dns_answer *r,
               struct err *e);

/* Several questions at once. */
struct dns_question {
    enum dns_type type;
    const char *name;
    /* filled in: */
    int rc;
    struct dns_answer answer;
    struct err err;
};
/* In a task: asks all and returns when all are answered, or after `ms`, or when the task is
 * cancelled; questions without answer by then have TEMP or CANCELLED. */
void dns_lookup_all(struct dns_question *v, unsigned n, uint64_t ms, struct arena *a);

/* The name under which an address stands in a reverse zone: "4.3.2.1.in-addr.arpa" for an empty
 * `zone`, else "4.3.2.1.zone"; IPv6 by nibbles (RFC 3596 2.5, RFC 5782 2.4). */
struct str dns_reverse_name(struct arena *a, const struct sockaddr_storage *peer, struct str zone);
