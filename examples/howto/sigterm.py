"""A service that SIGTERM stops in order: the library first, and what it still has is written."""

import signal
import sys
import threading

import anyio
from anyio.abc import TaskStatus

import dss_anyio as dss


class Meter:
    """Stands for a library that sends batches of readings, and the last batch when it stops."""

    def __init__(self, portal: dss.Portal[list[int]]) -> None:
        self._send = portal.send
        self._stopped = threading.Event()
        self.readings = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        batch: list[int] = []
        while not self._stopped.wait(0.001):
            self.readings += 1
            batch.append(self.readings)
            if len(batch) == 10:
                self._send(batch)  # waits while the hub is full
                batch = []
        self._send(batch)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        print("stopped after", self.readings, "readings", flush=True)


async def write(hub: dss.Hub[list[int]]) -> None:
    written = 0
    async for batch in hub:
        await anyio.sleep(0.01)  # the database
        if not written:
            print("running", flush=True)
        written += len(batch)
    print("written:", written)


async def listen(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for signum in signals:  # it goes on: a second signal changes nothing
            if not stopping.is_set():
                print("stopping:", signal.Signals(signum).name, flush=True)
            stopping.set()


async def serve(stopping: anyio.Event) -> None:
    async with dss.open_hub[list[int]](4) as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(write, hub)
        async with hub.open_source("meter", Meter, Meter.stop, drain=True, stop_timeout=5):
            await stopping.wait()
        hub.close_senders()  # write() ends after the last batch


async def main() -> None:
    stopping = anyio.Event()
    async with anyio.create_task_group() as listening:
        await listening.start(listen, stopping)
        await serve(stopping)
        listening.cancel_scope.cancel()


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
