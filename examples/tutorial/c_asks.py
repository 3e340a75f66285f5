"""Two threads that Python did not make ask, and get their answer from the loop."""

import ctypes
import sys
from collections.abc import Callable

import anyio

import dss_anyio as dss

C = ctypes.CDLL(None)  # the C library, as Linux and macOS have it loaded already
C.pthread_create.argtypes = [ctypes.c_void_p] * 4
C.pthread_join.argtypes = [ctypes.c_size_t, ctypes.c_void_p]
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_size_t)


class Pool:
    """Stands for a library: its threads call back, and need what the callback returns."""

    def __init__(self, callback: Callable[[int], int]) -> None:
        self._callback = CALLBACK(callback)  # C does not keep it alive, so we do
        self._threads: list[ctypes.c_size_t] = []
        for number in (1, 2):
            thread = ctypes.c_size_t()
            C.pthread_create(ctypes.byref(thread), None, self._callback, number)
            self._threads.append(thread)

    def join(self) -> list[int]:
        answers = []
        while self._threads:
            answer = ctypes.c_size_t()
            C.pthread_join(self._threads.pop(0), ctypes.byref(answer))  # blocks
            answers.append(answer.value)
        return answers


def start(portal: dss.Portal[int]) -> Pool:
    return Pool(portal.request_callback(timeout=10, default=0))


async def handle(number: int) -> int:
    await anyio.sleep(0.1)  # it may wait for anything
    return 100 * number


async def main() -> None:
    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("pool", start, Pool.join) as source:
            answers = await anyio.to_thread.run_sync(source.value.join)
            print("the threads were told", answers)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
