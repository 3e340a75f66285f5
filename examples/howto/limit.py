"""At most two handlers at a time, however many threads ask."""

import sys
import threading

import anyio

import dss_anyio as dss

running = 0


async def handle(_: int) -> int:
    global running  # noqa: PLW0603  # handlers run in the hub's thread only
    running += 1
    await anyio.sleep(0.05)
    most = running
    running -= 1
    return most


async def main() -> None:
    at_once: list[int] = []
    async with dss.open_hub[int]() as hub:

        def work(portal: dss.Portal[int]) -> None:
            with portal:
                at_once.append(portal.request(0))

        for _ in range(6):
            threading.Thread(target=work, args=[hub.portal.clone()]).start()
        hub.portal.close()
        await hub.serve(handle, max_concurrency=2)
    print(f"{len(at_once)} answers, at most {max(at_once)} handlers at a time")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
