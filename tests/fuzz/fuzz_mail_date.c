/* Dates: what is read can be written and read again. */
#include "mail/date.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str s = str_make(data, size);
    char text[DATE_TEXT];
    int64_t ms, back;
    int zone, zone2;
    int32_t day;

    if (date_parse(s, &ms, &zone) && ms > -2000000000000 && ms < 100000000000000) {
        if (!date_parse(date_emit(text, ms, zone), &back, &zone2) || back != ms || zone != zone2)
            abort();
    }
    if (date_imap_parse(s, &ms) && ms > -62000000000000 && ms < 253000000000000) {
        if (!date_imap_parse(date_imap_emit(text, ms, 0), &back) || back != ms)
            abort();
    }
    date_search_parse(s, &day);
    return 0;
}
