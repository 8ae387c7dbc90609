/* Changes of domains, accounts and mappings; each ends with a new generation. */
#include "store/account_int.h"

#include "store/credential.h"
#include "store/db.h"
#include "store/pg.h"
#include "store/setting.h"

#include <time.h>

enum { NAME_MAX_BYTES = 32, PASSWORD_BYTES_MAX = 255, DOMAIN_MAX = 253, COMMENT_MAX = 80 };

static int changed(int rc)
{
    if (rc == 0)
        directory_changed();
    return rc;
}

/* --- domains
 * ------------------------------------------------------------------------------------------ */
static bool domain_ok(struct str d)
{
    if (d.n == 0 || d.n > DOMAIN_MAX || d.p[0] == '.' || d.p[d.n - 1] == '.' || !str_utf8(d))
        return false;
    for (size_t i = 0; i < d.n; i++) {
        unsigned char c = (unsigned char)d.p[i];
        if (c < 0x80 && !ascii_digit((char)c) &&
            !(ascii_lower((char)c) >= 'a' && ascii_lower((char)c) <= 'z') && c != '-' && c != '.' &&
            c != '_')
            return false;
    }
    return true;
}

int domain_add(struct str domain, struct err *e)
{
    struct arena *a = arena_new(512);
    int rc;

    if (!domain_ok(domain))
        rc = err_set(e, ERR_SYNTAX, "%.*s is no domain name", STR_ARG(domain));
    else
        rc = db_exec(a, NULL, e, "insert into domain (name) values ($1)",
                     DB_ARGS(db_text(arena_lower(a, domain))));
    arena_free(&a);
    return changed(rc);
}

int domain_list(struct arena *a, struct str **v_r, uint32_t *n_r, struct err *e)
{
    const struct rows *r;

    if (db_exec(a, &r, e, "select name from domain order by name", 0, NULL) != 0)
        return -1;
    *n_r = rows_count(r);
    *v_r = ARENA_ARRAY(a, struct str, (size_t)*n_r + 1);
    for (uint32_t i = 0; i < *n_r; i++)
        (*v_r)[i] = rows_str(r, i, 0);
    return 0;
}

/* --- accounts
 * ------------------------------------------------------------------------------------------ */
static bool name_ok(struct str n)
{
    if (n.n == 0 || n.n > NAME_MAX_BYTES)
        return false;
    for (size_t i = 0; i < n.n; i++) {
        char c = ascii_lower(n.p[i]);
        if (!ascii_digit(c) && !(c >= 'a' && c <= 'z') && c != '.' && c != '_' && c != '-')
            return false;
    }
    return true;
}

static int password_ok(struct str p, struct err *e)
{
    if (p.n < (size_t)setting_int("security.min_password"))
        return err_set(e, ERR_SYNTAX, "the password is shorter than %d characters",
                       (int)setting_int("security.min_password"));
    if (p.n > PASSWORD_BYTES_MAX || str_chr(p, ' ') >= 0 || str_chr(p, '\0') >= 0 || !str_utf8(p))
        return err_set(e, ERR_SYNTAX, "a password has at most %d bytes and no spaces",
                       PASSWORD_BYTES_MAX);
    return 0;
}

static int add(struct tx *tx, struct str name, bool admin, const unsigned char *packed,
               uint64_t *id_r, struct err *e)
{
    uint64_t id;
    struct arena *a = arena_new(512);
    const struct rows *r;

    if (db_next_ids(3, &id, e) != 0) {
        arena_free(&a);
        return -1;
    }
    int64_t account = (int64_t)id, inbox = (int64_t)id + 1, credential = (int64_t)id + 2;
    int64_t now = (int64_t)time(NULL);
    int rc =
        tx_exec(tx, a, &r, e, "select 1 from user_group where name = $1", DB_ARGS(db_text(name)));
    if (rc == 0 && rows_count(r) > 0)
        rc = err_set(e, ERR_EXISTS, "%.*s is the name of a group", STR_ARG(name));
    if (rc == 0)
        rc = tx_queue(tx, e, "insert into account (id, name, admin, inbox) values ($1, $2, $3, $4)",
                      DB_ARGS(db_int(account), db_text(name), db_bool(admin), db_int(inbox)));
    if (rc == 0)
        rc = tx_queue(tx, e, "insert into account_uidvalidity (account, last) values ($1, $2)",
                      DB_ARGS(db_int(account), db_int(now)));
    if (rc == 0)
        rc = tx_queue(tx, e,
                      "insert into mailbox (id, account, name, uidvalidity) "
                      "values ($1, $2, 'INBOX', $3)",
                      DB_ARGS(db_int(inbox), db_int(account), db_int(now)));
    if (rc == 0)
        rc = tx_exec(tx, a, NULL, e,
                     "insert into credential (id, account, kind, data) "
                     "values ($1, $2, 'scram-sha-256', $3)",
                     DB_ARGS(db_int(credential), db_int(account),
                             db_bytes(str_make(packed, CREDENTIAL_BYTES))));
    arena_free(&a);
    *id_r = id;
    return rc;
}

int account_add(struct str name, struct str password, bool admin, uint64_t *id_r, struct err *e)
{
    unsigned char packed[CREDENTIAL_BYTES];
    struct arena *a = arena_new(64);
    uint64_t id = 0;
    int rc;

    if (!name_ok(name))
        rc = err_set(e, ERR_SYNTAX, "a user name has 1-%d letters, digits, '.', '_' or '-'",
                     NAME_MAX_BYTES);
    else
        rc = password_ok(password, e);
    if (rc == 0)
        rc = credential_make(password, (uint32_t)setting_int("security.pbkdf2_rounds"), packed, e);
    if (rc == 0) {
        struct tx *tx = tx_begin(e);
        rc = tx == NULL ? -1 : add(tx, arena_lower(a, name), admin, packed, &id, e);
        if (rc == 0)
            rc = tx_end(&tx, true, e);
        else
            tx_abort(&tx);
    }
    if (rc != 0 && e != NULL && e->cls == ERR_EXISTS)
        err_set(e, ERR_EXISTS, "the name %.*s is taken", STR_ARG(name));
    arena_free(&a);
    wipe(packed, sizeof packed);
    if (rc == 0 && id_r != NULL)
        *id_r = id;
    return changed(rc);
}

int account_set_password(uint64_t id, struct str password, struct err *e)
{
    unsigned char packed[CREDENTIAL_BYTES];
    struct arena *a = arena_new(512);
    const struct rows *r;
    uint64_t credential;
    int rc = password_ok(password, e);

    if (rc == 0)
        rc = credential_make(password, (uint32_t)setting_int("security.pbkdf2_rounds"), packed, e);
    if (rc == 0)
        rc = db_next_id(&credential, e);
    if (rc == 0)
        rc = db_exec(a, &r, e,
                     "insert into credential (id, account, kind, data) "
                     "select $1, id, 'scram-sha-256', $3 from account where id = $2 "
                     "on conflict (account, kind, scope) do update set data = excluded.data, "
                     "created_at = now(), last_used = null",
                     DB_ARGS(db_int((int64_t)credential), db_int((int64_t)id),
                             db_bytes(str_make(packed, CREDENTIAL_BYTES))));
    if (rc == 0 && rows_affected(r) == 0)
        rc = err_set(e, ERR_NOTFOUND, "no such account");
    arena_free(&a);
    wipe(packed, sizeof packed);
    return changed(rc);
}

/* How the text of a field becomes a column. */
enum field_type {
    FIELD_BOOL,
    FIELD_ACCESS,
    FIELD_BYTES,
    FIELD_DATE,
    FIELD_LIST,
    FIELD_COMMENT,
    FIELD_HOURS,
    FIELD_REDIRECT
};
static const struct field {
    const char *name, *sql;
    enum field_type type;
} fields[] = {
    {"enabled", "update account set enabled = $2 where id = $1", FIELD_BOOL},
    {"admin", "update account set admin = $2 where id = $1", FIELD_BOOL},
    {"use_forward", "update account set use_forward = $2 where id = $1", FIELD_BOOL},
    {"redirect_assistant", "update account set redirect_assistant = $2 where id = $1", FIELD_BOOL},
    {"may_send_remote", "update account set may_send_remote = $2 where id = $1", FIELD_BOOL},
    {"may_receive_remote", "update account set may_receive_remote = $2 where id = $1", FIELD_BOOL},
    {"in_everyone", "update account set in_everyone = $2 where id = $1", FIELD_BOOL},
    {"access", "update account set access = $2 where id = $1", FIELD_ACCESS},
    {"max_out_bytes", "update account set max_out_bytes = $2 where id = $1", FIELD_BYTES},
    {"expires", "update account set expires = to_date($2, 'YYYY-MM-DD') where id = $1", FIELD_DATE},
    {"forward", "update account set forward = $2 where id = $1", FIELD_LIST},
    {"assistant", "update account set assistant = $2 where id = $1", FIELD_LIST},
    {"comment", "update account set comment = $2 where id = $1", FIELD_COMMENT},
    {"assistant_hours", "update account set assistant_hours = $2 where id = $1", FIELD_HOURS},
    {"forward_hours", "update account set forward_hours = $2 where id = $1", FIELD_HOURS},
    {"big_redirect", "update account set big_redirect = $2 where id = $1", FIELD_REDIRECT},
    {"small_redirect", "update account set small_redirect = $2 where id = $1", FIELD_REDIRECT},
    {"skip_if_quarantined", "update account set skip_if_quarantined = $2 where id = $1",
     FIELD_BOOL},
};

static bool flag_of(struct str s, bool *v_r)
{
    *v_r = str_eqiz(s, "1") || str_eqiz(s, "true") || str_eqiz(s, "yes") || str_eqiz(s, "on");
    return *v_r || str_eqiz(s, "0") || str_eqiz(s, "false") || str_eqiz(s, "no") ||
           str_eqiz(s, "off");
}

/* A number of ACCESS_ bits, or names separated by commas. */
static bool access_of(struct str s, uint64_t *v_r)
{
    static const char *const names[] = {"pop3", "imap", "smtp", "web", "password", "ldap"};

    if (str_u64(s, v_r))
        return *v_r <= ACCESS_ALL;
    *v_r = 0;
    if (str_eqiz(s, "none"))
        return true;
    if (str_eqiz(s, "all")) {
        *v_r = ACCESS_ALL;
        return true;
    }
    while (s.p != NULL) {
        struct str one = str_trim(str_cut(&s, ','));
        size_t i = 0;
        while (i < 6 && !str_eqiz(one, names[i]))
            i++;
        if (i == 6)
            return false;
        *v_r |= 1u << i;
    }
    return true;
}

static bool date_ok(struct str s)
{
    uint32_t y, m, d;

    return s.n == 10 && s.p[4] == '-' && s.p[7] == '-' && str_u32(str_head(s, 4), &y) &&
           str_u32(str_make(s.p + 5, 2), &m) && str_u32(str_make(s.p + 8, 2), &d) && m >= 1 &&
           m <= 12 && d >= 1 && d <= 31;
}

/* Blank, YYYYMMDD, HH:MM, or both. */
static bool moment_ok(struct str s)
{
    struct str rest = str_trim(s), word = str_cut(&rest, ' ');
    unsigned digits = 0;

    while (digits < word.n && ascii_digit(word.p[digits]))
        digits++;
    if (digits == 8 && word.n == 8) {
        rest = str_trim(rest);
        word = str_cut(&rest, ' ');
    }
    if (word.n == 0)
        return rest.n == 0;
    ptrdiff_t colon = str_chr(word, ':');
    uint64_t hour, minute;
    return rest.n == 0 && colon > 0 && colon <= 2 && word.n == (size_t)colon + 3 &&
           str_u64(str_head(word, (size_t)colon), &hour) && hour < 24 &&
           str_u64(str_from(word, (size_t)colon + 1), &minute) && minute < 60;
}

static bool hours_ok(struct str s)
{
    struct str rest = s, from = str_cut(&rest, '-');

    return str_trim(s).n == 0 || (str_chr(s, '-') >= 0 && moment_ok(from) && moment_ok(rest));
}

bool account_redirect(struct str text, int64_t *kb_r, bool *copy_r, struct str *targets_r)
{
    struct str rest = str_trim(text), number = str_cut(&rest, ' ');
    uint64_t kb;

    rest = str_trim(rest);
    struct str how = str_cut(&rest, ' ');
    *targets_r = str_trim(rest);
    *copy_r = str_eqiz(how, "copy");
    if (!str_u64(number, &kb) || kb > INT32_MAX || !(*copy_r || str_eqiz(how, "redirect")))
        return false;
    *kb_r = (int64_t)kb;
    return targets_r->n > 0;
}

static int field_arg(const struct field *f, struct str value, struct db_arg *arg, struct err *e)
{
    uint64_t number;
    bool flag;

    switch (f->type) {
    case FIELD_BOOL:
        if (!flag_of(value, &flag))
            return err_set(e, ERR_SYNTAX, "%s is yes or no", f->name);
        *arg = db_bool(flag);
        return 0;
    case FIELD_ACCESS:
        if (!access_of(value, &number))
            return err_set(e, ERR_SYNTAX, "access: pop3, imap, smtp, web, password, ldap");
        *arg = db_int((int64_t)number);
        return 0;
    case FIELD_BYTES:
        if (!str_u64(value, &number) || number > INT64_MAX)
            return err_set(e, ERR_SYNTAX, "%s is a number of bytes", f->name);
        *arg = db_int((int64_t)number);
        return 0;
    case FIELD_DATE:
        if (value.n > 0 && !date_ok(value))
            return err_set(e, ERR_SYNTAX, "%s is a date such as 2030-12-31", f->name);
        *arg = db_text(value.n ? value : STR_NONE);
        return 0;
    case FIELD_COMMENT:
        if (value.n > COMMENT_MAX * 4)
            return err_set(e, ERR_SYNTAX, "a comment has at most %d characters", COMMENT_MAX);
        break;
    case FIELD_HOURS:
        if (!hours_ok(value))
            return err_set(e, ERR_SYNTAX, "%s: from-to, each blank, YYYYMMDD, HH:MM or both",
                           f->name);
        break;
    case FIELD_REDIRECT:
        if (str_trim(value).n > 0) {
            int64_t kb;
            bool copy;
            struct str targets;
            if (!account_redirect(value, &kb, &copy, &targets))
                return err_set(e, ERR_SYNTAX,
                               "%s: such as '1024 copy anna;bob@example.com', or "
                               "'1024 redirect ...'",
                               f->name);
        }
        break;
    default:
        break;
    }
    *arg = db_text(value.p ? value : STR(""));
    return 0;
}

int account_set(uint64_t id, struct str field, struct str value, struct err *e)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        struct db_arg arg;
        const struct rows *r;
        if (!str_eqiz(field, fields[i].name))
            continue;
        if (field_arg(&fields[i], value, &arg, e) != 0)
            return -1;
        struct arena *a = arena_new(512);
        int rc = db_exec(a, &r, e, fields[i].sql, DB_ARGS(db_int((int64_t)id), arg));
        if (rc == 0 && rows_affected(r) == 0)
            rc = err_set(e, ERR_NOTFOUND, "no such account");
        arena_free(&a);
        return changed(rc);
    }
    return err_set(e, ERR_SYNTAX, "an account has no field %.*s", STR_ARG(field));
}

int account_remove(uint64_t id, struct err *e)
{
    /* Every place that named a message gives its reference back, before the places go. */
    static const char *const steps[] = {
        "select id from mailbox where account = $1 order by id for update",
        "insert into effect (kind, key, delta) select 1, h.body, -count(*) from mailbox_entry m "
        "join head h on h.id = m.head where m.account = $1 group by h.body",
        "insert into effect (kind, key, delta) select 1, h.body, -count(*) from deleted_message m "
        "join head h on h.id = m.head where m.account = $1 group by h.body",
        "insert into effect (kind, key, delta) select 1, h.body, -count(*) from quarantine m "
        "join head h on h.id = m.head where m.account = $1 group by h.body",
        "delete from arrival where account = $1",
        "delete from mailbox_page where account = $1",
        "delete from deleted_message where account = $1",
        "delete from quarantine where account = $1",
        "delete from mailbox where account = $1",
        "delete from subscription where account = $1",
        "delete from account_uidvalidity where account = $1",
        "delete from credential where account = $1",
        "delete from group_member where account = $1",
        "delete from pop3_lease where account = $1",
        "delete from mapping using account where account.id = $1 and "
        "lower(mapping.target) = account.name",
    };
    const struct rows *r = NULL;
    struct tx *tx = tx_begin_as("begin isolation level repeatable read", e);
    struct arena *a = arena_new(512);
    int rc = tx == NULL ? -1 : 0;

    for (size_t i = 0; rc == 0 && i < sizeof steps / sizeof *steps; i++)
        rc = tx_queue(tx, e, steps[i], DB_ARGS(db_int((int64_t)id)));
    if (rc == 0)
        rc = tx_exec(tx, a, &r, e, "delete from account where id = $1",
                     DB_ARGS(db_int((int64_t)id)));
    if (rc == 0 && rows_affected(r) == 0)
        rc = err_set(e, ERR_NOTFOUND, "no such account");
    if (rc == 0)
        rc = tx_end(&tx, true, e);
    else
        tx_abort(&tx);
    arena_free(&a);
    return changed(rc);
}

int account_list(struct arena *a, struct str glob, struct account_info **v_r, uint32_t *n_r,
                 struct err *e)
{
    const struct rows *r;
    uint32_t n = 0;

    if (db_exec(a, &r, e,
                "select a.id, a.name, a.enabled, a.admin, a.expires < current_date, a.access, "
                "a.may_send_remote, a.may_receive_remote, a.max_out_bytes, a.inbox, a.forward, "
                "a.use_forward, a.assistant, a.redirect_assistant, a.comment, "
                "coalesce(m.n, 0)::bigint, coalesce(m.s, 0)::bigint, a.assistant_hours, "
                "a.forward_hours, a.big_redirect, a.small_redirect, a.skip_if_quarantined from "
                "account a left join ("
                "  select account, sum(n) n, sum(s) s from ("
                "    select account, messages::bigint n, bytes s from mailbox union all "
                "    select account, 1, size from arrival) x group by account"
                ") m on m.account = a.id order by a.name",
                0, NULL) != 0)
        return -1;
    struct account_info *v = ARENA_ARRAY(a, struct account_info, (size_t)rows_count(r) + 1);
    for (uint32_t i = 0; i < rows_count(r); i++) {
        if (glob.n > 0 && !str_glob(glob, rows_str(r, i, 1)))
            continue;
        v[n++] = (struct account_info){
            .account = {.id = (uint64_t)rows_int(r, i, 0),
                        .name = rows_str(r, i, 1),
                        .enabled = rows_bool(r, i, 2),
                        .admin = rows_bool(r, i, 3),
                        .expired = rows_bool(r, i, 4),
                        .access = (uint32_t)rows_int(r, i, 5),
                        .may_send_remote = rows_bool(r, i, 6),
                        .may_receive_remote = rows_bool(r, i, 7),
                        .max_out_bytes = (uint64_t)rows_int(r, i, 8),
                        .inbox = (uint64_t)rows_int(r, i, 9),
                        .forward = rows_str(r, i, 10),
                        .use_forward = rows_bool(r, i, 11),
                        .assistant = rows_str(r, i, 12),
                        .redirect_assistant = rows_bool(r, i, 13),
                        .assistant_hours = rows_str(r, i, 17),
                        .forward_hours = rows_str(r, i, 18),
                        .big_redirect = rows_str(r, i, 19),
                        .small_redirect = rows_str(r, i, 20),
                        .skip_if_quarantined = rows_bool(r, i, 21)},
            .comment = rows_str(r, i, 14),
            .messages = (uint64_t)rows_int(r, i, 15),
            .bytes = (uint64_t)rows_int(r, i, 16),
        };
    }
    *v_r = v;
    *n_r = n;
    return 0;
}

/* --- mappings
 * ------------------------------------------------------------------------------------------- */
int mapping_add(struct str pattern, struct str target, struct str kind, struct str comment,
                struct err *e)
{
    static const char *const kinds[] = {"Normal", "SMTP", "POP3", "FROM"};
    const char *stored = kind.n == 0 || str_eqiz(kind, "Always") ? "Normal" : NULL;

    for (size_t i = 0; i < 4; i++)
        if (str_eqiz(kind, kinds[i]))
            stored = kinds[i];
    pattern = str_trim(pattern);
    target = str_trim(target);
    if (stored == NULL)
        return err_set(e, ERR_SYNTAX, "a mapping is Normal, SMTP, POP3 or FROM");
    if (pattern.n == 0 || pattern.n > 1000 || target.n == 0 || target.n > 1000 ||
        str_eqz(pattern, "~@"))
        return err_set(e, ERR_SYNTAX, "a mapping needs an address and a target");
    return changed(db_exec(NULL, NULL, e,
                           "insert into mapping (pattern, target, kind, comment) "
                           "values ($1, $2, $3, $4)",
                           DB_ARGS(db_text(pattern), db_text(target), db_text(str_of(stored)),
                                   db_text(comment.p ? comment : STR("")))));
}

int mapping_remove(struct str pattern, struct str target, struct err *e)
{
    struct arena *a = arena_new(0);
    const struct rows *r;
    int rc = changed(db_exec(a, &r, e,
                             "delete from mapping where lower(pattern) = lower($1) and "
                             "lower(target) = lower($2)",
                             DB_ARGS(db_text(pattern), db_text(target))));
    if (rc == 0 && rows_affected(r) == 0)
        rc = err_set(e, ERR_NOTFOUND, "there is no such mapping");
    arena_free(&a);
    return rc;
}

int mapping_list(struct arena *a, struct mapping **v_r, uint32_t *n_r, struct err *e)
{
    const struct rows *r;

    if (db_exec(a, &r, e, "select pattern, target from mapping order by id", 0, NULL) != 0)
        return -1;
    *n_r = rows_count(r);
    *v_r = ARENA_ARRAY(a, struct mapping, (size_t)*n_r + 1);
    for (uint32_t i = 0; i < *n_r; i++)
        (*v_r)[i] = (struct mapping){rows_str(r, i, 0), rows_str(r, i, 1)};
    return 0;
}
