/* Values in IMAP responses: strings, mailbox names, flags (RFC 3501 4, 9). */
#include "core/shm.h"
#include "mail/encode.h"
#include "proto/imap_int.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

/* Longer ones go as literals: some clients read quoted strings into small buffers. */
enum { QUOTED_MAX = 1000 };

void imap_put_string(struct buf *b, struct str s)
{
    bool quoted = s.n <= QUOTED_MAX;

    if (s.p == NULL) {
        buf_addz(b, "NIL");
        return;
    }
    for (size_t i = 0; i < s.n && quoted; i++) {
        unsigned char c = (unsigned char)s.p[i];
        quoted = c != '\r' && c != '\n' && c != '\0' && c < 128;
    }
    if (!quoted) {
        buf_printf(b, "{%zu}\r\n", s.n);
        buf_add(b, s);
        return;
    }
    buf_addc(b, '"');
    for (size_t i = 0, from = 0; i <= s.n; i++) {
        if (i < s.n && s.p[i] != '"' && s.p[i] != '\\')
            continue;
        buf_add(b, str_make(s.p + from, i - from));
        if (i < s.n)
            buf_addc(b, '\\');
        from = i;
    }
    buf_addc(b, '"');
}

void imap_put_astring(struct buf *b, struct str s)
{
    bool atom = s.n > 0 && s.n < 200 && !str_eqiz(s, "NIL");

    for (size_t i = 0; i < s.n && atom; i++) {
        unsigned char c = (unsigned char)s.p[i];
        atom = c > ' ' && c < 127 && !strchr("(){%*\"\\]", c);
    }
    if (atom)
        buf_add(b, s);
    else
        imap_put_string(b, s.p ? s : STR(""));
}

void imap_put_mailbox(struct buf *b, struct arena *a, struct str utf8)
{
    imap_put_astring(b, mutf7_encode(a, utf8));
}

static const struct {
    uint32_t bit;
    const char *name;
} system_flags[] = {{FLAG_ANSWERED, "\\Answered"},
                    {FLAG_FLAGGED, "\\Flagged"},
                    {FLAG_DELETED, "\\Deleted"},
                    {FLAG_SEEN, "\\Seen"},
                    {FLAG_DRAFT, "\\Draft"}};

void imap_put_flags(struct buf *b, const struct view *v, uint32_t index)
{
    uint32_t flags = v->flags[index];
    const char *blank = "";

    buf_addc(b, '(');
    for (size_t i = 0; i < sizeof system_flags / sizeof *system_flags; i++)
        if (flags & system_flags[i].bit) {
            buf_printf(b, "%s%s", blank, system_flags[i].name);
            blank = " ";
        }
    for (uint32_t i = 0; i < v->keyword_count && flags >= FLAG_KEYWORD0; i++)
        if (flags & (uint32_t)FLAG_KEYWORD0 << i && v->keywords[i][0]) {
            buf_printf(b, "%s%s", blank, v->keywords[i]);
            blank = " ";
        }
    if (v->uids[index] >= v->recent_from)
        buf_printf(b, "%s\\Recent", blank);
    buf_addc(b, ')');
}

void imap_put_flag_names(struct buf *b, const struct view *v)
{
    for (size_t i = 0; i < sizeof system_flags / sizeof *system_flags; i++)
        buf_printf(b, "%s%s", i ? " " : "", system_flags[i].name);
    for (uint32_t i = 0; i < v->keyword_count; i++)
        if (v->keywords[i][0])
            buf_printf(b, " %s", v->keywords[i]);
}

/* The segment counts by address; an account's number fills the first 64 bits of an IPv6 one, which
 * is what it looks at. */
static struct sockaddr_storage account_address(uint64_t account)
{
    struct sockaddr_storage ss;
    struct sockaddr_in6 in6;

    memset(&ss, 0, sizeof ss);
    memset(&in6, 0, sizeof in6);
    in6.sin6_family = AF_INET6;
    in6.sin6_addr.s6_addr[0] = 0xFD; /* never an address of a client on the internet */
    for (unsigned i = 1; i < 8; i++)
        in6.sin6_addr.s6_addr[i] = (uint8_t)(account >> (8 * (7 - i)));
    memcpy(&ss, &in6, sizeof in6);
    return ss;
}

int imap_count_enter(unsigned what, uint64_t account, unsigned max_all, unsigned max_user)
{
    struct sockaddr_storage ss = account_address(account);
    return shm_session_enter(what, &ss, max_all, max_user, 0, false);
}

void imap_count_leave(unsigned what, uint64_t account)
{
    struct sockaddr_storage ss = account_address(account);
    shm_session_leave(what, &ss);
}

bool imap_count_wait(unsigned what, uint64_t account, unsigned max_all, unsigned max_user,
                     unsigned seconds)
{
    for (unsigned tries = 0; imap_count_enter(what, account, max_all, max_user) != 0; tries++)
        if (tries >= seconds * 10 || task_sleep(100, NULL) != 0)
            return false;
    return true;
}
