"""How to reach an event loop from any thread.

This file knows nothing of mailboxes and hubs. Both functions are called in a running event loop and
return something that may be used from any thread for ever; once the loop is gone, using it raises
RuntimeError (asyncio: the loop is closed; trio: ``RunFinishedError``, a RuntimeError as well).
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from anyio.lowlevel import current_token

CallSoon: TypeAlias = Callable[[Callable[[], Any]], object]

_NEVER = 100 * 365 * 24 * 3600.0  # seconds; asyncio looks at such a timer once a day


class _TrioToken(Protocol):
    def run_sync_soon(self, sync_fn: Callable[[], Any], /) -> None: ...


def call_soon_here() -> CallSoon:
    """Return a function that makes this event loop call another one soon, from any thread.

    It is the loop's own: ``call_soon_threadsafe`` of asyncio and uvloop, ``run_sync_soon`` of
    trio. Both take no lock that a signal handler could find taken, and are documented to be called
    from foreign threads; what anyio puts on top of them is a round trip. What they call must not
    raise: an exception there ends a whole trio run.
    """
    native = current_token().native_token
    if isinstance(native, asyncio.AbstractEventLoop):
        return native.call_soon_threadsafe
    return cast("_TrioToken", native).run_sync_soon


def name_loop() -> None:
    """Tell sniffio, in the current context, which event loop calls a function outside of its tasks.

    anyio starts tasks only if it knows its backend. Trio leaves a note for the whole thread,
    asyncio does not, and newer versions of anyio ask asyncio itself if sniffio is not there.
    """
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None and asyncio._get_running_loop() is not None:
        sniffio.current_async_library_cvar.set("asyncio")


def when_loop_closes(gone: Callable[[], object]) -> Callable[[], object]:
    """Call *gone* if this event loop is closed; return a function that calls that off.

    An asyncio loop can be stopped and closed while tasks are suspended in it: ``finally`` blocks
    do not run, and nobody is told. But a loop that is closed lets go of its timers. So we give it
    one that is never due and watch for its destruction. *gone* runs in the thread that closes the
    loop. A trio run cannot end before its tasks, so there is nothing to watch.
    """
    native = current_token().native_token
    if not isinstance(native, asyncio.AbstractEventLoop):
        return _nothing
    watching = [gone]
    timer = weakref.ref(native.call_later(_NEVER, _Witness(watching)))  # the loop alone holds it

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
