"""Bind your own SDK with ctypes: a C library whose threads send readings, and ask what to do.

By hand, once the loop is closed the callback raises: before CPython 3.14, C gets any number then.
"""

import ctypes
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import anyio

import dss_anyio as dss

COOL, OFF = 0, 1
ON_READING = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_double)
ON_ALARM = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_double)


def build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # the loaded library needs no file
        source, library = Path(__file__).with_name("sdk.c"), Path(folder, "libsdk.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", library, source], check=True)
        sdk = ctypes.CDLL(str(library))
    sdk.sdk_open.argtypes = [ctypes.c_int, ON_READING, ON_ALARM, ctypes.c_void_p]
    sdk.sdk_open.restype = ctypes.c_void_p  # else ctypes takes it for an int, and truncates it
    sdk.sdk_close.argtypes = [ctypes.c_void_p]
    return sdk


class Device:
    def __init__(self, portal: dss.Portal[Any]) -> None:
        tell = ON_READING(portal.send_callback(lambda _, *values: values))
        ask = ON_ALARM(portal.request_callback(lambda _, *values: values, timeout=5, default=OFF))
        self._callbacks = tell, ask  # C keeps no reference, so we do
        self._sdk = build()  # this runs in a worker thread, so it may block
        self._handle = self._sdk.sdk_open(2, *self._callbacks, None)

    def close(self) -> None:
        self._sdk.sdk_close(self._handle)  # joins the SDK's threads
        print("the SDK is closed")


async def main() -> None:
    readings: Counter[int] = Counter()
    alarms: Counter[int] = Counter()
    all_off = anyio.Event()

    async def decide(alarm: dss.Request[Any]) -> None:
        async with alarm:
            channel, degrees = alarm.item
            await anyio.sleep(0.01)  # it may await anything
            alarms[channel] += 1
            if alarms[channel] == 1:
                alarm.reply(COOL)
                return
            print(f"channel {channel} has {degrees:.0f} degrees again: off")
            alarm.reply(OFF)
            if sum(alarms.values()) == 4:
                all_off.set()

    async def receive() -> None:
        async for event in hub:
            if isinstance(event, dss.Request):
                hub.task_group.start_soon(decide, event)
            else:
                readings[event[0]] += 1

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(receive)
        async with hub.open_source("sdk", Device, Device.close):
            await all_off.wait()
    print(f"{readings[0]} readings of channel 0, {readings[1]} of channel 1")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
