"""Broken: an asyncio queue does not wake its loop for another thread."""

import asyncio
import threading
import time


async def main() -> None:
    queue: asyncio.Queue[float] = asyncio.Queue()

    def send() -> None:
        queue.put_nowait(time.monotonic())

    threading.Timer(0.1, send).start()
    # Something that wakes the loop one second later. Without it: never.
    asyncio.get_running_loop().call_later(1.1, lambda: None)

    sent = await queue.get()
    print(f"received {time.monotonic() - sent:.0f} s after it was sent")


asyncio.run(main())
