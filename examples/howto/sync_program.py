"""A program without async: the event loop with the hub runs in a thread of its own."""

import sys

import anyio

import dss_anyio as dss


async def handle(number: int) -> int:
    await anyio.sleep(0.01)
    return 2 * number


with dss.start_hub(backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio") as hub:
    print(hub.portal.call(handle, 21))

    hub.portal.start_task_soon(hub.serve, handle)
    print(hub.portal.request(22, timeout=10))
print(hub.portal.offer("an item"))
