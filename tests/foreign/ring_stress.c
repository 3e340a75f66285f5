/* The ring, its bell and its waits alone, without Python: for tests/test_native_ring.py, which
   compiles this with them, plain, with ThreadSanitizer and with AddressSanitizer.

       ring_stress NAME [SEED]     0 if all books agree */

#include <string.h>

/* What is called once when ring.c copies something next: another call that comes in between. */
static void (*in_between)(void);

static void *copy_and_look_up(void *to, const void *from, unsigned long size) {
    void (*interrupt)(void) = in_between;
    if (interrupt) {
        in_between = NULL;
        interrupt();
    }
    return memcpy(to, from, size);
}

/* And once, after an atomic subtraction of bell.c, or before a swap without a comparison. */
static void (*at_a_step)(void);

static void look_up(void) {
    void (*interrupt)(void) = at_a_step;
    if (interrupt) {
        at_a_step = NULL;
        interrupt();
    }
}

/* Both with what they keep to themselves, so that a test can stand between their steps. */
#include <stdatomic.h>
#undef atomic_exchange
#define atomic_exchange(where, value)                                                              \
    (look_up(), atomic_exchange_explicit(where, value, memory_order_seq_cst))
#define memcpy copy_and_look_up
#include "ring.c"
#undef memcpy
#undef atomic_fetch_sub
#define atomic_fetch_sub(where, less)                                                              \
    ({                                                                                             \
        __auto_type was = atomic_fetch_sub_explicit(where, less, memory_order_seq_cst);            \
        look_up();                                                                                 \
        was;                                                                                       \
    })
#include "bell.c"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK(what)                                                                                \
    do {                                                                                           \
        if (!(what)) {                                                                             \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what);                   \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#define MOST 8
#ifndef ITEMS
#define ITEMS 20000
#endif

typedef struct {
    uint32_t thread, number;
} record;

static dss_bell *bell;
static dss_ring *ring;
static dss_sender *sender;
static int readable;
static unsigned seed = 1;
static atomic_long accepted[MOST], dropped_calls, received[MOST], released;
static atomic_bool all_sent;

static void begin(uint32_t limit, int policy) {
    bell = dss_bell_new();
    CHECK(dss_bell_open(bell, &readable));
    ring = dss_ring_new(bell, &dss_api, limit, 64, policy);
    sender = (dss_sender *)(void *)ring;
}

static void nap(long nanoseconds) {
    struct timespec pause = {0, nanoseconds};
    nanosleep(&pause, NULL);
}

static unsigned random_below(unsigned *state, unsigned most) { return rand_r(state) % most; }

/* -- Putting -------------------------------------------------------------------------------------- */

static void release(void *data, void *arg) {
    (void)arg;
    free(data);
    released++;
}

static int way; /* 0: send, and again while it is full; 1: send_wait; 2: give */

static void *put_all(void *arg) {
    uint32_t me = (uint32_t)(uintptr_t)arg;
    for (uint32_t number = 0; number < ITEMS; number++) {
        record what = {me, number};
        int status;
        do {
            if (way == 1) {
                status = dss_send_wait(sender, &what, sizeof(what), -1);
            } else if (way == 2) {
                record *copy = malloc(sizeof(*copy));
                *copy = what;
                status = dss_give(sender, copy, sizeof(*copy), release, NULL);
                if (status < 0) {
                    free(copy);
                }
            } else {
                status = dss_send(sender, &what, sizeof(what));
            }
            if (status == DSS_FULL) {
                nap(1000);
            }
        } while (status == DSS_FULL);
        if (status == DSS_CLOSED || status == DSS_RELEASED) {
            break;
        }
        CHECK(status == DSS_OK || status == DSS_DROPPED);
        accepted[me]++;
        dropped_calls += status == DSS_DROPPED;
    }
    return NULL;
}

/* -- Taking --------------------------------------------------------------------------------------- */

static long take(long *last_of, long most) {
    dss_taking taking = {0};
    dss_look look;
    long taken = 0;
    while (taken < most && dss_ring_look(ring, &taking, &look)) {
        if (!dss_ring_claim(ring, &taking, &look)) {
            continue;
        }
        record what;
        memcpy(&what, look.item.data, sizeof(what));
        CHECK(look.item.size == sizeof(what));
        CHECK(what.thread < MOST);
        CHECK((long)what.number > last_of[what.thread]); /* in each thread's order */
        last_of[what.thread] = what.number;
        if (look.item.kind == DSS_GIVEN) {
            look.item.release((void *)(uintptr_t)look.item.data, look.item.arg);
        }
        received[what.thread]++;
        taken++;
    }
    dss_ring_hand_over(ring, &taking);
    return taken;
}

static void *take_all(void *arg) {
    long last_of[MOST];
    unsigned state = seed + (unsigned)(uintptr_t)arg;
    for (int each = 0; each < MOST; each++) {
        last_of[each] = -1;
    }
    while (!all_sent || dss_ring_count(ring)) {
        if (!take(last_of, 1 + random_below(&state, 20))) {
            nap(1000);
        }
    }
    return NULL;
}

static void run(int putters, int takers, void *(*put)(void *), void *(*taker)(void *)) {
    pthread_t threads[2 * MOST];
    all_sent = false;
    for (int each = 0; each < putters + takers; each++) {
        pthread_create(
            &threads[each], NULL, each < putters ? put : taker,
            (void *)(uintptr_t)(each < putters ? each : each - putters)
        );
    }
    for (int each = 0; each < putters; each++) {
        pthread_join(threads[each], NULL);
    }
    all_sent = true;
    for (int each = putters; each < putters + takers; each++) {
        pthread_join(threads[each], NULL);
    }
}

static void agree(int threads) {
    long put = 0, got = 0;
    for (int each = 0; each < threads; each++) {
        put += accepted[each];
        got += received[each];
    }
    dss_counts counts = dss_ring_counts(ring);
    CHECK(counts.queued == 0);
    CHECK(put == got + (long)counts.dropped);
}

static void through(uint32_t limit, int policy, int takers) {
    begin(limit, policy);
    run(4, takers, put_all, take_all);
    agree(4);
    if (policy == DSS_BLOCK) {
        CHECK(received[0] == ITEMS && received[1] == ITEMS);
    }
}

/* -- Sleeping: no wake is lost -------------------------------------------------------------------- */

static void *sleep_and_take(void *arg) {
    (void)arg;
    long last_of[MOST] = {-1, -1, -1, -1, -1, -1, -1, -1};
    long taken = 0;
    while (taken < 4L * ITEMS) {
        dss_bell_arm(bell);
        if (!dss_ring_count(ring)) {
            struct pollfd wait = {readable, POLLIN, 0};
            CHECK(poll(&wait, 1, 20000) == 1); /* else a wake was lost */
            dss_bell_clear(readable);
        }
        taken += take(last_of, 1000);
    }
    return NULL;
}

/* -- Closing: what was accepted is before it ------------------------------------------------------ */

static void *close_soon(void *arg) {
    unsigned state = seed + (unsigned)(uintptr_t)arg;
    nap(1 + random_below(&state, 300000));
    dss_ring_close(ring);
    dss_waits_release(ring, true);
    return NULL;
}

static void *put_until_it_is_closed(void *arg) {
    record what = {(uint32_t)(uintptr_t)arg, 0};
    while (dss_send(sender, &what, sizeof(what)) != DSS_CLOSED) {
        what.number++;
    }
    return NULL;
}

/* With more threads than processors, some always stand still in the middle of a send. */
static void close_in_the_middle(void) {
    for (int turn = 0; turn < 100; turn++) {
        seed++;
        begin(64, DSS_DROP_OLDEST);
        pthread_t threads[6];
        for (int each = 0; each < 6; each++) {
            pthread_create(&threads[each], NULL, put_until_it_is_closed, (void *)(uintptr_t)each);
        }
        close_soon(NULL);
        dss_counts before = dss_ring_counts(ring);
        for (int each = 0; each < 6; each++) {
            pthread_join(threads[each], NULL);
        }
        /* One that was about to put may have dropped the oldest before it was refused. */
        dss_counts after = dss_ring_counts(ring);
        CHECK(after.queued + after.dropped <= before.queued + before.dropped + 6);
        CHECK(after.queued <= before.queued);
        dss_ring_drop(ring);
        dss_bell_drop(bell);
    }
}

static void close_between(void) {
    for (int turn = 0; turn < 60; turn++) {
        way = turn % 2;
        seed++;
        memset((void *)accepted, 0, sizeof(accepted));
        memset((void *)received, 0, sizeof(received));
        begin(turn % 3 ? 16 : 1 << 16, DSS_BLOCK);
        pthread_t threads[6];
        for (int each = 0; each < 4; each++) {
            pthread_create(&threads[each], NULL, put_all, (void *)(uintptr_t)each);
        }
        pthread_create(&threads[4], NULL, close_soon, NULL);
        pthread_create(&threads[5], NULL, close_soon, (void *)1);
        pthread_join(threads[4], NULL);
        pthread_join(threads[5], NULL);
        /* From here on nothing is accepted, whatever was under way. */
        uint64_t there = dss_ring_count(ring);
        for (int each = 0; each < 4; each++) {
            pthread_join(threads[each], NULL);
        }
        CHECK(dss_ring_count(ring) == there);
        long last_of[MOST] = {-1, -1, -1, -1, -1, -1, -1, -1};
        take(last_of, 1 << 20);
        agree(4);
        dss_ring_drop(ring);
        dss_bell_drop(bell);
    }
}

/* -- Its memory goes while threads are inside ----------------------------------------------------- */

static void *put_until_closed(void *arg) {
    record what = {0, 0};
    while (dss_send(arg, &what, sizeof(what)) != DSS_CLOSED) {
    }
    for (int late = 0; late < 100; late++) {
        CHECK(dss_send(arg, &what, sizeof(what)) == DSS_CLOSED);
        CHECK(dss_send_wait(arg, &what, sizeof(what), 1) == DSS_CLOSED);
    }
    dss_release(dss_hold(arg));
    return NULL;
}

static void free_under_them(void) {
    unsigned state = seed;
    for (int turn = 0; turn < 200; turn++) {
        begin(4, turn % 2 ? DSS_DROP_OLDEST : DSS_BLOCK);
        pthread_t threads[3];
        for (int each = 0; each < 3; each++) {
            pthread_create(&threads[each], NULL, put_until_closed, sender);
        }
        nap(1 + random_below(&state, 50000));
        dss_ring_close(ring);
        dss_bell_drop(bell);
        dss_ring_drop(ring);
        for (int each = 0; each < 3; each++) {
            pthread_join(threads[each], NULL);
        }
    }
}

/* -- Asking: answered, timed out or released, and nothing is written to who has gone --------------- */

static bool asks_wait_for_ever;
static atomic_long asked, answered, timed_out, released_asks, late_asks;

static void *ask_all(void *arg) {
    unsigned state = seed + (unsigned)(uintptr_t)arg;
    for (uint32_t number = 0; number < 2000; number++) {
        record what = {(uint32_t)(uintptr_t)arg, number}, answer = {0, 0};
        size_t size = 0;
        double timeout = asks_wait_for_ever || random_below(&state, 3) ? -1 : random_below(&state, 100) * 1e-6;
        int status = dss_ask(sender, &what, sizeof(what), &answer, sizeof(answer), &size, timeout);
        asked++;
        if (status == DSS_OK) {
            CHECK(size == sizeof(what) && answer.thread == what.thread);
            CHECK(answer.number == what.number);
            answered++;
        } else if (status == DSS_TIMED_OUT) {
            timed_out++;
        } else {
            CHECK(status == DSS_RELEASED || status == DSS_CLOSED);
            released_asks++;
            late_asks += status == DSS_CLOSED;
            break;
        }
        memset(&answer, 0xff, sizeof(answer)); /* who writes here now writes where nobody waits */
    }
    return NULL;
}

static void *answer_all(void *arg) {
    (void)arg;
    dss_taking taking = {0};
    dss_look look;
    while (!all_sent || dss_ring_count(ring)) {
        if (!dss_ring_look(ring, &taking, &look)) {
            nap(1000);
            continue;
        }
        if (!dss_ring_claim(ring, &taking, &look)) {
            continue;
        }
        record what;
        memcpy(&what, look.item.data, sizeof(what));
        dss_asker *asker = look.item.asker;
        dss_ring_hand_over(ring, &taking);
        dss_asker_settle(asker, DSS_OK, &what, sizeof(what));
        CHECK(!dss_asker_settle(asker, DSS_REFUSED, NULL, 0)); /* once */
        dss_asker_drop(asker);
    }
    return NULL;
}

static void *close_asks(void *arg) {
    while (arg && asked < 3000) {
        nap(100000);
    }
    nap(arg ? 1 : 50000000);
    dss_ring_close(ring);
    dss_waits_release(ring, false);
    return NULL;
}

static void send_in_handler(int number) {
    (void)number;
    record what = {0, 0};
    CHECK(dss_send(sender, &what, sizeof(what)) >= 0);
}

static void *ask_and_be_dropped(void *arg) {
    (void)arg;
    record what = {0, 0}, answer;
    for (int number = 0; number < ITEMS; number++) {
        int status = dss_ask(sender, &what, sizeof(what), &answer, sizeof(answer), NULL, -1);
        CHECK(status == DSS_UNANSWERED);
    }
    asked++;
    return NULL;
}

/* Whatever an asker is interrupted in, the handler sends, which drops an ask, and so wakes one. */
static void ask_under_signals(void) {
    begin(1, DSS_DROP_OLDEST);
    struct sigaction action = {.sa_handler = send_in_handler};
    sigaction(SIGUSR1, &action, NULL);
    pthread_t threads[3];
    for (int each = 0; each < 3; each++) {
        pthread_create(&threads[each], NULL, ask_and_be_dropped, NULL);
    }
    while (asked < 3) {
        for (int each = 0; each < 3; each++) {
            pthread_kill(threads[each], SIGUSR1);
        }
        sched_yield();
    }
    for (int each = 0; each < 3; each++) {
        pthread_join(threads[each], NULL);
    }
}

static void *ask_once(void *arg) {
    record what = {0, 0}, answer;
    nap(1 + random_below(&(unsigned){seed + (unsigned)(uintptr_t)arg}, 20000));
    int status = dss_ask(sender, &what, sizeof(what), &answer, sizeof(answer), NULL, -1);
    CHECK(status == DSS_RELEASED || status == DSS_CLOSED);
    return NULL;
}

/* Some are released as they begin to wait; their memory is freed while others begin. */
static void release_who_comes(void) {
    for (int turn = 0; turn < 500; turn++) {
        seed += 7;
        begin(4, DSS_BLOCK);
        pthread_t threads[6];
        for (int each = 0; each < 6; each++) {
            pthread_create(&threads[each], NULL, ask_once, (void *)(uintptr_t)each);
        }
        nap(1 + random_below(&(unsigned){seed}, 20000));
        dss_ring_close(ring);
        for (int again = 0; again < 20; again++) {
            dss_waits_release(ring, false); /* the first one might not meet them */
        }
        dss_taking taking = {0};
        dss_look look;
        while (dss_ring_look(ring, &taking, &look)) {
            if (dss_ring_claim(ring, &taking, &look)) {
                dss_asker_drop(look.item.asker);
            }
        }
        dss_ring_hand_over(ring, &taking);
        for (int each = 0; each < 6; each++) {
            pthread_join(threads[each], NULL);
        }
        dss_ring_drop(ring);
        dss_bell_drop(bell);
    }
}

/* -- One thing at a time -------------------------------------------------------------------------- */

static bool is_readable(int fd) {
    struct pollfd wait = {fd, POLLIN, 0};
    return poll(&wait, 1, 0) == 1;
}

static void bound(void) {
    record what = {0, 0};
    long last_of[MOST] = {-1, -1, -1, -1, -1, -1, -1, -1};
    for (uint32_t limit = 1; limit < 40; limit++) {
        begin(limit, DSS_BLOCK);
        last_of[0] = -1;
        for (uint32_t room = limit, turn = 0; turn < 200; turn++, room = 1 + turn % limit) {
            for (uint32_t put = 0; put < room; put++, what.number++) {
                CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
            }
            CHECK(dss_send(sender, &what, sizeof(what)) == DSS_FULL);
            CHECK(dss_ring_count(ring) == limit);
            CHECK(take(last_of, 1 + (turn + 1) % limit) == 1 + (turn + 1) % limit);
        }
        what.number = 0;
    }
}

/* -- What is dropped ------------------------------------------------------------------------------ */

static uintptr_t newest;

/* One thread sends, and so runs all releases. If the queue was full when the oldest was dropped, it
   held all those of the last numbers. */
static void release_number(void *data, void *limit) {
    CHECK((uintptr_t)data == newest - (uintptr_t)limit);
}

static void *take_and_forget(void *arg) {
    (void)arg;
    while (!all_sent) {
        dss_taking taking = {0};
        dss_look look;
        if (dss_ring_look(ring, &taking, &look) && dss_ring_claim(ring, &taking, &look)) {
            dss_ring_hand_over(ring, &taking);
        }
    }
    return NULL;
}

/* However fast another one takes. */
static void the_newest_stays(uint32_t limit) {
    begin(limit, DSS_DROP_OLDEST);
    all_sent = false;
    pthread_t taker;
    pthread_create(&taker, NULL, take_and_forget, NULL);
    for (newest = 1; newest <= 150L * ITEMS; newest++) {
        void *arg = (void *)(uintptr_t)limit;
        CHECK(dss_give(sender, (void *)newest, 1, release_number, arg) >= 0);
    }
    all_sent = true;
    pthread_join(taker, NULL);
}

/* An item was claimed, and the head stands still: there is room, by each policy. */
static void claimed_only(void) {
    record what = {0, 0};
    for (int policy = DSS_BLOCK; policy <= DSS_DROP_OLDEST; policy++) {
        for (uint32_t limit = 1; limit < 4; limit++) {
            begin(limit, policy);
            for (uint32_t put = 0; put < limit; put++) {
                CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
            }
            dss_taking taking = {0};
            dss_look look;
            CHECK(dss_ring_look(ring, &taking, &look));
            CHECK(atomic_exchange(slot_of(ring, 0), word_after(ring, 0)) == look.word);
            CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
            CHECK(dss_ring_counts(ring).dropped == 0);
            int status = dss_send(sender, &what, sizeof(what));
            CHECK(status == (policy == DSS_BLOCK ? DSS_FULL : DSS_DROPPED));
            CHECK(dss_ring_count(ring) == limit);
        }
    }
}

/* All cells are in the hands of threads that do not get on: whoever comes does not wait for them. */
static void no_cell(void) {
    record what = {0, 0};
    uint32_t number;
    for (int policy = DSS_BLOCK; policy <= DSS_DROP_OLDEST; policy++) {
        begin(2, policy);
        CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
        while (take_cell(ring, &number)) {
        }
        int status = dss_send(sender, &what, sizeof(what));
        CHECK(status == (policy == DSS_BLOCK ? DSS_FULL : DSS_DROPPED));
        CHECK(dss_ring_count(ring) == 1);
        dss_taking taking = {0};
        dss_look look;
        CHECK(dss_ring_look(ring, &taking, &look) && dss_ring_claim(ring, &taking, &look));
        /* and stands still */
        CHECK(dss_send(sender, &what, sizeof(what)) == status);
        CHECK(dss_ring_count(ring) == 0);
    }
}

static long free_cells(void) {
    long many = 0;
    for (uint32_t number = 0; number < ring->cell_count; number++) {
        many += !cell_of(ring, number)->taken;
    }
    return many;
}

static void look_at_the_cells(void) { CHECK(free_cells() == 2 + SPARE - 2); }

/* Another one takes the only free cell, and one becomes free that was passed. */
static void others_get_on(void) {
    CHECK(dss_give(sender, "", 0, NULL, NULL) == DSS_OK);
    give_back_cell(ring, 0);
}

/* There is always a free cell, and one who looks for it meets none: it looks again. */
static void a_cell_behind(void) {
    uint32_t number;
    begin(2, DSS_BLOCK);
    while (take_cell(ring, &number)) {
    }
    give_back_cell(ring, ring->cell_count - 1);
    at_a_step = others_get_on; /* when it has come to the last cell */
    CHECK(dss_give(sender, "", 0, NULL, NULL) == DSS_OK);
    CHECK(!at_a_step && dss_ring_count(ring) == 2);
}

static void take_the_last_place(void) {
    CHECK(dss_give(sender, "", 0, NULL, NULL) == DSS_OK);
    in_between = look_at_the_cells; /* when the other one has claimed the oldest */
}

/* A put that loses its place to another one, and then drops the oldest item, has one cell all the time.
   (With two, killed threads would cost two each.) */
static void one_cell_each(void) {
    begin(2, DSS_DROP_OLDEST);
    CHECK(dss_give(sender, "", 0, NULL, NULL) == DSS_OK);
    in_between = take_the_last_place;
    CHECK(dss_give(sender, "", 0, NULL, NULL) == DSS_DROPPED);
    CHECK(!in_between); /* both were called */
    look_at_the_cells();
}

static void release_looks(void *data, void *next) {
    dss_taking taking = {0};
    dss_look look;
    CHECK(dss_ring_look(ring, &taking, &look));
    CHECK(look.item.data == next && next != data);
    released++;
}

/* What a policy drops is released when the item that has its place is there. */
static void released_after_the_put(void) {
    static char items[100];
    begin(1, DSS_DROP_OLDEST);
    for (int each = 0; each < 99; each++) {
        int status = dss_give(sender, &items[each], 1, release_looks, &items[each + 1]);
        CHECK(status == (each ? DSS_DROPPED : DSS_OK));
    }
    CHECK(released == 98);
}

/* -- Looking while others put and take ------------------------------------------------------------- */

static void *put_both_kinds(void *arg) {
    (void)arg;
    record what = {0, 0};
    while (!all_sent) {
        dss_send(sender, &what, sizeof(what));
        dss_give(sender, &what, (size_t)1 << 40, NULL, NULL);
    }
    return NULL;
}

/* Whoever makes room for an item before the claim is never asked for more than an item can have. */
static void no_size_of_two_items(void) {
    begin(1, DSS_DROP_OLDEST);
    all_sent = false;
    pthread_t putters[2];
    for (int each = 0; each < 2; each++) {
        pthread_create(&putters[each], NULL, put_both_kinds, NULL);
    }
    dss_taking taking = {0};
    dss_look look;
    for (int looks = 0; looks < 2000 * ITEMS; looks++) {
        if (dss_ring_look(ring, &taking, &look)) {
            CHECK(look.item.kind == DSS_GIVEN || look.item.size <= 64);
        }
    }
    all_sent = true;
    for (int each = 0; each < 2; each++) {
        pthread_join(putters[each], NULL);
    }
}

static void *count_all(void *arg) {
    (void)arg;
    while (!all_sent) {
        CHECK(dss_ring_count(ring) <= 2);
    }
    return NULL;
}

static void the_count_is_within_the_limit(void) {
    begin(2, DSS_DROP_OLDEST);
    all_sent = false;
    pthread_t others[4]; /* more than processors: some stand still in the middle of a count */
    for (int each = 0; each < 4; each++) {
        pthread_create(&others[each], NULL, each ? count_all : take_and_forget, NULL);
    }
    record what = {0, 0};
    for (int each = 0; each < 60 * ITEMS; each++) {
        dss_send(sender, &what, sizeof(what));
    }
    all_sent = true;
    for (int each = 0; each < 4; each++) {
        pthread_join(others[each], NULL);
    }
}

/* -- One thing at a time, again ------------------------------------------------------------------- */

static void keep_errno(void) {
    int pair[2];
    record what = {0, 0};
    begin(8, DSS_BLOCK);
    CHECK(!socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    CHECK(dss_bell_connect(bell, 1, pair[0]));
    close(pair[1]);
    dss_bell_arm(bell);
    errno = 77;
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_NOT_NOTIFIED);
    CHECK(errno == 77);
    CHECK(dss_bell_failures(bell) == 1);
}

static void closed_descriptor(void) {
    int pipes[2];
    record what = {0, 0};
    begin(8, DSS_BLOCK);
    dss_bell_arm(bell);
    CHECK(!pipe(pipes));
    dss_bell_close(bell);
    CHECK(dup2(pipes[1], readable) == readable); /* another file has its number now */
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
    CHECK(!is_readable(pipes[0]));
}

/* A second one begins to write when the first one has just left; then it is closed. */
static void write_and_close(void) {
    outlet *out = bell->outlets[0];
    atomic_fetch_add(&out->writers, 1);
    CHECK(out->open);
    dss_bell_close(bell);
}

static void closed_between_two(void) {
    begin(8, DSS_BLOCK);
    outlet *out = bell->outlets[0];
    int fd = out->fd;
    at_a_step = write_and_close;
    dss_bell_tell_gone(bell);
    CHECK(fcntl(fd, F_GETFD) >= 0); /* the second one is about to write to it */
    leave_outlet(out);
    CHECK(fcntl(fd, F_GETFD) < 0);
}

static void *wait_for_room(void *arg) {
    (void)arg;
    record what = {0, 0};
    dss_send_wait(sender, &what, sizeof(what), -1);
    return NULL;
}

typedef struct {
    bool asks, asynchronous;
    int status;
    pthread_t thread;
} call;

static void *call_and_be_cancelled(void *arg) {
    call *it = arg;
    record what = {0, 0}, answer;
    int before;
    pthread_setcanceltype(
        it->asynchronous ? PTHREAD_CANCEL_ASYNCHRONOUS : PTHREAD_CANCEL_DEFERRED, &before
    );
    it->status = it->asks ? dss_ask(sender, &what, sizeof(what), &answer, sizeof(answer), NULL, -1)
                          : dss_send_wait(sender, &what, sizeof(what), -1);
    pthread_testcancel();
    it->status = 1000;
    return NULL;
}

static int who_wait(void) {
    dss_waits *waits = dss_ring_waits(ring);
    int many = 0;
    pthread_mutex_lock(&waits->lock);
    for (dss_waiter *each = waits->first; each; each = each->next) {
        many++;
    }
    pthread_mutex_unlock(&waits->lock);
    return many;
}

/* Threads that wait are cancelled, and are served all the same: each call ends, and then the thread.
   Elsewhere than on Linux they wait in functions that are points of cancellation. */
static void cancelled(bool asks, bool asynchronous) {
    record what = {1, 0};
    call calls[4];
    begin(2, DSS_BLOCK);
    while (!asks && dss_send(sender, &what, sizeof(what)) == DSS_OK) {
    }
    for (int each = 0; each < 4; each++) {
        calls[each] = (call){asks, asynchronous, 1, 0};
        pthread_create(&calls[each].thread, NULL, call_and_be_cancelled, &calls[each]);
    }
    while (who_wait() < 4) {
        nap(10000);
    }
    nap(10000000); /* they sleep by now; if not, this tries less than it could */
    for (int each = 0; each < 4; each++) {
        pthread_cancel(calls[each].thread);
    }
    dss_taking taking = {0};
    dss_look look;
    for (int taken = 0; taken < (asks ? 4 : 6); nap(10000)) {
        if (dss_ring_look(ring, &taking, &look) && dss_ring_claim(ring, &taking, &look)) {
            dss_asker *asker = look.item.asker;
            dss_ring_hand_over(ring, &taking);
            if (asker) {
                CHECK(dss_asker_settle(asker, DSS_OK, "x", 1));
                dss_asker_drop(asker);
            }
            taken++;
        }
    }
    for (int each = 0; each < 4; each++) {
        pthread_join(calls[each].thread, NULL);
        CHECK(calls[each].status == DSS_OK || (asynchronous && calls[each].status == 1));
    }
    CHECK(who_wait() == 0);
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_FULL); /* the bound is what it was */
}

static void *send_a_hundred(void *arg) {
    (void)arg;
    record what = {0, 0};
    for (int each = 0; each < 100; each++) {
        CHECK(dss_send_wait(sender, &what, sizeof(what), -1) == DSS_OK);
    }
    return NULL;
}

/* While a thread of the parent waits for room, a child uses a ring of its own. */
static void room_in_a_fork(void) {
    record what = {0, 0};
    pthread_t thread;
    begin(1, DSS_BLOCK);
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
    pthread_create(&thread, NULL, wait_for_room, NULL);
    while (!atomic_load(&dss_ring_waits(ring)->asleep)) {
    }
    nap(20000000); /* it sleeps by now; if not, this tries less than it could */
    pid_t child = fork();
    if (!child) {
        alarm(20);
        dss_taking taking = {0};
        dss_look look;
        begin(1, DSS_BLOCK);
        pthread_create(&thread, NULL, send_a_hundred, NULL);
        for (int taken = 0; taken < 100; nap(10000)) {
            taken += dss_ring_look(ring, &taking, &look) && dss_ring_claim(ring, &taking, &look);
            dss_ring_hand_over(ring, &taking);
        }
        pthread_join(thread, NULL);
        dss_ring_close(ring);
        dss_waits_release(ring, false);
        _exit(0);
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    dss_ring_close(ring);
    dss_waits_release(ring, false);
    pthread_join(thread, NULL);
}

static void in_a_fork(void) {
    record what = {0, 0};
    begin(8, DSS_BLOCK);
    CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
    dss_bell_clear(readable);
    dss_bell_arm(bell);
    pthread_mutex_lock(&dss_ring_waits(ring)->lock); /* as another thread may have it just then */
    pid_t child = fork();
    if (!child) {
        alarm(10);
        char answer;
        size_t size;
        _exit(
            dss_send(sender, &what, sizeof(what)) != DSS_CLOSED ||
            dss_send_wait(sender, &what, sizeof(what), -1) != DSS_CLOSED ||
            dss_give(sender, &what, sizeof(what), NULL, NULL) != DSS_CLOSED ||
            dss_ask(sender, &what, sizeof(what), &answer, 1, &size, -1) != DSS_CLOSED
        );
    }
    int status = -1;
    waitpid(child, &status, 0);
    CHECK(status == 0);
    CHECK(!is_readable(readable)); /* the descriptor is the parent's as well */
    CHECK(dss_ring_count(ring) == 1);
}

static void *send_for_ever(void *arg) {
    record what = {0, 0};
    int before;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    *(atomic_bool *)arg = true;
    for (;;) {
        dss_send(sender, &what, sizeof(what));
    }
    return NULL;
}

/* A thread is killed where it stands, in its first sends. Whatever it has left behind, the next item
   is put, and wakes. */
/* Each send finds the flag up, and the descriptor not readable: so it is struck in a wake as often as
   in the put. (Armed first and cleared then: wherever it is struck between two sends, either the flag
   is up or the descriptor is readable.) */
static void *wake_for_ever(void *arg) {
    record what = {0, 0};
    int before;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    *(atomic_bool *)arg = true;
    for (;;) {
        dss_bell_arm(bell);
        dss_bell_clear(readable);
        dss_send(sender, &what, sizeof(what));
    }
    return NULL;
}

static void killed(void) {
    record what = {1, 0};
    for (int turn = 0; turn < 8000; turn++) {
        if (turn % 50 == 0) {
            begin(64, DSS_BLOCK); /* its spare cells are those of 63 that were killed */
        }
        dss_bell_clear(readable);
        dss_bell_arm(bell);
        atomic_bool begun = false;
        pthread_t thread;
        pthread_create(&thread, NULL, turn % 20 ? wake_for_ever : send_for_ever, &begun);
        while (!begun) {
        }
        for (volatile int spin = 0; spin < (turn * 7) % 300; spin++) {
        }
        pthread_cancel(thread);
        pthread_join(thread, NULL);
        dss_taking taking = {0};
        dss_look look;
        /* Make room. (It may be full with 63 by the count: if the thread was killed between the swap
           and the move of the tail, its item is there, and the next put moves the tail.) */
        while (dss_ring_count(ring) >= 63 && dss_ring_look(ring, &taking, &look)) {
            if (dss_ring_claim(ring, &taking, &look)) {
                dss_ring_hand_over(ring, &taking);
            }
        }
        CHECK(dss_send(sender, &what, sizeof(what)) == DSS_OK);
        CHECK(is_readable(readable)); /* of the one that was killed, or of this one */
        bool found = false;
        while (dss_ring_look(ring, &taking, &look)) {
            if (dss_ring_claim(ring, &taking, &look)) {
                found = !memcmp(look.item.data, &what, sizeof(what));
            }
        }
        dss_ring_hand_over(ring, &taking);
        CHECK(found); /* the last one */
    }
}

int main(int count, char **arguments) {
    const char *name = count > 1 ? arguments[1] : "";
    alarm(30); /* whoever waits for ever is not waited for */
    seed = count > 2 ? (unsigned)atoi(arguments[2]) : 1;
    if (!strcmp(name, "one_taker")) {
        through(64, DSS_BLOCK, 1);
    } else if (!strcmp(name, "many_takers")) {
        through(5, DSS_BLOCK, 3);
    } else if (!strcmp(name, "release")) {
        begin(2, DSS_BLOCK); /* two wait for an answer, two for room */
        pthread_t closer;
        pthread_create(&closer, NULL, close_asks, NULL);
        seed = 1;
        asks_wait_for_ever = true;
        run(4, 0, ask_all, NULL);
        pthread_join(closer, NULL);
        CHECK(asked == 4 && released_asks == 4);
        CHECK((long)dss_ring_counts(ring).late == late_asks); /* who is released is not late */
    } else if (!strcmp(name, "bound")) {
        bound();
    } else if (!strcmp(name, "newest")) {
        the_newest_stays(1);
        the_newest_stays(2);
    } else if (!strcmp(name, "claimed")) {
        claimed_only();
    } else if (!strcmp(name, "no_cell")) {
        no_cell();
    } else if (!strcmp(name, "a_cell_behind")) {
        a_cell_behind();
    } else if (!strcmp(name, "one_cell_each")) {
        one_cell_each();
    } else if (!strcmp(name, "closed_between_two")) {
        closed_between_two();
    } else if (!strcmp(name, "room_in_a_fork")) {
        room_in_a_fork();
    } else if (!strcmp(name, "cancelled")) {
        for (int turn = 0; turn < 8; turn++) {
            cancelled(turn & 1, turn & 2);
        }
    } else if (!strcmp(name, "release_order")) {
        released_after_the_put();
    } else if (!strcmp(name, "sizes")) {
        no_size_of_two_items();
    } else if (!strcmp(name, "count")) {
        the_count_is_within_the_limit();
    } else if (!strcmp(name, "errno")) {
        keep_errno();
    } else if (!strcmp(name, "closed_descriptor")) {
        closed_descriptor();
    } else if (!strcmp(name, "fork")) {
        in_a_fork();
    } else if (!strcmp(name, "killed")) {
        killed();
    } else if (!strcmp(name, "one_place")) {
        through(1, DSS_BLOCK, 2);
    } else if (!strcmp(name, "wait")) {
        way = 1;
        through(2, DSS_BLOCK, 1);
    } else if (!strcmp(name, "drop_newest")) {
        through(16, DSS_DROP_NEWEST, 1);
    } else if (!strcmp(name, "drop_oldest")) {
        through(16, DSS_DROP_OLDEST, 2);
    } else if (!strcmp(name, "give")) {
        way = 2;
        through(16, DSS_DROP_OLDEST, 1);
        CHECK(released == 4L * ITEMS);
    } else if (!strcmp(name, "sleep")) {
        way = 1;
        begin(8, DSS_BLOCK);
        run(4, 1, put_all, sleep_and_take);
        agree(4);
    } else if (!strcmp(name, "close")) {
        close_between();
        close_in_the_middle();
    } else if (!strcmp(name, "free")) {
        free_under_them();
    } else if (!strcmp(name, "ask")) {
        begin(4, DSS_BLOCK);
        run(4, 2, ask_all, answer_all);
        CHECK(asked == 8000 && answered + timed_out == 8000);
    } else if (!strcmp(name, "ask_and_signals")) {
        ask_under_signals();
    } else if (!strcmp(name, "ask_at_the_end")) {
        release_who_comes();
    } else if (!strcmp(name, "ask_and_close")) {
        begin(4, DSS_BLOCK);
        pthread_t closer;
        pthread_create(&closer, NULL, close_asks, sender);
        run(4, 1, ask_all, answer_all);
        pthread_join(closer, NULL);
        CHECK(released_asks == 4);
    } else {
        return 2;
    }
    puts("all books agree");
    return 0;
}
