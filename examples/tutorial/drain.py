"""Stop without losing anything: what the library sends while it stops is received."""

import sys

import anyio
from radio import ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


def start(portal: dss.Portal[str]) -> Radio:
    return Radio(ON_TELEGRAM(portal.send_callback(text_of)), telegrams=2)


def save(telegram: str) -> None:
    print("handed back:", telegram)


async def main() -> None:
    async with dss.open_hub[str]() as hub, anyio.create_task_group() as tasks:
        second = anyio.Event()

        async def receive() -> None:
            async for telegram in hub:
                print("received", telegram)
                if telegram == "telegram 1":
                    second.set()
            print("that was all")

        tasks.start_soon(receive)
        async with hub.open_source("radio", start, Radio.close, drain=True, on_undelivered=save):
            await second.wait()
        hub.close_senders()  # nothing comes any more: receive() ends after the last telegram
    print("came too late:", hub.statistics().late)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
