/* Shared by account.c, address.c, account_admin.c and credential.c: the directory, a per-worker
 * copy of what decides who is local.
 *
 * Invariant: a directory is never changed but for accounts added to its maps; a newer generation is
 * a new directory.  Tasks hold it by reference while they wait. */
#pragma once

#include "core/map.h"
#include "store/account.h"

struct directory_mapping {
    struct str pattern, target;
    bool smtp, pop3, from; /* kinds it applies to */
    bool tilde;            /* ~@domain; pattern is then the domain */
    bool local_part;       /* no @ in it: any local domain */
};

struct directory_group {
    uint64_t id;
    struct str name, built_in;
    bool enabled;
};

struct directory_account {
    struct account account;
    int64_t expires; /* ms at the end of that day; 0: never */
};

struct directory {
    struct arena *a;
    unsigned holders;
    uint64_t generation;  /* of the shared segment */
    int64_t in_database;  /* of table generation */
    uint64_t verified_at; /* ms */
    struct map *by_name, *by_id, *domains;
    struct directory_mapping *mappings;
    uint32_t mapping_count;
    struct directory_group *groups;
    uint32_t group_count;
};

/* The current directory; drop it when done.  TEMP. */
int directory_take(struct directory **d_r, struct err *e);
void directory_drop(struct directory **d);
/* Asks the database whether `*d` is still current, and takes a newer one if not. */
int directory_verify(struct directory **d, bool *changed_r, struct err *e);
/* Through the maps, else from the database; NULL with NOTFOUND in `e` when it does not exist. */
const struct directory_account *directory_account(struct directory *d, struct str name,
                                                  struct err *e);
const struct directory_account *directory_account_id(struct directory *d, uint64_t id,
                                                     struct err *e);
/* Copies into the caller's arena and evaluates what depends on the time. */
void directory_copy(const struct directory_account *from, struct account *to, struct arena *a);
/* Tells everybody that accounts, domains, mappings or credentials changed. */
void directory_changed(void);

/* "user", or "user@local domain" cut to the user: lower-cased in the arena. */
struct str login_name(struct directory *d, struct str name, struct arena *a);
