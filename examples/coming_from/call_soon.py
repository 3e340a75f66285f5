"""A thread sends more than an asyncio.Queue with call_soon_threadsafe, or a hub, can hold."""

import asyncio
import threading

import anyio

import dss_anyio as dss


async def before() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(
        lambda _, context: print("the loop gets", repr(context["exception"]))
    )
    queue: asyncio.Queue[int] = asyncio.Queue(2)

    def library() -> None:
        for item in range(4):
            loop.call_soon_threadsafe(queue.put_nowait, item)  # the caller gets no error

    thread = threading.Thread(target=library)
    thread.start()
    await asyncio.to_thread(thread.join)
    await asyncio.sleep(0)  # the thread has ended, but the loop may not have put anything yet
    while not queue.empty():
        print("received", await queue.get())


async def after() -> None:
    def library(portal: dss.Portal[int]) -> None:
        with portal:
            print("accepted:", [portal.offer(item) for item in range(4)])

    async with dss.open_hub[int](2) as hub:
        thread = threading.Thread(target=library, args=[hub.portal])
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        async for item in hub:
            print("received", item)


asyncio.run(before())
anyio.run(after)
