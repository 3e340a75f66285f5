"""The calling half of a portal: the functions of anyio's ``BlockingPortal``."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from anyio import Event, get_cancelled_exc_class
from anyio.lowlevel import checkpoint

from .._core.errors import NotCopied, who
from .._core.mailbox import Mailbox
from .._core.question import Question
from .._core.source import Lane
from .._core.steps import Once
from .._loops.slices import check_limit, check_timeout, result
from .._loops.way import call_soon_here
from .._loops.worker import outlast
from .running import begin_call, check_coroutine_function, check_function
from .waiting import promise, wait_for_answer

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

T_Args = TypeVarTuple("T_Args")
T_Result = TypeVar("T_Result")
T_Value_co = TypeVar("T_Value_co", covariant=True)


class Caller(NotCopied):
    """The base of :class:`Portal` that calls functions in the hub's thread.

    Calls do not go through the line: no receiver is needed, a full hub does not hold them up, and
    there is no order between calls and items.
    """

    def __init__(self, mailbox: Mailbox, lane: Lane) -> None:
        self._mailbox = mailbox
        self._lane = lane

    @overload
    def call(
        self, func: Callable[[Unpack[T_Args]], Awaitable[T_Result]], *args: Unpack[T_Args]
    ) -> T_Result: ...

    @overload
    def call(
        self, func: Callable[[Unpack[T_Args]], T_Result], *args: Unpack[T_Args]
    ) -> T_Result: ...

    def call(self, func: Callable[[Unpack[T_Args]], Any], *args: Unpack[T_Args]) -> Any:
        """Call *func* in the hub's thread, wait for its result and return it.

        From any thread but the hub's own. Blocks until *func* has returned or raised. If the caller
        gives up (Ctrl-C, an exception set in this thread), the task is cancelled.

        A coroutine function runs in a task of ``hub.task_group``; a plain function runs in the
        event loop itself, so it must not block. The call does not pass through the queue, so no
        receiver is needed. *func* sees the context variables of the caller. A plain function finds
        a task there and may open cancel scopes, but is inside no scope; on trio, Ctrl-C reaches it.
        In a polled hub a plain function runs at the next ``poll()``.

        :raises BaseException: the exception of *func*, also if it is no ``Exception``; a copy of
            KeyboardInterrupt and SystemExit, which end the hub as well if a task raises them
        :raises NoReplyError: if the task, or a task that it has awaited, was cancelled
        :raises RuntimeError: in the hub's own thread; in a polled hub if *func* is a coroutine
            function; if the hub is not open
        :raises anyio.ClosedResourceError: if this portal is closed, or is aborted meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        return wait_for_answer(
            self._mailbox, self._lane, "call", None, None, begin_call, self._mailbox, func, args
        )

    @overload
    def call_within(
        self,
        timeout: float,
        func: Callable[[Unpack[T_Args]], Awaitable[T_Result]],
        *args: Unpack[T_Args],
    ) -> T_Result: ...

    @overload
    def call_within(
        self, timeout: float, func: Callable[[Unpack[T_Args]], T_Result], *args: Unpack[T_Args]
    ) -> T_Result: ...

    def call_within(
        self, timeout: float, func: Callable[[Unpack[T_Args]], Any], *args: Unpack[T_Args]
    ) -> Any:
        """As :meth:`call`, but wait at most *timeout* seconds.

        After that time a task that runs *func* is cancelled, and this does not wait for its end. If
        *func* was not called yet, it never is. A plain function that runs goes on.

        :raises TimeoutError: if there was no result in time; otherwise as :meth:`call`
        :raises ValueError: if *timeout* is negative
        :raises TypeError: if *timeout* is not a number
        """
        check_limit(timeout, "timeout")
        limit = check_timeout(timeout)
        return wait_for_answer(
            self._mailbox,
            self._lane,
            "call_within",
            limit,
            None,
            begin_call,
            self._mailbox,
            func,
            args,
        )

    @overload
    async def call_async(
        self,
        func: Callable[[Unpack[T_Args]], Awaitable[T_Result]],
        *args: Unpack[T_Args],
        abandon_on_cancel: bool = False,
    ) -> T_Result: ...

    @overload
    async def call_async(
        self,
        func: Callable[[Unpack[T_Args]], T_Result],
        *args: Unpack[T_Args],
        abandon_on_cancel: bool = False,
    ) -> T_Result: ...

    async def call_async(
        self,
        func: Callable[[Unpack[T_Args]], Any],
        *args: Unpack[T_Args],
        abandon_on_cancel: bool = False,
    ) -> Any:
        """As :meth:`call`, from any event loop of either backend, the hub's own included.

        Waits without blocking the loop. If it is cancelled before *func* was called, *func* is
        never called. If it is cancelled later, the task is cancelled, and this call waits until the
        task has ended; with *abandon_on_cancel* it does not wait. (As in anyio 4.16.)

        :raises BaseException: the exception of *func*, also if this call has cancelled it
        :raises NoReplyError: if the task was cancelled, but not by this call
        :raises TypeError: if *func* is not callable; otherwise as :meth:`call`
        """
        check_function(func)
        await checkpoint()
        mailbox = self._mailbox
        if self._lane.refusal is not None:
            raise self._lane.refusal(self._lane)
        call_soon = call_soon_here()
        woken = Event()
        question = Question(self._lane, "call_async", lambda: call_soon(woken.set))
        turn: Once[str] = Once()

        def begin() -> Any:
            return func(*args) if turn.decide("begun") else None

        try:
            begin_call(question, mailbox, begin, (), name=func)
            await woken.wait()
        except get_cancelled_exc_class():
            if abandon_on_cancel or turn.decide("called off"):
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
        self,
        func: Callable[[Unpack[T_Args]], Awaitable[T_Result]],
        *args: Unpack[T_Args],
        name: object = None,
    ) -> Future[T_Result]: ...

    @overload
    def start_task_soon(
        self, func: Callable[[Unpack[T_Args]], T_Result], *args: Unpack[T_Args], name: object = None
    ) -> Future[T_Result]: ...

    def start_task_soon(
        self, func: Callable[[Unpack[T_Args]], Any], *args: Unpack[T_Args], name: object = None
    ) -> Future[Any]:
        """As :meth:`call`, but return a future for the result.

        From any thread; never waits. Cancelling the future cancels the task. *name* names the task,
        for debugging.

        :raises RuntimeError: if the hub is not open
        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        mailbox = self._mailbox
        return promise(
            mailbox,
            self._lane,
            "start_task_soon",
            None,
            begin_call,
            mailbox,
            func,
            args,
            None,
            name,
        )

    def start_task(
        self, func: Callable[..., Awaitable[T_Result]], *args: object, name: object = None
    ) -> tuple[Future[T_Result], Any]:
        """Start a task in ``hub.task_group`` and wait until it calls ``task_status.started()``.

        From any thread but the hub's own. *func* gets a keyword argument *task_status*, as with
        ``TaskGroup.start`` of anyio.

        :return: a future for the task's result, and the value that ``started`` was called with
        :raises BaseException: the exception of *func* before it has called ``started``
        :raises RuntimeError: if *func* returns before that; otherwise as :meth:`call`
        """
        mailbox, lane = self._mailbox, self._lane
        check_coroutine_function(mailbox, lane)
        futures: list[Future[Any]] = []

        def begin(started: Question) -> None:
            mailbox.enter(started)

            def is_done(future: Future[Any]) -> None:
                if started.settled:
                    return
                if future.cancelled():
                    started.settle("unanswered", "got no task: it was cancelled before it started")
                else:
                    exc = future.exception()
                    if exc is None:
                        exc = RuntimeError(
                            f"the task of start_task() of {who(lane)} has ended without "
                            "task_status.started()"
                        )
                    started.settle("refused", exc)

            keywords = {"task_status": _Status(started)}
            future = promise(
                mailbox, lane, "start_task", None, begin_call, mailbox, func, args, keywords, name
            )
            futures.append(future)
            future.add_done_callback(is_done)

        try:
            value = wait_for_answer(mailbox, lane, "start_task", None, None, begin)
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        return futures[0], value

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[T_Result]
    ) -> AbstractContextManager[T_Result]:
        """Return a context manager that runs *cm* in the hub's thread, in one single task.

        Use it in any thread but the hub's own. Its ``with`` blocks until *cm* has been entered, and
        the end of the block blocks until *cm* has been left.
        """
        return _Wrapped(self, cm)


class _Wrapped(AbstractContextManager[T_Value_co], Generic[T_Value_co]):
    """An async context manager whose two halves run in one task of the hub's."""

    def __init__(self, caller: Caller, cm: AbstractAsyncContextManager[T_Value_co]) -> None:
        self._caller = caller
        self._cm = cm
        self._future: Future[bool | None] | None = None  # while it is entered

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
        if self._future is not None:
            raise RuntimeError("this context manager is entered already; wrap another one")
        run: Callable[..., Coroutine[Any, Any, bool | None]] = self._run
        self._future, value = self._caller.start_task(run)
        return value  # type: ignore[no-any-return]  # what __aenter__ has returned

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        self._info = exc_type, exc_val, exc_tb
        future, self._future = self._future, None
        assert future is not None
        try:
            self._caller.call(self._leave.set)
            return result(future)
        except BaseException:
            future.cancel()  # if the caller gives up, the task is cancelled, as in ``call``
            raise


class _Status:
    """The *task_status* of ``start_task``: the task calls ``started`` when it has started."""

    def __init__(self, question: Question) -> None:
        self._question = question

    def started(self, value: object = None) -> None:
        if not self._question.settle("answered", value) and not self._question.given_up:
            raise RuntimeError(
                f"task_status.started() was called before, in the task of start_task() of "
                f"{who(self._question.lane)}"
            )
