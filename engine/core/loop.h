/* The event loop: a facade over libevent.  One loop a process, so it has no handle.
 *
 * Callbacks run on the loop's own stack and must not block.  What has to wait for something runs in
 * a task (task.h). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct event_base;

void loop_init(void);
/* In a child after fork(), before its own loop_init(): lets go of the parent's loop. */
void loop_forget(void);
void loop_free(void);
/* Runs until loop_stop(). */
void loop_run(void);
void loop_stop(void);
/* One turn without waiting; for tests. */
void loop_turn(void);
struct event_base *loop_base(void);

/* Milliseconds of a clock that never jumps. */
uint64_t loop_ms(void);
/* Nanoseconds, read now; for measuring. */
uint64_t loop_ns(void);

/* Called once each turn after callbacks ran; for watchdog counters. */
void loop_on_turn(void (*fn)(void *ctx), void *ctx);

/* One-shot timers, re-armed by timer_set(). */
struct timer;
struct timer *timer_new(void (*fn)(void *ctx), void *ctx);
void timer_set(struct timer *t, uint64_t ms);
/* Fires in this turn, after the callbacks that are due already. */
void timer_now(struct timer *t);
void timer_stop(struct timer *t);
void timer_free(struct timer **t);

/* File descriptor readiness.  The callback stays armed until watch_set() with 0. */
enum { WATCH_READ = 1, WATCH_WRITE = 2 };
struct watch;
struct watch *watch_new(int fd, void (*fn)(void *ctx, int what), void *ctx);
void watch_set(struct watch *w, int what);
/* Does not close the descriptor. */
void watch_free(struct watch **w);

/* Signals, delivered as callbacks on the loop. */
void loop_on_signal(int signo, void (*fn)(void *ctx, int signo), void *ctx);

/* Runs fn(ctx) in this turn, when the callbacks that are due have run: wake-ups. */
void loop_defer(void (*fn)(void *ctx), void *ctx);
/* Runs fn(ctx) in the next turn, after descriptors were looked at: for work that goes on and on. */
void loop_next(void (*fn)(void *ctx), void *ctx);
