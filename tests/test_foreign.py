"""Real libraries whose threads call back as they like: each item is accounted for, all are stopped.

The guests below call back all the time, from the threads that are theirs: threads of C, of a
library's own pool, of whoever collects garbage. They count their calls themselves.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import gc
import http.client
import http.server
import logging
import math
import shutil
import subprocess
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.to_thread
import pytest
from conftest import WITHOUT_GIL

import dss_anyio as dss
from dss_anyio.testing import until

pytestmark = pytest.mark.anyio

# A thread of C gets a new thread state for each callback. Without the GIL, CPython 3.13 takes half
# a millisecond to make one.
BURST = 2_000 if WITHOUT_GIL else 50_000


# -- The C library ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def c_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    built = tmp_path_factory.mktemp("foreign") / "pool.so"
    source = Path(__file__).with_name("foreign") / "pool.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-pthread", "-o", built, source], check=True)
    library = ctypes.CDLL(str(built))
    library.pool_start.restype = ctypes.c_void_p
    library.pool_returned.restype = ctypes.c_long
    for function in ("pool_returned", "pool_join", "pool_stop", "pool_free"):
        getattr(library, function).argtypes = [ctypes.c_void_p]
    return library


_POOL_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)


class CPool:
    """Threads that C has made, and what they call."""

    def __init__(
        self,
        library: ctypes.CDLL,
        callback: Callable[[int, int], None],
        *,
        threads: int = 4,
        calls: int = -1,
        fresh: bool = False,
    ) -> None:
        self._library = library
        self._callback = _POOL_CALLBACK(callback)  # C calls it, so it must stay
        self._pool = library.pool_start(self._callback, threads, calls, int(fresh))

    @property
    def returned(self) -> int:
        """How many callbacks have returned."""
        return int(self._library.pool_returned(self._pool))

    def join(self) -> int:
        """Wait until all calls were made; return how many."""
        self._library.pool_join(self._pool)
        return self._free()

    def stop(self) -> int:
        """Wait for the calls that are being made; return how many there were."""
        self._library.pool_stop(self._pool)
        return self._free()

    def _free(self) -> int:
        returned = self.returned
        self._library.pool_free(self._pool)
        return returned


def number_in_order(received: list[Any]) -> dict[int, int]:
    """How many items each thread of a pool has sent; they came in its order, without a gap."""
    following: Counter[int] = Counter()
    for thread, number in received:
        assert number == following[thread]
        following[thread] += 1
    return dict(following)


@pytest.mark.parametrize(("threads", "calls", "fresh"), [(4, BURST // 4, False), (2, 1500, True)])
async def test_a_burst_of_callbacks_arrives_whole_and_in_order(
    c_library: ctypes.CDLL, threads: int, calls: int, fresh: bool
) -> None:
    """*fresh*: each call from a thread that never called before, and never will again."""

    def start(portal: dss.Portal[Any]) -> CPool:
        return CPool(c_library, portal.send_callback(), threads=threads, calls=calls, fresh=fresh)

    received: list[tuple[int, int]] = []
    async with (
        dss.open_hub[Any](math.inf) as hub,
        hub.open_source("pool", start, lambda pool: returned.append(pool.join())),
    ):
        returned: list[int] = []
        async for item in hub:
            received.append(item)
            if len(received) == threads * calls:
                break
    assert number_in_order(received) == dict.fromkeys(range(threads), calls)
    assert returned == [threads * calls]
    counts = hub.statistics()
    assert (counts.sent, counts.received, counts.late) == (threads * calls, threads * calls, 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
async def test_a_burst_that_nobody_can_follow_is_counted_to_the_last_item(
    c_library: ctypes.CDLL, overflow: Literal["block", "drop_oldest", "drop_newest"]
) -> None:
    """Demand 10. Overflow is normal, and nothing is unaccounted for."""

    def start(portal: dss.Portal[Any]) -> CPool:
        return CPool(c_library, portal.send_callback(), calls=BURST // 4)

    async def consume() -> None:
        while not hub.statistics().dropped:  # however slow the threads are: we are slower
            await anyio.sleep(0)
        async for item in hub:
            received.append(item)
            if len(received) % 500 == 0:
                await anyio.sleep(0)

    received: list[Any] = []
    undelivered: list[Any] = []
    async with dss.open_hub[Any](64, overflow=overflow) as hub:
        async with (
            anyio.create_task_group() as tasks,
            hub.open_source("pool", start, CPool.stop, on_undelivered=undelivered.append) as source,
        ):
            tasks.start_soon(consume)
            await anyio.to_thread.run_sync(
                until, lambda: source.value.returned == BURST, 60, abandon_on_cancel=True
            )
            tasks.cancel_scope.cancel()
    counts = hub.statistics()
    assert counts.sent == BURST
    assert counts.received == len(received) > 0
    assert counts.dropped > 0
    assert counts.dropped + counts.undelivered == len(undelivered)
    assert counts.queued == counts.late == counts.errors == 0
    assert len(set(received + undelivered)) == BURST


async def test_threads_of_c_may_block_until_there_is_room(c_library: ctypes.CDLL) -> None:
    def start(portal: dss.Portal[Any]) -> CPool:
        return CPool(c_library, lambda *item: portal.send(item), calls=1000)

    received: list[Any] = []
    async with (
        dss.open_hub[Any](8) as hub,
        hub.open_source("pool", start, CPool.join),
    ):
        while len(received) < 4000:
            received += await hub.receive_many()
    assert number_in_order(received) == dict.fromkeys(range(4), 1000)
    assert hub.statistics().sent == 4000


@pytest.mark.parametrize("ended", ["portal", "hub"])
async def test_callbacks_that_still_come_after_the_end_are_counted_as_late(
    c_library: ctypes.CDLL, ended: str
) -> None:
    undelivered: list[Any] = []
    async with dss.open_hub[Any](64) as hub:
        portal = hub.register("pool", on_undelivered=undelivered.append)
        pool = CPool(c_library, portal.send_callback())
        for _ in range(100):
            await hub.receive()
        if ended == "portal":
            portal.abort()
            await anyio.to_thread.run_sync(until, lambda: hub.statistics().late > 1000)
    until(lambda: hub.statistics().late > 2000)
    returned = pool.stop()
    counts = hub.statistics()
    assert counts.sent + counts.late == returned
    assert counts.received == 100
    assert counts.dropped + counts.undelivered == len(undelivered)
    assert counts.queued == counts.errors == 0


# -- Guests that call back until they are stopped --------------------------------------------------


class Guest:
    """A library that calls back all the time, from the start to the stop."""

    def __init__(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        self.path = tmp_path
        self.request = request
        self.calls: list[None] = []  # one for each callback; appending is one step
        self.refused: list[Exception] = []
        self.callback: Callable[..., None] = print
        self.stops = 0
        self.prepare()

    def prepare(self) -> None:
        """Import and build what is needed, or skip the test."""

    def start(self, portal: dss.Portal[Any]) -> Any:
        self.callback = portal.send_callback()
        return self.begin(portal)

    def stop(self, value: Any) -> None:
        self.end(value)
        self.stops += 1

    def begin(self, portal: dss.Portal[Any]) -> Any:
        raise NotImplementedError

    def end(self, value: Any) -> None:
        raise NotImplementedError

    def called(self, *item: Any) -> None:
        self.calls.append(None)
        self.callback(*item)

    def called_to_send(self, portal: dss.Portal[Any], item: Any) -> bool:
        """As ``called``, but wait until there is room."""
        self.calls.append(None)
        try:
            portal.send(item)
        except Exception as exc:
            self.refused.append(exc)
            return False
        return True


class Threads:
    """Threads that do something again and again until they are stopped."""

    def __init__(self, *work: Callable[[], object]) -> None:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(each,)) for each in work]
        for thread in self._threads:
            thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        while not self._stopping.is_set():
            work()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


class PooledThreadsOfC(Guest):
    fresh = False

    def prepare(self) -> None:
        self.library: ctypes.CDLL = self.request.getfixturevalue("c_library")

    def begin(self, portal: dss.Portal[Any]) -> CPool:
        return CPool(self.library, self.called, fresh=self.fresh)

    def end(self, value: CPool) -> None:
        assert value.stop() == len(self.calls)


class FreshThreadsOfC(PooledThreadsOfC):
    fresh = True


class BlockedThreadsOfC(PooledThreadsOfC):
    """Their stop joins threads that are blocked in ``send``."""

    def begin(self, portal: dss.Portal[Any]) -> CPool:
        return CPool(self.library, lambda *item: void(self.called_to_send(portal, item)))


def void(_: object) -> None:
    """C expects nothing."""


class Microphone(Guest):
    """miniaudio: a thread of C calls a generator for each buffer."""

    def prepare(self) -> None:
        self.miniaudio = pytest.importorskip("miniaudio")

    def begin(self, portal: dss.Portal[Any]) -> Any:
        def listen() -> Any:
            while True:
                data = yield
                self.called(bytes(data))

        device = self.miniaudio.CaptureDevice(
            backends=[self.miniaudio.Backend.NULL], buffersize_msec=5, sample_rate=8000, nchannels=1
        )
        generator = listen()
        next(generator)
        device.start(generator)
        return device

    def end(self, value: Any) -> None:
        value.close()


class Folder(Guest):
    """watchdog: a thread of Python's, which holds a lock while it calls."""

    def prepare(self) -> None:
        self.events = pytest.importorskip("watchdog.events")
        self.observers = pytest.importorskip("watchdog.observers")

    def begin(self, portal: dss.Portal[Any]) -> Any:
        handler = self.events.FileSystemEventHandler()
        handler.on_any_event = lambda event: self.called(event.event_type, event.src_path)
        observer = self.observers.Observer()
        observer.schedule(handler, str(self.path))
        observer.start()
        numbers = count()
        return observer, Threads(lambda: (self.path / str(next(numbers) % 50)).write_text("text"))

    def end(self, value: Any) -> None:
        observer, writer = value
        observer.stop()
        observer.join()
        writer.stop()


class Bus(Guest):
    """python-can: a thread of Python's reads a virtual bus."""

    def prepare(self) -> None:
        self.can = pytest.importorskip("can")

    def begin(self, portal: dss.Portal[Any]) -> Any:
        sender, receiver = (
            self.can.Bus(self.request.node.name, interface="virtual") for _ in range(2)
        )
        notifier = self.can.Notifier(receiver, [self.called], timeout=0.01)
        message = self.can.Message(arbitration_id=1, data=b"12345678")
        return notifier, Threads(lambda: sender.send(message)), (sender, receiver)

    def end(self, value: Any) -> None:
        notifier, threads, buses = value
        notifier.stop()
        threads.stop()
        for bus in buses:
            bus.shutdown()


class Log(Guest):
    """logging: any thread, with the handler's lock held."""

    def begin(self, portal: dss.Portal[Any]) -> Any:
        class Handler(logging.Handler):
            def emit(_, record: logging.LogRecord) -> None:
                self.called(record.getMessage())

        logger = logging.Logger(self.request.node.name)
        logger.addHandler(Handler())
        return Threads(*(lambda n=n: logger.info("from thread %d", n) for n in range(3)))

    def end(self, value: Any) -> None:
        value.stop()


class Futures(Guest):
    """concurrent.futures: the pool's threads, or the caller's if it is late."""

    def begin(self, portal: dss.Portal[Any]) -> Any:
        pool = concurrent.futures.ThreadPoolExecutor(2)
        waiting = threading.BoundedSemaphore(100)

        def called(future: concurrent.futures.Future[int]) -> None:
            self.called(future.result())
            waiting.release()

        def submit() -> None:
            waiting.acquire()
            pool.submit(int, "1").add_done_callback(called)

        return pool, Threads(submit)

    def end(self, value: Any) -> None:
        pool, submitters = value
        submitters.stop()
        pool.shutdown()


class Garbage(Guest):
    """weakref.finalize: whoever triggers the collector, in the midst of whatever it does."""

    def begin(self, portal: dss.Portal[Any]) -> Any:
        numbers = count()

        def litter() -> None:
            garbage = [_Litter() for _ in range(5)]
            for each in garbage:
                each.myself = each
                weakref.finalize(each, self.called, next(numbers)).atexit = False

        self.thresholds = gc.get_threshold()
        gc.set_threshold(20)
        return Threads(litter, litter)

    def end(self, value: Any) -> None:
        value.stop()
        gc.set_threshold(*self.thresholds)
        gc.collect()


class _Litter:
    myself: _Litter


class WebServer(Guest):
    """http.server: one thread for each request, which waits for room and then answers.

    The server's end joins those threads.
    """

    def begin(self, portal: dss.Portal[Any]) -> Any:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                accepted = self.called_to_send(portal, handler.path)
                handler.send_response(200 if accepted else 503)
                handler.end_headers()

            def log_message(handler, *_: Any) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = False

        server = Server(("127.0.0.1", 0), Handler)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        return server, serving, Threads(*[lambda: get(server.server_address, "/")] * 3)

    def end(self, value: Any) -> None:
        server, serving, clients = value
        clients.stop()
        server.shutdown()
        serving.join()
        server.server_close()


def get(address: Any, path: str) -> int:
    """Return the status of the answer."""
    connection = http.client.HTTPConnection(*address[:2])
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


GUESTS = [
    PooledThreadsOfC,
    FreshThreadsOfC,
    BlockedThreadsOfC,
    Microphone,
    Folder,
    Bus,
    Log,
    Futures,
    Garbage,
    WebServer,
]


@pytest.fixture(params=GUESTS, ids=lambda each: each.__name__)
def guest(request: pytest.FixtureRequest, tmp_path: Path) -> Guest:
    made: Guest = request.param(tmp_path, request)
    return made


@pytest.mark.parametrize("way_out", ["normally", "by cancellation", "by a crashed consumer"])
async def test_a_library_is_stopped_while_its_callbacks_come(guest: Guest, way_out: str) -> None:
    async def crash() -> None:
        await hub.receive()
        received.append(None)
        raise ZeroDivisionError

    def check_counts() -> None:
        counts = hub.statistics()
        assert counts.sent + counts.late + len(guest.refused) == len(guest.calls)
        assert counts.received == len(received)
        assert counts.dropped + counts.undelivered == len(undelivered)
        assert counts.queued == counts.errors == 0

    received: list[Any] = []
    undelivered: list[Any] = []
    with anyio.CancelScope() as scope:
        try:
            async with dss.open_hub[Any](16) as hub:
                async with hub.open_source(
                    "guest", guest.start, guest.stop, on_undelivered=undelivered.append
                ):
                    while len(received) < 20:
                        received.append(await hub.receive())
                    if way_out == "by cancellation":
                        scope.cancel()
                        await anyio.sleep_forever()
                    elif way_out == "by a crashed consumer":
                        hub.task_group.start_soon(crash)
                        await anyio.sleep_forever()
                assert guest.stops == 1
                check_counts()  # nothing is left for the end of the hub
        except BaseException as exc:
            if way_out != "by a crashed consumer":
                raise
            assert isinstance(exc.exceptions[0], ZeroDivisionError)  # type: ignore[attr-defined]
    assert scope.cancelled_caught == (way_out == "by cancellation")
    assert guest.stops == 1
    check_counts()
    assert {type(exc) for exc in guest.refused} <= {
        anyio.BrokenResourceError,
        anyio.ClosedResourceError,
    }

    counts = hub.statistics()
    guest.callback("after the end")
    assert hub.statistics() == counts._replace(late=counts.late + 1)


async def test_several_libraries_share_a_hub_and_are_stopped_newest_first(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    def stop(guest: Guest, value: Any) -> None:
        guest.stop(value)
        stopped.append(type(guest).__name__)

    stopped: list[str] = []
    guests: list[Guest] = [each(tmp_path, request) for each in (Log, Futures, Garbage)]
    received: list[Any] = []
    async with dss.open_hub[Any](64) as hub:
        for guest in guests:
            value: list[Any] = []
            portal = hub.register(
                type(guest).__name__,
                stop=lambda guest=guest, value=value: stop(guest, value[0]),
                decode=lambda item, guest=guest: (type(guest).__name__, item),
            )
            value.append(guest.start(portal))
        while len({name for name, _ in received}) < 3:
            received += await hub.receive_many()
        sources = hub.statistics().sources
    assert stopped == ["Garbage", "Futures", "Log"]
    assert list(sources) == ["Log", "Futures", "Garbage"]
    assert all(source.received > 0 for source in sources.values())
    counts = hub.statistics()
    assert counts.sent + counts.late == sum(len(guest.calls) for guest in guests)
    assert counts.received == len(received)
    assert counts.queued == counts.errors == 0


# -- One at a time: everything arrives -------------------------------------------------------------


async def test_every_buffer_of_a_microphone_arrives() -> None:
    miniaudio = pytest.importorskip("miniaudio")
    recorded: list[bytes] = []

    def start(portal: dss.Portal[bytes]) -> Any:
        def listen() -> Any:
            while True:
                data = bytes((yield))
                recorded.append(data)
                threads.add(type(threading.current_thread()).__name__)
                portal.offer(data)

        device = miniaudio.CaptureDevice(
            backends=[miniaudio.Backend.NULL], buffersize_msec=5, sample_rate=8000, nchannels=1
        )
        generator = listen()
        next(generator)
        device.start(generator)
        return device

    threads: set[str] = set()
    received: list[bytes] = []
    async with (
        dss.open_hub[bytes](math.inf) as hub,
        hub.open_source("microphone", start, lambda device: device.close()),
    ):
        async for data in hub:
            received.append(data)
            if len(received) == 30:
                break
    assert threads == {"_DummyThread"}
    assert received == recorded[:30]
    counts = hub.statistics()
    assert counts.received == 30
    assert counts.received + counts.undelivered == counts.sent <= len(recorded)


async def test_every_file_that_is_created_is_seen(tmp_path: Path) -> None:
    events = pytest.importorskip("watchdog.events")
    observers = pytest.importorskip("watchdog.observers")

    def start(portal: dss.Portal[str]) -> Any:
        handler = events.FileSystemEventHandler()
        handler.on_created = portal.send_callback(lambda event: event.src_path)
        observer = observers.Observer()
        observer.schedule(handler, str(tmp_path))
        observer.start()
        return observer

    def stop(observer: Any) -> None:
        observer.stop()
        observer.join()

    paths = [str(tmp_path / f"file {number}") for number in range(200)]
    received: list[Path] = []
    async with (
        dss.open_hub[Path]() as hub,
        hub.open_source("folder", start, stop, decode=Path),
    ):
        for path in paths:
            Path(path).touch()
        while len(received) < len(paths):
            received += await hub.receive_many()
    assert received == [Path(path) for path in paths]
    assert hub.statistics().received == len(paths)


async def test_every_message_on_a_bus_arrives_in_order(request: pytest.FixtureRequest) -> None:
    can = pytest.importorskip("can")

    def start(portal: dss.Portal[Any]) -> Any:
        return can.Notifier(receiver, [portal.send_callback()], timeout=0.01)

    sender, receiver = (can.Bus(request.node.name, interface="virtual") for _ in range(2))
    received: list[int] = []
    async with (
        dss.open_hub[int](math.inf) as hub,
        hub.open_source(
            "bus", start, lambda notifier: notifier.stop(), decode=lambda each: each.arbitration_id
        ),
    ):
        for number in range(2000):
            sender.send(can.Message(arbitration_id=number))
        while len(received) < 2000:
            received += await hub.receive_many()
    assert received == list(range(2000))
    for bus in (sender, receiver):
        bus.shutdown()


async def test_a_future_that_is_done_already_calls_back_on_the_loops_own_thread() -> None:
    """Demand 2. Sending there works; waiting there would be for ever, so it is refused."""

    def send(future: concurrent.futures.Future[Any]) -> None:
        threads.append(threading.current_thread())
        try:
            hub.portal.send("sent")
        except Exception as exc:
            errors.append(exc)

    threads: list[threading.Thread] = []
    errors: list[Exception] = []
    future: concurrent.futures.Future[str] = concurrent.futures.Future()
    future.set_result("result")
    async with dss.open_hub[Any](3) as hub:
        future.add_done_callback(hub.portal.send_callback(lambda each: each.result()))
        future.add_done_callback(lambda _: void(hub.portal.offer("offered")))
        future.add_done_callback(send)
        assert errors == []
        future.add_done_callback(send)
        future.add_done_callback(hub.portal.send_callback())
        assert await hub.receive_many() == ["result", "offered", "sent"]
        counts = hub.statistics()
    assert set(threads) == {threading.current_thread()}
    assert [type(error) for error in errors] == [RuntimeError]
    assert (counts.sent, counts.dropped) == (4, 1)


async def test_a_log_handler_may_send_whoever_logs() -> None:
    """Demand 13. The loop itself logs, threads do, and so does the library when a hook fails.

    All of them call the handler with its lock held.
    """

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hub.portal.offer(record.getMessage())

    def fail(item: object) -> None:
        raise ValueError("in decode")

    logger = logging.getLogger("dss_anyio")
    handler = Handler()
    propagates, logger.propagate = logger.propagate, False
    received: list[str] = []
    try:
        async with dss.open_hub[str](math.inf) as hub:
            logger.addHandler(handler)
            workers = [
                threading.Thread(
                    target=lambda n=n: [logger.error("%d of %d", m, n) for m in range(300)]
                )
                for n in range(3)
            ]
            for worker in workers:
                worker.start()
            for number in range(300):
                logger.error("loop %d", number)
                if number % 100 == 0:
                    hub.register(f"source {number}", decode=fail).send("item")
                    with pytest.raises(anyio.WouldBlock):
                        while True:
                            received.append(hub.receive_nowait())
            while (
                sum("error in source" in message for message in received) < 3
                or len(received) < 1203
            ):
                received.append(await hub.receive())
            for worker in workers:
                worker.join()
            assert len(hub) == 0
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
    assert len(received) == 1203
    for n in range(3):
        assert [m for m in received if m.endswith(f" of {n}")] == [
            f"{m} of {n}" for m in range(300)
        ]


async def test_every_finalizer_is_heard_whoever_it_has_interrupted() -> None:
    """With the collector at work after every few objects, in the loop's thread and in others."""

    def litter(name: str) -> None:
        for number in range(1000):
            garbage = _Litter()
            garbage.myself = garbage
            weakref.finalize(garbage, callback, name, number).atexit = False
            portal.send(name)

    thresholds = gc.get_threshold()
    gc.set_threshold(5)
    received: list[Any] = []
    try:
        async with dss.open_hub[Any](math.inf) as hub:
            portal, callback = hub.portal, hub.portal.send_callback()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.to_thread.run_sync, litter, "thread")
                litter("loop")
                while len(received) < 2000:
                    received += await hub.receive_many()
            gc.collect()
            while len(received) < 4000:
                received.append(await hub.receive())
    finally:
        gc.set_threshold(*thresholds)
    assert Counter(received) == {
        "loop": 1000,
        "thread": 1000,
        **{(name, number): 1 for name in ("loop", "thread") for number in range(1000)},
    }


async def test_requests_of_a_web_server_wait_for_room_and_all_are_answered() -> None:
    """Those that are still waiting when the server is stopped are answered as well: by an error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            try:
                hub.source("server").send(self.path)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, LookupError):
                self.send_response(503)
            else:
                self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = False  # so server_close() joins the threads that handle requests
        request_queue_size = 100  # or some clients would have to ask twice

    def start(portal: dss.Portal[str]) -> Any:
        server = Server(("127.0.0.1", 0), Handler)
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        return server, serving

    def stop(value: Any) -> None:
        server, serving = value
        server.shutdown()
        serving.join()
        server.server_close()

    def ask(path: str) -> None:
        statuses.append(get(server.server_address, path))

    statuses: list[int] = []
    asked: list[str] = []
    received: list[str] = []
    undelivered: list[str] = []
    async with anyio.create_task_group() as clients:
        async with (
            dss.open_hub[str](1) as hub,
            hub.open_source("server", start, stop, on_undelivered=undelivered.append) as source,
        ):
            server, _ = source.value
            for number in range(30):
                clients.start_soon(anyio.to_thread.run_sync, ask, f"/{number}")
            while len(received) < 20:
                received.append(await hub.receive())
            await anyio.to_thread.run_sync(
                until, lambda: len(asked) == 30 and len(hub.blocked()) == 9
            )
    assert sorted(statuses) == [200] * 21 + [503] * 9
    assert len(undelivered) == 1
    assert len(set(received + undelivered)) == 21
    counts = hub.statistics()
    assert (counts.received, counts.undelivered, counts.dropped) == (20, 1, 0)
