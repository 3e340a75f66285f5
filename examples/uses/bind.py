"""Bind a library that calls back on its own threads: change the five lines marked YOURS.

By hand, ``call_soon_threadsafe()`` raises once the loop is closed, and ends the pool's thread.
"""

import sys
from functools import partial
from multiprocessing.pool import ThreadPool  # YOURS: import it
from typing import Any

import anyio

import dss_anyio as dss


def start(portal: dss.Portal[Any]) -> Any:
    """Called in a worker thread, so it may block. Its return value is passed to ``stop``."""
    callback = portal.send_callback()  # never waits, never raises
    library = ThreadPool(1)  # YOURS: make it
    square = partial(library.apply_async, pow, callback=callback)  # YOURS: hand it the callback
    for number in (1, 2, 3):
        square([number, 2])  # YOURS: start it
    return library


def stop(library: Any) -> None:
    """Called in a worker thread at the end of the block, however the block ends."""
    library.terminate()  # YOURS: stop it
    print("the library is stopped")


async def main() -> None:
    async with dss.open_hub[Any]() as hub, hub.open_source("pool", start, stop):
        async for item in hub:
            print("received", item)
            if item == 9:
                break  # or return, raise, be cancelled


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
