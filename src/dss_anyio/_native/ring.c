/* A bounded queue that any thread may put into at any instant, and that cannot be left half-done.

   How it works. Items lie in cells. A free cell is taken, filled while nobody else sees it, and then
   its number is put into the slot at the tail, with one compare-and-swap: this is the instant at
   which the item is accepted. An item is taken by one compare-and-swap on the slot at the
   head. Tail and head only say where to look; whoever finds one that lags behind moves it on.

   A slot has a round in its upper half and what it holds in its lower one:

       (r, 0)      it is empty, and waits for the item of round r
       (r, n + 1)  the item of round r is in cell n
       (r, LAST)   the queue was closed here: no item of round r, and none of a later position

   Position p belongs to slot p % size, in round p / size. A claim makes (r, n + 1) to (r + 1, 0).

   Invariants:

   1. head <= tail <= head + limit. Every position from head to tail is filled, but for one at the
      end whose putter has not moved the tail yet; and those at the beginning that were claimed by one
      who has not moved the head yet (who takes many moves it once for all of them).
   2. A cell is free, or in one of three hands: a putter's, a slot's, a taker's.
   3. Once LAST is in a slot, nothing is accepted any more; everything that was accepted is before it.

   Why no item is seen half-written: it is written before its number is in a slot.

   Why whoever is killed costs nothing but its own item: before the swap nobody knows of its cell,
   which is never free again (there are SPARE more than the limit, DSS_LOT of them for who takes many);
   after it, the item is accepted, and the tail is moved by others. A thread that is killed while it
   drops the oldest item costs that one, which was to be dropped, and is not handed back then. (What a
   killed thread does cost: its cell, so that from the 64th on each costs a place as well; and the
   memory of this queue is not freed, because that thread seems to be inside for ever.)

   Why the bound is exact: a position is filled only by a putter that knows a head that there was,
   with position - head < limit. The head only grows. So at the swap fewer than limit items were in
   the queue. (It is the head that one of the putters has read last. To read that of the takers costs
   each of both a trip between two processors; so a putter does it only if it finds no room.)

   Why "full" is exact: who finds it full has read a tail, after it a head with tail - head >= limit,
   and after both an item in the slot at the head that nobody has claimed. All positions before that
   tail were filled by then, and claims are made in order, for each is made at the head, or behind a
   claim of the same taker. So at the last of the three reads the items from head to tail were all
   there. (Without that read there may be fewer: claimed, by one who has not moved the head yet.) And a
   putter that drops the oldest drops this one or none: it was full at the swap that claimed it.

   Why the newest item is not dropped in place of the oldest: a putter that finds it full, and then
   nothing to drop, tries again. Others have made that room, so one of them got on; they took limit
   items at least, for each such turn. Only where there is no cell, and the queue is empty, is the new
   item dropped: then limit + SPARE others stand in the middle of a call, or were killed there, and
   trying again could last for ever.

   Why a stale reader does no harm: a swap succeeds on the word that was read, and a word never
   comes back, because its round only grows. (32 bits of it: a thread would have to stand still,
   between two instructions, for exactly 2**32 rounds.)

   Why accepted means claimed before the close: closing puts LAST into the slot at the tail, by the
   same swap as an item. Either the item is there first, and LAST goes behind it; or LAST is, and the
   putter finds it. There is always a slot for it: size > limit. The close bit in the tail turns
   newcomers away before that; nothing depends on it but how soon.

   Orders. The argument of the bell (bell.c) and that of whoever waits for room (sender.c) need that
   "put, then look at the flag" and "set the flag, then look at the slot" cannot both miss each
   other. So swaps and reads of slots, tail and head are sequentially consistent. On x86 and on ARM
   with acquire and release instructions that costs nothing over what publishing needs anyway. Whatever
   is weaker than that says why at its line. */

#include "ring.h"

#include <stdlib.h>
#include <string.h>

#define SPARE (63 + DSS_LOT)
#define AHEAD 4
#define LAST UINT32_MAX
#define CLOSED ((uint64_t)1)

typedef struct { /* all atomic, because who looks at a stale cell reads while another one writes */
    _Atomic bool taken; /* by a putter; it is free again when a taker has read it */
    _Atomic int kind;
    _Atomic size_t size;
    _Atomic(const void *) what; /* what was given or delivered, or who asks */
} cell;

/* What follows it, and is read by the one who has claimed it: the bytes of a copy, or of what is asked;
   else this. */
typedef struct {
    dss_free release;
    void *arg;
    dss_decode decode;
} functions;

/* What nobody writes is in the first line, what putters write in the second, what takers write in the
   third: one that runs on another processor takes a line away from this one. (And see HOT in ring.h.) */
struct dss_ring {
    dss_sender face; /* must be first: it is what the world has a pointer to */
    dss_bell *bell;
    _Atomic uint64_t *slots;
    unsigned char *cells;
    size_t item_size, stride;
    uint32_t limit, cell_count, shift; /* the number of slots is 1 << shift */
    int policy;
    _Atomic bool forked; /* made by another process */

    LINE _Atomic uint64_t tail; /* twice the position, and the close bit */
    _Atomic uint32_t next_cell; /* a hint: the first cell that may be free */
    _Atomic uint64_t inside; /* how many calls are in here */
    _Atomic uint64_t head_seen; /* a head that somebody has read; see "the bound is exact" */

    LINE _Atomic uint64_t head;

    LINE dss_waits waits;
    _Atomic int holds;
    _Atomic bool dead;  /* nobody has held it at some time */
    _Atomic bool freed; /* its queue */
    _Atomic uint64_t dropped, refused_and_dropped, late;
    dss_ring *made_before, *lingers_before;
};

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "needs lock-free 64-bit atomics");

/* -- Forks ---------------------------------------------------------------------------------------

   In a forked child no other thread exists, but what they had in hand does: a lock that is taken, a
   count of those inside. So there nothing of the parent's is touched, and it is as if closed. */

static _Atomic(dss_ring *) all; /* every ring there ever was; also, so that no tool calls them leaks */

/* In the child, before anything else runs there. (A ring that is not in the list yet was about to be
   made by a thread that the child does not have.) */
static void mark_all(void) {
    for (dss_ring *each = atomic_load(&all); each; each = each->made_before) {
        /* relaxed: this is the only thread of the process; those that it starts see it */
        atomic_store_explicit(&each->forked, true, memory_order_relaxed);
    }
    dss_sleep_after_fork();
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, mark_all); }

HOT bool dss_ring_is_fork(dss_ring *ring) {
    /* relaxed: it changes only in a process that has one thread */
    return atomic_load_explicit(&ring->forked, memory_order_relaxed);
}

/* -- Free cells ---------------------------------------------------------------------------------- */

static cell *cell_of(dss_ring *ring, uint32_t number) {
    return (cell *)(void *)(ring->cells + (size_t)number * ring->stride);
}

/* What another processor has in its cache, and is needed next, may be on its way while something else
   is done. Hints: they work for any address, and change nothing. */
static void fetch_to_write(void *where) {
#if defined(__x86_64__) && defined(__GNUC__)
    __asm__ volatile("prefetchw %0" : : "m"(*(char *)where)); /* GCC's own would fetch it to be read */
#elif defined(__GNUC__)
    __builtin_prefetch(where, 1);
#else
    (void)where;
#endif
}

static void fetch_to_read(const void *where) {
#if defined(__GNUC__)
    __builtin_prefetch(where);
#else
    (void)where;
#endif
}

/* Take the first free cell from where the last one was taken. So cells are used in the order in which
   they lie, and what a processor is going to write to next it can fetch while it writes to another one:
   AHEAD cells are about as much work as a trip between two processors takes. (A pile of free cells,
   which gives the last one that came back, has a processor wait for each: three times as slow.)

   Where to begin is a hint. Two may take it at once; then one of them finds the cell taken, and goes
   on. Who was held up between the two lines that read it does not set it back; and who finds another
   hint begins anew from there, which somebody else has got to. All accesses to it are relaxed: with any
   value, also a stale one, the swap of *taken* decides.

   False if it has passed all cells, and found none free. One may have become free behind it meanwhile:
   the caller looks whether others have got on. */
HOT static bool take_cell(dss_ring *ring, uint32_t *number) {
    uint32_t hint = atomic_load_explicit(&ring->next_cell, memory_order_relaxed);
    uint32_t at = hint, passed = 0;
    while (passed < ring->cell_count) {
        cell *candidate = cell_of(ring, at);
        uint32_t after = at + 1 < ring->cell_count ? at + 1 : 0;
        /* The swap acquires: what the taker has read from the cell it did before it gave it back. The
           read before it is relaxed: it only saves a swap that would fail. */
        if (!atomic_load_explicit(&candidate->taken, memory_order_relaxed) &&
            !atomic_exchange(&candidate->taken, true)) {
            *number = at;
            uintptr_t later = (uintptr_t)candidate + AHEAD * ring->stride; /* or behind the last one */
            fetch_to_write((void *)later);
            fetch_to_write((void *)(later + ring->stride - 1));
            if (atomic_load_explicit(&ring->next_cell, memory_order_relaxed) == hint) {
                atomic_store_explicit(&ring->next_cell, after, memory_order_relaxed);
            }
            return true;
        }
        uint32_t now = atomic_load_explicit(&ring->next_cell, memory_order_relaxed);
        if (now == hint) {
            at = after;
            passed += 1;
        } else {
            at = hint = now;
            passed = 0;
        }
    }
    return false;
}

static void give_back_cell(dss_ring *ring, uint32_t number) {
    /* release: our reads of the cell are before the next one's writes */
    atomic_store_explicit(&cell_of(ring, number)->taken, false, memory_order_release);
}

/* It was found empty: begin at the first cell again. A queue that is never long uses a few cells, which
   stay in the cache. (Who is held up before it writes has one sender walk over the cells that were
   filled meanwhile, once.) relaxed: a hint, see above. */
static void begin_at_the_first_cell(dss_ring *ring) {
    if (atomic_load_explicit(&ring->next_cell, memory_order_relaxed)) {
        atomic_store_explicit(&ring->next_cell, 0, memory_order_relaxed);
    }
}

/* memcpy; but what is as small as most messages without a call, into a page that may be far away. */
HOT static void copy(unsigned char *to, const unsigned char *from, size_t size) {
    typedef struct {
        unsigned char bytes[32];
    } half;
    if (size >= sizeof(half) && size <= 2 * sizeof(half)) { /* two halves, which may overlap */
        half first, second;
        memcpy(&first, from, sizeof(half));
        memcpy(&second, from + size - sizeof(half), sizeof(half));
        memcpy(to, &first, sizeof(half));
        memcpy(to + size - sizeof(half), &second, sizeof(half));
    } else if (size) {
        memcpy(to, from, size);
    }
}

static bool has_functions(const dss_item *item) {
    return item->kind == DSS_GIVEN || item->kind == DSS_DELIVERED;
}

HOT static void fill(dss_ring *ring, uint32_t number, const dss_item *item) {
    /* relaxed: the swap that puts its number into a slot publishes all of it */
    cell *into = cell_of(ring, number);
    atomic_store_explicit(&into->kind, item->kind, memory_order_relaxed);
    atomic_store_explicit(&into->size, item->size, memory_order_relaxed);
    unsigned char *content = (unsigned char *)(into + 1);
    if (has_functions(item)) {
        functions its = {item->release, item->arg, item->decode};
        atomic_store_explicit(&into->what, item->data, memory_order_relaxed);
        memcpy(content, &its, sizeof(its));
    } else {
        atomic_store_explicit(&into->what, item->asker, memory_order_relaxed);
        copy(content, item->data, item->size);
    }
}

/* -- Slots --------------------------------------------------------------------------------------- */

static _Atomic uint64_t *slot_of(dss_ring *ring, uint64_t position) {
    return &ring->slots[position & (((uint64_t)1 << ring->shift) - 1)];
}

static uint64_t word_of(dss_ring *ring, uint64_t position, uint32_t content) {
    return ((position >> ring->shift) << 32) | content;
}

static uint64_t word_after(dss_ring *ring, uint64_t position) { /* as a claim leaves it */
    return word_of(ring, position + ((uint64_t)1 << ring->shift), 0);
}

/* Both are for anybody who finds the slot at *position* done with. The first who comes moves. */

HOT static void move_tail(dss_ring *ring, uint64_t position) {
    uint64_t tail = atomic_load(&ring->tail);
    while (tail >> 1 == position && !atomic_compare_exchange_weak(&ring->tail, &tail, tail + 2)) {
    } /* again only if the close bit came in between */
}

static void move_head(dss_ring *ring, uint64_t position) {
    atomic_compare_exchange_strong(&ring->head, &position, position + 1);
}

/* Was the item at *position* claimed, as *word* says, which was read of its slot? If the head is there,
   it has moved, or does so here, for a claimer that has not come to it yet. So whoever tries again
   after this does it because somebody else has taken an item, and finds a later head. */
static bool was_claimed(dss_ring *ring, uint64_t position, uint64_t word) {
    if (word >> 32 == word_of(ring, position, 0) >> 32) {
        return false;
    }
    move_head(ring, position); /* if it is elsewhere, this does nothing */
    return true;
}

/* -- Taking: from any thread; also a putter's that drops the oldest ------------------------------ */

HOT bool dss_ring_look(dss_ring *ring, dss_taking *taking, dss_look *look) {
    if (taking->many == DSS_LOT) {
        dss_ring_hand_over(ring, taking);
    }
    for (;;) {
        uint64_t position = taking->many ? taking->next : atomic_load(&ring->head);
        uint64_t word = atomic_load(slot_of(ring, position));
        if (was_claimed(ring, position, word)) {
            dss_ring_hand_over(ring, taking); /* and begin at the head again */
            continue;
        }
        uint32_t content = (uint32_t)word;
        if (content == 0 || content == LAST) {
            dss_ring_hand_over(ring, taking);
            begin_at_the_first_cell(ring);
            return false;
        }
        if (position >= taking->tail) { /* what was there once is there: it only grows */
            move_tail(ring, position); /* so that the head never overtakes it */
            taking->tail = atomic_load(&ring->tail) >> 1;
        }
        /* relaxed: only for a hint to the processor; what is in that cell is not read here */
        uint64_t later = atomic_load_explicit(slot_of(ring, position + 4), memory_order_relaxed);
        if ((uint32_t)later && (uint32_t)later != LAST) { /* for one of the next looks */
            cell *there = cell_of(ring, (uint32_t)later - 1);
            fetch_to_read(there);
            fetch_to_read((unsigned char *)there + ring->stride - 1);
        }
        cell *from = cell_of(ring, content - 1);
        /* If it was taken by now, this is of another item, or of two; then the claim fails. (Of two
           may be a kind that has its bytes in the cell, and a size that no cell has. Nobody should
           see that, who makes room for it first: look again. The slot has changed, or the head.)
           relaxed, all three: the read of *word* acquires what the swap that put it there has
           published; and that the item is no other one's is what the claim finds out. */
        look->position = position;
        look->word = word;
        look->item.kind = atomic_load_explicit(&from->kind, memory_order_relaxed);
        look->item.size = atomic_load_explicit(&from->size, memory_order_relaxed);
        const void *what = atomic_load_explicit(&from->what, memory_order_relaxed);
        if (look->item.kind != DSS_GIVEN && look->item.size > ring->item_size) {
            continue;
        }
        look->item.data = has_functions(&look->item) ? what : (const void *)(from + 1);
        look->item.asker = look->item.kind == DSS_ASKED ? (dss_asker *)(uintptr_t)what : NULL;
        return true;
    }
}

static bool claim(dss_ring *ring, dss_look *look) {
    uint64_t word = look->word;
    if (!atomic_compare_exchange_strong(
            slot_of(ring, look->position), &word, word_after(ring, look->position)
        )) {
        return false;
    }
    if (has_functions(&look->item)) {
        functions its;
        memcpy(&its, cell_of(ring, (uint32_t)look->word - 1) + 1, sizeof(its));
        look->item.release = its.release;
        look->item.arg = its.arg;
        look->item.decode = its.decode;
    }
    return true;
}

bool dss_ring_claim(dss_ring *ring, dss_taking *taking, dss_look *look) {
    if (!claim(ring, look)) {
        return false;
    }
    taking->cells[taking->many++] = (uint32_t)look->word - 1;
    taking->next = look->position + 1;
    return true;
}

void dss_ring_hand_over(dss_ring *ring, dss_taking *taking) {
    if (!taking->many || dss_ring_is_fork(ring)) {
        return;
    }
    uint64_t head = atomic_load(&ring->head);
    while (head < taking->next && !atomic_compare_exchange_weak(&ring->head, &head, taking->next)) {
    } /* others may move it, one by one, over what we have claimed */
    while (taking->many) {
        give_back_cell(ring, taking->cells[--taking->many]);
    }
    dss_waits_room(ring);
}

uint64_t dss_ring_count(dss_ring *ring) {
    dss_taking nothing = {0};
    dss_look look;
    if (!dss_ring_look(ring, &nothing, &look)) {
        return 0; /* and it is the slot that says so: see the argument of the bell */
    }
    /* The tail first: it is at most the limit beyond the head of that instant, and so beyond any
       later one. The other way around, what is put and taken between the two would count. If the
       head has overtaken that tail, there was one item at least when we looked. */
    uint64_t tail = atomic_load(&ring->tail) >> 1, head = atomic_load(&ring->head);
    return (int64_t)(tail - head) > 0 ? tail - head : 1;
}

/* -- Putting: from any thread, at any instant ---------------------------------------------------- */

static void hand_back(const dss_item *item) {
    if (item->kind == DSS_GIVEN && item->release) {
        item->release((void *)(uintptr_t)item->data, item->arg);
    } else if (item->kind == DSS_ASKED) {
        dss_asker_settle(item->asker, DSS_UNANSWERED, NULL, 0);
        dss_asker_drop(item->asker);
    } else if (item->kind == DSS_DELIVERED) {
        item->decode(NULL, (void *)(uintptr_t)item->data);
    }
}

/* Signed: if the tail is stale, the head may be ahead of it. */
static bool is_full(dss_ring *ring, uint64_t position, uint64_t head) {
    return (int64_t)(position - head) >= (int64_t)ring->limit;
}

HOT static int put(dss_ring *ring, const dss_item *item) {
    int status = DSS_OK;
    uint32_t number = 0;
    bool has_cell = false, is_filled = false;
    dss_item dropped = {.kind = DSS_COPIED}; /* the oldest; there is nothing to hand back of a copy */
    for (;;) {
        uint64_t tail = atomic_load(&ring->tail), position = tail >> 1;
        if (RARE(tail & CLOSED)) {
            status = DSS_CLOSED;
            break;
        }
        /* relaxed, also where it is written: any head that there ever was will do. An old one at most
           has us think that it is full, and then we read the head itself. */
        uint64_t head = atomic_load_explicit(&ring->head_seen, memory_order_relaxed);
        bool full = is_full(ring, position, head);
        if (RARE(full)) {
            head = atomic_load(&ring->head); /* after the tail: see "full is exact" */
            atomic_store_explicit(&ring->head_seen, head, memory_order_relaxed);
            full = is_full(ring, position, head);
        }
        if (RARE(full) && was_claimed(ring, head, atomic_load(slot_of(ring, head)))) {
            continue; /* it is not */
        }
        if (!full && !has_cell) {
            has_cell = take_cell(ring, &number);
            if (RARE(!has_cell) && atomic_load(&ring->tail) != tail) {
                continue; /* others have put what they took while we looked */
            }
        }
        if (RARE(full || !has_cell)) { /* no cell: all are in the hands of others, who are in here too */
            if (ring->policy == DSS_BLOCK) {
                status = DSS_FULL;
                break;
            }
            if (ring->policy == DSS_DROP_OLDEST) {
                /* What we have dropped before: its place went to another putter, so there is no put
                   of ours to wait for. We hold no place, and whatever a release does finds us as at
                   the beginning. */
                hand_back(&dropped);
                dropped.kind = DSS_COPIED;
                if (has_cell) { /* nobody has two: whoever is killed in here costs one */
                    give_back_cell(ring, number);
                    has_cell = is_filled = false;
                }
                dss_taking nothing = {0};
                dss_look oldest;
                bool any = dss_ring_look(ring, &nothing, &oldest);
                if (any && (!full || oldest.position == head) && claim(ring, &oldest)) {
                    move_head(ring, oldest.position);
                    /* relaxed, here and below: a statistic; the item's own fate is in its slot */
                    atomic_fetch_add_explicit(&ring->dropped, 1, memory_order_relaxed);
                    status = DSS_DROPPED;
                    dropped = oldest.item;
                    number = (uint32_t)oldest.word - 1;
                    has_cell = true;
                    continue;
                }
                if (any || full) {
                    continue; /* somebody else has taken it: see "the newest item is not dropped" */
                }
            }
            status = DSS_DROPPED;
            atomic_fetch_add_explicit(&ring->refused_and_dropped, 1, memory_order_relaxed);
            dropped = *item;
            break;
        }
        fetch_to_write((void *)(uintptr_t)slot_of(ring, position + 8)); /* the next line of slots */
        if (!is_filled) {
            fill(ring, number, item);
            is_filled = true;
        }
        uint64_t word = word_of(ring, position, 0);
        if (atomic_compare_exchange_strong(
                slot_of(ring, position), &word, word_of(ring, position, number + 1)
            )) {
            has_cell = false;
            move_tail(ring, position);
            if (!dss_bell_ring(ring->bell) && !status) {
                status = DSS_NOT_NOTIFIED;
            }
            break;
        }
        if (word >> 32 == word_of(ring, position, 0) >> 32 && (uint32_t)word != LAST) {
            move_tail(ring, position); /* for the one who was first */
        } /* else closed, which the tail says by now; or our tail was stale */
    }
    if (RARE(has_cell)) {
        give_back_cell(ring, number);
    }
    if (RARE(dropped.kind != DSS_COPIED)) {
        hand_back(&dropped); /* last: it may call what is not ours, which may send in its turn */
    }
    return status;
}

HOT int dss_ring_put(dss_ring *ring, const dss_item *item) {
    if (dss_ring_is_fork(ring)) {
        return DSS_CLOSED;
    }
    int status = dss_ring_enter(ring) ? put(ring, item) : DSS_CLOSED;
    dss_ring_leave(ring);
    return status;
}

/* relaxed, both: a statistic */

void dss_ring_count_late(dss_ring *ring) {
    atomic_fetch_add_explicit(&ring->late, 1, memory_order_relaxed);
}

void dss_ring_count_dropped(dss_sender *sender) {
    dss_ring *ring = (dss_ring *)(void *)sender;
    atomic_fetch_add_explicit(&ring->refused_and_dropped, 1, memory_order_relaxed);
}

/* -- The end ------------------------------------------------------------------------------------- */

void dss_ring_close(dss_ring *ring) {
    atomic_fetch_or(&ring->tail, CLOSED); /* before LAST: who finds that finds the bit as well */
    for (;;) {
        uint64_t position = atomic_load(&ring->tail) >> 1;
        uint64_t word = word_of(ring, position, 0);
        if (atomic_compare_exchange_strong(
                slot_of(ring, position), &word, word_of(ring, position, LAST)
            )) {
            return;
        }
        if (word == word_of(ring, position, LAST)) {
            return; /* it was closed before */
        }
        move_tail(ring, position);
    }
}

bool dss_ring_closed(dss_ring *ring) { return atomic_load(&ring->tail) & CLOSED; }

/* -- Who is inside, and when the memory of the queue goes ----------------------------------------

   The ring itself, a few hundred bytes, stays for ever: there may always be somebody who has its
   address. Its slots and cells go when it was closed, nobody holds it and nobody is inside.

   Whoever comes in counts itself, and *then* reads the close bit. Whoever frees has seen that bit
   set, and *then* reads the count. Both are sequentially consistent: if the count was 0, all who
   come later read the bit, and touch neither. And leaving releases: what those inside have done is
   before the count that lets it be freed. */

HOT bool dss_ring_enter(dss_ring *ring) {
    atomic_fetch_add(&ring->inside, 1);
    return !(atomic_load(&ring->tail) & CLOSED);
}

HOT void dss_ring_leave(dss_ring *ring) { atomic_fetch_sub(&ring->inside, 1); }

/* Those that were let go of while somebody was inside. They are looked at again when the next one
   is made or let go of: not by who leaves, because that may be a signal handler, and free() is not
   for those. */
static _Atomic(dss_ring *) lingering;

/* A list that is only added to here, and only taken as a whole: so a swap that succeeds on an old first
   one has the right rest behind it. It publishes what is in *ring*. */
static void linger(dss_ring *ring) {
    ring->lingers_before = atomic_load(&lingering);
    while (!atomic_compare_exchange_weak(&lingering, &ring->lingers_before, ring)) {
    }
}

static void free_queue(dss_ring *ring) {
    if (atomic_load(&ring->inside) == 0) {
        atomic_store(&ring->freed, true);
        free((void *)ring->slots);
        free(ring->cells);
        dss_bell_drop(ring->bell);
    } else {
        linger(ring);
    }
}

static void free_lingering(void) {
    dss_ring *ring = atomic_exchange(&lingering, NULL); /* all at once, so each is only ours */
    while (ring) {
        dss_ring *before = ring->lingers_before;
        if (dss_ring_is_fork(ring)) {
            linger(ring); /* those inside were the parent's threads, for ever */
        } else {
            free_queue(ring);
        }
        ring = before;
    }
}

void dss_ring_hold(dss_ring *ring) {
    /* relaxed: the caller has it, so this is not the first hold, and hands nothing over */
    atomic_fetch_add_explicit(&ring->holds, 1, memory_order_relaxed);
}

void dss_ring_drop(dss_ring *ring) {
    if (dss_ring_is_fork(ring)) {
        return; /* it is the parent's */
    }
    free_lingering();
    /* The count releases and acquires: what the others have done is before the last one frees it. */
    if (atomic_fetch_sub(&ring->holds, 1) == 1 && !atomic_exchange(&ring->dead, true)) {
        free_queue(ring); /* once: whoever holds it after this holds what is always there */
    }
}

static bool allocate(dss_ring *ring) {
    uint64_t slots = 1;
    while (slots <= ring->limit) {
        slots *= 2;
        ring->shift += 1;
    }
    ring->cell_count = ring->limit + SPARE;
    size_t most = ring->item_size > sizeof(functions) ? ring->item_size : sizeof(functions);
    ring->stride = (sizeof(cell) + most + 7) / 8 * 8;
    if (ring->stride > (SIZE_MAX - 63) / ring->cell_count) {
        return false; /* an address has 32 bits */
    }
    ring->slots = calloc(slots, sizeof(*ring->slots)); /* all are (0, 0) */
    ring->cells = aligned_alloc(64, (ring->stride * ring->cell_count + 63) / 64 * 64);
    if (!ring->slots || !ring->cells) {
        return false;
    }
    for (uint32_t number = 0; number < ring->cell_count; number++) {
        atomic_init(&cell_of(ring, number)->taken, false);
    }
    return true;
}

dss_ring *dss_ring_new(
    dss_bell *bell, const dss_api_2_0 *api, uint32_t limit, size_t item_size, int policy
) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    free_lingering();
    dss_ring *ring = aligned_alloc(64, (sizeof(*ring) + 63) / 64 * 64);
    if (!ring) {
        return NULL;
    }
    memset((void *)ring, 0, sizeof(*ring));
    ring->face.api = api;
    ring->limit = limit;
    ring->policy = policy;
    ring->item_size = item_size;
    if (!allocate(ring)) {
        free((void *)ring->slots);
        free(ring->cells);
        free(ring);
        return NULL;
    }
    dss_bell_hold(bell);
    ring->bell = bell;
    atomic_init(&ring->holds, 1);
    dss_waits_init(&ring->waits);
    /* The swap publishes the ring. Nothing is ever taken out of this list. */
    ring->made_before = atomic_load(&all);
    while (!atomic_compare_exchange_weak(&all, &ring->made_before, ring)) {
    }
    return ring;
}

/* -- Looking at it ------------------------------------------------------------------------------- */

dss_counts dss_ring_counts(dss_ring *ring) {
    /* relaxed: a statistic; exact when nothing is in progress */
    uint64_t refused = atomic_load_explicit(&ring->refused_and_dropped, memory_order_relaxed);
    dss_counts counts = {
        .queued = atomic_load(&ring->freed) ? 0 : dss_ring_count(ring),
        .dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed) + refused,
        .late = atomic_load_explicit(&ring->late, memory_order_relaxed),
    };
    return counts;
}

dss_bell *dss_ring_bell(dss_ring *ring) { return ring->bell; }
HOT size_t dss_ring_item_size(dss_ring *ring) { return ring->item_size; }
uint32_t dss_ring_limit(dss_ring *ring) { return ring->limit; }
dss_waits *dss_ring_waits(dss_ring *ring) { return &ring->waits; }
