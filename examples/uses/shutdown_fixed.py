"""The same with a hub: whoever asks is released, then the pool is shut down, off the loop.

By hand, leaving ``with ThreadPoolExecutor()`` in a coroutine waits for threads that wait for it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import anyio

import dss_anyio as dss


async def look_up(name: str) -> str:
    await anyio.sleep(0.1 if name == "ada" else 3600)
    return name.title()


def work(portal: dss.Portal[str], name: str) -> None:
    try:
        print("the answer is", portal.request(name))
    except anyio.ClosedResourceError:
        print(f"no answer for {name}, because the program ends")


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, look_up)
        async with hub.open_source(
            "pool", lambda _: ThreadPoolExecutor(), ThreadPoolExecutor.shutdown
        ) as source:
            done = source.value.submit(work, source.portal, "ada")
            while not done.done():
                await anyio.sleep(0.01)
            source.value.submit(work, source.portal, "nobody")
            while not hub.blocked():
                await anyio.sleep(0.01)
            print("leaving the block")
        print("the pool is shut down")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
