"""Send from a signal handler and from a finalizer."""

import signal
import sys
import weakref

import anyio

import dss_anyio as dss


class Resource:
    pass


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        offer = hub.portal.offer
        signal.signal(signal.SIGTERM, lambda *_: offer("a signal came"))
        signal.raise_signal(signal.SIGTERM)
        print(await hub.receive())

        resource = Resource()
        weakref.finalize(resource, offer, "a resource is gone")
        del resource
        print(await hub.receive())


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
