"""Import dss_anyio, and open hubs, when the main thread has ended already. Argument: when.

No module of this directory is imported at the top, because they import dss_anyio. What keeps
Python from exiting meanwhile is a thread, or a function that Python calls at its exit.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import signal
import sys
import threading
from typing import Any

faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(30)  # seconds, as in ``crowd``
kept: list[Any] = []


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def in_a_thread() -> None:
    """It leaves a polled hub open behind it, in which another thread waits."""

    def run() -> None:
        main.join()
        import anyio

        import dss_anyio as dss

        def send() -> None:
            try:
                while True:
                    hub.portal.send("item")
            except anyio.BrokenResourceError:
                say("the sender is released")

        hub = dss.open_polled_hub[str](1)
        kept.append(hub)
        hub.register("library", stop=lambda: say("the library is stopped"))
        threading.Thread(target=send).start()
        while not hub.blocked():
            pass

    main = threading.main_thread()
    threading.Thread(target=run).start()


def in_a_thread_that_uses_all_kinds() -> None:
    def run() -> None:
        main.join()
        use_all_kinds()

    main = threading.main_thread()
    threading.Thread(target=run).start()


def at_exit() -> None:
    import dss_anyio as dss

    hub = dss.open_polled_hub[str]()
    kept.append(hub)
    atexit.register(lambda: say(f"at exit the old hub takes items: {hub.portal.offer('item')}"))
    atexit.register(use_all_kinds)


def at_exit_leaving_one_open() -> None:
    def run() -> None:
        import dss_anyio as dss

        hub = dss.open_polled_hub[str]()
        kept.append(hub)
        hub.register("library", stop=lambda: say("the library is stopped")).send("item")
        say(f"received {hub.poll()}")

    atexit.register(run)


def use_all_kinds() -> None:
    import anyio

    import dss_anyio as dss

    with dss.open_polled_hub[str]() as polled:
        polled.register("library", stop=lambda: say("library of a polled hub: stopped"))
        polled.portal.send("item")
        say(f"polled {polled.poll()}")

    async def serve() -> None:
        async with dss.open_hub[str]() as hub:
            hub.register("library", stop=lambda: say(f"library in {backend}: stopped"))
            hub.portal.send_nowait("item")
            say(f"{backend} receives {await hub.receive()!r}")

    for backend in ("asyncio", "trio"):
        anyio.run(serve, backend=backend)
        try:
            with dss.start_hub(backend=backend) as hub:
                say(f"started in {backend}: {hub.portal.call(str, 1)}")
        except RuntimeError as exc:  # since CPython 3.12 there are no new threads so late
            say(f"start_hub in {backend}: {exc}")


globals()[sys.argv[1]]()
say("over")
