"""Items from threads into an event loop: ours, everybody else's, and the floor.

A contender is a class with ``open(size)``, an async context manager for something with ``send_all``
(in each of the sending threads) and ``receive_all`` (in the event loop). What cannot be bounded is
opened with ``math.inf`` only.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, NamedTuple

import anyio
import anyio.from_thread
import anyio.lowlevel

import dss_anyio as dss

LOT = 100  # items that are sent at once, where that can be done


class Way(NamedTuple):
    send_all: Callable[[range], object]  # called in each of the sending threads
    receive_all: Callable[[int], Awaitable[object]]  # in the event loop, with the number of items


Contender = Callable[[float], AbstractAsyncContextManager[Way]]


# -- Ours ------------------------------------------------------------------------------------------


async def _iterate(hub: dss.Hub[Any], many: int) -> None:
    async for _ in hub:
        many -= 1
        if not many:
            return


async def _receive_many(hub: dss.Hub[Any], many: int) -> None:
    while many:
        many -= len(await hub.receive_many())


def _sender(portal: dss.Portal[Any], size: float) -> Callable[[range], object]:
    send = portal.send_nowait if size == math.inf else portal.send

    def send_all(numbers: range) -> None:
        for number in numbers:
            send(number)

    return send_all


@asynccontextmanager
async def hub(size: float) -> AsyncIterator[Way]:
    async with dss.open_hub[Any](size) as hub:
        yield Way(_sender(hub.portal, size), lambda many: _iterate(hub, many))


@asynccontextmanager
async def hub_receive(size: float) -> AsyncIterator[Way]:
    async def receive_all(many: int) -> None:
        for _ in range(many):
            await hub.receive()

    async with dss.open_hub[Any](size) as hub:
        yield Way(_sender(hub.portal, size), receive_all)


@asynccontextmanager
async def hub_batches(size: float) -> AsyncIterator[Way]:
    async with dss.open_hub[Any](size) as hub:
        yield Way(_sender(hub.portal, size), lambda many: _receive_many(hub, many))


@asynccontextmanager
async def hub_lots(size: float) -> AsyncIterator[Way]:
    def send_all(numbers: range) -> None:
        send_many = hub.portal.send_many
        for start in range(0, len(numbers), LOT):
            send_many(numbers[start : start + LOT])

    async with dss.open_hub[Any](size) as hub:
        yield Way(send_all, lambda many: _receive_many(hub, many))


@asynccontextmanager
async def hub_source(size: float) -> AsyncIterator[Way]:
    """Through the portal of a registered source, which keeps its items apart."""
    async with dss.open_hub[Any](size) as hub:
        yield Way(_sender(hub.register("source"), size), lambda many: _iterate(hub, many))


@asynccontextmanager
async def hub_serve(size: float) -> AsyncIterator[Way]:
    async with dss.open_hub[Any](size) as hub:

        async def receive_all(many: int) -> None:
            numbers = iter(range(many - 1))

            def handle(_: object) -> None:
                if next(numbers, None) is None:
                    hub.close_senders()

            await hub.serve(handle)

        yield Way(_sender(hub.portal, size), receive_all)


# -- Libraries that have queues with a blocking and an async side ----------------------------------


def _putter(put: Callable[[Any], object]) -> Callable[[range], object]:
    def send_all(numbers: range) -> None:
        for number in numbers:
            put(number)

    return send_all


def _getter(get: Callable[[], Awaitable[Any]]) -> Callable[[int], Awaitable[object]]:
    async def receive_all(many: int) -> None:
        for _ in range(many):
            await get()

    return receive_all


@asynccontextmanager
async def aiologic(size: float) -> AsyncIterator[Way]:
    import aiologic

    queue: Any = aiologic.SimpleQueue() if size == math.inf else aiologic.Queue(int(size))
    yield Way(_putter(queue.green_put), _getter(queue.async_get))


@asynccontextmanager
async def culsans(size: float) -> AsyncIterator[Way]:
    import culsans

    queue: Any = culsans.Queue(0 if size == math.inf else int(size))
    yield Way(_putter(queue.sync_put), _getter(queue.async_get))
    queue.shutdown(immediate=True)


@asynccontextmanager
async def janus(size: float) -> AsyncIterator[Way]:
    import janus

    queue: Any = janus.Queue(0 if size == math.inf else int(size))
    yield Way(_putter(queue.sync_q.put), _getter(queue.async_q.get))
    await queue.aclose()


# -- The event loops' own means, and anyio's -------------------------------------------------------


@asynccontextmanager
async def loops_own(size: float) -> AsyncIterator[Way]:
    """``call_soon_threadsafe`` or ``run_sync_soon``, into the loop's own queue."""
    token = anyio.lowlevel.current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        call_soon, put, get = token.call_soon_threadsafe, waiting.put_nowait, waiting.get
    else:
        import trio

        sender, receiver = trio.open_memory_channel[Any](math.inf)
        call_soon, put, get = token.run_sync_soon, sender.send_nowait, receiver.receive  # type: ignore[attr-defined]

    def send_all(numbers: range) -> None:
        for number in numbers:
            call_soon(put, number)

    yield Way(send_all, _getter(get))


def _through_a_stream(
    wrap: Callable[[Callable[[Any], object]], Callable[[range], object]],
) -> AbstractAsyncContextManager[Way]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Way]:
        sender, receiver = anyio.create_memory_object_stream[Any](math.inf)
        with sender, receiver:
            yield Way(wrap(sender.send_nowait), _getter(receiver.receive))

    return opened()


@asynccontextmanager
async def blocking_portal(size: float) -> AsyncIterator[Way]:
    async with anyio.from_thread.BlockingPortal() as portal:
        async with _through_a_stream(
            lambda put: _putter(lambda item: portal.call(put, item))
        ) as way:
            yield way


@asynccontextmanager
async def blocking_portal_soon(size: float) -> AsyncIterator[Way]:
    async with anyio.from_thread.BlockingPortal() as portal:
        async with _through_a_stream(
            lambda put: _putter(lambda item: portal.start_task_soon(put, item))
        ) as way:
            yield way


@asynccontextmanager
async def anyio_token(size: float) -> AsyncIterator[Way]:
    token = anyio.lowlevel.current_token()
    run_sync = anyio.from_thread.run_sync
    async with _through_a_stream(
        lambda put: _putter(lambda item: run_sync(put, item, token=token))
    ) as way:
        yield way


CONTENDERS: dict[str, Contender] = {  # with what is compared side by side
    "hub, batches": hub_batches,
    "hub, lots": hub_lots,
    "hub": hub,
    "aiologic": aiologic,
    "hub.receive": hub_receive,
    "hub, source": hub_source,
    "hub.serve": hub_serve,
    "culsans": culsans,
    "janus": janus,
    "loop's own": loops_own,
    "BlockingPortal.call": blocking_portal,
    "BlockingPortal.start_task_soon": blocking_portal_soon,
    "anyio's token": anyio_token,
}


# -- How it is measured ----------------------------------------------------------------------------


async def measure(contender: str, size: float, senders: int, items: int) -> float:
    """Items per second, from the first send until all were received."""
    each = items // senders
    async with CONTENDERS[contender](size) as way:
        ready = threading.Barrier(senders + 1)

        def send() -> None:
            ready.wait()
            way.send_all(range(each))

        threads = [threading.Thread(target=send) for _ in range(senders)]
        for thread in threads:
            thread.start()
        ready.wait()
        begun = time.perf_counter()
        await way.receive_all(each * senders)
        seconds = time.perf_counter() - begun
        for thread in threads:
            thread.join()
    return each * senders / seconds


# -- Without an event loop: a polled hub, and the floor --------------------------------------------


def _floor(size: float) -> tuple[Callable[[range], object], Callable[[int], object]]:
    waiting: Any = queue.SimpleQueue() if size == math.inf else queue.Queue(int(size))

    def receive_all(many: int) -> None:
        get = waiting.get
        for _ in range(many):
            get()

    return _putter(waiting.put), receive_all


def _polled(size: float) -> tuple[Callable[[range], object], Callable[[int], object]]:
    polled = dss.open_polled_hub[Any](size)

    def receive_all(many: int) -> None:
        with polled:
            while many:
                polled.wait()
                many -= len(polled.poll())

    return _sender(polled.portal, size), receive_all


WITHOUT_LOOP = {"SimpleQueue": _floor, "polled hub": _polled}


def measure_without_loop(contender: str, size: float, senders: int, items: int) -> float:
    """As ``measure``; this thread receives."""
    each = items // senders
    send_all, receive_all = WITHOUT_LOOP[contender](size)
    ready = threading.Barrier(senders + 1)

    def send() -> None:
        ready.wait()
        send_all(range(each))

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    ready.wait()
    begun = time.perf_counter()
    receive_all(each * senders)
    seconds = time.perf_counter() - begun
    for thread in threads:
        thread.join()
    return each * senders / seconds
