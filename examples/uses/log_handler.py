"""Log from any thread, ship the records from the event loop. Logging never waits.

By hand, an ``emit()`` that waits for the loop hangs for ever as soon as the loop itself logs.
"""

import logging
import sys
import threading

import anyio

import dss_anyio as dss

log = logging.getLogger("my program")


class HubHandler(logging.Handler):
    def __init__(self, portal: dss.Portal[str]) -> None:
        super().__init__()
        self._portal = portal

    def emit(self, record: logging.LogRecord) -> None:
        """Called in any thread that logs, with the handler's lock held: must not wait or raise."""
        try:
            self._portal.offer(self.format(record))  # never waits, never raises, even after the end
        except Exception:
            self.handleError(record)  # as Python's own handlers do


async def ship(hub: dss.Hub[str]) -> None:
    """Stands for a slow collector of logs: it gets all queued records at once."""
    try:
        while True:
            batch = await hub.receive_many()
            await anyio.sleep(0.1)
            print("shipped:", *batch, sep="\n  ")
    except anyio.EndOfStream:
        pass


def work() -> None:
    log.warning("it is too hot here")


async def main() -> None:
    async with dss.open_hub[str](4, overflow="drop_oldest") as hub:  # keep the latest
        logging.basicConfig(
            handlers=[HubHandler(hub.portal)],
            format="%(threadName)s: %(message)s",
        )
        for number in range(9):
            thread = threading.Thread(target=work, name=f"worker {number}")
            thread.start()
            thread.join()
        log.warning("the loop logs as well")
        hub.close_senders()
        await ship(hub)
        counts = hub.statistics()
        print(f"{counts.received} were shipped, {counts.dropped} were dropped")
    log.warning("after the end")  # the hub does not accept it; no error is raised


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
