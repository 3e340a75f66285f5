"""Hand a capsule to a C++ library, here bound with pybind11: its thread sends and asks by itself.

By hand, each call of its thread acquires the GIL; and ``close``, which joins that thread with the
GIL held, never returns if the thread is waiting for it.
"""

import importlib.util
import struct
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import anyio
import pybind11

import dss_anyio as dss
from dss_anyio import native

FRAME = struct.Struct("=if")


def build() -> Any:
    """What your build system does."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "camera.so")
        includes = [pybind11.get_include(), sysconfig.get_path("include"), native.include()]
        subprocess.run(
            ["c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-o", built]
            + [f"-I{path}" for path in includes]
            + [Path(__file__).with_name("camera.cpp")],
            check=True,
        )
        spec = importlib.util.spec_from_file_location("camera", built)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def start(portal: dss.Portal[Any]) -> Any:
    return build().Camera(portal.native_sender().capsule)  # the library needs no more than that


async def main() -> None:
    async with (
        dss.open_hub[Any]() as hub,
        hub.open_source("camera", start, lambda camera: camera.close()),
    ):
        async for event in hub:
            if not isinstance(event, dss.Request):
                print("frame {} has brightness {:.1f}".format(*FRAME.unpack(event)))
                continue
            number, brightness = FRAME.unpack(event.item)
            event.reply(struct.pack("=i", 10 * number))
            print(f"frame {number} has brightness {brightness:.1f}, and asks for the exposure")
            if number == 7:
                break
    print("the camera is closed")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
