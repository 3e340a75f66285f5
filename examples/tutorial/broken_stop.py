"""Broken: the loop waits for the thread that waits for the loop."""

import asyncio
import threading
from concurrent.futures import CancelledError


async def main() -> None:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue(maxsize=2)
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            put = queue.put("an item")
            try:
                asyncio.run_coroutine_threadsafe(put, loop).result()
            except CancelledError:
                return

    thread = threading.Thread(target=work)
    thread.start()
    print("received", await queue.get())
    await asyncio.sleep(0.5)  # meanwhile the queue fills up, and the thread waits

    stopping.set()
    thread.join(timeout=1)  # without the limit: for ever
    print("the thread is", "still there" if thread.is_alive() else "gone")


asyncio.run(main())
