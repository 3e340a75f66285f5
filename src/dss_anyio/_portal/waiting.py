"""How a thread waits in a portal: for a place, for an answer, or not at all, with a future.

A thread waits with a lock that it takes twice: the second time succeeds as soon as another thread
has released the lock. Of all waits that take a time limit and that Ctrl-C interrupts, this is the
cheapest.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, get_ident
from typing import Any

from .._core.errors import no_answer_in_time, no_room_in_time, would_deadlock
from .._core.mailbox import Mailbox
from .._core.question import Question
from .._core.source import Lane
from .._core.steps import Counters
from .._core.waiter import WaitForPlace
from .._loops.closing import running_task
from .._loops.slices import acquire


def wait_for_place(
    mailbox: Mailbox, lane: Lane, item: object, call: str, timeout: float | None
) -> None:
    """Block this thread until there is a place for *item*, and *item* was accepted."""
    if mailbox.home.is_here():
        raise would_deadlock(lane, call, running_task() is not None)
    woken = Lock()
    woken.acquire()
    waiter = WaitForPlace(lane, item, call, woken.release)
    try:
        mailbox.wait_for_place(waiter)
        if not acquire(woken, timeout):
            if waiter.withdraw():
                raise no_room_in_time(lane, timeout)
            # Accepted or refused just now; the thread that did it is about to wake us. If we
            # returned before that, our next item might overtake this one.
            acquire(woken, None)
    except BaseException:
        waiter.withdraw()
        raise
    finally:
        mailbox.leave(waiter)
    if waiter.refused and lane.refusal is not None:
        raise lane.refusal(lane)


def wait_for_answer(
    mailbox: Mailbox,
    lane: Lane,
    call: str,
    timeout: float | None,
    counts: Counters | None,
    begin: Callable[..., None],
    *args: Any,
) -> Any:
    """Block this thread until the question that ``begin(question, *args)`` asks is settled."""
    if lane.refusal is not None:
        raise lane.refusal(lane)
    if get_ident() == mailbox.home.ident and mailbox.home.is_here():
        raise would_deadlock(lane, call, running_task() is not None)
    woken = Lock()
    woken.acquire()
    question = Question(lane, call, woken.release, timeout, counts)
    try:
        begin(question, *args)
        if not acquire(woken, timeout, lambda: question.settled) and question.settle("abandoned"):
            raise no_answer_in_time(lane, call, timeout)
    except BaseException:
        question.settle("abandoned")
        raise
    finally:
        mailbox.leave(question)
    return question.result()


def promise(
    mailbox: Mailbox,
    lane: Lane,
    call: str,
    counts: Counters | None,
    begin: Callable[..., None],
    *args: Any,
) -> Future[Any]:
    """Return a future for the question that ``begin(question, *args)`` asks. Never waits."""
    if lane.refusal is not None:
        raise lane.refusal(lane)
    future: Future[Any] = Future()

    def finish() -> bool:
        mailbox.leave(question)
        return question.finish(future)

    def is_done(done: Future[Any]) -> None:  # not ``future``, which is going to refer to us
        if done.cancelled() and question.settle("abandoned"):
            mailbox.leave(question)
            done.set_running_or_notify_cancel()  # tells concurrent.futures.wait()

    question = Question(lane, call, finish, None, counts)
    try:
        begin(question, *args)
    except BaseException:
        question.settle("abandoned")
        mailbox.leave(question)
        raise
    future.add_done_callback(is_done)
    return future
