"""An exception in a callback of a source does not end the stream."""

import sys

import anyio

import dss_anyio as dss


def on_error(error: BaseException, source: str | None) -> None:
    print(f"{source}: {error!r}")


async def main() -> None:
    async with dss.open_hub[int](on_error=on_error) as hub:
        portal = hub.register(
            "meter",
            decode=int,
            on_undelivered=lambda text: print("handed back:", text),
        )
        for text in ("17", "seventeen", "18"):
            portal.send(text)
        print("received", await hub.receive())
        print("received", await hub.receive())


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
