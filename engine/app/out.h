/* What verbs print: tables and single facts, as text or (--json) as JSON on standard output. */
#pragma once

#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

/* A table; columns by name, NULL-terminated.  One at a time. */
void out_table(const char *const *columns);
void out_str(struct str s);
void out_int(int64_t i);
void out_bool(bool b);
void out_row(void);
void out_end(void);

/* One line of text, or {"text": ...}. */
void out_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
