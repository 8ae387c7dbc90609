/* Cutting lines from a stream's input buffer. */
#pragma once

#include "core/buf.h"

enum line_result {
    LINE_MORE, /* no complete line yet */
    LINE_OK,   /* *line_r is it, without its CRLF (or bare LF); consume *used_r bytes after use */
    LINE_TOO_LONG /* more than `max` bytes without a line end */
};

/* `bare_lf`: was the line ended by LF without CR? (may be NULL) */
enum line_result line_get(const struct buf *in, size_t max, struct str *line_r, size_t *used_r,
                          bool *bare_lf);
