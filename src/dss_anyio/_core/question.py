"""A question: an asker waits until it is settled.

Invariant: a question is settled once, in one of five ways. ``ENDINGS`` lists them, with the value
or the exception that the asker gets. Only ``Question.settle`` settles.

============== =============================================== ==============================
ending         brought about by                                what the asker gets
============== =============================================== ==============================
``answered``   ``reply(value)``, a handler that returns        the value
``refused``    ``reply_error(exc)``, a handler or ``decode``   that exception, itself
               that raises
``unanswered`` the token was forgotten, its block left, its    ``NoReplyError``
               handler cancelled; the request was dropped
``released``   the hub ended, the portal was aborted           ``BrokenResourceError``,
                                                               ``ClosedResourceError``
``abandoned``  the asker gave up: its time was over, Ctrl-C,   ``TimeoutError``, or the
               another exception, its future or task was       exception that struck it
               cancelled
============== =============================================== ==============================

There is no sixth. A thread that holds the token (``request``) answers or refuses the question. When
nothing refers to the token any more, the question is unanswered. If the token is held for ever, the
asker gives up, or the hub ends.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from threading import get_ident
from time import monotonic
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from .errors import (
    Refusal,
    ends_the_program,
    is_graceful,
    no_reply,
    twin,
    without_a_loops_own,
)
from .source import Lane
from .steps import Counters
from .waiter import Waiter, WaitForPlace

Ending: TypeAlias = Literal["answered", "refused", "unanswered", "released", "abandoned"]


class _Kind(NamedTuple):
    given_up: bool  # True if no asker wants the answer any more: the work on it should stop
    # Makes the asker's exception from the value of the outcome.
    error: Callable[[Any, Question], BaseException] | None


def _itself(exc: BaseException, _: Question) -> BaseException:
    return exc


def _made(refusal: Refusal, question: Question) -> BaseException:
    return refusal(question.lane)


def _no_reply(why: object, question: Question) -> BaseException:
    return no_reply(question.lane, question.call, why)


CANCELLED: Final = "got no reply: what worked on it was cancelled"

ENDINGS: Final[dict[Ending, _Kind]] = {
    "answered": _Kind(given_up=False, error=None),
    "refused": _Kind(given_up=False, error=_itself),
    "unanswered": _Kind(given_up=False, error=_no_reply),
    "released": _Kind(given_up=True, error=_made),
    "abandoned": _Kind(given_up=True, error=_no_reply),
}


class RequestStatistics(NamedTuple):
    """How the requests to a hub have ended. Calls (``portal.call``) are not among them."""

    answered: int  #: a reply was given
    refused: int  #: an exception was the reply
    unanswered: int  #: the token was forgotten, its block left, or the request dropped
    released: int  #: the hub ended, or the portal was aborted
    abandoned: int  #: the asker gave up
    open: int  #: the asker still waits for the answer


def count_requests(counts: Counters) -> RequestStatistics:
    asked = counts.value_of("asked")  # first, or a question that comes and ends now would be open
    answered, refused, unanswered, released, abandoned = map(counts.value_of, ENDINGS)
    ended = answered + refused + unanswered + released + abandoned
    waiting = max(0, asked - ended)
    return RequestStatistics(answered, refused, unanswered, released, abandoned, waiting)


class Question(Waiter):
    """A question, settled once: of all threads that settle it, the first one decides the ending.

    *wake* wakes the asker. It returns False if the asker has gone. It is called once; a second time
    only if the first call has failed: struck by Ctrl-C, or out of stack or memory.
    """

    __slots__ = ("_called_off", "_counts", "_outcome", "_timeout", "_untold", "_watchers")

    def __init__(
        self,
        lane: Lane,
        call: str,
        wake: Callable[[], object],
        timeout: float | None = None,
        counts: Counters | None = None,
    ) -> None:
        # The base's ``__init__``, written out: each request and each call makes a question.
        self.lane: Lane = lane
        self.call: str = call
        self.since: float = monotonic()
        self.thread: int = get_ident()
        self.waiting: WaitForPlace | None = None
        self._wake: Callable[[], object] = wake
        self._timeout = timeout
        self._counts = counts
        if counts is not None:
            counts["asked"].add_one()
        # As a ``Once``, which takes longer to make.
        self._outcome: dict[None, tuple[Ending, Any]] = {}
        self._untold: bool = False  # was it settled by a thread that could not wake the asker?
        self._called_off: bool = False
        self._watchers: dict[object, Callable[[], object]] = {}

    # -- settling it: from any thread, at any bytecode ---------------------------------------------

    def settle(self, ending: Ending, value: object = None) -> bool:
        """Settle it with *ending*. False if it was settled before, or if the asker has gone."""
        outcome = (ending, value)
        try:
            if self._outcome.setdefault(None, outcome) is not outcome:  # see ``Once.decide``
                return False
            return self._tell(ending)
        except BaseException:  # Ctrl-C has struck in here, or there is no stack left
            # We call no function before we have written ``_untold``: the stack may be at its end.
            if self._outcome.get(None) is outcome:
                # If this fails again, the end of the hub (``refuse``) wakes the asker.
                self._untold = True
                self._tell(ending)
                self._untold = False
            raise

    def _tell(self, ending: Ending) -> bool:
        there = True
        if ending == "abandoned":
            self._wake = _nobody
        else:
            try:
                there = self._wake() is not False
            except RecursionError:
                raise  # a RuntimeError as well
            except RuntimeError:
                pass  # it was woken before (its lock is unlocked), or its event loop is gone
            if not there:
                ending = "abandoned"
                self._outcome[None] = (ending, None)
                self._wake = _nobody
        if self._counts is not None:
            self._counts[ending].add_one()
        if ENDINGS[ending].given_up:
            self._tell_watchers()
        return there

    def fail(self, exc: BaseException) -> bool:
        """Settle it with an exception that the user's function has raised.

        An exception that ends the program goes on in the thread where it was raised, so the asker
        gets a copy. An exception by which an event loop cancels its tasks stays in that loop.
        """
        if isinstance(exc, Exception):
            return self.settle("refused", exc)
        others = without_a_loops_own(exc)
        if others is None:
            return self.settle("unanswered", CANCELLED)
        return self.settle("refused", twin(others) if ends_the_program(exc) else others)

    def refuse(self, refusal: Refusal) -> None:
        """Its portal or the hub was closed. After a graceful close, an accepted request goes on."""
        waiting = self.waiting
        accepted = waiting is None or not waiting.withdraw()
        if accepted and is_graceful(refusal):
            return
        if not self.settle("released", refusal) and self._untold:
            self._untold = False
            outcome = self._outcome[None]
            self._tell(outcome[0])

    def look_again(self) -> None:
        """Release the asker if its portal was closed while its request was being put.

        Then the receiver may have seen the end of the stream before the request was there, and does
        not look again. If the portal is not closed yet, the request was put before the receiver
        could see the end.
        """
        refusal = self.lane.refusal
        if refusal is not None:
            self.settle("released", refusal)

    # -- looking at it -----------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return None in self._outcome

    @property
    def outcome(self) -> tuple[Ending, Any] | None:
        """Its ending and the value; None while it is open."""
        return self._outcome.get(None)

    @property
    def given_up(self) -> bool:
        """Was it settled because the asker gave up or was released?"""
        outcome = self._outcome.get(None)
        return outcome is not None and ENDINGS[outcome[0]].given_up

    @property
    def remaining(self) -> float | None:
        """See ``Request.remaining``."""
        timeout = self._timeout
        return None if timeout is None else max(0.0, self.since + timeout - monotonic())

    def result(self) -> Any:
        """Return the answer, or raise the asker's exception. For the asker, once."""
        ending, value = self._outcome[None]
        self._outcome[None] = (ending, None)  # the traceback of an exception refers to us
        error = ENDINGS[ending].error
        if error is None:
            return value
        try:
            raise error(value, self)
        finally:
            del value

    def finish(self, future: Future[Any]) -> bool:
        """Hand the outcome to *future*. False if *future* was cancelled before."""
        ending, value = self._outcome[None]
        if future.done() and not future.cancelled():
            return True
        try:
            if not (future.running() or future.set_running_or_notify_cancel()):
                return False
            error = ENDINGS[ending].error
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error(value, self))
        except (InvalidStateError, RuntimeError):
            pass  # finished before, or notified
        self._outcome[None] = (ending, None)
        self._wake = _nobody  # it refers to the future, which may refer to us
        return True

    # -- watchers: called when it is given up ------------------------------------------------------

    def watch(self, watcher: Callable[[], object]) -> object:
        """Call *watcher* when the question is given up; at once if it was given up before.

        We enter the watcher, and *then* read whether the question was given up. An asker that gives
        up writes that down, and *then* looks for watchers. Both act on the watchers in one step: if
        ours is first, the other thread finds the watcher; if not, we read the outcome that it has
        written. Returns a key for ``unwatch``.
        """
        key = object()
        self._watchers[key] = watcher
        if self.given_up or self._called_off:
            self._tell_watchers()
        return key

    def call_off(self) -> None:
        """Have the work on the answer cancelled; the asker waits until that work has ended."""
        self._called_off = True  # before the look for watchers
        self._tell_watchers()

    def unwatch(self, key: object) -> None:
        self._watchers.pop(key, None)

    def _tell_watchers(self) -> None:
        while True:
            try:
                _, watcher = self._watchers.popitem()
            except KeyError:
                return
            try:
                watcher()
            except RecursionError:
                raise
            except RuntimeError:
                pass  # its event loop is gone


def _nobody() -> None:
    pass
