"""The receiving face for an event loop: ``async with open_hub() as hub``."""

from __future__ import annotations

import sys
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from anyio import create_task_group
from anyio.abc import TaskGroup

from .._core.errors import not_open, opened_before, other_process, title
from .._core.inlets import Inlets
from .._core.policies import Overflow
from .._core.reports import OnError, tell
from .._ending.order import Trouble, end_sources, leaving, release_all, together
from .._ending.ways_out import abandon, abandon_those_in, unwatch
from .._loops.closing import leave_elsewhere, may_await
from .._loops.way import way_into
from .._loops.worker import Worker
from .._receiving.docking import dock
from .._receiving.receiver import Receiver
from .._receiving.serve import Handler, serve
from .._receiving.sleepers import Sleepers
from .open_source import without_cancellation
from .opener import Opener
from .typed import T_Item, T_Received

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

T_Raw = TypeVar("T_Raw")
T_Value = TypeVar("T_Value")


class Hub(Opener[T_Item], Receiver[T_Received], Generic[T_Item, T_Received]):
    """A hub in an event loop of asyncio, uvloop or trio; also its first receiving end.

    ``async with dss.open_hub() as hub`` opens it; for type checkers ``dss.open_hub[MyItem](...)``,
    or ``dss.open_hub[MyItem, MyItem | dss.Request[MyItem]](...)`` if you may receive requests, too.

    Leaving the block ends the hub, in this order: no new items are accepted; blocked calls are
    released with an error; the tasks in :attr:`task_group` are cancelled; the released calls have
    left; each registered source's ``stop`` has run, newest first, for at most its ``stop_timeout``;
    the items that were not received went to ``on_undelivered``. A plain ``stop`` runs in a worker
    thread, a coroutine function in this event loop. Cancellation, also a second one, does not cut
    this short.

    On asyncio another task than the one that opened it may end it (``AsyncExitStack``, test
    fixtures, hooks that start and stop). Not while the opening task is in a cancel scope or task
    group that it has entered after the hub. If the hub has tasks, that raises RuntimeError. If it
    has none, the opening task cannot leave a scope entered before the hub.

    If only the body raises, its exception leaves the block as it is. Errors of tasks and of
    ``stop`` functions leave it in an ``ExceptionGroup``, together with the body's.

    :param max_buffer_size: how many items may wait to be received; ``math.inf`` for any number;
        0 for a rendezvous: an item is accepted when a receiver waits for it
    :param overflow: the policy of a full hub: ``"block"`` (the sender waits, or its item is not
        accepted), ``"drop_oldest"``, ``"drop_newest"``. A dropped item counts as sent and as
        dropped, and goes to the source's ``on_undelivered``, in the thread that sends
    :param name: appears in ``repr`` and messages
    :param on_error: called in the hub's thread as ``on_error(exception, source_name)`` with each
        error that no waiting caller receives. These are the errors of ``pack``, ``decode`` and
        ``on_undelivered``, of a handler of a plain item, and of a question whose callback has a
        default. It must not block. Without it, they are logged to the logger ``dss_anyio``
    :raises ValueError: if a size is negative, not whole or too large, or the policy is unknown
    :raises TypeError: if *name* is not a string, or *on_error* not callable or a coroutine function
    """

    _has_loop = True

    def __init__(
        self,
        max_buffer_size: float = 1024,
        *,
        overflow: Overflow = "block",
        name: str | None = None,
        on_error: OnError | None = None,
    ) -> None:
        Opener.__init__(self, max_buffer_size, overflow, name, on_error)
        self._join(Sleepers(self._mailbox, on_error))

    _opener: Any = None  # the task that has opened it

    @property
    def task_group(self) -> TaskGroup:
        """A task group for tasks that live as long as the hub: its end cancels them.

        :raises RuntimeError: if the hub is not open
        """
        if self._task_group is None:
            raise not_open(self._mailbox)
        self._mailbox.home.has_tasks = True  # the caller may start one
        return self._task_group

    # -- beginning and end -------------------------------------------------------------------------

    def __enter__(self) -> Hub[T_Item, T_Received]:
        """As for any receiving end: the end of the block closes it. This does not open the hub."""
        if self._task_group is None:
            raise not_open(self._mailbox)
        return self

    async def __aenter__(self) -> Hub[T_Item, T_Received]:
        home = self._mailbox.home
        if home.way_in is not None:
            raise opened_before(self._mailbox)
        task_group = create_task_group()
        await task_group.__aenter__()
        try:
            self._task_group = task_group
            home.way_in, home.call_soon, home.loop = way_into(task_group, abandon_those_in, home)
            self._opener = home.way_in.task_here()
            self._enter_thread()
        except BaseException:  # out of memory; or a signal handler has raised
            self._task_group = None
            self._left_open = False
            abandon(self._mailbox)
            unwatch(home.hub, None)
            if home.way_in is not None:
                home.way_in.close()
                home.way_in.leave_loop(home)
            await task_group.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(  # type: ignore[override]  # as a task group, it may swallow its own cancellation
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        mailbox = self._mailbox
        home, registry = mailbox.home, mailbox.registry
        struck = release_all(mailbox)
        self._left_open = False
        closed_early = isinstance(exc_val, GeneratorExit)
        if closed_early and not (home.is_here() and may_await(exc_val)):
            # Our coroutine is being destroyed, so it cannot await.
            abandon(mailbox)
            unwatch(home.hub, None)
            if struck is not None:
                raise struck
            return None
        if registry.refusal is other_process and home.loop is not None:
            # A forked child. Asyncio says that no loop runs in it, so anyio cannot leave the task
            # group, and its error would replace the exception of the body.
            self._end.closed = True
            return None
        outcome: BaseException | None = None
        handled: bool | None = None
        task_group, way_in = self._task_group, home.way_in
        opener, self._opener = self._opener, None  # it may refer to us
        assert task_group is not None
        assert way_in is not None
        self._task_group = None  # no caller gets it any more
        try:
            if opener is not way_in.task_here():
                way_in.close()
                hub = title(mailbox.books)
                await leave_elsewhere(task_group, opener, home.has_tasks, hub)
            else:
                if exc_val is None and not home.has_tasks:
                    await way_in.leave(task_group)
                else:
                    way_in.close()
                    task_group.cancel_scope.cancel()
                    if closed_early:  # GeneratorExit goes on by itself, in no group
                        await task_group.__aexit__(None, None, None)
                    else:
                        handled = await task_group.__aexit__(exc_type, exc_val, exc_tb)
        except BaseException as exc:
            outcome = exc
            if isinstance(exc, BaseExceptionGroup):
                group = cast("BaseExceptionGroup[BaseException]", exc)
                if len(group.exceptions) == 1 and _same(group.exceptions[0], exc_val):
                    outcome = exc_val  # only the body has raised: do not wrap its exception
        # Only now: a receiver in the task group was cancelled, as a task of the hub should be. A
        # receiver in another task gets ClosedResourceError.
        self._sleepers.rouse_all()
        errors: list[Trouble] = []
        if registry.refusal is other_process:
            pass  # everything else is the parent's
        elif (
            mailbox.line.entries or mailbox.inside.waiters or registry.sources or registry.stopping
        ):
            worker = Worker(
                partial(end_sources, mailbox, copy_context()), f"dss_anyio: ending {self.name}"
            )
            cancelled = await worker.outlast()
            # A cancellation does not replace errors of the hub's tasks: they would be lost.
            if cancelled and (outcome is exc_val or without_cancellation(outcome) is None):
                outcome = cancelled
            errors = worker.outcome()
        else:
            mailbox.sweep()  # for items that may still come
        unwatch(home.hub, None)
        way_in.leave_loop(home)
        self._end.closed = True
        if mailbox.reports:
            left = mailbox.reports.tell_all(self._on_error, mailbox.books)
            struck = left if struck is None else struck
        if struck is not None:
            others = without_cancellation(outcome)
            outcome = leaving(mailbox, self._on_error, struck, others, errors)
        elif errors:
            outcome = together(mailbox, self._on_error, without_cancellation(outcome), errors)
        if outcome is not None and outcome is not exc_val:
            try:
                raise outcome
            finally:
                del outcome, exc_val  # they refer to this frame
        return handled

    def _connect(self, bell: Any) -> int:
        fd: int = bell.open()
        return fd

    def _dock(self, inlets: Inlets) -> None:
        dock(self._sleepers, inlets)

    # -- answering ---------------------------------------------------------------------------------

    async def serve(
        self,
        handler: Handler[T_Item],
        *,
        max_concurrency: float = 64,
        raise_errors: bool = False,
    ) -> None:
        """Call *handler* with each item, until the last portal was closed and all were handled.

        For a request, the return value of *handler* is the answer, and its exception is raised in
        the call that asked. If the asker gives up, its handler is cancelled; a handler that has not
        begun yet is skipped. For a plain item, the return value of *handler* is ignored, and its
        exception goes to ``on_error`` (see :func:`open_hub`). A handler that awaits a cancelled
        task fails alone: the asker gets :exc:`NoReplyError`, ``on_error`` a RuntimeError. An
        exception that is no ``Exception`` ends ``serve`` if it was raised for a plain item; for a
        request, only KeyboardInterrupt and SystemExit do.

        A plain function is called in the event loop and must not block. On asyncio it runs in the
        task that called ``serve``, inside its cancel scopes; on trio it may also run in another
        task of the hub's or of trio's, without them. Ctrl-C reaches it. A coroutine function runs
        in a task of its own, with at most *max_concurrency* of them at a time; with 1, each item is
        handled only after the one before. The next item is received when there is room for its
        handler. Handlers see the context variables of the task that called ``serve``, each of them
        in a copy of its own.

        :param handler: is called with one argument: the item, sent or asked
        :param max_concurrency: how many coroutines may run at once; ``math.inf`` for any number
        :param raise_errors: an exception for a plain item ends ``serve`` and all its handlers
        :raises TypeError: if *handler* is not callable, or *max_concurrency* no integer
        :raises ValueError: if *max_concurrency* is less than 1
        :raises anyio.ClosedResourceError: if this end is closed
        :raises ExceptionGroup: with *raise_errors*, the exceptions of the handlers
        """
        tells = partial(tell, self._on_error, books=self._mailbox.books)
        on_error = None if raise_errors else tells
        await serve(self._sleepers, self._end, handler, max_concurrency, on_error)

    # -- the methods that Face needs ---------------------------------------------------------------

    def _open_receivers(self) -> int:
        return 0 if self._mailbox.ended else self._sleepers.open_ends

    def _waiting_receivers(self) -> int:
        return len(self._sleepers)


# A second name, because users call it to open a hub. A class takes types: ``open_hub[int]()``.
open_hub = Hub


def _same(one: BaseException, other: BaseException | None) -> bool:
    """The same exception, or two groups with equal members? (trio raises a copy of a group.)"""
    if isinstance(one, BaseExceptionGroup) and isinstance(other, BaseExceptionGroup):
        ones = cast("BaseExceptionGroup[BaseException]", one).exceptions
        return ones == cast("BaseExceptionGroup[BaseException]", other).exceptions
    return one is other
