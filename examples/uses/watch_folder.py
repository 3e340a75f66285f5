"""Rebuild when files change, once for a burst of changes.

By hand, ``call_soon_threadsafe()`` raises once the loop is closed, and ends watchdog's thread.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from watchdog.events import (
    FileCreatedEvent,
    FileModifiedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

import dss_anyio as dss


def start(folder: str, portal: dss.Portal[str]) -> BaseObserver:
    send = portal.send_callback(lambda event: Path(str(event.src_path)).name)

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            send(event)  # runs in watchdog's thread; never raises, so it never ends it

    observer = Observer()
    kinds = [FileCreatedEvent, FileModifiedEvent]
    observer.schedule(Handler(), folder, recursive=True, event_filter=kinds)
    observer.start()
    return observer


def stop(observer: BaseObserver) -> None:
    observer.stop()
    observer.join()
    print("the observer has stopped")


async def changes(hub: dss.Hub[str], quiet: float = 0.3) -> set[str]:
    """Wait for a change, then until there was none for *quiet* seconds. Return the names."""
    names = {await hub.receive()}
    while True:
        with anyio.move_on_after(quiet):  # a receive that is cancelled loses nothing
            names.add(await hub.receive())
            continue
        return names


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            dss.open_hub[str]() as hub,
            hub.open_source("watchdog", partial(start, folder), stop),
        ):
            for burst in (["main.c", "main.h"], ["main.c"]):
                for name in burst * 3:  # as an editor or a checkout does
                    Path(folder, name).write_text("changed")
                print("rebuilding", *sorted(await changes(hub)))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
