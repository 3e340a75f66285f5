"""Ask with a deadline from C while many items are queued: with a queue of its own, or by a call."""

import ctypes
import sys
import threading
from typing import Any

import anyio

import dss_anyio as dss

TELL = ctypes.CFUNCTYPE(None, ctypes.c_int)
ASK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)


async def is_even(number: int) -> bool:
    return number % 2 == 0


class Library:
    def __init__(self, portal: dss.Portal[Any]) -> None:
        @ASK
        def call(number: int) -> int:  # it enters Python
            try:
                return int(portal.call_within(0.5, is_even, number))
            except BaseException:  # nothing may escape into C
                return -1

        self._questions = portal.clone()  # it ends with the source, and we keep it until then
        self._tell = portal.c_callback(TELL)
        self._asks = {
            "behind the items": portal.c_request_callback(ASK, timeout=0.5, default=-1),
            "in a queue of its own": self._questions.c_request_callback(
                ASK, timeout=0.5, default=-1
            ),
            "by a call": call,
        }
        self._thread = threading.Thread(target=self._run)  # stands for one of C
        self._thread.start()

    def _run(self) -> None:
        for number in range(256):
            self._tell(number)
        for how, ask in self._asks.items():
            print(f"{how}: {ask(4)}")

    def stop(self) -> None:
        self._thread.join()


async def receive(hub: dss.Hub[Any]) -> None:
    async for event in hub:
        if isinstance(event, dss.Request):
            async with event:
                (number,) = event.item
                event.reply(await is_even(number))
        await anyio.sleep(0.005)  # it is slow


async def main() -> None:
    async with dss.open_hub[Any](256) as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(receive, hub)
        async with hub.open_source("library", Library, Library.stop, drain=True):
            pass
        hub.close_senders()  # so receive() ends after the last item
    print("given up:", hub.statistics().requests.abandoned)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
