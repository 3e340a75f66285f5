"""What a hub needs of any event loop: that other threads can call into it, and tasks can sleep.

This file imports no backend. ``on_asyncio`` and ``on_trio`` have the differences; each of them is
imported when the first hub is opened in such a loop. None of the three files knows mailboxes and
hubs.

Each ``call_soon`` may be called from any thread, for ever. Once the loop is gone, it raises
RuntimeError (asyncio: the loop is closed; trio: ``RunFinishedError``, which is a RuntimeError).
There is no exception of ours for that, because on asyncio ``call_soon`` is the loop's own method:
one that translates would be one more call for each wake. So callers catch RuntimeError, and let a
RecursionError, which is one as well, go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import Any, Protocol, TypeAlias, cast

from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

CallSoon: TypeAlias = Callable[[Callable[[], Any]], object]
WhenClosed: TypeAlias = Callable[[int], object]


class Nap(Protocol):
    """How one task sleeps, once, until a function that runs in its event loop wakes it."""

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def wake(self) -> None:
        """Let the task go on soon. Does nothing if it does not sleep, or was cancelled."""

    def wake_now(self) -> None:
        """Let the task go on at once, if this event loop can do that. Call it outside of tasks."""


class Watch(Protocol):
    """An event loop's watch of one descriptor."""

    def stop(self) -> object:
        """Watch it no longer. From any thread, at any bytecode, also if the loop is closed."""


class WayIn(Protocol):
    """What a hub needs of the event loop that it lives in."""

    @property
    def make_nap(self) -> Callable[[], Nap]:
        """A task of this loop calls it to sleep."""
        ...

    @property
    def task_here(self) -> Callable[[], Any]:
        """Return the task of this loop that runs here; None outside of tasks."""
        ...

    def is_here(self) -> bool:
        """Does this loop run here, in this thread?"""
        ...

    @property
    def name_loop(self) -> Callable[[], object]:
        """Tell anyio in the current context, outside of any task, which event loop this is."""
        ...

    def watch(self, fd: int, arrived: Callable[[], object], left: Callable[[], object]) -> Watch:
        """Call *arrived* whenever *fd* is readable; when the watch has ended, call *left*, once.

        In the event loop. *arrived* must not raise.
        """
        ...

    def close(self) -> object:
        """Free its resources. In the event loop. ``call_soon`` still works afterwards."""

    def leave(self, task_group: TaskGroup) -> Awaitable[object]:
        """Close it, and leave *task_group*, which has no tasks, after one turn of the loop."""
        ...

    def leave_loop(self, guest: object) -> object:
        """Remove all traces of the hub of *guest* from the event loop. In the event loop."""

    def leave_loop_soon(self, guest: object) -> object:
        """The same, from any thread, at any bytecode, also if the event loop is closed."""

    def start_alone(
        self, func: Callable[[], Coroutine[Any, Any, None]], context: Context, name: str
    ) -> object:
        """Run *func* in a task that belongs to no task group. In the event loop.

        *func* must not raise, except for a cancellation of its own task.
        """


Way: TypeAlias = "tuple[WayIn, CallSoon, int | None]"


def native_loop() -> Any:
    """The event loop that runs here: a loop of asyncio or uvloop, or the token of a trio run."""
    return current_token().native_token


def call_soon_here() -> CallSoon:
    """Return a function that makes this event loop call another one soon, from any thread.

    It is the loop's own function: ``call_soon_threadsafe`` of asyncio and uvloop, ``run_sync_soon``
    of trio. Neither takes a lock that a signal handler could find taken, and both are documented to
    be called from foreign threads. (anyio's functions for this add a round trip.) The function that
    they call must not raise: an exception there ends a whole trio run.
    """
    native = native_loop()
    if _is_trio(native):
        return cast("CallSoon", native.run_sync_soon)
    return cast("CallSoon", native.call_soon_threadsafe)


def way_into(task_group: TaskGroup, when_closed: WhenClosed, guest: object) -> Way:
    """The way into this event loop for a hub that has just opened *task_group* in it.

    *guest* stands for the hub; pass the same object to ``WayIn.leave_loop``.

    Returns the way in, ``call_soon``, and the number that *when_closed* will be called with if this
    event loop is closed under the hub (None: that cannot happen).
    """
    kind = type(task_group)  # each backend of anyio has its own
    way = _ways.get(kind)
    if way is None:
        if _is_trio(native_loop()):
            from . import on_trio

            way = on_trio.way_in
        else:
            from . import on_asyncio

            way = on_asyncio.way_in
        _ways[kind] = way
    return way(task_group, when_closed, guest)


_ways: dict[type[TaskGroup], Callable[[TaskGroup, WhenClosed, object], Way]] = {}


def _is_trio(native: Any) -> bool:
    return hasattr(native, "run_sync_soon")  # no event loop of asyncio has that
