"""End the main thread, and so Python, while a hub is open. Arguments: the way out, the backend.

Python first joins the threads that are no daemons: three of those that are blocked in ``send``.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Any

import anyio
from crowd import Crowd, run, say

import dss_anyio as dss

crowd = Crowd()
kept: list[Any] = []  # so that no destructor comes before Python joins the threads


def with_an_open_polled_hub() -> None:
    hub = dss.open_polled_hub[str](4)
    kept.append(hub)
    hub.register("library", cancel=lambda: say("the library is stopped"))
    crowd.surround_polled(hub)


def with_an_open_polled_hub_of_an_ended_thread() -> None:
    thread = threading.Thread(target=with_an_open_polled_hub)
    thread.start()
    thread.join()


def with_a_loop_in_a_daemon_thread() -> None:
    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", cancel=lambda: say("the library is stopped"))
            await crowd.surround(hub)
            ready.set()
            await anyio.sleep_forever()

    ready = threading.Event()
    threading.Thread(target=run, args=(sys.argv[2], serve), daemon=True).start()
    ready.wait()


def with_a_busy_loop_in_a_daemon_thread() -> None:
    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            crowd.come(hub)
            with suppress(anyio.ClosedResourceError):  # if it still runs when the hub is ended
                async for _ in hub:
                    if hub.statistics().received > 1000:
                        ready.set()

    ready = threading.Event()
    threading.Thread(target=run, args=(sys.argv[2], serve), daemon=True).start()
    ready.wait()


def with_a_loop_in_a_thread_that_ends_by_itself() -> None:
    """Python joins this thread, so its hub is not ended: it still receives what is sent."""

    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", cancel=lambda: say("the library is stopped"))
            await crowd.surround(hub)
            ready.set()
            while main_thread.is_alive():
                await anyio.sleep(0.001)
            say(f"received after the main thread has ended: {len(await hub.receive_many())}")

    main_thread = threading.main_thread()
    ready = threading.Event()
    threading.Thread(target=run, args=(sys.argv[2], serve)).start()
    ready.wait()


def with_a_stopped_loop() -> None:
    """The loop was stopped, but neither resumed nor closed."""

    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            loop.call_soon(loop.stop)
            await asyncio.sleep(3600)

    loop = asyncio.new_event_loop()
    kept.extend([loop, loop.create_task(serve())])
    loop.run_forever()


globals()[sys.argv[1]]()
say("over")
