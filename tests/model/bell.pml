/* The bell: senders in threads of their own, and an event loop with receivers that sleep, are woken
 * and are cancelled. No wake is lost, there is never more than one, and no item is lost or doubled.
 *
 * A statement is a step of the real code, or an atomic block is: one call of a method of a deque or
 * a dict. What runs in the event loop is one process, because it is one thread there; a sender may
 * come between any two of its steps.
 */

#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef ITEMS
#define ITEMS 2 /* of each sender */
#endif
#ifndef CANCELS
#define CANCELS 1 /* how often a receiver is cancelled, at most */
#endif
#define RECEIVERS 2
#define ALL (SENDERS * ITEMS)

mtype = { RUNS, SLEEPS, WOKEN, GONE };

chan items = [ALL] of { byte };      /* Mailbox.items */
bool bell = false;                   /* Mailbox.bell: is the wake in it? */
byte wakes = 0;                      /* called, and not arrived yet */
chan line = [RECEIVERS] of { byte }; /* Sleepers._asleep */
mtype task[RECEIVERS] = RUNS;
byte roused = 0;                     /* Sleepers._roused */
bool armed = false;                  /* Sleepers._armed */
bool got[ALL];
byte received = 0;
byte next_of[SENDERS];               /* the next item of each sender: they arrive in its order */

proctype Sender(byte me) {
    byte n = 0;
    bool ring;
    do
    :: n < ITEMS ->
#ifdef RING_BEFORE_PUT
        atomic { ring = bell; bell = false };
        if :: ring -> wakes++ :: else fi;
        items ! me * ITEMS + n;
#else
        items ! me * ITEMS + n;             /* quick_sender: append */
#ifdef LEAVE_THE_BELL_ARMED
        ring = bell;
#else
        atomic { ring = bell; bell = false }; /* quick_sender: take_bell, dict.pop */
#endif
        if :: ring -> wakes++ :: else fi;   /* make_wake: call_soon */
#endif
        assert(wakes <= 1);
        n++
    :: else -> break
    od
}

inline arm() { bell = true }                                         /* Mailbox.arm */
inline disarm(had) { had = bell; bell = false }                      /* Mailbox.disarm */

inline wake_up() { line ? who; task[who] = WOKEN; roused++ }

inline rouse() {                                                     /* Sleepers._rouse */
    do
    :: atomic {
           many = len(items);
           many = (many > roused -> many - roused : 0);
           do
           :: nempty(line) && many > 0 -> wake_up(); many--
           :: else -> break
           od;
           many = 0
       };
       if
       :: empty(line) && armed -> atomic { disarm(had); armed = !had }; break
       :: empty(line) && !armed -> break
       :: nempty(line) && armed -> break
       :: else ->
#ifdef LOOK_BEFORE_ARMING
           if :: len(items) > roused -> skip :: else -> armed = true; arm(); break fi
#else
           atomic { armed = true; arm() };
#ifdef WITHOUT_A_SECOND_LOOK
           break
#else
           if
           :: len(items) <= roused -> break
           :: else -> atomic { disarm(had); armed = !had }; if :: !had -> break :: else fi
           fi
#endif
#endif
       fi
    od
}

inline receive(r) {                                 /* Receiver.receive, Sleepers.sleep */
    if
    :: atomic { nempty(items) ->
        items ? id;
        assert(!got[id]);
        got[id] = true;
        assert(id % ITEMS == next_of[id / ITEMS]);
        next_of[id / ITEMS]++;
        received++;
        id = 0
       }
    :: atomic { empty(items) -> line ! r; task[r] = SLEEPS }; /* WouldBlock */
        rouse()
    fi
}

inline go_on(r) { task[r] = RUNS; roused-- }        /* Sleepers.sleep, after the nap */

inline cancel(r) {                                  /* Sleepers.sleep, except BaseException */
    atomic {
        cancels++;
        if
        :: task[r] == SLEEPS -> line ?? eval(r)
        :: else -> roused--
        fi;
        if
        :: task[r] = RUNS                           /* it tries again, */
        :: task[1 - r] != GONE -> task[r] = GONE    /* or the other one is on its own now */
        fi
    };
#ifndef KEEP_THE_WAKE
    rouse()
#endif
}

inline wake_arrived() {                             /* Sleepers.wake_arrived */
    atomic { wakes--; armed = false };
    if
    :: len(line) == 1 -> wake_up()
    :: else -> rouse()
    fi
}

active proctype Loop() {
    byte r, id, many, who;
    byte cancels = 0;
    bool had;
    do
    :: wakes > 0 -> wake_arrived()
    :: task[0] == RUNS && received < ALL -> r = 0; receive(r)
    :: task[1] == RUNS && received < ALL -> r = 1; receive(r)
    :: task[0] == WOKEN -> atomic { r = 0; go_on(r) }
    :: task[1] == WOKEN -> atomic { r = 1; go_on(r) }
    :: (task[0] == SLEEPS || task[0] == WOKEN) && cancels < CANCELS -> r = 0; cancel(r)
    :: (task[1] == SLEEPS || task[1] == WOKEN) && cancels < CANCELS -> r = 1; cancel(r)
    :: cancels < CANCELS -> cancels = CANCELS /* nobody else is: or one might hide a lost wake */
    :: received == ALL && wakes == 0 -> break
    od
}

init {
    byte n = 0;
    atomic { do :: n < SENDERS -> run Sender(n); n++ :: else -> break od }
}
