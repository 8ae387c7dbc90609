/* The bus between machines: one LISTEN connection a machine, held by its jobs process, for
 * installations that share a database by --dsn (architecture 2).
 *
 * What the machine's own bus says goes out as one NOTIFY for all that came together in a few
 * milliseconds; what others say is put on the bus here, and moves the generations here.  After the
 * connection was lost everything watched is looked at again.  Correctness never rests on it. */
#pragma once

/* `conninfo`: as for db_open(), which comes first. */
void bus_remote_open(const char *conninfo);
void bus_remote_close(void);
