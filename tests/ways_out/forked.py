"""Fork while a hub is open. Arguments: where the fork happens, the backend.

The child's hub is dead from the start. The parent does not notice: it goes on receiving.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import anyio
from crowd import BLOCKED, MOST_SECONDS, Crowd, run, say, what_is_accepted

import dss_anyio as dss

# Python 3.12 and later warn of it, whether or not what the child does is harmless.
warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
crowd = Crowd()


def check(hub: dss.Hub[Any] | dss.PolledHub[Any], portals: list[dss.Portal[Any]]) -> None:
    """In the child: everything fails at once, and a hub of its own works."""
    signal.alarm(MOST_SECONDS)  # the parent's is not inherited
    late = hub.statistics().late
    for portal in portals:
        say(f"in the child {what_is_accepted(portal)} is accepted")
    say(f"in the child {hub.statistics().late - late} late calls, {len(hub.blocked())} blocked")
    with dss.open_polled_hub[str]() as own:
        thread = threading.Thread(target=own.portal.send, args=("item",))
        thread.start()
        own.wait()
        say(f"in the child a new hub receives {own.poll()}")
        thread.join()


def fork(in_child: Callable[[], None]) -> int:
    """Fork; in the parent, return the child's exit status."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            in_child()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def what(item: Any) -> Any:
    """What was sent or asked. A request is forgotten, so its asker goes on."""
    return item.item if isinstance(item, dss.Request) else item


async def go_on(hub: dss.Hub[Any]) -> None:
    """In the parent: those who were blocked are let in one after the other, again and again."""
    start = hub.statistics().received
    seen: set[Any] = set()
    while len(seen) < BLOCKED + 2 or hub.statistics().received < start + 1000:
        seen.update(map(what, await hub.receive_many()))
    say(f"the parent receives from {len(seen)} threads")


async def in_the_loop_thread() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        portals = [hub.portal, hub.source("registered")]
        hub.register("library", cancel=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        say(f"status {fork(lambda: check(hub, portals))}")
        await go_on(hub)


async def in_the_loop_thread_and_leaving_the_block() -> None:
    """Only trio still runs in the child. Asyncio says there that it has no running loop."""
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        hub.register("library", cancel=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        pid = os.fork()
        if pid:
            say(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            await go_on(hub)
        else:
            check(hub, [hub.portal])
    if not pid:
        say("in the child the block was left")
        os._exit(0)


async def in_another_thread() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        portals = [hub.portal, hub.source("registered")]
        hub.register("library", cancel=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        status = await anyio.to_thread.run_sync(fork, lambda: check(hub, portals))
        say(f"status {status}")
        await go_on(hub)


async def with_multiprocessing() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        portals = [hub.portal, hub.source("registered")]
        hub.register("library", cancel=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        process = multiprocessing.get_context("fork").Process(target=check, args=(hub, portals))
        process.start()
        await anyio.to_thread.run_sync(process.join)
        say(f"status {process.exitcode}")
        process.close()
        await go_on(hub)


def with_a_polled_hub() -> None:
    """The child leaves the block and the program, as the parent does."""
    with dss.open_polled_hub[Any](4) as hub:
        hub.fileno()
        crowd.surround_polled(hub)
        hub.register("library", cancel=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        pid = os.fork()
        if pid:
            say(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            seen: set[Any] = set()
            while len(seen) < BLOCKED + 2 or hub.statistics().received < 1000:
                hub.wait()
                seen.update(map(what, hub.poll()))
            say(f"the parent receives from {len(seen)} threads")
        else:
            check(hub, [hub.portal, hub.source("registered")])
    if not pid:
        sys.exit(0)


parent = os.getpid()
if sys.argv[1] == "with_a_polled_hub":
    with_a_polled_hub()
else:
    run(sys.argv[2], globals()[sys.argv[1]])
crowd.see_off()
say("over")
