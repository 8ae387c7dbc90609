/* Tasks: order, wake-ups, sleep, cancellation, work threads. */
#include "core/loop.h"
#include "core/task.h"
#include "core/work.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static char trail[64];

static void child(void *arg)
{
    strcat(trail, (const char *)arg);
    task_yield();
    strcat(trail, (const char *)arg);
}

static void parent(void *arg)
{
    (void)arg;
    task_spawn(child, "a");
    task_spawn(child, "b");
    strcat(trail, "p");
    while (task_count() > 1)
        task_yield();
}

static void test_order(void **state)
{
    (void)state;
    trail[0] = '\0';
    task_run_main(parent, NULL);
    assert_string_equal(trail, "pabab");
    assert_int_equal(task_count(), 0);
}

static int slept;

static void sleeper(void *arg)
{
    struct err e = ERR_INIT;
    (void)arg;
    slept = task_sleep(60000, &e) == -1 && e.cls == ERR_CANCELLED;
}

static void canceller(void *arg)
{
    (void)arg;
    struct task *t = task_spawn(sleeper, NULL);
    task_yield();
    task_yield();
    task_cancel(t);
    while (task_count() > 1)
        task_yield();
    uint64_t before = loop_ns();
    assert_int_equal(task_sleep(20, NULL), 0);
    assert_true(loop_ns() - before >= 19000000u);
}

static void test_sleep_and_cancel(void **state)
{
    (void)state;
    task_run_main(canceller, NULL);
    assert_int_equal(slept, 1);
}

static void compute(void *arg)
{
    *(int *)arg = 42;
}

static void worker(void *arg)
{
    work_run(compute, arg);
}

static void test_work(void **state)
{
    int v = 0;
    (void)state;
    task_run_main(worker, &v);
    assert_int_equal(v, 42);
    work_stop();
}

static void deep(void *arg)
{
    *(size_t *)arg = task_stack_left();
}

static void test_stack(void **state)
{
    size_t left = 0;
    (void)state;
    task_run_main(deep, &left);
    assert_true(left > 200 * 1024 && left < 256 * 1024);
}

static int setup(void **state)
{
    (void)state;
    loop_init();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    task_pool_free();
    loop_free();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_sleep_and_cancel),
        cmocka_unit_test(test_work),
        cmocka_unit_test(test_stack),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
