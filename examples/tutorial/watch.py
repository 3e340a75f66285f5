"""Bind a library: watchdog calls back on a thread of its own when a file appears."""

import sys
import tempfile
from pathlib import Path

import anyio
from watchdog.events import FileCreatedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

import dss_anyio as dss


def start(folder: str, portal: dss.Portal[str]) -> BaseObserver:
    """In a worker thread: set the library up, and give it a callback that can do no harm."""
    handler = FileSystemEventHandler()
    handler.dispatch = portal.send_callback(pack)  # type: ignore[method-assign]
    observer = Observer()
    observer.schedule(handler, folder, event_filter=[FileCreatedEvent])
    observer.start()
    return observer


def pack(event: FileSystemEvent) -> str:
    """In the library's thread: make an item of what the callback is called with."""
    return Path(str(event.src_path)).name


def stop(observer: BaseObserver) -> None:
    """In a worker thread, when nobody waits for the hub any more: stop and join."""
    observer.stop()
    observer.join()
    print("the observer has stopped")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with (
            dss.open_hub[str]() as hub,
            hub.open_source("watchdog", lambda portal: start(folder, portal), stop),
        ):
            for name in ("one", "two"):
                Path(folder, name).touch()
                print("there is a file called", await hub.receive())


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
