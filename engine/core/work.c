#include "core/work.h"

#include "core/arena.h"
#include "core/limits.h"
#include "core/loop.h"
#include "core/task.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct job {
    struct job *next;
    void (*fn)(void *);
    void *arg;
    struct task *task;
    bool done;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER;
static struct job *todo, **todo_last = &todo, *finished;
static pthread_t threads[WORK_THREADS];
static int thread_count;
static bool ending;
static int wake_fd = -1;
static struct watch *wake_watch;

static void *thread_main(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (todo == NULL && !ending)
            pthread_cond_wait(&some, &lock);
        if (todo == NULL)
            break;
        struct job *j = todo;
        todo = j->next;
        if (todo == NULL)
            todo_last = &todo;
        pthread_mutex_unlock(&lock);
        j->fn(j->arg);
        pthread_mutex_lock(&lock);
        j->next = finished;
        finished = j;
        uint64_t one = 1;
        ssize_t w = write(wake_fd, &one, sizeof one);
        (void)w; /* a full counter wakes the loop just as well */
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void on_finished(void *ctx, int what)
{
    uint64_t n;

    (void)ctx, (void)what;
    if (read(wake_fd, &n, sizeof n) < 0)
        return;
    pthread_mutex_lock(&lock);
    struct job *j = finished;
    finished = NULL;
    pthread_mutex_unlock(&lock);
    while (j != NULL) {
        struct job *next = j->next;
        j->done = true;
        task_wake(j->task);
        j = next;
    }
}

static void start(void)
{
    sigset_t all, old;

    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_fd < 0)
        abort();
    wake_watch = watch_new(wake_fd, on_finished, NULL);
    watch_set(wake_watch, WATCH_READ);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    for (thread_count = 0; thread_count < WORK_THREADS; thread_count++)
        if (pthread_create(&threads[thread_count], NULL, thread_main, NULL) != 0)
            break;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (thread_count == 0)
        abort();
}

void work_run(void (*fn)(void *), void *arg)
{
    struct job j = {.fn = fn, .arg = arg, .task = task_self()};

    if (j.task == NULL) {
        fn(arg);
        return;
    }
    if (wake_fd < 0)
        start();
    pthread_mutex_lock(&lock);
    *todo_last = &j;
    todo_last = &j.next;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
    while (!j.done)
        task_park();
}

void work_stop(void)
{
    if (wake_fd < 0)
        return;
    pthread_mutex_lock(&lock);
    ending = true;
    pthread_cond_broadcast(&some);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    watch_free(&wake_watch);
    close(wake_fd);
    wake_fd = -1;
    ending = false;
}
