"""Threads of C: a native sender against a callback of ctypes, which is how it is done without one.

Contenders: "native"; "ctypes", whose callback gets a new thread state each time; and "ctypes, state
kept", whose thread has entered Python once and stays known to it.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_double, c_int, c_size_t, c_uint8, c_void_p
from functools import cache, partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

import dss_anyio as dss
from dss_anyio import _native, native

CALLBACK = CFUNCTYPE(c_int, c_void_p, c_size_t)
MIXED = CFUNCTYPE(c_int, c_int, c_double, c_void_p, POINTER(c_uint8), c_size_t)
WHEN = struct.Struct("=d")  # begins each item: the time of ``time.monotonic``
PLACES = 1 << 13  # of 88 bytes: what a processor keeps in its cache


def is_there() -> bool:
    """Is there the extension module, with libffi, and a compiler for the threads of C?"""
    return hasattr(_native.dss, "make_closure") and shutil.which("cc") is not None


@cache
def library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "native.so")
        command = ["cc", "-O2", "-shared", "-fPIC", "-pthread", f"-I{native.include()}"]
        source = Path(__file__).with_name("native.c")
        subprocess.run([*command, "-o", built, source], check=True)
        loaded = ctypes.CDLL(str(built))
    loaded.job_start.restype = c_void_p
    loaded.job_start.argtypes = [c_void_p] * 6 + [c_int, c_int, c_double, c_void_p, c_int]
    loaded.job_join.argtypes = [c_void_p]
    if sys.platform == "linux":
        loaded.time_wakes.restype = None
        loaded.time_wakes.argtypes = [c_int, c_double, c_void_p, c_int, c_int]
    loaded.time_calls.restype = c_double
    loaded.time_calls.argtypes = [MIXED, c_int]
    return loaded


class Job:
    """A thread of C that sends *items*, or asks."""

    def __init__(
        self,
        portal: dss.Portal[Any],
        contender: str,
        items: int,
        pause: float,
        *,
        asks: bool = False,
        timed: bool = True,
        locks: bool = False,
    ) -> None:
        sender, self._callback, state = None, None, [None] * 4
        if contender == "native":
            sender = portal.native_sender(PLACES, item_size=64).address
        else:
            self._callback = CALLBACK(_today(portal, asks))
            if contender == "ctypes, state kept":
                names = ("PyGILState_Ensure", "PyGILState_Release")
                names += ("PyEval_SaveThread", "PyEval_RestoreThread")
                state = [ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p) for name in names]
        self.seconds = (c_double * (items if timed else 0))()
        self._start = partial(
            library().job_start,
            sender,
            ctypes.cast(self._callback, c_void_p) if self._callback else None,
            *state,
            asks,
            items,
            pause,
            ctypes.cast(self.seconds, c_void_p) if timed else None,
            locks,
        )

    def start(self) -> None:
        self._job = self._start()

    def join(self) -> None:
        library().job_join(self._job)


def _today(portal: dss.Portal[Any], asks: bool) -> Callable[[int, int], int]:
    """What is given to ctypes: it copies the data, and sends or asks."""
    string_at = ctypes.string_at
    if asks:
        request = portal.request
        return lambda data, size: int(request(string_at(data, size)) is None)
    send = portal.send

    def callback(data: int, size: int) -> int:
        send(string_at(data, size))
        return 0

    return callback


# -- Inside of one send ----------------------------------------------------------------------------


async def measure_sends(contender: str, meanwhile: str, many: int) -> list[float]:
    """Seconds inside of each of *many* sends of 64 bytes, a millisecond apart.

    *meanwhile*, what the event loop's thread does, is one of ``MEANWHILE``.
    """
    async with dss.open_hub[Any](math.inf) as hub:
        job = Job(hub.portal, contender, many, 0.001)
        job.start()
        received = 0
        while received < many:
            received += len(await hub.receive_many())
            MEANWHILE[meanwhile]()
        await anyio.to_thread.run_sync(job.join)
    return list(job.seconds)


def _compute() -> None:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        sum(range(1000))


def _call() -> None:
    sum(range(4_000_000))  # some 50 ms or more in C, which do not release the GIL


# Idle: each send wakes it. Computing: it gives the GIL away when somebody asks, after 5 ms.
MEANWHILE: dict[str, Callable[[], object]] = {
    "idle": lambda: None,
    "computing": _compute,
    "in a call": _call,
}


# -- Items per second ------------------------------------------------------------------------------


async def measure_rate(contender: str, in_batches: bool, items: int) -> float:
    """Items of 64 bytes per second, from one thread of C that sends as fast as it can."""
    async with dss.open_hub[Any](math.inf) as hub:
        job = Job(hub.portal, contender, items, 0, timed=False)
        begun = time.perf_counter()
        job.start()
        received = 0
        if in_batches:
            while received < items:
                received += len(await hub.receive_many())
        else:
            async for _ in hub:
                received += 1
                if received == items:
                    break
        seconds = time.perf_counter() - begun
        await anyio.to_thread.run_sync(job.join)
    return items / seconds


# -- There, and there and back ---------------------------------------------------------------------


async def measure_asks(contender: str, many: int) -> list[float]:
    """Seconds inside of each of *many* questions, a millisecond apart."""
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, lambda _: None)
        job = Job(hub.portal, contender, many, 0.001, asks=True)
        job.start()
        await anyio.to_thread.run_sync(job.join)
    return list(job.seconds)


async def measure_way(contender: str, many: int) -> list[float]:
    """Seconds from a send to the handler of *many* items, a millisecond apart."""
    delays: list[float] = []
    clock = time.monotonic
    async with dss.open_hub[Any]() as hub:

        def handle(item: bytes) -> None:
            delays.append(clock() - WHEN.unpack_from(item)[0])

        hub.task_group.start_soon(hub.serve, handle)
        job = Job(hub.portal, contender, many, 0.001)
        job.start()
        await anyio.to_thread.run_sync(job.join)
        while len(delays) < many:
            await anyio.sleep(0.01)
    return delays


def measure_calls(contender: str, calls: int) -> float:
    """Seconds for one call of a function (int, double, pointer, 16 bytes) from a thread of C."""
    lots: list[float] = []
    with dss.open_polled_hub[Any]() as hub:
        function: Any
        if contender == "c_callback":
            function = hub.portal.c_callback(MIXED, buffers={3: 4}, skip=(4,))
        else:
            offer, string_at = hub.portal.offer, ctypes.string_at
            function = MIXED(
                lambda a, b, c, data, size: not offer((a, b, c, string_at(data, size)))
            )
        for _ in range(calls // 1000):
            lots.append(library().time_calls(function, 1000))
            hub.poll()
    return statistics.median(lots)


# -- The exit of Python ----------------------------------------------------------------------------

EXIT = """
import anyio
import dss_anyio as dss
from benchmarks.native import Job

async def main():
    hub = await dss.open_hub().__aenter__()
    for _ in range(3):
        job = Job(hub.portal, {contender!r}, 1 << 30, 0.0001, timed=False, locks=True)
        job.start()
        jobs.append((job, hub))
    for _ in range(3):
        await hub.receive_many()
    raise SystemExit

jobs = []
anyio.run(main)
"""


def measure_exits(contender: str, exits: int) -> int:
    """How many of three threads of C are killed in a call, with their lock, in *exits* exits.

    All three if the process crashes.
    """
    lost = 0
    for _ in range(exits):
        command = [sys.executable, "-c", EXIT.format(contender=contender)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        lost += 3 if done.returncode else int(done.stdout)
    return lost


def places() -> dict[str, tuple[int, int]]:
    """Where two threads of C may run, of which one wakes the other. None but on Linux."""
    if sys.platform != "linux":
        return {}
    processors = sorted(os.sched_getaffinity(0))
    there = {"anywhere": (-1, -1), "one processor": (processors[0], processors[0])}
    if len(processors) > 1:
        there["two processors"] = (processors[0], processors[1])
    return there


def measure_wakes(where: str, many: int) -> list[float]:
    """Seconds for *many* wakes from C to C, by eventfd and epoll, a millisecond apart."""
    seconds = (c_double * many)()
    library().time_wakes(many, 0.001, ctypes.cast(seconds, c_void_p), *places()[where])
    return list(seconds)
