/* Free disk space against the floors of the settings (spec 4 'Disk/Memory Checking'), looked at
 * every few seconds. */
#pragma once

enum {
    DISK_REFUSE_MAIL = 1,        /* 452 at MAIL */
    DISK_REFUSE_CONNECTIONS = 2, /* 421 at connect */
};

/* `datadir` holds the private PostgreSQL; NULL: the database is elsewhere, nothing is checked. Kept
 * by copy. */
void disk_open(const char *datadir);
/* DISK_ bits, 0: all is well. */
int disk_state(void);
