#include "core/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct config config;

void config_init(void)
{
    const char *data = getenv("MOONPOST_DATA"), *home = getenv("HOME");

    memset(&config, 0, sizeof config);
    if (data != NULL)
        snprintf(config.data, sizeof config.data, "%s", data);
    else if (geteuid() == 0 || home == NULL)
        snprintf(config.data, sizeof config.data, "/var/lib/moonpost");
    else
        snprintf(config.data, sizeof config.data, "%s/.local/share/moonpost", home);
    snprintf(config.user, sizeof config.user, "moonpost");
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    config.workers = cores < 1 ? 1 : cores > 8 ? 8 : (unsigned)cores;
}

static char share[700];

void config_set_share(const char *folder)
{
    snprintf(share, sizeof share, "%s", folder);
}

const char *config_share(void)
{
    if (share[0] != '\0')
        return share;
    const char *env = getenv("MOONPOST_SHARE");
    return env ? env : MOONPOST_SHARE;
}

bool config_path(const char *name, char *out, unsigned size)
{
    int n = snprintf(out, size, "%s/%s", config.data, name);
    return n > 0 && (unsigned)n < size;
}
