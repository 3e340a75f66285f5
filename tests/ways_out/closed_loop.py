"""Stop an event loop, and close it, while a hub is open in it. Arguments: the way out, the loop.

No ``finally`` and no ``__aexit__`` runs then; nobody tells the hub. Trio has nothing like it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import sys
import threading
from typing import Any

from crowd import Crowd, main_thread_sleeps, press_ctrl_c_when, say

import dss_anyio as dss

crowd = Crowd()
stopped = threading.Event()
loop: Any = importlib.import_module(sys.argv[2]).new_event_loop()


def stop_library() -> None:
    say("the library is stopped")
    stopped.set()


async def stop_inside() -> None:
    async with dss.open_hub(4) as hub:
        hub.register("library", stop=stop_library)
        await crowd.surround(hub)
        loop.call_soon(loop.stop)
        await asyncio.sleep(3600)


def leave(task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)  # uvloop: the main thread sleeps in here
    except (RuntimeError, KeyboardInterrupt) as exc:
        say(f"{type(exc).__name__}: {exc}")


def by_stopping_and_closing_the_loop() -> None:
    """The suspended task is referenced until after everybody was released."""
    task = loop.create_task(stop_inside())
    leave(task)
    loop.close()
    crowd.wait_until_released()
    stopped.wait()
    say(f"done: {task.done()}")


def by_stopping_and_closing_the_loop_and_a_collection() -> None:
    leave(loop.create_task(stop_inside()))
    gc.collect()
    loop.close()
    gc.collect()
    stopped.wait()


def by_stopping_the_loop_and_destroying_the_coroutine() -> None:
    """The block is left by GeneratorExit, and nothing can be awaited in it."""
    coroutine = stop_inside()
    task = loop.create_task(coroutine)
    leave(task)
    coroutine.close()
    crowd.wait_until_released()
    stopped.wait()
    loop.close()


def by_ctrl_c_and_closing_the_loop() -> None:
    """Without a Runner, which would cancel the task, KeyboardInterrupt leaves it suspended."""

    async def sleep() -> None:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            press_ctrl_c_when(main_thread_sleeps)
            await asyncio.sleep(3600)

    task = loop.create_task(sleep())
    leave(task)
    loop.close()
    crowd.wait_until_released()
    say(f"done: {task.done()}")


def by_an_end_that_was_stopped() -> None:
    """The loop is stopped and closed while the hub's end waits for a library."""

    async def stop_at_the_end() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", stop=lambda: loop.call_soon_threadsafe(loop.stop))
            hub.register("newer", stop=stop_library)
            await crowd.surround(hub)

    task = loop.create_task(stop_at_the_end())
    leave(task)
    loop.close()
    stopped.wait()


globals()[sys.argv[1]]()
crowd.see_off()
say("over")
