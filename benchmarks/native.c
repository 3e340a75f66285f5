/* Threads of C that send, each with its clock. Built by native.py. They pace themselves with
   nanosleep: one that spins starves Python on its processor. */

#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
        once(self, item);
        if (self->seconds)
            self->seconds[i] = now() - begun;
    }
    if (self->ensure) {
        self->restore(saved);
        self->release(state);
    }
    return NULL;
}

job *job_start(dss_sender *sender, callback call, void *ensure, void *release, void *save,
               void *restore, int asks, int items, double pause, double *seconds)
{
    job *self = calloc(1, sizeof *self);
    *self = (job){sender, call, (int (*)(void))ensure, (void (*)(int))release,
                  (void *(*)(void))save, (void (*)(void *))restore, asks, items, pause, seconds, 0};
    if (pthread_create(&self->thread, NULL, run, self))
        abort();
    return self;
}

void job_join(job *self)
{
    pthread_join(self->thread, NULL);
    free(self);
}

/* Seconds for one of *many* calls of a function of c_callback, or of ctypes. */
double time_calls(int (*f)(int, double, void *, const uint8_t *, size_t), int many)
{
    uint8_t buffer[16] = {0};
    double begun = now();
    for (int i = 0; i < many; i++)
        f(i, 0.5, buffer, buffer, sizeof buffer);
    return (now() - begun) / many;
}
