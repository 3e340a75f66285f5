"""The asking half of a portal: requests, which wait for an answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar, overload

from anyio import Event
from anyio.lowlevel import checkpoint

from .._core.errors import RAISE
from .._core.functions import check_plain
from .._core.question import Question
from .._loops.slices import check_timeout
from .._loops.way import call_soon_here
from .callbacks import make_request_callback
from .calling import Caller
from .waiting import promise, wait_for_answer

T_contra = TypeVar("T_contra", contravariant=True)
T_Default = TypeVar("T_Default")
T_Answer = TypeVar("T_Answer")


class Asker(Caller, Generic[T_contra]):
    """The base of :class:`Portal` that asks."""

    # -- requests ----------------------------------------------------------------------------------

    def request(self, item: T_contra, *, timeout: float | None = None) -> Any:
        """Ask the hub, wait for the answer and return it.

        From any thread but the hub's own. Blocks until the request is answered, at most *timeout*
        seconds (None: as long as it takes), the wait for room included. The receiver gets a
        :class:`Request` in place of an item, in the same order. This call gives up when its time is
        over, at Ctrl-C, or at an exception set in this thread, which it sees within a second. Then
        a handler that works on the request is cancelled, and a request that is still queued is
        skipped.

        :raises BaseException: the exception of ``reply_error``, or of the handler
        :raises NoReplyError: if the request was thrown away, or its handler has ended, without an
            answer, or the overflow policy dropped it
        :raises TimeoutError: if there was no answer in time
        :raises RuntimeError: in the hub's own thread, at once: the answer would never come
        :raises anyio.ClosedResourceError: if this portal is closed, or is aborted meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        mailbox = self._mailbox
        if timeout is not None:
            timeout = check_timeout(timeout)
        lane = self._lane
        counts = mailbox.books.requests_of(lane.source)
        return wait_for_answer(mailbox, lane, "request", timeout, counts, mailbox.ask, item)

    def request_soon(self, item: T_contra) -> Future[Any]:
        """Ask the hub, and return a future for the answer.

        From any thread, also the hub's own; never waits. If the hub is full, the request waits for
        a place, after the senders that came before; items that this thread sends meanwhile may come
        first. You can cancel the future until there is an answer, which cancels the handler. The
        future fails with the exception that :meth:`request` would raise.

        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        mailbox = self._mailbox
        lane = self._lane
        counts = mailbox.books.requests_of(lane.source)
        return promise(mailbox, lane, "request_soon", counts, mailbox.ask, item)

    async def arequest(self, item: T_contra) -> Any:
        """As :meth:`request`, from any event loop of either backend, the hub's own included.

        Waits without blocking the loop. If it is cancelled, the handler is cancelled as well.
        """
        await checkpoint()
        mailbox = self._mailbox
        if self._lane.refusal is not None:
            raise self._lane.refusal(self._lane)
        call_soon = call_soon_here()
        woken = Event()
        counts = mailbox.books.requests_of(self._lane.source)
        question = Question(self._lane, "arequest", lambda: call_soon(woken.set), None, counts)
        try:
            mailbox.ask(question, item)
            await woken.wait()
        except BaseException:
            question.settle("abandoned")
            raise
        finally:
            mailbox.leave(question)
        return question.result()

    # -- functions for a library to call -----------------------------------------------------------

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        convert: None = None,
    ) -> Callable[..., Any]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        convert: Callable[[Any], T_Answer],
    ) -> Callable[..., T_Answer]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
        convert: None = None,
    ) -> Callable[..., Any | T_Default]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
        convert: Callable[[Any], T_Answer],
    ) -> Callable[..., T_Answer | T_Default]: ...

    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        default: Any = RAISE,
        convert: Callable[[Any], Any] | None = None,
    ) -> Callable[..., Any]:
        """Return a function for a library to call, which asks, waits, and returns the answer.

        From any thread; never waits. The function may be called from any thread, for ever. With
        *default* it never raises, and returns *default* where :meth:`request` would raise. Without
        *default*, it raises the exceptions of :meth:`request`: for libraries in which an exception
        is the way to refuse. *pack* is as for :meth:`send_callback`. After the end of the portal or
        the hub, the function asks nothing and does not call *pack*; ``statistics().late`` counts
        the call.

        A library in C expects a certain type, and the handler may return another. *convert* is
        called with the answer, in the library's thread, and makes the value that the library gets:
        an ``int``, a ``float``, a type of ctypes. So *default* should have that type, too. If
        *convert* raises, the library gets *default*, or NoReplyError. Without *convert*, ctypes
        notices the wrong type too late: the number that C gets for a wrong type, a None, or an
        exception is undefined before CPython 3.14, which makes it 0.

        ``on_error`` of the hub gets the errors that no caller receives: the exceptions of *pack*
        and *convert*; with *default*, also those of a handler, and the RuntimeError in the hub's
        own thread.

        :param timeout: how many seconds the library's thread waits at most; None for any number.
            The library gets the answer a little later, so stay below the time that it allows: 0.08
            for 100 ms
        :raises TypeError: if *pack* or *convert* is not callable, or is a coroutine function
        :raises ValueError: if *timeout* is negative
        """
        check_plain("pack", pack)
        check_plain("convert", convert)
        timeout = check_timeout(timeout)
        ask = partial(self.request, timeout=timeout)
        return make_request_callback(self._mailbox, self._lane, ask, pack, default, convert)
