"""How a thread waits: in slices, for a lock, a thread, an event, a future.

Why in slices: there are four events that a thread notices only between two waits of the platform.

- Another thread sets an exception in it (``PyThreadState_SetAsyncExc``).
- Its wait has ended, but no thread could wake it. A thread that settles a question writes the
  outcome first, and then releases the lock. If it has no stack or memory left to release the lock,
  the waiting thread finds the outcome (``enough``). The end of the hub wakes it in any case.
- Without the GIL, its request was forgotten. CPython lets the thread free an object that has made
  it, when that thread next runs Python code; and that is the thread that waits for the answer.
- Ctrl-C, in the main thread on Windows. (Elsewhere a signal ends the wait.)

Why not all of the same length: a look costs 35 microseconds, so a thousand threads that look once a
second take 3.5 % of a processor. And some thousand threads that want the GIL at the same time bring
everything to a halt. Each of them wakes every 5 ms (the switch interval) to ask for the GIL, so the
thread that has the GIL gets no processor.

So each slice is twice as long as the one before, from one second up to a minute: a thread that has
waited for some time looks again after as much time. If many threads wait, their slices are longer
from the beginning, and of different lengths: all threads together look 200 times a second. Only for
the last two events a slice always has one second: no other thread can wake the waiting thread then.
These looks cost little: it is the main thread, or there is no GIL to wait for.

Besides, the platform's waits have a longest time (``threading.TIMEOUT_MAX``: 49 days on Windows),
and do not take ``math.inf``. The functions here take any time, and ``math.inf``.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from random import uniform
from typing import TypeVar

T_Value = TypeVar("T_Value")

SLICE = 1.0  # seconds: the first one
LONGEST_SLICE = 60.0
LOOKS_PER_SECOND = 200  # of all threads together, as long as no slice is the longest

_waiting: dict[object, None] = {}  # each wait that is going on
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_waiting.clear)  # the child has none of these threads

_CTRL_C_WAITS = sys.platform == "win32"
_WITHOUT_GIL = not getattr(sys, "_is_gil_enabled", lambda: True)()


def check_timeout(timeout: float | None) -> float | None:
    """Return *timeout* as a float; None if there is no limit, which ``math.inf`` says as well.

    :raises TypeError: if it is neither a number of seconds nor None
    :raises ValueError: if it is negative or NaN
    """
    if timeout is None:
        return None
    limit = check_limit(timeout, "timeout", "a number of seconds or None")
    return None if limit == math.inf else limit


def check_limit(limit: float, what: str, kind: str = "a number of seconds") -> float:
    """Return *limit*, the parameter called *what*, as a float; ``math.inf`` means no limit.

    :raises TypeError: if it is not a number of seconds
    :raises ValueError: if it is negative or NaN
    """
    if not isinstance(limit, (int, float)) or isinstance(limit, bool):
        raise TypeError(f"{what} must be {kind}, not {limit!r}")
    if limit != limit:  # NaN; ``math.isnan`` refuses integers that are larger than all floats
        raise ValueError(f"{what} must be a number of seconds, got {limit!r}")
    if limit < 0:
        raise ValueError(f"{what} must not be negative, got {limit!r}; math.inf waits for ever")
    try:
        return float(limit)
    except OverflowError:  # an integer that is larger than all floats
        return math.inf


def acquire(
    lock: threading.Lock, timeout: float | None, enough: Callable[[], bool] | None = None
) -> bool:
    """Take *lock* within *timeout* seconds; None sets no limit. Return whether it was taken.

    Returns True as well if ``enough()`` is true between two slices: a wait may be over although no
    thread could release the lock, for want of stack or memory.
    """
    first = SLICE
    _waiting[lock] = None
    try:
        if len(_waiting) <= LOOKS_PER_SECOND:
            # The first slice, which is the only one of most waits. We make no objects for the other
            # slices before it: the thread that we wait for may be waiting for the GIL, which we
            # have.
            if timeout is None:
                if lock.acquire(True, SLICE):
                    return True
            else:
                deadline = time.monotonic() + timeout
                if lock.acquire(True, min(SLICE, timeout)):
                    return True
                timeout = max(0.0, deadline - time.monotonic())
            if enough is not None and enough():
                return True
            if timeout == 0.0:
                return False
            first = 2 * SLICE
        return _acquire_in_slices(lock, timeout, enough, first)
    finally:
        _waiting.pop(lock, None)


def _acquire_in_slices(
    lock: threading.Lock,
    timeout: float | None,
    enough: Callable[[], bool] | None,
    first: float,
) -> bool:
    """The loop of ``acquire``. By itself, so that the ``finally`` there runs if Ctrl-C strikes.

    (CPython 3.12 to 3.14 leave some jumps of a loop out of the ``try`` around it; see
    python/cpython#130279.)
    """
    for slice_ in _slices(timeout, enough is not None, first, lock):
        if lock.acquire(True, slice_) or (enough is not None and enough()):
            return True
    return False


def join(thread: threading.Thread, timeout: float = math.inf) -> None:
    """Wait until *thread* has ended, *timeout* seconds at most."""
    for slice_ in _slices(timeout):
        thread.join(slice_)
        if not thread.is_alive():
            return


def wait_for(event: threading.Event, timeout: float) -> bool:
    """Wait until *event* is set, *timeout* seconds at most; return whether it is."""
    return any(event.wait(slice_) for slice_ in _slices(timeout))


def result(future: Future[T_Value]) -> T_Value:
    """Wait until *future* is done; return its result, or raise its exception."""
    for slice_ in _slices(None):
        if wait((future,), slice_).done:
            break
    return future.result()


def _slices(
    timeout: float | None, looks: bool = False, first: float = SLICE, what: object = None
) -> Iterator[float]:
    """Cut a wait of *timeout* seconds (None: without limit) into slices; there is at least one.

    *looks*: the caller looks between two slices whether its wait is over. *first*: the length of
    the first slice, unless all have one second. *what* identifies the wait.
    """
    deadline = time.monotonic() + (math.inf if timeout is None else timeout)
    steady = (looks and _WITHOUT_GIL) or (
        _CTRL_C_WAITS and threading.current_thread() is threading.main_thread()
    )
    slice_ = SLICE if steady else first
    me = object() if what is None else what
    _waiting[me] = None
    try:
        yield from _pieces(deadline, steady, slice_)
    finally:
        _waiting.pop(me, None)


def _pieces(deadline: float, steady: bool, slice_: float) -> Iterator[float]:
    """The loop of ``_slices``. By itself: see ``_acquire_in_slices``."""
    while True:
        crowded = 0.0 if steady else len(_waiting) / LOOKS_PER_SECOND * uniform(0.75, 1.25)
        left = deadline - time.monotonic()
        now = min(max(slice_, crowded), LONGEST_SLICE)
        yield max(0.0, min(now, left))
        if left <= now:
            return
        if not steady:
            slice_ = min(2 * slice_, LONGEST_SLICE)
