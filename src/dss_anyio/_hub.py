"""The receiving face for an event loop: ``async with open_hub() as hub``."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from anyio import create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup

from ._bounds import Overflow
from ._ending import abandon, abandon_those_in, end_source, end_sources, unwatch
from ._errors import hub_gone, not_open, other_process
from ._face import Face, OnError, T_Item, tell
from ._lane import Source
from ._portal import Portal
from ._receiver import TURN, Receiver, Sleepers
from ._serve import Handler, serve
from ._waiting import check_timeout
from ._wake import way_into
from ._worker import Worker

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

T_Raw = TypeVar("T_Raw")
T_Value = TypeVar("T_Value")


@dataclass(frozen=True)
class OpenSource(Generic[T_Raw, T_Value]):
    """A source that :meth:`Hub.open_source` has started."""

    portal: Portal[T_Raw]  #: what it sends through
    value: T_Value  #: what ``start`` returned


class Hub(Face[T_Item], Receiver[T_Item]):
    """A hub in an event loop of asyncio, uvloop or trio; also its first receiving end.

    ``async with dss.open_hub() as hub`` opens it; with ``dss.open_hub[MyItem](...)`` type checkers
    know what it carries. Leaving the block ends it, in this order: no new items are accepted;
    whoever is blocked is released with an error; the tasks in :attr:`task_group` are cancelled;
    the released calls have left; each registered source's ``cancel`` has run, newest first, in a
    worker thread, at most 10 seconds each; what was not received went to ``on_undelivered``.
    Cancellation, also a second one, does not cut this short.

    If only the body raises, its exception leaves the block as it is. Errors of tasks and of
    ``cancel`` callbacks leave it in an ``ExceptionGroup``, together with the body's.

    :param max_buffer_size: how many items may wait to be received; ``math.inf`` for any number;
        0 for a rendezvous: an item is accepted when a receiver waits for it
    :param overflow: what a full hub does with an item: ``"block"`` (the sender waits, or is told),
        ``"drop_oldest"``, ``"drop_newest"``. What is dropped counts as sent and as dropped and goes
        to the source's ``on_undelivered``, in the thread that sends
    :param name: appears in ``repr`` and messages
    :param on_error: called in the hub's thread as ``on_error(exception, source_name)`` with what
        went wrong and concerns nobody who waits: in ``pack``, ``decode``, ``on_undelivered``, in a
        handler of a plain item, in the question of a callback that has a default; must not block.
        Without it, it is logged to the logger ``dss_anyio`` as an error
    :raises ValueError: if a size is negative, not whole or too large, or the policy is unknown
    :raises TypeError: if *name* is not a string, or *on_error* not callable
    """

    def __init__(
        self,
        max_buffer_size: float = 1024,
        *,
        overflow: Overflow = "block",
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> None:
        Face.__init__(self, max_buffer_size, overflow, name, on_error)
        self._closed = False
        self._line: list[Sleepers] = []
        self._turn_ends = TURN

    @property
    def task_group(self) -> TaskGroup:
        """A task group for tasks that live as long as the hub: its end cancels them.

        :raises RuntimeError: if the hub is not open
        """
        if self._task_group is None:
            raise not_open()
        self._mailbox.has_tasks = True  # for all we know
        return self._task_group

    @property
    def _sleepers(self) -> Sleepers:
        """In the hub's thread; made when first needed."""
        if not self._line:
            # Whoever interrupts us in here, such as a signal handler, may append its own. All use
            # the first. (Not ``vars(self).setdefault``: once one has asked for ``vars``, CPython
            # 3.11 and 3.12 search for each attribute, and iterating is a tenth slower.)
            self._line.append(Sleepers(self._mailbox, self._on_error))
        return self._line[0]

    # -- beginning and end -------------------------------------------------------------------------

    def __enter__(self) -> Hub[T_Item]:
        """As of any receiving end: the end of the block closes it. It does not open the hub."""
        if self._task_group is None:
            raise not_open()
        return self

    async def __aenter__(self) -> Hub[T_Item]:
        mailbox = self._mailbox
        if mailbox.way_in is not None:
            raise RuntimeError("a hub can be opened once only; call open_hub() again")
        task_group = create_task_group()
        await task_group.__aenter__()
        self._task_group = task_group
        mailbox.way_in, mailbox.call_soon, mailbox.loop = way_into(task_group, abandon_those_in)
        self._enter_thread()
        return self

    async def __aexit__(  # type: ignore[override]  # as a task group, it may swallow its own cancellation
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        mailbox = self._mailbox
        mailbox.end(hub_gone)
        self._left_open = False
        if isinstance(exc_val, GeneratorExit):
            # Our coroutine is being destroyed, its loop is gone: nothing can be awaited.
            abandon(mailbox)
            unwatch(mailbox.hub, None)
            return None
        outcome: BaseException | None = None
        handled: bool | None = None
        task_group = self._task_group
        assert task_group is not None
        self._task_group = None  # nobody gets it any more
        try:
            if exc_val is None and not mailbox.has_tasks:
                await mailbox.way_in.leave(task_group)
            else:
                mailbox.way_in.close()
                task_group.cancel_scope.cancel()
                handled = await task_group.__aexit__(exc_type, exc_val, exc_tb)
        except BaseException as exc:
            outcome = exc
            if isinstance(exc, BaseExceptionGroup):
                group = cast("BaseExceptionGroup[BaseException]", exc)
                if len(group.exceptions) == 1 and _same(group.exceptions[0], exc_val):
                    outcome = exc_val  # the body's alone: no reason to wrap it
        # Only now: a receiver in the task group was cancelled, as a task of the hub should be. What
        # receives elsewhere gets ClosedResourceError.
        if self._line:
            self._line[0].rouse_all()
        errors: list[BaseException] | None = None
        if mailbox.refusal is other_process:
            pass  # everything else is the parent's
        elif mailbox.items or mailbox.blocked or mailbox.sources or mailbox.stopping:
            worker = Worker(partial(end_sources, mailbox), f"dss_anyio: ending {self.name}")
            outcome = await worker.outlast() or outcome
            errors = worker.outcome()
        else:
            mailbox.sweep()  # for what may come yet
        unwatch(mailbox.hub, None)
        self._closed = True
        if mailbox.reports:
            self._sleepers.report_errors()
        if errors:
            outcome = self._together(_without_cancellation(outcome), errors)
        if outcome is not None and outcome is not exc_val:
            try:
                raise outcome
            finally:
                del outcome, exc_val  # they refer to this frame
        return handled

    # -- answering ---------------------------------------------------------------------------------

    async def serve(
        self,
        handler: Handler[T_Item],
        *,
        max_concurrency: float = 64,
        raise_errors: bool = False,
    ) -> None:
        """Call *handler* with each item, until the last portal was closed and all were handled.

        For a request, what *handler* returns is the answer, and what it raises is raised where it
        was asked. If the asker gives up, its handler is cancelled; if that has not begun yet, it is
        skipped. For a plain item, what *handler* returns is ignored, and what it raises goes to
        ``on_error`` (see :func:`open_hub`).

        A plain function is called in the event loop and must not block. A coroutine function runs
        in a task of its own, with at most *max_concurrency* of them at a time; with 1, each item is
        handled only after the one before. The next item is received when there is room for its
        handler. Handlers see the context variables of the task that called ``serve``, each of them
        in a copy of its own.

        :param handler: is called with one argument: the item, or what was asked
        :param max_concurrency: how many coroutines may run at once; ``math.inf`` for any number
        :param raise_errors: an exception for a plain item ends ``serve`` and all its handlers
        :raises TypeError: if *handler* is not callable, or *max_concurrency* no integer
        :raises ValueError: if *max_concurrency* is less than 1
        :raises anyio.ClosedResourceError: if this end is closed
        :raises ExceptionGroup: with *raise_errors*, what a handler has raised
        """
        on_error = None if raise_errors else partial(tell, self._on_error, source=None)
        await serve(self, self._sleepers, handler, max_concurrency, on_error)

    # -- sources -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def open_source(
        self,
        name: str,
        start: Callable[[Portal[T_Raw]], T_Value],
        stop: Callable[[T_Value], object],
        *,
        stop_timeout: float = 10.0,
        decode: Callable[[T_Raw], T_Item] | None = None,
        on_undelivered: Callable[[T_Raw], object] | None = None,
    ) -> AsyncGenerator[OpenSource[T_Raw, T_Value], None]:
        """Start a library, and stop it at the end of the ``async with`` block, in order.

        ``start(portal)`` and ``stop(value)`` run in threads of their own while the hub is live, so
        they may block, and wait for callbacks that wait for the hub; *value* is what *start* has
        returned. They are daemon threads, and a ``threading.Thread`` that is made in one is a
        daemon as well, unless it is told otherwise. The end of the block, or of the hub: no new
        items are accepted from this source; whoever is blocked in its portals is released with an
        error, and has left; *stop* has run; what was not received went to *on_undelivered*.
        Cancellation does not cut this short. If *start* is still running then, it has
        *stop_timeout* seconds to return; if it returns even later, *stop* is called at once.

        :param name: as for :meth:`register`, and so are *decode* and *on_undelivered*
        :param stop_timeout: how many seconds *stop* may take; then ``TimeoutError`` is raised, and
            *stop* goes on in a daemon thread
        :return: a context manager for an :class:`OpenSource`: its portal and *value*
        :raises Exception: what *start* raises; *stop* is not called then
        :raises RuntimeError: if the system has no thread for *start*
        :raises ExceptionGroup: what *stop* raises, together with what the body has raised
        :raises ValueError: if a source of that name is registered, or *stop_timeout* is negative
        :raises TypeError: if *start* or *stop* is not callable
        :raises anyio.ClosedResourceError: after :meth:`close_senders`
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        for what, func in (("start", start), ("stop", stop)):
            if not callable(func):
                raise TypeError(f"{what} must be callable, not {func!r}")
        limit = check_timeout(stop_timeout)
        if limit is None:
            raise TypeError("stop_timeout must be a number of seconds, not None")
        portal, source = self._register(name, None, decode, on_undelivered)
        source.stop_timeout = limit

        def run_start() -> T_Value:
            value = start(portal)
            source.set_cancel(partial(stop, value))
            # Whoever ends the source writes ``ended``, then takes the cancel. If it found none,
            # we read ``ended`` here and stop the library ourselves.
            if source.ended:
                late = source.take_cancel()
                if late is not None:
                    late()
            return value

        try:
            starting = Worker(run_start, f"dss_anyio: starting {name}", only_there=True)
        except RuntimeError:  # no thread can be started
            portal.abort()
            raise
        outcome: BaseException | None = None
        try:
            yield OpenSource(portal, await starting.result())
        except GeneratorExit:
            raise  # nothing can be awaited; the end of the hub stops what was started
        except BaseException as exc:
            outcome = exc
        errors: list[BaseException] = []
        cancelled = await self._end_source(source, starting, errors)
        outcome = cancelled or outcome
        if errors:
            outcome = self._together(_without_cancellation(outcome), errors)
        if outcome is not None:
            try:
                raise outcome
            finally:
                del outcome  # it refers to this frame

    async def _end_source(
        self, source: Source, starting: Worker[Any], errors: list[BaseException]
    ) -> BaseException | None:
        """End *source* alone; returns a native cancellation that came meanwhile."""
        mailbox = self._mailbox
        stopped = mailbox.stopping[source] = Event()
        try:
            if source.retire("block"):
                mailbox.sources.pop(cast("str", source.name), None)
            mailbox.release(source)
            # Now whatever waits for the hub inside of start() is released, so it can return.
            cancelled = await starting.outlast(source.stop_timeout)
            if not starting.done:
                errors.append(
                    TimeoutError(
                        f"starting source {source.name!r} has not returned within "
                        f"{source.stop_timeout} s of its end; it goes on in a daemon thread"
                    )
                )
            if source.retired != "hub":  # else its end stops the library
                ending = Worker(
                    partial(end_source, mailbox, source), f"dss_anyio: ending {source.name}"
                )
                cancelled = await ending.outlast() or cancelled
                errors.extend(ending.outcome())
            return cancelled
        finally:
            stopped.set()
            mailbox.stopping.pop(source, None)

    # -- what Face asks for ------------------------------------------------------------------------

    # From any thread, so they make nothing.

    def _open_receivers(self) -> int:
        if self._mailbox.ended:
            return 0
        return self._line[0].open_receivers if self._line else 1

    def _waiting_receivers(self) -> int:
        return len(self._line[0]) if self._line else 0


# Opening is what it is for, and a class can be given a type: ``open_hub[int]()``.
open_hub = Hub


def _same(one: BaseException, other: BaseException | None) -> bool:
    """Are they one exception? Of a group, trio raises a copy."""
    if isinstance(one, BaseExceptionGroup) and isinstance(other, BaseExceptionGroup):
        ones = cast("BaseExceptionGroup[BaseException]", one).exceptions
        return ones == cast("BaseExceptionGroup[BaseException]", other).exceptions
    return one is other


def _without_cancellation(exc: BaseException | None) -> BaseException | None:
    """An error at the end takes the place of a cancellation, as it does in any ``finally``."""
    return None if isinstance(exc, get_cancelled_exc_class()) else exc
