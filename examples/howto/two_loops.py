"""Send from another event loop, of either backend, without blocking that loop."""

import threading

import anyio

import dss_anyio as dss


async def produce(portal: dss.Portal[int]) -> None:
    with portal:
        for number in range(5):
            await portal.asend(number)  # waits while the hub is full


async def main() -> None:
    async with dss.open_hub[int](1) as hub:

        def run_trio() -> None:
            anyio.run(produce, hub.portal, backend="trio")

        other_loop = threading.Thread(target=run_trio)
        other_loop.start()
        print([number async for number in hub])
        other_loop.join()


anyio.run(main, backend="asyncio")
