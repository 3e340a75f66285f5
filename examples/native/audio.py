"""Record at audio rate while Python computes: a buffer every 5 ms, bursts of 100 ms in between.

By hand, the card's thread needs the GIL in its callback, and waits 5 ms for it, at best.

Nothing was missed if both lines of the output say so. "Missed: 0": no callback lasted until the
next buffer was due, unless the system ran something else on its processor meanwhile. "Without a
gap": the card numbers its buffers, and the program has received each number once, in order.
"""

import ctypes
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

import dss_anyio as dss

BUFFERS = 200  # a second
ON_BUFFER = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int16), ctypes.c_size_t
)


def build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # the loaded library needs no file
        source, library = Path(__file__).with_name("card.c"), Path(folder, "libcard.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", library, source], check=True)
        card = ctypes.CDLL(str(library))
    card.card_open.argtypes = [ON_BUFFER, ctypes.c_void_p]
    card.card_open.restype = ctypes.c_void_p
    card.card_close.argtypes = [ctypes.c_void_p]
    return card


class Card:
    def __init__(self, portal: dss.Portal[Any]) -> None:
        callback = portal.c_callback(ON_BUFFER, buffers={2: 3}, skip=(0, 3))
        self._card = build()
        self._handle = self._card.card_open(callback, None)

    def close(self) -> None:
        print(f"buffers that the card has missed: {self._card.card_close(self._handle)}")


def compute(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        sum(range(1000))


async def main() -> None:
    numbers: list[int] = []
    async with dss.open_hub[Any]() as hub, hub.open_source("card", Card, Card.close):
        while len(numbers) < BUFFERS:
            for number, frames in await hub.receive_many():
                assert memoryview(frames).cast("h")[0] == number  # as it was during the callback
                numbers.append(number)
            compute(0.1)  # in the event loop's thread, and with the GIL
    print(f"recorded without a gap: {numbers == list(range(len(numbers)))}")


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
