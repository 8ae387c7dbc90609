/* Writing JSON into buffers; for ledger rows, --json output and logs. */
#pragma once

#include "core/buf.h"
#include "core/str.h"

/* A quoted string; bytes that are not valid UTF-8 become U+FFFD, so any input gives valid JSON. */
bool json_str(struct buf *b, struct str s);
