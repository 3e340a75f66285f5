"""Receive all queued items at once."""

import sys
import threading

import anyio

import dss_anyio as dss


def produce(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send_many(range(1000))


async def main() -> None:
    async with dss.open_hub[int]() as hub:
        thread = threading.Thread(target=produce, args=[hub.portal])
        thread.start()
        thread.join()
        try:
            while True:
                batch = await hub.receive_many(max_items=400)
                print(len(batch), "items, the last is", batch[-1])
        except anyio.EndOfStream:
            print("that was all")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
