"""What real libraries demand of whom they call: the thirteen demands of docs/libraries.md.

Each has a test, here or in a file about real libraries, whose docstring begins with its number.
"""

from __future__ import annotations

import ast
import concurrent.futures
import ctypes
import math
import re
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from test_foreign import CPool, c_library
from test_guests_that_ask import WebServer, get

import dss_anyio as dss
from dss_anyio.testing import eventually, until

pytestmark = pytest.mark.anyio

__all__ = ["c_library"]  # a fixture

HERE = Path(__file__).parent


@pytest.mark.anyio(False)
def test_each_demand_of_the_page_names_its_test_and_the_other_way_round() -> None:
    in_tests: set[tuple[int, str]] = set()
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for number in re.findall(r"Demand (\d+)\b", ast.get_docstring(node) or ""):
                    in_tests.add((int(number), f"{path.name}::{node.name}"))
    on_page: set[tuple[int, str]] = set()
    number = 0
    for line in (HERE.parent / "docs" / "libraries.md").read_text().splitlines():
        heading = re.match(r"### (\d+)\. ", line)
        if heading is not None:
            number = int(heading[1])
        on_page.update((number, name) for name in re.findall(r"`(test_\w+\.py::\w+)`", line))
    assert on_page == in_tests
    assert {number for number, _ in on_page} == set(range(1, 14))


@contextmanager
def complaints_of_ctypes() -> Iterator[list[str]]:
    """What ctypes prints when a callback raises, or returns what C cannot take."""
    before = sys.unraisablehook
    printed: list[str] = []
    sys.unraisablehook = lambda what: printed.append(repr(what.exc_value))
    try:
        yield printed
    finally:
        sys.unraisablehook = before


# -- In the order of the page ----------------------------------------------------------------------


async def test_nothing_is_keyed_on_the_identity_of_a_thread(c_library: ctypes.CDLL) -> None:
    """Demand 1. Each call comes from a new thread, with the identity of one that is gone."""
    local = threading.local()
    variable: ContextVar[int] = ContextVar("variable", default=0)
    survived: list[bool] = []
    identities: set[int] = set()
    wrong: list[object] = []

    def call(thread: int, number: int) -> None:
        survived.append(hasattr(local, "seen") or variable.get() != 0)
        local.seen = True
        variable.set(1)
        identities.add(threading.get_ident())
        if ask(thread, number) != (number, thread):
            wrong.append((thread, number))

    async with dss.open_hub[Any](4) as hub:
        hub.task_group.start_soon(hub.serve, lambda item: (item[1], item[0]))
        ask = hub.register("pool").request_callback(timeout=20, default=None)
        pool = CPool(c_library, call, threads=2, calls=200, fresh=True)
        assert await anyio.to_thread.run_sync(pool.join) == 400
        assert hub.blocked() == []
        counts = hub.statistics()
        assert counts.requests == (400, 0, 0, 0, 0, 0)
        assert counts.sources["pool"].received == 400
    assert wrong == []
    assert not any(survived)
    assert len(identities) < 400


async def test_a_callback_that_comes_on_the_loops_own_thread_is_told_at_once() -> None:
    """Demand 2. What would have to wait for an answer there would wait for ever."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(1)
    outcomes: list[object] = []
    reported: list[BaseException] = []
    async with dss.open_hub[Any](on_error=lambda exc, _: reported.append(exc)) as hub:
        ask: Callable[..., Any] = hub.portal.request_callback(timeout=None, default="default")
        future.add_done_callback(lambda done: outcomes.append(ask(done.result())))
        assert outcomes == ["default"]
        with pytest.raises(RuntimeError, match="the very thread it waits for"):
            hub.portal.request("question")
        future.add_done_callback(hub.portal.send_callback(lambda done: done.result()))
        assert await hub.receive() == 1
    assert [type(exc) for exc in reported] == [RuntimeError]


async def test_a_put_of_zenoh_on_the_loops_own_thread_calls_back_before_it_returns() -> None:
    """Demand 2, by a real library: what is handed over there is sent, and what is asked is not."""
    zenoh = pytest.importorskip("zenoh", reason="no wheel for this Python")
    threads_of_calls: set[int] = set()
    answers: list[object] = []
    told: list[str] = []
    reported: list[BaseException] = []

    def start(portal: dss.Portal[bytes]) -> Any:
        send = portal.send_callback(lambda sample: sample.payload.to_bytes())
        ask = portal.request_callback(
            lambda sample: sample.payload.to_bytes(), timeout=None, default="default"
        )

        def called(sample: Any) -> None:
            threads_of_calls.add(threading.get_ident())
            send(sample)
            answers.append(ask(sample))
            try:
                portal.request(b"question")
            except RuntimeError as exc:
                told.append(str(exc))

        config = zenoh.Config()
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("listen/endpoints", "[]")
        session = zenoh.open(config)
        handler = zenoh.handlers.Callback(called, indirect=False)
        session.declare_subscriber("tests/**", handler)
        return session

    async with dss.open_hub[bytes](on_error=lambda exc, _: reported.append(exc)) as hub:
        async with hub.open_source("zenoh", start, lambda session: session.close()) as source:
            for number in range(20):
                source.value.put("tests/item", b"%d" % number)
                assert len(answers) == number + 1, "it has called back in there"
            assert [await hub.receive() for _ in range(20)] == [b"%d" % each for each in range(20)]
    assert threads_of_calls == {threading.get_ident()}
    assert answers == ["default"] * 20
    assert len(told) == 20
    assert all("the very thread it waits for" in message for message in told)
    assert [type(exc) for exc in reported] == [RuntimeError] * 20
    counts = hub.statistics()
    assert (counts.sent, counts.received, counts.errors) == (20, 20, 20)
    assert counts.requests.open == 0


@pytest.mark.parametrize("state", ["open", "full", "failing", "closed", "ended"])
async def test_a_one_way_callback_returns_none_whatever_happens(
    c_library: ctypes.CDLL, state: str
) -> None:
    """Demand 3. ctypes complains of each call that returns what the signature does not have."""

    def pack(*_: int) -> bool:
        if state == "failing":
            raise ValueError
        return False  # what stops the listeners of some libraries, if it comes back to them

    returned: list[object] = []
    with complaints_of_ctypes() as printed:
        async with dss.open_hub[Any](2, on_error=lambda *_: None) as hub:
            portal = hub.register("pool")
            callback = portal.send_callback(pack)
            if state == "closed":
                portal.close()
            if state != "ended":
                pool = CPool(c_library, callback, calls=50 if state != "open" else 0)
                await anyio.to_thread.run_sync(pool.join)
                returned.append(callback())
        pool = CPool(c_library, callback, calls=50)
        await anyio.to_thread.run_sync(pool.join)
        returned.append(callback())
    assert printed == []
    assert set(returned) == {None}
    counts = hub.statistics()
    assert counts.late == 201 + 201 * (state == "closed")
    assert counts.dropped == (199 if state == "full" else 0)
    assert counts.errors == (201 if state == "failing" else 0)


@pytest.mark.parametrize("way", ["refused", "cancelled", "forgotten"])
async def test_a_callback_raises_or_has_a_default_and_no_loops_exception_escapes(way: str) -> None:
    """Demand 4. For SQLite raising is the way to refuse; with a default, nothing is ever raised."""
    raised: list[BaseException] = []

    def refuse(item: object) -> object:
        raise ValueError(item)

    async def begin(item: object) -> object:
        tasks.cancel_scope.cancel()
        await anyio.sleep_forever()

    def watch(ask: Callable[[int], object]) -> Callable[[int], object]:
        def callback(number: int) -> object:
            try:
                return ask(number)
            except BaseException as exc:
                raised.append(exc)
                raise

        return callback

    def use(raising: Callable[[int], object], safe: Callable[[int], object]) -> list[Any]:
        with closing(sqlite3.connect(":memory:")) as database:
            database.create_function("raising", 1, watch(raising))
            database.create_function("safe", 1, watch(safe))
            with pytest.raises(sqlite3.OperationalError):
                database.execute("SELECT raising(1)").fetchone()
            return list(database.execute("SELECT safe(2)").fetchone())

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        async with dss.open_hub[Any](on_error=lambda *_: None) as hub:
            result = executor.submit(
                use,
                hub.portal.request_callback(timeout=None),
                hub.portal.request_callback(timeout=None, default=-1),
            )
            if way == "refused":
                hub.task_group.start_soon(hub.serve, refuse)
            else:
                for _ in range(2):
                    if way == "forgotten":
                        await hub.receive()
                    else:
                        async with anyio.create_task_group() as tasks:
                            tasks.start_soon(hub.serve, begin)
            await eventually(result.done)
        assert result.result() == [-1]
    assert [type(exc) for exc in raised] == [ValueError if way == "refused" else dss.NoReplyError]


async def test_the_default_is_what_the_library_can_take() -> None:
    """Demand 5. The C library's own qsort() asks which of two comes first, and must get an int."""
    libc = ctypes.CDLL(None)
    compare_type = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)
    )

    def sort(ask: Callable[..., int]) -> list[int]:
        numbers = (ctypes.c_int * 20)(*reversed(range(20)))
        libc.qsort(numbers, 20, ctypes.sizeof(ctypes.c_int), compare_type(ask))
        return list(numbers)

    def pack(one: Any, other: Any) -> tuple[int, int]:
        return one[0], other[0]

    with complaints_of_ctypes() as printed:
        async with dss.open_hub[tuple[int, int]]() as hub:
            ask = hub.portal.request_callback(pack, timeout=20, default=0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.serve, lambda pair: pair[0] - pair[1])
                assert await anyio.to_thread.run_sync(sort, ask) == list(range(20))
                tasks.cancel_scope.cancel()
            impatient = hub.portal.request_callback(pack, timeout=0, default=0)
            unsorted = await anyio.to_thread.run_sync(sort, impatient)
        assert sorted(unsorted) == list(range(20))
        assert sorted(sort(ask)) == list(range(20))  # all are equal, after the end
    assert printed == []
    counts = hub.statistics()
    assert counts.requests.answered >= 19
    assert counts.requests.abandoned >= 19
    assert counts.late >= 19


_JOINS_WITH_THE_GIL = """
import ctypes, sys
import anyio
import dss_anyio as dss

library, threads, backend = sys.argv[1], int(sys.argv[2]), sys.argv[3]
free, holding = ctypes.CDLL(library), ctypes.PyDLL(library)
free.pool_start.restype = ctypes.c_void_p
holding.pool_stop.argtypes = [ctypes.c_void_p]
callback_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)

async def main():
    for _ in range(20):
        answers = []

        def start(portal):
            ask = portal.request_callback(timeout=None, default=-1)
            callback = callback_type(lambda *item: answers.append(ask(*item)))
            return callback, free.pool_start(callback, threads, 1, 0)

        with anyio.CancelScope() as scope:
            async with (
                dss.open_hub() as hub,
                hub.open_source("pool", start, lambda pool: holding.pool_stop(pool[1])),
            ):
                while len(hub.blocked()) < threads:
                    await anyio.sleep(0.001)
                scope.cancel()
                await anyio.sleep_forever()
        assert answers == [-1] * threads

anyio.run(main, backend=backend)
print("stopped")
"""


@pytest.mark.parametrize("threads", [1, 8])
async def test_a_library_that_joins_while_it_holds_the_gil_is_stopped(
    c_library: ctypes.CDLL, threads: int, backend_name: str
) -> None:
    """Demand 6. Release alone is not enough: who was released needs the GIL in order to leave."""
    run = await anyio.run_process(
        [
            sys.executable,
            "-c",
            _JOINS_WITH_THE_GIL,
            c_library._name,
            str(threads),
            backend_name,
        ],
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert run.stdout.decode().split() == ["stopped"]


async def test_a_library_is_stopped_in_order_in_a_cancelled_scope() -> None:
    """Demand 6. Refuse, release, wait until they have left, stop; off the loop; with a limit."""
    seen: list[object] = []
    outcomes: list[BaseException] = []
    loop_thread = threading.get_ident()

    def start(portal: dss.Portal[Any]) -> threading.Thread:
        def call() -> None:
            try:
                portal.request("question")
            except anyio.ClosedResourceError as exc:
                outcomes.append(exc)

        thread = threading.Thread(target=call)
        thread.start()
        return thread

    def stop(thread: threading.Thread) -> None:
        seen.append(source.portal.offer("item"))  # refused
        seen.append(len(outcomes))  # released, and has left
        seen.append(len(hub.blocked()))
        seen.append(threading.get_ident() == loop_thread)
        thread.join()
        endless.wait()

    endless = threading.Event()
    caught: list[BaseException] = []
    with anyio.CancelScope() as scope:
        async with dss.open_hub[Any]() as hub:
            try:
                async with hub.open_source("library", start, stop, stop_timeout=0.2) as source:
                    await eventually(lambda: len(hub.blocked()) == 1)
                    scope.cancel()
                    await anyio.sleep_forever()
            except Exception as exc:
                caught.extend(exc.exceptions)  # type: ignore[attr-defined]
    endless.set()
    assert seen == [False, 1, 0, False]
    assert [type(exc) for exc in caught] == [TimeoutError]
    assert f"stopping source 'library' in {hub.name} takes longer than 0.2 s" in str(caught[0])


async def test_a_start_may_wait_for_callbacks_that_wait_for_the_hub(
    c_library: ctypes.CDLL,
) -> None:
    """Demand 7. It returns when all of its callbacks were answered, as ``solve()`` does."""
    answers: list[object] = []

    def start(portal: dss.Portal[Any]) -> int:
        ask = portal.request_callback(timeout=20, default=None)
        pool = CPool(c_library, lambda *item: answers.append(ask(*item)), threads=4, calls=25)
        return pool.join()

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, lambda item: item)
        async with hub.open_source("solver", start, lambda _: None) as source:
            assert source.value == 100
    assert sorted(answers) == [(thread, number) for thread in range(4) for number in range(25)]


async def test_callbacks_that_come_after_stop_are_silent_and_counted() -> None:
    """Demand 8. Zenoh's ``undeclare()`` returns at once; the subscriber's thread goes on."""
    zenoh = pytest.importorskip("zenoh")
    holding = threading.Event()
    calls: list[None] = []

    def start(portal: dss.Portal[bytes]) -> Any:
        callback = portal.send_callback(lambda sample: sample.payload.to_bytes())

        def called(sample: Any) -> None:
            if len(calls) == 10:
                holding.wait(20)
            assert callback(sample) is None
            calls.append(None)

        config = zenoh.Config()
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("listen/endpoints", "[]")
        session = zenoh.open(config)
        subscriber = session.declare_subscriber("tests/**", called)
        for number in range(50):
            session.put("tests/item", b"%d" % number)
        return session, subscriber

    def stop(value: Any) -> None:
        session, subscriber = value
        subscriber.undeclare()
        session.close()

    async with dss.open_hub[bytes](math.inf) as hub:
        async with hub.open_source("subscriber", start, stop):
            received = [await hub.receive() for _ in range(10)]
        assert received == [b"%d" % number for number in range(10)]
    holding.set()
    until(lambda: len(calls) == 50)
    counts = hub.statistics()
    assert (counts.sent, counts.late, counts.errors) == (10, 40, 0)


async def test_somebody_can_be_asked_who_is_blocked_while_the_loop_hangs() -> None:
    """Demand 12. In which call, of which library, in which thread, and for how long."""
    statuses: list[int] = []
    seen: list[list[dss.BlockedCall]] = []

    def look(hub: dss.Hub[str]) -> None:
        until(lambda: len(hub.blocked()) == 3)
        first = hub.blocked()
        until(lambda: min(each.seconds for each in hub.blocked()) > 0.1)
        seen.extend([first, hub.blocked()])
        hung.set()

    hung = threading.Event()
    async with dss.open_hub[str]() as hub:
        async with hub.open_source("server", WebServer, WebServer.stop) as source:
            address = source.value.address
            clients = [
                threading.Thread(target=lambda: statuses.append(get(address, "/")))
                for _ in range(3)
            ]
            for each in [*clients, threading.Thread(target=look, args=(hub,))]:
                each.start()
            assert hung.wait(20)  # the loop hangs: its thread sleeps
        for client in clients:
            client.join()
    before, after = seen
    assert {(each.source, each.call) for each in before} == {("server", "request")}
    assert len({each.thread for each in before}) == 3
    assert all("process_request_thread" in (each.thread_name or "") for each in before)
    assert all(0.1 < each.seconds < 20 for each in after)
    assert Counter(statuses) == {503: 3}
