#include "store/diskfloor.h"

#include "core/arena.h"
#include "core/log.h"
#include "core/loop.h"
#include "store/setting.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

enum { LOOK_MS = 3000 };

static char *data_path, *wal_path;
static uint64_t looked_at;
static int state;

void disk_open(const char *datadir)
{
    free(data_path);
    free(wal_path);
    data_path = wal_path = NULL;
    looked_at = 0;
    state = 0;
    if (datadir == NULL)
        return;
    size_t n = strlen(datadir) + 32;
    data_path = xmalloc(n);
    wal_path = xmalloc(n);
    snprintf(data_path, n, "%s", datadir);
    /* May be a link to another volume. */
    snprintf(wal_path, n, "%s/postgres/pg_wal/.", datadir);
}

/* Megabytes that an ordinary user may still write; a path that cannot be asked counts as free. */
static int64_t free_mb(const char *path)
{
    struct statvfs v;

    if (statvfs(path, &v) != 0)
        return INT64_MAX;
    return (int64_t)((uint64_t)v.f_bavail * v.f_frsize / (1024 * 1024));
}

int disk_state(void)
{
    if (data_path == NULL || !setting_bool("storage.disk_check"))
        return 0;
    uint64_t now = loop_ns() / 1000000u;
    if (looked_at != 0 && now - looked_at < LOOK_MS)
        return state;
    looked_at = now;
    int64_t data = free_mb(data_path), wal = free_mb(wal_path), least = data < wal ? data : wal;
    int next = (least < setting_int("storage.disk_message_mb") ? DISK_REFUSE_MAIL : 0) |
               (least < setting_int("storage.disk_refuse_mb") ? DISK_REFUSE_CONNECTIONS : 0);
    if (next != state)
        log_warn("store", "%lld MB of disk space are free: %s", (long long)least,
                 next & DISK_REFUSE_MAIL          ? "mail is refused"
                 : next & DISK_REFUSE_CONNECTIONS ? "connections are refused"
                                                  : "mail is accepted again");
    state = next;
    return state;
}
