/* A library with threads of its own, as small as can be. Built by test_foreign.py:
   cc -shared -fPIC -pthread -o pool.so pool.c

   Its threads call back with the number of the thread and the number of the call. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef void (*callback_t)(int thread, int number);

typedef struct {
    callback_t callback;
    int threads;
    int calls; /* by each thread; negative: until it is stopped */
    int fresh; /* a new thread for each call, instead of one for all of them */
    pthread_t *handles;
    atomic_int next;
    atomic_int stop;
    atomic_long returned; /* callbacks that have returned */
    atomic_long *returned_in; /* each thread; not in fresh ones */
} pool_t;

typedef struct {
    pool_t *pool;
    int thread;
    int number;
} call_t;

static void call_back(pool_t *pool, int thread, int number)
{
    pool->callback(thread, number);
    atomic_fetch_add(&pool->returned, 1);
}

static void *run_once(void *argument)
{
    call_t *call = argument;
    call_back(call->pool, call->thread, call->number);
    return NULL;
}

static void *run(void *argument)
{
    pool_t *pool = argument;
    int thread = atomic_fetch_add(&pool->next, 1);
    for (int number = 0; number != pool->calls && !atomic_load(&pool->stop); number++) {
        if (pool->fresh) {
            call_t call = {pool, thread, number};
            pthread_t handle;
            if (pthread_create(&handle, NULL, run_once, &call) != 0)
                abort();
            pthread_join(handle, NULL);
        } else {
            call_back(pool, thread, number);
            atomic_fetch_add(&pool->returned_in[thread], 1);
        }
    }
    return NULL;
}

/* Returns at once. The callbacks come from then on. */
pool_t *pool_start(callback_t callback, int threads, int calls, int fresh)
{
    pool_t *pool = calloc(1, sizeof *pool);
    pool->callback = callback;
    pool->threads = threads;
    pool->calls = calls;
    pool->fresh = fresh;
    pool->handles = calloc(threads, sizeof *pool->handles);
    pool->returned_in = calloc(threads, sizeof *pool->returned_in);
    for (int i = 0; i < threads; i++)
        if (pthread_create(&pool->handles[i], NULL, run, pool) != 0)
            abort();
    return pool;
}

long pool_returned(pool_t *pool)
{
    return atomic_load(&pool->returned);
}

/* Waits until the threads have made their calls. */
void pool_join(pool_t *pool)
{
    for (int i = 0; i < pool->threads; i++)
        pthread_join(pool->handles[i], NULL);
    pool->threads = 0;
}

/* Waits for the call that each thread is in. */
void pool_stop(pool_t *pool)
{
    atomic_store(&pool->stop, 1);
    pool_join(pool);
}

void pool_free(pool_t *pool)
{
    free(pool->handles);
    free((void *)pool->returned_in);
    free(pool);
}

static pool_t *watched;

/* Runs after Python's end: does each thread go on, so that its callbacks return? */
static void look_at_threads(void)
{
    long before[8];
    for (int i = 0; i < watched->threads; i++)
        before[i] = atomic_load(&watched->returned_in[i]);
    for (int turn = 0; turn < 5000; turn++) {
        int going = 0;
        for (int i = 0; i < watched->threads; i++)
            going += atomic_load(&watched->returned_in[i]) > before[i] + 10;
        if (going == watched->threads) {
            static const char said[] = "all threads go on\n";
            if (write(1, said, sizeof said - 1) > 0)
                return;
        }
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    }
}

/* Of a pool of eight threads at most. */
void pool_watch_exit(pool_t *pool)
{
    watched = pool;
    atexit(look_at_threads);
}
