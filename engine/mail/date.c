#include "mail/date.h"

#include <stdio.h>
#include <time.h>

static const char month_names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
static const char day_names[] = "SunMonTueWedThuFriSat";

int64_t date_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Counts eras of 400 years with March as first month, so that leap days come last. */
int64_t date_days(int year, int month, int day)
{
    int64_t y = year - (month <= 2);
    int64_t era = (y >= 0 ? y : y - 399) / 400;
    int64_t in_era = y - era * 400;
    int64_t in_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year - 719468;
}

struct civil {
    int year, month, day, hour, minute, second, weekday;
};

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static struct civil civil_of(int64_t ms, int zone)
{
    int64_t secs = floor_div(ms, 1000) + (int64_t)zone * 60;
    int64_t days = floor_div(secs, 86400);
    int64_t rest = secs - days * 86400;
    int64_t z = days + 719468;
    int64_t era = floor_div(z, 146097);
    int64_t doe = z - era * 146097;
    int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    int64_t mp = (5 * doy + 2) / 153;
    struct civil c;

    c.day = (int)(doy - (153 * mp + 2) / 5 + 1);
    c.month = (int)(mp < 10 ? mp + 3 : mp - 9);
    c.year = (int)(yoe + era * 400 + (c.month <= 2));
    c.hour = (int)(rest / 3600);
    c.minute = (int)(rest / 60 % 60);
    c.second = (int)(rest % 60);
    c.weekday = (int)(((days + 4) % 7 + 7) % 7);
    return c;
}

int32_t date_day(int64_t ms, int zone)
{
    return (int32_t)floor_div(floor_div(ms, 1000) + (int64_t)zone * 60, 86400);
}

static int month_of(struct str w)
{
    if (w.n < 3)
        return 0;
    for (int m = 0; m < 12; m++)
        if (str_eqi(str_head(w, 3), str_make(month_names + 3 * m, 3)))
            return m + 1;
    return 0;
}

static bool is_day_name(struct str w)
{
    for (int d = 0; d < 7 && w.n >= 3; d++)
        if (str_eqi(str_head(w, 3), str_make(day_names + 3 * d, 3)))
            return true;
    return false;
}

/* RFC 5322 4.3; the military letters say nothing reliable and read as UTC there. */
static bool zone_of(struct str w, int *zone_r)
{
    static const struct {
        const char *name;
        int minutes;
    } zones[] = {{"UT", 0},     {"UTC", 0},    {"GMT", 0},    {"Z", 0},      {"EST", -300},
                 {"EDT", -240}, {"CST", -360}, {"CDT", -300}, {"MST", -420}, {"MDT", -360},
                 {"PST", -480}, {"PDT", -420}, {"BST", 60},   {"CET", 60},   {"MET", 60},
                 {"CEST", 120}, {"MEST", 120}, {"EET", 120},  {"EEST", 180}, {"MSK", 180},
                 {"JST", 540},  {"WET", 0},    {"WEST", 60}};
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++)
        if (str_eqiz(w, zones[i].name)) {
            *zone_r = zones[i].minutes;
            return true;
        }
    return false;
}

static bool make(int year, int month, int day, int h, int m, int s, int zone, int64_t *ms_r)
{
    static const int length[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    if (month < 1 || month > 12 || day < 1 || day > length[month - 1] || year < 0 || year > 9999 ||
        h < 0 || h > 24 || m < 0 || m > 59 || s < 0 || s > 60)
        return false;
    *ms_r =
        (date_days(year, month, day) * 86400 + h * 3600 + m * 60 + s - (int64_t)zone * 60) * 1000;
    return true;
}

/* A cursor over words, skipping blanks, commas and nested comments. */
static struct str next_word(struct str *s)
{
    unsigned depth = 0;
    size_t i = 0;

    for (; i < s->n; i++) {
        char c = s->p[i];
        if (c == '(')
            depth++;
        else if (c == ')' && depth)
            depth--;
        else if (c == '\\' && depth)
            i++;
        else if (!depth && c != ' ' && c != '\t' && c != '\r' && c != '\n' && c != ',')
            break;
    }
    *s = str_from(*s, i);
    for (i = 0; i < s->n; i++) {
        char c = s->p[i];
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == '(')
            break;
        /* 1-Nov-2024 and 09:05:00+0100 are several words. */
        if (i > 0 && (c == '+' || c == '-'))
            break;
    }
    struct str w = str_head(*s, i);
    *s = str_from(*s, i);
    return w;
}

static bool number(struct str w, int *v_r)
{
    uint32_t v;
    if (w.n == 0 || w.n > 6 || !str_u32(w, &v))
        return false;
    *v_r = (int)v;
    return true;
}

static bool clock_of(struct str w, int *h, int *m, int *s)
{
    char sep = str_chr(w, ':') >= 0 ? ':' : '.';
    struct str a = str_cut(&w, sep), b = str_cut(&w, sep);
    struct str c = str_cut(&w, '.');

    *s = 0;
    if (a.n > 2 || b.n > 2 || !number(a, h) || !number(b, m))
        return false;
    return c.n == 0 || (c.n <= 2 && number(c, s));
}

static bool zone_number(struct str w, int *zone_r)
{
    int v;
    if (w.n < 2 || (w.p[0] != '+' && w.p[0] != '-'))
        return false;
    struct str d = str_from(w, 1);
    char digits[8];
    size_t n = 0;
    for (size_t i = 0; i < d.n && n < sizeof digits; i++)
        if (d.p[i] != ':')
            digits[n++] = d.p[i];
    if (n > 4 || !number(str_make(digits, n), &v))
        return false;
    int minutes = n <= 2 ? v * 60 : v / 100 * 60 + v % 100;
    if (minutes > 24 * 60)
        return false;
    *zone_r = w.p[0] == '-' ? -minutes : minutes;
    return true;
}

bool date_parse(struct str s, int64_t *ms_r, int *zone_r)
{
    int year = -1, month = 0, day = -1, h = -1, m = 0, sec = 0, zone = 0;
    bool have_zone = false;
    size_t year_digits = 0;

    s = str_head(s, 256);
    for (unsigned words = 0; words < 16; words++) {
        struct str w = next_word(&s);
        int v;
        if (w.n == 0)
            break;
        if (w.n > 1 && w.p[0] == '-' && day >= 0 && (month == 0 || year < 0) && h < 0)
            w = str_from(w, 1); /* the middle and the end of 1-Nov-2024 */
        if (h < 0 && ascii_digit(w.p[0]) &&
            (str_chr(w, ':') > 0 || (year >= 0 && str_chr(w, '.') > 0))) {
            if (!clock_of(w, &h, &m, &sec))
                return false;
        } else if (number(w, &v)) {
            if (day < 0 && w.n <= 2) {
                day = v;
            } else if (year < 0 && month) {
                year = v;
                year_digits = w.n;
            } else if (year < 0 && w.n == 4 && day < 0) { /* 2024-11-01 */
                year = v;
                year_digits = 4;
            }
        } else if (!month && month_of(w)) {
            month = month_of(w);
        } else if (h >= 0 && !have_zone && (zone_number(w, &zone) || zone_of(w, &zone))) {
            have_zone = true;
        } else if (!is_day_name(w) && h < 0 && day < 0) {
            return false;
        }
    }
    if (year >= 0 && year_digits == 2)
        year += year < 50 ? 2000 : 1900; /* RFC 5322 4.3 */
    else if (year >= 0 && year_digits == 3)
        year += 1900;
    if (h < 0)
        h = 0;
    if (day < 0 || month == 0 || year < 0 || !make(year, month, day, h, m, sec, zone, ms_r))
        return false;
    if (zone_r)
        *zone_r = zone;
    return true;
}

struct str date_emit(char out[DATE_TEXT], int64_t ms, int zone)
{
    struct civil c = civil_of(ms, zone);
    int z = zone < 0 ? -zone : zone;
    int n = snprintf(out, DATE_TEXT, "%.3s, %d %.3s %04d %02d:%02d:%02d %c%02d%02d",
                     day_names + 3 * c.weekday, c.day, month_names + 3 * (c.month - 1), c.year,
                     c.hour, c.minute, c.second, zone < 0 ? '-' : '+', z / 60 % 100, z % 60);
    return str_head(str_make(out, (size_t)n), DATE_TEXT - 1);
}

struct str date_imap_emit(char out[DATE_TEXT], int64_t ms, int zone)
{
    struct civil c = civil_of(ms, zone);
    int z = zone < 0 ? -zone : zone;
    int n = snprintf(out, DATE_TEXT, "%02d-%.3s-%04d %02d:%02d:%02d %c%02d%02d", c.day,
                     month_names + 3 * (c.month - 1), c.year, c.hour, c.minute, c.second,
                     zone < 0 ? '-' : '+', z / 60 % 100, z % 60);
    return str_head(str_make(out, (size_t)n), DATE_TEXT - 1);
}

static bool day_month_year(struct str s, int *d, int *mon, int *y)
{
    struct str day = str_cut(&s, '-'), month = str_cut(&s, '-');

    if (day.n == 2 && day.p[0] == ' ')
        day = str_from(day, 1);
    *mon = month.n == 3 ? month_of(month) : 0;
    return day.n >= 1 && day.n <= 2 && number(day, d) && *mon && s.n == 4 && number(s, y);
}

bool date_imap_parse(struct str s, int64_t *ms_r)
{
    int d, mon, y, h, m, sec, zone;

    if (s.n != 26 || s.p[11] != ' ' || s.p[20] != ' ' || s.p[14] != ':' || s.p[17] != ':')
        return false;
    struct str z = str_from(s, 21);
    if (!day_month_year(str_head(s, 11), &d, &mon, &y) || !number(str_make(s.p + 12, 2), &h) ||
        !number(str_make(s.p + 15, 2), &m) || !number(str_make(s.p + 18, 2), &sec) || h > 23)
        return false;
    if (str_chr(z, ':') >= 0 || !zone_number(z, &zone))
        return false;
    return make(y, mon, d, h, m, sec, zone, ms_r);
}

bool date_search_parse(struct str s, int32_t *days_r)
{
    int d, mon, y;
    int64_t ms;

    if (!day_month_year(s, &d, &mon, &y) || !make(y, mon, d, 0, 0, 0, 0, &ms))
        return false;
    *days_r = date_day(ms, 0);
    return true;
}
