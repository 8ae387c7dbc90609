/* Dates: RFC 5322 3.3 with the obsolete forms of 4.3, IMAP's INTERNALDATE and SEARCH dates (RFC
 * 3501 9).  Times are milliseconds since 1970-01-01 UTC, zones are minutes east of UTC. */
#pragma once

#include "core/str.h"

#include <stdbool.h>
#include <stdint.h>

/* Room for any text emitted here, with its NUL. */
enum { DATE_TEXT = 40 };

/* Milliseconds now. */
int64_t date_now(void);

/* Lenient: day name and seconds may be missing, years of two or three digits, comments, zone names,
 * "24:00", asctime order.  False when no date can be read. */
bool date_parse(struct str s, int64_t *ms_r, int *zone_r);
/* "Fri, 1 Nov 2024 09:05:00 +0100".  Returns a slice of `out`. */
struct str date_emit(char out[DATE_TEXT], int64_t ms, int zone);

/* "dd-Mon-yyyy hh:mm:ss +zzzz" without its quotes; the day may be one digit with a leading blank.
 */
bool date_imap_parse(struct str s, int64_t *ms_r);
struct str date_imap_emit(char out[DATE_TEXT], int64_t ms, int zone);

/* "1-Feb-1994": days since 1970. */
bool date_search_parse(struct str s, int32_t *days_r);
/* The day a moment falls on, as seen at `zone`. */
int32_t date_day(int64_t ms, int zone);

/* Days since 1970 of a proleptic Gregorian date; month 1-12. */
int64_t date_days(int year, int month, int day);
