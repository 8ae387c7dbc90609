/* IP access restrictions (spec 2 'IP Access Restrictions'): rows of `access_rule`, most specific
 * first, first match decides; no rows at all: everybody may connect; rows but no match: refused.
 * Cached per worker under GEN_ACL and refreshed in the background, so the greeting asks no
 * database. */
#pragma once

#include "core/err.h"
#include "core/str.h"

#include <stdbool.h>
#include <sys/socket.h>

struct access {
    bool allowed;      /* may connect */
    bool matched;      /* by a row of the service's own list */
    bool allow_unauth; /* may submit without signing in */
    struct str users;  /* `,` list of who may sign in from there; empty: everybody */
};

/* `service`: its name, "smtp", "pop3" ...  Own list, or the global one ("*") where it is empty. */
void access_check(const char *service, const struct sockaddr_storage *peer, struct access *r);
bool access_allowed(const char *service, const struct sockaddr_storage *peer);
/* May this account sign in to this service from there? */
bool access_user(const char *service, const char *peer, struct str name);

/* Does it read as an address with optional prefix length? */
bool access_network_valid(struct str s);
/* Is the address in a list such as "192.168.1.0/24, 2001:db8::/32, 10.0.0.1"? */
bool access_in_list(struct str list, const struct sockaddr_storage *peer);
/* Is it in a directly attached network (loopback included)? */
bool access_is_attached(const struct sockaddr_storage *peer);

/* In a task: at start and when access_stale(). */
int access_load(struct err *e);
bool access_stale(void);
