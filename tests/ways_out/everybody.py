"""Be in every call that waits, but ``send`` and ``request``, when a hub goes that nobody ends.

Arguments: the way out, the loop. Those who wait are three threads, and three tasks in each of two
other event loops. None of them refers to the hub.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
from crowd import say, wait_until, what_is_accepted

import dss_anyio as dss

THREADS = ["call", "start_task", "feed.take"]
BACKENDS = ["asyncio", "trio"]
TASKS = ["asend", "arequest", "call_async"]

inside: list[None] = []  # the functions of ours that run in the hub's loop
no_room = threading.Event()
waiting: list[threading.Thread] = []


async def stay(*, task_status: Any = None) -> None:
    inside.append(None)
    await anyio.sleep_forever()


def come(portal: dss.Portal[Any], feed: dss.Feed[Any], func: Callable[..., Any]) -> None:
    """Start them. *func* is what they call in the hub's thread."""

    def stay_in(who: str, call: Callable[[], object]) -> None:
        try:
            say(f"{who} returns {call()!r}")
        except BaseException as exc:
            left(who, exc)

    def left(who: str, exc: BaseException) -> None:
        released = isinstance(exc, anyio.BrokenResourceError)
        what = f"then {what_is_accepted(portal)} is accepted" if released else repr(exc)
        say(f"{who} is released, {what}")

    async def be_in_all() -> None:
        async def stay_in(who: str, call: Callable[..., Any], *args: Any) -> None:
            while who == "asend" and not no_room.is_set():
                await anyio.sleep(0.001)
            try:
                say(f"{who} returns {await call(*args)!r}")
            except Exception as exc:
                left(who, exc)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stay_in, "asend", portal.asend, "no room")
            tasks.start_soon(stay_in, "arequest", portal.arequest, "question")
            tasks.start_soon(stay_in, "call_async", portal.call_async, func)

    targets: list[Callable[[], object]] = [
        lambda: stay_in("call", lambda: portal.call(func)),
        lambda: stay_in("feed.take", feed.take),
        *(lambda backend=backend: anyio.run(be_in_all, backend=backend) for backend in BACKENDS),
    ]
    if func is stay:
        targets.append(lambda: stay_in("start_task", lambda: portal.start_task(func)))
    waiting.extend(threading.Thread(target=target) for target in targets)
    for each in waiting:
        each.start()


def are_there(hub: Any, in_the_loop: int) -> bool:
    """Are all in their calls? To be called again and again."""
    if hub.statistics().requests.open < len(BACKENDS):
        return False
    while hub.portal.offer("filler"):
        pass
    no_room.set()
    there = Counter(each.call for each in hub.blocked())
    wanted = Counter(THREADS if isinstance(hub, dss.Hub) else set(THREADS) - {"start_task"})
    for _ in BACKENDS:
        wanted.update(TASKS)
    return len(inside) == in_the_loop and there >= wanted


async def be_surrounded() -> None:
    async with dss.open_hub[Any](4) as hub:
        come(hub.portal, hub.open_feed(1), stay)
        while not are_there(hub, 4):
            await asyncio.sleep(0.001)
        loop.call_soon(loop.stop)
        await asyncio.sleep(3600)


def by_stopping_and_closing_the_loop() -> None:
    task = loop.create_task(be_surrounded())
    loop.run_forever()
    loop.close()
    see_off()
    say(f"done: {task.done()}")


def by_destroying_the_coroutine() -> None:
    """In a loop that is not closed, anyio itself keeps a hub from being garbage."""
    coroutine = be_surrounded()
    task = loop.create_task(coroutine)
    loop.run_forever()
    coroutine.close()
    see_off()
    say(f"done: {task.done()}")
    loop.close()


def by_becoming_garbage() -> None:
    hubs = [dss.open_polled_hub[Any](4)]
    come(hubs[0].portal, hubs[0].open_feed(1), int)
    wait_until(lambda: are_there(hubs[0], 0))
    hubs.clear()
    gc.collect()
    see_off()


def see_off() -> None:
    for each in waiting:
        each.join()


if sys.argv[2] != "polled":
    loop: Any = importlib.import_module(sys.argv[2]).new_event_loop()
globals()[sys.argv[1]]()
say("over")
