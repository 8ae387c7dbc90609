/* What the tests of the script layer share: a host without a database, environments from texts,
 * calls. */
#pragma once

#include "core/log.h"
#include "core/loop.h"
#include "core/shm.h"
#include "core/task.h"
#include "core/work.h"
#include "script/host_int.h"
#include "script/script.h"
#include "store/db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static api_open_fn *const test_apis[] = {
    api_mail_open,    api_crypto_open, api_json_open, api_cache_open, api_regex_open,
    api_message_open, api_store_open,  api_send_open, NULL,
};

static inline const char *share_dir(void)
{
    const char *dir = getenv("MOONPOST_SHARE");
    return dir ? dir : MOONPOST_SHARE;
}

static inline int host_setup(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    log_set_level(LOG_ERROR);
    loop_init();
    shm_create();
    shm_attach(1);
    if (host_open(share_dir(), test_apis, &e) != 0) {
        fprintf(stderr, "%s\n", e.text);
        return -1;
    }
    /* A database that never answers: what asks it fails with class "temp". */
    db_open("host=/nonexistent dbname=none", "moonpost_engine", 1);
    hook_register(&host_provider);
    return 0;
}

static inline int host_teardown(void **state)
{
    (void)state;
    hook_register(NULL);
    host_close();
    db_close();
    work_stop();
    task_pool_free();
    loop_free();
    return 0;
}

/* An environment whose site script is `text`. */
static inline struct hook_env *env_of(const char *script, const char *text)
{
    struct release *r = release_new(1);

    if (text != NULL)
        release_add(r, chunk_new(str_of(script), str_of(text), false));
    struct hook_env *env = env_make(script, STR(""), r);
    release_unref(&r);
    return env;
}

struct outcome {
    enum hook_outcome what;
    struct hook_call hc;
    struct err e;
    struct arena *a;
};

static inline struct outcome call_hook(struct hook_env *env, enum hook_id id, unsigned nargs,
                                       const struct hval *args)
{
    struct outcome o = {.e = ERR_INIT, .a = arena_new(1024)};

    o.hc = (struct hook_call){.id = id, .env = env, .arena = o.a, .args = args, .nargs = nargs};
    o.what = hook_call(&o.hc, &o.e);
    return o;
}

static inline void outcome_free(struct outcome *o)
{
    arena_free(&o->a);
}

/* Runs `text` as smtpsvr script and its DoNOOP("x"), which must answer "ok". */
static inline bool script_says_ok(const char *text)
{
    struct hook_env *env = env_of("smtpsvr", text);
    struct hval args[] = {hv_str(STR("x"))};
    struct outcome o = call_hook(env, HOOK_SMTPSVR_DoNOOP, 1, args);
    bool ok = o.what == HOOK_DONE && str_eqz(hv_as_str(&o.hc.results[0], STR("")), "ok");

    if (!ok) {
        struct str said = hv_as_str(&o.hc.results[0], STR(""));
        fprintf(stderr, "outcome %d, said '%.*s', error '%s' of:\n%.600s\n", o.what,
                o.hc.nresults ? (int)said.n : 0, said.p ? said.p : "", o.e.text, text);
    }
    outcome_free(&o);
    env_drop(&env);
    return ok;
}

/* A test's body in a task.  Checks are counted there and asserted outside: cmocka leaves a failed
 * test with a long jump, which must not go from a task's stack to the main one. */
static unsigned check_failures;
#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #what);                     \
            check_failures++;                                                                      \
        }                                                                                          \
    } while (0)
#define IN_TASK(name)                                                                              \
    static void name##_body(void *unused);                                                         \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        check_failures = 0;                                                                        \
        task_run_main(name##_body, NULL);                                                          \
        assert_int_equal(check_failures, 0);                                                       \
    }                                                                                              \
    static void name##_body(void *unused)
