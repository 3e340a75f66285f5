"""Stop while the library waits for an answer that would never come."""

import sys

import anyio
from radio import MAY_PASS, ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


def start(portal: dss.Portal[str]) -> Radio:
    ask = portal.request_callback(text_of, timeout=None, default=0, convert=int)
    return Radio(ON_TELEGRAM(lambda *_: print("passed")), MAY_PASS(ask))


def stop(radio: Radio) -> None:
    radio.close()
    print("the radio is closed")


async def main() -> None:
    async def handle(_: str) -> bool:
        await anyio.sleep_forever()
        return True

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("radio", start, stop):
            while not hub.blocked():
                await anyio.sleep(0.01)
            for call in hub.blocked():
                print(f"a thread waits in {call.call}() of {call.source}")
        print(hub.statistics().requests)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
