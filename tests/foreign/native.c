/* Threads that never enter Python, for tests/test_native*.py. They pace themselves with nanosleep:
   one that spins would keep Python from its processor. */

#include "dss_anyio.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef struct {
    uint32_t thread, number;
    char filling[56];
} record;

enum ways { SEND, SEND_WAIT, GIVE, SEND_AGAIN_WHILE_FULL };


static void nap(long nanoseconds) {
    struct timespec pause = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    while (nanoseconds > 0 && nanosleep(&pause, &pause)) {
    }
}

/* -- A pool: so many threads, each of which sends so many records ------------------------------- */

typedef struct pool pool;

typedef struct {
    pool *of;
    uint32_t number;
    atomic_long calls;
    pthread_t thread;
} worker;

struct pool {
    dss_sender *sender;
    long calls; /* of each thread; below 0: until it is stopped */
    long pause; /* nanoseconds after each call */
    int way, threads;
    bool fresh; /* each call in a thread of its own */
    atomic_bool stopped;
    atomic_long by_status[32]; /* 16 + status */
    atomic_long released;
    worker workers[];
};

static void release(void *data, void *arg) {
    atomic_fetch_add(&((pool *)arg)->released, 1);
    free(data);
}

static int call(pool *of, record *what) {
    int status;
    switch (of->way) {
    case SEND_WAIT: return dss_send_wait(of->sender, what, sizeof(*what), -1);
    case GIVE: {
        record *copy = malloc(sizeof(*copy));
        *copy = *what;
        status = dss_give(of->sender, copy, sizeof(*copy), release, of);
        if (status < 0) {
            free(copy);
        }
        return status;
    }
    case SEND_AGAIN_WHILE_FULL:
        while ((status = dss_send(of->sender, what, sizeof(*what))) == DSS_FULL && !of->stopped) {
            nap(20000);
        }
        return status;
    default: return dss_send(of->sender, what, sizeof(*what));
    }
}

typedef struct {
    pool *of;
    record what;
    int status;
} one_call;

static void *call_once(void *arg) {
    one_call *it = arg;
    it->status = call(it->of, &it->what);
    return NULL;
}

static atomic_long all_calls; /* of all pools, that have returned */

static void *work(void *arg) {
    worker *me = arg;
    pool *of = me->of;
    for (long number = 0; (of->calls < 0 || number < of->calls) && !of->stopped; number++) {
        one_call it = {.of = of, .what = {.thread = me->number, .number = (uint32_t)number}};
        if (of->fresh) {
            pthread_t thread;
            pthread_create(&thread, NULL, call_once, &it);
            pthread_join(thread, NULL);
        } else {
            call_once(&it);
        }
        atomic_fetch_add(&of->by_status[16 + it.status], 1);
        atomic_fetch_add(&all_calls, 1);
        me->calls++;
        nap(of->pause);
    }
    return NULL;
}

/* -- When Python has exited ------------------------------------------------------------------------ */

static atomic_int threads_started, threads_ended; /* that are in ask() */
static pool *pools[8];
static atomic_int pools_started;

/* A function of atexit(3), which runs after Py_Finalize: do all threads go on? */
static void look_at_threads(void) {
    int many = pools_started;
    long before[8];
    for (int index = 0; index < many; index++) {
        before[index] = pools[index]->workers[0].calls;
    }
    for (int turn = 0; turn < 2000; turn++) {
        int going = 0;
        for (int index = 0; index < many; index++) {
            going += pools[index]->workers[0].calls > before[index] + 10;
        }
        if (going == many && threads_started == threads_ended) {
            static const char said[] = "all threads of C go on\n";
            if (write(1, said, sizeof(said) - 1)) {
                return;
            }
        }
        nap(1000000);
    }
}

EXPORT void watch_exit(int unused) {
    (void)unused;
    atexit(look_at_threads);
}

EXPORT pool *pool_start(dss_sender *sender, int threads, long calls, long pause, int way, int fresh) {
    pool *of = calloc(1, sizeof(*of) + (size_t)threads * sizeof(worker));
    of->sender = sender;
    of->calls = calls;
    of->pause = pause;
    of->way = way;
    of->threads = threads;
    of->fresh = fresh;
    if (pools_started < 8) {
        pools[pools_started++] = of;
    }
    for (int number = 0; number < threads; number++) {
        of->workers[number] = (worker){.of = of, .number = (uint32_t)number};
        pthread_create(&of->workers[number].thread, NULL, work, &of->workers[number]);
    }
    return of;
}

EXPORT void pool_stop(pool *of) { of->stopped = true; }

EXPORT void pool_join(pool *of) {
    for (int number = 0; number < of->threads; number++) {
        pthread_join(of->workers[number].thread, NULL);
    }
}

EXPORT long pool_count(pool *of, int status) { return of->by_status[16 + status]; }
EXPORT long pool_released(pool *of) { return of->released; }

/* -- One call that somebody else waits for -------------------------------------------------------- */

typedef struct {
    dss_sender *sender;
    char question[64], answer[64];
    size_t answered;
    double timeout;
    int way; /* 0: dss_ask, 1: dss_send_wait */
    atomic_int done;
    int status, error;
    pthread_t thread;
} asked;

static void *ask(void *arg) {
    asked *it = arg;
    errno = 77;
    it->status = it->way == 0
        ? dss_ask(
              it->sender, it->question, strlen(it->question), it->answer, sizeof(it->answer),
              &it->answered, it->timeout
          )
        : dss_send_wait(it->sender, it->question, strlen(it->question), it->timeout);
    it->error = errno;
    it->done = 1;
    threads_ended++;
    return NULL;
}

EXPORT asked *ask_start(dss_sender *sender, const char *question, double timeout, int way) {
    asked *it = calloc(1, sizeof(*it));
    it->sender = sender;
    strncpy(it->question, question, sizeof(it->question) - 1);
    it->timeout = timeout;
    it->way = way;
    threads_started++;
    pthread_create(&it->thread, NULL, ask, it);
    return it;
}

EXPORT int ask_done(asked *it) { return it->done; }
EXPORT int ask_join(asked *it, char *answer, size_t *answered) {
    pthread_join(it->thread, NULL);
    memcpy(answer, it->answer, sizeof(it->answer));
    *answered = it->answered;
    int status = it->error == 77 ? it->status : 1000;
    free(it);
    return status;
}

/* -- What is delivered, as with DarkSideSync -------------------------------------------------------- */

typedef struct {
    dss_sender *sender;
    char text[32], answer[64];
    int returns; /* of decode: how often it has put something; 0, or below 0 */
    bool waits;
    atomic_int decoded, cancelled, returned, done;
    int status, result;
    size_t size;
    pthread_t thread;
} parcel;

static int decode_parcel(dss_output *output, void *data) {
    parcel *it = data;
    if (!output) {
        it->cancelled++;
        return 0;
    }
    it->decoded++;
    for (int turn = 0; turn < it->returns; turn++) {
        dss_put(output, it->text, strlen(it->text));
    }
    return it->returns;
}

static void return_parcel(int status, const void *answer, size_t size, void *data) {
    parcel *it = data;
    it->returned++;
    it->status = status;
    it->size = size;
    memcpy(it->answer, answer ? answer : "", answer ? size : 0);
}

static void *deliver(void *arg) {
    parcel *it = arg;
    it->result = dss_deliver(it->sender, decode_parcel, it->waits ? return_parcel : NULL, it);
    it->done = 1;
    return NULL;
}

EXPORT parcel *parcel_send(dss_sender *sender, const char *text, int returns, int waits) {
    parcel *it = calloc(1, sizeof(*it));
    it->sender = sender;
    strncpy(it->text, text, sizeof(it->text) - 1);
    it->returns = returns;
    it->waits = waits;
    pthread_create(&it->thread, NULL, deliver, it);
    if (!waits) {
        pthread_join(it->thread, NULL);
    }
    return it;
}

EXPORT int parcel_done(parcel *it) { return it->done; }

/* {result, decoded, cancelled, returned, status, size}; one that waits has to be done for it. */
EXPORT void parcel_look(parcel *it, int *found, char *answer) {
    if (it->waits) {
        pthread_join(it->thread, NULL);
        it->waits = false;
    }
    int all[] = {it->result, it->decoded, it->cancelled, it->returned, it->status, (int)it->size};
    memcpy(found, all, sizeof(all));
    memcpy(answer, it->answer, sizeof(it->answer));
}

/* -- Threads that are killed inside of a send ----------------------------------------------------- */

static void *send_until_cancelled(void *arg) {
    record what = {.thread = 7};
    int before;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    for (;;) {
        dss_send(arg, &what, sizeof(what));
        what.number++;
    }
    return NULL;
}

/* Start a thread that sends, kill it where it stands, *times* times. */
EXPORT void kill_senders(dss_sender *sender, int times) {
    for (int turn = 0; turn < times; turn++) {
        pthread_t thread;
        pthread_create(&thread, NULL, send_until_cancelled, sender);
        nap(20000 + 977 * (turn % 50));
        pthread_cancel(thread);
        pthread_join(thread, NULL);
    }
}

/* The same with threads that leave by themselves, in a signal handler. */

static void leave(int number) {
    (void)number;
    pthread_exit(NULL);
}

typedef struct {
    dss_sender *sender;
    atomic_bool begun;
} leaver;

static void *send_until_left(void *arg) {
    leaver *it = arg;
    record what = {.thread = 7};
    it->begun = true;
    for (;;) {
        dss_send(it->sender, &what, sizeof(what));
        what.number++;
    }
    return NULL;
}

EXPORT void leave_senders(dss_sender *sender, int times) {
    struct sigaction action = {.sa_handler = leave}, before;
    sigaction(SIGUSR2, &action, &before);
    for (int turn = 0; turn < times; turn++) {
        pthread_t thread;
        leaver it = {.sender = sender};
        pthread_create(&thread, NULL, send_until_left, &it);
        while (!it.begun) {
            nap(10000);
        }
        nap(977 * (turn % 50));
        pthread_kill(thread, SIGUSR2);
        pthread_join(thread, NULL);
    }
    sigaction(SIGUSR2, &before, NULL);
}

/* -- Threads that are cancelled while they wait ---------------------------------------------------- */

typedef struct {
    dss_sender *sender;
    char question[16], answer[16];
    int way; /* as in asked */
    bool asynchronous;
    atomic_int returned, went_on;
    int status;
    pthread_t thread;
} cancelled;

static void *call_and_be_cancelled(void *arg) {
    cancelled *it = arg;
    int before;
    pthread_setcanceltype(
        it->asynchronous ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, &before
    );
    it->status = it->way == 0
        ? dss_ask(
              it->sender, it->question, strlen(it->question), it->answer, sizeof(it->answer), NULL, -1
          )
        : dss_send_wait(it->sender, it->question, strlen(it->question), -1);
    it->returned = 1;
    pthread_testcancel();
    it->went_on = 1;
    return NULL;
}

EXPORT cancelled *cancelled_start(
    dss_sender *sender, const char *question, int way, int asynchronous
) {
    cancelled *it = calloc(1, sizeof(*it));
    it->sender = sender;
    strncpy(it->question, question, sizeof(it->question) - 1);
    it->way = way;
    it->asynchronous = asynchronous;
    pthread_create(&it->thread, NULL, call_and_be_cancelled, it);
    return it;
}

static void cancel_myself(int number) {
    (void)number;
    pthread_cancel(pthread_self());
}

/* From this thread, or by itself, in a signal handler that interrupts its wait. */
EXPORT void cancelled_cancel(cancelled *it, int by_itself) {
    if (by_itself) {
        struct sigaction action = {.sa_handler = cancel_myself};
        sigaction(SIGUSR2, &action, NULL);
        pthread_kill(it->thread, SIGUSR2);
    } else {
        pthread_cancel(it->thread);
    }
}

/* {was it cancelled, has the call returned, with what, did the thread go on after that} */
EXPORT void cancelled_join(cancelled *it, int *found) {
    void *result;
    pthread_join(it->thread, &result);
    int all[] = {result == PTHREAD_CANCELED, it->returned, it->status, it->went_on};
    memcpy(found, all, sizeof(all));
    free(it);
}

/* -- A signal handler that sends, also in the middle of a send ------------------------------------ */

static dss_sender *for_handler;
static atomic_uint from_handler;
static atomic_long handler_accepted;

static void handler(int number) {
    (void)number;
    record what = {.thread = 1, .number = from_handler++};
    if (dss_send(for_handler, &what, sizeof(what)) >= 0) {
        handler_accepted++;
    }
}

static atomic_bool interrupting;

static void *interrupt(void *whom) {
    while (interrupting) {
        pthread_kill(*(pthread_t *)whom, SIGUSR2);
        nap(10000);
    }
    return NULL;
}

/* Send *calls* records from this thread, while its own signals interrupt it. What was accepted of
   these is returned, of the handler's is in *accepted*. */
EXPORT long send_under_signals(dss_sender *sender, long calls, long *accepted) {
    for_handler = sender;
    from_handler = 0;
    handler_accepted = 0;
    struct sigaction action = {.sa_handler = handler}, before;
    sigaction(SIGUSR2, &action, &before);
    pthread_t interrupter, me = pthread_self();
    interrupting = true;
    pthread_create(&interrupter, NULL, interrupt, &me);
    while (!from_handler) { /* else all may be sent before that thread has begun */
        nap(10000);
    }
    long mine = 0;
    for (long number = 0; number < calls; number++) {
        record what = {.thread = 0, .number = (uint32_t)mine};
        errno = 77;
        if (dss_send(sender, &what, sizeof(what)) >= 0 && errno == 77) {
            mine++;
        }
    }
    interrupting = false;
    pthread_join(interrupter, NULL);
    sigaction(SIGUSR2, &before, NULL);
    *accepted = handler_accepted;
    return mine;
}

/* -- A library that calls back under its own lock ------------------------------------------------- */

static pthread_mutex_t library_lock = PTHREAD_MUTEX_INITIALIZER;
static void (*library_callback)(void *, const char *, size_t);
static void *library_arg;
static atomic_bool library_runs;
static atomic_long library_rounds;
static pthread_t library_thread;

static void *run_library(void *arg) {
    while (library_runs) {
        pthread_mutex_lock(&library_lock);
        nap(200000); /* so that whoever wants the lock finds it taken */
        library_callback(library_arg, "frame", 5);
        pthread_mutex_unlock(&library_lock);
        library_rounds++;
        nap(50000);
    }
    return arg;
}

EXPORT void library_start(void (*callback)(void *, const char *, size_t), void *arg) {
    library_callback = callback;
    library_arg = arg;
    library_runs = true;
    library_rounds = 0;
    pthread_create(&library_thread, NULL, run_library, NULL);
}

/* Called by Python with the GIL held (PyDLL). */
EXPORT long library_setting(void) {
    pthread_mutex_lock(&library_lock);
    long rounds = library_rounds;
    pthread_mutex_unlock(&library_lock);
    return rounds;
}

EXPORT void library_stop(void) {
    library_runs = false;
    pthread_join(library_thread, NULL);
}

/* Sleep with the GIL held (PyDLL), as a function that computes in C does. */
EXPORT void hold_everything(long nanoseconds) { nap(nanoseconds); }

/* -- What a tracer of system calls shows ----------------------------------------------------------- */

typedef struct {
    dss_sender *sender;
    const char *label;
    size_t size;
    int times, *statuses;
} marked;

static void *send_marked(void *arg) {
    marked *it = arg;
    char data[64] = {0};
    if (write(-1, it->label, strlen(it->label)) < 0) { /* it fails, and stands in the trace */
        for (int number = 0; number < it->times; number++) {
            it->statuses[number] = dss_send(it->sender, data, it->size);
        }
    }
    return write(-1, "", 0) < 0 ? NULL : arg;
}

/* Send so often, from a new thread, between two system calls that the trace is looked up for. */
EXPORT void marked_sends(
    dss_sender *sender, const char *label, size_t size, int times, int *statuses
) {
    marked it = {sender, label, size, times, statuses};
    pthread_t thread;
    pthread_create(&thread, NULL, send_marked, &it);
    pthread_join(thread, NULL);
}

EXPORT void library_send(void *sender, const char *data, size_t size) { dss_send(sender, data, size); }

/* -- Time ------------------------------------------------------------------------------------------ */

static double now(void) {
    struct timespec it;
    clock_gettime(CLOCK_MONOTONIC, &it);
    return (double)it.tv_sec + (double)it.tv_nsec * 1e-9;
}

/* Time each of *calls* sends, with a pause after each; in nanoseconds. */
typedef struct {
    dss_sender *sender;
    long calls, pause;
    double *nanoseconds;
    pthread_t thread;
} timed;

static void *time_sends(void *arg) {
    timed *it = arg;
    char data[64] = {0};
    for (long number = 0; number < it->calls; number++) {
        double began = now();
        dss_send(it->sender, data, sizeof(data));
        it->nanoseconds[number] = (now() - began) * 1e9;
        nap(it->pause);
    }
    return NULL;
}

EXPORT timed *timed_start(dss_sender *sender, long calls, long pause, double *nanoseconds) {
    timed *it = calloc(1, sizeof(*it));
    *it = (timed){sender, calls, pause, nanoseconds, 0};
    pthread_create(&it->thread, NULL, time_sends, it);
    return it;
}

EXPORT void timed_join(timed *it) {
    pthread_join(it->thread, NULL);
    free(it);
}
