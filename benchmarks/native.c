/* Threads of C that send, each with its clock. Built by native.py. They pace themselves with
   nanosleep: one that spins starves Python on its processor. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#endif

#include "dss_anyio.h"

typedef int (*callback)(const void *data, size_t size);

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct {
    dss_sender *sender;                 /* or */
    callback call;                      /* of ctypes; */
    int (*ensure)(void);                /* kept by this thread, if it is there */
    void (*release)(int);
    void *(*save)(void);
    void (*restore)(void *);
    int asks;
    int items;
    double pause;                       /* seconds between two */
    double *seconds;                    /* inside of each call; NULL: nobody asks */
    pthread_t thread;
    int locks;                          /* does it hold the lock during each call? */
    pthread_mutex_t lock;               /* as a library's own */
} job;

static int once(job *self, const char *item)
{
    int answer = 0;
    if (self->call)
        return self->call(item, 64);
    if (self->asks)
        return dss_ask(self->sender, item, 64, &answer, sizeof answer, NULL, -1);
    return self->seconds ? dss_send(self->sender, item, 64)
                         : dss_send_wait(self->sender, item, 64, -1);
}

static void *run(void *arg)
{
    job *self = arg;
    char item[64] = {0};
    int state = 0;
    void *saved = NULL;
    if (self->ensure) {
        state = self->ensure();
        saved = self->save();
    }
    struct timespec pause = {(time_t)self->pause, (long)((self->pause - (long)self->pause) * 1e9)};
    for (int i = 0; i < self->items; i++) {
        if (self->pause > 0)
            nanosleep(&pause, NULL);
        double begun = self->seconds ? now() : 0;
        memcpy(item, &begun, sizeof begun);
        if (self->locks)
            pthread_mutex_lock(&self->lock);
        once(self, item);
        if (self->locks)
            pthread_mutex_unlock(&self->lock);
        if (self->seconds)
            self->seconds[i] = now() - begun;
    }
    if (self->ensure) {
        self->restore(saved);
        self->release(state);
    }
    return NULL;
}

static job *watched[8];
static int watching;

/* The process ends, and Python is over: is each thread still there to give its lock back? */
static void count_lost(void)
{
    int lost = 0;
    for (int i = 0; i < watching; i++) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += 200 * 1000 * 1000;     /* each holds it for some microseconds */
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (pthread_mutex_timedlock(&watched[i]->lock, &until))
            lost++;
        else
            pthread_mutex_unlock(&watched[i]->lock);
    }
    printf("%d\n", lost);
    fflush(stdout);
}

/* With *locks* it holds a lock during each call, which count_lost looks for when the process ends. */
job *job_start(dss_sender *sender, callback call, void *ensure, void *release, void *save,
               void *restore, int asks, int items, double pause, double *seconds, int locks)
{
    job *self = calloc(1, sizeof *self);
    *self = (job){sender, call, (int (*)(void))ensure, (void (*)(int))release,
                  (void *(*)(void))save, (void (*)(void *))restore, asks, items, pause, seconds, 0,
                  locks, PTHREAD_MUTEX_INITIALIZER};
    if (locks) {
        if (!watching)
            atexit(count_lost);
        watched[watching++] = self;
    }
    if (pthread_create(&self->thread, NULL, run, self))
        abort();
    return self;
}

void job_join(job *self)
{
    pthread_join(self->thread, NULL);
    free(self);
}

/* Seconds for one of *many* calls of a function of c_callback, or of ctypes, from a thread of C. */
typedef struct {
    int (*f)(int, double, void *, const uint8_t *, size_t);
    int many;
    double seconds;
} calls;

static void *call_again_and_again(void *arg)
{
    calls *self = arg;
    uint8_t buffer[16] = {0};
    double begun = now();
    for (int i = 0; i < self->many; i++)
        self->f(i, 0.5, buffer, buffer, sizeof buffer);
    self->seconds = (now() - begun) / self->many;
    return NULL;
}

double time_calls(int (*f)(int, double, void *, const uint8_t *, size_t), int many)
{
    calls all = {f, many, 0};
    pthread_t thread;
    if (pthread_create(&thread, NULL, call_again_and_again, &all))
        abort();
    pthread_join(thread, NULL);
    return all.seconds;
}

#ifdef __linux__
/* The floor of each wake: from a write to an eventfd until another thread returns from epoll_wait. */

typedef struct {
    int event;
    int many;
    double *seconds;                    /* when it was written; then, how long it took */
    int next;
} wakes;

static void *wait_for_each(void *arg)
{
    wakes *self = arg;
    struct epoll_event happened = {EPOLLIN, {0}};
    int epoll = epoll_create1(0);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, self->event, &happened))
        abort();
    while (self->next < self->many) {
        uint64_t rung = 0;
        if (epoll_wait(epoll, &happened, 1, -1) != 1)
            continue;                   /* a signal */
        double there = now();
        if (read(self->event, &rung, sizeof rung) != sizeof rung)
            abort();
        for (; rung; rung--) {          /* more than one if this thread was held up */
            self->seconds[self->next] = there - self->seconds[self->next];
            self->next++;
        }
    }
    close(epoll);
    return NULL;
}

static void stay_on(pthread_t thread, int processor)
{
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(processor, &only);
    if (pthread_setaffinity_np(thread, sizeof only, &only))
        abort();
}

/* Of a thread on processor *from* to one on *to*; where the system puts them, if these are -1. */
void time_wakes(int many, double pause, double *seconds, int from, int to)
{
    wakes self = {eventfd(0, 0), many, seconds, 0};
    pthread_t thread;
    if (self.event < 0 || pthread_create(&thread, NULL, wait_for_each, &self))
        abort();
    if (from >= 0) {
        stay_on(pthread_self(), from);
        stay_on(thread, to);
    }
    struct timespec between = {(time_t)pause, (long)((pause - (long)pause) * 1e9)};
    for (int i = 0; i < many; i++) {
        uint64_t one = 1;
        nanosleep(&between, NULL);
        seconds[i] = now();
        if (write(self.event, &one, sizeof one) != sizeof one)
            abort();
    }
    pthread_join(thread, NULL);
    close(self.event);
}
#endif
