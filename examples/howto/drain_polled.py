"""The same with a polled hub: the program polls until the library has stopped and all is there."""

import threading

import anyio

import dss_anyio as dss


class Recorder:
    def __init__(self, hub: dss.PolledHub[int]) -> None:
        self._stopped = threading.Event()
        self._stopping = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        # If the loop below raises, it is the hub that stops us.
        self.portal = hub.register("recorder", stop=self.stop, on_undelivered=print)
        self._thread.start()

    def _run(self) -> None:
        self._stopped.wait()
        for item in range(5):
            try:
                self.portal.send(item)  # waits for room, so somebody has to poll
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                print("not accepted:", item)

    def stop(self) -> None:
        with self._stopping:  # two may call this at once, and a library in C frees its memory once
            if not self._stopped.is_set():
                self._stopped.set()
                self._thread.join()


with dss.open_polled_hub[int](2) as hub:
    recorder = Recorder(hub)

    def stop() -> None:
        try:
            recorder.stop()  # first the library,
        finally:
            recorder.portal.close()  # then its portal; what was accepted is still to be polled
            hub.portal.close()  # this was the last portal: poll() raises after the last item

    threading.Thread(target=stop).start()  # not in this thread: it polls meanwhile
    try:
        while hub.wait():
            for item in hub.poll():
                print("received", item)
    except anyio.EndOfStream:
        print("that was all")
