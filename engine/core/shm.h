/* The shared segment: one mapping made before fork, seen by all processes of a machine.
 *
 * Each process writes counts only in its own column, so the share of one that died is removed by
 * zeroing its column (shm_reap).  Admission decisions are made under a robust lock per shard, so a
 * limit of 10 admits exactly 10, however many workers ask at once. */
#pragma once

#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum shm_generation { GEN_ACCOUNT, GEN_SETTING, GEN_RELEASE, GEN_ACL, GEN_COUNT };

/* Before fork.  A command line process makes one of its own, which nobody shares. */
void shm_create(void);
/* Called at each bump, too: how a command line process passes bumps on to the server. */
void shm_on_bump(void (*fn)(enum shm_generation g));
/* In each process: `column` < WORKERS_MAX + some; 0 is the supervisor's. */
void shm_attach(unsigned column);
/* In the supervisor, when the process with that column has died. */
void shm_reap(unsigned column);

uint64_t shm_generation(enum shm_generation g);
void shm_bump(enum shm_generation g);

/* --- sessions: per service in all, and per client (IPv6 by /64).  Limits of 0 admit everybody. */
enum { SHM_SERVICES = 16 };
/* 0: admitted, and counted until session_leave; 1: too many in all; 2: too many from this client.
 * `reserved`: seats of max_all that only clients with `privileged` may take. */
int shm_session_enter(unsigned service, const struct sockaddr_storage *peer, unsigned max_all,
                      unsigned max_client, unsigned reserved, bool privileged);
void shm_session_leave(unsigned service, const struct sockaddr_storage *peer);
unsigned shm_sessions(unsigned service);

/* --- sign-in failures: per account name and client; spec 1.8 'Lockout policy'. */
/* Is it locked now? */
bool shm_lockout(struct str name, struct str peer, unsigned max_failures, unsigned minutes);
void shm_login_failed(struct str name, struct str peer, unsigned minutes);
void shm_login_ok(struct str name, struct str peer);

/* --- block list: clients that no service talks to (IPv6 by /64).  In memory: a restart forgets it.
 */
/* `minutes` 0 lifts the block.  False: the table is full of longer ones. */
bool shm_block(const struct sockaddr_storage *peer, unsigned minutes);
bool shm_blocked(const struct sockaddr_storage *peer);

/* --- watchdog: what each process is doing. */
void shm_beat(void); /* a loop turn */
uint64_t shm_beats(unsigned column);
/* Hook, script and message under way; empty to clear.  `hash`: of sender, recipients and the first
 * 64 KB of the message. */
void shm_doing(const char *hook, const char *script, uint64_t message, uint64_t hash);
struct shm_doing {
    char hook[48], script[80];
    uint64_t message, hash;
};
struct shm_doing shm_doing_of(unsigned column);
/* Counts a kill for the message and for the hook; returns the hook's kills over different messages.
 */
unsigned shm_count_kill(const struct shm_doing *d);
bool shm_is_killer(uint64_t hash); /* two kills: accept into hold, unscanned, without hooks */
bool shm_is_switched_off(const char *hook, const char *script);
void shm_forgive(const char *script); /* an edit switches its functions on again; NULL: all */
/* 48 bytes of TLS ticket key material, the same in all workers. */
const unsigned char *shm_ticket_key(void);
