/* The shipped files (lua, stdlib, sql, rules) where the service user can read them. */
#pragma once

#include "core/err.h"

#include <sys/types.h>

/* As root, before the drop: a checkout below a folder that only root may enter (/root) is copied to
 * DATA/share, which config_share() then names. */
int share_provide(uid_t uid, gid_t gid, struct err *e);
