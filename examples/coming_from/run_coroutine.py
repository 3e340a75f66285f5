"""A thread asks, and times out: with asyncio.run_coroutine_threadsafe, then with a hub."""

import asyncio
import concurrent.futures
import threading

import anyio

import dss_anyio as dss


async def handle(number: int) -> int:
    try:
        await anyio.sleep(0.3)
    except BaseException:
        print("the handler is cancelled")
        raise
    print("the handler went on to its end")
    return 2 * number


async def before() -> None:
    loop = asyncio.get_running_loop()

    def ask() -> None:
        try:
            print(asyncio.run_coroutine_threadsafe(handle(21), loop).result(timeout=0.1))
        except concurrent.futures.TimeoutError:  # from 3.11 on, the built-in one
            print("no answer in time")

    await asyncio.to_thread(ask)
    await asyncio.sleep(0.5)


async def after() -> None:
    def ask(portal: dss.Portal[int]) -> None:
        with portal:
            try:
                print(portal.request(21, timeout=0.1))
            except TimeoutError:
                print("no answer in time")

    async with dss.open_hub[int]() as hub:
        threading.Thread(target=ask, args=[hub.portal]).start()
        await hub.serve(handle)


asyncio.run(before())
anyio.run(after)
