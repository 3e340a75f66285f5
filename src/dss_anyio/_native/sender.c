/* The functions of dss_anyio.h: one way in and out of a ring for all; who waits for room, and who
   for an answer.

   Waiting for room. Whoever waits reads a word, and *then* leaves a note for how many free places it
   wants to be woken, and *then* tries once more; it sleeps as long as the word is what it was. Whoever
   frees places claims the items, and *then* looks at the note; if there are so many it takes the note
   away, changes the word, and wakes one. (An iteration looks as soon as it holds so many places, or a
   lot of them. For a note that wants more than one place its sleep of a millisecond is enough.) All of
   it is sequentially consistent: either the claim comes before the last try, which then succeeds; or
   the note is found, by this one or by another who was there in between, and the word changes after it
   was read. A note is replaced only by one for fewer places.

   So there is one wake on its way at a time, however many places become free meanwhile. The one who
   was woken wakes the next one when it leaves, for whom there may be room as well; who finds none,
   leaves its note again.

   A wake costs as much as hundreds of items. So one who waits wants many places at first, for a
   millisecond; if the receiver is fast they come before that, else it wants one. (As a socket's
   sender, who is woken when a part of its buffer is free.)

   Waiting for an answer. The asker lies in memory of its own, which its call and its item hold, and
   has a word as well: what has become of it. It is settled once, by one swap of that word. One who
   has an answer makes it BUSY first, copies the answer to where the asker wants it, and then settles
   it; an asker whose time is over meanwhile waits for that copy. So nothing is written to the memory
   of an asker that has gone.

   Who waits is in a list, with a lock around it, for hub.blocked() and for the end. It is held for a
   few instructions, for each of those in the list at most, in which nothing is called and nobody can
   be cancelled: so whoever takes it waits for no longer than the scheduler keeps another one from
   these. dss_send and dss_give never take it.

   Orders. All accesses are sequentially consistent. Waiting for room needs one order of all its steps,
   see above. Of an asker's word it would be enough that the swap which settles it publishes what was
   written while it was BUSY, and that whoever reads it settled acquires that; but it costs next to
   nothing beside the system call that wakes the asker. */

#include "ring.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double dss_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#define LONGEST 1e8 /* seconds: three years, after which it looks again */

/* Seconds until *deadline*; below 0 for none. False if it is over. */
static bool left_until(double deadline, double *left) {
    *left = -1;
    if (deadline == INFINITY) {
        return true;
    }
    double seconds = deadline - dss_now();
    *left = seconds < 0 ? 0 : seconds > LONGEST ? LONGEST : seconds;
    return seconds > 0;
}

/* -- The list of those who wait ------------------------------------------------------------------ */

void dss_waits_init(dss_waits *waits) { pthread_mutex_init(&waits->lock, NULL); }

static void wait_begins(dss_waits *waits, dss_waiter *waiter) {
    waiter->since = dss_now();
    waiter->thread = (uintptr_t)pthread_self();
    waiter->next = NULL;
    pthread_mutex_lock(&waits->lock);
    waiter->previous = waits->last;
    *(waits->last ? &waits->last->next : &waits->first) = waiter;
    waits->last = waiter;
    pthread_mutex_unlock(&waits->lock);
}

static void wait_ends(dss_waits *waits, dss_waiter *waiter) {
    pthread_mutex_lock(&waits->lock);
    *(waiter->previous ? &waiter->previous->next : &waits->first) = waiter->next;
    *(waiter->next ? &waiter->next->previous : &waits->last) = waiter->previous;
    pthread_mutex_unlock(&waits->lock);
}

static void wake_for_room(dss_waits *waits, uint32_t many) {
    atomic_fetch_add(&waits->room, 1);
    dss_wake(&waits->room, many);
}

/* One who sleeps leaves its note before it tries; so if it has seen no room, we see the note. */
void dss_waits_room(dss_ring *ring) {
    dss_waits *waits = dss_ring_waits(ring);
    uint32_t wanted = atomic_load(&waits->asleep);
    if (wanted && dss_ring_count(ring) + wanted <= dss_ring_limit(ring) &&
        atomic_exchange(&waits->asleep, 0)) {
        wake_for_room(waits, 1);
    }
}

static void leave_note(dss_waits *waits, uint32_t wanted) {
    uint32_t there = atomic_load(&waits->asleep);
    while ((!there || there > wanted) &&
           !atomic_compare_exchange_weak(&waits->asleep, &there, wanted)) {
    }
}

#define MANY 1024 /* places: a wake costs as much as hundreds of items; and see "part" below */
#define FIRST_SLEEP 0.001 /* seconds */

/* -- Askers -------------------------------------------------------------------------------------- */

enum { OPEN, BUSY, GONE };
#define SETTLED(status) ((uint32_t)(100 + (status))) /* the word says how */
#define IS_SETTLED(state) ((state) > 50)

struct dss_asker {
    _Atomic int holds;
    _Atomic uint32_t state;
    size_t answered; /* written by the one who has made it BUSY */
    void *answer;
    size_t room;
    double deadline;
    dss_alarm alarm;
    dss_asker *next; /* in the garbage, or of those to be woken */
    dss_decode decode; /* of dss_deliver; then the answer is in memory of its own */
    void *data;
    enum { NOT_DECODED, DECODED, DONE } decoded; /* written while BUSY, or by nobody else */
};

/* What nobody holds any more. It is freed by the next one who asks: the last one who held it may be
   a signal handler, whose item has taken its place. It is only added to, and only taken as a whole: so a
   swap that succeeds on an old first one has the right rest behind it. */
static _Atomic(dss_asker *) garbage;

static void collect(void) {
    dss_asker *each = atomic_exchange(&garbage, NULL);
    while (each) {
        dss_asker *next = each->next;
        if (each->decode) {
            free(each->answer);
        }
        free(each);
        each = next;
    }
}

static dss_asker *new_asker(void) {
    collect();
    dss_asker *asker = calloc(1, sizeof(*asker));
    if (asker && !dss_alarm_open(&asker->alarm)) {
        free(asker);
        return NULL;
    }
    return asker;
}

void dss_asker_drop(dss_asker *asker) {
    /* The count releases and acquires: what the others have done is before the last one lets it go. */
    if (atomic_fetch_sub(&asker->holds, 1) == 1) {
        dss_alarm_close(&asker->alarm);
        asker->next = atomic_load(&garbage);
        while (!atomic_compare_exchange_weak(&garbage, &asker->next, asker)) {
        }
    }
}

static bool settle_without_answer(dss_asker *asker, int status) { /* and wake it afterwards */
    uint32_t state = OPEN;
    return atomic_compare_exchange_strong(&asker->state, &state, SETTLED(status));
}

bool dss_asker_settle(dss_asker *asker, int status, const void *answer, size_t size) {
    uint32_t state = OPEN;
    if (!atomic_compare_exchange_strong(
            &asker->state, &state, size ? (uint32_t)BUSY : SETTLED(status)
        )) {
        return false;
    }
    if (size) {
        if (asker->decode && (asker->answer = malloc(size))) {
            asker->room = size;
        }
        size_t copied = size < asker->room ? size : asker->room;
        if (copied) {
            memcpy(asker->answer, answer, copied);
        }
        asker->answered = size;
        if (status == DSS_OK && copied < size) {
            status = DSS_TRUNCATED;
        }
        atomic_store(&asker->state, SETTLED(status));
    }
    dss_alarm_ring(&asker->alarm, &asker->state); /* it may have gone; whoever settles it holds the memory */
    return true;
}

/* The ring was closed. *graceful*: an ask that was accepted may still be answered.

   With the lock held each asker is only settled and held; it cannot go before that, because its call
   has to leave the list first. They are woken, by a system call each, when the lock is free again.
   Until then they hang on one another: only the one who has settled an asker gets here with it, and
   nobody else uses its *next* while it is held. */
void dss_waits_release(dss_ring *ring, bool graceful) {
    dss_waits *waits = dss_ring_waits(ring);
    wake_for_room(waits, INT32_MAX); /* who waits for it finds it closed */
    if (graceful) {
        return;
    }
    dss_asker *settled = NULL;
    pthread_mutex_lock(&waits->lock);
    for (dss_waiter *each = waits->first; each; each = each->next) {
        if (each->asker && settle_without_answer(each->asker, DSS_RELEASED)) {
            /* With the lock held, its call still holds it: see above. */
            atomic_fetch_add(&each->asker->holds, 1);
            each->asker->next = settled;
            settled = each->asker;
        }
    }
    pthread_mutex_unlock(&waits->lock);
    while (settled) {
        dss_asker *asker = settled;
        settled = asker->next;
        dss_alarm_ring(&asker->alarm, &asker->state);
        dss_asker_drop(asker);
    }
}

bool dss_asker_waits(dss_asker *asker) { return atomic_load(&asker->state) == OPEN; }

bool dss_asker_delivers(dss_asker *asker) { return asker->decode != NULL; }

bool dss_asker_decoded(dss_asker *asker) { return asker->decoded != NOT_DECODED; }

/* -- What decode has put ------------------------------------------------------------------------- */

static int put_bytes(dss_output *output, const void *bytes, size_t size) {
    dss_decoded *into = (dss_decoded *)(void *)output;
    if (!bytes && size) {
        return DSS_INVALID;
    }
    char *more = realloc(into->bytes, into->size + size + 1); /* never of 0 bytes */
    if (!more) {
        return DSS_NO_MEMORY;
    }
    if (size) {
        memcpy(more + into->size, bytes, size);
    }
    into->bytes = more;
    into->size += size;
    return DSS_OK;
}

void dss_decode_it(dss_decoded *into, dss_decode decode, void *data) {
    *into = (dss_decoded){.face = {&dss_api}};
    into->status = decode(&into->face, data);
}

/* While it is BUSY nobody else settles it. So the end, which may come meanwhile, does not release it:
   its caller looks for that afterwards. */
bool dss_asker_decode(dss_asker *asker, dss_decoded *into) {
    uint32_t state = OPEN;
    if (!atomic_compare_exchange_strong(&asker->state, &state, BUSY)) {
        return false;
    }
    dss_decode_it(into, asker->decode, asker->data);
    asker->decoded = into->status > 0 ? DECODED : into->status == 0 ? DONE : NOT_DECODED;
    state = into->status > 0 ? OPEN : into->status == 0 ? SETTLED(DSS_OK) : SETTLED(DSS_UNANSWERED);
    atomic_store(&asker->state, state);
    dss_alarm_ring(&asker->alarm, &asker->state);
    return true;
}

double dss_asker_left(dss_asker *asker) {
    double left;
    left_until(asker->deadline, &left);
    return left;
}

/* -- The functions ------------------------------------------------------------------------------- */

HOT static int put(dss_ring *ring, const dss_item *item) {
    int status = dss_ring_put(ring, item);
    if (RARE(status == DSS_CLOSED) && !dss_ring_is_fork(ring)) {
        dss_ring_count_late(ring);
    }
    return status;
}

/* What is wrong with the arguments; DSS_OK if nothing is. A closed ring comes first: no caller has
   to be right about anything after the end. */
HOT static int check(dss_ring *ring, const void *data, size_t size, bool copied) {
    int wrong = DSS_OK;
    if (!data && size) {
        wrong = DSS_INVALID;
    } else if (copied && size > dss_ring_item_size(ring)) {
        wrong = DSS_TOO_LARGE;
    }
    return wrong && (dss_ring_is_fork(ring) || dss_ring_closed(ring)) ? DSS_OK : wrong;
}

static dss_ring *ring_of(dss_sender *sender) { return (dss_ring *)(void *)sender; }

HOT static int send_copy(dss_sender *sender, const void *data, size_t size) {
    dss_ring *ring = ring_of(sender);
    int wrong = check(ring, data, size, true);
    dss_item item = {.kind = DSS_COPIED, .data = data, .size = size};
    return wrong ? wrong : put(ring, &item);
}

static int give(dss_sender *sender, void *data, size_t size, dss_free release, void *arg) {
    dss_ring *ring = ring_of(sender);
    int wrong = check(ring, data, size, false);
    dss_item item = {
        .kind = DSS_GIVEN, .data = data, .size = size, .release = release, .arg = arg
    };
    return wrong ? wrong : put(ring, &item);
}

/* Put *item*, which found no room, as soon as there is room. */
static int put_when_there_is_room(dss_ring *ring, const dss_item *item, double deadline) {
    dss_waits *waits = dss_ring_waits(ring);
    int status;
    uint32_t part = dss_ring_limit(ring) / 4, wanted = part > MANY ? MANY : part ? part : 1;
    atomic_fetch_add(&waits->want_room, 1);
    for (;;) {
        uint32_t seen = atomic_load(&waits->room); /* the word, then the note, then the try */
        leave_note(waits, wanted);
        status = dss_ring_put(ring, item); /* one that waits is released, and not late */
        if (status != DSS_FULL) {
            break;
        }
        double left;
        if (!left_until(deadline, &left)) {
            status = DSS_TIMED_OUT;
            break;
        }
        if (wanted > 1 && (left < 0 || left > FIRST_SLEEP)) {
            left = FIRST_SLEEP;
        }
        dss_sleep(&waits->room, seen, left);
        wanted = 1;
    }
    if (atomic_fetch_sub(&waits->want_room, 1) > 1) { /* others have entered before they slept */
        wake_for_room(waits, 1);
    }
    return status == DSS_CLOSED ? DSS_RELEASED : status;
}

static double deadline_after(double timeout) {
    return timeout < 0 || timeout > LONGEST ? INFINITY : dss_now() + timeout;
}

/* What the two that wait have around their wait: they stay inside of the ring, so that its bell
   lives, and cannot be cancelled. */
typedef struct {
    int error, cancelled;
} before;

static int begin_to_wait(dss_ring *ring, before *was) {
    if (dss_ring_is_fork(ring)) {
        return DSS_CLOSED;
    }
    if (!dss_ring_enter(ring)) {
        dss_ring_count_late(ring);
        dss_ring_leave(ring);
        return DSS_CLOSED;
    }
    if (dss_bell_is_home(dss_ring_bell(ring))) {
        dss_ring_leave(ring);
        return DSS_DEADLOCK;
    }
    was->error = errno;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &was->cancelled);
    return DSS_OK;
}

static void end_to_wait(dss_ring *ring, before *was) {
    dss_ring_leave(ring);
    errno = was->error;
    int disabled;
    pthread_setcancelstate(was->cancelled, &disabled);
}

static int send_wait(dss_sender *sender, const void *data, size_t size, double timeout) {
    dss_ring *ring = ring_of(sender);
    if (isnan(timeout)) {
        return DSS_INVALID;
    }
    int status = send_copy(sender, data, size);
    before was;
    if (status != DSS_FULL || (status = begin_to_wait(ring, &was))) {
        return status;
    }
    dss_item item = {.kind = DSS_COPIED, .data = data, .size = size};
    dss_waiter waiter = {.call = "dss_send_wait"};
    wait_begins(dss_ring_waits(ring), &waiter);
    status = put_when_there_is_room(ring, &item, deadline_after(timeout));
    wait_ends(dss_ring_waits(ring), &waiter);
    end_to_wait(ring, &was);
    return status;
}

/* Wait until *asker* is settled; its status, or DSS_TIMED_OUT. */
static int wait_for_answer(dss_asker *asker) {
    for (;;) {
        uint32_t state = atomic_load(&asker->state);
        if (IS_SETTLED(state)) {
            return (int)state - (int)SETTLED(0);
        }
        double left;
        if (state == BUSY) {
            left = -1; /* the answer is being copied */
        } else if (!left_until(asker->deadline, &left)) {
            if (atomic_compare_exchange_strong(&asker->state, &state, GONE)) {
                return DSS_TIMED_OUT;
            }
            continue;
        }
        dss_alarm_sleep(&asker->alarm, &asker->state, state, left);
    }
}

static int ask_and_wait(dss_ring *ring, dss_item *item) {
    dss_asker *asker = item->asker;
    dss_waiter waiter = {.call = asker->decode ? "dss_deliver" : "dss_ask", .asker = asker};
    /* It enters, and then puts: whoever closes the ring, and then releases those who are in the
       list, either finds it there or has it refused. */
    atomic_store(&asker->holds, 2); /* the call's, and the item's; from here on others add to it */
    wait_begins(dss_ring_waits(ring), &waiter);
    int status = put(ring, item);
    if (status == DSS_FULL) {
        status = put_when_there_is_room(ring, item, asker->deadline);
    }
    if (status < 0) {
        dss_asker_drop(asker); /* there is no item */
    } else {
        status = wait_for_answer(asker); /* if it was dropped, that has settled it */
    }
    wait_ends(dss_ring_waits(ring), &waiter);
    return status;
}

static int ask(
    dss_sender *sender, const void *data, size_t size, void *answer, size_t room, size_t *answered,
    double timeout
) {
    dss_ring *ring = ring_of(sender);
    if (answered) {
        *answered = 0;
    }
    if (isnan(timeout) || (!answer && room)) {
        return DSS_INVALID;
    }
    int status = check(ring, data, size, true);
    before was;
    if (status || (status = begin_to_wait(ring, &was))) {
        return status;
    }
    dss_asker *asker = new_asker();
    if (asker) {
        asker->answer = answer;
        asker->room = room;
        asker->deadline = deadline_after(timeout);
        dss_item item = {.kind = DSS_ASKED, .data = data, .size = size, .asker = asker};
        status = ask_and_wait(ring, &item);
        if (atomic_load(&asker->state) == GONE) {
            dss_bell_tell_gone(dss_ring_bell(ring)); /* the one who works on it */
        } else if (answered) {
            *answered = asker->answered;
        }
        dss_asker_drop(asker);
    } else {
        status = DSS_NO_MEMORY;
    }
    end_to_wait(ring, &was);
    return status;
}

/* Wait for the answer to what was delivered, and make its last call. */
static int deliver_and_wait(
    dss_ring *ring, dss_decode decode, dss_return on_return, void *data
) {
    before was;
    int status = begin_to_wait(ring, &was);
    if (status) {
        return status;
    }
    dss_asker *asker = new_asker();
    if (asker) {
        asker->deadline = INFINITY;
        asker->decode = decode;
        asker->data = data;
        dss_item item = {.kind = DSS_ASKED, .asker = asker};
        status = ask_and_wait(ring, &item);
        /* Settled: it was accepted, and nobody else touches what stands below. */
        if (IS_SETTLED(atomic_load(&asker->state))) {
            if (asker->decoded == NOT_DECODED) {
                decode(NULL, data);
            } else if (asker->decoded == DECODED) {
                bool here = asker->answered <= asker->room;
                on_return(status, here ? asker->answer : NULL, here ? asker->answered : 0, data);
            }
            status = DSS_OK;
        }
        dss_asker_drop(asker);
    } else {
        status = DSS_NO_MEMORY;
    }
    end_to_wait(ring, &was);
    return status;
}

static int deliver(dss_sender *sender, dss_decode decode, dss_return on_return, void *data) {
    dss_ring *ring = ring_of(sender);
    if (!decode) {
        return DSS_INVALID;
    }
    if (on_return) {
        return deliver_and_wait(ring, decode, on_return, data);
    }
    dss_item item = {.kind = DSS_DELIVERED, .data = data, .decode = decode};
    return put(ring, &item);
}

static dss_sender *hold(dss_sender *sender) {
    dss_ring_hold(ring_of(sender));
    return sender;
}

static void release(dss_sender *sender) {
    dss_ring_drop(ring_of(sender));
}

const dss_api_2_0 dss_api = {
    sizeof(dss_api), send_copy, send_wait, give, ask, hold, release, deliver, put_bytes,
};
