/* Waiting for room in C: the word that a sender sleeps on, and the note that it leaves first.
 *
 * The sleep is a futex's: it begins only if the word is what was read, as one step, and ends when
 * somebody wakes it, whatever the word is by then. A sleep that wants many places ends by itself,
 * too. The queue itself is a number here: see inlet.pml.
 */

#ifndef SENDERS
#define SENDERS 2                    /* each waits until it has put all of its items */
#endif
#ifndef ITEMS
#define ITEMS 2                      /* of each */
#endif
#ifndef CLOSES
#define CLOSES 0
#endif
#ifndef LIMIT
#define LIMIT 2
#endif
#define MANY 2                       /* places that are wanted at first */

byte put = 0, claimed = 0;           /* how many items; put - claimed are in the queue */
byte word = 0;                       /* "room" */
byte note = 0;                       /* "asleep": 0, or for how many places somebody is to be woken */
byte waiting = 0;                    /* "want_room" */
bool sleeps[SENDERS];
byte living = SENDERS;
bool closed = false;

inline wake_one() {                  /* wake_for_room in sender.c */
    word++;
    atomic {
        for (n : 0 .. SENDERS - 1) { if :: sleeps[n] -> sleeps[n] = false; break :: else fi }
    }
}

inline leave_note() {
    do
    :: there = note;
       if
       :: there != 0 && there <= wanted -> break
       :: else -> atomic { if :: note == there -> note = wanted; break :: else fi }
       fi
    od
}

inline try() {                       /* dss_ring_put; the swap */
    atomic {
        if
        :: closed -> goto refused
        :: !closed && put < claimed + LIMIT -> put++; has_put = true
        :: !closed && put >= claimed + LIMIT
        fi
    }
}

proctype Sender(byte me) {           /* put_when_there_is_room in sender.c */
    byte wanted, seen, there, n, sent = 0;
    bool has_put, others;
    do
    :: sent == ITEMS -> break
    :: else ->
        wanted = MANY;
        has_put = false;
        waiting++;
        do
        ::
#ifdef TRY_BEFORE_THE_NOTE
           seen = word;
           try();
           if :: has_put -> break :: else fi;
           leave_note();
#else
#ifdef READ_THE_WORD_LAST
           leave_note();
           try();
           if :: has_put -> break :: else fi;
           seen = word;
#else
           seen = word;
           leave_note();
           try();
           if :: has_put -> break :: else fi;
#endif
#endif
           atomic { if :: word == seen -> sleeps[me] = true :: else fi };
           if
           :: !sleeps[me]
#ifndef WANT_MANY_FOR_EVER
           :: wanted == MANY -> sleeps[me] = false       /* a millisecond is over */
#endif
           fi;
#ifndef WANT_MANY_FOR_EVER
           wanted = 1
#endif
        od;
        atomic { others = waiting > 1; waiting-- };
#ifndef LEAVE_SILENTLY
        if :: others -> wake_one() :: else fi;
#endif
        sent++
    od;
    goto gone;
refused:
    atomic { others = waiting > 1; waiting-- };
    if :: others -> wake_one() :: else fi;
gone:
    living--
}

inline hand_over() {                 /* dss_waits_room */
    wanted = note;
    if
    :: wanted != 0 && put - claimed + wanted <= LIMIT ->
        atomic { had = note; note = 0 };
        if :: had != 0 -> wake_one() :: else fi
    :: else
    fi
}

proctype Receiver() {                /* takes while there is something, and then sleeps */
    byte wanted, had, n;
    do
    :: put > claimed ->
#ifdef LOOK_AT_THE_NOTE_FIRST
        hand_over();
        claimed++;
        if :: true -> (put == claimed + LIMIT || living == 0 || closed) :: true fi
#else
        claimed++;
        if
        :: hand_over();
           if
           :: true -> (put == claimed + LIMIT || living == 0 || closed)    /* rests until it is full */
           :: true
           fi
        :: put > claimed             /* one more of the same lot */
        fi
#endif
    :: closed || (living == 0 && put == claimed) -> break
    od
}

proctype Closer() {                  /* dss_ring_close, dss_waits_release */
    byte n;
    closed = true;
    word++;
#ifndef RELEASE_NOBODY
    atomic { for (n : 0 .. SENDERS - 1) { sleeps[n] = false } }
#endif
}

init {
    atomic {
        byte k;
        for (k : 0 .. SENDERS - 1) { run Sender(k) };
        run Receiver();
        if :: CLOSES -> run Closer() :: else fi
    }
}
