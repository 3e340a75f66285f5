/* Stands for a sound card: its thread calls back every 5 ms with a buffer, and numbers the buffers.
   Replace it with your own. audio.py compiles it: cc -shared -fPIC -pthread -o libcard.so card.c

   A real card loses sound if a callback lasts until the next buffer is due. This one loses nothing:
   it goes on with the next buffer, late, and counts that callback as missed. It does not count one
   during which the system took the processor away from this thread: that is not the callback's doing
   (and the thread of a real card has a priority that prevents it). */

#define _GNU_SOURCE

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

enum { FRAMES = 240, PERIOD_NS = 5000000 }; /* 48 kHz */

typedef void (*on_buffer_t)(void *user, int number, const int16_t *frames, size_t count);

struct card {
    on_buffer_t on_buffer;
    void *user;
    atomic_int closing, missed;
    pthread_t thread;
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* How often the system has taken the processor away from this thread, to let others compute. */
static long times_preempted(void)
{
#ifdef RUSAGE_THREAD
    struct rusage usage;
    if (getrusage(RUSAGE_THREAD, &usage) == 0)
        return usage.ru_nivcsw;
#endif
    return 0;
}

static void *record(void *arg)
{
    struct card *card = arg;
    int16_t frames[FRAMES];
    int64_t next = now_ns();
    struct sched_param urgent = {.sched_priority = 1};

    pthread_setschedparam(pthread_self(), SCHED_FIFO, &urgent); /* if we may, as drivers do */
    for (int number = 0; !atomic_load(&card->closing); number++) {
        for (int i = 0; i < FRAMES; i++)
            frames[i] = (int16_t)(number + i);
        long preempted = times_preempted();
        int64_t begun = now_ns();
        card->on_buffer(card->user, number, frames, FRAMES); /* lent: overwritten from now on */
        if (now_ns() - begun > PERIOD_NS && times_preempted() == preempted)
            atomic_fetch_add(&card->missed, 1);
        next += PERIOD_NS;
        struct timespec until = {next / 1000000000, next % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) {
        }
    }
    return NULL;
}

struct card *card_open(on_buffer_t on_buffer, void *user)
{
    struct card *card = calloc(1, sizeof *card);
    if (!card)
        abort();
    card->on_buffer = on_buffer;
    card->user = user;
    if (pthread_create(&card->thread, NULL, record, card))
        abort();
    return card;
}

/* Joins the thread. Returns how many callbacks lasted longer than 5 ms, without those during which the
   system was busy with others. */
int card_close(struct card *card)
{
    atomic_store(&card->closing, 1);
    pthread_join(card->thread, NULL);
    int missed = atomic_load(&card->missed);
    free(card);
    return missed;
}
