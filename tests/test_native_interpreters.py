"""Several interpreters at once: threads of C, and Python's, send from one to the other."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from c_threads import CLOSED, OK, SEND_WAIT, Pool, c, c_code, in_order, needs_the_extension, send

import dss_anyio as dss

OWN, SHARED = "a GIL each", "one GIL"

pytestmark = needs_the_extension
own_gil = pytest.param(
    OWN,
    marks=pytest.mark.skipif(
        sys.version_info < (3, 13),
        reason="before 3.12 all interpreters have one GIL; and dss_anyio needs ctypes, which 3.12"
        " refuses to one with a GIL of its own:"
        " 'module _ctypes does not support loading in subinterpreters'",
    ),
)
with_each_gil = pytest.mark.parametrize("gil", [own_gil, SHARED])
__all__ = ["c", "c_code"]  # fixtures


class Interpreter:
    """Another one, in which threads of this one run programs."""

    def __init__(self, gil: str) -> None:
        if sys.version_info >= (3, 13):
            self._all: Any = importlib.import_module("_interpreters")
            self._id = self._all.create("isolated" if gil == OWN else "legacy")
        else:
            self._all = importlib.import_module("_xxsubinterpreters")
            self._id = self._all.create(isolated=gil == OWN)

    def run(self, program: str, names: dict[str, Any]) -> str | None:
        """What was wrong; None if nothing was."""
        program = textwrap.dedent(program)
        if sys.version_info >= (3, 13):
            failed = self._all.exec(self._id, program, names)
            return None if failed is None else str(failed.errdisplay)
        try:
            self._all.run_string(self._id, program, names)
        except self._all.RunFailedError as exc:
            return str(exc)
        return None

    def destroy(self) -> None:
        self._all.destroy(self._id)


class Run:
    """A program that runs in another interpreter, and says once at which address it receives."""

    def __init__(self, gil: str, program: str, **names: Any) -> None:
        self._interpreter = Interpreter(gil)
        self._reading, self._writing = os.pipe()
        self.wrong: str | None = None
        path = [str(Path(dss.__file__).parent.parent), *filter(None, sys.path)]
        names.update(PATH=os.pathsep.join(path), SAY=self._writing)
        self._thread = threading.Thread(target=self._run, args=(program, names))
        self._thread.start()

    def _run(self, program: str, names: dict[str, Any]) -> None:
        self.wrong = self._interpreter.run(program, names)
        # In this thread, which is that interpreter's main thread: 3.12 would wait for it for ever.
        self._interpreter.destroy()
        os.write(self._writing, b"%020d" % 0)  # for who waits, if it has not come to that

    def address(self) -> int:
        address = int(os.read(self._reading, 20))
        assert address, self.wrong
        return address

    def join(self) -> None:
        self._thread.join()
        assert self.wrong is None, self.wrong

    def close(self) -> None:
        self._thread.join()
        os.close(self._reading)
        os.close(self._writing)


@contextmanager
def running(gil: str, program: str, **names: Any) -> Iterator[Run]:
    run = Run(gil, program, **names)
    try:
        yield run
    finally:
        run.close()


class To:
    """As a sender that belongs to a hub of another interpreter."""

    def __init__(self, address: int) -> None:
        self.address = address


# What both have in common: how they are called, and how they look at what they get.
BEGIN = """
    import sys
    sys.path[:0] = PATH.split(":")
    import ctypes, os, struct, threading
    from collections import Counter
    import dss_anyio as dss

    send_wait = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_double
    )(dss.native.functions["dss_send_wait"])
    following = Counter()

    def look_at(items):
        for item in items:
            thread, number = struct.unpack_from("II", item)
            assert number == following[thread], (thread, number, following)
            following[thread] += 1
"""

# -- Threads of C ----------------------------------------------------------------------------------

RECEIVE_AND_SEND = (
    BEGIN
    + """
    with dss.open_polled_hub() as hub:
        sender = hub.register("sub").native_sender(64)
        os.write(SAY, b"%020d" % sender.address)
        while sum(following.values()) < 2 * CALLS:
            assert hub.wait(20), following
            look_at(hub.poll())
        assert following == {0: CALLS, 1: CALLS}, following
        for number in range(100):
            assert send_wait(MAIN, struct.pack("II", ME, number), 8, 20.0) == 0
    """
)


@with_each_gil
def test_two_interpreters_are_sent_to_and_send_to_each_other(c: Any, gil: str) -> None:
    calls = 2_000
    with dss.open_polled_hub() as hub:
        to_main = hub.register("main").native_sender(64)
        names = {"MAIN": to_main.address, "CALLS": calls}
        with (
            running(gil, RECEIVE_AND_SEND, ME=10, **names) as first,
            running(gil, RECEIVE_AND_SEND, ME=11, **names) as second,
        ):
            addresses = [first.address(), second.address()]
            everywhere: list[Any] = [*map(To, addresses), to_main]
            pools = [Pool(c, sender, 2, calls, way=SEND_WAIT) for sender in everywhere]
            received: list[Any] = []
            while len(received) < 2 * calls + 2 * 100:
                assert hub.wait(20), (first.wrong, second.wrong)
                received += hub.poll()
            first.join()
            second.join()
            for pool in pools:
                pool.join()
                assert pool.count(OK) == 2 * calls
        assert [send(address, b"late") for address in addresses] == [CLOSED, CLOSED]
        assert send(to_main, b"still here") == OK
    assert in_order(received) == {0: calls, 1: calls, 10: 100, 11: 100}


# -- Threads of Python, in both directions at once -------------------------------------------------

# Both interpreters run it. Its threads send to the other one, and what is received here is theirs.
SIDE = (
    BEGIN
    + """
    statuses, threads, met = [], [], threading.Event()

    def send_all(address, me):
        for number in range(CALLS):
            if number == CALLS // 2:
                met.wait(20)  # so that both send, and both receive, before one of them is through
            statuses.append(send_wait(address, struct.pack("II", me, number), 8, 20.0))

    def begin(sender):
        os.write(SAY, b"%020d" % sender.address)
        address = int(os.read(HEAR, 20))
        assert address
        for me in range(2):
            threads.append(threading.Thread(target=send_all, args=(address, me)))
            threads[-1].start()

    def take(items):
        look_at(items)
        met.set()
        return sum(following.values()) < 2 * CALLS

    def receive_in_polled_hub():
        with dss.open_polled_hub() as hub:
            begin(hub.register("side").native_sender(64))
            goes_on = True
            while goes_on:
                assert hub.wait(20), following
                goes_on = take(hub.poll())

    async def receive_in_event_loop():
        with anyio.fail_after(20):
            async with dss.open_hub() as hub:
                begin(hub.register("side").native_sender(64))
                while take(await hub.receive_many()):
                    pass

    try:
        if LOOP == "polled":
            receive_in_polled_hub()
        else:
            import anyio
            anyio.run(receive_in_event_loop, backend=LOOP)
    finally:
        met.set()
        for thread in threads:
            thread.join()
    assert following == {0: CALLS, 1: CALLS}, following
    assert Counter(statuses) == {0: 2 * CALLS}, Counter(statuses)
    """
)


@with_each_gil
@pytest.mark.parametrize("loop", ["polled", "asyncio", "trio"])
def test_pythons_threads_send_in_both_directions_at_once(gil: str, loop: str) -> None:
    """With a GIL each, asyncio, anyio and trio are imported as ever. uvloop (0.22) is not: "module
    uvloop.loop does not support loading in subinterpreters".
    """
    if loop == "asyncio" and sys.version_info < (3, 12):
        pytest.skip("before 3.12 asyncio takes the loop that runs in another interpreter for ours")
    hear, say = os.pipe()  # what the one here says is what the other one hears
    names: dict[str, Any] = {"CALLS": 1_000, "LOOP": loop}
    with running(gil, SIDE, HEAR=hear, **names) as other:
        # As in the other one, all of it in a thread; so what is wrong there is told first.
        address = other.address()
        hear_here, say_here = os.pipe()
        os.write(say_here, b"%020d" % address)
        path = str(Path(dss.__file__).parent.parent)
        here = {"HEAR": hear_here, "SAY": say, "PATH": path, **names}
        try:
            exec(textwrap.dedent(SIDE), here)
        finally:
            os.write(say, b"%020d" % 0)  # if it has not come to that
        other.join()
    assert send(address, b"late") == CLOSED
    for fd in (hear, say, hear_here, say_here):
        os.close(fd)
