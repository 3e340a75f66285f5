"""What becomes of the telegrams that nobody has received when the block ends."""

import sys

import anyio
from radio import ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


def start(portal: dss.Portal[str]) -> Radio:
    return Radio(ON_TELEGRAM(portal.send_callback(text_of)), telegrams=2)


def save(telegram: str) -> None:
    print("handed back:", telegram)


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        async with hub.open_source("radio", start, Radio.close, on_undelivered=save):
            print("received", await hub.receive())
            while len(hub) == 0:  # until the second one is queued
                await anyio.sleep(0.01)
        print("came too late:", hub.statistics().late)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
