"""Keep requests, and answer them later: in any order, from any thread."""

import sys
import threading

import anyio

import dss_anyio as dss


async def main() -> None:
    async with dss.open_hub() as hub:
        # Futures of concurrent.futures. This never waits, so it works in this thread, too.
        futures = [hub.portal.request_soon(number) for number in (1, 2)]

        one: dss.Request[int] = await hub.receive()
        two: dss.Request[int] = await hub.receive()
        print("the first to answer counts:", two.reply("two"), two.reply("zwei"))
        threading.Timer(0.1, one.reply, ["one"]).start()

        for future in reversed(futures):
            print(await anyio.to_thread.run_sync(future.result))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
