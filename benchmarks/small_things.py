"""What is not throughput: delays, wakes, memory, opening and closing, being idle, threads of C."""

from __future__ import annotations

import asyncio
import ctypes
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


# -- offer() while the receiver is busy ------------------------------------------------------------


async def measure_offer(contender: str, many: int) -> list[float]:
    """Seconds inside each ``offer()``, less what reading the clock takes, while the loop hangs."""
    clock = time.perf_counter
    seconds: list[float] = []

    def run() -> None:
        overhead = []
        for _ in range(many):
            begun = clock()
            overhead.append(clock() - begun)
        nothing = statistics.median(overhead)
        offer = hub.portal.offer
        for number in range(many):
            begun = clock()
            offer(number)
            seconds.append(clock() - begun - nothing)
        done.set()

    done = threading.Event()
    async with dss.open_hub[int](math.inf if contender == "unbounded" else many) as hub:
        threading.Thread(target=run).start()
        done.wait()
    return seconds


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
