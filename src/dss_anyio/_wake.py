"""What is different in asyncio and in trio: reaching the loop from any thread, and sleeping in it.

This file knows nothing of mailboxes and hubs. ``call_soon``, wherever it comes from, may be called
from any thread for ever; once the loop is gone, it raises RuntimeError (asyncio: the loop is
closed; trio: ``RunFinishedError``, a RuntimeError, too).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any, Protocol, TypeAlias, cast

from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

CallSoon: TypeAlias = Callable[[Callable[[], Any]], object]
WhenClosed: TypeAlias = Callable[[int], object]

_NEVER = 1000 * 365 * 24 * 3600.0  # in seconds of a loop's clock; asyncio looks at it once a day


class WayIn(Protocol):
    """What a hub needs of the event loop that it lives in."""

    @property
    def make_nap(self) -> Callable[[], Nap]:
        """What a task of this loop calls to sleep."""
        ...

    @property
    def name_loop(self) -> Callable[[], object]:
        """Tell anyio in the current context, outside of any task, which event loop this is."""
        ...

    def close(self) -> object:
        """Free what it uses. In the event loop. ``call_soon`` works all the same."""

    def leave(self, task_group: TaskGroup) -> Awaitable[object]:
        """Do that, and leave *task_group* without an exception, if nobody was given it.

        A turn of the event loop, as leaving a task group always is.
        """
        ...


def native_loop() -> Any:
    """The event loop that runs here: a loop of asyncio or uvloop, or the token of a trio run."""
    return current_token().native_token


def call_soon_here() -> CallSoon:
    """Return a function that makes this event loop call another one soon, from any thread.

    It is the loop's own: ``call_soon_threadsafe`` of asyncio and uvloop, ``run_sync_soon`` of
    trio. Both take no lock that a signal handler could find taken, and are documented to be called
    from foreign threads; what anyio puts on top of them is a round trip. What they call must not
    raise: an exception there ends a whole trio run.
    """
    native = native_loop()
    if isinstance(native, asyncio.AbstractEventLoop):
        return native.call_soon_threadsafe
    return cast("CallSoon", native.run_sync_soon)


def way_into(task_group: TaskGroup, when_closed: WhenClosed) -> Way:
    """The same for a hub, which has opened *task_group* in this event loop just now.

    Returns its way in, ``call_soon``, and what *when_closed* will be called with if this event loop
    is closed under the hub (None: that cannot happen).
    """
    kind = type(task_group)  # each backend of anyio has its own
    way = _ways.get(kind)
    if way is None:
        if isinstance(native_loop(), asyncio.AbstractEventLoop):
            way = _into_asyncio
        else:
            from . import _trio

            way = _trio.way_in
        _ways[kind] = way
    return way(task_group, when_closed)


Way: TypeAlias = "tuple[WayIn, CallSoon, int | None]"
_ways: dict[type[TaskGroup], Callable[[TaskGroup, WhenClosed], Way]] = {}


class Nap(Protocol):
    """How one task sleeps, once, until a function that runs in its event loop wakes it."""

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def wake(self) -> None:
        """Let the task go on soon. Does nothing if it does not sleep, or was cancelled."""

    def wake_now(self) -> None:
        """The same, and at once if this event loop can do that. To be called outside of tasks."""


class _AsyncioNap(asyncio.Future[None]):
    """A future that calls back itself, because it need not always leave that to the loop.

    When a future is done, the event loop calls its callbacks in its next round, and the item in the
    queue waits for one more look at the selector. But what a sender has called runs in a callback
    of the loop as well. So it may do at once what the loop would do soon.

    The one callback is that of the task that awaits us; it asks for nothing but what documentation
    calls a Future-like object (``asyncio.isfuture``). Whatever happens between our bytecodes, such
    as a signal handler that cancels the task (Ctrl-C, since Python 3.11), ``set_result`` and
    ``cancel`` cannot both succeed, and who succeeds calls back.
    """

    __slots__ = ("_callback", "_context")

    def __init__(self) -> None:
        super().__init__()
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        self._callback = fn
        self._context = context

    def _call_back_soon(self) -> None:
        loop = self.get_loop()
        # If the loop was closed under it, what waits is being destroyed, and nobody calls it.
        if self._callback is not None and not loop.is_closed():
            loop.call_soon(self._callback, self, context=self._context)

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._call_back_soon()
        return cancelled

    def wake(self) -> None:
        try:
            self.set_result(None)
        except asyncio.InvalidStateError:
            return  # it was cancelled before
        self._call_back_soon()

    def wake_now(self) -> None:
        if self._callback is None or self._context is None:
            self.wake()
            return
        try:
            self.set_result(None)
        except asyncio.InvalidStateError:
            return
        self._context.run(self._callback, self)


def _name_asyncio() -> None:
    """See ``WayIn.name_loop``.

    anyio starts tasks only if it knows. Trio leaves a note for the whole thread, asyncio does not,
    and newer versions of anyio ask asyncio itself if sniffio is not there.
    """
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")


class _WayIntoAsyncio:
    make_nap = _AsyncioNap
    name_loop = staticmethod(_name_asyncio)

    @staticmethod
    async def leave(task_group: TaskGroup) -> None:
        # It has no tasks to wait for, so all there is to leave is its cancel scope. Its own way out
        # makes another scope first, so that this turn of the loop cannot be cancelled; that is a
        # third of what it takes to open and close a hub. Here it can be.
        scope = task_group.cancel_scope
        try:
            await asyncio.sleep(0)
        except BaseException as exc:
            if not scope.__exit__(type(exc), exc, exc.__traceback__):
                raise
        else:
            scope.__exit__(None, None, None)

    @staticmethod
    def close() -> None:
        pass


_asyncio = _WayIntoAsyncio()


def _into_asyncio(_: TaskGroup, when_closed: WhenClosed) -> Way:
    native = asyncio.get_running_loop()
    return _asyncio, native.call_soon_threadsafe, watch_loop(native, when_closed)


# -- A loop that is closed under a hub -------------------------------------------------------------
#
# An asyncio loop can be stopped and closed while tasks are suspended in it: ``finally`` blocks do
# not run, and nobody is told. But a loop that is closed, or destroyed, lets go of its timers. So we
# give each loop that a hub is opened in one that is never due, and watch for its destruction. (A
# trio run cannot end before its tasks, so there is nothing to watch.)

_watched: dict[int, None] = {}  # the ``id`` of each such loop, as long as its timer is there


def watch_loop(native: asyncio.AbstractEventLoop, when_closed: WhenClosed) -> int:
    """Call *when_closed* with what this returns if this event loop is closed. In the loop.

    It is called in the thread that closes the loop; only the first one's, however many watch it.
    """
    loop = id(native)  # nobody else's until the loop is destroyed, which destroys its timers first
    if loop not in _watched:
        _watched[loop] = None
        # In a context of its own, or it would hold what is in the task's for as long.
        native.call_at(_NEVER, _Witness(loop, when_closed), context=Context())  # the loop holds it
    return loop


class _Witness:
    def __init__(self, loop: int, when_closed: WhenClosed) -> None:
        self._loop = loop
        self._when_closed = when_closed

    def __call__(self) -> None:
        pass

    def __del__(self, _watched: dict[int, None] = _watched) -> None:
        _watched.pop(self._loop, None)
        self._when_closed(self._loop)
