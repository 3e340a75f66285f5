"""The same with a hub: it releases the threads that ask, then shuts the pool down in a thread.

By hand, leaving ``with ThreadPoolExecutor()`` in a coroutine waits for threads that wait for it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[str], name: str) -> None:
    try:
        print("the answer is", portal.request(name))
    except anyio.ClosedResourceError:
        print(f"no answer for {name}, because the program ends")


async def main() -> None:
    asked = anyio.Event()

    async def look_up(name: str) -> str:
        if name == "nobody":
            asked.set()
            await anyio.sleep_forever()
        await anyio.sleep(0.1)
        return name.title()

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, look_up)
        async with hub.open_source(
            "pool", lambda _: ThreadPoolExecutor(1), ThreadPoolExecutor.shutdown
        ) as source:
            for name in ("ada", "nobody"):  # one after the other
                source.value.submit(work, source.portal, name)
            await asked.wait()
            print("leaving the block")
        print("the pool is shut down")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
