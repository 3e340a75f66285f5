"""The three libraries, each bound with a ``start`` and a ``stop``. None uses an event loop.

This file counts every call of a library itself, so that the demo can compare its counts with those
of the hub at the end.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Generator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import miniaudio
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

import dss_anyio as dss


class Item(NamedTuple):
    """An item of a library: the name of its source, and a text to show."""

    source: str
    text: str


class NotHereError(Exception):
    """A library cannot be used on this machine; the message says why."""


class Library:
    """A library. Its ``start`` and ``stop`` run in worker threads."""

    name: str
    native = False  # do its threads send without entering Python?

    def __init__(self) -> None:
        self.calls = 0  # calls of the callback; final after the library has stopped
        self.handed_back = count()  # an itertools.count: any thread may increment it

    def decode(self, item: Any) -> Item:
        """Make the item of what the callback has sent; in the hub's thread."""
        return item  # type: ignore[no-any-return]

    def on_undelivered(self, _: Any) -> None:
        next(self.handed_back)

    def start(self, portal: dss.Portal[Item]) -> None:
        raise NotImplementedError

    def stop(self, _: None) -> None:
        raise NotImplementedError


class CPool(Library):
    """A C library, whose threads are pthreads that Python has not made."""

    name = "C pthreads"
    THREADS, BURST, PAUSE_MS = 4, 400, 100

    def __init__(self, folder: Path) -> None:
        super().__init__()
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise NotHereError(
                "no C compiler (cc, gcc or clang), so going on without the C library"
            )
        library = folder / "pool.so"
        source = Path(__file__).with_name("pool.c")
        command = [compiler, "-O2", "-shared", "-fPIC", "-pthread", "-o", library, source]
        if subprocess.run(command, check=False).returncode:
            raise NotHereError(f"{compiler} does not work, so going on without the C library")
        self._c = ctypes.CDLL(str(library))
        self._callback_type = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_long)
        self._c.pool_start.restype = ctypes.c_void_p
        self._c.pool_stop.restype = ctypes.c_long
        self._c.pool_stop.argtypes = [ctypes.c_void_p]

    def start(self, portal: dss.Portal[Any]) -> None:
        callback: Any = portal.c_callback(self._callback_type)
        self.native = callback.native
        self._pool = self._c.pool_start(callback, self.THREADS, self.BURST, self.PAUSE_MS)

    def decode(self, item: tuple[int, int]) -> Item:
        return Item(self.name, "thread {}: number {}".format(*item))

    def stop(self, _: None) -> None:
        self.calls = self._c.pool_stop(self._pool)


class Directory(Library):
    """``watchdog`` on a real directory, in which a thread writes, renames and deletes files."""

    name = "watchdog"

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._observer = Observer()
        self._enough = threading.Event()
        self._writer = threading.Thread(target=self._write, name="writer of files")

    def start(self, portal: dss.Portal[Item]) -> None:
        def pack(event: FileSystemEvent) -> Item:
            return Item(self.name, f"{event.event_type}: {Path(str(event.src_path)).name}")

        send = portal.send_callback(pack)
        library = self

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                library.calls += 1  # the observer has one thread
                send(event)

        self._observer.schedule(Handler(), self._folder.name)
        self._observer.start()
        self._writer.start()

    def _write(self) -> None:
        for number in count():
            if self._enough.wait(0.02):
                return
            draft = Path(self._folder.name) / f"draft-{number}"
            draft.write_text("written")
            draft.rename(draft.with_name(f"final-{number}")).unlink()

    def stop(self, _: None) -> None:
        self._enough.set()
        self._writer.join()
        self._observer.stop()
        self._observer.join()
        self._folder.cleanup()


class Microphone(Library):
    """``miniaudio`` captures from its null device: a native thread calls back at a steady rate."""

    name = "miniaudio"

    def start(self, portal: dss.Portal[Item]) -> None:
        def pack(frames: bytes) -> Item:
            return Item(self.name, f"{len(frames) // 2} samples")

        send = portal.send_callback(pack)

        def listen() -> Generator[None, Any, None]:
            while True:
                frames = yield
                self.calls += 1  # the device has one thread
                send(frames)

        listener = listen()
        next(listener)
        self._device = miniaudio.CaptureDevice(
            input_format=miniaudio.SampleFormat.SIGNED16,
            nchannels=1,
            sample_rate=16000,
            buffersize_msec=10,
            backends=[miniaudio.Backend.NULL],
        )
        self._device.start(listener)

    def stop(self, _: None) -> None:
        self._device.close()
