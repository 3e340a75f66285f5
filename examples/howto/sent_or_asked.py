"""A hub that may be asked says so by its second type; one that is only served needs none."""

import sys
import threading

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send(1)
        print("the answer is", portal.request(21, timeout=10))


async def iterate() -> None:
    async with dss.open_hub[int, int | dss.Request[int]]() as hub:
        threading.Thread(target=work, args=[hub.portal]).start()
        async for entry in hub:
            if isinstance(entry, dss.Request):
                entry.reply(2 * entry.item)  # here entry is a Request[int]
            else:
                print("received", entry + 1)  # here it is an int


def double(number: int) -> int:
    return 2 * number


async def serve() -> None:
    async with dss.open_hub[int]() as hub:
        threading.Thread(target=work, args=[hub.portal]).start()
        await hub.serve(double)  # called with the int, sent or asked


async def main() -> None:
    await iterate()
    await serve()


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
