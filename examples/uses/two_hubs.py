"""One library, two event loops: asyncio and trio, in one process. Each has a hub of its own.

By hand, a closed loop raises in the library's thread, and the listeners after it get nothing.
"""

import threading
from collections.abc import Callable
from itertools import count

import anyio

import dss_anyio as dss


class Ticker:
    """Stands for a library with one thread, and any number of listeners."""

    def __init__(self) -> None:
        self._listeners: dict[str, Callable[[int], object]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in count():
            if self._stopping.wait(0.005):
                return
            for listener in list(self._listeners.values()):
                listener(number)

    def add(self, name: str, listener: Callable[[int], object]) -> None:
        self._listeners[name] = listener

    def remove(self, name: str) -> None:
        del self._listeners[name]

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


async def listen(ticker: Ticker, name: str, ticks: int) -> None:
    async with dss.open_hub[int](name=name) as hub:
        portal = hub.register("ticker", stop=lambda: ticker.remove(name))
        ticker.add(name, portal.send_callback())
        numbers = [await hub.receive() for _ in range(ticks)]
        missed = numbers[-1] - numbers[0] - ticks + 1
        print(f"{name}: {len(numbers)} ticks, {missed} were missed")


ticker = Ticker()
loops = [
    threading.Thread(target=anyio.run, args=[listen, ticker, name, ticks], kwargs={"backend": name})
    for name, ticks in (("asyncio", 5), ("trio", 50))  # the first one ends early
]
for loop in loops:
    loop.start()
for loop in loops:
    loop.join()
ticker.stop()
