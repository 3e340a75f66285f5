"""How a hub or a source ends, once nothing new is accepted and nobody is kept waiting.

The order, for a hub (promise P6 of the design page) and in the same way for one source alone:

1. refuse new items                                  } ``Mailbox.end`` or ``close_lane``: at once,
2. release everybody who is blocked                  } in the thread that ends it
3. cancel the hub's tasks                            ``Hub.__aexit__``
4. wait until the released calls have left           } here, in a thread that may block:
5. run ``cancel`` and ``stop``, newest source first  } a worker thread for an async hub,
6. hand back what was not delivered                  } the caller's for a polled one

Why 4 stands before 5: some libraries' ``stop`` joins their thread while it holds the GIL, and then
a callback that was released, but has yet to return, never gets it. Why 2 stands before 5: most of
them join the very thread that waits for us. Why 6 is last: until a library has stopped it may use
what it has sent.

The ways out that run no ``finally`` are here as well: a forked child, and the end of Python.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ._errors import hub_gone, other_process
from ._lane import Source
from ._mailbox import Mailbox
from ._waiting import join
from ._worker import start_daemon

LEAVE_TIMEOUT = 2.0  # seconds for the released calls to leave; they need microseconds


class Ending(NamedTuple):
    """Somebody ends a hub."""

    done: threading.Event
    deadline: float  # by which it should be


def end_sources(mailbox: Mailbox) -> list[BaseException]:
    """Steps 4 to 6 for a whole hub. Blocks; returns the errors of the callbacks.

    For the first who comes. A second one does nothing: handing back would be too early, and the
    first one may be waiting for a ``cancel`` that has called us.
    """
    timeouts = sum(source.stop_timeout for source in list(mailbox.sources.values()))
    ending = Ending(threading.Event(), time.monotonic() + LEAVE_TIMEOUT + timeouts)
    errors: list[BaseException] = []
    try:
        if mailbox.ending.setdefault(None, ending) is not ending:
            return []
        _wait_until_left(mailbox, None)
        while True:
            try:
                _, source = mailbox.sources.popitem()  # the newest one
            except KeyError:
                break
            if source.retire("hub"):
                _stop(source, errors)
        # Those that are being ended alone. Whoever does that has entered them before retiring them.
        for source, stopped in list(mailbox.stopping.items()):
            stopped.wait(2 * source.stop_timeout + LEAVE_TIMEOUT)
        mailbox.sweep()
    finally:
        if not mailbox.swept and mailbox.ending.get(None) is ending:
            mailbox.ending.pop(None)  # Ctrl-C has cut it short; the next one completes it
        ending.done.set()
    return errors


def end_source(mailbox: Mailbox, source: Source) -> list[BaseException]:
    """Steps 4 to 6 for *source*, which was released. Blocks; returns the errors."""
    _wait_until_left(mailbox, source)
    errors: list[BaseException] = []
    _stop(source, errors)
    for lane in mailbox.lanes_of(source):
        mailbox.take_back(lane)
    return errors


def _wait_until_left(mailbox: Mailbox, source: Source | None) -> None:
    """Block until no call is inside *source* (None: inside any), for at most LEAVE_TIMEOUT.

    Calls of this very thread do not count: a signal handler may close the hub that it interrupts.
    """
    if not mailbox.blocked:
        return
    deadline = time.monotonic() + LEAVE_TIMEOUT
    left = threading.Event()
    mailbox.leaving[left] = None
    try:
        while True:
            left.clear()  # first clear, then look: who leaves after the look sets it again
            inside = [
                each
                for each in list(mailbox.blocked)
                if source in (None, each.lane.source) and each.thread != threading.get_ident()
            ]
            if not inside:
                return
            if not left.wait(deadline - time.monotonic()):
                return
    finally:
        mailbox.leaving.pop(left, None)


def _stop(source: Source, errors: list[BaseException]) -> None:
    """Run the source's ``cancel`` in a thread of its own; wait for it within its time limit."""
    source.ended = True
    source.portal = None
    cancel = source.take_cancel()
    if cancel is None:
        return
    finished: list[BaseException | None] = []

    def run() -> None:
        try:
            cancel()
        except BaseException as exc:
            finished.append(exc)
        else:
            finished.append(None)

    thread = start_daemon(run, f"dss_anyio: stopping {source.name}")
    if thread.ident is not None:
        join(thread, source.stop_timeout)
    if not finished:
        errors.append(
            TimeoutError(
                f"stopping source {source.name!r} takes longer than {source.stop_timeout} s; "
                f"{_what_it_waits_for(thread)}; it goes on in thread {thread.name!r}, "
                "which does not keep Python from exiting"
            )
        )
    elif finished[0] is not None:
        errors.append(finished[0])


def _what_it_waits_for(thread: threading.Thread) -> str:
    """Where *thread* is, and which threads it joins there: for the one who asks why it hangs."""
    joined: list[str] = []
    where: str | None = None  # the innermost place outside of the standard library's threading
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code is threading.Thread.join.__code__:
            joined.append(repr(frame.f_locals["self"].name))
        if where is None and code.co_filename != threading.__file__:
            where = f"it is in {code.co_name}, {code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    waits_for = f", and waits for the thread {', '.join(joined)}" if joined else ""
    return f"{where}{waits_for}"


# -- The ways out that run no ``finally`` ----------------------------------------------------------

_watched: dict[Callable[[], Any], None] = {}  # weak references to hubs
_orphans: dict[Mailbox, object] = {}  # their hubs may be gone, and a thread of ours ends them


# ``unwatch(watch(hub), None)`` calls it off; a second call does nothing. Whoever ends a hub does
# that, or else its destructor.
unwatch = _watched.pop


def watch(hub: Any) -> Callable[[], Any]:
    """End *hub* with its loop or the process; forget it in a forked child.

    Returns a weak reference to it.
    """
    watched = weakref.ref(hub)
    _watched[watched] = None
    return watched


def _watched_ones(
    # A module may be torn down before its last object, and then its globals are None.
    _watched: dict[Callable[[], Any], None] = _watched,
    _orphans: dict[Mailbox, object] = _orphans,
) -> Iterator[Mailbox]:
    for watched in list(_watched):
        hub = watched()
        if hub is not None:
            yield hub._mailbox
    yield from list(_orphans)


def abandon_those_in(
    loop: int,
    _watched_ones: Callable[[], Iterator[Mailbox]] = _watched_ones,  # as above
) -> None:
    """End the hubs in the event loop *loop*, which was closed under them: see ``_wake``."""
    for mailbox in _watched_ones():
        if mailbox.loop == loop:
            abandon(mailbox)


def open_hubs() -> list[Any]:
    """The hubs of this process whose end is not complete, oldest first. From any thread."""
    hubs = [watched() for watched in list(_watched)]
    return [hub for hub in hubs if hub is not None and not hub._mailbox.swept]


def abandon(mailbox: Mailbox) -> None:
    """End *mailbox* where nobody can wait for it: its loop was closed, or it is garbage."""
    mailbox.end(hub_gone)
    if mailbox.refusal is other_process:
        return
    if mailbox.sources or mailbox.stopping or mailbox.items or mailbox.ending:
        mine = object()
        if _orphans.setdefault(mailbox, mine) is mine:
            start_daemon(lambda: _end_orphan(mailbox), "dss_anyio: ending an abandoned hub")
    else:
        mailbox.sweep()


def _end_orphan(mailbox: Mailbox) -> None:
    try:
        _see_to_the_end(mailbox)
    finally:
        _orphans.pop(mailbox, None)


def _see_to_the_end(mailbox: Mailbox) -> None:
    end_sources(mailbox)
    ending = mailbox.ending.get(None)  # perhaps in another thread, a daemon
    if ending is not None:
        ending.done.wait(ending.deadline - time.monotonic())


def _at_exit() -> None:
    """End the hubs that the exiting main thread leaves behind, before Python joins the threads.

    A thread that waits for a hub that nobody serves any more would never be joined. A hub in
    another thread that Python is about to join ends in its own time.
    """
    for mailbox in _watched_ones():
        home = mailbox.home
        if home is None or home.daemon or home is threading.main_thread() or not home.is_alive():
            mailbox.end(hub_gone)
            _see_to_the_end(mailbox)


def _after_fork_in_child() -> None:
    for mailbox in _watched_ones():
        mailbox.forget()
    _watched.clear()
    _orphans.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
# ``atexit`` comes too late, after all threads were joined. The earlier hook has no public name; it
# is what concurrent.futures uses for the same reason, in every CPython from 3.9 on.
getattr(threading, "_register_atexit", atexit.register)(_at_exit)
