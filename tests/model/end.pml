/* The end: what is put while the hub is swept, by senders that found it open, is handed back once.
 *
 * Meanwhile the receiving thread may be arming the bell, which the sweep uses, too.
 */

#ifndef SENDERS
#define SENDERS 3
#endif

mtype = { NOTHING, WAKE, SWEEP };

chan items = [SENDERS] of { byte };  /* Line.entries */
mtype bell = NOTHING;                /* Bell.armed */
bool swept = false;                  /* Bell.closed */
bool refusal = false;                /* Lane.refusal */
bool handed_back[SENDERS];
byte accepted = 0, back = 0;

inline hand_back_all() {                        /* Mailbox._hand_back_all */
    do
#ifdef PEEK_THEN_POP
    :: items ? <id>;                            /* somebody else may see the same one */
        atomic {
            if :: nempty(items) -> items ? _ :: empty(items) fi;
            assert(!handed_back[id]); handed_back[id] = true; back++; id = 0
        }
#else
    :: atomic { items ? id ->                   /* deque.popleft */
           assert(!handed_back[id]); handed_back[id] = true; back++; id = 0 }
#endif
    :: empty(items) -> break
    od
}

inline sweep() {                                /* Mailbox.sweep */
    swept = true;
#ifdef HAND_BACK_FIRST
    hand_back_all();
    bell = SWEEP
#else
#ifndef WITHOUT_THE_SWEEP_IN_THE_BELL
    bell = SWEEP;
#endif
    hand_back_all()
#endif
}

proctype Sender(byte me) {
    byte id;
    mtype ring;
    if
    :: refusal -> goto end
    :: else
    fi;
    atomic { items ! me; accepted++ };          /* Places.put */
    if
    :: bell == NOTHING -> goto end              /* quick_sender: a plain look */
    :: else
    fi;
    atomic { ring = bell; bell = NOTHING };     /* dict.pop */
    if
    :: ring == SWEEP -> sweep()
    :: else
    fi;
end:
    skip
}

proctype Ender() {
    byte id;
    refusal = true;                             /* Mailbox.end */
    sweep()
}

proctype Receiver() {
    byte id;
    bell = WAKE;                                /* Bell.arm */
#ifndef ARM_WITHOUT_A_LOOK
    if
    :: swept -> sweep()
    :: else
    fi
#endif
}

init {
    byte n = 0;
    atomic {
        do
        :: n < SENDERS -> run Sender(n); n++
        :: else -> break
        od;
        run Ender();
        run Receiver()
    };
    (_nr_pr == 1);
    assert(empty(items) && back == accepted)
}
