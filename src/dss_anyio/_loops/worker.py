"""Run a function that may block in a thread of its own; the loop waits for it with a time limit.

Why not ``anyio.to_thread``: on asyncio its worker threads are no daemons. So one library whose
``stop`` never returns would keep the whole process from ending. Its limiter may be used up by the
very threads that wait for the hub. And its shield defers anyio's cancellation, but not a
``task.cancel()``, ``asyncio.timeout`` or ``asyncio.wait_for``.
"""

from __future__ import annotations

import atexit
import math
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from anyio import CancelScope, Event, get_cancelled_exc_class

from .slices import wait_for
from .way import call_soon_here

R = TypeVar("R")


# Threads that were started and have not begun yet, each with a lock that it releases as it begins.
_starting: dict[object, threading.Lock] = {}
_over: list[None] = []  # not empty from the moment at which no thread is started any more


def daemon_thread(func: Callable[[], object], name: str) -> threading.Thread:
    """A daemon thread for *func*, not started yet.

    No daemon in an interpreter that permits none, as those of ``concurrent.interpreters`` do: the
    end of that interpreter waits for the thread.
    """
    try:
        return threading.Thread(target=func, name=name, daemon=True)
    except RecursionError:
        raise  # a RuntimeError as well
    except RuntimeError:
        return threading.Thread(target=func, name=name, daemon=False)


def start_daemon(
    func: Callable[[], object], name: str, *, only_there: bool = False
) -> threading.Thread:
    """Call *func* in a new daemon thread; if no thread can be started, in this one.

    There are two reasons for that. Python is exiting (until 3.11 ``start`` does not say so, but
    waits for ever for a thread that will never run). Or the system has no thread left: then, with
    *only_there*, this raises RuntimeError instead.
    """
    mine = object()
    begun = threading.Lock()
    begun.acquire()

    def begin() -> None:
        begun.release()
        _starting.pop(mine, None)
        func()

    thread = daemon_thread(begin, name)
    _starting[mine] = begun  # and *then* we look: see ``_start_no_more``
    if _over or sys.is_finalizing():
        begin()
        return thread
    try:
        thread.start()
    except RuntimeError:
        if only_there:
            _starting.pop(mine, None)
            raise
        begin()
    return thread


def _start_no_more() -> None:
    """Python exits: wait for threads that a daemon thread is just starting.

    CPython frees the state of a thread that has not begun, and crashes if the system lets that
    thread run afterwards (python/cpython#124878; seen with 3.10). Python has joined all other
    threads by now, so only daemon threads still start any. They enter a thread, and *then* read
    ``_over``. We write ``_over``, and *then* copy the entries. So a thread is found here, or is not
    started.
    """
    _over.append(None)
    for begun in list(_starting.values()):
        begun.acquire(timeout=1.0)  # the thread needs only the GIL, which we release here


atexit.register(_start_no_more)


def forget_threads() -> None:
    """In a forked child: it has none of the parent's starting threads."""
    _starting.clear()
    _over.clear()


async def outlast(done: Event) -> BaseException | None:
    """Wait until *done* is set; cancellation is deferred until then.

    Returns the native asyncio cancellation that came meanwhile, because no shield defers that. The
    task that awaits this has to raise it in the end.
    """
    cancelled: BaseException | None = None
    while not done.is_set():
        try:
            with CancelScope(shield=True):
                await done.wait()
        except GeneratorExit:
            raise  # first: the next clause needs a running loop, and there is none
        except get_cancelled_exc_class() as exc:
            cancelled = exc
    return cancelled


class Worker(Generic[R]):
    """*func* in a daemon thread, started at once, and its result in the event loop."""

    def __init__(self, func: Callable[[], R], name: str, *, only_there: bool = False) -> None:
        self._func = func
        self._done = Event()
        self._returned = threading.Event()
        self._call_soon = call_soon_here()
        self._result: R | None = None
        self._error: BaseException | None = None
        start_daemon(self._run, name, only_there=only_there)

    def _run(self) -> None:
        try:
            self._result = self._func()
        except BaseException as exc:
            self._error = exc
        try:
            self._call_soon(self._done.set)
        except RuntimeError:
            pass  # the event loop was closed; no task waits there
        self._returned.set()  # after that call: ``_done`` is set first in the event loop, too

    @property
    def done(self) -> bool:
        """Has *func* returned or raised?"""
        return self._done.is_set()

    async def result(self) -> R:
        """Wait for the result, or raise what *func* raised. Can be cancelled; *func* goes on."""
        await self._done.wait()
        return self.outcome()

    async def outlast(self, at_most: float = math.inf) -> BaseException | None:
        """Wait until *func* has returned, or *at_most* seconds; see :func:`outlast`.

        These are seconds of real time, because *func* takes real time. A loop may have another
        clock: a loop for tests jumps to the next deadline when all its tasks wait. So another
        thread measures the time.
        """
        if at_most == math.inf or self.done:
            return await outlast(self._done)
        clock = Worker(lambda: wait_for(self._returned, at_most), "dss_anyio: measuring time")
        return await outlast(clock._done)

    def outcome(self) -> R:
        """Return or raise the outcome of *func*; TimeoutError if it still runs."""
        if self._error is not None:
            raise self._error
        if not self._done.is_set():
            raise TimeoutError
        return cast("R", self._result)
