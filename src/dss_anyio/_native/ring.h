/* What the C files share: the queue, the bell, and who waits. No Python object in here.

   ring.c     a bounded queue of many producers and many consumers; who is in, and when it is freed
   bell.c     one flag and the descriptors that wake a hub; all senders of a hub share one bell
   sender.c   the functions of dss_anyio.h; who waits for room or for an answer
   sleep.c    how they sleep, and how they are woken
   module.c   Python's face, with items.c and face.h

   Assumptions: a POSIX system; 64-bit atomics that are lock-free; a thread may be killed between any
   two instructions of ring.c and bell.c, and interrupted there by a signal handler that sends. */

#ifndef DSS_RING_H
#define DSS_RING_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for syscall(); this file comes before all others */
#endif

#include "dss_anyio.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#if defined(__linux__) && !defined(DSS_PORTABLE)
#define DSS_LINUX /* else as on all other systems; -DDSS_PORTABLE is to test that on Linux */
#endif

/* A send often finds nothing of it in the processor's cache: the thread has slept, or another one has
   computed. Then it waits for memory once for each line of code or data that it touches, and once more
   for each page. So what a send that finds room runs through lies together (HOT), without what it does
   not need (RARE). */
#if defined(__GNUC__)
#define LINE __attribute__((aligned(64))) /* a cache line of its own */
#define HOT __attribute__((hot))
#define RARE(what) __builtin_expect(!!(what), 0)
#else
#define LINE
#define HOT
#define RARE(what) (what)
#endif

#if defined(DSS_LINUX) || (defined(__APPLE__) && !defined(DSS_PORTABLE))
#define DSS_NATIVE_IDS 1 /* dss_thread() is what Python's threads call native_id; else their ident */
#else
#define DSS_NATIVE_IDS 0
#endif

/* -- bell.c -------------------------------------------------------------------------------------- */

typedef struct dss_bell dss_bell;

enum dss_outlet_kinds { DSS_COUNTER, DSS_BYTES, DSS_DATAGRAM }; /* eventfd, a stream, UDP */

dss_bell *dss_bell_new(void);
void dss_bell_hold(dss_bell *);
void dss_bell_drop(dss_bell *);
bool dss_bell_open(dss_bell *, int *readable); /* a descriptor of its own, for an event loop */
bool dss_bell_connect(dss_bell *, unsigned place, int fd); /* notify *fd* (a socket) as well */
void dss_bell_disconnect(dss_bell *, unsigned place);
void dss_bell_arm(dss_bell *);
bool dss_bell_ring(dss_bell *); /* false: nobody could be notified */
void dss_bell_clear(int readable);
uint64_t dss_bell_failures(dss_bell *);
void dss_bell_tell_gone(dss_bell *); /* an asker has given up */
uint64_t dss_bell_gone(dss_bell *);
void dss_bell_set_home(dss_bell *, uint64_t thread); /* if nothing was armed so far */
bool dss_bell_is_home(dss_bell *); /* is this the thread that receives? */
void dss_bell_close(dss_bell *);
bool dss_pair(int ends[2]); /* of sockets: the first one to read from, the other one to write to */
long dss_write(int fd, const void *, size_t, int kind); /* never waits, no point of cancellation */

/* -- sleep.c ------------------------------------------------------------------------------------- */

typedef struct {
    int ends[2]; /* not used on Linux */
} dss_alarm;

/* Sleep while *word is *seen*, at most *seconds* (below 0: any time). May return for nothing. */
void dss_sleep(_Atomic uint32_t *word, uint32_t seen, double seconds);
void dss_wake(_Atomic uint32_t *word, uint32_t many); /* not in a signal handler */
void dss_sleep_after_fork(void); /* in the child, before anything else: nobody sleeps there */
uint64_t dss_thread(void);       /* the number of this thread; not in a signal handler */

/* The same for a word at which one thread sleeps, and which may change in a signal handler. */
bool dss_alarm_open(dss_alarm *); /* false: there are no descriptors left */
void dss_alarm_sleep(dss_alarm *, _Atomic uint32_t *word, uint32_t seen, double seconds);
void dss_alarm_ring(dss_alarm *, _Atomic uint32_t *word); /* from anywhere; keeps errno */
void dss_alarm_close(dss_alarm *); /* the same */

/* -- who asks: sender.c -------------------------------------------------------------------------- */

typedef struct dss_asker dss_asker;

bool dss_asker_settle(dss_asker *, int status, const void *answer, size_t size);
bool dss_asker_waits(dss_asker *);
double dss_asker_left(dss_asker *); /* seconds, at least 0; below 0: no limit */
void dss_asker_drop(dss_asker *);
bool dss_asker_delivers(dss_asker *);
bool dss_asker_decoded(dss_asker *);

/* What decode has put. */
typedef struct {
    dss_output face;
    char *bytes; /* of malloc */
    size_t size;
    int status; /* what decode has returned */
} dss_decoded;

void dss_decode_it(dss_decoded *, dss_decode, void *data);
bool dss_asker_decode(dss_asker *, dss_decoded *); /* false: it has gone, or was released */

/* -- ring.c -------------------------------------------------------------------------------------- */

typedef struct dss_ring dss_ring;

enum dss_policies { DSS_BLOCK, DSS_DROP_NEWEST, DSS_DROP_OLDEST };
enum dss_kinds { DSS_COPIED, DSS_GIVEN, DSS_ASKED, DSS_DELIVERED };

typedef struct { /* an item, for whoever puts it or takes it */
    int kind;
    const void *data;
    size_t size;
    dss_asker *asker; /* DSS_ASKED */
    dss_free release; /* DSS_GIVEN. This, and what follows, is known once it was claimed */
    void *arg;
    dss_decode decode; /* DSS_DELIVERED, of *data* */
} dss_item;

typedef struct { /* a look at the oldest item, which may be claimed */
    dss_item item;
    uint64_t position, word;
} dss_look;

#define DSS_LOT 32 /* cells go back so many at a time: each time is a trip between two processors */

/* Several items that are taken one after the other; begins with all 0. What was claimed has left the
   queue, but its cell is read, until the next look; the cells are handed over when there are some of
   them, and at the end. */
typedef struct {
    uint64_t next, tail;
    uint32_t many, cells[DSS_LOT]; /* that were claimed and not handed over */
} dss_taking;

typedef struct {
    uint64_t queued, dropped, late;
} dss_counts;

dss_ring *dss_ring_new(
    dss_bell *, const dss_api_2_0 *, uint32_t limit, size_t item_size, int policy
);
bool dss_ring_enter(dss_ring *); /* false: it is closed; leave all the same */
void dss_ring_leave(dss_ring *);
int dss_ring_put(dss_ring *, const dss_item *);
void dss_ring_close(dss_ring *);
bool dss_ring_closed(dss_ring *);
uint64_t dss_ring_count(dss_ring *);
uint32_t dss_ring_limit(dss_ring *);
bool dss_ring_look(dss_ring *, dss_taking *, dss_look *);  /* false: empty */
bool dss_ring_claim(dss_ring *, dss_taking *, dss_look *); /* false: somebody else has it */
void dss_ring_hand_over(dss_ring *, dss_taking *); /* to the putters; wakes one that waits for room */
void dss_ring_hold(dss_ring *);
void dss_ring_drop(dss_ring *); /* after the last one, the memory of its queue goes */
void dss_ring_count_dropped(dss_sender *);
void dss_ring_count_late(dss_ring *); /* a call that came after the close */
dss_counts dss_ring_counts(dss_ring *);
dss_bell *dss_ring_bell(dss_ring *);
size_t dss_ring_item_size(dss_ring *);
bool dss_ring_is_fork(dss_ring *); /* was it made by another process? */
struct dss_waits *dss_ring_waits(dss_ring *);

/* -- who waits: sender.c ------------------------------------------------------------------------- */

typedef struct dss_waiter { /* lives as long as the call that waits */
    struct dss_waiter *previous, *next;
    const char *call;
    double since; /* by the monotonic clock */
    uintptr_t thread;
    dss_asker *asker; /* of one that waits for an answer */
} dss_waiter;

typedef struct dss_waits {
    pthread_mutex_t lock;          /* of the list; held for a few instructions: see sender.c */
    dss_waiter *first, *last;
    _Atomic uint32_t want_room;    /* how many wait for room */
    _Atomic uint32_t room;         /* a word to wait at: changes when one is woken */
    _Atomic uint32_t asleep;       /* 0, or for how many free places somebody there is to be woken */
} dss_waits;

extern const dss_api_2_0 dss_api;

void dss_waits_init(dss_waits *);
void dss_waits_room(dss_ring *); /* places have become free */
void dss_waits_release(dss_ring *, bool graceful);
double dss_now(void);

#endif
