"""What is not throughput.

Delays, wakes, memory, opening and closing, many portals, being idle, threads of C.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import math
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

import dss_anyio as dss

from .one_way import CONTENDERS

# -- One item into an idle loop, and into a busier and busier one ----------------------------------


async def measure_delay(contender: str, per_second: float, items: int) -> tuple[list[float], float]:
    """Seconds from a send to its reception, for items that are sent at a steady rate.

    With them, how often the loop was woken for each item (a hub's loop; else 0).

    An item is the moment at which it was due: so a sender that is late, or blocked, does not make
    its own delay look shorter ("coordinated omission", Tene 2013).
    """
    delays: list[float] = []
    clock = time.perf_counter
    if contender == "loop's own callback":
        await _measure_callback(delays, per_second, items)
        return delays, 0
    async with _into(contender) as (send, receive, wakes):

        def pace() -> None:
            _pace(send, per_second, items)

        thread = threading.Thread(target=pace)
        thread.start()
        while len(delays) < items:
            due = await receive()
            delays.append(clock() - due)
        thread.join()
        return delays, wakes() / items


def _pace(send: Callable[[float], object], per_second: float, items: int) -> None:
    clock = time.perf_counter
    due = clock() + 0.05
    for _ in range(items):
        left = due - clock()
        if left > 0.0005:
            time.sleep(left)
            due = clock()  # what the operating system has overslept is not the contender's delay
        else:
            while clock() < due:
                time.sleep(0)
        send(due)
        due += 1 / per_second


@asynccontextmanager
async def _into(
    contender: str,
) -> AsyncIterator[tuple[Callable[[float], Any], Any, Callable[[], int]]]:
    """What sends in a thread; what receives in the loop; how often that was woken."""
    if contender == "hub":
        async with dss.open_hub[float](math.inf) as hub:
            yield hub.portal.send_nowait, hub.__anext__, lambda: hub.statistics().wakes
    elif contender == "aiologic":
        import aiologic

        queue: Any = aiologic.SimpleQueue()
        yield queue.green_put, queue.async_get, int
    elif contender == "janus":
        import janus

        queue = janus.Queue()
        yield queue.sync_q.put, queue.async_q.get, int
        await queue.aclose()
    else:
        assert contender == "loop's own"
        token: Any = anyio.lowlevel.current_token().native_token
        if isinstance(token, asyncio.AbstractEventLoop):
            waiting: asyncio.Queue[float] = asyncio.Queue()
            yield partial(token.call_soon_threadsafe, waiting.put_nowait), waiting.get, int
        else:
            import trio

            sender, receiver = trio.open_memory_channel[float](math.inf)
            yield partial(token.run_sync_soon, sender.send_nowait), receiver.receive, int


async def _measure_callback(delays: list[float], per_second: float, items: int) -> None:
    """The bare ``call_soon_threadsafe`` or ``run_sync_soon``: a function is called, and no more."""
    token: Any = anyio.lowlevel.current_token().native_token
    call_soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon
    clock = time.perf_counter

    def record(sent: float) -> None:
        delays.append(clock() - sent)

    thread = threading.Thread(
        target=_pace, args=(lambda item: call_soon(record, item), per_second, items)
    )
    thread.start()
    while len(delays) < items:
        await anyio.sleep(0.05)
    thread.join()


# -- offer() and send_callback() while the receiver is busy ----------------------------------------


async def measure_offer(contender: str, many: int) -> list[float]:
    """Seconds inside each call, less what reading the clock takes.

    See ``_while_busy`` for what is called.
    """
    clock = time.perf_counter
    seconds: list[float] = []

    def call(send: Callable[[int], object]) -> None:
        overhead = []
        for _ in range(many):
            begun = clock()
            overhead.append(clock() - begun)
        nothing = statistics.median(overhead)
        for number in range(many):
            begun = clock()
            send(number)
            seconds.append(clock() - begun - nothing)

    await _while_busy(contender, many, call)
    return seconds


async def measure_offers(contender: str, lots: int) -> list[float]:
    """Seconds for one call: the mean of each thousand, less what the ``for`` around them takes.

    This is for ratios. Reading the clock around each call can take longer than the call.
    """
    clock = time.perf_counter
    seconds: list[float] = []

    def call(send: Callable[[int], object]) -> None:
        for lot in range(lots):
            numbers = range(lot * 1000, (lot + 1) * 1000)
            begun = clock()
            for number in numbers:
                send(number)
            sent = clock()
            for _ in numbers:
                pass
            seconds.append((sent - begun - (clock() - sent)) / 1000)

    await _while_busy(contender, lots * 1000, call)
    return seconds


async def _while_busy(
    contender: str, many: int, call: Callable[[Callable[[int], object]], None]
) -> None:
    """Run *call* in a thread while the event loop's thread is blocked.

    *call* is given ``portal.offer`` or a send callback, and sends *many* items with it, each as the
    only argument. The hub is unbounded, or has a place for each of these items.
    """

    def run() -> None:
        portal = hub.portal
        try:
            call(portal.send_callback() if contender.startswith("send_callback") else portal.offer)
        finally:
            done.set()

    done = threading.Event()
    async with dss.open_hub[int](math.inf if contender.endswith("unbounded") else many) as hub:
        threading.Thread(target=run).start()
        done.wait()
        assert len(hub) == many  # accepting an item is measured, not dropping it


# -- Wakes -----------------------------------------------------------------------------------------


async def measure_wakes(many: int) -> int:
    """How often a loop is woken for so many items that come while it is busy."""
    async with dss.open_hub[int](math.inf) as hub:
        done = threading.Event()

        def run() -> None:
            for number in range(many):
                hub.portal.send_nowait(number)
            done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hub.receive)
            await anyio.wait_all_tasks_blocked()
            threading.Thread(target=run).start()
            done.wait()
        return hub.statistics().wakes


def measure_datagrams(many: int) -> int:
    """How many datagrams a foreign loop gets for so many items that come between two polls."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.settimeout(0.2)
        with dss.open_polled_hub[int](math.inf, wake_address=foreign.getsockname()) as hub:
            thread = threading.Thread(target=lambda: hub.portal.send_many(range(many)))
            thread.start()
            for number in range(many):
                hub.portal.send_nowait(number)
            thread.join()
            datagrams = 0
            try:
                while True:
                    foreign.recv(65536)
                    datagrams += 1
            except TimeoutError:
                return datagrams


# -- Memory, life, idleness ------------------------------------------------------------------------


async def measure_memory(contender: str, many: int) -> float:
    """Bytes for each queued item, beyond the item."""
    item = object()
    async with CONTENDERS[contender](math.inf) as way:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        way.send_all([item] * many)  # type: ignore[arg-type]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await way.receive_all(many)
    return (after - before) / many


async def measure_life(contender: str, many: int) -> list[float]:
    """Seconds to open, take one item (a portal of anyio: nothing), and close."""

    async def hub() -> None:
        async with dss.open_hub() as hub:
            hub.portal.send_nowait(1)
            async for _ in hub:
                break

    async def portal() -> None:
        async with anyio.from_thread.BlockingPortal():
            pass

    async def task_group() -> None:
        async with anyio.create_task_group():
            pass

    lives: dict[str, Callable[[], Awaitable[None]]] = {
        "hub": hub,
        "BlockingPortal": portal,
        "task group": task_group,  # the most expensive part of either
    }
    live = lives[contender]
    seconds: list[float] = []
    for _ in range(many):
        begun = time.perf_counter()
        await live()
        seconds.append(time.perf_counter() - begun)
    return seconds


IN_A_BATCH = 200  # portals, sources or senders


async def measure_many_portals(contender: str, batches: int) -> list[float]:
    """Seconds for one portal, source or sender that comes or goes: the mean of each batch.

    "1st": before each batch the hub has no others. "10,000th": it has so many others that the last
    one of the batch is the 10,000th. Each batch ends before the next one, whose sources have new
    names. "register" is the beginning of a source alone, and "end" its end; "give up" is what a
    sender does that waits for room, the last one first.
    """
    what, _, place = contender.rpartition(", ")
    numbers = itertools.count()
    async with dss.open_hub[int](1) as hub:
        hub.portal.send_nowait(0)  # so there is no room

        def clone() -> Callable[[], object]:
            return hub.portal.clone().close

        def register() -> Callable[[], object]:
            return hub.register(f"source {next(numbers)}").close

        def wait_for_room() -> Callable[[], object]:
            return hub.portal.request_soon(0).cancel

        make = {"clone and close": clone, "give up": wait_for_room}.get(what, register)

        def one_batch() -> float:
            begun = time.perf_counter()
            endings = [make() for _ in range(IN_A_BATCH)]
            made = time.perf_counter()
            for end in reversed(endings):
                end()
            ended = time.perf_counter()
            since, until = {
                "clone and close": (begun, ended),
                "register": (begun, made),
            }.get(what, (made, ended))
            return (until - since) / IN_A_BATCH

        others = [make() for _ in range(0 if place == "1st" else 10_000 - IN_A_BATCH)]
        seconds = [one_batch() for _ in range(batches)]
        for end in reversed(others):
            end()
    return seconds


TOPICS = 1000


async def measure_latest(contender: str, senders: int, items: int) -> float:
    """Seconds for each item that is accepted where only the latest value counts.

    The program receives meanwhile. "sources": each of a thousand topics is a source with (1,
    "drop_oldest") of its own; "hub": all are sent to a hub that has this policy.
    """
    async with dss.open_hub[int](1, overflow="drop_oldest") as hub:
        offers = [hub.portal.offer] * TOPICS
        if contender == "sources":
            offers = [
                hub.register(f"topic {number}", max_buffer_size=1, overflow="drop_oldest").offer
                for number in range(TOPICS)
            ]

        def send() -> None:
            for number in range(items // senders // TOPICS):
                for offer in offers:
                    offer(number)

        def send_all() -> float:
            threads = [threading.Thread(target=send) for _ in range(senders)]
            begun = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return time.perf_counter() - begun

        async def receive() -> None:
            while True:
                await hub.receive_many()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            seconds = await anyio.to_thread.run_sync(send_all)
            tasks.cancel_scope.cancel()
        accepted = hub.statistics().sent
    return seconds / accepted


async def measure_idle(contender: str, sources: int, seconds: float) -> float:
    """The share of a processor that a hub uses which has nothing to do."""
    async with anyio.create_task_group() as tasks:
        if contender == "hub":
            async with dss.open_hub[int]() as hub:
                for number in range(sources):
                    hub.register(f"source {number}")
                tasks.start_soon(hub.receive)
                await anyio.wait_all_tasks_blocked()
                begun = time.process_time()
                await anyio.sleep(seconds)
                used = time.process_time() - begun
                tasks.cancel_scope.cancel()
        else:
            begun = time.process_time()
            await anyio.sleep(seconds)
            used = time.process_time() - begun
    return used / seconds


# -- Threads of C ----------------------------------------------------------------------------------


async def measure_native(contender: str, calls: int) -> float:
    """Calls per second by four threads of C; what they call is *contender*'s."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise LookupError("there is no C compiler")
    source = Path(__file__).parent.parent / "tests" / "foreign" / "pool.c"
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "pool.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", built, source]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(built))
    library.pool_start.restype = ctypes.c_void_p
    library.pool_join.argtypes = library.pool_free.argtypes = [ctypes.c_void_p]
    callback_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)

    async with dss.open_hub[Any](math.inf) as hub:

        def nothing(*_: int) -> None:
            pass

        callback = callback_type(
            hub.portal.send_callback() if contender == "hub" else nothing,
        )
        begun = time.perf_counter()
        pool = library.pool_start(callback, 4, calls // 4, 0)
        if contender == "hub":
            for _ in range(calls // 4 * 4):
                await hub.__anext__()
        await anyio.to_thread.run_sync(library.pool_join, pool)
        seconds = time.perf_counter() - begun
        library.pool_free(pool)
    return calls // 4 * 4 / seconds
