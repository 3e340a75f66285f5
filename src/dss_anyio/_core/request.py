"""The token with which a question is answered, and the work on an answer.

Invariant: a forgotten token ends its question.

The asker's question and the token are two objects. The token refers to the question, but not the
other way round. So a token that its receiver throws away is garbage although its asker still waits,
and its destructor ends the question. If they were one object, the waiting thread would keep it
alive. (One exception: while a request waits for a place, its question refers to it, to take it back
if the asker gives up. The thread that accepts the request removes this reference.)
"""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isawaitable
from types import GeneratorType, TracebackType
from typing import Any, Generic, TypeVar

from anyio import CancelScope, Event

from .._loops.closing import may_await
from .._loops.way import call_soon_here
from .errors import NotCopied, ends_the_program, is_a_loops_own, twin, without_a_loops_own
from .question import CANCELLED, Question

T_Item = TypeVar("T_Item")


class Request(NotCopied, Generic[T_Item]):
    """Received in place of an item: :attr:`item`, and the call that waits for an answer to it.

    The methods may be called from any thread, at any bytecode, and never wait, except for
    :meth:`wait_abandoned`. The answer may come later, and from another thread. The first answer
    counts. When the last reference to a request goes without an answer, its asker gets
    :exc:`NoReplyError`. With ``with request:`` or ``async with request:`` that happens at the end
    of the block, also where objects are not freed at once.
    """

    __slots__ = ("__weakref__", "_question", "_queued", "item")

    def __init__(self, question: Question, item: T_Item) -> None:
        self._question = question
        # True until it is received. A received request that is sent again is an ordinary item.
        self._queued = True
        self.item: T_Item = item  #: the item; decoded, if the source has a ``decode``

    @property
    def source(self) -> str | None:
        """The registered source that asks; None for the hub's own portal and its clones."""
        return self._question.lane.source.name

    def reply(self, value: object = None) -> bool:
        """Answer the request with *value*. From any thread; never waits.

        True: the asker gets *value*. False: the request had ended before, and *value* is ignored.
        """
        return self._question.settle("answered", value)

    def reply_error(self, exc: BaseException | type[BaseException]) -> bool:
        """Refuse the request: *exc* is raised in the call that asked. From any thread; never waits.

        True: the asker gets *exc*. False: the request had ended before, and *exc* is ignored.

        :raises TypeError: if *exc* is no exception, or one with which a loop cancels its tasks
        """
        if isinstance(exc, type) and issubclass(exc, BaseException):
            exc = exc()
        if not isinstance(exc, BaseException):
            raise TypeError(f"an exception is needed, not {exc!r}; reply() takes any value")
        if without_a_loops_own(exc) is not exc:
            raise TypeError(f"{exc!r} belongs to an event loop; refuse with an Exception")
        return self._question.settle("refused", exc)

    @property
    def abandoned(self) -> bool:
        """True if the asker waits no longer, because it gave up or was released."""
        return self._question.given_up

    @property
    def remaining(self) -> float | None:
        """How many seconds the asker is still going to wait, at least 0; None for no limit."""
        return self._question.remaining

    async def wait_abandoned(self) -> None:
        """Wait until the asker gives up or is released; for ever if it is answered. In any loop.

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
        if exc_val is None:
            self._question.settle("unanswered", "got no reply in the block of the request")
        elif not self._question.settled:
            # The asker's thread gets a copy, without exceptions by which an event loop cancels.
            others = without_a_loops_own(exc_val)
            self._question.settle("unanswered", CANCELLED if others is None else twin(others))

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
        if not self._question.settled:
            self._question.settle("unanswered", "was forgotten without a reply")

    def __repr__(self) -> str:
        of = "" if self.source is None else f" of {self.source!r}"
        state = "ended" if self._question.settled else "open"
        return f"<Request{of}: {self.item!r}, {state}>"


# -- For the core ----------------------------------------------------------------------------------

TOKEN: type[Any] = Request  # for ``type(item) is TOKEN``, from which type checkers conclude nothing


def question_of(request: Request[Any]) -> Question:
    return request._question  # pyright: ignore[reportPrivateUsage]  # of this file


def is_queued(request: Request[Any]) -> bool:
    """Was it not received yet? A received request that is sent again is an ordinary item."""
    return request._queued  # pyright: ignore[reportPrivateUsage]  # of this file


def is_over(request: Request[Any]) -> bool:
    """Was it not received yet, and has its question ended?"""
    return request._queued and request._question.settled  # pyright: ignore[reportPrivateUsage]  # of this file


def receive(request: Request[Any]) -> bool:
    """Mark *request* as received. False if its question has ended: then it is not received."""
    if request._queued:  # pyright: ignore[reportPrivateUsage]  # of this file
        if request._question.settled:  # pyright: ignore[reportPrivateUsage]  # of this file
            return False
        request._queued = False  # pyright: ignore[reportPrivateUsage]  # of this file
    return True


def dequeue(request: Request[Any]) -> None:
    """Mark *request* as received, or as handed back."""
    request._queued = False  # pyright: ignore[reportPrivateUsage]  # of this file


async def answer(question: Question, awaitable: Awaitable[Any]) -> None:
    """Answer *question* with the result or the exception of *awaitable*.

    If the asker gives up, *awaitable* is cancelled. This is the whole work of a task, in an event
    loop, so a cancellation ends here. It may come from another task that *awaitable* has awaited,
    and in a task group it would cancel all other tasks. Raises only exceptions that end the
    program, and an exception that is no ``Exception`` if no asker received it.
    """
    call_soon = call_soon_here()
    try:
        with CancelScope() as scope:
            key = question.watch(lambda: call_soon(scope.cancel))
            try:
                question.settle("answered", await awaitable)
            except Exception as exc:
                question.settle("refused", exc)
            except BaseException as exc:
                if question.fail(exc) and not ends_the_program(exc) and not is_a_loops_own(exc):
                    return
                raise
            finally:
                question.unwatch(key)
    except BaseException as exc:
        if without_a_loops_own(exc) is not None or not may_await(exc):
            raise


def is_awaitable(value: object) -> bool:
    """As ``inspect.isawaitable``, at a small part of the price: each answer is checked.

    The types of most answers are compared by identity, because CPython 3.11 and earlier make an
    AttributeError for each attribute that a type does not have, also for ``hasattr``.
    """
    cls: type = type(value)
    if value is None or cls is bytes or cls is int or cls is str or cls is bool:
        return False
    return hasattr(cls, "__await__") or (cls is GeneratorType and isawaitable(value))
