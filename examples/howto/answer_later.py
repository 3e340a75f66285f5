"""Keep requests, and answer them later: in any order, from any thread."""

import sys
import threading

import anyio

import dss_anyio as dss


async def main() -> None:
    async with dss.open_hub[int, dss.Request[int]]() as hub:
        # request_soon() returns a concurrent.futures.Future. It never waits, so the hub's own
        # thread may call it, too.
        futures = [hub.portal.request_soon(number) for number in (1, 2)]

        one = await hub.receive()
        two = await hub.receive()
        print("the first to answer counts:", two.reply("two"), two.reply("zwei"))
        threading.Timer(0.1, one.reply, ["one"]).start()

        for future in reversed(futures):
            print(await anyio.to_thread.run_sync(future.result))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
