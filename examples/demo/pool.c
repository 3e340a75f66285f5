/* A library with threads of its own, as small as one can be: each pthread calls back in bursts.
 *
 * Python has not made these threads, and does not know them before they call back.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

typedef void (*callback_t)(int thread, long number);

struct pool {
    callback_t callback;
    int threads, burst, pause_ms;
    atomic_bool stopping;
    atomic_int next_thread;
    atomic_long calls;
    pthread_t ids[64];
};

static void *run(void *arg)
{
    struct pool *pool = arg;
    int thread = atomic_fetch_add(&pool->next_thread, 1);
    struct timespec pause = {pool->pause_ms / 1000, (pool->pause_ms % 1000) * 1000000L};
    long number = 0;

    while (!atomic_load(&pool->stopping)) {
        for (int i = 0; i < pool->burst && !atomic_load(&pool->stopping); i++) {
            pool->callback(thread, number++);
            atomic_fetch_add(&pool->calls, 1);
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct pool *pool_start(callback_t callback, int threads, int burst, int pause_ms)
{
    struct pool *pool = calloc(1, sizeof *pool);
    if (!pool || threads < 1 || threads > 64) {
        free(pool);
        return NULL;
    }
    pool->callback = callback;
    pool->burst = burst;
    pool->pause_ms = pause_ms;
    for (; pool->threads < threads; pool->threads++)
        if (pthread_create(&pool->ids[pool->threads], NULL, run, pool))
            break;
    return pool;
}

/* Joins the threads: do not call it in a thread that one of them waits for. */
long pool_stop(struct pool *pool)
{
    atomic_store(&pool->stopping, true);
    for (int i = 0; i < pool->threads; i++)
        pthread_join(pool->ids[i], NULL);
    long calls = atomic_load(&pool->calls);
    free(pool);
    return calls;
}
