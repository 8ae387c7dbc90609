/* What a call from the engine into Lua costs: an empty hook, a shipped hook, and setting up an
 * environment. Built by hook_cost.py against the layers of the program.  Prints one line of JSON,
 * microseconds. */
#include "unit/script/script_test.h"

enum { WARM = 2000, ROUNDS = 20000 };

static double took[ROUNDS];

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle(unsigned n)
{
    qsort(took, n, sizeof *took, by_size);
    return took[n / 2];
}

static double hook(const char *text, enum hook_id id)
{
    struct hook_env *env = env_of("smtpsvr", text);
    struct hval args[] = {hv_str(STR("client.example.org"))};

    for (unsigned i = 0; i < WARM + ROUNDS; i++) {
        uint64_t start = loop_ns();
        struct outcome o = call_hook(env, id, 1, args);
        double us = (double)(loop_ns() - start) / 1e3;
        CHECK(o.what == HOOK_DONE);
        outcome_free(&o);
        if (i >= WARM)
            took[i - WARM] = us;
    }
    env_drop(&env);
    return middle(ROUNDS);
}

/* An environment is set up when it is first called: its layers' chunks run then.  `empty` is the
 * price of the call itself. */
static double environment(const char *script, const char *text, enum hook_id id, unsigned nargs,
                          double empty)
{
    struct hval args[] = {hv_str(STR("POP3")), hv_str(STR("anna"))};
    enum { N = 5000 };

    for (unsigned i = 0; i < N; i++) {
        struct release *r = NULL;
        static struct release *kept;
        if (i == 0) {
            kept = release_new(1);
            if (text != NULL)
                release_add(kept, chunk_new(str_of(script), str_of(text), false));
        }
        r = kept;
        uint64_t start = loop_ns();
        struct hook_env *env = env_make(script, STR(""), r);
        struct outcome o = call_hook(env, id, nargs, args);
        took[i] = (double)(loop_ns() - start) / 1e3 - empty;
        CHECK(o.what != HOOK_DEFAULT || text == NULL);
        outcome_free(&o);
        env_drop(&env);
        if (i + 1 == N)
            release_unref(&kept);
    }
    return middle(N);
}

static void measure(void *unused)
{
    static char big[64 * 1024];
    size_t n = 0;

    (void)unused;
    /* 700 lines, as a grown site script has: 70 functions and 20 tables */
    n += (size_t)snprintf(big, sizeof big, "function DoNOOP(x) end\n");
    for (int i = 0; i < 70; i++) {
        n += (size_t)snprintf(
            big + n, sizeof big - n,
            "function helper%d(a, b)\n  local n = 0\n  if a == b then\n    n = n + %d\n"
            "  end\n  if n > 3 then return a .. '%d' end\n  return b\nend\n",
            i, i, i);
        if (i < 20)
            n += (size_t)snprintf(big + n, sizeof big - n,
                                  "list%d = {\n  'a',\n  'b',\n  helper%d,\n  key = %d,\n}\n", i, i,
                                  i);
    }
    double empty = hook("function DoNOOP(x) end", HOOK_SMTPSVR_DoNOOP);
    printf("{\"empty_hook\": %.2f, ", empty);
    printf("\"environment_shipped\": %.2f, ",
           environment("usermanager", NULL, HOOK_USERMANAGER_TranslateUsername, 2, empty));
    printf("\"environment_smtpsvr\": %.2f, ",
           environment("smtpsvr", "function DoNOOP(x) end", HOOK_SMTPSVR_DoNOOP, 1, empty));
    printf("\"environment_700_lines\": %.2f}\n",
           environment("smtpsvr", big, HOOK_SMTPSVR_DoNOOP, 1, empty));
}

int main(void)
{
    if (host_setup(NULL) != 0)
        return 1;
    task_run_main(measure, NULL);
    host_teardown(NULL);
    return check_failures != 0;
}
