#include "core/shm.h"

#include "core/limits.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

enum {
    COLUMNS = WORKERS_MAX + 1, /* column 0 is the supervisor's */
    SHARDS = 64,
    CLIENT_SLOTS = 256,  /* a shard: clients with open sessions at once; 16,384 in all */
    LOCKOUT_SLOTS = 256, /* a shard; the oldest gives way */
    KILLERS = 64,
    BLOCK_SLOTS = 64 /* a shard; the one that ends first gives way */
};

/* A client is 16 bytes: IPv4 mapped into IPv6, IPv6 cut to its /64. */
struct client_slot {
    unsigned char addr[16];
    uint16_t service;
    uint16_t total;
    uint16_t by_column[COLUMNS];
};

struct lockout_slot {
    uint64_t hash; /* of name and client; 0: free */
    uint32_t failures;
    int64_t since;
};

struct block_slot {
    unsigned char addr[16];
    int64_t until; /* 0: free */
};

struct shard {
    pthread_mutex_t lock;
    struct client_slot clients[CLIENT_SLOTS];
    struct lockout_slot lockouts[LOCKOUT_SLOTS];
    struct block_slot blocks[BLOCK_SLOTS];
};

struct killer {
    uint64_t message_hash; /* of an entry for a message, else 0 */
    char hook[48], script[80];
    uint64_t last_message;
    uint32_t kills;
};

struct segment {
    _Atomic uint64_t generation[GEN_COUNT];
    _Atomic uint64_t beats[COLUMNS];
    struct shm_doing doing[COLUMNS];
    pthread_mutex_t totals_lock;
    uint32_t totals[SHM_SERVICES];
    uint32_t total_by_column[SHM_SERVICES][COLUMNS];
    pthread_mutex_t killers_lock;
    struct killer killers[KILLERS];
    unsigned next_killer;
    unsigned char hash_key[16];
    unsigned char ticket_key[48];
    _Atomic int64_t last_block; /* end of the longest block: most machines have none to look for */
    struct shard shards[SHARDS];
};

static struct segment *seg;
static unsigned column;
static void (*bump_fn)(enum shm_generation);

/* A worker may die holding a lock: the next owner finds counters that are at most one step off,
 * which shm_reap() of the dead column puts right. */
static void lock(pthread_mutex_t *m)
{
    if (pthread_mutex_lock(m) == EOWNERDEAD)
        pthread_mutex_consistent(m);
}

static void unlock(pthread_mutex_t *m)
{
    pthread_mutex_unlock(m);
}

static void init_lock(pthread_mutex_t *m)
{
    pthread_mutexattr_t a;
    pthread_mutexattr_init(&a);
    pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(m, &a);
    pthread_mutexattr_destroy(&a);
}

void shm_create(void)
{
    if (seg != NULL)
        return;
    seg = mmap(NULL, sizeof *seg, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (seg == MAP_FAILED)
        abort();
    init_lock(&seg->totals_lock);
    init_lock(&seg->killers_lock);
    for (unsigned i = 0; i < SHARDS; i++)
        init_lock(&seg->shards[i].lock);
    for (unsigned i = 0; i < GEN_COUNT; i++)
        atomic_store(&seg->generation[i], 1);
    if (getrandom(seg->hash_key, sizeof seg->hash_key, 0) < 0 ||
        getrandom(seg->ticket_key, sizeof seg->ticket_key, 0) < 0)
        abort();
}

void shm_attach(unsigned col)
{
    column = col;
}

uint64_t shm_generation(enum shm_generation g)
{
    return atomic_load(&seg->generation[g]);
}

void shm_bump(enum shm_generation g)
{
    atomic_fetch_add(&seg->generation[g], 1);
    if (bump_fn)
        bump_fn(g);
}

void shm_on_bump(void (*fn)(enum shm_generation g))
{
    bump_fn = fn;
}

const unsigned char *shm_ticket_key(void)
{
    return seg->ticket_key;
}

/* FNV-1a over a random key: processes must agree, peers must not guess. */
static uint64_t shared_hash(const void *p, size_t n, uint64_t h)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

static uint64_t hash_seed(void)
{
    uint64_t k[2];
    memcpy(k, seg->hash_key, sizeof k);
    return shared_hash(&k[1], sizeof k[1], k[0] | 1);
}

static void client_of(const struct sockaddr_storage *peer, unsigned char addr[16])
{
    memset(addr, 0, 16);
    if (peer->ss_family == AF_INET6) {
        const struct in6_addr *in6 = &((const struct sockaddr_in6 *)peer)->sin6_addr;
        if (IN6_IS_ADDR_V4MAPPED(in6))
            memcpy(addr, in6, 16);
        else
            memcpy(addr, in6, 8);
    } else {
        addr[10] = addr[11] = 0xff;
        memcpy(addr + 12, &((const struct sockaddr_in *)peer)->sin_addr, 4);
    }
}

static struct shard *shard_of(const unsigned char addr[16])
{
    return &seg->shards[shared_hash(addr, 16, hash_seed()) % SHARDS];
}

static struct client_slot *client_find(struct shard *sh, const unsigned char addr[16],
                                       unsigned service, bool make)
{
    struct client_slot *free_slot = NULL;

    for (unsigned i = 0; i < CLIENT_SLOTS; i++) {
        struct client_slot *c = &sh->clients[i];
        if (c->total == 0) {
            if (free_slot == NULL)
                free_slot = c;
        } else if (c->service == service && memcmp(c->addr, addr, 16) == 0) {
            return c;
        }
    }
    if (!make || free_slot == NULL)
        return NULL;
    memset(free_slot, 0, sizeof *free_slot);
    memcpy(free_slot->addr, addr, 16);
    free_slot->service = (uint16_t)service;
    return free_slot;
}

int shm_session_enter(unsigned service, const struct sockaddr_storage *peer, unsigned max_all,
                      unsigned max_client, unsigned reserved, bool privileged)
{
    unsigned char addr[16];

    client_of(peer, addr);
    struct shard *sh = shard_of(addr);
    lock(&sh->lock);
    struct client_slot *c = client_find(sh, addr, service, true);
    if (c == NULL || c->total == UINT16_MAX || (max_client > 0 && c->total >= max_client)) {
        unlock(&sh->lock);
        return 2;
    }
    lock(&seg->totals_lock);
    uint32_t seats = max_all;
    if (max_all > 0 && !privileged)
        seats = reserved < max_all ? max_all - reserved : 0;
    bool full = max_all > 0 && seg->totals[service] >= seats;
    if (!full) {
        seg->totals[service]++;
        seg->total_by_column[service][column]++;
        c->total++;
        c->by_column[column]++;
    }
    unlock(&seg->totals_lock);
    unlock(&sh->lock);
    return full ? 1 : 0;
}

void shm_session_leave(unsigned service, const struct sockaddr_storage *peer)
{
    unsigned char addr[16];

    client_of(peer, addr);
    struct shard *sh = shard_of(addr);
    lock(&sh->lock);
    struct client_slot *c = client_find(sh, addr, service, false);
    if (c != NULL && c->by_column[column] > 0) {
        c->by_column[column]--;
        c->total--;
    }
    lock(&seg->totals_lock);
    if (seg->total_by_column[service][column] > 0) {
        seg->total_by_column[service][column]--;
        seg->totals[service]--;
    }
    unlock(&seg->totals_lock);
    unlock(&sh->lock);
}

unsigned shm_sessions(unsigned service)
{
    return seg->totals[service];
}

/* Recounts rather than subtracts: a worker killed between two writes leaves a sum that is off. */
void shm_reap(unsigned col)
{
    for (unsigned s = 0; s < SHARDS; s++) {
        struct shard *sh = &seg->shards[s];
        lock(&sh->lock);
        for (unsigned i = 0; i < CLIENT_SLOTS; i++) {
            struct client_slot *c = &sh->clients[i];
            unsigned sum = 0;
            c->by_column[col] = 0;
            for (unsigned k = 0; k < COLUMNS; k++)
                sum += c->by_column[k];
            c->total = (uint16_t)sum;
        }
        unlock(&sh->lock);
    }
    lock(&seg->totals_lock);
    for (unsigned v = 0; v < SHM_SERVICES; v++) {
        uint32_t sum = 0;
        seg->total_by_column[v][col] = 0;
        for (unsigned k = 0; k < COLUMNS; k++)
            sum += seg->total_by_column[v][k];
        seg->totals[v] = sum;
    }
    unlock(&seg->totals_lock);
    memset(&seg->doing[col], 0, sizeof seg->doing[col]);
}

/* --- lockouts -------------------------------------------------------------------------------- */

static uint64_t lockout_hash(struct str name, struct str peer)
{
    uint64_t h = hash_seed();
    for (size_t i = 0; i < name.n; i++) {
        char c = ascii_lower(name.p[i]);
        h = shared_hash(&c, 1, h);
    }
    h = shared_hash("@", 1, h);
    /* IPv6 clients count by /64: the rest of the address costs them nothing to change. */
    char text[INET6_ADDRSTRLEN];
    struct in6_addr in6;
    if (str_chr(peer, ':') >= 0 && peer.n < sizeof text) {
        memcpy(text, peer.p, peer.n);
        text[peer.n] = '\0';
        if (inet_pton(AF_INET6, text, &in6) == 1)
            return shared_hash(&in6, 8, h) | 1;
    }
    h = shared_hash(peer.p, peer.n, h);
    return h | 1;
}

static struct lockout_slot *lockout_find(struct shard *sh, uint64_t h, bool make)
{
    struct lockout_slot *oldest = &sh->lockouts[0];

    for (unsigned i = 0; i < LOCKOUT_SLOTS; i++) {
        struct lockout_slot *l = &sh->lockouts[i];
        if (l->hash == h)
            return l;
        if (l->since < oldest->since)
            oldest = l;
    }
    if (!make)
        return NULL;
    *oldest = (struct lockout_slot){.hash = h};
    return oldest;
}

bool shm_lockout(struct str name, struct str peer, unsigned max_failures, unsigned minutes)
{
    uint64_t h = lockout_hash(name, peer);
    struct shard *sh = &seg->shards[h >> 8 & (SHARDS - 1)];

    if (max_failures == 0)
        return false;
    lock(&sh->lock);
    struct lockout_slot *l = lockout_find(sh, h, false);
    bool locked =
        l != NULL && l->failures >= max_failures && time(NULL) - l->since < (int64_t)minutes * 60;
    unlock(&sh->lock);
    return locked;
}

void shm_login_failed(struct str name, struct str peer, unsigned minutes)
{
    uint64_t h = lockout_hash(name, peer);
    struct shard *sh = &seg->shards[h >> 8 & (SHARDS - 1)];
    int64_t now = time(NULL);

    lock(&sh->lock);
    struct lockout_slot *l = lockout_find(sh, h, true);
    if (now - l->since >= (int64_t)minutes * 60)
        l->failures = 0;
    l->failures++;
    l->since = now;
    unlock(&sh->lock);
}

void shm_login_ok(struct str name, struct str peer)
{
    uint64_t h = lockout_hash(name, peer);
    struct shard *sh = &seg->shards[h >> 8 & (SHARDS - 1)];

    lock(&sh->lock);
    struct lockout_slot *l = lockout_find(sh, h, false);
    if (l != NULL)
        *l = (struct lockout_slot){0};
    unlock(&sh->lock);
}

/* --- block list ------------------------------------------------------------------------------ */

bool shm_block(const struct sockaddr_storage *peer, unsigned minutes)
{
    unsigned char addr[16];
    int64_t now = time(NULL), until = minutes ? now + (int64_t)minutes * 60 : 0;
    struct block_slot *slot = NULL;

    client_of(peer, addr);
    struct shard *sh = shard_of(addr);
    lock(&sh->lock);
    for (unsigned i = 0; i < BLOCK_SLOTS; i++) {
        struct block_slot *b = &sh->blocks[i];
        if (b->until != 0 && memcmp(b->addr, addr, 16) == 0) {
            slot = b;
            break;
        }
        if (slot == NULL || b->until < slot->until)
            slot = b;
    }
    bool mine = slot->until != 0 && memcmp(slot->addr, addr, 16) == 0;
    bool done = mine || slot->until <= now || slot->until < until;
    if (done && (mine || until != 0)) {
        memcpy(slot->addr, addr, 16);
        slot->until = until;
    }
    unlock(&sh->lock);
    int64_t last = atomic_load(&seg->last_block);
    while (until > last && !atomic_compare_exchange_weak(&seg->last_block, &last, until))
        ;
    return done || until == 0;
}

bool shm_blocked(const struct sockaddr_storage *peer)
{
    unsigned char addr[16];
    int64_t now = time(NULL);
    bool yes = false;

    if (atomic_load(&seg->last_block) <= now)
        return false;
    client_of(peer, addr);
    struct shard *sh = shard_of(addr);
    lock(&sh->lock);
    for (unsigned i = 0; i < BLOCK_SLOTS && !yes; i++)
        yes = sh->blocks[i].until > now && memcmp(sh->blocks[i].addr, addr, 16) == 0;
    unlock(&sh->lock);
    return yes;
}

/* --- watchdog -------------------------------------------------------------------------------- */

void shm_beat(void)
{
    atomic_fetch_add_explicit(&seg->beats[column], 1, memory_order_relaxed);
}

uint64_t shm_beats(unsigned col)
{
    return atomic_load_explicit(&seg->beats[col], memory_order_relaxed);
}

void shm_doing(const char *hook, const char *script, uint64_t message, uint64_t hash)
{
    if (seg == NULL)
        return;
    struct shm_doing *d = &seg->doing[column];
    strncpy(d->hook, hook, sizeof d->hook - 1);
    strncpy(d->script, script, sizeof d->script - 1);
    d->message = message;
    d->hash = hash;
}

struct shm_doing shm_doing_of(unsigned col)
{
    struct shm_doing d = seg->doing[col];
    d.hook[sizeof d.hook - 1] = d.script[sizeof d.script - 1] = '\0';
    return d;
}

/* The entry for a message, or for a hook of a script; made when it is missing.  Under the lock. */
static struct killer *killer_entry(uint64_t hash, const char *hook, const char *script)
{
    for (unsigned i = 0; i < KILLERS; i++) {
        struct killer *k = &seg->killers[i];
        bool same = hash != 0 ? k->hook[0] == '\0' && k->message_hash == hash
                              : strcmp(k->hook, hook) == 0 && strcmp(k->script, script) == 0;
        if (k->kills > 0 && same)
            return k;
    }
    struct killer *k = &seg->killers[seg->next_killer++ % KILLERS];
    memset(k, 0, sizeof *k);
    k->message_hash = hash;
    snprintf(k->hook, sizeof k->hook, "%s", hash != 0 ? "" : hook);
    snprintf(k->script, sizeof k->script, "%s", hash != 0 ? "" : script);
    return k;
}

unsigned shm_count_kill(const struct shm_doing *d)
{
    unsigned kills = 0;

    if (d->hash == 0 && d->hook[0] == '\0')
        return 0;
    lock(&seg->killers_lock);
    if (d->hash != 0)
        killer_entry(d->hash, "", "")->kills++;
    if (d->hook[0] != '\0') {
        struct killer *k = killer_entry(0, d->hook, d->script);
        /* One and the same message speaks against itself, not against the hook. */
        if (k->kills == 0 || d->hash == 0 || k->last_message != d->hash)
            k->kills++;
        k->last_message = d->hash;
        kills = k->kills;
    }
    unlock(&seg->killers_lock);
    return kills;
}

bool shm_is_killer(uint64_t hash)
{
    bool yes = false;

    for (unsigned i = 0; seg != NULL && hash != 0 && i < KILLERS && !yes; i++)
        yes = seg->killers[i].kills >= 2 && seg->killers[i].message_hash == hash;
    return yes;
}

bool shm_is_switched_off(const char *hook, const char *script)
{
    bool yes = false;

    for (unsigned i = 0; seg != NULL && i < KILLERS && !yes; i++)
        yes = seg->killers[i].kills >= 2 && strcmp(seg->killers[i].hook, hook) == 0 &&
              strcmp(seg->killers[i].script, script) == 0;
    return yes;
}

void shm_forgive(const char *script)
{
    lock(&seg->killers_lock);
    for (unsigned i = 0; i < KILLERS; i++)
        if (script == NULL || strcmp(seg->killers[i].script, script) == 0)
            memset(&seg->killers[i], 0, sizeof seg->killers[i]);
    unlock(&seg->killers_lock);
}
