/* SMTP: arguments of MAIL and RCPT (RFC 5321 4.1.2): paths and ESMTP parameters. */
#include "mail/address.h"
#include "proto/smtp_int.h"

int smtp_path_parse(struct arena *a, struct str *rest, unsigned flags, struct smtp_path *p_r,
                    struct err *e)
{
    struct address path;
    bool null = str_starts(str_trim(*rest), STR("<>"));

    *p_r = (struct smtp_path){STR(""), STR(""), STR("")};
    if (address_path(a, *rest, flags | PATH_BARE | PATH_NO_DOMAIN, &path, rest, e) != 0)
        return -1;
    if (path.local.n == 0 && path.domain.n == 0) /* <"">: an empty name is no null sender */
        return null ? 0 : err_set(e, ERR_SYNTAX, "address is empty");
    /* Without a domain only the postmaster can be written to (RFC 5321 4.1.1.3). */
    if (path.domain.n == 0 && !str_eqi(path.local, STR("postmaster")))
        return err_set(e, ERR_SYNTAX, "address has no domain");
    /* What IDNA refuses can neither be looked up nor be local. */
    if (!str_ascii(path.domain) && !domain_valid(domain_canonical(a, path.domain), false))
        return err_set(e, ERR_SYNTAX, "domain is not valid");
    p_r->address = address_canonical(a, &path);
    p_r->local = path.local;
    p_r->domain = path.domain;
    return 0;
}

int smtp_param_next(struct str *rest, struct str *key_r, struct str *value_r)
{
    *rest = str_trim(*rest);
    if (rest->n == 0)
        return 0;
    struct str word = str_cut(rest, ' ');
    *value_r = word;
    *key_r = str_cut(value_r, '=');
    if (value_r->p == NULL)
        *value_r = STR("");
    if (key_r->n == 0)
        return -1;
    for (size_t i = 0; i < key_r->n; i++) {
        char c = ascii_lower(key_r->p[i]);
        if (!(c >= 'a' && c <= 'z') && !ascii_digit(c) && c != '-')
            return -1;
    }
    for (size_t i = 0; i < value_r->n; i++)
        if ((unsigned char)value_r->p[i] <= ' ' || value_r->p[i] == 0x7f)
            return -1;
    return 1;
}

bool smtp_xtext_valid(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c < '!' || c > '~' || c == '=')
            return false;
        if (c == '+') {
            for (int k = 1; k <= 2; k++) {
                if (i + (size_t)k >= s.n)
                    return false;
                char h = s.p[i + (size_t)k];
                if (!ascii_digit(h) && !(h >= 'A' && h <= 'F'))
                    return false;
            }
            i += 2;
        }
    }
    return true;
}
