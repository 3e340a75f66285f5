/* Sleeping while a word is what it was, for some time at most; and waking whoever sleeps at it.

   Whoever wakes changes the word, and *then* wakes. Whoever sleeps has read the word, and is only put
   to sleep if it is the same still; this look and the sleep are one step for those who wake. So no
   wake is lost. A sleep may end for nothing: all who sleep look at the word again.

   Who asks (sender.c) is woken from signal handlers, too: by a dss_send that drops its item. So it
   has an alarm of its own. On Linux the kernel does all of it by the address of the word, without a
   lock of ours; there an alarm is nothing. Elsewhere it is a pair of sockets, two descriptors for as
   long as somebody asks, or has that request: a byte in it stays until it is read, and to write it
   needs no lock. Those who wait for room are woken only by threads of Python, so there one lock and
   one condition will do for all of them: no signal handler comes to it. */

#include "ring.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>
#ifdef DSS_LINUX
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

/* The number that the system gives a thread. A pthread_t is the next thread's as soon as this one has
   ended, and a hub may be polled by one thread that has ended since. (The system's comes again as well,
   on Linux after all the others.) It is asked for once: a system call costs more than to take an item. */
static _Thread_local uint64_t number;

uint64_t dss_thread(void) {
    if (!number) {
#if !DSS_NATIVE_IDS
        number = (uint64_t)(uintptr_t)pthread_self();
#elif defined(__APPLE__)
        pthread_threadid_np(NULL, &number);
#else
        number = (uint64_t)syscall(SYS_gettid);
#endif
    }
    return number;
}

#if defined(DSS_LINUX) && defined(SYS_futex)

void dss_sleep(_Atomic uint32_t *word, uint32_t seen, double seconds) {
    struct {
        long seconds, nanoseconds; /* as the system call has it, whatever size time_t has */
    } left = {(long)seconds, (long)((seconds - (double)(long)seconds) * 1e9)};
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, seconds < 0 ? NULL : (void *)&left, NULL, 0);
}

void dss_wake(_Atomic uint32_t *word, uint32_t many) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, many > INT32_MAX ? INT32_MAX : many, NULL, NULL, 0);
}

void dss_sleep_after_fork(void) { number = 0; }

bool dss_alarm_open(dss_alarm *alarm) {
    (void)alarm;
    return true;
}

void dss_alarm_close(dss_alarm *alarm) { (void)alarm; }

void dss_alarm_sleep(dss_alarm *alarm, _Atomic uint32_t *word, uint32_t seen, double seconds) {
    (void)alarm;
    dss_sleep(word, seen, seconds);
}

void dss_alarm_ring(dss_alarm *alarm, _Atomic uint32_t *word) {
    (void)alarm;
    dss_wake(word, 1);
}

#else

static pthread_mutex_t sleep_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t sleep_change = PTHREAD_COND_INITIALIZER;

void dss_sleep(_Atomic uint32_t *word, uint32_t seen, double seconds) {
    pthread_mutex_lock(&sleep_lock);
    if (atomic_load(word) == seen) { /* with the lock: who changes it after this waits for that to wake us */
        if (seconds < 0) {
            pthread_cond_wait(&sleep_change, &sleep_lock);
        } else {
            struct timespec until; /* by the wall clock, the only one that all systems have here */
            clock_gettime(CLOCK_REALTIME, &until);
            time_t whole = (time_t)seconds;
            until.tv_sec += whole;
            until.tv_nsec += (long)((seconds - (double)whole) * 1e9);
            if (until.tv_nsec >= 1000000000) {
                until.tv_nsec -= 1000000000;
                until.tv_sec += 1;
            }
            pthread_cond_timedwait(&sleep_change, &sleep_lock, &until);
        }
    }
    pthread_mutex_unlock(&sleep_lock);
}

void dss_wake(_Atomic uint32_t *word, uint32_t many) { /* everybody, at whichever word */
    (void)word, (void)many;
    pthread_mutex_lock(&sleep_lock); /* whoever has looked at the word sleeps by now */
    pthread_cond_broadcast(&sleep_change);
    pthread_mutex_unlock(&sleep_lock);
}

/* One of the parent's threads may have held the lock; and a condition remembers who sleeps. */
void dss_sleep_after_fork(void) {
    static const pthread_mutex_t fresh_lock = PTHREAD_MUTEX_INITIALIZER;
    static const pthread_cond_t fresh_change = PTHREAD_COND_INITIALIZER;
    number = 0;
    sleep_lock = fresh_lock;
    sleep_change = fresh_change;
}

bool dss_alarm_open(dss_alarm *alarm) { return dss_pair(alarm->ends); }

void dss_alarm_close(dss_alarm *alarm) { /* by the last one who holds it: nobody writes any more */
    int error = errno, before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    close(alarm->ends[0]);
    close(alarm->ends[1]);
    pthread_setcancelstate(before, &before);
    errno = error;
}

/* Cancellation is off in the thread: see "begin_to_wait". */
void dss_alarm_sleep(dss_alarm *alarm, _Atomic uint32_t *word, uint32_t seen, double seconds) {
    if (atomic_load(word) != seen) {
        return;
    }
    /* Who changes it after this look writes after it as well. Rounded up, so as not to spin. */
    double most = seconds * 1000 + 1;
    struct pollfd wait = {.fd = alarm->ends[0], .events = POLLIN};
    if (poll(&wait, 1, seconds < 0 ? -1 : most < INT_MAX ? (int)most : INT_MAX) > 0) {
        dss_bell_clear(alarm->ends[0]); /* what is read here was written after a change */
    }
}

void dss_alarm_ring(dss_alarm *alarm, _Atomic uint32_t *word) {
    (void)word;
    int error = errno;
    dss_write(alarm->ends[1], "!", 1, DSS_BYTES); /* if it is full, that wakes as well */
    errno = error;
}

#endif
