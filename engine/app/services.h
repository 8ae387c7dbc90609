/* The services of an installation and their bindings. */
#pragma once

#include "core/err.h"
#include "core/limits.h"
#include "proto/session.h"

enum { SERVICE_COUNT = 7 };

/* One listening socket. */
struct binding {
    unsigned service; /* index */
    char addr[64];
    unsigned port;
    int fd[WORKERS_MAX]; /* one a worker, shared by nobody else; -1: not open */
};

enum { BINDINGS_MAX = SERVICE_COUNT * 16 };
extern struct binding bindings[BINDINGS_MAX];
extern unsigned binding_count;

/* Lists and opens the sockets of `workers` workers, as the command line says.  Without --listen:
 * all addresses, IPv4 and (where the machine has it) IPv6. */
int services_open(unsigned workers, struct err *e);
/* Makes a self-signed certificate when there is none. */
int services_certificate(struct err *e);
/* In a worker: loads certificates and starts accepting on its own sockets. */
int services_start(unsigned worker, struct err *e);
/* Stops accepting. */
void services_stop(void);
/* Ends all sessions in good order; true when none is left. */
void services_drain(void);
unsigned services_sessions(void);
void services_reload_tls(void);
const char *service_name(unsigned service);
unsigned service_port(unsigned service);
