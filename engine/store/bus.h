/* The bus: wake-ups between the processes of a machine.  Correctness never rests on it.
 *
 * Each process holds one end of a SOCK_SEQPACKET pair whose other end is the supervisor's; what one
 * sends, all others (and the sender's own watchers) get. */
#pragma once

#include <stdint.h>

enum bus_kind {
    BUS_ARRIVAL = 1, /* mailbox: something waits for the sequencer */
    BUS_CHANGE,      /* mailbox: flags, expunges or new UIDs */
    BUS_ACCOUNT,     /* generations moved: accounts, domains, mappings, credentials */
    BUS_SETTING,     /* settings moved */
    BUS_RELEASE,     /* scripts moved */
    BUS_QUEUE        /* queue rows were added */
};

/* fd: this process's end, or -1 for none (--single, command line): then only local watchers hear.
 */
void bus_open(int fd);
void bus_close(void);
/* `id`: the mailbox, or 0. */
void bus_publish(enum bus_kind kind, uint64_t id);

struct bus_watch;
/* fn runs on the loop.  id 0: every event of that kind. */
struct bus_watch *bus_watch(enum bus_kind kind, uint64_t id,
                            void (*fn)(void *ctx, enum bus_kind kind, uint64_t id), void *ctx);
void bus_unwatch(struct bus_watch **w);

/* What travels; `number` counts per receiver and is set by the relay. */
struct bus_packet {
    uint64_t number, id;
    uint32_t kind, from;
};
/* The supervisor's side: its ends of the sockets, in non-blocking use.  Call when members[from].fd
 * is readable: forwards what is there to all others.  A new process's entry starts with number 0.
 */
struct bus_relay {
    int fd; /* -1: empty */
    uint64_t number;
};
void bus_relay(struct bus_relay *members, unsigned count, unsigned from);
