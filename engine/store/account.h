/* Users, domains, aliases and mappings: the address book that decides who is local.
 *
 * Read through a per-worker cache under generation numbers of the shared segment; a *negative*
 * answer is given only after asking the database (architecture 2).  All functions run in a task. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "core/str.h"

enum {
    ACCESS_POP3 = 1,
    ACCESS_IMAP = 2,
    ACCESS_SMTP = 4,
    ACCESS_WEB = 8,
    ACCESS_PASSWORD = 16,
    ACCESS_LDAP = 32,
    ACCESS_ALL = 63
};

struct account {
    uint64_t id;
    struct str name;     /* lower case, 1-32 of [a-z0-9._-] */
    bool enabled, admin; /* enabled: may sign in; mail arrives either way (spec 1.8) */
    bool expired;
    uint32_t access;      /* ACCESS_ bits */
    bool may_send_remote; /* spec 1.12 Allow sending of Internet mail */
    bool may_receive_remote;
    uint64_t max_out_bytes;        /* 0: no limit */
    uint64_t inbox;                /* mailbox id */
    struct str forward, assistant; /* `;` lists, spec 1.9 */
    bool use_forward, redirect_assistant;
    struct str assistant_hours, forward_hours; /* "from-to", or empty */
    struct str big_redirect, small_redirect;   /* "KB copy|redirect ADDRESSES", or empty */
    bool skip_if_quarantined;
};

/* The parts of big_redirect and small_redirect; false: malformed, or empty. */
bool account_redirect(struct str text, int64_t *kb_r, bool *copy_r, struct str *targets_r);
/* NOTFOUND; `a` owns the strings. */
int account_find(struct str name, struct account *r, struct arena *a, struct err *e);
int account_by_id(uint64_t id, struct account *r, struct arena *a, struct err *e);

/* Is it one of the local domains (setting table `domain`)? */
int domain_is_local(struct str domain, bool *local_r, struct err *e);

/* Mappings (spec 1.18).  `kind`: what the mail is. */
enum mapping_kind { MAPPING_SMTP, MAPPING_POP3, MAPPING_FROM };
struct mapping {
    struct str pattern, target; /* target: user, list, group, *REMOTE, SMTP:..., address */
};
/* All mappings that match `address` (local part @ domain, lower-cased domain) for this kind of
 * mail, in id order; `tilde` asks for the ~@domain ones instead.  Zero matches is success. */
int mapping_find(struct str address, enum mapping_kind kind, bool tilde, struct arena *a,
                 struct mapping **v_r, uint32_t *n_r, struct err *e);

/* What an address is (spec 1.3 resolution order); the C default behind lua/routing.lua. */
enum resolve_what { RESOLVE_LOCAL, RESOLVE_REMOTE, RESOLVE_UNKNOWN, RESOLVE_DISCARD };
struct resolve_target {
    enum resolve_what what;
    uint64_t account;   /* LOCAL */
    struct str address; /* LOCAL: the account's name; REMOTE: where to; */
    struct str route;   /* REMOTE: "SMTP:..." host part, or empty for the outqueue */
};
/* Never fails because an address is unknown: then one target RESOLVE_UNKNOWN. */
int address_resolve(struct str address, bool from_local_sender, struct arena *a,
                    struct resolve_target **v_r, uint32_t *n_r, struct err *e);

/* Signing in.  Takes equal time for unknown users.  `service`: an ACCESS_ bit; `peer`: printable
 * client address, for lockouts.  DENIED with one and the same text for wrong password, unknown,
 * disabled, expired, not allowed and locked out; the true reason goes to the log only. */
int account_login(struct str name, struct str password, uint32_t service, struct str peer,
                  struct account *r, struct arena *a, struct err *e);
/* SCRAM-SHA-256 (RFC 5802, 7677): the stored verifier, or a made-up stable one for unknown users
 * (then *known_r is false and the exchange must fail at its end). */
struct scram_verifier {
    unsigned char salt[16], stored_key[32], server_key[32];
    uint32_t iterations;
};
int account_scram(struct str name, struct scram_verifier *v_r, bool *known_r, struct err *e);
/* Called with the outcome of an exchange that did not go through account_login: checks access and
 * lockout and counts failures just like it. */
int account_login_done(struct str name, bool proof_ok, uint32_t service, struct str peer,
                       struct account *r, struct arena *a, struct err *e);

/* Administration; every change bumps the account generation.  EXISTS, NOTFOUND, SYNTAX. */
int domain_add(struct str domain, struct err *e);
int domain_list(struct arena *a, struct str **v_r, uint32_t *n_r, struct err *e);
int account_add(struct str name, struct str password, bool admin, uint64_t *id_r, struct err *e);
int account_set_password(uint64_t id, struct str password, struct err *e);
/* field: "enabled", "admin", "access", "forward", "use_forward", "assistant", "redirect_assistant",
 * "may_send_remote", "may_receive_remote", "max_out_bytes", "expires", "comment",
 * "assistant_hours", "forward_hours", "big_redirect", "small_redirect", "skip_if_quarantined". */
int account_set(uint64_t id, struct str field, struct str value, struct err *e);
int account_remove(uint64_t id, struct err *e);
struct account_info {
    struct account account;
    uint64_t messages, bytes; /* mailbox rows plus arrivals */
    struct str comment;
};
int account_list(struct arena *a, struct str glob, struct account_info **v_r, uint32_t *n_r,
                 struct err *e);
int mapping_add(struct str pattern, struct str target, struct str kind, struct str comment,
                struct err *e);
/* NOTFOUND. */
int mapping_remove(struct str pattern, struct str target, struct err *e);
int mapping_list(struct arena *a, struct mapping **v_r, uint32_t *n_r, struct err *e);
