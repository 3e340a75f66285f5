"""Lose nothing when you stop: what a recorder flushes at its end is received, or handed back."""

import sys
import threading

import anyio

import dss_anyio as dss


class Recorder:
    """Stands for a library that sends full batches, and the last one when it is stopped."""

    def __init__(self, portal: dss.Portal[list[int]]) -> None:
        self._send = portal.send
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._send([1, 2, 3])
            self._stopped.wait()
            self._send([4])  # what there is of the last batch
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            print("the last batch was not accepted: save it here")

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


async def record(fails: bool) -> None:
    def save(batch: list[int]) -> None:
        print("handed back:", batch)

    async with dss.open_hub[list[int]](100) as hub, anyio.create_task_group() as tasks:

        async def write() -> None:
            async for batch in hub:
                if fails:
                    raise OSError("the disk is full")
                print("written:", batch)
            print("that was all")

        tasks.start_soon(write)
        async with hub.open_source(
            "recorder", Recorder, Recorder.stop, drain=True, on_undelivered=save
        ):
            await anyio.sleep(0.1)  # record until somebody stops it
        hub.close_senders()  # nothing comes any more: write() ends after the last batch


async def main() -> None:
    await record(fails=False)
    try:
        await record(fails=True)
    except BaseException as exc:  # it is an ExceptionGroup
        print("failed:", *exc.exceptions)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
