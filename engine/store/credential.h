/* Stored proofs of identity: SCRAM-SHA-256 verifiers (RFC 5802, 7677). */
#pragma once

#include "core/err.h"
#include "core/str.h"
#include "store/account.h"

enum { CREDENTIAL_BYTES = 1 + 4 + 16 + 32 + 32 };

/* From a task: computes a fresh verifier on the thread pool and packs it. */
int credential_make(struct str password, uint32_t rounds, unsigned char out[CREDENTIAL_BYTES],
                    struct err *e);
bool credential_unpack(struct str packed, struct scram_verifier *v_r);
/* From a task, on the thread pool: does the password belong to the verifier?  Constant time in its
 * content. */
bool credential_check(struct str password, const struct scram_verifier *v);
/* The stable made-up verifier of a name that does not exist. */
int credential_fake(struct str name, struct scram_verifier *v_r, struct err *e);
/* 32 bytes that depend on a key of this process, for the cache of successes. */
void credential_digest(uint64_t account, uint64_t generation, struct str password,
                       unsigned char out[32]);
