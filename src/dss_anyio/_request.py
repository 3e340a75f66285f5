"""A question that somebody waits for, and the token with which it is answered.

Whatever happens, a question ends, exactly once, in one of these ways:

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
``abandoned``  the asker gave up: its time was over, Ctrl-C,   ``TimeoutError``, or what has
               another exception, its future or task was       struck it
               cancelled
============== =============================================== ==============================

``dict.setdefault`` decides which of several comes first, and keeps it, in one step: so whoever
loses is told ``False``, in any thread, a signal handler or a finalizer. The asker and the token are
two objects, and the token refers to the question, but not the other way round: when the last
reference to a token goes, its question ends.

This file knows nothing of mailboxes and hubs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar, cast, get_args

from anyio import CancelScope, Event

from ._counter import Counters
from ._errors import NoReplyError, Refusal, is_graceful, twin
from ._wake import call_soon_here

T_Item = TypeVar("T_Item")

Ending: TypeAlias = Literal["answered", "refused", "unanswered", "released", "abandoned"]

ENDINGS: tuple[Ending, ...] = get_args(Ending)
_GIVEN_UP = ("released", "abandoned")


class RequestStatistics(NamedTuple):
    """How the requests to a hub have ended. Calls (``portal.call``) are not among them."""

    answered: int  #: a reply was given
    refused: int  #: an exception was the reply
    unanswered: int  #: the token was forgotten, its block left, or the request dropped
    released: int  #: by the end of the hub, or the abort of the portal
    abandoned: int  #: the asker gave up
    open: int  #: somebody waits for the answer


class Question:
    """What an asker waits for. Settled once, by whoever comes first.

    *wake* tells the asker. It returns False if nobody is there any more, and is called once; a
    second time only if it has failed: struck by Ctrl-C, or out of stack or memory.
    """

    __slots__ = (
        "_called_off",
        "_counts",
        "_outcome",
        "_untold",
        "_wake",
        "_watchers",
        "call",
        "deadline",
        "lane",
        "since",
        "thread",
        "waiting",
    )

    def __init__(
        self,
        lane: Any,
        call: str,
        wake: Callable[[], object],
        timeout: float | None = None,
        counts: Counters | None = None,
    ) -> None:
        self.lane: Any = lane
        self.call: str = call
        self.since: float = monotonic()
        self.deadline: float | None = None if timeout is None else self.since + timeout
        self.thread: int = get_ident()
        self.waiting: Any = None  # its place in the line, while the mailbox is full
        self._wake = wake
        self._counts = counts
        if counts is not None:
            counts["asked"].add_one()
        self._outcome: dict[None, tuple[Ending, Any]] = {}
        self._untold: bool = False  # was it settled by somebody who could not tell?
        self._called_off: bool = False
        self._watchers: dict[object, Callable[[], object]] = {}

    # -- settling it: from any thread, at any bytecode ---------------------------------------------

    def settle(self, ending: Ending, value: object = None) -> bool:
        """End it like this. False if it has ended before, or if the asker has just gone."""
        outcome = (ending, value)
        try:
            if self._outcome.setdefault(None, outcome) is not outcome:
                return False
            return self._tell(ending)
        except BaseException:  # Ctrl-C has struck in here, or there is no stack left
            if self._outcome.get(None) is outcome:
                self._untold = True  # if that fails again, see ``refuse``
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
                pass  # woken before (an unlocked lock), or the event loop it waited in is gone
            if not there:
                ending = "abandoned"
                self._outcome[None] = (ending, None)
                self._wake = _nobody
        if self._counts is not None:
            self._counts[ending].add_one()
        if ending in _GIVEN_UP:
            self._tell_watchers()
        return there

    def fail(self, exc: BaseException) -> bool:
        """End it with what somebody's function has raised. A loop's own exception stays there.

        What ends a program goes on to do that where it was raised, so the asker gets its twin.
        """
        if isinstance(exc, Exception):
            return self.settle("refused", exc)
        if isinstance(exc, (KeyboardInterrupt, SystemExit)):
            return self.settle("refused", twin(exc))
        return self.settle("unanswered", "the one who worked on it was cancelled")

    def refuse(self, refusal: Refusal) -> None:
        """Its portal or the hub was closed; if gracefully, what was accepted is still answered."""
        waiting = self.waiting
        accepted = waiting is None or not waiting.withdraw()
        if accepted and is_graceful(refusal):
            return
        if not self.settle("released", refusal) and self._untold:
            self._untold = False
            self._tell(self._outcome[None][0])

    # -- looking at it -----------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        return None in self._outcome

    @property
    def outcome(self) -> tuple[Ending, Any] | None:
        """How it has ended, and with what; None if it has not."""
        return self._outcome.get(None)

    @property
    def given_up(self) -> bool:
        """Does nobody wait for the answer any more?"""
        outcome = self._outcome.get(None)
        return outcome is not None and outcome[0] in _GIVEN_UP

    def result(self) -> Any:
        """What the asker gets: returned, or raised. For the asker, once."""
        ending, value = self._outcome[None]
        self._outcome[None] = (ending, None)  # the traceback of an exception leads back to here
        if ending == "answered":
            return value
        try:
            raise _error(ending, value)
        finally:
            del value

    def finish(self, future: Future[Any]) -> bool:
        """Hand the outcome to *future*. False if that was cancelled before."""
        ending, value = self._outcome[None]
        if future.done() and not future.cancelled():
            return True
        try:
            if not (future.running() or future.set_running_or_notify_cancel()):
                return False
            if ending == "answered":
                future.set_result(value)
            else:
                future.set_exception(_error(ending, value))
        except (InvalidStateError, RuntimeError):
            pass  # finished before, or notified
        self._outcome[None] = (ending, None)
        self._wake = _nobody  # it refers to the future, which may refer to us
        return True

    # -- who wants to know that it was given up ----------------------------------------------------

    def watch(self, watcher: Callable[[], object]) -> object:
        """Call *watcher* once nobody wants the answer any more; at once if it is so already.

        It enters, and then looks; who gives up writes that, and then looks for watchers. Either is
        one step, so whichever comes second sees the other one. Returns what ``unwatch`` takes.
        """
        key = object()
        self._watchers[key] = watcher
        if self.given_up or self._called_off:
            self._tell_watchers()
        return key

    def call_off(self) -> None:
        """Nobody wants the answer any more, but the asker waits until the work on it has ended."""
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


def _error(ending: Ending, value: Any) -> BaseException:
    if ending == "refused":
        return cast("BaseException", value)
    if ending == "released":
        return cast("Refusal", value)()
    return NoReplyError(value)


class Request(Generic[T_Item]):
    """Somebody waits for an answer to :attr:`item`. Received in place of an item.

    All methods may be called from any thread, at any bytecode, and never wait; the answer may be
    given later, and from elsewhere. The first answer counts. When the last reference to a request
    goes without one, its asker gets :exc:`NoReplyError`; ``with request:`` and ``async with
    request:`` do that at the end of the block, also where objects are not freed at once.
    """

    __slots__ = ("__weakref__", "_question", "_queued", "_source", "item")

    def __init__(self, question: Question, item: T_Item) -> None:
        self._question = question
        self._queued = True  # it was not received yet; an item that is sent again is only an item
        self._source: str | None = question.lane.source.name
        self.item: T_Item = item  #: what was asked; decoded, if the source has a ``decode``

    @property
    def source(self) -> str | None:
        """The registered source that asks; None for the hub's own portal and its clones."""
        return self._source

    def reply(self, value: object = None) -> bool:
        """Answer it. False if it has ended before; then nobody gets *value*."""
        return self._question.settle("answered", value)

    def reply_error(self, exc: BaseException | type[BaseException]) -> bool:
        """Refuse it: *exc* is raised where it was asked. False if it has ended before.

        :raises TypeError: if *exc* is no exception, or one with which a loop cancels its tasks
        """
        if isinstance(exc, type) and issubclass(exc, BaseException):
            exc = exc()
        if not isinstance(exc, BaseException):
            raise TypeError(f"an exception is needed, not {exc!r}; reply() takes any value")
        if not isinstance(exc, (Exception, KeyboardInterrupt, SystemExit)):
            raise TypeError(f"{exc!r} belongs to an event loop; refuse with an Exception")
        return self._question.settle("refused", exc)

    @property
    def abandoned(self) -> bool:
        """Does nobody wait for the answer any more, because the asker gave up or was released?"""
        return self._question.given_up

    @property
    def remaining(self) -> float | None:
        """How many seconds the asker is still going to wait, at least 0; None for no limit."""
        deadline = self._question.deadline
        return None if deadline is None else max(0.0, deadline - monotonic())

    async def wait_abandoned(self) -> None:
        """Wait until nobody waits for the answer any more; for ever if it is answered. In any loop.

        :meth:`Hub.serve` cancels its handlers by itself.
        """
        call_soon = call_soon_here()
        given_up = Event()
        question = self._question
        key = question.watch(lambda: call_soon(given_up.set))
        try:
            await given_up.wait()
        finally:
            question.unwatch(key)

    def __enter__(self) -> Request[T_Item]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._question.settle("unanswered", "the block of the request was left without a reply")

    async def __aenter__(self) -> Request[T_Item]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_val, exc_tb)

    def __del__(self) -> None:
        if None not in self._question._outcome:  # pyright: ignore[reportPrivateUsage]
            self._question.settle("unanswered", "the request was forgotten without a reply")

    def __repr__(self) -> str:
        of = "" if self._source is None else f" of {self._source!r}"
        state = "ended" if self._question.settled else "open"
        return f"<Request{of}: {self.item!r}, {state}>"


# -- For the mailbox -------------------------------------------------------------------------------

TOKEN: type[Any] = Request  # as in ``type(item) is TOKEN``, of which type checkers conclude nothing


def question_of(request: Request[Any]) -> Question:
    return request._question  # pyright: ignore[reportPrivateUsage]  # of one room


def is_queued(request: Request[Any]) -> bool:
    """Was it not received yet? One that was, and is sent again as an item, is only an item."""
    return request._queued  # pyright: ignore[reportPrivateUsage]


def is_over(request: Request[Any]) -> bool:
    """Was it not received yet, and does nobody wait for its answer any more?"""
    question = request._question  # pyright: ignore[reportPrivateUsage]
    return None in question._outcome and is_queued(request)  # pyright: ignore[reportPrivateUsage]


def dequeue(request: Request[Any]) -> None:
    """It is being received, or given up."""
    request._queued = False  # pyright: ignore[reportPrivateUsage]


async def answer(question: Question, awaitable: Awaitable[Any]) -> None:
    """Answer *question* with what *awaitable* returns or raises, as long as somebody waits for it.

    If nobody does any more, *awaitable* is cancelled. In the event loop that works on it.
    """
    call_soon = call_soon_here()
    with CancelScope() as scope:
        key = question.watch(lambda: call_soon(scope.cancel))
        try:
            question.settle("answered", await awaitable)
        except Exception as exc:
            question.settle("refused", exc)
        except BaseException as exc:
            question.fail(exc)
            raise
        finally:
            question.unwatch(key)
