/* Listening sockets: opened by the supervisor (one SO_REUSEPORT socket per worker and binding),
 * accepted from by the worker. */
#pragma once

#include "core/err.h"

#include <stdbool.h>
#include <sys/socket.h>

/* Opens and binds; "127.0.0.1", "::1", "0.0.0.0", "::" (IPv6 only).  Returns the descriptor or -1.
 */
int listener_open(const char *addr, unsigned port, bool *in_use_r, struct err *e);

/* Could it be opened, and does nobody else listen there?  (Sockets with SO_REUSEPORT would share.)
 */
int listener_probe(const char *addr, unsigned port, bool *in_use_r, struct err *e);

typedef void accept_fn(void *ctx, int fd, const struct sockaddr_storage *peer);
struct listener;
struct listener *listener_start(int fd, accept_fn *fn, void *ctx);
/* Stops accepting; the descriptor stays open (its backlog waits for a successor). */
void listener_stop(struct listener **l);
