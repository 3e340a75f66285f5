/* dss_anyio.h - send into a Python program from threads that never enter Python.

   Definitions only: copy this file, link to nothing. It needs C11, or C++11, and no Python.h.

   How one gets a sender. The Python program calls portal.native_sender() and hands the library what
   that has: .address, an int for ctypes and cffi; or .capsule, a PyCapsule named
   DSS_SENDER_CAPSULE, for extension modules. Languages that do not read this header find the
   addresses of the functions in dss_anyio.native.functions, a dict by name. An extension module can
   import the whole table: PyCapsule_Import(DSS_API_CAPSULE, 0) returns a const dss_api_2_0 *.

   What is true of all functions:

   - Any thread may call them, at any time, for ever: after the portal, the hub, the event loop and
     the interpreter are gone, they return DSS_CLOSED, at once. (DSS_INVALID is still possible, for
     a sender or a decode that is NULL, a timeout that is not a number, or an answer that is NULL with
     room.) In a forked child they do so for all senders that the parent has made. A sender is never
     freed under its caller.
   - None of them takes the GIL, touches a Python object or makes a Python thread state. Whether
     Python computes, waits in C with the GIL held, or exits, makes no difference to them.
   - None of them is a point at which a thread is cancelled (pthread_cancel). The two that wait
     put a cancellation off until they return. A signal handler that interrupts one of these two
     must come back: it may neither end the thread (pthread_exit) nor jump out (siglongjmp), because
     the hub still refers to what lies on that thread's stack.
   - What they return is a status: 0 is good, a warning is above 0, an error below. With an error
     nothing was accepted, and everything that was passed in is still the caller's.
   - Accepted means that the program receives it, exactly once, or that it is handed back, exactly
     once, because the program ends before that or a policy drops it.
   - What one thread sends through one sender is received in its order. What passes through two
     senders, or through a sender and the portal it belongs to, has no order.
   - They work with hubs in several interpreters of one process. A sender belongs to one hub; any
     thread may use it, also one of Python's that belongs to another interpreter.

   Later versions of this table are capsules of another name; this one may only grow at its end. */

#ifndef DSS_ANYIO_H
#define DSS_ANYIO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DSS_API_CAPSULE "dss_anyio.native.api_2_0"
#define DSS_SENDER_CAPSULE "dss_anyio.native.sender_2_0"

/* -- What the functions return ------------------------------------------------------------------ */

enum dss_statuses {
    DSS_OK = 0, /* accepted; dss_ask: answered */

    /* Warnings: it was accepted, and ... */
    DSS_DROPPED = 1,      /* ... there was no room, so by the sender's policy it, or the oldest item
                             in its place, was dropped and handed back. (With "drop_oldest" it is
                             never the new one, but in the case that DSS_FULL has in brackets.) */
    DSS_NOT_NOTIFIED = 2, /* ... it is queued, but the program, or whoever listens at its
                             wake_address, could not be woken (a datagram could not be sent); it is
                             received with the next item that can wake it, or when the program looks
                             by itself. Not returned if DSS_DROPPED is */
    DSS_TRUNCATED = 3,    /* dss_ask: answered, but the answer is longer than the room for it; to
                             on_return of dss_deliver: answered, but there is no memory for that */

    /* Errors: it was not accepted, because ... */
    DSS_FULL = -1,       /* ... there was no room, and the policy is "block", with which those who
                            do not wait are refused. (Or more than 62 other threads were inside of
                            calls of this very sender, at the same instant: it has as many cells for
                            items as it has places, and 63 more, and each such call holds one, also
                            that of a thread which was killed in it.) */
    DSS_CLOSED = -2,     /* ... its portal was closed, or the hub has ended; or this is a fork */
    DSS_TOO_LARGE = -3,  /* ... it is longer than the item_size of the sender; use dss_give */
    DSS_TIMED_OUT = -4,  /* ... the time was over: of dss_send_wait, nothing was accepted; of
                            dss_ask, nobody works on an answer any more */
    DSS_REFUSED = -5,    /* dss_ask: the program has refused it, with an exception */
    DSS_UNANSWERED = -6, /* dss_ask: the program has thrown it away without an answer, or a policy
                            has dropped it */
    DSS_RELEASED = -7,   /* dss_ask, dss_send_wait, dss_deliver: the portal or the hub was closed
                            while it waited */
    DSS_DEADLOCK = -8,   /* ... this is the hub's own thread, which would wait for itself */
    DSS_NO_MEMORY = -9,  /* ... there is no memory left (only of those that wait for an answer, and
                            of dss_put); or, for those that wait for an answer, on systems other than
                            Linux: no descriptor */
    DSS_INVALID = -10    /* ... an argument cannot be: a sender, an output or a decode that is NULL;
                            data, or room for an answer, that is NULL with a size; a timeout that is
                            not a number */
};

/* Each function below names all statuses that it can return. dss_status has a text for each. */

/* -- A sender ------------------------------------------------------------------------------------ */

typedef struct dss_sender dss_sender;

/* What a copy-free item is given back with. Called once; see dss_give. */
typedef void (*dss_free)(void *data, void *arg);

/* The functions of dss_deliver; see there. */
typedef struct dss_output dss_output;
typedef int (*dss_decode)(dss_output *output, void *data);
typedef void (*dss_return)(int status, const void *answer, size_t size, void *data);

typedef struct dss_api_2_0 {
    size_t size; /* of this table, in bytes: what lies beyond is not there */
    int (*send)(dss_sender *, const void *data, size_t size);
    int (*send_wait)(dss_sender *, const void *data, size_t size, double timeout);
    int (*give)(dss_sender *, void *data, size_t size, dss_free release, void *arg);
    int (*ask)(
        dss_sender *, const void *data, size_t size, void *answer, size_t room, size_t *answered,
        double timeout
    );
    dss_sender *(*hold)(dss_sender *);
    void (*release)(dss_sender *);
    int (*deliver)(dss_sender *, dss_decode decode, dss_return on_return, void *data);
    int (*put)(dss_output *, const void *bytes, size_t size);
} dss_api_2_0;

struct dss_sender {
    const dss_api_2_0 *api; /* the functions below look here, and nobody else need */
};

struct dss_output {
    const dss_api_2_0 *api;
};

/* Send a copy of *size* bytes at *data*.

   Never waits, also not for a lock: it may be called in a signal handler, in one that has
   interrupted this very function, too; from a real-time thread; and while holding any lock of the
   caller's. Allocates nothing. Keeps errno. A thread that is killed in here costs at most its own
   item, and the memory of the queue, which is not freed any more; from the 64th that is killed inside
   of one sender on, each may cost a place as well.

   How many system calls it makes:

   - none, while the program takes items, or a wake is on its way to it already. The next wake is due
     once it has found all queues of its hub empty, or has polled its polled hub;
   - then one, the wake: a write to an eventfd, or a datagram to a polled hub. (Several calls at the
     same instant may each make it.)
   - two, if that is a polled hub with a wake_address: one datagram to each of its two places;
   - twice as many at most, if the first attempt fails (a second datagram is sent, because the first
     one may have met the error of an earlier one). While it goes on failing, so does each further
     call, with DSS_NOT_NOTIFIED. That a buffer is full is no failure;
   - one more, with "drop_oldest", for each item that it drops and that somebody waits for (dss_ask,
     or dss_deliver with on_return): it wakes the one who waits;
   - one close() for each place, if the hub closes it while this call writes there.

   None of them waits. (On systems other than Linux the first two are writes to a socket, and to drop
   what somebody waits for may close two descriptors.)

   DSS_OK, DSS_DROPPED, DSS_NOT_NOTIFIED; DSS_FULL, DSS_CLOSED, DSS_TOO_LARGE, DSS_INVALID. */
static inline int dss_send(dss_sender *sender, const void *data, size_t size) {
    return sender ? sender->api->send(sender, data, size) : DSS_INVALID;
}

/* The same, but wait for room, *timeout* seconds at most; below 0: as long as it takes.

   Waits without the GIL, and without using the processor. Only with the policy "block" is there
   anything to wait for. It may go on for a millisecond after there is room, so that a fast receiver
   does not have to wake it for each item. When the portal or the hub ends, it returns. Not for signal
   handlers.

   DSS_OK, DSS_DROPPED, DSS_NOT_NOTIFIED; DSS_CLOSED (before it waited), DSS_RELEASED (while it waited),
   DSS_TIMED_OUT, DSS_DEADLOCK (if it would have to wait), DSS_TOO_LARGE, DSS_INVALID. */
static inline int dss_send_wait(
    dss_sender *sender, const void *data, size_t size, double timeout
) {
    return sender ? sender->api->send_wait(sender, data, size, timeout) : DSS_INVALID;
}

/* Send *size* bytes at *data* without a copy, however many they are.

   Once it was accepted, the bytes belong to the program, which sees them as a read-only memoryview,
   and must not change. *release* is called with *data* and *arg*, once: when the last reference to
   that memory has gone, in whichever Python thread that is, with the GIL held, so it must not wait;
   at the end of the hub if nobody has received it; in here, before the return, if the policy drops
   it; in another sender's thread if that one's item takes its place, after that was put (or could
   not be). *release* may be NULL for memory that stays for ever. If Python exits before that,
   *release* is not called any more.

   As dss_send, it never waits, allocates nothing, and makes as many system calls; what *release*
   does comes on top, also for dss_send, if that drops what was given.

   DSS_OK, DSS_DROPPED, DSS_NOT_NOTIFIED; DSS_FULL, DSS_CLOSED, DSS_INVALID. */
static inline int dss_give(
    dss_sender *sender, void *data, size_t size, dss_free release, void *arg
) {
    return sender ? sender->api->give(sender, data, size, release, arg) : DSS_INVALID;
}

/* Ask: send a copy of *size* bytes at *data* as a request, wait for the answer, and have that copied
   to *answer*, where there are *room* bytes.

   The program receives a Request, and answers it with bytes. *answered* (may be NULL) becomes the
   size of the whole answer; 0 if there is none. If the program refuses, the answer is the text of its
   exception, in UTF-8, without a 0 at its end, and cut off where *room* ends. Waits for a place in the
   queue as well, *timeout* seconds altogether at most; below 0: as long as it takes. It ends when the
   portal or the hub ends. Not for signal handlers.

   DSS_OK, DSS_TRUNCATED; DSS_REFUSED, DSS_UNANSWERED, DSS_RELEASED, DSS_TIMED_OUT, DSS_DEADLOCK,
   DSS_CLOSED, DSS_TOO_LARGE, DSS_NO_MEMORY, DSS_INVALID. Of these, DSS_REFUSED and DSS_UNANSWERED
   mean that the item was accepted, and DSS_RELEASED and DSS_TIMED_OUT that it may have been. The
   data is a copy, so it is the caller's in any case. */
static inline int dss_ask(
    dss_sender *sender, const void *data, size_t size, void *answer, size_t room, size_t *answered,
    double timeout
) {
    return sender ? sender->api->ask(sender, data, size, answer, room, answered, timeout)
                  : DSS_INVALID;
}

/* Deliver *data*, as DarkSideSync does: what the program receives is made of it only when that has
   time, by the library itself.

   *decode* is called with *data* in the hub's thread, when the item is received. It passes the bytes
   that the program receives to dss_put, and returns how often it has done so; 0 if nothing is left to
   do, and nothing is to be received; below 0 for an error, which the hub reports. It has the GIL, so
   it must not wait. If nobody will receive the item (the hub or the portal ended, a policy has dropped
   it, or decode has failed), decode is called with an *output* of NULL, to free what *data* holds: in
   the thread that ends or drops it.

   Without *on_return* this never waits, as dss_send. With it, it waits, as dss_ask without a time
   limit, until the program has answered, and calls *on_return* then, in this thread: with DSS_OK and
   the answer; DSS_REFUSED and the text of the exception; DSS_UNANSWERED; or DSS_RELEASED. Without
   memory for the answer or the text that is NULL, and DSS_TRUNCATED stands in for DSS_OK. It is not
   called if decode has returned 0, or was called with NULL.

   So once it was accepted, *data* has one last call: of decode with NULL; of on_return; or, if there
   is none or it has returned 0, of decode in the hub's thread. With on_return, that was made when this
   returns. An error means that there was no call, and will be none.

   Without on_return: DSS_OK, DSS_DROPPED, DSS_NOT_NOTIFIED; DSS_FULL, DSS_CLOSED, DSS_INVALID.
   With it: DSS_OK (*data* has had its last call, whichever that was); DSS_CLOSED, DSS_RELEASED (while
   it waited for room), DSS_DEADLOCK, DSS_NO_MEMORY, DSS_INVALID. */
static inline int dss_deliver(
    dss_sender *sender, dss_decode decode, dss_return on_return, void *data
) {
    return sender ? sender->api->deliver(sender, decode, on_return, data) : DSS_INVALID;
}

/* In decode: add *size* bytes to what the program receives. Allocates; never waits.

   DSS_OK; DSS_NO_MEMORY, DSS_INVALID (*output* is NULL, or *bytes* with a size). With an error nothing
   was added; have decode return an error, too. */
static inline int dss_put(dss_output *output, const void *bytes, size_t size) {
    return output ? output->api->put(output, bytes, size) : DSS_INVALID;
}

/* Keep the sender's queue in memory after its end, until the matching dss_release. Nobody has to: a
   sender that is not held is as valid, and returns the same. For wrappers that count references.
   dss_hold returns its argument, also NULL; dss_release returns nothing, and may free memory. Neither
   waits. */
static inline dss_sender *dss_hold(dss_sender *sender) {
    return sender ? sender->api->hold(sender) : sender;
}

static inline void dss_release(dss_sender *sender) {
    if (sender) {
        sender->api->release(sender);
    }
}

/* What a status means, in a few English words. For any number; never NULL. */
static inline const char *dss_status(int status) {
    switch (status) {
    case DSS_OK: return "accepted";
    case DSS_DROPPED: return "no room: an item was dropped";
    case DSS_NOT_NOTIFIED: return "accepted, but the program could not be woken";
    case DSS_TRUNCATED: return "answered, but the answer is longer than the room for it";
    case DSS_FULL: return "no room";
    case DSS_CLOSED: return "the portal was closed, or the hub has ended";
    case DSS_TOO_LARGE: return "longer than the item_size of the sender";
    case DSS_TIMED_OUT: return "not in time";
    case DSS_REFUSED: return "the program has refused it";
    case DSS_UNANSWERED: return "the program has thrown it away without an answer";
    case DSS_RELEASED: return "the portal or the hub was closed meanwhile";
    case DSS_DEADLOCK: return "the hub's own thread would wait for itself";
    case DSS_NO_MEMORY: return "no memory";
    case DSS_INVALID: return "an argument cannot be";
    default: return status > 0 ? "accepted, with a warning" : "not accepted";
    }
}

#ifdef __cplusplus
}
#endif

#endif
