"""How a thread waits: in slices, for a lock, for a thread, for a future."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T_Value = TypeVar("T_Value")

SLICE = 1.0  # seconds


def check_timeout(timeout: float | None) -> float | None:
    """Return *timeout* as a float, or raise if it is not a number of seconds from 0 on."""
    if timeout is None:
        return None
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r}")
    if not timeout >= 0:  # NaN is not, either
        raise ValueError(f"timeout must not be negative, got {timeout!r}; None waits for ever")
    try:
        return float(timeout)
    except OverflowError:
        return math.inf


def acquire(
    lock: threading.Lock, timeout: float | None, enough: Callable[[], bool] = lambda: False
) -> bool:
    """Take *lock* within *timeout* seconds; None means however long it takes.

    Between two slices it may be *enough*: if who was going to release it could not.

    An exception that another thread sets in this one (``PyThreadState_SetAsyncExc``), and on
    Windows Ctrl-C, does not interrupt a lock wait; it is seen when one has ended. So none of them
    is longer than a second.
    """
    if timeout is None:
        while not lock.acquire(timeout=SLICE):
            if enough():
                break
        return True
    deadline = time.monotonic() + timeout
    while not lock.acquire(timeout=max(0.0, min(SLICE, deadline - time.monotonic()))):
        if enough():
            break
        if time.monotonic() >= deadline:
            return False
    return True


def join(thread: threading.Thread, timeout: float = math.inf) -> None:
    """Wait until *thread* has ended, *timeout* seconds at most. In slices, as :func:`acquire`."""
    deadline = time.monotonic() + timeout
    while thread.is_alive():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        thread.join(min(SLICE, left))


def result(future: Future[T_Value]) -> T_Value:
    """Wait for what *future* comes to, and return or raise it. In slices, as :func:`acquire`."""
    while not future.done():
        wait((future,), SLICE)
    return future.result()
