"""A library in C sends, an event loop receives."""

import ctypes
import sys
from typing import Any

import anyio
from radio import ON_TELEGRAM, Radio

import dss_anyio as dss


def pack(_: object, data: Any, size: int) -> str:
    """Called in the radio's thread, with the arguments of the callback. Makes the item."""
    return ctypes.string_at(data, size).decode()  # this copies the buffer


def start(portal: dss.Portal[str]) -> Radio:
    """Called in a worker thread, so it may block. Its return value is passed to stop."""
    return Radio(ON_TELEGRAM(portal.send_callback(pack)))


def stop(radio: Radio) -> None:
    """Called in a worker thread at the end of the block, however the block ends."""
    radio.close()
    print("the radio is closed")


async def main() -> None:
    async with dss.open_hub[str]() as hub, hub.open_source("radio", start, stop):
        async for telegram in hub:
            print("received", telegram)
            if telegram == "telegram 2":
                break


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
