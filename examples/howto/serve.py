"""A handler answers; the thread that asked gets the answer, or the handler's exception."""

import sys
import threading

import anyio

import dss_anyio as dss

NAMES = {"ada": "Ada Lovelace", "alan": "Alan Turing"}


async def look_up(name: str) -> str:
    await anyio.sleep(0.01)
    return NAMES[name]


def work(portal: dss.Portal[str]) -> None:
    with portal:
        for name in ("ada", "alan", "nobody"):
            try:
                print(name, "is", portal.request(name, timeout=10))
            except KeyError as exc:
                print("not known:", exc)


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        threading.Thread(target=work, args=[hub.portal]).start()
        await hub.serve(look_up)  # until the last portal has been closed


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
