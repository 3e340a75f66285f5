"""Why does this thread hang? And what happens to it when the hub ends?"""

import sys
import threading

import anyio

import dss_anyio as dss


def produce(portal: dss.Portal[str]) -> None:
    try:
        while True:
            portal.send("one more")
    except anyio.BrokenResourceError as exc:
        print("the thread goes home:", exc)


async def main() -> None:
    async with dss.open_hub[str](2) as hub:
        portal = hub.register("producer")
        thread = threading.Thread(target=produce, args=[portal], name="my thread")
        thread.start()
        while not hub.blocked():
            await anyio.sleep(0.01)
        for call in hub.blocked():
            print(f"{call.thread_name} waits in {call.call}() of {call.source}")
    thread.join()


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
