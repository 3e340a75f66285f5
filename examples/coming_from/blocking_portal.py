"""A function written for anyio's BlockingPortal; then the same program with items, not calls."""

import sys

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

import dss_anyio as dss


async def double(number: int) -> int:
    await anyio.sleep(0.01)
    return 2 * number


def client(portal: dss.BlockingPortalLike) -> None:  # either of them
    print(portal.call(double, 21), portal.start_task_soon(double, 22).result())


async def collect(received: list[object], item: object) -> None:
    received.append(item)


async def before() -> None:
    received: list[object] = []

    def library(portal: BlockingPortal) -> None:
        for item in range(100):
            portal.call(collect, received, item)  # a task and a round trip for each item

    async with BlockingPortal() as portal:
        await anyio.to_thread.run_sync(client, portal)
        await anyio.to_thread.run_sync(library, portal)
    print(len(received), "items")


async def after() -> None:
    def library(portal: dss.Portal[object]) -> None:
        with portal:
            for item in range(100):
                portal.send(item)  # waits only while 1024 items are queued

    async with dss.open_hub() as hub:
        await anyio.to_thread.run_sync(client, hub.portal)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, library, hub.portal)
            print(len([item async for item in hub]), "items")


backend = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
anyio.run(before, backend=backend)
anyio.run(after, backend=backend)

# In a program without async, the event loop runs in another thread.
with start_blocking_portal(backend) as portal:
    client(portal)
with dss.start_hub(backend=backend) as hub:
    client(hub.portal)
