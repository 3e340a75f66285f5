"""Three tasks receive from one hub; each item goes to one of them."""

import sys
import threading

import anyio

import dss_anyio as dss

done: list[int] = []


async def worker(receiver: dss.Receiver[int]) -> None:
    with receiver:
        async for number in receiver:
            await anyio.sleep(0.01)  # the work
            done.append(number)


def produce(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send_many(range(9))


async def main() -> None:
    async with dss.open_hub[int]() as hub:
        threading.Thread(target=produce, args=[hub.portal]).start()
        async with anyio.create_task_group() as workers:
            for _ in range(3):
                workers.start_soon(worker, hub.clone())
        print(sorted(done))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
