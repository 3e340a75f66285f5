/* Places: senders that wait for room, with and without a time limit, and the end in the middle of it.
 *
 * There are never more items than places, nobody waits for ever, who was told that the item was
 * accepted is right, and so is who was told otherwise.
 */

#ifndef SENDERS
#define SENDERS 3
#endif
#ifndef CLOSES
#define CLOSES 1
#endif
#define PLACES 1

mtype = { OPEN, ACCEPTED, REFUSED, WITHDRAWN };

byte room = PLACES;                         /* Places.free */
chan items = [SENDERS] of { byte };         /* Line.entries */
chan waiting = [SENDERS] of { byte };       /* Places.waiting */
bool blocked[SENDERS];                      /* Inside.waiters */
mtype outcome[SENDERS] = OPEN;              /* WaitForPlace._outcome */
bool woken[SENDERS];                        /* the lock that a sender waits for was released */
bool refusal = false;                       /* Lane.refusal */
bool told[SENDERS];                         /* its sender was told that it was accepted */
bool seen[SENDERS];                         /* was received, or is left for the sweep */
byte done = 0;

inline put(who) {                                     /* Places.put, after it has its place */
    items ! who;
    assert(len(items) <= PLACES)
}

inline settle(who, ending) {                          /* dict.setdefault */
    if
#ifdef WITHOUT_SETDEFAULT
    :: true -> outcome[who] = ending
#endif
    :: outcome[who] == OPEN -> outcome[who] = ending
    :: else
    fi
}

inline admit() {                                      /* Places.admit */
    do
    :: empty(waiting) -> break
    :: nempty(waiting) ->
        if
        :: atomic { room > 0 -> room-- };
            do
            :: atomic { empty(waiting) ->
#ifndef KEEP_THE_PLACE
                room++
#endif
               }; break
#ifdef PUT_THEN_POP
            :: atomic { waiting ? <who> };
#else
            :: atomic { waiting ? who };              /* deque.popleft */
#endif
                atomic { settle(who, ACCEPTED); accepted = (outcome[who] == ACCEPTED) };
                if
                :: accepted ->
                    put(who);
#ifdef PUT_THEN_POP
                    atomic {
                        if
                        :: waiting ?? [eval(who)] -> waiting ?? eval(who)
                        :: !waiting ?? [eval(who)]
                        fi
                    };
#endif
                    woken[who] = true;
                    break
                :: else
                fi
            od
        :: atomic { room == 0 -> skip }; break
        fi
    od
}

inline refuse(who) {                                  /* WaitForPlace.refuse */
    atomic { settle(who, REFUSED) };
    woken[who] = true
}

proctype Sender(byte me) {
    byte who;
    bool accepted;
    if
    :: refusal -> goto end
    :: else
    fi;
    if
#ifdef WITHOUT_A_PLACE
    :: true -> put(me); outcome[me] = ACCEPTED; goto end
#endif
    :: atomic { room > 0 -> room-- }; put(me); outcome[me] = ACCEPTED; goto end
    :: atomic { room == 0 -> skip }
    fi;
    blocked[me] = true;                               /* Mailbox.wait_for_place: Inside.enter */
#ifndef WITHOUT_A_LOOK_AT_THE_REFUSAL
    if
    :: refusal -> refuse(me)
    :: else ->
#endif
        waiting ! me;                                 /* Places.wait */
#ifndef WITHOUT_A_LOOK_AT_THE_ROOM
        admit()
#else
        skip
#endif
#ifndef WITHOUT_A_LOOK_AT_THE_REFUSAL
    fi
#endif
    ;
    if                                                /* waiting.wait_for_place */
    :: woken[me]
    :: me == 0 ->                                     /* this one has a time limit, which is over */
#ifdef GO_WITHOUT_WITHDRAWING
        goto gone
#else
        atomic { settle(me, WITHDRAWN) };
        if
        :: outcome[me] == WITHDRAWN
        :: else -> woken[me]                          /* it was settled just now */
        fi
#endif
    fi;
#ifdef GO_WITHOUT_WITHDRAWING
gone:
#endif
    atomic { if :: waiting ?? [eval(me)] -> waiting ?? eval(me) :: !waiting ?? [eval(me)] fi };
    blocked[me] = false;
end:
    atomic { told[me] = (outcome[me] == ACCEPTED); done++ }
}

proctype Receiver() {
    byte who, id;
    bool accepted;
    do
    :: atomic { items ? id -> assert(!seen[id]); seen[id] = true; id = 0 };
        room++;                                       /* Places.leave */
        if
        :: nempty(waiting) -> admit()
        :: empty(waiting)
        fi
    :: done == SENDERS && empty(items) -> break
    :: refusal -> break                               /* nobody receives any more */
    od
}

proctype Closer() {
    byte n;
    bool copy[SENDERS];
    refusal = true;                                   /* Registry.refuse */
#ifndef RELEASE_NOBODY
    d_step {                                          /* list(self.waiters) */
        do
        :: n < SENDERS -> copy[n] = blocked[n]; n++
        :: else -> break
        od;
        n = 0
    };
    do
    :: n < SENDERS ->
        if
        :: copy[n] -> refuse(n)
        :: else
        fi;
        n++
    :: else -> break
    od
#endif
}

init {
    byte n = 0;
    byte id;
    atomic {
        do
        :: n < SENDERS -> run Sender(n); n++
        :: else -> break
        od;
        run Receiver();
        if :: CLOSES -> run Closer() :: skip fi
    };
    (_nr_pr == 1);                                    /* all have left, so nobody waits for ever */
    atomic {
        do
        :: items ? id -> assert(!seen[id]); seen[id] = true
        :: empty(items) -> break
        od;
        n = 0;
        do
        :: n < SENDERS -> assert(seen[n] == told[n]); n++
        :: else -> break
        od
    }
}
