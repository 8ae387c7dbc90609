#include "core/task.h"

#include "core/arena.h"
#include "core/limits.h"
#include "core/loop.h"

#include <assert.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define TASK_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TASK_ASAN 1
#endif
#endif
#ifdef TASK_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

struct task {
    ucontext_t ctx;
    char *stack; /* TASK_STACK bytes above one guard page */
    void (*fn)(void *);
    void *arg;
    void *data;
    bool queued; /* a wake-up is pending */
    bool woken;  /* the next park returns at once */
    bool cancelled, ended;
    unsigned uses;     /* of the stack */
    struct task *next; /* in the pool */
};

static struct task *current, *pool;
static unsigned live, pooled;
static ucontext_t loop_ctx;
#ifdef TASK_ASAN
static const void *loop_stack;
static size_t loop_stack_size;
#endif

static struct task *task_take(void)
{
    struct task *t = pool;

    if (t != NULL) {
        pool = t->next;
        pooled--;
        char *stack = t->stack;
        *t = (struct task){.stack = stack, .uses = t->uses + 1};
        return t;
    }
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
    char *m = mmap(NULL, TASK_STACK + guard, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (m == MAP_FAILED || mprotect(m, guard, PROT_NONE) != 0)
        abort();
    t = xcalloc(1, sizeof *t);
    t->stack = m + guard;
#ifdef TASK_ASAN
    __lsan_register_root_region(t->stack, TASK_STACK); /* what a parked task holds is not lost */
#endif
    return t;
}

static void stack_unmap(struct task *t)
{
    size_t guard = (size_t)sysconf(_SC_PAGESIZE);
#ifdef TASK_ASAN
    __lsan_unregister_root_region(t->stack, TASK_STACK);
#endif
    munmap(t->stack - guard, TASK_STACK + guard);
    free(t);
}

static void task_give(struct task *t)
{
    if (pooled >= TASK_POOL) {
        stack_unmap(t);
        return;
    }
    /* Keep the top 16 KB resident, give deeper pages back: a rare deep call must not stay paid. Now
     * and then is enough, and short tasks come by the thousand. */
    if (t->uses % 32 == 0)
        madvise(t->stack, TASK_STACK - 16384, MADV_DONTNEED);
    t->next = pool;
    pool = t;
    pooled++;
}

void task_pool_free(void)
{
    while (pool != NULL) {
        struct task *next = pool->next;
        stack_unmap(pool);
        pool = next;
    }
    pooled = 0;
}

static void task_main(void)
{
    struct task *t = current;

#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(NULL, &loop_stack, &loop_stack_size);
#endif
    t->fn(t->arg);
    t->ended = true;
#ifdef TASK_ASAN
    __sanitizer_start_switch_fiber(NULL, loop_stack, loop_stack_size);
#endif
    setcontext(&loop_ctx);
    abort();
}

/* On the loop's stack: runs `t` until it parks or ends. */
static void resume(struct task *t)
{
    assert(current == NULL);
    current = t;
#ifdef TASK_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, t->stack, TASK_STACK);
#endif
    swapcontext(&loop_ctx, &t->ctx);
#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
    current = NULL;
    if (!t->ended)
        return;
    live--;
#ifdef TASK_ASAN
    __asan_unpoison_memory_region(t->stack, TASK_STACK);
#endif
    if (t->queued)
        t->fn = NULL; /* given back by the pending wake-up */
    else
        task_give(t);
}

static void run_queued(void *arg)
{
    struct task *t = arg;

    t->queued = false;
    if (t->ended)
        task_give(t);
    else
        resume(t);
}

/* A function of its own: getcontext() returns twice in the compiler's eyes. */
static __attribute__((noinline)) void prepare(struct task *t)
{
    getcontext(&t->ctx);
    t->ctx.uc_stack.ss_sp = t->stack;
    t->ctx.uc_stack.ss_size = TASK_STACK;
    t->ctx.uc_link = NULL;
    makecontext(&t->ctx, task_main, 0);
}

struct task *task_spawn(void (*fn)(void *), void *arg)
{
    struct task *t = task_take();

    t->fn = fn;
    t->arg = arg;
    live++;
    prepare(t);
    if (current != NULL) {
        t->queued = true;
        loop_defer(run_queued, t);
    } else {
        resume(t);
    }
    return t;
}

struct task *task_self(void)
{
    return current;
}

void task_park(void)
{
    struct task *t = current;

    assert(t != NULL);
    if (t->woken) {
        t->woken = false;
        return;
    }
#ifdef TASK_ASAN
    void *fake;
    __sanitizer_start_switch_fiber(&fake, loop_stack, loop_stack_size);
#endif
    swapcontext(&t->ctx, &loop_ctx);
#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(fake, &loop_stack, &loop_stack_size);
#endif
    t->woken = false;
}

void task_wake(struct task *t)
{
    if (t == current) {
        t->woken = true;
        return;
    }
    if (t->queued || t->ended)
        return;
    t->queued = true;
    loop_defer(run_queued, t);
}

void task_yield(void)
{
    struct task *t = current;
    t->queued = true;
    loop_next(run_queued, t);
    t->woken = false;
    task_park();
}

static void sleep_over(void *arg)
{
    task_wake(arg);
}

int task_sleep(uint64_t ms, struct err *e)
{
    uint64_t until = loop_ns() / 1000000u + ms;
    struct timer *timer = timer_new(sleep_over, current);

    timer_set(timer, ms);
    while (!current->cancelled && loop_ns() / 1000000u < until) {
        task_park();
        uint64_t now = loop_ns() / 1000000u;
        if (now < until)
            timer_set(timer, until - now);
    }
    timer_free(&timer);
    return current->cancelled ? err_set(e, ERR_CANCELLED, "the task was cancelled") : 0;
}

void task_cancel(struct task *t)
{
    t->cancelled = true;
    if (t != current)
        task_wake(t);
}

bool task_cancelled(void)
{
    return current != NULL && current->cancelled;
}

void *task_data(void)
{
    return current ? current->data : NULL;
}

void task_set_data(void *data)
{
    assert(current != NULL);
    current->data = data;
}

size_t task_stack_left(void)
{
    char here;
    char *p = &here;

    if (current == NULL || p < current->stack || p >= current->stack + TASK_STACK)
        return SIZE_MAX;
    return (size_t)(p - current->stack);
}

unsigned task_count(void)
{
    return live;
}

struct main_call {
    void (*fn)(void *);
    void *arg;
};

static void main_task(void *arg)
{
    struct main_call *m = arg;
    m->fn(m->arg);
    loop_stop();
}

static void main_start(void *arg)
{
    task_spawn(main_task, arg);
}

void task_run_main(void (*fn)(void *), void *arg)
{
    struct main_call m = {fn, arg};
    loop_defer(main_start, &m);
    loop_run();
}
