/* Test bodies that run inside a task, with an arena of their own. */
#pragma once

static struct arena *arena;

#define IN_TASK(name)                                                                              \
    static void name##_task(void *arg);                                                            \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        arena = arena_new(4096);                                                                   \
        task_run_main(name##_task, NULL);                                                          \
        arena_free(&arena);                                                                        \
    }                                                                                              \
    static void name##_task(void *arg)

/* Fails with the error's text. */
#define OK(call)                                                                                   \
    do {                                                                                           \
        struct err ok_e = ERR_INIT;                                                                \
        e = ok_e;                                                                                  \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, e.text);                                                     \
    } while (0)
#define FAILS(call, class)                                                                         \
    do {                                                                                           \
        struct err fails_e = ERR_INIT;                                                             \
        e = fails_e;                                                                               \
        assert_int_equal((call), -1);                                                              \
        if (e.cls != (class))                                                                      \
            fail_msg("%s: class %d: %s", #call, e.cls, e.text);                                    \
    } while (0)
