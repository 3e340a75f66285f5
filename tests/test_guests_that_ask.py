"""Real libraries whose threads need an answer: all get one, also if they are stopped meanwhile."""

from __future__ import annotations

import concurrent.futures
import ctypes
import http.server
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import until
from test_foreign import CPool, c_library, get, number_in_order
from test_receiver import eventually

import dss_anyio as dss

pytestmark = pytest.mark.anyio

__all__ = ["c_library"]  # a fixture


# -- Threads of C ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True], ids=["8 threads", "a new thread per call"])
async def test_threads_of_c_are_answered(c_library: ctypes.CDLL, fresh: bool) -> None:
    answers: list[tuple[tuple[int, int], object]] = []
    seen: list[tuple[int, int]] = []

    async def handle(item: tuple[int, int]) -> tuple[int, int]:
        seen.append(item)
        return item

    async with dss.open_hub[Any](16) as hub:
        hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=4))
        ask = hub.portal.request_callback(timeout=30, default="default")
        pool = CPool(
            c_library,
            lambda *item: answers.append((item, ask(*item))),
            threads=8,
            calls=50,
            fresh=fresh,
        )
        assert await anyio.to_thread.run_sync(pool.join) == 400
        assert number_in_order(seen) == dict.fromkeys(range(8), 50)
        assert sorted(answers) == sorted((item, item) for item in seen)
        counts = hub.statistics()
        assert counts.requests == (400, 0, 0, 0, 0, 0)
        assert (counts.received, counts.sent) == (400, 400)


@pytest.mark.parametrize("fresh", [False, True], ids=["8 threads", "a new thread per call"])
async def test_threads_of_c_are_released_when_their_library_is_stopped(
    c_library: ctypes.CDLL, fresh: bool
) -> None:
    """Nobody answers; the scope around everything is cancelled; ``stop`` joins who asks."""
    answers: list[object] = []
    stopped: list[int] = []

    def start(portal: dss.Portal[Any]) -> CPool:
        ask = portal.request_callback(timeout=None, default=-1)
        return CPool(c_library, lambda *item: answers.append(ask(*item)), threads=8, fresh=fresh)

    with anyio.CancelScope() as scope:
        async with (
            dss.open_hub[Any](4) as hub,
            hub.open_source(
                "pool", start, lambda pool: stopped.append(pool.stop()), stop_timeout=20
            ),
        ):
            kept = [await hub.receive() for _ in range(3)]
            await eventually(lambda: len(hub.blocked()) == 8)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert not any(request.reply(1) for request in kept)
    assert stopped == [len(answers)]
    assert set(answers) == {-1}
    counts = hub.statistics()
    assert counts.requests.released == 8
    assert counts.requests.open == 0
    assert counts.late == len(answers) - 8
    assert counts.sent == counts.received + counts.undelivered
    assert hub.blocked() == []


# -- A web server ----------------------------------------------------------------------------------


class WebServer:
    """http.server with a thread for each request, all of which its end joins."""

    def __init__(self, portal: dss.Portal[str]) -> None:
        ask = portal.request_callback(timeout=None, default=None)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                answer = ask(handler.path)
                handler.send_response(503 if answer is None else 200)
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = False
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = self._server.server_address
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._serving.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()


async def test_a_web_server_answers_200_requests_at_once() -> None:
    statuses: list[int] = []

    async def handle(path: str) -> str:
        await anyio.sleep(0)
        return path

    async with dss.open_hub[str](8) as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("server", WebServer, WebServer.stop) as source:
            address = source.value.address
            clients = [
                threading.Thread(target=lambda: statuses.append(get(address, "/")))
                for _ in range(200)
            ]
            for client in clients:
                client.start()
            await eventually(lambda: len(statuses) == 200, timeout=30)
        for client in clients:
            client.join()
        assert Counter(statuses) == {200: 200}
        assert hub.statistics().requests == (200, 0, 0, 0, 0, 0)


async def test_a_web_server_is_stopped_while_requests_wait_for_an_answer() -> None:
    statuses: list[int] = []

    async def handle(path: str) -> str:
        if path == "/slow":
            await anyio.sleep_forever()
        return path

    with anyio.CancelScope() as scope:
        async with dss.open_hub[str]() as hub:
            hub.task_group.start_soon(hub.serve, handle)
            async with hub.open_source(
                "server", WebServer, WebServer.stop, stop_timeout=20
            ) as source:
                address = source.value.address
                clients = [
                    threading.Thread(target=lambda path=path: statuses.append(get(address, path)))
                    for path in ["/fast"] * 10 + ["/slow"] * 10
                ]
                for client in clients:
                    client.start()
                await eventually(lambda: len(statuses) == 10 and len(hub.blocked()) == 10)
                scope.cancel()
                await anyio.sleep_forever()
    for client in clients:
        client.join(20)
    assert Counter(statuses) == {200: 10, 503: 10}
    answered, refused, unanswered, released, *_ = hub.statistics().requests
    assert (answered, refused) == (10, 0)
    assert unanswered + released == 10  # the scope may cancel a handler before the hub hears of it


# -- A database ------------------------------------------------------------------------------------


async def test_a_database_asks_whether_to_go_on() -> None:
    """sqlite3 calls back in the thread that executes, and stops if the answer is not 0."""
    asked = 0

    def go_on(_: object) -> int:
        nonlocal asked
        asked += 1
        return int(asked == 20)

    def count(portal: dss.Portal[str]) -> None:
        with closing(sqlite3.connect(":memory:")) as database:
            ask = portal.request_callback(lambda: "go on?", timeout=20, default=1)
            database.set_progress_handler(ask, 1000)
            database.execute(
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                "SELECT sum(i) FROM n"
            )

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, go_on)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            await anyio.to_thread.run_sync(count, hub.portal)
        assert asked == 20
        assert hub.statistics().requests == (20, 0, 0, 0, 0, 0)


async def test_a_database_is_interrupted_by_the_end_of_its_hub() -> None:
    """Here it is the default that says "enough"."""
    outcome: list[str] = []

    def count(portal: dss.Portal[str]) -> None:
        with closing(sqlite3.connect(":memory:")) as database:
            ask = portal.request_callback(lambda: "go on?", timeout=None, default=1)
            database.set_progress_handler(ask, 1000)
            try:
                database.execute(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
                    "SELECT sum(i) FROM n"
                )
            except sqlite3.OperationalError as exc:
                outcome.append(str(exc))

    async with dss.open_hub[str]() as hub:
        thread = threading.Thread(target=count, args=(hub.portal,))
        thread.start()
        kept = await hub.receive()
    thread.join(10)
    assert outcome == ["interrupted"]
    assert kept.abandoned


# -- A loudspeaker ---------------------------------------------------------------------------------


async def test_no_buffer_is_missed_by_a_loudspeaker_while_the_loop_is_busy() -> None:
    """10 ms for each buffer, and a loop that is busy for 20 ms at a time."""
    miniaudio = pytest.importorskip("miniaudio", reason="no wheel for this Python")
    frames, many = 80, 40
    played: list[bytes] = []
    threads: set[str] = set()

    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(40)

        def start(_: object) -> Any:
            def speak() -> Generator[bytes, int, None]:
                needed = yield b""
                while True:
                    threads.add(type(threading.current_thread()).__name__)
                    assert needed == frames
                    buffer = feed.take_nowait(default=b"")
                    played.append(buffer)
                    needed = yield buffer or bytes(2 * frames)

            device = miniaudio.PlaybackDevice(
                backends=[miniaudio.Backend.NULL],
                output_format=miniaudio.SampleFormat.SIGNED16,
                nchannels=1,
                sample_rate=8000,
                buffersize_msec=10,
            )
            generator = speak()
            next(generator)
            device.start(generator)
            return device

        def buffer(number: int) -> bytes:
            return number.to_bytes(2, "little") * frames

        for number in range(20):
            feed.send_nowait(buffer(number))
        async with hub.open_source("loudspeaker", start, lambda device: device.close()):
            for number in range(20, many):
                if number % 4 == 0:
                    time.sleep(0.02)  # busy; then it makes up for that
                await feed.send(buffer(number))
            until(lambda: len(played) >= many)
        assert threads == {"_DummyThread"}
        assert played[:many] == [buffer(number) for number in range(many)]


# -- What is asked on the wrong thread -------------------------------------------------------------


async def test_a_callback_that_comes_on_the_loops_own_thread_is_told_at_once() -> None:
    """A library demands: a callback may come on any thread, also on the one that would answer."""
    outcomes: list[object] = []
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.set_result(1)
    reported: list[BaseException] = []
    async with dss.open_hub[Any](on_error=lambda exc, _: reported.append(exc)) as hub:
        ask: Callable[..., Any] = hub.portal.request_callback(timeout=None, default="default")
        future.add_done_callback(lambda done: outcomes.append(ask(done.result())))
        assert outcomes == ["default"]
    assert [type(exc) for exc in reported] == [RuntimeError]
