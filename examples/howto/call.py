"""Call functions in the event loop from a thread, with each method of a BlockingPortal."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

import dss_anyio as dss


async def double(number: int) -> int:
    await anyio.sleep(0.01)
    return 2 * number


async def listen(*, task_status: TaskStatus[str]) -> None:
    task_status.started("listening")
    await anyio.sleep_forever()


@asynccontextmanager
async def connect() -> AsyncGenerator[str, None]:
    print("connected")
    yield "a connection"
    print("disconnected")


def work(portal: dss.Portal[object]) -> None:
    print(portal.call(double, 21))  # a coroutine function runs in a task of the hub
    print(portal.call(int, "43"))  # any other function runs in the event loop itself

    future = portal.start_task_soon(double, 22)
    print(future.result())

    task, value = portal.start_task(listen)
    print(value)
    task.cancel()

    with portal.wrap_async_context_manager(connect()) as connection:
        print("using", connection)


async def main() -> None:
    async with dss.open_hub() as hub:
        await anyio.to_thread.run_sync(work, hub.portal)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
