"""Threads of C that never enter Python, for the tests of native senders: ``foreign/native.c``."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import sys
import textwrap
from collections import Counter
from ctypes import byref, c_char, c_char_p, c_double, c_int, c_long, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import pytest

import dss_anyio as dss
from dss_anyio import _native

# Without the extension, what needs it is skipped, and says why.
needs_the_extension = pytest.mark.skipif(
    _native.dss is None, reason=f"the extension module was not built: {_native.why_not}"
)

HERE = Path(__file__).parent

# How often Python exits in the tests of exits.
EXITS = int(os.environ.get("DSS_EXITS", "5"))

OK, DROPPED, NOT_NOTIFIED, TRUNCATED = range(4)
FULL, CLOSED, TOO_LARGE, TIMED_OUT, REFUSED = -1, -2, -3, -4, -5
UNANSWERED, RELEASED, DEADLOCK, NO_MEMORY, INVALID = -6, -7, -8, -9, -10
SEND, SEND_WAIT, GIVE, SEND_AGAIN_WHILE_FULL = range(4)

_PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "pool_start": (c_void_p, [c_void_p, c_int, c_long, c_long, c_int, c_int]),
    "pool_stop": (None, [c_void_p]),
    "pool_join": (None, [c_void_p]),
    "pool_count": (c_long, [c_void_p, c_int]),
    "pool_released": (c_long, [c_void_p]),
    "ask_start": (c_void_p, [c_void_p, c_char_p, c_double, c_int]),
    "ask_done": (c_int, [c_void_p]),
    "ask_join": (c_int, [c_void_p, c_void_p, c_void_p]),
    "parcel_send": (c_void_p, [c_void_p, c_char_p, c_int, c_int]),
    "parcel_done": (c_int, [c_void_p]),
    "parcel_look": (None, [c_void_p, c_void_p, c_void_p]),
    "kill_senders": (None, [c_void_p, c_int]),
    "leave_senders": (None, [c_void_p, c_int]),
    "cancelled_start": (c_void_p, [c_void_p, c_char_p, c_int, c_int]),
    "cancelled_cancel": (None, [c_void_p, c_int]),
    "cancelled_join": (None, [c_void_p, c_void_p]),
    "marked_sends": (None, [c_void_p, c_char_p, c_size_t, c_int, c_void_p]),
    "send_under_signals": (c_long, [c_void_p, c_long, c_void_p]),
    "library_start": (None, [c_void_p, c_void_p]),
    "library_stop": (None, []),
    "timed_start": (c_void_p, [c_void_p, c_long, c_long, c_void_p]),
    "timed_join": (None, [c_void_p]),
}


def compiled(folder: Path, name: str, *options: str) -> Path:
    """Compile ``foreign/`` *name* ``.c``; skip the test if there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    built = folder / f"{name}.so"
    source = HERE / "foreign" / f"{name}.c"
    subprocess.run(
        [compiler, "-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-pthread",
         "-I", dss.native.include(), "-o", built, source, *options],
        check=True,
    )  # fmt: skip
    return built


def declare(library: ctypes.CDLL, prototypes: dict[str, tuple[Any, list[Any]]]) -> None:
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def load(built: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(built))
    declare(library, _PROTOTYPES)
    return library


def run_in_child(
    code: str, *args: str, timeout: float = 60.0, front: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    """Run *code* in a Python of its own, with what the tests import; *front* may be a tracer."""
    path = os.pathsep.join([str(HERE), str(Path(dss.__file__).parent.parent)])
    return subprocess.run(
        [*front, sys.executable, "-c", textwrap.dedent(code), *args],
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True, text=True, timeout=timeout,
    )  # fmt: skip


@pytest.fixture(scope="session")
def c_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("native"), "native", "-lrt")


@pytest.fixture(scope="session")
def c(c_code: Path) -> ctypes.CDLL:
    return load(c_code)


class Pool:
    """Threads of C, each of which sends records with its number and how many it has sent."""

    def __init__(
        self,
        c: ctypes.CDLL,
        sender: dss.native.NativeSender,
        threads: int = 4,
        calls: int = -1,
        *,
        pause: float = 0.0,
        way: int = SEND,
        fresh: bool = False,
    ) -> None:
        self._c = c
        self._pool = c.pool_start(sender.address, threads, calls, int(pause * 1e9), way, fresh)

    def stop(self) -> None:
        self._c.pool_stop(self._pool)
        self.join()

    def join(self) -> None:
        """Wait until all have made their calls. Without the GIL."""
        self._c.pool_join(self._pool)

    def count(self, status: int) -> int:
        """How many calls have returned this."""
        return int(self._c.pool_count(self._pool, status))

    @property
    def accepted(self) -> int:
        return sum(map(self.count, (OK, DROPPED, NOT_NOTIFIED)))

    @property
    def released(self) -> int:
        return int(self._c.pool_released(self._pool))


def record(raw: Any) -> tuple[int, int]:
    """The thread and the number of what a pool has sent."""
    thread, number = struct.unpack_from("II", raw)
    return thread, number


def in_order(received: list[Any]) -> dict[int, int]:
    """How many each thread has sent; they came in its order, without a gap."""
    following: Counter[int] = Counter()
    for raw in received:
        thread, number = record(raw)
        assert number == following[thread]
        following[thread] += 1
    return dict(following)


class Call:
    """A thread of C in ``dss_ask``, or in ``dss_send_wait``."""

    def __init__(
        self,
        c: ctypes.CDLL,
        sender: dss.native.NativeSender,
        question: bytes,
        timeout: float = -1.0,
        *,
        waits_for_room: bool = False,
    ) -> None:
        self._c = c
        self._call = c.ask_start(sender.address, question, timeout, waits_for_room)

    @property
    def done(self) -> bool:
        return bool(self._c.ask_done(self._call))

    def join(self) -> tuple[int, bytes]:
        """Its status and its answer. It has kept errno. Without the GIL."""
        answer, answered = (c_char * 64)(), c_size_t()
        status = int(self._c.ask_join(self._call, answer, byref(answered)))
        return status, bytes(answer)[: answered.value]


class Cancelled:
    """A thread of C that is cancelled in ``dss_ask``, or in ``dss_send_wait``."""

    def __init__(
        self,
        c: ctypes.CDLL,
        sender: dss.native.NativeSender,
        question: bytes,
        *,
        waits_for_room: bool,
        asynchronous: bool,
    ) -> None:
        self._c = c
        self._call = c.cancelled_start(sender.address, question, waits_for_room, asynchronous)

    def cancel(self, *, by_itself: bool) -> None:
        """Do it from here; or have the thread do it, in a signal handler."""
        self._c.cancelled_cancel(self._call, by_itself)

    def join(self) -> tuple[bool, int | None, bool]:
        """Was it cancelled; what its call has returned, if it has; did it go on after that?"""
        found = (c_int * 4)()
        self._c.cancelled_join(self._call, found)
        was_cancelled, returned, status, went_on = found
        return bool(was_cancelled), status if returned else None, bool(went_on)


class Parcel:
    """Something that a thread of C delivers; *waits*: until its return function was called."""

    def __init__(
        self,
        c: ctypes.CDLL,
        sender: dss.native.NativeSender,
        text: bytes,
        returns: int = 1,
        *,
        waits: bool = False,
    ) -> None:
        self._c = c
        self._parcel = c.parcel_send(sender.address, text, returns, waits)

    @property
    def done(self) -> bool:
        return bool(self._c.parcel_done(self._parcel))

    def look(self) -> tuple[int, int, int, int, int, bytes]:
        """Its result; how often it was decoded, cancelled, returned; the status and the answer."""
        found, answer = (c_int * 6)(), (c_char * 64)()
        self._c.parcel_look(self._parcel, found, answer)
        result, decoded, cancelled, returned, status, size = found
        return result, decoded, cancelled, returned, status, bytes(answer)[:size]


def function(name: str, *arguments: Any) -> Any:
    """A function of the header, to be called from Python."""
    return ctypes.CFUNCTYPE(c_int, c_void_p, *arguments)(dss.native.functions[name])


def send(sender: dss.native.NativeSender | int, data: bytes | None, size: int | None = None) -> int:
    address = sender if isinstance(sender, int) else sender.address
    size = len(data or b"") if size is None else size
    return int(function("dss_send", c_char_p, c_size_t)(address, data, size))
