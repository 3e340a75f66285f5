"""End at once, or receive the queued items first."""

import sys

import anyio

import dss_anyio as dss


async def at_once() -> None:
    async with dss.open_hub[str]() as hub:
        portal = hub.register(
            "library",
            stop=lambda: print("the library is stopped"),
            on_undelivered=lambda item: print("handed back:", item),
        )
        portal.send("one")
        portal.send("two")
        print("received", await hub.receive())


async def gracefully() -> None:
    async with dss.open_hub[str]() as hub:
        hub.portal.send("one")
        hub.portal.send("two")
        hub.close_senders()
        print("accepted:", hub.portal.offer("three"))
        async for item in hub:
            print("received", item)


async def main() -> None:
    await at_once()
    await gracefully()


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
