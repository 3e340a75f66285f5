"""End the main thread, and so Python, while a hub is open. Arguments: the way out, the backend.

Before it exits, Python calls the functions that ``concurrent.futures`` and others have registered,
newest first, each of which may join threads; then it joins the threads that are no daemons.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import importlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from crowd import Crowd, ask_for_ctrl_c, run, say, wait_until

import dss_anyio as dss

crowd = Crowd()
kept: list[Any] = []  # so that no destructor comes before Python joins the threads


def with_an_open_polled_hub() -> None:
    hub = dss.open_polled_hub[str](4)
    kept.append(hub)
    hub.register("library", stop=lambda: say("the library is stopped"))
    crowd.surround_polled(hub)


def with_an_open_polled_hub_of_an_ended_thread() -> None:
    thread = threading.Thread(target=with_an_open_polled_hub)
    thread.start()
    thread.join()


def with_a_loop_in_a_daemon_thread() -> None:
    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", stop=lambda: say("the library is stopped"))
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


def with_hubs_that_come_and_go_in_daemon_threads() -> None:
    """Each end of a hub starts threads: one of them while Python exits, in one run of a few."""

    async def serve() -> None:
        while True:
            with suppress(anyio.BrokenResourceError):  # the hub was ended before it could register
                async with dss.open_hub(1) as hub:
                    hub.register("library", stop=lambda: None)
            ready.release()

    ready = threading.Semaphore(0)
    for _ in range(8):
        threading.Thread(target=run, args=(sys.argv[2], serve), daemon=True).start()
    for _ in range(8):
        ready.acquire()


def with_a_loop_in_a_thread_that_ends_by_itself() -> None:
    """Python joins this thread, so its hub is not ended: it still receives what is sent."""

    async def serve() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", stop=lambda: say("the library is stopped"))
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


# -- Threads that are joined by a function which was registered after us ---------------------------


def send_until_released(portal: dss.Portal[Any]) -> None:
    try:
        while True:
            portal.send("item")
    except anyio.BrokenResourceError:
        say("a thread of the executor is released")


def ask_until_released(portal: dss.Portal[Any]) -> None:
    try:
        while True:
            with suppress(dss.NoReplyError):
                portal.request("question")
    except anyio.BrokenResourceError:
        say("a thread of the executor is released")


def start_in_a_late_executor(*calls: Callable[[], None]) -> None:
    """Run each of *calls* in a thread of an executor that is made, and imported, only now."""
    module = importlib.reload(concurrent.futures.thread)
    executor = module.ThreadPoolExecutor(len(calls))
    kept.extend([executor, *map(executor.submit, calls)])


def start_with_a_hook_of_their_own(*calls: Callable[[], None]) -> None:
    """The same without ``concurrent.futures``: as other libraries do that have such threads."""
    for call in calls:
        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        threading._register_atexit(thread.join)  # type: ignore[attr-defined]


STARTS = [start_in_a_late_executor, start_with_a_hook_of_their_own]


def with_late_executors_and_a_polled_hub() -> None:
    hub = dss.open_polled_hub[Any](1)
    kept.append(hub)
    for start in STARTS:
        start(lambda: send_until_released(hub.portal), lambda: ask_until_released(hub.portal))
    wait_until(lambda: len(hub.blocked()) == 4)


def with_late_executors_and_start_hub() -> None:
    backend, options = BACKENDS[sys.argv[2]]
    starting = dss.start_hub(1, backend=backend, backend_options=options)
    hub = starting.__enter__()
    kept.append(starting)
    for start in STARTS:
        start(lambda: send_until_released(hub.portal), lambda: ask_until_released(hub.portal))
    wait_until(lambda: len(hub.blocked()) == 4)


def with_the_executor_of_a_stopped_loop() -> None:
    async def serve() -> None:
        async with dss.open_hub(1) as hub:
            importlib.reload(concurrent.futures.thread)
            loop.set_default_executor(concurrent.futures.thread.ThreadPoolExecutor(2))
            loop.run_in_executor(None, send_until_released, hub.portal)
            loop.run_in_executor(None, ask_until_released, hub.portal)
            while len(hub.blocked()) < 2:
                await asyncio.sleep(0.001)
            loop.call_soon(loop.stop)
            await asyncio.sleep(3600)

    loop = importlib.import_module(sys.argv[2]).new_event_loop()
    kept.extend([loop, loop.create_task(serve())])
    loop.run_forever()


def with_a_worker_of_an_executor_for_its_own_thread() -> None:
    """It will never poll again, but it ends only when Python is about to join it."""
    executors = [concurrent.futures.thread.ThreadPoolExecutor(n) for n in (1, 2)]
    hub = executors[0].submit(dss.open_polled_hub[Any], 1).result()
    hub.register("library", stop=lambda: say("the library is stopped"))
    kept.extend([executors, hub])
    for wait in (send_until_released, ask_until_released):
        kept.append(executors[1].submit(wait, hub.portal))
    wait_until(lambda: len(hub.blocked()) == 2)


def with_a_thread_that_ends_later_and_has_polled_last() -> None:
    """It is no daemon, so the hub that it polls lives as long; it does not close it."""

    def poll() -> None:
        while main_thread.is_alive():
            hub.poll()
        hub.wait()
        say(f"received after the main thread has ended: {len(hub.poll()) > 0}")

    main_thread = threading.main_thread()
    hub = dss.open_polled_hub[Any](1)
    hub.register("library", stop=lambda: say("the library is stopped"))
    kept.append(hub)
    threading.Thread(target=poll).start()
    wait_until(lambda: hub._mailbox.home is not main_thread)
    threading.Thread(target=send_until_released, args=(hub.portal,)).start()
    threading.Thread(target=ask_until_released, args=(hub.portal,)).start()


def with_a_library_that_joins_a_thread_which_waits_in_another_hub() -> None:
    """The hub of the library is the older one, so it is the first that is seen to its end."""
    of_the_library, other = dss.open_polled_hub[Any](1), dss.open_polled_hub[Any](1)
    thread = threading.Thread(target=send_until_released, args=(other.portal,), daemon=True)
    thread.start()
    of_the_library.register("library", stop=lambda: (thread.join(), say("joined")))
    kept.extend([of_the_library, other])
    wait_until(other.blocked)


def by_ctrl_c_while_a_library_is_being_stopped() -> None:
    def never_stop() -> None:
        ask_for_ctrl_c()
        threading.Event().wait()

    first, second = dss.open_polled_hub[Any](1), dss.open_polled_hub[Any](1)
    first.register("library", stop=never_stop)
    kept.extend([first, second])
    threading.Thread(target=send_until_released, args=(second.portal,)).start()
    wait_until(second.blocked)


BACKENDS: dict[str, Any] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}

globals()[sys.argv[1]]()
say("over")
