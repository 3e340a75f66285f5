"""For tests of a binding: foreign threads, waiting without sleeping, and a check for leftovers.

Nothing here needs pytest, and ``import dss_anyio`` does not import this module.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio

from ._core.mailbox import Mailbox
from ._hub.base import Face, mailbox_of, openings

T_Result = TypeVar("T_Result")

_LOOK_AGAIN = 0.0005  # seconds
_WHERE_WORKERS_ARE_IDLE = ("trio._core._thread_cache", "concurrent.futures.thread")


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Block this thread until *condition* is true, by calling it again and again. From any thread.

    It is for states that can be read but not waited for, such as ``hub.blocked()`` and
    ``hub.statistics()``. A test that sleeps instead is either slow or wrong now and then.

    :param timeout: how many seconds to wait at most
    :raises AssertionError: if *condition* is not true by then
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline:
            raise _not_true(condition, timeout)
        time.sleep(_LOOK_AGAIN)


async def eventually(
    condition: Callable[[], object],
    timeout: float = 10.0,  # noqa: ASYNC109  # our error says more than a cancellation would
) -> None:
    """As :func:`until`, but the event loop goes on meanwhile. In a task.

    :raises AssertionError: if *condition* is not true within *timeout* seconds
    """
    deadline = anyio.current_time() + timeout
    while not condition():
        if anyio.current_time() >= deadline:
            raise _not_true(condition, timeout)
        await anyio.sleep(_LOOK_AGAIN)


def _not_true(condition: Callable[[], object], timeout: float) -> AssertionError:
    code = getattr(condition, "__code__", None)
    where = f"{code.co_filename}:{code.co_firstlineno}" if code else repr(condition)
    return AssertionError(f"not true within {timeout} s: the condition at {where}")


# -- Foreign threads -------------------------------------------------------------------------------


@contextmanager
def threads(
    *funcs: Callable[[], object], timeout: float = 20.0
) -> Generator[list[threading.Thread], None, None]:
    """Run *funcs* in Python threads, which begin together. At the end of the block all have ended.

    The end of the block waits for the threads, *timeout* seconds for each. In an event loop this
    blocks the loop. So at the end of the block the threads must be done, or need the loop no more.

    :raises AssertionError: if one of them has not returned by then
    :raises BaseException: the first exception that one of them has raised
    """
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(funcs))

    def run(func: Callable[[], object]) -> None:
        try:
            barrier.wait(min(timeout, threading.TIMEOUT_MAX))
            func()
        except BaseException as exc:
            errors.append(exc)

    started = [threading.Thread(target=run, args=(func,), daemon=True) for func in funcs]
    for thread in started:
        thread.start()
    try:
        yield started
    finally:
        for thread in started:
            thread.join(min(timeout, threading.TIMEOUT_MAX))
        stuck = [thread for thread in started if thread.is_alive()]
    if stuck:
        raise AssertionError(f"threads that did not return: {', '.join(map(_describe, stuck))}")
    if errors:
        raise errors[0]


class CThread(Generic[T_Result]):
    """A thread that C makes, with ``pthread_create``, and that calls a Python function.

    To Python it is as foreign as a library's thread: unknown before the call, forgotten after it.
    You must join it; the end of a ``with`` block does that, too. Python's exit does not wait for
    it.

    :raises RuntimeError: on systems without POSIX threads
    :raises OSError: if the system makes no thread
    """

    def __init__(self, func: Callable[..., T_Result], *args: Any) -> None:
        if sys.platform == "win32":
            raise RuntimeError("this system has no POSIX threads; use threads()")
        self._returned = threading.Event()
        self._result: T_Result
        self._error: BaseException | None = None

        def run(_: object) -> None:
            try:
                self._result = func(*args)
            except BaseException as exc:
                self._error = exc
            finally:
                self._returned.set()

        self._entry = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(run)
        self._ident = ctypes.c_void_p()
        self._c = ctypes.CDLL(None)
        # Keep this object alive: if it were freed, the code that the thread runs would be, too.
        _not_joined.add(self)
        failed = self._c.pthread_create(ctypes.byref(self._ident), None, self._entry, None)
        if failed:
            _not_joined.discard(self)
            raise OSError(failed, f"pthread_create: {os.strerror(failed)}")

    def join(self, timeout: float = 20.0) -> T_Result:
        """Wait for the thread's end; return the result of its function, or raise its exception.

        :param timeout: how many seconds to wait at most
        :raises TimeoutError: if the thread still runs then; it can be joined later
        """
        if not self._returned.wait(min(timeout, threading.TIMEOUT_MAX)):
            raise TimeoutError(f"the thread still runs after {timeout} s")
        if self in _not_joined:
            _not_joined.discard(self)
            self._c.pthread_join(self._ident, None)  # it is on its way out; without the GIL held
        if self._error is not None:
            raise self._error
        return self._result

    def __enter__(self) -> CThread[T_Result]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.join()


_not_joined: set[CThread[Any]] = set()


# -- Leftovers -------------------------------------------------------------------------------------


@contextmanager
def nothing_left_behind(
    *,
    dropped: bool = False,
    undelivered: bool = False,
    errors: bool = False,
    timeout: float = 10.0,
) -> Generator[None, None, None]:
    """Check that the block leaves nothing behind. In any thread; for example as a fixture::

        @pytest.fixture(autouse=True)
        def checked():
            with dss_anyio.testing.nothing_left_behind():
                yield

    At the end of the block, every thread that was not there before must be gone (threads that are
    leaving get *timeout* seconds). Every hub that was opened in the block must have ended. None of
    these hubs may have dropped an item, have had an item left at its end, or have reported an
    error. Threads of a library that never called Python are not seen; idle workers that trio, anyio
    or an executor keeps are passed over.

    :param dropped: True if a hub may have dropped items
    :param undelivered: True if a hub may have had items left at its end
    :param errors: True if there may have been errors in functions that the hub calls
    :raises AssertionError: if something is left; it lists all of it, with the stacks of the
        threads. If the block raises, there is no check
    """
    before = set(threading.enumerate())
    opened: list[tuple[str, Mailbox]] = []

    def note(hub: Face[Any]) -> None:
        # Not the hub itself: it may become garbage.
        opened.append((hub.name, mailbox_of(hub)))

    openings.append(note)
    try:
        yield
    finally:
        openings.remove(note)

    def left() -> list[threading.Thread]:
        return [each for each in threading.enumerate() if each not in before and _is_there(each)]

    deadline = time.monotonic() + timeout
    while left() and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
    found = [f"thread {_describe(thread)}" for thread in left()]
    for name, mailbox in opened:
        if not mailbox.swept:
            found.append(f"{name!r} is open")
        for what, count, allowed in (
            ("dropped", mailbox.books.counts["dropped"].value, dropped),
            ("undelivered", mailbox.books.counts["undelivered"].value, undelivered),
            ("errors", mailbox.books.counts["errors"].value, errors),
        ):
            if count and not allowed:
                found.append(f"{name!r} has {what}: {count}")
    if found:
        raise AssertionError("left behind: " + "\n".join(found))


def _is_there(thread: threading.Thread) -> bool:
    if isinstance(thread, threading._DummyThread):  # pyright: ignore[reportPrivateUsage]
        # CPython before 3.13 does not notice its end, and keeps it until its number is used again.
        tasks = Path("/proc/self/task")
        return tasks.is_dir() and (tasks / str(thread.native_id)).is_dir()
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    idle = frame is not None and frame.f_globals.get("__name__") in _WHERE_WORKERS_ARE_IDLE
    anyios = type(thread).__module__.startswith("anyio.")  # which end with their event loop
    return thread.is_alive() and not idle and not anyios


def _describe(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
    return f"{thread.name!r}\n{stack}"
