"""A flag that any thread may set at any bytecode, and for which one thread waits."""

from __future__ import annotations

import threading

from .slices import acquire


class Flag:
    """Clear at first.

    Why not ``threading.Event``: its ``set`` takes a lock. A signal handler or a finalizer that
    interrupts it, and sets the event as well, would wait for its own thread for ever. Here the flag
    is a lock, which is free while the flag is set. To release a lock is one step, and to release it
    once too often is an error that does no harm.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """From any thread, at any bytecode. Never waits."""
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it is set already

    def clear(self) -> None:
        """In the thread that waits."""
        self._lock.acquire(blocking=False)

    def wait(self, timeout: float | None) -> bool:
        """Wait until it is set, at most *timeout* seconds (None: any number), and clear it."""
        return acquire(self._lock, timeout)
