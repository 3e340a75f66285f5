"""What is different in asyncio and in trio: reaching the loop from any thread, and sleeping in it.

This file knows nothing of mailboxes and hubs. What ``call_soon_here``, ``way_into`` and
``when_loop_closes`` return may be used from any thread for ever; once the loop is gone, using it
raises RuntimeError (asyncio: the loop is closed; trio: ``RunFinishedError``, a RuntimeError, too).
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable, Generator
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

from anyio.lowlevel import current_token

CallSoon: TypeAlias = Callable[[Callable[[], Any]], object]

_NEVER = 1000 * 365 * 24 * 3600.0  # in seconds of a loop's clock; asyncio looks at it once a day


class WayIn(Protocol):
    """How a hub has functions called in its event loop, by other threads."""

    @property
    def call_soon(self) -> CallSoon: ...

    def close(self) -> object:
        """Free what it uses. In the event loop. ``call_soon`` works all the same."""


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


def way_into(native: Any, start_soon: Callable[..., object]) -> WayIn:
    """The same for a hub, in whose task group *start_soon* starts a task if that is faster."""
    if isinstance(native, asyncio.AbstractEventLoop):
        return _WayIntoAsyncio(native)
    from . import _trio

    return _trio.WayIn(native, start_soon)


class _WayIntoAsyncio:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.call_soon: CallSoon = loop.call_soon_threadsafe

    def close(self) -> None:
        pass


class Nap(Protocol):
    """How one task sleeps, once, until a function that runs in its event loop wakes it."""

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def wake(self) -> None:
        """Let the task go on soon. Does nothing if it does not sleep, or was cancelled."""

    def wake_now(self) -> None:
        """The same, and at once if this event loop can do that. To be called outside of tasks."""


def nap_in(native: Any) -> Callable[[], Nap]:
    """Return what makes naps for the tasks of that event loop."""
    if isinstance(native, asyncio.AbstractEventLoop):
        return partial(_AsyncioNap, native)
    from . import _trio

    return _trio.Nap


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

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
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


def loop_namer(native: Any) -> Callable[[], object]:
    """What tells anyio in the current context, outside of any task, which event loop this is.

    It starts tasks only if it knows. Trio leaves a note for the whole thread, asyncio does not, and
    newer versions of anyio ask asyncio itself if sniffio is not there.
    """
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is None or not isinstance(native, asyncio.AbstractEventLoop):
        return _nothing
    return partial(sniffio.current_async_library_cvar.set, "asyncio")


def when_loop_closes(native: Any, gone: Callable[[], object]) -> Callable[[], object]:
    """Call *gone* if this event loop is closed; return a function that calls that off.

    An asyncio loop can be stopped and closed while tasks are suspended in it: ``finally`` blocks
    do not run, and nobody is told. But a loop that is closed lets go of its timers. So we give it
    one that is never due and watch for its destruction. *gone* runs in the thread that closes the
    loop. A trio run cannot end before its tasks, so there is nothing to watch.
    """
    if not isinstance(native, asyncio.AbstractEventLoop):
        return _nothing
    watching = [gone]
    timer = weakref.ref(native.call_at(_NEVER, _Witness(watching)))  # the loop alone holds it

    def call_off() -> None:
        watching.clear()  # first: cancelling destroys the witness, too
        handle = timer()
        if handle is not None:
            handle.cancel()

    return call_off


class _Witness:
    def __init__(self, watching: list[Callable[[], object]]) -> None:
        self._watching = watching

    def __call__(self) -> None:
        pass

    def __del__(self) -> None:
        for gone in self._watching:
            gone()


def _nothing() -> None:
    pass
