/* A request: asked, received, answered by two at once, given up, refused by the end; in any order.
 *
 * It ends exactly once, in the way that the asker is told; nobody waits for ever; and a handler that
 * watches hears of an asker that has gone.
 */

mtype = { OPEN, ANSWERED, UNANSWERED, RELEASED, ABANDONED };

bool queued = false, taken = false;  /* the request in Mailbox.items, and in a handler's hands */
mtype outcome = OPEN;                /* Question._outcome */
bool woken = false;                  /* the lock that the asker waits for was released */
bool blocked = false;                /* is the question in Mailbox.blocked? */
bool refusal = false;                /* Lane.refusal */
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

inline settle(ending, won) {                          /* Question.settle */
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
    :: last -> settle(UNANSWERED, won)
    :: else
    fi
#endif
}

proctype Asker() {
    bool won, last;
    blocked = true;                                   /* Mailbox.enter */
#ifndef WITHOUT_A_LOOK_AT_THE_REFUSAL
    if
    :: refusal -> settle(RELEASED, won); goto end
    :: else
    fi;
#endif
    atomic { tokens++; queued = true };               /* Mailbox.put */
    if                                                /* _asking._wait_for */
    :: woken
#ifndef PATIENT
    :: true ->                                        /* its time is over */
#ifdef GO_WITHOUT_SETTLING
        heard = ABANDONED; goto gone
#else
        settle(ABANDONED, won);
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
    blocked = false                                   /* Mailbox.leave */
}

proctype Handler() {
    bool won, last;
    do
    :: atomic { queued -> queued = false; taken = true }; break
    :: refusal ->                                     /* nobody receives any more: Mailbox.sweep */
        (blocked == false || outcome != OPEN);
        atomic {
            if
            :: queued -> queued = false; taken = true
            :: else -> goto end
            fi
        };
        break
    od;
    if
    :: outcome == RELEASED || outcome == ABANDONED -> skip  /* Mailbox.take: is_over */
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
        :: settle(ANSWERED, won)                      /* Request.reply */
        :: skip                                       /* or it forgets it */
        fi
    fi;
    drop_token();
end:
    skip
}

proctype Helper() {                                   /* another one who holds the token */
    bool won, last;
    if
    :: settle(ANSWERED, won)
    :: skip
    fi;
    drop_token()
}

proctype Ender() {
    bool won, copy;
    refusal = true;                                   /* Mailbox.end */
#ifndef RELEASE_NOBODY
    copy = blocked;                                   /* list(self.blocked) */
    if
    :: copy -> settle(RELEASED, won)                  /* Question.refuse */
    :: else
    fi
#endif
}

init {
    atomic {
        run Asker();
        run Handler();
        if :: run Ender() :: skip fi
    };
    (_nr_pr == 1);                                    /* nobody waits for ever */
    assert(wins == 1);
    assert(heard == outcome);
    assert(!works || told || (outcome != RELEASED && outcome != ABANDONED))
}
