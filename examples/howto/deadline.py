"""Ask with a deadline while many items are queued: a call does not wait in the queue."""

import sys
import threading

import anyio

import dss_anyio as dss

prices = {"tea": 3}
cancelled = threading.Event()


async def price(name: str) -> int:
    return prices[name]


async def slow() -> None:
    try:
        await anyio.sleep_forever()
    finally:
        cancelled.set()


def work(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send_many(range(1000))  # nobody has received them yet
        try:
            portal.request(1000, timeout=0.2)
        except TimeoutError:
            print("the request was still queued")
        print("tea costs", portal.call_within(5, price, "tea"))
        try:
            portal.call_within(0.2, slow)
        except TimeoutError as exc:
            print(exc)
            cancelled.wait()  # the task was cancelled as well


async def main() -> None:
    async with dss.open_hub[int](1000, overflow="block") as hub:
        thread = threading.Thread(target=work, args=[hub.register("worker")])
        thread.start()
        await anyio.to_thread.run_sync(thread.join)  # nothing is received meanwhile


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
