/* The control socket, DATA/run/control: how command line verbs reach a running server. */
#pragma once

#include "core/err.h"

#include <stdbool.h>

/* In the supervisor: listens; on_bump and relay run for what clients send. */
int control_listen(struct err *e);
void control_close(void);
/* In a child after fork(): closes its copies of the supervisor's sockets. */
void control_forget(void);
/* The relay every packet of a client goes to (supervisor). */
void control_on_packet(void (*fn)(unsigned kind, unsigned long long id));

/* In a command line process: passes generation bumps on to a running server and waits until it has
 * taken them, so that a verb that has returned is known to every worker.  Without a running server
 * it does nothing. */
void control_attach(void);
/* A connection for bus_open(), or -1. */
int control_bus(void);
