"""Bind a library: watchdog calls back on its own thread when a file appears."""

import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

import dss_anyio as dss


def pack(event: events.FileSystemEvent) -> str:
    """In the library's thread: what the callback is called with becomes an item."""
    return Path(str(event.src_path)).name


def start(folder: str, portal: dss.Portal[str]) -> BaseObserver:
    """In a worker thread, with the hub live. What it returns is given to stop()."""
    handler = events.FileSystemEventHandler()
    handler.dispatch = portal.send_callback(pack)  # type: ignore[method-assign]
    observer = Observer()
    observer.schedule(handler, folder, event_filter=[events.FileCreatedEvent])
    observer.start()
    return observer


def stop(observer: BaseObserver) -> None:
    """In a worker thread, after nobody waits for the hub any more."""
    observer.stop()
    observer.join()
    print("the observer has stopped")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            dss.open_hub[str]() as hub,
            hub.open_source("watchdog", partial(start, folder), stop),
        ):
            for name in ("one", "two"):
                Path(folder, name).touch()
                print("there is a file called", await hub.receive())


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
