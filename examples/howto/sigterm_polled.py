"""The same with a polled hub: the signal handler wakes the loop, which stops the library."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio

import dss_anyio as dss


class Meter:
    def __init__(self, hub: dss.PolledHub[int]) -> None:
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self.readings = 0
        self._thread = threading.Thread(target=self._run)
        # If the loop below raises, it is the hub that stops us.
        self.portal = hub.register("meter", stop=self.stop)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.001):
            self.readings += 1
            try:
                self.portal.send(self.readings)
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return

    def stop(self) -> None:
        with self._stopping:  # two may call this at once, and a library in C frees its memory once
            if not self._stopped.is_set():
                self._stopped.set()
                self._thread.join()


def poll(hub: dss.PolledHub[int]) -> int:
    hub.wait()
    return sum(number > 0 for number in hub.poll())


signals: list[int] = []

# The hub ends first: that releases who waits, so that the pool can end.
with ThreadPoolExecutor() as pool, dss.open_polled_hub[int](16) as hub:

    def handle_signal(signum: int, _: object) -> None:
        signals.append(signum)
        hub.portal.offer(0)  # wakes hub.wait(); if the hub is full, that does not sleep

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handle_signal)
    meter = Meter(hub)
    written = poll(hub)
    print("running", flush=True)
    while not signals:
        written += poll(hub)

    def stop() -> None:
        try:
            meter.stop()
        finally:
            meter.portal.close()  # so the hub does not stop it again
            hub.portal.close()  # this was the last portal: poll() raises after the last item

    stopping = pool.submit(stop)  # not in this thread: it polls meanwhile
    try:
        while True:
            written += poll(hub)
    except anyio.EndOfStream:
        print("stopped after", meter.readings, "readings")
        print("written:", written)
    stopping.result()  # raises what stop() has raised
