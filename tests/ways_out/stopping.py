"""Leave a hub whose libraries make it hard. Arguments: the library, the backend or "polled"."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import anyio
from crowd import Crowd, run, say, start_in_c, what_is_accepted

import dss_anyio as dss

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

AnyHub: TypeAlias = "dss.Hub[Any] | dss.PolledHub[Any]"
MANY = 40
crowd = Crowd()


def send_on(portal: dss.Portal[Any]) -> None:
    try:
        while True:
            portal.send("library")
    except anyio.BrokenResourceError:
        pass  # without a system call: nobody else may run until the thread has ended


# -- Libraries that are registered with a hub; they return how many threads of theirs will block ---


def that_joins_its_thread(hub: AnyHub) -> int:
    portal = hub.register("library", stop=lambda: (thread.join(), say("joined")))
    thread = threading.Thread(target=send_on, args=(portal,))
    thread.start()
    return 1


def that_joins_its_thread_in_c(hub: AnyHub) -> int:
    portal = hub.register("library", stop=lambda: (join(handle, None), say("joined")))
    handle = start_in_c(lambda: send_on(portal))
    join = ctypes.CDLL(None).pthread_join  # lets other Python threads run
    return 1


def that_joins_its_threads_and_lets_no_python_run(hub: AnyHub) -> int:
    """As some destructors do. All must have left ``send`` before, or nobody ever moves."""

    def stop() -> None:
        for handle in handles:
            join(handle, None)
        say("joined")

    portal = hub.register("library", stop=stop)
    handles = [start_in_c(lambda: send_on(portal)) for _ in range(MANY)]
    join = ctypes.PyDLL(None).pthread_join  # holds the GIL
    sys.setswitchinterval(0.005)  # as usual
    return MANY


def that_sends_when_it_is_stopped(hub: AnyHub) -> int:
    def stop() -> None:
        say(f"at the end {what_is_accepted(portal)} is accepted")

    portal = hub.register("library", stop=stop)
    return 0


def that_closes_the_hub_when_it_is_stopped(hub: AnyHub) -> int:
    def stop() -> None:
        hub.close()
        say("closed again")

    hub.register("library", stop=stop)
    return 0


def that_fails_to_stop(hub: AnyHub) -> int:
    def fail(number: int) -> None:
        raise ValueError(f"library {number}")

    for number in range(3):
        hub.register(f"library {number}", stop=lambda number=number: fail(number))
    hub.register("library", stop=lambda: say("the last one is stopped"))
    return 0


# -- Libraries that are opened in an event loop ----------------------------------------------------


async def open_one_that_never_stops() -> None:
    def stop(for_ever: threading.Event) -> None:
        say("stopping")
        for_ever.wait()

    async with dss.open_hub[Any](4) as hub:
        await crowd.surround(hub)
        async with hub.open_source("library", lambda _: threading.Event(), stop, stop_timeout=0.1):
            pass


async def open_one_that_never_starts() -> None:
    def start(portal: dss.Portal[Any]) -> None:
        portal.send("starting")
        threading.Event().wait()

    async with dss.open_hub[Any]() as hub:
        with anyio.CancelScope() as scope:
            hub.task_group.start_soon(cancel_when_something_came, hub, scope)
            async with hub.open_source("library", start, lambda _: None, stop_timeout=0.1):
                say("it has started")


async def cancel_when_something_came(hub: dss.Hub[Any], scope: anyio.CancelScope) -> None:
    await hub.receive()
    scope.cancel()


# -- The hub that is left --------------------------------------------------------------------------


async def leave_in_a_loop() -> None:
    async with dss.open_hub[Any](4) as hub:
        await crowd.surround(hub)
        blocked = len(hub.blocked()) + library(hub)
        while len(hub.blocked()) < blocked:
            await anyio.sleep(0.001)


def leave_polled() -> None:
    with dss.open_polled_hub[Any](4) as hub:
        crowd.surround_polled(hub)
        blocked = len(hub.blocked()) + library(hub)
        while len(hub.blocked()) < blocked:
            time.sleep(0.001)


def say_leaves(group: BaseExceptionGroup[BaseException]) -> None:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            say_leaves(exc)
        else:
            say(f"{type(exc).__name__}: {exc}")


library: Callable[..., Any] = globals()[sys.argv[1]]
try:
    if sys.argv[2] == "polled":
        leave_polled()
    elif sys.argv[1].startswith("open_"):
        run(sys.argv[2], library)
    else:
        run(sys.argv[2], leave_in_a_loop)
except BaseExceptionGroup as group:
    say_leaves(group)
crowd.see_off()
say("over")
