/* The queue in C, its flag and its close: senders that may be killed anywhere, a receiver that sleeps.
 *
 * What is not in it: rounds, and which cells are free. A slot is used once.
 */

#ifndef SENDERS
#define SENDERS 2
#endif
#ifndef ITEMS
#define ITEMS 2                      /* of each sender */
#endif
#ifndef LIMIT
#define LIMIT 2
#endif
#ifndef KILLS
#define KILLS 0
#endif
#ifndef CLOSES
#define CLOSES 0
#endif
#define SLOTS (SENDERS * ITEMS + 1)
#define EMPTY 0
#define LAST 255

byte slot[SLOTS];                    /* EMPTY, LAST, or the sender + 1 */
byte tail = 0, head = 0;             /* where to look */
byte seen = 0;                       /* "head_seen" */
bool closing = false;                /* the close bit in the tail */
byte flag = 1;                       /* odd while it is armed */
bool readable = false;               /* the descriptor */
byte accepted = 0, taken = 0;        /* how many */
byte unheard[3];                     /* how many items of each that lives wait to be taken */
byte living = SENDERS;               /* those that may put something still */
byte kills = KILLS;
bool ended = false, called = false;

#define ALL_OF_THE_LIVING_ARE_TAKEN (living == 0 && unheard[0] + unheard[1] + unheard[2] == 0)

inline may_die() {                   /* between any two steps */
    if
    :: atomic { kills > 0 -> kills--; living--; unheard[me] = 0; dead = true }; goto end
    :: skip
    fi
}

inline move_tail(position) {         /* move_tail in ring.c */
    atomic { if :: tail == position -> tail++ :: else fi }
}

inline ring() {                      /* dss_bell_ring in bell.c */
    was = flag;
    if
    :: was % 2 == 1 ->
        may_die();
#ifdef TAKE_THE_FLAG_DOWN_FIRST
        atomic { if :: flag == was -> flag++ :: else fi };
        may_die();
        readable = true
#else
        readable = true;             /* write, and then */
        may_die();
        atomic { if :: flag == was -> flag++ :: else fi }
#endif
    :: else
    fi
}

proctype Sender(byte me) {           /* dss_ring_put in ring.c */
    byte t, h, was, sent = 0;
    bool dead = false;
    do
    :: sent == ITEMS -> break
    :: else ->
        may_die();
        atomic { t = tail; if :: closing -> goto refused :: else fi };
#ifndef WITHOUT_A_BOUND
        h = seen;                    /* a head that somebody has read */
        if
        :: t >= h + LIMIT ->
            h = head;                /* after the tail */
            seen = h;
            if
            :: t >= h + LIMIT -> (head != h || closing); goto again   /* waits for room, and tries again */
            :: else
            fi
        :: else
        fi;
#endif
        may_die();
#ifdef RING_BEFORE_THE_SWAP
        ring();
#endif
#ifdef CLAIM_AND_FILL_THEN
        atomic { if :: tail == t && slot[t] != LAST -> tail++ :: else -> goto again fi };
        may_die();
        atomic { slot[t] = me + 1; accepted++; unheard[me]++ };
#else
        atomic {                     /* the swap */
            if
            :: slot[t] == EMPTY ->
                slot[t] = me + 1; accepted++; unheard[me]++;
                assert(t < head + LIMIT)
            :: slot[t] == LAST -> goto refused
            :: else -> goto behind
            fi
        };
        may_die();
        move_tail(t);
#endif
#ifndef RING_BEFORE_THE_SWAP
        may_die();
        ring();
#endif
        sent++;
        goto again;
behind: move_tail(t);
again:  skip
    od;
refused:
    atomic { if :: !dead -> living-- :: else fi };
end: skip
}

proctype Closer() {                  /* dss_ring_close in ring.c */
    byte t;
    closing = true;
#ifndef CLOSE_WITH_THE_BIT_ALONE
    do
    :: t = tail;
       atomic { if :: slot[t] == EMPTY -> slot[t] = LAST; break :: slot[t] == LAST -> break :: else fi };
       move_tail(t)
    od;
#endif
    atomic { ended = true; called = true }      /* Registry.refuse wakes the receiver by a call */
}

proctype Receiver() {
    byte had;
    do
    :: atomic { slot[head] != EMPTY && slot[head] != LAST ->      /* look and claim */
           had = slot[head] - 1;
           if :: unheard[had] > 0 -> unheard[had]-- :: else fi;
           taken++ };
       move_tail(head);
       head++
    :: slot[head] == EMPTY || slot[head] == LAST ->
       if
#ifdef CLOSE_WITH_THE_BIT_ALONE
       :: ended && slot[head] == EMPTY -> goto over
#endif
       :: slot[head] == LAST -> goto over
       :: else
       fi;
#ifdef LOOK_BEFORE_ARMING
       if :: slot[head] != EMPTY -> goto more :: else fi;
#endif
#ifndef CLEAR_AFTER_ARMING
       readable = false;
#endif
#ifdef KEEP_THE_NUMBER
       atomic { if :: flag % 2 == 0 -> flag = flag - 1 :: else fi };
#else
       atomic { if :: flag % 2 == 1 -> flag = flag + 2 :: else -> flag = flag + 1 fi };
#endif
#ifdef CLEAR_AFTER_ARMING
       readable = false;
#endif
#ifndef LOOK_BEFORE_ARMING
       if :: slot[head] != EMPTY -> goto more :: else fi;
#endif
       if
       :: readable ->                        /* sleeps until then */
          if :: readable = false :: skip fi  /* if nobody arms in this wake */
       :: called -> called = false
       :: ALL_OF_THE_LIVING_ARE_TAKEN && !CLOSES -> goto done
       fi;
more:  skip
    od;
over:
    assert(taken == accepted);
    (living == 0);                   /* all senders are back */
    assert(taken == accepted);
done: skip
}

init {
    atomic {
        byte n;
        for (n : 0 .. SENDERS - 1) { run Sender(n) };
        run Receiver();
        if :: CLOSES -> run Closer() :: else fi
    }
}
