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
from crowd import BLOCKED, MOST_SECONDS, Crowd, run, say, wait_until, what_is_accepted

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
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        say(f"status {fork(lambda: check(hub, portals))}")
        await go_on(hub)


async def in_the_loop_thread_and_leaving_the_block() -> None:
    """The child goes no further: to leave ``trio.run`` would take the parent's wake away."""
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
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
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        status = await anyio.to_thread.run_sync(fork, lambda: check(hub, portals))
        say(f"status {status}")
        await go_on(hub)


async def with_multiprocessing() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        portals = [hub.portal, hub.source("registered")]
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
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
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
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


class BodyError(Exception):
    pass


async def in_the_loop_thread_and_raising_in_the_block() -> None:
    """What the body raises in the child is what leaves the block."""
    try:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
            hub.task_group.start_soon(anyio.sleep_forever)
            pid = os.fork()
            if not pid:
                check(hub, [hub.portal])
                raise BodyError
            say(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            await go_on(hub)
    except BodyError:
        os._exit(0)
    except BaseException as exc:
        if os.getpid() != parent:
            say(f"the block was left by {exc!r}")
            os._exit(1)
        raise


def with_start_hub() -> None:
    """The child leaves the block and the program, as the parent does."""
    options = {"use_uvloop": True} if sys.argv[2] == "uvloop" else {}
    backend = "trio" if sys.argv[2] == "trio" else "asyncio"
    with dss.start_hub(4, backend=backend, backend_options=options) as hub:
        hub.portal.call(crowd.surround, hub)
        hub.register("library", stop=lambda: say(f"library: stopped in {os.getpid() - parent}"))
        pid = os.fork()
        if pid:
            say(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
            hub.portal.call(go_on, hub)
        else:
            check(hub, [hub.portal, hub.source("registered")])
            with dss.start_hub(backend=backend, backend_options=options) as own:
                say(f"in the child a hub of its own calls: {own.portal.call(str, 1)}")
    if not pid:
        sys.exit(0)


# -- Forks in the middle of a call -----------------------------------------------------------------


def in_a_signal_handler_of_a_thread_that_is_blocked() -> None:
    """The child goes on in the call in which the signal has come. Argument: the call."""

    def handle_signal(*_: object) -> None:
        pid = os.fork()
        if pid:
            children.append(pid)
        else:
            signal.alarm(MOST_SECONDS)

    def poll_later() -> None:
        wait_until(hub.blocked)
        os.kill(parent, signal.SIGUSR1)
        wait_until(lambda: children)
        say(f"status {os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])}")
        feed.send_nowait("item")
        for item in hub.poll():
            if isinstance(item, dss.Request):
                item.reply("answer")

    children: list[int] = []
    signal.signal(signal.SIGUSR1, handle_signal)
    opened: list[dss.PolledHub[Any]] = []
    opening = threading.Thread(target=lambda: opened.append(dss.open_polled_hub[Any](1)))
    opening.start()
    opening.join()  # the main thread is not the hub's, so it may block
    [hub] = opened
    feed = hub.open_feed(1)
    if sys.argv[2].startswith("send"):
        hub.portal.send("no room")
    polling = threading.Thread(target=poll_later)
    polling.start()
    try:
        outcome: object = {
            "send": lambda: hub.portal.send("item"),
            "send_many": lambda: hub.portal.send_many(["item"]),
            "request": lambda: hub.portal.request("question"),
            "call": lambda: hub.portal.call(str),
            "feed.take": feed.take,
        }[sys.argv[2]]()
    except anyio.BrokenResourceError:
        outcome = "BrokenResourceError"
    if os.getpid() == parent:
        say(f"the parent goes on with {outcome!r}")
        polling.join()
        hub.close()
    else:
        say(f"the child goes on with {outcome!r}")
        os._exit(0)


def while_items_are_handed_back() -> None:
    """By the library itself. The child goes on with the end of the hub, and leaves it."""

    def fork_once(item: str) -> None:
        say(f"{item} is handed back in {os.getpid() - parent}")
        if item == "first":
            pids.append(os.fork())
            if pids[0]:
                say(f"status {os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1])}")

    pids: list[int] = []
    with dss.open_polled_hub[str](4) as hub:
        portal = hub.register("library", on_undelivered=fork_once)
        portal.send_many(["first", "second"])
    if not pids[0]:
        say("the child has left the block")
        sys.exit(0)


def without_closing_anything() -> None:
    """The child drops the parent's hubs, as it does at its exit, and is not told to close them."""
    hubs: list[Any] = [dss.start_hub(), dss.open_polled_hub[str]()]
    hubs.append(hubs[0].__enter__())
    pid = os.fork()
    if not pid:
        hubs.clear()
        sys.exit(0)
    say(f"status {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")
    hubs[0].__exit__(None, None, None)
    hubs[1].close()


parent = os.getpid()
if sys.argv[1] in {
    "with_a_polled_hub",
    "with_start_hub",
    "in_a_signal_handler_of_a_thread_that_is_blocked",
    "while_items_are_handed_back",
    "without_closing_anything",
}:
    globals()[sys.argv[1]]()
else:
    run(sys.argv[2], globals()[sys.argv[1]])
crowd.see_off()
say("over")
