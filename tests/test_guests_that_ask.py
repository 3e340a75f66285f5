"""Real libraries whose threads need an answer: all get one, also if they are stopped meanwhile."""

from __future__ import annotations

import concurrent.futures
import ctypes
import http.server
import json
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from test_foreign import CPool, c_library, get, number_in_order

import dss_anyio as dss
from dss_anyio.testing import eventually, until

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


async def test_a_web_server_is_stopped_while_50_of_200_requests_wait_for_an_answer() -> None:
    """Each has one ending: 150 were answered, and 50 released by the end of the source."""
    statuses: list[int] = []

    async def handle(path: str) -> str:
        if path == "/slow":
            try:
                await anyio.sleep_forever()
            finally:
                # Or a handler that is cancelled before the source ends would leave its asker.
                with anyio.CancelScope(shield=True):
                    await eventually(lambda: hub.statistics().requests.released == 50, timeout=20)
        return path

    with anyio.CancelScope() as scope:
        async with dss.open_hub[str](8) as hub:
            hub.task_group.start_soon(hub.serve, handle)
            async with hub.open_source(
                "server", WebServer, WebServer.stop, stop_timeout=20
            ) as source:
                address = source.value.address
                clients = [
                    threading.Thread(target=lambda path=path: statuses.append(get(address, path)))
                    for path in ["/fast", "/slow", "/fast", "/fast"] * 50
                ]
                for client in clients:
                    client.start()
                await eventually(
                    lambda: len(statuses) == 150 and len(hub.blocked()) == 50, timeout=30
                )
                scope.cancel()
                await anyio.sleep_forever()
    assert scope.cancelled_caught
    for client in clients:
        client.join(20)
    assert Counter(statuses) == {200: 150, 503: 50}
    counts = hub.statistics()
    assert counts.requests == (150, 0, 0, 50, 0, 0)
    assert (counts.sent, counts.received) == (200, 200)
    assert hub.blocked() == []


# -- A database ------------------------------------------------------------------------------------


def count_for_ever(ask: Callable[[], int]) -> None:
    """Execute a statement that has no end; every 1000 steps *ask* is called."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.set_progress_handler(ask, 1000)
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n"
        )


async def test_a_database_asks_whether_to_go_on() -> None:
    """sqlite3 calls back in the thread that executes, and stops if the answer is not 0."""
    asked = 0

    def go_on(_: object) -> int:
        nonlocal asked
        asked += 1
        return int(asked == 20)

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, go_on)
        ask = hub.portal.request_callback(lambda: "go on?", timeout=20, default=1)
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            await anyio.to_thread.run_sync(count_for_ever, ask)
        assert asked == 20
        assert hub.statistics().requests == (20, 0, 0, 0, 0, 0)


# -- A loudspeaker ---------------------------------------------------------------------------------

FRAMES = 80  # of a buffer of 10 ms


def open_loudspeaker(take: Callable[[], bytes]) -> Any:
    """A device of miniaudio's, whose thread, made by C, takes a buffer every 10 ms."""
    miniaudio = pytest.importorskip("miniaudio")

    def speak() -> Generator[bytes, int, None]:
        needed = yield b""
        while True:
            assert needed == FRAMES
            needed = yield take() or bytes(2 * FRAMES)

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


class BusyTime:
    """A time that goes on only while the event loop is busy, two buffers of 10 ms each time.

    So nothing depends on how fast this machine is: a device takes what is due by then, and all of
    that while the loop is held up.
    """

    def __init__(self, take: Callable[[], bytes]) -> None:
        self.taken: list[bytes] = []
        self.threads: set[str] = set()
        self._take = take
        self._due = threading.Semaphore(0)
        self._over = False

    def start(self, _: object) -> Any:
        return open_loudspeaker(self._take_what_is_due)

    def _take_what_is_due(self) -> bytes:
        if not self._over:
            self._due.acquire()
        if self._over:
            return b""
        self.threads.add(type(threading.current_thread()).__name__)
        self.taken.append(self._take())
        return self.taken[-1]

    def keep_busy(self) -> None:
        """Hold up the event loop for 20 ms."""
        over = time.monotonic() + 0.02
        many = len(self.taken) + 2
        self._due.release(2)
        until(lambda: len(self.taken) == many and time.monotonic() >= over)

    def stop(self, device: Any) -> None:
        self._over = True
        self._due.release()
        device.close()


async def test_no_buffer_is_missed_by_a_loudspeaker_while_the_loop_is_busy() -> None:
    """Demand 9. 10 ms for each buffer; the loop is busy for 20 ms at a time, again and again."""
    rounds = 20

    def buffer(number: int) -> bytes:
        return number.to_bytes(2, "little") * FRAMES

    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(2)
        busy = BusyTime(lambda: feed.take_nowait(default=b""))
        async with hub.open_source("loudspeaker", busy.start, busy.stop):
            for turn in range(rounds):
                for number in (2 * turn, 2 * turn + 1):
                    await feed.send(buffer(number))
                busy.keep_busy()
        assert busy.threads == {"_DummyThread"}
        assert busy.taken == [buffer(number) for number in range(2 * rounds)]
        assert feed.statistics().underruns == 0


async def test_a_loudspeaker_that_asks_instead_misses_each_buffer() -> None:
    """The loop is busy when the time is over: that is what a feed is for."""
    rounds = 5

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, lambda _: b"an answer")
        ask = hub.portal.request_callback(lambda: "more", timeout=0.01, default=b"")
        assert await hub.portal.arequest("more") == b"an answer"
        busy = BusyTime(ask)
        async with hub.open_source("loudspeaker", busy.start, busy.stop):
            for _ in range(rounds):
                busy.keep_busy()
                await anyio.lowlevel.checkpoint()
        assert busy.taken == [b""] * 2 * rounds


# -- gRPC ------------------------------------------------------------------------------------------


class RpcServer:
    """A server of gRPC with a pool of threads, and a client; *handle* answers each call."""

    def __init__(self, handle: Callable[[bytes, Any], bytes], threads: int = 8) -> None:
        self.grpc = pytest.importorskip("grpc")

        class Handler(self.grpc.GenericRpcHandler):
            def service(_, details: Any) -> Any:
                return self.grpc.unary_unary_rpc_method_handler(handle)

        self._pool = concurrent.futures.ThreadPoolExecutor(threads)
        self._server = self.grpc.server(self._pool, handlers=[Handler()])
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        self._channel = self.grpc.insecure_channel(f"127.0.0.1:{port}")
        self.ask: Callable[..., bytes] = self._channel.unary_unary("/tests/ask")

    def ask_soon(self, question: bytes) -> Any:
        """Return a future of gRPC's."""
        return self.ask.future(question, timeout=30)

    def stop(self) -> None:
        """Let the calls end that have begun, join the threads that have answered them."""
        self._server.stop(10).wait()
        self._pool.shutdown()
        self._channel.close()


async def test_clients_of_grpc_are_answered_or_refused() -> None:
    """Demand 4. Here raising is the right way to refuse: the client is told."""

    def handle(question: bytes) -> bytes:
        if question == b"13":
            raise ValueError("not this one")
        return question[::-1]

    def start(portal: dss.Portal[bytes]) -> RpcServer:
        ask = portal.request_callback(lambda question, _: question, timeout=20)
        return RpcServer(ask)

    async with dss.open_hub[bytes](4) as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("rpc", start, RpcServer.stop) as source:
            futures = [source.value.ask_soon(b"%d" % number) for number in range(50)]
            await eventually(lambda: all(future.done() for future in futures), timeout=30)
        assert [future.result() for future in futures if future.exception() is None] == [
            (b"%d" % number)[::-1] for number in range(50) if number != 13
        ]
        assert str(futures[13].code()) == "StatusCode.UNKNOWN"
        assert "not this one" in futures[13].details()
        assert hub.statistics().requests == (49, 1, 0, 0, 0, 0)


async def test_a_client_of_grpc_that_gives_up_cancels_its_handler() -> None:
    """What is queued by then is never begun; what was begun is cancelled."""
    begun: list[bytes] = []
    cancelled: list[bytes] = []

    async def handle(question: bytes) -> bytes:
        begun.append(question)
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled.append(question)
            raise
        raise AssertionError

    def start(portal: dss.Portal[bytes]) -> RpcServer:
        def ask(question: bytes, context: Any) -> bytes:
            future = portal.request_soon(question)
            if not context.add_callback(future.cancel):
                future.cancel()  # the client was faster
            try:
                answer: bytes = future.result()
            except concurrent.futures.CancelledError:
                return b"nobody hears this"
            return answer

        return RpcServer(ask)

    async with dss.open_hub[bytes]() as hub:
        hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=3))
        async with hub.open_source("rpc", start, RpcServer.stop) as source:
            futures = [source.value.ask_soon(b"%d" % number) for number in range(8)]
            await eventually(lambda: len(begun) == 3 and hub.statistics().requests.open == 8)
            for future in futures:
                future.cancel()
            await eventually(lambda: hub.statistics().requests.abandoned == 8)
            await eventually(lambda: sorted(cancelled) == sorted(begun))
        assert hub.statistics().requests == (0, 0, 0, 0, 8, 0)
        counts = hub.statistics()
        assert counts.received == len(begun)
        assert counts.received + counts.undelivered == counts.sent == 8


# -- Zenoh -----------------------------------------------------------------------------------------


class Queryable:
    """Two sessions of zenoh, over TCP: one answers what the other one asks."""

    def __init__(self, on_query: Callable[[Any], object]) -> None:
        self.zenoh = pytest.importorskip("zenoh")
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"
        self._here = self._open("listen", endpoint)
        self._queryable = self._here.declare_queryable("tests/**", on_query)
        self._there = self._open("connect", endpoint)

    def _open(self, how: str, endpoint: str) -> Any:
        config = self.zenoh.Config()
        config.insert_json5("scouting/multicast/enabled", "false")
        for each in ("listen", "connect"):
            config.insert_json5(f"{each}/endpoints", json.dumps([endpoint] if each == how else []))
        return self.zenoh.open(config)

    def ask(self, question: bytes) -> list[bytes]:
        """All answers, of which there may be none."""
        replies = self._there.get("tests/question", payload=question, timeout=20.0)
        return [reply.ok.payload.to_bytes() for reply in replies]

    def stop(self) -> None:
        self._queryable.undeclare()
        self._there.close()
        self._here.close()


async def test_queries_of_zenoh_are_answered_later_and_from_elsewhere() -> None:
    """Demand 11. The callback only asks, and returns; ten are open before the first is answered."""
    threads_that_reply: set[int] = set()
    # A future that is done already calls back in the thread that adds the callback. So nobody
    # answers before each has its own: a query may be received when its thread has just asked.
    listening = threading.Semaphore(0)

    def start(portal: dss.Portal[bytes]) -> Queryable:
        def on_query(query: Any) -> None:
            def reply(answer: concurrent.futures.Future[bytes]) -> None:
                threads_that_reply.add(threading.get_ident())
                query.reply(query.key_expr, answer.result())
                query.drop()  # no other answer is going to come

            portal.request_soon(query.payload.to_bytes()).add_done_callback(reply)
            listening.release()

        return Queryable(on_query)

    def answer_from_elsewhere(requests: list[Any]) -> None:
        elsewhere.append(threading.get_ident())
        for _ in requests:
            assert listening.acquire(timeout=10)
        for request in reversed(requests):
            assert request.reply(request.item[::-1])

    answers: dict[int, list[bytes]] = {}
    elsewhere: list[int] = []
    async with dss.open_hub[Any]() as hub:
        async with (
            hub.open_source("queryable", start, Queryable.stop) as source,
            anyio.create_task_group() as tasks,
        ):

            async def ask(number: int) -> None:
                answers[number] = await anyio.to_thread.run_sync(
                    source.value.ask, b"question %d" % number
                )

            for number in range(10):
                tasks.start_soon(ask, number)
            requests = [await hub.receive() for _ in range(10)]
            await anyio.to_thread.run_sync(answer_from_elsewhere, requests)
        assert answers == {number: [(b"question %d" % number)[::-1]] for number in range(10)}
        assert threads_that_reply == set(elsewhere)
        assert hub.statistics().requests == (10, 0, 0, 0, 0, 0)


async def test_ten_queries_of_zenoh_are_open_when_their_source_is_stopped() -> None:
    """Demand 11, on the way out of a cancelled scope: the end answers each of them, once."""
    clients: list[threading.Thread] = []
    answers: list[list[bytes]] = []
    endings: list[str] = []

    def start(portal: dss.Portal[bytes]) -> Queryable:
        def on_query(query: Any) -> None:
            def reply(answer: concurrent.futures.Future[bytes]) -> None:
                endings.append(type(answer.exception()).__name__)
                query.reply(query.key_expr, b"closed")
                query.drop()

            portal.request_soon(query.payload.to_bytes()).add_done_callback(reply)

        queryable = Queryable(on_query)
        for _ in range(10):
            client = threading.Thread(target=lambda: answers.append(queryable.ask(b"question")))
            client.start()
            clients.append(client)
        return queryable

    def stop(queryable: Queryable) -> None:
        for client in clients:
            client.join()  # they have their answers before it is stopped
        queryable.stop()

    with anyio.CancelScope() as scope:
        async with (
            dss.open_hub[bytes]() as hub,
            hub.open_source("queryable", start, stop, stop_timeout=20),
        ):
            await eventually(lambda: len(hub.blocked()) == 10, timeout=20)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert endings == ["ClosedResourceError"] * 10
    assert answers == [[b"closed"]] * 10
    counts = hub.statistics()
    assert counts.requests == (0, 0, 0, 10, 0, 0)
    assert (counts.sent, counts.undelivered) == (10, 10)
    assert hub.blocked() == []


# -- A solver --------------------------------------------------------------------------------------


class Solver:
    """CP-SAT looks for all of 100,000 solutions, and shows each to the thread that solves."""

    def __init__(self, enough: Callable[[int], bool]) -> None:
        cp_model = pytest.importorskip("ortools.sat.python.cp_model")
        model = cp_model.CpModel()
        digits = [model.new_int_var(0, 9, f"digit {place}") for place in range(5)]
        self.shown = 0
        self.outcome: str | None = None

        class Show(cp_model.CpSolverSolutionCallback):
            def on_solution_callback(show) -> None:
                self.shown += 1
                number = sum(10**place * show.value(digit) for place, digit in enumerate(digits))
                if enough(number):
                    show.stop_search()

        def solve() -> None:
            solver = cp_model.CpSolver()
            solver.parameters.enumerate_all_solutions = True
            self.outcome = solver.status_name(solver.solve(model, Show()))

        self._solving = threading.Thread(target=solve)
        self._solving.start()

    def stop(self) -> None:
        self._solving.join()


async def test_a_solver_is_told_when_it_is_enough() -> None:
    numbers: list[int] = []

    def handle(number: int) -> bool:
        numbers.append(number)
        return len(numbers) == 25

    def start(portal: dss.Portal[int]) -> Solver:
        return Solver(portal.request_callback(timeout=None, default=True))

    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("solver", start, Solver.stop) as source:
            await eventually(lambda: source.value.outcome is not None)
        assert (source.value.outcome, source.value.shown) == ("FEASIBLE", 25)
        assert len(set(numbers)) == 25
        assert hub.statistics().requests == (25, 0, 0, 0, 0, 0)


# -- All of them: stopped while they wait ----------------------------------------------------------


class Guest:
    """A library, so many of whose callbacks wait for an answer that nobody gives."""

    waiting = 1

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self.outcomes: list[object] = []  # of those who have waited

    def start(self, hub: dss.Hub[Any], portal: dss.Portal[Any]) -> Any:
        raise NotImplementedError

    def stop(self, value: Any) -> None:
        value.stop()

    def check(self, counts: dss.HubStatistics) -> None:
        """It has heard that nobody answers, and made the best of it."""
        raise NotImplementedError


class PooledThreadsOfC(Guest):
    waiting = 8
    fresh = False

    def start(self, hub: dss.Hub[Any], portal: dss.Portal[Any]) -> CPool:
        library: ctypes.CDLL = self.request.getfixturevalue("c_library")
        ask = portal.request_callback(timeout=None, default=-1)
        return CPool(
            library, lambda *item: self.outcomes.append(ask(*item)), threads=8, fresh=self.fresh
        )

    def stop(self, value: CPool) -> None:
        self.returned = value.stop()

    def check(self, counts: dss.HubStatistics) -> None:
        assert self.outcomes == [-1] * self.returned
        assert counts.late == self.returned - 8


class FreshThreadsOfC(PooledThreadsOfC):
    fresh = True


class Clients(Guest):
    """Threads of the test's own, each of which asks the library once, and waits for its answer."""

    waiting = 8
    server: Callable[..., Any]

    def start(self, hub: dss.Hub[Any], portal: dss.Portal[Any]) -> Any:
        value = self.serve(portal)
        self.clients = [
            threading.Thread(target=lambda: self.outcomes.append(self.ask(value)))
            for _ in range(self.waiting)
        ]
        for client in self.clients:
            client.start()
        return value

    def serve(self, portal: dss.Portal[Any]) -> Any:
        raise NotImplementedError

    def ask(self, value: Any) -> object:
        raise NotImplementedError

    def stop(self, value: Any) -> None:
        value.stop()
        for client in self.clients:
            client.join()


class Web(Clients):
    def serve(self, portal: dss.Portal[str]) -> WebServer:
        return WebServer(portal)

    def ask(self, value: WebServer) -> int:
        return get(value.address, "/")

    def check(self, counts: dss.HubStatistics) -> None:
        assert self.outcomes == [503] * 8


class Rpc(Clients):
    def serve(self, portal: dss.Portal[bytes]) -> RpcServer:
        return RpcServer(
            portal.request_callback(lambda question, _: question, timeout=None, default=b"closed")
        )

    def ask(self, value: RpcServer) -> object:
        return value.ask(b"question", timeout=30)

    def check(self, counts: dss.HubStatistics) -> None:
        assert self.outcomes == [b"closed"] * 8


class Queries(Clients):
    """A queryable has one thread, so one query waits; others would wait for that thread."""

    waiting = 1

    def serve(self, portal: dss.Portal[bytes]) -> Queryable:
        ask = portal.request_callback(
            lambda query: query.payload.to_bytes(), timeout=None, default=b"closed"
        )
        return Queryable(lambda query: query.reply(query.key_expr, ask(query)))

    def ask(self, value: Queryable) -> object:
        return value.ask(b"question")

    def stop(self, value: Queryable) -> None:
        # undeclare() neither joins its thread nor waits for the reply that it is sending.
        for client in self.clients:
            client.join()
        value.stop()

    def check(self, counts: dss.HubStatistics) -> None:
        assert self.outcomes == [[b"closed"]]


class Search(Guest):
    def start(self, hub: dss.Hub[Any], portal: dss.Portal[int]) -> Solver:
        self.solver = Solver(portal.request_callback(timeout=None, default=True))
        return self.solver

    def check(self, counts: dss.HubStatistics) -> None:
        assert (self.solver.outcome, self.solver.shown) == ("FEASIBLE", 1)


class Database(Guest):
    """Here the default says "enough"."""

    def start(self, hub: dss.Hub[Any], portal: dss.Portal[str]) -> threading.Thread:
        ask = portal.request_callback(lambda: "go on?", timeout=None, default=1)

        def count() -> None:
            try:
                count_for_ever(ask)
            except sqlite3.OperationalError as exc:
                self.outcomes.append(str(exc))

        counting = threading.Thread(target=count)
        counting.start()
        return counting

    def stop(self, value: threading.Thread) -> None:
        value.join()

    def check(self, counts: dss.HubStatistics) -> None:
        assert self.outcomes == ["interrupted"]


class Loudspeaker(Guest):
    """It waits in ``feed.take()``, which nobody should do in an audio callback."""

    def start(self, hub: dss.Hub[Any], portal: dss.Portal[Any]) -> Any:
        self.feed = hub.open_feed(4)
        return open_loudspeaker(self.take)

    def take(self) -> bytes:
        buffer: bytes = self.feed.take(default=b"")
        self.outcomes.append(buffer)
        return buffer

    def stop(self, value: Any) -> None:
        self.feed.close()  # or its thread, which close() joins, would wait until the hub ends
        value.close()

    def check(self, counts: dss.HubStatistics) -> None:
        assert set(self.outcomes) == {b""}


GUESTS = [
    PooledThreadsOfC,
    FreshThreadsOfC,
    Web,
    Rpc,
    Queries,
    Search,
    Database,
    Loudspeaker,
]


@pytest.fixture(params=GUESTS, ids=lambda each: each.__name__)
def guest(request: pytest.FixtureRequest) -> Guest:
    made: Guest = request.param(request)
    return made


@pytest.mark.parametrize("way_out", ["of a cancelled scope", "of a body that raises", "of the hub"])
async def test_a_library_is_stopped_while_its_callbacks_wait(guest: Guest, way_out: str) -> None:
    """Demand 6. Nobody answers, and ``stop`` joins those who have asked."""

    def stop(value: Any) -> None:
        guest.stop(value)
        stopped.append(guest)

    stopped: list[Guest] = []
    with anyio.CancelScope() as scope:
        try:
            async with (
                dss.open_hub[Any]() as hub,
                hub.open_source(
                    "guest", lambda portal: guest.start(hub, portal), stop, stop_timeout=20
                ),
            ):
                await eventually(lambda: len(hub.blocked()) == guest.waiting, timeout=30)
                if way_out == "of a cancelled scope":
                    scope.cancel()
                    await anyio.sleep_forever()
                elif way_out == "of a body that raises":
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert scope.cancelled_caught == (way_out == "of a cancelled scope")
    assert stopped == [guest]
    counts = hub.statistics()
    guest.check(counts)
    assert (counts.requests.released, counts.requests.open) == (
        0 if isinstance(guest, Loudspeaker) else guest.waiting,
        0,
    )
    assert counts.sent == counts.undelivered == counts.requests.released
    assert counts.errors == 0
    assert hub.blocked() == []
