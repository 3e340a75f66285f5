/* The bell: senders in threads of their own, and an event loop with receivers that sleep, are woken
 * and are cancelled, until all has come or the senders are closed. No wake is lost, there is never
 * more than one, and no item is lost or doubled.
 *
 * A statement is a step of the real code, or an atomic block is: one call of a method of a deque or
 * a dict. What runs in the event loop is one process, because it is one thread there; a sender may
 * come between any two of its steps. What the loop alone looks at are its own variables: spin then need
 * not try its steps in every order with those of the senders.
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
#ifndef CLOSES
#define CLOSES 0 /* are the senders closed, at any moment? */
#endif
#define RECEIVERS 2
#define ALL (SENDERS * ITEMS)
#define OVER(r) (task[r] == GONE || task[r] == ENDED)

mtype = { RUNS, SLEEPS, WOKEN, TAKES, GONE, ENDED };

chan items = [ALL] of { byte };      /* Line.entries */
bool bell = false;                   /* Bell.armed: is the wake in it? */
byte wakes = 0;                      /* called, and not arrived yet */
bool open = true;                    /* Registry.open_lanes; and Lane.refusal, written just before */
byte put = 0, put_before = 0;        /* in all; and before the senders were closed */

inline notify() {                                           /* Bell.ring */
#ifdef LEAVE_THE_BELL_ARMED
    ring = bell;
#else
    atomic { ring = bell; bell = false };                   /* dict.pop */
#endif
    if :: ring -> wakes++ :: else fi;                       /* make_wake: call_soon */
    assert(wakes <= 1)
}

proctype Sender(byte me) {
    byte n = 0;
    bool ring;
    do
    :: n < ITEMS ->
#if CLOSES
        if :: open :: else -> break fi;                     /* Lane.refusal */
#endif
#ifdef RING_BEFORE_PUT
        notify();
        atomic { items ! me * ITEMS + n; put++ };
#else
        atomic { items ! me * ITEMS + n; put++ };           /* quick_sender: append */
        if :: bell -> notify() :: else fi;                  /* a plain look, then dict.pop */
#endif
        n++
    :: else -> break
    od
}

proctype Closer() {                                         /* Registry.refuse */
    bool ring;
#ifdef RING_BEFORE_THE_END
    notify();
#endif
    atomic { open = false; put_before = put };
#ifndef RING_BEFORE_THE_END
    notify()
#endif
}

inline arm() { bell = true }                                         /* Bell.arm */
inline disarm() { atomic { had = bell; bell = false; armed = armed && !had } }  /* Bell.disarm */

inline wake_up() { line ? who; task[who] = WOKEN; roused++; who = 0 }

inline rouse() {                                                     /* Sleepers._rouse */
    do
    :: fin = !open;
       atomic {
           many = len(items);
           many = (many > roused -> many - roused : 0);
           do
           :: len(line) > 0 && (many > 0 || fin) -> wake_up(); many = (many > 0 -> many - 1 : 0)
           :: len(line) == 0 || (many == 0 && !fin) -> break
           od;
           many = 0; fin = false
       };
       if
       :: len(line) == 0 && armed -> disarm(); break
       :: len(line) == 0 && !armed -> break
       :: len(line) > 0 && armed -> break
       :: len(line) > 0 && !armed ->
#ifdef LOOK_BEFORE_ARMING
           if :: len(items) > roused || !open :: else -> armed = true; arm(); break fi
#else
           atomic { armed = true; arm() };
#ifdef WITHOUT_A_SECOND_LOOK
           break
#else
           if
#ifdef FORGET_THE_END_IN_THE_SECOND_LOOK
           :: len(items) <= roused -> break
#else
           :: len(items) <= roused && open -> break
#endif
           :: else -> disarm(); if :: !had -> break :: else fi
           fi
#endif
#endif
       fi
    od;
    had = false
}

inline take() {
    assert(!got[id]);
    got[id] = true;
    assert(id % ITEMS == next_of[id / ITEMS]);
    next_of[id / ITEMS]++;
    received++;
    id = 0
}

#ifdef CHECKPOINT_WHILE_TAKING
inline take_at_last(r) {
    atomic {
        if :: nempty(items) -> items ? _ :: empty(items) fi;
        id = peeked[r];
        take();
        task[r] = RUNS
    }
}
#endif

inline receive(r) {                                 /* Receiver.receive, Sleepers.sleep */
#ifndef LOOK_FOR_THE_END_LAST
    fin = !open;
#endif
    if
#ifdef CHECKPOINT_WHILE_TAKING
    :: atomic { nempty(items) -> items ? <peeked[r]>; task[r] = TAKES; fin = false }
#else
    :: atomic { nempty(items) ->
#ifdef TAKE_THE_NEWEST
        many = len(items) - 1;
        do
        :: many > 0 -> items ? id; items ! id; many--
        :: many == 0 -> break
        od;
#endif
        items ? id;                                 /* deque.popleft */
        take();
        fin = false
       }
#endif
    :: empty(items) ->                              /* WouldBlock */
#ifdef LOOK_FOR_THE_END_LAST
        fin = !open;
#endif
        if
        :: fin -> atomic { assert(received >= put_before); task[r] = ENDED; fin = false }
        :: else -> atomic { line ! r; task[r] = SLEEPS }; rouse()
        fi
    fi
}

inline go_on(r) { task[r] = RUNS; roused-- }        /* Sleepers.sleep, after the nap */

inline cancel(r) {                                  /* Sleepers.sleep, except BaseException */
    atomic {
        cancels++;
        if
        :: task[r] == SLEEPS -> line ?? eval(r)
        :: task[r] != SLEEPS -> roused--
        fi;
        if
        :: task[r] = RUNS                           /* it tries again, */
        :: !OVER(1 - r) -> task[r] = GONE           /* or the other one is on its own now */
        fi
    };
#ifndef KEEP_THE_WAKE
    rouse()
#endif
}

inline wake_arrived() {                             /* Sleepers.wake_arrived */
    atomic { wakes--; armed = false };
    if
    :: len(line) == 1 -> atomic { wake_up() }
    :: len(line) != 1 -> rouse()
    fi
}

active proctype Loop() {
    chan line = [RECEIVERS] of { byte }; /* Sleepers._asleep */
    mtype task[RECEIVERS] = RUNS;
    byte roused = 0;                     /* Sleepers._roused */
    bool armed = false;                  /* Sleepers._armed */
    bool got[ALL];
    byte received = 0;
    byte next_of[SENDERS];               /* of each sender: they arrive in its order */
    byte r, id, many, who;
    byte cancels = 0;
    bool had, fin;
#ifdef CHECKPOINT_WHILE_TAKING
    byte peeked[RECEIVERS];
#endif
    do
#ifdef CHECKPOINT_WHILE_TAKING
    :: task[0] == TAKES -> r = 0; take_at_last(r)
    :: task[1] == TAKES -> r = 1; take_at_last(r)
#endif
    :: wakes > 0 -> wake_arrived()
    :: task[0] == RUNS && (CLOSES || received < ALL) -> r = 0; receive(r)
    :: task[1] == RUNS && (CLOSES || received < ALL) -> r = 1; receive(r)
    :: task[0] == WOKEN -> atomic { r = 0; go_on(r) }
    :: task[1] == WOKEN -> atomic { r = 1; go_on(r) }
    :: (task[0] == SLEEPS || task[0] == WOKEN) && cancels < CANCELS -> r = 0; cancel(r)
    :: (task[1] == SLEEPS || task[1] == WOKEN) && cancels < CANCELS -> r = 1; cancel(r)
    :: cancels < CANCELS -> cancels = CANCELS /* nobody else is: or one might hide a lost wake */
    :: (CLOSES -> OVER(0) && OVER(1) : received == ALL) && wakes == 0 -> break
    od
}

init {
    byte n = 0;
    atomic {
        do :: n < SENDERS -> run Sender(n); n++ :: else -> break od;
        if :: CLOSES -> run Closer() :: !CLOSES fi
    }
}
