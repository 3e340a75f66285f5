/* A request: asked, with or without room for it, received, answered by two at once, given up, refused
 * by senders that are closed and by the end; in any order.
 *
 * It ends exactly once, in the way that the asker is told; nobody waits for ever; and a handler that
 * watches hears of an asker that has gone.
 */

mtype = { OPEN, ANSWERED, UNANSWERED, RELEASED, ABANDONED, ACCEPTED, WITHDRAWN };

bool other = false;                  /* the one place is taken by an item of somebody else */
byte room = 0;                       /* Places.free */
bool waiting = false;                /* the request in Places.waiting, */
bool in_line = false;                /* and Question.waiting */
mtype place = OPEN;                  /* WaitForPlace._outcome */
bool queued = false;                 /* the request in Line.entries */
mtype outcome = OPEN;                /* Question._outcome */
bool woken = false;                  /* the lock that the asker waits for was released */
bool blocked = false;                /* is the question in Inside.waiters? */
bool refusal = false;                /* Lane.refusal */
bool open = true;                    /* Registry.open_lanes: or is it the end of the stream? */
bool ended = false;                  /* Registry.ended */
bool watching = false;               /* Question._watchers */
bool told = false;                   /* the watcher was called */
bool works = false;                  /* a handler works on it, and watches */
byte wins = 0;                       /* how many were told that their ending is the one */
mtype heard = OPEN;                  /* what the asker was told */
byte tokens = 0;                     /* who holds the token */

inline tell_watchers() {                              /* Question._tell_watchers: dict.popitem */
    atomic {
        if
        :: watching -> watching = false; told = true
        :: else
        fi
    }
}

inline settle(ending) {                               /* Question.settle */
    atomic {                                          /* dict.setdefault */
        if
        :: outcome == OPEN -> outcome = ending; won = true
#ifdef WITHOUT_SETDEFAULT
        :: outcome != OPEN -> outcome = ending; won = true
#else
        :: else -> won = false
#endif
        fi
    };
    if
    :: won ->
        wins++;
        if :: ending != ABANDONED -> woken = true :: else fi;
#ifndef TELL_NO_WATCHER
        if :: ending == RELEASED || ending == ABANDONED -> tell_watchers() :: else fi
#endif
    :: else
    fi
}

inline drop_token() {                                 /* Request.__del__ */
    atomic { tokens--; last = (tokens == 0) };
#ifndef FORGET_SILENTLY
    if
    :: last -> settle(UNANSWERED)
    :: else
    fi
#endif
}

inline put() { atomic { tokens++; queued = true } }   /* Places.put, after it has its place */

inline admit() {                                      /* Places.admit */
    do
    :: !waiting -> break
    :: waiting ->
        if
        :: atomic { room > 0 -> room-- };
            if
            :: atomic { waiting -> waiting = false };
                atomic {
                    if :: place == OPEN -> place = ACCEPTED :: else fi;
                    accepted = (place == ACCEPTED)
                };
                if
                :: accepted ->
                    put();
#ifndef WITHOUT_A_LOOK_AFTER_ADMITTING
                    if :: refusal -> settle(RELEASED) :: else fi;
#endif
                    break
                :: else -> room++
                fi
            :: atomic { !waiting -> room++ }
            fi
        :: atomic { room == 0 -> skip }; break
        fi
    od
}

inline refuse() {                                     /* Question.refuse: gracefully */
    if
    :: in_line ->
        atomic {
            if :: place == OPEN -> place = WITHDRAWN :: else fi;
            accepted = (place == ACCEPTED)
        };
        if
        :: accepted                                   /* what was accepted is still answered */
        :: else -> settle(RELEASED)
        fi
    :: else
    fi
}

proctype Asker() {
    bool won, last, accepted;
    blocked = true;                                   /* Mailbox.enter */
    if
    :: refusal -> settle(RELEASED); goto end
    :: else
    fi;
    if                                                /* Mailbox.ask */
    :: atomic { room > 0 -> room-- };
        put();
#ifndef WITHOUT_A_LOOK_AFTER_THE_PUT
        if :: refusal -> settle(RELEASED) :: else fi
#endif
    :: atomic { room == 0 -> skip };
        in_line = true;
        if
        :: refusal -> refuse()
        :: else -> waiting = true; admit()            /* Places.wait */
        fi
    fi;
    if                                                /* waiting.wait_for_answer */
    :: woken
#ifndef PATIENT
    :: true ->                                        /* its time is over */
#ifdef GO_WITHOUT_SETTLING
        heard = ABANDONED; goto gone
#else
        settle(ABANDONED);
        if
        :: won
        :: else -> woken
        fi
#endif
#endif
    fi;
end:
    heard = outcome;
#if defined(GO_WITHOUT_SETTLING) && !defined(PATIENT)
gone:
#endif
    if                                                /* Mailbox.leave */
    :: in_line ->
        atomic { if :: place == OPEN -> place = WITHDRAWN :: else fi };
        waiting = false
    :: else
    fi;
    blocked = false
}

proctype Handler() {
    bool won, last, accepted, finished;
    do
    :: finished = !open;                              /* Receiver.receive_nowait */
        if
        :: ended ->                                   /* nobody receives any more: Mailbox.sweep */
            (!blocked || outcome != OPEN);
            if
            :: atomic { queued -> queued = false }; break
            :: atomic { !queued -> skip }; goto end
            fi
        :: atomic { other -> other = false }; room++; admit()
        :: atomic { !other && queued -> queued = false }; room++; break
        :: atomic { !other && !queued -> skip };
            if
            :: finished || heard != OPEN -> goto end  /* there is nothing more to come */
            :: else -> (other || queued || !open || heard != OPEN)    /* Sleepers.sleep */
            fi
        fi
    od;
    if
    :: outcome == RELEASED || outcome == ABANDONED    /* Line.open: is_over */
    :: else ->
        works = true;
        watching = true;                              /* Question.watch */
#ifndef WATCH_WITHOUT_A_LOOK
        if
        :: outcome == RELEASED || outcome == ABANDONED -> tell_watchers()
        :: else
        fi;
#endif
        atomic { tokens++; run Helper() };            /* it passes the token on */
        if
        :: settle(ANSWERED)                           /* Request.reply */
        :: true                                       /* or it forgets it */
        fi
    fi;
    drop_token();
end:
    skip
}

proctype Helper() {                                   /* another one who holds the token */
    bool won, last;
    if
    :: settle(ANSWERED)
    :: true
    fi;
    drop_token()
}

proctype Aborter() {                                  /* Mailbox.take_back, Places.leave */
    bool won, accepted;
    if
    :: atomic { other -> other = false }; room++; admit()
    :: true
    fi
}

proctype Closer() {                                   /* close_senders: Registry.refuse_all */
    bool won, accepted, copy;
    refusal = true;
    copy = blocked;                                   /* list(self.blocked) */
    if
    :: copy -> refuse()
    :: else
    fi;
    open = false
}

proctype Ender() {
    bool won, copy;
    ended = true;                                     /* Mailbox.end */
    refusal = true;
#ifndef RELEASE_NOBODY
    copy = blocked;                                   /* list(self.blocked) */
    if
    :: copy -> settle(RELEASED)                       /* Question.refuse */
    :: else
    fi;
#endif
    open = false
}

init {
    atomic {
        if :: room = 1 :: other = true fi;
        run Asker();
        run Handler();
        run Aborter();
        if :: run Closer() :: true fi;
        if :: run Ender() :: true fi
    };
    (_nr_pr == 1);                                    /* nobody waits for ever */
    assert(wins == 1);
    assert(heard == outcome);
    assert(!works || told || (outcome != RELEASED && outcome != ABANDONED))
}
