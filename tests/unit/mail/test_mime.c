/* Part trees, parameters, part numbers, the packed form, hostile bodies. */
#include "core/limits.h"
#include "core/loop.h"
#include "mail/mime.h"
#include "mail/structure.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
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

/* "type/subtype[body,lines](children)" */
static struct str show(const struct mime_part *p, struct str body)
{
    struct str r = arena_printf(a, "%.*s/%.*s[%.*s,%u]", STR_ARG(p->type), STR_ARG(p->subtype),
                                p->first ? 0 : (int)(p->body_end - p->body_start),
                                p->first ? "" : body.p + p->body_start, p->lines);
    if (p->first) {
        r = arena_printf(a, "%.*s(", STR_ARG(r));
        for (const struct mime_part *c = p->first; c; c = c->next)
            r = arena_printf(a, "%.*s%.*s%s", STR_ARG(r), STR_ARG(show(c, body)),
                             c->next ? " " : "");
        r = arena_printf(a, "%.*s)", STR_ARG(r));
    }
    return r;
}

static void same_tree(const struct mime_part *x, const struct mime_part *y)
{
    for (; x && y; x = x->next, y = y->next) {
        assert_int_equal(x->kind, y->kind);
        assert_true(str_eq(x->type, y->type) && str_eq(x->subtype, y->subtype));
        assert_true(str_eq(x->encoding, y->encoding) && str_eq(x->disposition, y->disposition));
        assert_true(str_eq(x->id, y->id) && x->params.n == y->params.n);
        assert_int_equal(x->header_start, y->header_start);
        assert_int_equal(x->header_end, y->header_end);
        assert_int_equal(x->body_start, y->body_start);
        assert_int_equal(x->body_end, y->body_end);
        assert_int_equal(x->lines, y->lines);
        assert_int_equal(x->children, y->children);
        same_tree(x->first, y->first);
    }
    assert_true(x == NULL && y == NULL);
}

/* Parses whole, byte by byte, and through the packed form: all must agree. */
static void tree(const char *head, const char *body, const char *want)
{
    struct str h = str_of(head), b = str_of(body);
    struct mime_part *root = mime_parse(a, h, b);
    struct str got = show(root, b);

    if (!str_eqz(got, want))
        fail_msg("%s%s\n got %.*s\nwant %s", head, body, STR_ARG(got), want);
    struct mime_parser *p = mime_begin(a, h);
    for (size_t i = 0; i < b.n; i++)
        mime_feed(p, str_make(b.p + i, 1));
    same_tree(root, mime_end(&p));
    struct str packed = structure_pack(a, root);
    assert_non_null(packed.p);
    struct mime_part *again = structure_unpack(a, packed, h);
    assert_non_null(again);
    same_tree(root, again);
    for (size_t n = 0; n < packed.n; n++) /* damage is noticed, or harmless */
        structure_unpack(a, str_head(packed, n), h);
}

#define MIXED "Content-Type: multipart/mixed; boundary=b\r\n\r\n"

static void test_trees(void **state)
{
    (void)state;
    tree("A: b\r\n\r\n", "hello\r\nworld", "text/plain[hello\r\nworld,2]");
    tree("A: b\r\n\r\n", "", "text/plain[,0]");
    tree(MIXED,
         "pre\r\n--b\r\n\r\none\r\n--b\r\nContent-Type: text/html\r\n\r\ntwo\r\n\r\n--b--\r\npost",
         "multipart/mixed[,11](text/plain[one,1] text/html[two\r\n,1])");
    tree(MIXED, "--b\n\none\n--b\nContent-Type: image/png\n\ntwo\n--b--\n",
         "multipart/mixed[,8](text/plain[one,1] image/png[two,1])");
    /* no end boundary; boundary with blanks behind it; one part without a body */
    tree(MIXED, "--b  \r\n\r\none\r\n--b\r\nContent-Type: x/y\r\n--b\r\n\r\nthree",
         "multipart/mixed[,8](text/plain[one,1] x/y[,0] text/plain[three,1])");
    /* nothing inside */
    tree(MIXED, "no parts", "multipart/mixed[no parts,1]");
    tree(MIXED, "--b--", "multipart/mixed[--b--,1]");
    tree(MIXED, "--b", "multipart/mixed[,1](text/plain[,0])");
    /* the inner boundary begins with the outer one */
    tree(MIXED,
         "--b\r\nContent-Type: multipart/alternative; "
         "boundary=\"bb\"\r\n\r\n--bb\r\n\r\nx\r\n--bb--\r\n--b\r\n\r\ny\r\n--b--\r\n",
         "multipart/mixed[,11](multipart/alternative[,4](text/plain[x,1]) text/plain[y,1])");
    /* the inner multipart is never closed */
    tree(MIXED,
         "--b\r\nContent-Type: multipart/alternative; "
         "boundary=i\r\n\r\n--i\r\n\r\nx\r\n--b\r\n\r\ny\r\n--b--",
         "multipart/mixed[,10](multipart/alternative[,3](text/plain[x,1]) text/plain[y,1])");
    tree(MIXED,
         "--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: in\r\nFrom: "
         "x\r\n\r\nbody\r\n--b--\r\n",
         "multipart/mixed[,8](message/rfc822[,4](text/plain[body,1]))");
    tree("Content-Type: multipart/digest; boundary=b\r\n\r\n",
         "--b\r\n\r\nSubject: in\r\n\r\nbody\r\n--b--\r\n",
         "multipart/digest[,6](message/rfc822[,3](text/plain[body,1]))");
    tree("Content-Type: message/rfc822\r\n\r\n",
         "Content-Type: multipart/mixed; boundary=q\r\n\r\n--q\r\n\r\nx\r\n--q--\r\n",
         "message/rfc822[,6](multipart/mixed[,4](text/plain[x,1]))");
    tree("Content-Type: message/rfc822\r\n\r\n", "", "message/rfc822[,0](text/plain[,0])");
    tree("Content-Type: multipart/mixed\r\n\r\n", "--\r\nx", "multipart/mixed[--\r\nx,2]");
    tree("Content-Type: text\r\n\r\n", "x", "text/plain[x,1]");
    tree("Content-Type: ;;;=\r\n\r\n", "x", "text/plain[x,1]");
}

static void test_params(void **state)
{
    struct mime_part p = {0};
    (void)state;
    mime_fields(a, &p,
                STR("Content-Type: text/plain; charset=\"ut\\f-8\" (c);\r\n format=flowed ; "
                    "x=\"a;b\"; y=z w; name*0=\"ab\";\r\n"
                    " name*1=cd\r\n"
                    "Content-Disposition: attachment; filename*0*=utf-8''%C3%A4; filename*1=\"b "
                    "c\"; filename*2*=%20d\r\n"
                    "Content-Transfer-Encoding: BASE64 (x)\r\nContent-ID: <1@x>\r\n\r\n"),
                false);
    assert_true(str_eqz(mime_param(&p.params, "CHARSET"), "utf-8"));
    assert_true(str_eqz(mime_param(&p.params, "format"), "flowed"));
    assert_true(str_eqz(mime_param(&p.params, "x"), "a;b"));
    assert_true(str_eqz(mime_param(&p.params, "y"), "z"));
    assert_true(str_eqz(mime_param(&p.params, "name"), "abcd"));
    assert_true(str_eqz(mime_param(&p.disposition_params, "filename*"), "utf-8''%C3%A4b%20c%20d"));
    assert_true(str_eqz(mime_filename(a, &p), "\xC3\xA4"
                                              "b c d"));
    assert_true(str_eqz(p.encoding, "BASE64"));
    assert_true(str_eqz(p.id, "<1@x>"));
    struct mime_part q = {0};
    mime_fields(a, &q, STR("Content-Type: image/png; name=\"=?utf-8?Q?=C3=A4.png?=\"\r\n\r\n"),
                false);
    assert_true(str_eqz(mime_filename(a, &q), "\xC3\xA4.png"));
    struct mime_part r = {0};
    mime_fields(a, &r, STR("Content-Type: a/b; n*1=x; n*0=y; n*3=z; m*0*=a'b; k*x=1\r\n\r\n"),
                false);
    assert_true(str_eqz(mime_param(&r.params, "n"), "yx"));
}

static void path_is(struct mime_part *root, struct mime_part *p, const char *want)
{
    assert_non_null(p);
    struct str got = mime_path(a, p);
    if (!str_eqz(got, want))
        fail_msg("path %.*s, want %s", STR_ARG(got), want);
    uint32_t n[20];
    unsigned k = 0;
    for (struct str rest = got, w; rest.p && rest.n;) {
        w = str_cut(&rest, '.');
        assert_true(str_u32(w, &n[k++]));
    }
    struct mime_part *back = mime_by_path(root, n, k);
    assert_true(back == p || (back && back->kind == MIME_MESSAGE && back->first == p));
}

static void test_paths(void **state)
{
    (void)state;
    /* The example of RFC 3501 6.4.5. */
    struct mime_part *root = mime_parse(
        a, STR(MIXED),
        STR("--b\r\n\r\n1\r\n--b\r\nContent-Type: application/octet-stream\r\n\r\n2\r\n--b\r\n"
            "Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n"
            "--c\r\n\r\n3.1\r\n--c\r\nContent-Type: a/b\r\n\r\n3.2\r\n--c--\r\n--b\r\n"
            "Content-Type: multipart/mixed; boundary=d\r\n\r\n--d\r\nContent-Type: "
            "image/gif\r\n\r\n4.1\r\n--d\r\n"
            "Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; "
            "boundary=e\r\n\r\n--e\r\n\r\n4.2.1\r\n"
            "--e\r\nContent-Type: multipart/alternative; "
            "boundary=f\r\n\r\n--f\r\n\r\n4.2.2.1\r\n--f\r\n"
            "Content-Type: text/richtext\r\n\r\n4.2.2.2\r\n--f--\r\n--e--\r\n--d--\r\n--b--\r\n"));
    unsigned leaves = 0;
    for (struct mime_part *p = root->first; p; p = mime_next(root, p)) {
        if (p->first)
            continue;
        struct str path = mime_path(a, p);
        path_is(root, p, arena_dupz(a, path));
        leaves++;
    }
    assert_int_equal(leaves, 8);
    path_is(root, root->first->next->next, "3");
    path_is(root, root->first->next->next->first->first->next, "3.2");
    path_is(root, root->first->next->next->next, "4");
    path_is(root, root->first->next->next->next->first->next->first->first->next->first->next,
            "4.2.2.2");
    assert_null(mime_by_path(root, (uint32_t[]){5}, 1));
    assert_null(mime_by_path(root, (uint32_t[]){1, 1}, 2));
    assert_null(mime_by_path(root, (uint32_t[]){0}, 1));

    root = mime_parse(a, STR("X: y\r\n\r\n"), STR("text"));
    path_is(root, root, "1");
    assert_null(mime_by_path(root, (uint32_t[]){2}, 1));
    assert_null(mime_by_path(root, (uint32_t[]){1, 1}, 2));
    root = mime_parse(a, STR("Content-Type: message/rfc822\r\n\r\n"), STR("X: y\r\n\r\ntext"));
    path_is(root, root, "1");
    path_is(root, root->first, "1.1");
    assert_ptr_equal(mime_by_path(root, (uint32_t[]){1, 1}, 2), root->first);
    assert_null(mime_by_path(root, (uint32_t[]){1, 1, 1}, 3));
}

static void test_envelope(void **state)
{
    (void)state;
    struct str head = STR(MIXED);
    struct mime_part *root =
        mime_parse(a, head,
                   STR("--b\r\nContent-Type: message/rfc822\r\n\r\nX: 1\r\nSubject: in\r\n "
                       "side\r\nFrom: x\r\n\r\nbody\r\n--b--\r\n"));
    root = structure_unpack(a, structure_pack(a, root), head);
    assert_true(str_eqz(root->first->envelope, "Subject: in\r\n side\r\nFrom: x\r\n"));
}

static double parse_ms(struct str head, struct str body, uint32_t *parts_r)
{
    struct arena *own = arena_new(0);
    uint64_t t = loop_ns();
    struct mime_part *root = mime_parse(own, head, body);
    double ms = (double)(loop_ns() - t) / 1e6;
    uint32_t n = 0;
    for (struct mime_part *p = root; p; p = mime_next(root, p))
        n++;
    *parts_r = n;
    struct str packed = structure_pack(own, root);
    if (packed.p)
        assert_non_null(structure_unpack(own, packed, head));
    arena_free(&own);
    return ms;
}

static void test_hostile(void **state)
{
    static const struct {
        const char *what, *piece;
        double ms;
    } cases[] = {
        {"plain lines",
         "0123456789012345678901234567890123456789012345678901234567890123456789\r\n", 50},
        {"empty lines", "\n", 120},
        {"boundaries", "--b\n\n", 500},
        {"dashes", "--\n", 500},
        {"one long line", "-", 50},
        {"headers", "--b\na:b\na:b\na:b\na:b\n", 500},
        {"prefixes", "--bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", 200},
        {"nested messages", "--b\nContent-Type: message/rfc822\n\nContent-Type: message/rfc822\n\n",
         500},
        {"nul", "\0\n--", 500},
    };
    size_t size = 10u * 1024 * 1024;
    char *text = malloc(size);
    uint32_t parts;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].piece);
        if (n == 0)
            n = 4;
        for (size_t k = 0; k + n <= size; k += n)
            memcpy(text + k, cases[i].piece, n);
        double ms = parse_ms(STR(MIXED), str_make(text, size / n * n), &parts);
        printf("%-16s %6.1f ms, %u parts\n", cases[i].what, ms, parts);
        assert_true(parts <= MIME_PARTS_MAX);
#if !defined(__SANITIZE_ADDRESS__)
        assert_true(ms < cases[i].ms);
#endif
    }
    /* 1,000 levels deep, each with a boundary that is a prefix of the next */
    size_t at = 0;
    for (unsigned d = 1; d <= 1000; d++) {
        if (d == 1)
            at += (size_t)snprintf(text + at, size - at, "--b\n");
        at += (size_t)snprintf(text + at, size - at,
                               "Content-Type: multipart/mixed; boundary=\"%.*s\"\n\n--%.*s\n",
                               (int)(d % 200 + 1),
                               "bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                               "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                               "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                               (int)(d % 200 + 1),
                               "bxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                               "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                               "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    }
    double ms = parse_ms(STR(MIXED), str_make(text, at), &parts);
    printf("%-16s %6.1f ms, %u parts\n", "deep", ms, parts);
    assert_true(ms < 500);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trees),   cmocka_unit_test(test_params),
        cmocka_unit_test(test_paths),   cmocka_unit_test(test_envelope),
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
