"""The library asks, a coroutine answers: which telegrams are passed."""

import sys
from typing import Any, NamedTuple

import anyio
from radio import MAY_PASS, ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


class Telegram(NamedTuple):
    text: str


class MayPass(NamedTuple):
    text: str


def start(portal: dss.Portal[Telegram | MayPass]) -> Radio:
    def pack_telegram(*args: Any) -> Telegram:
        return Telegram(text_of(*args))

    def pack_question(*args: Any) -> MayPass:
        return MayPass(text_of(*args))

    tell = portal.send_callback(pack_telegram)
    ask = portal.request_callback(pack_question, timeout=5, default=0, convert=int)
    return Radio(ON_TELEGRAM(tell), MAY_PASS(ask))


async def main() -> None:
    last = anyio.Event()

    async def handle(event: Telegram | MayPass) -> bool | None:
        if isinstance(event, MayPass):
            await anyio.sleep(0.01)  # it may await anything
            return event.text != "telegram 1"
        print("received", event.text)
        if event.text == "telegram 2":
            last.set()
        return None

    async with dss.open_hub[Telegram | MayPass]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("radio", start, Radio.close):
            await last.wait()
        print(hub.statistics().requests.answered, "questions were answered")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
