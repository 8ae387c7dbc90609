/* Tasks: straight-line code that waits without blocking the loop.
 *
 * A task is a function on a small stack of its own.  When it waits (for the database, DNS, a timer,
 * a worker thread, a group commit) it is parked and the loop goes on; when what it waits for
 * happens it is woken and continues where it stood.  So a command handler reads top to bottom, and
 * an idle session holds no task and no stack: a session spawns one for each command that has work
 * to do.
 *
 * Lua runs inside tasks too: a binding that waits parks the task with the Lua frames on its stack,
 * so scripts may wait anywhere (inside pcall, iterators, metamethods, sort functions, their own
 * coroutines) and there is no second, blocking kind of call.
 *
 * Rules: one task never resumes another directly; wake-ups go through the loop, one turn later.
 * Spurious wake-ups are allowed, so wait in a loop:  while (!op.done) task_park();  Locals of a
 * parked task stay valid: others may point at them until the wait is over. */
#pragma once

#include "core/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;

/* Starts fn(arg) in a new task, at once when called from the loop, in the next turn when called
 * from another task.  Returns a handle that is valid until fn returns; callers that keep it must
 * forget it from inside fn. */
struct task *task_spawn(void (*fn)(void *arg), void *arg);

/* The running task; NULL on the loop's own stack. */
struct task *task_self(void);

/* Suspends the running task until somebody wakes it. */
void task_park(void);
/* From anywhere on the loop's thread.  Waking a task that is not parked makes its next park return
 * at once. */
void task_wake(struct task *t);

/* Gives the loop a turn. */
void task_yield(void);
/* 0, or -1 with CANCELLED. */
int task_sleep(uint64_t ms, struct err *e);

/* Asks a task to stop: wakes it and makes task_cancelled() true for it.  Waits that can be
 * abandoned (sleep, DNS, HTTP, hooks) return CANCELLED; database waits finish first. */
void task_cancel(struct task *t);
bool task_cancelled(void);
/* The task's own storage slot, e.g. the script call it runs for. */
void *task_data(void);
void task_set_data(void *data);

/* Bytes of stack left below the current frame; SIZE_MAX on the loop's stack. */
size_t task_stack_left(void);
/* Live tasks, for status pages and leak tests. */
unsigned task_count(void);
/* Frees pooled stacks (tests, shutdown). */
void task_pool_free(void);

/* Runs fn on the loop inside a task and returns when that task has ended; for the command line and
 * tests. */
void task_run_main(void (*fn)(void *arg), void *arg);
