"""Send from a signal handler and from a finalizer: offer() may be called at any bytecode."""

import signal
import sys
import weakref

import anyio

import dss_anyio as dss


class Resource:
    pass


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        signal.signal(signal.SIGUSR1, lambda *_: hub.portal.offer("a signal came"))
        signal.raise_signal(signal.SIGUSR1)
        print(await hub.receive())
        resource = Resource()
        weakref.finalize(resource, hub.portal.offer, "a resource is gone")
        del resource
        print(await hub.receive())


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
