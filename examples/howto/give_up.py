"""Three ways to abandon a request. Each cancels the handler that works on it."""

import sys
import threading
from collections.abc import Callable

import anyio

import dss_anyio as dss

working = threading.Event()


async def handle(question: str) -> None:
    working.set()
    try:
        await anyio.sleep_forever()
    finally:
        print("nobody waits any more:", question)


def give_up_after_a_time(portal: dss.Portal[str]) -> None:
    try:
        portal.request("in a thread", timeout=0.5)
    except TimeoutError:
        pass


def cancel_a_future(portal: dss.Portal[str]) -> None:
    future = portal.request_soon("by a future")
    working.wait()
    future.cancel()


async def cancel_a_task(portal: dss.Portal[str]) -> None:
    with anyio.move_on_after(0.5):
        await portal.arequest("in an event loop")


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        ways: list[Callable[[dss.Portal[str]], None]] = [give_up_after_a_time, cancel_a_future]
        for way in ways:
            working.clear()
            await anyio.to_thread.run_sync(way, hub.portal)
        await cancel_a_task(hub.portal)
    print("given up:", hub.statistics().requests.abandoned)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
