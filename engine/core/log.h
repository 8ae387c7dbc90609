/* Structured log: one line an event, logfmt or JSON, written to standard error by every process.
 *
 * The text says what happened; fields say to what.  Never log a password, a message body or a
 * secret.  Values from the network are escaped, so a line is always one line. */
#pragma once

#include "core/err.h"
#include "core/str.h"

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* `who`: "supervisor", "mail.0" ...: stands in each line.  Kept by pointer. */
void log_init(const char *who, enum log_level least, bool json);
void log_set_level(enum log_level least);
bool log_wants(enum log_level l);

/* printf-style text after an area such as "smtp", "store". */
void log_at(enum log_level l, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define log_debug(...)                                                                             \
    do {                                                                                           \
        if (log_wants(LOG_DEBUG))                                                                  \
            log_at(LOG_DEBUG, __VA_ARGS__);                                                        \
    } while (0)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
