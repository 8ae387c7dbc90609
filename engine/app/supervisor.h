/* The supervisor: opens the sockets, runs the private PostgreSQL, forks the workers and watches
 * them, carries the bus.  No Lua, no protocol. */
#pragma once

/* `moonpost serve`: returns the exit status. */
int supervisor_main(void);
