"""Every async test runs on asyncio, asyncio with uvloop, and trio; every test has a time limit.

No test sleeps in order to wait for something: it waits for reported state, with ``until``.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# A shell starts what runs in the background with SIGINT ignored; then Ctrl-C could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


WITHOUT_GIL = not getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def backend_name(anyio_backend: Any) -> str:
    return str(anyio_backend[0])


def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    """Block until *condition* is true, by looking again and again; fail after *timeout* seconds.

    For state that is reported but has no event to wait for, such as ``hub.blocked()``.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not true within {timeout} s: {condition}"
        time.sleep(0.0005)


def strike(thread: int, exc: type[BaseException], struck: threading.Event) -> None:
    """Raise *exc* in *thread*, again and again until *struck* is set.

    Python ignores an exception that happens to come while a weakref callback or a finalizer runs.
    """
    while not struck.is_set():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exc))
        struck.wait(3)  # seconds; the library looks every second at least


@contextmanager
def threads(
    *funcs: Callable[[], object], timeout: float = 20.0
) -> Iterator[list[threading.Thread]]:
    """Run *funcs* in threads, started together; in the end all have returned, and none raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(funcs))

    def run(func: Callable[[], object]) -> None:
        try:
            barrier.wait(timeout)
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
            thread.join(timeout)
        stuck = [thread for thread in started if thread.is_alive()]
    assert not stuck, f"threads that did not return: {stuck}"
    if errors:
        raise errors[0]


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """Let the tests' own collections look at what the tests have made, and at nothing older."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def switching_fast() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
