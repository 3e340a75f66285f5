"""Broken: a thread of a pool asks the event loop, and the loop waits for the pool. It hangs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor


async def look_up(name: str) -> str:
    await asyncio.sleep(0.1)
    return name.title()


async def main() -> None:
    loop = asyncio.get_running_loop()

    def work(name: str) -> None:
        answer = asyncio.run_coroutine_threadsafe(look_up(name), loop)
        print("the answer is", answer.result())

    with ThreadPoolExecutor() as pool:
        pool.submit(work, "ada")
        print("leaving the block", flush=True)
    print("it never comes here: the block waits for the thread, the thread for this loop")


asyncio.run(main())
