/* ENVELOPE, BODYSTRUCTURE, sections, and matching of SEARCH keys. */
#include "mail/headers.h"
#include "proto/imap_int.h"
#include "proto/imap_match.h"
#include "proto/imap_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct arena *a;

static int setup(void **state)
{
    (void)state;
    a = arena_new(0);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(&a);
    return 0;
}

static void envelope(const char *head, const char *want)
{
    struct buf b;
    buf_init(&b, 100000);
    imap_put_envelope(&b, a, str_of(head));
    if (!str_eqz(buf_str(&b), want))
        fail_msg("%s\n got %.*s\nwant %s", head, STR_ARG(buf_str(&b)), want);
    buf_free(&b);
}

static void test_envelope(void **state)
{
    (void)state;
    envelope(
        "Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nSubject: IMAP4rev1 WG mtg\r\n summary\r\n"
        "From: Terry Gray <gray@cac.washington.edu>\r\nTo: imap@cac.washington.edu\r\n"
        "Cc: minutes@CNRI.Reston.VA.US, John Klensin <KLENSIN@MIT.EDU>\r\n"
        "Message-ID: <B27397-0100000@cac.washington.edu>\r\n\r\n",
        "(\"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\" \"IMAP4rev1 WG mtg summary\" "
        "((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) "
        "((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) "
        "((\"Terry Gray\" NIL \"gray\" \"cac.washington.edu\")) "
        "((NIL NIL \"imap\" \"cac.washington.edu\")) "
        "((NIL NIL \"minutes\" \"CNRI.Reston.VA.US\")(\"John Klensin\" NIL \"KLENSIN\" "
        "\"MIT.EDU\")) "
        "NIL NIL \"<B27397-0100000@cac.washington.edu>\")");
    envelope("\r\n", "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)");
    envelope(
        "Subject:\r\nFrom: root\r\nTo: G: a@b;\r\n\r\n",
        "(NIL \"\" ((NIL NIL \"root\" \".MISSING-HOST-NAME.\")) "
        "((NIL NIL \"root\" \".MISSING-HOST-NAME.\")) ((NIL NIL \"root\" \".MISSING-HOST-NAME.\")) "
        "((NIL NIL \"G\" NIL)(NIL NIL \"a\" \"b\")(NIL NIL NIL NIL)) NIL NIL NIL NIL)");
    envelope("Subject: \"q\\\r\nX: \xC3\xA4\r\nIn-Reply-To: \xC3\xA4\r\n\r\n",
             "(NIL \"\\\"q\\\\\" NIL NIL NIL NIL NIL NIL {2}\r\n\xC3\xA4 NIL)");
    envelope("To: a@b\r\nTo: c@d\r\n\r\n",
             "(NIL NIL NIL NIL NIL ((NIL NIL \"a\" \"b\")(NIL NIL \"c\" \"d\")) NIL NIL NIL NIL)");
}

static void structure(const char *message, bool extended, const char *want)
{
    struct str m = str_of(message);
    size_t h = header_end(m);
    struct buf b;
    buf_init(&b, 100000);
    imap_put_structure(&b, a, mime_parse(a, str_head(m, h), str_from(m, h)), extended);
    if (!str_eqz(buf_str(&b), want))
        fail_msg("%s\n got %.*s\nwant %s", message, STR_ARG(buf_str(&b)), want);
    buf_free(&b);
}

static void test_structure(void **state)
{
    (void)state;
    structure("A: b\r\n\r\nhello\r\n", false, "(\"text\" \"plain\" NIL NIL NIL \"7bit\" 7 1)");
    structure("Content-Type: TEXT/PLAIN; CHARSET=US-ASCII\r\nContent-Language: de, en\r\n\r\nx\r\n",
              true,
              "(\"TEXT\" \"PLAIN\" (\"CHARSET\" \"US-ASCII\") NIL NIL \"7bit\" 3 1 NIL NIL (\"de\" "
              "\"en\") NIL)");
    structure(
        "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n1\r\n--b\r\nContent-Type: "
        "image/png;"
        " name=\"x\"\r\nContent-Transfer-Encoding: base64\r\nContent-Disposition: attachment; "
        "filename=x\r\n"
        "Content-ID: <1>\r\nContent-Description: d\r\nContent-MD5: m\r\n\r\nAAAA\r\n--b--\r\n",
        true,
        "((\"text\" \"plain\" NIL NIL NIL \"7bit\" 1 1 NIL NIL NIL NIL)"
        "(\"image\" \"png\" (\"name\" \"x\") \"<1>\" \"d\" \"base64\" 4 \"m\" (\"attachment\" "
        "(\"filename\" \"x\")) NIL NIL)"
        " \"mixed\" (\"boundary\" \"b\") NIL NIL NIL)");
    structure("Content-Type: multipart/mixed; boundary=b\r\n\r\nnothing", false,
              "((\"text\" \"plain\" NIL NIL NIL \"7bit\" 0 0) \"mixed\")");
    structure("Content-Type: message/rfc822\r\n\r\nSubject: in\r\n\r\nbody\r\n", false,
              "(\"message\" \"rfc822\" NIL NIL NIL \"7bit\" 21 (NIL \"in\" NIL NIL NIL NIL NIL NIL "
              "NIL NIL) "
              "(\"text\" \"plain\" NIL NIL NIL \"7bit\" 6 1) 3)");
    structure("Content-Type: application/pdf\r\n\r\nx", false,
              "(\"application\" \"pdf\" NIL NIL NIL \"7bit\" 1)");
}

/* The bytes a BODY section shows. */
static void section(const char *message, const char *spec, const char *want)
{
    struct str m = str_of(message);
    size_t h = header_end(m);
    struct imap_fetch f;
    struct imap_in in = imap_in(a, str_of(spec));
    if (!imap_fetch_items(&in, &f))
        fail_msg("%s: %s", spec, in.bad);
    struct mime_part *root = mime_parse(a, str_head(m, h), str_from(m, h));
    struct imap_place p = imap_section_place(f.sections, root, h, m.n);
    struct str got = STR("NIL");
    if (p.found) {
        uint64_t start = p.start, length = p.length;
        if (p.filter) {
            got = imap_filter_fields(a, f.sections, str_make(m.p + start, (size_t)length));
            start = 0;
            length = got.n;
            imap_place_cut(f.sections, &start, &length);
            got = str_make(got.p + start, (size_t)length);
        } else {
            imap_place_cut(f.sections, &start, &length);
            got = str_make(m.p + start, (size_t)length);
        }
    }
    if (!str_eqz(got, want))
        fail_msg("%s\n got <%.*s>\nwant <%s>", spec, STR_ARG(got), want);
}

static void test_sections(void **state)
{
    static const char m[] =
        "From: a\r\nSubject: s\r\n t\r\nTo: b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        "--b\r\nX: 1\r\n\r\none\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: "
        "in\r\n\r\ninner\r\n--b--\r\n";
    (void)state;
    section("A: b\r\n\r\nxyz", "BODY[]", "A: b\r\n\r\nxyz");
    section("A: b\r\n\r\nxyz", "BODY[HEADER]", "A: b\r\n\r\n");
    section("A: b\r\n\r\nxyz", "BODY[TEXT]", "xyz");
    section("A: b\r\n\r\nxyz", "BODY[1]", "xyz");
    section("A: b\r\n\r\nxyz", "BODY[1.MIME]", "A: b\r\n\r\n");
    section("A: b\r\n\r\nxyz", "BODY[2]", "NIL");
    section("A: b\r\n\r\nxyz", "BODY[]<2.3>", " b\r");
    section("A: b\r\n\r\nxyz", "BODY[]<9.30>", "yz");
    section("A: b\r\n\r\nxyz", "BODY[]<30.3>", "");
    section(m, "BODY[1]", "one");
    section(m, "BODY[1.MIME]", "X: 1\r\n\r\n");
    section(m, "BODY[2]", "Subject: in\r\n\r\ninner");
    section(m, "BODY[2.HEADER]", "Subject: in\r\n\r\n");
    section(m, "BODY[2.TEXT]", "inner");
    section(m, "BODY[2.1]", "inner");
    section(m, "BODY[2.HEADER.FIELDS (subject)]", "Subject: in\r\n\r\n");
    section(m, "BODY[1.HEADER]", "NIL");
    section(m, "BODY[3]", "NIL");
    section(m, "BODY[HEADER.FIELDS (TO subject X-None)]", "Subject: s\r\n t\r\nTo: b\r\n\r\n");
    section(m, "BODY[HEADER.FIELDS (None)]", "\r\n");
    section(m, "BODY[HEADER.FIELDS.NOT (to subject content-type)]", "From: a\r\n\r\n");
    section(m, "BODY[HEADER.FIELDS (To)]<1.3>", "o: ");
    section("A: b", "BODY[HEADER.FIELDS (A)]", "A: b\r\n\r\n");
}

static bool found(const char *message, const char *keys, size_t step)
{
    struct str m = str_of(message);
    size_t h = header_end(m);
    struct imap_search q;
    struct imap_in in = imap_in(a, str_of(keys));
    if (!imap_search_keys(&in, &q) || !imap_end(&in))
        fail_msg("%s: %s", keys, in.bad);
    uint32_t uid = 7, flags = FLAG_SEEN | FLAG_KEYWORD0;
    struct view v = {
        .count = 1, .uids = &uid, .flags = &flags, .recent_from = 8, .keyword_count = 1};
    strcpy(v.keywords[0], "Foo");
    if (!imap_match_prepare(q.root, &v, a))
        fail_msg("%s: range", keys);
    struct view_ref ref = {.size = (uint32_t)m.n, .at = 1700000000000};
    bool hits[64];
    struct imap_scan *scan = imap_scan_new(&q, hits);
    struct mime_part *root = mime_parse(a, str_head(m, h), str_from(m, h));
    imap_scan_head(scan, str_head(m, h));
    for (struct mime_part *p = root; p; p = mime_next(root, p)) {
        if (p->kind == MIME_MESSAGE)
            imap_scan_inner_head(scan, p->envelope);
        if (!imap_scan_wants(p))
            continue;
        imap_scan_part(scan, p);
        for (uint64_t i = p->body_start; i < p->body_end; i += step) {
            uint64_t n = p->body_end - i < step ? p->body_end - i : step;
            imap_scan_bytes(scan, str_make(m.p + h + i, (size_t)n), i + n == p->body_end);
        }
    }
    imap_scan_free(&scan);
    struct imap_facts f = {.index = 0};
    enum imap_answer early = imap_match(q.root, &v, &f);
    f = (struct imap_facts){.index = 0, .ref = &ref, .head = str_head(m, h), .text = hits, .a = a};
    enum imap_answer r = imap_match(q.root, &v, &f);
    assert_true(r != MATCH_UNKNOWN);
    assert_true(early == MATCH_UNKNOWN || early == r);
    return r == MATCH_YES;
}

static void is(const char *message, const char *keys, bool want)
{
    for (size_t step = 1; step < 100000; step *= 7)
        if (found(message, keys, step) != want)
            fail_msg("%s (step %zu)", keys, step);
}

static void test_search(void **state)
{
    static const char m[] =
        "From: =?utf-8?Q?J=C3=B6rg?= <j@example.org>\r\nSubject: Hello\r\n World\r\nDate: 1 Jan "
        "2020 23:30:00 -0500\r\n"
        "Content-Type: multipart/mixed; boundary=b\r\n\r\npreamble\r\n--b\r\nContent-Type: "
        "text/plain; charset=iso-8859-1\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=FC=DFe aus K=F6ln, a long=\r\ner "
        "line that\r\nwraps\r\n--b\r\n"
        "Content-Type: application/pdf\r\n\r\nbinarything\r\n--b\r\nContent-Type: text/html; "
        "charset=utf-8\r\n"
        "Content-Transfer-Encoding: base64\r\n\r\nw4RQRkVM\r\n--b\r\nContent-Type: "
        "message/rfc822\r\n\r\nSubject: innermost\r\n\r\ndeep\r\n--b--\r\n";
    (void)state;
    is(m, "ALL", true);
    is(m, "SEEN", true);
    is(m, "UNSEEN", false);
    is(m, "NOT SEEN", false);
    is(m, "KEYWORD foo", true);
    is(m, "KEYWORD bar", false);
    is(m, "UNKEYWORD bar", true);
    is(m, "RECENT", false);
    is(m, "OLD", true);
    is(m, "NEW", false);
    is(m, "UID 7", true);
    is(m, "UID 8:9", false);
    is(m, "1", true);
    is(m, "LARGER 10 SMALLER 10000", true);
    is(m, "SINCE 14-Nov-2023", true);
    is(m, "ON 14-Nov-2023", true);
    is(m, "BEFORE 14-Nov-2023", false);
    is(m, "SENTON 1-Jan-2020", true);
    is(m, "SENTSINCE 2-Jan-2020", false);
    is(m, "SENTBEFORE 2-Jan-2020", true);
    is(m, "FROM {5}\r\nj\xC3\xB6rg", true);
    is(m, "CHARSET utf-8 FROM {5}\r\nJ\xC3\x96RG", true);
    is(m, "FROM example.ORG", true);
    is(m, "SUBJECT \"hello world\"", true);
    is(m, "SUBJECT grue", false);
    is(m, "HEADER Date \"\"", true);
    is(m, "HEADER X-Nothing \"\"", false);
    is(m, "HEADER Content-Type MIXED", true);
    is(m, "BODY \"a longer line that wraps\"", true);
    is(m,
       "CHARSET utf-8 BODY {7}\r\nGR\xC3\x9C\xC3\x9F"
       "e",
       true);
    is(m, "CHARSET utf-8 BODY {7}\r\n\xC3\xA4pfelx", false);
    is(m, "CHARSET iso-8859-1 BODY {5}\r\n\xE4pfel", true);
    is(m, "BODY binarything", false);
    is(m, "BODY preamble", false);
    is(m, "BODY hello", false);
    is(m, "TEXT hello", true);
    is(m, "TEXT deep BODY innermost", true);
    is(m, "OR BODY nothing TEXT deep", true);
    is(m, "NOT BODY nothing", true);
    is(m, "BODY \"\"", true);
    is(m, "OR UNSEEN (SEEN NOT BODY deep)", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_structure),
        cmocka_unit_test(test_sections),
        cmocka_unit_test(test_search),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
