/* What the command line says about the installation; fixed for the life of the process. */
#pragma once

#include <stdbool.h>

struct config {
    char data[512];      /* --data: the installation's folder */
    char dsn[1024];      /* --dsn: somebody else's PostgreSQL; empty: the embedded one */
    char listen[16][64]; /* --listen, repeatable */
    unsigned listen_count;
    unsigned port_base; /* --port-base */
    unsigned workers;   /* --workers */
    bool single, safe, json;
    char user[64]; /* --user: service user when started as root */
};

extern struct config config;

/* Defaults: MOONPOST_DATA, else /var/lib/moonpost for root, else ~/.local/share/moonpost. */
void config_init(void);
/* The folder that holds lua/, stdlib/, rules/ and sql/. */
const char *config_share(void);
void config_set_share(const char *folder);
/* Builds DATA/name; false when it does not fit. */
bool config_path(const char *name, char *out, unsigned size);
