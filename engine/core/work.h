/* A small thread pool for C code that computes long or must block: password hashing, signatures,
 * file access.  What runs there touches only its argument: no Lua, no loop, no logging of ours. */
#pragma once

/* From a task: runs fn(arg) on a pool thread and returns when it has finished.  On the loop's own
 * stack (command line start-up) it runs in place.  Threads start on first use. */
void work_run(void (*fn)(void *arg), void *arg);
/* Ends the threads; nothing may be under way. */
void work_stop(void);
