"""Every async test runs on asyncio, asyncio with uvloop, and trio; every test has a time limit.

No test sleeps in order to wait for something: it waits for reported state, with ``until``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sized
from importlib.metadata import version
from typing import Any

import pytest
from watched import bare, runtime, watched  # noqa: F401  # fixtures

from dss_anyio.testing import nothing_left_behind

# A shell starts what runs in the background with SIGINT ignored; then Ctrl-C could not be tested.
signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
PYPY = sys.implementation.name == "pypy"
if PYPY:
    del BACKENDS["uvloop"]  # it is made for CPython

ON_ASYNCIO = {name: backend for name, backend in BACKENDS.items() if name != "trio"}
asyncio_only = pytest.mark.parametrize("anyio_backend", ON_ASYNCIO.values(), ids=ON_ASYNCIO)

# What the tests of some libraries import, from the dependency group "test".
GUESTS = {
    *("can", "culsans", "grpc", "janus", "lupa", "miniaudio", "ortools", "paho", "PySide6"),
    *("prometheus_client", "pybind11", "pygame", "rich", "waitress", "watchdog", "zenoh"),
}
if sys.version_info >= (3, 15):
    GUESTS.remove("ortools")  # see pyproject.toml

ANYIO = tuple(int(number) for number in version("anyio").split(".")[:2])
WITHOUT_GIL = not getattr(sys, "_is_gil_enabled", lambda: True)()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, it is an error to skip a test because one of GUESTS is not there.

    Without the GIL some have no wheel; there, the group is "test-anywhere".
    """
    report = yield
    if "CI" in os.environ and not WITHOUT_GIL and report.skipped:
        missing = re.search(r"(?:could not import '|needs )(\w+)", str(report.longrepr))
        if missing is not None and missing[1] in GUESTS:
            report.outcome = "failed"
            report.longrepr = f"in CI {missing[1]} has to be there"
    return report


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def backend_name(anyio_backend: Any) -> str:
    return str(anyio_backend[0])


def strike(thread: int, exc: type[BaseException], struck: threading.Event) -> float:
    """Raise *exc* in *thread*, again and again until *struck* is set. Return when it did so last.

    Python ignores an exception that happens to come while a weakref callback or a finalizer runs.
    """
    at = time.monotonic()
    while not struck.is_set():
        at = time.monotonic()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(exc))
        struck.wait(6)  # seconds; the library looks every second
    return at


def registered(hub: Any) -> list[str]:
    """The names of the registered sources. (Statistics tell of those that have ended, too.)"""
    return [name for name, each in hub.statistics().sources.items() if each.registered]


def all_told(hub: Any, errors: Sized, number: int) -> None:
    """Let a polled hub tell *number* errors. A turn of its telling may end after any of them."""
    while len(errors) < number:
        assert hub.poll() == []


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """Let the tests' own collections look at what the tests have made, and at nothing older."""
    gc.collect()
    if PYPY:  # has nothing like it
        yield
        return
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


@pytest.fixture(autouse=True)
def checked(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a thread or an open hub to the next one."""
    if request.node.get_closest_marker("leaves_something"):
        yield
        return
    with nothing_left_behind(dropped=True, undelivered=True, errors=True):
        yield
