"""The same with functions of C that are made of the prototypes: no code of yours in its thread."""

import sys

import anyio
from radio import MAY_PASS, ON_TELEGRAM, Radio

import dss_anyio as dss

Item = tuple[bytes]


def start(portal: dss.Portal[Item]) -> Radio:
    # Argument 1 is a buffer, as long as argument 2 says. The item is the tuple (data,).
    tell = portal.c_callback(ON_TELEGRAM, skip=(0, 2), buffers={1: 2})
    ask = portal.c_request_callback(
        MAY_PASS, skip=(0, 2), buffers={1: 2}, timeout=5, default=0, convert=int
    )
    return Radio(tell, ask)


async def main() -> None:
    async with (
        dss.open_hub[Item, Item | dss.Request[Item]]() as hub,
        hub.open_source("radio", start, Radio.close),
    ):
        async for event in hub:
            if isinstance(event, dss.Request):
                async with event:
                    (data,) = event.item
                    event.reply(data != b"telegram 1")
            else:
                (data,) = event
                print("received", data.decode())
                if data == b"telegram 2":
                    break


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
