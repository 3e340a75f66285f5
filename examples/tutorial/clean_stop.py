"""The same thread as a source: it is released before it is joined."""

import sys
import threading

import anyio

import dss_anyio as dss


class Producer:
    """Stands for a library that sends until it is told to stop."""

    def __init__(self, portal: dss.Portal[str]) -> None:
        self._portal = portal
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            while not self._stopping.is_set():
                self._portal.send("an item")
        except anyio.ClosedResourceError as exc:
            print("released:", exc)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()  # no limit
        print("the thread is gone")


async def main() -> None:
    async with dss.open_hub[str](2) as hub:
        back: list[str] = []
        async with hub.open_source(
            "producer",
            Producer,
            Producer.stop,
            on_undelivered=back.append,
        ):
            print("received", await hub.receive())
            while not hub.blocked():  # until the hub is full, and the thread waits
                await anyio.sleep(0.01)
        print("handed back:", back)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
