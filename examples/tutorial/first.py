"""A thread sends, an event loop receives."""

import sys
import threading

import anyio

import dss_anyio as dss


async def main() -> None:
    async with dss.open_hub[int]() as hub:

        def work() -> None:
            for number in range(3):
                hub.portal.send(number)
            hub.portal.close()

        threading.Thread(target=work).start()
        async for number in hub:
            print("received", number)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
