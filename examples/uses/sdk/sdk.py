"""Bring your own SDK: a C library whose threads report, and ask what to do, bound by ctypes.

By hand, what the callback raises (the loop is closed) is printed; C gets 0, which means: go on.
"""

import ctypes
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import dss_anyio as dss

COOL, OFF = 0, 1
ON_READING = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_double)
ON_ALARM = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_double)


class Reading(NamedTuple):
    channel: int
    degrees: float


class Alarm(NamedTuple):
    channel: int
    degrees: float


def build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # once it is loaded, the file is not needed
        source, library = Path(__file__).with_name("sdk.c"), Path(folder, "libsdk.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", library, source], check=True)
        sdk = ctypes.CDLL(str(library))
    sdk.sdk_open.argtypes = [ctypes.c_int, ON_READING, ON_ALARM, ctypes.c_void_p]
    sdk.sdk_open.restype = ctypes.c_void_p  # ctypes would take it for an int, and cut it off
    sdk.sdk_close.argtypes = [ctypes.c_void_p]
    return sdk


class Device:
    def __init__(self, portal: dss.Portal[Any]) -> None:
        send = portal.send_callback(lambda _, *values: Reading(*values))
        ask = portal.request_callback(lambda _, *values: Alarm(*values), timeout=5, default=OFF)
        self._callbacks = ON_READING(send), ON_ALARM(ask)  # C does not keep them alive, so we do
        self._sdk = build()  # in a worker thread, so it may take its time
        self._handle = self._sdk.sdk_open(2, *self._callbacks, None)

    def close(self) -> None:
        self._sdk.sdk_close(self._handle)  # joins the SDK's threads
        print("the SDK is closed")


async def main() -> None:
    readings: Counter[int] = Counter()
    alarms: Counter[int] = Counter()
    all_off = anyio.Event()

    async def handle(event: Reading | Alarm) -> int | None:
        if isinstance(event, Reading):
            readings[event.channel] += 1
            return None
        await anyio.sleep(0.01)  # it may wait for anything
        alarms[event.channel] += 1
        if alarms[event.channel] == 1:
            return COOL
        print(f"channel {event.channel} has {event.degrees:.0f} degrees again: off")
        if sum(alarms.values()) == 4:
            all_off.set()
        return OFF

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("sdk", Device, Device.close):
            await all_off.wait()
    print(f"{readings[0]} readings of channel 0, {readings[1]} of channel 1")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
