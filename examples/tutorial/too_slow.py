"""The library is faster than the program: what each overflow policy does."""

import sys
from functools import partial

import anyio
from radio import ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


def start(portal: dss.Portal[str]) -> Radio:
    return Radio(ON_TELEGRAM(portal.send_callback(text_of)), telegrams=10, pause=10)


async def main() -> None:
    for policy in ("block", "drop_oldest", "drop_newest"):
        back: list[str] = []
        async with dss.open_hub[str](3, overflow=policy) as hub:
            source = partial(hub.open_source, "radio", start, Radio.close)
            async with source(on_undelivered=back.append):
                while hub.statistics().sent < 10:  # meanwhile the loop does not receive
                    await anyio.sleep(0.01)
                received = await hub.receive_many()
                counts = hub.statistics()
        print(f"{policy}: received", *(text[-1] for text in received), end=", ")
        print("dropped", *(text[-1] for text in back))
        print(f"sent {counts.sent} = received {counts.received} + dropped {counts.dropped}")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
