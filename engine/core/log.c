#include "core/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 2048 };

static const char *log_who = "moonpost";
static enum log_level log_least = LOG_INFO;
static bool log_json;

void log_init(const char *who, enum log_level least, bool json)
{
    log_who = who;
    log_least = least;
    log_json = json;
}

void log_set_level(enum log_level least)
{
    log_least = least;
}

bool log_wants(enum log_level l)
{
    return l >= log_least;
}

/* Copies with control bytes, quotes and backslashes escaped; returns the new length. */
static size_t escape(char *to, size_t room, const char *from)
{
    size_t n = 0;

    for (; *from && n + 5 < room; from++) {
        unsigned char c = (unsigned char)*from;
        if (c == '"' || c == '\\') {
            to[n++] = '\\';
            to[n++] = (char)c;
        } else if (c < 0x20 || c == 0x7f) {
            n += (size_t)snprintf(to + n, room - n, log_json ? "?" : "\\x%02x", c);
        } else {
            to[n++] = (char)c;
        }
    }
    to[n] = '\0';
    return n;
}

void log_at(enum log_level l, const char *area, const char *fmt, ...)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    char text[LINE_MAX_BYTES / 2], esc[LINE_MAX_BYTES - 200], line[LINE_MAX_BYTES], when[40];
    struct timeval tv;
    struct tm tm;
    va_list ap;

    if (l < log_least)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    escape(esc, sizeof esc, text);
    gettimeofday(&tv, NULL);
    gmtime_r(&tv.tv_sec, &tm);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &tm);
    int n = snprintf(line, sizeof line,
                     log_json ? "{\"time\":\"%s.%03dZ\",\"level\":\"%s\",\"who\":\"%s\",\"pid\":%d,"
                                "\"area\":\"%s\",\"text\":\"%s\"}\n"
                              : "%s.%03dZ %-5s %s[%d] %s: %s\n",
                     when, (int)(tv.tv_usec / 1000), names[l], log_who, (int)getpid(), area, esc);
    if (n > (int)sizeof line - 1) {
        n = (int)sizeof line - 1;
        line[n - 1] = '\n';
    }
    ssize_t w = write(STDERR_FILENO, line, (size_t)n);
    (void)w; /* nowhere left to report that the log cannot be written */
}
