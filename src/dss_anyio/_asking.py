"""The asking half of a portal: what waits for an answer, or for the result of a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from threading import Lock
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from anyio import BrokenResourceError, ClosedResourceError, Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint

from ._calling import begin_call, check_coroutine_function, check_function
from ._counter import Counters
from ._errors import RAISE, NoReplyError, would_deadlock
from ._lane import Lane
from ._mailbox import Mailbox
from ._request import Question
from ._waiting import acquire, check_timeout, result
from ._wake import call_soon_here
from ._worker import outlast

T_contra = TypeVar("T_contra", contravariant=True)
T_Result = TypeVar("T_Result")
T_Default = TypeVar("T_Default")
T_Value_co = TypeVar("T_Value_co", covariant=True)


class Asker(Generic[T_contra]):
    """The base of :class:`Portal`: requests and calls."""

    def __init__(self, mailbox: Mailbox, lane: Lane) -> None:
        self._mailbox = mailbox
        self._lane = lane

    # -- requests ----------------------------------------------------------------------------------

    def request(self, item: T_contra, *, timeout: float | None = None) -> Any:
        """Ask the hub, wait for the answer and return it.

        From any thread but the hub's own. The receiver gets a :class:`Request` in place of an item,
        in the same order. Blocks until it is answered, at most *timeout* seconds (None: as long as
        it takes), the wait for room included. If this call gives up (its time is over, Ctrl-C, an
        exception set in this thread, which is seen within a second), the handler that works on it
        is cancelled, and if it is still queued it is skipped.

        :raises BaseException: what it was refused with (``reply_error``), or its handler has raised
        :raises NoReplyError: if it was thrown away, or its handler has ended, without an answer, or
            the overflow policy dropped it
        :raises TimeoutError: if there was no answer in time
        :raises RuntimeError: in the hub's own thread, at once: the answer would never come
        :raises anyio.ClosedResourceError: if this portal is closed, or is aborted meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        mailbox = self._mailbox
        if timeout is not None:
            timeout = check_timeout(timeout)
        return self._wait_for("request", timeout, mailbox.counts, mailbox.ask, item)

    def request_soon(self, item: T_contra) -> Future[Any]:
        """Ask the hub, and return a future for the answer. Never waits.

        From any thread, also the hub's own. If the hub is full, the request waits for its place
        after those that came before; what this thread sends meanwhile may come first. Cancelling
        the future cancels the handler, and is possible until there is an answer. The future fails
        with what :meth:`request` would raise.

        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        mailbox = self._mailbox
        return self._promise("request_soon", mailbox.counts, mailbox.ask, item)

    async def arequest(self, item: T_contra) -> Any:
        """As :meth:`request`, from any event loop of either backend, the hub's own included.

        Waits without blocking the loop. If it is cancelled, the handler is cancelled as well.
        """
        await checkpoint()
        mailbox = self._mailbox
        if self._lane.refusal is not None:
            raise self._lane.refusal()
        call_soon = call_soon_here()
        woken = Event()
        question = Question(
            self._lane, "arequest", lambda: call_soon(woken.set), None, mailbox.counts
        )
        try:
            mailbox.ask(question, item)
            await woken.wait()
        except BaseException:
            question.settle("abandoned")
            raise
        finally:
            mailbox.leave(question)
        return question.result()

    # -- what is handed to a library ---------------------------------------------------------------

    @overload
    def request_callback(
        self, pack: Callable[..., T_contra] | None = None, *, timeout: float | None
    ) -> Callable[..., Any]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
    ) -> Callable[..., Any | T_Default]: ...

    def request_callback(
        self,
        pack: Callable[..., T_contra] | None = None,
        *,
        timeout: float | None,
        default: Any = RAISE,
    ) -> Callable[..., Any]:
        """Return a function for a library to call, which asks, waits, and returns the answer.

        It may be called from any thread, for ever. With *default* it never raises, and returns
        *default* where :meth:`request` would raise; give it the type that the library expects.
        Without, it raises what :meth:`request` raises: for libraries in which that is the way to
        refuse. *pack* is as for :meth:`send_callback`. After the end of the portal or the hub
        nothing is asked, *pack* is not called, and ``statistics().late`` counts it.

        What nobody else gets to see is reported on the hub's side (``on_error``): an exception in
        *pack*, with *default* also a handler's, and the RuntimeError in the hub's own thread.

        :param timeout: how many seconds the library's thread may be kept; None for any number
        :raises TypeError: if *pack* is not callable
        :raises ValueError: if *timeout* is negative
        """
        check_pack(pack)
        timeout = check_timeout(timeout)
        mailbox = self._mailbox
        lane = self._lane
        source = lane.source.name
        late = mailbox.counts["late"]

        def callback(*args: Any, **kwargs: Any) -> Any:
            if lane.refusal is not None:
                late.add_one()
                if default is RAISE:
                    raise lane.refusal()
                return default
            try:
                item = packed(pack, args, kwargs)
            except BaseException as exc:
                mailbox.report(source, exc)
                if default is RAISE:
                    raise NoReplyError("pack() has failed; nothing was asked") from None
                return default
            try:
                return self.request(item, timeout=timeout)
            except BaseException as exc:
                if default is RAISE:
                    raise
                if not isinstance(exc, _SILENT):
                    mailbox.report(source, exc)
                return default

        return callback

    # -- calls: what anyio's BlockingPortal has ----------------------------------------------------

    @overload
    def call(self, func: Callable[..., Awaitable[T_Result]], *args: Any) -> T_Result: ...

    @overload
    def call(self, func: Callable[..., T_Result], *args: Any) -> T_Result: ...

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call *func* in the hub's thread, wait for its result and return it.

        From any thread but the hub's own. A coroutine function runs in a task of
        ``hub.task_group``; a plain function runs in the event loop itself, so it must not block. It
        does not pass through the queue: nobody has to receive. *func* sees the context variables of
        the caller. If the caller gives up (Ctrl-C, an exception set in this thread), the task is
        cancelled. In a polled hub a plain function runs at the next ``poll()``.

        :raises BaseException: what *func* raises
        :raises NoReplyError: if the task was cancelled
        :raises RuntimeError: in the hub's own thread; in a polled hub if *func* is a coroutine
            function; if the hub is not open
        :raises anyio.ClosedResourceError: if this portal is closed, or is aborted meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        return self._wait_for("call", None, None, begin_call, self._mailbox, func, args)

    @overload
    async def call_async(
        self,
        func: Callable[..., Awaitable[T_Result]],
        *args: Any,
        abandon_on_cancel: bool = False,
    ) -> T_Result: ...

    @overload
    async def call_async(
        self, func: Callable[..., T_Result], *args: Any, abandon_on_cancel: bool = False
    ) -> T_Result: ...

    async def call_async(
        self, func: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False
    ) -> Any:
        """As :meth:`call`, from any event loop of either backend, the hub's own included.

        Waits without blocking the loop. If it is cancelled before *func* was called, *func* never
        is. If it is cancelled later, the task is cancelled, and this call waits until that has
        ended; with *abandon_on_cancel* it does not wait. (As in anyio 4.16.)

        :raises BaseException: what *func* raises, also if it was cancelled by this call
        :raises NoReplyError: if the task was cancelled by somebody else
        :raises TypeError: if *func* is not callable; otherwise as :meth:`call`
        """
        check_function(func)
        await checkpoint()
        mailbox = self._mailbox
        if self._lane.refusal is not None:
            raise self._lane.refusal()
        call_soon = call_soon_here()
        woken = Event()
        question = Question(self._lane, "call_async", lambda: call_soon(woken.set))
        turn: dict[None, str] = {}  # as in ``Question``: one step decides which comes first

        def begin() -> Any:
            return func(*args) if turn.setdefault(None, "begun") == "begun" else None

        try:
            begin_call(question, mailbox, begin, (), name=func)
            await woken.wait()
        except get_cancelled_exc_class():
            if abandon_on_cancel or turn.setdefault(None, "called off") != "begun":
                question.settle("abandoned")
                raise
            question.call_off()
            await outlast(woken)
            if question.outcome is not None and question.outcome[0] == "refused":
                question.result()
            raise
        except BaseException:
            question.settle("abandoned")
            raise
        finally:
            mailbox.leave(question)
        return question.result()

    @overload
    def start_task_soon(
        self, func: Callable[..., Awaitable[T_Result]], *args: Any, name: object = None
    ) -> Future[T_Result]: ...

    @overload
    def start_task_soon(
        self, func: Callable[..., T_Result], *args: Any, name: object = None
    ) -> Future[T_Result]: ...

    def start_task_soon(
        self, func: Callable[..., Any], *args: Any, name: object = None
    ) -> Future[Any]:
        """As :meth:`call`, but return a future for the result. Never waits. From any thread.

        Cancelling the future cancels the task. *name* names the task, for debugging.

        :raises RuntimeError: if the hub is not open
        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        return self._promise(
            "start_task_soon", None, begin_call, self._mailbox, func, args, None, name
        )

    def start_task(
        self, func: Callable[..., Awaitable[T_Result]], *args: Any, name: object = None
    ) -> tuple[Future[T_Result], Any]:
        """Start a task in ``hub.task_group`` and wait until it calls ``task_status.started()``.

        From any thread but the hub's own. *func* gets a keyword argument *task_status*, as with
        ``TaskGroup.start`` of anyio.

        :return: a future for the task's result, and the value that ``started`` was called with
        :raises BaseException: what *func* raises before it has called ``started``
        :raises RuntimeError: if it returns before that; otherwise as :meth:`call`
        """
        check_coroutine_function(self._mailbox)
        futures: list[Future[Any]] = []

        def begin(started: Question) -> None:
            self._mailbox.enter(started)

            def is_done(future: Future[Any]) -> None:
                if started.settled:
                    return
                if future.cancelled():
                    started.settle("unanswered", "the task was cancelled before it had started")
                else:
                    exc = future.exception()
                    if exc is None:
                        exc = RuntimeError("the task has ended without task_status.started()")
                    started.settle("refused", exc)

            keywords = {"task_status": _Status(started)}
            future = self._promise(
                "start_task", None, begin_call, self._mailbox, func, args, keywords, name
            )
            futures.append(future)
            future.add_done_callback(is_done)

        try:
            value = self._wait_for("start_task", None, None, begin)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return futures[0], value

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[T_Result]
    ) -> AbstractContextManager[T_Result]:
        """Return a context manager that runs *cm* in the hub's thread, in one single task.

        To be used in any thread but the hub's own. Its ``with`` block begins when *cm* has been
        entered, and blocks at its end until *cm* has been left.
        """
        return _Wrapped(self, cm)

    # -- waiting -----------------------------------------------------------------------------------

    def _wait_for(
        self,
        call: str,
        timeout: float | None,
        counts: Counters | None,
        begin: Callable[..., None],
        *args: Any,
    ) -> Any:
        """Block this thread until what ``begin(question, *args)`` has begun is settled."""
        mailbox = self._mailbox
        lane = self._lane
        if lane.refusal is not None:
            raise lane.refusal()
        if mailbox.is_at_home():
            raise would_deadlock(call)
        # As in ``Portal.send``: a lock that is taken twice.
        woken = Lock()
        woken.acquire()
        question = Question(lane, call, woken.release, timeout, counts)
        try:
            begin(question, *args)
            if not acquire(woken, timeout, lambda: question.settled) and question.settle(
                "abandoned"
            ):
                raise TimeoutError(f"no answer within {timeout} s; nobody works on it any more")
        except BaseException:
            question.settle("abandoned")
            raise
        finally:
            mailbox.leave(question)
        return question.result()

    def _promise(
        self, call: str, counts: Counters | None, begin: Callable[..., None], *args: Any
    ) -> Future[Any]:
        """A future for what ``begin(question, *args)`` begins."""
        mailbox = self._mailbox
        if self._lane.refusal is not None:
            raise self._lane.refusal()
        future: Future[Any] = Future()

        def finish() -> bool:
            mailbox.leave(question)
            return question.finish(future)

        def is_done(done: Future[Any]) -> None:  # not ``future``, which is going to refer to us
            if done.cancelled() and question.settle("abandoned"):
                mailbox.leave(question)
                done.set_running_or_notify_cancel()  # tells concurrent.futures.wait()

        question = Question(self._lane, call, finish, None, counts)
        try:
            begin(question, *args)
        except BaseException:
            question.settle("abandoned")
            mailbox.leave(question)
            raise
        future.add_done_callback(is_done)
        return future


class _Wrapped(AbstractContextManager[T_Value_co], Generic[T_Value_co]):
    """An async context manager whose two halves run in one task of the hub's."""

    def __init__(self, asker: Asker[Any], cm: AbstractAsyncContextManager[T_Value_co]) -> None:
        self._asker = asker
        self._cm = cm

    async def _run(self, *, task_status: Any) -> bool | None:
        self._leave = Event()
        self._info: tuple[Any, Any, Any] = (None, None, None)
        value = await self._cm.__aenter__()
        task_status.started(value)
        try:
            await self._leave.wait()
        except BaseException as exc:  # cancelled, by the end of the hub
            await self._cm.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        return await self._cm.__aexit__(*self._info)

    def __enter__(self) -> T_Value_co:
        run: Callable[..., Coroutine[Any, Any, bool | None]] = self._run
        self._future, value = self._asker.start_task(run)
        return value  # type: ignore[no-any-return]  # what __aenter__ has returned

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        self._info = exc_type, exc_val, exc_tb
        try:
            self._asker.call(self._leave.set)
            return result(self._future)
        except BaseException:
            self._future.cancel()  # whoever gives up lets nobody work on it, as in ``call``
            raise


class _Status:
    """What a task that is started calls when it has started."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def started(self, value: object = None) -> None:
        if not self._question.settle("answered", value) and not self._question.given_up:
            raise RuntimeError("task_status.started() was called before")


# With a default, what the library's thread is not told of, and the hub knows by its counts.
_SILENT = (TimeoutError, NoReplyError, BrokenResourceError, ClosedResourceError)


def check_pack(pack: object) -> None:
    if pack is not None and not callable(pack):
        raise TypeError(f"pack must be callable, not {pack!r}")


def packed(pack: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The item for what a library has called back with."""
    if pack is not None:
        return pack(*args, **kwargs)
    if kwargs:
        raise TypeError("called with keywords; give the callback a pack function")
    return args[0] if len(args) == 1 else args
