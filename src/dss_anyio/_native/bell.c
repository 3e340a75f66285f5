/* One flag, and the descriptors through which a hub that sleeps is woken. Shared by all of its
   senders.

   The receiver *arms* the flag and *then* looks at the queue once more before it sleeps. A sender
   puts its item, and *then* looks at the flag. All four steps are sequentially consistent, so they
   have one order: if the sender's swap comes before the receiver's look, that finds the item; if
   not, the flag was armed before the swap, and the sender finds it armed. No wake is lost.

   A sender that finds it armed writes to the descriptors, and *then* takes the flag down. In the
   other order, whoever is killed between the two would leave a flag that says "a wake is on its
   way" for ever, and everybody's items would wait. In this order, several senders that come in the
   same instant may write; a counter (eventfd) makes one of it, and a datagram too many means
   nothing. From then on nobody writes until the receiver has found the queue empty again.

   The flag is a number: odd while armed. Arming makes it another odd number, so a sender that was
   held up between writing and taking down does not take down what was armed since.

   A descriptor that was closed is never written to: its number may be another file's. Whoever
   writes counts itself, and *then* reads whether it is open; whoever closes writes that it is not,
   and *then* reads the count. If that is 0, nobody who comes later writes, and it is closed at
   once; else by one who leaves, finds that it is not open, and *then* reads a count of 0. (Not by
   the one whose leaving has made it 0: another one may have come before the close.) One who was
   killed there never leaves; then the descriptor stays open, and costs nothing but its number. */

#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef DSS_LINUX
#include <sys/eventfd.h>
#include <sys/syscall.h>
#endif
#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

typedef struct outlet {
    struct outlet *older; /* one whose place this has taken */
    int kind;
    _Atomic int fd; /* -1 once somebody has closed it */
    _Atomic int writers;
    _Atomic bool open;
} outlet;

#define PLACES 2

struct dss_bell {
    _Atomic int holds;
    _Atomic uint64_t flag;
    _Atomic(outlet *) outlets[PLACES];
    _Atomic uint64_t failures, gone;
    _Atomic uint64_t home; /* the number of the thread that receives; 0: nobody has yet */
    _Atomic int readable; /* the other end, of a pair of sockets; else -1 */
};

/* Orders. All that is not said to be relaxed is sequentially consistent, because the two arguments above
   are about one order of steps of several threads. It is also enough for what is handed over: an outlet
   is filled before it is stored in its place (put_outlet), and read after it was loaded from there. */

/* -- Writing, in a sender ------------------------------------------------------------------------

   Not through write() and send(), which are points of cancellation: a thread that was cancelled
   would end in here, before the others that count on its wake. */

long dss_write(int fd, const void *data, size_t size, int kind) {
#ifdef DSS_LINUX
    if (kind == DSS_COUNTER) {
        return syscall(SYS_write, fd, data, size);
    }
#ifdef SYS_sendto
    return syscall(SYS_sendto, fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL, NULL, 0);
#endif
#endif
    (void)kind; /* a socket: only Linux has the counter */
    int before;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    long done = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    pthread_setcancelstate(before, &before);
    return done;
}

static bool notify(int fd, int kind) {
    static const uint64_t one = 1;
    for (int attempt = 0; attempt < 2; attempt++) {
        const void *data = kind == DSS_COUNTER ? (const void *)&one : "!";
        if (dss_write(fd, data, kind == DSS_COUNTER ? sizeof(one) : 1, kind) >= 0) {
            return true;
        }
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
            return true; /* it is full of what wakes just as well */
        }
    } /* the first attempt may have got the answer to an earlier datagram: nobody listened then */
    return false;
}

static void close_once(outlet *out) {
    int fd = atomic_exchange(&out->fd, -1);
    if (fd >= 0) {
#ifdef DSS_LINUX
        syscall(SYS_close, fd);
#else
        close(fd);
#endif
    }
}

static void leave_outlet(outlet *out) {
    atomic_fetch_sub(&out->writers, 1);
    if (!atomic_load(&out->open) && atomic_load(&out->writers) == 0) {
        close_once(out);
    }
}

static bool ring_outlet(outlet *out) {
    bool done = true;
    atomic_fetch_add(&out->writers, 1);
    if (atomic_load(&out->open)) {
        done = notify(atomic_load(&out->fd), out->kind);
    }
    leave_outlet(out);
    return done;
}

static bool ring_all(dss_bell *bell) {
    int error = errno; /* the caller's */
    bool done = true;
    for (unsigned place = 0; place < PLACES; place++) {
        outlet *out = atomic_load(&bell->outlets[place]);
        if (out && !ring_outlet(out)) {
            done = false;
            /* relaxed: a statistic; nothing else is read because of it */
            atomic_fetch_add_explicit(&bell->failures, 1, memory_order_relaxed);
        }
    }
    errno = error;
    return done;
}

HOT bool dss_bell_ring(dss_bell *bell) {
    uint64_t flag = atomic_load(&bell->flag);
    if (!(flag & 1)) {
        return true;
    }
    bool done = ring_all(bell);
    if (done) { /* else it stays armed, and the next one tries again */
        /* It fails if the flag was taken down or armed again since we have read it: not ours then. */
        atomic_compare_exchange_strong(&bell->flag, &flag, flag + 1);
    }
    return done;
}

/* Whether or not the flag is armed: it says that there are items, and this is none. */
void dss_bell_tell_gone(dss_bell *bell) {
    atomic_fetch_add(&bell->gone, 1); /* before the wake: who is woken by it reads the new number */
    ring_all(bell);
}

/* -- Arming and clearing, in the receiving thread ------------------------------------------------ */

void dss_bell_arm(dss_bell *bell) {
    /* relaxed: a thread only asks whether its own number is here (dss_bell_is_home). What it has written
       itself it finds, unless another thread receives since; and that one writes a number that is not
       its own. If both happens at one instant, either answer is right. */
    atomic_store_explicit(&bell->home, dss_thread(), memory_order_relaxed);
    uint64_t flag = atomic_load(&bell->flag);
    while (!atomic_compare_exchange_weak(&bell->flag, &flag, flag & 1 ? flag + 2 : flag + 1)) {
    }
}

void dss_bell_clear(int readable) {
    char taken[64];
    while (read(readable, taken, sizeof(taken)) == (long)sizeof(taken)) {
    }
}

void dss_bell_set_home(dss_bell *bell, uint64_t thread) {
    uint64_t nobody = 0; /* a swap, so that it never replaces what arming has written */
    atomic_compare_exchange_strong(&bell->home, &nobody, thread);
}

bool dss_bell_is_home(dss_bell *bell) { return atomic_load(&bell->home) == dss_thread(); }

uint64_t dss_bell_failures(dss_bell *bell) { return atomic_load(&bell->failures); }

uint64_t dss_bell_gone(dss_bell *bell) { return atomic_load(&bell->gone); }

/* -- Its descriptors: for Python's threads, one at a time ---------------------------------------- */

static bool put_outlet(dss_bell *bell, unsigned place, int fd, int kind) {
    outlet *out = calloc(1, sizeof(*out));
    if (!out) {
        return false;
    }
    out->kind = kind;
    out->older = atomic_load(&bell->outlets[place]); /* a sender may look at it still */
    atomic_init(&out->fd, fd);
    atomic_init(&out->open, true);
    atomic_store(&bell->outlets[place], out);
    return true;
}

static void close_outlet(outlet *out) {
    if (out && atomic_exchange(&out->open, false) && atomic_load(&out->writers) == 0) {
        close_once(out);
    }
}

bool dss_pair(int ends[2]) {
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) {
        return false;
    }
    for (int end = 0; end < 2; end++) {
        fcntl(ends[end], F_SETFD, FD_CLOEXEC);
        fcntl(ends[end], F_SETFL, O_NONBLOCK);
#ifdef SO_NOSIGPIPE
        int yes = 1;
        setsockopt(ends[end], SOL_SOCKET, SO_NOSIGPIPE, &yes, sizeof(yes));
#endif
    }
    return true;
}

bool dss_bell_open(dss_bell *bell, int *readable) {
    int ends[2];
#ifdef DSS_LINUX
    ends[0] = ends[1] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (ends[0] < 0) {
        return false;
    }
    int kind = DSS_COUNTER;
#else
    if (!dss_pair(ends)) {
        return false;
    }
    int kind = DSS_BYTES;
    atomic_store(&bell->readable, ends[0]);
#endif
    if (!put_outlet(bell, 0, ends[1], kind)) {
        close(ends[1]);
        if (ends[0] != ends[1]) {
            close(atomic_exchange(&bell->readable, -1));
        }
        errno = ENOMEM;
        return false;
    }
    *readable = ends[0];
    return true;
}

bool dss_bell_connect(dss_bell *bell, unsigned place, int fd) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* whoever gave it may close it */
    if (own < 0) {
        return false;
    }
    outlet *before = atomic_load(&bell->outlets[place]);
    if (!put_outlet(bell, place, own, DSS_DATAGRAM)) {
        close(own);
        errno = ENOMEM;
        return false;
    }
    close_outlet(before);
    return true;
}

void dss_bell_disconnect(dss_bell *bell, unsigned place) {
    close_outlet(atomic_load(&bell->outlets[place])); /* it stays there, and is not written to */
}

void dss_bell_close(dss_bell *bell) {
    for (unsigned place = 0; place < PLACES; place++) {
        dss_bell_disconnect(bell, place);
    }
    int readable = atomic_exchange(&bell->readable, -1);
    if (readable >= 0) {
        close(readable);
    }
}

dss_bell *dss_bell_new(void) {
    dss_bell *bell = calloc(1, sizeof(*bell));
    if (bell) {
        atomic_init(&bell->holds, 1);
        atomic_init(&bell->flag, 1); /* armed: the first item wakes, whoever has looked before */
        atomic_init(&bell->readable, -1);
    }
    return bell;
}

void dss_bell_hold(dss_bell *bell) { atomic_fetch_add(&bell->holds, 1); } /* the caller has it */

void dss_bell_drop(dss_bell *bell) {
    /* It releases and acquires: what the others have done with it is before the last one frees it. */
    if (atomic_fetch_sub(&bell->holds, 1) != 1) {
        return;
    }
    dss_bell_close(bell); /* nobody is inside of a ring of its any more */
    for (unsigned place = 0; place < PLACES; place++) {
        outlet *out = atomic_load(&bell->outlets[place]);
        while (out) {
            outlet *older = out->older;
            free(out);
            out = older;
        }
    }
    free(bell);
}
