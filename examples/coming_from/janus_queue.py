"""The receiving task fails while a thread sends: with a janus queue, then with a hub."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import anyio
import janus

import dss_anyio as dss


def produce(put: Callable[[int], None]) -> None:
    try:
        while True:
            put(1)
    except Exception as exc:
        print("the thread gets", type(exc).__name__)


async def consume(get: Callable[[], Awaitable[int]]) -> None:
    raise ValueError(f"cannot use {await get()}")


async def before() -> None:
    queue: janus.Queue[int] = janus.Queue(2)
    thread = threading.Thread(target=produce, args=[queue.sync_q.put])
    thread.start()
    try:
        await consume(queue.async_q.get)
    except ValueError as exc:
        print(exc)
    await asyncio.to_thread(thread.join, 0.5)
    print("the thread still waits:", thread.is_alive())
    await queue.aclose()  # you have to write this yourself


async def after() -> None:
    try:
        async with dss.open_hub[int](2) as hub:
            threading.Thread(target=produce, args=[hub.portal.send]).start()
            await consume(hub.receive)
    except ValueError as exc:
        print(exc)


asyncio.run(before())
anyio.run(after)
