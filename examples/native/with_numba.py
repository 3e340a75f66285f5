"""Compute in the library's thread, without the GIL: a callback that numba has compiled.

It is called every 5 ms with a buffer of sound, and sends how loud that is, instead of the buffer.
By hand, a callback of numba can compute, but has no way to reach Python.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from numba import carray, cfunc, types

import dss_anyio as dss
from dss_anyio import native

sys.path.insert(0, str(Path(__file__).parent))
from audio import ON_BUFFER, build

# A pointer is an int to numba's arrays, so it is one here.
dss_send = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)(
    native.functions["dss_send"]
)


@cfunc(types.void(types.voidptr, types.int32, types.CPointer(types.int16), types.uintp))
def on_buffer(sender: Any, number: int, frames: Any, count: int) -> None:
    loudest = 0
    for sample in carray(frames, (count,)):
        loudest = max(loudest, abs(sample))
    item = np.array([number, loudest], dtype=np.int32)
    dss_send(sender, item.ctypes.data, item.nbytes)


class Card:
    def __init__(self, portal: dss.Portal[bytes]) -> None:
        self._card = build()
        self._handle = self._card.card_open(
            ON_BUFFER(on_buffer.address), portal.native_sender().address
        )

    def close(self) -> None:
        self._card.card_close(self._handle)
        print("the card is closed")


async def main() -> None:
    async with dss.open_hub[Any]() as hub, hub.open_source("card", Card, Card.close):
        async for item in hub:
            number, loudest = np.frombuffer(item, np.int32)
            print(f"buffer {number}: at most {loudest}")
            if number == 3:
                break


if __name__ == "__main__":
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
