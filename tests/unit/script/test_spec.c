/* Runs tests/lua and tests/compat in the host, and checks the runner itself. */
#include "unit/script/script_test.h"

#include <unistd.h>

static void show(void *ctx, struct str out)
{
    (void)ctx;
    printf("%.*s", STR_ARG(out));
}

static void folder(const char *name, unsigned least)
{
    struct script_test_result r;
    struct err e = ERR_INIT;
    char path[1000];

    snprintf(path, sizeof path, "%s/tests/%s", share_dir(), name);
    if (script_test(path, show, NULL, &r, &e) != 0)
        fprintf(stderr, "%s: %s\n", path, e.text);
    CHECK(e.cls == ERR_NONE);
    CHECK(r.failed == 0 && r.passed >= least);
}

IN_TASK(test_lua)
{
    (void)unused;
    folder("lua", 8);
}

IN_TASK(test_compat)
{
    (void)unused;
    folder("compat", 10);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    CHECK(f != NULL);
    if (f != NULL) {
        fputs(text, f);
        fclose(f);
    }
}

IN_TASK(test_runner)
{
    struct script_test_result r;
    struct err e = ERR_INIT;
    char dir[] = "/tmp/specXXXXXX", path[100];
    (void)unused;
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof path, "%s/a_spec.lua", dir);
    write_file(
        path,
        "describe('a', function() it('ok', function() end) it('bad', function() error('x') end)\n"
        "it('loops', function() mail.sleep(1) end) end)\ndescribe('b', function() error('y') end)\n"
        "assert(not host.env('smtpsvr').env) error('end')");
    CHECK(script_test(dir, NULL, NULL, &r, &e) == 0);
    CHECK(r.passed == 2 && r.failed == 3);
    write_file(path, "describe(");
    CHECK(script_test(path, NULL, NULL, &r, &e) == -1 && e.cls == ERR_SYNTAX);
    unlink(path);
    rmdir(dir);
    CHECK(script_test(dir, NULL, NULL, &r, &e) == -1 && e.cls == ERR_NOTFOUND);
}

static char printed[200];

static void collect(void *ctx, struct str out)
{
    (void)ctx;
    strncat(printed, out.p, out.n < 150 ? out.n : 150);
}

IN_TASK(test_run)
{
    struct err e = ERR_INIT;
    (void)unused;
    CHECK(script_run(STR("x"), STR("print('hello', 1) print(nil)"), collect, NULL, &e) == 0);
    CHECK(strcmp(printed, "hello\t1\nnil\n") == 0);
    CHECK(script_run(STR("x"), STR("error('no')"), collect, NULL, &e) == -1);
    CHECK(strcmp(e.text, "x.lua:1: no") == 0);
    CHECK(script_run(STR("x"), STR("x ="), collect, NULL, &e) == -1 && e.cls == ERR_SYNTAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lua),
        cmocka_unit_test(test_compat),
        cmocka_unit_test(test_runner),
        cmocka_unit_test(test_run),
    };
    return cmocka_run_group_tests(tests, host_setup, host_teardown);
}
