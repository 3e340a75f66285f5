"""Two threads that Python did not make call back: pthreads, by way of ctypes."""

import ctypes
import sys
from collections.abc import Callable

import anyio

import dss_anyio as dss

C = ctypes.CDLL(None)  # the C library, as Linux and macOS have it loaded already
C.pthread_create.argtypes = [ctypes.c_void_p] * 4
C.pthread_join.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


class Pool:
    """Stands for a library: threads of its own, each of which calls back."""

    def __init__(self, callback: Callable[[int], None]) -> None:
        self._callback = CALLBACK(callback)  # C does not keep it alive, so we do
        self._threads: list[ctypes.c_size_t] = []
        for number in (1, 2):
            thread = ctypes.c_size_t()
            C.pthread_create(ctypes.byref(thread), None, self._callback, number)
            self._threads.append(thread)

    def close(self) -> None:
        for thread in self._threads:
            C.pthread_join(thread, None)  # blocks
        print("the threads have ended")


def start(portal: dss.Portal[int]) -> Pool:
    return Pool(portal.send_callback())


async def main() -> None:
    async with (
        dss.open_hub[int]() as hub,
        hub.open_source("pool", start, Pool.close),
    ):
        numbers = {await hub.receive(), await hub.receive()}
        print("called back by the threads", sorted(numbers))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
