"""Let a library in Rust send by itself: it is given an address, and links to nothing.

By hand, with PyO3, its thread acquires the GIL for each item.
"""

import ctypes
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import anyio

import dss_anyio as dss
from dss_anyio import native

READINGS = 5


def build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # the loaded library needs no file
        source, library = Path(__file__).with_name("sensor.rs"), Path(folder, "libsensor.so")
        command = ["rustc", "--edition", "2021", "--crate-type", "cdylib", "-o", library, source]
        subprocess.run(command, check=True)
        sensor = ctypes.CDLL(str(library))
    sensor.sensor_start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32]
    sensor.sensor_start.restype = ctypes.c_void_p
    sensor.sensor_stop.argtypes = [ctypes.c_void_p]
    return sensor


class Sensor:
    def __init__(self, portal: dss.Portal[bytes]) -> None:
        sender = portal.native_sender()
        self._rust = build()
        self._handle = self._rust.sensor_start(
            sender.address, native.functions["dss_send"], READINGS
        )

    def stop(self) -> None:
        print(f"the sensor has stopped: {self._rust.sensor_stop(self._handle)}")


async def main() -> None:
    async with dss.open_hub[Any]() as hub, hub.open_source("sensor", Sensor, Sensor.stop):
        async for item in hub:
            number, degrees = struct.unpack("=If", item)
            print(f"reading {number}: {degrees:.1f} degrees")
            if number == READINGS - 1:
                break


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
