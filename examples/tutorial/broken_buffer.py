"""Broken: the item refers to a buffer that the library writes again."""

import sys
from typing import Any

import anyio
from radio import ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


def start(portal: dss.Portal[Any]) -> Radio:
    return Radio(ON_TELEGRAM(portal.send_callback()))  # the item is the tuple of the arguments


async def main() -> None:
    async with dss.open_hub[Any]() as hub, hub.open_source("radio", start, Radio.close):
        while len(hub) < 3:  # the loop has something else to do
            await anyio.sleep(0.01)
        for user, data, size in await hub.receive_many():
            print("received", text_of(user, data, size))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
